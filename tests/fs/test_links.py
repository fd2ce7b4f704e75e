"""Native symlinks: objects of type Symlink, which name a key of their bucket."""

from __future__ import annotations

import errno
import os
import stat

import pytest
import trio

from ossfs.errors import AccessDenied, OssfsError
from ossfs.fs.inodes import ROOT
from ossfs.fs.links import relative
from ossfs.fs.stats import Stat
from tests.support.memory_store import Fault, MemoryStore
from tests.support.posix import CALLER, Posix, mounted

W = os.O_WRONLY
pytestmark = pytest.mark.timeout(60)


def errno_is(code: int):  # type: ignore[no-untyped-def]
    return pytest.raises(OssfsError, check=lambda e: e.errno == code)


async def kinds(fs: Posix, path: str = "") -> dict[str, int]:
    """What d_type says of each entry."""
    found = {}

    def emit(name: bytes, shown: Stat, following: int) -> bool:
        found[name.decode()] = stat.S_IFMT(shown.mode)
        return True

    fh = await fs.tree.opendir(await fs.walk(path))
    await fs.tree.readdir(fh, 0, emit)
    await fs.tree.releasedir(fh)
    return found


@pytest.mark.parametrize(
    ("key", "target", "prefix", "path"),
    [
        ("l", "f", "", "f"),
        ("a/l", "f", "", "../f"),
        ("a/b/l", "a/c/f", "", "../c/f"),
        ("a/l", "a/d/", "", "d"),
        ("a/d/l", "a/", "", ".."),
        ("m/a/l", "m/b/f", "m/", "../b/f"),
        ("m/l", "n/f", "m/", None),
        ("m/l", "m/", "m/", None),
        ("l", "a//b", "", None),
        ("l", "a/../b", "", None),
        ("l", "/a", "", None),
        ("l", ".ossfs-0123456789abcdef/x", "", None),
        ("l", "n" * 256, "", None),
    ],
)
def test_paths_of_links(key: str, target: str, prefix: str, path: str | None) -> None:
    assert relative(key, target, prefix) == path


@pytest.mark.parametrize("attrs_list", [False, True])
@pytest.mark.parametrize("large", [False, True])
async def test_a_native_symlink_is_a_link(autojump_clock: object, attrs_list: bool, large: bool) -> None:
    store = MemoryStore()
    store.add("d/target", b"bytes")
    store.add("l/link", symlink_target="d/target", last_modified=1000)
    for i in range(2000 if large else 0):
        store.add(f"l/{i:04d}", b"")
    async with mounted(store, attrs_list=attrs_list) as fs:
        for _ in range(2):
            shown = await fs.stat("l/link")
            assert shown.mode == stat.S_IFLNK | 0o777
            assert await fs.readlink("l/link") == "../d/target"
            assert shown.size == len("../d/target") and shown.mtime_ns == 1000 * 10**9
            await trio.sleep(10)
        assert store.calls["head"] <= (0 if attrs_list or not large else 2)


@pytest.mark.parametrize("attrs_list", [False, True])
async def test_the_type_in_a_listing_is_a_link(autojump_clock: object, attrs_list: bool) -> None:
    store = MemoryStore()
    store.add("target", b"bytes")
    store.add("d/")
    for i in range(5):
        store.add(f"link{i}", symlink_target="target")
    async with mounted(store, attrs_list=attrs_list) as fs:
        for _ in range(2):
            found = await kinds(fs)
            assert found == {
                "target": stat.S_IFREG,
                "d": stat.S_IFDIR,
                **{f"link{i}": stat.S_IFLNK for i in range(5)},
            }
            await trio.sleep(10)
        assert store.calls["get_symlink"] == 5, "asked once, while listings show them unchanged"
        assert store.calls["head"] == 0


