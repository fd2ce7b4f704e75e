"""One queue for each key: commits, copies, deletes and attribute changes of a key never overlap.

Threading: trio thread only.

A holder of several keys takes them in sorted order.  A fence covers all keys below a prefix: it
waits for their present holders, and later comers wait for it.  Lock order in this package: a
writer's lock (several: by inode number), then keys or a fence.  Nothing waits for a writer's lock
while it holds keys.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio


class KeyQueue:
    """Exclusive use of keys and prefixes, first come, first served where they meet."""

    def __init__(self) -> None:
        self._waiting: list[tuple[trio.Event, tuple[str, ...], str | None]] = []
        self._held: dict[str, int] = {}
        self.on_contention: Callable[[], None] | None = None
        """Told when somebody has to wait: whoever holds keys only for company's sake lets go."""
        self._fences: list[str] = []

    def busy(self, key: str) -> bool:
        """Is an operation on this key under way?"""
        return key in self._held or any(key.startswith(f) for f in self._fences)

    @asynccontextmanager
    async def hold(self, *keys: str) -> AsyncIterator[None]:
        """Exclusive use of *keys*."""
        wanted = tuple(sorted(set(keys)))
        await self._enter(wanted, None)
        try:
            yield
        finally:
            for key in wanted:
                del self._held[key]
            self._wake()

    def try_hold(self, key: str) -> bool:
        """Take *key* if it is free and nobody waits for it; `let_go` gives it back."""
        wanted = (key,)
        if not self._free(wanted, None) or any(
            self._overlap(wanted, None, w, k) for _, w, k in self._waiting
        ):
            return False
        self._grant(wanted, None)
        return True

    def let_go(self, key: str) -> None:
        """The end of a `try_hold`."""
        self._release((key,), None)
        self._wake()

    @asynccontextmanager
    async def fence(self, *prefixes: str) -> AsyncIterator[None]:
        """Exclusive use of every key that starts with one of *prefixes*."""
        wanted = tuple(sorted(set(prefixes)))
        await self._enter(wanted, "fence")
        try:
            yield
        finally:
            for prefix in wanted:
                self._fences.remove(prefix)
            self._wake()

    async def _enter(self, wanted: tuple[str, ...], kind: str | None) -> None:
        # Behind everybody who already waits for something that overlaps: first come, first served,
        # so that a fence is not starved by a stream of single keys.
        if not self._free(wanted, kind) or any(
            self._overlap(wanted, kind, w, k) for _, w, k in self._waiting
        ):
            event = trio.Event()
            entry = (event, wanted, kind)
            self._waiting.append(entry)
            if self.on_contention is not None:
                self.on_contention()
            try:
                await event.wait()
            except BaseException:
                if event.is_set():  # granted in the same moment as cancelled: give it back
                    self._release(wanted, kind)
                else:
                    self._waiting.remove(entry)
                self._wake()
                raise
            return
        self._grant(wanted, kind)

    def _grant(self, wanted: tuple[str, ...], kind: str | None) -> None:
        if kind is None:
            for key in wanted:
                self._held[key] = 1
        else:
            self._fences.extend(wanted)

    def _release(self, wanted: tuple[str, ...], kind: str | None) -> None:
        for name in wanted:
            if kind is None:
                del self._held[name]
            else:
                self._fences.remove(name)

    def _free(self, wanted: tuple[str, ...], kind: str | None) -> bool:
        for name in wanted:
            if any(name.startswith(f) or (kind is not None and f.startswith(name)) for f in self._fences):
                return False
            if kind is None:
                if name in self._held:
                    return False
            elif any(key.startswith(name) for key in self._held):
                return False
        return True

    @staticmethod
    def _overlap(a: tuple[str, ...], kind_a: str | None, b: tuple[str, ...], kind_b: str | None) -> bool:
        for x in a:
            for y in b:
                if (
                    x == y
                    or (kind_a is not None and y.startswith(x))
                    or (kind_b is not None and x.startswith(y))
                ):
                    return True
        return False

    def _wake(self) -> None:
        passed: list[tuple[trio.Event, tuple[str, ...], str | None]] = []
        for entry in self._waiting:
            event, wanted, kind = entry
            if self._free(wanted, kind) and not any(self._overlap(wanted, kind, w, k) for _, w, k in passed):
                self._grant(wanted, kind)
                event.set()
            else:
                passed.append(entry)
        self._waiting = passed
