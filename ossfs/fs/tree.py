"""The file system, call by call: what fuse/ translates requests into.

Threading: trio thread only.

Every method takes inode numbers, decoded names and plain values, and raises errors of the tree in
ossfs.errors.  Methods that make the kernel refer to an inode (lookup, create, mkdir, symlink, mknod,
and accepted directory entries) raise its lookup count in the step that returns, with no await
between.
"""

from __future__ import annotations

import errno
import logging
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import trio

from ossfs.errors import NotFound, OssfsError, PosixError, PreconditionFailed, StoreError
from ossfs.fs.attrs import Attrs
from ossfs.fs.budget import Budget
from ossfs.fs.changes import Changes
from ossfs.fs.commit import fetch
from ossfs.fs.context import Context, Jobs, run_all
from ossfs.fs.directories import Directories
from ossfs.fs.handles import DirHandle, FileHandle
from ossfs.fs.hidden import HiddenKeys, abort_quietly
from ossfs.fs.inodes import DirNode, FileNode, Inodes, Node
from ossfs.fs.listed import check_rewritable, check_storable
from ossfs.fs.lookup import Lookup
from ossfs.fs.names import decode_name
from ossfs.fs.opening import Opening
from ossfs.fs.ports import AttrStore, BlockCache, Caller, FsConfig, Journal, Kernel, WriteBack
from ossfs.fs.renames import Renames
from ossfs.fs.setattrs import AttributeStore
from ossfs.fs.stats import Stat
from ossfs.fs.writer import Writer
from ossfs.fs.xattrs import ExtendedAttributes
from ossfs.metrics import Metrics
from ossfs.store.base import BucketStat, ObjectStore

log = logging.getLogger(__name__)

VIRTUAL_SIZE = 1 << 50
"""OSS has no capacity limit: df shows one PiB free beside what is used."""
SIDE_BY_SIDE = 64
"""Files and directories that one call stores at a time; the connections bound it further."""
STAT_AGE = 300.0
"""Seconds between questions for the bucket's statistics, which lag by up to an hour anyway."""


