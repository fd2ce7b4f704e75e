"""Does every call end in time, whatever the server does?

    python -m tests.campaign.deadlines [--op-timeout 5]

Each kind of call meets each kind of server that keeps its clients waiting, in a process of its own; then
the server is itself again, and the mount must work without help.  One more program is killed in the middle
of a call, and `ossfs umount` has a file to upload.

Threading: one thread; the mount, the server and the programs are processes, the relay has threads.
"""

from __future__ import annotations

import argparse
import errno
import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.support.mounts import Mount, Room, Service, end, ossfs_command, run_status, spawn, wait_for
from tests.support.stalling import KINDS, PASSES, Relay

IN_TIME = {errno.EIO, errno.ETIMEDOUT}
"""What a program is told when the server keeps it waiting."""
STRETCH = 4
"""How many times op_timeout a call may take here: a call of several requests may have progressed with the
first of them, and the machine may be busy."""

PREPARED = """
import errno, json, os, sys, time
path = sys.argv[1]
os.stat(path)
open_first, call = sys.argv[2], sys.argv[3]
f = None
if open_first:
    f = os.open(path + "/" + sys.argv[4], int(open_first), 0o644)
before = sys.argv[5]
if before:
    exec(before)
print("ready", flush=True)
sys.stdin.readline()
began, code = time.monotonic(), 0
try:
    exec(call)
except OSError as error:
    code = error.errno
print(json.dumps([code, time.monotonic() - began]), flush=True)
os._exit(0)
"""
READ, EDIT, NEW = "0", "2", str(0o102 | 0o100)
"""Flags of open(2): O_RDONLY, O_RDWR, O_RDWR with O_CREAT."""


@dataclass(frozen=True)
class Call:
    """name: of the call.  opens: flags for a file that is opened before the server stalls; none when empty.
    file: its name.  before: done before, too.  free: it may succeed, since no request is needed."""

    name: str
    work: str
    opens: str = ""
    file: str = ""
    before: str = ""
    free: bool = False


CALLS = (
    Call("open", "os.open(path + '/closed', os.O_RDONLY)"),
    Call("stat", "os.stat(path + '/deep/unseen')"),
    Call("read", "os.pread(f, 1 << 20, 8 << 20)", READ, "large"),
    Call("write", "[os.pwrite(f, bytes(1 << 20), i << 20) for i in range(200)]", NEW, "new-large"),
    Call("fsync", "os.fsync(f)", NEW, "new-synced", "os.pwrite(f, b'x' * 1000, 0)"),
    Call("close", "os.close(f)", NEW, "new-closed", "os.pwrite(f, b'x' * 1000, 0)"),
    Call("close of parts", "os.close(f)", NEW, "new-parts", "os.pwrite(f, b'x' * (6 << 20), 0)"),
    Call("edit and close", "os.pwrite(f, b'x', 9 << 20); os.close(f)", EDIT, "edited"),
    Call("truncate", "os.truncate(path + '/cut', 5)"),
    Call("rename", "os.rename(path + '/renamed', path + '/renamed-2')"),
    Call("rename of a directory", "os.rename(path + '/many', path + '/many-2')"),
    Call("readdir", "os.listdir(path + '/listed')"),
    Call("statfs", "os.statvfs(path)", free=True),
    Call("unlink", "os.unlink(path + '/removed')"),
    Call(
        "unlink of a directory's file, and its fsync",
        "os.fsync(f)",
        READ,
        "dir",
        "os.unlink(path + '/dir/a')",
    ),
    Call("mkdir", "os.mkdir(path + '/made')"),
    Call("rmdir", "os.rmdir(path + '/empty')"),
    Call("symlink", "os.symlink('x', path + '/link')"),
    Call("chmod", "os.chmod(path + '/moded', 0o600)"),
    Call("setxattr", "os.setxattr(path + '/tagged', b'user.a', b'1')"),
    Call("getxattr", "os.getxattr(path + '/tagged', b'user.oss.etag')"),
)


@dataclass(frozen=True)
class Cell:
    """How one call went.  seconds: how long it took."""

    call: str
    kind: str
    code: int
    seconds: float

    def __str__(self) -> str:
        name = errno.errorcode.get(self.code, str(self.code)) if self.code else "worked"
        return f"{self.call}, {self.kind}: {name} after {self.seconds:.1f} s"


