"""Programs that use a directory, and keep a ledger of what they were promised.

    python -m tests.campaign.workloads NAME DIRECTORY LEDGER SEED SECONDS

Each runs in a process of its own, until its time is over or it is ended by SIGTERM, and prints one
line of JSON: operations, errors by name, and problems, which are wrong bytes and wrong errors.

After a failed operation a path is used no more: what it holds is one of two contents, and stays so.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw

from tests.campaign.ledger import ABSENT, ANYTHING, Ledger, digest
from tests.campaign.watched import NAME, Files, Watched

MIB = 1 << 20
NO_HEAD = "none"
EXPECTED = {
    errno.EIO,
    errno.ETIMEDOUT,
    errno.ENOSPC,
    errno.ENOTCONN,
    errno.ECONNABORTED,
    errno.ENOENT,
    errno.EACCES,
    errno.EAGAIN,
    errno.ENOMEM,
    errno.EMFILE,
    errno.ENFILE,
    errno.EBUSY,
    errno.EINTR,
}
"""What a program may be told while the service, the network or the mount is away.  ENOENT: the mount
point is empty, or the directory that the program wanted to make could not be made."""


class Stop(BaseException):
    """The time is over."""


class Program:
    """One workload.  Paths are relative to its directory; the ledger's are <name>/<path>."""

    def __init__(self, name: str, directory: Path, ledger: Ledger, seed: int, seconds: float) -> None:
        self.name = name
        self.directory = directory
        self.ledger = ledger
        self.random = random.Random(seed)
        self.until = time.monotonic() + seconds
        self.operations = 0
        self.errors: Counter[str] = Counter()
        self.problems: list[str] = []
        self.files: dict[str, bytes] = {}
        """Those of whose content this program is sure."""
        self.watched: Files | None = None
        self.layer: Watched | None = None
        self._serial = 0

    def fresh(self) -> str:
        """A name that was not used before."""
        self._serial += 1
        return f"f{self._serial}"

    def bytes(self, most: int) -> bytes:
        """Random content."""
        return self.random.randbytes(self.random.randrange(most))

    @contextlib.contextmanager
    def step(self, **outcomes: str) -> Iterator[None]:
        """An operation with these outcomes for these paths."""
        named = {f"{self.name}/{path}": content for path, content in outcomes.items()}
        self.ledger.begin(**named)
        try:
            yield
        except BaseException:
            for path in outcomes:
                self.files.pop(path, None)
            raise
        self.ledger.done(**named)

    def run(self, step: Callable[[], None]) -> None:
        """The step, again and again."""
        while time.monotonic() < self.until:
            try:
                step()
                self.operations += 1
            except OSError as error:
                self.errors[errno.errorcode.get(error.errno or 0, str(error))] += 1
                if error.errno not in EXPECTED:
                    self.problems.append(f"{self.name}: {error!r}")
                # Who is refused at once should not fill the log.
                time.sleep(0.05)

    # -- what the workloads are made of

    def write(self, name: str, data: bytes) -> None:
        """A whole file, new or over the old one."""
        with self.step(**{name: digest(data)}):
            fd = os.open(self.directory / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view[: 128 * 1024]) :]
            except OSError:
                # As on a local disk, closing keeps what was written before write(2) failed.
                self.ledger.begin(**{f"{self.name}/{name}": digest(data[: len(data) - len(view)])})
                raise
            finally:
                os.close(fd)
        self.files[name] = data

    def verify(self, name: str) -> None:
        """Read a file whose content is known."""
        try:
            found = (self.directory / name).read_bytes()
        except FileNotFoundError:
            if self.directory.exists():  # the mount is there
                self.problems.append(f"{self.name}/{name} is not there")
            raise
        if found != self.files[name]:
            self.problems.append(f"{self.name}/{name}: {digest(found)}, not {digest(self.files[name])}")

    def remove(self, name: str) -> None:
        """Delete a file, durably: fsync of the directory."""
        with self.step(**{name: ABSENT}):
            os.unlink(self.directory / name)
            fd = os.open((self.directory / name).parent, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        self.files.pop(name, None)

    def rename(self, old: str, new: str) -> None:
        """Rename a file, maybe over another one."""
        data = self.files[old]
        with self.step(**{old: ABSENT, new: digest(data)}):
            os.rename(self.directory / old, self.directory / new)
        del self.files[old]
        self.files[new] = data

    def some(self) -> str | None:
        """One of the known files."""
        return self.random.choice(list(self.files)) if self.files else None


def copies(p: Program) -> None:
    """Large files, written and read back."""
    if len(p.files) > 4:
        p.remove(next(iter(p.files)))
    name = p.fresh()
    p.write(name, p.random.randbytes(p.random.randrange(MIB, 24 * MIB)))
    p.verify(name)


def storm(p: Program) -> None:
    """Small files: made, read, replaced, renamed, removed."""
    name = p.some()
    match p.random.randrange(5 if len(p.files) > 40 else 3) if name else 0:
        case 0:
            p.write(p.fresh(), p.bytes(20_000))
        case 1:
            assert name is not None
            p.verify(name)
        case 2:
            assert name is not None
            p.write(name, p.bytes(20_000))
        case 3:
            assert name is not None
            p.rename(name, p.random.choice([p.fresh(), p.some() or p.fresh()]))
        case _:
            assert name is not None
            p.remove(name)


def renames(p: Program) -> None:
    """A directory of twenty files, renamed three times."""
    top = p.fresh()
    os.mkdir(p.directory / top)
    for i in range(20):
        p.write(f"{top}/{i}", p.bytes(3000))
    for _ in range(3):
        other = p.fresh()
        moves = {f"{top}/{i}": f"{other}/{i}" for i in range(20)}
        contents = {old: p.files[old] for old in moves}
        outcomes = dict.fromkeys(moves, ABSENT)
        outcomes |= {new: digest(contents[old]) for old, new in moves.items()}
        with p.step(**outcomes):
            os.rename(p.directory / top, p.directory / other)
        for old, new in moves.items():
            p.files[new] = contents[old]
            del p.files[old]
        top = other
    for i in range(20):
        p.verify(f"{top}/{i}")
    if p.random.random() < 0.9:
        for i in range(20):
            p.remove(f"{top}/{i}")
        os.rmdir(p.directory / top)
    else:
        for i in range(20):
            del p.files[f"{top}/{i}"]


def edits(p: Program) -> None:
    """Some bytes in the middle of large files, and truncations."""
    if len(p.files) < 3:
        p.write(p.fresh(), p.random.randbytes(p.random.randrange(2 * MIB, 6 * MIB)))
        return
    name = p.some()
    assert name is not None
    data = bytearray(p.files[name])
    if p.random.random() < 0.2:
        size = p.random.randrange(MIB, 7 * MIB)
        data = data[:size] + bytes(max(0, size - len(data)))
        with p.step(**{name: digest(bytes(data))}):
            os.truncate(p.directory / name, size)
    else:
        patches = [(p.random.randrange(len(data)), p.bytes(9000)) for _ in range(p.random.randrange(1, 4))]
        for at, patch in patches:
            data[at : at + len(patch)] = patch
        with p.step(**{name: digest(bytes(data))}):
            fd = os.open(p.directory / name, os.O_RDWR)
            try:
                for at, patch in patches:
                    os.pwrite(fd, patch, at)
                os.fsync(fd)
            finally:
                os.close(fd)
    p.files[name] = bytes(data)
    p.verify(name)


def appends(p: Program) -> None:
    """A log: opened, a few lines appended, fsynced, closed."""
    name = p.some()
    if name is None or len(p.files[name]) > 200_000:
        if name is not None:
            p.remove(name)
        p.write(p.fresh(), b"begin\n")
        return
    lines = b"".join(b"%d %s\n" % (i, p.random.randbytes(30).hex().encode()) for i in range(20))
    data = p.files[name] + lines
    with p.step(**{name: digest(data)}):
        fd = os.open(p.directory / name, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(fd, lines)
            os.fsync(fd)
        finally:
            os.close(fd)
    p.files[name] = data


def crowd(p: Program) -> None:
    """Many files that are open and half written at the same time: more than memory holds."""
    for name in list(p.files):
        p.remove(name)
    contents = {p.fresh(): p.random.randbytes(p.random.randrange(40_000, 95_000)) for _ in range(700)}
    opened: dict[str, int] = {}
    failed: dict[str, OSError] = {}
    try:
        for name in contents:
            p.ledger.begin(**{f"{p.name}/{name}": digest(contents[name])})
            opened[name] = os.open(p.directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        for start in range(0, 95_000, 10_000):
            for name, fd in opened.items():
                piece = contents[name][start : start + 10_000]
                try:
                    if piece and name not in failed:
                        os.pwrite(fd, piece, start)
                except OSError as error:
                    failed[name] = error
                    p.ledger.begin(**{f"{p.name}/{name}": ANYTHING})
    finally:
        for name, fd in opened.items():
            try:
                os.close(fd)
            except OSError as error:
                failed[name] = error
            else:
                if name not in failed and len(opened) == len(contents):
                    p.ledger.done(**{f"{p.name}/{name}": digest(contents[name])})
                    p.files[name] = contents[name]
    for error in failed.values():
        raise error


def database(p: Program) -> None:
    """SQLite: one row a transaction.  The ledger has the number of committed rows as `rows`."""
    if p.watched is None:
        p.watched = Files()
        p.layer = Watched(p.watched)
    files = p.watched
    refused = files.refused
    try:
        with contextlib.closing(apsw.Connection(str(p.directory / "db"), vfs=NAME)) as connection:
            connection.set_busy_timeout(1000)
            connection.execute("PRAGMA synchronous=EXTRA")
            connection.execute("CREATE TABLE IF NOT EXISTS rows (n INTEGER PRIMARY KEY, data BLOB)")
            for _ in range(5):
                with connection:
                    connection.execute("INSERT INTO rows (data) VALUES (?)", (p.bytes(2000),))
                (count,) = connection.execute("SELECT max(n) FROM rows").fetchone()
                p.ledger.done(**{"database:rows": str(count)})
    except apsw.Error as error:
        # SQLite calls a database malformed when read(2) returns EIO.
        if isinstance(error, apsw.CorruptError | apsw.NotADBError) and files.refused == refused:
            p.problems.append(f"database: {error!r}")
        raise OSError(errno.EIO, str(error)) from error
    finally:
        p.problems += files.wrong
        files.wrong.clear()


def git(p: Program) -> None:
    """Commits.  The ledger has the last one as `head`."""
    here = p.directory / "repo"
    if not p.directory.exists():
        raise FileNotFoundError(errno.ENOENT, "there is no mount")  # git would make the directory
    if not (here / ".git" / "HEAD").exists():
        _git(p, "init", "-q", "-b", "main", str(here))
    if p.operations and p.operations % 100 == 0:
        p.ledger.done(**{"git:head": NO_HEAD})
        shutil.rmtree(here)
        return
    for lock in (here / ".git").glob("*.lock"):
        lock.unlink()  # of a git that was refused; a person does the same
    for lock in (here / ".git" / "refs" / "heads").glob("*.lock"):
        lock.unlink()
    (here / f"file{p.random.randrange(10)}").write_bytes(p.bytes(5000))
    _git(p, "-C", str(here), "add", "-A")
    _git(p, "-C", str(here), "commit", "-q", "--allow-empty", "-m", "more")
    head = _git(p, "-C", str(here), "rev-parse", "HEAD").strip()
    if not p.directory.exists():
        raise OSError(errno.ENOTCONN, "there was no mount")
    p.ledger.done(**{"git:head": head})


def _git(p: Program, *words: str) -> str:
    settings = ["user.email=a@example.com", "user.name=a", "core.fsync=all", "gc.auto=0"]
    options = [word for setting in settings for word in ("-c", setting)]
    done = subprocess.run(["git", *options, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(errno.EIO, done.stderr.strip()[-200:])
    return done.stdout


WORKLOADS: dict[str, Callable[[Program], None]] = {
    "copies": copies,
    "storm": storm,
    "renames": renames,
    "edits": edits,
    "appends": appends,
    "crowd": crowd,
    "database": database,
    "git": git,
}


def main() -> None:
    name, directory, ledger, seed, seconds = sys.argv[1:]

    def stop(number: int, frame: object) -> None:
        raise Stop

    signal.signal(signal.SIGTERM, stop)
    program = Program(name, Path(directory), Ledger(Path(ledger)), int(seed), float(seconds))

    with contextlib.suppress(Stop):
        program.run(lambda: WORKLOADS[name](program))
    print(json.dumps([program.operations, program.errors, program.problems]))


if __name__ == "__main__":
    main()
