"""Carrying out a plan: each kind of part, failures, and copies by parts."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator

import pytest
import trio

from ossfs.errors import (
    AccessDenied,
    AlreadyExists,
    InvalidRequest,
    NoSuchUpload,
    NotFound,
    PreconditionFailed,
    ServerFault,
    ShortBody,
)
from ossfs.fs import attrs as attributes
from ossfs.fs import commit, hidden
from ossfs.fs.attrs import Attrs
from ossfs.fs.commit import Upload, copy_object, fetch, gather, put_parts, put_whole, zeros
from ossfs.fs.content import (
    BaseRange,
    CopyPart,
    MemoryRange,
    Plan,
    PutPart,
    ReusePart,
    SentRange,
    ZeroPart,
    ZeroRange,
)
from ossfs.fs.context import Context
from ossfs.fs.inodes import Version
from ossfs.limits import KIB, MIB
from ossfs.store.base import WRITE_ID, ObjectHeaders, PartResult, StoredAs
from ossfs.store.checksum import crc64
from tests.support.journals import NotedJournal
from tests.support.memory_store import Fault, MemoryStore, StoredObject
from tests.support.posix import Posix, mounted

pytestmark = pytest.mark.timeout(30)

PART = 100 * KIB


def memory(data: bytes) -> MemoryRange:
    return MemoryRange(memoryview(data))


def new_attrs() -> Attrs:
    attrs = attributes.new(stat.S_IFREG, 0o640, 1, 2, 5 * attributes.NS, name="a.txt")
    attrs.carried.meta["foreign"] = "x"
    return attrs


def version_of(key: str, found: StoredObject) -> Version:
    return Version(key, found.etag, found.size, found.crc64, found.last_modified)


@pytest.fixture
def journal() -> NotedJournal:
    return NotedJournal()


@pytest.fixture
async def fs(
    store: MemoryStore, journal: NotedJournal, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Posix]:
    monkeypatch.setattr(hidden, "ZERO_BLOCK", MIB)
    monkeypatch.setattr(hidden, "BIG_ZERO", 8 * MIB)
    monkeypatch.setattr(hidden, "HUGE_ZERO", 40 * MIB)
    async with mounted(store, journal=journal) as posix:
        yield posix


@pytest.fixture
def ctx(fs: Posix) -> Context:
    return fs.tree.ctx


async def begin(ctx: Context, key: str = "k") -> Upload:
    attrs = new_attrs()
    upload_id = await ctx.store.initiate(key, attributes.encode(attrs, write_id="w"))
    return Upload(key, upload_id, "w", attrs)


async def staged(start: int, length: int) -> bytes:
    return bytes([start % 251]) * length


# -- bodies


@pytest.mark.parametrize("length", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 7])
def test_zeros_take_no_memory(length: int) -> None:
    pieces = zeros(length)
    assert sum(len(p) for p in pieces) == length and not any(pieces[-1] if pieces else b"")
    assert len({id(p.obj) for p in pieces}) <= 1


async def test_fetch(ctx: Context, store: MemoryStore, autojump_clock: object) -> None:
    base = version_of("b", store.add("b", b"0123456789"))
    with trio.fail_after(5):
        assert bytes(await fetch(ctx, base, 2, 3)) == b"234"
        assert bytes(await fetch(ctx, base, 99, 0)) == b""
        with pytest.raises(ShortBody):
            await fetch(ctx, base, 8, 5)
        store.add("b", b"replaced")
        with pytest.raises(PreconditionFailed):
            await fetch(ctx, base, 2, 3)
        store.remove("b")
        with pytest.raises(NotFound):
            await fetch(ctx, base, 2, 3)


async def test_gather(ctx: Context, store: MemoryStore, autojump_clock: object) -> None:
    base = version_of("b", store.add("b", b"0123456789"))
    own = memory(b"own")
    pieces = [own, BaseRange(2, 3), ZeroRange(4), SentRange(3, 7, 2)]
    with trio.fail_after(5):
        body = await gather(ctx, pieces, base, staged)
    assert b"".join(body) == b"own" + b"234" + bytes(4) + b"\x07\x07"
    assert body[0] is own.data, "sent as it is, not copied"


async def test_put_whole(ctx: Context, store: MemoryStore, autojump_clock: object) -> None:
    base = version_of("k", store.add("k", b"0123456789"))
    plan = Plan("put", [PutPart(1, 0, 8, [memory(b"new"), BaseRange(3, 5)])])
    with trio.fail_after(5):
        with pytest.raises(AlreadyExists):
            await put_whole(ctx, "k", plan, base, new_attrs(), "w", forbid_overwrite=True)
        result = await put_whole(ctx, "k", plan, base, new_attrs(), "w", forbid_overwrite=False)
    found = store.objects["k"]
    assert found.data == b"new34567" and (found.etag, found.crc64) == (result.etag, result.crc64)
    assert found.headers.meta["foreign"] == "x" and found.headers.meta[WRITE_ID] == "w"
    assert found.headers.meta["mode"] == "33184" and found.headers.content_type == "text/plain"


async def test_an_empty_file_is_an_empty_put(
    ctx: Context, store: MemoryStore, autojump_clock: object
) -> None:
    with trio.fail_after(5):
        plan = Plan("put", [PutPart(1, 0, 0, [])])
        await put_whole(ctx, "k", plan, None, new_attrs(), "w", forbid_overwrite=True)
    assert store.data("k") == b""


# -- parts


async def test_every_kind_of_part(
    ctx: Context, store: MemoryStore, fs: Posix, autojump_clock: object
) -> None:
    old = bytes(range(256)) * 1200  # 300 KiB
    base = version_of("k", store.add("k", old))
    upload = await begin(ctx)
    sent = b"s" * PART
    upload.results[2] = await store.put_part("k", upload.upload_id, 2, [sent])
    hole = 6 * MIB
    plan = Plan(
        "multipart",
        [
            CopyPart(1, 0, PART),
            ReusePart(2, PART),
            PutPart(3, 2 * PART, PART, [memory(b"m" * (PART - 10)), BaseRange(2 * PART, 10)]),
            ZeroPart(4, 3 * PART, hole),
            ZeroPart(5, 3 * PART + hole, MIB),
            PutPart(7, 4 * PART + hole, 5, [SentRange(6, 100, 3), ZeroRange(2)]),
        ],
    )
    store.reset_counts()
    with trio.fail_after(5):
        results = await put_parts(ctx, fs.tree.hidden, upload, plan, base, read_staged=staged)
        await store.complete("k", upload.upload_id, results)
    assert [r.number for r in results] == [1, 2, 3, 4, 5, 7]
    expected = old[:PART] + sent + b"m" * (PART - 10) + old[2 * PART : 2 * PART + 10]
    assert store.data("k") == expected + bytes(hole + MIB) + b"\x64" * 3 + bytes(2)
    assert store.bytes_in == PART + 5 + MIB, "own bytes, and the zero block once"
    assert store.bytes_out == 10


async def test_zeros_too_short_to_be_worth_a_big_object(
    ctx: Context, store: MemoryStore, fs: Posix, autojump_clock: object
) -> None:
    upload = await begin(ctx)
    plan = Plan("multipart", [ZeroPart(1, 0, 3 * MIB), PutPart(2, 3 * MIB, 1, [memory(b"x")])])
    with trio.fail_after(5):
        await store.complete("k", upload.upload_id, await put_parts(ctx, fs.tree.hidden, upload, plan, None))
    assert store.data("k") == bytes(3 * MIB) + b"x"
    assert not store.calls["copy_part"]


async def test_a_hole_longer_than_the_big_zeros_is_not_uploaded(
    ctx: Context, store: MemoryStore, fs: Posix, autojump_clock: object
) -> None:
    """Planned for a file of more than 16 GiB of hole: its parts are up to 5 GiB."""
    upload = await begin(ctx)
    plan = Plan("multipart", [ZeroPart(n, (n - 1) * 40 * MIB, 40 * MIB) for n in range(1, 5)])
    with trio.fail_after(5):
        results = await put_parts(ctx, fs.tree.hidden, upload, plan, None)
    assert sum(r.size for r in results) == 160 * MIB
    assert store.bytes_in == MIB


@pytest.mark.parametrize("how", ["removed", "replaced"])
async def test_zeros_that_somebody_removed_do_not_look_like_a_foreign_change(
    ctx: Context, store: MemoryStore, fs: Posix, how: str, autojump_clock: object
) -> None:
    upload = await begin(ctx)
    for number in (1, 2):
        plan = Plan("multipart", [ZeroPart(number, 0, MIB), ZeroPart(number + 2, MIB, 8 * MIB)])
        with trio.fail_after(5):
            results = await put_parts(ctx, fs.tree.hidden, upload, plan, None)
        assert [r.size for r in results] == [MIB, 8 * MIB]
        for key in [k for k in store.objects if ".ossfs-" in k]:
            if how == "removed":
                store.remove(key)
            else:
                store.add(key, b"something else")


async def test_an_upload_that_is_gone_is_not_taken_for_lost_zeros(
    ctx: Context, store: MemoryStore, fs: Posix, autojump_clock: object
) -> None:
    upload = await begin(ctx)
    await store.abort("k", upload.upload_id)
    with trio.fail_after(5), pytest.raises(NoSuchUpload):
        await put_parts(ctx, fs.tree.hidden, upload, Plan("multipart", [ZeroPart(1, 0, MIB)]), None)
    assert store.calls["put"] == 1


async def test_a_part_that_fails_keeps_those_that_went_up(
    ctx: Context, store: MemoryStore, fs: Posix, autojump_clock: object
) -> None:
    """The writer may try again with the same upload."""
    upload = await begin(ctx)
    plan = Plan("multipart", [PutPart(n, n * PART, PART, [memory(bytes([n]) * PART)]) for n in range(1, 41)])
    store.faults.append(Fault("put_part", number=20, error=AccessDenied))
    with trio.fail_after(5), pytest.raises(AccessDenied):
        await put_parts(ctx, fs.tree.hidden, upload, plan, None)
    assert upload.upload_id in store.uploads
    assert upload.results and 20 not in upload.results
    assert 40 not in upload.results, "the rest was not begun"
    assert {n: r.etag for n, r in upload.results.items()}.items() <= {
        n: p.etag for n, p in store.uploads[upload.upload_id].parts.items()
    }.items()
    with trio.fail_after(5):
        results = await put_parts(ctx, fs.tree.hidden, upload, plan, None)
    assert [r.number for r in results] == list(range(1, 41))


async def test_parts_in_flight_are_bounded(
    ctx: Context, store: MemoryStore, fs: Posix, autojump_clock: object
) -> None:
    store.latency = 1.0
    upload = await begin(ctx)
    plan = Plan("multipart", [PutPart(n, n * PART, PART, [memory(bytes(PART))]) for n in range(1, 50)])
    store.reset_counts()
    with trio.fail_after(60):
        await put_parts(ctx, fs.tree.hidden, upload, plan, None)
    assert store.peak_in_flight == commit.PARALLEL_PARTS


async def test_a_base_that_was_replaced(
    ctx: Context, store: MemoryStore, fs: Posix, autojump_clock: object
) -> None:
    base = version_of("k", store.add("k", bytes(2 * PART)))
    upload = await begin(ctx)
    store.add("k", b"x" * 2 * PART)
    with trio.fail_after(5), pytest.raises(PreconditionFailed):
        await put_parts(ctx, fs.tree.hidden, upload, Plan("multipart", [CopyPart(1, 0, PART)]), base)
    assert not upload.results


# -- copies


@pytest.fixture
def small_copies(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service refuses to copy what is large in one request."""
    monkeypatch.setattr(commit, "MAX_SINGLE_COPY_SIZE", 2 * PART)
    monkeypatch.setattr(commit, "COPY_STEP", PART)
    store.faults.append(Fault("copy", error=InvalidRequest, count=-1))


