"""Real mounts: a server in a process of its own, mounts made by the installed command, a second client.

Nothing here waits without a deadline, and nothing touches a mounted path to see whether it is mounted:
that would hang where the mount hangs.  Everything that was started ends with the test session, also
when that is killed: server and mounts are told by the kernel, and what stays of mounts is swept by
the next session.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar, Final

from ossfs.registry import Registry

with warnings.catch_warnings():
    # Its sources have invalid escapes, which are warned of when they are compiled.
    warnings.simplefilter("ignore")
    import oss2

BUCKET: Final = "bkt"
FSTYPE: Final = "fuse.ossfs"
MIB: Final = 1 << 20
COMMAND_SECONDS: Final = 60.0
UNMOUNT_SECONDS: Final = 60.0
_START_SECONDS: Final = 30.0
_END_SECONDS: Final = 20.0
_OWNER: Final = "owner.lock"
_PR_SET_PDEATHSIG: Final = 1

_REPEATED = re.compile(r"[\d-]+ [\d:,]+ (.*): repeated \d+ times in \d+ s$")
_LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ([A-Z]+) ")
_HARMLESS = ("DEBUG", "INFO")


# --------------------------------------------------------------------------------------------------
# Processes and conditions.


def wait_for(condition: Callable[[], Any], what: str, seconds: float = _START_SECONDS) -> Any:
    """The first true answer of *condition*, which is asked again and again; fails after *seconds*."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise AssertionError(f"after {seconds:g} seconds, still waiting for: {what}")
        time.sleep(0.02)


def run(
    *command: str | os.PathLike[str],
    cwd: str | os.PathLike[str] | None = None,
    status: int | None = 0,
    stdin: str | bytes | None = None,
    env: Mapping[str, str] | None = None,
    seconds: float = COMMAND_SECONDS,
) -> str:
    """Standard output and error of a command, one text; fails unless it ends with *status* (None: any)."""
    code, output = run_status(*command, cwd=cwd, stdin=stdin, env=env, seconds=seconds)
    if status is not None and code != status:
        shown = " ".join(os.fspath(word) for word in command)
        raise AssertionError(f"status {code}, not {status}, of: {shown}\n{output}")
    return output


def run_status(
    *command: str | os.PathLike[str],
    cwd: str | os.PathLike[str] | None = None,
    stdin: str | bytes | None = None,
    env: Mapping[str, str] | None = None,
    seconds: float = COMMAND_SECONDS,
) -> tuple[int, str]:
    """Exit status of a command, and what it said."""
    done = subprocess.run(
        [os.fspath(word) for word in command],
        cwd=cwd,
        input=stdin.encode() if isinstance(stdin, str) else stdin or b"",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(os.environ if env is None else env, LC_ALL="C.UTF-8"),
        timeout=seconds,
        check=False,
    )
    return done.returncode, done.stdout.decode("utf-8", "replace")


def shell(script: str, *, cwd: str | os.PathLike[str], status: int | None = 0, seconds: float = 60.0) -> str:
    """What a bash script says; it ends at its first failing command."""
    return run("bash", "-euo", "pipefail", "-c", script, cwd=cwd, status=status, seconds=seconds)


def python(program: str, *arguments: str | os.PathLike[str], seconds: float = COMMAND_SECONDS) -> str:
    """What a Python program says that runs in a process of its own."""
    return run(sys.executable, "-W", "error", "-c", program, *arguments, seconds=seconds)


