"""A service that does not answer: everything ends after some deadlines, however much there is to do."""

from __future__ import annotations

import os
from functools import partial

import pytest
import trio
import trio.testing

from ossfs.errors import DeadlineExceeded
from ossfs.fs.tree import SetAttr
from tests.fs.test_writer import NEW
from tests.support.memory_store import Fault, MemoryStore
from tests.support.posix import CHUNK, Posix, mounted


async def test_parts_do_not_wait_for_the_beginning_of_their_upload_one_after_another(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    timeout = fs.tree.ctx.config.op_timeout
    file = await fs.open("f", NEW)
    store.faults.append(Fault(error=DeadlineExceeded, delay=timeout, count=-1))
    for i in range(20):
        await file.pwrite(bytes([i]) * CHUNK, i * CHUNK)
    with trio.fail_after(4 * timeout):
        with pytest.raises(DeadlineExceeded):
            await file.close()
    store.faults.clear()


async def test_a_close_that_was_given_up_is_not_tried_again(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """The guard's deadline comes before the request's: the program has heard ETIMEDOUT."""
    await fs.mkdir("d")
    file = await fs.open("d/f", NEW)
    await file.write(b"x")
    store.faults.append(Fault(op="put", error=DeadlineExceeded, delay=5))
    with trio.move_on_after(3) as scope:
        await fs.tree.flush(file.fh)
    assert scope.cancelled_caught
    await fs.tree.release(file.fh)
    await trio.sleep(60)
    assert sorted(store.objects) == ["d/"]
    assert not await fs.exists("d/f")


async def test_what_an_unmount_could_not_upload_is_named(store: MemoryStore, autojump_clock: object) -> None:
    """Also when the file is given up, and loses its name, while the unmount waits."""
    async with mounted(store, check=False) as fs:
        await fs.mkdir("d")
        timeout = fs.tree.ctx.config.op_timeout
        files = [await fs.open(f"d/{i}", NEW) for i in range(3)]
        for file in files:
            await file.write(b"x")
        store.faults.append(Fault(error=DeadlineExceeded, delay=timeout, count=-1))

        async def close(file: object) -> None:
            with pytest.raises(DeadlineExceeded):
                await file.close()  # type: ignore[attr-defined]

        with trio.fail_after(10 * timeout):
            async with trio.open_nursery() as nursery:
                for file in files:
                    nursery.start_soon(partial(close, file))
                await trio.sleep(timeout / 2)
                failed = await fs.tree.flush_all()
        assert sorted(failed) == ["d/0", "d/1", "d/2"]
        store.faults.clear()


async def test_unmounting_with_a_service_that_does_not_answer(
    store: MemoryStore, autojump_clock: object
) -> None:
    """It ends after some deadlines, however many files, directories and uploads are left."""
    async with mounted(store, check=False) as fs:
        timeout = fs.tree.ctx.config.op_timeout
        for i in range(30):
            await fs.mkdir(f"d{i}")
        for i in range(30):
            await fs.setattr(f"d{i}", SetAttr(mtime_ns=5))
            file = await fs.open(f"d{i}/f", os.O_WRONLY | os.O_CREAT)
            await file.write(bytes(CHUNK + 1))
        await trio.testing.wait_all_tasks_blocked()  # the parts are on their way
        store.faults.append(Fault(error=DeadlineExceeded, delay=timeout, count=-1))
        with trio.fail_after(10 * timeout):
            assert len(await fs.tree.drain()) == 30
        store.faults.clear()
