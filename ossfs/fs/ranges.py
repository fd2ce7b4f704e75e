"""Ranges of one version of an object: from the cache on disk where it has them, else from the bucket.

Threading: trio thread only; the buffer that is filled belongs to worker threads until the call returns.
"""

from __future__ import annotations

from ossfs.errors import ShortBody
from ossfs.fs.context import Context
from ossfs.fs.inodes import Version
from ossfs.store.base import Progress


async def read_range(
    ctx: Context, version: Version, start: int, view: memoryview, progress: Progress | None = None
) -> int:
    """Fill *view* with the bytes from *start*; how many of them were on disk.

    The rest is one GET, and is written to the disk behind the reader.  Raises PreconditionFailed when
    the object has been replaced and not all bytes are on disk, ShortBody, and what the store raises.
    """
    found = 0
    if ctx.disk is not None:
        found = await ctx.disk.read(version.key, version.etag, start, view, progress)
    if found == len(view):
        return found
    tell = progress
    if progress is not None and found:
        known = progress
        tell = lambda count: known(found + count)  # noqa: E731
    rest = view[found:]
    _, count = await ctx.store.get(version.key, rest, start=start + found, etag=version.etag, progress=tell)
    if count < len(rest):
        raise ShortBody(
            f"{count} bytes of {len(rest)} at {start + found}", operation="GetObject", key=version.key
        )
    keep(ctx, version, start + found, rest)
    return found


def keep(ctx: Context, version: Version, start: int, data: bytes | memoryview) -> None:
    """Write bytes that came from the bucket to the disk, when memory allows; the buffer may change then."""
    size = len(data)
    if ctx.disk is None or not size or not ctx.budget.try_take(size):
        return
    if not ctx.disk.keep(version.key, version.etag, start, bytes(data), lambda: ctx.budget.give(size)):
        ctx.budget.give(size)


async def on_disk(ctx: Context, version: Version | None, length: int) -> bool:
    """Are the first *length* bytes of this version on disk, as far as is known?"""
    if ctx.disk is None or version is None:
        return False
    return await ctx.disk.holds(version.key, version.etag, length)


async def forget(ctx: Context, version: Version) -> None:
    """The bytes that came were not the right ones: none of them is to come from the disk again."""
    if ctx.disk is not None:
        await ctx.disk.forget(version.key, version.etag)
