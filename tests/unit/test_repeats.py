"""Repeated events: the first is written, the others are counted, and told of on a schedule."""

from __future__ import annotations

import logging

import pytest

from ossfs import logs, repeats
from ossfs.errors import PosixError, ServerFault, StoreError
from ossfs.repeats import Repeats

pytestmark = pytest.mark.usefixtures("restore_logging")

log = logging.getLogger("ossfs.test")


class Written(logging.Handler):
    """A handler with a filter for repeats, whose clock stands still until it is told to go."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.lines: list[str] = []
        self.repeats = Repeats(self, clock=lambda: self.now)
        self.addFilter(self.repeats)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def new(self) -> list[str]:
        """The lines since the last call."""
        found, self.lines = self.lines, []
        return found

    def after(self, seconds: float) -> list[str]:
        """Those that are told when so much time has gone by."""
        self.now += seconds
        self.repeats.tell()
        return self.new()


@pytest.fixture
def written() -> Written:
    handler = Written()
    root = logging.getLogger()
    root.handlers = [handler]
    logging.getLogger("ossfs").setLevel(logging.DEBUG)
    return handler


def failure(request_id: str, key: str = "k", kind: type[StoreError] = ServerFault) -> StoreError:
    return kind("busy", operation="GetObject", key=key, status=503, request_id=request_id)


def test_the_first_is_written_and_the_others_are_told_of_on_a_schedule(written: Written) -> None:
    for number in range(5):
        log.error("fuse.read: %s", failure(f"R{number}"))
    assert written.new() == ["fuse.read: GetObject 'k' failed: busy [503] request-id=R0"]
    assert written.after(9.9) == []
    # The last one's request id, so that there is a recent one to ask the service about.
    assert written.after(0.1) == [
        "fuse.read: GetObject 'k' failed: busy [503] request-id=R4: repeated 4 times in 10 s"
    ]
    log.error("fuse.read: %s", failure("R5"))
    assert written.new() == []
    assert written.after(59) == []
    (line,) = written.after(1)
    assert line.endswith("request-id=R5: repeated 1 time in 60 s")
    for _ in range(3):
        log.error("fuse.read: %s", failure("R6"))
        (line,) = written.after(600)
        assert line.endswith("repeated 1 time in 600 s")


def test_after_a_quiet_time_the_next_is_the_first_again(written: Written) -> None:
    log.error("no network")
    assert written.after(10) == ["no network"]
    log.error("no network")
    log.error("no network")
    assert written.after(10) == ["no network", "no network: repeated 1 time in 10 s"]
    assert written.after(60) == []
    log.error("no network")
    assert written.new() == ["no network"]


def test_what_is_due_is_told_when_something_else_is_logged_too(written: Written) -> None:
    """Also where nobody calls tell(), as in a loop that hangs."""
    log.error("one")
    log.error("one")
    written.now += 10
    log.error("two")
    assert sorted(written.new()) == ["one", "one: repeated 1 time in 10 s", "two"]


def test_another_thing_is_another_event(written: Written) -> None:
    log.error("fuse.read: %s", failure("R1"))
    log.error("fuse.read: %s", failure("R1", key="another"))
    log.error("fuse.read: %s", failure("R1", kind=StoreError))
    log.error("fuse.write: %s", failure("R1"))
    log.warning("fuse.read: %s", failure("R1"))
    log.error("%s: %s", "a/file", PosixError(5, "why"))
    log.error("%s: %s", "b/file", PosixError(5, "why"))
    log.error("%s: %s", "b/file", PosixError(5, "another why"))
    assert len(written.new()) == 8


def test_numbers_make_no_difference(written: Written) -> None:
    for attempt in range(3, 8):
        log.warning("attempt %d: %s; again in %.1f s", attempt, failure(str(attempt)), attempt * 0.7)
    assert len(written.new()) == 1
    (line,) = written.after(10)
    assert line.startswith("attempt 7: ") and line.endswith(": repeated 4 times in 10 s")


def test_tracebacks_of_different_errors_are_different(written: Written) -> None:
    for error in (KeyError("a"), KeyError("a"), KeyError("b")):
        try:
            raise error
        except KeyError:
            log.exception("unforeseen")
    assert len(written.new()) == 2


def test_news_and_debugging_are_not_held_back(written: Written) -> None:
    for _ in range(3):
        log.debug("fuse.lookup: %s", failure("R"))
        log.info("%s is mounted", "bucket")
    assert len(written.new()) == 6
    for _ in range(3):
        log.info("%s; fetching it again", failure("R"))
    assert len(written.new()) == 1, "news of an error is held back"


def test_the_end_leaves_nothing_untold(written: Written) -> None:
    log.error("one")
    log.error("one")
    written.now += 3
    logs.tell_repeats(everything=True)
    assert written.new() == ["one", "one: repeated 1 time in 3 s"]
    assert written.after(1000) == []


def test_what_is_remembered_is_bounded(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "REMEMBERED", 10)
    log.error("message %s", "a")
    log.error("message %s", "a")
    for number in range(100):
        log.error("message %s", f"n{number}")
    assert len(written.repeats._seen) == 10
    assert "message a: repeated 1 time in 0 s" in written.new(), "what is forgotten has been told of"


def test_it_is_in_the_log_that_is_set_up(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up()
    for _ in range(4):
        log.error("again")
    logs.tell_repeats(everything=True)
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("ERROR again") and "ERROR again: repeated 3 times in" in second
