"""The same random program on two machines at once: a short run in memory, and one on two real mounts."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

import pytest

from tests.model.runner import different, shown
from tests.model.two_machines import (
    LOST_RACES,
    Shown,
    Step,
    content_of,
    do_on_a_mount,
    make_steps,
    run_two_machines,
    seen_in,
    tree_of,
)
from tests.support.mounts import Mount, oss2

SECONDS = 3.0
"""For each kind, however slow the machine is: some 100 seeds on a quiet one."""


@pytest.mark.parametrize("keeps", [False, True], ids=["anything", "keeps"])
@pytest.mark.parametrize("faults", [0.0, 0.1])
def test_two_machines_end_with_what_the_bucket_holds(keeps: bool, faults: float) -> None:
    began = time.monotonic()
    succeeded = 0
    for seed in range(1, 300):
        if time.monotonic() - began > SECONDS:
            break
        try:
            succeeded += run_two_machines(seed, 50, keeps=keeps, faults=faults)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    assert succeeded > 50


@pytest.mark.mount
@pytest.mark.timeout(120)
def test_two_mounts_end_with_what_the_bucket_holds(real_pair: tuple[Mount, Mount]) -> None:
    # Conflicts and replaced files are told in the log, each as it should be.
    for mount in real_pair:
        mount.allowed += ["WARNING .*", "ERROR .*conflict-", "ERROR .*(?:EEXIST|ESTALE|ENOENT)"]
    began = time.monotonic()
    for seed in itertools.count(1):
        if time.monotonic() - began > 3 * SECONDS:
            break
        keeps = seed % 2 == 0
        top = f"p{seed}"
        real_pair[0].service.write(f"{top}/", b"")
        tops = [mount.path / top for mount in real_pair]
        programs = [make_steps(seed, number, 50, keeps=keeps) for number in range(2)]
        accepted = _at_once(programs, tops)
        _compare(real_pair, top, tops)
        if keeps:
            held = {data for _, data in _objects(real_pair[0], top).values()}
            assert not [number for number in accepted if content_of(number) not in held], f"lost, seed {seed}"


def _at_once(programs: list[list[Step]], tops: list[Path]) -> list[int]:
    """Run a program in each; the numbers of the files whose close returned 0."""
    accepted: list[int] = []
    problems: list[str] = []

    def run(steps: list[Step], top: Path) -> None:
        for step in steps:
            time.sleep(step.wait / 30)
            try:
                do_on_a_mount(step, top)
            except OSError as error:
                if error.errno not in LOST_RACES:
                    problems.append(f"{top}: {step}: {error}")
            else:
                if step.call == "create":
                    accepted.append(step.number)

    threads = [threading.Thread(target=run, args=pair) for pair in zip(programs, tops, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems, "\n".join(problems)
    return accepted


def _objects(mount: Mount, top: str) -> dict[str, tuple[int, bytes]]:
    found: dict[str, tuple[int, bytes]] = {}
    for key in mount.service.keys(f"{top}/"):
        try:
            answer = mount.service.sdk.get_object(key)
        except oss2.exceptions.NoSuchKey:
            continue  # deletes follow their calls within a second
        found[key] = (int(answer.headers.get("x-oss-meta-mode", 0)), answer.read())
    return found


def _compare(pair: tuple[Mount, Mount], top: str, tops: list[Path]) -> None:
    """Both show the bucket when what they know is too old, and what waits for company has gone."""
    deadline = time.monotonic() + 8
    views: list[Shown | None] = []
    while True:
        expected = tree_of(_objects(pair[0], top), f"{top}/")
        views = [seen_in(place) for place in tops]
        if views == [expected, expected]:
            return
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    told = [shown(different(view or {}, expected)) for view in views]
    raise AssertionError(f"{top}: (shown, in the bucket) by path: {told}")
