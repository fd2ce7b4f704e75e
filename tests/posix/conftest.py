"""Where the same calls are made: a local directory, and a mount that every user may enter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fixtures import why_not
from tests.support.mounts import Mount, Room, Service

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is here, and skip it where nothing can be mounted or no other user be played."""
    missing = _why_not()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.mount)
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"POSIX IS NOT COMPARED: {missing}"))


def _why_not() -> str:
    if os.geteuid() != 0:
        return "only root can make calls as other users"
    return why_not()


@pytest.fixture(scope="module")
def service(room: Room) -> Iterator[Service]:
    made = Service(room.make("server"))
    yield made
    made.stop()
    assert not made.log()


@pytest.fixture(scope="module")
def shared_mount(room: Room, service: Service) -> Iterator[Mount]:
    """Its log must be clean at the end."""
    made = Mount(service, room, options={"allow_other": True, "dev": True, "suid": True})
    made.mount()
    yield made
    made.close()
