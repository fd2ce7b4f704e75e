"""What a reader is made of: blocks that fill progressively, and the checksum of what has been received.

Threading: trio thread only, except `Block.advance` and `Sums.advance`, which the one worker thread
that receives the bytes calls as they arrive.  The checksum is computed there, while the bytes are in
the cache; `fastcrc` lets go of the GIL meanwhile.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final

import trio

from ossfs.store.checksum import combine, crc64

if TYPE_CHECKING:
    from ossfs.fs.reader import Stream

MAX_PIECES: Final = 256
"""Separate pieces whose checksums are kept.  Sequential reading makes one, a few readers of one file
a few; who reads in more places at random will not read all of it either."""

NEVER: Final = 1 << 63


class Sums:
    """The checksums of some ranges of one fetch, computed as its bytes arrive.

    ranges: (start, end) within the object, in order, not overlapping.  base: where the fetch starts.
    """

    __slots__ = ("_base", "_todo", "done", "epoch", "owed", "ranges")

    def __init__(self, base: int, ranges: list[tuple[int, int]], epoch: int = 0) -> None:
        self._base = base
        self._todo = [[start, start, end, 0] for start, end in reversed(ranges)]
        self.ranges = ranges
        self.epoch = epoch
        self.owed = sum(end - start for start, end in ranges)
        """Bytes whose checksum the ledger waits for."""
        self.done: list[tuple[int, int, int]] = []

    def advance(self, view: memoryview, filled: int) -> None:
        """The first *filled* bytes of the fetch are in *view*."""
        reached = self._base + filled
        while self._todo:
            part = self._todo[-1]
            start, at, end, value = part
            stop = min(end, reached)
            if stop > at:
                part[1], part[3] = stop, crc64([view[at - self._base : stop - self._base]], value)
            if stop < end:
                return
            self._todo.pop()
            self.done.append((start, end, part[3]))


class Ledger:
    """Which pieces of one object have been received with which checksum; neighbours become one.

    A fetch claims the ranges that nobody else has, so that two of them that overlap leave no gap.
    wanted: False when there is nothing to compare with.
    """

    def __init__(self, size: int, *, wanted: bool) -> None:
        self._size = size
        self.wanted = wanted and size > 0
        self.covered = 0
        self._epoch = 0
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._values: list[int | None] = []
        """None: claimed."""

    def claim(self, start: int, end: int) -> Sums:
        """For a fetch of [start, end): to be given back with `enter` or `release`."""
        ranges: list[tuple[int, int]] = []
        if self.wanted:
            at = start
            for i in range(bisect_right(self._ends, start), len(self._starts)):
                if self._starts[i] >= end:
                    break
                if self._starts[i] > at:
                    ranges.append((at, self._starts[i]))
                at = self._ends[i]
            if at < end:
                ranges.append((at, end))
            for first, last in ranges:
                self._insert(bisect_left(self._starts, first), first, last, None)
            if len(self._starts) > MAX_PIECES:
                self.stop()
                ranges = []
        return Sums(start, ranges, self._epoch)

    def enter(self, sums: Sums) -> None:
        """The fetch has ended well."""
        if sums.epoch != self._epoch:
            return
        for start, end, value in sums.done:
            i = bisect_left(self._starts, start)
            self._remove(i)
            self.covered += end - start
            following = self._values[i] if i < len(self._starts) and self._starts[i] == end else None
            if following is not None:
                value = combine(value, following, self._ends[i] - end)
                end = self._ends[i]
                self._remove(i)
            before = self._values[i - 1] if i and self._ends[i - 1] == start else None
            if before is not None:
                i -= 1
                value = combine(before, value, end - start)
                start = self._starts[i]
                self._remove(i)
            self._insert(i, start, end, value)

    def release(self, sums: Sums) -> None:
        """The fetch has failed: others may claim its ranges."""
        if sums.epoch == self._epoch:
            for start, _ in sums.ranges:
                self._remove(bisect_left(self._starts, start))

    def _insert(self, i: int, start: int, end: int, value: int | None) -> None:
        self._starts.insert(i, start)
        self._ends.insert(i, end)
        self._values.insert(i, value)

    def _remove(self, i: int) -> None:
        del self._starts[i], self._ends[i], self._values[i]

    @property
    def total(self) -> int | None:
        """The checksum of the whole object, None while pieces are missing."""
        return self._values[0] if self.wanted and self.covered == self._size else None

    def clear(self) -> None:
        """Begin anew; what is under way does not count."""
        self._epoch += 1
        self.covered = 0
        self._starts, self._ends, self._values = [], [], []

    def stop(self) -> None:
        """Nothing more is to be compared."""
        self.clear()
        self.wanted = False


class Block:
    """Bytes [start, start+length) of the object, `filled` of which have arrived in `view`.

    pins counts the reads that need it: only with none is the buffer given back.
    """

    __slots__ = (
        "_began",
        "_first",
        "_first_count",
        "_token",
        "_waiters",
        "_wanted",
        "buffer",
        "dropped",
        "error",
        "filled",
        "length",
        "pins",
        "prefetch",
        "scope",
        "settled",
        "start",
        "stream",
        "sums",
        "used",
        "view",
    )

    def __init__(
        self, start: int, length: int, buffer: bytearray, sums: Sums, stream: Stream, *, prefetch: bool
    ) -> None:
        self.start = start
        self.length = length
        self.buffer = buffer
        self.view = memoryview(buffer)[:length]
        self.sums = sums
        self.stream = stream
        self.prefetch = prefetch
        self.filled = 0
        self.used = 0
        self.pins = 0
        self.error: Exception | None = None
        self.dropped = False
        self.settled = trio.Event()
        """The fetch is over and nothing writes into the buffer any more."""
        self.scope = trio.CancelScope()
        self._waiters: list[tuple[int, trio.Event]] = []
        self._wanted = NEVER
        """The least that somebody waits for."""
        self._token = trio.lowlevel.current_trio_token()
        self._began = time.monotonic()
        self._first = 0.0
        self._first_count = 0

    @property
    def end(self) -> int:
        return self.start + self.length

    def advance(self, filled: int) -> None:
        """In the worker thread: so many bytes are there now."""
        self.filled = filled
        # Whoever sets _wanted looks at filled afterwards, so that one of the two sees the other.
        if filled >= self._wanted:
            try:
                self._token.run_sync_soon(self.wake, idempotent=True)
            except trio.RunFinishedError:
                pass  # the mount has ended; nobody waits any more
        if not self._first_count:
            self._first = time.monotonic() - self._began
            self._first_count = filled
        self.sums.advance(self.view, filled)

    def timing(self) -> tuple[int, float, int, float]:
        """For Pace.measured, when the fetch has just ended."""
        return self.length, self._first, self._first_count, time.monotonic() - self._began

    def wake(self) -> None:
        """Let those go on whose bytes are there; all, after an error."""
        waiting, self._waiters = self._waiters, []
        for entry in waiting:
            if entry[0] <= self.filled or self.error is not None:
                entry[1].set()
            else:
                self._waiters.append(entry)
        self._wanted = min((entry[0] for entry in self._waiters), default=NEVER)

    async def wait(self, upto: int) -> None:
        """Until the first *upto* bytes are there.  Raises what the fetch raised."""
        while self.filled < upto and self.error is None:
            entry = (upto, trio.Event())
            self._waiters.append(entry)
            self._wanted = min(self._wanted, upto)
            if self.filled >= upto:  # arrived just before _wanted was set
                self.wake()
            try:
                await entry[1].wait()
            finally:
                if entry in self._waiters:
                    self._waiters.remove(entry)
        if self.filled < upto:
            assert self.error is not None
            raise self.error
