"""A short run of tests/campaign/deadlines.py: every kind of call, with a server that never answers."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.campaign.deadlines import CALLS, STRETCH, Bench, wrong
from tests.support.mounts import detach
from tests.support.stalling import MUTE

SECONDS = 1.0
"""op_timeout of the mount."""


@pytest.mark.mount
@pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK), reason="REAL MOUNTS ARE NOT TESTED: no /dev/fuse")
def test_every_call_ends_with_a_server_that_never_answers(tmp_path: Path) -> None:
    with ExitStack() as stack:
        bench = Bench(tmp_path, SECONDS, stack)
        bench.mount.mount()
        stack.callback(detach, str(bench.mount.path))
        stack.callback(bench.mount.kill)
        cells = list(bench.row(MUTE))
        assert len(cells) == len(CALLS)
        assert not [str(cell) for cell in cells if wrong(cell, SECONDS)]
        bench.works_again()
        if os.geteuid() == 0:
            assert bench.killed(MUTE) < SECONDS * STRETCH
        bench.works_again()
