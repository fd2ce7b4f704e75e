"""What readers see when written bytes could not be put into the bucket: those bytes, or an error.

Never the bytes from before, which would be a second version under one descriptor, and never an end of
the file where there was none.
"""

from __future__ import annotations

import errno
import os

import pytest
import trio
import trio.testing

from ossfs.errors import AccessDenied, OssfsError, PosixError, ServerFault
from tests.fs.test_writer import BIG, NEW, W
from tests.support.memory_store import Fault, MemoryStore
from tests.support.posix import Posix


def errno_is(code: int):  # type: ignore[no-untyped-def]
    return pytest.raises(OssfsError, check=lambda e: e.errno == code)


async def test_an_open_reader_of_a_failed_edit_gets_no_old_bytes(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("f", b"the old bytes")
    reader = await fs.open("f")
    writer = await fs.open("f", W)
    await writer.pwrite(b"THE NEW", 0)
    assert await reader.pread(7, 0) == b"THE NEW"
    store.faults.append(Fault(op="put", error=AccessDenied))
    with errno_is(errno.EACCES):
        await writer.close()
    for offset in (0, 4):
        with errno_is(errno.ESTALE):
            await reader.pread(100, offset)
    await reader.close()
    assert await fs.read_file("f") == b"the old bytes"


async def test_an_open_reader_of_a_failed_creation_sees_no_empty_file(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    writer = await fs.open("f", NEW)
    await writer.write(b"new")
    reader = await fs.open("f")
    store.faults.append(Fault(op="put", error=AccessDenied))
    with errno_is(errno.EACCES):
        await writer.close()
    with errno_is(errno.ESTALE):
        await reader.pread(100, 0)
    await reader.close()
    assert not await fs.exists("f")


async def test_an_open_reader_while_others_start_anew_after_a_failed_fsync(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """The writer still has the file open, and reads its own bytes; others have the bucket's already."""
    store.add("f", b"the old bytes")
    reader = await fs.open("f")
    writer = await fs.open("f", os.O_RDWR)
    await writer.pwrite(b"THE NEW", 0)
    store.faults.append(Fault(op="put", error=AccessDenied))
    with errno_is(errno.EACCES):
        await writer.fsync()
    assert await reader.pread(13, 0) == b"THE NEW bytes"
    assert await fs.read_file("f") == b"the old bytes"
    assert await writer.pread(13, 0) == b"THE NEW bytes"
    with errno_is(errno.ESTALE):
        await reader.pread(13, 0)
    await reader.close()
    with errno_is(errno.EACCES):
        await writer.close()


async def test_an_open_reader_of_a_file_whose_truncation_fails(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("f", b"the old bytes")
    reader = await fs.open("f")
    store.faults.append(Fault(op="put", error=AccessDenied))
    with errno_is(errno.EACCES):
        await fs.truncate("f", 3)
    with errno_is(errno.ESTALE):
        await reader.pread(100, 0)
    await reader.close()
    assert await fs.read_file("f") == b"the old bytes"


async def test_an_open_reader_reads_on_when_only_attributes_fail(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("f", b"the bytes")
    reader = await fs.open("f")
    store.faults.append(Fault(op="copy", error=AccessDenied, count=-1))
    with errno_is(errno.EACCES):
        await fs.chmod("f", 0o600)
    assert await reader.pread(100, 0) == b"the bytes"
    await reader.close()


async def test_what_a_failed_commit_told_is_not_committed_by_the_clock(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """The ninth close of a shared descriptor only winds a clock; until it strikes, an fsync fails."""
    file = await fs.open("log", NEW)
    for i in range(9):
        file.dup()
        await file.write(b"%d" % i)
        await file.close()
    store.faults.append(Fault(op="put", error=AccessDenied))
    with errno_is(errno.EACCES):
        await file.fsync()
    assert await fs.read_file("log") == b"01234567"
    await trio.sleep(3)
    assert store.data("log") == b"01234567"
    with errno_is(errno.EACCES):
        await file.write(b"9")
    with errno_is(errno.EACCES):
        await file.close()
    assert await fs.read_file("log") == b"01234567"


async def test_a_file_made_anew_over_a_failed_creation_starts_empty(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """The kernel may send CREATE for a name that it knows to be absent, while our failure is not over."""
    failed = await fs.open("f", NEW)
    await failed.write(b"failed")
    store.faults.append(Fault(op="put", error=AccessDenied))
    with errno_is(errno.EACCES):
        await failed.fsync()
    fh, _ = await fs.tree.create(1, b"f", 0o644, os.O_WRONLY | os.O_CREAT, fs.caller)
    await fs.tree.write(fh, 0, b"new")
    await fs.tree.flush(fh)
    await fs.tree.release(fh)
    with errno_is(errno.EACCES):
        await failed.close()
    assert store.data("f") == b"new"


async def test_reading_beside_a_failing_flush(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    store.add("f", b"the old bytes")
    reader = await fs.open("f")
    writer = await fs.open("f", W)
    await writer.pwrite(b"THE NEW", 0)
    store.faults.append(Fault(op="put", error=ServerFault, delay=5.0))
    seen: set[bytes] = set()

    async def close() -> None:
        with errno_is(errno.EIO):
            await writer.close()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(close)
            for _ in range(20):
                await trio.sleep(0.5)
                try:
                    seen.add(await reader.pread(100, 0))
                except PosixError as error:
                    assert error.errno == errno.ESTALE
    assert seen == {b"THE NEW bytes"}
    await reader.close()


async def test_a_failed_upload_by_parts_leaves_no_mixture(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """Half of the file was sent, and is held nowhere here any more."""
    store.add("f", bytes(len(BIG)))
    reader = await fs.open("f")
    writer = await fs.open("f", W)
    await writer.pwrite(BIG, 0)
    await trio.testing.wait_all_tasks_blocked()
    store.faults.append(Fault(op="complete", error=AccessDenied, count=-1))
    with errno_is(errno.EACCES):
        await writer.close()
    store.faults.clear()
    with errno_is(errno.ESTALE):
        await reader.pread(100, 0)
    await reader.close()
    assert store.data("f") == bytes(len(BIG))


async def test_a_close_that_failed_and_an_fsync_that_succeeds(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """The other copy of the descriptor is used on: nothing that it accepts is lost."""
    file = (await fs.open("f", NEW)).dup()
    await file.write(b"one")
    store.faults.append(Fault(op="put", error=ServerFault))
    with errno_is(errno.EIO):
        await file.close()
    await file.fsync()
    assert (await fs.stat("f")).size == 3
    await file.write(b"two")
    await file.close()
    assert store.data("f") == b"onetwo" == await fs.read_file("f")


async def test_what_close_refused_is_not_committed_by_an_unmount(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    file = (await fs.open("f", NEW)).dup()
    await file.write(b"one")
    store.faults.append(Fault(op="put", error=ServerFault))
    with errno_is(errno.EIO):
        await file.close()
    fh = await fs.tree.opendir(1)
    await fs.tree.fsyncdir(fh)
    await fs.tree.releasedir(fh)
    await fs.tree.drain()
    assert not store.objects


async def test_a_checkpoint_that_is_taken_back_leaves_no_mixture(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """The name held the unfinished file for a while, and a reader has seen it."""
    old = bytes(len(BIG))
    store.add("f", old)
    writer = await fs.open("f", W | os.O_TRUNC)
    for at in range(0, len(BIG), 1 << 16):
        await writer.write(BIG[at : at + (1 << 16)])
        await trio.testing.wait_all_tasks_blocked()
    reader = await fs.open("f")
    assert await reader.pread(100, 1 << 16) == BIG[1 << 16 : (1 << 16) + 100]
    store.faults.append(Fault(op="complete", error=AccessDenied, count=-1))
    store.faults.append(Fault(op="put", error=AccessDenied, count=-1))
    await writer.write(b"more")
    with errno_is(errno.EACCES):
        await writer.close()
    store.faults.clear()
    assert store.data("f") == old
    with errno_is(errno.ESTALE):
        await reader.pread(100, 0)
    await reader.close()
