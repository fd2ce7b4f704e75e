"""Deletes that are sent together.

Threading: trio thread only; batches are sent by background jobs.

unlink(2) takes the name away at once for this machine, and the key stays locked until
DeleteMultipleObjects has answered for it, within a second, a thousand keys at a time.  Whatever else
wants the key, a new file of that name, a rename, the removal of the directory above, makes the batch
go at once and waits for it.  So does fsync of the directory, and unmounting.

A delete remembers the version that was to go.  The service has no conditional delete, so when an
answer was lost, or a batch was late, each object is looked at first, and one that is not the version
that was removed is left alone: another machine has made it anew.  Single deletes, of lock files and of
what is renamed, go through here for the same reason.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio

from ossfs.errors import NotFound, OssfsError, StoreError, Transient, level_of
from ossfs.fs.context import Context, run_all
from ossfs.fs.inodes import Version
from ossfs.limits import DELETE_BATCH
from ossfs.store.base import ObjectInfo

log = logging.getLogger(__name__)

LINGER = 0.5
"""Seconds that a batch waits for more; durability of unlink is promised within one."""
LATE = 2.0
"""Seconds after which the object is looked at before it is deleted."""
REPEATS = 3
PARALLEL_CHECKS = 16


Ended = Callable[[bool, StoreError | None], None]
"""Told whether the name is gone, and why not; no reason when somebody else has made it anew."""


@dataclass(eq=False)
class _Pending:
    key: str
    version: Version | None
    queued_at: float
    ended: Ended
    done: trio.Event = field(default_factory=trio.Event)


class Deletes:
    """The deletes of one mount that were not sent yet."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._waiting: list[_Pending] = []
        self._hurry = trio.Event()
        self._running = False
        self._idle = trio.Event()
        self._idle.set()
        ctx.keys.on_contention = self.hurry

    def queue(self, key: str, version: Version | None, ended: Ended) -> None:
        """Delete *key* soon.  It is to be taken by the batch at once: see `hold`.

        ended(gone, error) is called, in the trio thread, when the outcome is known.
        """
        self._waiting.append(_Pending(key, version, trio.current_time(), ended))
        if len(self._waiting) >= DELETE_BATCH:
            self.hurry()
        if not self._running:
            self._running = True
            self._idle = trio.Event()
            self._ctx.jobs.start(self._run)

    def hurry(self) -> None:
        """Somebody waits for one of these keys."""
        self._hurry.set()

    async def now(self, key: str, version: Version | None) -> None:
        """Delete *key*, which the caller holds, and wait for it.  Raises what the store raises.

        What another machine puts there after an answer was lost is left alone.
        """
        began = trio.current_time()

        def unchanged(info: ObjectInfo) -> bool:
            return version is None or version.is_still(info, trio.current_time() - began)

        await self._ctx.store.delete(key, unchanged=unchanged)

    async def all_now(self, versions: Sequence[Version]) -> None:
        """The same for many, a batch at most.  Raises what the service refuses the batch with, or the first
        that it refuses when all have been tried."""
        failures: list[StoreError] = []

        def ended(gone: bool, error: StoreError | None) -> None:
            if error is not None:
                failures.append(error)

        began = trio.current_time()
        batch = [_Pending(version.key, version, began, ended) for version in versions]
        left, failure = await self._send_together(batch)
        if failure is not None and not isinstance(failure, Transient):
            raise failure
        await self._send_singly(left)
        if failures:
            raise failures[0]

    async def flush(self) -> None:
        """Until all that is queued now has been answered for."""
        while self._running:
            self.hurry()
            await self._idle.wait()

    async def _run(self) -> None:
        try:
            while self._waiting:
                with trio.move_on_after(LINGER):
                    await self._hurry.wait()
                self._hurry = trio.Event()
                batch, self._waiting = self._waiting[:DELETE_BATCH], self._waiting[DELETE_BATCH:]
                if self._waiting:
                    self._hurry.set()
                await self._send(batch)
        finally:
            self._running = False
            self._idle.set()

    async def _send(self, batch: list[_Pending]) -> None:
        began = trio.current_time()
        left, failure = await self._send_together(batch)
        late = trio.current_time() - began >= self._ctx.config.op_timeout
        await self._send_singly(left, failure if late else None)

    async def _send_together(self, batch: list[_Pending]) -> tuple[list[_Pending], StoreError | None]:
        """Those that are left to be deleted one by one, and what the last request failed with."""
        left = batch
        began = trio.current_time()
        sure = all(began - p.queued_at < LATE for p in batch)
        failure: StoreError | None = None
        for _ in range(REPEATS):
            if not sure:
                left = await self._unchanged(left)
            if not left:
                return [], None
            try:
                refused = set(await self._ctx.store.delete_many([p.key for p in left], guard=lambda: False))
            except StoreError as error:
                failure = error
                if not isinstance(error, Transient):
                    break
                if trio.current_time() - began >= self._ctx.config.op_timeout:
                    return left, failure  # nobody answers, so looking is in vain, too
                sure = False
                continue
            failure = None
            for pending in left:
                if pending.key not in refused:
                    self._end(pending, gone=True)
            left = [p for p in left if p.key in refused]
            if not left:
                return [], None
            sure = False
        if not sure:
            left = await self._unchanged(left)
        return left, failure

    async def _send_singly(self, left: list[_Pending], silence: StoreError | None = None) -> None:
        """silence: nobody answers; else a thousand keys would be a thousand deadlines."""
        for pending in left:
            try:
                if isinstance(silence, Transient):
                    raise silence
                await self.now(pending.key, pending.version)
            except StoreError as error:
                silence = error
                log.log(
                    max(level_of(error), logging.ERROR),
                    "%s could not be removed, and is shown again: %s",
                    pending.key,
                    error,
                )
                self._end(pending, gone=False, error=error)
            else:
                self._end(pending, gone=True)

    async def _unchanged(self, batch: list[_Pending]) -> list[_Pending]:
        """Those whose object still is the one that was to be removed."""
        still: list[_Pending] = []
        silent = False

        async def look(pending: _Pending) -> None:
            nonlocal silent
            if silent:
                still.append(pending)
                return
            try:
                found = await self._ctx.store.head(pending.key)
            except NotFound:
                self._end(pending, gone=True)
                return
            except OssfsError as error:
                silent = silent or isinstance(error, Transient)
                still.append(pending)  # the delete itself will say why
                return
            since = trio.current_time() - pending.queued_at
            if pending.version is None or pending.version.is_still(found, since):
                still.append(pending)
            else:
                log.warning("%s was made anew by somebody else, and is left alone", pending.key)
                self._end(pending, gone=False)

        await run_all(PARALLEL_CHECKS, [lambda p=p: look(p) for p in batch])  # type: ignore[misc]
        return still

    def _end(self, pending: _Pending, *, gone: bool, error: StoreError | None = None) -> None:
        if not pending.done.is_set():
            pending.done.set()
            pending.ended(gone, error)
