"""The place in the file system that a bucket is mounted at: what is there, and whether it will do.

Threading: blocking calls on local files, and short-lived child processes; any thread.  Nothing here
touches what is mounted at a place before it is known that its process lives, or that it has ended:
a mount that hangs would hang the command that is to clean it up.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import subprocess
from dataclasses import dataclass
from typing import Final

from ossfs.errors import MountError

log = logging.getLogger(__name__)

FSTYPE: Final = "fuse.ossfs"
"""As /proc/self/mountinfo names our mounts: subtype=ossfs."""

_FUSE_DEVICE: Final = "/dev/fuse"
_FUSE_CONF: Final = "/etc/fuse.conf"
_UNMOUNT_SECONDS: Final = 20.0
_MAX_STACKED: Final = 16


@dataclass(frozen=True, slots=True)
class MountInfo:
    """One line of /proc/self/mountinfo."""

    device: str
    mountpoint: str
    fstype: str
    source: str


def read_mountinfo(path: str = "/proc/self/mountinfo") -> list[MountInfo]:
    """The mounts that this process sees, in the order they were made: of one place, the last is on top."""
    mounts = []
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.rstrip("\n").partition(" - ")
            fields, rest = left.split(" "), right.split(" ")
            if len(fields) >= 5 and len(rest) >= 2:
                mounts.append(MountInfo(fields[2], _unescape(fields[4]), rest[0], _unescape(rest[1])))
    return mounts


def _unescape(text: str) -> str:
    raw = text.encode("utf-8", "surrogateescape")
    raw = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), raw)
    return os.fsdecode(raw)


def mount_at(path: str) -> MountInfo | None:
    """The topmost mount at exactly *path* (absolute, without symlinks), or None."""
    found = [mount for mount in read_mountinfo() if mount.mountpoint == path]
    return found[-1] if found else None


def is_on_autofs(path: str) -> bool:
    """Is something mounted at *path* on top of an autofs, as x-systemd.automount makes it?"""
    place = resolve_mountpoint(path)
    return any(mount.mountpoint == place and mount.fstype == "autofs" for mount in read_mountinfo())


def resolve_mountpoint(path: str) -> str:
    """*path* made absolute, its symlinks resolved, without touching what may be mounted at it.

    A mount that is dead or hangs must not take the command with it that is to clean it up.
    """
    path = os.path.abspath(path)
    parent, name = os.path.split(path)
    place = os.path.join(os.path.realpath(parent), name) if name else path
    if mount_at(place) is not None:
        return place
    return os.path.realpath(place)


def is_dead(path: str) -> bool:
    """Is there a FUSE mount at *path* whose process has ended?  "Transport endpoint is not connected"."""
    try:
        os.stat(path)
        os.statvfs(path)  # is always asked; stat may be answered from the kernel's cache for a while yet
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def detach(path: str) -> bool:
    """Unmount what is at *path* lazily, without asking its process; True when a mount went away.

    umount(8) is told to call no helper: ours would come back here.
    """
    before = _count_at(path)
    commands = [["fusermount3", "-u", "-z", "--", path], ["umount", "-i", "-l", "--", path]]
    for command in commands if os.geteuid() != 0 else reversed(commands):
        try:
            done = subprocess.run(  # noqa: S603 # nosec B603 # fixed programs, and a path after "--"
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_UNMOUNT_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            log.warning("%s of %s failed: %s", command[0], path, error)
            continue
        if done.returncode == 0 and _count_at(path) < before:
            return True
        log.debug("%s of %s failed: %s", command[0], path, os.fsdecode(done.stderr).strip())
    return False


def _count_at(path: str) -> int:
    return sum(mount.mountpoint == path for mount in read_mountinfo())


def clean_up_dead(path: str) -> bool:
    """Unmount the ossfs mounts at *path* whose processes have ended; True when there was one."""
    cleaned = False
    for _ in range(_MAX_STACKED):
        mount = mount_at(path)
        if mount is None or mount.fstype != FSTYPE or not is_dead(path):
            break
        if not detach(path):
            raise MountError(f"{path} holds a dead ossfs mount that cannot be removed; run: umount -l {path}")
        log.info("removed the mount at %s, whose process had ended", path)
        cleaned = True
    return cleaned


def check_mountpoint(path: str, nonempty: bool = False) -> str:
    """Can a bucket be mounted at *path*?  The path to use, or a MountError that says why not.

    A dead ossfs mount that is there is unmounted first.
    """
    place = resolve_mountpoint(path)
    clean_up_dead(place)
    mount = mount_at(place)
    if mount is not None and mount.fstype == FSTYPE:
        raise MountError(
            f"{place} is an ossfs mount already, of {mount.source}; run `ossfs umount {place}` first, "
            "or mount elsewhere"
        )
    try:
        status = os.stat(place)
        names = os.scandir(place) if stat.S_ISDIR(status.st_mode) else None
    except FileNotFoundError:
        raise MountError(f"mount point {place} does not exist; make it with: mkdir -p {place}") from None
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            kind = mount.fstype if mount is not None else "FUSE"
            raise MountError(
                f"mount point {place} holds a dead {kind} mount ({os.strerror(errno.ENOTCONN)}); "
                f"run: umount -l {place}"
            ) from None
        raise MountError(f"mount point {place} cannot be used: {error.strerror}") from None
    if names is None:
        raise MountError(f"mount point {place} is not a directory; name an existing directory")
    with names:
        if not nonempty and next(names, None) is not None:
            raise MountError(f"mount point {place} is not empty; name an empty directory, or add -o nonempty")
    return place


def check_fuse(allow_other: bool, *, device: str = _FUSE_DEVICE, conf: str = _FUSE_CONF) -> None:
    """Can this user make a FUSE mount at all?  MountError when not."""
    if not os.path.exists(device):
        raise MountError(
            f"there is no {device}; run `modprobe fuse`, or start the container with "
            "--device /dev/fuse --cap-add SYS_ADMIN"
        )
    if not os.access(device, os.R_OK | os.W_OK):
        raise MountError(f"{device} may not be opened by this user; as root run: chmod 666 {device}")
    if allow_other and os.geteuid() != 0 and not _user_allow_other(conf):
        raise MountError(
            f"allow_other is for root unless {conf} has a line `user_allow_other`; add it, or mount without"
        )


def _user_allow_other(conf: str) -> bool:
    try:
        with open(conf, encoding="utf-8", errors="replace") as file:
            return any(line.strip() == "user_allow_other" for line in file)
    except OSError:
        return False


def holders_of(device: str) -> list[str]:
    """Processes that see the file system of that device number mounted, as `process 12, sleep`.

    Those of other users are seen by root alone.
    """
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            if any(mount.device == device for mount in read_mountinfo(f"/proc/{name}/mountinfo")):
                with open(f"/proc/{name}/comm", encoding="utf-8", errors="replace") as file:
                    found.append(f"process {name}, {' '.join(file.read().split())}")
        except OSError:
            continue  # it has ended, or is somebody else's
    return found
