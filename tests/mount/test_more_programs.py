"""More programs on one mount, over http."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.mounts import MIB, Mount, python, run, shell

CHUNK = 5 * MIB


def test_rsync_updates_and_deletes_what_differs(mount: Mount, place: Path, tmp_path: Path) -> None:
    for name in ("stays", "changes", "goes"):
        (tmp_path / name).write_text(f"{name}\n" * 1000)
    run("rsync", "-a", f"{tmp_path}/", f"{place}/")
    (tmp_path / "goes").unlink()
    with open(tmp_path / "changes", "a") as file:
        file.write("more\n")
    run("rsync", "-a", "--inplace", "--no-whole-file", "--delete", f"{tmp_path}/", f"{place}/")
    mount.remount()
    run("diff", "-r", tmp_path, place)


@pytest.mark.skipif(not shutil.which("vim"), reason="there is no vim")
@pytest.mark.parametrize("way", ["backupcopy=no", "backupcopy=yes", "nowritebackup"])
def test_vim_saves(mount: Mount, place: Path, way: str) -> None:
    path = place / "text"
    path.write_text("one\ntwo\n")
    run("vim", "-N", "-u", "NONE", "-es", "-c", f"set {way}", "-c", "%s/two/three/", "-c", "wq", path)
    assert mount.read(path) == b"one\nthree\n"
    mount.remount()
    assert path.read_text() == "one\nthree\n"
    assert os.listdir(place) == ["text"]


def test_several_commands_share_one_redirection(mount: Mount, place: Path) -> None:
    shell("(echo a; /bin/echo b; cat /dev/null; bash -c 'echo c') > f", cwd=place)
    assert mount.read(place / "f") == b"a\nb\nc\n"
    shell("{ seq 1 100000; /bin/echo end; } > g; seq 1 100000 > h; : > f", cwd=place)
    mount.remount()
    assert (place / "g").read_text() == "".join(f"{n}\n" for n in range(1, 100001)) + "end\n"
    assert (place / "h").read_text() == "".join(f"{n}\n" for n in range(1, 100001))
    assert (place / "f").read_bytes() == b""


def test_a_thousand_small_files(mount: Mount, place: Path) -> None:
    folder = place / "many"
    folder.mkdir()
    for number in range(1100):
        (folder / f"f{number:04}").write_text(f"{number}\n")
    expected = [f"f{number:04}" for number in range(1100)]
    assert run("ls", folder).split() == expected
    mount.remount()
    assert run("ls", folder).split() == expected
    assert sorted(entry.stat().st_size for entry in os.scandir(folder))[-1] == 5
    assert (folder / "f0777").read_text() == "777\n"
    run("rm", "-rf", folder)
    assert os.listdir(place) == []
    mount.remount()
    assert os.listdir(place) == []
    assert not mount.service.keys(mount.key(folder))


def test_zip_files_are_written_and_read_in_place(mount: Mount, place: Path, source_tree: Path) -> None:
    with zipfile.ZipFile(place / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((source_tree / "email").rglob("*.py")):
            archive.write(path, path.relative_to(source_tree))
    with zipfile.ZipFile(place / "a.zip", "a") as archive:
        archive.writestr("added", b"later")
    shutil.make_archive(str(place / "b"), "zip", source_tree, "json")
    shutil.make_archive(str(place / "c"), "gztar", source_tree, "json")
    mount.remount()
    with zipfile.ZipFile(place / "a.zip") as archive:
        assert archive.testzip() is None
        assert archive.read("added") == b"later"
        assert archive.read("email/parser.py") == (source_tree / "email" / "parser.py").read_bytes()
    shutil.unpack_archive(place / "b.zip", place / "out")
    (place / "out2").mkdir()
    run("tar", "-C", place / "out2", "-xzf", place / "c.tar.gz")
    for out in ("out", "out2"):
        run("diff", "-r", source_tree / "json", place / out / "json")
    if shutil.which("zip"):
        run("zip", "-qr", place / "d.zip", "json", cwd=source_tree)
        with zipfile.ZipFile(place / "d.zip") as archive:
            assert archive.testzip() is None


WRITER = """
import hashlib, random, sys
data = random.Random(sys.argv[2]).randbytes(int(sys.argv[3]))
with open(sys.argv[1], "wb") as file:
    for start in range(0, len(data), 70001):
        file.write(data[start : start + 70001])
print(hashlib.sha256(data).hexdigest())
"""


def test_processes_write_different_files_at_once(mount: Mount, place: Path) -> None:
    sizes = [0, 1, 4096, MIB, CHUNK, CHUNK + 1, 2 * CHUNK + 99, 3 * CHUNK]
    with ThreadPoolExecutor(len(sizes)) as pool:
        digests = list(
            pool.map(
                lambda n: python(WRITER, place / f"f{n}", str(n), str(sizes[n])).strip(), range(len(sizes))
            )
        )
    mount.remount()
    for number, digest in enumerate(digests):
        assert hashlib.sha256((place / f"f{number}").read_bytes()).hexdigest() == digest
