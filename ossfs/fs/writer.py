"""A file being changed: one writer for each inode, shared by its handles.

Threading: trio thread only; requests run in jobs, which no cancelled caller stops.

How a file is closed, and what that means here.  The kernel sends FLUSH for each close(2) of each
duplicate of a descriptor, and only FLUSH can carry an error back to close(2).  RELEASE comes once,
after the last, and its error goes nowhere.  So a FLUSH on a handle that was written through commits
the whole state of the inode and reports; RELEASE commits what is left (a creation or a truncation
that nothing was written after, pages of a mapping) and logs.  A FLUSH with nothing to commit costs
no request: `dd` and every shell redirection send one before their first WRITE.

A handle that is written through and flushed again and again is shared by processes
(`make >log 2>&1`).  Its first `EAGER_FLUSHES` dirty FLUSHes commit; after that at most one a second
does, and a skipped one arms a timer that commits.

Locks: `lock` is held by a write while it edits the map and by a commit from beginning to end, so a
write waits for a commit of its file.  Keys are locked inside it (see keys.py).  Memory is waited for
before `lock` is taken, never while it is held.

Failures: see `_latch`.  A transient one keeps the extents and the upload, so that a second fsync can
succeed; every other one, and any that close(2) has reported, ends in `discard` at RELEASE.
"""

from __future__ import annotations

import errno
import logging
import secrets
import stat
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from ossfs import limits
from ossfs.errors import (
    AlreadyExists,
    NotFound,
    OssfsError,
    PosixError,
    PreconditionFailed,
    StoreError,
    level_of,
)
from ossfs.fs import attrs as attributes
from ossfs.fs.commit import Upload, copy_object, fetch, put_parts, put_whole
from ossfs.fs.content import (
    BaseRange,
    Content,
    MemoryRange,
    Plan,
    PlanLimits,
    SentRange,
    TooBig,
    ZeroRange,
)
from ossfs.fs.context import Context
from ossfs.fs.hidden import HiddenKeys
from ossfs.fs.inodes import FileNode, Version
from ossfs.store.base import ListedObject, PutResult

if TYPE_CHECKING:
    from ossfs.fs.handles import FileHandle

log = logging.getLogger(__name__)

EAGER_FLUSHES = 8
"""Nearly every shell redirection flushes once or twice before and between its writers: (a; b; c) >f
must be complete when the shell returns.  A log shared by a thousand children must not go up a
thousand times."""
LAZY_FLUSH = 1.0
"""Seconds: how far the bucket may be behind a descriptor that processes share."""
KEEP_PARTS = 2
"""Sent parts whose bytes a write-only stream keeps beside its first: headers and tails get patched."""
MAX_PARTS_IN_FLIGHT = 32
"""Of one file; the budget usually says less."""


