"""pyfuse3's operations over a tree that only notes what it is asked."""

from __future__ import annotations

import errno
import os
import stat
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
import trio

from ossfs.errors import PosixError
from ossfs.fs.ports import Caller
from ossfs.fs.stats import Stat
from ossfs.fs.tree import FsStat, SetAttr
from ossfs.fuse.guard import Guard
from ossfs.fuse.ops import BLOCK_SIZE, Operations, entry, file_info
from ossfs.metrics import Metrics

pytestmark = pytest.mark.timeout(30)

CTX = SimpleNamespace(uid=11, gid=22, pid=33, umask=0o027)
CALLER = Caller(11, 22, 0o027)
SHOWN = Stat(
    ino=99,
    mode=stat.S_IFREG | 0o4751,
    nlink=1,
    uid=1,
    gid=2,
    rdev=3,
    size=1025,
    atime_ns=4_000_000_005,
    mtime_ns=-1_500_000_000,
    ctime_ns=6_000_000_007,
    entry_timeout=1.25,
    attr_timeout=0.5,
)
DIRECTORY = Stat(98, stat.S_IFDIR | 0o755, 1, 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0)


class FakeTree:
    """Notes calls; answers what it was told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[object, ...], dict[str, object]]] = []
        self.answers: dict[str, object] = {}
        self.listing: list[tuple[bytes, Stat]] = []

    def __getattr__(self, name: str) -> Any:
        if name == "forget":
            return lambda *args: self.calls.append((name, args, {}))

        async def call(*args: object, **kwargs: object) -> object:
            await trio.lowlevel.checkpoint()
            self.calls.append((name, args, kwargs))
            answer = self.answers.get(name)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call

    async def readdir(self, fh: int, offset: int, emit: Any) -> None:
        self.calls.append(("readdir", (fh, offset), {}))
        for index, (name, shown) in enumerate(self.listing[offset:], offset + 1):
            if not emit(name, shown, index):
                return


@pytest.fixture
def tree() -> FakeTree:
    return FakeTree()


@pytest.fixture
def ops(tree: FakeTree) -> Operations:
    return Operations(tree, Guard(60.0, Metrics(), lambda: 0))  # type: ignore[arg-type]


def check_entry(out: pyfuse3.EntryAttributes, shown: Stat = SHOWN) -> None:
    assert out.st_ino == shown.ino and out.st_mode == shown.mode and out.st_nlink == shown.nlink
    assert (out.st_uid, out.st_gid, out.st_rdev, out.st_size) == (
        shown.uid,
        shown.gid,
        shown.rdev,
        shown.size,
    )
    assert (out.st_atime_ns, out.st_mtime_ns, out.st_ctime_ns) == (
        shown.atime_ns,
        shown.mtime_ns,
        shown.ctime_ns,
    )
    assert (out.entry_timeout, out.attr_timeout) == (shown.entry_timeout, shown.attr_timeout)
    assert out.generation == 0 and out.st_blocks == -(-shown.size // 512)


# -- encoding


def test_entry_sets_everything() -> None:
    """pyfuse3's default timeouts are five minutes."""
    out = entry(SHOWN)
    check_entry(out)
    assert out.st_blksize == BLOCK_SIZE and out.st_blocks == 3
    zero = entry(DIRECTORY)
    check_entry(zero, DIRECTORY)
    assert zero.entry_timeout == zero.attr_timeout == 0 and zero.st_blksize == 4096


@pytest.mark.parametrize("keep", [True, False])
def test_file_info_sets_keep_cache(keep: bool) -> None:
    info = file_info(7, keep)
    assert (info.fh, info.keep_cache, info.direct_io, info.nonseekable) == (7, keep, False, False)


def test_what_pyfuse3_is_told_of_us() -> None:
    assert Operations.supports_dot_lookup is False
    assert Operations.enable_writeback_cache is False and Operations.enable_acl is False


