"""`ossfs list` and `ossfs status` of several mounts, of dead ones, and of what is no mount."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mounts import BUCKET, Mount, Room, Service, is_mounted, ossfs_command, run_status


@pytest.fixture
def two(service: Service, room: Room, tmp_path: Path) -> Iterator[list[Mount]]:
    """Mounts with a registry of their own."""
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    mounts = [Mount(service, room, source=f"{BUCKET}:/{name}") for name in ("lives", "dies")]
    for mount in mounts:
        mount.environment["OSSFS_RUNTIME_DIR"] = str(runtime)
        mount.mount()
    yield mounts
    for mount in mounts:
        mount.close()


def ossfs(mount: Mount, *arguments: str | Path) -> tuple[int, str]:
    return run_status(*ossfs_command(), *arguments, env=mount.environment)


def states(mount: Mount, command: str) -> dict[str, Any]:
    _, said = ossfs(mount, command, "--json")
    ours = [one for one in json.loads(said) if one["source"].startswith(f"{BUCKET}:/")]
    return {one["source"].removeprefix(f"{BUCKET}:/"): one["state"] for one in ours}


def test_several_mounts_and_a_dead_one(two: list[Mount]) -> None:
    lives, dies = two
    assert states(lives, "list") == {"lives": "mounted", "dies": "mounted"}
    status, said = ossfs(lives, "status")
    assert status == 0
    assert all(f"{mount.source} on {mount.path}\nmounted, process {mount.pid}" in said for mount in two)

    dies.kill()
    assert states(lives, "status") == {"lives": "mounted", "dies": "dead"}
    status, said = ossfs(lives, "list")
    assert status == 0
    (line,) = [line for line in said.splitlines() if line.startswith(f"{dies.source} ")]
    assert " dead " in line and str(dies.path) in line
    status, said = ossfs(lives, "status")
    assert status == 1, "who watches over mounts has to hear of it"
    (line,) = [line for line in said.splitlines() if line.startswith(f"{dies.source} ")]
    what = f"its process has ended; this frees the mount point: ossfs umount {dies.path}"
    assert line == f"{dies.source} on {dies.path}: {what}"
    assert f"{lives.source} on {lives.path}\nmounted" in said, "the other is shown"

    status, said = ossfs(lives, "status", dies.path)
    assert (status, said.count("\n")) == (1, 1)
    assert said.startswith(f"ossfs: the mount at {dies.path} was dead: its process had ended before;")
    assert not is_mounted(dies.path)
    assert states(lives, "list") == {"lives": "mounted"}


def test_what_is_no_mount(tmp_path: Path) -> None:
    place = tmp_path / "directory"
    place.mkdir()
    for path, *options in ([place], [tmp_path / "nothing", "--json"], [Path("/proc"), "--watch"]):
        status, said = run_status(*ossfs_command(), "status", path, *options)
        assert (status, said) == (1, f"ossfs: {path} is not an ossfs mount\n")
