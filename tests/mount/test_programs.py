"""Plain programs do their work on a mount, over http, over https, and in a prefix.

Bytes are compared after a remount, or through the SDK: the kernel's cache proves nothing.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.mounts import MIB, Mount, Room, Service, python, run, shell, tree_digest, wait_for

CHUNK = 5 * MIB
NAMES = [
    "with space",
    " leading and trailing ",
    "new\nline",
    "tab\there",
    "100%",
    "%41",
    "a%2Fb",
    "a+b",
    "a#b",
    "a?b=c",
    "a&b;c",
    "back\\slash",
    "quote'\"",
    "<xml>&amp;",
    ".hidden",
    "..dots",
    "...",
    "-dash",
    "~tilde",
    "*",
    "é",
    "e\u0301",
    "日本語",
    "😀 emoji 👩‍👩‍👧",
    "\x01control\x7f",
    "x" * 255,
    "ü" * 127,
]


@pytest.fixture(scope="module", params=["http", "https", "prefix"])
def shared_mount(
    request: pytest.FixtureRequest, room: Room, tls_files: tuple[Path, Path, Path]
) -> Iterator[Mount]:
    service = Service(room.make("server"), tls=tls_files if request.param == "https" else None)
    source = "bkt:/some/pre fix" if request.param == "prefix" else "bkt"
    mount = Mount(service, room, source=source, options={"chunk_size": "5MB"})
    mount.mount()
    yield mount
    mount.close()
    keys = service.keys()
    assert keys
    assert all(key.startswith(mount.prefix) for key in keys)
    assert not [key for key in keys if "/.ossfs-" in f"/{key}"], "hidden objects stay behind"
    service.stop()
    assert not service.log()


def test_cp_archive_keeps_everything_over_a_remount(mount: Mount, place: Path, source_tree: Path) -> None:
    run("cp", "-a", source_tree, place / "copy")
    expected = tree_digest(source_tree)
    assert tree_digest(place / "copy") == expected
    mount.remount()
    run("diff", "-r", "--no-dereference", "--exclude=pipe", source_tree, place / "copy")
    assert tree_digest(place / "copy") == expected


def test_objects_are_the_bytes_of_the_files(mount: Mount, place: Path, source_tree: Path) -> None:
    run("cp", "-r", source_tree / "json", source_tree / "odd" / "large", place)
    for path in [*(source_tree / "json").iterdir(), source_tree / "odd" / "large"]:
        copy = place / "json" / path.name if path.parent.name == "json" else place / path.name
        assert mount.read(copy) == path.read_bytes(), path


def test_tar_both_ways(mount: Mount, place: Path, source_tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "tree.tar"
    run("tar", "-C", source_tree, "-cf", archive, ".")
    (place / "unpacked").mkdir()
    run("tar", "-C", place / "unpacked", "--same-owner", "-xpf", archive)
    mount.remount()
    run("tar", "-C", place / "unpacked", "-df", archive)
    assert tree_digest(place / "unpacked") == tree_digest(source_tree)
    run("tar", "-C", place / "unpacked", "-cSf", place / "again.tar", ".")
    mount.remount()
    (tmp_path / "again").mkdir()
    run("tar", "-C", tmp_path / "again", "--same-owner", "-xpf", place / "again.tar")
    assert tree_digest(tmp_path / "again") == tree_digest(source_tree)


def test_rsync_a_second_time_transfers_nothing(mount: Mount, place: Path, source_tree: Path) -> None:
    command = ("rsync", "-a", "--delete", "--itemize-changes", "--stats", f"{source_tree}/", f"{place}/copy/")
    assert "Number of regular files transferred: 0" not in run(*command)
    for _ in range(2):
        output = run(*command)
        assert "Number of regular files transferred: 0" in output
        assert not re.findall(r"^(?:[<>ch.][fdLDS]\S{9}|\*deleting) .*$", output, re.MULTILINE)
        mount.remount()
    assert "transferred: 0" in run("rsync", "-ac", "--stats", f"{source_tree}/", f"{place}/copy/")


def test_find_and_du_see_what_is_there(mount: Mount, place: Path, source_tree: Path) -> None:
    run("cp", "-a", source_tree, place / "copy")
    mount.remount()
    for expression in ("", "-type d", "-name *.py -size +8k", "-perm -4000", "-newer odd/old"):
        _compare_find(expression, source_tree, place / "copy")
    for expression in ("-type f", "-type f -mtime +30 -size -3"):
        _compare_find(expression, source_tree / "json", place / "copy" / "json")
    apparent = "cd {}; find . -type f -print0 | du --apparent-size -bc --files0-from=- | tail -1"
    assert shell(apparent.format(place / "copy"), cwd="/") == shell(apparent.format(source_tree), cwd="/")
    # Blocks are counted too: an archiver takes a file of no blocks for a hole.
    used = int(run("du", "-sk", place / "copy").split()[0])
    assert used * 1024 >= sum(p.stat().st_size for p in source_tree.rglob("*") if p.is_file())


def _compare_find(expression: str, expected: Path, seen: Path) -> None:
    there, here = (
        sorted(run("find", ".", *expression.split(), cwd=top).splitlines()) for top in (expected, seen)
    )
    assert there == here, expression


def test_find_by_type_tells_symlinks_and_pipes_from_files_after_a_remount(
    new_mount: Callable[..., Mount], source_tree: Path
) -> None:
    mount = new_mount("bkt:/types", dtype="exact")
    run("cp", "-a", source_tree / "odd", mount.path / "copy")
    for expression in ("-type l", "-type p", "-type f"):
        mount.remount()
        _compare_find(expression, source_tree / "odd", mount.path / "copy")


def test_git_clone_fsck_and_commit(mount: Mount, place: Path, source_tree: Path, tmp_path: Path) -> None:
    identity = "git config user.email a@b.c; git config user.name N; git config commit.gpgsign false"
    shell(
        f"git init -q -b main .; {identity}; cp -r {source_tree}/json {source_tree}/email .; git add .;"
        "git commit -qm one; echo more >> json/decoder.py; git commit -qam two; git gc -q; echo x > new;"
        "git add new; git commit -qm three",
        cwd=tmp_path,
    )
    run("git", "clone", "-q", "--no-hardlinks", tmp_path, place / "clone")
    run("git", "fsck", "--strict", cwd=place / "clone")
    mount.remount()
    clone = place / "clone"
    assert not run("git", "status", "--porcelain", cwd=clone)
    shell(f"{identity}; git checkout -qb work; git mv json j; git commit -qam moved; git gc -q", cwd=clone)
    shell("git checkout -q main; git merge -q work; git fsck --strict", cwd=clone)
    mount.remount()
    assert not run("git", "status", "--porcelain", cwd=clone)
    run("git", "fsck", "--strict", cwd=clone)
    assert len(run("git", "log", "--oneline", cwd=clone).splitlines()) == 4
    shell("git pull -q --no-rebase ../clone main", cwd=_bare_copy(clone, place))


def _bare_copy(clone: Path, place: Path) -> Path:
    copy = place / "second"
    run("git", "clone", "-q", "--no-hardlinks", clone, copy)
    return copy


SQLITE = """
import sqlite3, sys
from contextlib import closing
with closing(sqlite3.connect(sys.argv[1])) as db:
    db.execute("create table if not exists t (id integer primary key, text, number)")
    for batch in range(5):
        with db:
            rows = [(f"row {n}", n) for n in range(400)]
            db.executemany("insert into t (text, number) values (?, ?)", rows)
    with db:
        db.execute("update t set text = 'changed' where number % 10 = 0")
        db.execute("delete from t where number % 7 = 0")
    try:
        with db:
            db.execute("delete from t")
            raise KeyError
    except KeyError:
        pass
    print(*db.execute("select count(*), sum(number) from t").fetchone())
    print(*db.execute("pragma integrity_check").fetchone())
