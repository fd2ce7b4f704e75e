"""Write-back: close(2) returns when the file is safe on the local disk, and its upload follows.

Threading: trio thread only; uploads are jobs.

The file stays what it was before its commit: a writer with uncommitted bytes in memory.  So reading,
renaming, removing and listing work as for a file that is still open, and each key keeps its order.  The
log on disk is for the crash alone: what it names, the next mount uploads before it serves (`replay`).

Three rules keep a crash from undoing what programs did in order:

- An entry ends, durably, before the commit that made it unnecessary lets go of the writer's lock.
- Who opens a pending file for writing, truncates it, renames it, or renames over it, waits for its upload
  first.  So an entry is never older than what the bucket was given under its name.
- A removal ends the entry before it returns.

Deferred are whole files of up to a chunk: those that one PutObject commits, with all bytes in memory.
Everything else is committed by close, as without write-back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from ossfs.errors import AlreadyExists, NotFound, OssfsError, PreconditionFailed, StoreError, level_of
from ossfs.fs import attrs as attributes
from ossfs.fs.attrs import NS, new_write_id
from ossfs.fs.commit import gather
from ossfs.fs.conflict import conflict_names
from ossfs.fs.content import Content, MemoryRange, Plan, PutPart, ZeroRange
from ossfs.fs.context import Context, run_all
from ossfs.fs.inodes import FileNode, Version
from ossfs.fs.rescue import Rescue
from ossfs.fs.sender import Sender
from ossfs.fs.stored import rewritten
from ossfs.store.base import WRITE_ID, ObjectHeaders, ObjectInfo, ObjectStore
from ossfs.store.checksum import crc64

log = logging.getLogger(__name__)

DELAY: Final = 1.0
"""Seconds without a close(2) after which uploads begin, unless somebody waits for one, or memory or the log
are short.  What is removed or written again before never goes up, and a program that makes many files has the
processor for itself: uploads take as much of it as `tar x` does."""
LATEST: Final = 5.0
"""Seconds after its own close at which a file goes up, whatever others do: as long as a listing may be old
(`ttl`), which other machines have to reckon with anyway."""
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
"""Seconds between tries of an upload that fails; each call has had its own repeats by then."""
PARALLEL_REPLAY: Final = 32


class Deferring:
    """The part of a Writer that lets close(2) return before the bucket has the file."""

    ctx: Context
    node: FileNode
    content: Content
    sender: Sender
    rescue: Rescue
    original: Version | None
    created: bool
    reported: bool
    tried: set[str]
    lock: trio.Lock
    entry: int | None = None
    """The number under which the log has this file."""
    entry_id: str = ""
    """The write id with which it goes up."""
    conflict_kept: bool = False
    """Our bytes have been put beside somebody else's."""
    _entry_changes: int = -1
    """node.changes when the entry was made."""
    _uploading: bool = False
    _hurry: trio.Event | None = None
    """Set when the upload is not to wait any longer."""

    if TYPE_CHECKING:

        @property
        def data_dirty(self) -> bool: ...

        @property
        def has_upload(self) -> bool: ...

        @property
        def ended(self) -> bool: ...

        @property
        def in_use(self) -> bool: ...

        def _plan(self) -> Plan: ...

        async def _commit(self) -> None: ...

        async def end_if_idle(self) -> None: ...

        async def discard_quietly(self) -> None: ...

    async def defer(self) -> bool:
        """Make the file safe on the local disk and have it uploaded soon.  The lock is held.

        False: it has to be committed now.
        """
        log_, node, attrs = self.ctx.writeback, self.node, self.node.attrs
        if log_ is None or attrs is None or node.detached or self.ctx.ending.is_set():
            return False
        if not self.data_dirty or self.has_upload or self.rescue.active or self.reported or attrs.tag_count:
            return False
        if self.entry is not None and self._entry_changes == node.changes:
            return True
        if self.original is not None and self.ctx.config.keep_acl and attrs.carried.acl is None:
            return False  # the ACL has to be asked for
        key = self.ctx.inodes.key(node)
        if self.ctx.keys.busy(key):
            return False  # a delete is under way: after a crash it would look like somebody else's object
        plan = self._plan()
        if plan.kind != "put":
            return False
        (part,) = plan.parts
        assert isinstance(part, PutPart)
        if not all(isinstance(piece, MemoryRange | ZeroRange) for piece in part.pieces):
            return False
        await rewritten(self.ctx, node, self.original)
        write_id = self.entry_id or new_write_id()
        meta = {
            "key": key,
            "headers": asdict(attributes.encode(attrs, write_id=write_id)),
            "closed": self.ctx.wall_ns() // NS,
            "original": asdict(self.original) if self.original is not None else None,
        }
        changes = node.changes
        number = await log_.put(meta, await gather(self.ctx, part.pieces, None, None))
        if number is None:
            return False
        old, self.entry = self.entry, number
        self.entry_id, self._entry_changes = write_id, changes
        self.ctx.deferred_at = trio.current_time()
        self.conflict_kept = False
        if old is not None:
            await log_.done(old)
        self.upload_soon()
        return True

    async def end_entry(self) -> None:
        """The bucket has the file, or nobody wants it: a crash is not to bring it back."""
        if self.entry is not None and self.ctx.writeback is not None:
            number, self.entry, self.entry_id = self.entry, None, ""
            self.hurry()
            await self.ctx.writeback.done(number)

    def upload_soon(self) -> None:
        """Upload it in the background, for as long as it takes."""
        if not self._uploading:
            self._uploading = True
            self._hurry = trio.Event()
            self.ctx.jobs.start(self._upload)

    def hurry(self) -> None:
        """Do not wait for more changes: memory is short, or there is nothing to wait for any more."""
        if self._hurry is not None:
            self._hurry.set()

    async def _quiet(self, hurry: trio.Event) -> None:
        """Until programs pause, or it cannot wait any longer."""
        log_, latest = self.ctx.writeback, trio.current_time() + LATEST
        while not hurry.is_set() and log_ is not None and not log_.crowded:
            until = min(self.ctx.deferred_at + DELAY, latest)
            if until <= trio.current_time():
                return
            with trio.move_on_at(until):
                await hurry.wait()

    async def _upload(self) -> None:
        pause, said = FIRST_PAUSE, ""
        assert self._hurry is not None
        try:
            await self._quiet(self._hurry)
            while self.entry is not None and not self.ended:
                try:
                    await self._commit()
                except OssfsError as error:
                    if self.entry is None or self.ctx.ending.is_set():
                        break
                    self.ctx.failing[self.node] = str(error)
                    if type(error).__name__ != said:
                        said = type(error).__name__
                        log.log(
                            level_of(error),
                            "%s is safe on the local disk, but not in the bucket: %s; trying again",
                            self.node.path(),
                            error,
                        )
                    with trio.move_on_after(pause):
                        await self.ctx.ending.wait()
                    pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            self._uploading = False
            self.ctx.failing.pop(self.node, None)
        if self.conflict_kept and not self.in_use:
            await self.discard_quietly()
        elif not self.ended:
            await self.end_if_idle()

    @property
    def expects_absent(self) -> bool:
        """Was the name free when the file was accepted, so that whatever is there now is somebody else's?

        The commit of a close that waits has O_TRUNC's word that the old bytes may go, whosever they are.
        A late one has not: the program meant what was there when it closed the file.
        """
        return self.created or (self.entry is not None and self.original is None)

    def may_replace(self, info: ObjectInfo) -> bool:
        """Is this what the name held when the file was accepted, or what we have put there since?"""
        if info.headers.meta.get(WRITE_ID) in {*self.tried, self.entry_id}:
            return True
        return self.original is not None and self.original.continues_as(Version.of(info))

    async def check_original(self, key: str) -> None:
        """Before a Complete that may come late.  The key is held.

        Raises PreconditionFailed when somebody else has put another version there since.
        """
        if self.entry is None:
            return
        try:
            info = await self.ctx.store.head(key)
        except NotFound:
            return
        if not self.may_replace(info):
            raise PreconditionFailed("the object was replaced meanwhile", operation="PutObject", key=key)


