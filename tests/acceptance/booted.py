"""A Debian that is booted under systemd-nspawn, with ossfs as `make install` installs it.

The root is made with debootstrap from where this machine's apt gets its packages, of this machine's own
release, so that Python is the same.  OSSFS_ACCEPTANCE_ROOT names a directory to keep it in between two
runs.  The machine shares this one's network: a server on the loopback is its server, too.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.support.mounts import IN_A_NAMESPACE, end, run, run_status, spawn, wait_for

CHECKOUT: Final = Path(__file__).parents[2]
PACKAGES: Final = (
    "systemd,systemd-sysv,libpam-systemd,dbus,dbus-user-session,python3,fuse3,mount,procps,psmisc"
)
USER: Final = "someone"
UID: Final = 1000
_BOOT_SECONDS: Final = 180.0

ONLINE: Final = """
[Unit]
Description=The network, which takes its time
Before=network-online.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sleep 2
[Install]
WantedBy=network-online.target
"""
"""Nothing configures a network in the machine; something has to be waited for."""


def make_root(root: Path) -> None:
    """A minimal Debian in *root*, and ossfs in its /usr/local; what is there already is kept."""
    marker = root / ".complete"
    if not marker.exists():
        shutil.rmtree(root, ignore_errors=True)
        release = platform.freedesktop_os_release()["VERSION_CODENAME"]
        mirror = run(
            "apt-get",
            "indextargets",
            "--format",
            "$(REPO_URI)",
            "Created-By: Packages",
            f"Codename: {release}",
        ).split()[0]
        run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", release, root, mirror, seconds=900)
        (root / "etc" / "hostname").write_text("acceptance\n")
        run("chroot", root, "useradd", "--create-home", "--uid", str(UID), "--shell", "/bin/sh", USER)
        marker.touch()
    # The real /usr/local is covered, so that the paths are those that hold inside.
    run(
        "unshare",
        "-m",
        "sh",
        "-ec",
        IN_A_NAMESPACE
        + 'mount --bind "$1" /usr/local; cd "$2"; make --no-print-directory install HELPER_PREFIX="$3"',
        "sh",
        root / "usr" / "local",
        CHECKOUT,
        root,
        seconds=600,
    )


class Booted:
    """One machine.  It may be switched off, and booted again."""

    def __init__(self, root: Path, log: Path) -> None:
        self.root = root
        self._log = log
        # Of its own, since the host's may be for root only.
        self._fuse = log.parent / "fuse"
        os.mknod(self._fuse, 0o020666, os.stat("/dev/fuse").st_rdev)
        os.chmod(self._fuse, 0o666)
        self._process: subprocess.Popen[bytes] | None = None
        self._enter: list[str] = []

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file in the machine, running or not."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def enable(self, *units: str) -> None:
        """For the next boot."""
        run("systemctl", f"--root={self.root}", "enable", *units)

    def boot(self) -> None:
        """Start it; returns when systemd has started all that it will start."""
        command = ["systemd-nspawn", "-D", self.root, "-b", "-M", f"ossfs-{os.getpid()}", "--register=no"]
        command += ["--keep-unit", f"--bind={self._fuse}:/dev/fuse", "--link-journal=no", "--console=pipe"]
        if os.path.exists("/dev/autofs"):
            command.append("--bind=/dev/autofs")
        with open(self._log, "ab") as log:
            self._process = spawn(command, stdout=log, stderr=log)
        leader = wait_for(self._leader, "systemd to start", 30)
        self._enter = ["nsenter", "-t", leader, "-m", "-u", "-i", "-p"]
        wait_for(
            lambda: run_status(*self._enter, "--", "test", "-S", "/run/systemd/private")[0] == 0,
            "its systemd",
        )
        self._settle()

    def _settle(self) -> None:
        """Until no job is left; what a boot that comes to no end waits for is said."""

        def settled() -> bool:
            return self.systemctl("is-system-running", status=None).strip() in ("running", "degraded")

        try:
            until(settled, "the end of the boot", _BOOT_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.systemctl('list-jobs', '--after')}") from None

    def _leader(self) -> str:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"systemd-nspawn has ended: {self._log.read_text()}")
        pid = self._process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return child
        return ""

    def run(self, *command: str | os.PathLike[str], status: int | None = 0, seconds: float = 120) -> str:
        """Standard output and error of a command in it."""
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "HOME": "/root"}
        return run(*self._enter, "--", *command, env=environment, cwd="/", status=status, seconds=seconds)

    def systemctl(self, *arguments: str, status: int | None = 0, seconds: float = 120) -> str:
        """What systemctl says in it."""
        return self.run("systemctl", *arguments, status=status, seconds=seconds)

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.systemctl("show", "--value", "-p", name, unit).strip()

    def as_user(self, *command: str, status: int | None = 0) -> str:
        """A command of an ordinary user, with a session."""
        runtime = f"XDG_RUNTIME_DIR=/run/user/{UID}"
        return self.run(
            "runuser", "-u", USER, "--", "env", "-C", f"/home/{USER}", runtime, *command, status=status
        )

    def is_mounted(self, place: str) -> bool:
        """Is an ossfs mounted there?  The mount itself is not asked."""
        mounts = json.loads(
            self.run("findmnt", "-J", "-t", "fuse.ossfs", status=None) or '{"filesystems": []}'
        )

        def places(found: list[dict[str, Any]]) -> set[str]:
            return {m["target"] for m in found} | {p for m in found for p in places(m.get("children", []))}

        return place in places(mounts["filesystems"])

    def journal(self, *arguments: str) -> str:
        """Lines of its journal."""
        return self.run("journalctl", "--no-pager", "-b", *arguments)

    def hold(self, path: str, size: int, *, user: bool = False) -> subprocess.Popen[bytes]:
        """A program that has written a file, and not closed it; it ends when its standard input does."""
        program = (
            "import sys; f = open(sys.argv[1], 'wb', 0); f.write(b'x' * int(sys.argv[2]))\n"
            "print('ready', flush=True); sys.stdin.read()"
        )
        read, write = os.pipe()
        # It executes the program in its place; runuser would stand between.
        become = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"] if user else []
        command = [*self._enter, "--", *become, "python3", "-c", program, path, str(size)]
        started = spawn(command, stdin=read, stdout=subprocess.PIPE, cwd="/")
        os.close(read)
        started.stdin = os.fdopen(write, "wb")
        assert started.stdout is not None
        assert started.stdout.readline() == b"ready\n"
        return started

    def kill(self, program: subprocess.Popen[bytes]) -> None:
        """kill -9 a program that holds a file."""
        child = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()[0]
        os.kill(int(child), signal.SIGKILL)
        self.let_go(program)

    @staticmethod
    def let_go(program: subprocess.Popen[bytes]) -> None:
        """It closes its file, and ends."""
        assert program.stdin is not None and program.stdout is not None
        program.stdin.close()
        program.wait(60)
        program.stdout.close()

    def poweroff(self, seconds: float = 300) -> None:
        """As an administrator does it; returns when it is off."""
        assert self._process is not None
        self.systemctl("poweroff", "--no-block")
        assert self._process.wait(seconds) == 0, self._log.read_text()

    def close(self) -> None:
        """Switch it off in whatever way works."""
        if self._process is not None and self._process.poll() is None:
            leader = self._leader()
            if leader:
                os.kill(int(leader), signal.SIGKILL)
            end(self._process)
        self._fuse.unlink()


def until(condition: Callable[[], Any], what: str, seconds: float = 120.0) -> Any:
    """wait_for, at the pace of programs in another machine."""

    def asked() -> Any:
        answer = condition()
        if not answer:
            time.sleep(0.2)  # each question is a process
        return answer

    return wait_for(asked, what, seconds)
