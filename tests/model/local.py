"""The operations of a program on a directory, through the kernel: a local file system, or a mount."""

from __future__ import annotations

import ctypes
import os
import stat
from pathlib import Path

from tests.model.reference import KIND_OF_MODE, Fact, pattern

_LIBC = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1


class Local:
    """Methods as those of Reference, below *root*."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.slots: dict[int, list[int]] = {}
        """Descriptors that are duplicates of one another."""

    def _path(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    def open(self, slot: int, path: str, flags: int, mode: int) -> None:
        self.slots[slot] = [os.open(self._path(path), flags | os.O_CLOEXEC, mode)]

    def write(self, slot: int, offset: int, length: int, tag: int) -> int:
        return os.pwrite(self.slots[slot][-1], pattern(length, tag), offset)

    def read(self, slot: int, offset: int, length: int) -> bytes:
        return os.pread(self.slots[slot][-1], length, offset)

    def ftruncate(self, slot: int, size: int) -> None:
        os.ftruncate(self.slots[slot][-1], size)

    def truncate(self, path: str, size: int) -> None:
        os.truncate(self._path(path), size)

    def fsync(self, slot: int) -> None:
        os.fsync(self.slots[slot][-1])

    def dup(self, slot: int) -> None:
        self.slots[slot].append(os.dup(self.slots[slot][0]))

    def close(self, slot: int) -> None:
        descriptors = self.slots[slot]
        if len(descriptors) == 1:
            del self.slots[slot]
        os.close(descriptors.pop())

    def fstat(self, slot: int) -> tuple[int, int]:
        found = os.fstat(self.slots[slot][-1])
        return found.st_size, stat.S_IMODE(found.st_mode)

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._path(path), mode)

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, self._path(path))

    def readlink(self, path: str) -> str:
        return os.readlink(self._path(path))

    def unlink(self, path: str) -> None:
        os.unlink(self._path(path))

    def rmdir(self, path: str) -> None:
        os.rmdir(self._path(path))

    def rename(self, old: str, new: str, no_replace: bool) -> None:
        if not no_replace:
            os.rename(self._path(old), self._path(new))
            return
        paths = os.fsencode(self._path(old)), os.fsencode(self._path(new))
        if _LIBC.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_NOREPLACE):
            raise OSError(ctypes.get_errno(), old)

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(self._path(path)))

    def stat(self, path: str) -> tuple[str, int, int]:
        found = os.lstat(self._path(path))
        kind = KIND_OF_MODE[stat.S_IFMT(found.st_mode)]
        return kind, stat.S_IMODE(found.st_mode), 0 if kind == "directory" else found.st_size

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._path(path), mode)

    def fchmod(self, slot: int, mode: int) -> None:
        os.fchmod(self.slots[slot][-1], mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.chown(self._path(path), uid, gid, follow_symlinks=False)

    def utimes(self, path: str, mtime: int) -> None:
        os.utime(self._path(path), ns=(mtime, mtime), follow_symlinks=False)

    def futimes(self, slot: int, mtime: int) -> None:
        os.utime(self.slots[slot][-1], ns=(mtime, mtime))

    def setxattr(self, path: str, name: str, length: int, tag: int) -> None:
        os.setxattr(self._path(path), name, pattern(length, tag))

    def getxattr(self, path: str, name: str) -> bytes:
        return os.getxattr(self._path(path), name)

    def removexattr(self, path: str, name: str) -> None:
        os.removexattr(self._path(path), name)

    def end(self) -> None:
        """Close what is open."""
        for descriptors in self.slots.values():
            for fd in descriptors:
                os.close(fd)
        self.slots.clear()

    def snapshot(self) -> dict[str, Fact]:
        """Everything that can be seen by path."""
        found: dict[str, Fact] = {}
        for directory, directories, files in os.walk(self.root):
            for name in [*directories, *files]:
                path = os.path.join(directory, name)
                found[os.path.relpath(path, self.root)] = self._fact(path)
        return found

    def _fact(self, path: str) -> Fact:
        status = os.lstat(path)
        kind = KIND_OF_MODE[stat.S_IFMT(status.st_mode)]
        content: bytes | str = b""
        xattrs: tuple[tuple[str, bytes], ...] = ()
        if kind == "link":
            content = os.readlink(path)
        else:
            xattrs = tuple((name, os.getxattr(path, name)) for name in sorted(os.listxattr(path)))
        if kind == "file":
            content = Path(path).read_bytes()
        size = 0 if kind == "directory" else status.st_size
        mode = stat.S_IMODE(status.st_mode)
        return kind, mode, status.st_uid, status.st_gid, size, status.st_mtime_ns, content, xattrs

    def in_slots(self) -> dict[int, tuple[int, bytes | None]]:
        """Size and, if it may be read, content of what is open."""
        found: dict[int, tuple[int, bytes | None]] = {}
        for slot, descriptors in sorted(self.slots.items()):
            fd = descriptors[0]
            size = os.fstat(fd).st_size
            flags = int(Path(f"/proc/self/fdinfo/{fd}").read_text().split("flags:")[1].split()[0], 8)
            found[slot] = size, None if flags & os.O_ACCMODE == os.O_WRONLY else os.pread(fd, size + 1, 0)
        return found
