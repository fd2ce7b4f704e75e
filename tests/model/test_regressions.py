"""What the model test has found, each as the shortest program that shows it."""

from __future__ import annotations

import os

import pytest
import trio

from ossfs.errors import ConnectionLost, ServerFault, StoreError
from ossfs.fs.tree import SetAttr
from ossfs.store.base import ObjectHeaders
from tests.model.concurrent import run_concurrently
from tests.model.programs import Op, Program, Setting
from tests.model.reference import pattern
from tests.model.runner import run_program
from tests.support.memory_store import Fault, MemoryStore
from tests.support.posix import mounted

R, W, RW = os.O_RDONLY, os.O_WRONLY, os.O_RDWR
C, X, T, A = os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND
pytestmark = pytest.mark.timeout(60)


def run(*ops: Op, seed: int = 1, **setting: object) -> None:
    run_program(Program(seed, Setting(**setting), ops))  # type: ignore[arg-type]


def test_a_landing_part_makes_room_for_a_writer_that_waits() -> None:
    """Memory was asked for while parts were in flight; when they had landed, nobody was asked again."""
    run(
        Op("open", (5, "c", RW | C | A, 0o644)),
        Op("write", (5, 768, 480, 4)),
        Op("write", (5, 343, 128, 6)),
        Op("write", (5, 249, 1, 8)),
        Op("write", (5, 189, 256, 9)),
        Op("write", (5, 0, 211, 11)),
        Op("write", (5, 146, 239, 12)),
        Op("write", (5, 0, 654, 13)),
        seed=98,
        min_part=128,
        memory=2048,
        latency=0.02,
        staging=True,
    )


@pytest.mark.parametrize("closer", [0, 1])
def test_a_removed_file_is_read_after_its_last_writer_has_closed(closer: int) -> None:
    """The last writable descriptor took the bytes along that only a reader's were left for."""
    run(
        Op("open", (0, "d", W | C, 0o644)),
        Op("open", (1, "d", R, 0)),
        Op("write", (0, 0, 1000, 5)),
        Op("unlink", ("d",)),
        Op("write", (0, 24, 300, 6)),
        Op("close", (closer,)),
        Op("check"),
        Op("close", (1 - closer,)),
        Op("check"),
    )


FOREIGN = (("a", 1283), ("c/a", 10), ("c/b/a", 512), ("d", 0))


def test_a_directory_without_marker_replaces_one_that_has_a_marker() -> None:
    """The marker of the replaced directory stayed, and with it that one's mode and owner."""
    run(
        Op("mkdir", ("b", 0o700)),
        Op("setxattr", ("b", "user.a", 10, 1)),
        Op("rename", ("c", "b", False)),
        Op("check"),
        foreign=FOREIGN,
    )


def test_a_directory_takes_the_name_of_a_file_that_was_just_removed() -> None:
    """The file's delete was still to be sent; when it had been, the directory's entry went with it."""
    run(Op("unlink", ("d",)), Op("rename", ("c/b", "d", False)), Op("check"), foreign=FOREIGN)


@pytest.mark.parametrize("then", [(), (Op("close", (0,)),), (Op("unlink", ("d",)), Op("close", (0,)))])
def test_the_old_object_does_not_outlive_a_checkpoint_that_is_the_last_commit(then: tuple[Op, ...]) -> None:
    """A read of sent bytes completes the upload.  With nothing written after it, close(2) had nothing to
    commit and left the old object, which the next mount would have put back over the new one."""
    run(
        Op("open", (0, "d", W | T | A, 0o600)),
        Op("write", (0, 0, 7404, 13)),
        Op("write", (0, 0, 4097, 14)),
        Op("write", (0, 0, 5008, 15)),
        Op("check"),
        *then,
        chunk=4096,
        min_part=2048,
        foreign=FOREIGN,
    )


