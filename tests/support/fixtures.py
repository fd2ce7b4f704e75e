"""Fixtures that all tests with real mounts share, a plugin of tests/conftest.py.

Threading: none of its own; `Room` and `Service` say theirs.
"""

from __future__ import annotations

import os
import random
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mounts import MIB, Mount, Room, Service, sweep_dead_sessions


def why_not() -> str:
    """Why nothing can be mounted here; "" when it can."""
    if not os.path.exists("/dev/fuse"):
        return "there is no /dev/fuse (modprobe fuse; in a container, --device /dev/fuse)"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/fuse: {error.strerror}"
    return ""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Show the logs of the mounts with a failure."""
    report = yield
    if report.failed:
        for mount in Mount.live:
            report.sections.append((f"log of {mount.path}", "\n".join(mount.log().splitlines()[-60:])))
    return report


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    sweep_dead_sessions(tmp_path_factory.getbasetemp().parent)
    made = Room(tmp_path_factory.mktemp("mounts"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def source_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real tree, and in it everything that an archive can hold and a mount can keep."""
    top = tmp_path_factory.mktemp("tree")
    library = Path(sysconfig.get_path("stdlib"))
    for package in ("json", "email", "encodings"):
        shutil.copytree(library / package, top / package, ignore=shutil.ignore_patterns("__pycache__"))
    odd = top / "odd"
    odd.mkdir()
    for mode in (0o600, 0o444, 0o755, 0o4755, 0o2711, 0o000):
        (odd / f"mode-{mode:04o}").write_text(f"{mode}\n")
        (odd / f"mode-{mode:04o}").chmod(mode)
    (odd / "empty").touch()
    (odd / "large").write_bytes(random.Random(1).randbytes(12 * MIB + 345))
    (odd / "owned").write_text("of somebody else\n")
    os.chown(odd / "owned", 1234, 5678)
    (odd / "old").write_text("long ago\n")
    os.utime(odd / "old", (1, 1))
    (odd / "link").symlink_to("mode-0600")
    (odd / "up").symlink_to("../json/__init__.py")
    (odd / "dangling").symlink_to("no/such/file")
    (odd / "to-directory").symlink_to("../email")
    os.mkfifo(odd / "pipe", 0o640)
    (odd / "bare").mkdir(0o700)
    (odd / "sticky").mkdir()
    (odd / "sticky").chmod(0o1777)
    os.utime(odd / "bare", (1_000_000_000, 1_000_000_000))
    return top


@pytest.fixture(scope="module")
def service(room: Room) -> Iterator[Service]:
    """A server that the tests of a module share."""
    made = Service(room.make("server"))
    yield made
    made.stop()
    assert not made.log()


@pytest.fixture
def new_mount(room: Room, service: Service) -> Iterator[Callable[..., Mount]]:
    """Mounts of a test's own, which are unmounted, and their logs looked at, when it ends."""
    made: list[Mount] = []

    def make(source: str = "bkt", *, mounted: bool = True, **options: Any) -> Mount:
        mount = Mount(service, room, source=source, options=options)
        made.append(mount)
        if mounted:
            mount.mount()
        return mount

    yield make
    service.faults()
    service.latency(0)
    service.bandwidth(0)
    problems = []
    for mount in made:
        try:
            mount.close()
        except AssertionError as error:
            problems.append(str(error))
    assert not problems, "\n".join(problems)