@dataclass(frozen=True, slots=True)
class SetAttr:
    """The fields that setattr(2)'s relatives change; None leaves one alone.  Times in ns."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class FsStat:
    """statvfs(3).  used and total in bytes."""

    used: int
    total: int
    files: int


class Tree(Opening, ExtendedAttributes):
    """One mounted bucket, or the part of it below a prefix."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.hidden = HiddenKeys(ctx)
        self.look = Lookup(ctx)
        self.dirs = Directories(self.look)
        self.changes = Changes(self.look, self.hidden)
        self.attributes = AttributeStore(self.changes)
        self.renames = Renames(self.changes, self.attributes)
        self._handles: dict[int, FileHandle] = {}
        self._dirs: dict[int, DirHandle] = {}
        self._next_handle = 1
        self._bucket_stat = BucketStat(0, 0)
        self._stat_at = float("-inf")

    # -- names

    async def lookup(self, parent: int, raw: bytes) -> Stat:
        """The entry of a name; the kernel refers to it from now on."""
        directory = self.look.directory(parent)
        name = decode_name(raw)
        node = await self.look.lookup(directory, name)
        if isinstance(node, DirNode) and node.attrs is not None and not self.look.fresh(node):
            node.attrs_at = float("-inf")
        return self._refer(node)

    def _refer(self, node: Node) -> Stat:
        self.ctx.inodes.remember(node)
        return self.look.stat(node)

    def forget(self, ino: int, count: int) -> None:
        """The kernel dropped references."""
        self.ctx.inodes.forget(ino, count)

    async def getattr(self, ino: int) -> Stat:
        """stat(2)."""
        return await self.look.getattr(self.look.node(ino))

    def check_writable(self) -> None:
        if self.ctx.config.read_only:
            raise PosixError(errno.EROFS)

    async def mkdir(self, parent: int, raw: bytes, mode: int, caller: Caller) -> Stat:
        """mkdir(2)."""
        self.check_writable()
        directory = self.look.directory(parent)
        name = decode_name(raw, creating=True)
        return self._refer(await self.changes.mkdir(directory, name, mode, caller))

    async def mknod(self, parent: int, raw: bytes, mode: int, rdev: int, caller: Caller) -> Stat:
        """mknod(2): a regular file, FIFO, socket or device node."""
        self.check_writable()
        directory = self.look.directory(parent)
        name = decode_name(raw, creating=True)
        if stat.S_IFMT(mode) == 0:
            mode |= stat.S_IFREG
        attrs = await self.changes.new_attrs(directory, name, mode, caller, rdev)
        return self._refer(await self.changes.make_object(directory, name, attrs, b""))

    async def symlink(self, parent: int, raw: bytes, target: bytes, caller: Caller) -> Stat:
        """symlink(2): an object whose body is the target, as ossfs 1.x has it."""
        self.check_writable()
        directory = self.look.directory(parent)
        name = decode_name(raw, creating=True)
        if len(target) >= 4096:
            raise PosixError(errno.ENAMETOOLONG)
        attrs = await self.changes.new_attrs(directory, name, stat.S_IFLNK | 0o777, caller)
        attrs.mode = stat.S_IFLNK | 0o777
        node = await self.changes.make_object(
            directory, name, attrs, target, target=target.decode("utf-8", "surrogateescape")
        )
        return self._refer(node)

    async def readlink(self, ino: int) -> bytes:
        """readlink(2)."""
        node = self.look.file(ino)
        if node.attrs is None:
            await self.look.refresh(node)
        assert node.attrs is not None
        if node.kind != stat.S_IFLNK:
            raise PosixError(errno.EINVAL)
        if node.target is None:
            if node.attrs.header_target is not None:
                node.target = node.attrs.header_target
            else:
                node.target = await self._read_target(node)
        return node.target.encode("utf-8", "surrogateescape")

    async def _read_target(self, node: FileNode) -> str:
        while True:
            version = node.version
            assert version is not None
            try:
                body = await fetch(self.ctx, version, 0, version.size)
            except (PreconditionFailed, NotFound):
                async with self.ctx.keys.hold(version.key):
                    pass  # our own rename or change of its times may be under way
                if node.version == version:
                    raise
            else:
                return bytes(body).decode("utf-8", "surrogateescape")

    async def unlink(self, parent: int, raw: bytes) -> None:
        """unlink(2)."""
        self.check_writable()
        await self.changes.unlink(self.look.directory(parent), decode_name(raw))

    async def rmdir(self, parent: int, raw: bytes) -> None:
        """rmdir(2)."""
        self.check_writable()
        await self.changes.rmdir(self.look.directory(parent), decode_name(raw))

    async def rename(
        self, parent: int, raw: bytes, new_parent: int, new_raw: bytes, *, no_replace: bool = False
    ) -> None:
        """rename(2)."""
        self.check_writable()
        await self.renames.rename(
            self.look.directory(parent),
            decode_name(raw),
            self.look.directory(new_parent),
            decode_name(new_raw, creating=True),
            no_replace=no_replace,
        )

    # -- attributes

    async def setattr(self, ino: int, change: SetAttr, fh: int | None = None) -> Stat:
        """chmod, chown, utimes, truncate and ftruncate."""
        self.check_writable()
        node = self.look.node(ino)
        times_only = change.mode is None and change.uid is None and change.gid is None
        if change.size is None and not check_storable(self.ctx.config):
            await self.look.getattr(node)
            return self.look.stat(node)
        if isinstance(node, DirNode):
            if change.size is not None:
                raise PosixError(errno.EISDIR)
            soon = times_only or self.ctx.writeback is not None
            await self.attributes.store_dir_attrs(node, self._edit(change), soon=soon)
            return self.look.stat(node)
        assert isinstance(node, FileNode)
        if change.size is not None:
            await self._set_size(node, change.size, fh)
        if not self.ctx.config.attrs_list and any(
            v is not None for v in (change.mode, change.uid, change.gid, change.atime_ns, change.mtime_ns)
        ):
            await self.set_attrs(node, self._edit(change), soon=times_only)
        return self.look.stat(node)

    def _edit(self, change: SetAttr) -> Callable[[Attrs], None]:
        now = self.ctx.wall_ns()

        def edit(attrs: Attrs) -> None:
            if change.mode is not None:
                attrs.mode = stat.S_IFMT(attrs.mode) | stat.S_IMODE(change.mode)
            if change.uid is not None:
                attrs.uid = change.uid
            if change.gid is not None:
                attrs.gid = change.gid
            if change.atime_ns is not None:
                attrs.atime_ns = change.atime_ns
            if change.mtime_ns is not None:
                attrs.mtime_ns = change.mtime_ns
                attrs.stored_mtime = True
            attrs.ctime_ns = now if change.ctime_ns is None else change.ctime_ns

        return edit

    async def set_attrs(self, node: FileNode, edit: Callable[[Attrs], None], *, soon: bool = False) -> None:
        """soon: times alone may wait a second, so that several changes become one request."""
        if node.writer is None and (node.attrs is None or not self.look.fresh(node)) and not node.detached:
            await self.look.refresh(node)
        writer = node.writer
        if writer is not None and node.attrs is not None:
            edit(node.attrs)
            writer.attributes_changed()
            closed = not writer.data_dirty or writer.entry is not None
            if not soon and not writer.in_use and closed and not node.detached:
                # Only times wait there, and no FLUSH will follow: mode and owner are stored at once.
                with writer.pinned():
                    try:
                        # Of a file that is pending the local disk is told, if that will do.
                        await writer.close()
                    except OssfsError:
                        await writer.discard_quietly()
                        raise
            return
        if node.attrs is not None and not node.detached:
            changed = node.attrs.copy()
            edit(changed)
            if changed.same_but_ctime(node.attrs):
                node.attrs = changed
                node.touched()
                return
            if soon and node.object_type in ("Normal", "Multipart"):
                writer = self._writer(node)
                edit(node.attrs)
                writer.attributes_changed()
                writer.settle_soon()
                return
        await self.attributes.store_attrs(node, edit)

    async def _set_size(self, node: FileNode, size: int, fh: int | None) -> None:
        handle = self._handles.get(fh) if fh is not None else None
        if handle is not None and handle.writer is not None and not handle.writer.ended:
            handle.raise_latched()
            await handle.writer.truncate(size)
            handle.wrote = True
            return
        await self._uploaded(node)
        if node.writer is None:
            await self._revalidate(node)
            if node.object_type == "Symlink":
                raise PosixError(errno.EPERM, "a native symlink is shown as its target, read-only")
            check_rewritable(node.attrs)
            if size == node.size and node.version is not None and size > 0:
                if node.object_type in ("Normal", "Multipart") and not self.ctx.config.attrs_list:
                    now = SetAttr(mtime_ns=self.ctx.wall_ns())
                    await self.set_attrs(node, self._edit(now), soon=True)
                return
        writer = self._writer(node)
        with writer.pinned():
            await writer.truncate(size)
            # truncate(2) by path: no FLUSH will follow, or only that of somebody who has written nothing.
            try:
                await writer.commit()
            except OssfsError:
                if not writer.handles:
                    await writer.discard_quietly()
                raise

    # -- open files

    def _file_handle(self, fh: int) -> FileHandle:
        try:
            return self._handles[fh]
        except KeyError:
            raise PosixError(errno.EBADF) from None

    async def read(self, fh: int, offset: int, length: int) -> bytes | memoryview:
        """pread(2).  The result is valid until the caller next awaits."""
        return await self._file_handle(fh).read(offset, length)

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        """pwrite(2).  *data* is kept, not copied: it must not change."""
        handle = self._file_handle(fh)
        if handle.writer is None:
            raise PosixError(errno.EBADF)
        if handle.writer.ended and handle.error is None:
            handle.writer = self._writer(handle.node)
            handle.writer.handles.add(handle)
        return await handle.writer.write(handle, offset, data)

    async def flush(self, fh: int) -> None:
        """close(2) of one duplicate of a descriptor."""
        await self._file_handle(fh).flush()

    async def fsync(self, fh: int) -> None:
        """fsync(2): everything of the file into the bucket."""
        await self._file_handle(fh).fsync()

    async def release(self, fh: int) -> None:
        """The last duplicate is closed; nobody hears of errors."""
        handle = self._handles.pop(fh, None)
        if handle is None:
            return
        node = handle.node
        await handle.release()
        if node.hidden_key is not None and not node.handles:
            await self.ctx.jobs.run(lambda: self.changes.orphan_released(node))

    # -- open directories

    async def opendir(self, ino: int) -> int:
        """opendir(3)."""
        number = self._next_handle
        self._next_handle += 1
        self._dirs[number] = DirHandle(self.look.directory(ino))
        return number

    async def readdir(self, fh: int, offset: int, emit: Callable[[bytes, Stat, int], bool]) -> None:
        """Entries from *offset* on.  emit(name, stat, next offset) says whether there was room.

        An entry that was accepted is one more reference of the kernel's to its inode.
        """
        handle = self._dirs.get(fh)
        if handle is None:
            raise PosixError(errno.EBADF)
        if offset == 0 and handle.entries:
            handle.restart()
        while await self.dirs.read_dir(handle, offset):
            # No await from here on: the snapshot must not move under the kernel's buffer.
            while offset < len(handle.entries):
                name, known = handle.entries[offset]
                offset += 1
                node = self.dirs.entry(handle, name, known)
                if node is None:
                    continue
                if not emit(name.encode("utf-8", "surrogateescape"), self.look.stat(node), offset):
                    self.ctx.inodes.drop_if_unused(node)
                    return
                self.ctx.inodes.remember(node)

    async def releasedir(self, fh: int) -> None:
        """closedir(3)."""
        handle = self._dirs.pop(fh, None)
        if handle is not None:
            handle.close()

    async def fsyncdir(self, fh: int) -> None:
        """Everything that changed in the directory into the bucket."""
        handle = self._dirs.get(fh)
        if handle is None:
            raise PosixError(errno.EBADF)
        writers = [
            node.writer
            for node in list(handle.node.children.values())
            if isinstance(node, FileNode)
            and node.writer is not None
            and node.writer.dirty
            and not node.writer.given_up
        ]
        await run_all(SIDE_BY_SIDE, [writer.fsync for writer in writers])
        await self.attributes.store_pending(handle.node)
        await self.changes.deletes.flush()
        if handle.node.refused:
            # Told once, as errors of write-back are: the program may try again.
            error = next(iter(handle.node.refused.values()))
            handle.node.refused.clear()
            raise error

    async def statfs(self) -> FsStat:
        """df(1): hints.  The bucket is asked in the background, and may refuse."""
        now = trio.current_time()
        if now - self._stat_at >= STAT_AGE:
            self._stat_at = now

            async def ask() -> None:
                try:
                    self._bucket_stat = await self.ctx.store.bucket_stat()
                except StoreError as error:
                    log.debug("%s", error)

            self.ctx.jobs.start(ask)
        used = self._bucket_stat.storage
        return FsStat(used, used + VIRTUAL_SIZE, self._bucket_stat.object_count)

    # -- for the log

    def path_of(self, ino: int, name: str = "") -> str:
        """The path of an inode, or of *name* in it, below the root of the mount; "" when it is not known."""
        node = self.ctx.inodes.get(ino)
        path = node.path() if node is not None else ""
        return f"{path}/{name}" if path and name else path or name

    def path_of_handle(self, fh: int) -> str:
        """The same of an open file or directory."""
        handle = self._handles.get(fh) or self._dirs.get(fh)
        return handle.node.path() if handle is not None else ""

    # -- the end

    @property
    def open_files(self) -> int:
        """Descriptions of files that programs have open, or that the kernel has not released yet."""
        return len(self._handles)

    def dirty_writers(self) -> list[Writer]:
        """Files with something that the bucket does not have, and that nobody was told to be lost."""
        return [
            n.writer
            for n in self.ctx.inodes.all()
            if isinstance(n, FileNode)
            and n.writer is not None
            and n.writer.dirty
            and not n.writer.given_up
            and not n.detached
        ]

    async def flush_all(self) -> list[str]:
        """Commit every dirty file.  Returns the paths of those that failed."""
        failed: list[str] = []

        async def one(writer: Writer) -> None:
            path = writer.node.path()  # which it loses when it is given up
            try:
                await writer.commit()
            except OssfsError as error:
                failed.append(path)
                if path not in self.ctx.failed:
                    self.ctx.failed.append(path)
                log.error("%s: not in the bucket: %s", writer.node.name, error)

        async with trio.open_nursery() as nursery:
            for writer in self.dirty_writers():
                nursery.start_soon(one, writer)

        async def store(node: DirNode) -> None:
            try:
                await self.attributes.store_pending(node)
            except OssfsError as error:
                log.error("attributes of %s: %s", node.path(), error)

        pending = [n for n in self.ctx.inodes.all() if isinstance(n, DirNode) and n.pending]
        await run_all(SIDE_BY_SIDE, [partial(store, node) for node in pending])
        await self.changes.deletes.flush()
        return failed

    async def drain(self) -> list[str]:
        """The session has ended: every inode counts as released.  Returns what could not be saved."""
        self.ctx.ending.set()
        failed = await self.flush_all()
        # With a service that does not answer, each of them takes its op_timeout.
        await run_all(SIDE_BY_SIDE, [partial(self.release, fh) for fh in self._handles])
        for fh in list(self._dirs):
            await self.releasedir(fh)
        self.look.flat.stop()
        self.look.meta.stop()
        await self.ctx.jobs.wait_idle()
        self.ctx.bodies.clear()
        await run_all(SIDE_BY_SIDE, [partial(abort_quietly, self.ctx, *each) for each in self.ctx.unaborted])
        try:
            await self.hidden.sweep()
        except StoreError as error:
            log.warning("%s", error)
        return sorted(set(failed) | set(self.ctx.failed))


def make_tree(
    store: ObjectStore,
    config: FsConfig,
    nursery: trio.Nursery,
    kernel: Kernel,
    journal: Journal,
    metrics: Metrics,
    *,
    disk: BlockCache | None = None,
    attr_store: AttrStore | None = None,
    writeback: WriteBack | None = None,
    wall_ns: Callable[[], int] | None = None,
) -> Tree:
    """Put the parts together."""
    ctx = Context(
        store=store,
        config=config,
        jobs=Jobs(nursery),
        kernel=kernel,
        journal=journal,
        metrics=metrics,
        budget=Budget(config.memory),
        inodes=Inodes(config.prefix),
        disk=disk,
        attr_store=attr_store,
        writeback=writeback,
    )
    if wall_ns is not None:
        ctx.wall_ns = wall_ns
    return Tree(ctx)