async def test_a_link_that_leads_elsewhere_now_is_seen(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("link", symlink_target="one", last_modified=1000)
    assert await fs.readlink("link") == "one"
    store.add("link", symlink_target="another", last_modified=2000)
    await trio.sleep(10)
    assert (await fs.stat("link")).size == len("another")
    assert await fs.readlink("link") == "another"
    store.add("link", b"a file")
    await trio.sleep(10)
    assert stat.S_ISREG((await fs.stat("link")).mode)
    assert await fs.read_file("link") == b"a file"


async def test_a_file_that_became_a_link_is_seen(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("f", b"")
    assert stat.S_ISREG((await fs.stat("f")).mode)
    store.add("f", symlink_target="other")
    await trio.sleep(10)
    assert await kinds(fs) == {"f": stat.S_IFLNK}
    assert await fs.readlink("f") == "other"


async def test_a_dangling_native_symlink_is_a_link(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("link", symlink_target="not/there")
    assert await fs.readlink("link") == "not/there"
    await fs.unlink("link")
    assert store.keys() == [] and not await fs.exists("link")


async def test_a_native_symlink_is_removed_and_renamed_as_a_link(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("target", b"bytes")
    store.add("link", symlink_target="target")
    await fs.mkdir("d")
    await fs.rename("link", "d/moved")
    assert store.objects["d/moved"].symlink_target == "target" and "link" not in store.objects
    assert await fs.readlink("d/moved") == "../target"
    assert await kinds(fs, "d") == {"moved": stat.S_IFLNK}
    await fs.rename("d/moved", "target2")
    assert await fs.readlink("target2") == "target"
    await fs.unlink("target2")
    assert store.keys() == ["d/", "target"] and store.data("target") == b"bytes"


async def test_renaming_a_directory_keeps_its_native_symlinks(
    fs: Posix, store: MemoryStore, autojump_clock: object
) -> None:
    store.add("target", b"bytes")
    store.add("d/link", symlink_target="target")
    await fs.mkdir("e")
    ino = await fs.walk("d/link")
    assert await fs.readlink("d/link") == "../target"
    await fs.rename("d", "e/d")
    assert store.objects["e/d/link"].symlink_target == "target"
    assert await fs.readlink("e/d/link") == "../../target"
    assert os.fsdecode(await fs.tree.readlink(ino)) == "../../target"


@pytest.mark.parametrize("attrs_list", [False, True])
async def test_a_native_symlink_out_of_the_mount_is_its_target_and_read_only(
    autojump_clock: object, attrs_list: bool
) -> None:
    store = MemoryStore()
    store.add("outside", b"bytes")
    store.add("m/link", symlink_target="outside")
    async with mounted(store, prefix="m/", attrs_list=attrs_list) as fs:
        for _ in range(2):
            assert await kinds(fs) == {"link": stat.S_IFREG}
            shown = await fs.stat("link")
            assert stat.S_ISREG(shown.mode) and shown.size == 5
            assert await fs.read_file("link") == b"bytes"
            await trio.sleep(10)
        assert not (attrs_list and store.calls["head"])
        with errno_is(errno.EPERM):
            await fs.open("link", W)
        with errno_is(errno.EPERM):
            await fs.open("link", W | os.O_TRUNC)
        with errno_is(errno.EPERM):
            await fs.chmod("link", 0o600)
        with errno_is(errno.EPERM):
            await fs.truncate("link", 1)
        await fs.rename("link", "moved")
        assert store.objects["m/moved"].symlink_target == "outside"
        assert await fs.read_file("moved") == b"bytes"


async def everything(fs: Posix) -> dict[str, int]:
    await fs.write_file("file", b"bytes")
    await fs.write_file("large", bytes(5000))
    await fs.symlink("file", "link")
    for name, kind in (("pipe", stat.S_IFIFO), ("socket", stat.S_IFSOCK)):
        await fs.tree.mknod(ROOT, name.encode(), kind | 0o644, 0, CALLER)
    return {
        "file": stat.S_IFREG,
        "large": stat.S_IFREG,
        "link": stat.S_IFLNK,
        "pipe": stat.S_IFIFO,
        "socket": stat.S_IFSOCK,
    }


async def test_exact_types_in_a_listing(autojump_clock: object) -> None:
    store = MemoryStore()
    async with mounted(store) as fs:
        made = await everything(fs)
    for made_object in store.objects.values():
        made_object.last_modified -= 60  # what is young is looked at twice
    store.reset_counts()
    async with mounted(store, exact_types=True) as fs:
        for _ in range(3):
            assert await kinds(fs) == made
            await trio.sleep(10)
        assert store.calls["head"] == 4, "one for each that could be something else"
    store.faults.append(Fault(op="head", key="link", error=AccessDenied))
    async with mounted(store, exact_types=True) as fs:
        assert await kinds(fs) == {**made, "link": stat.S_IFREG}, "who looks at the entry hears of it"


async def test_types_in_a_listing_cost_no_head_unless_they_are_to_be_exact(autojump_clock: object) -> None:
    store = MemoryStore()
    async with mounted(store) as fs:
        made = await everything(fs)
    store.reset_counts()
    async with mounted(store) as fs:
        assert await kinds(fs) == dict.fromkeys(made, stat.S_IFREG)
        assert store.calls["head"] == 0
        assert stat.S_ISLNK((await fs.stat("link")).mode)
