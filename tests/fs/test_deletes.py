"""Deletes that are sent together: order, lost answers, other machines."""

from __future__ import annotations

import errno
import os

import pytest
import trio

from ossfs.errors import AccessDenied, ConnectionLost, DeadlineExceeded, OssfsError, ServerFault
from ossfs.store.base import WRITE_ID, ObjectHeaders
from ossfs.store.retry import RetryStore
from tests.support.memory_store import Fault, MemoryStore
from tests.support.posix import Posix, mounted


async def test_unlink_is_seen_at_once_and_in_the_bucket_within_a_second(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    for i in range(2500):
        store.add(f"d/f{i}", b"x")
    for name in await fs.listdir("d"):
        await fs.unlink(f"d/{name}")
    assert await fs.listdir("d") == []
    assert not await fs.exists("d/f1")
    await trio.sleep(1)
    assert store.keys() == ["d/"]
    assert store.calls["delete_many"] <= 6 and store.calls["delete"] == 0


async def test_a_new_file_of_that_name_comes_after_the_delete(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("f", b"old")
    store.add("g", b"x")
    await fs.unlink("f")
    began = trio.current_time()
    await fs.write_file("f", b"new", os.O_EXCL)
    assert trio.current_time() - began < 0.4
    await trio.sleep(5)
    assert store.data("f") == b"new"
    await fs.unlink("g")
    await fs.mkdir("g")
    assert sorted(await fs.listdir()) == ["f", "g"] and "g" not in store.objects


async def test_rename_and_rmdir_come_after_the_deletes(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    for i in range(5):
        store.add(f"d/f{i}", b"x")
        store.add(f"e/f{i}", b"x")
    for i in range(5):
        await fs.unlink(f"d/f{i}")
    await fs.rmdir("d")
    await fs.unlink("e/f0")
    await fs.rename("e", "d")
    assert sorted(await fs.listdir("d")) == ["f1", "f2", "f3", "f4"]
    assert sorted(store.objects) == [f"d/f{i}" for i in range(1, 5)]


async def test_fsync_of_the_directory_waits(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    store.add("d/f", b"x")
    store.add("d/g", b"x")
    await fs.unlink("d/f")
    handle = await fs.tree.opendir(await fs.walk("d"))
    await fs.tree.fsyncdir(handle)
    await fs.tree.releasedir(handle)
    assert store.keys() == ["d/g"]


async def test_unmounting_waits(store: MemoryStore, autojump_clock: object) -> None:
    store.add("d/f", b"x")
    store.add("d/g", b"x")
    async with mounted(store) as fs:
        await fs.unlink("d/f")
    assert store.keys() == ["d/g"]


async def test_delete_sync_waits_each_time(store: MemoryStore, autojump_clock: object) -> None:
    store.add("f", b"x")
    store.add("g", b"x")
    async with mounted(store, delete_sync=True) as fs:
        await fs.unlink("f")
        assert store.keys() == ["g"]


async def test_a_refused_delete_brings_the_name_back(
    fs: Posix, store: MemoryStore, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    store.add("d/f", b"x")
    store.add("d/g", b"x")
    store.faults += [Fault(op="delete_many", error=AccessDenied), Fault(op="delete", error=AccessDenied)]
    await fs.unlink("d/f")
    assert await fs.listdir("d") == ["g"]
    await trio.sleep(2)
    assert sorted(await fs.listdir("d")) == ["f", "g"]
    assert "d/f could not be removed" in caplog.text


async def test_fsync_of_the_directory_tells_of_a_refused_delete(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """Also of one that was refused before; once, as errors of write-back are told."""
    store.add("d/f", b"x")
    store.faults += [Fault(op="delete_many", error=AccessDenied), Fault(op="delete", error=AccessDenied)]
    await fs.unlink("d/f")
    await trio.sleep(2)
    handle = await fs.tree.opendir(await fs.walk("d"))
    with pytest.raises(AccessDenied):
        await fs.tree.fsyncdir(handle)
    await fs.tree.fsyncdir(handle)
    await fs.tree.releasedir(handle)
    assert "d/f" in store.objects


@pytest.mark.parametrize("error", [ConnectionLost, ServerFault])
async def test_a_lost_answer_while_another_machine_makes_the_name_anew(
    error: type[Exception], fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("d/f", b"old")
    store.add("d/g", b"old")
    store.add("d/h", b"x")
    store.faults.append(Fault(op="delete_many", error=error, lose=True))  # type: ignore[arg-type]

    async def anew(op: str, key: str) -> None:
        if op == "delete_many":
            store.after = None
            store.add("d/f", b"theirs")

    store.after = anew
    await fs.unlink("d/f")
    await fs.unlink("d/g")
    await trio.sleep(3)
    assert store.data("d/f") == b"theirs" and "d/g" not in store.objects
    assert sorted(await fs.listdir("d")) == ["f", "h"]


async def test_a_late_batch_looks_first(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    store.add("d/f", b"old")
    store.add("d/h", b"x")
    store.faults.append(Fault(op="delete_many", error=ServerFault, delay=5.0))
    await fs.unlink("d/f")
    await trio.sleep(1)
    store.add("d/f", b"theirs")
    await trio.sleep(10)
    assert store.data("d/f") == b"theirs"


async def test_a_lock_file_is_deleted_at_once(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    await fs.write_file("lock", b"", os.O_EXCL)
    await fs.unlink("lock")
    assert store.keys() == []


async def test_an_open_file_is_not_batched(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    store.add("f", b"bytes")
    file = await fs.open("f")
    await fs.unlink("f")
    assert "f" not in store.objects
    assert await file.read() == b"bytes"
    await file.close()


async def test_unlink_of_a_missing_name(fs: Posix, autojump_clock: object) -> None:
    with pytest.raises(OssfsError) as caught:
        await fs.unlink("nope")
    assert caught.value.errno == errno.ENOENT


def _made_anew(store: MemoryStore, op: str, key: str, again: str, body: bytes = b"theirs") -> None:
    """The answer to the first *op* on *key* is lost; then another machine makes *again*."""
    store.faults.append(Fault(op=op, key=key, error=ConnectionLost, lose=True))

    async def anew(called: str, about: str) -> None:
        if (called, about) == (op, key):
            store.after = None
            later = store.now() + 1  # markers differ in nothing but their second
            store.add(again, body, ObjectHeaders(meta={WRITE_ID: "another"}), last_modified=later)

    store.after = anew


@pytest.mark.parametrize("kind", ["sync", "lock", "open"])
async def test_a_lost_answer_to_a_single_delete_spares_what_another_machine_makes(
    kind: str, store: MemoryStore, autojump_clock: object
) -> None:
    """Two machines that take turns at one lock file must never remove each other's."""
    store.add("g", b"x")
    with trio.fail_after(100):
        async with mounted(RetryStore(store), delete_sync=kind == "sync") as fs:
            await fs.write_file("f", b"" if kind == "lock" else b"old", os.O_EXCL if kind == "lock" else 0)
            file = await fs.open("f") if kind == "open" else None
            _made_anew(store, "delete", "f", "f", b"" if kind == "lock" else b"theirs")
            await fs.unlink("f")
            assert "f" in store.objects
            if file is not None:
                await file.close()


async def test_a_delete_whose_answer_is_lost_before_it_is_done_is_repeated(
    store: MemoryStore, autojump_clock: object
) -> None:
    store.add("f", b"x")
    store.add("g", b"x")
    store.faults.append(Fault(op="delete", error=ServerFault, count=4))
    with trio.fail_after(100):
        async with mounted(RetryStore(store), delete_sync=True) as fs:
            await fs.unlink("f")
            assert store.keys() == ["g"]


async def test_a_lost_answer_to_the_delete_of_a_rename_spares_what_another_machine_makes(
    store: MemoryStore, autojump_clock: object
) -> None:
    store.add("log", b"old")
    with trio.fail_after(100):
        async with mounted(RetryStore(store)) as fs:
            _made_anew(store, "delete", "log", "log")
            await fs.rename("log", "log.1")
            assert (store.data("log"), store.data("log.1")) == (b"theirs", b"old")


async def test_a_lost_answer_to_the_deletes_of_a_directory_rename_spares_what_another_machine_makes(
    store: MemoryStore, autojump_clock: object
) -> None:
    for name in ("f", "g"):
        store.add(f"d/{name}", b"old")
    with trio.fail_after(100):
        async with mounted(RetryStore(store)) as fs:
            _made_anew(store, "delete_many", "d/f", "d/g")
            await fs.rename("d", "e")
            assert store.keys() == ["d/g", "e/f", "e/g"]
            assert store.data("d/g") == b"theirs"


async def test_a_lost_answer_to_rmdir_spares_the_directory_that_another_machine_makes(
    store: MemoryStore, autojump_clock: object
) -> None:
    with trio.fail_after(100):
        async with mounted(RetryStore(store)) as fs:
            await fs.mkdir("d")
            _made_anew(store, "delete", "d/", "d/", b"")
            await fs.rmdir("d")
            assert store.keys() == ["d/"]


async def test_many_deletes_with_a_service_that_does_not_answer(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """The names come back after some deadlines, not after one for each: fsync waits for them."""
    names = [f"d/{i}" for i in range(100)]
    for name in [*names, "d/stays"]:
        store.add(name, b"x")
    for name in names:
        await fs.unlink(name)
    timeout = fs.tree.ctx.config.op_timeout
    silence = Fault(error=DeadlineExceeded, delay=timeout, count=-1)
    store.faults.append(silence)
    with trio.fail_after(4 * timeout):
        handle = await fs.tree.opendir(await fs.walk("d"))
        with pytest.raises(DeadlineExceeded):
            await fs.tree.fsyncdir(handle)
    store.faults.clear()
    await fs.tree.releasedir(handle)
    assert len(await fs.listdir("d")) == 101
