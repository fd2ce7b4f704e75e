"""How fast the network is and how much reading goes on: what all readers of a mount know together.

Threading: trio thread only.

One connection gives so many bytes a second after so many milliseconds of silence.  From these two,
measured on every large fetch, follows how long a block is under way, and from the speed at which a
program takes its bytes, how many blocks have to be under way so that it never waits.  More than that
only fills memory (a page touched for the first time costs as much as receiving it) and, after a jump,
the line.
"""

from __future__ import annotations

from typing import Final

from ossfs.limits import KIB, MIB

JITTER: Final = 0.05
"""Seconds of reading to hold ahead beside the network's delay, for threads that get their turn late."""
SPARE: Final = 3.0
"""Times what the present speed needs.  With less than twice, the speed could never be seen to grow; and
fetches take longer than the best of them when the processors are busy too."""
FADE: Final = 0.02
"""The share by which each measurement worse than the best moves the best: old luck is forgotten."""
SAMPLE: Final = 512 * KIB
"""Smaller fetches say nothing of bandwidth."""
ACTIVE: Final = 1.0
"""Seconds without a read after which a stream does not count as running."""


class Pace:
    """connections: how many requests the store carries at a time."""

    def __init__(self, connections: int = 64) -> None:
        self.prefetches = max(1, connections * 3 // 4)
        """Prefetches at a time: the rest of the connections is for what a program waits for."""
        self.in_flight = 0
        self.latency = 0.0
        self.bandwidth = 0.0
        self._running: dict[object, float] = {}

    @property
    def may_prefetch(self) -> bool:
        """Is a connection left for it?"""
        return self.in_flight < self.prefetches

    def measured(self, length: int, first: float, first_count: int, total: float) -> None:
        """A fetch of *length* bytes took *total* seconds; after *first*, *first_count* bytes were there."""
        if length < SAMPLE:
            return
        rest = length - first_count
        if rest > 0 and total > first:
            rate = rest / (total - first)
            self.bandwidth = (
                rate if rate > self.bandwidth else self.bandwidth + FADE * (rate - self.bandwidth)
            )
        if self.bandwidth:
            delay = max(0.0, first - first_count / self.bandwidth)
            if delay < self.latency or not self.latency:
                self.latency = delay
            else:
                self.latency += FADE * (delay - self.latency)

    def fetch_time(self, length: int) -> float:
        """Seconds that a fetch of *length* bytes takes on a connection of its own; 0 when not known yet."""
        return self.latency + length / self.bandwidth if self.bandwidth else 0.0

    def window(self, rate: float, block: int) -> int:
        """Bytes to hold ahead of a program that takes *rate* bytes a second, in blocks of *block* bytes."""
        return int(rate * (SPARE * self.fetch_time(block) + JITTER))

    def touch(self, stream: object, now: float) -> None:
        """*stream* reads ahead, at trio time *now*."""
        running = self._running
        running.pop(stream, None)
        running[stream] = now
        while running:
            oldest = next(iter(running))
            if running[oldest] > now - ACTIVE:
                break
            del running[oldest]

    def forget(self, stream: object) -> None:
        """*stream* has ended."""
        self._running.pop(stream, None)

    def share(self, total: int) -> int:
        """An equal part of *total* for each running stream, and at least 1 MiB."""
        return max(MIB, total // max(1, len(self._running)))
