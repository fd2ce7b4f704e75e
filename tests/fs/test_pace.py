"""What is known of the network, and the ledger of checksums: the reader's arithmetic."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossfs.fs import blocks
from ossfs.fs.blocks import Ledger
from ossfs.fs.pace import Pace
from ossfs.limits import KIB, MIB
from ossfs.store.checksum import crc64


def measure(pace: Pace, latency: float, bandwidth: float, length: int = 4 * MIB) -> None:
    """A fetch over such a network; the first news comes with 256 KiB."""
    first = latency + 256 * KIB / bandwidth
    pace.measured(length, first, 256 * KIB, latency + length / bandwidth)


def test_latency_and_bandwidth_are_told_apart() -> None:
    pace = Pace()
    assert pace.fetch_time(MIB) == 0
    measure(pace, 0.015, 100e6)
    assert pace.latency == pytest.approx(0.015)
    assert pace.bandwidth == pytest.approx(100e6)
    assert pace.fetch_time(10_000_000) == pytest.approx(0.115)


def test_small_fetches_say_nothing() -> None:
    pace = Pace()
    pace.measured(4096, 0.5, 4096, 0.5)
    pace.measured(MIB, 0.5, MIB, 0.5)  # all came at once
    assert pace.fetch_time(MIB) == 0


def test_the_best_counts_but_is_forgotten_in_time() -> None:
    pace = Pace()
    measure(pace, 0.015, 100e6)
    measure(pace, 0.200, 10e6)  # one that had to wait for its turn
    assert pace.fetch_time(4 * MIB) < 0.07
    for _ in range(500):
        measure(pace, 0.200, 10e6)
    assert pace.fetch_time(4 * MIB) == pytest.approx(0.2 + 4 * MIB / 10e6, rel=0.05)
    measure(pace, 0.015, 100e6)
    assert pace.fetch_time(4 * MIB) == pytest.approx(0.015 + 4 * MIB / 100e6, rel=0.05)


def test_the_window_follows_speed_and_delay() -> None:
    near, far = Pace(), Pace()
    measure(near, 0.001, 100e6)
    measure(far, 0.200, 100e6)
    assert near.window(1e6, 4 * MIB) < near.window(1e9, 4 * MIB) < far.window(1e9, 4 * MIB)
    # Enough that the speed can double: what a pipe with this delay holds, twice.
    assert far.window(1e9, 4 * MIB) > 2 * 1e9 * 0.24


def test_running_streams_share_equally() -> None:
    pace = Pace()
    streams = [object() for _ in range(4)]
    assert pace.share(100 * MIB) == 100 * MIB
    for stream in streams:
        pace.touch(stream, 0.0)
    assert pace.share(100 * MIB) == 25 * MIB
    pace.forget(streams[0])
    assert pace.share(99 * MIB) == 33 * MIB
    pace.touch(streams[1], 0.9)
    pace.touch(streams[1], 1.5)  # the others have been quiet for more than a second
    assert pace.share(100 * MIB) == 100 * MIB
    assert pace.share(10) == MIB


def test_a_quarter_of_the_connections_is_for_what_is_waited_for() -> None:
    pace = Pace(8)
    pace.in_flight = 5
    assert pace.may_prefetch
    pace.in_flight = 6
    assert not pace.may_prefetch
    assert Pace(1).may_prefetch


@given(st.integers(1, 2000), st.integers(0, 2**32), st.booleans())
@settings(max_examples=200, deadline=None)
def test_the_ledger_knows_the_whole_from_any_pieces(size: int, seed: int, right: bool) -> None:
    """Overlapping pieces in any order: the last missing byte tells, and not one before."""
    chance = random.Random(seed)
    data = chance.randbytes(size)
    whole = crc64([data])
    ledger = Ledger(size, whole if right else whole ^ 1)
    seen = bytearray(size)
    while True:
        start = chance.randrange(size)
        end = min(size, start + chance.choice([1, 10, 100, 1000]))
        seen[start:end] = b"\1" * (end - start)
        told = ledger.add(start, data[start:end])
        if all(seen):
            break
        assert told is None
        assert ledger.wanted
    assert told == (None if right else whole)
    assert ledger.wanted != right  # wrong: it is counted anew


def test_bytes_count_as_they_were_handed_out_first() -> None:
    good, bad = b"0123456789", b"0123X56789"
    for first, second in ((good, bad), (bad, good)):
        ledger = Ledger(10, crc64([good]))
        assert ledger.add(0, first[:5]) is None
        assert ledger.add(0, second[:5]) is None
        assert (ledger.add(5, good[5:]) is None) == (first is good)


def test_nothing_to_compare_with() -> None:
    ledger = Ledger(10, None)
    assert not ledger.wanted
    assert ledger.add(0, bytes(10)) is None


def test_many_scattered_pieces_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random access to a large file must not cost memory for each page."""
    monkeypatch.setattr(blocks, "MAX_PIECES", 20)
    ledger = Ledger(1000, 1)
    for at in range(0, 1000, 2):
        ledger.add(at, b"x")
        assert len(ledger._starts) <= 20
    assert not ledger.wanted
