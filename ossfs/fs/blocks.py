"""What a reader is made of: blocks that fill progressively, and the checksum of what was handed out.

Threading: trio thread only, except `Block.advance`, which the one worker thread that receives the
bytes calls as they arrive.

The checksum is computed on the trio thread, where the bytes are handed out: over exactly these bytes,
and just before the kernel copies them, so that they come into the cache once.  It takes 35 to 190 us a
MiB and lets go of the GIL meanwhile; a hop to a thread and back takes 90.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final

import trio

from ossfs.store.base import Buffer
from ossfs.store.checksum import combine, crc64

if TYPE_CHECKING:
    from ossfs.fs.reader import Stream

MAX_PIECES: Final = 256
"""Separate pieces whose checksums are kept.  Sequential reading makes one, a few readers of one file
a few; who reads in more places at random will not read all of it either."""

NEVER: Final = 1 << 63


class Ledger:
    """The checksums of the pieces of one object that have been handed out; neighbours become one.

    Each byte counts when it is first handed out, wherever it came from and in whatever order.
    expected: of the whole object; None when there is nothing to compare with.
    """

    def __init__(self, size: int, expected: int | None) -> None:
        self._size = size
        self._expected = expected
        self._covered = 0
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._values: list[int] = []

    @property
    def wanted(self) -> bool:
        """Is there still something to be found out?"""
        return self._expected is not None

    def add(self, start: int, data: Buffer) -> int | None:
        """*data*, at *start* of the object, is handed out.

        Returns the checksum of the whole when this completes it and it is not the expected one; then
        counting begins anew.
        """
        if self._expected is None:
            return None
        view = memoryview(data)
        for first, last in self._missing(start, start + len(view)):
            self._insert(first, last, crc64([view[first - start : last - start]]))
        if self._covered == self._size:
            total = self._values[0]
            self._clear()
            if total != self._expected:
                return total
            self._expected = None
        elif len(self._starts) > MAX_PIECES:
            self._clear()
            self._expected = None
        return None

    def _missing(self, start: int, end: int) -> list[tuple[int, int]]:
        result: list[tuple[int, int]] = []
        at = start
        for i in range(bisect_right(self._ends, start), len(self._starts)):
            if self._starts[i] >= end:
                break
            if self._starts[i] > at:
                result.append((at, self._starts[i]))
            at = self._ends[i]
        if at < end:
            result.append((at, end))
        return result

    def _insert(self, start: int, end: int, value: int) -> None:
        self._covered += end - start
        i = bisect_left(self._starts, start)
        if i < len(self._starts) and self._starts[i] == end:
            value = combine(value, self._values[i], self._ends[i] - end)
            end = self._ends[i]
            self._remove(i)
        if i and self._ends[i - 1] == start:
            i -= 1
            value = combine(self._values[i], value, end - start)
            start = self._starts[i]
            self._remove(i)
        self._starts.insert(i, start)
        self._ends.insert(i, end)
        self._values.insert(i, value)

    def _remove(self, i: int) -> None:
        del self._starts[i], self._ends[i], self._values[i]

    def _clear(self) -> None:
        self._covered = 0
        self._starts, self._ends, self._values = [], [], []


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
        "used",
        "view",
    )

    def __init__(self, start: int, length: int, buffer: bytearray, stream: Stream, *, prefetch: bool) -> None:
        self.start = start
        self.length = length
        self.buffer = buffer
        self.view = memoryview(buffer)[:length]
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