DATA = bytes(range(256)) * 2000  # 500 KiB


async def test_a_copy_takes_everything_along(
    ctx: Context, store: MemoryStore, autojump_clock: object
) -> None:
    headers = ObjectHeaders(meta={"a": "b"}, content_type="x/y")
    source = version_of("s", store.add("s", DATA, headers, storage_class="IA"))
    with trio.fail_after(5):
        result = await copy_object(ctx, source, "t", None, stored_as=StoredAs("IA"))
    found = store.objects["t"]
    assert found.data == DATA and found.etag == result.etag and found.storage_class == "IA"
    assert found.headers.meta == {"a": "b"} and found.headers.content_type == "x/y"
    assert store.calls == {"copy": 1}


async def test_a_copy_with_new_attributes(ctx: Context, store: MemoryStore, autojump_clock: object) -> None:
    source = version_of("k", store.add("k", b"small", ObjectHeaders(meta={"a": "b"})))
    with trio.fail_after(5):
        await copy_object(ctx, source, "k", new_attrs(), write_id="w")
    assert store.objects["k"].headers.meta == attributes.encode(new_attrs(), write_id="w").meta
    assert store.calls == {"copy": 1}


@pytest.mark.parametrize("key", ["k", "other"])
@pytest.mark.parametrize("has_crc", [True, False])
async def test_a_large_copy_goes_by_parts(
    key: str,
    has_crc: bool,
    ctx: Context,
    store: MemoryStore,
    journal: NotedJournal,
    small_copies: None,
    autojump_clock: object,
) -> None:
    store.crc_of_copied_parts = has_crc
    source = version_of("k", store.add("k", DATA))
    with trio.fail_after(5):
        result = await copy_object(ctx, source, key, new_attrs(), write_id="w")
    assert store.data(key) == DATA
    assert store.objects[key].headers.meta == attributes.encode(new_attrs(), write_id="w").meta
    assert store.calls == {"copy": 1, "initiate": 1, "copy_part": 5, "complete": 1}
    assert result.crc64 == crc64([DATA]), "the source's, when the service does not say"
    assert not store.uploads and not journal.uploads


