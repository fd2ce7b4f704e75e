"""Directories that this process trusts what it finds in: nobody else may have a hand in them.

No state; safe from any thread.

A journal says what is to be removed from a bucket and put back there, a cache says what files hold.
Whoever can write there, or can put another directory in its place, would decide that.  In /tmp anybody
may take a name first, be it for a directory or for a symbolic link.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from ossfs.errors import MountError

_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


def check_private(path: str, what: str, *, shared: bool = False) -> None:
    """Raise MountError, of one line that begins with *what*, for a directory that others can change.

    It must belong to this user or to root, and so must a symbolic link that leads to it, as the kernel
    asks for in sticky directories (proc(5), protected_symlinks).  What is not there yet passes.
    shared: others may make names of their own in it, where the sticky bit keeps ours from them.
    """
    ours = (0, os.geteuid())
    try:
        named = os.lstat(path)
        found = os.stat(path)
    except OSError:
        return  # whoever makes or uses it learns why it cannot be used
    if stat.S_ISLNK(named.st_mode) and named.st_uid not in ours:
        raise MountError(
            f"{what} {path} is a symbolic link of uid {named.st_uid}; accepted: a directory of the user who "
            "mounts"
        )
    if found.st_uid not in ours:
        raise MountError(
            f"{what} {path} belongs to uid {found.st_uid}; accepted: a directory of the user who mounts"
        )
    writable = found.st_mode & _OTHERS and not (shared and found.st_mode & stat.S_ISVTX)
    if stat.S_ISDIR(found.st_mode) and writable:
        raise MountError(
            f"{what} {path} has mode {stat.S_IMODE(found.st_mode):04o}: others can write to it; accepted: a "
            "directory that only the user who mounts can write to (chmod go-w)"
        )


def is_ours(fd: int) -> bool:
    """Is this open file an ordinary one of this user's, or of root?"""
    found = os.fstat(fd)
    return stat.S_ISREG(found.st_mode) and found.st_uid in (0, os.geteuid())
