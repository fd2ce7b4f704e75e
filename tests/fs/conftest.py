"""Fixtures of the tests that run the file system over a store in memory, without a mount."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.memory_store import MemoryStore
from tests.support.posix import Posix, mounted


@pytest.fixture
def store(autojump_clock: object) -> MemoryStore:
    """An empty bucket.  A test asks for autojump_clock itself too: pytest-trio looks no deeper."""
    return MemoryStore()


@pytest.fixture
async def fs(store: MemoryStore) -> AsyncIterator[Posix]:
    """A mount of it."""
    async with mounted(store) as posix:
        yield posix
