"""The extent map against a plain bytearray: random programs of everything that a writer does with it."""

from __future__ import annotations

import array
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ossfs.fs import content as content_module
from ossfs.fs import extents
from ossfs.fs.content import (
    BaseRange,
    Chunk,
    Content,
    CopyPart,
    LostBytes,
    MemoryRange,
    Piece,
    Plan,
    PlanLimits,
    PutPart,
    ReusePart,
    SentRange,
    Spill,
    ZeroPart,
    ZeroRange,
    part_size,
)
from ossfs.limits import GIB, KIB, MIB

SMALL = PlanLimits(
    chunk_size=32,
    min_part=8,
    max_part=64,
    max_parts=20,
    copy_split=48,
    single_put_fetch=10,
    zero_copy_min=24,
    max_put=64,
)


@contextmanager
def small_blocks() -> Iterator[None]:
    """Memory handling scaled down like SMALL, so that short programs reach every branch of it."""
    with (
        mock.patch.multiple(content_module, _KEEP=12, _LEAST_BLOCK=4, _LARGEST_BLOCK=16, _SLACK=32),
        mock.patch.object(extents, "_WATCHED", 3),
    ):
        yield


def check_map(content: Content) -> None:
    """The map's inner order: what must hold after each call."""
    at = 0
    dirty: list[tuple[int, int]] = []
    used: dict[int, int] = {}
    blocks: dict[int, extents.Block] = {}
    live: dict[int, int] = {}
    for start, extent in zip(content._starts, content._extents, strict=True):
        assert start == at
        assert extent.length > 0
        if extent.kind == extents.DIRTY:
            if dirty and dirty[-1][1] == at:
                dirty[-1] = (dirty[-1][0], at + extent.length)
            else:
                dirty.append((at, at + extent.length))
            block = extent.source
            assert isinstance(block, extents.Block)
            assert extent.offset + extent.length <= block.fill <= block.capacity
            blocks[id(block)] = block
            used[id(block)] = used.get(id(block), 0) + extent.length
        elif extent.kind == extents.SENT:
            part = extent.source
            assert part in content._parts
            assert part.start <= start
            assert start + extent.length <= part.end
            live[part.number] = live.get(part.number, 0) + extent.length
        elif extent.kind == extents.BASE:
            assert at + extent.length <= content.base_size
        at += extent.length
    assert at == content.size
    assert list(zip(content._runs.starts, content._runs.ends, strict=True)) == dirty
    assert content._part_starts == [part.start for part in content._parts]
    numbers = [part.number for part in content._parts]
    assert numbers == sorted(set(numbers))
    assert live == {part.number: part.live for part in content._parts}
    for one, other in zip(content._parts, content._parts[1:], strict=False):
        assert one.end <= other.start
    sending: dict[int, int] = {}
    for part in (*content._parts, *content._dead.values()):
        for _, block, _, length in part.holds or ():
            blocks[id(block)] = block
            used[id(block)] = used.get(id(block), 0) + length
            if not part.done:
                sending[id(block)] = sending.get(id(block), 0) + 1
    assert used == {key: block.live for key, block in blocks.items()}
    for key, block in blocks.items():
        assert block.sending == sending.get(key, 0)
    assert content._live == sum(used.values())
    assert content._held == sum(block.capacity for block in blocks.values())
    if content._gather is not None:
        assert id(content._gather) in blocks


def check_plan(plan: Plan, size: int, limits: PlanLimits, base_size: int) -> None:
    """What every plan must keep to."""
    if plan.kind == "put":
        (part,) = plan.parts
        assert isinstance(part, PutPart)
        assert (part.number, part.start, part.length) == (1, 0, size)
        assert size <= limits.max_put
    at = number = 0
    for index, part in enumerate(plan.parts):
        assert part.number > number
        number = part.number
        if not isinstance(part, ReusePart):
            assert part.start == at
        at += part.length
        if plan.kind == "multipart":
            assert 0 < part.length <= limits.max_part
            assert index == len(plan.parts) - 1 or part.length >= limits.min_part
        if isinstance(part, PutPart):
            assert sum(piece.length for piece in part.pieces) == part.length
            assert all(piece.length for piece in part.pieces)
        if isinstance(part, CopyPart):
            assert part.start + part.length <= base_size
    assert at == size
    assert number <= limits.max_parts
    assert len(plan.parts) >= 1


def fetched(plan: Plan) -> int:
    """Bytes of the base that carrying it out would download."""
    return sum(
        piece.length
        for part in plan.parts
        if isinstance(part, PutPart)
        for piece in part.pieces
        if isinstance(piece, BaseRange)
    )


