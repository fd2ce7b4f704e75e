"""From an extent map to the requests that make the new object: one PutObject, or the parts of an upload.

No I/O, no state, no waiting: plain functions over plain values, called from the trio thread by
:mod:`ossfs.fs.content`, which also re-exports the types that its callers need.

The service's rules that shape a plan: every part but the last has at least 100 KiB, none more than
5 GiB, there are at most 10 000 numbers, and the parts are joined in ascending order of their numbers
(gaps are allowed).  Ours: bytes that nobody changed are copied by the server and not fetched, unless
a piece is too small to be a part by itself; holes are copied from zeros that the server already has.

A part number fixes a place in the file once its part was sent.  Planning therefore goes region by
region: what lies between two sent parts gets the numbers between theirs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ossfs.limits import GIB, MAX_PART_SIZE, MAX_PARTS, MAX_PUT_SIZE, MIB, MIN_PART_SIZE

_COPY_WORTH: Final = 4
"""A run of the base between two pieces that are put anyway is copied only from this many least parts
on: below, fetching it costs less than the two requests that leaving it out would add."""

_ZERO_PIECES: Final = 16
"""A hole is cut into about this many parts at most before they grow beyond `copy_split`."""

_SQUEEZE_STEPS: Final = 64


class TooBig(ValueError):
    """The file cannot be an object: it needs more parts, or larger ones, than there may be."""


@dataclass(frozen=True, slots=True)
class BaseRange:
    """Bytes [start, start + length) of the object as it was opened; the same offsets in the file."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class MemoryRange:
    """Bytes held in memory.  The view's format is "B", so that `len` and `nbytes` agree."""

    data: memoryview

    @property
    def length(self) -> int:
        """Bytes in the view."""
        return len(self.data)


@dataclass(frozen=True, slots=True)
class SentRange:
    """File range [start, start + length) that only part `number` of the upload holds, or the local
    staging file at the same offset when the part is staged.  `number` 0: in the staging file only."""

    number: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class ZeroRange:
    """A hole, or a piece of one."""

    length: int


Piece = BaseRange | MemoryRange | SentRange | ZeroRange


@dataclass(frozen=True, slots=True)
class ReusePart:
    """Sent already, and still whole: nothing to do but to list it."""

    number: int
    length: int


@dataclass(frozen=True, slots=True)
class PutPart:
    """A part to upload.  Its body is the concatenation of the pieces: `BaseRange` has to be fetched,
    `SentRange` read from the staging file, `ZeroRange` is zeros."""

    number: int
    start: int
    length: int
    pieces: list[Piece]


@dataclass(frozen=True, slots=True)
class CopyPart:
    """UploadPartCopy of the base object's bytes [start, start + length)."""

    number: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class ZeroPart:
    """Nothing but zeros, and many: to be copied from an object of zeros."""

    number: int
    start: int
    length: int


Part = ReusePart | PutPart | CopyPart | ZeroPart


@dataclass(frozen=True, slots=True)
class Plan:
    """How to make the object: for "put" exactly one `PutPart` (possibly empty); for "multipart" the
    parts in file order, which is the order of their numbers, covering the file exactly."""

    kind: Literal["put", "multipart"]
    parts: list[Part]


@dataclass(frozen=True, slots=True)
class PlanLimits:
    """The sizes that a plan keeps to.  The defaults are the service's; tests scale them down."""

    chunk_size: int
    min_part: int = MIN_PART_SIZE
    max_part: int = MAX_PART_SIZE
    max_parts: int = MAX_PARTS
    copy_split: int = GIB
    """Copies are cut to this while there are numbers enough: they run in parallel."""
    single_put_fetch: int = MIB
    """A small file goes up by one PutObject unless that means fetching more of the base than this."""
    zero_copy_min: int = 8 * MIB
    """Holes from here on are copied from zeros; shorter ones are sent as zeros."""
    max_put: int = MAX_PUT_SIZE

    def __post_init__(self) -> None:
        if not 1 <= self.min_part <= self.max_part // 2 or not 1 <= self.chunk_size <= self.max_part:
            raise ValueError("min_part must be at most half of max_part, and chunk_size at most max_part")
        if self.copy_split < self.min_part or self.max_parts < 1:
            raise ValueError("copy_split below min_part, or no part numbers")


