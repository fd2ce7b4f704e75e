"""Runs a case on a client and a server, and takes down what it cost.

Threading: a case runs in a thread of its own, so that one that hangs ends with its mount.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.cases import Case, Clock
from benchmarks.clients import Client, Mounted
from benchmarks.errors import BenchError
from benchmarks.limits import KernelLimit
from benchmarks.processes import Usage, reset_peak, usage
from benchmarks.servers import Counters, Server

GIB = 1 << 30
MIN_CPU_BYTES = 64 << 20
"""CPU seconds a GiB are told of rows that move at least this much."""


@dataclass
class Run:
    """One run of a case.  cpu: seconds of the mount's processes.  peak: bytes."""

    seconds: float
    cpu: float
    peak: int
    counters: Counters | None


@dataclass
class Row:
    """A case on a client: the medians of its runs.

    value: in the case's unit; None when it failed, and `error` says how.  The names of the fields are
    those of the JSON.
    """

    case: str
    client: str
    unit: str
    value: float | None = None
    values: list[float] = field(default_factory=list)
    cpu: float = 0.0
    cpu_per_gib: float | None = None
    rss_mb: float = 0.0
    in_mb: float = 0.0
    out_mb: float = 0.0
    """Megabytes of bodies: in to the server, out of it."""
    reqs: int | None = None
    ops: dict[str, int] = field(default_factory=dict)
    raw: float | None = None
    """The same bytes as plain HTTP over as many connections, in the same unit."""
    of_raw: float | None = None
    of_kernel: float | None = None
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)


class Runner:
    """Runs rows.

    timeout: seconds that one run may take.  adjust: done to each mount before its case.  raw: also
    measure the same bytes as plain HTTP.
    """

    def __init__(
        self,
        *,
        runs: int,
        timeout: float,
        kernel: KernelLimit | None,
        adjust: Callable[[Mounted], None] | None = None,
        raw: bool = True,
    ) -> None:
        self._adjust = adjust
        self._raw_wanted = raw
        self._runs = runs
        self._timeout = timeout
        self._kernel = kernel

    def row(self, case: Case, client: Client, server: Server) -> Row:
        """All runs of a case; a failure is in the row."""
        row = Row(case.name, client.name, case.unit)
        if client.dialect not in server.dialects:
            row.error = f"skipped: {client.name} speaks {client.dialect.upper()}, {server.name} does not"
            return row
        runs: list[Run] = []
        raw: list[float] = []
        try:
            for number in range(self._runs):
                try:
                    server.start()
                    if case.fill is not None:
                        case.fill(server)
                    with Mounted(client, server) as mounted:
                        if self._adjust is not None:
                            self._adjust(mounted)
                        runs.append(self._run(case, mounted, server))
                    if number == 0 and self._raw_wanted and case.raw is not None:
                        raw.append(self._raw(case, server, runs[0]))
                finally:
                    server.stop()
        except BenchError as error:
            row.error = str(error)
        if runs:
            self._sum_up(row, case, runs)
        if raw and row.value:
            row.raw = round(raw[0], 3)
            row.of_raw = round(row.value / raw[0], 3)
        return row

    def _run(self, case: Case, mounted: Mounted, server: Server) -> Run:
        seen: list[tuple[Usage, Counters | None]] = []

        def look() -> tuple[Usage, Counters | None]:
            return usage(mounted.pid), server.counters() or mounted.counters()

        def on_start() -> None:
            server.reset()
            reset_peak(mounted.pid)
            seen[:] = [look()]

        def on_stop() -> None:
            seen.append(look())

        clock = Clock(on_start, on_stop)
        failure: list[Exception] = []

        def work() -> None:
            try:
                if case.remounted:
                    case.work(mounted.path, Clock(lambda: None, lambda: None))
                    mounted.remount()
                clock.start()
                case.work(mounted.path, clock)
                clock.stop()
            except Exception as error:
                failure.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(self._timeout)
        if thread.is_alive():
            mounted.kill()
            thread.join(30)
            raise BenchError(f"not done after {self._timeout:g} s")
        if failure:
            raise BenchError(f"{type(failure[0]).__name__}: {failure[0]}") from failure[0]
        assert clock.seconds is not None
        (before, counted), (after, counters) = seen
        return Run(clock.seconds, after.cpu - before.cpu, after.peak, _since(counters, counted))

    def _raw(self, case: Case, server: Server, run: Run) -> float:
        assert case.raw is not None
        peak = run.counters.peak if run.counters is not None else None
        seconds = case.raw.seconds(server, min(peak, 64) if peak else case.raw.connections)
        return case.value(seconds)

    def _sum_up(self, row: Row, case: Case, runs: list[Run]) -> None:
        row.values = [round(case.value(run.seconds), 3) for run in runs]
        row.value = statistics.median(row.values)
        row.cpu = round(statistics.median(run.cpu for run in runs), 3)
        # The most, since a budget is a bound.
        row.rss_mb = round(max(run.peak for run in runs) / 1e6, 1)
        counters = runs[-1].counters
        if counters is not None:
            row.in_mb, row.out_mb = round(counters.sent / 1e6, 2), round(counters.received / 1e6, 2)
            row.reqs, row.ops = counters.total, counters.requests
            moved = counters.sent + counters.received
            if moved >= MIN_CPU_BYTES:
                row.cpu_per_gib = round(row.cpu / moved * GIB, 2)
        if self._kernel is not None and case.kernel is not None and case.unit == "MB/s":
            row.of_kernel = round(row.value / getattr(self._kernel, case.kernel), 3)


def _since(now: Counters | None, before: Counters | None) -> Counters | None:
    """What was counted in between; servers that were reset begin at nothing anyway."""
    if now is None or before is None:
        return now
    kinds = {name: count - before.requests.get(name, 0) for name, count in now.requests.items()}
    return Counters(
        {name: count for name, count in kinds.items() if count},
        now.received - before.received,
        now.sent - before.sent,
        now.peak,
    )


def stamp() -> str:
    """The time of a run, for the JSON."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
