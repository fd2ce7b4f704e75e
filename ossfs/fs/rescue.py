"""Keeping the old object while an unfinished one stands in its place.

When an upload has to be completed before the file is closed (a checkpoint), the name holds something
unfinished for a while.  The object that it held before is copied to a hidden key first.  It is put
back when the writer ends in failure, and by the next mount of this host if this one dies: the
journal names the write ids under which the unfinished state was put, so that neither a later, good
commit nor somebody else's object is overwritten with the old bytes.

Threading: trio thread only.
"""

from __future__ import annotations

import logging

from ossfs.errors import NotFound, StoreError
from ossfs.fs.commit import copy_object
from ossfs.fs.context import Context
from ossfs.fs.hidden import HiddenKeys
from ossfs.fs.inodes import Version
from ossfs.fs.stored import put_back, saved_as
from ossfs.store.base import WRITE_ID

log = logging.getLogger(__name__)


class Rescue:
    """Of one writer."""

    def __init__(self, ctx: Context, hidden: HiddenKeys) -> None:
        self._ctx = ctx
        self._hidden = hidden
        self._saved: str | None = None
        self._write_ids: set[str] = set()

    @property
    def active(self) -> bool:
        """Does the name hold something unfinished?"""
        return self._saved is not None

    async def before_checkpoint(self, original: Version | None, key: str, write_id: str) -> None:
        """Save *original*, once; note that *write_id* is about to stand for something unfinished."""
        if self._saved is None:
            if original is None:
                return
            # Of the object: the inode may know already how the new bytes are to be kept.
            kept = await saved_as(self._ctx.store, original.key)
            saved = self._hidden.fresh("rescue")
            await copy_object(self._ctx, original, saved, None, stored_as=kept)
            self._saved = saved
        self._write_ids.add(write_id)
        self._ctx.journal.hidden_created(self._saved, restore_to=key, write_id=write_id)

    async def finished(self) -> None:
        """The name holds the finished file: the old object is not needed any more."""
        if self._saved is not None:
            saved, self._saved = self._saved, None
            self._write_ids.clear()
            # From here on it is rubbish: the next mount is to delete it, not to put it back.
            self._ctx.journal.hidden_created(saved)
            await self._delete(saved)

    async def restore(self, key: str) -> None:
        """The writer failed: put the old object back, unless somebody else has put another."""
        if self._saved is None:
            return
        saved, self._saved = self._saved, None
        async with self._ctx.keys.hold(key):
            try:
                found = (await self._ctx.store.head(key)).headers.meta.get(WRITE_ID)
            except NotFound:
                found = None
            if found in self._write_ids:
                await put_back(self._ctx.store, saved, key)
        await self._delete(saved)

    async def _delete(self, saved: str) -> None:
        try:
            await self._hidden.delete(saved)
        except StoreError as error:
            log.warning("%s", error)  # it is in the journal: the next mount sweeps it
