"""Mounts with attrs=list: what a listing says is all that is shown, so no HEAD is sent for attributes.

Threading: trio thread only.

Modes and owners are the mount's defaults, times are LastModified.  Attributes that others stored are not
looked at, but carried along by a rewrite.  Links and special files of ossfs 1.x are ordinary objects, and
shown as such; native symlinks say in the listing what they are.
"""

from __future__ import annotations

import errno
import stat

from ossfs.errors import PosixError
from ossfs.fs import attrs as attributes
from ossfs.fs.attrs import Attrs, Defaults
from ossfs.fs.meta import AttrMemory
from ossfs.fs.ports import FsConfig
from ossfs.store.base import ListedObject


class ListedAttributes(AttrMemory):
    """In the place of a memory of HEADs: knows every listed object, and remembers nothing."""

    def __init__(self, defaults: Defaults) -> None:
        super().__init__()
        self._defaults = defaults

    def put(self, obj: ListedObject, attrs: Attrs, server_date: int) -> None:
        """Nothing: the next listing says all."""

    def get(self, obj: ListedObject) -> Attrs | None:
        """What the listing says; of a native symlink it says not even the size of its target."""
        if obj.object_type == "Symlink":
            return None
        return attributes.as_listed(obj.last_modified, self._defaults, directory=obj.key.endswith("/"))

    def seen(self, obj: ListedObject) -> Attrs | None:
        """The same."""
        return self.get(obj)

    def knows(self, obj: ListedObject) -> bool:
        """Always: nothing is to be asked ahead."""
        return True


def check_storable(config: FsConfig) -> bool:
    """Are changes of attributes to be stored?  False: they are ignored.  Raises EPERM with attrs=list."""
    if not config.attrs_list:
        return True
    if not config.ignore_attrs:
        raise PosixError(errno.EPERM, "attributes are not stored on a mount with attrs=list")
    return False


def check_kind(config: FsConfig, kind: int) -> None:
    """Raises EPERM for links and special files, which a listing could not tell from files."""
    if config.attrs_list and kind not in (stat.S_IFREG, stat.S_IFDIR):
        raise PosixError(errno.EPERM, "a mount with attrs=list has no links and special files")


def check_rewritable(attrs: Attrs | None) -> None:
    """Raises EPERM for an object that is shown as a file and is a link or a special file to others."""
    if attrs is not None and attrs.listed and attributes.carried_kind(attrs) != stat.S_IFREG:
        raise PosixError(errno.EPERM, "the object is a link or special file of ossfs: see attrs=list")
