"""What a workload was promised: for each path, the contents that it may have from now on.

Before an operation its outcome becomes one more of the possible contents; when the operation has
succeeded, it is the only one.  So a failed operation, or a program that was killed in the middle of
one, leaves both.

Threading: one writer, which is one process; read when that has ended.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

ABSENT = "absent"
ANYTHING = "anything"
"""Of a file whose program was killed while it wrote: the kernel closes it wherever that was."""


def digest(data: bytes) -> str:
    """What stands for a content."""
    return f"{len(data)}:{hashlib.sha256(data).hexdigest()[:24]}"


class Ledger:
    """The writing side: a line for each step, so that a killed program leaves all but its last one."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def _line(self, step: str, outcomes: dict[str, str]) -> None:
        os.write(self._file, json.dumps([step, outcomes]).encode() + b"\n")

    def begin(self, **outcomes: str) -> None:
        """These may be the contents from now on."""
        self._line("begin", outcomes)

    def done(self, **outcomes: str) -> None:
        """These are the contents."""
        self._line("done", outcomes)


def possible(path: Path, *, killed: bool = False) -> dict[str, set[str]]:
    """For each path of a ledger, all contents that it may have.  killed: the program was, maybe in a step."""
    found: dict[str, set[str]] = {}
    unfinished: dict[str, str] = {}
    for line in path.read_text().splitlines():
        try:
            step, outcomes = json.loads(line)
        except ValueError:
            continue  # the last line of a killed program
        if step == "begin":
            unfinished.update(outcomes)  # of many files that are written at the same time, all
        else:
            unfinished = {name: content for name, content in unfinished.items() if name not in outcomes}
        for name, content in outcomes.items():
            if step == "done":
                found[name] = {content}
            else:
                found.setdefault(name, {ABSENT}).add(content)
    if killed:
        for name in unfinished:
            found[name].add(ANYTHING)
    return found
