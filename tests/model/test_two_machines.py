"""The same random program on two machines at once: a short run in memory, and one on two real mounts."""

from __future__ import annotations

import time

import pytest

from tests.model.two_machines import run_two_machines

SECONDS = 6.0
"""For each kind, however slow the machine is: some 200 seeds on a quiet one."""


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
