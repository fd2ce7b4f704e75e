"""Mixed load for a long time: memory, threads and descriptors of the mount must stay flat.

    python -m tests.campaign.soak --minutes 60 --plot docs/soak.svg

All workloads of the campaign run side by side without a fault.  Then each file is compared with what
its program was promised, in the bucket and through a new mount.

Threading: one thread; the mount, the server and the programs are processes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.campaign.__main__ import play, privately
from tests.campaign.faults import Scenario, Scene
from tests.campaign.workloads import WORKLOADS

EVERY = 5.0
"""Seconds between two looks at the mount."""
SLACK = 1.15
"""How much more the last quarter may have than the second: allocators move, leaks go on."""


@dataclass(frozen=True)
class Sample:
    """The mount's process at one moment.  seconds: since the beginning; resident: MiB."""

    seconds: float
    resident: float
    threads: int
    descriptors: int


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="write a picture (SVG) here")
    parser.add_argument("--keep", type=Path, help="keep the mount's log of a failure in this directory")
    options = parser.parse_args()
    samples: list[Sample] = []
    scenario = Scenario("soak", lambda scene: _watch(scene, samples))
    seconds = options.minutes * 60
    result = play(scenario, options.seed, seconds, list(WORKLOADS), options.keep)
    if options.plot is not None:
        options.plot.write_text(picture(samples))
    problems = result.problems + grown(samples)
    last = samples[-1]
    print(
        f"{seconds / 60:g} minutes, {result.operations} operations, {result.files} files compared; "
        f"at the end {last.resident:.0f} MiB resident, {last.threads} threads, "
        f"{last.descriptors} descriptors; " + ("; ".join(problems) or "nothing lost, nothing leaked")
    )
    return 1 if problems else 0


def _watch(scene: Scene, samples: list[Sample]) -> Iterator[None]:
    scene.happened += 1
    began = time.monotonic()
    while True:
        now = time.monotonic() - began
        if not samples or now - samples[-1].seconds >= EVERY:
            samples.append(look(scene.mount.pid, now))
        yield


def look(pid: int, seconds: float) -> Sample:
    """The process *pid*, at so many seconds."""
    process = Path(f"/proc/{pid}")
    pages = int((process / "statm").read_text().split()[1])
    threads = len(list((process / "task").iterdir()))
    return Sample(seconds, pages * 4096 / (1 << 20), threads, len(list((process / "fd").iterdir())))


def grown(samples: Sequence[Sample]) -> list[str]:
    """What the mount has more of in the last quarter of the time than in the second."""
    quarter = len(samples) // 4
    if not quarter:
        return ["too short to tell"]
    before, after = samples[quarter : 2 * quarter], samples[-quarter:]
    problems = []
    for name in ("resident", "threads", "descriptors"):
        early, late = (median(getattr(s, name) for s in part) for part in (before, after))
        if late > early * SLACK + 2:
            problems.append(f"{name} grew from {early:.0f} to {late:.0f}")
    return problems


def picture(samples: Sequence[Sample]) -> str:
    """Three curves over the time, each with its own scale from zero, as an SVG of 800 by 360."""
    width, height, left, top = 700, 90, 80, 20
    end = max(sample.seconds for sample in samples) or 1.0
    rows = [("resident", "MiB resident"), ("threads", "threads"), ("descriptors", "descriptors")]
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 380"',
        ' font-family="sans-serif" font-size="12">',
        '<rect width="800" height="380" fill="white"/>',
    ]
    for row, (name, label) in enumerate(rows):
        base = top + (row + 1) * height + row * 25
        most = max(getattr(sample, name) for sample in samples) * 1.1 or 1.0
        points = " ".join(
            f"{left + sample.seconds / end * width:.1f},{base - getattr(sample, name) / most * height:.1f}"
            for sample in samples
        )
        parts += [
            f'<text x="{left}" y="{base - height - 4}">{label}</text>',
            f'<line x1="{left}" y1="{base}" x2="{left + width}" y2="{base}" stroke="gray"/>',
            f'<text x="{left - 6}" y="{base}" text-anchor="end">0</text>',
            f'<text x="{left - 6}" y="{base - height + 10}" text-anchor="end">{most:.0f}</text>',
            f'<polyline points="{points}" fill="none" stroke="steelblue"/>',
        ]
    parts.append(f'<text x="{left + width}" y="375" text-anchor="end">{end / 60:.0f} minutes</text>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    privately("tests.campaign.soak")
    sys.exit(main())
