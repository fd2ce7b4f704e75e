"""Reading an object: streams that fetch ahead of sequential use, and exact ranges for random access.

Threading: trio thread only; see blocks.py for what happens in worker threads.

A Reader is pinned to one version of the object: every GET carries its ETag, so bytes of two versions
are never spliced.  Blocks are fetched by background tasks; a read waits until its bytes are there,
not until the block is complete.

Each place where a program reads on is a Stream.  A read belongs to the stream whose front is near
(the kernel's read-ahead comes out of order), or begins one.  The first read of a file fetches little.
A stream that goes on fetches ahead: at most GROWTH times what it has read, as far as its speed and
the network ask for (pace.py), and an equal share of the memory for reading.  Reads that go on from
nowhere are random access: they fetch what was asked and nothing else, each by itself.

What a read returns is a view into a buffer that will be used again: valid until the caller next
awaits.  Buffers are given back at the beginning of a later read, when earlier replies have been sent.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from typing import Final

import trio

from ossfs.errors import ChecksumMismatch, ConnectionLost, OssfsError
from ossfs.fs.blocks import NEVER, Block, Ledger
from ossfs.fs.context import Context
from ossfs.fs.inodes import Version
from ossfs.fs.ranges import forget, read_range
from ossfs.limits import KIB, MIB
from ossfs.store.base import Buffer

log = logging.getLogger(__name__)

FIRST: Final = 128 * KIB
"""The kernel's own smallest read-ahead: a program that wants one page pays for no more."""
BLOCK: Final = 4 * MIB
"""One connection gives some 100 MB/s: at 15 ms to the first byte, 4 MiB keep it 74 % busy, and the
blocks on their way stay small enough for the processor's cache."""
MIN_WINDOW: Final = 4 * MIB
"""Read ahead for the slowest: what the kernel itself reads ahead."""
SLACK: Final = 8 * MIB
"""The kernel has up to read_ahead_kb (4 MiB) of 1 MiB requests in flight, in no strict order."""
GROWTH: Final = 4
"""A stream that has read n bytes may have 4 n fetched ahead, so little is wasted on who stops early."""
PLENTY: Final = 64 * MIB
"""All streams together hold this much ahead without asking for reasons: 1 GB/s at 15 ms.  More, before
the speed is known, would fill the memory when the service is faster than the program.  Less, when the
processors are busy and fetches take longer than the best of them, would slow the program down, and its
window with it, and so on."""
AT_ONCE: Final = 1.0
"""Seconds of a slow program's reading that need no reason either."""
STREAMS: Final = 32
"""Places in one file that are read at a time: threads with ranges of their own."""
ABANDONED: Final = 2.0
"""Seconds after which a stream that nobody goes on with, while others are read, loses its blocks."""
RATE_TIME: Final = 0.2
"""Seconds over which a stream's speed is taken."""
MEMORY_SHARE: Final = 3
"""All streams together hold at most this part of the budget ahead."""


class Stream:
    """A place where reading goes on.

    front: the furthest byte asked for.  run: bytes read in sequence.  hits: reads that went on.
    """

    __slots__ = ("_marked_at", "_marked_run", "front", "hits", "lone", "rate", "run", "touched")

    def __init__(self, front: int, length: int, now: float, *, lone: bool) -> None:
        self.front = front
        self.run = length
        self.hits = 0
        self.lone = lone
        """Began as a jump among others: probably random access."""
        self.touched = now
        self.rate: float | None = None
        """Bytes a second, None when not measured yet."""
        self._marked_at = now
        self._marked_run = length

    def distance(self, offset: int, length: int) -> int | None:
        """How far a read is from the front, None when it cannot belong here."""
        away = abs(offset - self.front)
        return away if away <= min(SLACK, max(4 * length, self.run)) else None

    def advance(self, offset: int, end: int, now: float) -> None:
        """A read of this stream."""
        if end > self.front:
            self.hits += 1
            self.run += end - max(offset, self.front)
            self.front = end
        self.touched = now
        elapsed = now - self._marked_at
        if elapsed >= RATE_TIME:
            self.rate = (self.run - self._marked_run) / elapsed
            self._marked_at, self._marked_run = now, self.run

    @property
    def beginning(self) -> bool:
        """Is this its first read, and no jump among others?"""
        return self.hits == 0 and not self.lone

    @property
    def sequential(self) -> bool:
        """Is it worth reading ahead?"""
        return self.hits > (1 if self.lone else 0)

    def start_over(self) -> None:
        """Memory is short, or fetches fail: read ahead little, and learn again."""
        self.run = self._marked_run = min(self.run, FIRST)


