"""The log of write-back: what was accepted is found again, and nothing else."""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ossfs.cache import writelog
from ossfs.cache.writelog import Found, WriteLog, read
from ossfs.limits import KIB, MIB


@asynccontextmanager
async def opened(place: Path, *, limit: int = 1 << 30, found: Found | None = None) -> AsyncIterator[WriteLog]:
    with trio.fail_after(30):
        log = WriteLog(str(place), limit, found, keep_free=0)
        try:
            yield log
        finally:
            await trio.to_thread.run_sync(log.close)


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writelog, "SEGMENT", 64 * KIB)


def left(place: Path) -> dict[str, bytes]:
    found = read(str(place))
    assert not found.damaged
    return {entry.meta["key"]: entry.data for entry in found.entries}


async def test_what_is_not_done_is_found_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        one = await log.put({"key": "one"}, [b"1", memoryview(b"23")])
        two = await log.put({"key": "two", "headers": {"meta": {"mode": "33188"}}}, [])
        assert one and two and log.pending == (2, 3)
        assert left(tmp_path) == {"one": b"123", "two": b""}
        await log.done(one)
        assert log.pending == (1, 0)
    found = read(str(tmp_path))
    assert [entry.meta for entry in found.entries] == [{"key": "two", "headers": {"meta": {"mode": "33188"}}}]
    async with opened(tmp_path, found=found) as log:
        assert left(tmp_path) == {}
        three = await log.put({"key": "three"}, [b"x"])
        assert three is not None and three > two


async def test_a_random_history_over_many_segments(tmp_path: Path, small_segments: None) -> None:
    rng = random.Random(5)
    live: dict[int, tuple[str, bytes]] = {}
    async with opened(tmp_path, limit=1 << 20) as log:
        for n in range(400):
            if live and rng.random() < 0.52:
                number = rng.choice(sorted(live))
                await log.done(number)
                del live[number]
            else:
                data = rng.randbytes(rng.choice((0, 10, 5000, 20_000)))
                made = await log.put({"key": f"k{n}"}, [data])
                if made is not None:
                    live[made] = (f"k{n}", data)
            if n % 20 == 0:
                assert left(tmp_path) == dict(live.values())
        on_disk = sum(path.stat().st_size for path in tmp_path.iterdir() if path.is_file())
        assert on_disk <= (1 << 20) + 2 * 64 * KIB


async def test_the_limit_is_kept_and_room_comes_back(tmp_path: Path, small_segments: None) -> None:
    async with opened(tmp_path, limit=3 * 64 * KIB) as log:
        numbers: list[int] = []
        while (number := await log.put({"key": "k"}, [bytes(20_000)])) is not None:
            numbers.append(number)
        assert 6 <= len(numbers) <= 9
        for number in numbers:
            await log.done(number)
        assert await log.put({"key": "k"}, [bytes(20_000)]) is not None


async def test_many_at_once_share_a_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushes = 0
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        nonlocal flushes
        flushes += 1
        real(fd)

    async with opened(tmp_path) as log:
        await log.put({"key": "first"}, [])
        monkeypatch.setattr(writelog.os, "fdatasync", fdatasync)
        async with trio.open_nursery() as nursery:
            for n in range(100):
                nursery.start_soon(log.put, {"key": str(n)}, [bytes(1000)])
        assert log.pending[0] == 101
        assert flushes < 50
    assert len(left(tmp_path)) == 101


