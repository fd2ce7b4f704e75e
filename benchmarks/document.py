"""Writes the tables and the plot of docs/performance.md from figures that were measured.

    python -m benchmarks.document [NAME=FILE ...]

Threading: one thread.

NAME is latency, local, tls, caches or settings.  FILE is what `make bench ARGS="--json FILE"` or `python -m
benchmarks.settings --json FILE` wrote, or the output of another benchmark that prints one JSON object a
line with case, client, value, cpu, rss_mb, in_mb, out_mb and reqs.  The figures are kept in
benchmarks/results/, so that without arguments the same document comes out again.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from dataclasses import dataclass, field
from html import escape
from math import log10
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES
from benchmarks.errors import BenchError
from benchmarks.report import figure, machine, machine_line
from benchmarks.runner import GIB, MIN_CPU_BYTES, stamp

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENT = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "performance.svg"
TITLES = {
    "latency": "15 ms to the first byte, 100 MB/s a connection",
    "local": "no latency",
    "tls": "TLS, 15 ms to the first byte, 100 MB/s a connection",
}


@dataclass(frozen=True)
class Goal:
    """value: what ossfs is to reach.  peer: what s3fs reached on the machine where that was decided.

    On a slower machine the ratio of the two counts.
    """

    value: float
    peer: float | None = None


GOALS: dict[str, dict[str, Goal]] = {
    "latency": {
        "seq_write": Goal(450, 178),
        "seq_read": Goal(1060, 337),
        "par4_write": Goal(460, 159),
        "par4_read": Goal(1050, 339),
        "rand_read_4k": Goal(57, 48),
        "rand_read_4k_16t": Goal(800, 147),
        "first_byte": Goal(50, 156),
        "create_200_small": Goal(55, 7),
        "create_800_small_16t": Goal(600, 8),
        "read_200_small": Goal(55, 20),
        "read_800_small_16t": Goal(600, 58),
        "ls_l_10k": Goal(1000, 1120),
        "ls_l_10k_again": Goal(20000),
        "find_tree_2k": Goal(2000, 184),
        "rm_rf_300": Goal(1000, 58),
        "rename_dir_300": Goal(0.3, 14.9),
        "edit_4k_in_1g": Goal(0.2, 0.23),
        "append_1k_to_1g": Goal(0.1, 0.095),
        "rename_1g": Goal(0.08),
        "untar_500": Goal(9, 80),
        "reread_warm": Goal(4800),
    },
    "local": {
        "seq_write": Goal(450, 232),
        "seq_read": Goal(1100, 680),
        "create_800_small_16t": Goal(640, 486),
        "read_800_small_16t": Goal(850, 1350),
        "untar_500": Goal(1.0, 1.41),
    },
    "tls": {"seq_read": Goal(700), "seq_write": Goal(420)},
}
CPU_GOALS = {
    "latency": {"seq_read": 1.3, "par4_read": 1.3, "seq_write": 1.8, "par4_write": 1.8},
    "local": {"seq_read": 1.3, "par4_read": 1.3, "seq_write": 1.8, "par4_write": 1.8},
    "tls": {"seq_read": 2.0, "par4_read": 2.0, "seq_write": 2.0, "par4_write": 2.0},
}


@dataclass
class Cell:
    """A case on a client: all runs."""

    values: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak_mb: float = 0.0
    moved_mb: float = 0.0
    requests: int | None = None

    @property
    def value(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    @property
    def cpu_per_gib(self) -> float | None:
        """Seconds; None where too little moves to tell."""
        if not self.cpu or self.moved_mb * 1e6 < MIN_CPU_BYTES:
            return None
        return statistics.median(self.cpu) / (self.moved_mb * 1e6) * GIB


Table = dict[str, dict[str, Cell]]
"""By case and client."""


def read_rows(text: str) -> list[dict[str, Any]]:
    """The rows of a JSON document or of JSON lines, whatever else is printed among these."""
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        lines = [line for line in text.splitlines() if line.startswith("{")]
        return [row for row in map(json.loads, lines) if "case" in row]
    rows: list[dict[str, Any]] = whole["rows"] if isinstance(whole, dict) else whole
    return rows


def collect(rows: list[dict[str, Any]]) -> Table:
    """Rows of the same case and client are runs."""
    found: Table = {}
    for row in rows:
        cell = found.setdefault(row["case"], {}).setdefault(row["client"], Cell())
        if row.get("value") is None:
            continue
        cell.values += row.get("values") or [row["value"]]
        cell.cpu.append(row["cpu"])
        cell.peak_mb = max(cell.peak_mb, row["rss_mb"])
        cell.moved_mb = row["in_mb"] + row["out_mb"]
        cell.requests = row["reqs"]
    return found


def verdict(name: str, case: str, ours: float | None, peer: float | None) -> str:
    """Whether the goal is met, by the figure or, on a slower machine, by the ratio to s3fs."""
    goal = GOALS[name].get(case)
    if goal is None or ours is None:
        return ""
    smaller = CASES[case].smaller_is_better

    def reached(value: float, wanted: float) -> bool:
        return value <= wanted if smaller else value >= wanted

    limit = f"{'≤' if smaller else '≥'} {figure(goal.value)}"
    if reached(ours, goal.value):
        return f"{limit}: met"
    if peer and goal.peer and reached(ours / peer, goal.value / goal.peer):
        return f"{limit}: met by ratio"
    return f"{limit}: **{abs(ours / goal.value - 1) * 100:.0f} % short**"


def result_table(name: str, found: Table) -> str:
    """Markdown."""
    lines = [
        "| case | unit | ossfs | s3fs | times s3fs | goal | CPU s/GiB | peak MB | requests |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case, clients in found.items():
        if case not in CASES:
            continue
        ours, peer = clients.get("ossfs", Cell()), clients.get("s3fs", Cell())
        cpu = ours.cpu_per_gib
        most = CPU_GOALS[name].get(case)
        shown = "" if cpu is None else f"{cpu:.2f}"
        if cpu is not None and most is not None:
            shown += f" (≤ {most}{'' if cpu <= most else ': **short**'})"
        times = speed_ratio(case, ours.value, peer.value)
        lines.append(
            f"| {case} | {CASES[case].unit} | **{figure(ours.value)}** | {figure(peer.value)} | "
            f"{'' if times is None else figure(times)} | {verdict(name, case, ours.value, peer.value)} | "
            f"{shown} | {ours.peak_mb:.0f} | {'' if ours.requests is None else ours.requests} |"
        )
    return "\n".join(lines)


def speed_ratio(case: str, ours: float | None, peer: float | None) -> float | None:
    """How many times as fast as the other: above 1 is faster, whatever the unit."""
    if not ours or not peer:
        return None
    return peer / ours if CASES[case].smaller_is_better else ours / peer


def caches_table(found: Table) -> str:
    """Markdown of what `make bench ARGS=--caches` found: each case without a cache and with each."""
    clients = ("ossfs", "cache_dir", "writeback")
    lines = [
        "| case | unit | without | with `cache_dir` | with `writeback` too | requests |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, cells in found.items():
        shown = [cells.get(client, Cell()) for client in clients]
        requests = ", ".join("-" if cell.requests is None else str(cell.requests) for cell in shown)
        values = " | ".join("failed" if cell.value is None else figure(cell.value) for cell in shown)
        lines.append(f"| {name} | {CASES[name].unit} | {values} | {requests} |")
    return "\n".join(lines)


def settings_table(results: list[dict[str, Any]]) -> str:
    """Markdown of what `benchmarks.settings` found."""
    lines = [
        "| setting | value | case | median | of shipped | CPU s | peak MB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    shipped = {(r["setting"], r["case"]): statistics.median(r["values"]) for r in results if r["shipped"]}
    for r in results:
        median = statistics.median(r["values"])
        label = f"**{r['label']}**" if r["shipped"] else r["label"]
        lines.append(
            f"| {r['setting']} | {label} | {r['case']} | {figure(median)} {r['unit']} | "
            f"{median / shipped[r['setting'], r['case']] * 100:.0f} % | "
            f"{statistics.median(r['cpu']):.2f} | {r['peak_mb']:.0f} |"
        )
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------
# The plot.

_BAR, _GAP, _LEFT, _WIDTH = 9, 7, 170, 760
_COLOURS = {"latency": "#1f6feb", "local": "#d29922"}


def plot(tables: dict[str, Table]) -> str:
    """An SVG: how many times as fast as s3fs, a bar for each case, on a logarithmic scale."""
    names = [name for name in _COLOURS if name in tables]
    cases = [case for case in CASES if any(case in tables[name] for name in names)]
    ratios = {
        (name, case): speed_ratio(case, *(_value(tables[name], case, c) for c in ("ossfs", "s3fs")))
        for name in names
        for case in cases
    }
    known = [r for r in ratios.values() if r]
    low, high = min([0.5, *known]), max([10.0, *known])
    scale = (_WIDTH - _LEFT - 60) / (log10(high) - log10(low))

    def x(ratio: float) -> float:
        return _LEFT + (log10(ratio) - log10(low)) * scale

    step = _BAR * len(names) + _GAP
    bottom = 46 + step * len(cases)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{bottom + 26}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{bottom + 26}" fill="white"/>',
        f'<text x="{_LEFT}" y="16" font-size="13">ossfs: how many times as fast as s3fs</text>',
    ]
    for at, name in enumerate(names):
        left = _LEFT + at * 280
        parts.append(f'<rect x="{left}" y="24" width="10" height="10" fill="{_COLOURS[name]}"/>')
        parts.append(f'<text x="{left + 15}" y="33">{escape(TITLES[name])}</text>')
    for tick in (0.5, 1, 2, 5, 10, 20, 50, 100, 200):
        if low <= tick <= high:
            stroke = "#555" if tick == 1 else "#ddd"
            parts.append(
                f'<line x1="{x(tick):.1f}" y1="42" x2="{x(tick):.1f}" y2="{bottom}" stroke="{stroke}"/>'
            )
            parts.append(f'<text x="{x(tick):.1f}" y="{bottom + 14}" text-anchor="middle">{tick:g}</text>')
    for row, case in enumerate(cases):
        top = 46 + row * step
        parts.append(
            f'<text x="{_LEFT - 8}" y="{top + step / 2:.1f}" text-anchor="end">{escape(case)}</text>'
        )
        for at, name in enumerate(names):
            ratio = ratios[name, case]
            if ratio is None:
                continue
            begin, end = sorted((x(1), x(ratio)))
            parts.append(
                f'<rect x="{begin:.1f}" y="{top + at * _BAR}" width="{max(1.0, end - begin):.1f}" '
                f'height="{_BAR - 1}" fill="{_COLOURS[name]}"/>'
            )
            parts.append(
                f'<text x="{end + 3:.1f}" y="{top + at * _BAR + 7.5}" font-size="8">{figure(ratio)}</text>'
            )
    return "\n".join([*parts, "</svg>", ""])


def _value(table: Table, case: str, client: str) -> float | None:
    return table.get(case, {}).get(client, Cell()).value


# --------------------------------------------------------------------------------------------------
# Files.


def keep(name: str, source: Path) -> None:
    """Take figures over into benchmarks/results/."""
    text = source.read_text(encoding="utf-8")
    kept: dict[str, Any]
    if name == "settings":
        kept = json.loads(text)
        measured = {r["setting"] for r in kept["results"]}
        before = RESULTS / "settings.json"
        if before.exists():  # those that were not measured this time stay
            old = json.loads(before.read_text(encoding="utf-8"))["results"]
            kept["results"] = [r for r in old if r["setting"] not in measured] + kept["results"]
    else:
        rows = read_rows(text)
        if not rows:
            raise BenchError(f"{source}: no row in it; accepted: JSON rows with case, client and value")
        try:
            whole = json.loads(text)
        except json.JSONDecodeError:
            whole = {}
        for row in rows:
            row.pop("ops", None)
        here = {name: fact for name, fact in machine().items() if name != "load"}  # that of another moment
        kept = {"at": whole.get("at", stamp()), "machine": whole.get("machine", here), "rows": rows}
        if name == "caches":
            kept["conditions"] = f"{whole['server']}, {whole['conditions']}; median of {whole['runs']}"
    RESULTS.mkdir(exist_ok=True)
    lines = json.dumps(kept, indent=None, separators=(",", ":")).replace('{"case"', '\n{"case"')
    (RESULTS / f"{name}.json").write_text(
        lines.replace('{"setting"', '\n{"setting"') + "\n", encoding="utf-8"
    )


def sections() -> tuple[dict[str, str], dict[str, Table]]:
    """The generated parts of the document by their markers, and the tables for the plot."""
    made: dict[str, str] = {}
    tables: dict[str, Table] = {}
    for name in TITLES:
        file = RESULTS / f"{name}.json"
        if file.exists():
            kept = json.loads(file.read_text(encoding="utf-8"))
            tables[name] = collect(kept["rows"])
            runs = max((len(c.values) for cells in tables[name].values() for c in cells.values()), default=0)
            about = f"{machine_line(kept['machine'])}; {kept['at'][:10]}; median of {runs}."
            made[name] = f"{about}\n\n{result_table(name, tables[name])}"
    file = RESULTS / "caches.json"
    if file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        about = f"{machine_line(kept['machine'])}; {kept['at'][:10]}; {kept['conditions']}."
        made["caches"] = f"{about}\n\n{caches_table(collect(kept['rows']))}"
    file = RESULTS / "settings.json"
    if file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        about = f"{machine_line(kept['machine'])}; {kept['conditions']}."
        made["settings"] = f"{about}\n\n{settings_table(kept['results'])}"
    return made, tables


def insert(text: str, made: dict[str, str]) -> str:
    """The document with its generated parts anew.  Raises BenchError when a place for one is missing."""
    for name, content in made.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(text):
            raise BenchError(f"docs/performance.md has no place {begin} ... {end}")
        replacement = f"{begin}\n{content}\n{end}"
        text = pattern.sub(lambda _, new=replacement: new, text)  # type: ignore[misc]
    return text


def run(arguments: list[str]) -> int:
    """The command; its exit status."""
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals or name not in (*TITLES, "caches", "settings"):
            raise BenchError(
                f"{argument!r}; accepted: NAME=FILE, NAME of {', '.join(TITLES)}, caches, settings"
            )
        keep(name, Path(path))
    made, tables = sections()
    DOCUMENT.write_text(insert(DOCUMENT.read_text(encoding="utf-8"), made), encoding="utf-8")
    PLOT.write_text(plot(tables), encoding="utf-8")
    print(f"docs/performance.md and docs/performance.svg: {', '.join(made)}")
    return 0


def main() -> None:
    """The entry point."""
    try:
        sys.exit(run(sys.argv[1:]))
    except (BenchError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
