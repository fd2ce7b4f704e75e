"""A file being changed: one writer for each inode, shared by its handles.

Threading: trio thread only; requests run in jobs, which no cancelled caller stops.

Locks: `lock` is held by a write while it edits the map and by a commit from beginning to end, so a
write waits for a commit of its file.  Keys are locked inside it (see keys.py).  Memory is waited for
before `lock` is taken, never while it is held.

How a file is closed is told in closing.py, and how its changes are given up in failing.py.  A transient
failure keeps the extents and the upload, so that a second fsync can succeed; every other one, and any that
close(2) has reported, ends in `discard` at RELEASE.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from ossfs import limits
from ossfs.errors import (
    AlreadyExists,
    NoSuchUpload,
    NotFound,
    ObjectArchived,
    OssfsError,
    PosixError,
    PreconditionFailed,
    Transient,
)
from ossfs.fs.attrs import NS, Attrs, new_write_id
from ossfs.fs.closing import Closing
from ossfs.fs.commit import check_absent_if_versioned, copy_object, put_parts, put_whole
from ossfs.fs.content import (
    BaseRange,
    Content,
    LostBytes,
    MemoryRange,
    Piece,
    Plan,
    PlanLimits,
    SentRange,
    TooBig,
    ZeroRange,
)
from ossfs.fs.context import Context
from ossfs.fs.failing import Failing
from ossfs.fs.hidden import HiddenKeys
from ossfs.fs.inodes import FileNode, Version, exists_now
from ossfs.fs.others import OtherVersions
from ossfs.fs.reader import Reader
from ossfs.fs.rescue import Rescue
from ossfs.fs.sender import Sender, with_tags
from ossfs.fs.stored import rewritten
from ossfs.fs.writeback import Deferring
from ossfs.store.base import ListedObject, PutResult

if TYPE_CHECKING:
    from ossfs.fs.handles import FileHandle

log = logging.getLogger(__name__)


class Writer(OtherVersions, Deferring, Failing, Closing):
    """The uncommitted state of one inode.

    created: the name was free when the file was made here, so the first commit must not overwrite.
    """

    def __init__(self, ctx: Context, hidden: HiddenKeys, node: FileNode, *, created: bool = False) -> None:
        self.ctx = ctx
        self.hidden = hidden
        self.node = node
        self.base: Version | None = node.version
        """What Base extents refer to."""
        self.original: Version | None = node.version
        """What the name held before this writer's first commit."""
        self.content = self.new_content(node.version.size if node.version else 0)
        self.sender = Sender(ctx, node, self.content, lambda: any(h.readable for h in self.handles))
        self.created = created
        self.uncommitted = created
        """The creation or truncation itself is not in the bucket yet."""
        self.attrs_dirty = False
        self.appends_only = True
        self.handles: set[FileHandle] = set()
        self._pins = 0
        self.lock = trio.Lock()
        self.reported = False
        """A failure has been told to a program, and nothing has succeeded since."""
        self.given_up = False
        """close(2) has told it: the name shows what the bucket has."""
        self.generation = 0
        """Counts commits; a read that spanned one starts over."""
        self.tried: set[str] = set()
        """The write ids of commits that were begun since the last that succeeded."""
        self._last_commit = float("-inf")
        self._timer_armed = False
        self._checkpointing = False
        self._reader: Reader | None = None
        self._reader_of: Version | None = None
        self.rescue = Rescue(ctx, hidden)
        ctx.budget.pressers.append(self._press)
        if node.version is None:
            ctx.unborn.add(node)

    def new_content(self, base_size: int) -> Content:
        return Content(base_size, limits=self._limits())

    def _limits(self) -> PlanLimits:
        config = self.ctx.config
        return PlanLimits(chunk_size=config.chunk_size, min_part=config.min_part)

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Until the block is over the writer does not end for want of handles."""
        self._pins += 1
        try:
            yield
        finally:
            self._pins -= 1
            if not self.in_use and not self.ended:
                self.ctx.jobs.start(self.end_if_idle)

    # -- questions

    @property
    def in_use(self) -> bool:
        """Does an open file, or a call that is under way, refer to this writer?"""
        return bool(self.handles) or self._pins > 0

    @property
    def ended(self) -> bool:
        """Is this writer done with its inode, for good or ill?"""
        return self.sender.ended

    @property
    def dirty(self) -> bool:
        """Is there anything that a commit would put into the bucket?"""
        return self.data_dirty or (self.attrs_dirty and not self.ended)

    @property
    def unfinished(self) -> bool:
        """Is something left for close(2) to do: bytes to send, a checkpoint to be made final, or an upload
        to be given up, whose parts were all cut off again?"""
        return self.dirty or (not self.ended and (self.rescue.active or self.has_upload))

    @property
    def data_dirty(self) -> bool:
        """Are there bytes, or a size, that the bucket does not have?"""
        return not self.ended and (self.uncommitted or self.content.changed)

    @property
    def has_upload(self) -> bool:
        """Is a multipart upload bound to the present key?"""
        return self.sender.upload is not None or self.content.sent_parts

    @property
    def pending_bytes(self) -> int:
        """Bytes still to be sent, roughly: for progress lines."""
        return self.content.held_bytes if self.dirty else 0

    def _press(self) -> None:
        self.hurry()
        self.sender.press(self.lock.locked())

    # -- changing the map

    async def write(self, handle: FileHandle, offset: int, data: bytes) -> int:
        """Put *data* at *offset*.  Raises the latched failure of the handle."""
        handle.raise_latched()
        length = len(data)
        end = offset + length
        if end > limits.MAX_OBJECT_SIZE:
            raise PosixError(errno.EFBIG)
        budget = self.ctx.budget
        if self.content.held_bytes == 0 and not self.sender.staging.usable:
            budget.take(length)  # nobody can make room: one request of each file is always let through
        else:
            await budget.acquire(length)
        taken = min(length, budget.limit)
        try:
            async with self.lock:
                handle.raise_latched()
                if self.ended:
                    raise PosixError(errno.EIO, "given up meanwhile", level=logging.ERROR)
                self._raise_part_error()
                if self.content.breaks_unheld(offset, length) or not self.content.fits(
                    max(end, self.content.size)
                ):
                    await self._checkpoint()
                self.content.write(offset, data)
                if not handle.appending:
                    self.appends_only = False
                self._changed()
                self.sender.send_chunks()
        finally:
            self.sender.account()
            budget.give(taken)
            budget.press()  # who was asked for memory while the lock was held did nothing
        handle.wrote = True
        return length

    async def truncate(self, size: int) -> None:
        """Set the size.  The caller commits when no handle will."""
        if size > limits.MAX_OBJECT_SIZE:
            raise PosixError(errno.EFBIG)
        async with self.lock:
            if self.ended:
                raise PosixError(errno.ESTALE, "given up meanwhile")
            self._raise_part_error()
            if size == self.content.size:
                self._changed()
                self.attributes_changed()
                return
            cut = self.content.size - size
            if (cut > 0 and self.content.breaks_unheld(size, cut)) or not self.content.fits(size):
                await self._checkpoint()
            self.content.truncate(size)
            self.appends_only = False
            self.attributes_changed()  # the time counts also if it is the old object again
            if size == 0 and self.base is not None:
                self.uncommitted = True
            self._changed()
            self.sender.account()

    def _changed(self) -> None:
        node = self.node
        node.size = self.content.size
        assert node.attrs is not None
        node.attrs.mtime_ns = node.attrs.ctime_ns = self.ctx.wall_ns()
        node.attrs.stored_mtime = True
        node.touched()

    def attributes_changed(self) -> None:
        """mode, owner, times or xattrs of the node were set: the next commit stores them."""
        assert self.node.attrs is not None
        self.attrs_dirty = not self.node.attrs.listed
        self.node.touched()

    # -- reading what was written

    async def read(self, offset: int, length: int) -> bytes | memoryview:
        """The current bytes: committed, sent, staged or only in memory."""
        while True:
            generation = self.generation
            length = max(0, min(length, self.content.size - offset))
            if length == 0:
                return b""
            pieces = self.content.read(offset, length)
            if any(isinstance(p, SentRange) and not self.sender.staged(p) for p in pieces):
                # Nobody holds these bytes but the upload: complete it, then they can be read.
                async with self.lock:
                    if generation == self.generation:
                        await self._checkpoint()
                continue
            if len(pieces) == 1 and isinstance(pieces[0], MemoryRange):
                return pieces[0].data
            try:
                out = [await self.piece(piece) for piece in pieces]
            except (PreconditionFailed, NotFound):
                if generation == self.generation and self.base is not None:
                    async with self.ctx.keys.hold(self.base.key):
                        pass  # a rename of our own may be about to say where the bytes are now
                if generation != self.generation or await self.adopt_base():
                    continue
                raise PosixError(errno.ESTALE, "the object was replaced", level=logging.WARNING) from None
            if generation == self.generation:
                return b"".join(out)

    async def piece(self, piece: Piece) -> bytes | memoryview:
        match piece:
            case MemoryRange(data=data):
                return data
            case ZeroRange(length=length):
                return bytes(length)
            case SentRange(start=start, length=length):
                return await self.sender.staging.read(start, length)
            case BaseRange(start=start, length=length):
                # Copied: the reader uses its buffers again.
                return bytes(await self._base_reader().read(start, length))

    def _base_reader(self) -> Reader:
        """Of what only the base has.  Who reads on between his writes is read ahead for, as for others.

        What has been written is not read from there, so the checksum of the whole is of no use.
        """
        assert self.base is not None
        if self._reader is None or self._reader_of is not self.base:
            self._close_reader()
            self._reader, self._reader_of = Reader(self.ctx, replace(self.base, crc64=None)), self.base
        return self._reader

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = self._reader_of = None

    # -- commit

    async def commit(self) -> None:
        """Put everything into the bucket.  A caller that is cancelled does not stop it."""
        await self.ctx.jobs.run(self._commit)

    async def _commit(self) -> None:
        try:
            async with self.lock:
                await self.commit_locked()
        finally:
            self.ctx.budget.press()

    async def close(self) -> None:
        """What close(2) waits for: the local disk, where that is allowed, else the bucket."""
        await self.ctx.jobs.run(self._close)

    async def _close(self) -> None:
        try:
            async with self.lock:
                if await self.defer():
                    return
                try:
                    await self.commit_locked()
                except Transient as error:
                    if self.ctx.writeback is None or not self.ctx.writeback.full:
                        raise
                    # What a program can do something about is the disk: the bucket is away for the moment.
                    what = f"no room on the local disk, and the bucket does not take {self.node.path()}"
                    raise PosixError(errno.ENOSPC, f"{what}: {error}", level=logging.WARNING) from error
        finally:
            self.ctx.budget.press()

    async def commit_locked(self, *, to_hidden: bool = False) -> None:
        """commit, for who holds the lock already.  Failures are latched, and raised.

        to_hidden: commit a removed file too, to its hidden key, because its bytes are wanted back.
        """
        if not self.unfinished:
            await self.end_entry()  # what was changed has been changed back
            return
        self._check_not_forsaken()
        self.sender.paused = True
        try:
            await self.sender.drain()
            self.sender.error = None  # what failed is Dirty again and goes up with the plan
            if self.dirty:
                await self._commit_once(to_hidden)
            if self.has_upload and not self.data_dirty:
                await self.sender.abort()
            if self.rescue.active and not self._checkpointing:
                await self.rescue.finished()
            if not self.data_dirty or self.node.detached:
                await self.end_entry()
        except OssfsError as error:
            if self.conflict_kept:
                await self.end_entry()
            if self.entry is None:
                self._latch(error)  # else nobody has lost anything: it is tried again
            raise
        finally:
            self.sender.paused = False
            self.sender.account()
        self.reported = self.given_up = False
        path = self.node.path()
        if path in self.ctx.failed:
            self.ctx.failed.remove(path)
        for handle in self.handles:
            handle.error = None

    async def _commit_once(self, to_hidden: bool) -> None:
        node = self.node
        for _ in range(8):
            if node.detached and not (to_hidden and node.hidden_key is not None):
                return  # removed: nothing is owed to anybody
            key = self.ctx.inodes.key(node)
            async with self.ctx.keys.hold(key):
                if (node.detached and node.hidden_key is None) or key != self.ctx.inodes.key(node):
                    continue  # renamed or removed while we waited
                try:
                    await self._execute(key)
                except NoSuchUpload:
                    if await self.adopt_own():
                        continue
                    # Aborted by a lifecycle rule, or by hand: what is held of it goes up again.
                    log.warning("the upload of %s is gone; beginning again", key)
                    self.sender.lost()
                    self._without_upload()
                    continue
                except (PreconditionFailed, NotFound) as error:
                    if await self.adopt_own() or await self.adopt_base() or await self.rebase():
                        continue
                    await self.keep_conflict(error)
                    raise PosixError(
                        errno.ESTALE, f"{key}: replaced by somebody else", level=logging.WARNING
                    ) from error
                except AlreadyExists as error:
                    if await self.adopt_own() or await self.rebase():
                        continue
                    await self.keep_conflict(error)
                    raise
                return
        raise PosixError(
            errno.ESTALE, "the object changes faster than it can be written", level=logging.WARNING
        )

    async def _execute(self, key: str) -> None:
        node = self.node
        assert node.attrs is not None
        if not self.data_dirty and self.base is not None:
            await self._store_attributes(key, new_write_id())
            return
        if self.sender.upload is not None and self.sender.upload.key != key:
            await self.sender.abort()
            self._without_upload()
        await rewritten(self.ctx, node, self.original)
        attrs = node.attrs.copy()
        absent = self.expects_absent
        forbid = absent and not self.ctx.config.versioned
        if absent:
            await check_absent_if_versioned(self.ctx, key)
        attrs_id = self.entry_id or new_write_id()
        plan = self._plan()
        if plan.kind == "put":
            sent = await with_tags(self.ctx, attrs, self.original)
            self.tried.add(attrs_id)
            result = await put_whole(
                self.ctx,
                key,
                plan,
                self.base,
                sent,
                attrs_id,
                forbid_overwrite=forbid,
                replaceable=None if forbid or self.entry is None else self.may_replace,
                read_staged=self.sender.staging.read,
            )
            await self.sender.abort()  # begun for parts of which none is left
        else:
            upload = await self.sender.ensure_upload(key)
            parts = await put_parts(
                self.ctx, self.hidden, upload, plan, self.base, read_staged=self.sender.staging.read
            )
            if not absent:
                await self.check_original(key)
            self.tried.add(upload.write_id)
            result = await self.ctx.store.complete(
                key, upload.upload_id, parts, forbid_overwrite=forbid, write_id=upload.write_id
            )
            self.sender.completed()
            attrs, attrs_id = upload.attrs, upload.write_id
        self.content.committed()
        self._committed(key, result, self.content.size, attrs_id)
        # What was set after Initiate cannot ride on the upload: one copy onto itself.
        self.attrs_dirty = not attrs.stores_as(node.attrs)
        if self.attrs_dirty:
            await self._store_late(key, attrs_id, attrs)

    async def _store_late(self, key: str, write_id: str, stored: Attrs) -> None:
        """_store_attributes for what was set after the upload had begun with *stored*."""
        try:
            await self._store_attributes(key, write_id)
        except ObjectArchived as error:
            # With storage_class=Archive nothing of the object can be changed.  The bytes are safe.
            log.warning("%s: attributes that were set while it was uploaded are lost: %s", key, error)
            self.node.attrs = stored
            self.attrs_dirty = False

    def _plan(self) -> Plan:
        try:
            return self.content.plan(self._limits())
        except TooBig:
            raise PosixError(errno.EFBIG, level=logging.WARNING) from None

    def _without_upload(self) -> None:
        try:
            self.content.forget_upload()
        except LostBytes as error:
            what = f"{self.node.name}: parts of it were lost with their upload: {error}"
            raise PosixError(errno.EIO, what, level=logging.ERROR) from error

    async def _store_attributes(self, key: str, write_id: str) -> None:
        """Attributes alone: a copy onto itself."""
        node = self.node
        assert node.attrs is not None and self.base is not None
        attrs = node.attrs.copy()
        result = await copy_object(self.ctx, self.base, key, attrs, write_id=write_id)
        self._committed(key, result, self.base.size, write_id, self.base.crc64)
        self.attrs_dirty = not attrs.stores_as(node.attrs)

    def _committed(
        self, key: str, result: PutResult, size: int, write_id: str, known_crc: int | None = None
    ) -> None:
        """The bucket holds the new version: the node, its readers and its directory move along."""
        crc = known_crc if result.crc64 is None else result.crc64
        modified = result.last_modified or result.server_date
        version = Version(key, result.etag, size, crc, modified, write_id)
        self.base = self.original = version
        self.created = self.uncommitted = False
        self.appends_only = True
        self._close_reader()
        self.generation += 1
        self.tried.clear()
        self._last_commit = trio.current_time()
        self.ctx.unborn.discard(self.node)
        note_version(self.ctx, self.node, version)

    def base_moved(self, version: Version) -> None:
        """Our own rename or unlink copied the object: Base extents are found there now."""
        self.base = self.original = version
        self.generation += 1

    # -- checkpoint: completing an upload before the file is closed

    async def _checkpoint(self) -> None:
        """Complete what was sent, so that it can be read or patched.  The lock is held.

        The object that the name held before is first copied to a hidden key, and put back if the
        writer ends in failure, or by the next mount if this one dies.
        """
        node = self.node
        self._check_not_forsaken()
        if node.hidden_key is None:
            try:
                upload = await self.sender.ensure_upload()
                await self.rescue.before_checkpoint(self.original, upload.key, upload.write_id)
            except OssfsError as error:
                self._latch(error)
                raise
        self._checkpointing = True
        try:
            await self.commit_locked(to_hidden=True)
        finally:
            self._checkpointing = False


def note_version(ctx: Context, node: FileNode, version: Version) -> None:
    """The bucket holds *version* under this node's name because we put it there just now."""
    now = trio.current_time()
    node.version = version
    if node.attrs is not None and node.attrs.carried.storage_class:
        node.storage_class = node.attrs.carried.storage_class
    node.object_type = "Normal"  # an Appendable that is written anew is none any more
    if node.writer is None or not node.writer.content.changed:
        node.size = version.size
    node.attrs_at = node.validated_at = now
    if node.attrs is not None and node.attrs.listed:
        node.attrs.mtime_ns = version.last_modified * NS  # what the next listing shows
    ctx.bodies.drop(node)
    node.pages_etag = version.etag
    node.touched()
    if node.parent is not None and node.hidden_key is None:
        listed = ListedObject(
            version.key,
            version.size,
            version.etag,
            version.last_modified,
            node.object_type,
            node.storage_class,
        )
        node.parent.cache.set(node.name, listed, now)
        exists_now(node.parent, now)
