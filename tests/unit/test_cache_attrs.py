"""Attributes remembered on disk."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import pytest
import trio

from ossfs.cache import attrs as module
from ossfs.cache.attrs import AttrStore
from ossfs.metrics import Metrics
from ossfs.store.base import ListedObject, ObjectHeaders, ObjectInfo


def info(key: str, etag: str = "E", modified: int = 100) -> ObjectInfo:
    headers = ObjectHeaders(meta={"mode": "33188", "uid": "7"}, content_type="text/plain")
    return ObjectInfo(key, 5, etag, modified, 200, crc64=3, headers=headers, tag_count=2)


def listed(key: str, etag: str = "E", modified: int = 100) -> ListedObject:
    return ListedObject(key, 5, etag, modified)


async def recall(store: AttrStore, *objects: ListedObject) -> list[ObjectInfo]:
    with trio.fail_after(10):
        return await store.recall(objects)


async def test_from_one_mount_to_the_next(tmp_path: Path) -> None:
    store = AttrStore(str(tmp_path), Metrics())
    for i in range(3000):
        store.remember(info(f"k{i}"))
    store.close()
    metrics = Metrics()
    store = AttrStore(str(tmp_path), metrics)
    found = await recall(store, *[listed(f"k{i}") for i in range(2998, 3002)])
    assert sorted(found, key=lambda i: i.key) == [info("k2998"), info("k2999")]
    assert metrics.snapshot()["attrs.recalled"] == 2
    store.close()


@pytest.mark.parametrize("other", [listed("k", etag="F"), listed("k", modified=101)])
async def test_only_the_very_version(tmp_path: Path, other: ListedObject) -> None:
    store = AttrStore(str(tmp_path), Metrics())
    store.remember(info("k"))
    assert await recall(store, other) == []
    assert await recall(store, listed("k")) == [info("k")]
    store.close()


async def test_the_rows_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TRIM_EVERY", 1)
    store = AttrStore(str(tmp_path), Metrics(), rows=100)
    for i in range(300):
        store.remember(info(f"k{i:03}"))
        if i % 50 == 49:
            await recall(store)  # so that it is written
    found = await recall(store, *[listed(f"k{i:03}") for i in range(300)])
    assert 80 <= len(found) <= 150
    assert info("k299") in found and info("k000") not in found
    store.close()


async def test_a_damaged_database_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "attrs.db").write_bytes(b"no database at all" * 1000)
    with caplog.at_level(logging.WARNING):
        store = AttrStore(str(tmp_path), Metrics())
        store.remember(info("k"))
        assert await recall(store, listed("k")) == [info("k")]
        store.close()
    (record,) = caplog.records
    assert "set aside as" in record.getMessage()
    assert (tmp_path / "attrs.db.damaged").exists()


@pytest.mark.parametrize("row", ["", "{}", '{"headers":{"rm":"x"},"tags":0,"crc":1,"date":1}', "[]"])
async def test_a_strange_row_is_a_miss(tmp_path: Path, row: str) -> None:
    store = AttrStore(str(tmp_path), Metrics())
    assert await recall(store) == []
    store.close()
    with sqlite3.connect(tmp_path / "attrs.db") as database:
        database.execute("INSERT INTO attrs VALUES ('k', 'E', 100, ?)", (row,))
    database.close()
    store = AttrStore(str(tmp_path), Metrics())
    assert await recall(store, listed("k")) == []
    store.close()
