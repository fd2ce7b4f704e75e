"""The log of write-back on no disk, for tests of the file system.

Threading: the trio thread of the test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from ossfs.store.base import Buffer


@dataclass
class MemoryEntry:
    number: int
    meta: dict[str, Any]
    data: bytes


@dataclass
class MemoryLog:
    """A log on no disk.  ever: all that was put, also what has ended."""

    entries: dict[int, MemoryEntry] = field(default_factory=dict)
    ever: list[MemoryEntry] = field(default_factory=list)
    full: bool = False
    """There is no room for another one."""
    set_aside: int = 0
    crowded: bool = False

    @property
    def pending(self) -> tuple[int, int]:
        return len(self.entries), sum(len(entry.data) for entry in self.entries.values())

    async def put(self, meta: dict[str, Any], body: Sequence[Buffer]) -> int | None:
        await trio.lowlevel.checkpoint()
        if self.full:
            return None
        entry = MemoryEntry(len(self.ever) + 1, meta, b"".join(body))
        self.ever.append(entry)
        self.entries[entry.number] = entry
        return entry.number

    async def done(self, number: int) -> None:
        await trio.lowlevel.checkpoint()
        del self.entries[number]
