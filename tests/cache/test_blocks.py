"""The read cache: right bytes or none, within its limits, whatever happens to the disk or the process."""

from __future__ import annotations

import errno
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ossfs.cache import blocks
from ossfs.cache.blocks import BlockCache
from ossfs.cache.index import PIECE, SEGMENT
from ossfs.limits import KIB, MIB
from ossfs.metrics import Metrics


def pattern(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


class Cache:
    """A BlockCache, and calls of it that wait."""

    def __init__(self, directory: Path, limit: int, keep_free: int | None) -> None:
        self.metrics = Metrics()
        self.blocks = BlockCache(str(directory), limit, self.metrics, keep_free=keep_free)
        self.freed = 0

    def _done(self) -> None:
        self.freed += 1

    async def keep(self, key: str, etag: str, start: int, data: bytes) -> bool:
        taken = self.blocks.keep(key, etag, start, data, self._done)
        await self.blocks.settled()
        return taken

    async def read(self, key: str, etag: str, start: int, length: int) -> bytes:
        """What of [start, start+length) is there, from its beginning."""
        buffer = bytearray(length)
        told: list[int] = [0]
        count = await self.blocks.read(key, etag, start, memoryview(buffer), told.append)
        assert told[-1] == count and told == sorted(told)
        return bytes(buffer[:count])

    def count(self, name: str) -> int:
        return self.metrics.snapshot().get(f"cache.{name}", 0)


@asynccontextmanager
async def opened(directory: Path, limit: int = 64 * MIB, keep_free: int | None = 0) -> AsyncIterator[Cache]:
    with trio.fail_after(30):
        cache = Cache(directory, limit, keep_free)
        try:
            yield cache
        finally:
            await trio.to_thread.run_sync(cache.blocks.close)


def files(directory: Path) -> list[Path]:
    return sorted(p for p in (directory / "blocks").rglob("*") if p.is_file())


async def test_what_was_kept_is_there_after_a_remount(tmp_path: Path) -> None:
    data = pattern(9 * MIB + 77)
    async with opened(tmp_path) as cache:
        assert await cache.read("k", "E", 0, 100) == b""
        assert await cache.keep("k", "E", 0, data)
        assert cache.freed == 1
    async with opened(tmp_path) as cache:
        assert await cache.read("k", "E", 0, len(data)) == data
        for start, length in ((5, 10), (PIECE - 3, 7), (SEGMENT - 100, 5000), (len(data) - 1, 1)):
            assert await cache.read("k", "E", start, length) == data[start : start + length]
        assert cache.count("hits") == 5 and cache.count("misses") == 0
        assert cache.count("bytes") >= len(data)


async def test_the_beginning_counts_up_to_the_first_gap(tmp_path: Path) -> None:
    data = pattern(MIB)
    async with opened(tmp_path) as cache:
        await cache.keep("k", "E", 0, data[: 300 * KIB])
        await cache.keep("k", "E", 400 * KIB, data[400 * KIB :])
        assert await cache.read("k", "E", 10, MIB - 10) == data[10 : 300 * KIB]
        assert await cache.read("k", "E", 350 * KIB, 100) == b""
        assert await cache.blocks.holds("k", "E", 300 * KIB)
        assert not await cache.blocks.holds("k", "E", 301 * KIB)


async def test_a_replaced_object_is_never_served(tmp_path: Path) -> None:
    async with opened(tmp_path) as cache:
        await cache.keep("k", "old", 0, b"old bytes")
        assert await cache.read("k", "new", 0, 9) == b""
        await cache.keep("k", "new", 0, b"new bytes")
        assert await cache.read("k", "new", 0, 9) == b"new bytes"
        assert await cache.read("other", "new", 0, 9) == b""
        assert not await cache.keep("k", "", 0, b"no token, no version")


async def test_any_ranges_in_any_order_read_right(tmp_path: Path) -> None:
    rng = random.Random(7)
    data = pattern(10 * MIB, 3)
    async with opened(tmp_path) as cache:
        have = bytearray(len(data))
        for _ in range(60):
            start = rng.randrange(len(data)) // 4096 * 4096
            piece = data[start : start + rng.choice((4096, 60 * KIB, 128 * KIB, 3 * MIB))]
            await cache.keep("k", "E", start, piece)
            have[start : start + len(piece)] = b"\1" * len(piece)
            at = rng.randrange(len(data))
            length = rng.choice((1, 5000, MIB))
            got = await cache.read("k", "E", at, length)
            assert got == data[at : at + len(got)]
            if b"\0" not in have[at : at + length]:
                assert len(got) == len(data[at : at + length])
        on_disk = sum(os.stat(p).st_blocks * 512 for p in files(tmp_path))
        # Pieces that overlap without one covering the other are counted twice.
        assert on_disk <= cache.count("bytes") <= 2 * on_disk


async def test_least_recently_used_goes_first_and_the_limit_holds(tmp_path: Path) -> None:
    async with opened(tmp_path, limit=8 * MIB) as cache:
        for n in range(8):
            await cache.keep(f"k{n}", "E", 0, pattern(MIB, n))
        assert len(await cache.read("k0", "E", 0, MIB)) == MIB
        for n in range(8, 11):
            await cache.keep(f"k{n}", "E", 0, pattern(MIB, n))
        there = [n for n in range(11) if await cache.read(f"k{n}", "E", 0, MIB) == pattern(MIB, n)]
        assert 0 in there and there[-3:] == [8, 9, 10] and 1 not in there
        assert cache.count("evictions") >= 3
        assert sum(os.stat(p).st_blocks * 512 for p in files(tmp_path)) <= 8 * MIB
        assert cache.count("bytes") <= 8 * MIB


async def test_uses_are_remembered_by_the_next_mount(tmp_path: Path) -> None:
    async with opened(tmp_path, limit=4 * MIB) as cache:
        for n in range(4):
            await cache.keep(f"k{n}", "E", 0, pattern(MIB, n))
        await cache.read("k0", "E", 0, 10)
    async with opened(tmp_path, limit=4 * MIB) as cache:
        await cache.keep("new", "E", 0, pattern(MIB, 9))
        assert await cache.read("k0", "E", 0, MIB) == pattern(MIB, 0)
        assert await cache.read("k1", "E", 0, MIB) == b""


@pytest.mark.parametrize("how", ["flipped", "cut", "zeros"])
async def test_damage_on_disk_is_seen_dropped_and_counted(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = pattern(3 * PIECE)
    async with opened(tmp_path) as cache:
        await cache.keep("k", "E", 0, data)
        (path,) = files(tmp_path)
        with path.open("r+b") as file:
            if how == "cut":
                file.truncate(PIECE + 5)
            else:
                file.seek(PIECE + 5)
                file.write(bytes([data[PIECE + 5] ^ 4]) if how == "flipped" else bytes(1000))
        assert await cache.read("k", "E", 0, len(data)) == data[:PIECE]
        assert cache.count("corruptions") == 1
        assert "of k at 131072" in caplog.text and "damaged" in caplog.text
        assert await cache.read("k", "E", PIECE, 10) == b""
        assert cache.count("corruptions") == 1
        await cache.keep("k", "E", PIECE, data[PIECE:])
        assert await cache.read("k", "E", 0, len(data)) == data


async def test_forgetting_comes_after_what_was_kept_before(tmp_path: Path) -> None:
    async with opened(tmp_path) as cache:
        cache.blocks.keep("k", "E", 0, pattern(5 * MIB), lambda: None)
        cache.blocks.keep("k", "F", 0, b"another version", lambda: None)
        await cache.blocks.forget("k", "E")
        assert await cache.read("k", "E", 0, 10) == b""
        assert await cache.read("k", "F", 0, 15) == b"another version"
        assert len(files(tmp_path)) == 1


async def test_a_full_disk_costs_no_reader_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = os.pwrite
    room = 300 * KIB

    def pwrite(fd: int, data: Any, offset: int) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = real(fd, data[:room], offset)
        room -= done
        return done

    monkeypatch.setattr(blocks.os, "pwrite", pwrite)
    data = pattern(MIB)
    async with opened(tmp_path) as cache:
        await cache.keep("k", "E", 0, data)
        assert cache.freed == 1
        got = await cache.read("k", "E", 0, MIB)
        assert got == data[: len(got)]
        assert cache.count("skipped") == 1
        assert "No space left on device; what does not fit is not cached" in caplog.text
        room = 1 << 40
        await cache.keep("k", "E", 0, data)
        assert await cache.read("k", "E", 0, MIB) == data


async def test_some_of_the_disk_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 3 * MIB
    real = os.statvfs

    def statvfs(path: str) -> os.statvfs_result:
        found = list(real(path))
        taken = sum(os.stat(p).st_blocks * 512 for p in files(tmp_path))
        found[1], found[4] = 4096, max(0, free - taken) // 4096  # f_frsize, f_bavail
        return os.statvfs_result(found)

    async with opened(tmp_path, keep_free=MIB) as cache:
        monkeypatch.setattr(blocks.os, "statvfs", statvfs)
        for n in range(5):
            await cache.keep(f"k{n}", "E", 0, pattern(MIB, n))
            assert sum(os.stat(p).st_blocks * 512 for p in files(tmp_path)) <= 2 * MIB
        assert await cache.read("k4", "E", 0, MIB) == pattern(MIB, 4)
        assert cache.count("evictions") == 3
        free = 0  # others have filled it
        await cache.keep("k9", "E", 0, b"x")
        assert files(tmp_path) == []
        assert await cache.read("k9", "E", 0, 1) == b""


async def test_a_slow_disk_makes_nobody_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "QUEUE", 3 * MIB)
    async with opened(tmp_path) as cache:
        taken = [cache.blocks.keep("k", "E", n * MIB, pattern(MIB, n), lambda: None) for n in range(50)]
        assert taken[:3] == [True] * 3
        await cache.blocks.settled()
        for n, was in enumerate(taken):
            assert await cache.read("k", "E", n * MIB, MIB) == (pattern(MIB, n) if was else b"")
        assert cache.count("skipped") == taken.count(False)


async def test_a_damaged_index_is_an_empty_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(tmp_path) as cache:
        await cache.keep("k", "E", 0, b"bytes")
    (tmp_path / "index.db").write_bytes(b"this is no database" * 1000)
    async with opened(tmp_path) as cache:
        assert "beginning with an empty cache" in caplog.text
        assert await cache.read("k", "E", 0, 5) == b""
        await cache.blocks.settled()
        assert files(tmp_path) == []
        await cache.keep("k", "E", 0, b"bytes")
        assert await cache.read("k", "E", 0, 5) == b"bytes"


async def test_an_index_without_room_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as cache:
        await cache.keep("k", "E", 0, b"bytes")
        (pages,) = cache.blocks._index._db.execute("PRAGMA page_count").fetchone()
        cache.blocks._index._db.execute(f"PRAGMA max_page_count = {pages}")
        for n in range(400):
            await cache.keep(f"{n}" * 300, "E", 0, b"bytes")
        assert cache.count("skipped") and "No space left on device" in caplog.text
        assert await cache.read("k", "E", 0, 5) == b"bytes"
        cache.blocks._index._db.execute("PRAGMA max_page_count = 1000000")
        await cache.keep("later", "E", 0, b"bytes")
        assert await cache.read("later", "E", 0, 5) == b"bytes"
        (total,) = cache.blocks._index._db.execute("SELECT SUM(bytes) FROM segments").fetchone()
        assert cache.blocks._index.total == total


async def test_an_index_that_fails_later_ends_the_cache_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as cache:
        await cache.keep("k", "E", 0, b"bytes")

        def broken(*_: object) -> None:
            raise sqlite3.DatabaseError("database disk image is malformed")

        monkeypatch.setattr(cache.blocks._index, "find", broken)
        assert await cache.read("k", "E", 0, 5) == b""
        assert "goes on without its cache" in caplog.text
        assert not await cache.keep("k", "E", 0, b"bytes")
        await cache.blocks.forget("k", "E")


KILLED = """
import os, random, sys, trio
from ossfs.cache.blocks import BlockCache
from ossfs.metrics import Metrics

async def main():
    cache = BlockCache(sys.argv[1], 64 << 20, Metrics(), keep_free=0)
    n = 0
    while True:
        data = random.Random(n % 40).randbytes(600_000)
        while not cache.keep(f"k{n % 40}", "E", 0, data, lambda: None):
            await trio.sleep(0.001)
        n += 1
        if n == 20:
            await cache.settled()
            print("go", flush=True)
        await trio.sleep(0)

trio.run(main)
"""


@pytest.mark.parametrize("round_", range(3))
async def test_kill_9_leaves_right_bytes_and_no_litter(tmp_path: Path, round_: int) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert await trio.to_thread.run_sync(process.stdout.readline) == b"go\n"
        process.send_signal(signal.SIGKILL)
    async with opened(tmp_path) as cache:
        found = 0
        for n in range(40):
            got = await cache.read(f"k{n}", "E", 0, 600_000)
            assert got == random.Random(n).randbytes(600_000)[: len(got)]
            found += len(got) == 600_000
        assert found >= 20
        assert cache.count("corruptions") == 0
        await cache.blocks.settled()
        known = {segment for segment, _ in cache.blocks._index.oldest(1000)}
        assert {int(path.name, 16) for path in files(tmp_path)} <= known


@pytest.mark.parametrize(("disk", "left"), [(100 * MIB, 5 * MIB), (100 << 30, 1 << 30)])
async def test_how_much_of_a_disk_stays_free_follows_from_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: int, left: int
) -> None:
    """A twentieth of a small disk, and a gigabyte of a large one."""
    free = [disk]
    real = os.statvfs

    def statvfs(path: str) -> os.statvfs_result:
        found = list(real(path))
        found[1], found[2], found[4] = 4096, disk // 4096, free[0] // 4096  # f_frsize, f_blocks, f_bavail
        return os.statvfs_result(found)

    monkeypatch.setattr(blocks.os, "statvfs", statvfs)
    async with opened(tmp_path, keep_free=None) as cache:
        free[0] = left + 2 * MIB
        await cache.keep("fits", "E", 0, pattern(MIB, 1))
        free[0] = left
        await cache.keep("does not", "E", 0, pattern(MIB, 2))
        assert await cache.read("does not", "E", 0, MIB) == b""
        assert cache.count("evictions") == 1  # to make room for it, in vain
