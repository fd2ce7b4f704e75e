"""Attributes that are remembered from one mount to the next."""

from __future__ import annotations

import stat
from collections.abc import Sequence

import pytest
import trio

from ossfs.store.base import ListedObject, ObjectHeaders, ObjectInfo
from tests.support.memory_store import MemoryStore
from tests.support.posix import mounted

MODE = ObjectHeaders(meta={"mode": str(stat.S_IFREG | 0o640), "uid": "7"})


class Remembered:
    """An AttrStore in memory."""

    def __init__(self) -> None:
        self.known: dict[str, ObjectInfo] = {}

    async def recall(self, objects: Sequence[ListedObject]) -> list[ObjectInfo]:
        await trio.sleep(0.001)
        return [
            info
            for obj in objects
            if (info := self.known.get(obj.key)) is not None
            and (info.etag, info.last_modified) == (obj.etag, obj.last_modified)
        ]

    def remember(self, info: ObjectInfo) -> None:
        self.known[info.key] = info


@pytest.mark.parametrize("count", [30, 2500])
async def test_a_new_mount_sends_no_head(store: MemoryStore, autojump_clock: object, count: int) -> None:
    """In a directory of one page and of several."""
    for i in range(count):
        store.add(f"d/f{i:04}", bytes(5000), MODE, last_modified=5)
    disk = Remembered()
    async with mounted(store, attr_store=disk, ttl=60.0) as fs:
        for name in await fs.listdir("d"):
            await fs.stat(f"d/{name}")
    assert len(disk.known) == count
    store.reset_counts()
    async with mounted(store, attr_store=disk, ttl=60.0) as fs:
        for name in await fs.listdir("d"):
            found = await fs.stat(f"d/{name}")
            assert (found.mode, found.uid) == (stat.S_IFREG | 0o640, 7)
    assert not store.calls["head"] and not store.calls["get"]


async def test_what_somebody_changed_meanwhile_is_asked_for(
    store: MemoryStore, autojump_clock: object
) -> None:
    disk = Remembered()
    store.add("f", b"x", MODE, last_modified=5)
    store.add("g", b"x", MODE, last_modified=5)
    async with mounted(store, attr_store=disk) as fs:
        await fs.listdir()
        await fs.stat("f")
        await fs.stat("g")
    store.add("f", b"x", ObjectHeaders(meta={"mode": str(stat.S_IFREG | 0o600)}), last_modified=6)
    store.add("g", b"y", MODE, last_modified=5)
    async with mounted(store, attr_store=disk) as fs:
        assert (await fs.stat("f")).mode == stat.S_IFREG | 0o600
        assert await fs.read_file("g") == b"y"


async def test_what_is_young_is_not_kept(store: MemoryStore, autojump_clock: object) -> None:
    """LastModified counts seconds: another change in the same one would look the same."""
    disk = Remembered()
    store.clock = lambda: 1000.0
    store.add("f", b"x", MODE)
    async with mounted(store, attr_store=disk) as fs:
        await fs.listdir()
        await fs.stat("f")
        assert not disk.known
        await trio.sleep(10)
        store.clock = lambda: 1010.0
        await fs.stat("f")
        assert set(disk.known) == {"f"}
