"""The document of `ossfs status --json`: what it says of a tree, and that docs/status.md has all of it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from ossfs import status
from ossfs.config import load_config
from ossfs.errors import ServerFault
from ossfs.limits import MIB
from tests.support.memory_log import MemoryLog
from tests.support.memory_store import MemoryStore
from tests.support.posix import CHUNK, Posix

PAGE = Path(__file__).parents[2] / "docs" / "status.md"
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
pytestmark = pytest.mark.timeout(60)


def document(fs: Posix, *options: str) -> dict[str, Any]:
    config = load_config("bucket", "/", ["region=cn-hangzhou", *options])
    return status.document(config, fs.tree, fs.tree.ctx.metrics, state="mounted", started=1_700_000_000.0)


async def test_files_being_written(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    assert document(fs)["files"]["writing"] == []
    file = await fs.open("big", NEW)
    for _ in range(3):
        await file.write(bytes(CHUNK - 1) + b"x")
    await fs.tree.ctx.jobs.wait_idle()
    small = await fs.open("small", NEW)
    await small.write(b"12345")
    files = document(fs)["files"]
    assert (files["open"], files["pending"], files["uploads"]) == (2, 2, 1)
    by_key = {one["key"]: one for one in files["writing"]}
    big = by_key["big"]
    assert (big["size_bytes"], big["uploaded_bytes"], big["parts"]) == (3 * CHUNK, 3 * CHUNK, 3)
    assert big["parts_in_flight"] == 0
    assert (by_key["small"]["size_bytes"], by_key["small"]["uploaded_bytes"]) == (5, 0)
    assert by_key["small"]["held_bytes"] >= 5
    await file.close()
    await small.close()
    assert document(fs)["files"]["writing"] == []


async def test_what_memory_spares(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    for number in range(20):
        store.add(f"d/f{number}", b"x" * 10)
    store.add("large", bytes(3 * MIB))
    for name in await fs.listdir("d"):
        await fs.stat(f"d/{name}")
    attributes = document(fs)["cache"]["attributes"]
    assert attributes["hits"] + attributes["misses"] >= 20
    assert attributes["misses"] <= store.calls["head"]
    file = await fs.open("large")
    for at in range(0, 3 * MIB, 128 << 10):
        await file.pread(128 << 10, at)
    await file.close()
    reads = document(fs)["cache"]["memory"]
    assert reads["hits"] + reads["misses"] == 24
    assert reads["misses"] >= 1 and reads["hits"] > reads["misses"]


def paths(value: Any, above: str = "") -> set[str]:
    """The keys of a document as the page names them."""
    if isinstance(value, list):
        return set().union(*(paths(one, above) for one in value))
    if not isinstance(value, dict) or above == "counters":
        return set()
    found = set()
    for name, inner in value.items():
        name = {"requests": "OPERATION", "errors": "CLASS"}.get(above, name)
        path = f"{above}.{name}" if above else name
        # A group is named by what is in it, unless it may be null or has a name for what varies.
        if not isinstance(inner, dict) or path in MAY_BE_NULL or name in ("OPERATION", "counters"):
            found.add(path)
        found |= paths(inner, path)
    return found


MAY_BE_NULL = {"last_error", "cache.disk", "writeback"}


async def test_the_page_describes_each_key(
    fs: Posix, store: MemoryStore, autojump_clock: object, tmp_path: Path
) -> None:
    metrics = fs.tree.ctx.metrics
    metrics.count("requests.PutObject")
    metrics.count("errors.ServerFault")
    metrics.observe("PutObject", 0.1, True)
    metrics.failed(ServerFault(key="k"))
    file = await fs.open("f", NEW)
    await file.write(b"x")
    fs.tree.ctx.writeback = MemoryLog()
    fs.tree.ctx.failing[fs.tree.look.file(file.ino)] = "why"
    shown = document(fs, f"cache_dir={tmp_path}", "writeback")
    fs.tree.ctx.writeback = None
    fs.tree.ctx.failing.clear()
    await file.close()
    rows = re.findall(
        r"^\| `([a-zA-Z0-9_.]+)` \|", PAGE.read_text().partition("## For Prometheus")[0], re.MULTILINE
    )
    assert len(rows) == len(set(rows))
    assert set(rows) == paths(shown)
    assert shown["schema"] == status.SCHEMA
