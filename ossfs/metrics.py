"""Counters, latencies and the last error of one mount, for status, Prometheus and tests.

Threading: `add` may be called from any thread, and takes a lock of its own.  All else belongs to the trio
thread and takes none: an increment there is an index and an add.
"""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ossfs.errors import StoreError, level_of

BOUNDS: Final = (
    *(0.001, 0.0016, 0.0025, 0.004, 0.0063),
    *(0.01, 0.016, 0.025, 0.04, 0.063),
    *(0.1, 0.16, 0.25, 0.4, 0.63),
    *(1.0, 1.6, 2.5, 4.0, 6.3),
    *(10.0, 16.0, 25.0, 40.0, 63.0),
)
"""Upper bounds of latencies, in seconds; one more bucket has all above.  Five a decade: a percentile that is
read out of them is off by a quarter of itself at the most."""


class Latency:
    """The latencies of one kind of request, in the fixed buckets of BOUNDS."""

    __slots__ = ("answered", "counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0
        """Seconds of all of them together."""
        self.answered = 0
        """How many of them had a good answer (2xx)."""

    def observe(self, seconds: float, good: bool) -> None:
        """One request has ended.  *good*: with an answer of success."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds
        self.answered += good


def quantile(counts: Sequence[int], share: float) -> float | None:
    """Seconds below which *share* (0 to 1) of the requests were, estimated; None without requests.

    Within a bucket they are taken as evenly spread, as Prometheus' histogram_quantile does; what is above the
    last bound counts as that bound.
    """
    total = sum(counts)
    if not total:
        return None
    wanted = share * total
    below = 0
    for index, count in enumerate(counts[: len(BOUNDS)]):
        if count and below + count >= wanted:
            low = BOUNDS[index - 1] if index else 0.0
            return low + (BOUNDS[index] - low) * (wanted - below) / count
        below += count
    return BOUNDS[-1]


@dataclass(frozen=True, slots=True)
class Failure:
    """An error that is worth a person's attention.

    at: unix seconds.  kind: the class in errors.py.  operation: the service's call, or the kernel's
    ("fuse.open").  key, request_id: "" when there is none.  text: the line of the log.
    """

    at: float
    kind: str
    operation: str
    key: str
    request_id: str
    text: str


class Metrics:
    """Named integer counters ("requests.PutObject") and gauges; units are in the names' last word."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Not Counter, which takes twice as long for an increment.
        self._values: defaultdict[str, int] = defaultdict(int)
        self._own: defaultdict[str, int] = defaultdict(int)
        self.latencies: dict[str, Latency] = {}
        """By the name of the call, as the service's documentation has it."""
        self.last_failure: Failure | None = None

    def add(self, name: str, amount: int = 1) -> None:
        """Move a counter or gauge by *amount*; from any thread."""
        with self._lock:
            self._values[name] += amount

    def count(self, name: str, amount: int = 1) -> None:
        """The same, from the trio thread only, and without a lock.  One name is used with one of the two."""
        self._own[name] += amount

    def observe(self, operation: str, seconds: float, good: bool) -> None:
        """A request to the service took *seconds* in its thread, without the time that it queued."""
        latency = self.latencies.get(operation)
        if latency is None:
            latency = self.latencies[operation] = Latency()
        latency.observe(seconds, good)

    def failed(self, error: BaseException, operation: str = "") -> None:
        """Remember *error* as the last one, unless it is an everyday answer such as "no such file"."""
        if level_of(error) < logging.WARNING:
            return
        key = request_id = ""
        if isinstance(error, StoreError):
            operation, key, request_id = error.operation or operation, error.key, error.request_id
        kind = type(error).__name__
        self.last_failure = Failure(time.time(), kind, operation, key, request_id, str(error) or kind)

    def snapshot(self) -> dict[str, int]:
        """All counters and gauges at one moment."""
        with self._lock:
            return {**self._values, **self._own}