@pytest.mark.parametrize("staged_first", [False, True])
def test_what_is_left_of_an_overwritten_part_makes_room_for_a_writer_that_waits(staged_first: bool) -> None:
    """Parts that have to go up again were held in memory until the commit: with many of them, forever."""
    run(
        Op("mkdir", ("c", 0o755)),
        Op("open", (1, "c/d", RW | C, 0o644)),
        Op("write", (1, 0, 1024, 37)),
        Op("write", (1, 1024, 4069, 38)),
        Op("write", (1, 0, 16, 39)),
        Op("open", (2, "c/b", W | C, 0o644)),
        Op("write", (1, 2856, 13, 43)),
        Op("write", (2, 5093, 3511, 44)),
        *([Op("write", (1, 1500, 100, 38)), Op("write", (1, 4000, 4000, 39))] if staged_first else []),
        Op("check"),
        seed=102284,
        chunk=1024,
        memory=8192,
        min_part=256,
        staging=True,
    )


def test_a_file_made_with_o_rdonly_is_in_the_bucket_when_it_is_closed() -> None:
    """As flock(1) makes its lock files.  Nobody committed it before the end of the mount."""
    run(Op("open", (0, "a", R | C, 0o644)), Op("close", (0,)), Op("check"))


@pytest.mark.parametrize("skip", range(4))
async def test_the_directory_in_the_way_is_still_there_after_a_rename_that_failed(
    autojump_clock: object, skip: int
) -> None:
    """Its marker had been replaced by a copy, and the copies were removed."""
    store = MemoryStore()
    with trio.fail_after(100):
        async with mounted(store) as fs:
            await fs.mkdir("a")
            await fs.mkdir("b")
            store.faults.append(Fault("list", key="a/", error=ServerFault, skip=skip))
            try:
                await fs.rename("a", "b")
            except StoreError:
                assert sorted(await fs.listdir()) == ["a", "b"]
            else:
                assert await fs.listdir() == ["b"]