async def test_a_large_copy_by_parts_takes_everything_along(
    ctx: Context, store: MemoryStore, small_copies: None, autojump_clock: object
) -> None:
    """An upload takes nothing over by itself."""
    headers = ObjectHeaders(meta={"foreign": "x", "mode": "33188"}, content_type="x/y", tagging="t=1")
    source = version_of("s", store.add("s", DATA, headers, storage_class="IA"))
    with trio.fail_after(5):
        await copy_object(ctx, source, "t", None, stored_as=StoredAs("IA"))
    found = store.objects["t"]
    assert found.data == DATA and found.storage_class == "IA" and found.tagging == "t=1"
    assert found.headers.content_type == "x/y" and found.headers.meta["foreign"] == "x"


async def test_a_small_copy_that_is_refused_is_refused(
    ctx: Context, store: MemoryStore, small_copies: None, autojump_clock: object
) -> None:
    source = version_of("s", store.add("s", b"small"))
    with trio.fail_after(5), pytest.raises(InvalidRequest):
        await copy_object(ctx, source, "t", new_attrs())
    assert store.calls == {"copy": 1}


async def test_a_large_copy_does_not_overwrite(
    ctx: Context, store: MemoryStore, journal: NotedJournal, small_copies: None, autojump_clock: object
) -> None:
    source = version_of("s", store.add("s", DATA))
    store.add("t", b"somebody's")
    with trio.fail_after(5), pytest.raises(AlreadyExists):
        await copy_object(ctx, source, "t", new_attrs(), forbid_overwrite=True)
    assert store.data("t") == b"somebody's" and not store.uploads and not journal.uploads


