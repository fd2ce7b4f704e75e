"""A mount as a service: what it tells the service manager, and the units that are shipped."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounts import MIB, Mount, Service, is_mounted, run, spawn, wait_for

UNITS = Path(__file__).parents[2] / "systemd"


class Manager:
    """The socket of a service manager, and what was said at it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[str] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)

    def listen(self) -> list[str]:
        """The lines so far."""
        while True:
            try:
                self.said += self.socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                return self.said


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.socket.close()


def _served(new_mount: Callable[..., Mount], manager: Manager, **environment: str) -> Mount:
    mount = new_mount(mounted=False)
    mount.environment |= {"NOTIFY_SOCKET": str(manager.path), **environment}
    mount.mount()
    return mount


def test_ready_is_said_when_the_mount_is_usable(new_mount: Callable[..., Mount], manager: Manager) -> None:
    mount = _served(new_mount, manager)
    wait_for(lambda: "READY=1" in manager.listen(), "READY=1")
    assert is_mounted(mount.path)
    (mount.path / "f").write_bytes(b"x")
    mount.umount()
    lines = [line for line in manager.listen() if not line.startswith("STATUS=")]
    assert lines == ["READY=1", "STOPPING=1"]


def test_a_mount_that_fails_is_never_ready(
    new_mount: Callable[..., Mount], manager: Manager, service: Service
) -> None:
    mount = new_mount(mounted=False)
    mount.environment |= {"NOTIFY_SOCKET": str(manager.path), "OSS_ACCESS_KEY_SECRET": "wrong-secret"}
    run(*mount.command(), "-f", env=mount.environment, status=1)
    assert "READY=1" not in manager.listen()


def test_the_status_line_tells_of_uploads(
    new_mount: Callable[..., Mount], manager: Manager, service: Service
) -> None:
    # A watchdog of three seconds makes the line be looked at each second.
    mount = _served(new_mount, manager, WATCHDOG_USEC="3000000")
    holder = "import sys; f = open(sys.argv[1], 'wb', 0); f.write(bytes(1 << 20)); sys.stdin.read()"
    read, write = os.pipe()
    writer = spawn([sys.executable, "-c", holder, mount.path / "held"], stdin=read)
    wait_for(lambda: any("uploads pending: 1 file" in line for line in manager.listen()), "the status line")
    os.close(read)
    os.close(write)
    assert writer.wait(30) == 0
    wait_for(lambda: "all written files are in the bucket" in manager.listen()[-1], "the status line")
    assert len(service.read("held")) == MIB
    mount.umount()


def test_a_hung_loop_gives_no_sign_of_life(new_mount: Callable[..., Mount], manager: Manager) -> None:
    mount = _served(new_mount, manager, WATCHDOG_USEC="600000")
    wait_for(lambda: manager.listen().count("WATCHDOG=1") >= 2, "two signs of life")
    mount.signal(signal.SIGSTOP)
    try:
        wait_for(lambda: Path(f"/proc/{mount.pid}/stat").read_text().split(") ")[1][0] == "T", "it to stop")
        before = len(manager.listen())
        with pytest.raises(AssertionError, match="still waiting"):
            wait_for(lambda: len(manager.listen()) > before, "a sign of life", seconds=1.5)
    finally:
        mount.signal(signal.SIGCONT)
    wait_for(lambda: len(manager.listen()) > before, "a sign of life")
    mount.umount()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
@pytest.mark.parametrize(
    "unit", sorted(path.name for path in UNITS.iterdir() if path.suffix in (".service", ".mount"))
)
def test_systemd_accepts_the_units(unit: str, tmp_path: Path) -> None:
    """verify ends with 0 for some of what it complains of, so nothing may be said of ours either."""
    output = run(
        "systemd-analyze",
        "verify",
        "--user" if "user" in unit else "--system",
        "--man=no",
        unit.replace("@.", "@data."),
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{UNITS}:", "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert unit.partition("@")[0] not in output, output


def test_the_units_make_no_mount_namespace() -> None:
    """In a namespace of its own the mount would be seen by nobody else."""
    for unit in UNITS.glob("*.service"):
        settings = [line.partition("=")[0] for line in unit.read_text().splitlines()]
        hiding = ("Protect", "Private", "ReadWrite", "ReadOnly", "Inaccessible", "Bind", "Mount", "Dynamic")
        assert not [name for name in settings if name.startswith(hiding)]
