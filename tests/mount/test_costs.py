"""What an operation costs in requests and bytes, by the server's own counters."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mounts import MIB, Mount, Service, run, shell

GIB = 1 << 30
LIST_ROOM = 12


@pytest.fixture
def large(service: Service, new_mount: Callable[..., Mount]) -> Iterator[tuple[Mount, Path]]:
    """A mount, and in it an object of 1 GiB, of which byte i is i % 251."""
    service.fill("large.bin", 1, GIB)
    mount = new_mount()
    yield mount, mount.path / "large.bin"


def spent(service: Service) -> tuple[int, int, int, dict[str, Any]]:
    """(requests, bytes in, bytes out) since the last reset, and what they were."""
    stats = service.stats()
    return stats["total_requests"], stats["bytes_in"], stats["bytes_out"], stats["requests"]


def content(start: int, length: int) -> bytes:
    """What the server's filled objects hold."""
    return bytes(i % 251 for i in range(start, start + length))


def test_4_kib_in_the_middle_of_1_gib(large: tuple[Mount, Path], service: Service) -> None:
    _, path = large
    fd = os.open(path, os.O_RDWR)
    service.stats(reset=True)
    os.pwrite(fd, b"y" * 4096, 500 * MIB + 123)
    os.close(fd)
    requests, sent, received, kinds = spent(service)
    assert requests <= 8, kinds
    assert sent < MIB and received < MIB
    with path.open("rb") as file:
        file.seek(500 * MIB)
        assert file.read(5000) == content(500 * MIB, 123) + b"y" * 4096 + content(500 * MIB + 4219, 781)
    assert path.stat().st_size == GIB


def test_1_kib_appended_to_1_gib(large: tuple[Mount, Path], service: Service) -> None:
    _, path = large
    with path.open("ab") as file:
        service.stats(reset=True)
        file.write(b"z" * 1024)
    requests, sent, received, kinds = spent(service)
    assert requests <= 8, kinds
    assert sent < MIB and received < MIB
    with path.open("rb") as file:
        file.seek(GIB - 10)
        assert file.read() == content(GIB - 10, 10) + b"z" * 1024


def test_truncating_to_half_downloads_nothing(large: tuple[Mount, Path], service: Service) -> None:
    _, path = large
    path.stat()
    service.stats(reset=True)
    os.truncate(path, GIB // 2)
    _, sent, received, kinds = spent(service)
    assert received < 64 * 1024 and sent < 64 * 1024, kinds
    assert path.stat().st_size == GIB // 2


def test_a_hole_of_10_gib_uploads_little(service: Service, new_mount: Callable[..., Mount]) -> None:
    # The embedded server copies for real: 5 GiB in one request, on a disk that others use, too.
    mount = new_mount(op_timeout=300)
    path = mount.path / "hole"
    service.stats(reset=True)
    run("truncate", "-s", "10G", path)
    _, sent, _, kinds = spent(service)
    assert sent < 20 * MIB, kinds
    assert path.stat().st_size == 10 * GIB
    mount.remount()
    with path.open("rb") as file:
        file.seek(7 * GIB + 1)
        assert file.read(3 * MIB) == bytes(3 * MIB)


def test_a_thousand_children_with_one_descriptor(service: Service, new_mount: Callable[..., Mount]) -> None:
    """make >log: at most 20 uploads, and every line."""
    mount = new_mount()
    service.stats(reset=True)
    shell("for i in $(seq 1000); do /bin/echo line $i; done >log", cwd=mount.path)
    stats = service.stats()["requests"]
    assert stats.get("Put", 0) + stats.get("Complete", 0) <= 20, stats
    mount.remount()
    assert (mount.path / "log").read_text() == "".join(f"line {i}\n" for i in range(1, 1001))


@pytest.mark.parametrize("words", ["abc", "ab"])
def test_a_redirection_is_in_the_bucket_when_the_shell_returns(
    words: str, service: Service, new_mount: Callable[..., Mount]
) -> None:
    mount = new_mount()
    shell("(" + "; ".join(f"/bin/echo {word}" for word in words) + ") >f", cwd=mount.path)
    assert service.read("f").decode().split() == list(words)


def test_listing_10000_files(service: Service, new_mount: Callable[..., Mount]) -> None:
    """ls: a request for each thousand; ls -l: one more for each file, once."""
    # Long ago: what was written within the last two seconds is looked at again.
    service.clock_offset(-60)
    service.fill("many/f", 10_000, 10)
    service.clock_offset(0)
    # A slow machine needs longer than five seconds for one of these; then all is rightly asked again.
    mount = new_mount(ttl=60)
    service.stats(reset=True)
    assert len(run("ls", "-U", mount.path / "many").split()) == 10_000
    requests, _, _, kinds = spent(service)
    assert requests <= LIST_ROOM, kinds
    assert run("ls", "-l", mount.path / "many").count("\n") == 10_001
    service.stats(reset=True)
    run("ls", "-l", mount.path / "many")
    requests, _, _, kinds = spent(service)
    assert requests <= LIST_ROOM, kinds


def test_a_remount_remembers_the_attributes(
    service: Service, new_mount: Callable[..., Mount], tmp_path: Path
) -> None:
    """With a cache directory, `ls -l` after a remount asks for the listing alone."""
    service.clock_offset(-60)
    service.fill("kept/f", 3000, 10)
    service.clock_offset(0)
    mount = new_mount(ttl=60, cache_dir=str(tmp_path / "cache"))
    before = run("ls", "-l", mount.path / "kept")
    mount.remount()
    service.stats(reset=True)
    assert run("ls", "-l", mount.path / "kept") == before
    requests, _, _, kinds = spent(service)
    assert kinds.get("Head", 0) <= 2 and requests <= 8, kinds


def test_find_over_100_directories(service: Service, new_mount: Callable[..., Mount]) -> None:
    for i in range(100):
        service.fill(f"tree/d{i:02}/f", 20, 10)
    mount = new_mount()
    service.stats(reset=True)
    assert len(run("find", mount.path / "tree").split()) == 2101
    requests, _, _, kinds = spent(service)
    assert requests <= 110, kinds
