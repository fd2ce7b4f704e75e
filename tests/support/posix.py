"""A little kernel over a Tree: paths, descriptors and dentries, so that tests read like programs.

It does what the Linux kernel does with a FUSE file system where that matters: it looks every
component up, retries once with fresh lookups on ESTALE, sends FLUSH for each close of a descriptor
and RELEASE for the last, keeps its own idea of a file's size for O_APPEND, and drops its references.

Threading: the trio thread of the test.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import trio

from ossfs.errors import PosixError, StoreError
from ossfs.fs.inodes import ROOT
from ossfs.fs.ports import AttrStore, Caller, FsConfig, Journal, NoJournal, WriteBack
from ossfs.fs.stats import Stat
from ossfs.fs.tree import SetAttr, Tree, make_tree
from ossfs.limits import KIB, MIB
from ossfs.metrics import Metrics
from ossfs.store.base import ObjectStore

T = TypeVar("T")

CALLER = Caller(uid=1000, gid=1000, umask=0o022)
CHUNK = 400 * KIB
"""Tests' chunk: small, but above the service's least part."""


class RecordingKernel:
    """Notes the invalidations."""

    def __init__(self) -> None:
        self.inodes: list[int] = []
        self.entries: list[tuple[int, bytes]] = []

    def invalidate_inode(self, ino: int, *, attributes_only: bool = False) -> None:
        self.inodes.append(ino)

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        self.entries.append((parent, name))


@dataclass(eq=False)
class File:
    """One open file description."""

    posix: Posix
    ino: int
    fh: int
    flags: int
    position: int = 0
    copies: int = 1

    async def write(self, data: bytes) -> int:
        if self.flags & os.O_APPEND:
            self.position = (await self.posix.tree.getattr(self.ino)).size
        done = await self.posix.tree.write(self.fh, self.position, data)
        self.position += done
        return done

    async def pwrite(self, data: bytes, offset: int) -> int:
        return await self.posix.tree.write(self.fh, offset, data)

    async def pread(self, length: int, offset: int) -> bytes:
        return bytes(await self.posix.tree.read(self.fh, offset, length))

    async def read(self, length: int = 1 << 62) -> bytes:
        size = (await self.posix.tree.getattr(self.ino)).size
        data = await self.pread(min(length, size), self.position)
        self.position += len(data)
        return data

    async def truncate(self, size: int) -> None:
        await self.posix.tree.setattr(self.ino, SetAttr(size=size), self.fh)

    async def fsync(self) -> None:
        await self.posix.tree.fsync(self.fh)

    async def stat(self) -> Stat:
        return await self.posix.tree.getattr(self.ino)

    def dup(self) -> File:
        self.copies += 1
        return self

    async def close(self) -> None:
        """close(2) of one duplicate: the error is FLUSH's."""
        self.copies -= 1
        try:
            await self.posix.tree.flush(self.fh)
        finally:
            if self.copies == 0:
                await self.posix.tree.release(self.fh)


