"""How objects are kept (class, encryption, ACL): what is written, rewritten, changed and renamed."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from typing import Any

import pytest
import trio

from ossfs.errors import AccessDenied, OssfsError
from ossfs.fs.tree import SetAttr
from ossfs.store.base import ObjectHeaders, StoredAs
from tests.support.memory_store import Fault, MemoryStore
from tests.support.posix import CHUNK, mounted

OPTIONS = StoredAs("IA", "KMS", "key", acl="public-read")
OTHER = StoredAs("Standard", "AES256", acl="private")
BIG = bytes(range(256)) * (3 * CHUNK // 256)
pytestmark = pytest.mark.timeout(60)


def found(store: MemoryStore, key: str) -> StoredAs:
    made = store.objects[key]
    return replace(StoredAs.of(made.headers), acl=made.acl)


def put(store: MemoryStore, key: str, data: bytes = b"old", kept: StoredAs = OTHER, **more: Any) -> None:
    store.add(key, data, kept.over(ObjectHeaders()), storage_class=kept.storage_class or "Standard", **more)
    store.objects[key].acl = kept.acl


async def test_options_hold_for_all_that_is_made(autojump_clock: object) -> None:
    store = MemoryStore()
    async with mounted(store, written=OPTIONS) as fs:
        await fs.mkdir("dir")
        await fs.write_file("dir/small", b"x")
        await fs.write_file("dir/large", BIG)
        await fs.symlink("small", "dir/link")
        await fs.write_file("empty", b"")
        await fs.append_file("dir/large", BIG)
        await fs.write_file("dir/small", b"once more")
    assert set(store.objects) == {"dir/", "dir/small", "dir/large", "dir/link", "empty"}
    for key in store.objects:
        assert found(store, key) == OPTIONS, key


async def test_an_exclusive_claim_is_kept_as_the_options_say(autojump_clock: object) -> None:
    store = MemoryStore()
    async with mounted(store, written=OPTIONS, excl_strict=True) as fs:
        file = await fs.open("lock", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        assert found(store, "lock") == OPTIONS
        await file.close()


async def test_new_bytes_are_kept_as_the_options_say(autojump_clock: object) -> None:
    store = MemoryStore()
    put(store, "small")
    put(store, "large", BIG)
    async with mounted(store, written=OPTIONS) as fs:
        await fs.append_file("small", b"new")
        await fs.append_file("large", BIG)
    assert store.data("small") == b"oldnew" and found(store, "small") == OPTIONS
    assert store.data("large") == BIG + BIG and found(store, "large") == OPTIONS


@pytest.mark.parametrize("options", [StoredAs(), OPTIONS])
async def test_changes_of_attributes_and_renames_keep_it(options: StoredAs, autojump_clock: object) -> None:
    store = MemoryStore()
    for key in ("f", "g", "dir/", "d/f"):
        put(store, key, b"" if key == "dir/" else b"old")
        store.objects[key].tagging = "t=1"
    async with mounted(store, written=options, keep_acl=True) as fs:
        await fs.chmod("f", 0o600)
        await fs.setattr("f", SetAttr(mtime_ns=1))
        await fs.chmod("dir", 0o700)
        await fs.rename("g", "h")
        await fs.rename("d", "e")
    for key in ("f", "h", "dir/"):
        assert found(store, key) == OTHER and store.objects[key].tagging == "t=1", key
    # The listing, which is all that a directory's rename asks, does not say how it is encrypted.
    assert found(store, "e/f") == replace(
        OTHER, encryption=options.encryption, encryption_key_id=options.encryption_key_id
    )


async def test_what_was_only_listed_is_renamed_with_all_it_has(autojump_clock: object) -> None:
    """Too large for a link, so nobody has asked for its attributes yet."""
    store = MemoryStore()
    put(store, "f", bytes(5000))
    store.objects["f"].headers.meta["mtime"] = "1000"
    async with mounted(store, keep_acl=True) as fs:
        await fs.rename("f", "g")
    assert store.calls["copy"] == 1 and found(store, "g") == OTHER


async def test_a_directorys_marker_keeps_its_tags(autojump_clock: object) -> None:
    store = MemoryStore()
    put(store, "dir/", b"")
    store.objects["dir/"].tagging = "t=1"
    async with mounted(store) as fs:
        await fs.chmod("dir", 0o700)
        await fs.setattr("dir", SetAttr(mtime_ns=1))
    assert store.objects["dir/"].headers.meta["mode"] == str(0o40700)
    assert store.objects["dir/"].tagging == "t=1"


async def test_without_options_a_rewrite_keeps_it(autojump_clock: object) -> None:
    store = MemoryStore()
    put(store, "f")
    put(store, "large", BIG)
    async with mounted(store, keep_acl=True) as fs:
        await fs.append_file("f", b"new")
        await fs.write_file("f", b"replaced")
        await fs.append_file("large", BIG)
    assert store.data("f") == b"replaced"
    assert found(store, "f") == found(store, "large") == OTHER


async def test_attributes_set_during_an_upload_change_nothing_of_it(autojump_clock: object) -> None:
    store = MemoryStore()
    async with mounted(store, written=OPTIONS, keep_acl=True) as fs:
        file = await fs.open("f", os.O_WRONLY | os.O_CREAT)
        for _ in range(6):
            await file.write(BIG)
        await trio.sleep(1)
        assert store.calls["initiate"] == 1
        await fs.chmod("f", 0o640)
        await file.close()
        assert store.calls["copy"] == 1
        assert (await fs.stat("f")).mode & 0o777 == 0o640
    assert found(store, "f") == OPTIONS


async def test_acls_are_not_asked_for_unless_they_are_kept(autojump_clock: object) -> None:
    store = MemoryStore()
    put(store, "f")
    async with mounted(store) as fs:
        await fs.chmod("f", 0o600)
        await fs.append_file("f", b"x")
        await fs.rename("f", "g")
    assert store.calls["get_acl"] == 0
    assert found(store, "g") == replace(OTHER, acl=None)


async def test_the_acl_of_what_this_mount_made_is_known(autojump_clock: object) -> None:
    store = MemoryStore()
    async with mounted(store, keep_acl=True) as fs:
        await fs.write_file("f", b"x")
        await fs.chmod("f", 0o600)
        await fs.append_file("f", b"x")
        await fs.mkdir("d")
        await fs.chmod("d", 0o700)
    assert store.calls["get_acl"] == 0


async def test_keys_that_may_not_ask_for_acls_ask_once(
    caplog: pytest.LogCaptureFixture, autojump_clock: object
) -> None:
    store = MemoryStore()
    put(store, "f")
    put(store, "g")
    store.faults.append(Fault(op="get_acl", error=AccessDenied, count=-1))
    async with mounted(store, keep_acl=True) as fs:
        await fs.chmod("f", 0o600)
        await fs.chmod("g", 0o600)
    assert store.calls["get_acl"] == 1
    assert caplog.text.count("ACLs of objects are lost") == 1


@pytest.mark.parametrize("options", [StoredAs(), OPTIONS])
async def test_what_is_put_back_is_kept_as_before(options: StoredAs, autojump_clock: object) -> None:
    """A checkpoint stood in the file's place when its writer failed."""
    store = MemoryStore()
    put(store, "f", BIG)
    async with mounted(store, written=options, keep_acl=True, memory=4 * CHUNK) as fs:
        file = await fs.open("f", os.O_WRONLY | os.O_TRUNC)
        for _ in range(7):
            await file.write(BIG)
        await file.pwrite(b"PATCH", 9 * CHUNK + 7)
        assert store.data("f") == 7 * BIG
        store.faults.append(Fault(op="complete", error=AccessDenied, count=-1))
        with pytest.raises(AccessDenied):
            await file.close()
        assert store.data("f") == BIG
    assert found(store, "f") == OTHER


