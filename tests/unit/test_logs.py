"""The log: one line an event, no secrets, repeats counted, and somewhere to be found."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import pytest

from ossfs import logs

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


def test_repeats_are_held_back_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    repeats = logs.RepeatFilter(burst=2, window=10)

    def passes(message: str) -> logging.LogRecord | None:
        record = logging.LogRecord("ossfs", logging.ERROR, "", 0, message, None, None)
        return record if repeats.filter(record) else None

    assert [bool(passes("same")) for _ in range(5)] == [True, True, False, False, False]
    assert passes("another")
    now[0] = 10.0
    record = passes("same")
    assert record is not None
    assert "same (and 3 times more like it)" in logs.OneLine("%(message)s").format(record)
    now[0] = 20.0
    record = passes("same")
    assert record is not None
    assert not hasattr(record, "repeats")


def test_what_is_remembered_of_repeats_is_bounded() -> None:
    repeats = logs.RepeatFilter(remembered=10)
    for number in range(1000):
        assert repeats.filter(logging.LogRecord("ossfs", logging.ERROR, "", 0, f"m{number}", None, None))
    assert len(repeats._seen) == 10


def test_foreground_is_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert logs.set_up() == "standard error"
    log.error("here")
    assert "ERROR here" in capsys.readouterr().err


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
