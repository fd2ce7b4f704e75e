"""What is known of the names in one directory, and until when it may be believed.

Pure data, no I/O.  Threading: trio thread only.

Two rules are held here.  An answer never overrides a local change that is younger than its request:
a listing is begun with `begin`, and names that were touched since keep what the touch said.  And an
absence is believed for `ttl` only in a directory that this mount made, elsewhere for
`negative_ttl`, so that somebody else's new file is not erased for the sake of a stale "not there".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto

from ossfs.store.base import ListedObject


class Absent(Enum):
    """The name is not there."""

    ABSENT = auto()


ABSENT = Absent.ABSENT


@dataclass(slots=True)
class Known:
    """A name that exists.  obj: the object, or None for a directory.  at: trio time of the request."""

    obj: ListedObject | None
    at: float


class DirCache:
    """The names of one directory.  Times are trio.current_time() in seconds."""

    __slots__ = (
        "_began",
        "_changes",
        "_forgot",
        "_touched",
        "complete_at",
        "entries",
        "leaving",
        "more_at",
        "on_touch",
        "own",
    )

    def __init__(self, *, own: bool = False, now: float = 0.0) -> None:
        self.entries: dict[str, Known] = {}
        self.complete_at: float | None = now if own else None
        """All names were in `entries` at that moment."""
        self.own = own
        self.more_at: float | None = None
        """A listing of one page found more than a page at that moment."""
        self.on_touch: Callable[[], None] | None = None
        """Told of every local change."""
        self.leaving: dict[str, int] = {}
        """Names whose delete or rename is under way: gone for this machine, whatever a listing says."""
        self._changes = 0
        self._touched: dict[str, int] = {}
        self._forgot = 0
        self._began: list[int] = []

    # -- questions

    def find(self, name: str, now: float, ttl: float, negative_ttl: float) -> Known | Absent | None:
        """What is known of *name* and still fresh; None when somebody has to be asked."""
        if name in self.leaving:
            return ABSENT
        known = self.entries.get(name)
        if known is not None:
            return known if now - known.at < ttl else None
        if self.complete_at is not None and now - self.complete_at < (ttl if self.own else negative_ttl):
            return ABSENT
        return None

    def complete(self, now: float, ttl: float) -> bool:
        """Are all names known, and fresh enough to answer a listing?"""
        return self.complete_at is not None and now - self.complete_at < ttl

    # -- local changes

    def set(self, name: str, obj: ListedObject | None, now: float) -> None:
        """This mount knows for certain: *name* is there."""
        self.entries[name] = Known(obj, now)
        self._touch(name)

    def remove(self, name: str) -> None:
        """This mount knows for certain: *name* is gone."""
        self.entries.pop(name, None)
        self._touch(name)

    def leave(self, name: str) -> None:
        """A delete or rename of *name* begins."""
        self.leaving[name] = self.leaving.get(name, 0) + 1

    def left(self, name: str, *, gone: bool) -> None:
        """It ended.  gone: the name is not there any more."""
        count = self.leaving[name] - 1
        if count:
            self.leaving[name] = count
        else:
            del self.leaving[name]
        if gone:
            self.remove(name)

    def forget(self, name: str) -> None:
        """What is known of *name* was wrong: ask again."""
        self.entries.pop(name, None)
        self.complete_at = None
        self._forget()

    def forget_all(self) -> None:
        """Ask again about everything."""
        self.entries.clear()
        self.complete_at = None
        self.more_at = None
        self._forget()

    def _forget(self) -> None:
        if self._began:
            self._changes += 1
            self._forgot = self._changes

    def _touch(self, name: str) -> None:
        if self.on_touch is not None:
            self.on_touch()
        if self._began:
            self._changes += 1
            self._touched[name] = self._changes

    # -- answers

    def begin(self) -> int:
        """A listing or lookup is about to be sent; the token orders its answer after local changes."""
        self._began.append(self._changes)
        return self._changes

    def end(self, token: int) -> None:
        """That request is over, whatever became of it."""
        self._began.remove(token)
        if not self._began:
            self._touched.clear()
            self._changes = self._forgot = 0

    def touched_since(self, name: str, token: int) -> bool:
        """Did this mount change *name* after the request with this token was sent?"""
        return self._touched.get(name, 0) > token

    def forgot_since(self, token: int) -> bool:
        """Was something forgotten after that?  Then its answer proves no absence: the directory may have
        another key by now, and what was forgotten may have been put just before."""
        return self._forgot > token

    def merge(
        self, found: Iterable[tuple[str, ListedObject | None]], at: float, token: int, *, complete: bool
    ) -> None:
        """Take over an answer that was asked for at time *at*.

        complete: the answer names all there is, so every other name is gone.  What was learnt by a later
        request stays, and so does what that one said of everything else.
        """
        fresh: dict[str, Known] = {}
        for name, obj in found:
            if not self.touched_since(name, token):
                known = self.entries.get(name)
                fresh[name] = known if known is not None and known.at > at else Known(obj, at)
        if not complete or self.forgot_since(token):
            self.entries.update(fresh)
        elif self.complete_at is None or self.complete_at <= at:
            for name, known in self.entries.items():
                if known.at > at or self.touched_since(name, token):
                    fresh[name] = known
            self.entries = fresh
            self.complete_at = at
            self.more_at = None

    def absent(self, name: str, token: int) -> None:
        """An answer says that *name* is not there."""
        if not self.touched_since(name, token) and self.entries.pop(name, None) is not None:
            self.complete_at = None  # whichever of the two answers is the younger: ask again
