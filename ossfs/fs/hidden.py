"""Hidden keys: objects that no directory shows, under `.ossfs-MOUNTID/` in the mount's prefix.

Two kinds: orphans, the bytes of files that were removed while open; and the zero block, from which
long holes are made by server-side copies.  Each is written to the journal before it is made, so
that the next mount of this host can sweep what a dead one left.

Threading: trio thread only.
"""

from __future__ import annotations

import re

import trio

from ossfs.fs.context import Context, run_all
from ossfs.limits import GIB, MIB
from ossfs.store.base import ObjectHeaders, PartResult

HIDDEN = re.compile(r"\.ossfs-[0-9a-f]{4,32}\Z", re.ASCII)
"""Names in the mount's root that are never listed, looked up or made."""

ZERO_BLOCK = 8 * MIB
"""What is really uploaded for the first long hole: bytes of zeros."""
BIG_ZERO = 1 * GIB
"""Made from ZERO_BLOCK by part copies; one copy part of a hole can be this long."""


def is_hidden(name: str) -> bool:
    """Is this name, directly in the mount's root, one of ours?"""
    return HIDDEN.match(name) is not None


class HiddenKeys:
    """Makes and deletes the hidden keys of one mount."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._serial = 0
        self._lock = trio.Lock()
        self._zero: tuple[str, str, int] | None = None
        self._big: tuple[str, str, int] | None = None

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

    async def zeros(self, length: int) -> tuple[str, str, int]:
        """(key, etag, size) of an object of zeros to copy from; big enough for *length* if it can be."""
        async with self._lock:
            if self._zero is None:
                key = self.fresh("zero")
                body = [memoryview(bytes(MIB))] * (ZERO_BLOCK // MIB)
                made = await self._ctx.store.put(key, body, ObjectHeaders())
                self._zero = (key, made.etag, ZERO_BLOCK)
            if length <= 4 * ZERO_BLOCK:
                return self._zero
            if self._big is None:
                self._big = await self._make_big(*self._zero)
            return self._big

    async def _make_big(self, source: str, etag: str, size: int) -> tuple[str, str, int]:
        ctx = self._ctx
        key = self.fresh("zero")
        upload = await ctx.store.initiate(key, ObjectHeaders())
        ctx.journal.upload_started(key, upload)
        try:
            parts: list[PartResult] = []

            async def one(number: int) -> None:
                parts.append(await ctx.store.copy_part(key, upload, number, source, 0, size, etag=etag))

            numbers = range(1, BIG_ZERO // size + 1)
            await run_all(16, [lambda n=n: one(n) for n in numbers])  # type: ignore[misc]
            parts.sort(key=lambda p: p.number)
            made = await ctx.store.complete(key, upload, parts)
        except BaseException:
            with trio.CancelScope(shield=True):
                await ctx.store.abort(key, upload)
            raise
        finally:
            ctx.journal.upload_ended(key, upload)
        return key, made.etag, BIG_ZERO

    async def sweep(self) -> None:
        """Delete the zero objects of this mount: it is ending."""
        async with self._lock:
            for made in (self._zero, self._big):
                if made is not None:
                    await self.delete(made[0])
            self._zero = self._big = None