class Bench:
    """A content, the bytearray that it must equal, and a writer, a service and a staging file for it."""

    def __init__(self, base: bytes, limits: PlanLimits = SMALL) -> None:
        self.limits = limits
        self.base = base
        self.model = bytearray(base)
        self.content = Content(len(base), limits=limits)
        self.service: dict[int, bytes] = {}
        self.flying: list[tuple[Chunk, bytes]] = []
        self.sent: dict[int, tuple[int, bytes]] = {}
        self.staging = bytearray()
        self.spills: list[Spill] = []

    def bytes_of(self, pieces: list[Piece]) -> bytes:
        out = bytearray()
        for piece in pieces:
            match piece:
                case MemoryRange(data):
                    assert data.format == "B"
                    out += data
                case BaseRange(start, length):
                    assert start == start and start + length <= len(self.base)
                    out += self.base[start : start + length]
                case ZeroRange(length):
                    out += bytes(length)
                case SentRange(number, start, length):
                    if number and number not in self.content_staged():
                        # Only the upload has it: the service's part is where the bytes are.
                        first, data = self.sent[number]
                        out += data[start - first : start - first + length]
                    else:
                        assert start + length <= len(self.staging)
                        out += self.staging[start : start + length]
        return bytes(out)

    def content_staged(self) -> set[int]:
        return {part.number for part in self.content._parts if part.staged}

    def check(self) -> None:
        content = self.content
        check_map(content)
        self.check_memory()
        assert content.size == len(self.model)
        assert self.bytes_of(content.read(0, len(self.model) + 5)) == self.model
        if bytes(self.model) != self.base:
            assert content.changed
        assert content.sent_parts == bool(content._parts or content._dead)
        for start, length in content.lost_ranges():
            assert self.model[start : start + length] == self.base[start : start + length]
        for chunk, data in self.flying:
            assert b"".join(chunk.pieces) == data, "bytes changed under way"

    def check_memory(self) -> None:
        """No more is held than twice the bytes that are live, and the slack; blocks of parts in flight
        cannot be moved."""
        content = self.content
        sending = {
            id(block): block.capacity
            for part in (*content._parts, *content._dead.values())
            for _, block, _, _ in part.holds or ()
            if block.sending
        }
        pinned = sum(sending.values())
        assert self.content.held_bytes <= 2 * self.content._live + content_module._SLACK + pinned

    # What a writer does

    def make_room(self, size: int) -> None:
        if not self.content.fits(size):
            self.commit()

    def write(self, offset: int, data: bytes) -> None:
        self.make_room(max(len(self.model), offset + len(data)))
        if self.content.breaks_unheld(offset, len(data)):
            self.commit()
        self.content.write(offset, data)
        if offset > len(self.model) and data:
            self.model += bytes(offset - len(self.model))
        self.model[offset : offset + len(data)] = data

    def truncate(self, size: int) -> None:
        self.make_room(size)
        old = len(self.model)
        if size < old and self.content.breaks_unheld(size, old - size):
            self.commit()
        self.content.truncate(size)
        del self.model[size:]
        self.model += bytes(size - len(self.model))

    def take(self, *, early: bool) -> Chunk | None:
        chunk = self.content.take_chunk(self.limits.chunk_size, early=early)
        if chunk is not None:
            limits = self.limits
            full = part_size(
                chunk.number, limits.chunk_size, max_part=limits.max_part, max_parts=limits.max_parts
            )
            assert limits.min_part <= chunk.length <= full
            assert 1 <= chunk.number <= limits.max_parts
            assert chunk.number not in {other.number for other, _ in self.flying}
            data = b"".join(chunk.pieces)
            assert data == self.model[chunk.start : chunk.start + chunk.length]
            self.flying.append((chunk, data))
            self.sent[chunk.number] = (chunk.start, data)
        else:
            # Nothing was overlooked by remembering only what was touched.
            self.content._look_again()
            assert self.content.take_chunk(self.limits.chunk_size, early=early) is None
        return chunk

    def land(self, index: int, *, fail: bool) -> None:
        if self.flying:
            chunk, data = self.flying.pop(index % len(self.flying))
            assert b"".join(chunk.pieces) == data
            if fail:
                self.content.part_failed(chunk.number)
            else:
                self.service[chunk.number] = data
                self.content.part_done(chunk.number)

    def stage(self, index: int) -> None:
        """Write a part that is whole into the staging file."""
        whole = [part for part in self.content._parts if part.whole and part.holds is not None]
        if whole:
            part = whole[index % len(whole)]
            start, data = self.sent[part.number]
            self.to_staging(start, data)
            self.content.mark_staged(part.number)

    def to_staging(self, start: int, data: bytes) -> None:
        self.staging += bytes(max(0, start + len(data) - len(self.staging)))
        self.staging[start : start + len(data)] = data

    def spill(self, most: int) -> None:
        if self.spills:
            spill = self.spills.pop()
            self.content.spilled(spill)
            return
        taken = self.content.take_spill(most)
        if taken is not None:
            data = b"".join(taken.pieces)
            assert data == self.model[taken.start : taken.start + taken.length]
            self.to_staging(taken.start, data)
            self.spills.append(taken)

    def drop(self, index: int) -> None:
        held = self.content.held_parts()
        assert held == sorted(held)
        if held:
            before = self.content.held_bytes
            freed = self.content.drop_bytes(held[index % len(held)])
            assert self.content.held_bytes == before - freed

    def forget(self) -> None:
        """The upload is lost; what was in flight with it."""
        doomed = [part for part in self.content._parts if part.holds is None and not part.staged]
        if doomed:
            with pytest.raises(LostBytes) as caught:
                self.content.forget_upload()
            assert sum(length for _, length in caught.value.ranges) == sum(part.live for part in doomed)
            return
        self.content.forget_upload()
        self.flying.clear()
        self.service.clear()
        assert not self.content.sent_parts

    def plan(self) -> Plan:
        while self.flying:
            self.land(0, fail=False)
        plan = self.content.plan(self.limits)
        check_plan(plan, len(self.model), self.limits, len(self.base))
        assert self.carried_out(plan) == self.model
        return plan

    def carried_out(self, plan: Plan) -> bytes:
        out = bytearray()
        for part in plan.parts:
            match part:
                case ReusePart(number, length):
                    assert len(self.service[number]) == length
                    out += self.service[number]
                case PutPart(_, _, _, pieces):
                    for piece in pieces:
                        if isinstance(piece, SentRange) and piece.number:
                            assert piece.number in self.content_staged()
                    out += self.bytes_of(pieces)
                case CopyPart(_, start, length):
                    out += self.base[start : start + length]
                case ZeroPart(_, _, length):
                    assert length >= self.limits.zero_copy_min
                    out += bytes(length)
        return bytes(out)

    def commit(self) -> None:
        self.plan()
        self.content.committed()
        self.base = bytes(self.model)
        self.service.clear()
        self.sent.clear()
        self.spills.clear()
        assert not self.content.changed
        assert self.content.held_bytes == 0
        assert not self.content.sent_parts


