"""The journal: what a dead mount would leave, and the sweep of it."""

from __future__ import annotations

import errno
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from ossfs import journal
from ossfs.errors import AccessDenied, PosixError
from ossfs.journal import FileJournal, read, sweep
from ossfs.store.base import WRITE_ID, ObjectHeaders
from tests.support.memory_store import Fault, MemoryStore

BUCKET, ENDPOINT = "bkt", "http://oss.invalid"

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "state")


def make(directory: str, mount_id: str = "aa", bucket: str = BUCKET, endpoint: str = ENDPOINT) -> FileJournal:
    return FileJournal(directory, mount_id, bucket, endpoint)


def die(made: FileJournal) -> str:
    """What kill -9 does."""
    os.close(made._fd)
    return made.path


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many bytes of each coming write find room; everything does when the list is empty."""
    room: list[int] = []
    write = os.write

    def limited(fd: int, data: bytes) -> int:
        if not room:
            return write(fd, data)
        length = room.pop(0)
        if length == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data[:length])

    monkeypatch.setattr(journal.os, "write", limited)
    yield room
    monkeypatch.undo()


async def sweep_it(store: MemoryStore, directory: str) -> int:
    with trio.fail_after(5):
        return await sweep(store, directory, BUCKET, ENDPOINT)


# -- writing and reading


def test_an_orderly_end_leaves_no_file(directory: str) -> None:
    made = make(directory)
    assert os.stat(directory).st_mode & 0o777 == 0o700 and os.stat(made.path).st_mode & 0o777 == 0o600
    made.upload_started("k", "1")
    made.hidden_created("h")
    made.upload_ended("k", "1")
    made.hidden_deleted("h")
    made.close()
    assert os.listdir(directory) == []


def test_a_file_that_still_names_something_stays(directory: str) -> None:
    made = make(directory)
    made.upload_started("k", "1")
    made.close()
    found = read(made.path)
    assert (found.bucket, found.endpoint) == (BUCKET, ENDPOINT)
    assert found.uploads == {("k", "1")} and not found.hidden


def test_close_after_somebody_removed_the_file(directory: str) -> None:
    made = make(directory)
    os.unlink(made.path)
    made.close()


def test_what_is_read_back(directory: str) -> None:
    made = make(directory)
    made.upload_started("ключ\n", "1")
    made.upload_started("k", "2")
    made.upload_ended("k", "2")
    made.upload_ended("never", "begun")
    made.hidden_created("h1")
    made.hidden_created("h2")
    made.hidden_created("h2", restore_to="k", write_id="w1")
    made.hidden_created("h2", restore_to="k2", write_id="w2")
    made.hidden_created("h3")
    made.hidden_deleted("h3")
    found = read(die(made))
    assert found.uploads == {("ключ\n", "1")}
    assert found.hidden == {"h1": (None, set()), "h2": ("k2", {"w1", "w2"})}


DAMAGED = [
    b"\n",
    b"{",
    b'{"do":"upl',
    b"null",
    b"7",
    b"[]",
    b'"do"',
    b"{}",
    b'{"do":"upload"}',
    b'{"do":"upload","key":1,"id":"x"}',
    b'{"do":"upload","key":["k"],"id":"x"}',
    b'{"do":"hidden","key":"h","restore_to":null}',
    b'{"do":"hidden","key":"h","restore_to":"k","write_id":{}}',
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"do":' + b"9" * 5000 + b"}",
]


@pytest.mark.parametrize("damage", DAMAGED, ids=lambda d: d[:30].decode("latin-1"))
def test_damaged_lines_are_passed_over(
    directory: str, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    made = make(directory)
    made.upload_started("k", "1")
    os.write(made._fd, damage + b"\n")
    made.upload_started("k", "2")
    os.write(made._fd, b'{"do":"ended","key":"k","id":"1"')  # torn by the death
    found = read(die(made))
    assert found.uploads == {("k", "1"), ("k", "2")} and not found.hidden
    assert len(caplog.records) == (1 if damage == b"\n" else 2)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_file_cut_anywhere_can_be_read(data: st.DataObject) -> None:
    lines = [
        {"do": "mount", "bucket": BUCKET, "endpoint": ENDPOINT},
        {"do": "upload", "key": "k", "id": "1"},
        {"do": "hidden", "key": "h", "restore_to": "k", "write_id": "w"},
        {"do": "ended", "key": "k", "id": "1"},
    ]
    whole = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    at = data.draw(st.integers(0, len(whole)))
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "x.journal"
        path.write_bytes(whole[:at])
        found = read(str(path))
    assert found.uploads <= {("k", "1")}
    assert found.hidden in ({}, {"h": ("k", {"w"})})


# -- a full disk


def test_a_torn_line_does_not_take_the_next_with_it(directory: str, full_disk: list[int]) -> None:
    made = make(directory)
    full_disk.append(10)
    made.upload_started("k", "1")
    made.upload_started("k", "2")
    made.upload_started("k", "3")
    assert read(die(made)).uploads == {("k", "2"), ("k", "3")}


@pytest.mark.parametrize("room", [0, 10])
def test_what_data_hangs_on_is_written_or_refused(directory: str, full_disk: list[int], room: int) -> None:
    """Or the sweep would delete the only copy of the old object, not knowing what it is."""
    made = make(directory)
    made.hidden_created("h")
    full_disk.append(room)
    with pytest.raises(PosixError) as caught:
        made.hidden_created("h", restore_to="k", write_id="w")
    assert caught.value.errno == errno.ENOSPC
    made.hidden_created("h", restore_to="k", write_id="w")
    assert read(die(made)).hidden == {"h": ("k", {"w"})}


def test_an_upload_that_cannot_be_noted_goes_on(
    directory: str, full_disk: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    made = make(directory)
    full_disk += [0, 0]
    made.upload_started("k", "1")
    made.hidden_created("h")
    assert [r.levelno for r in caplog.records] == [logging.ERROR] * 2
    die(made)


# -- locks


def test_one_mount_one_file(directory: str) -> None:
    made = make(directory)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BlockingIOError):
        make(directory)
    assert len(os.listdir("/proc/self/fd")) == before, "nothing is left open"
    made.close()


async def test_live_mounts_are_left_alone(directory: str) -> None:
    store = MemoryStore()
    ours, other = make(directory, "aa"), make(directory, "bb")
    for made in (ours, other):
        made.upload_started("k", await store.initiate("k", ObjectHeaders()))
    assert await sweep_it(store, directory) == 0
    assert len(store.uploads) == 2
    die(other)
    assert await sweep_it(store, directory) == 1
    assert len(store.uploads) == 1 and os.listdir(directory) == ["aa.journal"]
    die(ours)


# -- the sweep


async def test_there_may_be_no_directory(directory: str) -> None:
    assert await sweep_it(MemoryStore(), directory) == 0


async def test_only_dead_mounts_of_this_bucket_and_endpoint(directory: str) -> None:
    store = MemoryStore()
    for mount_id, bucket, endpoint in [
        ("aa", BUCKET, ENDPOINT),
        ("bb", "other", ENDPOINT),
        ("cc", BUCKET, "http://elsewhere"),
    ]:
        made = make(directory, mount_id, bucket, endpoint)
        made.upload_started(mount_id, await store.initiate(mount_id, ObjectHeaders()))
        die(made)
    Path(directory, "dd.journal").write_bytes(b'{"do":"moun')
    Path(directory, "notes.txt").write_text("somebody's")
    Path(directory, "ee.journal").symlink_to("notes.txt")
    assert await sweep_it(store, directory) == 1
    assert {u.key for u in store.uploads.values()} == {"bb", "cc"}
    left = {"bb.journal", "cc.journal", "dd.journal", "ee.journal", "notes.txt"}
    assert set(os.listdir(directory)) == left


async def test_uploads_and_hidden_objects_go(directory: str) -> None:
    store = MemoryStore()
    made = make(directory)
    made.upload_started("k", await store.initiate("k", ObjectHeaders()))
    made.upload_started("k", "already gone")
    for kind in ("zero-1", "orphan-2"):
        store.add(kind, b"x")
        made.hidden_created(kind)
    made.hidden_created("never made")
    store.add("mine", b"a file")
    die(made)
    assert await sweep_it(store, directory) == 5
    assert store.keys() == ["mine"] and not store.uploads and os.listdir(directory) == []
    assert await sweep_it(store, directory) == 0


def with_id(write_id: str) -> ObjectHeaders:
    return ObjectHeaders(meta={WRITE_ID: write_id, "mode": "33188"})


@pytest.mark.parametrize("write_id", ["w1", "w2"])
async def test_the_old_object_is_put_back(directory: str, write_id: str) -> None:
    """The mount died between a checkpoint and the close of the file."""
    store = MemoryStore()
    made = make(directory)
    made.hidden_created("h")
    store.add("h", b"old bytes", with_id("w0"), storage_class="IA")
    for each in ("w1", "w2"):
        made.hidden_created("h", restore_to="k", write_id=each)
    store.add("k", b"half of the ne", with_id(write_id))
    die(made)
    await sweep_it(store, directory)
    assert store.data("k") == b"old bytes" and store.keys() == ["k"]
    assert store.objects["k"].headers.meta == {WRITE_ID: "w0", "mode": "33188"}
    assert store.objects["k"].storage_class == "IA"
    assert os.listdir(directory) == []


@pytest.mark.parametrize("headers", [with_id("a later commit"), ObjectHeaders()])
async def test_what_came_later_is_not_overwritten(directory: str, headers: ObjectHeaders) -> None:
    store = MemoryStore()
    made = make(directory)
    store.add("h", b"old bytes")
    made.hidden_created("h", restore_to="k", write_id="w1")
    store.add("k", b"good", headers)
    die(made)
    await sweep_it(store, directory)
    assert store.data("k") == b"good" and store.keys() == ["k"]


async def test_what_was_removed_stays_removed(directory: str) -> None:
    store = MemoryStore()
    made = make(directory)
    store.add("h", b"old bytes")
    made.hidden_created("h", restore_to="k", write_id="w1")
    die(made)
    await sweep_it(store, directory)
    assert store.keys() == []


async def test_an_old_object_that_is_gone_does_not_stop_the_rest(
    directory: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    made = make(directory)
    made.hidden_created("h", restore_to="k", write_id="w1")
    made.hidden_created("i")
    store.add("k", b"half", with_id("w1"))
    store.add("i")
    die(made)
    await sweep_it(store, directory)
    assert store.keys() == ["k"] and os.listdir(directory) == []
    assert any(r.levelno == logging.ERROR and "gone" in r.getMessage() for r in caplog.records)


@pytest.mark.parametrize("op", ["abort", "head", "copy", "delete"])
async def test_a_sweep_that_fails_is_done_again(
    directory: str, op: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    made = make(directory)
    made.upload_started("k", await store.initiate("k", ObjectHeaders()))
    store.add("h", b"old bytes")
    made.hidden_created("h", restore_to="k", write_id="w1")
    store.add("k", b"half", with_id("w1"))
    other = make(directory, "bb")
    other.upload_started("o", await store.initiate("o", ObjectHeaders()))
    die(made)
    die(other)
    store.faults.append(Fault(op, error=AccessDenied))
    await sweep_it(store, directory)
    assert os.listdir(directory) == ["aa.journal"], "the other mount's is swept all the same"
    assert "stays for the next mount" in caplog.text
    await sweep_it(store, directory)
    assert store.data("k") == b"old bytes" and store.keys() == ["k"] and not store.uploads
    assert os.listdir(directory) == []


async def test_two_sweeps_of_one_host_at_once(directory: str) -> None:
    store = MemoryStore()
    for mount_id in ("aa", "bb", "cc"):
        made = make(directory, mount_id)
        made.upload_started(mount_id, await store.initiate(mount_id, ObjectHeaders()))
        die(made)
    removed: list[int] = []

    async def one() -> None:
        removed.append(await sweep(store, directory, BUCKET, ENDPOINT))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(one)
    assert sum(removed) == 3 and not store.uploads and os.listdir(directory) == []


async def test_a_file_that_vanishes_before_it_is_read(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    die(make(directory))

    def gone(path: str) -> journal.Leftovers:
        os.unlink(path)
        return read(path)

    monkeypatch.setattr(journal, "read", gone)
    assert await sweep_it(MemoryStore(), directory) == 0
