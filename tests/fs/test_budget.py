"""The budget: order, reclaiming, refusal, cancelled waiters; and the buffers that are used again."""

from __future__ import annotations

import random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from ossfs.errors import PosixError
from ossfs.fs.budget import POOLED, Budget, Buffers


async def test_room_is_taken_at_once_and_given_back(autojump_clock: object) -> None:
    budget = Budget(100)
    with trio.fail_after(5):
        await budget.acquire(60)
        await budget.acquire(40)
        assert (budget.used, budget.free, budget.short) == (100, 0, True)
        budget.give(100)
    assert (budget.used, budget.peak, budget.short, budget.waiting) == (0, 100, False, False)


async def test_waiters_are_served_in_order(autojump_clock: object) -> None:
    """A small one does not overtake a large one, or the large one would wait for ever."""
    budget = Budget(100)
    budget.take(90)
    served: list[str] = []

    async def ask(name: str, amount: int) -> None:
        await budget.acquire(amount)
        served.append(name)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "large", 80)
            await wait_all_tasks_blocked()
            nursery.start_soon(ask, "small", 5)
            await wait_all_tasks_blocked()
            assert served == []
            assert not budget.try_take(1)
            budget.give(60)
            await wait_all_tasks_blocked()
            assert served == []
            budget.give(10)
            await wait_all_tasks_blocked()
            assert served == ["large"]  # 20 + 80: nothing is left for the small one
            budget.give(20)
    assert served == ["large", "small"]
    assert budget.used == 85


async def test_more_than_the_limit_is_the_limit(autojump_clock: object) -> None:
    budget = Budget(100)
    with trio.fail_after(5):
        await budget.acquire(1000)
    assert budget.used == 100


async def test_a_cancelled_waiter_lets_the_next_one_through(autojump_clock: object) -> None:
    budget = Budget(100)
    budget.take(50)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def ask_much() -> None:
                with scope:
                    await budget.acquire(90)

            nursery.start_soon(ask_much)
            await wait_all_tasks_blocked()
            nursery.start_soon(budget.acquire, 40)
            await wait_all_tasks_blocked()
            assert budget.used == 50
            scope.cancel()
        assert budget.used == 90
    assert not budget.waiting


async def test_who_is_cancelled_when_served_gives_it_back(autojump_clock: object) -> None:
    budget = Budget(100)
    budget.take(100)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(budget.acquire, 40)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            budget.give(100)  # serves the waiter, which has not run yet
            assert budget.used == 40
    assert budget.used == 0


async def test_refused_waiters_hear_why(autojump_clock: object) -> None:
    budget = Budget(100)
    budget.take(100)
    heard: list[str] = []

    async def ask() -> None:
        try:
            await budget.acquire(10)
        except PosixError as error:
            heard.append(str(error))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            budget.refuse(PosixError(28, "the staging disk is full"))
    assert heard == ["ENOSPC: the staging disk is full"] * 2
    assert budget.used == 100


class Holder:
    """Something clean that can be given up."""

    def __init__(self, budget: Budget, held: int) -> None:
        self.budget, self.held = budget, held
        self.asked = 0
        budget.take(held)
        budget.reclaimers[self.reclaim] = None

    def reclaim(self, wanted: int) -> int:
        self.asked += 1
        freed = min(wanted, self.held)
        self.held -= freed
        self.budget.give(freed)
        return freed


async def test_clean_bytes_go_before_writers_are_pressed(autojump_clock: object) -> None:
    budget = Budget(100)
    pressed: list[int] = []
    budget.pressers.append(lambda: pressed.append(1))
    holder = Holder(budget, 90)
    with trio.fail_after(5):
        await budget.acquire(50)
        assert (holder.held, pressed) == (50, [])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(budget.acquire, 80)
            await wait_all_tasks_blocked()
            assert (holder.held, pressed, budget.waiting) == (0, [1], True)
            budget.press()
            assert pressed == [1, 1]
            budget.give(50)
    assert budget.used == 80


