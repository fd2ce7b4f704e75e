"""Fixtures of several modules."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from ossfs import logs
from tests.support.mounts import Service


@pytest.fixture
def restore_logging() -> Iterator[None]:
    """Commands send the log to its place; pytest's own handlers are to stay."""
    root, ours = logging.getLogger(), logging.getLogger("ossfs")
    handlers, levels, raising = list(root.handlers), (root.level, ours.level), logging.raiseExceptions
    root.handlers = []
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    logging.raiseExceptions = raising
    logs._SECRET_VALUES.clear()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server that the tests of a module share."""
    server = Service(tmp_path_factory.mktemp("service"))
    yield server
    server.stop()