offsets = st.integers(0, 10_000)
Step = Callable[[Bench], object]


def data_of(count: int, fill: int) -> bytes:
    """Different at each offset, or all zeros."""
    return bytes((fill + index) % 251 + 1 for index in range(count)) if fill else bytes(count)


def write_at(where: int, count: int, fill: int) -> Step:
    def step(bench: Bench) -> None:
        size = len(bench.model)
        bench.write(min(where % (size + 40), 900), data_of(count, fill))

    step.__name__ = f"write_at({where}, {count}, {fill})"
    return step


def append(count: int, fill: int) -> Step:
    def step(bench: Bench) -> None:
        if len(bench.model) < 900:
            bench.write(len(bench.model), data_of(count, fill))

    return step


def stream(count: int, size: int, early: bool) -> Step:
    """Sequential writing, as most programs do it."""

    def step(bench: Bench) -> None:
        for index in range(count):
            if len(bench.model) < 900:
                bench.write(len(bench.model), data_of(size, index + 1))
            bench.take(early=early)

    return step


def read_at(where: int, count: int) -> Step:
    def step(bench: Bench) -> None:
        at = where % (len(bench.model) + 10)
        assert bench.bytes_of(bench.content.read(at, count)) == bench.model[at : at + count]

    return step


def appended(bench: Bench) -> None:
    pieces = bench.content.appended()
    if pieces is not None:
        assert bench.model == bench.base + bench.bytes_of(pieces)


def fill_runs(bench: Bench) -> None:
    while bench.take(early=False) is not None:
        pass


