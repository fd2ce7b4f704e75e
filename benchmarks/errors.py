"""The one error of the benchmarks that is told in a line, without a traceback."""

from __future__ import annotations


class BenchError(Exception):
    """A benchmark cannot be run; the text says why and what is accepted."""
