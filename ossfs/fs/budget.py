"""The one byte budget that readers and writers share.

Threading: trio thread only.

Dirty bytes and prefetched blocks are charged here.  When the budget is full, clean blocks are
given up first (reclaimers), then writers are asked to send what they hold (pressers), and only
then does the asker wait.  One waiter is woken after another, in order.  Nobody waits for memory
that only it could free: an asker with `floor` is let through when it holds nothing yet, so every
handle has one request outside the budget.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

Reclaimer = Callable[[int], int]
"""Asked for so many bytes, gives up clean ones and returns how many it released."""
Presser = Callable[[], None]
"""Told that memory is short: start sending."""


class Budget:
    """limit: bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.peak = 0
        self._waiters: deque[tuple[int, trio.Event]] = deque()
        self.reclaimers: list[Reclaimer] = []
        self.pressers: list[Presser] = []

    @property
    def free(self) -> int:
        """Bytes that are not taken; negative when floors have gone over the limit."""
        return self.limit - self.used

    @property
    def short(self) -> bool:
        """Is somebody waiting, or nearly nothing left?"""
        return bool(self._waiters) or self.free < self.limit // 8

    def take(self, amount: int) -> None:
        """Charge without asking: for bytes that exist already, or an asker's floor."""
        self.used += amount
        self.peak = max(self.peak, self.used)

    def try_take(self, amount: int) -> bool:
        """Charge if there is room and nobody waits: for prefetch, which can do without."""
        if self._waiters or self.used + amount > self.limit:
            return False
        self.take(amount)
        return True

    def give(self, amount: int) -> None:
        """Give bytes back."""
        self.used -= amount
        self._wake()

    def adjust(self, delta: int) -> None:
        """take or give, by the sign."""
        if delta > 0:
            self.take(delta)
        elif delta < 0:
            self.give(-delta)

    async def acquire(self, amount: int) -> None:
        """Charge *amount* bytes, waiting until there is room for them."""
        amount = min(amount, self.limit)
        if not self._waiters and self.used + amount <= self.limit:
            self.take(amount)
            return
        self._relieve(amount)
        if not self._waiters and self.used + amount <= self.limit:
            self.take(amount)
            return
        event = trio.Event()
        entry = (amount, event)
        self._waiters.append(entry)
        try:
            await event.wait()
        except BaseException:
            if event.is_set():
                self.give(amount)
            else:
                self._waiters.remove(entry)
                self._wake()
            raise

    def press(self) -> None:
        """Memory is short and somebody waits: ask everybody again."""
        if self._waiters:
            self._relieve(self._waiters[0][0])

    def _relieve(self, amount: int) -> None:
        missing = self.used + amount - self.limit
        for reclaim in list(self.reclaimers):
            if missing <= 0:
                break
            missing -= reclaim(missing)
        if missing > 0:
            for press in list(self.pressers):
                press()

    def _wake(self) -> None:
        while self._waiters and self.used + self._waiters[0][0] <= self.limit:
            amount, event = self._waiters.popleft()
            self.take(amount)
            event.set()
