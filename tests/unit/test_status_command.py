"""`ossfs status`: how it looks, what it exits with, and how a live view ends."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import pytest

from ossfs import cli, control
from ossfs.commands import status
from ossfs.errors import MountError
from ossfs.registry import MountRecord

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "SAMPLE", 0.0)
    monkeypatch.setattr(status, "REFRESH", 0.0)


def shown(**changes: Any) -> dict[str, Any]:
    request = {"sent": 4, "finished": 4, "answered": 3, "seconds": 1.0, "latency_counts": []}
    request |= {"p50_seconds": 0.0031, "p90_seconds": 1.2, "p99_seconds": None}
    one: dict[str, Any] = {
        "schema": 1,
        "version": "1.2.3",
        "pid": 12,
        "source": "bucket:/p",
        "endpoint": "http://x",
        "mountpoint": "/m",
        "state": "mounted",
        "started": 1_700_000_000.0,
        "uptime_seconds": 100.0,
        "transfer": {"received_bytes": 5, "sent_bytes": 3 << 20, "read_bytes": 0, "written_bytes": 0},
        "requests": {"PutObject": request},
        "errors": {"NotFound": 7, "Throttled": 2},
        "retries": 1,
        "last_error": None,
        "cache": {"memory": {"hits": 3, "misses": 1}, "attributes": {"hits": 0, "misses": 0}, "disk": None},
        "memory": {"used_bytes": 64 << 20, "peak_bytes": 0, "limit_bytes": 1 << 30},
        "files": {"open": 1, "pending": 0, "pending_bytes": 0, "uploads": 0, "writing": []},
        "cost": {"put_requests": 3, "get_requests": 4, "put_price": 0, "get_price": 0, "estimate": None},
        "inodes": 9,
        "metrics_url": None,
        "counters": {},
    }
    return one | changes


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the mount at any place says, one after another; an exception is raised."""
    given: list[Any] = []

    def answer(place: str) -> Any:
        one = given.pop(0)
        if isinstance(one, BaseException):
            raise one
        return one

    monkeypatch.setattr(control, "request_status", answer)
    return given


