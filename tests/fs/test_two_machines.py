"""Two machines change one bucket at the same moment: each has a tree of its own over one store."""

from __future__ import annotations

import errno
import random
import stat
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio

from ossfs.errors import AccessDenied, OssfsError, errno_of
from ossfs.fs import directories, resolve
from tests.support.memory_store import Fault, MemoryStore
from tests.support.posix import Posix, mounted

pytestmark = pytest.mark.timeout(60)


def errno_is(*codes: int):  # type: ignore[no-untyped-def]
    return pytest.raises(OssfsError, check=lambda e: e.errno in codes)


@pytest.fixture
async def other(store: MemoryStore) -> AsyncIterator[Posix]:
    """The second machine."""
    async with mounted(store) as posix:
        yield posix


async def trying(work, results: list[int]) -> None:  # type: ignore[no-untyped-def]
    """Do it; 0 or the errno joins the results."""
    try:
        await work()
    except OssfsError as error:
        results.append(errno_of(error))
    else:
        results.append(0)


def unsteady(store: MemoryStore, seed: int) -> random.Random:
    """Requests take their time before and after their work, each another."""
    rng = random.Random(seed)

    async def wait(op: str, key: str) -> None:
        await trio.sleep(rng.choice([0, 0.01, 0.1, 0.5]))

    store.before = store.after = wait
    return rng


async def both(one: Callable[[], Awaitable[None]], two: Callable[[], Awaitable[None]]) -> list[int]:
    results: list[int] = []
    with trio.fail_after(600):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trying, one, results)
            nursery.start_soon(trying, two, results)
    return results


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("target", ["e", "f"])
async def test_both_rename_one_directory(
    seed: int, target: str, fs: Posix, other: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """To one new name or to two: every file is under one of them, whoever was first."""
    if seed % 2:
        store.add("d/")
    if seed % 4 > 1:
        store.add("e/")
    files = {f"{number}": b"%d" % number for number in range(4)}
    for name, data in files.items():
        store.add(f"d/{name}", data)
    await fs.listdir("d")
    await other.listdir("d")
    rng = unsteady(store, seed)

    async def second() -> None:
        await trio.sleep(rng.random() * 2)
        await other.rename("d", target)

    results = await both(lambda: fs.rename("d", "e"), second)
    assert set(results) <= {0, errno.ENOENT, errno.ENOTEMPTY, errno.ESTALE, errno.EEXIST}
    assert {key[2:]: store.data(key) for key in store.objects if key[2:]} == files
    if 0 not in results:
        assert {key for key in store.objects if key[2:]} == {f"d/{name}" for name in files}


@pytest.mark.parametrize("seed", range(40))
async def test_both_rename_one_empty_directory(
    seed: int, fs: Posix, other: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    await fs.mkdir("d")
    if seed % 2:
        store.add("e/")
    await other.listdir("d")
    rng = unsteady(store, seed)

    async def second() -> None:
        await trio.sleep(rng.random())
        await other.rename("d", "e")

    results = await both(lambda: fs.rename("d", "e"), second)
    assert 0 in results and list(store.objects) == ["e/"]


async def test_a_foreign_chmod_in_the_second_of_our_write_is_seen_within_the_ttl(
    autojump_clock: object,
) -> None:
    """Neither ETag nor LastModified tells of it: a HEAD that was sent ahead does."""
    store = MemoryStore(clock=lambda: 1_700_000_000 + trio.current_time())
    async with mounted(store, ttl=2.0) as fs, mounted(store, ttl=2.0) as other:
        for name in "abcdef":
            await fs.write_file(name, name.encode())
        for name in "abcdef":
            await other.chmod(name, 0o600)
        assert len({item.last_modified for item in store.objects.values()}) == 1
        await trio.sleep(3)
        await fs.listdir()
        assert [stat.S_IMODE((await fs.stat(name)).mode) for name in "abcdef"] == [0o600] * 6


async def test_a_directory_whose_marker_another_machine_removed_has_no_attributes_left(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    await fs.mkdir("d", 0o700)
    assert stat.S_IMODE((await fs.stat("d")).mode) == 0o700
    store.remove("d/")
    store.add("d/x", b"x")
    await trio.sleep(6)
    assert await fs.listdir("d") == ["x"]
    assert stat.S_IMODE((await fs.stat("d")).mode) == 0o755


@pytest.mark.parametrize("op", ["list", "copy", "delete_many"])
@pytest.mark.parametrize("skip", range(4))
async def test_a_directory_rename_that_fails_anywhere_loses_nothing(
    op: str, skip: int, fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """Copies that are in flight when one fails are removed, too."""
    await fs.mkdir("d")
    files = {f"{n}": b"%d" % n for n in range(6)}
    for name, data in files.items():
        await fs.write_file(f"d/{name}", data)
    unsteady(store, skip)
    fault = Fault(op=op, error=AccessDenied, skip=skip, count=-1)
    store.faults.append(fault)
    try:
        await fs.rename("d", "e")
    except OssfsError as error:
        assert fault.hits and errno_of(error) == errno.EACCES
        store.faults.clear()
        if op != "delete_many":  # some may be deleted, and their copies stay
            assert {key: item.data for key, item in store.objects.items() if key[-1] != "/"} == {
                f"d/{name}": data for name, data in files.items()
            }
            assert sorted(await fs.listdir("d")) == sorted(files)
    else:
        assert not fault.hits
    held = {key[2:]: item.data for key, item in store.objects.items() if key[2:]}
    assert held == files


async def test_entries_of_a_long_listing_are_as_old_as_their_page(
    fs: Posix, store: MemoryStore, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directories, "LIST_PAGE", 3)
    monkeypatch.setattr(resolve, "LIST_PAGE", 3)
    for number in range(12):
        store.add(f"f{number:02}", b"x" * 5000)
    store.latency = 2.0
    began = trio.current_time()
    await fs.listdir()
    cache = fs.tree.ctx.inodes.root.cache
    ages = [round(cache.entries[f"f{number:02}"].at - began) for number in range(12)]
    assert ages == [0, 0, 0, 2, 2, 2, 4, 4, 4, 6, 6, 6]
    assert cache.complete_at == began
    store.reset_counts()
    assert (await fs.stat("f11")).size == 5000
    assert store.calls["list"] == 0
