"""Native symlinks (objects of type Symlink): which are shown as links, and where they lead.

Threading: trio thread only.

A native symlink names a key of its bucket.  When that key is inside the mount and can be a path, the
object is shown as a symbolic link with a relative target, so that it leads there wherever the bucket
is mounted; the kernel follows it.  Else it is shown as what it points to, read-only.

A listing says that an object is a symlink, not where it leads: that is one GetSymlink for each, and is
remembered for as long as listings show the object unchanged.
"""

from __future__ import annotations

import posixpath
import stat
from collections import OrderedDict
from collections.abc import Iterable

from ossfs.errors import NotFound, StoreError
from ossfs.fs import attrs as attributes
from ossfs.fs.attrs import NS, Attrs
from ossfs.fs.context import Context, run_all
from ossfs.fs.names import showable
from ossfs.store.base import ListedObject

SYMLINK = "Symlink"
"""The object type."""
REMEMBERED = 20_000
"""Targets, least recently used out first: some 20 MB at the most."""
PARALLEL = 48
"""GetSymlinks at a time, as of HEADs that are sent ahead."""


class NativeLinks:
    """Where the native symlinks of one mount lead."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._targets: OrderedDict[str, tuple[str, int, str | None]] = OrderedDict()

    def _known(self, obj: ListedObject) -> bool:
        seen = self._targets.get(obj.key)
        return seen is not None and seen[:2] == (obj.etag, obj.last_modified)

    async def learn(self, objects: Iterable[ListedObject], *, quiet: bool = False) -> None:
        """Ask for the targets of those that are not known.  quiet: a failure is left to who asks next."""

        async def one(obj: ListedObject) -> None:
            target: str | None = None
            try:
                target = await self._ctx.store.get_symlink(obj.key)
            except NotFound:
                pass  # removed meanwhile, or replaced: the next listing says so
            except StoreError:
                if not quiet:
                    raise
                return
            self._targets[obj.key] = (obj.etag, obj.last_modified, target)
            self._targets.move_to_end(obj.key)
            if len(self._targets) > REMEMBERED:
                self._targets.popitem(last=False)

        asked = [o for o in objects if o.object_type == SYMLINK and not self._known(o)]
        if asked:
            await run_all(PARALLEL, [lambda o=o: one(o) for o in asked])  # type: ignore[misc]

    def path(self, obj: ListedObject) -> str | None:
        """The relative path to the target of this object; None when it is no link here, or not known."""
        if obj.object_type != SYMLINK or not self._known(obj):
            return None
        target = self._targets[obj.key][2]
        return None if target is None else relative(obj.key, target, self._ctx.config.prefix)

    def attrs(self, obj: ListedObject) -> Attrs | None:
        """The attributes of a link; None when it is not shown as one, or not known."""
        if self.path(obj) is None:
            return None
        config = self._ctx.config
        made = attributes.new(stat.S_IFLNK, 0o777, config.uid, config.gid, obj.last_modified * NS)
        made.listed = config.attrs_list
        return made


def relative(key: str, target: str, prefix: str) -> str | None:
    """The path from the directory of *key* to the key *target*, both in the mount of *prefix*.

    None when the target is outside, or can be no path.

    >>> relative("m/a/link", "m/b/file", "m/")
    '../b/file'
    """
    if not target.startswith(prefix):
        return None
    inside = target[len(prefix) :].removesuffix("/")
    parts = inside.split("/")
    if not all(showable(part, in_root=at == 0) for at, part in enumerate(parts)):
        return None
    return posixpath.relpath("/" + inside, "/" + posixpath.dirname(key[len(prefix) :]))
