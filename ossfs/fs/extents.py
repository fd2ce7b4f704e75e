"""What the extent map is made of: blocks of memory, sent parts, extents, and sets of runs.

Plain data without I/O, used by :mod:`ossfs.fs.content` alone, from the trio thread only.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Final

BASE: Final = 0
DIRTY: Final = 1
SENT: Final = 2
STAGED: Final = 3
ZERO: Final = 4
"""Kinds of extents; content.py says what they mean."""

_WATCHED: Final = 64
"""Touched runs remembered between two looks for a full chunk; beyond, the next look is at all of them."""

Hold = tuple[int, "Block", int, int]
"""Bytes in memory: (file offset, block, offset in the block, length)."""


class Block:
    """A buffer in memory with dead and live bytes: one large write, or many small ones gathered."""

    __slots__ = ("capacity", "fill", "frozen", "live", "sending", "view")

    def __init__(self, view: memoryview, fill: int) -> None:
        self.view = view
        self.capacity = len(view)
        self.fill = fill
        self.live = 0  # bytes that extents and held parts refer to
        self.frozen = fill  # below this, bytes never change again
        self.sending = 0  # parts in flight that refer to it


class SentPart:
    """A part of the upload in progress, in flight or done, at its place in the file."""

    __slots__ = ("done", "end", "holds", "length", "live", "number", "staged", "start")

    def __init__(self, number: int, start: int, length: int, holds: list[Hold]) -> None:
        self.number = number
        self.start = start
        self.length = length
        self.end = start + length
        self.live = 0  # bytes that extents refer to
        self.done = False
        self.staged = False
        # (file offset, block, offset in it, length), all of the part's bytes; None once dropped.
        self.holds: list[Hold] | None = holds

    @property
    def whole(self) -> bool:
        return self.live == self.length

    @property
    def readable(self) -> bool:
        return self.holds is not None or self.staged

    def held(self, start: int, length: int) -> Iterator[Hold]:
        """The memory of the file range [start, start + length), which must be held."""
        assert self.holds is not None
        end = start + length
        index = bisect_right(self.holds, start, key=lambda hold: hold[0]) - 1
        while start < end:
            at, block, offset, size = self.holds[index]
            count = min(at + size, end) - start
            yield start, block, offset + start - at, count
            start += count
            index += 1


class Extent:
    """One extent.  Where it starts is in the map's list of starts."""

    __slots__ = ("kind", "length", "offset", "source")

    def __init__(
        self, kind: int, length: int, source: Block | SentPart | None = None, offset: int = 0
    ) -> None:
        self.kind = kind
        self.length = length
        self.source = source
        self.offset = offset  # in the block, for Dirty


class Runs:
    """A set of offsets as sorted runs that neither overlap nor touch: which bytes are Dirty."""

    __slots__ = ("ends", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        low = bisect_left(self.ends, start)
        high = bisect_right(self.starts, end)
        if low < high:
            start = min(start, self.starts[low])
            end = max(end, self.ends[high - 1])
        self.starts[low:high] = [start]
        self.ends[low:high] = [end]

    def remove(self, start: int, end: int) -> None:
        low = bisect_right(self.ends, start)
        high = bisect_left(self.starts, end)
        if low >= high:
            return
        first, last = self.starts[low], self.ends[high - 1]
        starts, ends = [], []
        if first < start:
            starts.append(first)
            ends.append(start)
        if last > end:
            starts.append(end)
            ends.append(last)
        self.starts[low:high] = starts
        self.ends[low:high] = ends

    def around(self, offset: int) -> tuple[int, int] | None:
        index = bisect_right(self.starts, offset) - 1
        if index < 0 or self.ends[index] <= offset:
            return None
        return self.starts[index], self.ends[index]


class Watch:
    """Offsets whose runs have grown since the last look at them; None is all runs."""

    __slots__ = ("offsets",)

    def __init__(self) -> None:
        self.offsets: list[int] | None = []

    def touch(self, offset: int, run_start: int) -> None:
        offsets = self.offsets
        if offsets is None or (offsets and offsets[-1] >= run_start and offsets[-1] <= offset):
            return
        if len(offsets) >= _WATCHED:
            self.offsets = None
        else:
            offsets.append(offset)


def poor(block: Block) -> bool:
    """Mostly dead, and not on its way to the service."""
    return 2 * block.live <= block.capacity and not block.sending
