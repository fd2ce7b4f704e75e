"""Hidden keys: objects that no directory shows, under `.ossfs-MOUNTID/` in the mount's prefix.

Two kinds: orphans, the bytes of files that were removed while open; and the zero block, from which
long holes are made by server-side copies.  Each is written to the journal before it is made, so
that the next mount of this host can sweep what a dead one left.

Threading: trio thread only.
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from typing import TypeAlias

import trio

from ossfs.errors import StoreError
from ossfs.fs.context import Context, run_all
from ossfs.limits import GIB, MAX_PART_SIZE, MIB
from ossfs.store.base import ObjectHeaders, PartResult

log = logging.getLogger(__name__)

Zeros: TypeAlias = tuple[str, str, int]

HIDDEN = re.compile(r"\.ossfs-[0-9a-f]{4,32}\Z", re.ASCII)
"""Names in the mount's root that are never listed, looked up or made."""

ZERO_BLOCK = 8 * MIB
"""What is really uploaded for the first long hole: bytes of zeros."""
BIG_ZERO = 1 * GIB
"""Made from ZERO_BLOCK by part copies; one copy part of a hole can be this long."""
HUGE_ZERO = MAX_PART_SIZE
"""Made from BIG_ZERO, for files with so long holes that their parts are longer than that."""


def is_hidden(name: str) -> bool:
    """Is this name, directly in the mount's root, one of ours?"""
    return HIDDEN.match(name) is not None


class HiddenKeys:
    """Makes and deletes the hidden keys of one mount."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._serial = 0
        self._lock = trio.Lock()
        self._zeros: list[Zeros] = []
        """What there is, the smallest first; each made from the one before."""

    @property
    def directory(self) -> str:
        """The prefix of all hidden keys of this mount."""
        return f"{self._ctx.config.prefix}.ossfs-{self._ctx.config.mount_id}/"

    def fresh(self, kind: str) -> str:
        """A hidden key that was never used; it is in the journal when this returns."""
        self._serial += 1
        key = f"{self.directory}{kind}-{self._serial}"
        self._ctx.journal.hidden_created(key)
        return key

    async def delete(self, key: str) -> None:
        """Delete one hidden key."""
        await self._ctx.store.delete(key)
        self._ctx.journal.hidden_deleted(key)

    async def zeros(self, length: int) -> Zeros:
        """(key, etag, size) of an object of zeros to copy from; big enough for *length* if it can be."""
        async with self._lock:
            if not self._zeros:
                key = self.fresh("zero")
                body = [memoryview(bytes(MIB))] * (ZERO_BLOCK // MIB)
                made = await self._ctx.store.put(key, body, self._headers())
                self._zeros.append((key, made.etag, ZERO_BLOCK))
            wanted = 1 if length <= 4 * ZERO_BLOCK else 2 if length <= BIG_ZERO else 3
            while len(self._zeros) < wanted:
                size = (ZERO_BLOCK, BIG_ZERO, HUGE_ZERO)[len(self._zeros)]
                self._zeros.append(await self._multiply(*self._zeros[-1], size))
            return self._zeros[wanted - 1]

    def _headers(self) -> ObjectHeaders:
        """Encrypted as all that is written, since a bucket may refuse anything else; no class that costs."""
        return replace(self._ctx.config.written, storage_class=None, acl=None).over(ObjectHeaders())

    async def lost(self, key: str) -> None:
        """An object of zeros is not what we made, or not there: make them anew when they are wanted."""
        async with self._lock:
            if any(made[0] == key for made in self._zeros):
                log.warning("%s was removed by somebody else", key)
                try:
                    await self._delete_zeros()
                except StoreError as error:
                    log.warning("%s", error)  # it is in the journal: the next mount sweeps it
                    self._zeros.clear()

    async def _multiply(self, source: str, etag: str, size: int, length: int) -> Zeros:
        ctx = self._ctx
        key = self.fresh("zero")
        upload = await ctx.store.initiate(key, self._headers())
        ctx.journal.upload_started(key, upload)
        try:
            parts: list[PartResult] = []

            async def one(number: int) -> None:
                parts.append(await ctx.store.copy_part(key, upload, number, source, 0, size, etag=etag))

            numbers = range(1, length // size + 1)
            await run_all(16, [lambda n=n: one(n) for n in numbers])  # type: ignore[misc]
            parts.sort(key=lambda p: p.number)
            made = await ctx.store.complete(key, upload, parts)
        except BaseException:
            await abort_quietly(ctx, key, upload)
            raise
        ctx.journal.upload_ended(key, upload)
        return key, made.etag, length

    async def sweep(self) -> None:
        """Delete the zero objects of this mount: it is ending."""
        async with self._lock:
            await self._delete_zeros()

    async def _delete_zeros(self) -> None:
        while self._zeros:
            await self.delete(self._zeros[-1][0])
            self._zeros.pop()


async def abort_quietly(ctx: Context, key: str, upload_id: str) -> None:
    """Abort an upload because of another failure, which is the one that counts.

    What cannot be aborted is tried again when the mount ends, and stays in the journal.
    """
    with trio.CancelScope(shield=True):
        try:
            await ctx.store.abort(key, upload_id)
        except StoreError as error:
            log.warning("%s", error)
            ctx.unaborted.add((key, upload_id))
        else:
            ctx.unaborted.discard((key, upload_id))
            ctx.journal.upload_ended(key, upload_id)
