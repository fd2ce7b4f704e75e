"""What a process and its children cost: CPU seconds and peak memory, from /proc.

Threading: any thread.  Linux only.  A process that has ended meanwhile counts as nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """cpu: user and system seconds so far.  peak: the most resident memory (VmHWM), in bytes."""

    cpu: float
    peak: int


def family(root: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _stat(int(name))
            if fields is not None:
                children.setdefault(int(fields[1]), []).append(int(name))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def usage(root: int) -> Usage:
    """Of a process with its children."""
    cpu, peak = 0.0, 0
    for pid in family(root):
        fields = _stat(pid)
        if fields is not None:
            cpu += (int(fields[11]) + int(fields[12])) / _TICKS
            peak += _peak(pid)
    return Usage(cpu, peak)


def reset_peak(root: int) -> None:
    """From now on `usage` tells the peak since this moment (Linux: clear_refs takes a 5 for that)."""
    for pid in family(root):
        try:
            with open(f"/proc/{pid}/clear_refs", "w", encoding="ascii") as file:
                file.write("5")
        except OSError:
            pass  # it has ended, or is another user's: then the peak is that since its start


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the command's name, which may hold anything."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def _peak(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
