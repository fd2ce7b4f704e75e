"""Write-back on real mounts: what close accepted reaches the bucket, in the order of the program."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounts import BUCKET, Mount, Service, run, wait_for

Make = Callable[..., Mount]
PUT = {"op": "Put", "count": -1}
BUSY = {"action": "status", "status": 503}


@pytest.fixture
def make(new_mount: Make, tmp_path: Path) -> Make:
    """A mount with write-back."""

    def mounted(source: str = "bkt", **options: object) -> Mount:
        return new_mount(source, cache_dir=tmp_path / "cache", writeback=True, **options)

    return mounted


def revive(mount: Mount) -> None:
    """kill -9, and mount again."""
    mount.kill()
    run("umount", "-l", mount.path)
    mount.mount()


def pending(mount: Mount) -> tuple[int, int]:
    shown = mount.status()["writeback"]
    return shown["files"], shown["bytes"]


def heads(service: Service) -> int:
    return int(service.stats()["requests"].get("Head", 0))


def test_close_does_not_wait_and_fsync_and_umount_do(service: Service, make: Make) -> None:
    mount = make("bkt:/a")
    service.faults({**PUT, "action": "delay", "seconds": 1})
    (mount.path / "f").write_bytes(b"small")
    assert not service.exists("a/f")
    assert pending(mount) == (1, 5)
    assert (mount.path / "f").read_bytes() == b"small"
    assert os.listdir(mount.path) == ["f"]
    run("sync", mount.path / "f")
    assert service.read("a/f") == b"small"
    (mount.path / "g").write_bytes(b"1")
    (mount.path / "h").write_bytes(b"2")
    run("sync", mount.path)
    assert service.read("a/g") == b"1" and service.read("a/h") == b"2"
    assert pending(mount) == (0, 0)
    (mount.path / "i").write_bytes(b"3")
    mount.umount()
    assert service.read("a/i") == b"3"
    mount.mount()


def test_the_next_mount_uploads_what_was_left_before_it_serves(
    service: Service, make: Make, tmp_path: Path
) -> None:
    mount = make("bkt:/c")
    mount.allowed = [r"attempt \d+: PutObject"]
    service.faults({**PUT, **BUSY})
    made = {f"f{n}": random.Random(n).randbytes(n * 1000) for n in range(1, 40)}
    for name, data in made.items():
        (mount.path / name).write_bytes(data)
    mount.kill()
    run("umount", "-l", mount.path)
    bad = made.pop("f20")
    (segment,) = tmp_path.glob("cache/*/writeback/*.log")
    with segment.open("r+b") as file:
        file.seek(file.read().index(bad) + 77)
        file.write(bytes([bad[77] ^ 1]))
    service.faults()
    mount.allowed += [r"the file of key 'c/f20'; kept as"]
    mount.mount()
    assert "the file of key 'c/f20'; kept as" in mount.log()
    assert not service.exists("c/f20")
    (aside,) = tmp_path.glob("cache/*/writeback/damaged/*")
    assert bad[:77] in aside.read_bytes()
    assert mount.status()["writeback"]["set_aside"] == 1
    assert {name: service.read(f"c/{name}") for name in made} == made
    mount.umount()
    service.stats(reset=True)
    mount.mount()
    assert "Put" not in service.stats()["requests"]


def test_order_is_kept_by_name(service: Service, make: Make) -> None:
    mount = make("bkt:/d")
    service.faults({**PUT, "action": "delay", "seconds": 0.1})
    path = mount.path
    (path / "renamed-from").write_bytes(b"1")
    os.rename(path / "renamed-from", path / "renamed-to")
    (path / "renamed-from").write_bytes(b"2")
    (path / "over").write_bytes(b"old")
    (path / "new").write_bytes(b"new")
    os.rename(path / "new", path / "over")
    (path / "gone").write_bytes(b"never")
    os.unlink(path / "gone")
    for data in (b"first", b"second", b"third"):
        (path / "again").write_bytes(data)
    (path / "deleted").write_bytes(b"one")
    os.unlink(path / "deleted")
    (path / "deleted").write_bytes(b"two")
    with (path / "appended").open("wb") as file:
        file.write(b"a")
    with (path / "appended").open("ab") as file:
        file.write(b"b")
    (path / "mode").write_bytes(b"m")
    (path / "mode").chmod(0o600)
    os.mkdir(path / "dir")
    (path / "dir" / "f").write_bytes(b"in a directory")
    os.rename(path / "dir", path / "moved")
    expected = {
        "d/renamed-to": b"1",
        "d/renamed-from": b"2",
        "d/over": b"new",
        "d/again": b"third",
        "d/deleted": b"two",
        "d/appended": b"ab",
        "d/mode": b"m",
        "d/moved/f": b"in a directory",
        "d/moved/": b"",
    }
    revive(mount)
    found = {key: service.read(key) for key in service.keys("d/") if "/.ossfs-" not in key}
    assert found == expected
    assert (path / "mode").stat().st_mode & 0o777 == 0o600


def test_an_upload_that_fails_is_kept_and_tried_again(service: Service, make: Make) -> None:
    mount = make("bkt:/e", op_timeout=3)
    mount.allowed = [r"f is safe on the local disk, but not in the bucket"]
    service.faults({**PUT, "action": "status", "status": 403})
    (mount.path / "f").write_bytes(b"kept")
    wait_for(lambda: "f is safe on the local disk, but not in the bucket" in mount.log(), "a line in the log")
    assert (mount.path / "f").read_bytes() == b"kept"
    assert pending(mount)[0] == 1
    service.faults()
    wait_for(lambda: service.exists("e/f"), "the upload")
    assert service.read("e/f") == b"kept"
    wait_for(lambda: pending(mount) == (0, 0), "the end of the entry")


def test_unmounting_without_the_bucket_keeps_what_is_pending(service: Service, make: Make) -> None:
    mount = make("bkt:/g", op_timeout=3)
    mount.allowed = [r"not in the bucket", r"did not reach", r"are safe in", r"AccessDenied|403"]
    (mount.path / "f").write_bytes(b"old")
    run("sync", mount.path)
    service.faults({**PUT, "action": "status", "status": 403})
    (mount.path / "f").write_bytes(b"new")
    (mount.path / "g").write_bytes(b"fresh")
    run("umount", mount.path)
    mount.await_end(status=1)
    assert "2 files are safe in" in mount.log()
    status, said = mount.try_mount()
    assert status == 1 and "2 files that an earlier mount accepted cannot be uploaded" in said
    service.faults()
    mount.mount()
    assert service.read("g/f") == b"new" and service.read("g/g") == b"fresh"


@pytest.mark.parametrize("crash", [False, True])
def test_a_foreign_object_under_a_pending_name_is_kept(service: Service, make: Make, crash: bool) -> None:
    mount = make(f"bkt:/h{crash}", op_timeout=3)
    mount.allowed = [
        r"conflict",
        r"could not be kept",
        r"not in the bucket",
        r"somebody else",
        r"attempt \d+",
    ]
    key = mount.prefix
    service.write(f"{key}replaced", b"base")
    for n in (1, 2):
        service.write(f"theirs{n}", f"theirs {n}".encode())
    (mount.path / "replaced").read_bytes()
    service.faults({**PUT, **BUSY})
    (mount.path / "made").write_bytes(b"ours 1")
    with (mount.path / "replaced").open("r+b") as file:
        file.truncate(0)
        file.write(b"ours 2")
    if crash:
        mount.kill()
        run("umount", "-l", mount.path)
    service.sdk.copy_object(BUCKET, "theirs1", f"{key}made")  # no PutObject, which fails
    service.sdk.copy_object(BUCKET, "theirs2", f"{key}replaced")
    if not crash:
        # An attempt may have looked before the copy and not sent its PUT yet: the next one looks again.
        looks = heads(service)
        wait_for(lambda: heads(service) >= looks + 2, "two looks at it")
    service.faults()
    if crash:
        mount.mount()
    wait_for(lambda: len(service.keys(f"{key}")) == 4, "what was kept beside")
    assert service.read(f"{key}made") == b"theirs 1" and service.read(f"{key}replaced") == b"theirs 2"
    kept = [k for k in service.keys(key) if ".conflict-" in k]
    assert sorted(service.read(k) for k in kept) == [b"ours 1", b"ours 2"]


def test_writeback_needs_a_cache_dir(new_mount: Make) -> None:
    mount = new_mount(mounted=False, writeback=True)
    status, said = mount.try_mount()
    assert status == 1 and "writeback needs a place" in said


def test_a_full_disk(service: Service, new_mount: Make, tmp_path: Path) -> None:
    """A small disk is never filled: close fails, or waits for the bucket, while there is still room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=80m,mode=700", "tmpfs", disk)
    try:
        mount = new_mount("bkt:/full", cache_dir=disk, writeback=True, op_timeout=2)
        mount.allowed = [r"attempt \d+", r"nearly full", r"no room", r"not in the bucket", r"after \d+ att"]
        service.faults({**PUT, **BUSY})
        accepted = []
        with pytest.raises(OSError) as caught:
            for n in range(20):
                (mount.path / f"f{n}").write_bytes(bytes([n]) * (8 << 20))
                accepted.append(n)
        assert caught.value.errno == errno.ENOSPC
        assert 3 <= len(accepted) <= 8
        free = os.statvfs(disk)
        assert free.f_bavail * free.f_frsize >= 4 << 20
        service.faults()
        (mount.path / "last").write_bytes(b"goes through")
        mount.umount()
        for n in accepted:
            assert service.read(f"full/f{n}") == bytes([n]) * (8 << 20)
        assert service.read("full/last") == b"goes through"
        assert not service.exists(f"full/f{len(accepted)}")
        mount.mount()
        mount.umount()
    finally:
        run("umount", "-l", disk)
