"""What is measured: each case is something that users do.

Threading: a case runs in one thread and may start others; it ends with all of them.

A case is given a mount point and a Clock.  What it does outside `with clock:` is preparation through the
mount; without such a block all of it is measured.  Buckets are filled by the server, so that no client
profits from what it wrote itself.
"""

from __future__ import annotations

import os
import random
import subprocess
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Literal

from benchmarks.errors import BenchError
from benchmarks.limits import RawLoad, read_through, write_through
from benchmarks.servers import Server

GIB = 1 << 30
PAGE = 4096
THREADS = 16
PAST_TTL = 6.0
"""Seconds: what a listing has told is asked again after five."""

Unit = Literal["MB/s", "op/s", "files/s", "entries/s", "s", "ms"]


class Clock:
    """Takes the time of a case; *on_start* is called whenever it starts, *on_stop* when it stops."""

    def __init__(self, on_start: Callable[[], None], on_stop: Callable[[], None]) -> None:
        self._on_start, self._on_stop = on_start, on_stop
        self._begin = 0.0
        self.seconds: float | None = None
        """None while it runs."""

    def start(self) -> None:
        """From here on; what was measured before does not count."""
        self._on_start()
        self.seconds = None
        self._begin = time.perf_counter()

    def stop(self) -> None:
        """Up to here, unless it was stopped before."""
        if self.seconds is None:
            self.seconds = time.perf_counter() - self._begin
            self._on_stop()

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


@dataclass(frozen=True)
class Case:
    """amount: bytes, operations, files or entries of one run, by the unit.

    raw: the same bytes as plain HTTP.  kernel: which speed of the empty file system bounds it.
    remounted: it is done once before, and what is measured is the second time, after a remount.
    """

    name: str
    unit: Unit
    amount: int
    work: Callable[[Path, Clock], None]
    fill: Callable[[Server], None] | None = None
    raw: RawLoad | None = None
    kernel: Literal["read", "write"] | None = None
    remounted: bool = False

    def value(self, seconds: float) -> float:
        """The figure in the case's unit."""
        if self.unit == "s":
            return seconds
        if self.unit == "ms":
            return seconds * 1000
        return self.amount / seconds / (1e6 if self.unit == "MB/s" else 1)

    @property
    def smaller_is_better(self) -> bool:
        return self.unit in ("s", "ms")


CASES: dict[str, Case] = {}


def case(
    unit: Unit,
    amount: int,
    fill: Callable[[Server], None] | None = None,
    raw: RawLoad | None = None,
    kernel: Literal["read", "write"] | None = None,
    *,
    remounted: bool = False,
) -> Callable[[Callable[[Path, Clock], None]], Callable[[Path, Clock], None]]:
    """Registers a function as the case of its name."""

    def register(work: Callable[[Path, Clock], None]) -> Callable[[Path, Clock], None]:
        CASES[work.__name__] = Case(work.__name__, unit, amount, work, fill, raw, kernel, remounted)
        return work

    return register


CACHE_CASES = (
    "read_256m",
    "reread_warm",
    "read_256m_remounted",
    "read_200_small",
    "read_200_small_remounted",
    "create_800_small_16t",
    "untar_500",
    "untar_500_synced",
)
"""Those that the caches on a local disk are for."""


def choose(names: str | None, *, caches: bool = False) -> list[Case]:
    """The cases named in a list with commas, or all.  Raises BenchError for a name that is not there.

    caches: all are those of CACHE_CASES.
    """
    if names is None:
        return [CASES[name] for name in CACHE_CASES] if caches else list(CASES.values())
    chosen = []
    for name in filter(None, (word.strip() for word in names.split(","))):
        if name not in CASES:
            raise BenchError(f"--only: there is no case {name!r}; accepted: {', '.join(CASES)}")
        chosen.append(CASES[name])
    return chosen


def each(count: int, threads: int, work: Callable[[int], object]) -> None:
    """work(0) to work(count - 1), so many at a time."""
    if threads == 1:
        for number in range(count):
            work(number)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(count)))


def expect(found: int, wanted: int, what: str) -> None:
    """A benchmark of something that did not happen is worth nothing."""
    if found != wanted:
        raise BenchError(f"{found} {what} instead of {wanted}")


def filled(prefix: str, count: int, size: int) -> Callable[[Server], None]:
    """Fills a bucket."""
    return lambda server: server.fill(prefix, count, size)


# --------------------------------------------------------------------------------------------------
# Large files.

ONE_LARGE = filled("large", 1, GIB)


