"""The programs that are measured: ossfs, and s3fs beside it.

Threading: one thread.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from benchmarks.errors import BenchError
from benchmarks.servers import OSSFS, Counters, Server

MOUNT_SECONDS = 30.0
UMOUNT_SECONDS = 60.0


class Client(Protocol):
    """A kind of mount."""

    name: str
    dialect: str

    def command(self, server: Server, mountpoint: str, scratch: Path) -> tuple[list[str], dict[str, str]]:
        """Arguments that mount in the foreground, and what the environment gets."""

    def counters(self, mountpoint: str, environment: dict[str, str]) -> Counters | None:
        """What the client itself has counted, for servers that do not tell."""


class Ossfs:
    """The program of this repository.

    options: further `-o` options.  environment: further variables.  prelude: Python that is run in the
    process before the command, to change what has no option.  name: in the tables.  on_disk: options that
    take `cache_dir`, which is empty at the beginning of each row.
    """

    dialect = "oss"

    def __init__(
        self,
        options: Sequence[str] = (),
        *,
        environment: Mapping[str, str] | None = None,
        prelude: str | None = None,
        name: str = "ossfs",
        on_disk: bool = False,
    ) -> None:
        self.name = name
        self._on_disk = on_disk
        self._options = list(options)
        self._environment = dict(environment or {})
        self._program = [str(OSSFS)]
        if prelude is not None:
            self._program = [sys.executable, "-c", f"{prelude}\nfrom ossfs.cli import main\nmain()"]

    def command(self, server: Server, mountpoint: str, scratch: Path) -> tuple[list[str], dict[str, str]]:
        where = f"{server.bucket}:/{server.prefix.rstrip('/')}" if server.prefix else server.bucket
        options = [f"endpoint={server.url}", f"state_dir={scratch / 'state'}", *self._options]
        if self._on_disk:
            options.append(f"cache_dir={scratch / 'cache'}")
        if server.ca_file:
            options.append(f"ca_file={server.ca_file}")
        command = [*self._program, "mount", where, mountpoint, "-f"]
        for option in options:
            command += ["-o", option]
        return command, {
            "OSS_ACCESS_KEY_ID": server.keys[0],
            "OSS_ACCESS_KEY_SECRET": server.keys[1],
            "OSSFS_RUNTIME_DIR": str(scratch / "run"),
            **self._environment,
        }

    def counters(self, mountpoint: str, environment: dict[str, str]) -> Counters | None:
        done = subprocess.run(
            [OSSFS, "status", mountpoint, "--json"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if done.returncode:
            raise BenchError(f"ossfs status: {done.stderr.strip()}")
        found: dict[str, int] = json.loads(done.stdout)["counters"]
        prefix = "requests."
        requests = {n.removeprefix(prefix): v for n, v in found.items() if n.startswith(prefix)}
        return Counters(requests, found.get("bytes_received", 0), found.get("bytes_sent", 0))


class S3fs:
    """s3fs as Debian packages it, with its defaults."""

    name = "s3fs"
    dialect = "s3"

    def __init__(self) -> None:
        self._program = shutil.which("s3fs")

    def command(self, server: Server, mountpoint: str, scratch: Path) -> tuple[list[str], dict[str, str]]:
        if self._program is None:
            raise BenchError("s3fs is not installed: apt-get install s3fs")
        keys = scratch / "s3fs-keys"
        keys.touch(mode=0o600)
        keys.write_text(":".join(server.keys))
        # The certificate is one of ours; s3fs is only to encrypt, not to look at it.
        secure = ["-ono_check_certificate", "-ossl_verify_hostname=0"] if server.ca_file else []
        return [
            self._program,
            *(server.bucket, mountpoint, "-f", f"-ourl={server.url}", "-ouse_path_request_style"),
            *(f"-opasswd_file={keys}", "-odbglevel=crit"),
            *secure,
        ], {}

    def counters(self, mountpoint: str, environment: dict[str, str]) -> Counters | None:
        return None


class Mounted:
    """A client, mounted for the length of a `with` block.  Raises BenchError when it does not mount."""

    def __init__(self, client: Client, server: Server) -> None:
        self.client = client
        self._server = server
        self._scratch = Path(tempfile.mkdtemp(prefix="ossfs-bench-"))
        self.path = self._scratch / "mnt"
        self._environment: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def counters(self) -> Counters | None:
        """See Client."""
        return self.client.counters(str(self.path), self._environment)

    def __enter__(self) -> Mounted:
        try:
            self._mount()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _mount(self) -> None:
        for name in ("mnt", "run", "state"):
            (self._scratch / name).mkdir(mode=0o700, exist_ok=True)
        command, environment = self.client.command(self._server, str(self.path), self._scratch)
        self._environment = dict(os.environ, **environment)
        log = self._scratch / "log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, env=self._environment, stdout=output, stderr=output, start_new_session=True
            )
        deadline = time.monotonic() + MOUNT_SECONDS
        while not _is_mounted(self.path):
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = log.read_text(errors="replace").strip().splitlines()
                raise BenchError(f"{self.client.name} did not mount: {text[-1] if text else 'no message'}")
            time.sleep(0.02)
        time.sleep(0.3)  # the kernel's read-ahead is raised just after the mount can be seen

    def remount(self) -> None:
        """The same again, with what the first has left on the disk."""
        assert self._process is not None
        unmount(self.path)
        self._process.wait(UMOUNT_SECONDS)
        self._mount()

    def kill(self) -> None:
        """The row has hung: end the mount, so that whoever waits for it is answered."""
        if self._process is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        unmount(self.path, lazily=True)

    def __exit__(self, *_: object) -> None:
        unmount(self.path)
        if self._process is not None:
            try:
                self._process.wait(UMOUNT_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
                self._process.wait(10)
        if _is_mounted(self.path):
            unmount(self.path, lazily=True)
        if not _is_mounted(self.path):  # else the bucket's files would be what is removed
            shutil.rmtree(self._scratch, ignore_errors=True)


def unmount(path: Path, *, lazily: bool = False) -> None:
    """As root by umount(8), else by libfuse's helper; that nothing is mounted is no error."""
    command = ["umount", "-i"] if os.geteuid() == 0 else ["fusermount3", "-u"]
    if lazily:
        command.append("-l" if os.geteuid() == 0 else "-z")
    subprocess.run([*command, path], check=False, stderr=subprocess.DEVNULL)


def _is_mounted(path: Path) -> bool:
    """By the kernel's table: a look at the path would wait where the mount hangs, and fail where it died."""
    with open("/proc/self/mounts", "rb") as mounts:
        return any(line.split(b" ")[1] == os.fsencode(path) for line in mounts)