"""


def test_sqlite_keeps_a_database(mount: Mount, place: Path, tmp_path: Path) -> None:
    expected = python(SQLITE, tmp_path / "db")
    assert python(SQLITE, place / "db") == expected
    assert expected.endswith("ok\n")
    mount.remount()
    copy = tmp_path / "from-bucket"
    copy.write_bytes(mount.read(place / "db"))
    with closing(sqlite3.connect(copy)) as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    python(SQLITE, tmp_path / "db")
    python(SQLITE, place / "db")
    if shutil.which("sqlite3"):
        query = "select count(*), sum(number) from t; vacuum; pragma integrity_check;"
        assert run("sqlite3", place / "db", query) == run("sqlite3", tmp_path / "db", query)
    assert [path.name for path in place.iterdir()] == ["db"], "the journal is gone"


def test_an_editor_saves_by_a_rename_over_the_old(mount: Mount, place: Path) -> None:
    path = place / "text"
    path.write_text("old\n" * 100)
    path.chmod(0o640)
    for number in range(3):
        temporary = place / ".text.swp"
        with open(temporary, "x") as file:
            file.write(f"version {number}\n")
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(path, temporary)
        os.replace(temporary, path)
        assert mount.read(path) == f"version {number}\n".encode()
    mount.remount()
    assert path.read_text() == "version 2\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(place) == ["text"]


def test_dd_in_the_middle_of_a_large_file(mount: Mount, place: Path) -> None:
    data = bytearray(random.Random(2).randbytes(3 * CHUNK + 12345))
    path = place / "large"
    path.write_bytes(data)
    # Inside a chunk, across a border, at both ends, and beyond the end.
    for count, (offset, length) in enumerate(
        [(CHUNK + 1000, 5000), (2 * CHUNK - 700, 3000), (0, 10), (len(data) - 9, 9), (len(data) + 4096, 77)]
    ):
        piece = random.Random(count).randbytes(length)
        command = ("dd", f"of={path}", "bs=1000", f"seek={offset}", "oflag=seek_bytes", "conv=notrunc")
        run(*command, "status=none", stdin=piece)
        data.extend(bytes(max(0, offset + length - len(data))))
        data[offset : offset + length] = piece
        assert mount.read(path) == data, (offset, length)
    mount.remount()
    assert path.read_bytes() == data


def test_appending_redirections_one_after_the_other(mount: Mount, place: Path) -> None:
    shell("for n in 1 2 3; do echo $n >> small; done", cwd=place)
    assert mount.read(place / "small") == b"1\n2\n3\n"


def test_appending_redirections(mount: Mount, place: Path) -> None:
    data = random.Random(3).randbytes(CHUNK + 1)
    (place / "large").write_bytes(data)
    mount.remount()
    shell("echo end >> large; echo more >> large", cwd=place)
    assert mount.read(place / "large") == data + b"end\nmore\n"
    mount.remount()
    assert (place / "large").read_bytes() == data + b"end\nmore\n"


def test_names_of_every_kind(mount: Mount, place: Path) -> None:
    for name in NAMES:
        (place / name).write_text(name)
        (place / "dirs" / name).mkdir(parents=True)
        (place / "dirs" / name / name).write_text(name)
    for _ in range(2):
        assert sorted(os.listdir(place)) == sorted([*NAMES, "dirs"])
        assert sorted(os.listdir(place / "dirs")) == sorted(NAMES)
        for name in NAMES:
            assert (place / name).read_text() == name
            assert (place / "dirs" / name / name).read_text() == name
        mount.remount()
    for name in NAMES:
        assert mount.read(place / name) == name.encode()
        os.rename(place / name, place / (name[:-1] + "r" if len(name) > 100 else name + " renamed"))
    run("rm", "-rf", place / "dirs")
    mount.remount()
    assert sorted(os.listdir(place)) == sorted(
        n[:-1] + "r" if len(n) > 100 else n + " renamed" for n in NAMES
    )


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_sizes_around_chunks(mount: Mount, place: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    path = place / "f"
    path.write_bytes(data)
    assert path.stat().st_size == size
    _await_creation(mount, path)
    assert mount.read(path) == data
    mount.remount()
    assert path.read_bytes() == data
    assert path.stat().st_blocks == -(-size // 512)
    # The same again over what is there, and then once more by another name.
    path.write_bytes(data[::-1])
    shutil.copyfile(path, place / "g")
    _await_creation(mount, place / "g")
    assert mount.read(place / "g") == mount.read(path) == data[::-1]


def _await_creation(mount: Mount, path: Path) -> None:
    """An empty file that nobody has written to is created when its last descriptor is gone, after close."""
    if path.stat().st_size == 0:
        wait_for(lambda: mount.service.exists(mount.key(path)), f"the object of {path}")
