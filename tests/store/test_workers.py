"""The thread pool: outcomes, cancellation, growth and end."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

from ossfs.errors import NoThread
from ossfs.store.workers import Workers


async def test_outcomes() -> None:
    workers = Workers()
    with trio.fail_after(5):
        assert await workers.run(lambda: 42) == 42
        with pytest.raises(ZeroDivisionError):
            await workers.run(lambda: 1 // 0)
        assert len(workers) == 1
    workers.close()


async def test_grows_up_to_the_limit_and_queues_beyond() -> None:
    workers = Workers(3)
    gate = threading.Semaphore(0)
    running = 0
    peak = 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        gate.acquire(timeout=5)
        with lock:
            running -= 1

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(workers.run, work)
            gate.release(10)
    assert peak <= 3
    assert len(workers) <= 3
    workers.close()


async def test_without_more_threads_those_that_are_there_do_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A limit of processes or of memory: "can't start new thread"."""
    workers = Workers(3)
    gate = threading.Event()

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(workers.run, lambda: gate.wait(5))
            await trio.testing.wait_all_tasks_blocked()
            monkeypatch.setattr(threading.Thread, "start", refuse)
            done: list[int] = []

            async def second() -> None:
                done.append(await workers.run(lambda: 42))

            nursery.start_soon(second)
            await trio.testing.wait_all_tasks_blocked()
            assert len(workers) == 1 and not done
            gate.set()
        assert done == [42]
    for thread in workers.close():
        thread.join(5)
    alone = Workers(3)
    with pytest.raises(NoThread):
        await alone.run(lambda: 1)
    assert not alone.close()


async def test_cancel_ends_the_call_and_waits_for_the_thread() -> None:
    workers = Workers()
    stop = threading.Event()
    started = trio.Event()
    token = trio.lowlevel.current_trio_token()
    ended = []

    def work() -> str:
        token.run_sync_soon(started.set)
        stop.wait(5)
        ended.append(True)
        return "too late"

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(workers.run, work, stop.set)
            await started.wait()
            nursery.cancel_scope.cancel()
    assert ended
    workers.close()


async def test_without_cancel_the_outcome_counts() -> None:
    workers = Workers()
    go_on = threading.Event()
    started = trio.Event()
    token = trio.lowlevel.current_trio_token()
    results = []

    def work() -> str:
        token.run_sync_soon(started.set)
        go_on.wait(5)
        return "done"

    async def run() -> None:
        results.append(await workers.run(work))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await started.wait()
            nursery.cancel_scope.cancel()
            go_on.set()
    assert results == ["done"]
    workers.close()


async def test_what_has_not_begun_is_dropped() -> None:
    workers = Workers(1)
    go_on = threading.Event()
    started = trio.Event()
    token = trio.lowlevel.current_trio_token()
    ran = []

    def block() -> None:
        token.run_sync_soon(started.set)
        go_on.wait(5)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(workers.run, block)
            await started.wait()
            with trio.move_on_after(0.01) as scope:
                await workers.run(lambda: ran.append(1))
            assert scope.cancelled_caught
            go_on.set()
        await workers.run(lambda: None)
        with trio.CancelScope() as cancelled:
            cancelled.cancel()
            await workers.run(lambda: ran.append(2))
    assert ran == []
    workers.close()


async def test_idle_threads_end() -> None:
    told = threading.Event()
    workers = Workers(on_idle=told.set, idle_seconds=0.01)
    with trio.fail_after(5):
        await workers.run(lambda: None)
        assert await trio.to_thread.run_sync(told.wait, 5)
        assert len(workers) == 0
        assert await workers.run(lambda: 1) == 1
    workers.close()


async def test_close_ends_the_threads() -> None:
    workers = Workers()
    with trio.fail_after(5):
        await workers.run(lambda: None)
    for thread in workers.close():
        thread.join(5)
        assert not thread.is_alive()
    with pytest.raises(RuntimeError):
        await workers.run(lambda: None)


def test_an_outcome_nobody_waits_for_is_dropped() -> None:
    """The loop is gone before the thread is done."""
    go_on = threading.Event()
    workers = Workers()

    async def main() -> None:
        job_done = trio.lowlevel.current_trio_token()
        assert job_done
        trio.lowlevel.spawn_system_task(workers.run, lambda: go_on.wait(5), lambda: None)
        await trio.lowlevel.checkpoint()
        go_on.set()

    trio.run(main)
    for thread in workers.close():
        thread.join(5)
        assert not thread.is_alive()