class Bench:
    """A mount behind a relay."""

    def __init__(self, top: Path, op_timeout: float, stack: ExitStack) -> None:
        room = Room(top)
        stack.callback(room.close)
        self.service = Service(room.make("server"))
        stack.callback(self.service.stop)
        port = urllib.parse.urlsplit(self.service.url).port
        assert port is not None
        self.relay = Relay(port)
        stack.callback(self.relay.close)
        self.op_timeout = op_timeout
        options = {"endpoint": f"http://127.0.0.1:{self.relay.port}", "op_timeout": op_timeout}
        self.mount = Mount(self.service, room, options={**options, "chunk_size": "5MB", "memory": "64MB"})

    def _fill(self, prefix: str) -> None:
        put = self.service.write
        for name in (
            "closed",
            "cut",
            "renamed",
            "removed",
            "moded",
            "tagged",
            "deep/unseen",
            "dir/a",
            "dir/b",
        ):
            put(prefix + name, b"some bytes")
        put(prefix + "empty/", b"", {"Content-Type": "application/x-directory"})
        self.service.fill(prefix + "many/", 300, 10)
        self.service.fill(prefix + "listed/", 30, 10)

    def row(self, kind: str) -> Iterator[Cell]:
        """Every call at once, with a server of that kind."""
        # A directory for each, since the kernel lets one call at a time change a directory.
        top = _top(kind)
        self.service.write(f"{top}/killed/file", b"some bytes")
        for number, call in enumerate(CALLS):
            here = f"{top}/{number}"
            self._fill(f"{here}/")
            if call.file in ("large", "edited"):
                self.service.write(f"{here}/{call.file}", bytes(12 << 20))
        with ExitStack() as stack:
            programs = {}
            for number, call in enumerate(CALLS):
                here = f"{top}/{number}"
                words = [self.mount.path / here, call.opens, call.work, call.file, call.before]
                program = spawn(
                    [sys.executable, "-c", PREPARED, *words],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
                stack.callback(_gone, program)
                programs[call] = program
            for call, program in programs.items():
                assert program.stdout is not None
                line = program.stdout.readline()
                assert line == b"ready\n", f"{call.name}: {line!r} {_said(program)}"
            self.relay.kind = kind
            began = time.monotonic()
            for program in programs.values():
                assert program.stdin is not None
                program.stdin.write(b"go\n")
                program.stdin.flush()
            for call, program in programs.items():
                left = began + self.op_timeout * STRETCH - time.monotonic()
                try:
                    output, errors = program.communicate(timeout=max(0.5, left))
                except subprocess.TimeoutExpired:
                    yield Cell(call.name, kind, errno.EINPROGRESS, time.monotonic() - began)
                    continue
                assert output, f"{call.name}: {errors.decode()[-300:]}"
                code, seconds = json.loads(output)
                yield Cell(call.name, kind, code, seconds)

    def killed(self, kind: str) -> float:
        """Seconds for which a program that is killed while it waits does not end."""
        self.relay.kind = PASSES
        # Not a read: who waits for a page can be killed at once.
        words = [self.mount.path / _top(kind) / "killed", "", "os.mkdir(path + '/made')", "", ""]
        program = spawn(
            [sys.executable, "-c", PREPARED, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert program.stdout is not None and program.stdin is not None
            assert program.stdout.readline() == b"ready\n"
            self.relay.kind = kind
            program.stdin.write(b"go\n")
            program.stdin.flush()
            wait_for(lambda: "fuse" in _waits_in(program.pid), "the program to wait for the mount")
            began = time.monotonic()
            program.kill()
            program.wait(self.op_timeout * STRETCH)
            return time.monotonic() - began
        finally:
            _gone(program)

    def works_again(self) -> None:
        """The server is itself again, and so is the mount, without help."""
        self.relay.kind = PASSES

        def works() -> bool:
            path = self.mount.path / f"touched-{time.monotonic_ns()}"
            try:
                path.write_bytes(b"works")
                assert path.read_bytes() == b"works"
                path.unlink()
            except OSError:
                return False
            return True

        wait_for(works, "the mount to work again", self.op_timeout * STRETCH + 10)

    def umount(self, kind: str) -> tuple[int, float, str]:
        """`ossfs umount` with a file to upload, which cannot be: its status, seconds and words."""
        self.relay.kind = PASSES
        path = self.mount.path / f"empty-{time.monotonic_ns()}"
        self.mount.path.stat()
        self.relay.kind = kind
        path.touch()
        began = time.monotonic()
        status, said = run_status(
            *ossfs_command(), "umount", self.mount.path, env=self.mount.environment, seconds=120
        )
        return status, time.monotonic() - began, said


def _top(kind: str) -> str:
    return kind.split(",")[0].replace(" ", "-")


def _waits_in(pid: int) -> str:
    """The kernel's function, or functions."""
    try:
        return Path(f"/proc/{pid}/stack").read_text()
    except OSError:
        return Path(f"/proc/{pid}/wchan").read_text()


def _gone(program: subprocess.Popen[bytes]) -> None:
    end(program, signal.SIGKILL)
    for pipe in (program.stdin, program.stdout, program.stderr):
        if pipe is not None:
            pipe.close()


def _said(program: subprocess.Popen[bytes]) -> str:
    assert program.stderr is not None
    program.kill()
    return program.stderr.read().decode()[-500:]


def wrong(cell: Cell, op_timeout: float) -> bool:
    """Did it take too long, or tell the program something else?"""
    free = any(call.name == cell.call and call.free for call in CALLS)
    return cell.seconds > op_timeout * STRETCH or not (cell.code in IN_TIME or (free and cell.code == 0))


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.deadlines", description=__doc__)
    parser.add_argument("--op-timeout", type=float, default=5.0, help="of the mount, in seconds")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    options = parser.parse_args()
    bad = 0
    with ExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ossfs-deadlines-")))
        bench = Bench(top, options.op_timeout, stack)
        for kind in options.kinds:
            bench.mount.mount()
            for cell in bench.row(kind):
                failed = wrong(cell, options.op_timeout)
                bad += failed
                print(f"{'WRONG ' if failed else ''}{cell}", flush=True)
            bench.works_again()
            print(f"killed in a mkdir, {kind}: gone after {bench.killed(kind):.1f} s", flush=True)
            bench.works_again()
            status, seconds, said = bench.umount(kind)
            print(f"umount, {kind}: {status} after {seconds:.1f} s: {said.strip()[:150]}", flush=True)
            bench.relay.kind = PASSES
            bench.mount.await_end(status)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
