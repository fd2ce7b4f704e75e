"""The benchmarks: what they are told is understood, and a row is what happened."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import document
from benchmarks.cases import CASES, Case, Clock, choose
from benchmarks.errors import BenchError
from benchmarks.processes import reset_peak, usage
from benchmarks.runner import Run, Runner, _since
from benchmarks.servers import Counters, Osswire

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("text", "seconds"), [("15ms", 0.015), ("0.02s", 0.02), ("0", 0.0), ("500us", 5e-4)])
def test_latencies(text: str, seconds: float) -> None:
    assert command.parse_latency(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "rate"), [("100MB/s", 100_000_000), ("12500000", 12_500_000), ("1.5g", 1_500_000_000), ("0", 0)]
)
def test_bandwidths(text: str, rate: int) -> None:
    assert command.parse_bandwidth(text) == rate


@pytest.mark.parametrize("parse", [command.parse_latency, command.parse_bandwidth, command.parse_count])
@pytest.mark.parametrize("text", ["", "fast", "-1", "15 parsecs"])
def test_nonsense_is_refused(parse: object, text: str) -> None:
    assert callable(parse)
    with pytest.raises(argparse.ArgumentTypeError, match="accepted"):
        parse(text)


def test_an_unknown_case_is_named() -> None:
    with pytest.raises(BenchError, match="no case 'seq_reed'"):
        choose("seq_read,seq_reed")


def test_a_value_is_in_the_unit_of_its_case() -> None:
    assert CASES["seq_read"].value(2.0) == pytest.approx((1 << 30) / 2e6)
    assert CASES["first_byte"].value(0.05) == pytest.approx(50)
    assert CASES["rename_1g"].value(0.05) == pytest.approx(0.05)
    assert CASES["ls_10k"].value(0.5) == pytest.approx(20_000)


def test_only_what_is_within_the_clock_counts() -> None:
    told: list[str] = []
    clock = Clock(lambda: told.append("start"), lambda: told.append("stop"))
    clock.start()
    with clock:
        pass
    inner = clock.seconds
    clock.stop()
    assert clock.seconds == inner
    assert told == ["start", "start", "stop"]


def test_counters_of_a_mount_are_told_since_the_start() -> None:
    before = Counters({"Get": 2, "List": 1}, received=100, sent=10)
    after = Counters({"Get": 5, "List": 1}, received=400, sent=10)
    assert _since(after, before) == Counters({"Get": 3}, received=300, sent=0)


def test_a_row_is_the_median_of_its_runs() -> None:
    from benchmarks.runner import Row

    case: Case = CASES["rename_1g"]
    row = Row(case.name, "ossfs", case.unit)
    runs = [Run(seconds, 0.1, 50_000_000, Counters({"Copy": 1})) for seconds in (0.3, 0.1, 0.2)]
    Runner(runs=3, timeout=1, kernel=None)._sum_up(row, case, runs)
    assert row.value == pytest.approx(0.2)
    assert row.values == [0.3, 0.1, 0.2]
    assert (row.reqs, row.rss_mb) == (1, 50.0)


def test_the_peak_of_a_process_is_told_since_its_reset() -> None:
    program = (
        "import sys\n"
        "block = bytearray(60_000_000); del block\n"
        "print(flush=True); sys.stdin.readline(); print(flush=True); sys.stdin.readline()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        assert usage(process.pid).peak > 60_000_000
        reset_peak(process.pid)
        assert usage(process.pid).peak < 60_000_000
        process.stdin.close()


def test_a_server_that_is_none_is_refused() -> None:
    with pytest.raises(BenchError, match="no program there"):
        Osswire(command.Network(), "/nonexistent")


def test_a_remote_server_wants_keys_and_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OSS_ACCESS_KEY_ID", raising=False)
    parsed = command.parser().parse_args(["--endpoint", "http://127.0.0.1:1", "--bucket", "x"])
    with pytest.raises(BenchError, match="OSS_ACCESS_KEY_ID"):
        command.choose_server(parsed)
    monkeypatch.setenv("OSS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("OSS_ACCESS_KEY_SECRET", "secret")
    parsed = command.parser().parse_args(["--endpoint", "http://127.0.0.1:1"])
    parsed.bucket = None
    with pytest.raises(BenchError, match="--bucket"):
        command.choose_server(parsed)


@pytest.mark.mount
@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse")
def test_a_row_on_the_embedded_server(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks", "--no-limits", "--peers", "--json", output),
            *("--only", "absent_1k,append_1k_to_1g", "--latency", "1ms", "--tls", "--directory", tmp_path),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "NOT MEASURED" in done.stdout and "s3fs speaks S3" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 1
    rows = {(row["case"], row["client"]): row for row in json.loads(output.read_text())["rows"]}
    absent, append = rows["absent_1k", "ossfs"], rows["append_1k_to_1g", "ossfs"]
    assert absent["value"] > 0 and absent["reqs"] < 100
    assert append["ops"]["UploadPartCopy"] >= 1
    assert append["value"] > 0.001 * append["reqs"] / 10
    assert rows["absent_1k", "s3fs"]["value"] is None
    assert not list(tmp_path.glob("ossfs-bench-data-*"))


# --------------------------------------------------------------------------------------------------
# docs/performance.md


def test_rows_are_found_in_documents_and_among_other_lines() -> None:
    row = '{"case": "seq_read", "client": "ossfs", "value": 5}'
    assert document.read_rows(f'{{"rows": [{row}]}}') == document.read_rows(f"# begin\n{row}\ncase value\n")


def test_lines_of_one_case_are_its_runs() -> None:
    costs = {"rss_mb": 10, "in_mb": 0, "out_mb": 1073.7, "reqs": 3}
    rows = [
        {"case": "seq_read", "client": "ossfs", "value": value, "cpu": cpu, **costs}
        for value, cpu in ((900, 1.0), (1200, 0.8), (1100, 0.9))
    ]
    failed = {"case": "seq_read", "client": "ossfs", "value": None, "error": "timeout"}
    cell = document.collect([*rows, failed])["seq_read"]["ossfs"]
    assert cell.value == 1100
    assert cell.cpu_per_gib == pytest.approx(0.9, rel=0.01)


@pytest.mark.parametrize(
    ("case", "ours", "peer", "words"),
    [
        ("seq_read", 1100, None, "met"),
        ("seq_read", 530, 150, "met by ratio"),
        ("seq_read", 530, 400, "50 % short"),
        ("untar_500", 8.0, None, "met"),
        ("untar_500", 18.0, 180, "met by ratio"),
        ("untar_500", 13.5, 80, "50 % short"),
        ("ls_10k", 5, None, ""),
    ],
)
def test_verdicts(case: str, ours: float, peer: float | None, words: str) -> None:
    said = document.verdict("latency", case, ours, peer)
    assert said.rpartition(": ")[2].strip("*") == words


def test_the_ratio_is_of_speeds() -> None:
    assert document.speed_ratio("seq_read", 400, 100) == 4
    assert document.speed_ratio("untar_500", 10, 80) == 8
    assert document.speed_ratio("untar_500", None, 80) is None


def test_a_place_that_is_missing_is_named() -> None:
    assert document.insert("<!-- begin x -->\nold\n<!-- end x -->", {"x": r"new \1"}) == (
        "<!-- begin x -->\nnew \\1\n<!-- end x -->"
    )
    with pytest.raises(BenchError, match="begin y"):
        document.insert("", {"y": ""})


def test_the_document_says_what_was_measured() -> None:
    made, tables = document.sections()
    assert {"latency", "local"} <= made.keys()
    text = document.DOCUMENT.read_text()
    assert document.insert(text, made) == text, "run: python -m benchmarks.document"
    assert document.PLOT.read_text() == document.plot(tables)
