"""Repeated events of the log: the first is written, and the others are counted and told of on a schedule.

Threading: `Repeats` may be used from any thread; what it has to tell is written outside its lock.

A mount without a network meets the same failure of the same object again and again, with another request id
each time.  So a repeat is not an equal text, but the same message about the same thing: the template of the
message and what is filled in, where errors of the service count as their class, call and key, and numbers do
not count at all.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from ossfs.errors import StoreError

SCHEDULE: Final = (10.0, 60.0, 600.0)
"""Seconds after which it is told how often an event has come again; the last goes on for as long as it comes.
Once it has not come for such a time, its next one counts as the first."""
REMEMBERED: Final = 1000
"""Different events; the one that has been quiet for the longest goes first."""

Key: TypeAlias = tuple[object, ...]


@dataclass(slots=True)
class _Seen:
    """name, level, text: of the last one.  since: when it was told of last.  step: in the schedule."""

    name: str
    level: int
    text: str
    since: float
    due: float
    step: int = 0
    held: int = 0


class Repeats(logging.Filter):
    """A filter of *handler*, to which it also gives its own lines.

    clock: seconds, for tests.  Debugging is never held back, and news (INFO) only if it tells of an error.
    """

    def __init__(self, handler: logging.Handler, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._handler = handler
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: OrderedDict[Key, _Seen] = OrderedDict()
        self._next_due = float("inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """May *record* pass?"""
        key = key_of(record)
        if key is None:
            return True
        now = self._clock()
        lines: list[logging.LogRecord] = []
        with self._lock:
            if now >= self._next_due:
                lines += self._due(now)
            seen = self._seen.get(key)
            if seen is not None:
                seen.held += 1
                seen.text = record.getMessage()
                self._seen.move_to_end(key)
            else:
                due = now + SCHEDULE[0]
                self._seen[key] = _Seen(record.name, record.levelno, record.getMessage(), now, due)
                self._next_due = min(self._next_due, due)
                while len(self._seen) > REMEMBERED:
                    _, gone = self._seen.popitem(last=False)
                    if gone.held:
                        lines.append(_line(gone, now))
        self._write(lines)
        return seen is None

    def tell(self, *, everything: bool = False) -> None:
        """Write the lines that are due; *everything*: all that was held back, since the end has come."""
        with self._lock:
            lines = self._due(float("inf") if everything else self._clock())
        self._write(lines)

    def _due(self, now: float) -> list[logging.LogRecord]:
        lines = []
        until = min(now, self._clock())
        for key, seen in list(self._seen.items()):
            if now < seen.due:
                continue
            if not seen.held:
                del self._seen[key]
                continue
            lines.append(_line(seen, until))
            seen.step = min(seen.step + 1, len(SCHEDULE) - 1)
            seen.held, seen.since, seen.due = 0, until, until + SCHEDULE[seen.step]
        self._next_due = min((seen.due for seen in self._seen.values()), default=float("inf"))
        return lines

    def _write(self, lines: list[logging.LogRecord]) -> None:
        for line in lines:
            self._handler.handle(line)


def key_of(record: logging.LogRecord) -> Key | None:
    """What a repeat of *record* would share with it; None for what is never held back."""
    if record.levelno <= logging.DEBUG or getattr(record, "always", False):
        return None
    args = record.args if isinstance(record.args, tuple) else (record.args,)
    if record.levelno < logging.WARNING and not any(isinstance(arg, BaseException) for arg in args):
        return None
    things = [thing for arg in args if (thing := _thing(arg)) is not None]
    if record.exc_info is not None and record.exc_info[1] is not None:
        things.append(_thing(record.exc_info[1]))
    return (record.name, record.levelno, record.msg, *things)


def _thing(arg: object) -> object:
    if isinstance(arg, StoreError):
        return (type(arg).__name__, arg.operation, arg.key)
    if isinstance(arg, BaseException):
        return (type(arg).__name__, str(arg))
    return None if isinstance(arg, int | float) else str(arg)


def _line(seen: _Seen, now: float) -> logging.LogRecord:
    times = f"{seen.held} time{'' if seen.held == 1 else 's'}"
    text = f"{seen.text}: repeated {times} in {now - seen.since:.0f} s"
    line = logging.LogRecord(seen.name, seen.level, "", 0, text, None, None)
    line.always = True
    return line
