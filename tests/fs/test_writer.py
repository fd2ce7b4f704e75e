"""Writing: what goes to the bucket, when, and what a program is told."""

from __future__ import annotations

import errno
import os
import re
import stat

import pytest
import trio
import trio.testing

from ossfs.errors import AccessDenied, AlreadyExists, OssfsError, PosixError, ServerFault, StoreError
from ossfs.fs.tree import SetAttr
from ossfs.limits import KIB
from tests.support.memory_store import Fault, MemoryStore
from tests.support.posix import CHUNK, Posix, mounted

W = os.O_WRONLY
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
pytestmark = pytest.mark.timeout(60)


def pattern(size: int, seed: int = 1) -> bytes:
    """Bytes that differ everywhere, so that a misplaced range shows."""
    import random

    return random.Random(seed).randbytes(size)


BIG = pattern(5 * CHUNK + 12345)


def errno_is(code: int):  # type: ignore[no-untyped-def]
    return pytest.raises(OssfsError, check=lambda e: e.errno == code)


async def test_a_small_file_is_one_put(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    await fs.walk("")
    store.reset_counts()
    await fs.write_file("a", b"hello")
    assert store.data("a") == b"hello"
    assert store.calls["put"] == 1 and not store.calls["initiate"]
    assert await fs.read_file("a") == b"hello"


async def test_create_sends_no_request_before_the_data(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    await fs.mkdir("d")
    store.reset_counts()
    file = await fs.open("d/f", NEW)
    assert not sum(store.calls.values())
    await file.write(b"x")
    await file.close()
    assert store.calls == {"put": 1}


async def test_chunks_become_parts(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    await fs.write_file("big", BIG)
    assert store.data("big") == BIG
    assert store.calls["put"] == 0 and store.calls["put_part"] == 6 and store.calls["complete"] == 1
    assert not store.uploads
    assert await fs.read_file("big") == BIG


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 1])
async def test_every_size_around_a_chunk(
    fs: Posix, store: MemoryStore, size: int, autojump_clock: object
) -> None:
    data = pattern(size)
    await fs.write_file("f", data)
    assert store.data("f") == data
    assert (await fs.stat("f")).size == size


async def test_rewrite_from_the_start_replaces(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    store.add("f", BIG)
    await fs.write_file("f", b"short")
    assert store.data("f") == b"short"


async def test_editing_in_the_middle_moves_only_what_changed(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    base = pattern(40 * CHUNK)
    store.add("f", base)
    file = await fs.open("f", os.O_RDWR)
    store.reset_counts()
    await file.pwrite(b"y" * 4096, 17 * CHUNK + 123)
    await file.close()
    want = base[: 17 * CHUNK + 123] + b"y" * 4096 + base[17 * CHUNK + 123 + 4096 :]
    assert store.data("f") == want
    assert store.bytes_in < 300 * KIB and store.bytes_out < 300 * KIB
    assert sum(store.calls.values()) <= 8
    assert await fs.read_file("f") == want


async def test_appending_downloads_nothing(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    base = pattern(40 * CHUNK)
    store.add("f", base)
    file = await fs.open("f", W | os.O_APPEND)
    store.reset_counts()
    await file.write(b"z" * 1024)
    await file.close()
    assert store.data("f") == base + b"z" * 1024
    assert store.bytes_out == 0 and store.bytes_in <= 4 * KIB


async def test_truncate_by_path_commits_before_it_answers(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    base = pattern(10 * CHUNK)
    store.add("f", base)
    await fs.truncate("f", 5 * CHUNK)
    assert store.data("f") == base[: 5 * CHUNK]
    assert store.bytes_out == 0
    await fs.truncate("f", 6 * CHUNK)
    assert store.data("f") == base[: 5 * CHUNK] + bytes(CHUNK)
    await fs.truncate("f", 0)
    assert store.data("f") == b""


async def test_truncate_by_path_commits_also_while_others_have_the_file_open(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """Nobody else will: who has it open may never write, and nobody hears of a failure at RELEASE."""
    store.add("f", b"0123456789")
    idle = await fs.open("f", os.O_RDWR)
    await fs.truncate("f", 5)
    assert store.data("f") == b"01234"
    store.faults.append(Fault(op="put", error=AccessDenied))
    with errno_is(errno.EACCES):
        await fs.truncate("f", 2)
    with errno_is(errno.EACCES):
        await idle.close()
    assert store.data("f") == b"01234"


async def test_an_offset_past_the_end_is_zero_filled(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    file = await fs.open("f", NEW)
    await file.pwrite(b"end", 1000)
    await file.close()
    assert store.data("f") == bytes(1000) + b"end"


async def test_a_long_hole_is_not_uploaded(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    file = await fs.open("f", NEW)
    await file.truncate(10 << 30)
    await file.close()
    assert store.objects["f"].size == 10 << 30
    assert store.bytes_in < 20 << 20


async def test_flush_without_changes_costs_no_request(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    file = await fs.open("f", NEW)
    await file.write(b"1")
    await fs.tree.flush(file.fh)
    store.reset_counts()
    await fs.tree.flush(file.fh)
    await file.close()
    assert not sum(store.calls.values())


async def test_flush_before_the_first_write_finalises_nothing(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    file = await fs.open("f", NEW)
    await fs.tree.flush(file.fh)
    assert not sum(store.calls[c] for c in ("put", "initiate"))
    await file.write(b"data")
    await file.close()
    assert store.data("f") == b"data"


async def test_three_children_of_one_redirection(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """(a; b; c) >f is complete in the bucket when the shell returns."""
    file = await fs.open("f", W | os.O_CREAT | os.O_TRUNC)
    for word in (b"a\n", b"b\n", b"c\n"):
        file.dup()
        await file.write(word)
        await file.close()
    assert store.data("f") == b"a\nb\nc\n"
    await file.close()
    assert store.data("f") == b"a\nb\nc\n"


async def test_a_thousand_children_that_share_a_descriptor(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    file = await fs.open("log", W | os.O_CREAT | os.O_APPEND)
    committed = []
    for i in range(1000):
        file.dup()
        await file.write(b"line %d\n" % i)
        await file.close()
        if store.data("log").endswith(b"line %d\n" % i):
            committed.append(i)
    assert committed[:8] == list(range(8)) and committed != list(range(1000))
    await file.close()
    assert store.data("log") == b"".join(b"line %d\n" % i for i in range(1000))
    assert store.calls["put"] + store.calls["complete"] <= 20


async def test_a_log_reaches_the_bucket_within_a_second_of_each_line(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    file = await fs.open("log", W | os.O_CREAT | os.O_APPEND)
    want = b""
    for i in range(60):
        line = b"minute %d\n" % i
        want += line
        file.dup()
        await file.write(line)
        await file.close()
        await trio.sleep(1.5)
        assert store.data("log") == want
    await file.close()


async def test_fsync_makes_visible_and_writing_goes_on(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    file = await fs.open("f", NEW)
    await file.write(BIG)
    await file.fsync()
    assert store.data("f") == BIG
    await file.write(b"more")
    await file.close()
    assert store.data("f") == BIG + b"more"


async def test_reading_back_while_writing(fs: Posix, autojump_clock: object) -> None:
    file = await fs.open("f", os.O_RDWR | os.O_CREAT)
    for at in range(0, len(BIG), 100_000):
        await file.pwrite(BIG[at : at + 100_000], at)
        assert (
            await file.pread(min(at + 500, len(BIG)) - max(0, at - 500), max(0, at - 500))
            == BIG[max(0, at - 500) : min(at + 500, len(BIG))][:1000]
        )
    assert await file.pread(len(BIG), 0) == BIG
    await file.pwrite(b"HEAD", 0)
    assert (await file.pread(8, 0)) == b"HEAD" + BIG[4:8]
    await file.close()
    assert await fs.read_file("f") == b"HEAD" + BIG[4:]


async def test_another_process_sees_the_current_bytes(fs: Posix, autojump_clock: object) -> None:
    writer = await fs.open("f", NEW)
    await writer.write(b"first ")
    reader = await fs.open("f")
    assert await reader.read() == b"first "
    second = await fs.open("f", W)
    await second.pwrite(b"second", 6)
    assert await reader.pread(100, 0) == b"first second"
    await second.close()
    await writer.close()
    assert await reader.pread(100, 0) == b"first second"
    await reader.close()


@pytest.mark.parametrize("with_bytes", [True, False])
async def test_a_sent_part_is_patched(with_bytes: bool, autojump_clock: object) -> None:
    store = MemoryStore()
    old = pattern(1000, seed=9)
    store.add("f", old)
    data = pattern(20 * CHUNK)
    async with mounted(store, memory=4 * CHUNK) as fs:
        file = await fs.open("f", W | os.O_TRUNC)
        for at in range(0, len(data), 100_000):
            await file.write(data[at : at + 100_000])
        at = 100 if with_bytes else 9 * CHUNK + 7
        await file.pwrite(b"PATCH", at)
        await file.close()
        want = data[:at] + b"PATCH" + data[at + 5 :]
        assert store.data("f") == want
        assert not store.uploads
        assert list(store.objects) == ["f"]


async def test_the_old_object_comes_back_when_a_checkpointed_write_fails(autojump_clock: object) -> None:
    store = MemoryStore()
    old = pattern(300 * KIB, seed=9)
    store.add("f", old)
    data = pattern(20 * CHUNK)
    async with mounted(store, memory=4 * CHUNK) as fs:
        file = await fs.open("f", W | os.O_TRUNC)
        for at in range(0, len(data), 100_000):
            await file.write(data[at : at + 100_000])
        await file.pwrite(b"PATCH", 9 * CHUNK + 7)
        assert store.data("f") == data  # documented: a checkpointed file is visible before close
        store.faults.append(Fault(op="complete", error=AccessDenied, count=-1))
        with errno_is(errno.EACCES):
            await file.close()
        assert store.data("f") == old
        assert list(store.objects) == ["f"] and not store.uploads


async def test_close_reports_a_refused_part(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    store.add("f", b"old")
    store.faults.append(Fault(op="put_part", number=3, error=AccessDenied, count=-1))
    file = await fs.open("f", W | os.O_TRUNC)
    with errno_is(errno.EACCES):
        try:
            for at in range(0, len(BIG), 100_000):
                await file.write(BIG[at : at + 100_000])
        finally:
            await file.close()
    assert store.data("f") == b"old"
    assert not store.uploads
    assert await fs.read_file("f") == b"old"


async def test_after_a_transient_failure_a_second_fsync_succeeds(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    file = await fs.open("f", NEW)
    await file.write(BIG)
    store.faults.append(Fault(op="complete", error=ServerFault, count=1))
    with errno_is(errno.EIO):
        await file.fsync()
    await file.fsync()
    assert store.data("f") == BIG
    await file.close()


async def test_what_close_reported_as_failed_is_not_committed_later(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    file = await fs.open("f", NEW)
    await file.write(b"x")
    store.faults.append(Fault(op="put", error=ServerFault, count=1))
    with errno_is(errno.EIO):
        await file.close()
    assert "f" not in store.objects
    assert not await fs.exists("f")
    await fs.write_file("f", b"again")
    assert store.data("f") == b"again"


async def test_a_new_open_after_a_failure_starts_from_the_bucket(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("f", b"old")
    file = await fs.open("f", W)
    await file.write(b"new")
    store.faults.append(Fault(op="put", error=AccessDenied, count=1))
    with errno_is(errno.EACCES):
        await fs.tree.flush(file.fh)
    assert await fs.read_file("f") == b"old"
    with errno_is(errno.EACCES):
        await file.write(b"more")
    with errno_is(errno.EACCES):
        await file.close()
    assert store.data("f") == b"old"


async def test_a_create_does_not_erase_somebody_elses_file(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """A create over a stale absence: EEXIST, and our bytes are kept beside it."""
    await fs.mkdir("d")
    file = await fs.open("d/f", NEW)
    store.add("d/f", b"theirs")
    await file.pwrite(b"ours", 0)
    with pytest.raises(AlreadyExists):
        await file.close()
    assert store.data("d/f") == b"theirs"
    kept = [k for k in store.objects if k.startswith("d/f.conflict-")]
    assert len(kept) == 1 and store.data(kept[0]) == b"ours"


async def test_o_trunc_replaces_whatever_is_there(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    await fs.mkdir("d")
    file = await fs.open("d/f", W | os.O_CREAT | os.O_TRUNC)
    store.add("d/f", b"theirs")
    await file.write(b"ours")
    await file.close()
    assert store.data("d/f") == b"ours"


async def test_a_foreign_append_before_ours(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    """A file changed only through O_APPEND is rebased on the new version."""
    store.add("log", b"one\n" * 100_000)
    file = await fs.open("log", W | os.O_APPEND)
    await file.write(b"ours\n")
    store.add("log", b"one\n" * 100_000 + b"theirs\n")
    await file.close()
    assert store.data("log") == b"one\n" * 100_000 + b"theirs\nours\n"


async def test_two_machines_create_one_log(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    file = await fs.open("log", W | os.O_CREAT | os.O_APPEND)
    await file.write(b"ours\n")
    store.add("log", b"theirs\n")
    await file.close()
    assert store.data("log") == b"theirs\nours\n"


async def test_the_base_is_replaced_under_an_edit(
    fs: Posix, store: MemoryStore, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    """ESTALE from close; nothing is mixed; what we hold is kept beside it."""
    store.add("f", pattern(3 * CHUNK))
    theirs = pattern(3 * CHUNK, seed=2)
    file = await fs.open("f", os.O_RDWR)
    await file.pwrite(b"mine", CHUNK)
    store.add("f", theirs)
    with errno_is(errno.ESTALE):
        await file.close()
    assert store.data("f") == theirs
    (kept,) = [k for k in store.objects if ".conflict-" in k]
    assert store.data(kept) == bytes(CHUNK) + b"mine" + bytes(2 * CHUNK - 4)
    assert re.fullmatch(r"f\.conflict-.+-\d{8}T\d{6}Z", kept), kept
    (line,) = [record.getMessage() for record in caplog.records if kept in record.getMessage()]
    assert f"are zero there: 0+{CHUNK}, {CHUNK + 4}+{2 * CHUNK - 4}" in line


@pytest.mark.parametrize("size", [10, 2 * CHUNK])
async def test_two_conflicts_of_one_second_are_both_kept(
    size: int, store: MemoryStore, autojump_clock: object
) -> None:
    async with mounted(store, wall_ns=lambda: 10**18) as fs:
        for number in (1, 2):
            store.add("f", pattern(3 * CHUNK, seed=number))
            file = await fs.open("f", os.O_RDWR)
            await file.pwrite(pattern(size, seed=10 + number), CHUNK // 2)
            store.add("f", b"theirs")
            with errno_is(errno.ESTALE):
                await file.close()
    kept = sorted(k for k in store.objects if ".conflict-" in k)
    held = [store.data(key)[CHUNK // 2 :][:size] for key in kept]
    assert held == [pattern(size, seed=11), pattern(size, seed=12)]
    assert not store.uploads


async def test_a_conflict_of_a_key_that_is_nearly_as_long_as_can_be(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    directory = "/".join(["d" * 245] * 4)
    path = f"{directory}/{'f' * 15}"
    store.add(path, pattern(3 * CHUNK))
    file = await fs.open(path, os.O_RDWR)
    await file.pwrite(b"mine", 0)
    store.add(path, b"theirs")
    with errno_is(errno.ESTALE):
        await file.close()
    (kept,) = [k for k in store.objects if ".conflict-" in k]
    assert store.data(kept)[:4] == b"mine" and len(kept) <= 1023


async def test_a_foreign_chmod_under_an_edit_is_no_conflict(autojump_clock: object) -> None:
    store = MemoryStore(copy_changes_etag=True)
    base = pattern(3 * CHUNK)
    store.add("f", base)
    async with mounted(store) as fs, mounted(store) as other:
        file = await fs.open("f", os.O_RDWR)
        await file.pwrite(b"mine", CHUNK)
        await other.chmod("f", 0o600)
        await file.close()
        assert store.data("f") == base[:CHUNK] + b"mine" + base[CHUNK + 4 :]


async def test_attributes_set_during_a_multipart_upload_are_stored(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """cp -a and tar set owner, times and mode after the last write."""
    for name, data in (("big", BIG), ("small", b"x")):
        file = await fs.open(name, NEW)
        await file.write(data)
        await trio.testing.wait_all_tasks_blocked()  # the upload has been initiated
        change = SetAttr(mode=0o751, uid=5, gid=6, mtime_ns=10**18 + 7, atime_ns=10**18)
        await fs.tree.setattr(file.ino, change)
        await file.close()
        meta = store.objects[name].headers.meta
        assert meta["mode"] == str(stat.S_IFREG | 0o751) and meta["uid"] == "5"
        assert meta["mtime"] == "1000000000.000000007"
        assert store.data(name) == data
        assert await fs.read_file(name) == data
    assert store.calls["copy"] == 1


async def test_the_mtime_that_was_shown_is_the_one_that_is_stored(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    file = await fs.open("f", NEW)
    await file.write(b"x")
    shown = (await file.stat()).mtime_ns
    await trio.sleep(10)
    await file.close()
    await fs.forget_all()
    assert (await fs.stat("f")).mtime_ns == shown


async def test_a_rewrite_keeps_what_others_stored(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    from ossfs.store.base import ObjectHeaders

    store.add(
        "f",
        b"old",
        ObjectHeaders(
            meta={"project": "x", "mode": "33261", "uid": "7", "gid": "8", "xattr": XATTR},
            content_type="text/x-c",
            cache_control="no-cache",
        ),
        storage_class="IA",
    )
    store.objects["f"].tagging = "a=b"
    await fs.write_file("f", b"new", os.O_TRUNC)
    await rewritten(fs, store)
    await fs.write_file("f", b"again")
    await rewritten(fs, store)


XATTR = "%7B%22user.a%22%3A%22Yg%3D%3D%22%7D"


async def rewritten(fs: Posix, store: MemoryStore) -> None:
    """All that test_a_rewrite_keeps_what_others_stored stored is still there."""
    made = store.objects["f"]
    assert made.headers.meta["project"] == "x" and made.headers.meta["mode"] == "33261"
    assert (made.headers.meta["uid"], made.headers.meta["gid"]) == ("7", "8")
    assert await fs.tree.getxattr(await fs.walk("f"), b"user.a") == b"b"
    assert made.headers.content_type == "text/x-c" and made.headers.cache_control == "no-cache"
    assert made.storage_class == "IA" and made.tagging == "a=b"


async def test_unlink_while_it_is_written(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    file = await fs.open("f", os.O_RDWR | os.O_CREAT)
    await file.pwrite(BIG, 0)
    await fs.unlink("f")
    assert not await fs.exists("f") and "f" not in store.objects
    assert await file.pread(len(BIG), 0) == BIG
    await file.pwrite(b"more", 0)
    assert await file.pread(4, 0) == b"more"
    await file.close()
    assert not store.objects and not store.uploads


async def test_unlink_while_open_keeps_the_bytes(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("f", BIG)
    file = await fs.open("f")
    assert await file.pread(10, 0) == BIG[:10]
    await fs.unlink("f")
    assert "f" not in store.objects
    assert await fs.listdir() == []
    assert await file.pread(len(BIG), 0) == BIG
    await file.close()
    assert not store.objects


async def test_rename_over_an_open_file_keeps_its_bytes(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("old", b"old bytes")
    store.add("new", b"new bytes")
    file = await fs.open("old")
    await fs.rename("new", "old")
    assert await file.read() == b"old bytes"
    assert await fs.read_file("old") == b"new bytes"
    await file.close()
    assert list(store.objects) == ["old"]


async def test_rename_while_it_is_written(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    file = await fs.open("a", NEW)
    await file.write(BIG)
    await fs.rename("a", "b")
    await file.write(b"tail")
    await file.close()
    assert list(store.objects) == ["b"] and store.data("b") == BIG + b"tail"
    assert not store.uploads


async def test_rename_of_the_directory_above_an_open_dirty_file(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    await fs.mkdir("d")
    file = await fs.open("d/f", NEW)
    await file.write(BIG)
    await fs.rename("d", "e")
    await file.write(b"tail")
    await file.close()
    assert store.data("e/f") == BIG + b"tail"
    assert not [k for k in store.objects if k.startswith("d/")]
    assert await fs.read_file("e/f") == BIG + b"tail"


async def test_truncating_while_it_is_written(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    file = await fs.open("f", NEW)
    await file.write(BIG)
    await fs.truncate("f", 10)
    await file.pwrite(b"end", 20)
    await file.close()
    assert store.data("f") == BIG[:10] + bytes(10) + b"end"


async def test_a_failed_creation_leaves_no_name(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.faults.append(Fault(op="put", error=AccessDenied, count=-1))
    file = await fs.open("f", NEW)
    await file.write(b"x")
    with errno_is(errno.EACCES):
        await file.close()
    assert await fs.listdir() == []


async def test_an_empty_file_is_made_at_release(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    file = await fs.open("f", NEW)
    await file.close()
    assert store.data("f") == b""


async def test_many_files_under_a_small_budget(tmp_path: object) -> None:
    """60 KiB can be no part: what is open and dirty goes to staging, and nobody waits for ever."""
    store = MemoryStore()
    async with mounted(store, memory=2 << 20, staging_dir=str(tmp_path)) as fs:
        files = []
        with trio.fail_after(50):
            for i in range(100):
                file = await fs.open(f"f{i}", os.O_RDWR | os.O_CREAT)
                await file.write(pattern(60 * KIB, i))
                files.append(file)
            for i, file in enumerate(files):
                assert await file.pread(60 * KIB, 0) == pattern(60 * KIB, i)
                await file.close()
        assert all(store.data(f"f{i}") == pattern(60 * KIB, i) for i in range(100))
        assert fs.tree.ctx.budget.peak < 3 << 20


async def test_staging_full_is_enospc(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from ossfs.fs import staging

    monkeypatch.setattr(staging, "KEEP_FREE", 1 << 60)
    store = MemoryStore()
    async with mounted(store, memory=1 << 20, staging_dir=str(tmp_path)) as fs:
        files = []
        with errno_is(errno.ENOSPC):
            for i in range(100):
                file = await fs.open(f"f{i}", os.O_WRONLY | os.O_CREAT)
                files.append(file)
                with trio.fail_after(50):
                    await file.write(pattern(60 * KIB, i))
        for file in files:
            try:
                await file.close()
            except PosixError:
                pass


async def test_efbig_above_the_services_limit(fs: Posix, autojump_clock: object) -> None:
    file = await fs.open("f", NEW)
    with errno_is(errno.EFBIG):
        await file.pwrite(b"x", 10_000 * (5 << 30))
    with errno_is(errno.EFBIG):
        await file.truncate(10_000 * (5 << 30) + 1)
    await file.close()


async def test_a_read_only_mount(autojump_clock: object) -> None:
    store = MemoryStore()
    store.add("f", b"x")
    async with mounted(store, read_only=True) as fs:
        for work in (
            fs.open("f", W),
            fs.open("g", NEW),
            fs.mkdir("d"),
            fs.unlink("f"),
            fs.truncate("f", 0),
            fs.rename("f", "g"),
            fs.symlink("a", "b"),
        ):
            with errno_is(errno.EROFS):
                await work
        assert await fs.read_file("f") == b"x"


async def test_excl_strict_claims_the_name_at_open(autojump_clock: object) -> None:
    store = MemoryStore()
    async with mounted(store, excl_strict=True) as fs, mounted(store, excl_strict=True) as other:
        await fs.listdir()
        await other.listdir()
        mine = await fs.open("lock", NEW)
        with errno_is(errno.EEXIST):
            await other.open("lock", NEW)
        await mine.close()


async def test_o_excl_from_two_mounts_is_told_at_close(autojump_clock: object) -> None:
    store = MemoryStore()
    async with mounted(store) as fs, mounted(store) as other:
        a = await fs.open("lock", NEW)
        b = await other.open("lock", NEW)
        await a.write(b"a")
        await b.write(b"b")
        await a.close()
        with errno_is(errno.EEXIST):
            await b.close()
        assert store.data("lock") == b"a"


async def test_nobody_commits_for_a_reader(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    """grep x log must neither commit a writer's data nor get its error."""
    writer = await fs.open("log", NEW)
    await writer.write(b"x")
    reader = await fs.open("log")
    await reader.close()
    assert "log" not in store.objects
    store.faults.append(Fault(op="put", error=AccessDenied, count=1))
    reader = await fs.open("log")
    with errno_is(errno.EACCES):
        await fs.tree.flush(writer.fh)
    await reader.close()
    with errno_is(errno.EACCES):
        await writer.close()


async def test_drain_commits_what_the_kernel_forgot_to_release(autojump_clock: object) -> None:
    store = MemoryStore()
    async with mounted(store) as fs:
        file = await fs.open("f", NEW)
        await file.write(b"x")
    assert store.data("f") == b"x"


async def test_a_cancelled_close_goes_on_by_itself(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.latency = 1.0
    file = await fs.open("f", NEW)
    await file.write(b"x")
    with trio.move_on_after(0.5) as scope:
        await fs.tree.flush(file.fh)
    assert scope.cancelled_caught
    await trio.sleep(2)
    assert store.data("f") == b"x"
    await file.close()


async def test_versioned_buckets_look_before_they_create(autojump_clock: object) -> None:
    store = MemoryStore(versioning="Enabled")
    async with mounted(store, versioned=True) as fs:
        await fs.mkdir("d")
        file = await fs.open("d/f", NEW)
        store.add("d/f", b"theirs")
        await file.write(b"ours")
        with pytest.raises(StoreError):
            await file.close()
        assert store.data("d/f") == b"theirs"


async def test_an_abort_that_failed_is_tried_again_at_the_end(
    store: MemoryStore, autojump_clock: object
) -> None:
    async with mounted(store) as fs:
        store.faults += [
            Fault(op="complete", error=AccessDenied),
            Fault(op="abort", error=AccessDenied, count=1),
        ]
        with pytest.raises(OssfsError):
            await fs.write_file("f", bytes(3 * fs.tree.ctx.config.chunk_size))
        assert store.uploads
    assert not store.uploads


@pytest.mark.parametrize("op", ["initiate", "put_part", "copy", "complete", "head", "delete", "abort"])
async def test_the_old_object_survives_a_failure_at_every_point(op: str, autojump_clock: object) -> None:
    """A patched part without its bytes at hand: the old object, or all of the new one, never half."""
    old, data = pattern(300 * KIB, seed=9), pattern(12 * CHUNK)
    at = 5 * CHUNK + 7
    want = data[:at] + b"PATCH" + data[at + 5 :]
    for skip in range(40):
        store = MemoryStore()
        store.add("f", old)
        fault = Fault(op=op, error=AccessDenied, skip=skip)
        async with mounted(store, memory=4 * CHUNK) as fs:
            file = await fs.open("f", W | os.O_TRUNC)
            store.faults.append(fault)
            failed = False
            try:
                for start in range(0, len(data), 100_000):
                    await file.write(data[start : start + 100_000])
                await file.pwrite(b"PATCH", at)
            except OssfsError:
                failed = True
            try:
                await file.close()
            except OssfsError:
                failed = True
            store.faults.clear()
            await trio.sleep(1)
            assert store.data("f") == (old if failed else want), (op, skip)
            assert await fs.read_file("f") == (old if failed else want)
        if not fault.hits:
            return
    raise AssertionError("there were more requests than were tried")


async def test_reading_on_between_writes_is_read_ahead_for(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """As who rewrites a file in place does: a request for each block read would take minutes."""
    base = pattern(20 * CHUNK)
    store.add("f", base)
    file = await fs.open("f", os.O_RDWR)
    step = 8 * KIB
    for start in range(0, len(base), step):
        data = await file.pread(step, start)
        assert data == base[start : start + step]
        await file.pwrite(bytes(reversed(data)), start)
    assert store.calls["get"] <= 30
    await file.close()
    assert store.data("f") == b"".join(base[i : i + step][::-1] for i in range(0, len(base), step))