# -- operations that answer with an entry


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("lookup", (1, b"n"), ("lookup", (1, b"n"))),
        ("getattr", (5,), ("getattr", (5,))),
        ("mknod", (1, b"n", stat.S_IFIFO | 0o644, 7), ("mknod", (1, b"n", stat.S_IFIFO | 0o644, 7, CALLER))),
        ("mkdir", (1, b"n", 0o755), ("mkdir", (1, b"n", 0o755, CALLER))),
        ("symlink", (1, b"n", b"target"), ("symlink", (1, b"n", b"target", CALLER))),
    ],
)
async def test_entries(
    ops: Operations, tree: FakeTree, name: str, args: tuple[object, ...], expected: tuple[str, object]
) -> None:
    tree.answers[name] = SHOWN
    with trio.fail_after(5):
        check_entry(await getattr(ops, name)(*args, CTX))
    assert tree.calls == [(*expected, {})]
    assert ops.guard.metrics.snapshot() == {f"fuse.{name}": 1}


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("readlink", (5,)),
        ("unlink", (1, b"n")),
        ("rmdir", (1, b"n")),
        ("setxattr", (5, b"user.a", b"v")),
        ("getxattr", (5, b"user.a")),
        ("removexattr", (5, b"user.a")),
        ("opendir", (5,)),
    ],
)
async def test_passed_on_without_the_context(
    ops: Operations, tree: FakeTree, name: str, args: tuple[object, ...]
) -> None:
    tree.answers[name] = "answer"
    with trio.fail_after(5):
        answer = await getattr(ops, name)(*args, CTX)
    assert tree.calls == [(name, args, {})]
    if name not in ("unlink", "rmdir", "setxattr", "removexattr"):
        assert answer == "answer"


@pytest.mark.parametrize(
    ("name", "args", "passed"),
    [
        ("read", (3, 10, 20), (3, 10, 20)),
        ("write", (3, 10, b"data"), (3, 10, b"data")),
        ("flush", (3,), (3,)),
        ("fsync", (3, True), (3,)),
        ("release", (3,), (3,)),
        ("releasedir", (4,), (4,)),
        ("fsyncdir", (4, False), (4,)),
    ],
)
async def test_open_files(
    ops: Operations, tree: FakeTree, name: str, args: tuple[object, ...], passed: tuple[object, ...]
) -> None:
    expected = tree.answers[name] = b"answers" if name == "read" else 7
    with trio.fail_after(5):
        answer = await getattr(ops, name)(*args)
    assert tree.calls == [(name, passed, {})]
    if name in ("read", "write"):
        assert answer == expected
        counter = {"read": "programs.bytes_read", "write": "programs.bytes_written"}[name]
        assert ops.guard.metrics.snapshot()[counter] == 7


async def test_forget_needs_no_guard(ops: Operations, tree: FakeTree) -> None:
    with trio.fail_after(5):
        await ops.forget([(5, 1), (6, 3)])
    assert tree.calls == [("forget", (5, 1), {}), ("forget", (6, 3), {})]


# -- setattr


def fields(**given: bool) -> SimpleNamespace:
    names = ["atime", "mtime", "ctime", "mode", "uid", "gid", "size"]
    return SimpleNamespace(**{f"update_{n}": given.get(n, False) for n in names})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"mode"}, SetAttr(mode=0o100600)),
        ({"uid"}, SetAttr(uid=0)),
        ({"gid"}, SetAttr(gid=4)),
        ({"size"}, SetAttr(size=0)),
        ({"atime", "mtime"}, SetAttr(atime_ns=-1, mtime_ns=1_700_000_000_123_456_789)),
        ({"ctime"}, SetAttr(ctime_ns=3)),
        (set(), SetAttr()),
    ],
)
async def test_setattr_takes_only_what_was_set(
    ops: Operations, tree: FakeTree, given: set[str], expected: SetAttr
) -> None:
    tree.answers["setattr"] = SHOWN
    attr = pyfuse3.EntryAttributes()
    attr.st_mode, attr.st_uid, attr.st_gid, attr.st_size = 0o100600, 0, 4, 0
    attr.st_atime_ns, attr.st_mtime_ns, attr.st_ctime_ns = -1, 1_700_000_000_123_456_789, 3
    chosen = fields(**dict.fromkeys(given, True))
    with trio.fail_after(5):
        check_entry(await ops.setattr(5, attr, chosen, 9, CTX))  # type: ignore[arg-type]
    assert tree.calls == [("setattr", (5, expected, 9), {})]


async def test_only_root_is_shown_trusted_attributes(ops: Operations, tree: FakeTree) -> None:
    tree.answers["listxattr"] = [b"user.a"]
    with trio.fail_after(5):
        assert await ops.listxattr(5, CTX) == [b"user.a"]  # type: ignore[arg-type]
    assert tree.calls == [("listxattr", (5,), {"privileged": False})]


