"""Rules that data safety hangs on, with a second client: order and identity, making and removing.

Most of the rules of docs/design.md have their tests beside what they are about.  Here are those that are
about two things at once: an answer and a change, a version and an inode, this machine and another.
"""

from __future__ import annotations

import errno
import os
import random
import stat

import pytest
import trio

from ossfs.errors import OssfsError, errno_of
from ossfs.fs.inodes import ROOT
from ossfs.fs.tree import SetAttr
from ossfs.store.base import ObjectHeaders
from tests.support.memory_store import MemoryStore
from tests.support.posix import Posix, mounted

W = os.O_WRONLY
BASE = 1_700_000_000


def errno_is(*codes: int):  # type: ignore[no-untyped-def]
    return pytest.raises(OssfsError, check=lambda e: e.errno in codes)


# -- a nodeid belongs to one version


async def test_appending_to_a_file_that_another_machine_has_grown(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """Not at the size that was known, over the other's bytes."""
    store.add("log", b"one\n" * 1000)
    first = (await fs.stat("log")).ino
    await trio.sleep(1.1)
    store.add("log", b"one\n" * 1000 + b"theirs\n")
    await fs.append_file("log", b"ours\n")
    assert store.data("log") == b"one\n" * 1000 + b"theirs\nours\n"
    assert (await fs.stat("log")).ino != first


async def test_o_creat_of_a_file_that_another_machine_has_deleted(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """OPEN answers ESTALE, not ENOENT: the kernel looks up again, and creates."""
    store.add("f", b"old")
    found = await fs.stat("f")
    await trio.sleep(1.1)
    store.remove("f")
    with errno_is(errno.ESTALE):
        await fs.tree.open(found.ino, W, fs.caller)
    store.add("g", b"old")
    await fs.stat("g")
    await trio.sleep(1.1)
    store.remove("g")
    file = await fs.open("g", W | os.O_CREAT)
    await file.write(b"new")
    await file.close()
    assert store.data("g") == b"new"


async def test_a_number_moves_along_with_our_own_versions(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """A commit, a chmod and a rename of ours make new versions; who has the file open reads on."""
    await fs.write_file("f", b"one")
    first = (await fs.stat("f")).ino
    reader = await fs.open("f")
    await fs.append_file("f", b" two")
    await fs.chmod("f", 0o600)
    await fs.rename("f", "g")
    assert (await fs.stat("g")).ino == first
    assert await reader.pread(100, 0) == b"one two"
    await reader.close()
    assert await fs.read_file("g") == b"one two" and (await fs.stat("g")).ino == first


# -- an answer never overrides a younger local change


@pytest.mark.parametrize("op", ["head", "get"])
async def test_a_head_that_answers_after_our_chmod(
    op: str, fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("f", b"x" * 5000, ObjectHeaders(meta={"mode": str(0o100644)}))
    ino = await fs.walk("f")
    if op == "get":
        await fs.read_file("f")
    await trio.sleep(6)

    async def slow(sent: str, key: str) -> None:
        if sent in ("head", "get") and key == "f":
            store.after = None
            await trio.sleep(3)

    store.after = slow
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fs.tree.getattr, ino)
        await trio.sleep(1)
        await fs.tree.setattr(ino, SetAttr(mode=0o600))
    assert stat.S_IMODE((await fs.stat("f")).mode) == 0o600
    assert stat.S_IMODE((await fs.tree.getattr(ino)).mode) == 0o600


async def test_a_listing_does_not_shrink_a_file_under_its_writer(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("f", b"0123456789")
    file = await fs.open("f", os.O_RDWR)
    await file.pwrite(b"x" * 5000, 10)
    await trio.sleep(6)
    assert await fs.listdir() == ["f"]
    assert (await fs.stat("f")).size == 5010 and (await file.stat()).size == 5010
    await fs.append_file("f", b"end")
    await file.close()
    assert store.data("f") == b"0123456789" + b"x" * 5000 + b"end"


async def test_the_kernel_believes_an_answer_for_the_rest_of_its_ttl(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("f", b"x" * 5000)
    store.add("d/", b"")
    for name in ("f", "d"):
        await fs.stat(name)
        await trio.sleep(2)
        shown = await fs.tree.lookup(ROOT, name.encode())
        assert shown.attr_timeout <= 3.001, name
    assert (await fs.tree.getattr(await fs.walk("f"))).attr_timeout <= 1.001
    # A file of ours that is being written changes here only.
    file = await fs.open("own", W | os.O_CREAT)
    await trio.sleep(4)
    assert (await file.stat()).attr_timeout == 5
    await file.close()


@pytest.mark.parametrize("clock_is_off", [-86_400.0, 0.0, 86_400.0])
async def test_how_old_an_object_is_the_servers_clock_says(
    clock_is_off: float, autojump_clock: object
) -> None:
    """A chmod in the second in which an object was looked at is not missed, whatever our own clock shows."""
    store = MemoryStore(clock=lambda: BASE + trio.current_time())
    wall = lambda: int((BASE + clock_is_off + trio.current_time()) * 10**9)  # noqa: E731
    async with mounted(store, wall_ns=wall) as fs, mounted(store) as other:
        store.add("f", b"x" * 5000)
        await fs.stat("f")
        await other.chmod("f", 0o600)
        assert store.objects["f"].last_modified == BASE
        await trio.sleep(6)
        assert stat.S_IMODE((await fs.stat("f")).mode) == 0o600
        # Settled: from now on an unchanged listing costs no HEAD.
        await trio.sleep(6)
        store.reset_counts()
        assert stat.S_IMODE((await fs.stat("f")).mode) == 0o600
        assert store.calls["head"] + store.calls["get"] == 0


async def test_rewinding_a_directory_starts_anew(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """Offset 0 of an open directory shows what came and went since; any other offset keeps its meaning."""
    store.add("d/a", b"x")
    store.add("d/b", b"x")
    handle = await fs.tree.opendir(await fs.walk("d"))
    assert list(await _names(fs, handle, 0)) == ["a", "b"]
    await fs.unlink("d/a")
    await fs.write_file("d/c", b"x")
    found = await _names(fs, handle, 0)
    assert list(found) == ["b", "c"]
    await fs.unlink("d/b")
    assert list(await _names(fs, handle, found["b"])) == ["c"]
    await fs.tree.releasedir(handle)


async def _names(fs: Posix, handle: int, offset: int) -> dict[str, int]:
    """What is listed from an offset on, each with the offset behind it."""
    names: dict[str, int] = {}

    def emit(name: bytes, found: object, following: int) -> bool:
        names[name.decode()] = following
        return True

    await fs.tree.readdir(handle, offset, emit)
    return names


# -- making and removing beside other machines


@pytest.mark.parametrize("key", ["e/x", "e//x", "e/./x", "e/sub/", "e/" + "n" * 256])
async def test_a_directory_is_not_renamed_over_what_somebody_put_there(
    key: str, fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    await fs.mkdir("d")
    await fs.mkdir("e")
    store.add(key, b"theirs")
    with errno_is(errno.ENOTEMPTY):
        await fs.rename("d", "e")
    assert store.data(key) == b"theirs" and "d/" in store.objects


async def test_a_directory_is_renamed_over_one_that_we_have_just_emptied(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    await fs.mkdir("d")
    await fs.write_file("d/x", b"ours")
    await fs.mkdir("e")
    await fs.write_file("e/y", b"old")
    await fs.unlink("e/y")
    await fs.rename("d", "e")
    await trio.sleep(3)
    assert sorted(store.objects) == ["e/", "e/x"] and await fs.listdir("e") == ["x"]


@pytest.mark.parametrize("seed", range(30))
async def test_rmdir_while_another_machine_makes_a_file_in_it(
    seed: int, store: MemoryStore, autojump_clock: object
) -> None:
    """Nothing that was there is lost: rmdir removes a marker at most."""
    rng = random.Random(seed)
    async with mounted(store) as fs, mounted(store) as other:
        await fs.mkdir("d")
        await other.listdir("d")

        async def wait(op: str, key: str) -> None:
            await trio.sleep(rng.choice([0, 0.01, 0.1]))

        store.before = store.after = wait
        results: list[int] = []

        async def remove() -> None:
            await trio.sleep(rng.random() / 2)
            try:
                await fs.rmdir("d")
            except OssfsError as error:
                results.append(errno_of(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(remove)
            nursery.start_soon(other.write_file, "d/f", b"theirs")
        assert results in ([], [errno.ENOTEMPTY])
        assert store.data("d/f") == b"theirs"
        await trio.sleep(6)
        for machine in (fs, other):
            assert await machine.read_file("d/f") == b"theirs"


async def test_a_directory_that_vanishes_while_it_is_open_lists_as_empty(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    await fs.mkdir("ours")
    store.add("theirs/f", b"x")
    for name in ("ours", "theirs"):
        handle = await fs.tree.opendir(await fs.walk(name))
        if name == "ours":
            await fs.rmdir(name)
        else:
            store.remove("theirs/f")
            await trio.sleep(6)
        assert not await _names(fs, handle, 0)
        await fs.tree.releasedir(handle)
        assert not await fs.exists(name)


async def test_what_another_machine_makes_is_seen_within_negative_ttl(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("d/a", b"x")
    assert not await fs.exists("d/b")
    store.add("d/b", b"new")
    await trio.sleep(1.1)
    assert await fs.read_file("d/b") == b"new"
    # Also where a whole listing said that it was not there.
    assert sorted(await fs.listdir("d")) == ["a", "b"]
    store.add("d/c", b"new")
    await trio.sleep(1.1)
    assert await fs.read_file("d/c") == b"new"


async def test_what_another_machine_replaces_or_deletes_is_seen_at_open_at_once(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    for name in ("f", "g"):
        store.add(name, b"old" * 100)
    for name in ("f", "g"):
        assert await fs.read_file(name) == b"old" * 100
    store.add("f", b"new" * 100, last_modified=store.objects["f"].last_modified)
    store.remove("g")
    assert await fs.read_file("f") == b"new" * 100
    with errno_is(errno.ENOENT):
        await fs.open("g")


async def test_the_kernel_drops_its_pages_of_a_replaced_file_of_the_same_size_and_second(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """keep_cache only when the version is the one that the kernel's pages came from."""
    store.add("f", b"1" * 5000)
    found = await fs.stat("f")
    fh, keep = await fs.tree.open(found.ino, os.O_RDONLY, fs.caller)
    await fs.tree.read(fh, 0, 5000)
    await fs.tree.release(fh)
    assert not keep
    fh, keep = await fs.tree.open(found.ino, os.O_RDONLY, fs.caller)
    await fs.tree.release(fh)
    assert keep, "the same version"
    store.add("f", b"2" * 5000, last_modified=store.objects["f"].last_modified)
    with errno_is(errno.ESTALE):
        await fs.tree.open(found.ino, os.O_RDONLY, fs.caller)
    file = await fs.open("f")
    assert file.ino != found.ino and await file.read() == b"2" * 5000
    await file.close()
