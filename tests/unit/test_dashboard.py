"""docs/grafana-dashboard.json asks for metrics that there are, and for labels that they have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ossfs.exporter import families
from tests.unit.test_exporter import document

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana-dashboard.json"
OF_PROMETHEUS = {"job", "instance"}
"""Labels that the scraper adds."""
OF_THE_PROCESS = {"process_resident_memory_bytes"}
"""From prometheus_client's collector."""


def expressions() -> list[str]:
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def exported() -> dict[str, set[str]]:
    """The names of all samples, each with its labels."""
    return {sample.name: set(sample.labels) for family in families(document()) for sample in family.samples}


def test_each_metric_is_exported_under_that_name() -> None:
    used = {name for text in expressions() for name in re.findall(r"\b(?:ossfs|process)_\w+", text)}
    assert len(used) > 20
    assert used - OF_THE_PROCESS <= set(exported())


def test_each_label_is_one_of_its_metric() -> None:
    labels = exported()
    grouped = 0
    for text in expressions():
        names = set(re.findall(r"\bossfs_\w+", text))
        known = OF_PROMETHEUS.union(*(labels[name] for name in names))
        for group in re.findall(r"\bby \(([^)]*)\)", text):
            grouped += 1
            assert {label.strip() for label in group.split(",")} <= known, text
        for label in re.findall(r"[{,](\w+)=", text):
            assert label in known, text
    assert grouped > 5


def test_panels_do_not_overlap_and_expressions_are_whole() -> None:
    places: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not places & cells, panel["title"]
        places |= cells
    for text in expressions():
        for opening, closing in ("()", "{}", "[]"):
            assert text.count(opening) == text.count(closing), text
