"""Write-back over a store in memory: what a late upload may replace, and what a replay may."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from ossfs.errors import AccessDenied, PosixError, ServerFault
from ossfs.fs.inodes import ROOT
from ossfs.fs.tree import SetAttr
from ossfs.fs.writeback import DELAY, LATEST, replay
from ossfs.store.base import ObjectHeaders
from ossfs.store.retry import RetryStore
from tests.support.memory_log import MemoryEntry, MemoryLog
from tests.support.memory_store import Fault, MemoryStore
from tests.support.posix import CHUNK, Posix, mounted


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@asynccontextmanager
async def deferring(store: MemoryStore, log: MemoryLog, **config: object) -> AsyncIterator[Posix]:
    with trio.fail_after(3000):
        async with mounted(
            RetryStore(store, jitter=lambda: 0.5), writeback=log, versioned=bool(store.versioning), **config
        ) as fs:
            yield fs


async def settled(log: MemoryLog) -> None:
    while log.entries:
        await trio.sleep(0.1)


def conflicts(store: MemoryStore) -> list[bytes]:
    return [found.data for key, found in store.objects.items() if ".conflict-" in key]


@pytest.mark.parametrize("versioning", ["", "Enabled"])
@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("flags", [0, os.O_EXCL])
async def test_a_repeat_looks_again(
    autojump_clock: MockClock,
    store: MemoryStore,
    log: MemoryLog,
    versioning: str,
    there: bool,
    flags: int,
) -> None:
    """Somebody puts an object under the name between two attempts of one call."""
    store.versioning = versioning
    if there:
        store.add("f", b"base")
        flags = 0
    store.faults.append(Fault("put", error=ServerFault, count=1, key="f"))
    async with deferring(store, log) as fs:
        await fs.write_file("/f", b"ours", flags)
        assert log.pending == (1, 4)
        while store.calls["put"] == 0:
            await trio.sleep(0.01)
        store.add("f", b"theirs")
        await settled(log)
    assert store.data("f") == b"theirs"
    assert conflicts(store) == [b"ours"]


@pytest.mark.parametrize("there", [False, True])
async def test_a_lost_answer_is_no_conflict(
    autojump_clock: MockClock, store: MemoryStore, log: MemoryLog, there: bool
) -> None:
    if there:
        store.add("f", b"base")
    store.faults.append(Fault("put", lose=True, count=1, key="f"))
    async with deferring(store, log) as fs:
        await fs.write_file("/f", b"ours")
        await settled(log)
    assert store.data("f") == b"ours" and conflicts(store) == []


async def test_a_foreign_chmod_is_no_conflict(
    autojump_clock: MockClock, store: MemoryStore, log: MemoryLog
) -> None:
    store.add("f", b"base")
    store.copy_changes_etag = True
    store.faults.append(Fault("put", error=ServerFault, count=1, key="f"))
    async with deferring(store, log) as fs:
        await fs.read_file("/f")
        await fs.write_file("/f", b"ours")
        while store.calls["put"] == 0:
            await trio.sleep(0.01)
        await store.copy("f", "f", headers=ObjectHeaders(meta={"mode": "33152"}))
        await settled(log)
    assert store.data("f") == b"ours" and conflicts(store) == []


async def test_what_vanished_is_made_again_unless_somebody_is_faster(
    autojump_clock: MockClock, store: MemoryStore, log: MemoryLog
) -> None:
    """The look finds nothing, so the put forbids overwriting: nothing fits between the two."""
    store.add("f", b"base")
    async with deferring(store, log) as fs:
        await fs.read_file("/f")

        async def race(op: str, key: str) -> None:
            if op == "head":
                store.remove("f")
            if op == "put" and key == "f":
                store.before = None
                store.add("f", b"theirs")

        store.before = race
        await fs.write_file("/f", b"ours")
        await settled(log)
    assert store.data("f") == b"theirs" and conflicts(store) == [b"ours"]


async def crashed(store: MemoryStore, log: MemoryLog, *contents: bytes) -> list[MemoryEntry]:
    """Several states of one file, each accepted by a close, and an end before any of them is uploaded."""
    store.faults.append(Fault("put", error=ServerFault, count=-1))
    with trio.fail_after(3000):
        async with mounted(RetryStore(store, call_timeout=1), writeback=log, check=False) as fs:
            file = await fs.open("/f", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for data in contents:
                await file.truncate(0)
                await file.pwrite(data, 0)
                await file.dup().close()
    store.faults.clear()
    store.reset_counts()
    assert [entry.data for entry in log.entries.values()] == [contents[-1]]
    return list(log.entries.values())


@pytest.mark.parametrize("when", ["before", "between"])
@pytest.mark.parametrize("there", [False, True])
async def test_a_replay_keeps_a_foreign_object(
    autojump_clock: MockClock, store: MemoryStore, log: MemoryLog, when: str, there: bool
) -> None:
    if there:
        store.add("f", b"base")
    left = await crashed(store, log, b"ours")
    if when == "before":
        store.add("f", b"theirs")
    else:
        store.faults.append(Fault("put", error=ServerFault, count=1, key="f"))

        async def later(op: str, key: str) -> None:
            if op == "put":
                store.before = None
                store.add("f", b"theirs")

        store.before = later
    with trio.fail_after(100):
        done, failed = await replay(RetryStore(store), left, hostname="h")
    assert (done, failed) == ([left[-1].number], [])
    assert store.data("f") == b"theirs" and conflicts(store) == [b"ours"]


@pytest.mark.parametrize("there", [False, True])
async def test_a_replay_is_done_once(
    autojump_clock: MockClock, store: MemoryStore, log: MemoryLog, there: bool
) -> None:
    if there:
        store.add("f", b"base")
    left = await crashed(store, log, b"ours")
    with trio.fail_after(100):
        assert await replay(RetryStore(store), left, hostname="h") == ([left[-1].number], [])
        assert store.calls["put"] == 1 and store.data("f") == b"ours"
        assert await replay(RetryStore(store), left, hostname="h") == ([left[-1].number], [])
    assert store.calls["put"] == 1 and conflicts(store) == []


async def test_what_an_attempt_of_an_older_state_left_is_replaced(
    autojump_clock: MockClock, store: MemoryStore, log: MemoryLog
) -> None:
    """The first state got there and its answer was lost; the second has the same write id and other bytes."""
    left = await crashed(store, log, b"first", b"second")
    entry = left[-1]
    store.add("f", b"first", ObjectHeaders(meta=dict(entry.meta["headers"]["meta"])))
    with trio.fail_after(100):
        assert await replay(RetryStore(store), left, hostname="h") == ([left[-1].number], [])
    assert store.data("f") == b"second" and conflicts(store) == []


async def test_what_lives_shortly_never_goes_up(
    autojump_clock: MockClock, store: MemoryStore, log: MemoryLog
) -> None:
    async with deferring(store, log) as fs:
        await fs.write_file("/f", b"1")
        assert log.pending == (1, 1)
        await fs.unlink("/f")
        assert log.pending == (0, 0)
        await trio.sleep(10)
    assert store.calls["put"] == 0


async def test_chmod_of_a_pending_file_is_one_more_entry(
    autojump_clock: MockClock, store: MemoryStore, log: MemoryLog
) -> None:
    async with deferring(store, log) as fs:
        await fs.write_file("/f", b"1")
        await fs.chmod("/f", 0o600)
        assert store.calls["put"] == 0 and log.pending == (1, 1)
        (entry,) = log.entries.values()
        assert entry.meta["headers"]["meta"]["mode"] == str(stat.S_IFREG | 0o600)
        await settled(log)
        assert store.calls["put"] == 1 and store.calls["copy"] == 0
    async with mounted(store) as fs:
        assert stat.S_IMODE((await fs.stat("/f")).mode) == 0o600


async def test_uploads_do_not_wait_when_memory_is_short(
    autojump_clock: MockClock, store: MemoryStore, log: MemoryLog
) -> None:
    async with deferring(store, log, memory=1 << 20) as fs:
        began = trio.current_time()
        for n in range(30):
            await fs.write_file(f"/f{n}", bytes([n]) * 100_000)
        assert trio.current_time() - began < DELAY
        await settled(log)
    assert [store.data(f"f{n}") for n in range(30)] == [bytes([n]) * 100_000 for n in range(30)]


async def test_chmod_of_a_directory_is_stored_within_a_second(
    autojump_clock: MockClock, store: MemoryStore, log: MemoryLog
) -> None:
    async with deferring(store, log) as fs:
        await fs.mkdir("/d")
        store.reset_counts()
        await fs.chmod("/d", 0o700)
        assert store.calls["put"] == 0
        assert stat.S_IMODE((await fs.stat("/d")).mode) == 0o700
        await trio.sleep(1.1)
        assert store.calls["put"] == 1
    async with mounted(store) as fs:
        assert stat.S_IMODE((await fs.stat("/d")).mode) == 0o700


async def test_fsync_of_a_directory_sends_its_files_side_by_side(
    autojump_clock: MockClock, store: MemoryStore, log: MemoryLog
) -> None:
    async with deferring(store, log) as fs:
        for n in range(20):
            await fs.write_file(f"/f{n}", b"x")
        store.reset_counts()
        store.latency = 1.0
        fh = await fs.tree.opendir(ROOT)
        await fs.tree.fsyncdir(fh)
        await fs.tree.releasedir(fh)
        assert log.pending == (0, 0) and store.peak_in_flight == 20


async def test_without_room_close_waits_for_the_bucket(
    autojump_clock: MockClock, store: MemoryStore, log: MemoryLog
) -> None:
    log.full = True
    async with deferring(store, log) as fs:
        await fs.write_file("/f", b"1")
        assert store.data("f") == b"1" and log.ever == []


async def test_without_room_and_without_the_bucket_close_is_enospc(
    autojump_clock: MockClock, store: MemoryStore, log: MemoryLog
) -> None:
    log.full = True
    async with deferring(store, log) as fs:
        store.faults.append(Fault("put", error=ServerFault, count=-1))
        with pytest.raises(PosixError) as caught:
            await fs.write_file("/f", b"1")
        assert caught.value.errno == errno.ENOSPC
        store.faults.clear()
        with pytest.raises(PosixError) as caught:
            await fs.stat("/f")
        assert caught.value.errno == errno.ENOENT
        log.full = False
        await fs.write_file("/f", b"2")
        await settled(log)
    assert store.data("f") == b"2"


async def test_what_fails_is_told_until_it_succeeds(
    autojump_clock: MockClock, store: MemoryStore, log: MemoryLog
) -> None:
    async with deferring(store, log) as fs:
        store.faults.append(Fault("put", error=AccessDenied, count=2))
        await fs.write_file("/f", b"1")
        while not fs.tree.ctx.failing:
            await trio.sleep(0.1)
        ((node, why),) = fs.tree.ctx.failing.items()
        assert node.name == "f" and "PutObject" in why
        await settled(log)
        await fs.tree.ctx.jobs.wait_idle()
        assert not fs.tree.ctx.failing
    assert store.data("f") == b"1"


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("error", [None, ServerFault])
async def test_times_that_are_set_while_the_upload_is_under_way(
    autojump_clock: MockClock,
    store: MemoryStore,
    log: MemoryLog,
    error: type[ServerFault] | None,
    later: bool,
) -> None:
    """They are stored after it, also when that fails at first: nobody else comes by for a closed file."""
    async with mounted(store, writeback=log) as fs:
        await fs.write_file("/f", b"ours")
        store.faults.append(Fault("put", delay=2))
        if error is not None:
            store.faults.append(Fault("copy", error=error))
        store.faults.append(Fault("copy", delay=2))
        await trio.sleep(DELAY + 1)
        assert store.calls["put"] == 1 and not store.objects
        await fs.setattr("/f", SetAttr(mtime_ns=4 * 10**9))
        if later:
            while store.calls["copy"] < (1 if error is None else 2):
                await trio.sleep(0.1)
            await trio.sleep(1)
        await fs.setattr("/f", SetAttr(mtime_ns=5 * 10**9))
        await trio.sleep(30)
        assert not fs.tree.dirty_writers()
        assert store.objects["f"].headers.meta["mtime"].startswith("5")


async def test_uploads_wait_for_a_pause_but_not_for_long(
    autojump_clock: MockClock, store: MemoryStore, log: MemoryLog
) -> None:
    async with deferring(store, log) as fs:
        began = trio.current_time()
        await fs.write_file("/first", b"1")
        while "first" not in store.objects:
            await fs.write_file("/other", b"2", os.O_APPEND)
            assert not store.calls["put"] or trio.current_time() - began >= LATEST
            await trio.sleep(0.5)
            await fs.unlink("/other")
        assert LATEST <= trio.current_time() - began < LATEST + 1
        await fs.write_file("/second", b"3")
        began = trio.current_time()
        while "second" not in store.objects:
            await trio.sleep(0.1)
        assert DELAY <= trio.current_time() - began < DELAY + 0.5


async def test_uploads_do_not_wait_when_the_log_is_crowded(
    autojump_clock: MockClock, store: MemoryStore, log: MemoryLog
) -> None:
    log.crowded = True
    async with deferring(store, log) as fs:
        began = trio.current_time()
        await fs.write_file("/f", b"1")
        await settled(log)
        assert trio.current_time() - began < DELAY


async def test_a_close_that_fails_after_one_that_was_accepted_costs_nothing(
    autojump_clock: MockClock, store: MemoryStore, log: MemoryLog
) -> None:
    """The file is pending, and so it stays, with what was written later through another descriptor."""
    async with mounted(store, writeback=log) as fs:
        first = await fs.open("/f", os.O_WRONLY | os.O_CREAT)
        second = await fs.open("/f", os.O_WRONLY)
        await first.write(b"accepted")
        await first.close()
        assert log.pending == (1, 8)
        store.faults += [Fault("initiate", error=ServerFault, count=2), Fault("put", error=ServerFault)]
        await second.pwrite(b"x" * 2 * CHUNK, 8)  # too large to be put off
        with pytest.raises(ServerFault):
            await second.close()
        assert (await fs.stat("/f")).size == 8 + 2 * CHUNK
        await settled(log)
        assert store.data("f") == b"accepted" + b"x" * 2 * CHUNK == await fs.read_file("/f")