async def test_a_large_file_is_not_taken(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        assert await log.put({"key": "k"}, [bytes(10 * MIB + 1)]) is None
        assert await log.put({"key": "k"}, [bytes(10 * MIB)]) is not None


async def test_a_disk_that_is_nearly_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with trio.fail_after(30):
        disk = os.statvfs(tmp_path)
        log = WriteLog(str(tmp_path), 1 << 30, keep_free=disk.f_bavail * disk.f_frsize)
        assert await log.put({"key": "k"}, [b"x"]) is None
        assert "the disk is nearly full" in caplog.text
        await trio.to_thread.run_sync(log.close)


@pytest.mark.parametrize("call", ["pwritev", "fdatasync"])
async def test_a_failing_disk_accepts_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    def fails(*_: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with opened(tmp_path) as log:
        first = await log.put({"key": "k"}, [b"x"])
        assert first is not None
        with monkeypatch.context() as patch:
            patch.setattr(writelog.os, call, fails)
            assert await log.put({"key": "l"}, [b"x"]) is None
        assert await log.put({"key": "m"}, [b"x"]) is None
        await log.done(first)
        assert "close waits for the bucket now" in caplog.text


async def test_damage_costs_the_entry_that_it_hits(tmp_path: Path, small_segments: None) -> None:
    names = [f"name{n}" for n in range(6)]
    async with opened(tmp_path) as log:
        for name in names:
            await log.put({"key": name}, [name.encode() * 300])
    (segment,) = tmp_path.glob("*.log")
    good = segment.read_bytes()
    end = good.rindex(b"name5") + 5
    rng = random.Random(3)
    for _ in range(150):
        at = rng.randrange(end)
        segment.write_bytes(good[:at] + bytes([good[at] ^ (1 << rng.randrange(8))]) + good[at + 1 :])
        found = read(str(tmp_path))
        there = {entry.meta["key"]: entry.data for entry in found.entries}
        assert len(there) >= 5
        assert all(data == key.encode() * 300 for key, data in there.items())
        lost = set(names) - set(there)
        # The last head of a log may be one that a kill cut short: its close had not returned.
        assert len(found.damaged) == len(lost) or lost == {"name5"}


async def test_a_torn_end_is_no_damage_before_it(tmp_path: Path, small_segments: None) -> None:
    async with opened(tmp_path) as log:
        await log.put({"key": "a"}, [b"a" * 1000])
        await log.put({"key": "b"}, [b"b" * 1000])
    (segment,) = tmp_path.glob("*.log")
    good = segment.read_bytes()
    for cut in range(0, good.rindex(b"b") + 1, 37):
        segment.write_bytes(good[:cut] + bytes(len(good) - cut))
        found = read(str(tmp_path))
        assert {entry.meta["key"] for entry in found.entries} <= {"a", "b"}
        if cut > good.rindex(b"a"):
            assert found.entries[0].data == b"a" * 1000


async def test_the_directory_is_private(tmp_path: Path) -> None:
    place = tmp_path / "writeback"
    async with opened(place) as log:
        await log.put({"key": "k"}, [b"x"])
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()} == {0o600}


async def test_a_log_is_written_anew_without_what_was_damaged(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        for name in ("a", "b", "c"):
            await log.put({"key": name}, [name.encode() * 1000])
    (segment,) = tmp_path.glob("*.log")
    data = bytearray(segment.read_bytes())
    data[data.index(b"b" * 1000)] ^= 1
    segment.write_bytes(data)
    found = read(str(tmp_path))
    assert len(found.damaged) == 1
    writelog.compact(str(tmp_path), found)
    assert left(tmp_path) == {"a": b"a" * 1000, "c": b"c" * 1000}
    again = read(str(tmp_path))
    assert again.paths == found.paths and again.last_segment == found.last_segment
    writelog.finish(str(tmp_path), again, [again.entries[0].number])
    assert left(tmp_path) == {"c": b"c" * 1000}
    (one,) = writelog.aside(str(tmp_path))
    assert one.meta == {"key": "b"} and len(one.data) == 1000
    async with opened(tmp_path, found=again) as log:
        assert log.set_aside == 1
        assert left(tmp_path) == {}


async def test_writes_that_are_cut_short_are_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwritev

    def short(fd: int, buffers: list[memoryview], offset: int) -> int:
        data = b"".join(buffers)
        return real(fd, [data[: max(1, min(len(data), 1 + len(data) // 2))]], offset)

    monkeypatch.setattr(os, "pwritev", short)
    body = [bytes([n % 251]) * (n % 7) for n in range(3000)]
    async with opened(tmp_path) as log:
        assert await log.put({"key": "k"}, body) is not None
    assert left(tmp_path) == {"k": b"".join(body)}


async def test_it_is_crowded_before_it_is_full(tmp_path: Path, small_segments: None) -> None:
    async with opened(tmp_path, limit=4 * 64 * KIB) as log:
        seen = []
        while await log.put({"key": "k"}, [bytes(60_000)]) is not None:
            seen.append(log.crowded)
        assert seen == [False, False, True, True] and log.full