steps = st.one_of(
    st.builds(write_at, offsets, st.integers(1, 40), st.integers(0, 250)),
    st.builds(write_at, offsets, st.integers(1, 6), st.integers(0, 250)),
    st.builds(write_at, offsets, st.integers(30, 120), st.integers(1, 250)),
    st.builds(append, st.integers(1, 40), st.integers(0, 250)),
    st.builds(stream, st.integers(1, 12), st.integers(1, 20), st.booleans()),
    st.builds(lambda n: lambda bench: bench.truncate(n % (len(bench.model) + 60) % 900), offsets),
    st.builds(lambda n: lambda bench: bench.truncate(n % 900), offsets),
    st.builds(read_at, offsets, st.integers(1, 100)),
    st.builds(lambda early: lambda bench: bench.take(early=early), st.booleans()),
    st.just(fill_runs),
    st.builds(lambda n, fail: lambda bench: bench.land(n, fail=fail), offsets, st.booleans()),
    st.builds(lambda n: lambda bench: bench.land(n, fail=False), offsets),
    st.builds(lambda n: lambda bench: bench.drop(n), offsets),
    st.builds(lambda n: lambda bench: bench.stage(n), offsets),
    st.builds(lambda n: lambda bench: bench.spill(n), st.integers(1, 60)),
    st.just(lambda bench: bench.plan()),
    st.just(lambda bench: bench.commit()),
    st.just(lambda bench: bench.forget()),
    st.just(appended),
)


@settings(max_examples=2500, deadline=None, suppress_health_check=list(HealthCheck))
@given(base=st.integers(0, 700), program=st.lists(steps, max_size=50))
def test_random_programs_equal_a_bytearray(base: int, program: list[Step]) -> None:
    with small_blocks():
        bench = Bench(data_of(base, 7))
        bench.check()
        for step in program:
            step(bench)
            bench.check()
        bench.commit()
        bench.check()


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_long_random_programs(seed: int) -> None:
    """Longer than hypothesis makes them by itself, with each program leaning towards some steps, and with
    limits that make numbers scarce."""
    dice = random.Random(seed)
    limits = dice.choice(
        [
            SMALL,
            PlanLimits(16, min_part=8, max_part=32, max_parts=40, copy_split=16, zero_copy_min=8),
            PlanLimits(
                32, min_part=8, max_part=200, max_parts=8, copy_split=100, zero_copy_min=40, max_put=200
            ),
            PlanLimits(10, min_part=4, max_part=1000, max_parts=300, copy_split=100, zero_copy_min=20),
        ]
    )

    def upto(most: int) -> int:
        return dice.randrange(most)

    moves: list[Step] = [
        lambda b: write_at(upto(10_000), 1 + upto(40), upto(250))(b),
        lambda b: write_at(upto(10_000), 1 + upto(5), upto(250))(b),
        lambda b: write_at(upto(10_000), 30 + upto(90), 1 + upto(249))(b),
        lambda b: append(1 + upto(40), upto(250))(b),
        lambda b: stream(1 + upto(12), 1 + upto(20), dice.random() < 0.3)(b),
        lambda b: b.truncate(upto(len(b.model) + 60) % 900),
        lambda b: read_at(upto(10_000), upto(100))(b),
        lambda b: b.take(early=dice.random() < 0.5),
        fill_runs,
        lambda b: b.land(upto(100), fail=dice.random() < 0.3),
        lambda b: b.drop(upto(100)),
        lambda b: b.stage(upto(100)),
        lambda b: b.spill(1 + upto(60)),
        lambda b: dice.choice([b.commit, b.forget, b.plan, b.plan, b.plan])(),
    ]
    weights = [dice.random() ** 2 for _ in moves]
    with small_blocks():
        bench = Bench(data_of(dice.choice([0, upto(700)]), 7), limits)
        for step in dice.choices(moves, weights, k=150):
            step(bench)
            bench.check()
        bench.commit()


# Memory


def test_a_small_file_holds_little() -> None:
    content = Content()
    content.write(0, b"small")
    assert content.held_bytes <= 4 * KIB


def test_a_large_write_is_kept_and_not_copied() -> None:
    data = b"x" * MIB
    content = Content()
    content.write(0, data)
    (piece,) = content.read(0, MIB)
    assert isinstance(piece, MemoryRange)
    assert piece.data.obj is data
    assert content.held_bytes == MIB


def test_a_buffer_that_the_caller_may_change_is_copied() -> None:
    data = bytearray(b"x" * MIB)
    content = Content()
    content.write(0, data)
    data[:] = b"y" * MIB
    assert content.read(0, 1) == [MemoryRange(memoryview(b"x"))]


def test_views_of_other_formats_are_counted_in_bytes() -> None:
    content = Content()
    content.write(0, memoryview(array.array("I", [1, 2, 3])))
    assert content.size == 12


def test_a_million_appends_of_a_byte() -> None:
    content = Content()
    for offset in range(1_000_000):
        content.write(offset, b"a")
    assert content.held_bytes <= 2 * 1_000_000
    assert len(content.read(0, 1_000_000)) < 20