def part_size(
    number: int, chunk_size: int, *, max_part: int = MAX_PART_SIZE, max_parts: int = MAX_PARTS
) -> int:
    """The length of part `number` of a stream whose end is not known.

    The first thousand parts are one chunk each, then the size doubles every 350 numbers, in steps of a
    chunk, up to 5 GiB: a part is never more than about 1/500 of what went before it.  With chunks of
    10 MiB the ten thousand numbers reach 31.0 TiB.  A file whose size is known when it is planned
    (holes, edits of a large base) reaches the service's limit of 10 000 x 5 GiB = 48.8 TiB.
    """
    # The curve scales with max_parts, so that tests with a few numbers see all of it.
    beyond = number / max_parts - 0.1
    if beyond <= 0:
        return min(chunk_size, max_part)
    # 2 ** 33 is beyond max_part / chunk_size for every chunk of at least a byte.
    return min(chunk_size * int(2.0 ** min(beyond / 0.035, 33.0)), max_part)


# What planning sees of an extent.
OWN: Final = 0  # ours, in memory or staged: free to send
BASE: Final = 1
ZERO: Final = 2


@dataclass(frozen=True, slots=True)
class Fixed:
    """A sent part, at its place in the file: [start, end), not clipped to the file's size."""

    number: int
    start: int
    end: int
    whole: bool


def place_chunk(
    start: int,
    end: int,
    *,
    before: Fixed | None,
    after: Fixed | None,
    size: int,
    busy: Container[int],
    chunk_size: int,
    early: bool,
    limits: PlanLimits,
) -> tuple[int, int, int] | None:
    """(number, start, length) for a chunk of the Dirty bytes [start, end), or None.

    `before` and `after` are the neighbouring parts, `busy` numbers that may not be given out.  What
    lies between the chunk and its neighbours remains plannable: no gap is too short to be a part, and
    numbers enough are left to cover each, if need be with parts of the largest size.
    """
    least = limits.min_part
    floor, first = (before.end, before.number + 1) if before else (0, 1)
    ceiling, stop = (after.start, after.number) if after else (size, limits.max_parts + 1)

    if 0 < start - floor < least:
        start = floor + least
    if start >= end:
        return None
    number = first
    if start > floor:
        reserved = _reserve(start - floor, ceiling - start, first, stop, after is None, chunk_size, limits)
        if reserved is None:
            return None
        number += reserved
    while number in busy:
        number += 1

    length = part_size(number, chunk_size, max_part=limits.max_part, max_parts=limits.max_parts)
    if end - start < length:
        # The least grows with the number like the full size, so that the numbers last.
        shortest = part_size(number, least, max_part=limits.max_part, max_parts=limits.max_parts)
        if not early or end - start < shortest:
            return None
        length = end - start
    if after and 0 < ceiling - start - length < least:
        length = ceiling - start - least
        if length < least:
            return None
    needed = _needed(ceiling - start - length, chunk_size, limits, open_end=after is None)
    return (number, start, length) if number + needed < stop else None


