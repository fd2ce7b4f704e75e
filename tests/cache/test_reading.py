"""Readers over a cache on disk: no request for what is there, and never wrong bytes."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from ossfs.cache.blocks import BlockCache
from ossfs.errors import ChecksumMismatch
from ossfs.fs.budget import Budget
from ossfs.fs.context import Context, Jobs
from ossfs.fs.inodes import Inodes, Version
from ossfs.fs.ports import FsConfig, NoJournal
from ossfs.fs.reader import Reader
from ossfs.limits import MIB
from ossfs.metrics import Metrics
from tests.support.memory_store import Fault, MemoryStore
from tests.support.posix import RecordingKernel


@dataclass
class World:
    """A store, and a mount's context over a cache."""

    store: MemoryStore
    ctx: Context
    disk: BlockCache

    def reader(self, key: str = "f") -> Reader:
        found = self.store.objects[key]
        return Reader(self.ctx, Version(key, found.etag, found.size, found.crc64))

    async def read(self, key: str = "f", piece: int = MIB) -> bytes:
        reader = self.reader(key)
        data = bytearray()
        while got := await reader.read(len(data), piece):
            data += got
        reader.close()
        await self.disk.settled()
        return bytes(data)


@asynccontextmanager
async def world(store: MemoryStore, directory: Path) -> AsyncIterator[World]:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            config = FsConfig(memory=64 * MIB)
            metrics = Metrics()
            disk = BlockCache(str(directory), 256 * MIB, metrics, keep_free=0)
            ctx = Context(
                store=store,
                config=config,
                jobs=Jobs(nursery),
                kernel=RecordingKernel(),
                journal=NoJournal(),
                metrics=metrics,
                budget=Budget(config.memory),
                inodes=Inodes(config.prefix),
                disk=disk,
            )
            yield World(store, ctx, disk)
            await ctx.jobs.wait_idle()
            await disk.settled()
            await trio.lowlevel.checkpoint()
            await trio.to_thread.run_sync(disk.close)
        assert ctx.budget.used == 0


async def test_a_second_reading_and_one_after_a_remount_ask_for_no_data(tmp_path: Path) -> None:
    store = MemoryStore()
    data = random.Random(1).randbytes(9 * MIB + 5)
    store.add("f", data)
    async with world(store, tmp_path) as w:
        assert await w.read() == data
        assert store.calls["get"] > 0
        store.reset_counts()
        assert await w.read() == data
        assert store.calls["get"] == 0
    async with world(store, tmp_path) as w:
        assert await w.read(piece=100_000) == data
        reader = w.reader()
        assert await reader.read(5 * MIB + 3, 4096) == data[5 * MIB + 3 :][:4096]
        reader.close()
        assert store.calls["get"] == 0


async def test_a_replaced_object_is_fetched(tmp_path: Path) -> None:
    store = MemoryStore()
    store.add("f", b"a" * MIB)
    async with world(store, tmp_path) as w:
        assert await w.read() == b"a" * MIB
        store.add("f", b"b" * MIB)
        assert await w.read() == b"b" * MIB


async def test_damage_on_disk_is_fetched_again(tmp_path: Path) -> None:
    store = MemoryStore()
    data = random.Random(2).randbytes(3 * MIB)
    store.add("f", data)
    async with world(store, tmp_path) as w:
        assert await w.read() == data
        for path in (tmp_path / "blocks").rglob("*"):
            if path.is_file():
                with path.open("r+b") as file:
                    file.seek(MIB + 3)
                    file.write(b"damage")
        store.reset_counts()
        assert await w.read() == data
        assert store.calls["get"] > 0
        assert w.ctx.metrics.snapshot()["cache.corruptions"] == 1
        store.reset_counts()
        assert await w.read() == data
        assert store.calls["get"] == 0


async def test_a_byte_flipped_on_the_way_does_not_stay_in_the_cache(tmp_path: Path) -> None:
    store = MemoryStore()
    data = random.Random(3).randbytes(2 * MIB)
    store.add("f", data)
    async with world(store, tmp_path) as w:
        store.faults.append(Fault("get", flip=True))
        # Read piecemeal, so that the last piece finds it out.
        try:
            assert await w.read(piece=300_000) == data
        except ChecksumMismatch:
            pass  # wrong bytes had been handed out: EIO
        assert await w.read() == data
        store.reset_counts()
        assert await w.read() == data
        assert store.calls["get"] == 0
