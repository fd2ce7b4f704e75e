"""The one byte budget that readers and writers share.

Threading: trio thread only.

Dirty bytes and prefetched blocks are charged here.  When the budget is full, clean blocks are
given up first (reclaimers), then writers are asked to send what they hold (pressers), and only
then does the asker wait.  One waiter is woken after another, in order.  Nobody waits for memory
that only it could free: what a program waits for at this moment is let through (`seize`), so every
handle has one request outside the budget.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from ossfs.limits import MIB

Reclaimer = Callable[[int], int]
"""Asked for so many bytes, gives up clean ones and returns how many it released."""
Presser = Callable[[], None]
"""Told that memory is short: start sending."""


@dataclass(slots=True, eq=False)
class _Waiter:
    amount: int
    event: trio.Event = field(default_factory=trio.Event)
    error: Exception | None = None


POOLED: Final = 4 * MIB
"""The size of buffers that are used again: a reader's full block."""
KEPT: Final = 64 * MIB
"""Idle buffers at most.  Touching new memory costs as much as filling it (measured: 0.9 GB/s for a page's
first byte in a virtual machine), so buffers outlive the file that they were made for."""


class Buffers:
    """Buffers of up to POOLED bytes, used again, the last one first since it may be in the cache.

    kept: bytes that may lie idle.
    """

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._idle: list[bytearray] = []

    @property
    def idle(self) -> int:
        """Bytes that wait for their next use."""
        return len(self._idle) * POOLED

    def get(self, length: int) -> bytearray:
        """A buffer of at least *length* bytes, with anything in it."""
        if POOLED // 2 < length <= POOLED:
            return self._idle.pop() if self._idle else bytearray(POOLED)
        return bytearray(length)

    def put(self, buffer: bytearray) -> None:
        """Nobody reads or writes *buffer* any more."""
        if len(buffer) == POOLED and self.idle + POOLED <= self._kept:
            self._idle.append(buffer)

    def trim(self, amount: int) -> None:
        """Free *amount* bytes of idle buffers, if there are so many."""
        count = min(len(self._idle), -(-amount // POOLED))
        del self._idle[:count]


class Budget:
    """limit: bytes.  buffers: for those who have charged their size; idle ones go when memory is short."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.buffers = Buffers(min(KEPT, limit // 4))
        self.used = 0
        self.peak = 0
        self._waiters: deque[_Waiter] = deque()
        self.reclaimers: dict[Reclaimer, None] = {}
        """In the order in which they are asked; who was asked last comes last the next time."""
        self.pressers: list[Presser] = []

    @property
    def free(self) -> int:
        """Bytes that are not taken; negative when floors have gone over the limit."""
        return self.limit - self.used

    @property
    def waiting(self) -> bool:
        """Does somebody wait for memory?"""
        return bool(self._waiters)

    @property
    def _asked(self) -> int:
        """What all waiters together wait for: who is asked to give up something is asked once."""
        return sum(waiter.amount for waiter in self._waiters)

    @property
    def short(self) -> bool:
        """Is somebody waiting, or nearly nothing left?"""
        return bool(self._waiters) or self.free < self.limit // 8

    def take(self, amount: int) -> None:
        """Charge without asking: for bytes that exist already."""
        self.used += amount
        self.peak = max(self.peak, self.used)
        over = self.used + self.buffers.idle - self.limit
        if over > 0:
            self.buffers.trim(over)

    def seize(self, amount: int) -> None:
        """Charge without waiting, for what somebody waits for; clean bytes are given up for it."""
        if self._waiters or self.used + amount > self.limit:
            self._reclaim(amount)
        self.take(amount)

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
        """Charge *amount* bytes, waiting until there is room for them.  Raises what `refuse` is given."""
        amount = min(amount, self.limit)
        if not self._waiters and self.used + amount <= self.limit:
            self.take(amount)
            return
        self._relieve(self._asked + amount)
        if not self._waiters and self.used + amount <= self.limit:
            self.take(amount)
            return
        waiter = _Waiter(amount)
        self._waiters.append(waiter)
        try:
            await waiter.event.wait()
        except BaseException:
            if not waiter.event.is_set():
                self._waiters.remove(waiter)
                self._wake()
            elif waiter.error is None:
                self.give(amount)
            raise
        if waiter.error is not None:
            raise waiter.error

    def refuse(self, error: Exception) -> None:
        """Room cannot be made (the staging disk is full): who waits for it hears why."""
        while self._waiters:
            waiter = self._waiters.popleft()
            waiter.error = error
            waiter.event.set()

    def press(self) -> None:
        """Memory is short and somebody waits: ask everybody again."""
        if self._waiters:
            self._relieve(self._asked)

    def _reclaim(self, amount: int) -> int:
        """Have clean bytes given up until *amount* fit; what is missing then."""
        missing = self.used + amount - self.limit
        for reclaim in list(self.reclaimers):
            if missing <= 0:
                break
            missing -= reclaim(missing)
            if reclaim in self.reclaimers:
                del self.reclaimers[reclaim]
                self.reclaimers[reclaim] = None
        return missing

    def _relieve(self, amount: int) -> None:
        if self._reclaim(amount) > 0:
            for press in list(self.pressers):
                press()

    def _wake(self) -> None:
        while self._waiters and self.used + self._waiters[0].amount <= self.limit:
            waiter = self._waiters.popleft()
            self.take(waiter.amount)
            waiter.event.set()
