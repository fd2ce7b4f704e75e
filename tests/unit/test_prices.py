"""Price classes of requests, and the estimate."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ossfs.prices import count_classes, estimate, price_class

STORE = Path(__file__).parents[2] / "ossfs" / "store"


@pytest.mark.parametrize(
    "operation, kind",
    [
        ("PutObject", "put"),
        ("CopyObject", "put"),
        ("ListObjects", "put"),
        ("ListMultipartUploads", "put"),
        ("DeleteObject", "put"),
        ("DeleteMultipleObjects", "put"),
        ("InitiateMultipartUpload", "put"),
        ("UploadPart", "put"),
        ("UploadPartCopy", "put"),
        ("CompleteMultipartUpload", "put"),
        ("AbortMultipartUpload", "put"),
        ("GetObject", "get"),
        ("HeadObject", "get"),
        ("GetSymlink", "get"),
        ("GetObjectTagging", "get"),
        ("GetObjectACL", "get"),
        ("GetBucketInfo", "get"),
        ("GetBucketStat", "get"),
    ],
)
def test_classes(operation: str, kind: str) -> None:
    assert price_class(operation) == kind


def test_each_call_of_the_store_has_been_thought_of() -> None:
    """A new call has to be looked up in the price list, and added above."""
    used = set(re.findall(r'_run\(\s*"([A-Z]\w+)"', (STORE / "oss.py").read_text()))
    known = {case[0] for case in test_classes.pytestmark[0].args[1]}  # type: ignore[attr-defined]
    assert len(used) > 15 and used <= known


def test_an_estimate_is_made_of_prices_only() -> None:
    counts = count_classes({"PutObject": 15_000, "ListObjects": 5_000, "HeadObject": 30_000})
    assert counts == {"put": 20_000, "get": 30_000}
    assert estimate(counts, {"put": 0.0, "get": 0.0}) is None
    assert estimate(counts, {"put": 0.01, "get": 0.0}) == pytest.approx(0.02)
    assert estimate(counts, {"put": 0.01, "get": 0.001}) == pytest.approx(0.023)
