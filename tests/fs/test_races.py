"""What fails or changes half way: nothing that close accepted is lost, nothing of others is erased."""

from __future__ import annotations

import errno
import os
import stat

import pytest
import trio
import trio.testing

from ossfs.errors import AccessDenied, OssfsError
from ossfs.fs.tree import SetAttr
from tests.fs.test_writer import BIG, NEW, W, pattern
from tests.support.memory_store import Fault, MemoryStore
from tests.support.posix import CHUNK, Posix, mounted


def errno_is(code: int):  # type: ignore[no-untyped-def]
    return pytest.raises(OssfsError, check=lambda e: e.errno == code)


async def test_a_refused_unlink_of_a_log_that_is_written(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("log", b"one ")
    file = await fs.open("log", W | os.O_APPEND)
    await file.write(b"two ")
    store.faults.append(Fault(op="delete", error=AccessDenied))
    with errno_is(errno.EACCES):
        await fs.unlink("log")
    await file.write(b"three")
    await file.close()
    assert store.data("log") == b"one two three"
    await trio.sleep(2)
    assert list(store.objects) == ["log"]


async def test_a_failed_rename_over_a_log_that_is_written(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("log", b"one ")
    store.add("new", b"new")
    file = await fs.open("log", W | os.O_APPEND)
    await file.write(b"two ")
    store.faults.append(Fault(op="copy", key="log", error=AccessDenied, count=-1))
    with errno_is(errno.EACCES):
        await fs.rename("new", "log")
    store.faults.clear()
    await file.write(b"three")
    await file.close()
    assert store.data("log") == b"one two three" and store.data("new") == b"new"
    await trio.sleep(2)
    assert sorted(store.objects) == ["log", "new"]


async def test_rename_of_a_directory_onto_one_that_another_machine_just_made(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    await fs.mkdir("own")
    await fs.mkdir("own/d")
    await fs.write_file("own/d/x", b"ours")
    store.add("own/e/x", b"theirs")
    with errno_is(errno.ENOTEMPTY):
        await fs.rename("own/d", "own/e")
    assert store.data("own/e/x") == b"theirs" and store.data("own/d/x") == b"ours"


async def test_a_large_file_made_while_its_directory_is_renamed(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    await fs.mkdir("d")
    await fs.write_file("d/old", b"x")
    store.latency = 1.0
    async with trio.open_nursery() as nursery:
        parent = await fs.walk("d")
        nursery.start_soon(fs.rename, "d", "e")
        await trio.sleep(2.5)
        fh, made = await fs.tree.create(parent, b"new", 0o644, NEW, fs.caller)
        for at in range(0, len(BIG), 100_000):
            await fs.tree.write(fh, at, BIG[at : at + 100_000])
    await fs.tree.flush(fh)
    await fs.tree.release(fh)
    assert store.data("e/new") == BIG
    assert not [k for k in store.objects if k.startswith("d/")] and not store.uploads
    assert made.ino


async def test_a_symlink_made_while_its_directory_is_renamed(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    await fs.mkdir("d")
    await fs.write_file("d/old", b"x")
    store.latency = 1.0
    parent = await fs.walk("d")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fs.rename, "d", "e")
        await trio.sleep(2.5)
        try:
            await fs.tree.symlink(parent, b"l", b"target", fs.caller)
        except OssfsError as error:
            assert error.errno == errno.ESTALE  # the kernel looks up again
            await fs.tree.symlink(parent, b"l", b"target", fs.caller)
    assert not [k for k in store.objects if k.startswith("d/")]
    assert store.data("e/l") == b"target"


async def test_an_upload_that_somebody_aborted_begins_again(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    file = await fs.open("f", os.O_RDWR | os.O_CREAT)
    await file.write(BIG)
    await trio.testing.wait_all_tasks_blocked()
    assert store.uploads
    store.uploads.clear()
    await file.close()
    assert store.data("f") == BIG


async def test_parts_that_went_with_their_upload_are_told(autojump_clock: object) -> None:
    store = MemoryStore()
    async with mounted(store, memory=4 * CHUNK) as fs:
        file = await fs.open("f", NEW)
        for _ in range(20):
            await file.write(pattern(CHUNK))
        store.uploads.clear()
        with errno_is(errno.EIO):
            await file.close()
        assert "f" not in store.objects


async def test_a_symlink_whose_target_is_not_utf8(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    shown = await fs.tree.symlink(1, b"l", b"caf\xe9", fs.caller)
    assert shown.size == 4 and stat.S_ISLNK(shown.mode)
    assert await fs.tree.readlink(shown.ino) == b"caf\xe9"
    await fs.forget_all()
    await trio.sleep(10)
    assert await fs.tree.readlink(await fs.walk("l")) == b"caf\xe9"


async def test_fstat_of_a_removed_directory(fs: Posix, autojump_clock: object) -> None:
    made = await fs.mkdir("d")
    await fs.rmdir("d")
    await trio.sleep(10)
    assert stat.S_ISDIR((await fs.tree.getattr(made.ino)).mode)


async def test_a_slow_rename_while_the_kernel_looks_the_name_up(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    for i in range(200):
        store.add(f"d/f{i}", b"x")
    await fs.stat("d/f1")
    ino = await fs.walk("d")
    store.latency = 3.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fs.rename, "d", "e")
        await trio.sleep(10)
        with errno_is(errno.ENOENT):
            await fs.walk("d")
    store.latency = 0
    assert await fs.walk("e") == ino
    assert len(await fs.listdir("e")) == 200


@pytest.mark.parametrize("make", ["symlink", "mkdir", "rename"])
async def test_versioned_buckets_overwrite_nothing(make: str, autojump_clock: object) -> None:
    store = MemoryStore(versioning="Enabled")
    async with mounted(store, versioned=True) as fs:
        await fs.mkdir("own")
        await fs.write_file("own/src", b"ours")
        store.add("own/x", b"theirs")
        store.add("own/x/", b"")
        with errno_is(errno.EEXIST):
            if make == "symlink":
                await fs.symlink("t", "own/x")
            elif make == "mkdir":
                await fs.mkdir("own/x")
            else:
                await fs.rename("own/src", "own/x", no_replace=True)
        assert store.data("own/x") == b"theirs"


@pytest.mark.parametrize("call", ["truncate", "open"])
async def test_truncating_while_release_runs(
    call: str, fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """RELEASE comes after close(2) has returned, and runs beside the next call: at every step of it."""
    for steps in range(60):
        name = f"f{steps}"
        file = await fs.open(name, os.O_RDWR | os.O_CREAT)
        await file.write(b"first")
        await fs.tree.flush(file.fh)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fs.tree.release, file.fh)
            for _ in range(steps // 2):
                await trio.lowlevel.checkpoint()
            if call == "truncate":
                await fs.tree.setattr(file.ino, SetAttr(size=600))
            else:
                fh, _ = await fs.tree.open(file.ino, W | os.O_TRUNC, fs.caller)
                await fs.tree.write(fh, 0, b"second")
                await fs.tree.flush(fh)
                await fs.tree.release(fh)
        want = b"first" + bytes(595) if call == "truncate" else b"second"
        assert store.data(name) == want, steps
        assert await fs.read_file(name) == want


async def test_unlink_while_release_runs(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    """An inode with no name left never commits to one."""
    file = await fs.open("f", NEW)
    store.latency = 1.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fs.tree.release, file.fh)
        await trio.sleep(0.1)
        await fs.unlink("f")
    await trio.sleep(5)
    assert "f" not in store.objects and not await fs.exists("f")


async def test_a_file_whose_upload_begins_while_a_directory_rename_waits_for_another(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """An upload is bound to its key, and what was sent of it may be held nowhere else."""
    await fs.mkdir("d")
    first = await fs.open("d/first", NEW)
    await first.write(b"x")
    store.faults.append(Fault(op="put", key="d/first", delay=10.0))
    data = pattern(12 * CHUNK)
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fs.rename, "d", "e")
            await trio.sleep(1)
            late = await fs.open("d/late", NEW)
            for start in range(0, len(data), CHUNK):
                await late.write(data[start : start + CHUNK])
            await trio.sleep(1)
            assert store.calls["put_part"] == 12
        await late.write(b"tail")
        await late.close()
        await first.close()
    assert store.keys() == ["e/", "e/first", "e/late"]
    assert store.data("e/late") == data + b"tail"
    assert not store.uploads


async def test_a_file_whose_upload_begins_while_its_own_rename_waits(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("d/f", b"old")
    reader = await fs.open("d/f")  # who opens it now is not kept waiting for the rename
    store.faults.append(Fault(op="put", key="d/", delay=10.0))  # its directory must not vanish with it
    data = pattern(12 * CHUNK)
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fs.rename, "d/f", "g")
            await trio.sleep(1)
            late = await fs.open("d/f", W)
            for start in range(0, len(data), CHUNK):
                await late.pwrite(data[start : start + CHUNK], start)
            await trio.sleep(1)
            assert store.calls["put_part"] == 12
        await late.pwrite(b"tail", len(data))
        await late.close()
        await reader.close()
    assert store.keys() == ["d/", "g"]
    assert store.data("g") == data + b"tail"
    assert not store.uploads
