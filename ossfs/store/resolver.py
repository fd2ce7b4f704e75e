"""Host names to addresses, with a time limit and a memory.

Threading: `resolve` is called from worker threads, any number at once.

getaddrinfo has no time limit and cannot be interrupted, so each lookup runs in a thread of its own
that callers stop waiting for.  The last good answer is kept: a name server that is down for a while
does not stop a mount that has long known where its bucket is.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

log = logging.getLogger(__name__)

Address: TypeAlias = tuple[socket.AddressFamily, tuple[Any, ...]]

_FRESH: Final = 30.0
"""Seconds for which an answer is used without asking again; OSS's own records live for 60."""
_PATIENCE_WITH_ANSWER: Final = 2.0
"""Seconds to wait for a new answer when an old one is at hand."""
_STEP: Final = 0.25


class ResolveError(Exception):
    """The name has no address that is known, or nobody answered in time."""


@dataclass(slots=True)
class _Answer:
    addresses: list[Address]
    at: float


class _Lookup:
    """One getaddrinfo in its own thread."""

    def __init__(self, host: str, port: int, lookup: Callable[..., Any]) -> None:
        self.done = threading.Event()
        self.addresses: list[Address] = []
        self.error: Exception | None = None
        self._call = (host, port, lookup)
        threading.Thread(target=self._run, name="ossfs-resolve", daemon=True).start()

    def _run(self) -> None:
        host, port, lookup = self._call
        try:
            found = lookup(host, port, type=socket.SOCK_STREAM)
            self.addresses = [(family, address) for family, _, _, _, address in found]
        except (OSError, UnicodeError) as error:
            self.error = error
        finally:
            self.done.set()


class Resolver:
    """Resolves names; one per store."""

    def __init__(self, lookup: Callable[..., Any] = socket.getaddrinfo) -> None:
        self._lookup = lookup
        self._lock = threading.Lock()
        self._answers: dict[tuple[str, int], _Answer] = {}
        self._running: dict[tuple[str, int], _Lookup] = {}

    def resolve(
        self, host: str, port: int, timeout: float, check: Callable[[], None] | None = None
    ) -> list[Address]:
        """The addresses of host, best first.

        Waits at most *timeout* seconds; *check* is called now and then meanwhile and may raise.
        Raises ResolveError.
        """
        name = (host, port)
        with self._lock:
            answer = self._answers.get(name)
            if answer is not None and time.monotonic() - answer.at < _FRESH:
                return answer.addresses
            lookup = self._running.get(name)
            if lookup is None:
                lookup = self._running[name] = _Lookup(host, port, self._lookup)
        until = time.monotonic() + (timeout if answer is None else min(timeout, _PATIENCE_WITH_ANSWER))
        while not lookup.done.wait(max(0.0, min(_STEP, until - time.monotonic()))):
            if check is not None:
                check()
            if time.monotonic() >= until:
                break
        with self._lock:
            if lookup.done.is_set():
                if self._running.get(name) is lookup:
                    del self._running[name]
                if lookup.addresses:
                    self._answers[name] = _Answer(lookup.addresses, time.monotonic())
                    return lookup.addresses
        if answer is not None:
            log.debug(
                "cannot resolve %s (%s): using the last known address", host, lookup.error or "no answer"
            )
            return answer.addresses
        if lookup.error is not None:
            raise ResolveError(f"cannot resolve {host}: {lookup.error}")
        raise ResolveError(f"cannot resolve {host}: no answer from the name server in {timeout:g} s")
