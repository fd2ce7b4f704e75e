"""Counters and gauges of one mount, for status and tests.

Threading: increments may come from any thread; each is one operation under a lock of its own.
"""

from __future__ import annotations

import threading
from collections import Counter


class Metrics:
    """Named integer counters ("requests.PutObject") and gauges; units are in the names' last word."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: Counter[str] = Counter()

    def add(self, name: str, amount: int = 1) -> None:
        """Move a counter or gauge by *amount*."""
        with self._lock:
            self._values[name] += amount

    def snapshot(self) -> dict[str, int]:
        """All values at one moment."""
        with self._lock:
            return dict(self._values)
