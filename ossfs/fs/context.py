"""What the parts of fs share: the store, the settings, and the tables of one mount.

Threading: trio thread only.  `Jobs` runs what changes the bucket in tasks of its own, so that a
caller whose deadline has passed gets its answer while the work goes on, and keeps its key locked,
until its outcome is known.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import outcome
import trio

from ossfs.errors import PosixError, level_of
from ossfs.fs.attrs import Defaults
from ossfs.fs.bodies import Bodies
from ossfs.fs.budget import Budget
from ossfs.fs.inodes import FileNode, Inodes
from ossfs.fs.keys import KeyQueue
from ossfs.fs.pace import Pace
from ossfs.fs.ports import AttrStore, BlockCache, FsConfig, Journal, Kernel, WriteBack
from ossfs.metrics import Metrics
from ossfs.store.base import ObjectStore

log = logging.getLogger(__name__)

T = TypeVar("T")


class Jobs:
    """Tasks that outlive the request that started them."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.running = 0
        self._idle = trio.Event()
        self._idle.set()

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do *work* in a task of its own and return its result.

        When the caller is cancelled the work goes on by itself; a failure that then nobody hears is
        logged.
        """
        box: list[outcome.Outcome[T]] = []
        done = trio.Event()
        abandoned = False

        async def task() -> None:
            try:
                box.append(await _capture(work))
            finally:
                done.set()
            if abandoned:
                _log_unheard(box[0])

        self.start(task)
        try:
            await done.wait()
        except trio.Cancelled:
            abandoned = True
            if box:  # it ended in the moment of the cancellation
                _log_unheard(box[0])
            raise
        if not box:
            raise PosixError(errno.EIO, "the mount is ending", level=logging.WARNING)
        return box[0].unwrap()

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do *work* in the background.  What it raises is logged."""
        self._enter()
        self._nursery.start_soon(self._background, work)

    async def _background(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except trio.Cancelled:
            raise
        except Exception as error:
            log.log(level_of(error), "%s", error, exc_info=level_of(error) >= logging.CRITICAL)
        finally:
            self._leave()

    def _enter(self) -> None:
        if self.running == 0:
            self._idle = trio.Event()
        self.running += 1

    def _leave(self) -> None:
        self.running -= 1
        if self.running == 0:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Until nothing runs."""
        while self.running:
            await self._idle.wait()


def _log_unheard(result: outcome.Outcome[object]) -> None:
    if isinstance(result, outcome.Error):
        level = level_of(result.error)
        traceback = result.error if level >= logging.CRITICAL else None
        log.log(level, "after its caller had gone: %s", result.error, exc_info=traceback)


async def _capture(work: Callable[[], Awaitable[T]]) -> outcome.Outcome[T]:
    try:
        return outcome.Value(await work())
    except trio.Cancelled:
        raise
    except Exception as error:  # noqa: BLE001  carried to the caller
        return outcome.Error(error)


@dataclass(slots=True)
class Context:
    """Everything that a file or directory needs to do its work."""

    store: ObjectStore
    config: FsConfig
    jobs: Jobs
    kernel: Kernel
    journal: Journal
    metrics: Metrics
    budget: Budget
    inodes: Inodes
    keys: KeyQueue = field(default_factory=KeyQueue)
    wall_ns: Callable[[], int] = time.time_ns
    failed: list[str] = field(default_factory=list)
    """Paths of files whose last bytes did not reach the bucket when nobody listened; told by umount."""
    unborn: set[FileNode] = field(default_factory=set)
    """Files that the bucket has nothing of yet: listings show them, and the directories above them."""
    unaborted: set[tuple[str, str]] = field(default_factory=set)
    """(key, upload id) of uploads that were given up, and that the service still has."""
    acl_refused: bool = False
    """May these keys not ask for the ACLs of objects?"""
    attr_store: AttrStore | None = None
    """Attributes remembered on disk, if there is a place: see meta.py."""
    disk: BlockCache | None = None
    """The read cache, if there is one: see ranges.py."""
    writeback: WriteBack | None = None
    """Where close(2) may leave a file for the moment: see writeback.py."""
    deferred_at: float = float("-inf")
    """When a file was left there last."""
    failing: dict[FileNode, str] = field(default_factory=dict)
    """Of what waits there: why its last upload failed.  It is tried again."""
    ending: trio.Event = field(default_factory=trio.Event)
    """The session is over: what cannot be uploaded now is left to the next mount."""
    pace: Pace = field(init=False)
    bodies: Bodies = field(init=False)

    def __post_init__(self) -> None:
        self.pace = Pace(self.config.connections)
        self.bodies = Bodies(self.budget)
        self.inodes.on_drop = self.bodies.drop

    @property
    def defaults(self) -> Defaults:
        """Attributes of objects that carry none."""
        c = self.config
        return Defaults(uid=c.uid, gid=c.gid, file_mode=c.file_mode, dir_mode=c.dir_mode, listed=c.attrs_list)


async def run_all(limit: int, works: list[Callable[[], Awaitable[None]]]) -> None:
    """Run all *works*, at most *limit* at a time; the first failure stops the rest and is raised."""
    failures: list[Exception] = []
    pending = iter(works)

    async def worker(scope: trio.CancelScope) -> None:
        for work in pending:
            if failures:
                return
            try:
                await work()
            except trio.Cancelled:
                raise
            except Exception as error:  # noqa: BLE001  raised below
                failures.append(error)
                scope.cancel()
                return

    async with trio.open_nursery() as nursery:
        for _ in range(min(limit, len(works))):
            nursery.start_soon(worker, nursery.cancel_scope)
    if failures:
        raise failures[0]
