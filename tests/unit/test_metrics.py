"""Counters, and what is read out of histograms of latencies."""

from __future__ import annotations

import random
import threading
from itertools import pairwise

import pytest

from ossfs.errors import NotFound, PosixError, ServerFault
from ossfs.metrics import BOUNDS, Latency, Metrics, quantile


def test_counters_of_both_kinds_are_one_snapshot() -> None:
    metrics = Metrics()
    metrics.count("a")
    metrics.count("a", 2)

    def add() -> None:
        for _ in range(1000):
            metrics.add("b", 2)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.snapshot() == {"a": 3, "b": 8000}


def test_bounds_ascend_by_less_than_two_thirds() -> None:
    assert all(low < high <= 1.67 * low for low, high in pairwise(BOUNDS))


def test_a_latency_is_in_its_bucket() -> None:
    latency = Latency()
    for seconds in (0.0, BOUNDS[0], BOUNDS[0] * 1.01, BOUNDS[-1], BOUNDS[-1] + 1):
        latency.observe(seconds, seconds > 0)
    assert latency.counts[:2] == [2, 1]  # bounds belong to the bucket below, as with Prometheus' le
    assert latency.counts[-2:] == [1, 1]
    assert (sum(latency.counts), latency.answered) == (5, 4)
    assert latency.total == pytest.approx(2 * BOUNDS[-1] + 1 + BOUNDS[0] * 2.01)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_percentiles_are_near_the_true_ones(share: float) -> None:
    numbers = random.Random(4)
    values = sorted(numbers.lognormvariate(-3, 1) for _ in range(5000))
    latency = Latency()
    for value in values:
        latency.observe(value, True)
    estimated = quantile(latency.counts, share)
    assert estimated == pytest.approx(values[int(share * len(values))], rel=0.3)


def test_percentiles_of_few() -> None:
    latency = Latency()
    assert quantile(latency.counts, 0.5) is None
    latency.observe(1000.0, True)
    assert quantile(latency.counts, 0.5) == BOUNDS[-1]
    latency.observe(0.012, True)
    found = quantile(latency.counts, 0.5)
    assert found is not None and 0.01 < found <= 0.016


def test_the_last_failure_is_no_everyday_answer() -> None:
    metrics = Metrics()
    metrics.failed(NotFound(key="k"))
    metrics.failed(PosixError(17))
    assert metrics.last_failure is None
    metrics.failed(ServerFault("sick", operation="PutObject", key="k", request_id="R", status=500))
    failure = metrics.last_failure
    assert failure is not None
    assert (failure.kind, failure.operation, failure.key) == ("ServerFault", "PutObject", "k")
    assert failure.request_id == "R" and "sick" in failure.text
    metrics.failed(ZeroDivisionError(), "fuse.read")
    failure = metrics.last_failure
    assert failure is not None
    assert (failure.kind, failure.operation, failure.text) == (
        "ZeroDivisionError",
        "fuse.read",
        "ZeroDivisionError",
    )
