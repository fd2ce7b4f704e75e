"""Plans by example and by invariant: what moves, what is copied, and that there are numbers enough."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossfs.fs.content import (
    BaseRange,
    Content,
    CopyPart,
    MemoryRange,
    Part,
    Plan,
    PlanLimits,
    PutPart,
    ReusePart,
    SentRange,
    TooBig,
    ZeroPart,
    ZeroRange,
    part_size,
)
from ossfs.fs.plan import place_chunk
from ossfs.limits import GIB, KIB, MAX_OBJECT_SIZE, MIB

TIB = 1024 * GIB
LIMITS = PlanLimits(chunk_size=10 * MIB)


def fetched(plan: Plan) -> int:
    return sum(
        piece.length
        for part in plan.parts
        if isinstance(part, PutPart)
        for piece in part.pieces
        if isinstance(piece, BaseRange)
    )


def sent(plan: Plan) -> int:
    return sum(part.length for part in plan.parts if isinstance(part, PutPart))


def check(plan: Plan, size: int, limits: PlanLimits = LIMITS) -> None:
    at = number = 0
    for part in plan.parts:
        assert part.number > number
        number = part.number
        if not isinstance(part, ReusePart):
            assert part.start == at
        at += part.length
        assert part.length <= limits.max_part
        if plan.kind == "multipart":
            assert part.length >= (limits.min_part if at < size else 1)
        if isinstance(part, PutPart):
            assert sum(piece.length for piece in part.pieces) == part.length
    assert at == size
    assert number <= limits.max_parts


def planned(content: Content, limits: PlanLimits = LIMITS) -> Plan:
    plan = content.plan(limits)
    check(plan, content.size, limits)
    return plan


def kinds(plan: Plan) -> list[type[Part]]:
    return [type(part) for part in plan.parts]


# Small files


def test_an_empty_file_is_one_empty_put() -> None:
    assert Content().plan(LIMITS) == Plan("put", [PutPart(1, 0, 0, [])])
    content = Content(GIB)
    content.truncate(0)
    assert content.plan(LIMITS) == Plan("put", [PutPart(1, 0, 0, [])])


def test_less_than_a_chunk_is_one_put() -> None:
    content = Content()
    content.write(0, b"x" * (10 * MIB - 1))
    plan = planned(content)
    assert plan.kind == "put"
    content.write(10 * MIB - 1, b"y")
    assert planned(content).kind == "multipart"


def test_a_small_edit_of_a_small_object_fetches_the_rest_and_puts() -> None:
    content = Content(MIB)
    content.write(1000, b"edit")
    plan = planned(content)
    assert plan.kind == "put"
    assert fetched(plan) == MIB - 4


def test_an_edit_of_a_middling_object_copies_instead_of_fetching_all() -> None:
    content = Content(8 * MIB)
    content.write(4 * MIB, b"edit")
    plan = planned(content)
    assert kinds(plan) == [CopyPart, PutPart, CopyPart]
    assert fetched(plan) < 200 * KIB


# The counts that the issue asks for


def test_4_kib_in_the_middle_of_1_gib() -> None:
    content = Content(GIB)
    content.write(GIB // 2, b"x" * 4096)
    plan = planned(content)
    assert len(plan.parts) <= 5
    assert fetched(plan) < 200 * KIB
    assert sent(plan) < MIB


@pytest.mark.parametrize("offset", [0, 1, 99 * KIB, 100 * KIB, 150 * KIB, GIB - 4096, GIB - 120 * KIB])
def test_4_kib_anywhere_in_1_gib(offset: int) -> None:
    content = Content(GIB)
    content.write(offset, b"x" * 4096)
    plan = planned(content)
    assert len(plan.parts) <= 5
    assert fetched(plan) < 300 * KIB


def test_append_1_kib_to_1_gib() -> None:
    content = Content(GIB)
    content.write(GIB, b"x" * KIB)
    plan = planned(content)
    assert kinds(plan) == [CopyPart, PutPart]
    assert fetched(plan) == 0
    assert sent(plan) == KIB


def test_truncate_to_half_moves_nothing() -> None:
    content = Content(GIB)
    content.truncate(GIB // 2)
    assert planned(content).parts == [CopyPart(1, 0, GIB // 2)]


def test_a_10_gib_hole_moves_nothing() -> None:
    content = Content()
    content.truncate(10 * GIB)
    plan = planned(content)
    assert set(kinds(plan)) == {ZeroPart}
    assert all(GIB <= part.length <= 5 * GIB for part in plan.parts)


def test_a_hole_with_a_byte_at_its_end() -> None:
    content = Content()
    content.write(10 * GIB, b"x")
    plan = planned(content)
    assert sent(plan) < 200 * KIB
    assert isinstance(plan.parts[-1], PutPart)


def test_a_small_hole_is_sent_as_zeros() -> None:
    content = Content()
    content.write(0, b"x" * (12 * MIB))
    content.write(13 * MIB, b"y" * (12 * MIB))
    plan = planned(content)
    assert set(kinds(plan)) == {PutPart}
    assert any(isinstance(piece, ZeroRange) for part in plan.parts for piece in part.pieces)


def test_many_small_edits_close_together_are_gathered() -> None:
    content = Content(100 * MIB)
    for index in range(1000):
        content.write(50 * MIB + index * 8 * KIB, b"x" * 4096)
    plan = planned(content)
    assert len(plan.parts) <= 5
    assert fetched(plan) < 5 * MIB


def test_small_edits_far_apart_do_not_fetch_what_is_between() -> None:
    content = Content(100 * MIB)
    for index in range(10):
        content.write(index * 10 * MIB + 5 * MIB, b"x" * 4096)
    plan = planned(content)
    assert len(plan.parts) == 21
    assert fetched(plan) <= 10 * 100 * KIB


def test_a_long_copy_is_split_to_run_in_parallel() -> None:
    content = Content(10 * GIB)
    content.write(10 * GIB, b"x" * KIB)
    assert len([part for part in planned(content).parts if isinstance(part, CopyPart)]) == 10


def test_a_stub_is_evened_out_unless_it_ends_the_file() -> None:
    content = Content(GIB)
    content.write(0, b"x" * (20 * MIB + 7))
    plan = planned(content)
    assert [part.length for part in plan.parts[:3]] == [10 * MIB, 5 * MIB + 4, 5 * MIB + 3]
    content = Content()
    content.write(0, b"x" * (20 * MIB + 7))
    assert [part.length for part in planned(content).parts] == [10 * MIB, 10 * MIB, 7]


# Sent parts


def streamed(parts: int, *, drop: bool = False) -> Content:
    content = Content()
    for _ in range(parts * 10):
        content.write(content.size, b"s" * MIB)
        chunk = content.take_chunk(10 * MIB)
        if chunk is not None:
            content.part_done(chunk.number)
            if drop:
                content.drop_bytes(chunk.number)
    return content


def test_what_was_sent_is_reused() -> None:
    content = streamed(3, drop=True)
    content.write(content.size, b"tail")
    plan = planned(content)
    assert kinds(plan) == [ReusePart, ReusePart, ReusePart, PutPart]
    assert sent(plan) == 4
    assert content.held_bytes < MIB


def test_a_patched_part_is_sent_again_under_its_number() -> None:
    content = streamed(3)
    assert not content.breaks_unheld(0, 4)
    content.write(0, b"head")
    plan = planned(content)
    assert kinds(plan) == [PutPart, ReusePart, ReusePart]
    assert (plan.parts[0].number, plan.parts[0].length) == (1, 10 * MIB)
    assert content.take_chunk(10 * MIB) is None
    assert content.held_parts() == [2, 3]
    assert content.drop_bytes(1) == 0


def test_a_patch_of_a_part_that_nobody_holds_is_foreseen() -> None:
    content = streamed(3, drop=True)
    assert content.breaks_unheld(5, 1)
    assert content.breaks_unheld(20 * MIB, 10 * MIB - 1)
    assert not content.breaks_unheld(20 * MIB, 10 * MIB), "covered entirely"
    assert not content.breaks_unheld(30 * MIB, 5)
    assert content.breaks_unheld(15 * MIB, 15 * MIB), "a cut through the second part"


def test_a_patched_staged_part_is_read_from_the_staging_file() -> None:
    content = streamed(2)
    content.mark_staged(1)
    assert content.drop_bytes(1) > 0
    content.write(100, b"patch")
    plan = planned(content)
    first = plan.parts[0]
    assert isinstance(first, PutPart)
    assert first.pieces[0] == SentRange(1, 0, 100)
    assert isinstance(first.pieces[1], MemoryRange)
    assert first.pieces[2] == SentRange(1, 105, 10 * MIB - 105)


def test_a_part_overwritten_entirely_is_sent_anew() -> None:
    content = streamed(2, drop=True)
    for index in range(10):
        content.write(index * MIB, b"n" * MIB) if index else content.write(0, b"n" * (10 * MIB))
    chunk = content.take_chunk(10 * MIB)
    assert chunk is not None
    assert (chunk.number, chunk.start, chunk.length) == (1, 0, 10 * MIB)


def test_the_number_of_a_part_in_flight_is_not_given_out_again() -> None:
    content = Content()
    content.write(0, b"a" * (10 * MIB))
    first = content.take_chunk(10 * MIB)
    content.truncate(0)
    content.write(0, b"b" * (10 * MIB))
    second = content.take_chunk(10 * MIB)
    assert first is not None and second is not None
    assert first.number != second.number
    assert bytes(first.pieces[0][:1]) == b"a"
    with pytest.raises(ValueError, match="still being sent"):
        content.plan(LIMITS)
    content.part_done(first.number)
    content.part_done(second.number)
    assert [part.number for part in planned(content).parts] == [second.number]


def test_a_chunk_in_the_midst_of_a_base_leaves_numbers_for_what_is_before() -> None:
    content = Content(TIB)
    for index in range(10):
        content.write(TIB // 2 + index * MIB, b"x" * MIB)
    chunk = content.take_chunk(10 * MIB)
    assert chunk is not None
    assert chunk.number > 103
    assert chunk.length == 10 * MIB
    content.part_done(chunk.number)
    plan = planned(content)
    assert fetched(plan) == 0
    content.write(TIB // 4, b"another")
    assert fetched(planned(content)) < 200 * KIB


def test_parts_written_in_any_order_find_their_numbers() -> None:
    """As a torrent client does it: a file of known size, filled chunk by chunk at random."""
    order = list(range(100))
    random.Random(5).shuffle(order)
    content = Content()
    content.truncate(1000 * MIB)
    taken = 0
    piece = b"t" * MIB
    for chunk_index in order:
        for index in range(10):
            content.write(chunk_index * 10 * MIB + index * MIB, piece)
        chunk = content.take_chunk(10 * MIB)
        if chunk is not None:
            taken += 1
            content.part_done(chunk.number)
            content.drop_bytes(chunk.number)
    assert taken == 100
    assert set(kinds(planned(content))) == {ReusePart}


# Numbers


def test_part_sizes_grow_from_the_thousandth_part_on() -> None:
    sizes = [part_size(number, 10 * MIB) for number in range(1, 10_001)]
    assert set(sizes[:1000]) == {10 * MIB}
    assert sizes == sorted(sizes)
    assert sizes[-1] == 5 * GIB
    assert 30 * TIB < sum(sizes) < 32 * TIB
    before = 0
    for size in sizes:
        assert size <= max(10 * MIB, before // 400), "a part is small beside what went before it"
        before += size


def test_a_file_of_the_largest_size_can_be_planned() -> None:
    content = Content()
    content.truncate(MAX_OBJECT_SIZE)
    plan = planned(content)
    assert len(plan.parts) == 10_000
    content.write(MAX_OBJECT_SIZE // 2, b"in the midst")
    plan = planned(content)
    assert len(plan.parts) == 10_000
    content.write(MAX_OBJECT_SIZE - 1, b"at the end")
    with pytest.raises(TooBig):
        content.plan(LIMITS)
    content.truncate(MAX_OBJECT_SIZE + 1)
    with pytest.raises(TooBig):
        content.plan(LIMITS)


def test_an_edit_of_the_largest_base_is_copied() -> None:
    content = Content(MAX_OBJECT_SIZE - 100 * GIB)
    content.write(TIB, b"edit")
    plan = planned(content)
    assert fetched(plan) < 200 * KIB
    assert sent(plan) < 200 * KIB


def test_more_edits_than_numbers_are_merged() -> None:
    content = Content(100 * GIB)
    for index in range(20_000):
        content.write(index * 5 * MIB, b"e" * 100)
    plan = planned(content)
    assert len(plan.parts) <= 10_000


def test_ten_thousand_parts_in_a_stream() -> None:
    """With chunks of 16 bytes: nearly all numbers are given out, and the rest goes with the plan."""
    limits = PlanLimits(chunk_size=16, min_part=8, max_part=8 * KIB, copy_split=KIB, zero_copy_min=KIB)
    content = Content(limits=limits)
    taken = 0
    block = b"z" * KIB
    while content.size < 20 * MIB:
        content.write(content.size, block)
        while (chunk := content.take_chunk(16)) is not None:
            taken += 1
            assert chunk.number == taken
            content.part_done(chunk.number)
            content.drop_bytes(chunk.number)
    plan = planned(content, limits)
    assert taken > 2000
    assert content.held_bytes < 2 * 20 * MIB
    while content.fits(content.size + 64 * KIB) and content.size < 64 * MIB:
        content.write(content.size, b"z" * (64 * KIB))
        while (chunk := content.take_chunk(16)) is not None:
            taken += 1
            content.part_done(chunk.number)
            content.drop_bytes(chunk.number)
    plan = planned(content, limits)
    assert plan.parts[-1].number <= 10_000


def test_growing_beyond_what_the_numbers_reach_is_foreseen() -> None:
    limits = PlanLimits(chunk_size=10, min_part=5, max_part=20, max_parts=10, copy_split=10, zero_copy_min=10)
    content = Content(limits=limits)
    content.write(0, b"x" * 40)
    while (chunk := content.take_chunk(10)) is not None:
        content.part_done(chunk.number)
    assert content.sent_parts
    assert content.fits(100)
    assert not content.fits(200)
    content.truncate(200)
    with pytest.raises(TooBig):
        content.plan(limits)
    content.truncate(100)
    planned(content, limits)


def test_early_chunks_do_not_use_up_the_numbers() -> None:
    """Memory so short that each 128 KiB has to go at once."""
    content = Content()
    taken = 0
    while content.size < 2 * GIB:
        content.write(content.size, b"e" * (512 * KIB))
        chunk = content.take_chunk(10 * MIB, early=True)
        if chunk is not None:
            taken = chunk.number
            content.part_done(chunk.number)
            content.drop_bytes(chunk.number)
    assert taken < 4000
    planned(content)


@settings(max_examples=500, deadline=None)
@given(
    size=st.integers(1, 5000),
    edits=st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 400)), max_size=12),
    limits=st.builds(
        PlanLimits,
        chunk_size=st.integers(10, 100),
        min_part=st.integers(1, 40),
        max_part=st.integers(100, 2000),
        max_parts=st.integers(60, 200),
        copy_split=st.integers(40, 3000),
        single_put_fetch=st.integers(0, 100),
        zero_copy_min=st.integers(1, 300),
        max_put=st.integers(100, 5000),
    ),
)
def test_plans_of_edits_keep_their_invariants(
    size: int, edits: list[tuple[int, int]], limits: PlanLimits
) -> None:
    content = Content(size, limits=limits)
    for start, length in edits:
        content.write(start, b"x" * length)
    planned(content, limits)


@settings(max_examples=500, deadline=None)
@given(size=st.integers(3000, 100_000), start=st.integers(0, 99_999), length=st.integers(1, 200))
def test_one_edit_fetches_less_than_two_least_parts(size: int, start: int, length: int) -> None:
    limits = PlanLimits(
        chunk_size=1000, min_part=100, max_part=50_000, copy_split=10_000, single_put_fetch=1000
    )
    content = Content(size, limits=limits)
    content.write(start % size, b"x" * length)
    plan = planned(content, limits)
    assert fetched(plan) < 3 * limits.min_part
    assert sent(plan) < length + 3 * limits.min_part
    assert len([part for part in plan.parts if isinstance(part, PutPart)]) == 1


def test_a_chunk_is_not_placed_where_it_would_leave_a_gap_too_small_for_a_part() -> None:
    limits = PlanLimits(chunk_size=32, min_part=8, max_part=64, max_parts=20, copy_split=48)
    placed = place_chunk(
        3, 100, before=None, after=None, size=100, busy=(), chunk_size=32, early=False, limits=limits
    )
    assert placed is not None
    assert placed[1] == 8
