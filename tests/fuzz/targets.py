"""All fuzz targets by name, and the inputs that they begin with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.fuzz import client, server

CORPUS = Path(__file__).parent / "corpus"
"""For each target a directory: examples of each kind of input, and whatever once broke something."""

TARGETS: dict[str, Callable[[bytes], None]] = {**client.TARGETS, **server.TARGETS}


def inputs(target: str) -> list[Path]:
    """The kept inputs of a target."""
    return sorted((CORPUS / target).iterdir())
