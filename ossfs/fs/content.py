"""The extent map of a file being changed: where each of its bytes is.

No I/O, no waiting, no locks.  An object belongs to one inode's writer and is used from the trio thread
only; nothing here awaits, so that every call is atomic to the tasks of that thread.

A file is a row of extents over [0, size):

========= ==========================================================================================
`Base`    a range of the object as it was opened, at the same offset
`Dirty`   bytes in memory that nobody else has
`Sent`    part of a part of the multipart upload in progress; its bytes may still be held in memory, or
          be in the local staging file at the same offset
`Staged`  bytes that are only in the staging file (their upload is gone, or memory was short)
`Zero`    a hole
========= ==========================================================================================

write, truncate and append only edit the map.  `take_chunk` turns a full run of Dirty bytes into a part
to be sent at once, `plan` says how to make the object out of everything (:mod:`ossfs.fs.plan`), and
`committed` makes all of it the new base.

Memory: writes of 64 KiB and more are kept as the objects that they came in.  Smaller ones are gathered
in blocks of 4 KiB to 1 MiB, which are overwritten in place until a view of their bytes has been given
out for sending; from then on those bytes never change, and an overwrite makes new ones.

One module above the usual length, since every method keeps the same invariants of one structure.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Final

from ossfs.fs import plan as planning
from ossfs.fs.extents import BASE, DIRTY, SENT, STAGED, ZERO, Block, Extent, Hold, Runs, SentPart, Watch, poor
from ossfs.fs.plan import (
    BaseRange,
    CopyPart,
    Fixed,
    MemoryRange,
    Part,
    Piece,
    Plan,
    PlanLimits,
    PutPart,
    ReusePart,
    SentRange,
    TooBig,
    ZeroPart,
    ZeroRange,
    make_plan,
    part_size,
    place_chunk,
)
from ossfs.limits import DEFAULT_CHUNK_SIZE, KIB, MIB

__all__ = [
    "BaseRange",
    "Buffer",
    "Chunk",
    "Content",
    "CopyPart",
    "LostBytes",
    "MemoryRange",
    "Part",
    "Piece",
    "Plan",
    "PlanLimits",
    "PutPart",
    "ReusePart",
    "SentRange",
    "Spill",
    "TooBig",
    "ZeroPart",
    "ZeroRange",
    "part_size",
]

Buffer = bytes | bytearray | memoryview

_KEEP: Final = 64 * KIB
"""Writes from here on are kept as they are; gathering them would copy too much."""

_LEAST_BLOCK: Final = 4 * KIB
_LARGEST_BLOCK: Final = MIB
_SLACK: Final = 2 * MIB
"""Dead bytes (overwritten, but inside a block that still has live ones) that are let be."""

_SPAN_KIND: Final = {
    BASE: planning.BASE,
    DIRTY: planning.OWN,
    SENT: planning.OWN,
    STAGED: planning.OWN,
    ZERO: planning.ZERO,
}


class LostBytes(ValueError):
    """Live bytes were only in an upload that is gone, or that cannot be read back."""

    def __init__(self, ranges: list[tuple[int, int]]) -> None:
        super().__init__(f"bytes that only the upload held: {ranges}")
        self.ranges = ranges
        """(start, length) in the file, ascending."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part to be uploaded now: its bytes do not change, whatever is written meanwhile."""

    number: int
    start: int
    length: int
    pieces: list[memoryview]


@dataclass(frozen=True, slots=True)
class Spill:
    """Dirty bytes to be written into the staging file at `start`, to make room in memory."""

    start: int
    length: int
    pieces: list[memoryview]
    sources: list[Hold]
    """(file offset, block, offset in it, length): which bytes these were."""


