"""One byte budget for everything: many files at once, memory that stays bounded, nobody waits for ever."""

from __future__ import annotations

import os
import random
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounts import MIB, Mount, Service, python, wait_for

KIB = 1024
RESIDENT = (64 + 120) * MIB


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def body(number: int, size: int) -> bytes:
    return random.Random(number).randbytes(size)


def test_200_files_written_at_once(
    service: Service, new_mount: Callable[..., Mount], many_descriptors: None
) -> None:
    mount = new_mount(memory="64MB")
    files = [os.open(mount.path / f"f{i}", os.O_WRONLY | os.O_CREAT) for i in range(200)]
    bodies = [body(i, 2 * MIB) for i in range(200)]
    for at in range(0, 2 * MIB, 256 * KIB):
        for i, fd in enumerate(files):
            os.write(fd, bodies[i][at : at + 256 * KIB])
    for fd in files:
        os.close(fd)
    peak = mount.memory_peak()
    for i in range(200):
        assert service.read(f"f{i}") == bodies[i]
    assert peak < RESIDENT, f"{peak / MIB:.0f} MiB resident"


def test_2000_open_files_of_60_kib(
    service: Service, new_mount: Callable[..., Mount], many_descriptors: None
) -> None:
    """60 KiB can be no part, and 2000 of them are more than the budget."""
    mount = new_mount(memory="64MB")
    files = []
    for i in range(2000):
        fd = os.open(mount.path / f"s{i}", os.O_RDWR | os.O_CREAT)
        os.write(fd, body(i, 60 * KIB))
        files.append(fd)
    assert os.pread(files[7], 60 * KIB, 0) == body(7, 60 * KIB)
    for fd in files:
        os.close(fd)
    peak = mount.memory_peak()
    mount.remount()
    for i in range(0, 2000, 37):
        assert (mount.path / f"s{i}").read_bytes() == body(i, 60 * KIB)
    assert len(service.keys("s")) == 2000
    assert peak < RESIDENT, f"{peak / MIB:.0f} MiB resident"


def test_a_mount_killed_in_a_checkpoint_leaves_the_old_object(
    service: Service, new_mount: Callable[..., Mount]
) -> None:
    """A part that nobody holds any more is patched: what stands under the name then is not finished."""
    old = body(1, 3 * MIB)
    service.write("checkpointed", old)
    mount = new_mount(memory="32MB", chunk_size="5MB")
    path = mount.path / "checkpointed"
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    for i in range(16):
        os.write(fd, body(i, 5 * MIB))
    service.stats(reset=True)
    os.pwrite(fd, b"patched", 22 * MIB)
    assert service.stats()["requests"].get("Complete") == 1, "the part was still held"
    assert service.read("checkpointed") != old
    mount.kill()
    with pytest.raises(OSError):
        os.close(fd)
    mount.allowed.append("its old version is put back")
    mount.mount()
    wait_for(lambda: service.read("checkpointed") == old, "the old object put back")
    wait_for(lambda: not [k for k in service.keys("") if ".ossfs-" in k], "the hidden copy removed")
    assert path.read_bytes() == old


def test_a_checkpointed_file_that_is_closed_stays(service: Service, new_mount: Callable[..., Mount]) -> None:
    service.write("finished", body(1, 3 * MIB))
    mount = new_mount(memory="32MB", chunk_size="5MB")
    path: Path = mount.path / "finished"
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    for i in range(16):
        os.write(fd, body(i, 5 * MIB))
    os.pwrite(fd, b"patched", 22 * MIB)
    os.close(fd)
    mount.kill()
    mount.mount()
    python(
        "import sys; data = open(sys.argv[1], 'rb').read(); assert len(data) == 80 << 20;"
        "assert data[22 << 20 : (22 << 20) + 7] == b'patched'",
        path,
    )
    assert not [k for k in service.keys("") if ".ossfs-" in k]