def test_one_mount_in_human_units(capsys: pytest.CaptureFixture[str], answers: list[Any]) -> None:
    writing = {"key": "a/\x1b[31mb", "size_bytes": 30 << 20, "uploaded_bytes": 10 << 20, "held_bytes": 0}
    files = {"open": 1, "pending": 1, "pending_bytes": 0, "uploads": 1}
    later = shown(
        uptime_seconds=102.0,
        transfer={"received_bytes": 5, "sent_bytes": 7 << 20, "read_bytes": 0, "written_bytes": 0},
        files=files | {"writing": [writing | {"parts": 1, "parts_in_flight": 2}]},
        last_error={"at": 1_700_000_042.0, "text": "PutObject 'k' failed: no request-id=R"},
    )
    answers += [shown(), later]
    assert cli.run(["status", "/m"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "bucket:/p on /m mounted, process 12, for 1 min 42 s, http://x, ossfs 1.2.3" in said
    assert "sent to the bucket 2.0 MiB/s 7.0 MiB" in said
    assert "received from the bucket 0 bytes/s 5 bytes" in said
    assert "PutObject 0/s 4 1 3.1 ms 1.20 s -" in said
    assert "memory 64.0 MiB of 1.0 GiB (6 %)" in said
    assert "reads from memory 75 % of 4" in said
    assert "attributes from memory none yet" in said
    assert "errors Throttled 2; 1 repeat everyday answers NotFound 7" in said
    assert (
        "last error 1 min 0 s ago (2023-11-14T22:14:02+00:00): PutObject 'k' failed: no request-id=R" in said
    )
    assert "'a/\\x1b[31mb' 10.0 MiB 30.0 MiB 1 2 0 bytes" in said, "control characters are quoted"


def test_json_of_one_is_what_the_mount_says(capsys: pytest.CaptureFixture[str], answers: list[Any]) -> None:
    answers.append(shown())
    assert cli.run(["status", "/m", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == shown()


def test_one_that_does_not_answer_hides_no_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = "mounted"

    def records(dead: bool) -> list[MountRecord]:
        made = [MountRecord(str(n), n, "b", "", "http://x", f"/m{n}", "mounted", "") for n in (1, 2)]
        return [*made, MountRecord("3", 3, "b", "", "http://x", "/m3", state, "")]  # type: ignore[arg-type]

    def answer(record: MountRecord, timeout: float) -> dict[str, Any]:
        if record.pid == 3:
            raise MountError("it does not answer")
        return shown(mountpoint=record.mountpoint)

    monkeypatch.setattr(status, "all_mounts", records)
    monkeypatch.setattr(control, "status_of", answer)
    assert cli.run(["status"]) == 1
    said = capsys.readouterr().out
    assert "bucket:/p on /m1" in said and "bucket:/p on /m2" in said
    assert "b on /m3: it does not answer" in said
    assert cli.run(["status", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [one["mountpoint"] for one in told] == ["/m1", "/m2", "/m3"]
    assert told[2]["error"] == "it does not answer"
    state = "starting"
    assert cli.run(["status"]) == 0, "who has just begun has no socket yet"


def test_watching_without_a_terminal(capsys: pytest.CaptureFixture[str], answers: list[Any]) -> None:
    answers += [shown(), shown(uptime_seconds=101.0), KeyboardInterrupt()]
    assert cli.run(["status", "/m", "--watch"]) == 0
    said = capsys.readouterr().out
    assert said.count("bucket:/p on /m") == 2
    assert "\x1b" not in said
    answers += [shown(), shown(), KeyboardInterrupt()]
    assert cli.run(["status", "/m", "--watch", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)[0]["pid"] for line in lines] == [12, 12]


def test_a_watched_mount_that_ends(capsys: pytest.CaptureFixture[str], answers: list[Any]) -> None:
    answers += [shown(), MountError("/m is not an ossfs mount")]
    assert cli.run(["status", "/m", "--watch"]) == 1
    assert capsys.readouterr().err == "ossfs: /m is not an ossfs mount\n"


def test_a_live_view_on_a_terminal_ends_with_ctrl_c() -> None:
    """In a process of its own with a terminal of its own, ended by the terminal's own Ctrl-C."""
    import pty
    import sys

    program = (
        "from tests.unit.test_status_command import shown\n"
        "from ossfs import cli, control\n"
        "control.request_status = lambda place: shown()\n"
        "raise SystemExit(cli.run(['status', '/m', '--watch']))\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", program])
    said = b""
    interrupted = False
    until = time.monotonic() + 50
    while time.monotonic() < until:
        try:
            said += os.read(terminal, 4096)
        except OSError:  # EIO: the other side has ended
            break
        if not interrupted and b"bucket:/p on /m" in said:
            os.write(terminal, b"\x03")
            interrupted = True
    os.close(terminal)
    _, ended = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(ended) == 0, said
    assert b"Traceback" not in said
    assert b"\x1b[?1049l" in said and b"\x1b[?25h" in said, "the terminal is as it was"


def test_an_estimate_is_no_bill(capsys: pytest.CaptureFixture[str], answers: list[Any]) -> None:
    priced = {"put_requests": 3, "get_requests": 4, "put_price": 1, "get_price": 1, "estimate": 0.0007}
    answers += [shown(), shown()]
    assert cli.run(["status", "/m"]) == 0
    said = capsys.readouterr().out
    assert "3 of the PUT class, 4 of the GET class" in said and "about" not in said
    answers += [shown(cost=priced), shown(cost=priced)]
    assert cli.run(["status", "/m"]) == 0
    assert "about 0.0007 by the prices of this mount, which is no bill" in capsys.readouterr().out


@pytest.mark.parametrize(
    "value, text",
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB"), (1 << 60, "1024.0 PiB")],
)
def test_sizes(value: float, text: str) -> None:
    assert status.size(value) == text


@pytest.mark.parametrize(
    "amount, text", [(0.0, "0.00"), (0.0000027, "2.7e-06"), (0.0027, "0.0027"), (1234.567, "1234.57")]
)
def test_amounts_of_money(amount: float, text: str) -> None:
    assert status.money(amount) == text


@pytest.mark.parametrize(
    "value, text",
    [(8.9, "8 s"), (63, "1 min 3 s"), (7500, "2 h 5 min"), (3 * 86400 + 4 * 3600 + 59, "3 d 4 h")],
)
def test_durations(value: float, text: str) -> None:
    assert status.duration(value) == text


def test_a_mount_of_another_version_hides_no_other(
    capsys: pytest.CaptureFixture[str], answers: list[Any], quick: None
) -> None:
    """After an upgrade the old program serves on, and says other things of itself."""
    old = {"source": "b", "mountpoint": "/m", "state": "mounted", "pid": 1, "version": "0.0.9"}
    answers += [old, old]
    assert cli.run(["status", "/m"]) == 0
    assert "b on /m: served by ossfs 0.0.9" in " ".join(capsys.readouterr().out.split())
