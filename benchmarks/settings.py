"""What each setting of a mount is worth: the shipped value beside others, in turns, on the same machine.

    python -m benchmarks.settings [--server OSSWIRE] [--latency 15ms] [--runs 5] [NAME...]

Threading: one thread; the cases start their own.

The values of a setting are run one after the other, and that is done several times, so that what else
the machine does hits all of them.  Medians are told.  Needs root, for sysfs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from benchmarks.__main__ import parse_bandwidth, parse_count, parse_latency
from benchmarks.cases import CASES, Case
from benchmarks.clients import Mounted, Ossfs
from benchmarks.errors import BenchError, main
from benchmarks.report import figure, machine, machine_line
from benchmarks.runner import Row, Runner, stamp
from benchmarks.servers import Embedded, Network, Osswire, Server
from ossfs.fuse.kernel import device_of, fuse_control

KEEP = str(1 << 30)
"""Bytes: with these as thresholds, malloc gives nothing back to the kernel and maps nothing by itself."""


@dataclass(frozen=True)
class Value:
    """One value of a setting: what the client is started with, and what is done to a mount of it."""

    label: str
    client: Callable[[], Ossfs] = Ossfs
    adjust: Callable[[Mounted], None] | None = None
    shipped: bool = False


@dataclass(frozen=True)
class Setting:
    """A setting, its values, and the cases that it could matter to."""

    name: str
    cases: tuple[str, ...]
    values: tuple[Value, ...]


def _write(path: str, value: int) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(str(value))
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror}; these settings want root") from error


def _device(mounted: Mounted) -> str:
    device = device_of(str(mounted.path))
    if device is None:
        raise BenchError("the mount has gone")
    return device


def _read_ahead(kib: int) -> Callable[[Mounted], None]:
    return lambda mounted: _write(f"/sys/class/bdi/{_device(mounted)}/read_ahead_kb", kib)


def _background(count: int) -> Callable[[Mounted], None]:
    def adjust(mounted: Mounted) -> None:
        with fuse_control() as control:
            connection = f"{control}/{_device(mounted).split(':')[1]}"
            _write(f"{connection}/max_background", count)
            _write(f"{connection}/congestion_threshold", max(1, count * 3 // 4))

    return adjust


def _prelude(text: str) -> Callable[[], Ossfs]:
    return lambda: Ossfs(prelude=text)


def _environment(**variables: str) -> Callable[[], Ossfs]:
    return lambda: Ossfs(environment=variables)


SETTINGS = (
    Setting(
        "read_ahead_kb",
        ("seq_read", "par4_read"),
        tuple(
            Value(str(kib), adjust=_read_ahead(kib), shipped=kib == 4096) for kib in (128, 1024, 4096, 16384)
        ),
    ),
    Setting(
        "max_background",
        ("rand_read_4k_16t", "seq_read"),
        tuple(Value(str(count), adjust=_background(count), shipped=count == 64) for count in (12, 64, 256)),
    ),
    Setting(
        "max_tasks",
        ("create_800_small_16t", "rand_read_4k_16t"),
        tuple(
            Value(
                str(count),
                _prelude(f"import ossfs.mount\nossfs.mount.MAX_TASKS = {count}"),
                shipped=count == 1024,
            )
            for count in (8, 64, 1024)
        ),
    ),
    Setting(
        "switch interval",
        ("seq_read", "seq_write", "create_800_small_16t"),
        tuple(
            Value(f"{ms:g} ms", _prelude(f"import sys\nsys.setswitchinterval({ms / 1000})"), shipped=ms == 5)
            for ms in (0.5, 5, 20)
        ),
    ),
    Setting(
        "malloc",
        ("seq_read", "seq_write", "par4_write"),
        (
            Value("as it comes", shipped=True),
            Value("2 arenas", _environment(MALLOC_ARENA_MAX="2")),
            Value(
                "gives nothing back", _environment(MALLOC_TRIM_THRESHOLD_=KEEP, MALLOC_MMAP_THRESHOLD_=KEEP)
            ),
            Value("maps from 128 KiB", _environment(MALLOC_MMAP_THRESHOLD_="131072")),
        ),
    ),
)


@dataclass
class Result:
    """A case with a value: medians, but the most of the peaks."""

    setting: str
    case: str
    label: str
    unit: str
    shipped: bool
    values: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak_mb: float = 0.0

    def add(self, row: Row) -> None:
        """One run.  Raises BenchError when it failed."""
        if row.value is None:
            raise BenchError(f"{self.setting} {self.label}, {self.case}: {row.error}")
        self.values.append(row.value)
        self.cpu.append(row.cpu)
        self.peak_mb = max(self.peak_mb, row.rss_mb)


def measure(setting: Setting, case: Case, server: Server, runs: int, timeout: float) -> list[Result]:
    """All values of a setting, in turns."""
    results = [Result(setting.name, case.name, v.label, case.unit, v.shipped) for v in setting.values]
    for _ in range(runs):
        for value, result in zip(setting.values, results, strict=True):
            runner = Runner(runs=1, timeout=timeout, kernel=None, adjust=value.adjust, raw=False)
            result.add(runner.row(case, value.client(), server))
    return results


def table(setting: Setting, results: list[Result]) -> Table:
    """For people."""
    made = Table(title=setting.name, title_justify="left")
    for name in ("case", "value", "median", "", "of shipped", "CPU s", "peak MB"):
        made.add_column(name, justify="left" if name in ("case", "value", "") else "right")
    shipped = {r.case: statistics.median(r.values) for r in results if r.shipped}
    for result in results:
        median = statistics.median(result.values)
        made.add_row(
            *(result.case, f"{result.label}{' (shipped)' if result.shipped else ''}", figure(median)),
            *(result.unit, f"{median / shipped[result.case] * 100:.0f} %"),
            *(f"{statistics.median(result.cpu):.2f}", f"{result.peak_mb:.0f}"),
        )
    return made


def run(arguments: list[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.settings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [setting.name for setting in SETTINGS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(names)}; all if not given")
    parser.add_argument("--server", metavar="PROGRAM", help="an osswire, instead of the embedded server")
    parser.add_argument("--latency", type=parse_latency, default=0.0)
    parser.add_argument("--bandwidth", type=parse_bandwidth, default=0)
    parser.add_argument("--runs", type=parse_count, default=5)
    parser.add_argument("--timeout", type=float, default=120.0)
    parser.add_argument("--json", metavar="FILE")
    parsed = parser.parse_args(arguments)
    for name in parsed.names:
        if name not in names:
            raise BenchError(f"there is no setting {name!r}; accepted: {', '.join(names)}")
    if os.geteuid() != 0:
        raise BenchError("these settings want root")
    network = Network(parsed.latency, parsed.bandwidth)
    server: Server = Osswire(network, parsed.server) if parsed.server else Embedded(network)
    console = Console(width=None if sys.stdout.isatty() else 120)
    facts = machine()
    console.print(f"{machine_line(facts)}\n{server.name}: {network}; median of {parsed.runs}")
    everything: list[Result] = []
    for setting in SETTINGS:
        if parsed.names and setting.name not in parsed.names:
            continue
        results: list[Result] = []
        for name in setting.cases:
            results += measure(setting, CASES[name], server, parsed.runs, parsed.timeout)
        console.print(table(setting, results))
        everything += results
        if parsed.json:  # after each, since all of them take a quarter of an hour
            content = {
                "at": stamp(),
                "machine": facts,
                "server": server.name,
                "conditions": str(network),
                "results": [vars(result) for result in everything],
            }
            with open(parsed.json, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=1)
                file.write("\n")
    return 0


if __name__ == "__main__":
    main(run)
