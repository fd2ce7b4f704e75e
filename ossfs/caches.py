"""What a mount keeps on the local disk: bytes and attributes that were read, and files that are to go up.

Threading: the trio thread; what blocks runs in threads.
"""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from ossfs.cache import writelog
from ossfs.cache.attrs import AttrStore
from ossfs.cache.blocks import BlockCache
from ossfs.cache.directory import CacheDirectory
from ossfs.cache.writelog import WriteLog
from ossfs.config import MountConfig
from ossfs.errors import MountError
from ossfs.fs.writeback import replay
from ossfs.metrics import Metrics
from ossfs.store.base import ObjectStore

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Caches:
    """None is what the options do not ask for."""

    blocks: BlockCache | None = None
    attrs: AttrStore | None = None
    writes: WriteLog | None = None


@asynccontextmanager
async def open_caches(config: MountConfig, store: ObjectStore, metrics: Metrics) -> AsyncIterator[Caches]:
    """What is on the local disk, if anything is to be; what a dead mount left there is uploaded first.

    Raises MountError when the directory cannot be used, or something that was accepted cannot be uploaded.
    """
    if config.cache_dir is None:
        yield Caches()
        return
    with CacheDirectory(
        config.cache_dir, endpoint=config.endpoint_url, bucket=config.bucket, prefix=config.prefix
    ) as directory:
        blocks, writes = await _open(config, store, metrics, directory.path)
        attrs = AttrStore(directory.path, metrics)
        try:
            yield Caches(blocks, attrs, writes)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(blocks.close)
                await trio.to_thread.run_sync(attrs.close)
                if writes is not None:
                    await trio.to_thread.run_sync(writes.close)


async def _open(
    config: MountConfig, store: ObjectStore, metrics: Metrics, directory: str
) -> tuple[BlockCache, WriteLog | None]:
    place = os.path.join(directory, "writeback")
    writes = None
    try:
        found = await trio.to_thread.run_sync(writelog.read, place)
        if config.ro and found.entries:
            log.warning(
                "%d files of an earlier mount wait in %s: this one is read-only",
                len(found.entries),
                place,
            )
        elif not config.ro:
            await _replay(store, found, place)
            if config.writeback:
                writes = WriteLog(place, config.writeback_size, found)
            else:
                for path in found.paths:
                    os.unlink(path)
        return BlockCache(directory, config.cache_size, metrics), writes
    except (OSError, sqlite3.Error) as error:
        if writes is not None:
            writes.close()
        raise MountError(
            f"cache_dir {directory}: {error}; accepted: a directory on a local disk with room, or none"
        ) from error


async def _replay(store: ObjectStore, found: writelog.Found, place: str) -> None:
    for line in found.damaged:
        log.error("write-back: %s", line)
    if not found.entries:
        return
    files = len({entry.meta["key"] for entry in found.entries})
    done, failed = await replay(store, found.entries, hostname=socket.gethostname())
    if failed:
        await trio.to_thread.run_sync(writelog.finish, place, found, done)
        key, error = failed[0]
        raise MountError(
            f"{len(failed)} files that an earlier mount accepted cannot be uploaded, the first is {key}: "
            f"{error}; accepted: mounting again when that is mended, or `ossfs pending` with --drop"
        ) from error
    log.info("%d files that an earlier mount had accepted are in the bucket now", files)
