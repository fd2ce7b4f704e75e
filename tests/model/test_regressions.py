"""What the model test has found, each as the shortest program that shows it."""

from __future__ import annotations

import os

import pytest

from tests.model.programs import Op, Program, Setting
from tests.model.runner import run_program

R, W, RW = os.O_RDONLY, os.O_WRONLY, os.O_RDWR
C, X, T, A = os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND
pytestmark = pytest.mark.timeout(60)


def run(*ops: Op, seed: int = 1, **setting: object) -> None:
    run_program(Program(seed, Setting(**setting), ops))  # type: ignore[arg-type]


def test_a_landing_part_makes_room_for_a_writer_that_waits() -> None:
    """Memory was asked for while parts were in flight; when they had landed, nobody was asked again."""
    run(
        Op("open", (5, "c", RW | C | A, 0o644)),
        Op("write", (5, 768, 480, 4)),
        Op("write", (5, 343, 128, 6)),
        Op("write", (5, 249, 1, 8)),
        Op("write", (5, 189, 256, 9)),
        Op("write", (5, 0, 211, 11)),
        Op("write", (5, 146, 239, 12)),
        Op("write", (5, 0, 654, 13)),
        seed=98,
        min_part=128,
        memory=2048,
        latency=0.02,
        staging=True,
    )


@pytest.mark.parametrize("closer", [0, 1])
def test_a_removed_file_is_read_after_its_last_writer_has_closed(closer: int) -> None:
    """The last writable descriptor took the bytes along that only a reader's were left for."""
    run(
        Op("open", (0, "d", W | C, 0o644)),
        Op("open", (1, "d", R, 0)),
        Op("write", (0, 0, 1000, 5)),
        Op("unlink", ("d",)),
        Op("write", (0, 24, 300, 6)),
        Op("close", (closer,)),
        Op("check"),
        Op("close", (1 - closer,)),
        Op("check"),
    )