class Writer:
    """The uncommitted state of one inode.

    created: the name was free when the file was made here, so the first commit must not overwrite.
    """

    def __init__(
        self,
        ctx: Context,
        hidden: HiddenKeys,
        node: FileNode,
        *,
        created: bool = False,
    ) -> None:
        self.ctx = ctx
        self.hidden = hidden
        self.node = node
        self.base: Version | None = node.version
        """What Base extents refer to."""
        self.original: Version | None = node.version
        """What the name held before this writer's first commit."""
        self.content = Content(node.version.size if node.version else 0)
        self.created = created
        self.uncommitted = created
        """The creation or truncation itself is not in the bucket yet."""
        self.attrs_dirty = False
        self.appends_only = True
        self.handles: set[FileHandle] = set()
        self.lock = trio.Lock()
        self.upload: Upload | None = None
        self.reported = False
        """A failure has been told to a program, and nothing has succeeded since."""
        self.ended = False
        self._part_error: Exception | None = None
        self._in_flight: dict[int, trio.Event] = {}
        self._starting: trio.Lock = trio.Lock()
        self._charged = 0
        self._last_commit = float("-inf")
        self._timer_armed = False
        self._rescue: Version | None = None
        self.generation = 0
        """Counts commits; a read that spanned one starts over."""
        ctx.budget.pressers.append(self._press)

    # -- questions

    @property
    def dirty(self) -> bool:
        """Is there anything that a commit would put into the bucket?"""
        return not self.ended and (self.uncommitted or self.attrs_dirty or self.content.changed)

    @property
    def data_dirty(self) -> bool:
        """Are there bytes, or a size, that the bucket does not have?"""
        return self.uncommitted or self.content.changed

    @property
    def pending_bytes(self) -> int:
        """Bytes still to be sent, roughly: for progress lines."""
        return self.content.held_bytes if self.dirty else 0

    # -- changing the map

    async def write(self, handle: FileHandle, offset: int, data: bytes) -> int:
        """Put *data* at *offset*.  Raises the latched failure of the handle."""
        handle.raise_latched()
        length = len(data)
        if offset + length > limits.MAX_OBJECT_SIZE:
            raise PosixError(errno.EFBIG)
        if self.content.held_bytes == 0:
            self.ctx.budget.take(length)  # one request of each file is always let through
        else:
            await self.ctx.budget.acquire(length)
        taken = min(length, self.ctx.budget.limit)
        try:
            async with self.lock:
                handle.raise_latched()
                self._raise_part_error()
                if self.content.breaks_unheld(offset, length):
                    await self._checkpoint()
                self.content.write(offset, data)
                if not handle.appending:
                    self.appends_only = False
                self._changed()
                self._send_chunks()
        finally:
            self._account()
            self.ctx.budget.give(taken)
        handle.wrote = True
        return length

    async def truncate(self, size: int) -> None:
        """Set the size.  The caller commits when no handle will."""
        if size > limits.MAX_OBJECT_SIZE:
            raise PosixError(errno.EFBIG)
        async with self.lock:
            self._raise_part_error()
            if size == self.content.size:
                self._changed()
                self.attrs_dirty = True
                return
            if size < self.content.size and self.content.breaks_unheld(size, self.content.size - size):
                await self._checkpoint()
            self.content.truncate(size)
            self.appends_only = False
            if size == 0 and self.base is not None:
                # Nothing of the old object is needed any more.
                self.uncommitted = True
            self._changed()
            self._account()

    def _changed(self) -> None:
        node = self.node
        node.size = self.content.size
        assert node.attrs is not None
        now = self.ctx.wall_ns()
        node.attrs.mtime_ns = node.attrs.ctime_ns = now
        node.attrs.stored_mtime = True
        node.touched()

    def attributes_changed(self) -> None:
        """mode, owner, times or xattrs of the node were set: the next commit stores them."""
        self.attrs_dirty = True
        self.node.touched()

    # -- reading what was written

    async def read(self, offset: int, length: int) -> bytes | memoryview:
        """The current bytes: committed, sent or only in memory."""
        while True:
            generation = self.generation
            length = max(0, min(length, self.content.size - offset))
            if length == 0:
                return b""
            pieces = self.content.read(offset, length)
            if any(isinstance(p, SentRange) for p in pieces):
                # Nobody holds these bytes but the upload: complete it, then they can be read.
                async with self.lock:
                    if generation == self.generation:
                        await self._checkpoint()
                continue
            if len(pieces) == 1 and isinstance(pieces[0], MemoryRange):
                return pieces[0].data
            out: list[bytes | memoryview] = []
            base = self.base
            try:
                for piece in pieces:
                    if isinstance(piece, MemoryRange):
                        out.append(piece.data)
                    elif isinstance(piece, ZeroRange):
                        out.append(bytes(piece.length))
                    else:
                        assert isinstance(piece, BaseRange) and base is not None
                        out.append(await fetch(self.ctx, base, piece.start, piece.length))
            except (PreconditionFailed, NotFound):
                if generation != self.generation or await self._adopt_base():
                    continue
                raise PosixError(errno.ESTALE, "the object was replaced", level=logging.WARNING) from None
            if generation != self.generation:
                continue
            return b"".join(out)

    # -- sending

    def _send_chunks(self, *, early: bool = False) -> None:
        """Start the parts that are full."""
        if self.node.detached and self.node.hidden_key is None:
            return
        while len(self._in_flight) < MAX_PARTS_IN_FLIGHT and self._part_error is None:
            chunk = self.content.take_chunk(self.ctx.config.chunk_size, early=early)
            if chunk is None:
                return
            ended = trio.Event()
            self._in_flight[chunk.number] = ended

            async def send(chunk=chunk, ended=ended) -> None:  # type: ignore[no-untyped-def]
                try:
                    upload = await self._ensure_upload()
                    upload.results[chunk.number] = await self.ctx.store.put_part(
                        upload.key, upload.upload_id, chunk.number, chunk.pieces
                    )
                    self.content.part_done(chunk.number)
                except OssfsError as error:
                    self.content.part_failed(chunk.number)
                    if self._part_error is None:
                        self._part_error = error
                        log.log(level_of(error), "upload of %s: %s", self.node.name, error)
                finally:
                    del self._in_flight[chunk.number]
                    ended.set()
                if not self.ended:
                    self._retain()
                    self._send_chunks()

            self.ctx.jobs.start(send)

    async def _ensure_upload(self) -> Upload:
        async with self._starting:
            if self.upload is None:
                node = self.node
                assert node.attrs is not None
                key = self.ctx.inodes.key(node)
                write_id = secrets.token_hex(16)
                attrs = node.attrs.copy()
                headers = attributes.encode(await self._with_tags(attrs), write_id=write_id)
                upload_id = await self.ctx.store.initiate(key, headers)
                self.ctx.journal.upload_started(key, upload_id)
                self.upload = Upload(key, upload_id, write_id, attrs)
            return self.upload

    async def _with_tags(self, attrs: attributes.Attrs) -> attributes.Attrs:
        """PUT and Initiate drop the tags of the old object unless they are sent again."""
        if not attrs.tag_count or self.original is None:
            return attrs
        tagging = await self.ctx.store.get_tagging(self.original.key)
        return replace(attrs, carried=replace(attrs.carried, tagging=tagging or None))

    def _retain(self) -> None:
        """Keep the bytes of the first part and the last few; all of them while somebody may read."""
        if self.lock.locked() and self._in_flight == {}:
            return  # a commit is about to plan with them
        held = self.content.held_parts()
        if not self.ctx.budget.short and any(h.readable for h in self.handles):
            return
        keep = 0 if self.ctx.budget.short else KEEP_PARTS
        for number in held[: len(held) - keep] if keep else held:
            if number == 1 and keep:
                continue
            self.content.drop_bytes(number)
        self._account()

    def _press(self) -> None:
        """Memory is short: forget what is safe in a part, send what can be a part."""
        if self.ended or self.lock.locked():
            return
        for number in self.content.held_parts():
            self.content.drop_bytes(number)
        self._account()
        self._send_chunks(early=True)

    def _account(self) -> None:
        held = 0 if self.ended else self.content.held_bytes
        self.ctx.budget.adjust(held - self._charged)
        self._charged = held

    def _raise_part_error(self) -> None:
        if self._part_error is not None:
            error = self._part_error
            self._latch(error)
            raise error

    async def _drain_parts(self) -> None:
        while self._in_flight:
            await next(iter(self._in_flight.values())).wait()

    # -- commit

    async def commit(self) -> None:
        """Put everything into the bucket.  A caller that is cancelled does not stop it."""
        await self.ctx.jobs.run(self._commit)

    async def _commit(self) -> None:
        async with self.lock:
            await self.commit_locked()

    async def commit_locked(self, *, to_hidden: bool = False) -> None:
        """commit, for who holds the lock already.  Failures are latched, and raised.

        to_hidden: commit a removed file too, to its hidden key, because its bytes are wanted back.
        """
        if not self.dirty:
            return
        try:
            await self._drain_parts()
            self._part_error = None  # what failed is Dirty again and goes up with the plan
            await self._commit_once(to_hidden)
        except OssfsError as error:
            self._latch(error)
            raise
        finally:
            self._account()
        self.reported = False
        for handle in self.handles:
            handle.error = None

    async def _commit_once(self, to_hidden: bool) -> None:
        for _ in range(8):
            if self.node.detached and not (to_hidden and self.node.hidden_key is not None):
                return  # removed: nothing is owed to anybody
            key = self.ctx.inodes.key(self.node)
            async with self.ctx.keys.hold(key):
                if self.node.detached != (self.node.hidden_key is not None) or key != self.ctx.inodes.key(
                    self.node
                ):
                    continue  # renamed or removed while we waited
                try:
                    await self._execute(key)
                except (PreconditionFailed, NotFound) as error:
                    if await self._adopt_base() or await self._rebase():
                        continue
                    await self._keep_conflict(error)
                    raise PosixError(
                        errno.ESTALE, f"{key}: replaced by somebody else", level=logging.WARNING
                    ) from error
                except AlreadyExists as error:
                    if await self._rebase():
                        continue
                    await self._keep_conflict(error)
                    raise
                return
        raise PosixError(errno.ESTALE, "the object changes faster than it can be written")

    async def _execute(self, key: str) -> None:
        node = self.node
        assert node.attrs is not None
        if not self.data_dirty and self.base is not None:
            await self._store_attributes(key)
            return
        if self.upload is not None and self.upload.key != key:
            await self._abort_upload()
            self.content.forget_upload()
        attrs = node.attrs.copy()
        forbid = self.created and not self.ctx.config.versioned
        if self.created and self.ctx.config.versioned:
            await self._check_absent(key)
        plan = self._plan()
        if plan.kind == "put":
            result = await put_whole(
                self.ctx,
                key,
                plan,
                self.base,
                await self._with_tags(attrs),
                secrets.token_hex(16),
                forbid_overwrite=forbid,
            )
            await self._abort_upload()  # begun for parts of which none is left
        else:
            upload = await self._ensure_upload()
            parts = await put_parts(self.ctx, self.hidden, upload, plan, self.base)
            result = await self.ctx.store.complete(
                key, upload.upload_id, parts, forbid_overwrite=forbid, write_id=upload.write_id
            )
            self.ctx.journal.upload_ended(key, upload.upload_id)
            self.upload = None
            attrs = upload.attrs
        self.content.committed()
        self._committed(key, result, self.content.size)
        # What was set after Initiate cannot ride on the upload: one copy onto itself.
        self.attrs_dirty = attrs != node.attrs
        if self.attrs_dirty:
            await self._store_attributes(key)
        await self._end_rescue()

    def _plan(self) -> Plan:
        try:
            return self.content.plan(
                PlanLimits(chunk_size=self.ctx.config.chunk_size, min_part=self.ctx.config.min_part)
            )
        except TooBig:
            raise PosixError(errno.EFBIG, level=logging.WARNING) from None

    async def _check_absent(self, key: str) -> None:
        """forbid-overwrite does nothing on a versioned bucket: look first.  A race remains."""
        try:
            await self.ctx.store.head(key)
        except NotFound:
            return
        raise AlreadyExists("the name was taken meanwhile", operation="PutObject", key=key)

    async def _store_attributes(self, key: str) -> None:
        """Attributes alone: a copy onto itself."""
        node = self.node
        assert node.attrs is not None and self.base is not None
        attrs = node.attrs.copy()
        sent = attrs if self.base.size <= limits.MAX_SINGLE_COPY_SIZE else await self._with_tags(attrs)
        result = await copy_object(self.ctx, self.base, key, sent, write_id=secrets.token_hex(16))
        self._committed(key, result, self.base.size)
        self.attrs_dirty = attrs != node.attrs

    def _committed(self, key: str, result: PutResult, size: int) -> None:
        """The bucket holds the new version: the node, its readers and its directory move along."""
        node = self.node
        crc = result.crc64
        if crc is None and self.base is not None and not self.data_dirty:
            crc = self.base.crc64
        modified = result.last_modified or result.server_date
        version = Version(key, result.etag, size, crc, modified)
        self.base = self.original = version
        self.created = self.uncommitted = False
        self.generation += 1
        self.appends_only = True
        self._last_commit = trio.current_time()
        note_version(self.ctx, node, version)

    # -- when the bucket holds something else than we thought

    async def _adopt_base(self) -> bool:
        """The ETag was refused: is it the same bytes under a new token?  Then go on with that."""
        if self.base is None:
            return False
        try:
            info = await self.ctx.store.head(self.base.key)
        except NotFound:
            return False
        found = Version.of(info)
        if found.etag == self.base.etag or not found.same_bytes(self.base):
            return False
        self.base = found
        self.node.version = found
        return True

    async def _rebase(self) -> bool:
        """Only appended to: take the new version and put our bytes after it."""
        tail = self.content.appended() if self.appends_only else None
        if tail is None or any(not isinstance(p, MemoryRange) for p in tail):
            return False
        key = self.ctx.inodes.key(self.node)
        try:
            found = Version.of(await self.ctx.store.head(key))
        except NotFound:
            return False
        await self._abort_upload()
        content = Content(found.size)
        for piece in tail:
            assert isinstance(piece, MemoryRange)
            content.write(content.size, piece.data)
        self.content = content
        self.base = self.original = found
        self.created = False
        self.node.version = found
        self.node.size = content.size
        self.generation += 1
        self.ctx.kernel.invalidate_inode(self.node.ino)
        self._account()
        log.warning("%s was changed by somebody else; appended to the new version", key)
        return True

    async def _keep_conflict(self, cause: StoreError) -> None:
        """Our bytes go beside the other's, as NAME.conflict-HOST-TIME; nothing is thrown away."""
        parent = self.node.parent
        assert self.node.attrs is not None
        if parent is None:
            return
        name = conflict_name(self.node.name, self.ctx.config.hostname, self.ctx.wall_ns() // 10**9)
        key = self.ctx.inodes.child_key(parent, name)
        kept = Content()
        lost: list[tuple[int, int]] = []
        at = 0
        for piece in self.content.read(0, self.content.size):
            if isinstance(piece, MemoryRange):
                kept.write(at, piece.data)
                at += len(piece.data)
            else:
                if not isinstance(piece, ZeroRange):
                    lost.append((at, piece.length))
                at += piece.length
        kept.truncate(self.content.size)
        plan = kept.plan(PlanLimits(chunk_size=self.ctx.config.chunk_size))
        write_id = secrets.token_hex(16)
        attrs = self.node.attrs.copy()
        try:
            if plan.kind == "put":
                await put_whole(self.ctx, key, plan, None, attrs, write_id, forbid_overwrite=True)
            else:
                headers = attributes.encode(attrs, write_id=write_id)
                upload = Upload(key, await self.ctx.store.initiate(key, headers), write_id, attrs)
                self.ctx.journal.upload_started(key, upload.upload_id)
                parts = await put_parts(self.ctx, self.hidden, upload, plan, None)
                await self.ctx.store.complete(
                    key, upload.upload_id, parts, forbid_overwrite=True, write_id=write_id
                )
                self.ctx.journal.upload_ended(key, upload.upload_id)
        except OssfsError as error:
            log.error("the conflicting version of %s could not be kept: %s", self.node.name, error)
            return
        parent.cache.forget(name)
        ranges = ", ".join(f"{s}+{n}" for s, n in lost) or "none"
        log.error(
            "%s was replaced by somebody else (%s); our version is kept as %s; ranges that only the "
            "replaced object held are zero there: %s",
            self.node.name,
            type(cause).__name__,
            name,
            ranges,
        )

    # -- checkpoint: completing an upload before the file is closed

    async def _checkpoint(self) -> None:
        """Complete what was sent, so that it can be read or patched.  The lock is held.

        The object that the name held before is first copied to a hidden key, and put back if the
        writer ends in failure, or by the next mount if this one dies.
        """
        node = self.node
        if self.original is not None and self._rescue is None and node.hidden_key is None:
            key = self.ctx.inodes.key(node)
            saved = self.hidden.fresh("rescue")
            self.ctx.journal.hidden_created(saved, restore_to=key)
            attrs = node.attrs.copy() if node.attrs else None
            result = await copy_object(self.ctx, self.original, saved, attrs)
            self._rescue = Version(saved, result.etag, self.original.size, self.original.crc64)
        rescue, self._rescue = self._rescue, None
        try:
            await self.commit_locked(to_hidden=True)
        finally:
            self._rescue = rescue

    async def _end_rescue(self) -> None:
        if self._rescue is not None:
            rescue, self._rescue = self._rescue, None
            await self.hidden.delete(rescue.key)

    # -- failure

    def _latch(self, error: Exception) -> None:
        """Every handle that is open now will hear of this failure."""
        self.reported = True
        for handle in self.handles:
            handle.error = error

    async def discard(self) -> None:
        """Give the changes up: the upload is aborted, the bucket's version counts again."""
        await self._drain_parts()
        async with self.lock:
            if self.ended:
                return
            await self._abort_upload()
            if self._rescue is not None:
                rescue, self._rescue = self._rescue, None
                key = self.ctx.inodes.key(self.node)
                await self.ctx.store.copy(rescue.key, key)
                await self.hidden.delete(rescue.key)
            never_there = self.created and self.node.version is None
            self._end()
        node = self.node
        node.attrs_at = node.validated_at = float("-inf")
        node.touched()
        if node.parent is not None:
            parent, name = node.parent, node.name
            parent.cache.forget(name)
            self.ctx.inodes.detach(node)
            if never_there:
                parent.cache.forget(name)
            self.ctx.kernel.invalidate_entry(parent.ino, name.encode())
        self.ctx.kernel.invalidate_inode(node.ino)

    def base_moved(self, version: Version) -> None:
        """Our own rename or unlink copied the object: Base extents are found there now."""
        self.base = self.original = version
        self.generation += 1

    def abandon(self) -> None:
        """The name is gone and nobody has the file open: nothing of it will be committed."""
        self._end()

        async def abort() -> None:
            await self._drain_parts()
            await self._abort_upload()

        self.ctx.jobs.start(abort)

    async def _abort_upload(self) -> None:
        upload, self.upload = self.upload, None
        if upload is None:
            return
        try:
            await self.ctx.store.abort(upload.key, upload.upload_id)
        except StoreError as error:
            # It stays in the journal: the next mount of this host, or cleanup, aborts it.
            log.warning("%s", error)
        else:
            self.ctx.journal.upload_ended(upload.key, upload.upload_id)

    def _end(self) -> None:
        self.ended = True
        self.ctx.budget.pressers.remove(self._press)
        self._account()
        if self.node.writer is self:
            self.node.writer = None
        self.ctx.inodes.drop_if_unused(self.node)

    # -- the life of handles

    async def flush(self, handle: FileHandle) -> None:
        """close(2) of one duplicate of a descriptor."""
        handle.raise_latched()
        if not handle.wrote or not self.dirty:
            return
        handle.dirty_flushes += 1
        recent = trio.current_time() - self._last_commit < LAZY_FLUSH
        if self.ctx.config.flush_always or handle.dirty_flushes <= EAGER_FLUSHES or not recent:
            await self.commit()
        else:
            self._arm_timer()

    async def fsync(self, handle: FileHandle | None = None) -> None:
        """Everything durable and visible.  After a transient failure it may succeed where FLUSH failed."""
        if handle is not None and handle.error is not None:
            retryable = isinstance(handle.error, StoreError) and handle.error.retryable
            if not retryable or self.ended:
                raise handle.error
        await self.commit()

    def _arm_timer(self) -> None:
        if self._timer_armed:
            return
        self._timer_armed = True

        async def later() -> None:
            await trio.sleep(LAZY_FLUSH)
            self._timer_armed = False
            if self.dirty:
                await self._commit()

        self.ctx.jobs.start(later)

    async def release(self, handle: FileHandle) -> None:
        """The last duplicate of a descriptor is closed."""
        self.handles.discard(handle)
        if self.handles or self.ended:
            return
        await self.ctx.jobs.run(self._last_release)

    async def _last_release(self) -> None:
        if self.node.hidden_key is not None or self.reported or self.node.detached:
            if not self.handles:
                await self.discard_quietly()
            return
        try:
            await self._commit()
        except OssfsError as error:
            self.ctx.metrics.add("commits_failed_at_release")
            log.error("%s: not in the bucket: %s", self.node.path(), error)
            if not self.handles:
                await self.discard_quietly()
            return
        await self.end_if_idle()

    async def end_if_idle(self) -> None:
        """Nobody has the file open and nothing is left to commit."""
        async with self.lock:
            if not self.handles and not self.dirty and not self.ended:
                self._end()

    def truncated_by_open(self) -> None:
        """O_TRUNC: the program wants the old bytes gone, whosever they are."""
        self.created = False
        self.uncommitted = True

    def forsake(self) -> None:
        """A failure was reported; who opens the file now starts from the bucket."""
        if self.node.writer is self:
            self.node.writer = None

    async def discard_quietly(self) -> None:
        """discard for where nobody listens."""
        try:
            await self.discard()
        except OssfsError as error:
            log.error("giving up %s: %s", self.node.name, error)
            self._end()


def note_version(ctx: Context, node: FileNode, version: Version) -> None:
    """The bucket holds *version* under this node's name because we put it there just now."""
    now = trio.current_time()
    node.version = version
    node.size = node.size if node.writer is not None and node.writer.content.changed else version.size
    node.attrs_at = node.validated_at = now
    node.body = None
    node.pages_etag = version.etag
    node.touched()
    if node.parent is not None and node.hidden_key is None:
        listed = ListedObject(
            version.key, version.size, version.etag, version.last_modified, node.object_type
        )
        node.parent.cache.set(node.name, listed, now)


def conflict_name(name: str, host: str, when: int) -> str:
    """NAME.conflict-HOST-TIME, at most 255 bytes; TIME is UTC, so that names sort."""
    import time

    suffix = f".conflict-{host}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(when))}"
    room = limits.MAX_NAME_BYTES - len(suffix.encode())
    cut = name.encode()[:room].decode("utf-8", "ignore")
    return cut + suffix


def is_regular(node: FileNode) -> bool:
    """Can it be opened, read and written?"""
    return stat.S_IFMT(node.kind) == stat.S_IFREG