def test_a_hundred_thousand_rewrites_of_a_byte_hold_no_more_than_one() -> None:
    content = Content(MIB)
    for number in range(100_000):
        content.write(500, bytes([number % 255 + 1]))
    assert content.held_bytes <= 4 * KIB


def test_rewrites_of_bytes_that_were_sent_are_compacted() -> None:
    content = Content()
    for _ in range(10):
        content.write(content.size, b"x" * MIB)
    chunk = content.take_chunk(10 * MIB)
    assert chunk is not None
    content.part_done(chunk.number)
    for number in range(3000):
        content.write(1000 + number % 7, b"y" * (8 * KIB))
        content.plan(PlanLimits(10 * MIB))  # which freezes what it will send
        assert content.held_bytes <= 2 * (10 * MIB + 9 * KIB) + 2 * MIB


def test_large_writes_that_overlap_are_compacted() -> None:
    content = Content()
    for number in range(400):
        content.write(number * 70 * KIB, b"x" * MIB)
        assert content.held_bytes <= 2 * content.size + 2 * MIB


def test_scattered_bytes_share_blocks() -> None:
    content = Content(GIB)
    for index in range(10_000):
        content.write(index * 9973, b"s")
    assert content.held_bytes <= 2 * 10_000 + 2 * MIB


def test_bytes_of_a_chunk_do_not_change_under_way() -> None:
    content = Content()
    for index in range(3000):
        content.write(index * 4096, b"old!" * 1024)
    chunk = content.take_chunk(10 * MIB)
    assert chunk is not None
    content.write(0, b"new")
    assert bytes(chunk.pieces[0][:4]) == b"old!"
    assert content.read(0, 3) == [MemoryRange(memoryview(b"new"))]


def test_bytes_of_a_plan_do_not_change_under_way() -> None:
    content = Content()
    content.write(0, b"old")
    (part,) = content.plan(PlanLimits(10 * MIB)).parts
    content.write(0, b"new")
    assert isinstance(part, PutPart)
    assert part.pieces == [MemoryRange(memoryview(b"old"))]
    assert content.read(0, 3) == [MemoryRange(memoryview(b"new"))]


# Holes


def test_posix_fallocate_stays_a_hole() -> None:
    content = Content()
    for block in range(1, 1000):
        content.write(block * 4096 - 1, b"\0")
    assert content.read(0, content.size) == [ZeroRange(999 * 4096)]
    assert content.held_bytes == 0


def test_zeros_in_a_stream_are_data() -> None:
    """Otherwise they would tear the chunks apart."""
    content = Content()
    content.write(0, b"x" * 100)
    content.write(100, bytes(100))
    content.write(200, b"y" * 100)
    assert len(content.read(0, 300)) == 1


def test_growing_again_gives_zeros_not_the_base() -> None:
    content = Content(100)
    content.truncate(50)
    content.truncate(100)
    assert content.read(0, 100) == [BaseRange(0, 50), ZeroRange(50)]
    assert content.lost_ranges() == [(0, 50)]


# Questions


def test_appended_only() -> None:
    content = Content(100)
    assert content.appended() == []
    content.write(100, b"tail")
    pieces = content.appended()
    assert pieces is not None
    assert b"".join(piece.data for piece in pieces if isinstance(piece, MemoryRange)) == b"tail"
    content.write(50, b"x")
    assert content.appended() is None


def test_an_untouched_base_is_unchanged() -> None:
    assert not Content().changed
    assert not Content(5).changed
    content = Content(5)
    content.truncate(4)
    assert content.changed


def test_a_lost_upload_without_the_bytes_is_told() -> None:
    content = Content()
    for _ in range(10):
        content.write(content.size, b"x" * MIB)
    chunk = content.take_chunk(10 * MIB)
    assert chunk is not None
    content.part_done(chunk.number)
    content.drop_bytes(chunk.number)
    with pytest.raises(LostBytes) as caught:
        content.forget_upload()
    assert caught.value.ranges == [(0, 10 * MIB)]
    assert content.sent_parts


def test_dropping_the_bytes_of_a_part_in_flight_is_refused() -> None:
    content = Content()
    content.write(0, b"x" * (10 * MIB))
    chunk = content.take_chunk(10 * MIB)
    assert chunk is not None
    with pytest.raises(ValueError, match="still being sent"):
        content.drop_bytes(chunk.number)


def test_unknown_numbers_are_let_pass() -> None:
    """Their parts were overwritten or aborted while the request ran."""
    content = Content()
    content.part_done(7)
    content.part_failed(7)
    content.mark_staged(7)
    assert content.drop_bytes(7) == 0