class Reader:
    """Reads of one version, for one open file."""

    def __init__(self, ctx: Context, version: Version) -> None:
        self._ctx = ctx
        self.version = version
        self._blocks: list[Block] = []
        self._spent: list[Block] = []
        self._streams: list[Stream] = []
        self._jumps = 0
        """Streams begun since a read last went on from an earlier one."""
        self._ledger = Ledger(version.size, version.crc64)
        self._delivered = False
        self._closed = False

    def close(self) -> None:
        """Stop fetching and give all memory back; reads under way keep what they wait for."""
        if self._closed:
            return
        self._closed = True
        self._ctx.budget.reclaimers.pop(self._reclaim, None)
        for stream in self._streams:
            self._ctx.pace.forget(stream)
        self._streams.clear()
        for block in list(self._blocks):
            if not block.pins:
                self._drop(block)

    async def read(self, offset: int, length: int) -> bytes | memoryview:
        """Bytes [offset, offset+length), fewer at the end of the file.

        Raises PreconditionFailed when the object has been replaced, ChecksumMismatch when this was
        the last piece of the file and what was read is not what the service has (all is fetched again
        then), other StoreErrors as they come.
        """
        end = min(offset + length, self.version.size)
        if end <= offset:
            return b""
        if self._closed:
            raise trio.ClosedResourceError("this reader is closed")
        try:
            data = await self._read(offset, end)
        except ChecksumMismatch as error:
            await forget(self._ctx, self.version)
            for block in list(self._blocks):
                if not block.pins:
                    self._drop(block)
            if self._delivered or self._closed:
                raise  # wrong bytes have been handed out
            log.info("%s; fetching it again", error)
            data = await self._read(offset, end)
        self._delivered = True
        return data

    async def _read(self, offset: int, end: int) -> bytes | memoryview:
        stream = self._follow(offset, end)
        self._give_back()
        going_on = (stream.sequential or stream.beginning) and end == stream.front
        if not going_on and not self._touches(offset, end):
            self._ctx.metrics.count("reads.waited")
            return await self._fetch_alone(offset, end)
        blocks = self._demand(stream, offset, end)
        try:
            there = all(block.filled >= min(end, block.end) - block.start for block in blocks)
            self._ctx.metrics.count("reads.at_once" if there else "reads.waited")
            if stream.sequential:
                self._fetch_ahead(stream)
            for block in blocks:
                await block.wait(min(end, block.end) - block.start)
            data = self._collect(blocks, offset, end)
            self._count(offset, data)
            return data
        finally:
            for block in blocks:
                self._unpin(block)

    def _collect(self, blocks: list[Block], offset: int, end: int) -> bytes | memoryview:
        pieces: list[memoryview] = []
        for block in blocks:
            start, stop = max(offset, block.start), min(end, block.end)
            pieces.append(block.view[start - block.start : stop - block.start])
            block.used += stop - start
            if block.used >= block.length:
                self._spent.append(block)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _count(self, offset: int, data: Buffer) -> None:
        """These bytes are handed out; when they are the last of the file, compare its checksum."""
        wrong = self._ledger.add(offset, data)
        if wrong is not None:
            raise ChecksumMismatch(
                f"the CRC-64 of the bytes received is {wrong}, the object's {self.version.crc64}",
                operation="GetObject",
                key=self.version.key,
            )

    # -- streams

    def _follow(self, offset: int, end: int) -> Stream:
        """The stream that a read belongs to, moved on by it."""
        now = trio.current_time()
        length = end - offset
        best: Stream | None = None
        least = SLACK + 1
        for stream in self._streams:
            away = stream.distance(offset, length)
            if away is not None and away < least:
                best, least = stream, away
        if best is None:
            self._jumps += 1
            best = Stream(end, length, now, lone=self._jumps > 1)
        else:
            best.advance(offset, end, now)
            if best.sequential:
                self._jumps = 0
            self._streams.remove(best)
        self._streams.append(best)
        while len(self._streams) > STREAMS or self._streams[0].touched < now - ABANDONED:
            gone = self._streams.pop(0)
            gone.front = NEVER  # its blocks are behind it now
            self._ctx.pace.forget(gone)
        return best

    def _window(self, stream: Stream) -> int:
        """How many bytes to hold ahead of a stream's front."""
        pace = self._ctx.pace
        asked = pace.share(PLENTY)
        if stream.rate is not None:
            asked = min(asked, int(stream.rate * AT_ONCE))
            asked = max(MIN_WINDOW, asked, pace.window(stream.rate, BLOCK))
        share = pace.share(self._ctx.budget.limit // MEMORY_SHARE)
        return max(FIRST, min(asked, share, GROWTH * stream.run))

    def _fetch_ahead(self, stream: Stream) -> None:
        """Start the fetches that this stream is going to need, as far as memory and connections allow."""
        pace = self._ctx.pace
        pace.touch(stream, stream.touched)
        window = self._window(stream)
        size = self.version.size
        at = stream.front
        goal = at + window
        while at < size and pace.may_prefetch and not self._closed:
            block = self._find(at)
            if block is not None:
                at = block.end
                continue
            length = self._block_length(stream, at, window)
            # Wait until a decent block fits: few requests beat many.
            if at + length > goal or not self._ctx.budget.try_take(length):
                return
            self._start(at, length, stream, prefetch=True)
            at += length

    def _block_length(self, stream: Stream, at: int, window: int) -> int:
        """Of the next block at *at*, to the end of the file or the next block at most."""
        length = max(FIRST, min(BLOCK, window // 4))
        if length >= MIB:
            # End where the kernel's requests of 1 MiB will end: a read of two blocks is a copy.
            beyond = (at + length - stream.front) % MIB
            if length - beyond >= MIB // 2:
                length -= beyond
        return min(length, self._limit(at) - at)

    # -- blocks

    def _find(self, offset: int) -> Block | None:
        i = bisect_right(self._blocks, offset, key=lambda b: b.start) - 1
        if i >= 0 and offset < self._blocks[i].end:
            return self._blocks[i]
        return None

    def _limit(self, at: int) -> int:
        """Where a block that begins at *at* has to end."""
        i = bisect_right(self._blocks, at, key=lambda b: b.start)
        return self._blocks[i].start if i < len(self._blocks) else self.version.size

    def _touches(self, offset: int, end: int) -> bool:
        """Is any of [offset, end) here or on its way?"""
        return self._find(offset) is not None or self._limit(offset) < end

    def _demand(self, stream: Stream, offset: int, end: int) -> list[Block]:
        """The blocks of [offset, end), pinned, and started where there are none.

        They do not wait for memory: others give theirs up, or the budget is exceeded.
        """
        blocks: list[Block] = []
        at = offset
        while at < end:
            block = self._find(at)
            if block is None:
                limit = self._limit(at)
                need = min(end, limit) - at
                length = need
                if stream.sequential and end == stream.front:
                    length = max(need, self._block_length(stream, at, self._window(stream)))
                elif stream.beginning:
                    length = max(need, min(FIRST, limit - at))
                if not self._ctx.budget.try_take(length):
                    length = need
                    self._ctx.budget.seize(length)
                block = self._start(at, length, stream, prefetch=False)
            block.pins += 1
            blocks.append(block)
            at = block.end
        return blocks

    def _start(self, start: int, length: int, stream: Stream, *, prefetch: bool) -> Block:
        """Begin to fetch a block whose memory has been taken."""
        self._ctx.budget.reclaimers[self._reclaim] = None
        buffer = self._ctx.budget.buffers.get(length)
        block = Block(start, length, buffer, stream, prefetch=prefetch)
        self._blocks.insert(bisect_right(self._blocks, start, key=lambda b: b.start), block)
        if prefetch:
            self._ctx.pace.in_flight += 1
        self._ctx.jobs.start(lambda: self._fill(block))
        return block

    async def _fill(self, block: Block) -> None:
        from_disk = 0
        try:
            with block.scope:
                from_disk = await read_range(self._ctx, self.version, block.start, block.view, block.advance)
                block.filled = block.length
        except OssfsError as error:
            block.error = error
        finally:
            if block.error is None and block.filled < block.length:
                # Dropped, or cancelled from above: the mount is ending.
                block.error = ConnectionLost("given up", operation="GetObject", key=self.version.key)
            if block.prefetch:
                self._ctx.pace.in_flight -= 1
            if block.error is None and not from_disk:
                self._ctx.pace.measured(*block.timing())
            block.settled.set()
            block.wake()
            self._settle(block)

    def _settle(self, block: Block) -> None:
        """The fetch of a block has ended."""
        if block.dropped:
            self._release(block)
        elif block.error is not None:
            # Whoever waits has the error; who comes later asks again.
            if not block.pins:
                log.debug("not fetched ahead: %s", block.error)
            block.stream.start_over()
            self._drop(block)

    async def _fetch_alone(self, offset: int, end: int) -> memoryview:
        """Random access: one request for exactly these bytes."""
        length = end - offset
        view = memoryview(bytearray(length))
        self._ctx.budget.seize(length)
        try:
            await read_range(self._ctx, self.version, offset, view)
        finally:
            self._ctx.budget.give(length)
        self._count(offset, view)
        return view

    # -- the end of a block

    def _give_back(self) -> None:
        """Drop what earlier reads have used up, and what streams have left far behind."""
        spent, self._spent = self._spent, []
        for block in spent:
            if not block.settled.is_set():
                self._spent.append(block)  # the last byte is here, but the worker thread has not let go
            elif not block.dropped and not block.pins:
                self._drop(block)
        for block in [b for b in self._blocks if b.end + SLACK < b.stream.front and not b.pins]:
            self._drop(block)

    def _unpin(self, block: Block) -> None:
        block.pins -= 1
        if block.dropped:
            self._release(block)
        elif not block.pins and (self._closed or self._ctx.budget.waiting):
            self._drop(block)  # nobody would ask this reader again

    def _drop(self, block: Block) -> None:
        self._blocks.remove(block)
        block.dropped = True
        block.scope.cancel()  # the worker thread, if it still fills the buffer, lets go of it soon
        self._release(block)

    def _release(self, block: Block) -> None:
        """Give the memory of a dropped block back as soon as nobody uses it."""
        if block.settled.is_set() and not block.pins:
            self._ctx.budget.buffers.put(block.buffer)
            self._ctx.budget.give(block.length)

    def _reclaim(self, wanted: int) -> int:
        """Give up blocks that nobody waits for, the furthest ahead first; the bytes that are free now.

        Those on their way become free as soon as their connections are shut.
        """
        freed = promised = 0
        for block in reversed([b for b in self._blocks if not b.pins]):
            if freed + promised >= wanted:
                break
            if block.settled.is_set():
                freed += block.length
            else:
                promised += block.length
            block.stream.start_over()
            self._drop(block)
        return freed
