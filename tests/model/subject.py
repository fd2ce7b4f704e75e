"""The product as a program sees it through a kernel: the operations of a program, on a Tree in memory.

What is done here beside tests/support/posix.py is what the kernel's VFS does: it looks names up before
it makes, removes or moves them, tries once more after ESTALE, and forgets inodes from the leaves up.

Threading: the trio thread of the test.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from ossfs.errors import PosixError
from ossfs.fs.inodes import ROOT, Node
from ossfs.fs.stats import Stat
from ossfs.fs.tree import SetAttr
from tests.model.reference import KIND_OF_MODE, Fact, pattern
from tests.support.posix import File, Posix

T = TypeVar("T")


class Subject:
    """Methods as those of Reference, but waiting."""

    def __init__(self, posix: Posix) -> None:
        self.posix = posix
        self.tree = posix.tree
        self.slots: dict[int, File] = {}

    async def _again(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            return await work()
        except PosixError as error:
            if error.errno != errno.ESTALE:
                raise
        return await work()

    async def _parent(self, path: str) -> tuple[int, bytes]:
        head, _, name = path.rpartition("/")
        ino = await self.posix.walk(head)
        if head and not stat.S_ISDIR((await self.tree.getattr(ino)).mode):
            raise PosixError(errno.ENOTDIR)
        return ino, os.fsencode(name)

    async def _found(self, parent: int, name: bytes) -> Stat | None:
        try:
            return await self.tree.lookup(parent, name)
        except PosixError as error:
            if error.errno != errno.ENOENT:
                raise
            return None

    async def _lstat(self, path: str) -> Stat:
        return await self.posix.stat(path) if path else await self.tree.getattr(ROOT)

    # -- open files

    async def open(self, slot: int, path: str, flags: int, mode: int) -> None:
        self.slots[slot] = await self.posix.open(path, flags, mode)

    async def write(self, slot: int, offset: int, length: int, tag: int) -> int:
        file, data = self.slots[slot], pattern(length, tag)
        if file.flags & os.O_APPEND:
            return await file.write(data)
        return await file.pwrite(data, offset)

    async def read(self, slot: int, offset: int, length: int) -> bytes:
        file = self.slots[slot]
        size = (await file.stat()).size
        return await file.pread(min(length, size - offset), offset) if offset < size else b""

    async def ftruncate(self, slot: int, size: int) -> None:
        await self.slots[slot].truncate(size)

    async def truncate(self, path: str, size: int) -> None:
        if stat.S_ISDIR((await self._lstat(path)).mode):
            raise PosixError(errno.EISDIR)
        await self.posix.truncate(path, size)

    async def fsync(self, slot: int) -> None:
        await self.slots[slot].fsync()

    async def dup(self, slot: int) -> None:
        self.slots[slot].dup()

    async def close(self, slot: int) -> None:
        file = self.slots[slot]
        if file.copies == 1:
            del self.slots[slot]
        await file.close()

    async def fstat(self, slot: int) -> tuple[int, int]:
        found = await self.slots[slot].stat()
        return found.size, stat.S_IMODE(found.mode)

    # -- names

    async def mkdir(self, path: str, mode: int) -> None:
        async def go() -> None:
            parent, name = await self._parent(path)
            if await self._found(parent, name) is not None:
                raise PosixError(errno.EEXIST)
            await self.tree.mkdir(parent, name, mode, self.posix.caller)

        await self._again(go)

    async def symlink(self, target: str, path: str) -> None:
        async def go() -> None:
            parent, name = await self._parent(path)
            if await self._found(parent, name) is not None:
                raise PosixError(errno.EEXIST)
            await self.tree.symlink(parent, name, os.fsencode(target), self.posix.caller)

        await self._again(go)

    async def readlink(self, path: str) -> str:
        async def go() -> str:
            found = await self._lstat(path)
            if not stat.S_ISLNK(found.mode):
                raise PosixError(errno.EINVAL)
            return os.fsdecode(await self.tree.readlink(found.ino))

        return await self._again(go)

    async def unlink(self, path: str) -> None:
        await self._again(lambda: self.posix.unlink(path))

    async def rmdir(self, path: str) -> None:
        await self._again(lambda: self.posix.rmdir(path))

    async def rename(self, old: str, new: str, no_replace: bool) -> None:
        async def go() -> None:
            old_parent, old_name = await self._parent(old)
            new_parent, new_name = await self._parent(new)
            source = await self.tree.lookup(old_parent, old_name)
            target = await self._found(new_parent, new_name)
            if target is not None and no_replace:
                raise PosixError(errno.EEXIST)
            if target is not None and old.startswith(new + "/"):
                raise PosixError(errno.ENOTEMPTY)
            if stat.S_ISDIR(source.mode) and new.startswith(old + "/"):
                raise PosixError(errno.EINVAL)
            await self.tree.rename(old_parent, old_name, new_parent, new_name, no_replace=no_replace)

        await self._again(go)

    async def listdir(self, path: str) -> list[str]:
        names = await self._again(lambda: self.posix.listdir(path, room=3))
        assert len(set(names)) == len(names), f"a name is listed twice: {names}"
        return sorted(names)

    # -- attributes

    async def stat(self, path: str) -> tuple[str, int, int]:
        found = await self._lstat(path)
        return KIND_OF_MODE[stat.S_IFMT(found.mode)], stat.S_IMODE(found.mode), found.size

    async def _setattr(self, path: str, change: SetAttr) -> None:
        await self.posix.setattr(path, change)

    async def chmod(self, path: str, mode: int) -> None:
        await self._setattr(path, SetAttr(mode=mode))

    async def fchmod(self, slot: int, mode: int) -> None:
        await self.tree.setattr(self.slots[slot].ino, SetAttr(mode=mode))

    async def chown(self, path: str, uid: int, gid: int) -> None:
        await self._setattr(path, SetAttr(uid=uid, gid=gid))

    async def utimes(self, path: str, mtime: int) -> None:
        await self._setattr(path, SetAttr(atime_ns=mtime, mtime_ns=mtime))

    async def futimes(self, slot: int, mtime: int) -> None:
        await self.tree.setattr(self.slots[slot].ino, SetAttr(atime_ns=mtime, mtime_ns=mtime))

    async def setxattr(self, path: str, name: str, length: int, tag: int) -> None:
        async def go() -> None:
            await self.tree.setxattr(await self.posix.walk(path), name.encode(), pattern(length, tag))

        await self._again(go)

    async def getxattr(self, path: str, name: str) -> bytes:
        async def go() -> bytes:
            return await self.tree.getxattr(await self.posix.walk(path), name.encode())

        return await self._again(go)

    async def removexattr(self, path: str, name: str) -> None:
        async def go() -> None:
            await self.tree.removexattr(await self.posix.walk(path), name.encode())

        await self._again(go)

    # -- what programs do not do

    def forget(self) -> None:
        """The kernel drops its caches: every inode but those that are open, and the directories above."""
        held: set[int] = {ROOT}
        for file in self.slots.values():
            node: Node | None = self.tree.ctx.inodes.get(file.ino)
            while node is not None:
                held.add(node.ino)
                node = node.parent
        nodes = [n for n in self.tree.ctx.inodes.all() if n.ino not in held]
        for node in sorted(nodes, key=_depth, reverse=True):
            self.tree.forget(node.ino, node.nlookup)

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def snapshot(self, top: str = "") -> dict[str, Fact]:
        """Everything that can be seen by path, from the directory *top* on."""
        found: dict[str, Fact] = {}
        pending = [top]
        while pending:
            directory = pending.pop()
            for name in await self.listdir(directory):
                path = f"{directory}/{name}" if directory else name
                found[path] = await self._again(lambda path=path: self._fact(path))  # type: ignore[misc]
                if found[path][0] == "directory":
                    pending.append(path)
        return found

    async def _fact(self, path: str) -> Fact:
        seen = await self.posix.stat(path)
        kind = KIND_OF_MODE[stat.S_IFMT(seen.mode)]
        content: bytes | str = b""
        if kind == "file":
            content = await self.posix.read_file(path)
        elif kind == "link":
            content = os.fsdecode(await self.tree.readlink(seen.ino))
        xattrs = []
        ino = await self.posix.walk(path)
        for name in sorted(await self.tree.listxattr(ino)):
            xattrs.append((name.decode(), await self.tree.getxattr(ino, name)))
        mode = stat.S_IMODE(seen.mode)
        return kind, mode, seen.uid, seen.gid, seen.size, seen.mtime_ns, content, tuple(xattrs)

    async def in_slots(self) -> dict[int, tuple[int, bytes | None]]:
        """Size and, if it may be read, content of what is open."""
        found: dict[int, tuple[int, bytes | None]] = {}
        for slot, file in sorted(self.slots.items()):
            size = (await file.stat()).size
            readable = file.flags & os.O_ACCMODE != os.O_WRONLY
            found[slot] = size, await file.pread(size, 0) if readable and size else b"" if readable else None
        return found


def _depth(node: Node) -> int:
    depth = 0
    above = node.parent
    while above is not None:
        depth += 1
        above = above.parent
    return depth
