"""Hidden keys: orphans and objects of zeros, written to the journal before they are made."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from ossfs.errors import AccessDenied, PreconditionFailed, ServerFault
from ossfs.fs import hidden as module
from ossfs.fs.context import run_all
from ossfs.fs.hidden import HiddenKeys, is_hidden
from ossfs.limits import KIB
from tests.support.journals import NotedJournal
from tests.support.memory_store import Fault, MemoryStore
from tests.support.posix import Posix, mounted

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def journal() -> NotedJournal:
    return NotedJournal()


@pytest.fixture
async def fs(
    store: MemoryStore, journal: NotedJournal, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Posix]:
    """Small objects of zeros."""
    monkeypatch.setattr(module, "MIB", 256 * KIB)
    monkeypatch.setattr(module, "ZERO_BLOCK", 512 * KIB)
    monkeypatch.setattr(module, "BIG_ZERO", 4096 * KIB)
    monkeypatch.setattr(module, "HUGE_ZERO", 5 * 4096 * KIB)
    async with mounted(store, journal=journal, prefix="p/", mount_id="beef") as posix:
        yield posix


@pytest.fixture
def hidden(fs: Posix) -> HiddenKeys:
    return fs.tree.hidden


def test_the_real_sizes() -> None:
    """A part can be as long as the service lets it, and each object is made of whole ones."""
    assert module.BIG_ZERO % module.ZERO_BLOCK == 0 and module.HUGE_ZERO % module.BIG_ZERO == 0
    assert module.HUGE_ZERO == 5 << 30 and module.ZERO_BLOCK % module.MIB == 0


async def test_keys(hidden: HiddenKeys, journal: NotedJournal, autojump_clock: object) -> None:
    first, second = hidden.fresh("orphan"), hidden.fresh("orphan")
    assert first != second and first.startswith("p/.ossfs-beef/orphan-")
    assert is_hidden(first.split("/")[1])
    assert journal.hidden == {first, second}, "noted before it is made"
    await hidden.delete(first)
    assert journal.hidden == {second}
    await hidden.delete(second)


async def test_a_delete_that_fails_stays_in_the_journal(
    hidden: HiddenKeys, store: MemoryStore, journal: NotedJournal, autojump_clock: object
) -> None:
    key = hidden.fresh("orphan")
    store.faults.append(Fault("delete", error=AccessDenied))
    with pytest.raises(AccessDenied):
        await hidden.delete(key)
    assert journal.hidden == {key}


@pytest.mark.parametrize(
    ("length", "size", "calls"),
    [
        (1, 512, {"put": 1}),
        (4 * 512 * KIB, 512, {"put": 1}),
        (4 * 512 * KIB + 1, 4096, {"put": 1, "initiate": 1, "copy_part": 8, "complete": 1}),
        (4096 * KIB, 4096, {"put": 1, "initiate": 1, "copy_part": 8, "complete": 1}),
        (4096 * KIB + 1, 5 * 4096, {"put": 1, "initiate": 2, "copy_part": 13, "complete": 2}),
        (10**12, 5 * 4096, {"put": 1, "initiate": 2, "copy_part": 13, "complete": 2}),
    ],
)
async def test_zeros_are_made_once_and_by_copies(
    hidden: HiddenKeys,
    store: MemoryStore,
    journal: NotedJournal,
    length: int,
    size: int,
    calls: dict[str, int],
    autojump_clock: object,
) -> None:
    """However long the hole, half a megabyte goes up."""
    with trio.fail_after(5):
        key, etag, made = await hidden.zeros(length)
    assert made == size * KIB
    assert store.objects[key].etag == etag and store.objects[key].size == made
    assert not any(store.data(key))
    assert store.calls == calls and store.bytes_in == 512 * KIB
    assert await hidden.zeros(length) == (key, etag, made)
    assert store.calls == calls
    assert journal.hidden == set(store.keys()) and not journal.uploads


async def test_many_ask_at_once(hidden: HiddenKeys, store: MemoryStore, autojump_clock: object) -> None:
    store.latency = 1.0
    got: list[object] = []

    async def ask(length: int) -> None:
        got.append(await hidden.zeros(length))

    with trio.fail_after(60):
        await run_all(20, [lambda n=n: ask(n) for n in [1, 4096 * KIB] * 10])  # type: ignore[misc]
    assert len(set(got)) == 2 and store.calls["put"] == 1 and store.calls["initiate"] == 1


async def test_zeros_that_cannot_be_put_are_tried_again(
    hidden: HiddenKeys, store: MemoryStore, journal: NotedJournal, autojump_clock: object
) -> None:
    store.faults.append(Fault("put", lose=True))
    with pytest.raises(Exception, match="scripted"):
        await hidden.zeros(1)
    first = set(journal.hidden)
    assert len(first) == 1, "it may have been made: the journal knows it"
    key, _, _ = await hidden.zeros(1)
    assert key not in first


@pytest.mark.parametrize("op", ["copy_part", "complete"])
async def test_a_failed_multiplication_is_aborted(
    hidden: HiddenKeys, store: MemoryStore, journal: NotedJournal, op: str, autojump_clock: object
) -> None:
    store.faults.append(Fault(op, error=AccessDenied))
    with pytest.raises(AccessDenied):
        await hidden.zeros(4096 * KIB)
    assert not store.uploads and not journal.uploads
    assert (await hidden.zeros(4096 * KIB))[2] == 4096 * KIB


async def test_an_abort_that_fails_stays_in_the_journal(
    hidden: HiddenKeys, store: MemoryStore, journal: NotedJournal, autojump_clock: object
) -> None:
    """And what is told is why it was to be aborted."""
    store.faults += [Fault("copy_part", error=PreconditionFailed), Fault("abort", error=ServerFault)]
    with pytest.raises(PreconditionFailed):
        await hidden.zeros(4096 * KIB)
    ((_, upload_id),) = journal.uploads
    assert set(store.uploads) == {upload_id}


async def test_sweep(
    hidden: HiddenKeys, store: MemoryStore, journal: NotedJournal, autojump_clock: object
) -> None:
    await hidden.sweep()
    await hidden.zeros(10**9)
    assert len(store.keys()) == 3
    await hidden.sweep()
    assert not store.keys() and not journal.hidden
    await hidden.zeros(1)
    assert len(store.keys()) == 1, "made anew"


async def test_a_sweep_that_fails_goes_on_where_it_stopped(
    hidden: HiddenKeys, store: MemoryStore, journal: NotedJournal, autojump_clock: object
) -> None:
    await hidden.zeros(10**9)
    store.faults.append(Fault("delete", error=ServerFault, skip=1))
    with pytest.raises(ServerFault):
        await hidden.sweep()
    assert journal.hidden == set(store.keys()) and len(store.keys()) == 2
    await hidden.sweep()
    assert not store.keys() and not journal.hidden


async def test_zeros_that_somebody_removed(
    hidden: HiddenKeys, store: MemoryStore, autojump_clock: object
) -> None:
    key, _, _ = await hidden.zeros(1)
    store.remove(key)
    await hidden.lost("some other key")
    assert (await hidden.zeros(1))[0] == key
    await hidden.lost(key)
    store.faults.append(Fault("delete", error=AccessDenied))
    again = (await hidden.zeros(1))[0]
    assert again != key and store.keys() == [again]
    await hidden.lost(again)
    assert (await hidden.zeros(1))[0] not in (key, again)


async def test_the_end_of_a_mount_leaves_nothing(store: MemoryStore, autojump_clock: object) -> None:
    journal = NotedJournal()
    async with mounted(store, journal=journal) as fs:
        await fs.tree.hidden.zeros(1)
        assert store.keys()
    assert not store.keys() and not journal.hidden
