"""A mount with -o ro: everything can be read and nothing changed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator

import pytest

from tests.support.mounts import Mount, Room, Service, run_status


@pytest.fixture(scope="module")
def shared_mount(room: Room, service: Service) -> Iterator[Mount]:
    service.write("dir/file", b"content")
    mount = Mount(service, room, options={"ro": "true"})
    mount.mount()
    yield mount
    mount.close()
    assert service.keys() == ["dir/file"]
    assert service.read("dir/file") == b"content"


def test_it_can_be_read(mount: Mount) -> None:
    assert (mount.path / "dir" / "file").read_bytes() == b"content"
    assert os.listdir(mount.path / "dir") == ["file"]
    assert os.statvfs(mount.path).f_flag & os.ST_RDONLY


CHANGES: dict[str, Callable[[str], object]] = {
    "create": lambda top: open(f"{top}/new", "xb").close(),
    "write": lambda top: open(f"{top}/dir/file", "r+b").close(),
    "append": lambda top: open(f"{top}/dir/file", "ab").close(),
    "truncate": lambda top: os.truncate(f"{top}/dir/file", 0),
    "unlink": lambda top: os.unlink(f"{top}/dir/file"),
    "rename": lambda top: os.rename(f"{top}/dir", f"{top}/other"),
    "mkdir": lambda top: os.mkdir(f"{top}/new"),
    "rmdir": lambda top: os.rmdir(f"{top}/dir"),
    "chmod": lambda top: os.chmod(f"{top}/dir/file", 0o600),
    "chown": lambda top: os.chown(f"{top}/dir", 1, 1),
    "utimes": lambda top: os.utime(f"{top}/dir/file"),
    "symlink": lambda top: os.symlink("x", f"{top}/new"),
    "setxattr": lambda top: os.setxattr(f"{top}/dir/file", "user.a", b"x"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_refused(mount: Mount, change: str) -> None:
    with pytest.raises(OSError) as caught:
        CHANGES[change](str(mount.path))
    assert caught.value.errno == errno.EROFS


def test_programs_say_so(mount: Mount) -> None:
    status, output = run_status("cp", "/etc/hostname", mount.path / "new")
    assert status == 1
    assert "Read-only file system" in output
