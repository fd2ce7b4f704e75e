"""Tables for people and JSON for programs.

Threading: one thread.
"""

from __future__ import annotations

import os
import platform
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.limits import KernelLimit
from benchmarks.runner import Row
from benchmarks.storelayer import StoreFigure


def machine() -> dict[str, Any]:
    """The machine, as far as it explains a figure."""
    model = ""
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": model or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / (1 << 30), 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def machine_line(facts: dict[str, Any]) -> str:
    """The same in a line; the load only where it is known."""
    load = f", load {facts['load']}" if "load" in facts else ""
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, Linux {facts['kernel']}, "
        f"Python {facts['python']}{load}"
    )


def figure(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value * 100:.0f} %"


def limits_table(kernel: KernelLimit | None, store: list[StoreFigure]) -> Table:
    """What is possible without ossfs, and by its store layer alone."""
    table = Table(title="without a mount of ossfs", title_justify="left")
    for name in ("what", "", "CPU s/GiB"):
        table.add_column(name, justify="left" if name == "what" else "right", no_wrap=True)
    if kernel is not None:
        table.add_row("empty pyfuse3 file system, read", f"{kernel.read:.0f} MB/s", f"{kernel.read_cpu:.2f}")
        table.add_row(
            "empty pyfuse3 file system, written", f"{kernel.write:.0f} MB/s", f"{kernel.write_cpu:.2f}"
        )
    for found in store:
        cpu = "" if found.cpu_per_gib is None else f"{found.cpu_per_gib:.2f}"
        table.add_row(f"store layer: {found.name}", found.text, cpu)
    return table


def rows_table(title: str, rows: list[Row]) -> Table:
    """The rows, in the order in which they were measured."""
    table = Table(title=title, title_justify="left")
    for name in ("case", "client"):
        table.add_column(name, no_wrap=True)
    for name in (
        *("value", "unit", "of plain HTTP", "of kernel", "requests", "MB up", "MB down"),
        *("CPU s", "CPU s/GiB", "peak MB"),
    ):
        table.add_column(name, justify="left" if name == "unit" else "right")
    for row in rows:
        if row.value is None:
            table.add_row(row.case, row.client, f"[bold red]{escape(row.error or 'failed')}[/]")
            continue
        table.add_row(
            *(row.case, row.client, f"[bold]{figure(row.value)}[/]", row.unit),
            *(_percent(row.of_raw), _percent(row.of_kernel)),
            "" if row.reqs is None else str(row.reqs),
            *(f"{row.in_mb:.1f}", f"{row.out_mb:.1f}"),
            *(f"{row.cpu:.2f}", figure(row.cpu_per_gib) if row.cpu_per_gib else "", f"{row.rss_mb:.0f}"),
        )
    return table


def row_line(row: Row) -> str:
    """A row as soon as it is there: a run takes minutes, and may be ended before its table."""
    if row.value is None:
        return f"{row.case:26}{row.client:11}[red]{escape(row.error or 'failed')}[/]"
    return f"{row.case:26}{row.client:11}{figure(row.value):>8} {row.unit}"


def requests_table(rows: list[Row]) -> Table:
    """Which requests each row made."""
    table = Table(title="requests by kind", title_justify="left")
    for name in ("case", "client", "requests"):
        table.add_column(name, no_wrap=name != "requests")
    for row in rows:
        if row.ops:
            kinds = ", ".join(f"{count} {name}" for name, count in sorted(row.ops.items()) if count)
            table.add_row(row.case, row.client, kinds)
    return table


def complaints(console: Console, rows: list[Row]) -> int:
    """Say loudly what was not measured; how many rows that are."""
    seen: set[str] = set()
    for row in rows:
        if row.error is not None:
            text = row.error if row.error.startswith("skipped") else f"{row.case}, {row.client}: {row.error}"
            if text not in seen:
                console.print(f"[bold red]NOT MEASURED[/] {escape(text)}")
                seen.add(text)
    return sum(row.error is not None for row in rows)
