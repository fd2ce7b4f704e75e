"""The queue of each key: exclusion, order, cancellation."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from ossfs.fs.keys import KeyQueue

pytestmark = pytest.mark.timeout(60)


def empty(queue: KeyQueue) -> bool:
    return not (queue._waiting or queue._held or queue._fences)


class Log:
    """Who holds what; fails when two that overlap hold at once."""

    def __init__(self) -> None:
        self.queue = KeyQueue()
        self.inside: list[tuple[bool, tuple[str, ...]]] = []
        self.order: list[object] = []

    async def use(
        self,
        who: object,
        fence: bool,
        names: tuple[str, ...],
        work: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    ) -> None:
        taken = self.queue.fence(*names) if fence else self.queue.hold(*names)
        async with taken:
            for other in self.inside:
                assert not overlap((fence, names), other)
            assert all(self.queue.busy(name) for name in names)
            self.inside.append((fence, names))
            self.order.append(who)
            try:
                await work()
            finally:
                self.inside.remove((fence, names))


def overlap(a: tuple[bool, tuple[str, ...]], b: tuple[bool, tuple[str, ...]]) -> bool:
    for x in a[1]:
        for y in b[1]:
            if x == y or (a[0] and y.startswith(x)) or (b[0] and x.startswith(y)):
                return True
    return False


async def test_one_key_is_first_come_first_served() -> None:
    log = Log()
    with trio.fail_after(5):
        async with log.queue.hold("k"), trio.open_nursery() as nursery:
            for i in range(10):
                nursery.start_soon(log.use, i, False, ("k",))
                await trio.testing.wait_all_tasks_blocked()
            assert log.order == []
            nursery.cancel_scope.cancel()
        assert empty(log.queue)
        async with trio.open_nursery() as nursery, log.queue.hold("k"):
            for i in range(10):
                nursery.start_soon(log.use, i, False, ("k",))
                await trio.testing.wait_all_tasks_blocked()
    assert log.order == list(range(10))
    assert empty(log.queue)


async def test_others_do_not_wait() -> None:
    queue = KeyQueue()
    with trio.fail_after(5):
        async with queue.hold("a", "b"), queue.hold("c"), queue.fence("d/"), queue.hold("e/x", "d"):
            assert queue.busy("a") and queue.busy("d/anything") and queue.busy("d/") and not queue.busy("f")
    assert empty(queue)


async def test_the_same_key_twice_is_one() -> None:
    queue = KeyQueue()
    with trio.fail_after(5):
        async with queue.hold("a", "a"):
            assert queue.busy("a")
        async with queue.fence("a/", "a/"):
            pass
        async with queue.hold():
            pass
    assert empty(queue)


async def test_a_fence_waits_for_the_keys_below_it_and_they_for_it() -> None:
    log = Log()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery, log.queue.hold("d/x"):
            nursery.start_soon(log.use, "fence", True, ("d/",))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(log.use, "below", False, ("d/y",))
            nursery.start_soon(log.use, "beside", False, ("dd", "d"))
            await trio.testing.wait_all_tasks_blocked()
            assert log.order == ["beside"], "what comes later waits behind the fence that waits"
    assert log.order == ["beside", "fence", "below"]
    assert empty(log.queue)


@pytest.mark.parametrize(("first", "second"), [("a/", "a/b/"), ("a/b/", "a/"), ("a/", "a/")])
async def test_fences_that_overlap_wait_for_each_other(first: str, second: str) -> None:
    log = Log()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery, log.queue.fence(first):
            nursery.start_soon(log.use, "second", True, (second,))
            nursery.start_soon(log.use, "elsewhere", True, ("b/",))
            await trio.testing.wait_all_tasks_blocked()
            assert log.order == ["elsewhere"]
    assert empty(log.queue)


async def test_a_stream_of_keys_does_not_starve_a_fence() -> None:
    log = Log()
    done = trio.Event()

    async def stream(key: str) -> None:
        while not done.is_set():
            async with log.queue.hold(key):
                await trio.lowlevel.checkpoint()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for i in range(8):
                nursery.start_soon(stream, f"d/{i % 3}")
            await trio.lowlevel.checkpoint()
            await log.use("fence", True, ("d/",))
            done.set()
    assert empty(log.queue)


async def test_a_request_for_two_keys_is_not_starved_by_requests_for_one() -> None:
    log = Log()
    done = trio.Event()

    async def stream(key: str) -> None:
        while not done.is_set():
            async with log.queue.hold(key):
                await trio.lowlevel.checkpoint()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for key in "abab":
                nursery.start_soon(stream, key)
            await trio.lowlevel.checkpoint()
            await log.use("both", False, ("b", "a"))
            done.set()
    assert empty(log.queue)


async def test_a_waiter_that_is_cancelled_lets_those_behind_it_go() -> None:
    log = Log()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery, log.queue.hold("d/x"):
            scope = trio.CancelScope()

            async def fenced() -> None:
                with scope:
                    await log.use("fence", True, ("d/",))

            nursery.start_soon(fenced)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(log.use, "below", False, ("d/y",))
            await trio.testing.wait_all_tasks_blocked()
            assert log.order == []
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert log.order == ["below"], "while d/x is still held"
    assert empty(log.queue)


@pytest.mark.parametrize("fence", [False, True])
async def test_granted_in_the_moment_of_cancellation(fence: bool) -> None:
    """The waiter is woken by its cancellation first, then granted: it gives back what it never used."""
    log = Log()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def waiter() -> None:
                with scope:
                    await log.use("cancelled", fence, ("k",))

            async with log.queue.hold("k"):
                nursery.start_soon(waiter)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(log.use, "next", False, ("k",))
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
                # no checkpoint between: the release below grants to a task that is as good as gone
            assert log.queue.busy("k")
    assert log.order == ["next"]
    assert empty(log.queue)


async def test_a_failure_inside_gives_the_keys_back() -> None:
    queue = KeyQueue()
    with trio.fail_after(5):
        with pytest.raises(ValueError, match="inside"):
            async with queue.hold("a", "b"):
                raise ValueError("inside")
        with pytest.raises(ValueError, match="inside"):
            async with queue.fence("a/"):
                raise ValueError("inside")
    assert empty(queue)


NAMES = ["a", "a/", "a/b", "a/b/", "a/b/c", "b", "b/", "b/x"]
requests = st.lists(
    st.tuples(
        st.booleans(),
        st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True).map(tuple),
        st.integers(0, 3),
        st.none() | st.integers(0, 6),
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=120, deadline=None)
@given(requests=requests, seed=st.integers(0, 2**32))
def test_any_schedule(requests: list[tuple[bool, tuple[str, ...], int, int | None]], seed: int) -> None:
    """Exclusion, order where requests overlap, no deadlock, nothing left, whoever gives up and when."""
    trio.run(schedule, requests, seed)


async def schedule(requests: list[tuple[bool, tuple[str, ...], int, int | None]], seed: int) -> None:
    log = Log()
    asked: list[int] = []
    granted: list[int] = []
    cancelled: set[int] = set()
    chance = random.Random(seed)

    async def ask(number: int, scope: trio.CancelScope) -> None:
        fence, names, steps, _ = requests[number]

        async def work() -> None:
            granted.append(number)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()

        asked.append(number)
        with scope:
            await log.use(number, fence, names, work)
        if scope.cancelled_caught:
            cancelled.add(number)

    async def give_up(scope: trio.CancelScope, after: int) -> None:
        for _ in range(after):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for number, (_, _, _, limit) in enumerate(requests):
                scope = trio.CancelScope()
                nursery.start_soon(ask, number, scope)
                if limit is not None:
                    nursery.start_soon(give_up, scope, limit)
                for _ in range(chance.randrange(3)):
                    await trio.lowlevel.checkpoint()
    assert empty(log.queue)
    assert set(granted) | cancelled == set(range(len(requests)))
    place = {number: at for at, number in enumerate(granted)}
    for i, first in enumerate(asked):
        for second in asked[i + 1 :]:
            if first in place and second in place and overlap(requests[first][:2], requests[second][:2]):
                assert place[first] < place[second], "later, but served earlier"


async def test_a_key_is_taken_at_once_or_not_at_all() -> None:
    log = Log()
    queue = log.queue
    with trio.fail_after(5):
        async with queue.hold("a"), queue.fence("d/"):
            assert not queue.try_hold("a") and not queue.try_hold("d/x")
        async with trio.open_nursery() as nursery, queue.hold("d/y"):
            nursery.start_soon(log.use, "fence", True, ("d/",))
            await trio.testing.wait_all_tasks_blocked()
            assert not queue.try_hold("d/x"), "not before those who wait"
        assert queue.try_hold("a") and not queue.try_hold("a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.use, "behind it", False, ("a",))
            await trio.testing.wait_all_tasks_blocked()
            queue.let_go("a")
    assert log.order == ["fence", "behind it"] and empty(queue)
