"""How a file is closed, and what that means here.

Threading: trio thread only.

The kernel sends FLUSH for each close(2) of each
duplicate of a descriptor, and only FLUSH can carry an error back to close(2).  RELEASE comes once,
after the last, and its error goes nowhere.  So a FLUSH on a handle that was written through commits
the whole state of the inode and reports; RELEASE commits what is left (a creation or a truncation
that nothing was written after, pages of a mapping) and logs.  A FLUSH with nothing to commit costs
no request: `dd` and every shell redirection send one before their first WRITE.

A handle that is written through and flushed again and again is shared by processes
(`make >log 2>&1`).  Its first `EAGER_FLUSHES` dirty FLUSHes commit; after that at most one a second
does, and a skipped one arms a timer that commits.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from ossfs.errors import DeadlineExceeded, OssfsError, StoreError
from ossfs.fs.context import Context
from ossfs.fs.inodes import FileNode

if TYPE_CHECKING:
    from ossfs.fs.handles import FileHandle

log = logging.getLogger(__name__)

EAGER_FLUSHES = 8
"""Nearly every shell redirection flushes once or twice before and between its writers: (a; b; c) >f
must be complete when the shell returns.  A log shared by a thousand children must not go up a
thousand times."""
LAZY_FLUSH = 1.0
"""Seconds: how far the bucket may be behind a descriptor that processes share."""


class Closing:
    """The part of a Writer that descriptors see: close(2), fsync(2), and the last of them."""

    ctx: Context
    node: FileNode
    lock: trio.Lock
    handles: set[FileHandle]
    entry: int | None
    created: bool
    uncommitted: bool
    reported: bool
    given_up: bool
    _last_commit: float
    _timer_armed: bool

    if TYPE_CHECKING:

        @property
        def data_dirty(self) -> bool: ...

        @property
        def unfinished(self) -> bool: ...

        @property
        def in_use(self) -> bool: ...

        @property
        def ended(self) -> bool: ...

        async def commit(self) -> None: ...

        async def _commit(self) -> None: ...

        async def close(self) -> None: ...

        def _latch(self, error: Exception) -> None: ...

        async def discard_quietly(self) -> None: ...

        def _end(self) -> None: ...

    def truncated_by_open(self) -> None:
        """O_TRUNC: the program wants the old bytes gone, whosever they are."""
        self.created = False
        self.uncommitted = True

    async def flush(self, handle: FileHandle) -> None:
        """close(2) of one duplicate of a descriptor."""
        handle.raise_latched()
        if not handle.wrote or not self.unfinished:
            return
        handle.dirty_flushes += 1
        recent = trio.current_time() - self._last_commit < LAZY_FLUSH
        if self.ctx.config.flush_always or handle.dirty_flushes <= EAGER_FLUSHES or not recent:
            try:
                await self.close()
            except OssfsError:
                self._refused()
                raise
            except trio.Cancelled:
                # The caller's deadline: it is told so.  The request that is under way may still succeed,
                # which takes all this back; no other one is made.
                if self.entry is None:
                    self._latch(DeadlineExceeded("close(2) was given up", operation="close"))
                self._refused()
                raise
        else:
            self._arm_timer()

    def _refused(self) -> None:
        if self.entry is not None:
            return  # an earlier close was accepted: with what came later the file is tried again, and kept
        self.given_up = True
        if self.node.parent is not None:
            # Whoever looks now is to see what the bucket has, not what close(2) refused.
            self.ctx.kernel.invalidate_entry(self.node.parent.ino, self.node.name.encode())

    async def fsync(self, handle: FileHandle | None = None) -> None:
        """Everything durable and visible.  After a transient failure it may succeed where FLUSH failed."""
        if handle is not None and handle.error is not None:
            retryable = isinstance(handle.error, StoreError) and handle.error.retryable
            if not retryable or self.ended or self.node.writer is not self:
                raise handle.error
        await self.commit()

    def _arm_timer(self) -> None:
        if self._timer_armed:
            return
        self._timer_armed = True

        async def later() -> None:
            await trio.sleep(LAZY_FLUSH)
            self._timer_armed = False
            if self.unfinished and not self.reported:
                await self._commit()

        self.ctx.jobs.start(later)

    def settle_soon(self) -> None:
        """Attributes of a closed file were set: store them within a second, and be done."""

        async def later() -> None:
            await trio.sleep(LAZY_FLUSH)
            if not self.in_use and not self.ended:
                await self._last_release()

        self.ctx.jobs.start(later)

    async def release(self, handle: FileHandle) -> bool:
        """The last duplicate of a descriptor is closed.  False: bytes did not reach the bucket."""
        self.handles.discard(handle)
        if self.handles or self.ended:
            return True
        if self.node.detached and self.node.handles and self.node.writer is self and not self.reported:
            return True  # removed, but still open for reading: these are the only bytes
        return await self.ctx.jobs.run(self._last_release)

    async def _last_release(self) -> bool:
        removed = self.node.detached
        if self.entry is not None and not removed:
            return True  # its upload is under way
        if removed or self.reported or self.node.writer is not self:
            if not self.in_use:
                await self.discard_quietly()
            return True
        try:
            await self._commit()
        except OssfsError as error:
            self.ctx.failed.append(self.node.path())
            log.error("%s: not in the bucket: %s", self.node.path(), error)
            if not self.in_use:
                await self.discard_quietly()
            return False
        await self.end_if_idle()
        return True

    async def end_if_idle(self) -> None:
        """Nobody has the file open and nothing is left to commit."""
        async with self.lock:
            if self.in_use or self.ended:
                return
            if not self.unfinished:
                self._end()
            elif not self.data_dirty and self.entry is None and not self.reported:
                self.settle_soon()  # attributes that were set while the last of them were stored
