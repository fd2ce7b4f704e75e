"""What is said of the place that is to be mounted at.  No mount is made here."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from ossfs import mountpoint
from ossfs.errors import MountError
from ossfs.mountpoint import (
    FSTYPE,
    MountInfo,
    check_fuse,
    check_mountpoint,
    clean_up_dead,
    detach,
    is_dead,
    mount_at,
    read_mountinfo,
    resolve_mountpoint,
)

LINES = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:5 / /proc rw shared:2 - proc proc rw
40 22 0:50 / /mnt/a rw - fuse.ossfs bucket:/p rw,user_id=0
41 40 0:51 / /mnt/a rw - tmpfs tmpfs rw
42 22 0:52 / /mnt/with\040space\134\011x rw - fuse.ossfs b\040c rw
broken line
"""


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> list[MountInfo]:
    fake: list[MountInfo] = []
    monkeypatch.setattr(mountpoint, "read_mountinfo", lambda: fake)
    return fake


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Places where stat(2) is to answer as at a mount whose process has ended."""
    places: set[str] = set()
    real = os.stat

    def stat(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        if path in places:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    return places


def test_mountinfo(tmp_path: Path) -> None:
    file = tmp_path / "mountinfo"
    file.write_text(LINES)
    mounts = read_mountinfo(str(file))
    assert MountInfo("0:50", "/mnt/a", "fuse.ossfs", "bucket:/p") in mounts
    assert mounts[-1] == MountInfo("0:52", "/mnt/with space\\\tx", "fuse.ossfs", "b c")
    assert len(mounts) == 5


def test_real_mountinfo() -> None:
    assert mount_at("/") is not None
    assert mount_at("/no/such/place") is None


def test_the_topmost_counts(mounts: list[MountInfo]) -> None:
    mounts += [MountInfo("0:1", "/a", "tmpfs", "x"), MountInfo("0:2", "/a", "fuse.ossfs", "y")]
    found = mount_at("/a")
    assert found is not None
    assert found.device == "0:2"


def test_resolving(tmp_path: Path, mounts: list[MountInfo], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real" / "m").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "to-m").symlink_to("real/m")
    wanted = str(tmp_path / "real" / "m")
    assert resolve_mountpoint(str(tmp_path / "link" / "m")) == wanted
    assert resolve_mountpoint(str(tmp_path / "to-m")) == wanted
    monkeypatch.chdir(tmp_path)
    assert resolve_mountpoint("link/../link/m/") == wanted
    assert resolve_mountpoint("/") == "/"
    # What is mounted at the end of the path is not looked into.
    mounts.append(MountInfo("0:1", str(tmp_path / "real" / "m"), FSTYPE, "x"))
    monkeypatch.setattr(os, "lstat", lambda path: pytest.fail(f"touched {path}") if path == wanted else None)
    monkeypatch.setattr(os.path, "realpath", lambda path: path)
    assert resolve_mountpoint(wanted) == wanted


def test_a_good_place(tmp_path: Path) -> None:
    assert check_mountpoint(str(tmp_path)) == str(tmp_path)


def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MountError, match="does not exist; make it with: mkdir -p"):
        check_mountpoint(str(tmp_path / "none"))


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(MountError, match="is not a directory"):
        check_mountpoint(str(tmp_path / "f"))
    with pytest.raises(MountError, match="cannot be used"):
        check_mountpoint(str(tmp_path / "f" / "x"))


def test_not_empty(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(MountError, match=r"is not empty.*nonempty"):
        check_mountpoint(str(tmp_path))
    assert check_mountpoint(str(tmp_path), nonempty=True) == str(tmp_path)


def test_a_living_mount_of_ours(tmp_path: Path, mounts: list[MountInfo]) -> None:
    mounts.append(MountInfo("0:50", str(tmp_path), FSTYPE, "bucket:/p"))
    with pytest.raises(MountError, match=r"is an ossfs mount already, of bucket:/p; run `ossfs umount"):
        check_mountpoint(str(tmp_path), nonempty=True)


def test_another_file_system_is_a_good_place(tmp_path: Path, mounts: list[MountInfo]) -> None:
    mounts.append(MountInfo("0:50", str(tmp_path), "ext4", "/dev/x"))
    assert check_mountpoint(str(tmp_path)) == str(tmp_path)


def test_a_dead_mount_of_ours_is_removed(
    tmp_path: Path, mounts: list[MountInfo], dead: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path)
    mounts += [MountInfo("0:50", place, FSTYPE, "bucket")] * 2
    dead.add(place)

    def fake_detach(path: str) -> bool:
        mounts.pop()
        if not mounts:
            dead.clear()
        return True

    monkeypatch.setattr(mountpoint, "detach", fake_detach)
    assert check_mountpoint(place) == place
    assert mounts == []
    assert clean_up_dead(place) is False


def test_a_dead_mount_of_ours_that_stays(
    tmp_path: Path, mounts: list[MountInfo], dead: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts.append(MountInfo("0:50", str(tmp_path), FSTYPE, "bucket"))
    dead.add(str(tmp_path))
    monkeypatch.setattr(mountpoint, "detach", lambda path: False)
    with pytest.raises(MountError, match=r"dead ossfs mount .* umount -l"):
        check_mountpoint(str(tmp_path))


def test_a_dead_mount_is_known_when_the_kernel_still_has_its_attributes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def statvfs(path: str) -> os.statvfs_result:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), path)

    assert not is_dead(str(tmp_path))
    monkeypatch.setattr(os, "statvfs", statvfs)
    assert is_dead(str(tmp_path))


def test_a_dead_mount_of_somebody_else_is_named(
    tmp_path: Path, mounts: list[MountInfo], dead: set[str]
) -> None:
    mounts.append(MountInfo("0:50", str(tmp_path), "fuse.sshfs", "host:"))
    dead.add(str(tmp_path))
    assert is_dead(str(tmp_path))
    with pytest.raises(MountError, match=r"dead fuse.sshfs mount .*; run: umount -l"):
        check_mountpoint(str(tmp_path))


def test_detaching_what_is_no_mount(tmp_path: Path) -> None:
    assert detach(str(tmp_path)) is False


def test_detaching_without_the_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert detach(str(tmp_path)) is False


# ---- FUSE itself


def test_no_fuse_device(tmp_path: Path) -> None:
    with pytest.raises(MountError, match="modprobe fuse"):
        check_fuse(False, device=str(tmp_path / "fuse"))


def test_a_device_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "fuse"
    device.touch()
    check_fuse(False, device=str(device))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(MountError, match="may not be opened"):
        check_fuse(False, device=str(device))


def test_allow_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device, conf = tmp_path / "fuse", tmp_path / "fuse.conf"
    device.touch()

    def check() -> None:
        check_fuse(True, device=str(device), conf=str(conf))

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    check()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MountError, match="user_allow_other"):
        check()
    conf.write_text("#user_allow_other\nmount_max = 10\n")
    with pytest.raises(MountError, match="user_allow_other"):
        check()
    conf.write_text("mount_max = 10\n  user_allow_other \n")
    check()


def test_a_place_that_systemd_mounts_on_demand(mounts: list[MountInfo], tmp_path: Path) -> None:
    place = str(tmp_path)
    assert not mountpoint.is_on_autofs(place)
    mounts.append(MountInfo("0:1", place, "autofs", "systemd-1"))
    mounts.append(MountInfo("0:2", place, FSTYPE, "bucket"))
    assert mountpoint.is_on_autofs(place)
    assert not mountpoint.is_on_autofs(f"{place}/below")


def test_holders_are_found_by_the_device() -> None:
    devices = sorted(info.device for info in mountpoint.read_mountinfo())
    found = mountpoint.holders_of(devices[0])
    # Whoever started us sees what we see, and we are not named ourselves.
    assert any(name.startswith(f"process {os.getppid()}, ") for name in found)
    assert not any(name.startswith(f"process {os.getpid()}, ") for name in found)
    assert mountpoint.holders_of("no:device") == []
