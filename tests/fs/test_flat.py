"""Walking a tree: one listing serves many directories, and never overrides what this mount did."""

from __future__ import annotations

import trio

from ossfs.errors import ServerFault
from ossfs.store.base import ObjectHeaders
from tests.support.memory_store import Fault, MemoryStore
from tests.support.posix import Posix, mounted


async def walk(fs: Posix, path: str = "") -> dict[str, list[str]]:
    """find(1): stat and list every directory, in the order of the listings."""
    found: dict[str, list[str]] = {}
    todo = [path]
    while todo:
        here = todo.pop()
        await fs.stat(here)
        names = await fs.listdir(here)
        found[here] = sorted(names)
        below = []
        for name in names:
            shown = await fs.tree.lookup(await fs.walk(here), name.encode())
            if shown.mode & 0o170000 == 0o040000:
                below.append(f"{here}/{name}".lstrip("/"))
        todo += reversed(below)
    return found


def fill(store: MemoryStore, *, markers: bool = False) -> dict[str, list[str]]:
    want: dict[str, list[str]] = {"t": [f"a{i}" for i in range(10)]}
    for a in range(10):
        want[f"t/a{a}"] = [f"b{i}" for i in range(10)]
        for b in range(10):
            want[f"t/a{a}/b{b}"] = [f"f{i:02}" for i in range(20)]
            for f in range(20):
                store.add(f"t/a{a}/b{b}/f{f:02}", b"x" * 5000)
            if markers:
                store.add(f"t/a{a}/b{b}/", b"", ObjectHeaders(meta={"mode": "16832"}), last_modified=5)
    return want


async def test_a_walk_costs_few_requests(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    want = fill(store)
    store.reset_counts()
    assert await walk(fs, "t") == want
    assert sum(store.calls.values()) <= 20


async def test_a_walk_of_directories_with_markers(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    want = fill(store, markers=True)
    store.reset_counts()
    assert await walk(fs, "t") == want
    assert sum(store.calls.values()) <= 1.2 * len(want)
    assert (await fs.stat("t/a7/b7")).mode & 0o777 == 0o700


async def test_what_this_mount_does_during_a_walk_counts(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    fill(store)
    await fs.listdir("t")
    for name in ("a0", "a1"):
        await fs.listdir(f"t/{name}")
    await trio.sleep(0.1)
    await fs.unlink("t/a5/b5/f00")
    await fs.write_file("t/a5/b5/new", b"x")
    await fs.rename("t/a6/b6/f01", "t/a6/b6/moved")
    await fs.mkdir("t/a7/made")
    await fs.forget_all()
    assert "f00" not in await fs.listdir("t/a5/b5") and "new" in await fs.listdir("t/a5/b5")
    assert "moved" in await fs.listdir("t/a6/b6") and "f01" not in await fs.listdir("t/a6/b6")
    assert "made" in await fs.listdir("t/a7")
    assert await fs.listdir("t/a7/made") == []


async def test_a_walk_sees_others_within_ttl(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    fill(store)
    await walk(fs, "t")
    store.add("t/a9/b9/theirs", b"x")
    await trio.sleep(5.1)
    assert "theirs" in await fs.listdir("t/a9/b9")


async def test_a_walk_that_fails_falls_back(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    want = fill(store)
    store.faults.append(Fault(op="list", error=ServerFault, skip=5, count=1))
    store.faults.append(Fault(op="list", error=ServerFault, skip=7, count=1))
    try:
        await walk(fs, "t")
    except ServerFault:
        pass
    await trio.sleep(10)
    assert await walk(fs, "t") == want


async def test_a_large_tree_is_not_read_ahead_of_a_walker_who_left(
    store: MemoryStore, autojump_clock: object
) -> None:
    for i in range(40):
        for j in range(1000):
            store.add(f"t/d{i:02}/f{j:04}", b"x")
    async with mounted(store) as fs:
        await fs.listdir("t")
        await fs.listdir("t/d00")
        await fs.listdir("t/d01")
        await trio.sleep(10)
        assert store.calls["list"] < 20


async def test_odd_keys_in_a_walk(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    for key in ("t/a/x", "t/b/y", "t/b//z", "t/b/./w", "t/c", "t/c/v", "t/b/d/", "t/b/é", "t/b/" + "n" * 300):
        store.add(key, b"x" * 5000)
    assert await walk(fs, "t") == {
        "t": ["a", "b", "c"],
        "t/a": ["x"],
        "t/b": ["d", "y", "é"],
        "t/b/d": [],
        "t/c": ["v"],
    }