@pytest.mark.parametrize("op", ["copy_part", "complete"])
async def test_a_copy_that_fails_is_aborted(
    op: str,
    ctx: Context,
    store: MemoryStore,
    journal: NotedJournal,
    small_copies: None,
    autojump_clock: object,
) -> None:
    source = version_of("s", store.add("s", DATA))
    store.faults.append(Fault(op, error=AccessDenied))
    with trio.fail_after(5), pytest.raises(AccessDenied):
        await copy_object(ctx, source, "t", new_attrs())
    assert store.keys() == ["s"] and not store.uploads and not journal.uploads


async def test_why_a_copy_failed_is_told_also_when_the_abort_fails(
    ctx: Context, store: MemoryStore, journal: NotedJournal, small_copies: None, autojump_clock: object
) -> None:
    """Who calls decides by it: a replaced source is looked at again."""
    source = version_of("s", store.add("s", DATA))
    store.add("s", DATA[::-1])
    store.faults.append(Fault("abort", error=ServerFault))
    with trio.fail_after(5), pytest.raises(PreconditionFailed):
        await copy_object(ctx, source, "t", new_attrs())
    assert {u for _, u in journal.uploads} == set(store.uploads) != set(), "the next mount aborts it"


async def test_a_copy_that_is_cancelled_is_aborted(
    ctx: Context, store: MemoryStore, journal: NotedJournal, small_copies: None, autojump_clock: object
) -> None:
    source = version_of("s", store.add("s", DATA))
    store.latency = 1.0
    with trio.move_on_after(1.5):
        await copy_object(ctx, source, "t", new_attrs())
    assert store.keys() == ["s"] and not store.uploads and not journal.uploads


async def test_the_steps_of_a_very_large_copy(
    ctx: Context,
    store: MemoryStore,
    small_copies: None,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: object,
) -> None:
    """48.8 TB in at most 10 000 parts of at most 5 GiB."""
    parts: list[tuple[int, int, int]] = []

    async def copy_part(
        key: str, upload: str, number: int, source: str, start: int, length: int, *, etag: str
    ) -> PartResult:
        parts.append((number, start, length))
        return PartResult(number, length, "E", None)

    async def complete(key: str, upload: str, done: list[PartResult], **more: object) -> object:
        assert [p.number for p in done] == list(range(1, len(done) + 1))
        await store.abort(key, upload)
        return await store.put(key, [], ObjectHeaders())

    monkeypatch.setattr(commit, "COPY_STEP", 512 * MIB)
    monkeypatch.setattr(store, "copy_part", copy_part)
    monkeypatch.setattr(store, "complete", complete)
    store.add("s")
    for size in (10**9 + 1, 10**13, 5 * 1024**3 * 8999):
        parts.clear()
        with trio.fail_after(20):
            await copy_object(ctx, Version("s", "E", size, 1), "t", new_attrs())
        assert len(parts) <= 10_000 and all(length <= 5 * 1024**3 for _, _, length in parts)
        assert sum(length for _, _, length in parts) == size
        at = 0
        for _, start, length in sorted(parts):
            assert start == at
            at += length
