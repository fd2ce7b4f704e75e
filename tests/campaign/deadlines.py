"""Does every call end in time, whatever the server does?

    python -m tests.campaign.deadlines [--op-timeout 5]

Each kind of call meets each kind of server that keeps its clients waiting, all at once; then
the server is itself again, and the mount must work without help.  One more program is killed in the middle
of a call, and `ossfs umount` has a file to upload.

Threading: one thread; the mount, the server and the program are processes, the relay has threads.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.mounts import Mount, Room, Service, end, ossfs_command, run_status, spawn, wait_for
from tests.support.stalling import KINDS, PASSES, Relay

IN_TIME = {errno.EIO, errno.ETIMEDOUT}
"""What a program is told when the server keeps it waiting."""
STRETCH = 6
"""How many times op_timeout a call may take here: a call of several requests may have progressed with the
first of them, and the machine may be busy."""

PREPARED = """
import json, os, sys, threading, time
calls, lock = json.loads(sys.argv[1]), threading.Lock()

def work(name, path, opens, call, file, before):
    names = {"os": os, "path": path}
    os.stat(path)
    if opens:
        names["f"] = os.open(path + "/" + file, int(opens), 0o644)
    exec(before, names)
    def timed():
        began, code = time.monotonic(), 0
        try:
            exec(call, names)
        except OSError as error:
            code = error.errno
        line = json.dumps([name, code, time.monotonic() - began])
        with lock:
            print(line, flush=True)
    return threading.Thread(target=timed)

threads = [work(*call) for call in calls]
print("ready", flush=True)
sys.stdin.readline()
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
READ, EDIT, NEW = "0", "2", str(0o102 | 0o100)
"""Flags of open(2): O_RDONLY, O_RDWR, O_RDWR with O_CREAT."""


@dataclass(frozen=True)
class Call:
    """One kind of call, in a directory of its own, with the file "there".

    opens: flags for a file that is opened before the server stalls; none when empty.  file: its name.
    before: done before, too.  needs: objects; "large" has 12 MiB, "x/*" is 300 of them.  free: it may
    succeed, since no request is needed.
    """

    name: str
    work: str
    opens: str = ""
    file: str = "there"
    before: str = ""
    needs: tuple[str, ...] = ()
    free: bool = False


PUT = "os.pwrite(f, b'x' * 1000, 0)"
CALLS = (
    Call("open", "os.open(path + '/there', os.O_RDONLY)"),
    Call("stat", "os.stat(path + '/deep/unseen')"),
    Call("read", "os.pread(f, 1 << 20, 8 << 20)", READ, "large", needs=("large",)),
    Call("write", "[os.pwrite(f, bytes(1 << 20), i << 20) for i in range(200)]", NEW, "new"),
    Call("fsync", "os.fsync(f)", NEW, "new", PUT),
    Call("close", "os.close(f)", NEW, "new", PUT),
    Call("close of parts", "os.close(f)", NEW, "new", "os.pwrite(f, b'x' * (6 << 20), 0)"),
    Call("edit and close", "os.pwrite(f, b'x', 9 << 20); os.close(f)", EDIT, "large", needs=("large",)),
    Call("truncate", "os.truncate(path + '/there', 5)"),
    Call("rename", "os.rename(path + '/there', path + '/renamed')"),
    Call("rename of a directory", "os.rename(path + '/many', path + '/renamed')", needs=("many/*",)),
    Call("readdir", "os.listdir(path + '/listed')", needs=("listed/*",)),
    Call("statfs", "os.statvfs(path)", free=True),
    Call("unlink", "os.unlink(path + '/there')"),
    Call("fsync of a directory", "os.fsync(f)", READ, "deep", "os.unlink(path + '/deep/a')", ("deep/a",)),
    Call("mkdir", "os.mkdir(path + '/made')"),
    Call("rmdir", "os.rmdir(path + '/empty')", needs=("empty/",)),
    Call("symlink", "os.symlink('x', path + '/link')"),
    Call("chmod", "os.chmod(path + '/there', 0o600)"),
    Call("setxattr", "os.setxattr(path + '/there', b'user.a', b'1')"),
    Call("getxattr", "os.getxattr(path + '/there', b'user.oss.etag')"),
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

    def row(self, kind: str) -> Iterator[Cell]:
        """Every call at once, with a server of that kind."""
        # A directory for each, since the kernel lets one call at a time change a directory.
        top, words = _top(kind), []
        self.service.write(f"{top}/killed/file", b"some bytes")
        for number, call in enumerate(CALLS):
            here = f"{top}/{number}"
            for name in ("there", "deep/unseen", *call.needs):
                if name.endswith("*"):
                    self.service.fill(f"{here}/{name[:-1]}", 300, 10)
                else:
                    size = 12 << 20 if name == "large" else 10
                    self.service.write(f"{here}/{name}", b"" if name.endswith("/") else bytes(size))
            path = str(self.mount.path / here)
            words.append([call.name, path, call.opens, call.work, call.file, call.before])
        with self._program(words) as program:
            self.relay.kind = kind
            began = time.monotonic()
            _go(program)
            left = {call.name for call in CALLS}
            assert program.stdout is not None
            text = b""
            while left:
                rest = began + self.op_timeout * STRETCH - time.monotonic()
                if not select.select([program.stdout], [], [], max(0.0, rest))[0]:
                    break
                *lines, text = (text + os.read(program.stdout.fileno(), 1 << 16)).split(b"\n")
                for line in lines:
                    name, code, seconds = json.loads(line)
                    left.remove(name)
                    yield Cell(name, kind, code, seconds)
            for name in left:
                yield Cell(name, kind, errno.EINPROGRESS, time.monotonic() - began)

    @contextmanager
    def _program(self, calls: list[list[str]]) -> Iterator[subprocess.Popen[bytes]]:
        """A program that has opened its files, and waits for a line."""
        program = spawn(
            [sys.executable, "-c", PREPARED, json.dumps(calls)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == b"ready\n"
            yield program
        finally:
            _gone(program)

    def killed(self, kind: str) -> float:
        """Seconds for which a program that is killed while it waits does not end."""
        self.relay.kind = PASSES
        # Not a read: who waits for a page can be killed at once.
        here = str(self.mount.path / _top(kind) / "killed")
        with self._program([["mkdir", here, "", "os.mkdir(path + '/made')", "", ""]]) as program:
            self.relay.kind = kind
            _go(program)
            wait_for(lambda: "fuse" in _waits_in(program.pid), "the program to wait for the mount")
            began = time.monotonic()
            program.kill()
            program.wait(self.op_timeout * STRETCH)
            return time.monotonic() - began

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


def _go(program: subprocess.Popen[bytes]) -> None:
    assert program.stdin is not None
    program.stdin.write(b"go\n")
    program.stdin.flush()


def _waits_in(pid: int) -> str:
    """The kernel's functions in which its threads wait: root may know."""
    return " ".join((task / "stack").read_text() for task in Path(f"/proc/{pid}/task").iterdir())


def _gone(program: subprocess.Popen[bytes]) -> None:
    end(program, signal.SIGKILL)
    for pipe in (program.stdin, program.stdout, program.stderr):
        if pipe is not None:
            pipe.close()


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