def test_the_same_holder_is_not_always_the_one_to_give() -> None:
    budget = Budget(100)
    holders = [Holder(budget, 30) for _ in range(3)]
    for _ in range(3):
        budget.seize(20)
        budget.give(10)
    assert [holder.asked for holder in holders] == [1, 1, 1]


def test_seize_goes_over_the_limit_when_it_must() -> None:
    budget = Budget(100)
    holder = Holder(budget, 40)
    budget.take(60)
    budget.seize(50)
    assert (holder.held, budget.used, budget.free) == (0, 110, -10)
    assert not budget.try_take(1)


def test_adjust_takes_or_gives() -> None:
    budget = Budget(100)
    budget.adjust(30)
    budget.adjust(-10)
    budget.adjust(0)
    assert budget.used == 20


@given(st.integers(0, 2**32), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_whatever_happens_nothing_stays_charged(seed: int, askers: int) -> None:
    """Random askers, of which some are cancelled and some refused; clean holders beside them."""
    chance = random.Random(seed)

    async def main() -> None:
        budget = Budget(100)
        Holder(budget, chance.randrange(100))
        done = 0

        async def ask() -> None:
            nonlocal done
            amount = chance.randrange(1, 101)
            with trio.move_on_after(chance.choice([0, 1, 3, 1000])):
                try:
                    await budget.acquire(amount)
                except PosixError:
                    done += 1
                    return
                try:
                    await trio.sleep(chance.choice([0, 1, 2]))
                finally:
                    budget.give(amount)
            done += 1

        with trio.fail_after(10_000):
            async with trio.open_nursery() as nursery:
                for _ in range(askers):
                    nursery.start_soon(ask)
                    await trio.sleep(chance.choice([0, 0, 1]))
                    if chance.random() < 0.1:
                        budget.refuse(PosixError(28))
        assert done == askers
        assert not budget.waiting
        for reclaim in list(budget.reclaimers):
            reclaim(100)
        assert budget.used == 0

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_all_that_wait_are_counted_when_clean_bytes_are_asked_for(autojump_clock: object) -> None:
    """Each of them alone would find room enough, and nobody would be asked again."""
    budget = Budget(100)
    budget.take(60)
    holder = Holder(budget, 30)
    late = True

    def reclaim(wanted: int) -> int:  # gives what is asked, but only later
        nonlocal late
        late = late and wanted < 40
        return 0

    del budget.reclaimers[holder.reclaim]
    budget.reclaimers[reclaim] = None
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(budget.acquire, 25)
            await wait_all_tasks_blocked()
            nursery.start_soon(budget.acquire, 25)
            await wait_all_tasks_blocked()
            assert not late
            budget.give(90)
    assert budget.used == 50


# -- buffers


def test_a_full_buffer_is_used_again() -> None:
    buffers = Buffers(2 * POOLED)
    first = buffers.get(POOLED)
    buffers.put(first)
    assert buffers.idle == POOLED
    assert buffers.get(POOLED - 1) is first
    assert buffers.idle == 0


def test_small_and_huge_buffers_are_made_to_measure() -> None:
    buffers = Buffers(2 * POOLED)
    for length in (1, 4096, POOLED // 2, POOLED + 1):
        buffer = buffers.get(length)
        assert len(buffer) == length
        buffers.put(buffer)
    assert buffers.idle == 0


def test_idle_buffers_are_bounded() -> None:
    buffers = Buffers(2 * POOLED)
    for buffer in [buffers.get(POOLED) for _ in range(5)]:
        buffers.put(buffer)
    assert buffers.idle == 2 * POOLED


@pytest.mark.parametrize("amount", [1, POOLED, 3 * POOLED])
def test_idle_buffers_go_when_memory_is_taken(amount: int) -> None:
    budget = Budget(8 * POOLED)
    for buffer in [budget.buffers.get(POOLED) for _ in range(2)]:
        budget.buffers.put(buffer)
    assert budget.buffers.idle == 2 * POOLED
    budget.take(6 * POOLED)
    assert budget.buffers.idle == 2 * POOLED
    budget.take(amount)
    assert budget.used + budget.buffers.idle <= max(budget.limit, budget.used)