def _fill_four(server: Server) -> None:
    for number in range(4):
        server.fill(f"large{number}", 1, GIB // 4)


@case("MB/s", GIB, raw=RawLoad("PUT", 1, GIB, 8), kernel="write")
def seq_write(mount: Path, clock: Clock) -> None:
    """One program writes 1 GiB and closes."""
    write_through(mount / "new", GIB)


@case("MB/s", GIB, ONE_LARGE, RawLoad("GET", 1, GIB, 16), "read")
def seq_read(mount: Path, clock: Clock) -> None:
    """One program reads 1 GiB."""
    read_through(mount / "large", GIB)


@case("MB/s", GIB, raw=RawLoad("PUT", 4, GIB // 4, 8), kernel="write")
def par4_write(mount: Path, clock: Clock) -> None:
    """Four write 256 MiB each."""
    each(4, 4, lambda number: write_through(mount / f"new{number}", GIB // 4))


@case("MB/s", GIB, _fill_four, RawLoad("GET", 4, GIB // 4, 16), "read")
def par4_read(mount: Path, clock: Clock) -> None:
    """Four read 256 MiB each."""
    each(4, 4, lambda number: read_through(mount / f"large{number}", GIB // 4))


@case("MB/s", GIB // 4, filled("large", 1, GIB // 4), kernel="read")
def reread_warm(mount: Path, clock: Clock) -> None:
    """Read again what the page cache has."""
    read_through(mount / "large", GIB // 4)
    with clock:
        read_through(mount / "large", GIB // 4)


@case("MB/s", GIB // 4, filled("large", 1, GIB // 4), kernel="read")
def read_256m(mount: Path, clock: Clock) -> None:
    """One program reads 256 MiB for the first time."""
    read_through(mount / "large", GIB // 4)


@case("MB/s", GIB // 4, filled("large", 1, GIB // 4), kernel="read", remounted=True)
def read_256m_remounted(mount: Path, clock: Clock) -> None:
    """The same, when an earlier mount has read it."""
    read_through(mount / "large", GIB // 4)


def _random_reads(mount: Path, threads: int, count: int) -> None:
    fd = os.open(mount / "large", os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)

    def go(seed: int) -> None:
        numbers = random.Random(seed)
        for _ in range(count):
            page = os.pread(fd, PAGE, numbers.randrange(GIB // PAGE) * PAGE)
            expect(len(page), PAGE, "bytes")

    try:
        each(threads, threads, go)
    finally:
        os.close(fd)


@case("op/s", 200, ONE_LARGE)
def rand_read_4k(mount: Path, clock: Clock) -> None:
    """A page here and there, one after the other."""
    _random_reads(mount, 1, 200)


@case("op/s", 40 * THREADS, ONE_LARGE)
def rand_read_4k_16t(mount: Path, clock: Clock) -> None:
    """The same by 16 threads."""
    _random_reads(mount, THREADS, 40)


@case("ms", 1, ONE_LARGE)
def first_byte(mount: Path, clock: Clock) -> None:
    """Open a large file and read its first byte."""
    fd = os.open(mount / "large", os.O_RDONLY)
    os.read(fd, 1)
    os.close(fd)


@case("s", 1, ONE_LARGE)
def edit_4k_in_1g(mount: Path, clock: Clock) -> None:
    """Change 4 KiB in the middle of 1 GiB."""
    fd = os.open(mount / "large", os.O_RDWR)
    os.pwrite(fd, b"y" * PAGE, GIB // 2 + 123)
    os.close(fd)


@case("s", 1, ONE_LARGE)
def append_1k_to_1g(mount: Path, clock: Clock) -> None:
    """Append 1 KiB to 1 GiB."""
    with open(mount / "large", "ab") as file:
        file.write(b"y" * 1024)


@case("s", 1, ONE_LARGE)
def rename_1g(mount: Path, clock: Clock) -> None:
    """Rename a file of 1 GiB."""
    os.rename(mount / "large", mount / "moved")


# --------------------------------------------------------------------------------------------------
# Many small files.


def _create(mount: Path, count: int, threads: int) -> None:
    (mount / "d").mkdir()

    def one(number: int) -> None:
        with open(mount / "d" / f"f{number:04}", "wb") as file:
            file.write(b"x" * PAGE)

    each(count, threads, one)


def _read_small(mount: Path, count: int, threads: int) -> None:
    def one(number: int) -> None:
        with open(mount / "d" / f"f{number:06}", "rb") as file:
            expect(len(file.read()), PAGE, "bytes")

    each(count, threads, one)


@case("files/s", 200, raw=RawLoad("PUT", 200, PAGE, 1))
def create_200_small(mount: Path, clock: Clock) -> None:
    """Create files of 4 KiB, one after the other."""
    _create(mount, 200, 1)


@case("files/s", 800, raw=RawLoad("PUT", 800, PAGE, THREADS))
def create_800_small_16t(mount: Path, clock: Clock) -> None:
    """The same by 16 threads."""
    _create(mount, 800, THREADS)


@case("files/s", 200, filled("d/f", 200, PAGE), RawLoad("GET", 200, PAGE, 1))
def read_200_small(mount: Path, clock: Clock) -> None:
    """Read files of 4 KiB, one after the other."""
    _read_small(mount, 200, 1)


@case("files/s", 200, filled("d/f", 200, PAGE), remounted=True)
def read_200_small_remounted(mount: Path, clock: Clock) -> None:
    """The same, when an earlier mount has read them."""
    _read_small(mount, 200, 1)


@case("files/s", 800, filled("d/f", 800, PAGE), RawLoad("GET", 800, PAGE, THREADS))
def read_800_small_16t(mount: Path, clock: Clock) -> None:
    """The same by 16 threads."""
    _read_small(mount, 800, THREADS)


@cache
def _archive() -> bytes:
    """A tar of 500 files of 200 to 30 000 bytes in 25 directories; the same each time."""
    output = BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for number in range(500):
            if number % 20 == 0:
                directory = tarfile.TarInfo(f"tree/d{number // 20}")
                directory.type, directory.mode, directory.mtime = tarfile.DIRTYPE, 0o755, 1_700_000_000
                archive.addfile(directory)
            numbers = random.Random(number)
            member = tarfile.TarInfo(f"tree/d{number // 20}/f{number}")
            member.size, member.mtime = numbers.choice([200, 2000, 8000, 30000]), 1_700_000_000
            archive.addfile(member, BytesIO(numbers.randbytes(member.size)))
    return output.getvalue()


@case("s", 1)
def untar_500(mount: Path, clock: Clock) -> None:
    """tar x of 500 files."""
    data = _archive()
    with clock:
        subprocess.run(["tar", "xf", "-", "-C", mount], input=data, check=True)


@case("s", 1)
def untar_500_synced(mount: Path, clock: Clock) -> None:
    """The same, until all of it is in the bucket: sync(1) of each directory."""
    data = _archive()
    with clock:
        subprocess.run(["tar", "xf", "-", "-C", mount], input=data, check=True)
        subprocess.run(["sync", *sorted((mount / "tree").iterdir())], check=True)


# --------------------------------------------------------------------------------------------------
# Directories.


def _names(mount: Path, count: int) -> None:
    expect(len(os.listdir(mount / "d")), count, "names")


def _stats(mount: Path, count: int) -> None:
    expect(sum(1 for e in os.scandir(mount / "d") if e.stat().st_size == 10), count, "entries")


TEN_THOUSAND = filled("d/f", 10_000, 10)


@case("entries/s", 10_000, TEN_THOUSAND)
def ls_10k(mount: Path, clock: Clock) -> None:
    """ls: names only."""
    _names(mount, 10_000)


@case("entries/s", 10_000, TEN_THOUSAND)
def ls_l_10k(mount: Path, clock: Clock) -> None:
    """ls -l: each is looked at."""
    _stats(mount, 10_000)


@case("entries/s", 10_000, TEN_THOUSAND)
def ls_l_10k_again(mount: Path, clock: Clock) -> None:
    """The same, when what was told before is too old."""
    _stats(mount, 10_000)
    time.sleep(PAST_TTL)
    with clock:
        _stats(mount, 10_000)


def _fill_tree(server: Server) -> None:
    for first in range(10):
        for second in range(10):
            server.fill(f"t/{first}/{second}/f", 20, 10)


@case("entries/s", 2000, _fill_tree)
def find_tree_2k(mount: Path, clock: Clock) -> None:
    """find through 100 directories of 20 files."""
    expect(sum(len(files) for _, _, files in os.walk(mount / "t")), 2000, "files")


@case("op/s", 1000, filled("d/f", 100, 10))
def absent_1k(mount: Path, clock: Clock) -> None:
    """Look for names that are not there, as compilers and shells do."""

    def one(number: int) -> None:
        if os.path.lexists(mount / "d" / f"absent{number}"):
            raise BenchError("a name that is not there was found")

    each(1000, 1, one)


@case("files/s", 300, filled("d/f", 300, 10))
def rm_rf_300(mount: Path, clock: Clock) -> None:
    """rm -rf of a directory of 300."""
    subprocess.run(["rm", "-rf", mount / "d"], check=True)


def _rename_directory(mount: Path, count: int) -> None:
    os.rename(mount / "d", mount / "e")
    expect(len(os.listdir(mount / "e")), count, "names")


@case("s", 1, filled("d/f", 300, PAGE))
def rename_dir_300(mount: Path, clock: Clock) -> None:
    """Rename a directory of 300 files."""
    _rename_directory(mount, 300)


@case("s", 1, filled("d/f", 10_000, PAGE))
def rename_dir_10k(mount: Path, clock: Clock) -> None:
    """Rename a directory of 10 000 files."""
    _rename_directory(mount, 10_000)
