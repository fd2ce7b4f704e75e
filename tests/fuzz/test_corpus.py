"""What fuzzing found stays found: each kept input is run through its target.

How to look for more: `make fuzz`; tests/fuzz/__main__.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.targets import CORPUS, TARGETS, inputs


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What targets change of loggers is put back."""
    server, credentials = logging.getLogger("ossfs.server"), logging.getLogger("credentials")
    before = [(one, one.propagate, one.level, list(one.handlers)) for one in (server, credentials)]
    yield
    for one, propagate, level, handlers in before:
        one.propagate, one.handlers = propagate, handlers
        one.setLevel(level)


@pytest.mark.parametrize(
    ("target", "path"),
    [(target, path) for target in TARGETS for path in inputs(target)],
    ids=lambda value: value.name if isinstance(value, Path) else value,
)
def test_what_fuzzing_found_stays_found(target: str, path: Path) -> None:
    TARGETS[target](path.read_bytes())


def test_each_target_has_inputs_and_each_input_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert all(inputs(target) for target in TARGETS)


def test_xml_attacks_are_among_them() -> None:
    for target in ("answer", "xml"):
        names = {path.name for path in inputs(target)}
        assert {"billion_laughs", "external_entity"} <= names
