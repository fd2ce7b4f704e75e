"""The read cache of real mounts: by the server's own counters, and by what programs read."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.mounts import MIB, Mount, Service, run


def gets(service: Service) -> int:
    """Requests for data since the counters were reset."""
    return int(service.stats()["requests"].get("Get", 0))


def blocks(cache: Path) -> list[Path]:
    return [p for p in cache.glob("*/blocks/*/*") if p.is_file()]


def fill(service: Service, prefix: str) -> dict[str, bytes]:
    """Objects of sizes that are read in different ways."""
    rng = random.Random(prefix)
    made = {f"{prefix}small{n}": rng.randbytes(rng.randrange(1, 9000)) for n in range(20)}
    made |= {f"{prefix}{size}": rng.randbytes(size) for size in (128 << 10, 130 << 10, 3 * MIB, 21 * MIB + 7)}
    for key, data in made.items():
        service.write(key, data)
    return made


def read_all(mount: Mount, made: dict[str, bytes]) -> None:
    for key, data in made.items():
        path = mount.path / key
        os.stat(path)
        assert path.read_bytes() == data, key


def read_warm(mount: Mount, service: Service, made: dict[str, bytes]) -> None:
    """After a remount nothing is fetched.

    What the disk could not take in time is not cached, by design: then the next reading brings it.
    """
    for _ in range(4):
        mount.remount()
        service.stats(reset=True)
        read_all(mount, made)
        if not gets(service):
            break
    assert gets(service) == 0


def test_warm_reading_after_a_remount_asks_for_no_data(
    service: Service, new_mount: Callable[..., Mount], tmp_path: Path
) -> None:
    made = fill(service, "warm-")
    mount = new_mount(cache_dir=tmp_path / "cache")
    read_all(mount, made)
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    read_warm(mount, service, made)
    counters: dict[str, Any] = mount.status()["counters"]
    assert counters["cache.hits"] > 0 and counters.get("cache.corruptions", 0) == 0
    assert counters["bytes_from_cache"] >= sum(map(len, made.values()))


def test_warm_reading_after_kill_9(service: Service, new_mount: Callable[..., Mount], tmp_path: Path) -> None:
    made = fill(service, "killed-")
    mount = new_mount(cache_dir=tmp_path / "cache")
    read_all(mount, made)
    mount.kill()
    run("umount", "-l", mount.path)
    mount.mount()
    read_all(mount, made)
    read_warm(mount, service, made)


def test_what_another_client_replaced_is_read_anew(
    service: Service, new_mount: Callable[..., Mount], tmp_path: Path
) -> None:
    made = fill(service, "replaced-")
    mount = new_mount(cache_dir=tmp_path / "cache")
    read_all(mount, made)
    changed = {key: random.Random(key).randbytes(len(data)) for key, data in made.items()}
    for key, data in changed.items():
        service.write(key, data)
    for key, data in changed.items():
        assert (mount.path / key).read_bytes() == data, key
    mount.remount()
    read_all(mount, changed)


def test_what_this_mount_rewrote_is_read_anew(
    service: Service, new_mount: Callable[..., Mount], tmp_path: Path
) -> None:
    made = fill(service, "rewritten-")
    mount = new_mount(cache_dir=tmp_path / "cache")
    read_all(mount, made)
    for key, data in made.items():
        with (mount.path / key).open("r+b") as file:
            file.write(b"!")
        assert (mount.path / key).read_bytes() == b"!" + data[1:]


def test_a_damaged_disk_is_noticed_and_repaired(
    service: Service, new_mount: Callable[..., Mount], tmp_path: Path
) -> None:
    made = fill(service, "damaged-")
    mount = new_mount(cache_dir=tmp_path / "cache")
    read_all(mount, made)
    mount.umount()
    for path in blocks(tmp_path / "cache"):
        with path.open("r+b") as file:
            file.write(bytes(16))
    mount.mount()
    mount.allowed = [r"is damaged; fetching them again"]
    read_all(mount, made)
    assert mount.status()["counters"]["cache.corruptions"] >= len(made)
    read_warm(mount, service, made)


def test_the_cache_stays_within_its_size(
    service: Service, new_mount: Callable[..., Mount], tmp_path: Path
) -> None:
    service.fill("many-", 12, 10 * MIB)
    mount = new_mount(cache_dir=tmp_path / "cache", cache_size="64MB")
    for n in range(12):
        run("cmp", mount.path / f"many-{n:06d}", mount.path / "many-000000")
    mount.umount()
    assert sum(p.stat().st_blocks * 512 for p in blocks(tmp_path / "cache")) <= 64 * MIB
    mount.mount()


def test_a_full_disk_does_not_disturb_reading(
    service: Service, new_mount: Callable[..., Mount], tmp_path: Path
) -> None:
    made = fill(service, "full-")
    disk = tmp_path / "disk"
    disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk)
    try:
        mount = new_mount(cache_dir=disk / "cache")
        mount.allowed = [r"what does not fit is not cached"]
        for _ in range(2):
            read_all(mount, made)
        free = os.statvfs(disk)
        assert free.f_bavail * free.f_frsize >= 8 * MIB // 20 // 2
        mount.umount()
    finally:
        run("umount", "-l", disk)


def test_two_mounts_never_share_one(
    service: Service, new_mount: Callable[..., Mount], tmp_path: Path
) -> None:
    new_mount(cache_dir=tmp_path / "cache")
    second = new_mount(mounted=False, cache_dir=tmp_path / "cache")
    status, said = second.try_mount()
    assert status == 1
    assert "is in use by another mount" in said and "accepted: another cache_dir, or none" in said
    assert len(said.strip().splitlines()) == 1
    other = new_mount("bkt:/other", cache_dir=tmp_path / "cache")
    (other.path / "f").write_bytes(b"x")


def test_an_unknown_format_is_refused(new_mount: Callable[..., Mount], tmp_path: Path) -> None:
    mount = new_mount(cache_dir=tmp_path / "cache")
    mount.umount()
    (mark,) = tmp_path.glob("cache/*/format")
    mark.write_text("ossfs cache 2\n")
    status, said = mount.try_mount()
    assert status == 1 and "has the format 'ossfs cache 2'" in said
    mark.write_text("ossfs cache 1\n")
    mount.mount()
