"""user.oss.*: what the service says of an object, as extended attributes that cannot be set."""

from __future__ import annotations

import errno
import os

import pytest

from ossfs.errors import OssfsError
from ossfs.fs import attrs as attributes
from ossfs.fs.tree import SetAttr
from ossfs.store.base import ObjectHeaders
from tests.support.memory_store import MemoryStore
from tests.support.posix import Posix, mounted

NAMES = ("etag", "crc64", "storage-class", "type", "url", "restore")
pytestmark = pytest.mark.timeout(60)


def errno_is(code: int):  # type: ignore[no-untyped-def]
    return pytest.raises(OssfsError, check=lambda e: e.errno == code)


async def get(fs: Posix, path: str, name: str) -> str:
    return (await fs.tree.getxattr(await fs.walk(path), f"user.oss.{name}".encode())).decode()


async def test_virtual_xattrs_say_what_the_bucket_has(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    made = store.add("d/f ü", b"bytes", storage_class="IA", object_type="Multipart")
    assert await get(fs, "d/f ü", "etag") == made.etag
    assert await get(fs, "d/f ü", "crc64") == str(made.crc64)
    assert await get(fs, "d/f ü", "storage-class") == "IA"
    assert await get(fs, "d/f ü", "type") == "Multipart"
    url = await get(fs, "d/f ü", "url")
    assert "/d/f%20%C3%BC?" in url and "method=GET" in url and "expires=1200" in url
    with errno_is(errno.ENODATA):
        await get(fs, "d/f ü", "restore")
    with errno_is(errno.ENODATA):
        await get(fs, "d/f ü", "other")


async def test_virtual_xattrs_are_asked_of_the_bucket_each_time(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("f", b"one")
    await get(fs, "f", "etag")
    changed = store.add("f", b"three")
    assert await get(fs, "f", "etag") == changed.etag


async def test_virtual_xattrs_are_not_listed_and_cannot_be_set(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    meta = {"xattr": attributes.encode_xattrs({"user.oss.etag": b"copied", "user.a": b"1"})}
    store.add("f", b"x", ObjectHeaders(meta=meta))
    ino = await fs.walk("f")
    assert await fs.tree.listxattr(ino) == [b"user.a"]
    assert await get(fs, "f", "etag") == store.objects["f"].etag
    store.reset_counts()
    for name in (*NAMES, "other"):
        with errno_is(errno.EPERM):
            await fs.tree.setxattr(ino, f"user.oss.{name}".encode(), b"x")
        with errno_is(errno.EPERM):
            await fs.tree.removexattr(ino, f"user.oss.{name}".encode())
    assert not store.calls
    async with mounted(store, read_only=True) as read_only:
        with errno_is(errno.EROFS):
            await read_only.tree.setxattr(await read_only.walk("f"), b"user.oss.etag", b"x")


async def test_a_file_that_is_not_committed_has_no_virtual_xattrs(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("old", b"old")
    for name in ("old", "new"):
        file = await fs.open(name, os.O_WRONLY | os.O_CREAT)
        await file.write(b"bytes")
        for attribute in NAMES:
            with errno_is(errno.ENODATA):
                await get(fs, name, attribute)
        assert store.calls["put"] == (0 if name == "old" else 1)
        await file.close()
        assert await get(fs, name, "etag") == store.objects[name].etag
    removed = await fs.open("old")
    await fs.unlink("old")
    with errno_is(errno.ENODATA):
        await fs.tree.getxattr(removed.ino, b"user.oss.etag")
    await removed.close()


async def test_times_that_wait_are_stored_before_a_virtual_xattr_is_answered(autojump_clock: object) -> None:
    store = MemoryStore(copy_changes_etag=True)
    async with mounted(store) as fs:
        store.add("f", b"x")
        await fs.setattr("f", SetAttr(mtime_ns=5 * 10**9))
        assert await get(fs, "f", "etag") == store.objects["f"].etag
        assert store.objects["f"].headers.meta["mtime"] == "5"


async def test_virtual_xattrs_of_directories_are_those_of_the_marker(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    await fs.mkdir("d")
    store.add("implicit/f")
    assert await get(fs, "d", "etag") == store.objects["d/"].etag
    assert "/d/?" in await get(fs, "d", "url")
    for path in ("implicit", ""):
        with errno_is(errno.ENODATA):
            await get(fs, path, "url")


async def test_user_oss_restore_says_why_reading_fails(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    cold = store.add("cold", b"bytes", storage_class="ColdArchive")
    assert await get(fs, "cold", "restore") == (
        "not restored: storage class ColdArchive, reading is EIO until it is"
    )
    cold.restore = 'ongoing-request="true"'
    assert await get(fs, "cold", "restore") == 'ongoing-request="true"'
