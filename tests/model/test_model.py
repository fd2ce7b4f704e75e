"""Random programs, a short run of each kind.  The long run is tests/model/campaign.py."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.model.concurrent import run_concurrently
from tests.model.distrust import run_distrust
from tests.model.local import Local
from tests.model.programs import KIB, MIB, Maker, Op, Setting, applicable, apply, make_program, smaller
from tests.model.reference import Reference
from tests.model.runner import Mismatch, compare, fails, run_program, shown
from tests.support.mounts import Mount

SECONDS = 5.0
"""For each kind, however slow the machine is."""


def run_some(first_seed: int, count: int, **options: Any) -> None:
    began = time.monotonic()
    for seed in range(first_seed, first_seed + count):
        if time.monotonic() - began > SECONDS:
            break
        program = make_program(seed, 80, **options)
        try:
            run_program(program)
        except Exception as error:
            small = smaller(program, fails, tries=300)
            raise AssertionError(f"seed {seed}: {error}\n{small.source()}") from error


def test_programs_do_what_the_model_does() -> None:
    run_some(1, 100)


def test_and_so_they_do_while_requests_are_repeated() -> None:
    run_some(10_000, 60, faults=0.2, call_timeout=600.0)


@pytest.mark.parametrize("call_timeout", [0.0, 1.0])
def test_bytes_are_always_one_of_the_right_versions_when_calls_fail(call_timeout: float) -> None:
    run_some(20_000, 40, faults=0.2, call_timeout=call_timeout)


def test_reads_after_failed_writes_are_right_or_errors() -> None:
    began = time.monotonic()
    for seed in range(1, 201):
        if time.monotonic() - began > SECONDS:
            break
        try:
            run_distrust(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@pytest.mark.parametrize("faults", [0.0, 0.1])
def test_programs_at_once_do_not_disturb_one_another(faults: float) -> None:
    began = time.monotonic()
    for seed in range(1, 11):
        if time.monotonic() - began > SECONDS:
            break
        try:
            run_concurrently(seed, 60, faults=faults)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@pytest.mark.mount
def test_a_mount_does_what_the_model_and_a_local_directory_do(real_mount: Mount, tmp_path: Path) -> None:
    _on_a_mount(real_mount, tmp_path, 2 * SECONDS, range(1, 61))


@pytest.mark.mount
def test_a_mount_does_the_same_while_requests_fail(real_mount: Mount, tmp_path: Path) -> None:
    """Refusals, resets, lost answers, delays: all are repeated or settled, and no program hears of them."""
    real_mount.service.faults(
        {"action": "status", "status": 503, "rate": 0.06, "count": -1, "seed": 1},
        {"action": "reset", "rate": 0.04, "count": -1, "seed": 2},
        {"action": "lose", "rate": 0.04, "count": -1, "seed": 3},
        {"action": "delay", "seconds": 0.05, "rate": 0.1, "count": -1, "seed": 4},
    )
    real_mount.allowed += ["failed: ", "lost", "answer", "repeat", "upload"]
    _on_a_mount(real_mount, tmp_path, 2 * SECONDS, range(101, 161))


def _on_a_mount(real_mount: Mount, tmp_path: Path, seconds: float, seeds: range) -> None:
    began = time.monotonic()
    models: dict[str, Reference] = {}
    for seed in seeds:
        if time.monotonic() - began >= seconds:
            break
        name = f"p{seed}"
        models[name] = Reference(owner=0)
        sides = []
        for top in (tmp_path, real_mount.path):
            (top / name).mkdir()
            sides.append(Local(top / name))
        try:
            _side_by_side(seed, models[name], sides)
        finally:
            for side in sides:
                side.end()
    real_mount.service.faults()
    real_mount.remount()
    for name, model in models.items():
        compare(model.snapshot(), Local(real_mount.path / name).snapshot())


def _side_by_side(seed: int, model: Reference, sides: list[Local]) -> None:
    rng = random.Random(seed)
    chunk = rng.choice([4 * KIB, 4 * KIB, 200 * KIB, 200 * KIB, 3 * MIB])
    maker = Maker(rng, model, Setting(chunk=chunk, min_part=chunk))
    ops = []
    for _ in range(60):
        op = maker.next()
        if op.name in ("forget", "sleep", "remount") or not applicable(model, op):
            continue
        ops.append(op)
        if op.name == "check":
            _compare_all(seed, model, sides)
            continue
        expected = apply(model, op)
        for side in sides:
            got = _call(side, op)
            if got != expected:
                done = "\n".join(map(repr, ops))
                raise Mismatch(f"seed {seed}, in {side.root}: {shown(got)}, not {shown(expected)}\n{done}")
    _compare_all(seed, model, sides)
    for slot in list(model.slots):
        while slot in model.slots:
            apply(model, Op("close", (slot,)))
            for side in sides:
                side.close(slot)
    _compare_all(seed, model, sides)


def _call(side: Local, op: Op) -> tuple[str, Any]:
    try:
        return "ok", getattr(side, op.name)(*op.args)
    except OSError as error:
        return "error", error.errno


def _compare_all(seed: int, model: Reference, sides: list[Local]) -> None:
    for side in sides:
        compare(model.snapshot(), side.snapshot())
        if side.in_slots() != model.in_slots():
            raise Mismatch(f"seed {seed}, in {side.root}: other bytes through descriptors")
