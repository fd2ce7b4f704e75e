"""A line in /run/mount/utab, by which umount(8) finds our helper, and systemd knows that we need the network.

Threading: blocking calls on local files; any thread, one at a time.

umount(8) looks for the helper of a file system's type.  Where nothing is noted of a mount, it takes the type
from statfs(2), which knows `fuse` and no subtype, and so finds none.  A line with `uhelper=` makes it look
for umount.fuse.ossfs.

systemd reads the line too, once something is mounted, instead of the options of its own unit.  Without
_netdev it takes us for a local file system.  It forgets that the mount comes before remote-fs.target, so that
a boot may wait for that target for ever, and that the network is to stay until the mount has gone.  The line
is written before the mount is made, so that there is no moment in which it is missing.  mount(8) leaves it
alone then.

libmount keeps that file, with its lock.  Only root can write it, and needs to: the umount(8) of others goes
by /proc/self/mountinfo.  Nothing here is an error: what depends on the line is a little worse without it.
"""

from __future__ import annotations

import ctypes
import logging
import os
from typing import Any, Final

from ossfs.mountpoint import FSTYPE

log = logging.getLogger(__name__)

OPTIONS: Final = f"uhelper={FSTYPE},_netdev"
_LIBRARY: Final = "libmount.so.1"
_LINES: Final = 2
"""Ours, and that of a mount below ours that was killed."""

_POINTER: Final = ctypes.c_void_p
_TEXT: Final = ctypes.c_char_p
_SIGNATURES: Final[dict[str, tuple[Any, list[Any]]]] = {
    "mnt_new_fs": (_POINTER, []),
    "mnt_unref_fs": (None, [_POINTER]),
    "mnt_fs_set_source": (ctypes.c_int, [_POINTER, _TEXT]),
    "mnt_fs_set_target": (ctypes.c_int, [_POINTER, _TEXT]),
    "mnt_fs_set_fstype": (ctypes.c_int, [_POINTER, _TEXT]),
    "mnt_fs_set_options": (ctypes.c_int, [_POINTER, _TEXT]),
    "mnt_new_update": (_POINTER, []),
    "mnt_free_update": (None, [_POINTER]),
    "mnt_update_set_fs": (ctypes.c_int, [_POINTER, ctypes.c_ulong, _TEXT, _POINTER]),
    "mnt_update_table": (ctypes.c_int, [_POINTER, _POINTER]),
}


def add(source: str, mountpoint: str) -> None:
    """Note what the mount of *source* that is about to be made at *mountpoint* is."""
    library = _open() if os.geteuid() == 0 else None
    if library is None:
        return
    _remove(library, mountpoint)  # of a mount that was killed
    entry = library.mnt_new_fs()
    try:
        library.mnt_fs_set_source(entry, os.fsencode(source))
        library.mnt_fs_set_target(entry, os.fsencode(mountpoint))
        library.mnt_fs_set_fstype(entry, FSTYPE.encode())
        library.mnt_fs_set_options(entry, OPTIONS.encode())
        _update(library, None, entry)
    finally:
        library.mnt_unref_fs(entry)


def remove(mountpoint: str) -> None:
    """Forget what is noted of a mount that is no longer there."""
    library = _open() if os.geteuid() == 0 else None
    if library is not None:
        _remove(library, mountpoint)


def _remove(library: Any, mountpoint: str) -> None:
    for _ in range(_LINES):
        _update(library, os.fsencode(mountpoint), None)


def _update(library: Any, target: bytes | None, entry: int | None) -> None:
    update = library.mnt_new_update()
    try:
        status = library.mnt_update_set_fs(update, 0, target, entry)
        if status == 0:
            status = library.mnt_update_table(update, None)
        if status < 0:
            log.debug("nothing can be noted in /run/mount/utab: %s", os.strerror(-status))
    finally:
        library.mnt_free_update(update)


def _open() -> Any:
    """libmount, or None where there is none, or another one."""
    try:
        library = ctypes.CDLL(_LIBRARY)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        log.debug("nothing can be noted in /run/mount/utab: %s", error)
        return None
    return library
