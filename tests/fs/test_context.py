"""What the parts of fs share: jobs that outlive their callers, and many things at a time."""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from ossfs.errors import AccessDenied, OssfsError, PosixError, ServerFault
from ossfs.fs.context import Jobs, run_all
from ossfs.fs.inodes import ROOT
from tests.support.memory_store import MemoryStore
from tests.support.posix import Posix

pytestmark = pytest.mark.timeout(30)


@asynccontextmanager
async def jobs() -> AsyncIterator[Jobs]:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            made = Jobs(nursery)
            yield made
            await made.wait_idle()


# -- Jobs


async def test_a_job_gives_its_result() -> None:
    async def work() -> int:
        await trio.lowlevel.checkpoint()
        return 7

    async with jobs() as made:
        assert await made.run(work) == 7
        assert made.running == 0


@pytest.mark.parametrize("error", [AccessDenied("no"), ZeroDivisionError("oops")])
async def test_a_job_gives_its_failure_as_it_is(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise error

    async with jobs() as made:
        with pytest.raises(type(error)) as caught:
            await made.run(work)
    assert caught.value is error
    assert not caplog.records, "the caller heard it"


async def test_a_caller_that_is_cancelled_does_not_stop_the_work() -> None:
    go, ended = trio.Event(), trio.Event()

    async def work() -> None:
        await go.wait()
        ended.set()

    async with jobs() as made:
        with trio.CancelScope() as scope:
            scope.cancel()
            await made.run(work)
        assert scope.cancelled_caught and made.running == 1
        go.set()
        await ended.wait()
    assert made.running == 0


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (AccessDenied("no"), logging.ERROR),
        (ServerFault("5xx"), logging.WARNING),
        (KeyError("x"), logging.CRITICAL),
    ],
)
async def test_a_failure_that_nobody_hears_is_logged_once(
    error: Exception, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    go = trio.Event()

    async def work() -> None:
        await go.wait()
        raise error

    async with jobs() as made:
        with trio.CancelScope() as scope:
            scope.cancel()
            await made.run(work)
        go.set()
    (record,) = caplog.records
    assert record.levelno == level and "after its caller had gone" in record.getMessage()
    assert bool(record.exc_info) is (level == logging.CRITICAL)


async def test_a_failure_in_the_moment_of_the_cancellation_is_logged_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The caller is woken by its cancellation, and the work ends before it runs."""
    go = trio.Event()
    scope = trio.CancelScope()

    async def work() -> None:
        await go.wait()
        scope.cancel()
        raise AccessDenied("no")

    async def call(made: Jobs) -> None:
        with scope:
            await made.run(work)

    async with jobs() as made, trio.open_nursery() as nursery:
        nursery.start_soon(call, made)
        await trio.testing.wait_all_tasks_blocked()
        go.set()
    assert scope.cancelled_caught
    (record,) = caplog.records
    assert "after its caller had gone" in record.getMessage()


async def test_a_background_failure_is_logged_and_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ended = []

    async def fails(error: Exception) -> None:
        raise error

    async def works() -> None:
        ended.append(True)

    async with jobs() as made:
        made.start(lambda: fails(ServerFault("5xx")))
        made.start(lambda: fails(RuntimeError("odd")))
        made.start(works)
    assert ended
    assert sorted(r.levelno for r in caplog.records) == [logging.WARNING, logging.CRITICAL]
    assert [bool(r.exc_info) for r in sorted(caplog.records, key=lambda r: r.levelno)] == [False, True]


async def test_wait_idle_waits_for_jobs_that_jobs_start() -> None:
    ended = []

    async with jobs() as made:

        async def last() -> None:
            await trio.lowlevel.checkpoint()
            ended.append("last")

        async def first() -> None:
            await trio.lowlevel.checkpoint()
            made.start(last)
            ended.append("first")

        made.start(first)
        await made.wait_idle()
        assert ended == ["first", "last"]
        await made.wait_idle()


async def test_the_end_of_the_mount_reaches_callers_elsewhere() -> None:
    """The jobs' nursery is cancelled; a caller in another one must not wait for ever."""
    errors: list[BaseException] = []
    with trio.fail_after(10):
        async with trio.open_nursery() as callers, trio.open_nursery() as nursery:
            made = Jobs(nursery)

            async def call() -> None:
                try:
                    await made.run(trio.sleep_forever)
                except OssfsError as error:
                    errors.append(error)

            callers.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    (error,) = errors
    assert isinstance(error, PosixError) and error.errno == errno.EIO
    assert made.running == 0


# -- run_all


async def test_run_all_runs_so_many_at_a_time() -> None:
    running = peak = done = 0

    async def work() -> None:
        nonlocal running, peak, done
        running += 1
        peak = max(peak, running)
        await trio.lowlevel.checkpoint()
        running -= 1
        done += 1

    with trio.fail_after(5):
        await run_all(3, [work] * 10)
        assert (peak, done) == (3, 10)
        await run_all(3, [])
        await run_all(3, [work])
    assert done == 11


async def test_the_first_failure_stops_the_rest_and_is_raised_itself() -> None:
    started, cancelled = [], []

    async def waits() -> None:
        started.append("waits")
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append(True)
            raise

    async def fails() -> None:
        started.append("fails")
        await trio.testing.wait_all_tasks_blocked()
        raise AccessDenied("the first")

    async def never() -> None:
        started.append("never")

    with trio.fail_after(5), pytest.raises(AccessDenied, match="the first") as caught:
        await run_all(3, [waits, fails, waits, never])
    assert type(caught.value) is AccessDenied
    assert sorted(started) == ["fails", "waits", "waits"] and len(cancelled) == 2


async def test_two_failures_at_once_are_one() -> None:
    async def fails(number: int) -> None:
        await trio.lowlevel.checkpoint()
        raise ServerFault(str(number))

    with trio.fail_after(5), pytest.raises(ServerFault):
        await run_all(4, [lambda n=n: fails(n) for n in range(4)])  # type: ignore[misc]


async def test_cancelling_run_all_is_no_failure() -> None:
    ended = []
    with trio.fail_after(5):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def run() -> None:
                    await run_all(2, [trio.sleep_forever] * 4)  # type: ignore[list-item]
                    ended.append("not reached")

                nursery.start_soon(run)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught and not ended


async def test_a_failure_inside_a_failure_is_not_wrapped_twice() -> None:
    async def inner() -> None:
        raise AccessDenied("deep")

    async def outer() -> None:
        await run_all(2, [inner, trio.sleep_forever])  # type: ignore[list-item]

    with trio.fail_after(5), pytest.raises(AccessDenied, match="deep"):
        await run_all(2, [outer, trio.sleep_forever])  # type: ignore[list-item]


# -- the mount as a whole


async def test_a_directory_that_others_removed_is_not_the_root(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """`rm x` of a process inside such a directory once removed the root's x."""
    store.add("x", b"the root's")
    store.add("d/", b"")
    store.add("d/x", b"the directory's")
    inside = await fs.walk("d")
    assert inside != ROOT
    store.remove("d/x")
    store.remove("d/")
    await trio.sleep(10)
    assert not await fs.exists("d")
    with pytest.raises(OssfsError):
        await fs.tree.lookup(inside, b"x")
    with pytest.raises(OssfsError):
        await fs.tree.unlink(inside, b"x")
    with pytest.raises(OssfsError):
        await fs.tree.create(inside, b"new", 0o644, 0, fs.caller)
    assert store.keys() == ["x"] and store.data("x") == b"the root's"
