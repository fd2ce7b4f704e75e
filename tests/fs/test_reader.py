"""The reader: right bytes, never a hanging read, memory that comes back, and few requests."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from ossfs.errors import (
    AccessDenied,
    ChecksumMismatch,
    ConnectionLost,
    PreconditionFailed,
    ServerFault,
    ShortBody,
    StoreError,
)
from ossfs.fs import budget as budget_module
from ossfs.fs import reader as reader_module
from ossfs.fs.blocks import Block
from ossfs.fs.budget import Budget
from ossfs.fs.context import Context, Jobs
from ossfs.fs.inodes import Inodes, Version
from ossfs.fs.ports import FsConfig, NoJournal
from ossfs.fs.reader import BLOCK, FIRST, Reader, Stream
from ossfs.limits import KIB, MIB
from ossfs.metrics import Metrics
from ossfs.store.base import ObjectInfo, Progress
from tests.support.memory_store import Fault, MemoryStore
from tests.support.posix import RecordingKernel


def pattern(size: int, seed: int = 1) -> bytes:
    """Bytes of which no two places look the same."""
    return random.Random(seed).randbytes(size)


def context(store: MemoryStore, nursery: trio.Nursery, memory: int, connections: int = 64) -> Context:
    config = FsConfig(memory=memory, connections=connections)
    return Context(
        store=store,
        config=config,
        jobs=Jobs(nursery),
        kernel=RecordingKernel(),
        journal=NoJournal(),
        metrics=Metrics(),
        budget=Budget(config.memory),
        inodes=Inodes(config.prefix),
    )


@asynccontextmanager
async def world(
    store: MemoryStore, *, memory: int = 64 * MIB, connections: int = 64
) -> AsyncIterator[Context]:
    """A mount's context; at the end all readers are closed and everything has come back."""
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            ctx = context(store, nursery, memory, connections)
            others = list(ctx.budget.reclaimers)
            yield ctx
            await ctx.jobs.wait_idle()
    assert ctx.budget.used == 0
    assert not ctx.budget.waiting
    assert list(ctx.budget.reclaimers) == others
    assert ctx.pace.in_flight == 0
    assert store.in_flight == 0


@asynccontextmanager
async def reading(ctx: Context, store: MemoryStore, key: str = "f") -> AsyncIterator[Reader]:
    found = store.objects[key]
    reader = Reader(ctx, Version(key, found.etag, found.size, found.crc64))
    try:
        yield reader
    finally:
        reader.close()


async def read_all(reader: Reader, piece: int = MIB) -> bytes:
    data = bytearray()
    while got := await reader.read(len(data), piece):
        data += got
    return bytes(data)


class Gated(MemoryStore):
    """GETs deliver as many bytes as `allow` says, from a worker thread, and wait for more."""

    def __init__(self) -> None:
        super().__init__()
        self.allowed = 0
        self.more = trio.Event()

    def allow(self, count: int) -> None:
        """So many bytes of each GET are delivered from now on."""
        self.allowed = count
        self.more.set()
        self.more = trio.Event()

    async def get(
        self,
        key: str,
        into: memoryview,
        *,
        start: int = 0,
        etag: str | None = None,
        progress: Progress | None = None,
    ) -> tuple[ObjectInfo, int]:
        self.calls["get"] += 1
        self.in_flight += 1
        try:
            data = self.data(key)[start : start + len(into)]
            done = 0
            while done < len(data):
                while done >= self.allowed:
                    await self.more.wait()
                stop = min(self.allowed, len(data))
                into[done:stop] = data[done:stop]
                done = stop
                if progress is not None:
                    await trio.to_thread.run_sync(progress, done)
            return await self.head(key), done
        finally:
            self.in_flight -= 1


@pytest.fixture
def store(autojump_clock: MockClock) -> MemoryStore:
    return MemoryStore(latency=0.015)


