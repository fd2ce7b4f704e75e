"""A server and a mount for each module, and fresh ones for those tests that break theirs."""

from __future__ import annotations

import os
import random
import re
import shutil
import sysconfig
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.support.mounts import MIB, Mount, Room, Service, sweep_dead_sessions

WATCHDOG_SECONDS = 100.0
"""Less than the time limit of a test: a mount that hangs is killed, so that the test can end and say so."""

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is here, and skip it where nothing can be mounted."""
    missing = _why_not()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.mount)
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"REAL MOUNTS ARE NOT TESTED: {missing}"))


def _why_not() -> str:
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


@pytest.fixture(autouse=True)
def _watchdog() -> Iterator[None]:
    """Kill the mounts of a test that takes too long; whoever waits for them gets an error then."""
    fired = []

    def bark() -> None:
        for mount in Mount.live:
            if mount.running():
                fired.append(mount)
                mount.kill()

    timer = threading.Timer(WATCHDOG_SECONDS, bark)
    timer.start()
    yield
    timer.cancel()
    timer.join()
    assert not fired, f"after {WATCHDOG_SECONDS:g} seconds the mounts were killed"


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Certificate, key and CA for 127.0.0.1."""
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    cert, key, ca = (directory / name for name in ("cert.pem", "key.pem", "ca.pem"))
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    ca.write_bytes(authority.cert_pem.bytes())
    return cert, key, ca


@pytest.fixture(scope="module")
def service(room: Room) -> Iterator[Service]:
    """A server that the tests of a module share."""
    made = Service(room.make("server"))
    yield made
    made.stop()
    assert not made.log()


@pytest.fixture(scope="module")
def shared_mount(room: Room, service: Service) -> Iterator[Mount]:
    """One mount that the tests of a module share; each works in a directory of its own."""
    mount = Mount(service, room, options={"chunk_size": "5MB"})
    mount.mount()
    yield mount
    mount.close()


@pytest.fixture
def mount(shared_mount: Mount) -> Iterator[Mount]:
    """The module's mount, mounted again if an earlier test has lost it; its log is looked at afterwards."""
    if not shared_mount.running():
        shared_mount.mount()
    yield shared_mount
    unexpected, shared_mount.allowed = shared_mount.unexpected(), []
    assert not unexpected, "in the log of the mount:\n" + "\n".join(unexpected)
    assert not shared_mount.service.uploads(), "unfinished uploads stay behind"


@pytest.fixture
def place(mount: Mount, request: pytest.FixtureRequest) -> Path:
    """A directory in the module's mount for this test alone."""
    made = mount.path / re.sub(r"\W+", "-", request.node.name)
    made.mkdir()
    return made


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
