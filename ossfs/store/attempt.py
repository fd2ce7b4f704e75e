"""How long one attempt at a call may still take: the word between the retry policy and the wire.

Threading: made on the trio thread; `progressed` and `limit` are used by the one worker thread that
runs the attempt, and read by the trio thread when that has ended.

The retry policy knows the call's deadline, the transport sees the bytes move.  They meet in an
`Attempt` that travels in a context variable, because the ObjectStore interface between them has no
word for time.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import Final

MIN_RATE: Final = 16 * 1024
"""Bytes a second.  Each byte that moves buys its time at this rate, so that a large body on a thin
line is not cut off, while one that trickles is."""


class Attempt:
    """The limit of one attempt.

    limit, started, last: seconds on time.monotonic(); last is when bytes moved last.
    moved: bytes sent and received so far.
    etag: of the object whose bytes began to arrive, or None.
    """

    __slots__ = ("etag", "last", "limit", "moved", "started")

    def __init__(self, seconds: float) -> None:
        self.started = self.last = time.monotonic()
        self.limit = self.started + seconds
        self.moved = 0
        self.etag: str | None = None

    @property
    def busy(self) -> float:
        """Seconds from the start to the last byte that moved: waiting in vain is not in it."""
        return self.last - self.started

    def progressed(self, count: int, now: float) -> None:
        """*count* more bytes have moved."""
        self.last = now
        self.moved += count
        self.limit += count / MIN_RATE


current_attempt: ContextVar[Attempt | None] = ContextVar("current_attempt", default=None)
