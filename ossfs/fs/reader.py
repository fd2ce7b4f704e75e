"""Reading an object: blocks that fill progressively, and a window that grows with sequential use.

Threading: trio thread only, except `_Block.advance`, which a worker thread calls as bytes arrive.

A Reader is pinned to one version of the object: every GET carries its ETag, so bytes of two
versions are never spliced.  Blocks are fetched by background tasks; a read waits until the bytes
that it wants are there, not until the block is complete.

The window is how far ahead of the furthest read blocks are fetched.  The first read fetches little;
each block that sequential reading uses up doubles the window; a jump starts over.  Reads that come
out of order within `SLACK` of the furthest are the kernel's read-ahead, not a jump.
"""

from __future__ import annotations

import logging
from bisect import bisect_right

import trio

from ossfs.errors import ChecksumMismatch, OssfsError, ShortBody
from ossfs.fs.context import Context
from ossfs.fs.inodes import Version
from ossfs.limits import KIB, MIB
from ossfs.store.checksum import combine, crc64

log = logging.getLogger(__name__)

FIRST = 128 * KIB
"""The kernel's own smallest read-ahead: a program that wants one page pays for no more."""
BLOCK = 8 * MIB
"""One OSS connection gives some 100 MB/s: at 15 ms to the first byte, 8 MiB keep it 85 % busy."""
WINDOW = 128 * MIB
"""Sixteen connections' worth; the budget usually says less."""
SLACK = 8 * MIB
"""The kernel has up to read_ahead_kb (4 MiB) of 1 MiB requests in flight, in no strict order."""


class _Block:
    """Bytes [start, start+length) of the object, `filled` of which have arrived."""

    __slots__ = (
        "_token",
        "_waiters",
        "buffer",
        "dropped",
        "error",
        "filled",
        "length",
        "scope",
        "settled",
        "start",
        "used",
    )

    def __init__(self, start: int, length: int, buffer: bytearray) -> None:
        self.start = start
        self.length = length
        self.buffer = buffer
        self.filled = 0
        self.used = 0
        self.error: Exception | None = None
        self.dropped = False
        self.settled = trio.Event()
        """The fetch is over and nothing writes into the buffer any more."""
        self.scope = trio.CancelScope()
        self._waiters: list[tuple[int, trio.Event]] = []
        self._token = trio.lowlevel.current_trio_token()

    @property
    def end(self) -> int:
        return self.start + self.length

    def advance(self, filled: int) -> None:
        """From any thread: so many bytes are there now."""
        self.filled = filled
        if self._waiters:
            try:
                self._token.run_sync_soon(self.wake, idempotent=True)
            except trio.RunFinishedError:
                pass  # the mount is ending; nobody waits any more

    def wake(self) -> None:
        waiting = self._waiters
        still = [w for w in waiting if w[0] > self.filled and self.error is None]
        for entry in waiting:
            if entry not in still:
                entry[1].set()
        self._waiters = still

    async def wait(self, upto: int) -> None:
        """Until the first *upto* bytes are there.  Raises what the fetch raised."""
        while self.filled < upto and self.error is None:
            event = trio.Event()
            self._waiters.append((upto, event))
            if self.filled >= upto:  # arrived between the check and the registration
                self.wake()
            await event.wait()
        if self.filled < upto and self.error is not None:
            raise self.error