class Leftover(Protocol):
    """An entry of a dead mount's log: what `defer` wrote, and the bytes."""

    number: int
    meta: dict[str, Any]
    data: bytes


async def replay(
    store: ObjectStore, entries: Sequence[Leftover], *, hostname: str
) -> tuple[list[int], list[tuple[str, StoreError]]]:
    """Upload what a dead mount left.  The numbers that are done, and (key, error) of what failed.

    Of several entries under one name the last one counts.
    """
    last = {entry.meta["key"]: entry for entry in sorted(entries, key=lambda e: e.number)}
    failed: list[tuple[str, StoreError]] = []

    async def one(entry: Leftover) -> None:
        try:
            await _put_leftover(store, entry, hostname)
        except StoreError as error:
            failed.append((entry.meta["key"], error))

    await run_all(PARALLEL_REPLAY, [lambda e=e: one(e) for e in last.values()])  # type: ignore[misc]
    failed_keys = {key for key, _ in failed}
    return sorted(entry.number for entry in entries if entry.meta["key"] not in failed_keys), failed


async def _put_leftover(store: ObjectStore, entry: Leftover, hostname: str) -> None:
    key, headers = entry.meta["key"], ObjectHeaders(**entry.meta["headers"])
    body = [entry.data] if entry.data else []
    original = Version(**entry.meta["original"]) if entry.meta["original"] is not None else None

    def ours(info: ObjectInfo) -> bool:
        return info.headers.meta.get(WRITE_ID) == headers.meta[WRITE_ID]

    def replaceable(info: ObjectInfo) -> bool:
        return ours(info) or (original is not None and original.continues_as(Version.of(info)))

    try:
        info = await store.head(key)
    except NotFound:
        pass
    else:
        if ours(info) and info.crc64 == crc64(body):
            return  # it got there before the crash
    try:
        await store.put(key, body, headers, replaceable=replaceable)
    except (AlreadyExists, PreconditionFailed):
        await _keep_beside(store, key, body, headers, hostname)


def beside(key: str, hostname: str, word: str) -> Iterator[str]:
    """The key of NAME.WORD-HOST-TIME in the same directory, of now; and others in case that is taken."""
    parent, slash, name = key.rpartition("/")
    above = parent + slash
    return (above + other for other in conflict_names(above, name, hostname, int(time.time()), word))


async def _keep_beside(
    store: ObjectStore, key: str, body: list[bytes], headers: ObjectHeaders, hostname: str
) -> None:
    failure: AlreadyExists | None = None
    for kept in beside(key, hostname, "conflict"):
        try:
            await store.put(kept, body, headers, forbid_overwrite=True)
        except AlreadyExists as error:
            failure = error
            continue
        log.error("%s: somebody else's object is there; what was pending here is kept as %s", key, kept)
        return
    assert failure is not None
    raise failure
