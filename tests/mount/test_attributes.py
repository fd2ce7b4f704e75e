"""Attributes and kinds of objects through the kernel: virtual xattrs, links, mounts without attributes."""

from __future__ import annotations

import ctypes
import errno
import os
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounts import Mount, Service, run


def test_virtual_xattrs_through_getfattr(mount: Mount, place: Path, tmp_path: Path) -> None:
    path = place / "f ü"
    path.write_bytes(b"bytes")
    os.setxattr(path, "user.kept", b"1")

    def get(name: str) -> str:
        return run("getfattr", "--only-values", "--absolute-names", "-n", f"user.oss.{name}", path)

    assert get("type") == "Normal"
    assert get("storage-class") == "Standard"
    assert len(get("etag")) == 32
    assert get("crc64").isdigit()
    with urllib.request.urlopen(get("url"), timeout=10) as answer:
        assert answer.read() == b"bytes"
    assert os.listxattr(path) == ["user.kept"]
    with pytest.raises(OSError, check=lambda e: e.errno == errno.ENODATA):
        os.getxattr(path, "user.oss.restore")
    for change in (
        lambda: os.setxattr(path, "user.oss.etag", b"x"),
        lambda: os.removexattr(path, "user.oss.etag"),
    ):
        with pytest.raises(OSError, check=lambda e: e.errno == errno.EPERM):
            change()
    run("cp", "-a", path, tmp_path / "copy")
    run("cp", "-a", path, place / "copy")
    assert os.listxattr(place / "copy") == ["user.kept"]


def test_a_mount_with_attrs_list_sends_no_head(
    service: Service, new_mount: Callable[..., Mount], tmp_path: Path
) -> None:
    service.fill("lake/", 1500, 100)
    service.write("lake/empty", b"")
    service.write("lake/sub/of 1.x", b"x" * 5000, {"x-oss-meta-mode": "33216", "x-oss-meta-uid": "5"})
    mount = new_mount("bkt:/lake", attrs="list", uid="1234", file_mode="640")
    service.stats(reset=True)
    for _ in range(2):
        shown = run("ls", "-lnR", mount.path)
        assert shown.count("-rw-r----- 1 1234") == 1502
    run("cp", "-r", mount.path, tmp_path / "copied")
    assert (tmp_path / "copied" / "sub" / "of 1.x").read_bytes() == b"x" * 5000
    requests = service.stats()["requests"]
    assert "HeadObject" not in requests, requests
    with pytest.raises(OSError, check=lambda e: e.errno == errno.EPERM):
        (mount.path / "empty").chmod(0o600)
    source = tmp_path / "source"
    source.write_text("text")
    os.utime(source, (1, 1))
    assert "Operation not permitted" in run("cp", "-p", source, mount.path / "kept", status=1)
    mount.umount()
    mount = new_mount("bkt:/lake", attrs="list", ignore_attrs="true")
    run("cp", "-rp", tmp_path / "copied" / "sub", mount.path / "again")
    run("cp", "-p", source, mount.path / "kept")
    assert (mount.path / "kept").read_text() == "text"
    with (mount.path / "kept").open("a") as file:
        file.write(" and more")
    os.truncate(mount.path / "kept", 8)
    assert (mount.path / "kept").read_text() == "text and"
    assert sorted(p.name for p in mount.path.iterdir() if p.is_dir()) == ["again", "sub"]


def test_native_symlinks_through_the_kernel(service: Service, new_mount: Callable[..., Mount]) -> None:
    service.write("links/data/file", b"bytes")
    service.sdk.put_symlink("links/data/file", "links/a/link")
    service.sdk.put_symlink("links/data/", "links/a/dir")
    service.sdk.put_symlink("elsewhere", "links/a/outside")
    service.write("elsewhere", b"from outside")
    mount = new_mount("bkt:/links")
    place = mount.path / "a"
    assert run("find", place, "-type", "l", "-printf", "%f %l\n") in (
        "dir ../data\nlink ../data/file\n",
        "link ../data/file\ndir ../data\n",
    )
    assert (place / "link").read_bytes() == b"bytes"
    assert (place / "dir" / "file").read_bytes() == b"bytes"
    assert (place / "outside").read_bytes() == b"from outside"
    with (place / "link").open("ab") as file:
        file.write(b" and more")
    assert service.read("links/data/file") == b"bytes and more"
    assert os.readlink(place / "link") == "../data/file"
    (place / "link").rename(mount.path / "link")
    assert os.readlink(mount.path / "link") == "data/file"
    assert (mount.path / "link").read_bytes() == b"bytes and more"
    assert service.sdk.get_symlink("links/link").target_key == "links/data/file"
    (mount.path / "link").unlink()
    assert not service.exists("links/link") and service.exists("links/data/file")


def test_errnos_of_xattrs(place: Path) -> None:
    path = place / "f"
    path.write_bytes(b"x")
    os.setxattr(path, "user.a", b"value")
    libc = ctypes.CDLL(None, use_errno=True)
    small = ctypes.create_string_buffer(2)
    assert libc.getxattr(os.fsencode(path), b"user.a", small, 2) == -1
    assert ctypes.get_errno() == errno.ERANGE
    assert libc.listxattr(os.fsencode(path), small, 2) == -1
    assert ctypes.get_errno() == errno.ERANGE
    for code, value in ((errno.ENOSPC, bytes(9000)), (errno.E2BIG, bytes(70_000))):
        with pytest.raises(OSError, check=lambda e, code=code: e.errno == code):
            os.setxattr(path, "user.big", value)
    for change in (lambda: os.getxattr(path, "user.none"), lambda: os.removexattr(path, "user.none")):
        with pytest.raises(OSError, check=lambda e: e.errno == errno.ENODATA):
            change()
    assert os.getxattr(path, "user.a") == b"value"


def test_reading_an_archived_object_is_eio_with_one_line(
    service: Service, new_mount: Callable[..., Mount]
) -> None:
    service.write("archive/cold", b"bytes", {"x-oss-storage-class": "Archive"})
    mount = new_mount("bkt:/archive")
    mount.allowed.append("must be restored before it can be read")
    path = mount.path / "cold"
    assert "Input/output error" in run("cat", path, status=1)
    assert mount.log().count("must be restored before it can be read") == 1
    assert b"not restored" in os.getxattr(path, "user.oss.restore")
