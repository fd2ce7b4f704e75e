"""A mount is killed in the middle of a directory rename: every file is under its old or its new name.

Where it dies is counted in requests: from a certain one on the server answers nothing, and when all before
it are answered, the mount is killed.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable

import pytest

from tests.support.mounts import Mount, Service, end, spawn, wait_for

FILES = 60
REQUESTS = 74
"""Of such a rename, lookups included; a point behind the last one is a death right after it."""
COUNT = int(os.environ.get("OSSFS_TEST_KILLS", "10"))
"""Points in a run; each takes some seconds, and the whole suite has ten minutes."""
POINTS = sorted(random.Random(4).sample(range(REQUESTS), COUNT))
RENAME = ["mv", "-T"]


def _make(service: Service, top: str) -> dict[str, bytes]:
    """A directory with subdirectories, seen as another client sees it; what it holds, by path."""
    rng = random.Random(top)
    files = {
        f"{rng.choice(['', '', 'sub/', 'sub/deep/', 'bare/'])}{n:02}": rng.randbytes(n * 37)
        for n in range(FILES)
    }
    for name in ("", "sub/", "sub/deep/", "empty/"):
        service.write(f"{top}/{name}", b"")
    for path, data in files.items():
        service.write(f"{top}/{path}", data)
    return files


def _held(service: Service, top: str) -> dict[str, bytes]:
    return {key[len(top) + 1 :]: service.read(key) for key in service.keys(f"{top}/") if key[-1] != "/"}


def _check_nothing_lost(files: dict[str, bytes], old: dict[str, bytes], new: dict[str, bytes]) -> None:
    for path, data in files.items():
        found = [held[path] for held in (old, new) if path in held]
        assert found and all(item == data for item in found), path
    assert old.keys() | new.keys() == files.keys()


@pytest.mark.parametrize("point", POINTS)
def test_a_mount_killed_while_it_renames_a_directory_loses_nothing(
    point: int, mount: Mount, service: Service
) -> None:
    top, other = f"old-{point}", f"new-{point}"
    files = _make(service, top)
    wait_for((mount.path / top / "sub").is_dir, "what the other client has put")
    service.stats(reset=True)
    service.faults({"op": "*", "action": "stall", "skip": point, "count": -1})
    renaming = spawn([*RENAME, mount.path / top, mount.path / other], stderr=subprocess.DEVNULL)

    def stopped() -> bool:
        stats = service.stats()
        return stats["total_requests"] - stats["faults"].get("stall", 0) == point == _answered(stats)

    try:
        wait_for(lambda: stopped() or renaming.poll() is not None, f"request {point} of the rename")
    finally:
        mount.kill()
        service.faults()
        end(renaming)
    old, new = _held(service, top), _held(service, other)
    _check_nothing_lost(files, old, new)
    if 20 <= point <= 60:
        assert new and old == files, "it was to die among the copies"

    mount.mount()
    shown = [
        {str(p.relative_to(d)): p.read_bytes() for p in d.rglob("*") if p.is_file()} if d.is_dir() else {}
        for d in (mount.path / top, mount.path / other)
    ]
    assert shown == [old, new]
    if old:  # The program that was killed with it does its work again.
        if new:
            run_again = ["cp", "-a", f"{mount.path / other}/.", mount.path / top]
            assert spawn(run_again).wait(30) == 0
            assert spawn(["rm", "-r", mount.path / other]).wait(30) == 0
        os.rename(mount.path / top, mount.path / other)
    assert _held(service, other) == files and not _held(service, top)
    assert sorted(os.listdir(mount.path / other / "sub"))
    assert not service.keys(f"{top}/")


def _answered(stats: dict[str, object]) -> int:
    statuses = stats["statuses"]
    assert isinstance(statuses, dict)
    return sum(count for status, count in statuses.items() if status != "0")


@pytest.mark.parametrize("action", ["stall", "lose"])
def test_a_mount_killed_between_two_batches_of_its_deletes_loses_nothing(
    action: str, service: Service, new_mount: Callable[..., Mount]
) -> None:
    count = 2400
    top, other = f"batches-{action}", f"moved-{action}"
    service.fill(f"{top}/", count, 10)
    mount = new_mount()
    assert (mount.path / top).is_dir()
    content = {key.rpartition("/")[2]: service.read(key) for key in service.keys(f"{top}/")[::100]}
    service.stats(reset=True)
    service.faults({"op": "DeleteMulti", "action": action, "skip": 1, "count": -1})
    renaming = spawn([*RENAME, mount.path / top, mount.path / other], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: service.stats()["faults"].get(action), "the second batch")
    finally:
        mount.kill()
        service.faults()
        end(renaming)
    new = {key.rpartition("/")[2] for key in service.keys(f"{other}/")}
    old = {key.rpartition("/")[2] for key in service.keys(f"{top}/")}
    assert len(new - {""}) == count and (old - {""}) < new
    assert all(service.read(f"{other}/{name}") == data for name, data in content.items())
    mount.mount()
    assert len(os.listdir(mount.path / other)) == count
