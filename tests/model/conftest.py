"""A mount for the model test on a real kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.mounts import Mount, Room, Service, sweep_dead_sessions


@pytest.fixture
def real_mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """A mount with the kernel's caches on; its log must be clean at the end."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("REAL MOUNTS ARE NOT TESTED: there is no /dev/fuse")
    sweep_dead_sessions(tmp_path_factory.getbasetemp().parent)
    room = Room(tmp_path_factory.mktemp("model"))
    service = Service(room.make("server"))
    mount = Mount(service, room, options={"chunk_size": "5MB", "memory": "64MB"})
    try:
        mount.mount()
        yield mount
        mount.close()
        assert not service.uploads_with_parts(), "unfinished uploads stay behind"
    finally:
        service.stop()
        room.close()


@pytest.fixture
def real_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mount, Mount]]:
    """Two mounts of one bucket."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("REAL MOUNTS ARE NOT TESTED: there is no /dev/fuse")
    sweep_dead_sessions(tmp_path_factory.getbasetemp().parent)
    room = Room(tmp_path_factory.mktemp("pair"))
    service = Service(room.make("server"))
    pair = [Mount(service, room, options={"ttl": 1, "memory": "64MB"}, name=name) for name in "ab"]
    try:
        for mount in pair:
            mount.mount()
        yield pair[0], pair[1]
        for mount in pair:
            mount.close()
        assert not service.uploads(), "unfinished uploads stay behind"
    finally:
        service.stop()
        room.close()
