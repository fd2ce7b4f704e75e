"""A server and a mount for each module, and fresh ones for those tests that break theirs."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.support.fixtures import why_not
from tests.support.mounts import Mount, Room, Service

WATCHDOG_SECONDS = 100.0
"""Less than the time limit of a test: a mount that hangs is killed, so that the test can end and say so."""

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is here, and skip it where nothing can be mounted."""
    missing = why_not()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.mount)
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"REAL MOUNTS ARE NOT TESTED: {missing}"))


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
