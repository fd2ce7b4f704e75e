"""Counters of what was asked of the server. Threads: one lock, held for a few additions."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any


class Stats:
    """Requests by operation, bytes of bodies, faults that fired, requests at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_flight = 0
        self._clear()

    def _clear(self) -> None:
        self._requests: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._bytes_in = 0
        self._bytes_out = 0
        self._peak = self._in_flight
        self._connections = 0

    def connected(self) -> None:
        """A connection was accepted."""
        with self._lock:
            self._connections += 1

    def begin(self, operation: str) -> None:
        """A request's head was read."""
        with self._lock:
            self._requests[operation] += 1
            self._in_flight += 1
            self._peak = max(self._peak, self._in_flight)

    def end(self, status: int, bytes_in: int, bytes_out: int) -> None:
        """It was answered (status 0: it wasn't, by a fault or a disconnection)."""
        with self._lock:
            self._in_flight -= 1
            self._statuses[str(status)] += 1
            self._bytes_in += bytes_in
            self._bytes_out += bytes_out

    def fault(self, action: str) -> None:
        """A scripted fault fired."""
        with self._lock:
            self._faults[action] += 1

    def snapshot(self, *, reset: bool) -> dict[str, Any]:
        """The counters as a JSON-able dict, optionally starting them anew."""
        with self._lock:
            result: dict[str, Any] = {
                "requests": dict(self._requests),
                "total_requests": self._requests.total(),
                "statuses": dict(self._statuses),
                "bytes_in": self._bytes_in,
                "bytes_out": self._bytes_out,
                "faults_fired": self._faults.total(),
                "faults": dict(self._faults),
                "in_flight": self._in_flight,
                "in_flight_peak": self._peak,
                "connections": self._connections,
            }
            if reset:
                self._clear()
        return result