class Content:
    """The extent map.  A new one is all Base: the object as it was opened."""

    def __init__(self, base_size: int = 0, *, limits: PlanLimits | None = None) -> None:
        """`limits` are those that `take_chunk` places parts by (the sizes and the count of parts); the
        plan must be made with limits that are not stricter."""
        self._limits = limits or PlanLimits(DEFAULT_CHUNK_SIZE)
        self._reset(base_size)

    def _reset(self, base_size: int) -> None:
        self.base_size = base_size
        self._size = base_size
        self._starts: list[int] = [0] if base_size else []
        self._extents: list[Extent] = [Extent(BASE, base_size)] if base_size else []
        self._runs = Runs()
        self._watch_full = Watch()
        self._watch_early = Watch()
        # Parts with live bytes, in file order, which is the order of their numbers.
        self._parts: list[SentPart] = []
        self._part_starts: list[int] = []
        # Parts in flight of which nothing is live: their numbers are taken until they end.
        self._dead: dict[int, SentPart] = {}
        self._gather: Block | None = None
        self._held = 0
        self._live = 0  # of all blocks
        self._stuck = 0  # dead bytes that the last compaction could not get rid of

    # What it is

    @property
    def size(self) -> int:
        """Length of the file as it is now."""
        return self._size

    @property
    def held_bytes(self) -> int:
        """Memory that is held for the file's bytes: the capacity of the buffers, live or not.

        At most twice the Dirty bytes and the bytes of held parts, and 2 MiB.
        """
        return self._held

    @property
    def changed(self) -> bool:
        """Whether it differs from the base, or may."""
        if self._size != self.base_size:
            return True
        return len(self._extents) > 1 or (bool(self._extents) and self._extents[0].kind != BASE)

    @property
    def sent_parts(self) -> bool:
        """Whether any part is in flight, or done and still in use."""
        return bool(self._parts or self._dead)

    def lost_ranges(self) -> list[tuple[int, int]]:
        """(start, length) of the bytes that only the base object holds."""
        ranges: list[tuple[int, int]] = []
        for start, extent in zip(self._starts, self._extents, strict=True):
            if extent.kind == BASE:
                if ranges and sum(ranges[-1]) == start:
                    ranges[-1] = (ranges[-1][0], ranges[-1][1] + extent.length)
                else:
                    ranges.append((start, extent.length))
        return ranges

    def appended(self) -> list[Piece] | None:
        """If the base is untouched and the file only grew: what came after it.  Otherwise None."""
        if self._size < self.base_size:
            return None
        at = 0
        for extent in self._extents:
            if at >= self.base_size:
                break
            if extent.kind != BASE:
                return None
            at += extent.length
        return self.read(self.base_size, self._size - self.base_size)

    # Changing it

    def write(self, offset: int, data: Buffer) -> None:
        """Write; beyond the end, the gap becomes Zero.  `bytes` of 64 KiB and more are kept, not copied."""
        if isinstance(data, memoryview) and (data.format != "B" or data.ndim != 1):
            data = data.cast("B")
        count = len(data)
        if count == 0:
            return
        size = self._size
        end = offset + count
        if count < _KEEP:
            block = self._gather
            if offset == size and self._extents and block is not None:
                # The hot path: an append to the block that the file ends in.
                last = self._extents[-1]
                fill = block.fill
                if (
                    last.source is block
                    and last.offset + last.length == fill
                    and fill + count <= block.capacity
                ):
                    block.view[fill : fill + count] = data
                    block.fill = fill + count
                    block.live += count
                    self._live += count
                    last.length += count
                    self._size = end
                    self._runs.ends[-1] = end
                    self._touch(offset)
                    return
            elif offset < size:
                index = bisect_right(self._starts, offset) - 1
                extent = self._extents[index]
                if extent.kind == DIRTY:
                    source = extent.source
                    assert isinstance(source, Block)
                    inside = offset - self._starts[index]
                    at = extent.offset + inside
                    if at >= source.frozen and inside + count <= extent.length:
                        source.view[at : at + count] = data
                        return
        if not data[0] and not data[-1] and self._stays_hole(offset, end, data):
            if end > size:
                self._grow(end)
            return
        if offset > size:
            self._grow(offset)
        new = self._keep(data) if count >= _KEEP else self._gathered(data)
        self._replace(offset, end, new)
        self._runs.add(offset, end)
        self._touch(offset)
        self._compact_if_due()

    def truncate(self, size: int) -> None:
        """Up: the rest becomes Zero.  Down: cut; growing again gives zeros, not the base."""
        if size > self._size:
            self._grow(size)
        elif size < self._size:
            self._replace(size, self._size, [])
            self._runs.remove(size, self._size)
            self._size = size
            self._look_again()
            self._compact_if_due()

    def _grow(self, size: int) -> None:
        if self._extents and self._extents[-1].kind == ZERO:
            self._extents[-1].length += size - self._size
        else:
            self._starts.append(self._size)
            self._extents.append(Extent(ZERO, size - self._size))
        self._size = size

    def _stays_hole(self, offset: int, end: int, data: Buffer) -> bool:
        """Whether it writes zeros over a hole, or behind one: posix_fallocate writes thousands of them."""
        if offset <= self._size:
            if not self._extents:
                return False
            # At the end, what precedes decides; zeros in the midst of a stream stay a part of it.
            index = bisect_right(self._starts, min(offset, self._size - 1)) - 1
            extent = self._extents[index]
            at = self._starts[index]
            if extent.kind != ZERO or (at + extent.length < end and index < len(self._extents) - 1):
                return False
        return data == bytes(len(data))

    def _keep(self, data: Buffer) -> list[Extent]:
        if isinstance(data, memoryview) and isinstance(data.obj, bytes) and len(data) == len(data.obj):
            data = data.obj  # what was read from one map and is written to another
        view = memoryview(data if isinstance(data, bytes) else bytes(data))
        return [self._dirty(Block(view, len(view)), 0, len(view), new=True)]

    def _gathered(self, data: Buffer) -> list[Extent]:
        extents = []
        done, count = 0, len(data)
        while done < count:
            block = self._gather
            if block is None or block.fill == block.capacity:
                block = self._gather = self._new_block(count - done)
            take = min(count - done, block.capacity - block.fill)
            at = block.fill
            block.view[at : at + take] = data[done : done + take]
            block.fill += take
            extents.append(self._dirty(block, at, take))
            done += take
        return extents

    def _new_block(self, least: int) -> Block:
        # As large as what is held already, so that capacity stays below twice the use.
        want = min(max(least, self._live, _LEAST_BLOCK), _LARGEST_BLOCK)
        block = Block(memoryview(bytearray(1 << (want - 1).bit_length())), 0)
        self._held += block.capacity
        return block

    def _dirty(self, block: Block, offset: int, length: int, *, new: bool = False) -> Extent:
        """An extent for bytes that were just put into a block."""
        if new:
            self._held += block.capacity
        block.live += length
        self._live += length
        return Extent(DIRTY, length, block, offset)

    def _touch(self, offset: int) -> None:
        runs = self._runs
        run_start = runs.starts[-1]
        if offset < run_start:
            run_start = runs.starts[bisect_right(runs.starts, offset) - 1]
        self._watch_full.touch(offset, run_start)
        self._watch_early.touch(offset, run_start)

    def _look_again(self) -> None:
        """Parts or numbers have changed: any run may be takable now."""
        self._watch_full.offsets = None
        self._watch_early.offsets = None

    # Edits of the row of extents

    def _split(self, offset: int) -> int:
        """Make an extent start at `offset`; its index."""
        index = bisect_left(self._starts, offset)
        if offset >= self._size or (index < len(self._starts) and self._starts[index] == offset):
            return index
        extent = self._extents[index - 1]
        head = offset - self._starts[index - 1]
        tail = Extent(extent.kind, extent.length - head, extent.source, extent.offset + head)
        extent.length = head
        self._starts.insert(index, offset)
        self._extents.insert(index, tail)
        return index

    def _replace(self, start: int, end: int, new: list[Extent]) -> None:
        """Put `new` (nothing, or exactly [start, end)) in the place of what is in [start, end)."""
        if start == self._size:
            low = high = len(self._extents)
        else:
            low = self._split(start)
            high = len(self._extents) if end >= self._size else self._split(end)
        old = self._extents[low:high]
        if new and low > 0:
            # Bytes that follow each other in file and block are one extent.
            before, first = self._extents[low - 1], new[0]
            if _continues(before, first):
                before.length += first.length
                start += first.length
                new = new[1:]
        starts = []
        for extent in new:
            starts.append(start)
            start += extent.length
        self._starts[low:high] = starts
        self._extents[low:high] = new
        if end > self._size:
            self._size = end
        for extent in old:
            self._release(extent)

    def _release(self, extent: Extent) -> None:
        source = extent.source
        if isinstance(source, Block):
            self._unuse(source, extent.length)
        elif isinstance(source, SentPart):
            source.live -= extent.length
            if source.live == 0:
                self._bury(source)

    def _unuse(self, block: Block, length: int) -> None:
        block.live -= length
        self._live -= length
        if block.live == 0:
            self._held -= block.capacity
            if block is self._gather:
                self._gather = None

    def _bury(self, part: SentPart) -> None:
        """Nothing of the part is in the file any more; its number is free once it is not in flight."""
        index = bisect_left(self._part_starts, part.start)
        del self._parts[index], self._part_starts[index]
        if part.done:
            self._unhold(part)
        else:
            self._dead[part.number] = part
        self._look_again()

    def _unhold(self, part: SentPart) -> None:
        for _, block, _, length in part.holds or ():
            self._unuse(block, length)
        part.holds = None

    def _compact_if_due(self) -> None:
        dead = self._held - 2 * self._live
        if dead <= _SLACK or dead <= self._stuck + _SLACK // 2:
            return
        self._compact()
        self._stuck = self._held - 2 * self._live

    def _compact(self) -> None:
        """Move the live bytes out of blocks that are mostly dead."""
        self._gather = None
        moved: list[tuple[Extent, list[Extent]]] = []
        index = 0
        while index < len(self._extents):
            extent = self._extents[index]
            block = extent.source
            if isinstance(block, Block) and poor(block):
                data = block.view[extent.offset : extent.offset + extent.length]
                # A new block may lie between, so that one extent becomes two or more.
                new = self._gathered(data) if extent.length < _KEEP else self._keep(data)
                moved.append((extent, new))
            index += 1
        if moved:
            replaced = {id(extent): new for extent, new in moved}
            starts: list[int] = []
            extents: list[Extent] = []
            for start, extent in zip(self._starts, self._extents, strict=True):
                for one in replaced.get(id(extent), [extent]):
                    if extents and _continues(extents[-1], one):
                        extents[-1].length += one.length
                    else:
                        starts.append(start)
                        extents.append(one)
                    start += one.length
            self._starts, self._extents = starts, extents
            for extent, _ in moved:
                self._release(extent)
        for part in self._parts:
            if part.done and part.holds is not None and any(poor(block) for _, block, _, _ in part.holds):
                part.holds = [self._moved_hold(hold) for hold in part.holds]

    def _moved_hold(self, hold: Hold) -> Hold:
        start, block, offset, length = hold
        if not poor(block):
            return hold
        copy = Block(memoryview(bytes(block.view[offset : offset + length])), length)
        copy.live = length
        self._held += length
        self._live += length
        self._unuse(block, length)
        return start, copy, 0, length

    # Reading it back

    def read(self, offset: int, length: int) -> list[Piece]:
        """The bytes of [offset, offset + length), clipped to the file; held Sent bytes as memory."""
        return self._pieces(offset, min(offset + length, self._size), freeze=False)

    def _pieces(self, start: int, end: int, *, freeze: bool) -> list[Piece]:
        pieces: list[Piece] = []
        if start >= end:
            return pieces
        index = bisect_right(self._starts, start) - 1
        while start < end:
            extent = self._extents[index]
            inside = start - self._starts[index]
            count = min(extent.length - inside, end - start)
            source = extent.source
            if isinstance(source, Block):
                at = extent.offset + inside
                if freeze:
                    source.frozen = max(source.frozen, at + count)
                pieces.append(MemoryRange(source.view[at : at + count]))
            elif isinstance(source, SentPart):
                if source.holds is None:
                    pieces.append(SentRange(source.number, start, count))
                else:
                    pieces.extend(
                        MemoryRange(block.view[at : at + size])
                        for _, block, at, size in source.held(start, count)
                    )
            elif extent.kind == BASE:
                pieces.append(BaseRange(start, count))
            elif extent.kind == ZERO:
                pieces.append(ZeroRange(count))
            else:
                pieces.append(SentRange(0, start, count))
            start += count
            index += 1
        return pieces

    def breaks_unheld(self, offset: int, length: int) -> bool:
        """Whether writing or cutting this range would damage a sent part whose bytes nobody here has.

        A range that covers all of a part breaks nothing: the number is sent again with the new bytes.
        """
        end = offset + length
        index = max(bisect_right(self._part_starts, offset) - 1, 0)
        while index < len(self._parts) and self._part_starts[index] < end:
            part = self._parts[index]
            covered = offset <= part.start and part.end <= end
            if not part.readable and not covered and part.end > offset:
                return True
            index += 1
        return False

    # Sending while it is written

    def take_chunk(self, chunk_size: int, *, early: bool = False) -> Chunk | None:
        """A full chunk of adjacent Dirty bytes to be sent now, `part_size(number)` long; or None.

        With `early` (memory is short) a shorter run will do, from 100 KiB on; the least grows with the
        number as the full size does, so that the numbers last.  The bytes stay held until `drop_bytes`.
        Bytes inside a part that is already sent are left to `plan`.
        """
        watch = self._watch_early if early else self._watch_full
        least = self._limits.min_part if early else chunk_size
        if watch.offsets is None:
            for start, end in zip(self._runs.starts, self._runs.ends, strict=True):
                if end - start >= least:
                    chunk = self._take_from(start, end, chunk_size, early)
                    if chunk is not None:
                        return chunk
            watch.offsets = []
            return None
        while watch.offsets:
            run = self._runs.around(watch.offsets[-1])
            if run is not None and run[1] - run[0] >= least:
                chunk = self._take_from(*run, chunk_size, early)
                if chunk is not None:
                    return chunk
            watch.offsets.pop()
        return None

    def _take_from(self, start: int, end: int, chunk_size: int, early: bool) -> Chunk | None:
        """Take a chunk of the Dirty run [start, end), if one fits between the parts there."""
        index = bisect_right(self._part_starts, start)
        if index and self._parts[index - 1].end > start:
            start = self._parts[index - 1].end
        while start < end:
            stop = min(end, self._part_starts[index]) if index < len(self._parts) else end
            place = place_chunk(
                start,
                stop,
                before=self._fixed(index - 1) if index else None,
                after=self._fixed(index) if index < len(self._parts) else None,
                size=self._size,
                busy=self._dead,
                chunk_size=chunk_size,
                early=early,
                limits=self._limits,
            )
            if place is not None:
                return self._take(index, *place)
            if index == len(self._parts):
                break
            start = self._parts[index].end
            index += 1
        return None

    def _fixed(self, index: int) -> Fixed:
        part = self._parts[index]
        return Fixed(part.number, part.start, part.end, part.whole)

    def _take(self, index: int, number: int, start: int, length: int) -> Chunk:
        end = start + length
        low, high = self._split(start), self._split(end)
        holds: list[Hold] = []
        pieces: list[memoryview] = []
        at = start
        for extent in self._extents[low:high]:
            block = extent.source
            assert isinstance(block, Block)
            stop = extent.offset + extent.length
            block.frozen = max(block.frozen, stop)
            block.sending += 1
            holds.append((at, block, extent.offset, extent.length))
            pieces.append(block.view[extent.offset : stop])
            at += extent.length
        part = SentPart(number, start, length, holds)
        part.live = length
        # The blocks' live bytes pass from the extents to the part.
        self._starts[low:high] = [start]
        self._extents[low:high] = [Extent(SENT, length, part)]
        self._runs.remove(start, end)
        self._parts.insert(index, part)
        self._part_starts.insert(index, start)
        self._look_again()
        return Chunk(number, start, length, pieces)

    def _find(self, number: int) -> SentPart | None:
        index = bisect_left(self._parts, number, key=lambda part: part.number)
        if index < len(self._parts) and self._parts[index].number == number:
            return self._parts[index]
        return None

    def _landed(self, number: int) -> SentPart | None:
        """A part's request has ended; the part, unless nothing of it is live."""
        part = self._dead.pop(number, None)
        live = part is None
        if part is None:
            part = self._find(number)
        if part is None or part.done:
            return None
        for _, block, _, _ in part.holds or ():
            block.sending -= 1
        self._stuck = 0
        if live:
            return part
        self._unhold(part)
        self._look_again()
        return None

    def part_done(self, number: int) -> None:
        """The part is in the upload.  Unknown numbers (overwritten, aborted) are let pass."""
        part = self._landed(number)
        if part is not None:
            part.done = True
        self._compact_if_due()

    def part_failed(self, number: int) -> None:
        """The part is not in the upload: its live bytes, still held, are Dirty again."""
        part = self._landed(number)
        if part is not None:
            self._unsend(part)
            self._look_again()
        self._compact_if_due()

    def _unsend(self, part: SentPart) -> None:
        """Forget a part that was sent: held bytes turn Dirty, others are in the staging file."""
        end = min(part.end, self._size)
        low = self._split(part.start)
        high = len(self._extents) if end == self._size else self._split(end)
        starts: list[int] = []
        extents: list[Extent] = []
        for start, extent in zip(self._starts[low:high], self._extents[low:high], strict=True):
            if extent.source is not part:
                starts.append(start)
                extents.append(extent)
            elif part.holds is None:
                starts.append(start)
                extents.append(Extent(STAGED, extent.length))
            else:
                for at, block, offset, length in part.held(start, extent.length):
                    starts.append(at)
                    extents.append(self._dirty(block, offset, length))
                self._runs.add(start, start + extent.length)
        self._starts[low:high] = starts
        self._extents[low:high] = extents
        index = bisect_left(self._part_starts, part.start)
        del self._parts[index], self._part_starts[index]
        self._unhold(part)

    def drop_bytes(self, number: int) -> int:
        """Forget the memory of a part that is done; the bytes that became free.

        0 when that would lose bytes: the part was overwritten in part, so that it has to be sent again,
        and is not staged.
        """
        part = self._find(number)
        if part is None or part.holds is None:
            return 0
        if not part.done:
            raise ValueError(f"part {number} is still being sent")
        if not (part.whole or part.staged):
            return 0
        held = self._held
        self._unhold(part)
        self._compact_if_due()
        return held - self._held

    def mark_staged(self, number: int) -> None:
        """The part's bytes are in the staging file, at their offset in the file.

        To be said before `part_done`, or before anything else is written: a number whose part was
        overwritten entirely is given to another.
        """
        part = self._find(number)
        if part is not None:
            part.staged = True

    def held_parts(self) -> list[int]:
        """The parts that `drop_bytes` would free: held, done, and whole or staged; ascending."""
        return [
            part.number
            for part in self._parts
            if part.done and part.holds is not None and (part.whole or part.staged)
        ]

    def damaged_parts(self) -> list[int]:
        """The parts that `drop_bytes` would free once they are staged: held, done, overwritten in part."""
        return [
            part.number
            for part in self._parts
            if part.done and part.holds is not None and not (part.whole or part.staged)
        ]

    def live_bytes(self, number: int) -> list[tuple[int, list[memoryview]]]:
        """(file offset, bytes) of what the file still has of a held part."""
        part = self._find(number)
        if part is None or part.holds is None:
            return []
        return [
            (start, [block.view[at : at + size] for _, block, at, size in part.held(start, extent.length)])
            for start, extent in zip(self._starts, self._extents, strict=True)
            if extent.source is part
        ]

    # Memory is short, and no chunk can be taken

    def take_spill(self, most: int) -> Spill | None:
        """Dirty bytes to move to the staging file: the longest run, at most `most` of it; or None.

        They stay Dirty until `spilled`, and may be overwritten meanwhile.  One at a time for each file.
        """
        runs = self._runs
        if not runs.starts:
            return None
        index = max(range(len(runs.starts)), key=lambda run: runs.ends[run] - runs.starts[run])
        start, end = runs.starts[index], min(runs.ends[index], runs.starts[index] + most)
        sources: list[Hold] = []
        pieces: list[memoryview] = []
        at = start
        for position in range(self._split(start), self._split(end)):
            extent = self._extents[position]
            block = extent.source
            assert isinstance(block, Block)
            stop = extent.offset + extent.length
            block.frozen = max(block.frozen, stop)
            sources.append((at, block, extent.offset, extent.length))
            pieces.append(block.view[extent.offset : stop])
            at += extent.length
        return Spill(start, end - start, pieces, sources)

    def spilled(self, spill: Spill) -> int:
        """The bytes are in the staging file: forget those that are still the file's; what became free."""
        held = self._held
        for start, block, offset, length in spill.sources:
            end = min(start + length, self._size)
            while start < end:
                index = bisect_right(self._starts, start) - 1
                extent = self._extents[index]
                inside = start - self._starts[index]
                count = min(extent.length - inside, end - start)
                # Frozen bytes are never changed in place: the same place is the same bytes.
                if extent.source is block and extent.offset + inside == offset:
                    self._replace(start, start + count, [Extent(STAGED, count)])
                    self._runs.remove(start, start + count)
                start += count
                offset += count
        self._look_again()
        self._compact_if_due()
        return held - self._held

    # Making the object

    def fits(self, size: int) -> bool:
        """Whether a file of that size could still be planned around the parts that are sent.

        If not, but it would without them, complete the upload first and go on from there.
        """
        limits = self._limits
        last = self._parts[-1] if self._parts else None
        at, number = (min(last.end, size), last.number) if last else (0, 0)
        return -(-(size - at) // limits.max_part) <= limits.max_parts - number

    def plan(self, limits: PlanLimits) -> Plan:
        """How to make the object out of all this.  No chunk may be in flight.

        Raises TooBig, and LostBytes when a part was damaged whose bytes are nowhere at hand.
        """
        if self._dead or not all(part.done for part in self._parts):
            raise ValueError("a part is still being sent")
        lost = [part for part in self._parts if not part.whole and not part.readable]
        if lost:
            raise LostBytes(self._ranges_of(lost))
        spans = [
            (start, extent.length, _SPAN_KIND[extent.kind])
            for start, extent in zip(self._starts, self._extents, strict=True)
        ]
        fixed = [self._fixed(index) for index in range(len(self._parts))]
        # A body is sent from memory while the plan is carried out: its bytes must not change.
        return make_plan(
            self._size, spans, fixed, limits, lambda at, length: self._pieces(at, at + length, freeze=True)
        )

    def committed(self) -> None:
        """The plan was carried out: the object holds everything, and is the base now."""
        self._reset(self._size)

    def uploaded(self, size: int) -> None:
        """The upload was completed when the file had that size, and the file may have been written to since:
        what is still Sent is Base now.  No chunk may be in flight."""
        for extent in self._extents:
            if extent.kind == SENT:
                extent.kind, extent.source, extent.offset = BASE, None, 0
        for part in self._parts:
            self._unhold(part)
        self._parts, self._part_starts = [], []
        self.base_size = size
        self._look_again()
        self._compact_if_due()

    def forget_upload(self) -> None:
        """The upload is gone.  Sent bytes are Dirty again where they are held, and Staged where they
        are in the staging file; otherwise LostBytes is raised, and nothing changes."""
        lost = [part for part in self._parts if not part.readable]
        if lost:
            raise LostBytes(self._ranges_of(lost))
        for part in (*self._parts, *self._dead.values()):
            if not part.done:
                for _, block, _, _ in part.holds or ():
                    block.sending -= 1
        for part in list(self._parts):
            self._unsend(part)
        for part in self._dead.values():
            self._unhold(part)
        self._dead.clear()
        self._stuck = 0
        self._look_again()
        self._compact_if_due()

    def _ranges_of(self, parts: list[SentPart]) -> list[tuple[int, int]]:
        wanted = set(map(id, parts))
        return [
            (start, extent.length)
            for start, extent in zip(self._starts, self._extents, strict=True)
            if id(extent.source) in wanted
        ]


def _continues(before: Extent, after: Extent) -> bool:
    """Whether Dirty bytes that follow each other in the file do so in their block too."""
    return (
        before.kind == DIRTY
        and before.source is after.source
        and before.offset + before.length == after.offset
    )
