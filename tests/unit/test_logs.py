"""The log: one line an event, no secrets, and somewhere to be found.  See also test_repeats.py."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ossfs import cli, logs

pytestmark = pytest.mark.usefixtures("restore_logging")

log = logging.getLogger("ossfs.test")


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    assert logs.set_up("info", log_file=str(path), background=True) == str(path)
    return path


def test_an_event_is_a_line(file: Path) -> None:
    log.warning("first\nsecond %s", "x\ny")
    try:
        raise ZeroDivisionError("why")
    except ZeroDivisionError:
        log.exception("it failed")
    written = lines(file)
    assert len(written) == 2
    assert written[0].endswith("WARNING first | second x | y")
    assert "it failed" in written[1]
    assert "ZeroDivisionError: why" in written[1]


def test_levels(file: Path) -> None:
    log.debug("hidden")
    log.info("shown")
    logging.getLogger("urllib3").info("hidden")
    logging.getLogger("urllib3").warning("shown too")
    assert [line.split(" ", 3)[3] for line in lines(file)] == ["shown", "shown too"]


def test_debug_can_be_toggled(file: Path) -> None:
    assert logs.toggle_debug() is True
    log.debug("now")
    assert logs.toggle_debug() is False
    log.debug("not now")
    text = file.read_text()
    assert "DEBUG now" in text
    assert "not now" not in text


def test_debug_from_the_start_can_be_turned_off(tmp_path: Path) -> None:
    logs.set_up("debug", log_file=str(tmp_path / "log"))
    assert logs.toggle_debug() is False
    assert logs.toggle_debug() is True


@pytest.mark.parametrize(
    "text",
    [
        "GET /x?OSSAccessKeyId=id&Signature=hush%2Bhush&Expires=1",
        "GET /x?x-oss-signature=hush%2Bhush&x-oss-date=1",
        "GET /x?security-token=hush%2Bhush",
        "{'x-oss-security-token': 'hush%2Bhush'}",
        "x-oss-security-token: hush%2Bhush",
        "Authorization: OSS id:hush%2Bhush",
        "{'Authorization': 'OSS4-HMAC-SHA256 Credential=id/20240101, Signature=hush%2Bhush'}",
        "access_key_secret=hush%2Bhush",
        "AccessKeySecret: hush%2Bhush",
        "the value my-own-secret in any place",
    ],
)
def test_no_secrets(file: Path, text: str) -> None:
    logs.hide("my-own-secret")
    log.warning("%s", text)
    written = file.read_text()
    assert "hush" not in written
    assert "my-own-secret" not in written
    assert "***" in written


def test_a_secret_in_a_traceback(file: Path) -> None:
    logs.hide("my-own-secret")
    logs.hide("")
    logs.hide(None)
    logs.hide("abc")  # too short to be one: it would black out half the log
    try:
        raise ValueError("my-own-secret abc")
    except ValueError:
        log.exception("failed")
    assert "my-own-secret" not in file.read_text()
    assert "abc" in file.read_text()


def test_ordinary_text_is_left_alone() -> None:
    for text in ("PutObject 'a/secretary.txt' failed", "signature version 4", "no credentials"):
        assert logs.redact(text) == text


def test_foreground_is_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert logs.set_up() == "standard error"
    log.error("here")
    assert "ERROR here" in capsys.readouterr().err


@contextmanager
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: str | None = None) -> Iterator[Path]:
    """A standard error that JOURNAL_STREAM says is the journal's, unless it is to say something else."""
    path = tmp_path / "journal"
    with path.open("w", buffering=1) as file, monkeypatch.context() as patch:
        status = os.fstat(file.fileno())
        patch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}" if stream is None else stream)
        patch.setattr(sys, "stderr", file)
        yield path


def test_the_journal_gets_priorities_and_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with journal(tmp_path, monkeypatch) as path:
        assert logs.set_up("debug") == "the journal"
        log.critical("a")
        log.error("b\nc")
        log.warning("d")
        log.info("e")
        log.debug("f")
        assert lines(path) == ["<2>a", "<3>b | c", "<4>d", "<6>e", "<7>f"]


def test_a_command_that_fails_tells_the_journal_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with journal(tmp_path, monkeypatch) as path:
        assert cli.run(["umount", "/no/such/mount"]) == 1
        (line,) = lines(path)
    assert line.startswith("<3>ossfs: ")


@pytest.mark.parametrize("stream", ["", "1:2", "nonsense", "8:"])
def test_what_is_not_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: str) -> None:
    """A shell that was started from a service inherits the variable, but not the stream."""
    with journal(tmp_path, monkeypatch, stream) as path:
        assert logs.set_up() == "standard error"
        log.error("here")
        assert lines(path)[0].endswith("ERROR here")


def test_a_file_that_was_rotated_is_opened_anew(file: Path) -> None:
    log.warning("first")
    file.rename(f"{file}.1")
    log.warning("second")
    file.rename(f"{file}.2")
    log.warning("third")
    assert [lines(Path(f"{file}{end}"))[0].split(" ", 3)[3] for end in (".1", ".2", "")] == [
        "first",
        "second",
        "third",
    ]


def test_a_log_that_cannot_be_opened_anew_stops_nothing(file: Path) -> None:
    log.warning("first")
    directory = file.parent / "elsewhere"
    directory.mkdir()
    file.rename(directory / "log")
    file.mkdir()  # in its place there is something that cannot be written to
    log.warning("lost")
    file.rmdir()
    log.warning("found again")
    assert "found again" in file.read_text()


def test_background_is_syslog(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        daemon.settimeout(10)
        assert logs.set_up(background=True, syslog_socket=path) == "syslog"
        log.error("here\nand there")
        assert daemon.recv(1000).decode() == f"<27>ossfs[{os.getpid()}]: here | and there"
        log.info("quiet")
        assert daemon.recv(1000).startswith(b"<30>")
    os.unlink(path)
    log.error("nobody listens")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        daemon.settimeout(10)
        log.error("restarted")
        assert daemon.recv(1000).endswith(b": restarted")


def test_a_syslog_that_hangs_does_not_hang_us(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        logs.set_up(background=True, syslog_socket=path)
        for number in range(5000):
            log.error("%d %s", number, "x" * 1000)


@pytest.mark.parametrize(
    "level", [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL]
)
def test_severities(level: int) -> None:
    assert 2 <= logs._syslog_severity(level) <= 7


def test_without_syslog_a_file_in_the_state_directory(tmp_path: Path) -> None:
    place = logs.set_up(
        background=True, state_dir=str(tmp_path / "state"), syslog_socket=str(tmp_path / "no-socket")
    )
    assert place == str(tmp_path / "state" / "ossfs.log")
    log.error("here")
    assert "here" in Path(place).read_text()


def test_with_nothing_at_all_standard_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert logs.set_up(background=True, syslog_socket=str(tmp_path / "x")) == "standard error"
    nobody = str(tmp_path / "file")  # exists, and is no socket
    assert logs.set_up(background=True, syslog_socket=nobody, state_dir=nobody) == "standard error"
