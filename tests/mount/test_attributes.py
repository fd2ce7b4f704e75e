"""Attributes and kinds of objects through the kernel: virtual xattrs, links, mounts without attributes."""

from __future__ import annotations

import errno
import os
import urllib.request
from pathlib import Path

import pytest

from tests.support.mounts import Mount, run


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