# -- right bytes


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """All sizes 128 times smaller, so that a small file has a large one's problems."""
    for name in ("FIRST", "BLOCK", "MIN_WINDOW", "SLACK", "PLENTY", "MIB"):
        monkeypatch.setattr(reader_module, name, getattr(reader_module, name) // 128)
    monkeypatch.setattr(budget_module, "POOLED", budget_module.POOLED // 128)


def run_shrunk(main: Callable[[], Awaitable[None]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        trio.run(main, clock=MockClock(autojump_threshold=0))


Step = tuple[str, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(["on", "on", "on", "jump", "back", "ahead", "burst", "end", "wait", "press"]),
        st.integers(0, 2**20),
        st.sampled_from([1, 100, 4 * KIB // 128, 1 * KIB, 8 * KIB, 9000, 40 * KIB]),
    ),
    max_size=40,
)
faults = st.lists(
    st.builds(
        Fault,
        op=st.just("get"),
        skip=st.integers(0, 30),
        count=st.integers(1, 3),
        error=st.sampled_from([None, ConnectionLost, ServerFault, AccessDenied]),
        cut=st.sampled_from([None, None, 0, 1, 5000]),
        delay=st.sampled_from([0.0, 0.1, 5.0]),
    ),
    max_size=4,
)


@given(steps, faults, st.integers(0, 300_000), st.sampled_from([8 * KIB, 100 * KIB, MIB]), st.integers(1, 8))
@settings(max_examples=200, deadline=None)
def test_reads_equal_the_object(
    program: list[Step], scripted: list[Fault], size: int, memory: int, connections: int
) -> None:
    """Any program of reads, side by side and out of order, under faults and memory pressure.

    A read returns the object's bytes or raises what the store raised; memory always comes back.
    """
    data = pattern(size)

    async def main() -> None:
        store = MemoryStore(latency=0.01)
        made = store.add("f", data)
        # The network's pieces: progress comes in steps.
        made.pieces = [made.pieces[0][i : i + 3000] for i in range(0, size, 3000)] if size else []
        store.faults = [Fault(**vars(fault)) for fault in scripted]

        async def one(reader: Reader, offset: int, length: int) -> None:
            try:
                got = await reader.read(offset, length)
            except StoreError:
                assert scripted
                return
            assert got == data[offset : offset + length]

        async with (
            world(store, memory=memory, connections=connections) as ctx,
            reading(ctx, store) as reader,
            trio.open_nursery() as side,
        ):
            at = 0
            for what, number, length in program:
                if what == "jump":
                    at = number % (size + 1)
                elif what == "back":
                    at = max(0, at - number % (4 * length))
                elif what == "end":
                    at = max(0, size - length)
                if what == "burst":
                    places = [at + i * length for i in range(number % 6)]
                    random.Random(number).shuffle(places)
                    for place in places:
                        side.start_soon(one, reader, place, length)
                    at += len(places) * length
                elif what == "ahead":
                    side.start_soon(one, reader, at + length, length)
                elif what == "wait":
                    await trio.sleep(number % 3)
                elif what == "press":
                    side.start_soon(hold, ctx.budget, number % memory)
                else:
                    await one(reader, at, length)
                    at += length

    async def hold(budget: Budget, amount: int) -> None:
        await budget.acquire(amount)
        try:
            await trio.sleep(1)
        finally:
            budget.give(min(amount, budget.limit))

    run_shrunk(main)


async def test_beyond_the_end_there_is_nothing(store: MemoryStore, autojump_clock: object) -> None:
    store.add("f", b"0123456789")
    store.add("empty")
    async with world(store) as ctx:
        async with reading(ctx, store) as reader:
            assert await reader.read(8, 100) == b"89"
            assert await reader.read(10, 100) == b""
            assert await reader.read(1 << 60, 100) == b""
            assert await reader.read(0, 0) == b""
        async with reading(ctx, store, "empty") as reader:
            assert await reader.read(0, 100) == b""
        assert store.calls["get"] == 1


async def test_a_replaced_object_is_never_spliced(store: MemoryStore, autojump_clock: object) -> None:
    old = pattern(40 * MIB, 1)
    store.add("f", old)
    async with world(store) as ctx, reading(ctx, store) as reader:
        assert await reader.read(0, MIB) == old[:MIB]
        store.add("f", pattern(40 * MIB, 2))
        with pytest.raises(PreconditionFailed):
            await read_from(reader, MIB, old)
        with pytest.raises(PreconditionFailed):  # also a range that nobody has asked for yet
            await reader.read(30 * MIB, 4096)


async def read_from(reader: Reader, at: int, data: bytes) -> None:
    while at < len(data):
        assert await reader.read(at, MIB) == data[at : at + MIB]
        at += MIB


async def test_a_view_lasts_until_the_next_await(
    store: MemoryStore, small: None, autojump_clock: object
) -> None:
    """Buffers are used again, but not under a reply; many readers use the same ones."""
    data = pattern(MIB)
    for name in "abcd":
        store.add(name, data)

    async def go(ctx: Context, name: str) -> None:
        async with reading(ctx, store, name) as reader:
            for at in range(0, MIB, 8 * KIB):
                view = await reader.read(at, 8 * KIB)
                assert view == data[at : at + 8 * KIB]

    async with world(store) as ctx, trio.open_nursery() as nursery:
        for name in "abcd":
            nursery.start_soon(go, ctx, name)


# -- nobody is left hanging


async def test_a_reader_is_woken_when_its_bytes_are_there() -> None:
    """Real threads and a real clock: progress comes from a worker thread."""
    store = Gated()
    data = pattern(4 * MIB)
    store.add("f", data)
    done: list[int] = []

    async with world(store) as ctx, reading(ctx, store) as reader:

        async def go(offset: int, length: int) -> None:
            assert await reader.read(offset, length) == data[offset : offset + length]
            done.append(offset)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(go, 0, 4 * MIB)
            await wait_all_tasks_blocked()
            nursery.start_soon(go, 0, 1000)
            nursery.start_soon(go, MIB, MIB)
            store.allow(1000)
            while done != [0]:
                await trio.lowlevel.checkpoint()
            store.allow(2 * MIB)
            while done != [0, MIB]:
                await trio.lowlevel.checkpoint()
            assert store.calls["get"] == 1
            store.allow(4 * MIB)
    assert done == [0, MIB, 0]


async def test_bytes_that_come_while_a_read_lies_down_wake_it(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker thread looks at who waits, the read at what is there; one of them sees the other."""
    block = Block(0, 100, bytearray(100), Stream(0, 0, 0.0, lone=False), prefetch=False)
    event = trio.Event

    def sly_event() -> trio.Event:
        block.advance(100)
        return event()

    monkeypatch.setattr(trio, "Event", sly_event)
    with trio.fail_after(5):
        await block.wait(100)


async def test_a_connection_is_not_cut_for_its_last_word(store: MemoryStore, autojump_clock: object) -> None:
    """The last byte is here and has been read, but the worker thread has not returned yet."""
    data = pattern(3 * MIB)
    store.add("f", data)
    ended: list[bool] = []

    async def after(op: str, key: str) -> None:
        await trio.sleep(1)
        ended.append(True)

    store.after = after
    async with world(store) as ctx, reading(ctx, store) as reader:
        assert await read_all(reader) == data
        await ctx.jobs.wait_idle()
        fetches = store.calls["get"]
    assert len(ended) == fetches


async def test_cancelling_one_waiter_does_not_disturb_another(
    store: MemoryStore, autojump_clock: object
) -> None:
    data = pattern(MIB)
    store.add("f", data)
    results: list[bool] = []
    async with world(store) as ctx, reading(ctx, store) as reader, trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def cancelled() -> None:
            with scope:
                await reader.read(0, MIB)
            results.append(False)

        async def patient() -> None:
            results.append(await reader.read(0, MIB) == data)

        nursery.start_soon(cancelled)
        nursery.start_soon(patient)
        await wait_all_tasks_blocked()
        scope.cancel()
    assert sorted(results) == [False, True]
    assert store.calls["get"] == 1


async def test_closing_lets_reads_end_and_stops_the_rest(store: MemoryStore, autojump_clock: object) -> None:
    data = pattern(32 * MIB)
    store.add("f", data)
    results: list[bool] = []
    async with world(store) as ctx, reading(ctx, store) as reader:

        async def go(offset: int) -> None:
            results.append(await reader.read(offset, MIB) == data[offset : offset + MIB])

        for at in range(4):
            await go(at * MIB)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(go, 4 * MIB)
            nursery.start_soon(go, 20 * MIB)  # random access
            await wait_all_tasks_blocked()
            reader.close()
            reader.close()
            with pytest.raises(trio.ClosedResourceError):
                await reader.read(0, 1)
        assert results == [True] * 6
        await ctx.jobs.wait_idle()
        assert ctx.budget.used == 0


async def test_the_end_of_the_mount_ends_reads(autojump_clock: object) -> None:
    store = Gated()  # which never delivers
    store.add("f", pattern(MIB))
    heard: list[str] = []
    with trio.fail_after(10):
        async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
            ctx = context(store, nursery, 64 * MIB)
            reader = Reader(ctx, Version("f", store.objects["f"].etag, MIB, None))

            async def go() -> None:
                try:
                    await reader.read(0, 100)
                except ConnectionLost:
                    heard.append("lost")

            outer.start_soon(go)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    reader.close()
    assert heard == ["lost"]
    assert ctx.budget.used == 0


@pytest.mark.parametrize(
    "fault",
    [
        Fault("get", error=AccessDenied),
        Fault("get", cut=1000),
        Fault("get", error=ConnectionLost, delay=3),
        Fault("get", lose=True),
    ],
)
async def test_a_failed_fetch_fails_its_readers_only(
    store: MemoryStore, autojump_clock: object, fault: Fault
) -> None:
    data = pattern(MIB)
    store.add("f", data)
    store.faults.append(fault)
    failed: list[str] = []
    async with world(store) as ctx, reading(ctx, store) as reader:

        async def go() -> None:
            try:
                await reader.read(0, 100 * KIB)
            except StoreError as error:
                failed.append(type(error).__name__)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(go)
            nursery.start_soon(go)
        assert len(set(failed)) <= 1
        assert (len(failed) == 2) == (not fault.lose)
        assert await reader.read(0, MIB) == data


async def test_what_failed_ahead_is_asked_for_again(store: MemoryStore, autojump_clock: object) -> None:
    data = pattern(32 * MIB)
    store.add("f", data)
    async with world(store) as ctx, reading(ctx, store) as reader:
        assert await reader.read(0, MIB) == data[:MIB]
        store.faults.append(Fault("get", count=-1, error=ServerFault))
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:

            async def leave() -> None:  # so that nobody waits for what is fetched
                with scope:
                    await reader.read(MIB, MIB)

            nursery.start_soon(leave)
            await wait_all_tasks_blocked()
            scope.cancel()
        await ctx.jobs.wait_idle()
        assert store.faults[0].hits > 2
        store.faults.clear()
        await read_from(reader, MIB, data)


async def test_a_body_that_is_too_short_is_an_error(store: MemoryStore, autojump_clock: object) -> None:
    made = store.add("f", pattern(MIB))
    async with world(store) as ctx:
        reader = Reader(ctx, Version("f", made.etag, 2 * MIB, None))
        with pytest.raises(ShortBody):
            await reader.read(MIB - 100, 200)
        reader.close()


# -- memory


async def read_ahead(ctx: Context, reader: Reader, count: int = 4) -> None:
    """Read sequentially and let everything that was started ahead arrive."""
    for at in range(count):
        await reader.read(at * MIB, MIB)
    await ctx.jobs.wait_idle()


async def test_what_was_read_ahead_is_given_up_for_others(store: MemoryStore, autojump_clock: object) -> None:
    data = pattern(40 * MIB)
    store.add("f", data)
    async with world(store) as ctx, reading(ctx, store) as reader:
        await read_ahead(ctx, reader)
        assert ctx.budget.used > 8 * MIB
        await ctx.budget.acquire(ctx.budget.limit)
        assert ctx.budget.used == ctx.budget.limit
        # There is no memory for it, and it goes on all the same, one request at a time.
        store.reset_counts()
        await read_from(reader, 4 * MIB, data[: 12 * MIB])
        assert store.bytes_out == 8 * MIB
        assert store.peak_in_flight == 1
        ctx.budget.give(ctx.budget.limit)
        await read_from(reader, 12 * MIB, data)


async def test_blocks_on_their_way_are_given_up_too(store: MemoryStore, autojump_clock: object) -> None:
    """An idle reader's fetches would otherwise hold what a writer waits for."""
    store.add("f", pattern(40 * MIB))
    async with world(store) as ctx, reading(ctx, store) as reader:
        await reader.read(0, MIB)
        store.latency = 100
        with trio.move_on_after(1):
            await reader.read(MIB, MIB)
        assert ctx.budget.used > 2 * MIB
        with trio.fail_after(1):
            await ctx.budget.acquire(ctx.budget.limit)
        ctx.budget.give(ctx.budget.limit)


async def test_memory_is_not_taken_from_under_a_waiting_read(
    store: MemoryStore, autojump_clock: object
) -> None:
    data = pattern(MIB)
    store.add("f", data)
    order: list[str] = []
    async with world(store, memory=2 * MIB) as ctx, reading(ctx, store) as reader:

        async def read() -> None:
            view = await reader.read(0, MIB)
            order.append("read")
            assert view == data

        async def write() -> None:
            await ctx.budget.acquire(2 * MIB)
            order.append("write")
            ctx.budget.give(2 * MIB)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            nursery.start_soon(write)
    assert order == ["read", "write"]


async def test_ahead_stays_within_its_share(store: MemoryStore, autojump_clock: object) -> None:
    """Ten files at once hold no more than one would: a third of the budget, and what is asked for."""
    data = pattern(12 * MIB)
    for i in range(10):
        store.add(f"f{i}", data)
    async with world(store, memory=48 * MIB) as ctx, trio.open_nursery() as nursery:

        async def go(i: int) -> None:
            async with reading(ctx, store, f"f{i}") as reader:
                assert await read_all(reader) == data

        for i in range(10):
            nursery.start_soon(go, i)
    assert ctx.budget.peak <= 48 * MIB
    assert store.bytes_out == 120 * MIB


async def test_tiny_memory_still_reads(store: MemoryStore, autojump_clock: object) -> None:
    data = pattern(3 * MIB)
    store.add("f", data)
    async with world(store, memory=64 * KIB) as ctx, reading(ctx, store) as reader:
        assert await read_all(reader, 128 * KIB) == data


# -- requests


async def test_the_first_byte_costs_one_small_request(store: MemoryStore, autojump_clock: object) -> None:
    store.add("f", pattern(16 * MIB))
    async with world(store) as ctx, reading(ctx, store) as reader:
        assert len(await reader.read(0, 16 * KIB)) == 16 * KIB
        await ctx.jobs.wait_idle()
        assert (store.calls["get"], store.bytes_out) == (1, FIRST)


async def test_reading_on_costs_no_byte_twice(store: MemoryStore, autojump_clock: object) -> None:
    size = 256 * MIB
    data = bytes(size)
    store.add("f", data)
    async with world(store) as ctx, reading(ctx, store) as reader:
        at = 0
        joined = 0
        while at < size:
            got = await reader.read(at, MIB)
            joined += isinstance(got, bytes)
            at += len(got)
    assert store.bytes_out == size
    assert store.calls["get"] <= size // BLOCK + 12
    assert joined == 0


async def test_replies_are_seldom_joined_when_the_kernel_is_off_the_grid(
    store: MemoryStore, autojump_clock: object
) -> None:
    """`cat` reads 128 KiB, so the kernel's requests of 1 MiB begin at half a MiB."""
    data = pattern(64 * MIB)
    store.add("f", data)
    async with world(store) as ctx, reading(ctx, store) as reader:
        joined = 0
        for at in range(-512 * KIB, 64 * MIB, MIB):
            start = max(0, at)
            got = await reader.read(start, at + MIB - start)
            assert got == data[start : at + MIB]
            joined += isinstance(got, bytes)
    assert joined <= 2


async def test_out_of_order_requests_of_the_kernel_are_sequential(
    store: MemoryStore, autojump_clock: object
) -> None:
    size = 64 * MIB
    store.add("f", bytes(size))
    chance = random.Random(3)
    async with world(store) as ctx, reading(ctx, store) as reader:
        for window in range(0, size, 4 * MIB):
            places = [window + i * MIB for i in range(4)]
            chance.shuffle(places)
            async with trio.open_nursery() as nursery:
                for place in places:
                    nursery.start_soon(reader.read, place, MIB)
    assert store.bytes_out == size
    assert store.calls["get"] <= size // BLOCK + 24


async def test_random_reads_are_one_exact_request_each(store: MemoryStore, autojump_clock: object) -> None:
    size = 256 * MIB
    store.add("f", bytes(size))
    chance = random.Random(7)
    async with world(store) as ctx, reading(ctx, store) as reader:
        for _ in range(100):
            await reader.read(chance.randrange(size // 4096) * 4096, 4096)
    assert store.calls["get"] == 100
    assert store.bytes_out <= 99 * 4096 + FIRST


async def test_random_reads_of_many_threads_run_side_by_side(
    store: MemoryStore, autojump_clock: object
) -> None:
    size = 256 * MIB
    store.add("f", bytes(size))

    async with world(store) as ctx, reading(ctx, store) as reader:

        async def go(seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(40):
                await reader.read(chance.randrange(size // 4096) * 4096, 4096)

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for seed in range(16):
                nursery.start_soon(go, seed)
        assert trio.current_time() - began < 40 * 0.015 * 1.01
    assert store.calls["get"] == 640
    assert store.bytes_out <= 640 * 4096 + FIRST
    assert store.peak_in_flight == 16


async def test_strides_and_backward_reading_fetch_nothing_else(
    store: MemoryStore, autojump_clock: object
) -> None:
    size = 64 * MIB
    store.add("f", bytes(size))
    async with world(store) as ctx:
        async with reading(ctx, store) as reader:
            for at in range(0, size, MIB):
                await reader.read(at, 4096)
        assert store.bytes_out <= 64 * 4096 + 2 * FIRST
        store.reset_counts()
        async with reading(ctx, store) as reader:
            for at in range(size - 4096, size - 400 * KIB, -4096):
                await reader.read(at, 4096)
        assert store.bytes_out <= 400 * KIB + 2 * FIRST


async def test_the_window_grows_with_use_and_a_jump_starts_over(
    store: MemoryStore, autojump_clock: object
) -> None:
    size = 200 * MIB
    store.add("f", bytes(size))
    async with world(store, memory=300 * MIB) as ctx, reading(ctx, store) as reader:
        fetched = []
        for at in range(8):
            await reader.read(at * MIB, MIB)
            await ctx.jobs.wait_idle()
            fetched.append(store.bytes_out // MIB)
        assert fetched[0] == 1
        assert all(count <= 5 * (i + 1) for i, count in enumerate(fetched))
        assert fetched[-1] > 24
        before = store.bytes_out
        await reader.read(150 * MIB, 4096)
        await ctx.jobs.wait_idle()
        assert store.bytes_out - before <= FIRST


async def test_a_place_that_nobody_returns_to_loses_its_blocks(
    store: MemoryStore, autojump_clock: object
) -> None:
    size = 200 * MIB
    store.add("f", bytes(size))
    async with world(store) as ctx, reading(ctx, store) as reader:
        await read_ahead(ctx, reader, 8)
        assert ctx.budget.used > 8 * MIB
        for at in range(150, 154):
            await reader.read(at * MIB, 64 * KIB)
            await trio.sleep(1)
        assert ctx.budget.used <= MIB


async def test_several_places_are_read_on_at_a_time(store: MemoryStore, autojump_clock: object) -> None:
    """Eight threads, each with a range of its own of one open file."""
    size = 128 * MIB
    data = pattern(size)
    store.add("f", data)
    part = size // 8
    async with world(store) as ctx, reading(ctx, store) as reader, trio.open_nursery() as nursery:

        async def go(start: int) -> None:
            for at in range(start, start + part, 128 * KIB):
                assert await reader.read(at, 128 * KIB) == data[at : at + 128 * KIB]

        for i in range(8):
            nursery.start_soon(go, i * part)
    assert store.bytes_out <= size + 16 * MIB  # each reads ahead into the next one's range
    assert store.calls["get"] < 2 * size // MIB + 32


async def test_a_slow_program_has_little_fetched_ahead(store: MemoryStore, autojump_clock: object) -> None:
    """A film is read at 1 MB/s: neither memory nor line is filled with its next minutes."""
    store.add("f", bytes(200 * MIB))
    async with world(store, memory=300 * MIB) as ctx, reading(ctx, store) as reader:
        for at in range(40):
            await reader.read(at * MIB, MIB)
            await trio.sleep(1)
        assert ctx.budget.used <= 8 * MIB


async def test_prefetches_leave_connections_for_others(store: MemoryStore, autojump_clock: object) -> None:
    store.add("f", bytes(128 * MIB))
    async with world(store, memory=512 * MIB, connections=8) as ctx, reading(ctx, store) as reader:
        await read_all(reader)
    assert store.peak_in_flight <= 7  # three quarters, and the one that is waited for


# -- the checksum


async def in_order(reader: Reader, size: int) -> None:
    for at in range(0, size, 128 * KIB):
        await reader.read(at, 128 * KIB)


async def shuffled(reader: Reader, size: int) -> None:
    places = list(range(0, size, 128 * KIB))
    random.Random(5).shuffle(places)
    for at in places:
        await reader.read(at, 128 * KIB)


async def overlapping(reader: Reader, size: int) -> None:
    for at in (0, size // 2, size // 3, 100, size - 1000):
        await reader.read(at, 70_000)
    for at in range(0, size, 100_000):
        await reader.read(at, 130_000)


async def side_by_side(reader: Reader, size: int) -> None:
    failures: list[ChecksumMismatch] = []

    async def one(at: int) -> None:
        try:
            await reader.read(at, 256 * KIB)
        except ChecksumMismatch as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        for at in range(0, size, 256 * KIB):
            nursery.start_soon(one, at)
    if failures:
        raise failures[0]


Way = Callable[[Reader, int], Awaitable[None]]
ways = pytest.mark.parametrize("way", [in_order, shuffled, overlapping, side_by_side])


@ways
async def test_a_file_read_whole_is_compared(store: MemoryStore, autojump_clock: object, way: Way) -> None:
    """The object's CRC is another one: an error before the end is reported, whatever the order."""
    size = 3 * MIB + 77
    store.add("f", pattern(size)).crc64 = 12345
    async with world(store) as ctx, reading(ctx, store) as reader:
        for _ in range(2):  # the next reading fetches all again, and finds the same
            with pytest.raises(ChecksumMismatch):
                await way(reader, size)


@ways
async def test_a_flipped_byte_is_found_and_the_next_reading_is_right(
    store: MemoryStore, autojump_clock: object, way: Way
) -> None:
    size = 3 * MIB + 77
    data = pattern(size)
    store.add("f", data)
    store.faults.append(Fault("get", skip=1, flip=True))
    async with world(store) as ctx, reading(ctx, store) as reader:
        with pytest.raises(ChecksumMismatch):
            await way(reader, size)
        assert await read_all(reader) == data


@ways
async def test_good_files_pass(store: MemoryStore, autojump_clock: object, way: Way) -> None:
    size = 3 * MIB + 77
    store.add("f", pattern(size))
    async with world(store) as ctx, reading(ctx, store) as reader:
        await way(reader, size)
        assert not reader._ledger.wanted  # compared, and no longer counted
        await way(reader, size)


async def test_nothing_handed_out_yet_is_fetched_again(store: MemoryStore, autojump_clock: object) -> None:
    data = pattern(MIB)
    store.add("f", data)
    store.faults.append(Fault("get", flip=True))
    async with world(store) as ctx, reading(ctx, store) as reader:
        assert await reader.read(0, MIB) == data
        assert store.calls["get"] == 2
    store.faults.append(Fault("get", flip=True, count=2))
    async with world(store) as ctx, reading(ctx, store) as reader:
        with pytest.raises(ChecksumMismatch):
            await reader.read(0, MIB)


async def test_part_of_a_file_cannot_be_compared(store: MemoryStore, autojump_clock: object) -> None:
    size = 64 * MIB
    store.add("f", bytes(size)).crc64 = 12345
    store.add("g", bytes(MIB)).crc64 = None
    async with world(store) as ctx:
        async with reading(ctx, store) as reader:
            await reader.read(0, MIB)
            began = trio.current_time()
            assert len(await reader.read(size - 1000, 4096)) == 1000
            assert trio.current_time() - began < 0.02  # and nothing is waited for
        async with reading(ctx, store, "g") as reader:
            await read_all(reader)


@given(st.integers(0, 40), st.integers(1, 260_000), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_no_flipped_byte_passes_a_whole_reading(skip: int, size: int, seed: int) -> None:
    """Pieces in any order, some at a time: either all bytes were right, or a read failed."""
    data = pattern(size)

    async def main() -> None:
        store = MemoryStore(latency=0.01)
        store.add("f", data)
        fault = Fault("get", skip=skip, flip=True)
        store.faults.append(fault)
        chance = random.Random(seed)
        places = []
        at = 0
        while at < size:
            length = chance.choice([1024, 8192, 30_000])
            places.append((at, length))
            at += length
        if chance.random() < 0.5:
            chance.shuffle(places)
        failed = False
        wrong = False

        async def one(reader: Reader, offset: int, length: int) -> None:
            nonlocal failed, wrong
            try:
                got = await reader.read(offset, length)
                wrong |= got != data[offset : offset + length]
            except ChecksumMismatch:
                failed = True

        async with world(store, memory=MIB) as ctx, reading(ctx, store) as reader:
            while places and not failed:
                batch, places = places[:3], places[3:]
                async with trio.open_nursery() as nursery:
                    for offset, length in batch:
                        nursery.start_soon(one, reader, offset, length)
        assert failed or not wrong

    run_shrunk(main)
