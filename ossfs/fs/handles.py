"""Open files and directories.

Threading: trio thread only.

A FileHandle reads through its inode's writer while that holds bytes which the bucket does not have,
and through a Reader of its own, pinned to one version, otherwise.
"""

from __future__ import annotations

import errno
import logging

from ossfs.errors import ChecksumMismatch, NotFound, PosixError, PreconditionFailed
from ossfs.fs.attrs import decode
from ossfs.fs.context import Context
from ossfs.fs.dircache import Known
from ossfs.fs.inodes import DirNode, FileNode, Version
from ossfs.fs.reader import Reader
from ossfs.fs.writer import Writer

log = logging.getLogger(__name__)


class FileHandle:
    """One open(2) of a file, with all its duplicates.

    appending: opened with O_APPEND.
    """

    def __init__(
        self,
        ctx: Context,
        node: FileNode,
        *,
        readable: bool,
        writable: bool,
        appending: bool = False,
    ) -> None:
        self._ctx = ctx
        self.node = node
        self.readable = readable
        self.writable = writable
        self.appending = appending
        self.error: Exception | None = None
        """The latched failure: see Writer."""
        self.wrote = False
        self.dirty_flushes = 0
        self.writer: Writer | None = None
        self._reader: Reader | None = None
        self._spoiled: ChecksumMismatch | None = None
        """Wrong bytes of this version were handed out.

        The kernel's read-ahead swallows the first error, and asks for that page again when the program
        gets there: it must be refused until the program reads from the start.
        """

    def raise_latched(self) -> None:
        """Raise the failure that this handle still has to hear of."""
        if self.error is not None:
            raise self.error

    async def read(self, offset: int, length: int) -> bytes | memoryview:
        """Current bytes; the view is valid until the caller next awaits.

        Raises ESTALE when somebody else replaced the object under this handle, and when what it may have
        read could not be put into the bucket and was given up.
        """
        node = self.node
        if self._spoiled is not None:
            if offset:
                raise self._spoiled
            self._spoiled = None
        for _ in range(4):
            writer = self.writer if self.writer is not None and not self.writer.ended else node.writer
            if writer is not None and writer.data_dirty:
                return await writer.read(offset, length)
            if node.given_up:
                raise PosixError(errno.ESTALE, f"{node.name}: what was written was given up")
            version = node.version
            if version is None:
                return b""
            if node.body is not None:
                self._ctx.metrics.count("reads.at_once")
                return memoryview(node.body)[offset : offset + length]
            head = node.head
            if head is not None and self._reader is None and offset + length <= len(head):
                self._ctx.metrics.count("reads.at_once")
                return memoryview(head)[offset : offset + length]
            if self._reader is None or self._reader.version != version:
                self._close_reader()
                if head is not None:
                    self._ctx.bodies.drop(node)
                self._reader = Reader(self._ctx, version)
            try:
                return await self._reader.read(offset, length)
            except (PreconditionFailed, NotFound) as error:
                if node.version == version:
                    async with self._ctx.keys.hold(version.key):
                        pass  # a rename of our own may be about to say where the bytes are now
                if node.version != version:
                    continue  # our own commit or rename moved it meanwhile
                if not await self._adopt(version):
                    raise PosixError(
                        errno.ESTALE, f"{version.key} was replaced while open", level=logging.WARNING
                    ) from error
            except ChecksumMismatch as error:
                self._spoiled = error
                self._ctx.kernel.invalidate_inode(node.ino)
                raise
        raise PosixError(errno.ESTALE, "the object changes faster than it can be read", level=logging.WARNING)

    async def _adopt(self, version: Version) -> bool:
        """Another token: are they the same bytes?"""
        node = self.node
        changes = node.changes
        try:
            info = await self._ctx.store.head(version.key)
        except NotFound:
            return False
        found = Version.of(info)
        if found.etag == version.etag:
            return True  # it changed back and forth; ask again
        if not found.same_bytes(version):
            return False
        if node.changes == changes:
            node.version = found
            node.attrs = decode(info, self._ctx.defaults)  # somebody set attributes: the same bytes
        return True

    async def flush(self) -> None:
        """close(2) of one duplicate.  Only a writable handle's commits."""
        if self.writer is not None:
            await self.writer.flush(self)

    async def fsync(self) -> None:
        """Everything of this file into the bucket, whoever wrote it."""
        if self.writer is not None:
            await self.writer.fsync(self)
        elif self.node.writer is not None:
            await self.node.writer.fsync()

    async def release(self) -> bool:
        """The last duplicate is closed.  False: bytes did not reach the bucket."""
        self._close_reader()
        self.node.handles.discard(self)
        # A reader's may be the last: of a file made with O_RDONLY, or of a removed one.
        writer = self.writer or self.node.writer
        try:
            return writer is None or await writer.release(self)
        finally:
            self._ctx.inodes.drop_if_unused(self.node)

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class DirHandle:
    """One open directory: an append-only snapshot that readdir offsets index.

    Offsets must keep their meaning while names come and go, or a program that deletes what it reads
    would miss entries.
    """

    def __init__(self, node: DirNode) -> None:
        self.node = node
        self.entries: list[tuple[str, Known]] = []
        self.complete = False
        self.marker: str | None = None
        self.token: int | None = None
        self.began_at = 0.0
        self.names: dict[str, int] = {}
        self.unborn: set[str] = set()
        """Names that the bucket does not have: what is known of the directory must not rest on them."""
        self.mergeable = True
        self.freed = 0
        """Entries from the beginning on that were read long ago, and are not kept: see directories.py."""

    def restart(self) -> None:
        """rewinddir: a new snapshot."""
        self.close()
        self.entries = []
        self.names = {}
        self.unborn = set()
        self.complete = False
        self.marker = None
        self.mergeable = True
        self.freed = 0

    def close(self) -> None:
        """Nobody reads this snapshot any more; until then removals are noted against it."""
        if self.token is not None:
            self.node.cache.end(self.token)
            self.token = None
