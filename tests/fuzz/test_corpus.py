"""What fuzzing found stays found: each kept input is run through its target.

How to look for more: `make fuzz`; tests/fuzz/__main__.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from ossfs.errors import ServerFault
from ossfs.server.xmltext import XmlError, parse
from ossfs.store.listing import parse_xml
from tests.fuzz import server
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
    holds = TARGETS[target]  # raises what breaks its rule
    assert holds(path.read_bytes()) is None


def test_each_target_has_inputs_and_each_input_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert all(inputs(target) for target in TARGETS)


def test_xml_attacks_are_refused() -> None:
    """Expansions that are small, so that refusing them is what ends them, and not a limit."""
    documents = [
        b'<!DOCTYPE l [<!ENTITY a "b">]><ListBucketResult><Prefix>&a;</Prefix></ListBucketResult>',
        b'<!DOCTYPE l [<!ENTITY a SYSTEM "file:///etc/passwd">]><ListBucketResult>&a;</ListBucketResult>',
        b'<!DOCTYPE l SYSTEM "http://127.0.0.1:9/x"><ListBucketResult/>',
        *((CORPUS / "xml" / name).read_bytes() for name in ("billion_laughs", "external_entity")),
    ]
    for document in documents:
        with pytest.raises(ServerFault, match="document type"):
            parse_xml(document)
        with pytest.raises(XmlError, match="DOCTYPE"):
            parse(document)


def test_the_guard_of_the_file_system_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that wrote outside its directory would break the targets' rule."""
    outside = tmp_path / "outside"

    def leak(service: object, sock: object) -> None:
        outside.write_text("x")

    monkeypatch.setattr(server, "serve_connection", leak)
    with pytest.raises(AssertionError, match="outside"):
        TARGETS["request"](b"GET / HTTP/1.1\n\n")
