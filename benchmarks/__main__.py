"""`make bench`: mounts, runs the cases, and prints what they reached beside what was possible.

    python -m benchmarks [--latency 15ms] [--bandwidth 100MB/s] [--runs 3] [--only seq_read,ls_10k]

Without --endpoint each row has an embedded server of its own, on the same cores: a Python server, which
caps the rows that move bytes.  So each is also told as a share of plain HTTP to the same server over as
many connections, and of an empty pyfuse3 file system.

Exit status: 0, 1 when rows are missing, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys

from rich.console import Console

from benchmarks import report, storelayer
from benchmarks.cases import CASES, choose
from benchmarks.clients import Client, Ossfs, S3fs
from benchmarks.errors import BenchError, main
from benchmarks.limits import KernelLimit, kernel_limit
from benchmarks.runner import Row, Runner, stamp
from benchmarks.servers import MIB, Embedded, Network, Osswire, Remote, Server

KERNEL_BYTES = 1024 * MIB
KERNEL_RUNS = 3
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(k|m|g)?b?(?:/s)?", re.IGNORECASE)
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s)?", re.IGNORECASE)


def parse_latency(text: str) -> float:
    """Seconds, of `15ms` or `0.02s`."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; accepted: 15ms, 0.02s, 0")
    return float(match[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[(match[2] or "s").lower()]


def parse_bandwidth(text: str) -> int:
    """Bytes a second, of `100MB/s`; 0 is no limit.  K, M and G are powers of a thousand, as in networks."""
    match = _RATE.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no rate; accepted: 100MB/s, 12500000, 0")
    return int(float(match[1]) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}[(match[2] or "").lower()])


def parse_count(text: str) -> int:
    """A whole number from 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no count; accepted: a whole number from 1")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="cases: " + ", ".join(CASES),
    )
    add = made.add_argument
    add("--only", metavar="CASE,...", help="these cases")
    add("--runs", type=parse_count, default=1, metavar="N", help="run each N times; the median is told")
    add("--latency", type=parse_latency, default=0.0, metavar="15ms", help="added to each request")
    add("--bandwidth", type=parse_bandwidth, default=0, metavar="100MB/s", help="of each connection")
    add("--tls", action="store_true", help="speak TLS to the server that is started")
    add("--json", metavar="FILE", help="write all figures there")
    add("--timeout", type=float, default=120.0, metavar="SECONDS", help="of one run (120)")
    add(
        "--caches",
        action="store_true",
        help="the cases that the caches on disk are for: without any, with cache_dir, and with writeback",
    )
    add("--peers", action="store_true", help="s3fs beside ossfs, where the server speaks its dialect")
    add("--no-limits", action="store_true", help="leave the store layer and the empty file system out")
    add("--option", action="append", default=[], metavar="OPT", help="-o option for ossfs; may be repeated")
    add("--directory", metavar="DIR", help="where the embedded server keeps its bytes (a temporary place)")
    where = made.add_mutually_exclusive_group()
    where.add_argument("--server", metavar="PROGRAM", help="an osswire to start instead of our own server")
    where.add_argument("--endpoint", metavar="URL", help="a running service; keys from the environment")
    add("--bucket", metavar="NAME", default=os.environ.get("BUCKET"), help="with --endpoint (or BUCKET)")
    add("--region", metavar="NAME", help="with --endpoint: sign with V4 for this region")
    return made


def choose_server(parsed: argparse.Namespace) -> Server:
    """The server of all rows.  Raises BenchError."""
    network = Network(parsed.latency, parsed.bandwidth, parsed.tls)
    if parsed.server:
        return Osswire(network, parsed.server)
    if not parsed.endpoint:
        return Embedded(network, parsed.directory)
    if parsed.latency or parsed.bandwidth or parsed.tls:
        raise BenchError("--latency, --bandwidth and --tls are for servers started here, not for --endpoint")
    keys = (os.environ.get("OSS_ACCESS_KEY_ID", ""), os.environ.get("OSS_ACCESS_KEY_SECRET", ""))
    if not all(keys):
        raise BenchError("--endpoint wants OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET in the environment")
    if not parsed.bucket:
        raise BenchError("--endpoint wants --bucket NAME, of a bucket that exists; a prefix of it is used")
    return Remote(parsed.endpoint, parsed.bucket, keys, parsed.region)


def run(arguments: list[str] | None = None) -> int:
    """The command; its exit status."""
    parsed = parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    cases = choose(parsed.only, caches=parsed.caches)
    server = choose_server(parsed)
    options = [*parsed.option, *([f"region={parsed.region}"] if parsed.region else [])]
    clients: list[Client] = [Ossfs(options), *([S3fs()] if parsed.peers else [])]
    if parsed.caches:
        clients += [
            Ossfs(options, name="cache_dir", on_disk=True),
            Ossfs([*options, "writeback"], name="writeback", on_disk=True),
        ]
    facts = report.machine()
    conditions = (
        str(Network(parsed.latency, parsed.bandwidth, parsed.tls)) if not parsed.endpoint else "as it is"
    )
    console.print(f"{report.machine_line(facts)}\n{server.name}: {conditions}; median of {parsed.runs}")

    kernel: KernelLimit | None = None
    store: list[storelayer.StoreFigure] = []
    if not parsed.no_limits:
        kernel = kernel_limit(KERNEL_BYTES, KERNEL_RUNS)
        store = storelayer.measure(server)
        console.print(report.limits_table(kernel, store))

    runner = Runner(runs=parsed.runs, timeout=parsed.timeout, kernel=kernel)
    rows: list[Row] = []
    with console.status("") as status:
        for case in cases:
            for client in clients:
                status.update(f"{case.name}, {client.name}")
                row = runner.row(case, client, server)
                rows.append(row)
                console.print(report.row_line(row))
    console.print(report.rows_table(f"{server.name}, {conditions}", rows))
    console.print(report.requests_table(rows))
    missing = report.complaints(console, rows)
    if parsed.json:
        with open(parsed.json, "w", encoding="utf-8") as file:
            json.dump(
                {
                    "at": stamp(),
                    "machine": facts,
                    "server": server.name,
                    "conditions": conditions,
                    "runs": parsed.runs,
                    "kernel": kernel and vars(kernel),
                    "store": [vars(found) for found in store],
                    "rows": [row.as_json() for row in rows],
                },
                file,
                indent=1,
            )
            file.write("\n")
    return 1 if missing else 0


if __name__ == "__main__":
    main(run)