async def test_with_an_archive_class_links_can_be_read(autojump_clock: object) -> None:
    store = MemoryStore()
    async with mounted(store, written=StoredAs("Archive")) as fs:
        await fs.write_file("f", b"x")
        await fs.symlink("f", "link")
    assert store.objects["f"].storage_class == "Archive"
    assert store.objects["link"].storage_class == "Standard"


async def test_with_an_archive_class_late_attributes_are_lost_and_no_byte(
    caplog: pytest.LogCaptureFixture, autojump_clock: object
) -> None:
    store = MemoryStore()
    async with mounted(store, written=StoredAs("ColdArchive")) as fs:
        file = await fs.open("f", os.O_WRONLY | os.O_CREAT)
        for _ in range(6):
            await file.write(BIG)
        await trio.sleep(1)
        assert store.calls["initiate"] == 1
        await fs.chmod("f", 0o640)
        await file.close()
        assert (await fs.stat("f")).mode & 0o777 == 0o644
    assert store.data("f") == 6 * BIG and "attributes that were set while it was uploaded" in caplog.text


async def test_the_zeros_of_holes_are_encrypted_as_everything(autojump_clock: object) -> None:
    store = MemoryStore()
    async with mounted(store, written=OPTIONS) as fs:
        key, _, _ = await fs.tree.hidden.zeros(1)
        assert found(store, key) == StoredAs("Standard", "KMS", "key")


async def test_a_copy_that_conflicts_is_kept_as_the_options_say(autojump_clock: object) -> None:
    store = MemoryStore()
    put(store, "f", BIG)
    async with mounted(store, written=OPTIONS) as fs:
        file = await fs.open("f", os.O_RDWR)
        await file.pwrite(b"mine", CHUNK)
        store.add("f", b"somebody else's")
        with pytest.raises(OssfsError, check=lambda e: e.errno == errno.ESTALE):
            await file.close()
    (conflict,) = [key for key in store.objects if ".conflict-" in key]
    assert found(store, conflict) == OPTIONS
