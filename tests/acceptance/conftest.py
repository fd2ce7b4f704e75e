"""Whole programs of others on a mount, and whole installations: what `make acceptance` runs.

These tests need Debian packages that `scripts/system-packages acceptance` installs, and fail without them.
"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.support.fixtures import why_not

HERE = Path(__file__).parent
SECONDS = 900.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is here.  Unlike in `make test`, nothing is skipped: who runs this wants to know."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.acceptance)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(SECONDS))


def pytest_sessionstart() -> None:
    """One line instead of a failure of each test."""
    missing = why_not()
    if missing:
        raise pytest.UsageError(f"nothing can be mounted here: {missing}")


@pytest.fixture
def free_port() -> int:
    """A port of the loopback that nobody listens on, for programs that cannot be given 0."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
