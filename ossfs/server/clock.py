"""The server's clock, which tests may set ahead or behind, and its textual forms. Safe in every thread."""

from __future__ import annotations

import calendar
import re
import time

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_HTTP_DATE = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (\d{1,2}) ([A-Z][a-z]{2}) (\d{4}) (\d{2}):(\d{2}):(\d{2}) GMT\Z",
    re.ASCII,
)
_BASIC = re.compile(r"(\d{4})(\d{2})(\d{2})T(\d{2})(\d{2})(\d{2})Z\Z", re.ASCII)


def http_date(seconds: float) -> str:
    """RFC 1123, independent of the locale."""
    t = time.gmtime(seconds)
    return (
        f"{_DAYS[t.tm_wday]}, {t.tm_mday:02d} {_MONTHS[t.tm_mon - 1]} {t.tm_year:04d} "
        f"{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d} GMT"
    )


def xml_date(seconds: float) -> str:
    """The dates of the XML documents; their milliseconds are always 000."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(seconds))


def parse_http_date(text: str) -> int | None:
    """Unix seconds, or None for anything but an RFC 1123 date."""
    match = _HTTP_DATE.match(text.strip())
    if match is None or match[2] not in _MONTHS:
        return None
    return _unix(int(match[3]), _MONTHS.index(match[2]) + 1, *map(int, match.group(1, 4, 5, 6)))


def parse_basic_date(text: str) -> int | None:
    """Unix seconds of YYYYMMDDTHHMMSSZ, or None."""
    match = _BASIC.match(text)
    if match is None:
        return None
    year, month, *rest = map(int, match.groups())
    return _unix(year, month, *rest)


def _unix(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int | None:
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 61 and year >= 1):
        return None
    return calendar.timegm((year, month, day, hour, minute, second))


class Clock:
    """time.time() plus an offset."""

    def __init__(self) -> None:
        self.offset = 0.0
        self._date = (0, "")

    def now(self) -> float:
        """Unix seconds."""
        return time.time() + self.offset

    def date(self) -> str:
        """Now, as HTTP date; made once a second."""
        second = int(self.now())
        known = self._date
        if known[0] != second:
            known = self._date = (second, http_date(second))
        return known[1]