# -- open, create, rename, link


@pytest.mark.parametrize("keep", [True, False])
async def test_open(ops: Operations, tree: FakeTree, keep: bool) -> None:
    tree.answers["open"] = 42, keep
    with trio.fail_after(5):
        info = await ops.open(5, os.O_RDWR | os.O_TRUNC, CTX)  # type: ignore[arg-type]
    assert (info.fh, info.keep_cache) == (42, keep)
    assert tree.calls == [("open", (5, os.O_RDWR | os.O_TRUNC, CALLER), {})]


async def test_create_keeps_no_pages(ops: Operations, tree: FakeTree) -> None:
    tree.answers["create"] = 42, SHOWN
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with trio.fail_after(5):
        info, made = await ops.create(1, b"n", 0o644, flags, CTX)  # type: ignore[arg-type]
    assert (info.fh, info.keep_cache) == (42, False)
    check_entry(made)
    assert tree.calls == [("create", (1, b"n", 0o644, flags, CALLER), {})]


@pytest.mark.parametrize(("flags", "no_replace"), [(0, False), (pyfuse3.RENAME_NOREPLACE, True)])
async def test_rename(ops: Operations, tree: FakeTree, flags: int, no_replace: bool) -> None:
    with trio.fail_after(5):
        await ops.rename(1, b"a", 2, b"b", flags, CTX)  # type: ignore[arg-type]
    assert tree.calls == [("rename", (1, b"a", 2, b"b"), {"no_replace": no_replace})]


@pytest.mark.parametrize("flags", [pyfuse3.RENAME_EXCHANGE, 4, pyfuse3.RENAME_EXCHANGE | 1])
async def test_rename_in_other_ways_is_refused(ops: Operations, tree: FakeTree, flags: int) -> None:
    with trio.fail_after(5), pytest.raises(pyfuse3.FUSEError) as caught:
        await ops.rename(1, b"a", 2, b"b", flags, CTX)  # type: ignore[arg-type]
    assert caught.value.errno == errno.EINVAL and not tree.calls


async def test_no_hard_links(ops: Operations, tree: FakeTree) -> None:
    with trio.fail_after(5), pytest.raises(pyfuse3.FUSEError) as caught:
        await ops.link(5, 1, b"n", CTX)  # type: ignore[arg-type]
    assert caught.value.errno == errno.EPERM and not tree.calls


async def test_errors_come_as_errnos(ops: Operations, tree: FakeTree) -> None:
    tree.answers["flush"] = PosixError(errno.EDQUOT)
    with trio.fail_after(5), pytest.raises(pyfuse3.FUSEError) as caught:
        await ops.flush(3)
    assert caught.value.errno == errno.EDQUOT


# -- directories


async def test_readdir_stops_when_the_buffer_is_full(
    ops: Operations, tree: FakeTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.listing = [(b"a", SHOWN), (b"\xff", DIRECTORY), (b"c", SHOWN)]
    given: list[tuple[object, bytes, int]] = []

    def reply(token: object, name: bytes, attr: pyfuse3.EntryAttributes, following: int) -> bool:
        check_entry(attr, DIRECTORY if name == b"\xff" else SHOWN)
        if len(given) == 2:
            return False
        given.append((token, name, following))
        return True

    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)
    token = object()
    with trio.fail_after(5):
        await ops.readdir(4, 0, token)  # type: ignore[arg-type]
        assert given == [(token, b"a", 1), (token, b"\xff", 2)]
        given.clear()
        await ops.readdir(4, 2, token)  # type: ignore[arg-type]
    assert given == [(token, b"c", 3)]
    assert [c[1] for c in tree.calls] == [(4, 0), (4, 2)]


async def test_statfs(ops: Operations, tree: FakeTree) -> None:
    tree.answers["statfs"] = FsStat(used=8192 + 1, total=8192 + 1 + (1 << 50), files=7)
    with trio.fail_after(5):
        data = await ops.statfs(CTX)  # type: ignore[arg-type]
    assert data.f_bsize == data.f_frsize == 4096
    assert data.f_blocks == 2 + (1 << 50) // 4096 and data.f_bfree == data.f_bavail == (1 << 50) // 4096
    assert data.f_files - data.f_ffree == 7 and data.f_favail == data.f_ffree
    assert data.f_namemax == 255