def spawn(
    command: Sequence[str | os.PathLike[str]],
    *,
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
    stdin: IO[bytes] | int | None = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process that the kernel kills when this one dies, however it dies."""
    return subprocess.Popen(
        [os.fspath(word) for word in command],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=env,
        cwd=cwd,
        preexec_fn=_die_with_parent,
    )


_LIBC = ctypes.CDLL(None)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def end(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> int:
    """Signal a process of ours and wait until it has ended; killed when it does not."""
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_END_SECONDS)
    return process.returncode


def ossfs_command() -> list[str]:
    """The product's command, as it was installed beside this Python."""
    script = Path(sys.executable).parent / "ossfs"
    return (
        [str(script)]
        if script.exists()
        else [sys.executable, "-c", "import ossfs.cli as cli; raise SystemExit(cli.run())"]
    )


# --------------------------------------------------------------------------------------------------
# Mounts that the kernel has.


def mounts_below(directory: str | os.PathLike[str]) -> list[str]:
    """The places at and below *directory* where an ossfs is mounted, those on top first."""
    top = os.path.realpath(directory)
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        place = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), left.split(" ")[4])
        if right.startswith(FSTYPE + " ") and (place == top or place.startswith(top + "/")):
            found.append(place)
    return found[::-1]


def is_mounted(place: str | os.PathLike[str]) -> bool:
    """Is an ossfs mounted exactly there?"""
    return os.path.realpath(os.path.dirname(place)) + "/" + os.path.basename(place) in mounts_below(
        os.path.dirname(place)
    )


def detach(place: str) -> None:
    """Unmount lazily, whatever state it is in."""
    subprocess.run(
        ["umount", "-i", "-l", "--", place],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
        check=False,
    )


IN_A_NAMESPACE: Final = """
mkdir -p /run/mount
mount -t tmpfs none /run/mount  # where libmount keeps its notes
findmnt -rn -t fuse.ossfs -o TARGET | while read -r place; do umount -i -l "$place" || true; done
"""
"""For a shell in a mount namespace of its own.  It has copies of all mounts, and those of others would live
as long as the namespace."""


