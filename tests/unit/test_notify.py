"""What the service manager is told, at a socket of the test's."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from ossfs.notify import Notifier, uploads_text


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock


def heard(sock: socket.socket) -> list[str]:
    said = []
    while True:
        try:
            said.append(sock.recv(4096).decode())
        except BlockingIOError:
            return said


def test_each_event_is_one_datagram(manager: socket.socket) -> None:
    notifier = Notifier(manager.getsockname())
    notifier.ready("usable")
    notifier.status("busy")
    notifier.status("busy")
    notifier.stopping("ending")
    notifier.close()
    notifier.status("nothing")
    assert heard(manager) == ["READY=1\nSTATUS=usable", "STATUS=busy", "STOPPING=1\nSTATUS=ending"]


def test_an_abstract_socket() -> None:
    name = f"ossfs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        sock.setblocking(False)
        notifier = Notifier("@" + name)
        notifier.ready("usable")
        notifier.close()
        assert heard(sock) == ["READY=1\nSTATUS=usable"]


def test_children_do_not_inherit_it(manager: socket.socket) -> None:
    environment = {
        "NOTIFY_SOCKET": manager.getsockname(),
        "WATCHDOG_USEC": "3000000",
        "WATCHDOG_PID": str(os.getpid()),
        "HOME": "/",
    }
    notifier = Notifier.from_environment(environment)
    notifier.close()
    assert environment == {"HOME": "/"}
    assert notifier.watchdog == 3.0


@pytest.mark.parametrize(
    "changes",
    [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": ""}],
)
def test_a_watchdog_that_is_not_for_us(manager: socket.socket, changes: dict[str, str]) -> None:
    environment = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "3000000", **changes}
    notifier = Notifier.from_environment(environment)
    notifier.close()
    assert notifier.watchdog is None


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
async def test_nobody_asked(environment: dict[str, str]) -> None:
    notifier = Notifier.from_environment(environment)
    assert not notifier.enabled
    notifier.ready("usable")
    with trio.fail_after(5):
        await notifier.run(lambda: "")


async def test_signs_of_life_three_in_the_time_granted(
    manager: socket.socket, autojump_clock: trio.testing.MockClock
) -> None:
    notifier = Notifier(manager.getsockname(), watchdog=3.0)
    with trio.move_on_after(2.5):
        await notifier.run(lambda: "all is well")
    notifier.close()
    assert heard(manager) == ["WATCHDOG=1", "STATUS=all is well", "WATCHDOG=1", "WATCHDOG=1"]


async def test_without_a_watchdog_only_the_status(
    manager: socket.socket, autojump_clock: trio.testing.MockClock
) -> None:
    notifier = Notifier(manager.getsockname())
    lines = iter("abc")
    with trio.move_on_after(12):
        await notifier.run(lambda: next(lines))
    notifier.close()
    assert heard(manager) == ["STATUS=a", "STATUS=b", "STATUS=c"]


def test_a_manager_that_has_gone_ends_nothing(
    manager: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(manager.getsockname())
    os.unlink(manager.getsockname())
    notifier.ready("usable")
    notifier.close()
    assert "cannot be told READY=1" in caplog.text


def test_the_status_line() -> None:
    assert uploads_text(0, 0) == "all written files are in the bucket"
    assert uploads_text(1, 1) == "uploads pending: 1 file, 1 MB"
    assert uploads_text(3, 5 << 20) == "uploads pending: 3 files, 5 MB"
