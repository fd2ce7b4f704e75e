"""mount(8), umount(8) and /etc/fstab, with the helpers where they look for them.

They look in /sbin and nowhere else.  Each test module has a mount namespace of its own, in which /sbin is a
directory with our helpers, and a process namespace, whose end takes all mounts along.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ossfs.mount8 import HELPERS
from tests.support.mounts import (
    BUCKET,
    IN_A_NAMESPACE,
    MIB,
    Room,
    Service,
    end,
    ossfs_command,
    run,
    run_status,
    spawn,
    wait_for,
)

HOLDER = f"""
set -e
{IN_A_NAMESPACE}
mount --bind "$1" "$(realpath /sbin)"
echo ready
exec sleep infinity
"""


def _why_not() -> str:
    if os.geteuid() != 0:
        return "mounting by mount(8) is root's"
    try:
        run("unshare", "-m", "-p", "--fork", "--mount-proc", "true")
    except (AssertionError, FileNotFoundError) as error:
        return f"no namespaces here: {error}"
    return ""


pytestmark = pytest.mark.skipif(bool(reason := _why_not()), reason=reason)


def children_of(pid: int) -> list[str]:
    """Their process ids."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


class Machine:
    """A namespace with helpers in /sbin and a configuration file, where mount(8) is called."""

    def __init__(self, service: Service, room: Room) -> None:
        self.service = service
        self.directory = room.make("mount8")
        self._serial = 0
        self.places: list[Path] = []
        (self.directory / "sbin").mkdir()
        run(*ossfs_command(), "install-helper", "--prefix", self.directory)
        self.passwd = self.directory / "passwd"
        self.passwd.write_text(f"{service.key_id}:{service.key_secret}\n")
        self.passwd.chmod(0o600)
        self.log = self.directory / "log"
        self.config = self.directory / "ossfs.toml"
        self.config.write_text(
            f'endpoint = "{service.url}"\npasswd_file = "passwd"\nlog_file = "log"\nstate_dir = "state"\n'
            'memory = "64MB"\nop_timeout = 30\n'
        )
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("OSS_", "OSSFS_"))
        }
        self.environment["OSSFS_RUNTIME_DIR"] = str(self.directory / "run")
        command = ["unshare", "-m", "-p", "--fork", "--kill-child", "--mount-proc"]
        self._holder = spawn(
            [*command, "sh", "-c", HOLDER, "holder", self.directory / "sbin"], stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        self.enter = ["nsenter", "-t", children_of(self._holder.pid)[0], "-m", "-p", "--"]

    def close(self) -> None:
        """End all that runs in it."""
        end(self._holder, signal.SIGKILL)
        assert self._holder.stdout is not None
        self._holder.stdout.close()

    def place(self) -> Path:
        """A new mount point."""
        self._serial += 1
        made = self.directory / f"mnt{self._serial}"
        made.mkdir()
        self.places.append(made)
        return made

    def run(self, *command: str | os.PathLike[str], status: int | None = 0) -> str:
        """Standard output and error of a command in the namespace."""
        return run(*self.enter, *command, env=self.environment, cwd="/", status=status)

    def spawn(self, *command: str | os.PathLike[str]) -> subprocess.Popen[bytes]:
        """A process in the namespace, which ends when its standard input does."""
        read, write = os.pipe()
        started = spawn([*self.enter, *command], stdin=read, stdout=subprocess.PIPE, cwd="/")
        os.close(read)
        started.stdin = os.fdopen(write, "wb")
        assert started.stdout is not None
        assert started.stdout.readline() == b"ready\n"
        return started

    def mounted(self, place: Path) -> bool:
        """Is an ossfs mounted there, in the namespace?"""
        status, _ = run_status(*self.enter, "findmnt", "-t", "fuse.ossfs", place)
        return status == 0

    def mounts(self) -> list[dict[str, str]]:
        """What `ossfs list` says in it."""
        found: list[dict[str, str]] = json.loads(self.run(*ossfs_command(), "list", "--json"))
        return found

    def log_text(self) -> str:
        """What the mounts have logged."""
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture(scope="module")
def machine(room: Room, service: Service) -> Iterator[Machine]:
    made = Machine(service, room)
    yield made
    made.close()


@pytest.fixture
def place(machine: Machine) -> Iterator[Path]:
    yield machine.place()
    machine.service.latency(0)
    for left in machine.places:
        if machine.mounted(left):  # after a failure
            machine.run("umount", "-i", "-l", left)
    machine.places.clear()


READ = -1

HOLD = f"""
import sys
path, size = sys.argv[1], int(sys.argv[2])
f = open(path, 'rb' if size == {READ} else 'wb', 0)
f.read() if size == {READ} else f.write(bytes(size))
print('ready', flush=True)
sys.stdin.read()
"""


def hold(machine: Machine, path: Path, size: int) -> subprocess.Popen[bytes]:
    """A program that has written that many bytes to a file, or read it, and not closed it."""
    return machine.spawn(sys.executable, "-c", HOLD, path, str(size))


def let_go(program: subprocess.Popen[bytes]) -> None:
    """The program closes its file, and ends."""
    assert program.stdin is not None and program.stdout is not None
    program.stdin.close()
    assert program.wait(30) == 0
    program.stdout.close()


def kill(program: subprocess.Popen[bytes]) -> None:
    """kill -9 of the program itself, which nsenter has started."""
    os.kill(int(children_of(program.pid)[0]), signal.SIGKILL)
    assert program.stdin is not None and program.stdout is not None
    program.wait(30)
    program.stdin.close()
    program.stdout.close()


@pytest.mark.parametrize("kind", ["ossfs", "fuse.ossfs"])
def test_mount_by_type(machine: Machine, place: Path, kind: str) -> None:
    source = f"{BUCKET}:/{kind}"
    options = f"config={machine.config},_netdev,nofail,x-systemd.automount,noatime,nosuid,nodev,noexec"
    assert machine.run("mount", "-v", "-t", kind, source, place, "-o", options).splitlines()[-1] == (
        f"mount.{kind}: {source} mounted on {place}"
    )
    assert machine.run("findmnt", "-n", "-o", "SOURCE,FSTYPE", place).split() == [source, "fuse.ossfs"]
    assert machine.run("df", "--output=source,target", place).splitlines()[1].split() == [source, str(place)]
    shown = machine.run("findmnt", "-n", "-o", "VFS-OPTIONS", place).strip().split(",")
    assert {"noatime", "nosuid", "nodev", "noexec"} <= set(shown)
    # Lines that stay when a mount goes would pile up.
    noted = machine.run("cat", "/run/mount/utab")
    assert noted.count(str(place)) == 1
    assert f"SRC={source} TARGET={place} ROOT=/ OPTS=uhelper=fuse.ossfs,_netdev\n" in noted
    # It can be used at once, and everything is in the bucket when umount(8) returns.
    machine.run("sh", "-c", f"echo hello > {place}/file")
    assert machine.run("umount", "-v", place).splitlines()[-1] == f"umount.fuse.ossfs: {place} unmounted"
    assert machine.service.read(f"{kind}/file") == b"hello\n"
    assert not machine.mounted(place) and not machine.mounts()
    assert str(place) not in machine.run("cat", "/run/mount/utab")


def test_umount_waits_for_the_uploads(machine: Machine, place: Path) -> None:
    machine.run("mount", "-t", "ossfs", BUCKET, place, "-o", f"config={machine.config}")
    writer = hold(machine, place / "killed", 3 * MIB)
    machine.service.latency(0.5)
    kill(writer)
    machine.run("umount", place)
    machine.service.latency(0)
    assert len(machine.service.read("killed")) == 3 * MIB
    assert not machine.mounts(), "its process has ended, too"


def test_fstab(machine: Machine, place: Path) -> None:
    """Each word that may be there, `mount -a` twice, and one mount by its mount point alone."""
    second, third, fourth = machine.place(), machine.place(), machine.place()
    words = "x-systemd.mount-timeout=infinity,x-systemd.requires=network-online.target,x-systemd.automount"
    fstab = machine.directory / "fstab"
    fstab.write_text(
        f"""
# a comment
{BUCKET}:/one {place} ossfs defaults,_netdev,nofail,{words},config={machine.config} 0 0
oss://{BUCKET}/two {second} fuse.ossfs rw,auto,dev,suid,exec,relatime,user,config={machine.config} 0 0
{BUCKET}:/three {third} ossfs noauto,ro,nodev,nosuid,noexec,noatime,users,config={machine.config} 0 0
{BUCKET}:/4 {fourth} ossfs nofail,strictatime,lazytime,owner,group,comment=x,endpoint=http://127.0.0.1:1 0 0
"""
    )
    failed = machine.run("mount", "-a", "-T", fstab, status=None)
    assert machine.mounted(place) and machine.mounted(second)
    assert not machine.mounted(third) and not machine.mounted(fourth)
    assert "no credentials" in failed
    # What is mounted already is known by its source, as it is written there.
    again = machine.run("mount", "-a", "-v", "-T", fstab, status=None)
    assert again.count("already mounted") == 2 and "is an ossfs mount already" not in again
    machine.run("mount", "-T", fstab, third)
    assert "ro" in machine.run("findmnt", "-n", "-o", "OPTIONS", third).strip().split(",")
    assert "Read-only file system" in machine.run("touch", third / "x", status=1)
    machine.run("sh", "-c", f"echo made > {second}/made")
    assert machine.service.read("two/made") == b"made\n"
    machine.run("umount", place, second, third)
    assert not machine.mounts()


@pytest.mark.parametrize(
    "options, status, word",
    [
        ("config={config},regoin=x", 1, "did you mean region?"),
        ("config={config},ttl=soon", 1, "ttl=soon"),
        ("config=/no/such.toml", 1, "/no/such.toml cannot be read"),
        ("config={config},passwd_file=wrong", 1, "passwd_file"),
        ("config={config},endpoint=http://127.0.0.1:1", 32, "no http connection"),
        ("config={config},passwd_file={wrong}", 32, "secret does not belong"),
    ],
)
def test_a_mount_that_fails_says_why_in_one_line(
    machine: Machine, place: Path, options: str, status: int, word: str
) -> None:
    wrong = machine.directory / "wrong"
    wrong.write_text(f"{machine.service.key_id}:hush-hush\n")
    wrong.chmod(0o600)
    options = options.format(config=machine.config, wrong=wrong)
    output = machine.run("mount", "-t", "ossfs", BUCKET, place, "-o", options, status=status)
    assert word in output and "hush-hush" not in output
    assert output.count("\n") == 1 and output.startswith("mount.ossfs: ")
    assert not machine.mounted(place)


def test_fake_and_sloppy(machine: Machine, place: Path) -> None:
    options = f"config={machine.config},url=http://x"
    assert "url" in machine.run("mount", "-t", "ossfs", BUCKET, place, "-o", options, status=1)
    machine.run("mount", "-s", "-f", "-n", "-t", "ossfs", BUCKET, place, "-o", options)
    assert not machine.mounted(place)
    output = machine.run("mount", "-s", "-v", "-n", "-t", "ossfs", BUCKET, place, "-o", options)
    assert "mount.ossfs: ignored: url\n" in output
    assert machine.mounted(place)
    machine.run("umount", place)


def test_umount_of_a_mount_in_use(machine: Machine, place: Path) -> None:
    machine.run("mount", "-t", "ossfs", BUCKET, place, "-o", f"config={machine.config}")
    writer = hold(machine, place / "held", MIB)
    assert "is in use" in machine.run("umount", place, status=32)
    assert machine.mounted(place)
    assert "is detached" in machine.run("umount", "-l", place)
    assert not machine.mounted(place)
    let_go(writer)
    wait_for(lambda: not machine.mounts(), "the process to end")
    assert len(machine.service.read("held")) == MIB


def test_umount_makes_a_mount_in_use_read_only(machine: Machine, place: Path) -> None:
    machine.run("mount", "-t", "ossfs", BUCKET, place, "-o", f"config={machine.config}")
    machine.run("sh", "-c", f"echo 1 > {place}/file")
    reader = hold(machine, place / "file", READ)
    assert "read-only now" in machine.run("umount", "-r", place)
    assert "Read-only file system" in machine.run("touch", place / "more", status=1)
    let_go(reader)
    machine.run("umount", place)


def test_umount_of_a_dead_mount(machine: Machine, place: Path) -> None:
    machine.run("mount", "-t", "ossfs", BUCKET, place, "-o", f"config={machine.config}")
    machine.run("sh", "-c", f"kill -9 {machine.mounts()[0]['pid']}")
    wait_for(lambda: machine.mounts()[0]["state"] == "dead", "the process to end")
    assert machine.mounted(place)
    assert "was dead" in machine.run("umount", place)
    assert not machine.mounted(place)


def test_umount_of_a_mount_whose_process_cannot_be_found(
    machine: Machine, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.run("mount", "-t", "ossfs", BUCKET, place, "-o", f"config={machine.config}")
    machine.run("touch", place / "file")
    with monkeypatch.context() as patch:
        patch.setitem(machine.environment, "OSSFS_RUNTIME_DIR", str(machine.directory / "elsewhere"))
        assert "process was not found" in machine.run("umount", place)
    assert not machine.mounted(place)
    wait_for(lambda: not machine.mounts(), "the process to end")


def test_no_secret_is_in_an_argument(machine: Machine, place: Path) -> None:
    machine.service.latency(0.3)
    mounting = machine.spawn(
        "sh", "-c", f"echo ready; exec mount -t ossfs {BUCKET} {place} -o config={machine.config}"
    )
    seen = set()
    while mounting.poll() is None:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                seen.add((process / "cmdline").read_bytes())
            except OSError:
                pass  # it has ended
    assert any(b"mount.ossfs" in line for line in seen)
    assert not [line for line in seen if machine.service.key_secret.encode() in line]
    let_go(mounting)
    machine.service.latency(0)
    machine.run("umount", place)


def test_the_helpers_are_those_that_are_looked_for(machine: Machine) -> None:
    assert sorted(machine.run("ls", "/sbin").split()) == sorted(HELPERS)
    assert "ERROR" not in machine.log_text()
