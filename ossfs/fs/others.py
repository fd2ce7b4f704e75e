"""When the bucket holds something else than a writer thought: what to go on with, and what to keep.

Threading: trio thread only; all of this runs inside a commit, with the writer's lock and the key held.

A refused ETag has four explanations, looked at in this order.  An earlier commit of ours, whose answer
was lost, has got there.  Somebody set attributes, which changes the token and not the bytes.  Somebody
wrote, and we only appended: then our bytes go after theirs.  Somebody wrote, and we changed what is
there no more: then nothing is mixed, and ours is kept beside theirs.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ossfs.errors import NotFound
from ossfs.fs import attrs as attributes
from ossfs.fs.conflict import keep_conflict
from ossfs.fs.content import Content, MemoryRange, Piece, SentRange
from ossfs.fs.context import Context
from ossfs.fs.hidden import HiddenKeys
from ossfs.fs.inodes import FileNode, Version
from ossfs.fs.sender import Sender
from ossfs.store.base import WRITE_ID

log = logging.getLogger(__name__)


class OtherVersions:
    """The part of a Writer that deals with versions that it did not expect."""

    ctx: Context
    hidden: HiddenKeys
    node: FileNode
    base: Version | None
    original: Version | None
    content: Content
    sender: Sender
    created: bool
    attrs_dirty: bool
    appends_only: bool
    generation: int
    conflict_kept: bool
    tried: set[str]
    """Write ids of commits whose outcome was not known."""

    if TYPE_CHECKING:

        @property
        def data_dirty(self) -> bool: ...

        def new_content(self, base_size: int) -> Content: ...

        async def piece(self, piece: Piece) -> bytes | memoryview: ...

    async def adopt_own(self) -> bool:
        """Is it an earlier commit of ours, whose answer was lost?  Then go on from that.

        What is still Base now was so then, and is in that object at the same place.
        """
        if not self.tried:
            return False
        try:
            info = await self.ctx.store.head(self.ctx.inodes.key(self.node))
        except NotFound:
            return False
        write_id = info.headers.meta.get(WRITE_ID)
        if write_id not in self.tried:
            return False
        if self.sender.upload is not None and self.sender.upload.write_id == write_id:
            self.content.uploaded(info.size)
            self.sender.completed()
        else:
            self.content.base_size = info.size
        self.base = self.original = self.node.version = Version.of(info)
        self.created = self.appends_only = False
        self.generation += 1
        self.tried.clear()
        return True

    async def adopt_base(self) -> bool:
        """The ETag was refused: is it the same bytes under a new token?  Then go on with that."""
        if self.base is None:
            return False
        try:
            info = await self.ctx.store.head(self.base.key)
        except NotFound:
            return False
        found = Version.of(info)
        if found.etag == self.base.etag or not found.same_bytes(self.base):
            return False
        self.base = self.node.version = found
        ours = self.node.attrs
        if ours is not None and not self.attrs_dirty:
            # Somebody set attributes: theirs count, but for the times of our own writes.
            theirs = attributes.decode(info, self.ctx.defaults)
            theirs.mtime_ns, theirs.ctime_ns, theirs.stored_mtime = ours.mtime_ns, ours.ctime_ns, True
            self.node.attrs = theirs
        return True

    async def rebase(self) -> bool:
        """Only appended to: take the new version and put our bytes after it."""
        tail = self.content.appended() if self.appends_only else None
        if tail is None:
            return False
        for piece in tail:
            if not isinstance(piece, MemoryRange) and not (
                isinstance(piece, SentRange) and self.sender.staged(piece)
            ):
                return False
        key = self.ctx.inodes.key(self.node)
        try:
            info = await self.ctx.store.head(key)
        except NotFound:
            return False
        found, ours = Version.of(info), self.node.attrs
        theirs = attributes.decode(info, self.ctx.defaults)
        assert ours is not None
        if theirs.kind != ours.kind:
            return False
        if not (self.attrs_dirty and self.data_dirty):
            # Mode, owner and the rest are theirs; of a closed file only times wait for their commit.
            theirs.atime_ns, theirs.mtime_ns, theirs.ctime_ns = ours.atime_ns, ours.mtime_ns, ours.ctime_ns
            theirs.stored_mtime = True
            self.node.attrs = theirs
        content = self.new_content(found.size)
        for piece in tail:
            content.write(content.size, await self.piece(piece))
        await self.sender.abort()
        self.content = self.sender.content = content
        self.base = self.original = self.node.version = found
        self.created = False
        self.node.size = content.size
        self.generation += 1
        self.ctx.kernel.invalidate_inode(self.node.ino)
        self.sender.account()
        log.warning("%s was changed by somebody else; appended to the new version", key)
        return True

    async def keep_conflict(self, cause: Exception) -> None:
        if not self.data_dirty:
            return  # nothing but attributes of what is not there any more

        async def read_staged(piece: SentRange) -> bytes | None:
            if not self.sender.staged(piece):
                return None
            return await self.sender.staging.read(piece.start, piece.length)

        self.conflict_kept = await keep_conflict(
            self.ctx, self.hidden, self.node, self.content, read_staged, cause
        )
