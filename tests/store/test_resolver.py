"""Names: time limits, and the memory of the last answer."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from ossfs.store import resolver as module
from ossfs.store.resolver import ResolveError, Resolver

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]


def test_an_answer_is_kept() -> None:
    calls = []

    def lookup(host: str, port: int, **_: Any) -> Any:
        calls.append(host)
        return FOUND

    resolver = Resolver(lookup)
    for _ in range(3):
        assert resolver.resolve("h", 80, 1.0) == [(socket.AF_INET, ("192.0.2.1", 80))]
    assert calls == ["h"]


def test_errors_are_told() -> None:
    def lookup(host: str, port: int, **_: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(ResolveError, match="Name or service not known"):
        Resolver(lookup).resolve("h", 80, 1.0)


def test_a_lookup_that_hangs_is_left() -> None:
    release = threading.Event()
    checks = []

    def lookup(host: str, port: int, **_: Any) -> Any:
        release.wait(10)
        return FOUND

    resolver = Resolver(lookup)
    with pytest.raises(ResolveError, match="no answer"):
        resolver.resolve("h", 80, 0.05, lambda: checks.append(1))
    assert checks
    release.set()
    assert resolver.resolve("h", 80, 5.0)


def test_an_old_answer_is_better_than_none(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [FOUND, socket.gaierror("down")]

    def lookup(host: str, port: int, **_: Any) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    resolver = Resolver(lookup)
    first = resolver.resolve("h", 80, 1.0)
    monkeypatch.setattr(module, "_FRESH", 0.0)
    assert resolver.resolve("h", 80, 1.0) == first
