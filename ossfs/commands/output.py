"""Tables and JSON on standard output.

Threading: the main thread of a command.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_PIPE_WIDTH = 200
"""Columns where nobody knows the width: cells are folded in a table, and grep wants lines."""


def print_json(value: object) -> None:
    """As JSON, indented."""
    print(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def console() -> Console:
    """Standard output: as wide as the terminal, wide and without colours where there is none."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], styles: dict[str, str] | None = None
) -> None:
    """A table as wide as the terminal; *styles* colours the cells whose whole text is a key of it."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=(styles or {}).get(cell, "")) for cell in row))
    console().print(table)


def printable(text: str) -> str:
    """*text*, quoted when it holds what a terminal should not get."""
    return text if text.isprintable() else repr(text)