class Posix:
    """System calls by path."""

    def __init__(self, tree: Tree, store: ObjectStore, kernel: RecordingKernel) -> None:
        self.tree = tree
        self.store = store
        self.kernel = kernel
        self.caller = CALLER

    async def walk(self, path: str) -> int:
        """The inode of a path."""
        ino = ROOT
        for name in path.strip("/").split("/"):
            if name:
                found = await self.tree.lookup(ino, os.fsencode(name))
                ino = found.ino
        return ino

    async def _parent(self, path: str) -> tuple[int, bytes]:
        head, _, name = path.strip("/").rpartition("/")
        return await self.walk(head), os.fsencode(name)

    async def _retry(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            return await work()
        except PosixError as error:
            if error.errno != errno.ESTALE:
                raise
        return await work()

    async def open(self, path: str, flags: int = os.O_RDONLY, mode: int = 0o644) -> File:
        async def go() -> File:
            parent, name = await self._parent(path)
            try:
                found = await self.tree.lookup(parent, name)
            except PosixError as error:
                if error.errno != errno.ENOENT or not flags & os.O_CREAT:
                    raise
                fh, made = await self.tree.create(parent, name, mode, flags, self.caller)
                return File(self, made.ino, fh, flags)
            if flags & os.O_EXCL and flags & os.O_CREAT:
                raise PosixError(errno.EEXIST)
            fh, _ = await self.tree.open(found.ino, flags & ~(os.O_CREAT | os.O_EXCL), self.caller)
            return File(self, found.ino, fh, flags)

        return await self._retry(go)

    async def write_file(self, path: str, data: bytes, flags: int = 0) -> None:
        file = await self.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | flags)
        try:
            for at in range(0, len(data), MIB):
                await file.write(data[at : at + MIB])
        finally:
            await file.close()

    async def append_file(self, path: str, data: bytes) -> None:
        file = await self.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            await file.write(data)
        finally:
            await file.close()

    async def read_file(self, path: str) -> bytes:
        file = await self.open(path)
        try:
            return await file.read()
        finally:
            await file.close()

    async def stat(self, path: str) -> Stat:
        async def go() -> Stat:
            return await self.tree.getattr(await self.walk(path))

        return await self._retry(go)

    async def exists(self, path: str) -> bool:
        try:
            await self.stat(path)
        except PosixError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True

    async def setattr(self, path: str, change: SetAttr) -> Stat:
        async def go() -> Stat:
            return await self.tree.setattr(await self.walk(path), change)

        return await self._retry(go)

    async def truncate(self, path: str, size: int) -> None:
        await self.setattr(path, SetAttr(size=size))

    async def chmod(self, path: str, mode: int) -> None:
        await self.setattr(path, SetAttr(mode=mode))

    async def mkdir(self, path: str, mode: int = 0o755) -> Stat:
        parent, name = await self._parent(path)
        return await self.tree.mkdir(parent, name, mode, self.caller)

    async def rmdir(self, path: str) -> None:
        parent, name = await self._parent(path)
        await self.tree.rmdir(parent, name)

    async def unlink(self, path: str) -> None:
        parent, name = await self._parent(path)
        await self.tree.unlink(parent, name)

    async def rename(self, old: str, new: str, *, no_replace: bool = False) -> None:
        old_parent, old_name = await self._parent(old)
        new_parent, new_name = await self._parent(new)
        await self.tree.rename(old_parent, old_name, new_parent, new_name, no_replace=no_replace)

    async def symlink(self, target: str, path: str) -> Stat:
        parent, name = await self._parent(path)
        return await self.tree.symlink(parent, name, os.fsencode(target), self.caller)

    async def readlink(self, path: str) -> str:
        return os.fsdecode(await self.tree.readlink(await self.walk(path)))

    async def listdir(self, path: str = "", *, room: int = 1 << 30) -> list[str]:
        """Names in the order of the directory; *room* entries fit one reply."""
        fh = await self.tree.opendir(await self.walk(path))
        names: list[str] = []
        offset = 0
        while True:
            batch: list[tuple[str, int]] = []

            def emit(name: bytes, stat: Stat, following: int, batch: list = batch) -> bool:  # type: ignore[type-arg]
                if len(batch) >= room:
                    return False
                batch.append((os.fsdecode(name), following))
                return True

            await self.tree.readdir(fh, offset, emit)
            if not batch:
                break
            names += [n for n, _ in batch]
            offset = batch[-1][1]
        await self.tree.releasedir(fh)
        return names

    async def forget_all(self) -> None:
        """echo 2 >drop_caches: the kernel drops every reference."""
        for node in self.tree.ctx.inodes.all():
            if node.ino != ROOT:
                self.tree.forget(node.ino, node.nlookup)


@asynccontextmanager
async def mounted(
    store: ObjectStore,
    *,
    journal: Journal | None = None,
    attr_store: AttrStore | None = None,
    writeback: WriteBack | None = None,
    wall_ns: Callable[[], int] | None = None,
    check: bool = True,
    **config: object,
) -> AsyncIterator[Posix]:
    """A tree over *store*; drained at the end, with every gauge back at zero.

    config: fields of FsConfig.
    """
    settings = FsConfig(**{"chunk_size": CHUNK, "memory": 64 * MIB, **config})  # type: ignore[arg-type]
    kernel = RecordingKernel()
    async with trio.open_nursery() as nursery:
        tree = make_tree(
            store,
            settings,
            nursery,
            kernel,
            journal or NoJournal(),
            Metrics(),
            wall_ns=wall_ns,
            attr_store=attr_store,
            writeback=writeback,
        )
        posix = Posix(tree, store, kernel)
        yield posix
        with trio.fail_after(600):
            await tree.drain()
        if check:
            assert tree.ctx.budget.used == 0, "memory that nobody gave back"
            assert tree.ctx.jobs.running == 0
        nursery.cancel_scope.cancel()


def error_number(error: BaseException) -> int | None:
    """The errno that a program would see."""
    return error.errno if isinstance(error, PosixError | StoreError) else None