def test_a_directory_s_new_mode_outlives_what_a_walk_of_the_tree_had_seen() -> None:
    """All markers look alike in a listing; the attributes were remembered from before."""
    run(
        Op("mkdir", ("b", 0o755)),
        Op("remount"),
        Op("sleep", (75.0,)),
        Op("check"),
        Op("chmod", ("b", 0o600)),
        Op("forget"),
        Op("stat", ("b",)),
        foreign=FOREIGN,
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_walk_of_the_tree_does_not_hide_what_was_moved_after_it(seed: int) -> None:
    """What a walk had listed below the new name was shown instead of what was moved there."""
    run(
        Op("mkdir", ("b", 0o755)),
        Op("mkdir", ("b/d", 0o755)),
        Op("mkdir", ("b/e", 0o755)),
        Op("remount"),
        Op("check"),
        Op("rename", ("c/b", "b/d", False)),
        Op("check"),
        seed=seed,
        latency=0.01,
        foreign=FOREIGN,
    )


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("again", [0, 300])
async def test_a_commit_whose_answer_was_lost_is_not_appended_to_itself(
    autojump_clock: object, parts: int, again: int
) -> None:
    """The repeat met the first one's object, took it for somebody else's, and put the bytes after it."""
    store = MemoryStore(min_part_size=64)
    first = pattern(parts * 256 - 100, 1)
    with trio.fail_after(100):
        async with mounted(store, chunk_size=256, min_part=64) as fs:
            for flags in (W | C | T | A, W | A):
                before = store.data("f") if "f" in store.objects else b""
                file = await fs.open("f", flags)
                await file.write(first)
                store.faults = [Fault("put", lose=True), Fault("complete", lose=True)]
                with pytest.raises(ConnectionLost):
                    await file.fsync()
                store.faults = []
                await file.fsync()
                await file.write(pattern(again, 2))
                await file.close()
                assert store.data("f") == before + first + pattern(again, 2)
                assert await fs.read_file("f") == before + first + pattern(again, 2)


async def test_what_is_written_after_a_commit_whose_answer_was_lost_is_kept(autojump_clock: object) -> None:
    """The lost commit is the base then; parts that it took are in it."""
    store = MemoryStore(min_part_size=64)
    with trio.fail_after(100):
        async with mounted(store, chunk_size=256, min_part=64) as fs:
            file = await fs.open("f", RW | C)
            await file.write(pattern(1000, 1))
            other = await fs.open("f", RW)
            store.faults = [Fault("complete", lose=True)]
            with pytest.raises(ConnectionLost):
                await file.fsync()
            store.faults = []
            for handle in (file, other):
                fs.tree._handles[handle.fh].error = None  # as if nobody had to hear of it
            await file.pwrite(pattern(300, 2), 500)
            await file.close()
            await other.close()
            expected = bytearray(pattern(1000, 1))
            expected[500:800] = pattern(300, 2)
            assert store.data("f") == expected and not store.uploads


def test_an_open_meets_the_end_of_another_s_writer() -> None:
    """It looked at the writer again after having waited for it."""
    for seed in (2, 29, 33):
        run_concurrently(seed, 60)


@pytest.mark.parametrize("what", ["directory", "file"])
@pytest.mark.parametrize("dirty", [False, True])
async def test_an_open_file_is_read_while_it_is_renamed(
    autojump_clock: object, what: str, dirty: bool
) -> None:
    """Between the delete of the old key and the end of the rename, the bytes seemed to be gone."""
    store = MemoryStore(min_part_size=64)
    data = pattern(2000, 1)
    store.add("d/f", data)
    reading = 0
    with trio.fail_after(100):
        async with mounted(store, chunk_size=256, min_part=64) as fs:
            file = await fs.open("d/f", RW)

            async def read() -> None:
                nonlocal reading
                while not done:
                    assert await file.pread(2000, 0) == data
                    reading += 1
                    await trio.sleep(0.01)

            done = False

            async def slowly(op: str, key: str) -> None:
                await trio.sleep(0.3 if "delete" in op or "copy" in op else 0)

            store.before = store.after = slowly
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                for names in (
                    (("d", "e"), ("e", "d")) if what == "directory" else (("d/f", "g"), ("g", "d/f"))
                ):
                    if dirty:
                        await file.pwrite(data[100:110], 100)
                    await fs.rename(*names)
                done = True
            await file.close()
            assert store.data("d/f") == data and reading > 5


def test_a_file_that_is_cut_back_to_what_it_was_leaves_no_upload() -> None:
    """With the old object as it was, there was nothing to commit, and nobody gave the upload up."""
    run(
        Op("open", (0, "a", RW | A, 0o644)),
        Op("write", (0, 0, 300, 13)),
        Op("sleep", (1.1,)),
        Op("ftruncate", (0, 1283)),
        Op("close", (0,)),
        Op("check"),
        Op("remount"),
        foreign=FOREIGN,
    )


async def test_a_symlink_is_read_while_its_times_are_stored(autojump_clock: object) -> None:
    """Setting them gives the object another ETag."""
    store = MemoryStore(copy_changes_etag=True)
    with trio.fail_after(100):
        async with mounted(store) as fs:
            await fs.symlink("target", "link")
            await trio.sleep(70)
            await fs.forget_all()
            await fs.setattr("link", SetAttr(mtime_ns=10**18))

            async def slowly(op: str, key: str) -> None:
                if op == "get":
                    await trio.sleep(5)

            store.before = slowly
            assert await fs.readlink("link") == "target"


async def test_a_file_is_there_while_another_takes_its_name(autojump_clock: object) -> None:
    """Between the copy and the end of the rename, a lookup made a second inode of the name."""
    store = MemoryStore()
    versions = [pattern(1000, i) for i in range(1, 5)]
    with trio.fail_after(1000):
        async with mounted(store, delete_sync=True, ttl=0.1) as fs:
            await fs.write_file("public", versions[0])
            seen = set()
            done = False

            async def read() -> None:
                while not done:
                    file = await fs.open("public")
                    data = await file.pread(500, 0)
                    await trio.sleep(0.01)
                    seen.add(data + await file.pread(500, 500))
                    await file.close()
                    await trio.sleep(0.01)

            async def slowly(op: str, key: str) -> None:
                await trio.sleep(0.1 if op in ("copy", "delete") else 0)

            store.before = store.after = slowly
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(read)
                for version in versions[1:]:
                    await fs.write_file("new", version)
                    await fs.rename("new", "public")
                done = True
            assert seen == set(versions)
            assert await fs.listdir() == ["public"]
        assert store.keys() == ["public"]


@pytest.mark.parametrize("op", ["copy", "delete"])
async def test_a_rename_that_fails_leaves_both_files_to_be_read(autojump_clock: object, op: str) -> None:
    store = MemoryStore()
    with trio.fail_after(100):
        async with mounted(store, delete_sync=True) as fs:
            await fs.write_file("a", b"of a")
            await fs.write_file("b", b"of b")
            store.faults.append(Fault(op, error=ServerFault))
            with pytest.raises(ServerFault):
                await fs.rename("a", "b")
            assert await fs.read_file("a") == b"of a"
            assert await fs.read_file("b") == (b"of b" if op == "copy" else b"of a")
            await fs.rename("a", "b")
            assert await fs.listdir() == ["b"] and await fs.read_file("b") == b"of a"


async def test_times_that_waited_do_not_bring_the_old_attributes_to_another_s_file(
    autojump_clock: object,
) -> None:
    """With the times, the mode and the type of the old file were put over what had replaced it."""
    store = MemoryStore()
    with trio.fail_after(1000):
        async with mounted(store) as fs:
            for name in ("file", "link"):
                if name == "file":
                    await fs.write_file(name, b"ours")
                    await fs.chmod(name, 0o600)
                else:
                    await fs.symlink("target", name)
                await fs.setattr(name, SetAttr(mtime_ns=10**18))
                store.add(name, b"another's", ObjectHeaders(meta={"mode": str(0o100640), "uid": "7"}))
            await trio.sleep(100)
            for name in ("file", "link"):
                found = await fs.stat(name)
                assert (oct(found.mode), found.uid) == (oct(0o100640), 7)
                assert await fs.read_file(name) == b"another's"
            assert (await fs.stat("file")).mtime_ns == 10**18
            assert await fs.listdir() == ["file", "link"]


def test_a_directory_s_first_marker_outlives_what_a_walk_of_the_tree_had_seen() -> None:
    """The walk had seen that there was no marker."""
    run(
        Op("mkdir", ("b", 0o700)),
        Op("remount"),
        Op("check"),
        Op("chown", ("c", 0, 1)),
        Op("forget"),
        Op("check"),
        seed=5003733,
        foreign=FOREIGN,
    )


def test_parts_that_land_while_another_is_staged_make_room_too() -> None:
    """Making room ended when one part of a block had gone to disk, since the block was still held."""
    run(
        Op("open", (2, "b", RW | C | T, 0o644)),
        Op("write", (2, 53, 65, 22)),
        Op("write", (2, 54, 218, 24)),
        Op("write", (2, 272, 247, 25)),
        seed=5004546,
        chunk=64,
        memory=512,
        staging=True,
    )


def test_a_directory_is_listed_while_its_only_file_is_not_closed_yet() -> None:
    run(
        Op("unlink", ("c/c",)),
        Op("check"),
        Op("remount"),
        Op("open", (1, "c/b/d", W | C, 0o644)),
        Op("utimes", ("c/a", 672988262 * 10**9)),
        Op("open", (0, "a", W | C, 0o644)),
        Op("open", (3, "a", RW | C | T, 0o644)),
        Op("symlink", ("a", "b")),
        Op("rename", ("c/a", "a", False)),
        Op("rename", ("c/b", "b", False)),
        Op("unlink", ("a",)),
        Op("check"),
        Op("unlink", ("c/b/a",)),
        Op("write", (1, 201, 256, 6)),
        Op("sleep", (0.3,)),
        Op("write", (3, 1600, 257, 15)),
        Op("close", (3,)),
        Op("check"),
        seed=12000734,
        ttl=0.5,
        foreign=FOREIGN,
        faults=0.2,
        call_timeout=600.0,
    )


def test_a_directory_is_kept_for_the_sake_of_a_file_that_only_this_mount_has() -> None:
    """A name that the bucket does not have yet is no entry that keeps its directory there."""
    run(
        Op("setxattr", ("c/b/a", "user.b", 13, 1)),
        Op("open", (3, "c/b/d", W | C, 0o666)),
        Op("truncate", ("a", 0)),
        Op("truncate", ("c/b/a", 0)),
        Op("rename", ("c/b", "d", True)),
        Op("check"),
        Op("check"),
        Op("rename", ("c/b/a", "c/a", False)),
        Op("unlink", ("c/b/d",)),
        Op("chmod", ("c/b", 0o644)),
        seed=32002397,
        min_part=256,
        ttl=0.5,
        latency=0.02,
        foreign=FOREIGN,
        faults=0.2,
        call_timeout=600.0,
    )
