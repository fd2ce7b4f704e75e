"""Threads that run blocking calls for trio tasks.

Threading: `run` and `close` are for the one trio thread; functions run in the pool's own threads.

trio.to_thread costs 90 us a call, this 53: a thread is woken through a lock of its own, and the task
by run_sync_soon.  Threads are made on demand up to a maximum; beyond it calls queue, first come
first served.  An idle thread ends after a while.  They are daemons, so that a call which hangs
cannot keep the process from ending.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

import outcome
import trio

from ossfs.errors import NoThread

T = TypeVar("T")

IDLE_SECONDS: Final = 50.0
"""A thread without work ends after this; longer than connections are kept, so that its last act can
be to close those."""


class _Job:
    __slots__ = ("cancel", "fn", "raise_cancel", "result", "started", "task", "token")

    def __init__(self, fn: Callable[[], Any], cancel: Callable[[], None] | None) -> None:
        self.fn = fn
        self.cancel = cancel
        self.task = trio.lowlevel.current_task()
        self.token = trio.lowlevel.current_trio_token()
        self.raise_cancel: trio.lowlevel.RaiseCancelT | None = None
        self.started = False
        self.result: outcome.Outcome[Any] | None = None

    def run(self) -> None:
        """In a worker thread."""
        self.result = outcome.capture(self.fn)

    def tell(self) -> None:
        """In a worker thread, after run: the task goes on."""
        try:
            self.token.run_sync_soon(self._deliver)
        except trio.RunFinishedError:
            pass  # nobody is left who waits for it

    def _deliver(self) -> None:
        result, self.result = self.result, None
        assert result is not None
        if self.raise_cancel is not None and self.cancel is not None:
            result = outcome.capture(self.raise_cancel)
        trio.lowlevel.reschedule(self.task, result)


class _Worker:
    __slots__ = ("job", "wake")

    def __init__(self, job: _Job) -> None:
        self.job: _Job | None = job
        self.wake = threading.Lock()
        self.wake.acquire()


class Workers:
    """A pool of at most *limit* threads.  on_idle() is called in a thread that ends for lack of work."""

    def __init__(
        self,
        limit: int = 64,
        *,
        on_idle: Callable[[], None] | None = None,
        idle_seconds: float = IDLE_SECONDS,
        name: str = "ossfs-store",
    ) -> None:
        self._limit = limit
        self._on_idle = on_idle
        self._idle_seconds = idle_seconds
        self._name = name
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._queue: deque[_Job] = deque()
        self._threads: set[threading.Thread] = set()
        self._serial = 0
        self._closed = False

    async def run(self, fn: Callable[[], T], cancel: Callable[[], None] | None = None) -> T:
        """Run fn in a thread and return, or raise, its outcome.

        When the task is cancelled: a call that has not begun is dropped and Cancelled raised.  A
        running one is ended by *cancel()* (called in the trio thread, maybe more than once), waited
        for, and Cancelled raised; without *cancel* it runs on and its outcome is this call's.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        job = _Job(fn, cancel)
        self._submit(job)

        def abort(raise_cancel: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            job.raise_cancel = raise_cancel
            with self._lock:
                if not job.started:
                    self._queue.remove(job)
                    return trio.lowlevel.Abort.SUCCEEDED
            if job.cancel is not None:
                job.cancel()
            return trio.lowlevel.Abort.FAILED

        result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    def _submit(self, job: _Job) -> None:
        with self._lock:
            if self._closed:
                raise RuntimeError("the workers are closed")
            if self._idle:
                worker = self._idle.pop()
                job.started = True
                worker.job = job
                worker.wake.release()
                return
            if len(self._threads) >= self._limit:
                self._queue.append(job)
                return
            job.started = True
            self._serial += 1
            thread = threading.Thread(
                target=self._work, args=(_Worker(job),), name=f"{self._name}-{self._serial}", daemon=True
            )
            self._threads.add(thread)
            try:
                thread.start()
            except (RuntimeError, MemoryError) as error:
                # "can't start new thread": memory or the limit of processes is used up.
                self._threads.discard(thread)
                if not self._threads:
                    raise NoThread(f"{self._name}: {error}") from error
                job.started = False
                self._queue.append(job)

    def _work(self, worker: _Worker) -> None:
        while (job := worker.job) is not None:
            job.run()
            with self._lock:
                following = self._queue.popleft() if self._queue else None
                if following is not None:
                    following.started = True
                worker.job = following
                idle = following is None and not self._closed
                if idle:
                    self._idle.append(worker)  # before the task goes on: its next call finds this thread
            job.tell()
            del job
            if following is not None:
                continue
            if not idle:
                break
            if worker.wake.acquire(timeout=self._idle_seconds):
                continue
            with self._lock:
                if worker in self._idle:
                    self._idle.remove(worker)
                    break
            worker.wake.acquire()  # work came at the last moment
        with self._lock:
            self._threads.discard(threading.current_thread())
        if self._on_idle is not None:
            self._on_idle()

    def __len__(self) -> int:
        """Count of threads."""
        with self._lock:
            return len(self._threads)

    def close(self) -> list[threading.Thread]:
        """Let the threads end; returns those that are still there, to be joined."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            threads = list(self._threads)
        for worker in idle:
            worker.wake.release()
        return threads
