"""Mounts with attrs=list: no HEAD for attributes, and none stored."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator

import pytest
import trio

from ossfs.errors import OssfsError
from ossfs.fs.tree import SetAttr
from ossfs.store.base import ObjectHeaders
from tests.support.memory_store import MemoryStore
from tests.support.posix import CHUNK, Posix, mounted

W = os.O_WRONLY
pytestmark = pytest.mark.timeout(60)


def errno_is(code: int):  # type: ignore[no-untyped-def]
    return pytest.raises(OssfsError, check=lambda e: e.errno == code)


@pytest.fixture
async def fs(store: MemoryStore) -> AsyncIterator[Posix]:
    """A mount that takes attributes from listings."""
    settings = {"uid": 7, "gid": 8, "file_mode": 0o640, "dir_mode": 0o750}
    async with mounted(store, attrs_list=True, **settings) as posix:
        yield posix


async def test_attributes_are_those_of_the_listing(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add(
        "d/f", b"x", ObjectHeaders(meta={"mode": "33279", "uid": "1", "mtime": "5"}), last_modified=1000
    )
    store.add("d/g", b"", last_modified=1000)
    store.add("d/sub/", b"", ObjectHeaders(meta={"mode": "16895"}), last_modified=1000)
    for name in await fs.listdir("d"):
        shown = await fs.stat(f"d/{name}")
        assert (shown.uid, shown.gid) == (7, 8)
        assert shown.mode == (stat.S_IFDIR | 0o750 if name == "sub" else stat.S_IFREG | 0o640)
        if name != "sub":
            assert shown.mtime_ns == shown.ctime_ns == 1000 * 10**9
    assert store.calls["head"] == store.calls["get"] == 0


async def test_no_head_is_sent_for_stat_and_reading(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    for i in range(1200):
        store.add(f"d/{i:04d}", b"%d" % i if i else b"")
    store.add("link-like", b"target", ObjectHeaders(meta={"mode": str(stat.S_IFLNK | 0o777)}))
    store.add("big", bytes(3 * CHUNK))
    for _ in range(2):
        names = await fs.listdir("d")
        assert len(names) == 1200
        for name in names:
            assert (await fs.stat(f"d/{name}")).size == (len(str(int(name))) if int(name) else 0)
        await trio.sleep(10)  # all that was known is too old now
        assert await fs.read_file("d/0007") == b"7"
        assert await fs.read_file("d/0000") == b""
        assert not await fs.exists("d/none")
        assert stat.S_ISREG((await fs.stat("link-like")).mode)
        assert await fs.read_file("link-like") == b"target"
        assert await fs.read_file("big") == bytes(3 * CHUNK)
        await trio.sleep(10)
    assert store.calls["head"] == 0


async def test_an_open_handle_is_stated_without_a_head(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("f", b"one")
    file = await fs.open("f")
    await trio.sleep(10)
    assert (await file.stat()).size == 3
    store.add("f", b"three")
    await trio.sleep(10)
    assert (await file.stat()).size == 3  # what the descriptor was opened on
    await file.close()
    assert (await fs.stat("f")).size == 5
    store.remove("f")
    await trio.sleep(10)
    assert not await fs.exists("f")
    assert store.calls["head"] == 0


async def test_changes_of_attributes_are_refused(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("f", b"x")
    await fs.mkdir("d")
    before = dict(store.objects)
    for path in ("f", "d", ""):
        for change in (SetAttr(mode=0o600), SetAttr(uid=1), SetAttr(mtime_ns=5), SetAttr(atime_ns=5)):
            with errno_is(errno.EPERM):
                await fs.setattr(path, change)
    with errno_is(errno.ENOTSUP):
        await fs.tree.setxattr(await fs.walk("f"), b"user.a", b"x")
    with errno_is(errno.EPERM):
        await fs.symlink("f", "l")
    with errno_is(errno.EPERM):
        await fs.tree.mknod(1, b"pipe", stat.S_IFIFO | 0o600, 0, fs.caller)
    assert store.objects == before


async def test_ignore_attrs_accepts_changes_of_attributes_and_does_nothing(autojump_clock: object) -> None:
    store = MemoryStore()
    store.add("f", b"x", last_modified=1000)
    async with mounted(store, attrs_list=True, ignore_attrs=True) as fs:
        await fs.mkdir("d")
        before = dict(store.objects)
        for path in ("f", "d", ""):
            for change in (SetAttr(mode=0o600), SetAttr(uid=1), SetAttr(mtime_ns=5)):
                shown = await fs.setattr(path, change)
                assert stat.S_IMODE(shown.mode) in (0o644, 0o755) and shown.uid == 0
        assert (await fs.stat("f")).mtime_ns == 1000 * 10**9
        assert store.objects == before
        with errno_is(errno.ENOTSUP):
            await fs.tree.setxattr(await fs.walk("f"), b"user.a", b"x")


async def test_what_is_written_has_no_attributes_and_one_put(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    file = await fs.open("new.txt", W | os.O_CREAT, 0o600)
    await file.write(b"bytes")
    assert (await file.stat()).mode == stat.S_IFREG | 0o640
    await file.close()
    assert set(store.objects["new.txt"].headers.meta) == {"ossfs-wid"}
    assert store.objects["new.txt"].headers.content_type == "text/plain"
    assert (await fs.stat("new.txt")).mtime_ns == store.objects["new.txt"].last_modified * 10**9
    await fs.write_file("big", bytes(3 * CHUNK))
    assert store.calls["copy"] == 0, "nothing to store after the upload"
    await fs.mkdir("d")
    assert set(store.objects["d/"].headers.meta) == {"ossfs-wid"}
    store.reset_counts()
    await fs.rename("new.txt", "d/moved.txt")
    assert store.data("d/moved.txt") == b"bytes" and store.calls["head"] == 0
    assert store.objects["d/moved.txt"].headers.content_type == "text/plain"


async def test_a_rewrite_keeps_stored_attributes_that_are_not_shown(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    meta = {"mode": str(stat.S_IFREG | 0o711), "uid": "5", "mtime": "5", "xattr": "%7B%7D", "other": "1"}
    opened = {"truncated": os.O_TRUNC, "appended": os.O_APPEND, "edited": 0}
    for name in opened:
        store.add(name, b"old", ObjectHeaders(meta=meta, cache_control="no-cache"))
    for name, flags in opened.items():
        await fs.stat(name)
        file = await fs.open(name, W | flags)
        await file.write(b"new")
        await file.close()
        stored = store.objects[name].headers
        assert stored.cache_control == "no-cache"
        kept = {k: v for k, v in stored.meta.items() if k != "ossfs-wid"}
        assert kept == {k: v for k, v in meta.items() if k != "mtime"}
    await fs.truncate("edited", 1)
    assert store.data("edited") == b"n"
    assert store.objects["edited"].headers.meta["uid"] == "5"


async def test_a_link_of_1x_is_not_written_as_a_file(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("l", b"target", ObjectHeaders(meta={"mode": str(stat.S_IFLNK | 0o777)}))
    for flags in (W, W | os.O_TRUNC):
        with errno_is(errno.EPERM):
            await fs.open("l", flags)
    with errno_is(errno.EPERM):
        await fs.truncate("l", 1)
    assert store.data("l") == b"target"


async def test_truncating_to_the_same_size_stores_nothing(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("f", b"x", last_modified=1000)
    await fs.setattr("f", SetAttr(size=1, mtime_ns=5))  # the kernel sends a time along
    assert store.objects["f"].last_modified == 1000
    assert store.calls["copy"] == store.calls["put"] == 0
