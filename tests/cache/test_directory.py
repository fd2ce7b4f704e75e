"""The directory of a mount's caches: private, locked, and marked with its format."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ossfs.cache.directory import CacheDirectory
from ossfs.errors import MountError


def take(root: Path, *, bucket: str = "b", prefix: str = "", endpoint: str = "http://e") -> CacheDirectory:
    return CacheDirectory(str(root), endpoint=endpoint, bucket=bucket, prefix=prefix)


def test_private_and_one_for_each_mount(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    with take(root) as one, take(root, prefix="p") as two, take(root, endpoint="http://f") as three:
        paths = {one.path, two.path, three.path}
        assert len(paths) == 3
        assert {os.stat(p).st_mode & 0o777 for p in paths} == {0o700}
    assert os.stat(root).st_mode & 0o777 == 0o700
    with take(root) as again:
        assert again.path == one.path


def test_an_open_directory_is_closed_to_others(tmp_path: Path) -> None:
    with take(tmp_path) as made:
        path = made.path
    os.chmod(path, 0o755)
    with take(tmp_path):
        assert os.stat(path).st_mode & 0o777 == 0o700


def test_a_second_mount_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    said = rf"in use by another mount \(process {os.getpid()}\); accepted"
    with take(tmp_path), pytest.raises(MountError, match=said):
        take(tmp_path)
    take(tmp_path).close()


def test_an_unknown_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    with take(tmp_path) as made:
        mark = Path(made.path) / "format"
    mark.write_text("ossfs cache 99\n")
    with pytest.raises(MountError, match=r"has the format 'ossfs cache 99', and this ossfs knows"):
        take(tmp_path)
    assert mark.read_text() == "ossfs cache 99\n"
    mark.write_text("ossfs cache 1\n")
    take(tmp_path).close()


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.touch()
    with pytest.raises(MountError, match="accepted: a directory on a local disk"):
        take(place)
    with take(tmp_path) as made:
        path = Path(made.path)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MountError, match="Not a directory"):
        take(tmp_path)