class Reader:
    """Sequential and random reads of one version, for one open file.

    The bytes that `read` returns are views into buffers that are used again: they are valid until
    the caller next awaits.
    """

    def __init__(self, ctx: Context, version: Version) -> None:
        self._ctx = ctx
        self.version = version
        self._blocks: list[_Block] = []
        self._furthest = 0
        self._window = FIRST
        self._jumps = 0
        self._crcs: dict[int, tuple[int, int]] = {}
        self._verified = version.crc64 is None
        self._closed = False
        ctx.budget.reclaimers.append(self._reclaim)

    def close(self) -> None:
        """Stop fetching and give all memory back."""
        if self._closed:
            return
        self._closed = True
        self._ctx.budget.reclaimers.remove(self._reclaim)
        for block in list(self._blocks):
            self._drop(block)

    async def read(self, offset: int, length: int) -> bytes | memoryview:
        """Bytes [offset, offset+length), fewer at the end of the file.

        Raises PreconditionFailed when the object has been replaced, other StoreErrors as they come.
        """
        length = min(length, self.version.size - offset)
        if length <= 0:
            return b""
        end = offset + length
        self._plan(offset, end)
        pieces: list[memoryview] = []
        at = offset
        while at < end:
            block = self._find(at)
            if block is None:
                block = self._fetch(at, end, floor=True)
            upto = min(end, block.end)
            try:
                await block.wait(upto - block.start)
            except OssfsError:
                self._forget(block)
                raise
            if upto == self.version.size and not self._verified:
                await self._verify(block)
            pieces.append(memoryview(block.buffer)[at - block.start : upto - block.start])
            block.used += upto - at
            at = upto
        self._furthest = max(self._furthest, end)
        self._retire()
        if len(pieces) == 1:
            return pieces[0]
        return b"".join(pieces)

    # -- the window

    def _plan(self, offset: int, end: int) -> None:
        """Start the fetches that this read, and those that will follow it, need."""
        if self._closed:
            return
        size = self.version.size
        near = self._furthest - SLACK <= offset <= self._furthest + SLACK
        first = self._furthest == 0 and not self._blocks
        if first and offset == 0:
            self._cover(0, min(size, max(end, FIRST)))
            return
        if not near or (first and offset > 0):
            self._jumps += 1
            self._window = FIRST
            if self._find(offset) is None:
                for block in list(self._blocks):
                    if not block._waiters:
                        self._forget(block)
            self._furthest = end
            # One lone jump may be the start of a sequential read; more of them are random access.
            goal = end if self._jumps > 1 else min(size, max(end, offset + FIRST))
            self._cover(offset, goal, exact=True)
            return
        if self._jumps > 1 and offset > self._furthest and self._find(offset) is None:
            # Still hopping about, only in small steps.
            self._furthest = end
            self._cover(offset, end, exact=True)
            return
        if end > self._furthest:
            self._jumps = 0
            self._window = min(self._window * 2, WINDOW, max(FIRST, self._ctx.budget.limit // 3))
        self._cover(offset, min(size, max(end, self._furthest) + self._window))

    def _cover(self, start: int, goal: int, *, exact: bool = False) -> None:
        """Fetch what of [start, goal) is not on its way yet, as far as the budget allows."""
        at = start
        while at < goal:
            block = self._find(at)
            if block is not None:
                at = block.end
                continue
            following = self._next_start(at)
            stop = goal if following is None else min(goal, following)
            if not exact and at != start and stop - at < min(FIRST, goal - at):
                return
            length = min(stop - at, self._block_length(at, exact))
            stub = length < self._block_length(at, exact) // 2 and at + length < self.version.size
            if at > start and not exact and stub:
                return  # wait until a decent block fits: few requests beat many
            if self._start(at, length, floor=at == start) is None:
                return
            at += length

    def _block_length(self, at: int, exact: bool) -> int:
        if exact:
            return BLOCK
        length = max(FIRST, min(BLOCK, self._window // 4))
        if length >= MIB:
            # End at a multiple of 1 MiB, where the kernel's requests end too: no read is joined
            # from two blocks.
            length = (at + length) // MIB * MIB - at
        return length

    def _find(self, offset: int) -> _Block | None:
        i = bisect_right(self._blocks, offset, key=lambda b: b.start) - 1
        if i >= 0 and offset < self._blocks[i].end:
            return self._blocks[i]
        return None

    def _next_start(self, offset: int) -> int | None:
        i = bisect_right(self._blocks, offset, key=lambda b: b.start)
        return self._blocks[i].start if i < len(self._blocks) else None

    def _fetch(self, start: int, end: int, *, floor: bool) -> _Block:
        following = self._next_start(start)
        block = self._start(start, (end if following is None else min(end, following)) - start, floor=floor)
        assert block is not None
        return block

    def _start(self, start: int, length: int, *, floor: bool) -> _Block | None:
        """Begin to fetch a block; None when there is no memory for it."""
        if not self._ctx.budget.try_take(length):
            if not floor:
                return None
            self._ctx.budget.take(length)
        block = _Block(start, length, bytearray(length))
        self._blocks.insert(bisect_right(self._blocks, start, key=lambda b: b.start), block)
        self._ctx.jobs.start(lambda: self._fill(block))
        return block

    async def _fill(self, block: _Block) -> None:
        try:
            with block.scope:
                _, count = await self._ctx.store.get(
                    self.version.key,
                    memoryview(block.buffer),
                    start=block.start,
                    etag=self.version.etag,
                    progress=block.advance,
                )
                if count < block.length:
                    raise ShortBody(
                        f"{count} bytes of {block.length} at {block.start}",
                        operation="GetObject",
                        key=self.version.key,
                    )
                if not self._verified:
                    value = await trio.to_thread.run_sync(crc64, [memoryview(block.buffer)])
                    self._crcs[block.start] = (block.length, value)
                block.filled = block.length
            if block.scope.cancelled_caught:
                block.error = block.error or trio.ClosedResourceError()
        except OssfsError as error:
            block.error = error
        finally:
            if block.error is None and block.filled < block.length:
                block.error = trio.ClosedResourceError()  # cancelled from above: the mount is ending
            block.settled.set()
            block.wake()
            if block.dropped:
                self._ctx.budget.give(block.length)

    # -- the end of a block

    def _retire(self) -> None:
        """Drop blocks that are used up, or lie so far behind that nobody will come back for them."""
        for block in list(self._blocks):
            if block.settled.is_set() and (block.used >= block.length or block.end + SLACK < self._furthest):
                self._drop(block)

    def _forget(self, block: _Block) -> None:
        if block in self._blocks:
            self._drop(block)

    def _drop(self, block: _Block) -> None:
        self._blocks.remove(block)
        block.dropped = True
        if block.settled.is_set():
            self._ctx.budget.give(block.length)
        else:
            block.scope.cancel()  # _fill gives the memory back once the thread has let go of it

    def _reclaim(self, wanted: int) -> int:
        """Give up prefetched blocks that nobody waits for, the furthest ahead first."""
        freed = 0
        for block in reversed(list(self._blocks)):
            if freed >= wanted:
                break
            if block.start > self._furthest and block.settled.is_set():
                freed += block.length
                self._drop(block)
        if freed:
            self._window = max(FIRST, self._window // 2)
        return freed

    # -- the checksum of a file that was read whole

    async def _verify(self, last: _Block) -> None:
        """Compare the CRC of the whole file before its end is reported, when all of it was fetched."""
        for block in list(self._blocks):
            await block.settled.wait()
        if last.error is not None:
            raise last.error
        at, total = 0, 0
        for start in sorted(self._crcs):
            if start != at:
                return  # not read whole, or pieces overlap: nothing to compare
            length, value = self._crcs[start]
            total = combine(total, value, length)
            at += length
        if at != self.version.size:
            return
        self._verified = True
        if total == self.version.crc64:
            return
        for block in list(self._blocks):
            self._forget(block)
        self._crcs.clear()
        self._verified = False
        raise ChecksumMismatch(
            f"CRC-64 of the bytes received is {total}, the object's is {self.version.crc64}",
            operation="GetObject",
            key=self.version.key,
        )
