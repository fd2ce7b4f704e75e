"""Writers that fail: who is told, what is shown afterwards, and how the changes are given up.

Threading: trio thread only.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

import trio

from ossfs.errors import OssfsError, PosixError
from ossfs.fs.context import Context
from ossfs.fs.inodes import FileNode
from ossfs.fs.rescue import Rescue
from ossfs.fs.sender import Sender

if TYPE_CHECKING:
    from ossfs.fs.handles import FileHandle

log = logging.getLogger(__name__)


class Failing:
    """The part of a Writer that ends in failure, or for want of anything to keep."""

    ctx: Context
    node: FileNode
    sender: Sender
    rescue: Rescue
    lock: trio.Lock
    handles: set[FileHandle]
    entry: int | None
    reported: bool

    if TYPE_CHECKING:

        @property
        def data_dirty(self) -> bool: ...

        @property
        def ended(self) -> bool: ...

        def _press(self) -> None: ...

        def _close_reader(self) -> None: ...

    def _raise_part_error(self) -> None:
        if self.sender.error is not None:
            self._latch(self.sender.error)
            raise self.sender.error

    def _latch(self, error: Exception) -> None:
        """Every handle that is open now will hear of this failure."""
        self.reported = True
        for handle in self.handles:
            handle.error = error

    async def discard(self) -> None:
        """Give the changes up: the upload is aborted, the bucket's version counts again.

        Not what close(2) has accepted: that is tried again.
        """
        if self.entry is not None and not self.node.detached:
            return
        await self.sender.drain()
        async with self.lock:
            if self.ended:
                return
            self.show_no_more()
            await self.sender.abort()
            if self.node.detached:
                await self.rescue.finished()  # nothing is to come back under the name
            else:
                await self.rescue.restore(self.ctx.inodes.key(self.node))
            self._end()
        self._forget_node()

    def _forget_node(self) -> None:
        """What the kernel was told of this inode is not true any more."""
        node = self.node
        node.attrs_at = node.validated_at = float("-inf")
        node.touched()
        parent, name = node.parent, node.name
        if parent is not None:
            parent.cache.forget(name)
            self.ctx.inodes.detach(node)
            self.ctx.kernel.invalidate_entry(parent.ino, name.encode())
        self.ctx.kernel.invalidate_inode(node.ino)

    async def discard_quietly(self) -> None:
        """discard for where nobody listens."""
        try:
            await self.discard()
        except OssfsError as error:
            log.error("giving up %s: %s", self.node.name, error)
            if not self.ended:
                self._end()
            self._forget_node()

    def abandon(self) -> None:
        """The name is gone and nobody has the file open: nothing of it will be committed."""
        self._end()

        async def abort() -> None:
            await self.sender.drain()
            await self.sender.abort()
            await self.rescue.finished()

        self.ctx.jobs.start(abort)

    def forsake(self) -> None:
        """A failure was reported; who opens the file now starts from the bucket."""
        self.ctx.unborn.discard(self.node)
        self.show_no_more()
        if self.node.writer is self:
            self.node.writer = None

    def _check_not_forsaken(self) -> None:
        if self.node.writer is not self and not self.ended:
            raise PosixError(errno.EIO, f"{self.node.name}: given up after a failure", level=logging.WARNING)

    def show_no_more(self) -> None:
        """These bytes will not get into the bucket.

        Who has the file open may have read some of them, if only from the kernel's pages: the bucket's
        version must not follow them under the same descriptor.
        """
        if self.data_dirty or self.rescue.active:
            self.node.given_up = True

    def _end(self) -> None:
        if not self.ended:
            self.ctx.budget.pressers.remove(self._press)
        self.sender.end()
        self._close_reader()
        self.ctx.unborn.discard(self.node)
        if self.node.writer is self:
            self.node.writer = None
        self.ctx.inodes.drop_if_unused(self.node)