def _needed(gap: int, chunk_size: int, limits: PlanLimits, *, open_end: bool = False) -> int:
    """Numbers to keep for a gap: as many as it must have, and a few to copy around what changed; not
    more than one for each chunk, except at the open end: the file may grow there."""
    needed = _count(gap, limits.max_part) + max(1, limits.max_parts // 600)
    return needed if open_end else min(needed, _count(gap, min(chunk_size, limits.max_part)))


def _reserve(
    gap: int, rest: int, first: int, stop: int, open_end: bool, chunk_size: int, limits: PlanLimits
) -> int | None:
    """How many of the numbers [first, stop) to leave to a gap before a chunk; None if it cannot be.

    `rest` is what is there from the chunk on.
    """
    after = max(0, rest - chunk_size)
    needed = _needed(gap, chunk_size, limits)
    slack = stop - first - 1 - needed - _needed(after, chunk_size, limits, open_end=open_end)
    if slack < 0:
        return None
    # One for each chunk, in case all of it is written yet.
    extra = max(0, _count(gap, chunk_size) - needed)
    if not open_end:
        return needed + min(extra, _count(slack * gap, gap + after))
    # The first tenth of the numbers costs nothing; beyond, chunks grow with the number.
    cheap = max(0, limits.max_parts // 10 - first - needed)
    return needed + min(extra, slack // 4, cheap)


Body = Callable[[int, int], list[Piece]]


def make_plan(
    size: int,
    spans: Sequence[tuple[int, int, int]],
    fixed: Sequence[Fixed],
    limits: PlanLimits,
    body: Body,
) -> Plan:
    """Plan a file of `size` bytes.

    `spans` are (start, length, OWN | BASE | ZERO), in order and without gaps; `fixed` the parts with
    live bytes, in order; `body(start, length)` gives the pieces of a range.
    """
    if size > limits.max_parts * limits.max_part:
        raise TooBig(f"{size} bytes are more than {limits.max_parts} parts of {limits.max_part}")
    if not fixed:
        fetch = sum(length for _, length, kind in spans if kind == BASE)
        small = size < limits.chunk_size and fetch <= limits.single_put_fetch
        if (small or size < 2 * limits.min_part) and size <= limits.max_put:
            return Plan("put", [PutPart(1, 0, size, body(0, size) if size else [])])
    elif size == 0:
        return Plan("put", [PutPart(1, 0, 0, [])])

    planner = _Planner(size, spans, limits, body)
    number = at = 0
    for part in fixed:
        planner.region(at, part.start, number, part.number)
        end = min(part.end, size)
        if part.whole:
            planner.parts.append(ReusePart(part.number, end - part.start))
        else:
            pieces = body(part.start, end - part.start)
            planner.parts.append(PutPart(part.number, part.start, end - part.start, pieces))
        number, at = part.number, end
    planner.region(at, size, number, limits.max_parts + 1)
    return Plan("multipart", planner.parts)


_PUT: Final = OWN  # in a list of items, everything that goes up in a body
_COPY: Final = BASE
_HOLE: Final = ZERO


class _Item:
    """A stretch of a region that is put, copied or copied from zeros; cut into parts at the end."""

    __slots__ = ("kind", "length")

    def __init__(self, kind: int, length: int) -> None:
        self.kind = kind
        self.length = length


class _Planner:
    """Collects the parts, region by region."""

    def __init__(
        self, size: int, spans: Sequence[tuple[int, int, int]], limits: PlanLimits, body: Body
    ) -> None:
        self.parts: list[Part] = []
        self._size = size
        self._spans = _joined(spans)
        self._starts = [start for start, _, _ in self._spans]
        self._limits = limits
        self._body = body
        self._hole_min = max(limits.zero_copy_min, limits.min_part)

    def region(self, start: int, end: int, before: int, after: int) -> None:
        """Plan [start, end) with the numbers strictly between `before` and `after`."""
        if start >= end:
            return
        limits = self._limits
        room = after - before - 1
        if _count(end - start, limits.max_part) > room:
            raise TooBig(f"{end - start} bytes do not fit the {room} part numbers that are left for them")
        last = end == self._size
        assert last or end - start >= limits.min_part, "a gap between sent parts is too small to be a part"
        spans = self._clip(start, end)

        items = self._items(spans, 0, last)
        if self._tally(items, limits.max_part, limits.max_part) > room:
            items = self._squeeze(spans, last, room)
        copy, put = self._pieces(items, room)
        self._emit(items, start, before + 1, last, copy, put)

    def _clip(self, start: int, end: int) -> list[tuple[int, int]]:
        """(kind, length) of the spans inside [start, end)."""
        clipped: list[tuple[int, int]] = []
        index = bisect_right(self._starts, start) - 1
        while index < len(self._spans) and self._starts[index] < end:
            at, length, kind = self._spans[index]
            clipped.append((kind, min(at + length, end) - max(at, start)))
            index += 1
        return clipped

    def _items(self, spans: Iterable[tuple[int, int]], least: int, last: bool) -> list[_Item]:
        """What is put and what is copied, when runs shorter than `least` are not worth a copy."""
        copy_min = max(self._limits.min_part, least)
        hole_min = max(self._hole_min, least)
        items: list[_Item] = []
        for kind, length in spans:
            if (kind == BASE and length < copy_min) or (kind == ZERO and length < hole_min):
                kind = _PUT
            _push(items, kind, length)

        worth = max(copy_min, _COPY_WORTH * self._limits.min_part)
        merged: list[_Item] = []
        for index, item in enumerate(items):
            kind = item.kind
            if (
                kind == _COPY
                and item.length < worth
                and 0 < index < len(items) - 1
                and items[index - 1].kind == items[index + 1].kind == _PUT
            ):
                kind = _PUT
            _push(merged, kind, item.length)
        return self._fill_up(merged, last)

    def _fill_up(self, items: list[_Item], last: bool) -> list[_Item]:
        """Bring every put up to the least size of a part with bytes of its neighbours."""
        least = self._limits.min_part
        done: list[_Item] = []
        queue = items[::-1]  # a stack, so that absorbing a neighbour is a pop
        while queue:
            item = queue.pop()
            if item.kind == _PUT and done and done[-1].kind == _PUT:
                done[-1].length += item.length
                continue
            done.append(item)
            final = last and not queue
            if item.kind != _PUT or item.length >= least or final:
                continue
            need = least - item.length
            left = done[-2] if len(done) > 1 else None
            right = queue[-1] if queue else None
            # Zeros first, they need no fetching; then whoever has more to give.
            givers = sorted(
                (giver for giver in (left, right) if giver is not None),
                key=lambda giver: (giver.kind != _HOLE, -giver.length),
            )
            if sum(giver.length - least for giver in givers) >= need:
                for giver in givers:
                    given = min(giver.length - least, need)
                    giver.length -= given
                    item.length += given
                    need -= given
                continue
            # Nobody can give enough and stay a part: the cheaper neighbour goes up whole.
            assert givers, "a region smaller than a part was let through"
            cheapest = min(givers, key=lambda giver: (giver.kind != _HOLE, giver.length))
            item.length += cheapest.length
            if cheapest is left:
                done[-2:] = [item]
                if len(done) > 1 and done[-2].kind == _PUT:
                    done[-2:] = [_Item(_PUT, done[-2].length + item.length)]
            else:
                queue.pop()
        return done

    def _squeeze(self, spans: list[tuple[int, int]], last: bool, room: int) -> list[_Item]:
        """Too many pieces for the numbers: put the shortest runs instead of copying them."""
        lengths = sorted(
            {length for kind, length in spans if kind != OWN and length >= self._limits.min_part}
        )
        # Each try walks all spans: of very many lengths a few dozen steps are near enough.
        lengths = lengths[:: max(1, len(lengths) // _SQUEEZE_STEPS)]
        most = self._limits.max_part
        low, high = 0, len(lengths)
        # Absorbing all of them always fits, the caller checked that.
        best: list[_Item] | None = None
        while low < high:
            middle = (low + high) // 2
            items = self._items(spans, lengths[middle] + 1, last)
            if self._tally(items, most, most) <= room:
                best, high = items, middle
            else:
                low = middle + 1
        return best if best is not None else [_Item(_PUT, sum(length for _, length in spans))]

    def _pieces(self, items: list[_Item], room: int) -> tuple[int, int]:
        """The finest sizes to cut copies and puts to for which the numbers suffice."""
        most = self._limits.max_part
        copy = min(self._limits.copy_split, most)
        put = max(self._limits.chunk_size, self._limits.min_part)
        while self._tally(items, copy, put) > room:
            # Coarser copies only cost parallelism, coarser puts cost the caller memory.
            if copy < most:
                copy = min(2 * copy, most)
            elif put < most:
                put = min(2 * put, most)
            else:  # pragma: no cover - _squeeze made it fit
                raise TooBig("more pieces than part numbers")
        return copy, put

    def _tally(self, items: list[_Item], copy: int, put: int) -> int:
        total = 0
        for item in items:
            piece = put if item.kind == _PUT else self._hole_piece(item, copy)
            total += _count(item.length, piece)
        return total

    def _hole_piece(self, item: _Item, copy: int) -> int:
        """Copies of zeros may be larger: their number matters more than that they run in parallel."""
        if item.kind == _HOLE and item.length > _ZERO_PIECES * copy:
            return self._limits.max_part
        return copy

    def _emit(self, items: list[_Item], start: int, number: int, last: bool, copy: int, put: int) -> None:
        at = start
        for index, item in enumerate(items):
            final = last and index == len(items) - 1
            piece = put if item.kind == _PUT else self._hole_piece(item, copy)
            for length in _cut(item.length, piece, self._limits.min_part, final):
                self.parts.append(self._part(number, at, length))
                number += 1
                at += length

    def _part(self, number: int, start: int, length: int) -> Part:
        """Even a slice of a put can turn out to be nothing but base or zeros."""
        index = bisect_right(self._starts, start) - 1
        at, span, kind = self._spans[index]
        if start + length <= at + span:
            if kind == BASE:
                return CopyPart(number, start, length)
            if kind == ZERO and length >= self._hole_min:
                return ZeroPart(number, start, length)
        return PutPart(number, start, length, self._body(start, length))


def _joined(spans: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    joined: list[tuple[int, int, int]] = []
    for start, length, kind in spans:
        if joined and joined[-1][2] == kind:
            joined[-1] = (joined[-1][0], joined[-1][1] + length, kind)
        else:
            joined.append((start, length, kind))
    return joined


def _push(items: list[_Item], kind: int, length: int) -> None:
    if items and items[-1].kind == kind:
        items[-1].length += length
    else:
        items.append(_Item(kind, length))


def _count(length: int, piece: int) -> int:
    return -(-length // piece)


def _cut(length: int, piece: int, least: int, final: bool) -> list[int]:
    """Cut a stretch to `piece`; a stub is evened out with the piece before it, unless it ends the file."""
    full, rest = divmod(length, piece)
    if rest == 0:
        return [piece] * full
    if full == 0 or rest >= least or final:
        return [piece] * full + [rest]
    both = piece + rest
    if both < 2 * least:
        return [piece] * (full - 1) + [both]
    return [piece] * (full - 1) + [both - both // 2, both // 2]
