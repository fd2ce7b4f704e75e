"""The tree: names, listings, attributes, renames, and other machines beside us."""

from __future__ import annotations

import errno
import os
import stat

import pytest
import trio
import trio.testing

from ossfs.errors import AccessDenied, OssfsError, ServerFault
from ossfs.fs import directories
from ossfs.fs.attrs import DIRECTORY_TYPE
from ossfs.fs.ports import Caller
from ossfs.fs.tree import SetAttr
from ossfs.store.base import ObjectHeaders
from tests.support.memory_store import Fault, MemoryStore
from tests.support.posix import Posix, mounted

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def errno_is(code: int):  # type: ignore[no-untyped-def]
    return pytest.raises(OssfsError, check=lambda e: e.errno == code)


async def test_a_file_is_no_directory_because_a_longer_name_exists(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("foo-bar", b"x")
    with errno_is(errno.ENOENT):
        await fs.stat("foo")
    store.add("foo/x", b"x")
    await trio.sleep(6)
    assert stat.S_ISDIR((await fs.stat("foo")).mode)


async def test_a_directory_hides_a_file_of_the_same_name(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("a", b"file")
    store.add("a/x", b"x")
    store.add("a-b", b"x")
    assert sorted(await fs.listdir()) == ["a", "a-b"]
    assert stat.S_ISDIR((await fs.stat("a")).mode)


async def test_listings_follow_markers(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    names = [f"f{i:05}" for i in range(3456)]
    for name in names:
        store.add(f"d/{name}", b"x")
    store.reset_counts()
    assert await fs.listdir("d") == names
    assert store.calls["list"] <= 6
    assert await fs.listdir("d", room=7) == names


async def test_keys_that_are_no_paths_are_hidden(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    for key in ("a//b", "/lead", "d/./x", "d/../x", "d/" + "n" * 256, "ok", ".ossfs-abcd1234/orphan-1"):
        store.add(key, b"x")
    assert sorted(await fs.listdir()) == ["a", "d", "ok"]
    assert await fs.listdir("a") == [] and await fs.listdir("d") == []
    with errno_is(errno.ENOENT):
        await fs.stat(".ossfs-abcd1234")
    with errno_is(errno.EPERM):
        await fs.mkdir(".ossfs-abcd1234")


async def test_removing_while_listing_misses_nothing(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """scandir + unlink: the offsets of a snapshot keep their meaning."""
    for i in range(2500):
        store.add(f"d/f{i:05}", b"x")
    fh = await fs.tree.opendir(await fs.walk("d"))
    seen: list[str] = []
    offset = 0
    while True:
        batch: list[tuple[str, int]] = []

        def emit(name: bytes, _: object, following: int, batch: list = batch) -> bool:  # type: ignore[type-arg]
            if len(batch) == 50:
                return False
            batch.append((name.decode(), following))
            return True

        await fs.tree.readdir(fh, offset, emit)
        if not batch:
            break
        for name, following in batch:
            seen.append(name)
            await fs.unlink(f"d/{name}")
            offset = following
    await fs.tree.releasedir(fh)
    assert len(seen) == 2500
    assert await fs.listdir("d") == []
    await fs.rmdir("d")
    assert store.keys() == []


async def test_a_listing_shows_what_only_this_mount_has(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("d/a", b"x")
    file = await fs.open("d/b", NEW)
    await file.write(b"y")
    assert sorted(await fs.listdir("d")) == ["a", "b"]
    assert (await fs.stat("d/b")).size == 1
    await file.close()
    assert sorted(await fs.listdir("d")) == ["a", "b"]


async def test_a_listing_that_answers_after_our_unlink(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("d/a", b"x")
    store.add("d/b", b"x")
    await fs.stat("d/a")
    parent = fs.tree.look.directory(await fs.walk("d"))
    node = parent.children["a"]
    handle = await fs.tree.opendir(parent.ino)
    await trio.sleep(10)
    answer = trio.Event()

    async def slow(op: str, key: str) -> None:
        if op == "list":
            store.after = None
            await answer.wait()

    store.after = slow
    names: list[bytes] = []

    def emit(name: bytes, shown: object, following: int) -> bool:
        names.append(name)
        return True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fs.tree.readdir, handle, 0, emit)
        await trio.testing.wait_all_tasks_blocked()
        await fs.tree.changes._unlink(parent, "a", node)  # type: ignore[arg-type]
        answer.set()
    assert names == [b"b"]
    assert not await fs.exists("d/a")
    await fs.tree.releasedir(handle)


async def test_mkdir_and_rmdir(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    await fs.mkdir("d", 0o750)
    marker = store.objects["d/"]
    assert marker.size == 0 and marker.headers.content_type == DIRECTORY_TYPE
    assert marker.headers.meta["mode"] == str(stat.S_IFDIR | 0o750)
    with errno_is(errno.EEXIST):
        await fs.mkdir("d")
    await fs.write_file("d/f", b"x")
    with errno_is(errno.ENOTEMPTY):
        await fs.rmdir("d")
    with errno_is(errno.ENOTDIR):
        await fs.rmdir("d/f")
    with errno_is(errno.EISDIR):
        await fs.unlink("d")
    await fs.unlink("d/f")
    await fs.rmdir("d")
    assert store.keys() == []
    with errno_is(errno.ENOENT):
        await fs.rmdir("d")


async def test_mkdir_excludes_another_machine(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    await fs.listdir()
    store.add("lock/", b"")
    with errno_is(errno.EEXIST):
        await fs.mkdir("lock")


@pytest.mark.parametrize("key", ["d/x", "d//x", "d/./x", "d/sub/"])
async def test_rmdir_keeps_what_somebody_put_there(
    key: str, fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    await fs.mkdir("d")
    store.add(key, b"")
    with errno_is(errno.ENOTEMPTY):
        await fs.rmdir("d")
    assert key in store.objects and "d/" in store.objects


async def test_a_marker_with_a_body_is_content(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    store.add("d/", b"body")
    with errno_is(errno.ENOTEMPTY):
        await fs.rmdir("d")
    await fs.chmod("d", 0o700)
    assert store.data("d/") == b"body" and store.objects["d/"].headers.meta["mode"] == "16832"


async def test_a_directory_does_not_vanish_with_its_last_file(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("d/f", b"x")
    await fs.unlink("d/f")
    await trio.sleep(10)
    assert store.keys() == ["d/"]
    assert await fs.listdir() == ["d"]
    store.add("e/sub/f", b"x")
    await trio.sleep(10)
    await fs.unlink("e/sub/f")
    await fs.rmdir("e/sub")
    assert await fs.listdir("e") == []


async def test_rename_is_copy_and_delete(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    store.add("a", b"x", ObjectHeaders(meta={"mode": "33152", "mtime": "5"}, content_type="text/plain"))
    await fs.rename("a", "b")
    assert store.keys() == ["b"]
    made = store.objects["b"].headers
    assert made.meta["mode"] == "33152" and made.content_type == "text/plain"
    assert not await fs.exists("a")
    assert (await fs.stat("b")).mode == stat.S_IFREG | 0o600


async def test_rename_keeps_the_mtime_of_an_object_without_one(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("a", b"x", last_modified=1_000_000)
    assert (await fs.stat("a")).mtime_ns == 10**15
    await fs.rename("a", "b")
    await fs.forget_all()
    assert (await fs.stat("b")).mtime_ns == 10**15


async def test_rename_moves_the_ctime_of_what_it_renames(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    for name in ("f", "d"):
        if name == "d":
            await fs.mkdir(name)
        else:
            await fs.write_file(name, b"x")
        before = await fs.stat(name)
        await trio.sleep(1)
        await fs.rename(name, name + "2")
        after = await fs.stat(name + "2")
        assert after.ctime_ns > before.ctime_ns and after.mtime_ns == before.mtime_ns
        await trio.sleep(60)
        assert (await fs.stat(name + "2")).ctime_ns == after.ctime_ns


async def test_rename_onto_existing(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    store.add("a", b"A")
    store.add("b", b"B")
    store.add("d/x", b"x")
    with errno_is(errno.EEXIST):
        await fs.rename("a", "b", no_replace=True)
    with errno_is(errno.EISDIR):
        await fs.rename("a", "d")
    with errno_is(errno.ENOTDIR):
        await fs.rename("d", "a")
    await fs.rename("a", "a")
    await fs.rename("a", "b")
    assert store.data("b") == b"A" and "a" not in store.objects
    await fs.mkdir("e")
    with errno_is(errno.ENOTEMPTY):
        await fs.rename("e", "d")
    await fs.rename("d", "e")
    assert sorted(store.objects) == ["b", "e/", "e/x"] or sorted(store.keys()) == ["b", "e/x"]
    with errno_is(errno.EINVAL):
        await fs.rename("e", "e/f")


async def test_rename_of_a_directory(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    want = {}
    for i in range(2300):
        want[f"e/s{i % 7}/f{i}"] = b"%d" % i
        store.add(f"d/s{i % 7}/f{i}", b"%d" % i)
    store.add("d//odd", b"odd")
    want["e//odd"] = b"odd"
    store.reset_counts()
    await fs.rename("d", "e")
    assert {k: store.data(k) for k in store.objects} == want
    assert store.calls["delete_many"] == 3 and store.calls["delete"] == 0
    assert await fs.read_file("e/s1/f1") == b"1"
    assert not await fs.exists("d")


async def test_rename_of_a_directory_takes_what_is_added_meanwhile(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    for i in range(10):
        store.add(f"d/f{i}", b"%d" % i)
    done = 0

    async def meddle(op: str, key: str) -> None:
        nonlocal done
        if op == "copy":
            done += 1
            if done == 5:
                store.add("d/new", b"new")
                store.add("d/f3", b"replaced")

    store.after = meddle
    await fs.rename("d", "e")
    assert store.data("e/new") == b"new" and store.data("e/f3") == b"replaced"
    assert not [k for k in store.objects if k.startswith("d/")]


async def test_a_failed_rename_of_a_directory_leaves_the_source(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    for i in range(20):
        store.add(f"d/f{i}", b"%d" % i)
    store.faults.append(Fault(op="copy", error=AccessDenied, skip=10))
    with errno_is(errno.EACCES):
        await fs.rename("d", "e")
    assert sorted(store.objects) == sorted(f"d/f{i}" for i in range(20))
    assert len(await fs.listdir("d")) == 20


async def test_archived_children_are_refused_before_the_first_copy(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("d/a", b"x")
    store.add("d/b", b"x", storage_class="Archive")
    store.reset_counts()
    with errno_is(errno.EIO):
        await fs.rename("d", "e")
    assert store.calls["copy"] == 0


async def test_attributes_are_kept(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    await fs.write_file("f", b"x")
    await fs.setattr("f", SetAttr(mode=0o4711, uid=3, gid=4, mtime_ns=-5, atime_ns=10**18 + 1))
    await fs.mkdir("d")
    await fs.setattr("d", SetAttr(mode=0o1777, uid=3, gid=4, mtime_ns=10**18))
    await fs.forget_all()
    async with mounted(store) as again:
        shown = await again.stat("f")
        assert (shown.mode, shown.uid, shown.gid) == (stat.S_IFREG | 0o4711, 3, 4)
        assert (shown.mtime_ns, shown.atime_ns) == (-5, 10**18 + 1)
        shown = await again.stat("d")
        assert (shown.mode, shown.uid, shown.gid) == (stat.S_IFDIR | 0o1777, 3, 4)
        assert shown.mtime_ns == 10**18
        assert await again.read_file("f") == b"x"


async def test_creation_takes_umask_owner_and_setgid(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    await fs.mkdir("d", 0o777)
    await fs.setattr("d", SetAttr(mode=0o2775, gid=77))
    file = await fs.open("d/f", NEW, 0o666)
    await file.close()
    shown = await fs.stat("d/f")
    assert (shown.mode & 0o7777, shown.uid, shown.gid) == (0o644, 1000, 77)
    shown = await fs.mkdir("d/e", 0o777)
    assert (shown.mode & 0o7777, shown.gid) == (0o2755, 77)


async def test_o_trunc_by_an_ordinary_user_takes_the_privileges_of_a_program(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    for mode, left in ((0o6755, 0o755), (0o6745, 0o2745), (0o1640, 0o1640)):
        await fs.write_file("f", b"x")
        await fs.chmod("f", mode)
        file = await fs.open("f", os.O_WRONLY | os.O_TRUNC)
        assert stat.S_IMODE((await fs.stat("f")).mode) == left
        await file.close()
        assert store.objects["f"].headers.meta["mode"] == str(stat.S_IFREG | left)
    await fs.chmod("f", 0o6755)
    fs.caller = Caller(0, 0)
    await (await fs.open("f", os.O_WRONLY | os.O_TRUNC)).close()
    assert stat.S_IMODE((await fs.stat("f")).mode) == 0o6755


async def test_truncating_moves_the_times_where_the_size_stays(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    await fs.write_file("f", b"abc")
    await (await fs.open("empty", NEW)).close()
    for name in ("f", "empty"):
        before = await fs.stat(name)
        await fs.truncate(name, before.size)
        after = await fs.stat(name)
        assert after.mtime_ns > before.mtime_ns and after.ctime_ns > before.ctime_ns
        await trio.sleep(60)
        assert (await fs.stat(name)).mtime_ns == after.mtime_ns
    before = await fs.stat("empty")
    file = await fs.open("empty", os.O_RDONLY | os.O_TRUNC)
    assert (await fs.stat("empty")).mtime_ns > before.mtime_ns
    await file.close()


async def test_symlinks(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    await fs.symlink("../some where/ü", "l")
    assert store.data("l").decode() == "../some where/ü"
    assert store.objects["l"].headers.meta["mode"] == "41471"
    store.add("cold", b"target", ObjectHeaders(meta={"mode": "41471"}))
    store.add("header", b"", ObjectHeaders(meta={"symlink-target": "header:9:a%2Fb%20c"}))
    await trio.sleep(10)
    assert await fs.readlink("l") == "../some where/ü"
    assert stat.S_ISLNK((await fs.stat("cold")).mode)
    assert await fs.readlink("cold") == "target"
    assert await fs.readlink("header") == "a/b c"
    with errno_is(errno.EEXIST):
        await fs.symlink("x", "l")


async def test_xattrs(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    await fs.write_file("f", b"x")
    ino = await fs.walk("f")
    await fs.tree.setxattr(ino, b"user.a", b"\0\xff")
    assert await fs.tree.getxattr(ino, b"user.a") == b"\0\xff"
    assert await fs.tree.listxattr(ino) == [b"user.a"]
    store.reset_counts()
    with errno_is(errno.ENODATA):
        await fs.tree.getxattr(ino, b"security.capability")
    assert not sum(store.calls.values())
    with errno_is(errno.ENOSPC):
        await fs.tree.setxattr(ino, b"user.big", bytes(9000))
    with errno_is(errno.ENOTSUP):
        await fs.tree.setxattr(ino, b"system.posix_acl_access", b"x")
    with errno_is(errno.EINVAL):
        await fs.tree.setxattr(ino, b"user.", b"x")
    await fs.tree.setxattr(ino, b"trusted.b", b"x")
    assert await fs.tree.listxattr(ino) == [b"user.a", b"trusted.b"]
    assert await fs.tree.listxattr(ino, privileged=False) == [b"user.a"]
    await fs.tree.removexattr(ino, b"user.a")
    with errno_is(errno.ENODATA):
        await fs.tree.removexattr(ino, b"user.a")


async def test_a_foreign_replacement_gives_a_new_inode(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("f", b"one")
    first = (await fs.stat("f")).ino
    assert await fs.read_file("f") == b"one"
    await trio.sleep(1.1)
    store.add("f", b"three")
    assert await fs.read_file("f") == b"three"
    assert (await fs.stat("f")).ino != first


async def test_an_open_reader_of_a_replaced_object_gets_estale(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("f", bytes(10 << 20))
    file = await fs.open("f")
    assert await file.pread(10, 0) == bytes(10)
    store.add("f", b"\1" * (10 << 20))
    with errno_is(errno.ESTALE):
        await file.pread(10, 9 << 20)
    await file.close()
    assert (await fs.read_file("f"))[:3] == b"\1\1\1"


async def test_a_foreign_chmod_under_an_open_reader_is_no_estale(autojump_clock: object) -> None:
    store = MemoryStore(copy_changes_etag=True)
    data = os.urandom(10 << 20)
    store.add("f", data)
    async with mounted(store) as fs, mounted(store) as other:
        file = await fs.open("f")
        assert await file.pread(10, 0) == data[:10]
        await other.chmod("f", 0o600)
        assert await file.pread(10, 9 << 20) == data[9 << 20 :][:10]
        await file.close()
        await trio.sleep(10)
        assert (await fs.stat("f")).mode & 0o777 == 0o600


async def test_a_foreign_deletion_is_seen_at_open(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("f", b"x")
    await fs.stat("f")
    await trio.sleep(1.1)  # an answer counts as the revalidation of an open for a second
    store.remove("f")
    with errno_is(errno.ENOENT):
        await fs.open("f")
    await fs.write_file("f", b"new")
    assert store.data("f") == b"new"


async def test_foreign_changes_are_seen_within_ttl(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("d/a", b"x")
    assert await fs.listdir("d") == ["a"]
    store.add("d/b", b"x")
    store.remove("d/a")
    await trio.sleep(5.1)
    assert await fs.listdir("d") == ["b"]
    assert not await fs.exists("d/a")
    store.add("d/c", b"x")
    await trio.sleep(1.1)
    assert await fs.exists("d/c")


async def test_missing_names_cost_little(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    for i in range(10):
        store.add(f"small/f{i}", b"x")
    for i in range(1500):
        store.add(f"large/f{i:04}", b"x")
    store.reset_counts()
    assert not await fs.exists("small/nope")
    first = sum(store.calls.values())
    assert first <= 2  # the root's page and the directory's
    for i in range(20):
        assert not await fs.exists(f"small/nope{i}")
    assert sum(store.calls.values()) == first
    assert not await fs.exists("large/nope")
    store.reset_counts()
    assert not await fs.exists("large/zzz")
    assert sum(store.calls.values()) <= 2


async def test_errors_of_lookups_are_not_absences(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("f", b"x")
    store.faults.append(Fault(op="list", error=ServerFault, count=1))
    with errno_is(errno.EIO):
        await fs.stat("f")
    assert await fs.exists("f")


async def test_names_that_are_too_long(fs: Posix, autojump_clock: object) -> None:
    with errno_is(errno.ENAMETOOLONG):
        await fs.write_file("x" * 256, b"")
    with errno_is(errno.ENAMETOOLONG):
        await fs.mkdir("é" * 128)
    path = ""
    for _ in range(4):
        path += "d" * 250 + "/"
        await fs.mkdir(path)
    with errno_is(errno.ENAMETOOLONG):
        await fs.write_file(path + "y" * 20, b"")
    await fs.write_file(path + "y" * 19, b"z")


async def test_odd_names_round_trip(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    names = ["sp ace", "new\nline", "p%41", "a+b", "h#", "q?a=b", "😀", "back\\slash", "\x01\x7f", "'\"&<>"]
    for name in names:
        await fs.write_file(name, name.encode())
    assert sorted(await fs.listdir()) == sorted(names)
    for name in names:
        assert await fs.read_file(name) == name.encode()
        await fs.rename(name, name + "2")
        assert store.data(name + "2") == name.encode()


async def test_a_prefix_mount_stays_inside(store: MemoryStore, autojump_clock: object) -> None:
    store.add("other/f", b"x")
    store.add("p/q/f", b"y")
    async with mounted(store, prefix="p/q/") as fs:
        assert await fs.listdir() == ["f"]
        await fs.write_file("g", b"z")
        await fs.rename("g", "h")
        await fs.unlink("f")
        await fs.unlink("h")
        assert await fs.listdir() == []
    assert store.keys() == ["other/f"]


async def test_an_empty_prefix_is_an_empty_directory(store: MemoryStore, autojump_clock: object) -> None:
    async with mounted(store, prefix="no/such/") as fs:
        assert await fs.listdir() == []
        await fs.write_file("f", b"x")
        assert store.keys() == ["no/such/f"]


async def test_inode_numbers_are_not_reused_while_referenced(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    await fs.write_file("f", b"1")
    old = await fs.open("f")
    await fs.unlink("f")
    await fs.write_file("f", b"2")
    assert (await fs.stat("f")).ino != old.ino
    assert await old.read() == b"1"
    await old.close()


async def test_forgotten_inodes_are_gone(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    for i in range(100):
        store.add(f"d/e/f{i}", b"x")
    assert len(await fs.listdir("d/e")) == 100
    assert len(fs.tree.ctx.inodes) > 100
    await fs.forget_all()
    assert len(fs.tree.ctx.inodes) == 1


async def test_forgotten_inodes_leave_no_bytes_behind(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    for i in range(20):
        store.add(f"d/f{i}", bytes(5000))
    for i in range(20):
        assert len(await fs.read_file(f"d/f{i}")) == 5000
        await fs.stat(f"d/f{i}")
    assert fs.tree.ctx.budget.used
    await fs.forget_all()
    assert fs.tree.ctx.budget.used == 0


async def test_a_spoiled_reading_stays_refused(fs: Posix, store: MemoryStore, autojump_clock: object) -> None:
    """The kernel asks again for the page that its read-ahead was refused."""
    data = os.urandom(3 << 20)
    store.add("f", data)
    file = await fs.open("f")
    store.faults.append(Fault("get", skip=1, flip=True))
    half = len(data) // 2
    await file.pread(half, 0)
    for _ in range(3):
        with errno_is(errno.EIO):
            await file.pread(half, half)
    assert await file.pread(half, 0) == data[:half]
    assert await file.pread(half, half) == data[half:]
    await file.close()


async def test_lookups_along_an_old_listing_cost_a_request_for_a_thousand(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    for i in range(3500):
        store.add(f"d/f{i:04}", bytes(5000), last_modified=5)
    names = await fs.listdir("d")
    await trio.sleep(10)
    store.remove("d/f1234")
    store.reset_counts()
    parent = await fs.walk("d")
    store.reset_counts()
    for name in names:
        try:
            await fs.tree.lookup(parent, name.encode())
        except OssfsError as error:
            assert error.errno == errno.ENOENT and name == "f1234"
    assert sum(store.calls.values()) <= 15


async def test_a_stat_of_an_old_inode_is_answered_by_a_younger_listing(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """The kernel drops attributes a moment before the name, and then asks without a lookup."""
    for i in range(2000):
        store.add(f"d/f{i:04}", b"x", last_modified=5)
    await fs.listdir("d")
    parent = await fs.walk("d")
    first, second = [(await fs.tree.lookup(parent, name)).ino for name in (b"f0000", b"f0001")]
    await fs.tree.getattr(first)
    await fs.tree.getattr(second)
    await trio.sleep(10)
    store.add("d/f0002", b"y", last_modified=6)
    await fs.tree.lookup(parent, b"f0000")  # fetches the page from there on
    store.reset_counts()
    assert (await fs.tree.getattr(second)).size == 1
    assert sum(store.calls.values()) == 0, store.calls
    chmodded = ObjectHeaders(meta={"mode": str(stat.S_IFREG | 0o600)})
    store.add("d/f0001", b"x", chmodded, last_modified=7)
    await trio.sleep(10)
    await fs.tree.lookup(parent, b"f0000")
    assert (await fs.tree.getattr(second)).mode == stat.S_IFREG | 0o600


async def test_a_walk_of_a_large_directory_begins_with_a_young_listing(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """Else its entries grow too old half way."""
    for i in range(2500):
        store.add(f"d/f{i:04}", b"x", last_modified=5)
    for name in await fs.listdir("d"):
        await fs.stat(f"d/{name}")
    await trio.sleep(4)
    store.reset_counts()
    names = await fs.listdir("d")
    await trio.sleep(2)
    for name in names:
        await fs.stat(f"d/{name}")
    assert store.calls == {"list": 4}  # one for the directory's own name


async def test_files_that_were_young_when_listed_are_known_the_second_time(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    began = trio.current_time()
    store.clock = lambda: 1000.0 + trio.current_time() - began
    for i in range(300):
        store.add(f"d/f{i:04}", bytes(5000))
    for name in await fs.listdir("d"):
        await fs.stat(f"d/{name}")
    # Somebody's chmod within the second of the first look.
    store.add("d/f0007", bytes(5000), ObjectHeaders(meta={"mode": str(stat.S_IFREG | 0o600)}))
    await trio.sleep(10)
    store.reset_counts()
    for name in await fs.listdir("d"):
        found = await fs.stat(f"d/{name}")
        assert found.mode & 0o777 == (0o600 if name == "f0007" else 0o644)
    assert store.calls["head"] <= 5  # of 300: the one that changed, and those between two seconds


async def test_a_huge_directory_is_not_kept_behind_its_reader(
    fs: Posix, store: MemoryStore, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directories, "CACHED_NAMES", 2000)
    monkeypatch.setattr(directories, "BEHIND", 1000)
    expected = [f"f{i:05}" for i in range(12_000)]
    for name in expected:
        store.add(f"d/{name}", b"")
    handle = await fs.tree.opendir(await fs.walk("d"))
    names: list[str] = []

    async def read(offset: int, most: int) -> int:
        def emit(name: bytes, stat: object, following: int) -> bool:
            nonlocal offset
            if len(names) >= most:
                return False
            names.append(name.decode())
            offset = following
            return True

        await fs.tree.readdir(handle, offset, emit)
        return offset

    at = 0
    places = {}
    while len(names) < len(expected):
        places[len(names)] = at
        at = await read(at, len(names) + 100)
    assert names == expected
    inner = fs.tree._dirs[handle]
    assert inner.freed > 9000 and len(inner.names) < 3000
    # seekdir to the near and to the far past, and rewinddir
    for back in (11_500, 3_000, 0):
        names.clear()
        await read(places[back], 100)
        assert names == expected[back : back + 100]
    await fs.tree.releasedir(handle)


async def test_a_mode_that_was_set_is_stored_although_times_wait(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    """mode and owner at once, times within a second."""
    store.add("f", b"x")
    await fs.setattr("f", SetAttr(mtime_ns=5))
    await fs.chmod("f", 0o600)
    assert store.objects["f"].headers.meta["mode"] == str(stat.S_IFREG | 0o600)
    assert store.objects["f"].headers.meta["mtime"] == "0.000000005"
    await fs.setattr("f", SetAttr(mtime_ns=6))
    store.faults.append(Fault(op="copy", error=AccessDenied))
    with errno_is(errno.EACCES):
        await fs.chmod("f", 0o640)
    assert (await fs.stat("f")).mode & 0o777 == 0o600
