"""Promises of docs/semantics.md that no other test shows, each in a few lines."""

from __future__ import annotations

import errno
import logging
import os
import stat
from dataclasses import replace

import pytest
import trio
import trio.testing

from ossfs.errors import AccessDenied, ObjectArchived, OssfsError
from ossfs.fs.inodes import ROOT
from ossfs.fs.tree import Caller, SetAttr
from ossfs.store.base import ListPage, ObjectHeaders
from tests.support.memory_store import Fault, MemoryStore
from tests.support.posix import CHUNK, Posix, mounted

W = os.O_WRONLY
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
BIG = bytes(range(256)) * (3 * CHUNK // 256)
pytestmark = pytest.mark.timeout(60)


def errno_is(code: int):  # type: ignore[no-untyped-def]
    return pytest.raises(OssfsError, check=lambda e: e.errno == code)


# --------------------------------------------------------------------------------------------------
# Writing and closing.


async def test_with_flush_always_each_close_of_a_shared_descriptor_commits(autojump_clock: object) -> None:
    store = MemoryStore()
    async with mounted(store, flush_always=True) as fs:
        file = await fs.open("log", W | os.O_CREAT | os.O_APPEND)
        for i in range(30):
            file.dup()
            await file.write(b"%d\n" % i)
            await file.close()
            assert store.data("log").endswith(b"%d\n" % i)
        await file.close()


async def test_a_failure_is_told_to_every_handle_that_was_open(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    first = await fs.open("f", NEW)
    second = await fs.open("f", W)
    await first.write(b"1")
    await second.pwrite(b"2", 1)
    store.faults.append(Fault(op="put", error=AccessDenied))
    with errno_is(errno.EACCES):
        await first.close()
    with errno_is(errno.EACCES):
        await second.pwrite(b"3", 2)
    with errno_is(errno.EACCES):
        await second.fsync()
    with errno_is(errno.EACCES):
        await second.close()
    assert "f" not in store.objects


async def test_attributes_that_cannot_be_stored_after_the_bytes_are_told_by_close(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """The upload was complete: the new bytes stay, with the attributes that it was begun with."""
    store.add("f", b"old")
    file = await fs.open("f", W | os.O_TRUNC)
    await file.write(BIG)
    await trio.testing.wait_all_tasks_blocked()  # the upload has been initiated
    await fs.tree.setattr(file.ino, SetAttr(mode=0o600))
    store.faults.append(Fault(op="copy", error=AccessDenied, count=-1))
    with errno_is(errno.EACCES):
        await file.close()
    store.faults.clear()
    assert store.data("f") == BIG
    assert store.objects["f"].headers.meta["mode"] == str(stat.S_IFREG | 0o644)
    assert (await fs.stat("f")).mode == stat.S_IFREG | 0o644


async def test_an_upload_that_is_under_way_shows_nothing_to_others(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("f", b"old")
    async with mounted(store, mount_id="1111") as other:
        file = await fs.open("f", W | os.O_TRUNC)
        await file.write(BIG)
        await trio.sleep(10)
        assert store.calls["put_part"] > 0
        assert await other.read_file("f") == b"old"
        await file.close()
        assert await other.read_file("f") == BIG


async def test_mode_and_owner_are_stored_at_once_and_times_within_a_second(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("f", b"x")
    await fs.chmod("f", 0o600)
    assert store.objects["f"].headers.meta["mode"] == str(stat.S_IFREG | 0o600)
    await fs.setattr("f", SetAttr(mtime_ns=5 * 10**9))
    assert (await fs.stat("f")).mtime_ns == 5 * 10**9
    await trio.sleep(1.1)
    assert store.objects["f"].headers.meta["mtime"] == "5"
    await fs.setattr("f", SetAttr(mtime_ns=6 * 10**9))
    await fs.rename("f", "g")
    assert store.objects["g"].headers.meta["mtime"] == "6"
    await fs.setattr("g", SetAttr(mtime_ns=7 * 10**9))
    file = await fs.open("g")
    await file.fsync()
    assert store.objects["g"].headers.meta["mtime"] == "7"
    await file.close()


# --------------------------------------------------------------------------------------------------
# Names and directories.


async def test_a_rename_whose_delete_fails_leaves_both_names(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("a", b"A")
    store.faults.append(Fault(op="delete", key="a", error=AccessDenied))
    with errno_is(errno.EACCES):
        await fs.rename("a", "b")
    assert store.data("a") == store.data("b") == b"A"
    await trio.sleep(6)
    assert sorted(await fs.listdir()) == ["a", "b"]


async def test_keys_that_are_not_utf8_keep_their_directory(
    fs: Posix, store: MemoryStore, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fs.mkdir("d")
    plain = store.list

    async def with_others(prefix: str, **kwargs: object) -> ListPage:
        page = await plain(prefix, **kwargs)  # type: ignore[arg-type]
        return replace(page, undecodable=1) if prefix == "d/" else page

    monkeypatch.setattr(store, "list", with_others)
    assert await fs.listdir("d") == []
    with errno_is(errno.ENOTEMPTY):
        await fs.rmdir("d")
    with errno_is(errno.EIO):
        await fs.rename("d", "e")
    assert store.keys() == ["d/"]


async def test_what_is_made_or_removed_moves_the_time_of_its_directory(autojump_clock: object) -> None:
    store = MemoryStore()
    now = 10**18
    async with mounted(store, wall_ns=lambda: now) as fs:
        await fs.mkdir("d")
        for change in ("make", "remove"):
            now += 10**9
            await (fs.write_file("d/f", b"x") if change == "make" else fs.unlink("d/f"))
            shown = await fs.stat("d")
            assert shown.mtime_ns == shown.ctime_ns == now, change
        assert shown.nlink == 1


@pytest.mark.parametrize("after", [0.5, 1.5])
async def test_times_of_a_directory_that_are_stored_late_do_not_go_back(
    after: float, autojump_clock: object
) -> None:
    """What is made in it before they are stored, or meanwhile, moves mtime and ctime once and for all."""
    store = MemoryStore()
    wall = lambda: 10**18 + int(trio.current_time() * 10**9)  # noqa: E731
    async with mounted(store, wall_ns=wall) as fs:
        await fs.mkdir("d")
        store.latency = 1.0
        await fs.setattr("d", SetAttr(atime_ns=1, mtime_ns=2))
        parent = await fs.walk("d")
        await trio.sleep(after)
        await fs.tree.mkdir(parent, b"x", 0o755, fs.caller)
        shown = await fs.stat("d")
        assert shown.mtime_ns == shown.ctime_ns > 10**18
        for _ in range(8):
            await trio.sleep(1)
            now = await fs.stat("d")
            assert (now.mtime_ns, now.ctime_ns) == (shown.mtime_ns, shown.ctime_ns)


@pytest.mark.parametrize("path", ["f", "d"])
async def test_a_ctime_that_only_we_know_does_not_go_back(path: str, autojump_clock: object) -> None:
    """A chmod to the mode that is there moves the ctime here, and is no request."""
    store = MemoryStore(clock=lambda: 10**9 + trio.current_time())
    async with mounted(store, wall_ns=lambda: int((10**9 + trio.current_time()) * 10**9)) as fs:
        await fs.write_file("f", b"x")
        await fs.mkdir("d")
        for name in ("f", "d"):
            await fs.chmod(name, 0o700)
        await trio.sleep(4)
        await fs.chmod(path, 0o700)
        shown = (await fs.stat(path)).ctime_ns
        assert shown == (10**9 + 4) * 10**9
        await trio.sleep(20)
        await fs.listdir()
        assert (await fs.stat(path)).ctime_ns == shown
        assert (await fs.stat(path)).ctime_ns == shown


async def test_times_of_a_directory_that_are_set_while_others_are_stored(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    await fs.mkdir("d")
    store.latency = 1.0
    await fs.setattr("d", SetAttr(atime_ns=1, mtime_ns=2 * 10**9))
    await trio.sleep(1.5)
    await fs.tree.setattr(await fs.walk("d"), SetAttr(atime_ns=1, mtime_ns=3 * 10**9))
    await trio.sleep(10)
    assert (await fs.stat("d")).mtime_ns == 3 * 10**9
    assert store.objects["d/"].headers.meta["mtime"] == "3"


async def test_the_mode_of_the_buckets_root_lasts_as_long_as_the_mount(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    await fs.chmod("", 0o700)
    assert (await fs.stat("")).mode == stat.S_IFDIR | 0o700
    assert store.keys() == []
    async with mounted(store, mount_id="1111") as again:
        assert (await again.stat("")).mode == stat.S_IFDIR | 0o755


# --------------------------------------------------------------------------------------------------
# Objects of other kinds.


async def test_objects_without_attributes_are_shown_with_those_of_the_mount(autojump_clock: object) -> None:
    store = MemoryStore()
    store.add("f", b"x", last_modified=1_000_000)
    store.add("d/f", b"x")
    async with mounted(store, uid=7, gid=8, file_mode=0o640, dir_mode=0o750) as fs:
        shown = await fs.stat("f")
        assert (shown.mode, shown.uid, shown.gid) == (stat.S_IFREG | 0o640, 7, 8)
        assert shown.mtime_ns == 10**15
        shown = await fs.stat("d")
        assert (shown.mode, shown.uid, shown.gid) == (stat.S_IFDIR | 0o750, 7, 8)


async def test_an_appendable_object_becomes_normal_when_it_is_written(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("log", b"one", object_type="Appendable")
    assert await fs.read_file("log") == b"one"
    with errno_is(errno.EPERM):
        await fs.chmod("log", 0o600)
    await fs.append_file("log", b" two")
    assert store.data("log") == b"one two"
    assert store.objects["log"].object_type == "Normal"
    await fs.chmod("log", 0o600)


async def test_an_archived_object_is_shown_and_cannot_be_read(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("cold", b"bytes", storage_class="Archive")
    assert (await fs.stat("cold")).size == 5
    with errno_is(errno.EIO):
        await fs.read_file("cold")
    file = await fs.open("cold")
    for _ in range(2):
        with pytest.raises(ObjectArchived, match="archived, and must be restored"):
            await file.pread(5, 0)
    await file.close()
    store.objects["cold"].restore = 'ongoing-request="false", expiry-date="..."'
    assert await fs.read_file("cold") == b"bytes"


async def test_an_object_under_retention_cannot_be_changed(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("f", b"kept")
    store.immutable.add("f")
    file = await fs.open("f", W | os.O_TRUNC)
    await file.write(b"new")
    with errno_is(errno.EPERM):
        await file.close()
    with errno_is(errno.EPERM):
        await fs.chmod("f", 0o600)
    await fs.unlink("f")  # answered before the service has refused
    await trio.sleep(2)
    assert await fs.read_file("f") == b"kept"


# --------------------------------------------------------------------------------------------------
# Sizes.


async def test_blocks_are_never_none_for_bytes(fs: Posix, autojump_clock: object) -> None:
    file = await fs.open("f", NEW)
    await file.write(b"x")
    assert (await file.stat()).blocks == 1
    await file.truncate(513)
    assert (await file.stat()).blocks == 2
    await file.close()
    assert (await fs.stat("f")).blocks == 2


async def test_df_shows_one_pib_beside_what_is_used(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("f", bytes(1000))
    await fs.tree.statfs()  # the bucket is asked in the background
    await trio.sleep(1)
    shown = await fs.tree.statfs()
    assert (shown.used, shown.total - shown.used, shown.files) == (1000, 1 << 50, 1)


async def test_a_name_whose_close_failed_shows_what_the_bucket_has(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """At once, not when the kernel gets round to RELEASE."""
    store.add("old", b"old")
    for name in ("old", "new"):
        file = await fs.open(name, W | os.O_CREAT)
        await file.write(b"changed")
        store.faults.append(Fault(op="put", error=AccessDenied))
        with errno_is(errno.EACCES):
            await fs.tree.flush(file.fh)
        assert (await fs.exists("new")) is False
        assert await fs.read_file("old") == b"old"
        assert (1, name.encode()) in fs.kernel.entries
        await fs.tree.release(file.fh)
    assert store.keys() == ["old"]


@pytest.mark.parametrize(
    "content_type", ["application/x-directory", "text/plain", "httpd/unix-directory", None]
)
async def test_markers_of_any_content_type_are_directories(
    fs: Posix, store: MemoryStore, autojump_clock: object, content_type: str | None
) -> None:
    store.add("d/", b"", ObjectHeaders(content_type=content_type, meta={"mode": str(stat.S_IFREG | 0o600)}))
    assert await fs.listdir() == ["d"] and await fs.listdir("d") == []
    assert (await fs.stat("d")).mode == stat.S_IFDIR | 0o600
    await fs.rmdir("d")
    assert store.keys() == []


async def test_heads_that_find_nothing_are_told_of_once(
    fs: Posix, store: MemoryStore, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ossfs.fs.meta")
    await fs.mkdir("ours")
    for directory in ("ours", "foreign", "other"):
        meta = {"mode": "33188"} if directory == "ours" else {}
        for i in range(200):
            store.add(f"{directory}/{i:03d}", b"x", ObjectHeaders(meta=meta))
    for directory in ("ours", "foreign", "other"):
        for name in sorted(await fs.listdir(directory)):
            await fs.stat(f"{directory}/{name}")
        await trio.sleep(1)
        told = [r.getMessage() for r in caplog.records if "attrs=list" in r.getMessage()]
        assert len(told) == (directory != "ours")
    assert int(told[0].split()[0]) in range(100, 201)


async def test_a_name_that_is_renamed_over_is_never_absent(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """Neither in the bucket, after each request, nor for who looks here meanwhile."""
    store.add("new", b"new")
    store.add("old", b"old")
    await fs.listdir()
    seen: list[bytes] = []

    async def look(op: str, key: str) -> None:
        seen.append(store.data("old"))
        if op == "copy":
            assert await fs.exists("old")

    store.after = look
    with trio.fail_after(100):
        await fs.rename("new", "old")
        await trio.sleep(2)
    assert seen and set(seen) <= {b"old", b"new"} and seen[-1] == b"new"
    assert store.keys() == ["old"]


async def test_names_that_cannot_be_keys(autojump_clock: object) -> None:
    store = MemoryStore()
    async with mounted(store) as fs:
        root, caller = ROOT, Caller(0, 0, 0)
        with errno_is(errno.EILSEQ):
            await fs.tree.mkdir(root, b"\xff", 0o755, caller)
        with errno_is(errno.ENOENT):
            await fs.tree.lookup(root, b"\xff")
        for make in (fs.mkdir("\\d"), fs.write_file("\\f", b"x"), fs.symlink("x", "\\l")):
            with errno_is(errno.EINVAL):
                await make
        await fs.mkdir("d")
        await fs.write_file("d/\\f", b"x")
        with errno_is(errno.EINVAL):
            await fs.rename("d/\\f", "\\f")
    assert store.keys() == ["d/", "d/\\f"]


async def test_the_prefix_counts_for_the_length_of_a_key(autojump_clock: object) -> None:
    store = MemoryStore()
    prefix = "/".join(["p" * 250] * 4) + "/"
    room = 1023 - len(prefix)
    async with mounted(store, prefix=prefix) as fs:
        await fs.write_file("n" * room, b"x")
        for make in (
            fs.write_file("n" * (room + 1), b"x"),
            fs.mkdir("n" * room),
            fs.rename("n" * room, "m" * 20),
        ):
            with errno_is(errno.ENAMETOOLONG):
                await make
    assert store.keys() == [prefix + "n" * room]


async def test_owner_and_xattrs_are_stored_at_once_and_times_by_an_unmount(autojump_clock: object) -> None:
    store = MemoryStore()
    store.add("f", b"x")
    async with mounted(store) as fs:
        await fs.setattr("f", SetAttr(uid=7, gid=8))
        meta = store.objects["f"].headers.meta
        assert (meta["uid"], meta["gid"]) == ("7", "8")
        ino = await fs.walk("f")
        await fs.tree.setxattr(ino, b"user.a", b"b")
        assert "user.a" in store.objects["f"].headers.meta["xattr"]
        await fs.tree.removexattr(ino, b"user.a")
        assert "xattr" not in store.objects["f"].headers.meta
        await fs.setattr("f", SetAttr(mtime_ns=9 * 10**9))
    assert store.objects["f"].headers.meta["mtime"] == "9"
