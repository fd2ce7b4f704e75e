"""The main job, shown: a bucket mounted, filled, changed, unmounted, mounted again, and every byte compared.

Threading: one thread; programs are run as child processes, each with a time limit.

Only the product's own commands (`ossfs serve`, `ossfs mount`, `ossfs umount`) touch the bucket and the
mount; everything else is done by cp, dd, mv, diff and ls, as a person would.  What this script started,
and nothing else, is ended on every way out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import secrets
import selectors
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

MIB = 1 << 20
BIG_SIZE = 300 * MIB
BUCKET = "demo"
NEEDED_SPACE = 2 << 30
STEP_SECONDS = 600.0
COMMAND_SECONDS = 120.0

console = Console(highlight=False, soft_wrap=True)
OSSFS = Path(sys.executable).parent / "ossfs"


WATCHED: list[subprocess.Popen[bytes]] = []
"""Programs that must not end while others run: without the server, a copy would try for minutes."""


class StepFailed(Exception):
    """A step did not do what it should; its text says what happened."""


class Terminated(BaseException):
    """SIGTERM: clean up and go."""


# --------------------------------------------------------------------------------------------------
# Telling.


def tell(text: str) -> None:
    """One line of what is going on."""
    console.print(text)


def step(text: str) -> None:
    """A new step."""
    tell(f"[bold cyan]==>[/] {escape(text)}")


def show_output(text: str, most: int = 12) -> None:
    """What a program printed, indented."""
    lines = text.rstrip().splitlines()
    for line in lines[:most]:
        tell(f"    [dim]{escape(line)}[/]")
    if len(lines) > most:
        tell(f"    [dim]... {len(lines) - most} lines more[/]")


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar; elsewhere than on a terminal, one line at the end.  Gives `advance_to(count)`."""
    started = time.monotonic()
    if not console.is_terminal:
        yield lambda count: None
        tell(f"    {what}: {time.monotonic() - started:.1f} s")
        return
    columns = (TextColumn("    {task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.update(task, completed=count)
        progress.update(task, completed=total)


# --------------------------------------------------------------------------------------------------
# Running programs.


def run(*command: str | Path, seconds: float = COMMAND_SECONDS, env: dict[str, str] | None = None) -> str:
    """Run a program to its end; its output.  StepFailed when it fails or takes too long."""
    process = subprocess.Popen(  # nosec B603 # the commands below, without a shell
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=env,
        start_new_session=True,  # Ctrl-C is for this script: it ends its children in order
    )
    deadline = time.monotonic() + seconds
    try:
        while True:
            try:
                out, err = process.communicate(timeout=min(1.0, seconds))
                break
            except subprocess.TimeoutExpired:
                check_time(str(command[0]), deadline, seconds)
    except BaseException:
        end(process)
        raise
    if process.returncode != 0:
        said = (err.strip() or out.strip()).splitlines()
        raise StepFailed("\n".join([f"{spell(command)} ended with status {process.returncode}", *said[-8:]]))
    return out


def check_time(program: str, deadline: float, seconds: float) -> None:
    """StepFailed when a program has had its time, or when one has ended that it needs."""
    if time.monotonic() > deadline:
        raise StepFailed(f"{program} took more than {seconds:.0f} seconds")
    for watched in WATCHED:
        if watched.poll() is not None:
            raise StepFailed(f"ossfs serve (process {watched.pid}) ended with status {watched.returncode}")


def end(process: subprocess.Popen[Any]) -> None:
    """Kill a program, and do not wait long: it may hang in a mount until that is gone."""
    process.kill()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        tell(f"[yellow]process {process.pid} does not end yet[/]")
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def spell(command: tuple[str | Path, ...]) -> str:
    """A command as one would type it."""
    return " ".join(str(word) for word in command)


def run_counting(command: list[str], what: str, total: int) -> None:
    """Run a program that prints a line for each file it has done, and show how far it is."""
    process = subprocess.Popen(  # nosec B603 # the commands below, without a shell
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    deadline = time.monotonic() + STEP_SECONDS
    count, tail = 0, b""
    try:
        with bar(what, total) as advance_to, selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                if not selector.select(min(1.0, STEP_SECONDS)):
                    check_time(command[0], deadline, STEP_SECONDS)
                    continue
                data = os.read(process.stdout.fileno(), 65536)
                if not data:
                    break
                count += data.count(b"\n")
                tail = (tail + data)[-2000:]
                advance_to(count)
        status = process.wait(timeout=30)
        process.stdout.close()
    except BaseException:
        end(process)
        raise
    if status != 0:
        lines = os.fsdecode(tail).splitlines()[-5:]
        raise StepFailed("\n".join([f"{spell(tuple(command))} ended with status {status}", *lines]))


def run_growing(command: list[str], grown: Path, what: str, total: int) -> None:
    """Run a program that writes the file *grown*, and show how far it is."""
    process = subprocess.Popen(  # nosec B603 # the commands below, without a shell
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + STEP_SECONDS
    try:
        with bar(what, total) as advance_to:
            while True:
                try:
                    _, err = process.communicate(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    check_time(command[0], deadline, STEP_SECONDS)
                if grown.exists():
                    advance_to(grown.stat().st_size)
    except BaseException:
        end(process)
        raise
    if process.returncode != 0:
        said = os.fsdecode(err).strip().splitlines()[-5:]
        raise StepFailed(
            "\n".join([f"{spell(tuple(command))} ended with status {process.returncode}", *said])
        )


# --------------------------------------------------------------------------------------------------
# The demonstration.


class Demo:
    """What was started and where things are, so that all of it can be ended and removed."""

    def __init__(self) -> None:
        self.base = self._roomy_directory()
        self.data = self.base / "server"
        self.mountpoint = self.base / "mnt"
        self.expected = self.base / "expected"
        self.log = self.base / "mount.log"
        self.server: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.mount_pids: set[int] = set()
        for directory in (self.data, self.mountpoint, self.expected):
            directory.mkdir()
        # Whatever the caller's environment says of ossfs is not for the demonstration.
        self.env = {name: v for name, v in os.environ.items() if not name.startswith(("OSSFS_", "OSS_"))}
        if "OSSFS_RUNTIME_DIR" in os.environ:
            self.env["OSSFS_RUNTIME_DIR"] = os.environ["OSSFS_RUNTIME_DIR"]
        self.env["OSS_ACCESS_KEY_ID"] = "DEMO" + secrets.token_hex(8)
        self.env["OSS_ACCESS_KEY_SECRET"] = secrets.token_hex(16)

    @staticmethod
    def _roomy_directory() -> Path:
        for parent in (tempfile.gettempdir(), "/var/tmp"):  # nosec B108 # mkdtemp makes one of its own in it
            if shutil.disk_usage(parent).free > NEEDED_SPACE:
                return Path(tempfile.mkdtemp(prefix="ossfs-demo-", dir=parent)).resolve()
        raise StepFailed("the demonstration needs 2 GB of free space in /tmp or /var/tmp; set TMPDIR")

    def start_server(self) -> None:
        """`ossfs serve` on a temporary directory."""
        step(f"ossfs serve {self.data} --bucket {BUCKET}")
        with open(self.base / "server.log", "wb") as log:
            self.server = subprocess.Popen(  # nosec B603 # our own program
                [str(OSSFS), "serve", str(self.data), "--bucket", BUCKET],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.env,
                start_new_session=True,
            )
        assert self.server.stdout is not None
        text, deadline = "", time.monotonic() + 60
        with selectors.DefaultSelector() as selector:
            selector.register(self.server.stdout, selectors.EVENT_READ)
            while not (found := re.search(r"at (https?://\S+)\n", text)):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise StepFailed("ossfs serve did not say within 60 seconds where it listens")
                data = os.read(self.server.stdout.fileno(), 4096)
                if not data:
                    log_text = (self.base / "server.log").read_text(errors="replace")
                    raise StepFailed("\n".join(["ossfs serve ended:", *log_text.splitlines()[-8:]]))
                text += data.decode(errors="replace")
        self.url = found[1]
        WATCHED.append(self.server)
        show_output(f"listens at {self.url}")

    def mount(self) -> None:
        """`ossfs mount`, in the background as a person would."""
        options = f"endpoint={self.url},state_dir={self.base / 'state'},log_file={self.log}"
        step(f"ossfs mount {BUCKET} {self.mountpoint} -o {options}")
        run(OSSFS, "mount", BUCKET, self.mountpoint, "-o", options, env=self.env)
        self.mount_pids |= self._mount_processes()

    def _mount_processes(self) -> set[int]:
        records = json.loads(run(OSSFS, "status", "--json", env=self.env, seconds=20))
        return {record["pid"] for record in records if record["mountpoint"] == str(self.mountpoint)}

    def umount(self) -> None:
        """`ossfs umount`, which waits for the uploads."""
        step(f"ossfs umount {self.mountpoint}")
        started = time.monotonic()
        run(OSSFS, "umount", self.mountpoint, env=self.env, seconds=STEP_SECONDS)
        tell(f"    everything is in the bucket ({time.monotonic() - started:.1f} s)")

    def play(self) -> None:
        """The whole of it, up to the second comparison."""
        stdlib = Path(sysconfig.get_path("stdlib"))
        tree = self.expected / "stdlib"
        files = sum(len(names) for _, _, names in os.walk(stdlib))
        step(
            f"prepare: a copy of {stdlib} ({files} files) and a file of {BIG_SIZE // MIB} MB to compare with"
        )
        # Packages that were installed into it are left out: it is to be the same on every machine.
        shutil.copytree(
            stdlib, tree, symlinks=True, ignore=shutil.ignore_patterns("site-packages", "dist-packages")
        )
        big = self.expected / "big.bin"
        self._make_big(big)
        entries = sum(len(dirs) + len(names) for _, dirs, names in os.walk(tree)) + 1

        self.start_server()
        self.mount()
        step(f"cp -a stdlib {self.mountpoint}/   ({entries} files and directories)")
        run_counting(["cp", "-av", str(tree), f"{self.mountpoint}/"], "files", entries)
        step(f"cp big.bin {self.mountpoint}/")
        started = time.monotonic()
        run_growing(["cp", str(big), f"{self.mountpoint}/"], self.mountpoint / "big.bin", "bytes", BIG_SIZE)
        tell(f"    {BIG_SIZE / MIB / (time.monotonic() - started):.0f} MB/s, up to the end of close(2)")
        self.look()
        self.edit()
        self.rename()
        self.compare("while mounted")
        self.umount()
        if os.path.ismount(self.mountpoint) or any(self.mountpoint.iterdir()):
            raise StepFailed(f"{self.mountpoint} is not an empty directory after the unmount")
        self.mount()
        self.compare("after mounting again")

    def _make_big(self, path: Path) -> None:
        block = 4 * MIB
        with bar("random bytes", BIG_SIZE) as advance_to, open(path, "wb") as file:
            for done in range(0, BIG_SIZE, block):
                file.write(os.urandom(block))
                advance_to(done + block)

    def look(self) -> None:
        """ls -l and df."""
        step(f"ls -l {self.mountpoint} {self.mountpoint}/stdlib/json; df -h {self.mountpoint}")
        show_output(run("ls", "-l", self.mountpoint))
        show_output(run("ls", "-l", self.mountpoint / "stdlib" / "json"))
        show_output(run("df", "-h", self.mountpoint))

    def edit(self) -> None:
        """Overwrite 4 KiB in the middle of the big file, where it is."""
        step("edit 4 KiB in the middle of big.bin: dd bs=4k seek=38400 count=1 conv=notrunc")
        patch = self.base / "patch"
        patch.write_bytes(os.urandom(4096))
        for file in (self.expected / "big.bin", self.mountpoint / "big.bin"):
            started = time.monotonic()
            run("dd", f"if={patch}", f"of={file}", "bs=4k", "seek=38400", "count=1", "conv=notrunc")
        tell(f"    {time.monotonic() - started:.2f} s on the mount")

    def rename(self) -> None:
        """Rename a directory with files in it."""
        step("rename a directory: mv stdlib/json stdlib/json-renamed")
        for base in (self.expected, self.mountpoint):
            run("mv", base / "stdlib" / "json", base / "stdlib" / "json-renamed")

    def compare(self, when: str) -> None:
        """Every byte by diff -r and by checksums, every mode, every symbolic link."""
        step(f"compare, {when}: diff -r")
        started = time.monotonic()
        differences = run(
            "diff", "-r", "--no-dereference", self.expected, self.mountpoint, seconds=STEP_SECONDS
        )
        if differences:
            raise StepFailed(differences)
        passed(f"diff -r finds no difference ({time.monotonic() - started:.1f} s)")
        step(f"compare, {when}: SHA-256 and mode of every file")
        wanted, found = self._describe(self.expected, "here"), self._describe(self.mountpoint, "on the mount")
        wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        if wrong:
            lines = [f"{name}: expected {wanted.get(name)}, found {found.get(name)}" for name in wrong[:8]]
            raise StepFailed("\n".join([f"{len(wrong)} files differ:", *lines]))
        passed(f"{len(wanted)} files and directories have the same checksum, type and mode")

    def _describe(self, base: Path, where: str) -> dict[str, tuple[str, str]]:
        described = {}
        total = sum(len(dirs) + len(names) for _, dirs, names in os.walk(base))
        with bar(f"checksums {where}", total) as advance_to:
            for parent, dirs, names in os.walk(base):
                for name in dirs + names:
                    path = os.path.join(parent, name)
                    status = os.lstat(path)
                    if stat.S_ISLNK(status.st_mode):
                        content = os.readlink(path)
                    elif stat.S_ISREG(status.st_mode):
                        with open(path, "rb") as file:
                            content = hashlib.file_digest(file, "sha256").hexdigest()
                    else:
                        content = ""
                    described[os.path.relpath(path, base)] = (stat.filemode(status.st_mode), content)
                    advance_to(len(described))
        return described

    def clean_up(self) -> bool:
        """End and remove all that was started; False when something could not be."""
        good = True
        WATCHED.clear()
        if os.path.ismount(self.mountpoint) or self._is_dead():
            try:
                run(OSSFS, "umount", self.mountpoint, env=self.env, seconds=60)
            except StepFailed as error:
                tell(f"[yellow]{escape(str(error))}[/]")
                self._force_unmount()
                good = False
        if self.server is not None:
            self.server.terminate()
            try:
                self.server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.server.kill()
                self.server.wait(timeout=20)
            if self.server.stdout is not None:
                self.server.stdout.close()
        if os.path.ismount(self.mountpoint) or self._is_dead():
            tell(f"[red]{self.mountpoint} is still mounted; it and {self.base} are left behind[/]")
            return False
        shutil.rmtree(self.base, ignore_errors=True)
        return good

    def _is_dead(self) -> bool:
        try:
            os.stat(self.mountpoint)
        except OSError:
            return True
        return False

    def _force_unmount(self) -> None:
        for pid in self.mount_pids:
            try:
                # A process id may be another program's by now; only ours was started with this path.
                if str(self.mountpoint).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
            except OSError:
                pass  # it has ended
        try:
            run("fusermount3", "-u", "-z", self.mountpoint, seconds=20)
        except (StepFailed, OSError) as error:
            tell(f"[yellow]{escape(str(error))}[/]")


def passed(text: str) -> None:
    """One thing that was to be shown has been."""
    tell(f"    [green]passed[/] {escape(text)}")


def on_sigterm(_number: int, _frame: FrameType | None) -> NoReturn:
    """Leave by way of the clean-up."""
    raise Terminated


def wait_for_interrupt(demo: Demo) -> None:
    """Leave everything up, and say where it is, until Ctrl-C."""
    tell("")
    tell(f"[bold]The mount stays up at {demo.mountpoint}[/], the server at {demo.url}, until Ctrl-C.")
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        tell("")


def main() -> int:
    """0 only if everything passed and everything was cleaned up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keep", action="store_true", help="leave the mount up until Ctrl-C")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, on_sigterm)
    if not os.path.exists("/dev/fuse"):
        tell("[red]there is no /dev/fuse here: nothing can be mounted[/] (modprobe fuse)")
        return 1
    started = time.monotonic()
    status = 1
    demo = None
    try:
        demo = Demo()
        demo.play()
        status = 0
        if arguments.keep:
            wait_for_interrupt(demo)
    except StepFailed as error:
        tell(f"[bold red]FAILED[/] {escape(str(error))}")
        if demo is not None and demo.log.exists():
            tell("the end of the mount's log:")
            show_output("\n".join(demo.log.read_text(errors="replace").splitlines()[-12:]))
    except (KeyboardInterrupt, Terminated):
        tell("[yellow]interrupted[/]")
        status = 130
    except OSError as error:
        tell(f"[bold red]FAILED[/] {escape(str(error))}")
    finally:
        # A second Ctrl-C must not leave a mount behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if demo is not None:
            step("clean up: unmount, stop the server, remove the temporary directory")
            if not demo.clean_up() and status == 0:
                status = 1
    if status == 0:
        tell(f"[bold green]All passed[/] in {time.monotonic() - started:.0f} s.")
    return status


if __name__ == "__main__":
    sys.exit(main())