class Room:
    """The directory of one test session, with the runtime and state directories of its mounts.

    A lock tells the next session whether this one still lives.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.runtime = directory / "run"
        self._lock = os.open(directory / _OWNER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._serial = 0

    def make(self, name: str) -> Path:
        """A new directory."""
        self._serial += 1
        made = self.directory / f"{self._serial}-{name}"
        made.mkdir()
        return made

    def close(self) -> None:
        """End what is left, and remove the directory."""
        _clear(self.directory)
        os.close(self._lock)


def sweep_dead_sessions(temporary: Path) -> None:
    """Remove the mounts that killed test sessions have left below *temporary*."""
    rooms = {
        Path(*Path(place).parts[:depth])
        for place in mounts_below(temporary)
        for depth in range(len(temporary.parts) + 1, len(Path(place).parts))
    }
    for room in sorted(rooms):
        try:
            lock = os.open(room / _OWNER, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _clear(room)
        except BlockingIOError:
            pass  # its session lives
        finally:
            os.close(lock)


def _clear(room: Path) -> None:
    runtime = room / "run"
    if runtime.is_dir():
        # The registry tells only of processes that hold their lock, so no id can be somebody else's.
        for record in Registry(str(runtime)).mounts():
            os.kill(record.pid, signal.SIGKILL)
    for place in mounts_below(room):
        detach(place)
    if not mounts_below(room):
        shutil.rmtree(room, ignore_errors=True)


# --------------------------------------------------------------------------------------------------
# The service, and a client that is not ossfs.


class Service:
    """An embedded server in a process of its own, and what the SDK sees in its bucket."""

    def __init__(
        self,
        directory: Path,
        *,
        tls: tuple[Path, Path, Path] | None = None,
        host: str = "127.0.0.1",
        within: Sequence[str] = (),
    ) -> None:
        """tls: certificate, key and the CA to trust.  within: a command that starts it elsewhere."""
        self.directory = directory
        self._host = host
        self._within = within
        self.ca_file = tls[2] if tls else None
        self._tls = tls
        self._errors = directory / "server.log"
        self.url = ""
        self.key_id = self.key_secret = ""
        self._process = self._start(0, tls)
        self._context = ssl.create_default_context(cafile=self.ca_file) if self.ca_file else None
        self.sdk = oss2.Bucket(oss2.Auth(self.key_id, self.key_secret), self.url, BUCKET)
        self.sdk.session.session.trust_env = False
        if self.ca_file:
            self.sdk.session.session.verify = str(self.ca_file)

    def _start(self, port: int, tls: tuple[Path, Path, Path] | None) -> subprocess.Popen[bytes]:
        command: list[str | os.PathLike[str]] = [*self._within, sys.executable, "-m", "ossfs.server"]
        command += [self.directory / "data", "--host", self._host]
        command += ["--bucket", BUCKET, "--control", "--port", str(port)]
        if tls:
            command += ["--cert", tls[0], "--key", tls[1]]
        with open(self._errors, "ab") as errors:
            process = spawn(command, stdout=subprocess.PIPE, stderr=errors)
        assert process.stdout is not None
        lines = [process.stdout.readline().decode().strip() for _ in range(3)]
        if not lines[2]:
            end(process)
            raise AssertionError(f"the server does not start: {lines} {self.log()}")
        self.url = lines[0].removeprefix("listening on ")
        self.key_id = lines[1].removeprefix("access key id: ")
        self.key_secret = lines[2].removeprefix("access key secret: ")
        return process

    def pause(self) -> None:
        """End the server's process; its data are kept, and its port is refused."""
        end(self._process)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def resume(self, tls: tuple[Path, Path, Path] | None = None) -> None:
        """Start it again at the same port.  tls: with this certificate instead of its own."""
        port = urllib.parse.urlsplit(self.url).port
        assert port is not None
        self._process = self._start(port, tls or self._tls)

    def signal(self, number: signal.Signals) -> None:
        """To the server's process."""
        self._process.send_signal(number)

    def log(self) -> str:
        """What the server said on standard error."""
        return self._errors.read_text(errors="replace")

    def stop(self) -> None:
        """End it; its data are kept."""
        self.sdk.session.session.close()
        self.pause()

    def _control(self, path: str, body: object = None, method: str = "POST") -> Any:
        data = json.dumps(body).encode() if body is not None else b""
        request = urllib.request.Request(
            f"{self.url}/_ossfs/{path}", data if method == "POST" else None, method=method
        )
        with urllib.request.urlopen(request, timeout=30, context=self._context) as answer:
            return json.load(answer)

    def faults(self, *rules: dict[str, Any]) -> None:
        """Replace the script of what goes wrong; none: all is well again."""
        self._control("faults", list(rules))

    def latency(self, seconds: float) -> None:
        """Before each answer."""
        self._control(f"set?latency={seconds}")

    def bandwidth(self, bytes_per_second: int) -> None:
        """Of each connection; 0: no limit."""
        self._control(f"set?bandwidth={bytes_per_second}")

    def clock_offset(self, seconds: float) -> None:
        """How far the server's clock is ahead."""
        self._control(f"set?clock_offset={seconds}")

    def token(self, token: str, *expired: str) -> None:
        """The security token that requests must carry ("": none), and tokens that have expired."""
        self._control(f"set?{urllib.parse.urlencode({'token': token, 'expired_tokens': ','.join(expired)})}")

    def requester_pays(self, pays: bool) -> None:
        """Refuse requests that do not say that their sender pays, also those of this object."""
        self._control(f"set?requester_pays={int(pays)}")

    def fill(self, prefix: str, count: int, size: int) -> None:
        """Many objects at once, of names that are the prefix and six digits."""
        query = urllib.parse.urlencode({"bucket": BUCKET, "prefix": prefix, "n": count, "size": size})
        self._control(f"fill?{query}")

    def stats(self, *, reset: bool = False) -> dict[str, Any]:
        """The server's counters."""
        answer: dict[str, Any] = self._control("stats", method="POST" if reset else "GET")
        return answer

    def read(self, key: str) -> bytes:
        """The bytes of an object."""
        data: bytes = self.sdk.get_object(key).read()
        return data

    def write(self, key: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Put an object, as another program would."""
        self.sdk.put_object(key, data, headers=dict(headers or {}))

    def exists(self, key: str) -> bool:
        """Is there such an object?"""
        return bool(self.sdk.object_exists(key))

    def keys(self, prefix: str = "") -> list[str]:
        """All keys, hidden ones too."""
        return [found.key for found in oss2.ObjectIteratorV2(self.sdk, prefix=prefix)]

    def uploads_with_parts(self) -> list[str]:
        """Those that hold bytes.  One without may be left when the answer to its Initiate was lost."""
        return [
            found.key
            for found in oss2.MultipartUploadIterator(self.sdk)
            if self.sdk.list_parts(found.key, found.upload_id).parts
        ]

    def uploads(self) -> list[str]:
        """The keys of unfinished multipart uploads."""
        return [found.key for found in oss2.MultipartUploadIterator(self.sdk)]


# --------------------------------------------------------------------------------------------------
# Mounts.


class Mount:
    """One mount point: mounted, unmounted and mounted again by the product's command.

    path: where it is mounted.  allowed: regular expressions of log lines that a test expects.
    """

    live: ClassVar[list[Mount]] = []
    """Those that are not closed, for the report of a failed test."""

    def __init__(
        self,
        service: Service,
        room: Room,
        *,
        source: str = BUCKET,
        options: Mapping[str, str | int | float] | None = None,
        name: str = "mnt",
    ) -> None:
        self.service = service
        self.source = source
        self.options: dict[str, str | int | float] = {
            "endpoint": service.url,
            "op_timeout": 30,
            "memory": "256MB",
            **(options or {}),
        }
        if service.ca_file is not None:
            self.options.setdefault("ca_file", str(service.ca_file))
        self.directory = room.make(name)
        self.path = self.directory / "mnt"
        self.path.mkdir()
        self.options.setdefault("state_dir", str(self.directory / "state"))
        self.log_file = self.directory / "log"
        self.allowed: list[str] = []
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("OSS_", "OSSFS_"))
        }
        self.environment |= {
            "OSS_ACCESS_KEY_ID": service.key_id,
            "OSS_ACCESS_KEY_SECRET": service.key_secret,
            "OSSFS_RUNTIME_DIR": str(room.runtime),
        }
        self._checked = 0
        self._process: subprocess.Popen[bytes] | None = None
        Mount.live.append(self)

    @property
    def prefix(self) -> str:
        """What the keys of this mount begin with."""
        prefix = self.source.partition(":/")[2]
        return f"{prefix}/" if prefix else ""

    def key(self, path: Path) -> str:
        """The key of a path in the mount."""
        return self.prefix + str(path.relative_to(self.path))

    def read(self, path: Path) -> bytes:
        """The bytes of the object behind *path*, as another client sees them."""
        return self.service.read(self.key(path))

    @property
    def pid(self) -> int:
        """The process that serves the mount."""
        assert self._process is not None
        return self._process.pid

    def running(self) -> bool:
        """Does the process live?"""
        return self._process is not None and self._process.poll() is None

    def command(self, **changes: str | int | float | None) -> list[str]:
        """`ossfs mount ...`, with some options changed, or left out (None)."""
        options = {**self.options, **changes}
        pairs = [
            name if value is True else f"{name}={value}"
            for name, value in options.items()
            if value is not None
        ]
        return [*ossfs_command(), "mount", self.source, str(self.path), "-o", ",".join(pairs)]

    def try_mount(self, **changes: str | int | float | None) -> tuple[int, str]:
        """Mount in the background; the exit status and what is said: for mounts that are to fail."""
        changes.setdefault("log_file", str(self.log_file))
        return run_status(*self.command(**changes), env=self.environment)

    def mount(self) -> None:
        """Mount in the foreground, in a process of ours, and return once it is mounted."""
        before = len(self.log())
        process = self.begin()
        # The log's word of it, since a dead mount may be there before.
        wait_for(
            lambda: "is mounted at" in self.log()[before:] or process.poll() is not None,
            f"a mount at {self.path}",
        )
        assert process.poll() is None and is_mounted(self.path), (
            f"the mount has ended with {process.poll()}: {self.log()}"
        )

    def begin(self) -> subprocess.Popen[bytes]:
        """Start to mount, and do not wait for it."""
        assert not self.running()
        with open(self.log_file, "ab") as log:
            self._process = spawn([*self.command(), "-f"], stdout=log, stderr=log, env=self.environment)
        return self._process

    def umount(self, status: int = 0) -> str:
        """`ossfs umount`, and the end of the process; what the command said."""
        output = run(
            *ossfs_command(),
            "umount",
            self.path,
            env=self.environment,
            status=status,
            seconds=UNMOUNT_SECONDS,
        )
        self.await_end(status)
        return output

    def await_end(self, status: int = 0) -> None:
        """Until the process has ended, with that status."""
        assert self._process is not None
        assert self._process.wait(_END_SECONDS) == status, self.log()
        assert not is_mounted(self.path)

    def remount(self) -> None:
        """Unmount and mount again: what is read afterwards comes from the bucket."""
        self.umount()
        self.mount()

    def signal(self, number: signal.Signals) -> None:
        """To the process that serves the mount."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and its mount stays behind, dead."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(_END_SECONDS)

    def memory_peak(self) -> int:
        """The largest resident memory that the process has had, in bytes."""
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found
        return int(found[1]) * 1024

    def status(self) -> dict[str, Any]:
        """What `ossfs status --json` says."""
        shown: dict[str, Any] = json.loads(
            run(*ossfs_command(), "status", "--json", self.path, env=self.environment)
        )
        return shown

    def log(self) -> str:
        """What the mount has logged."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def unexpected(self) -> list[str]:
        """The lines since the last call that are neither harmless nor allowed."""
        text = self.log()
        fresh, self._checked = text[self._checked :], len(text)
        return [line for line in fresh.splitlines() if self._is_unexpected(line)]

    def _is_unexpected(self, line: str) -> bool:
        repeated = _REPEATED.match(line)
        if repeated and f" {repeated[1]}\n" in self.log():
            return False  # its first line was judged; this one may come when the test has ended
        found = _LOG_LINE.match(line)
        if found and found[1] in _HARMLESS:
            return False
        return not any(re.search(pattern, line) for pattern in self.allowed)

    def close(self) -> None:
        """Unmount by whatever it takes; fails when the ordinary way does not do, or the log is not clean."""
        Mount.live.remove(self)
        problems = []
        try:
            if self.running() and is_mounted(self.path):
                try:
                    self.umount()
                except (AssertionError, subprocess.TimeoutExpired) as error:
                    problems.append(f"ossfs umount: {error}")
        finally:
            if self._process is not None:
                if is_mounted(self.path) and self.running():
                    self._process.kill()
                end(self._process)
            for place in mounts_below(self.directory):
                detach(place)
        problems += [f"in the log: {line}" for line in self.unexpected()]
        assert not problems, "\n".join(problems)


def tree_digest(
    top: Path, *, times: bool = True, leave_out: Iterable[str] = ()
) -> dict[str, tuple[Any, ...]]:
    """Kind, mode, owner, size, mtime in whole seconds, and content of everything below *top*."""
    import hashlib

    skipped = set(leave_out)
    result: dict[str, tuple[Any, ...]] = {}
    for directory, directories, files in os.walk(top):
        directories[:] = [name for name in directories if name not in skipped]
        for name in [*directories, *files]:
            path = Path(directory, name)
            status = path.lstat()
            facts: list[Any] = [oct(status.st_mode), status.st_uid, status.st_gid]
            if times:
                facts.append(int(status.st_mtime))
            if path.is_symlink():
                facts.append(os.readlink(path))
            elif path.is_file():
                facts += [status.st_size, hashlib.sha256(path.read_bytes()).hexdigest()]
            result[str(path.relative_to(top))] = tuple(facts)
    return result
