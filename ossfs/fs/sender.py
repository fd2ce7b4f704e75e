"""The parts of one file on their way: the upload, what is in flight, and what memory it holds.

Threading: trio thread only; each part is a background job.

A full chunk goes up as a part as soon as it is full, several at a time.  Its bytes stay in memory
until the part has landed, and then only while they are likely to be wanted: the first part and the
last few of a write-only stream (headers and tails get patched), all of them while memory is plenty
and somebody may read.  When memory is short, `relieve` gives up what is safe in a part, sends what
can be a part, and moves the rest to the staging file, so nobody waits for memory that only another
writer's close could free.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import trio

from ossfs.errors import OssfsError, PosixError, level_of
from ossfs.fs import attrs as attributes
from ossfs.fs.attrs import Attrs
from ossfs.fs.commit import Upload
from ossfs.fs.content import Chunk, Content, SentRange
from ossfs.fs.context import Context
from ossfs.fs.hidden import abort_quietly
from ossfs.fs.inodes import FileNode, Version
from ossfs.fs.staging import Staging
from ossfs.fs.stored import rewritten
from ossfs.limits import MIB

log = logging.getLogger(__name__)

KEEP_PARTS = 2
"""Sent parts whose bytes a write-only stream keeps beside its first: headers and tails get patched."""
MAX_IN_FLIGHT = 32
"""Parts of one file; the budget usually says less."""
SPILL = 4 * MIB
"""Bytes moved to the staging file in one step."""


class Sender:
    """The upload of one writer.  content is replaced when the writer starts over on another version."""

    def __init__(
        self, ctx: Context, node: FileNode, content: Content, wants_bytes: Callable[[], bool]
    ) -> None:
        self._ctx = ctx
        self._node = node
        self.content = content
        self.staging = Staging(ctx.config.staging_dir)
        self.upload: Upload | None = None
        self.error: Exception | None = None
        """Why a part failed; its bytes are Dirty again."""
        self.ended = False
        self.paused = False
        """A commit is under way: it takes what is Dirty itself."""
        self._wants_bytes = wants_bytes
        self._starting = trio.Lock()
        self._in_flight: dict[int, trio.Event] = {}
        self._chunks: dict[int, Chunk] = {}
        self._staged: set[int] = {0}
        self._relieving = False
        self._landed = 0
        """Counts parts whose request has ended."""
        self._charged = 0

    @property
    def in_flight(self) -> int:
        """Parts that are on their way in the background."""
        return len(self._in_flight)

    # -- memory

    def account(self) -> None:
        """Charge the budget with what the extent map holds now."""
        held = 0 if self.ended else self.content.held_bytes
        self._ctx.budget.adjust(held - self._charged)
        self._charged = held

    def press(self, locked: bool) -> None:
        """Memory is short.  locked: a commit or an edit of the map is under way, which frees it itself."""
        if not (self.ended or locked or self._relieving or self.content.held_bytes == 0):
            self._relieving = True
            self._ctx.jobs.start(self._relieve)

    async def _relieve(self) -> None:
        try:
            while not self.ended and self._ctx.budget.short:
                before = self.content.held_bytes, len(self._chunks), self._landed
                await self._drop_landed()
                self.send_chunks(early=True)
                if not self._in_flight:
                    await self._stage_damaged()
                    await self._spill()
                self.account()
                if (self.content.held_bytes, len(self._chunks), self._landed) == before:
                    return  # the rest is in flight, and comes back by itself
        except PosixError as error:
            # Neither memory nor disk: who waits for memory is told, unless parts in flight free some.
            log.log(error.level, "%s", error)
            if not self._in_flight:
                self._ctx.budget.refuse(error)
        finally:
            self._relieving = False

    async def _drop_landed(self) -> None:
        for number in self.content.held_parts():
            chunk = self._chunks.get(number)
            if self._wants_bytes() and chunk is not None and number not in self._staged:
                if not self.staging.usable:
                    continue
                await self.staging.write(chunk.start, chunk.pieces)
                if self.ended or self._chunks.get(number) is not chunk:
                    return
                self.content.mark_staged(number)
                self._staged.add(number)
            self._drop(number)

    async def _stage_damaged(self) -> None:
        """Parts that were overwritten in part have to go up again: what is left of them goes to disk."""
        if not self.staging.usable:
            return
        for number in self.content.damaged_parts():
            chunk = self._chunks.get(number)
            if chunk is None:
                continue
            for start, pieces in self.content.live_bytes(number):
                await self.staging.write(start, pieces)
                if self.ended or self._chunks.get(number) is not chunk:
                    return
            self.content.mark_staged(number)
            self._staged.add(number)
            self._drop(number)

    def _drop(self, number: int) -> None:
        self.content.drop_bytes(number)
        self._chunks.pop(number, None)

    async def _spill(self) -> None:
        if not self.staging.usable:
            return
        content = self.content
        spill = content.take_spill(SPILL)
        if spill is None:
            return
        await self.staging.write(spill.start, spill.pieces)
        if not self.ended and content is self.content:
            content.spilled(spill)

    def retain(self) -> None:
        """Keep the bytes that are likely to be wanted, and no others."""
        plenty = not self._ctx.budget.short
        if plenty and self._wants_bytes():
            return
        held = self.content.held_parts()
        if self._wants_bytes():
            return  # `relieve` stages them first
        keep = KEEP_PARTS if plenty else 0
        for number in held[: max(0, len(held) - keep)]:
            if number != 1 or not plenty:
                self._drop(number)
        self.account()

    def staged(self, piece: SentRange) -> bool:
        """Can these bytes be read back from the staging file?"""
        return piece.number in self._staged

    # -- parts

    def send_chunks(self, *, early: bool = False) -> None:
        """Start the parts that are full; early: also shorter ones, because memory is short."""
        if self.paused or (self._node.detached and self._node.hidden_key is None):
            return
        while len(self._in_flight) < MAX_IN_FLIGHT and self.error is None and not self.ended:
            chunk = self.content.take_chunk(self._ctx.config.chunk_size, early=early)
            if chunk is None:
                return
            self._staged.discard(chunk.number)
            self._chunks[chunk.number] = chunk
            self._in_flight[chunk.number] = trio.Event()
            self._ctx.jobs.start(lambda chunk=chunk: self._send(chunk))  # type: ignore[misc]

    async def _send(self, chunk: Chunk) -> None:
        content = self.content
        try:
            upload = await self.ensure_upload(for_part=True)
            upload.results[chunk.number] = await self._ctx.store.put_part(
                upload.key, upload.upload_id, chunk.number, chunk.pieces
            )
        except OssfsError as error:
            self._chunks.pop(chunk.number, None)
            content.part_failed(chunk.number)
            if self.error is None:
                self.error = error
                log.log(level_of(error), "upload of %s: %s", self._node.name, error)
        else:
            content.part_done(chunk.number)
        finally:
            self._in_flight.pop(chunk.number).set()
            self._landed += 1
        if not self.ended:
            self.retain()
            self.send_chunks()
        self._ctx.budget.press()  # `_relieve` ended while this was in flight

    async def drain(self) -> None:
        """Until nothing is in flight."""
        while self._in_flight:
            await next(iter(self._in_flight.values())).wait()

    async def ensure_upload(self, held: str | None = None, *, for_part: bool = False) -> Upload:
        """The upload in progress; it is in the journal before its first part.

        held: the key, when the caller holds it.  An upload is bound to its key, so it is not begun while
        a rename has it.  for_part: when it could not be begun for another part, that counts for this one too:
        parts that wait for an answer that does not come would wait one after another.
        """
        while True:
            async with self._starting:
                if self.upload is not None:
                    return self.upload
                if for_part and self.error is not None:
                    raise self.error
                if held is not None:
                    return await self._initiate(held)
                key = self._ctx.inodes.key(self._node)
                async with self._ctx.keys.hold(key):
                    if key == self._ctx.inodes.key(self._node):
                        return await self._initiate(key)

    async def _initiate(self, key: str) -> Upload:
        node = self._node
        await rewritten(self._ctx, node, node.version)
        assert node.attrs is not None
        write_id = attributes.new_write_id()
        attrs = node.attrs.copy()
        sent = await with_tags(self._ctx, attrs, node.version)
        upload_id = await self._ctx.store.initiate(key, attributes.encode(sent, write_id=write_id))
        self._ctx.journal.upload_started(key, upload_id)
        self.upload = Upload(key, upload_id, write_id, attrs)
        return self.upload

    def lost(self) -> None:
        """The service knows nothing of the upload any more."""
        self.completed()

    def completed(self) -> None:
        """The upload is an object now."""
        upload, self.upload = self.upload, None
        if upload is not None:
            self._ctx.journal.upload_ended(upload.key, upload.upload_id)
        self._chunks.clear()
        self._staged = {0}

    async def abort(self) -> None:
        """Give the upload up, if there is one."""
        upload, self.upload = self.upload, None
        self._chunks.clear()
        self._staged = {0}
        if upload is None:
            return
        await abort_quietly(self._ctx, upload.key, upload.upload_id)

    def end(self) -> None:
        """No more is sent; memory and disk space go back."""
        self.ended = True
        self.account()
        self.staging.close()


async def with_tags(ctx: Context, attrs: Attrs, version: Version | None) -> Attrs:
    """PUT and Initiate drop the tags of the old object unless they are sent again."""
    if not attrs.tag_count or version is None:
        return attrs
    tagging = await ctx.store.get_tagging(version.key)
    return replace(attrs, carried=replace(attrs.carried, tagging=tagging or None))
