"""The one error of the benchmarks that is told in a line, without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn


class BenchError(Exception):
    """A benchmark cannot be run; the text says why and what is accepted."""


def main(run: Callable[[], int]) -> NoReturn:
    """The entry point of a script: exit with what *run* returns, or with 1 and one line."""
    try:
        sys.exit(run())
    except BenchError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        sys.exit(1)
