"""The campaign itself: its ledger, and a short run of three of its scenarios."""

from __future__ import annotations

import os
from pathlib import Path

import apsw
import pytest
import trio

from ossfs.server import ServerConfig, start_server
from tests.campaign.__main__ import play
from tests.campaign.corruption import campaign
from tests.campaign.faults import SCENARIOS
from tests.campaign.ledger import ABSENT, ANYTHING, Ledger, digest, possible
from tests.campaign.soak import Sample, grown, picture
from tests.campaign.watched import NAME, Files, Watched

ONE, TWO = digest(b"one"), digest(b"two")


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


def test_what_was_done_is_the_only_content(ledger: Path) -> None:
    writer = Ledger(ledger)
    writer.begin(f=ONE)
    writer.done(f=ONE)
    writer.begin(f=ABSENT, g=ONE)
    writer.done(f=ABSENT, g=ONE)
    assert possible(ledger) == {"f": {ABSENT}, "g": {ONE}}


def test_a_failed_operation_leaves_both(ledger: Path) -> None:
    writer = Ledger(ledger)
    writer.begin(f=ONE)
    writer.done(f=ONE)
    writer.begin(f=TWO)
    writer.begin(g=TWO)
    assert possible(ledger) == {"f": {ONE, TWO}, "g": {ABSENT, TWO}}


def test_who_was_killed_in_the_middle_leaves_anything(ledger: Path) -> None:
    writer = Ledger(ledger)
    writer.begin(f=ONE)
    writer.done(f=ONE)
    writer.begin(g=TWO)
    with ledger.open("a") as file:
        file.write('["done", {"g"')
    assert possible(ledger, killed=True) == {"f": {ONE}, "g": {ABSENT, TWO, ANYTHING}}


async def test_every_flipped_byte_is_caught(tmp_path: Path) -> None:
    server = start_server(ServerConfig(directory=tmp_path, buckets=("bkt",), control=True))
    try:
        with trio.fail_after(60):
            injected, caught, _ = await campaign(server, 200, 7)
    finally:
        server.stop()
    assert injected == caught >= 200


def test_growth_is_noticed() -> None:
    flat = [Sample(i * 5.0, 100 + i % 3, 20, 50) for i in range(40)]
    assert grown(flat) == []
    assert "MiB resident" in picture(flat)
    leaking = [Sample(i * 5.0, 100 + i, 20, 50) for i in range(40)]
    assert grown(leaking) == ["resident grew from 114 to 134"]


def test_a_database_whose_bytes_change_by_themselves_is_noticed(tmp_path: Path) -> None:
    files, path = Files(), tmp_path / "db"
    layer = Watched(files)  # lives as long as it is used

    def rows() -> int:
        connection = apsw.Connection(str(path), vfs=NAME)
        try:
            with connection:
                connection.execute("CREATE TABLE IF NOT EXISTS rows (data BLOB)")
                connection.execute("INSERT INTO rows VALUES (randomblob(9000))")
            (found,) = connection.execute("SELECT count(*) FROM rows").fetchone() or (None,)
            return int(found or 0)
        finally:
            connection.close()

    assert [rows(), rows()] == [1, 2]
    assert files.reads and not files.wrong
    damaged = bytearray(path.read_bytes())
    damaged[5000] ^= 1
    path.write_bytes(damaged)
    rows()
    assert files.wrong
    layer.unregister()


@pytest.mark.mount
@pytest.mark.skipif(os.geteuid() != 0, reason="THE CAMPAIGN IS NOT PLAYED: only root can")
@pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK), reason="THE CAMPAIGN IS NOT PLAYED: no /dev/fuse")
@pytest.mark.parametrize(
    ("name", "workloads"),
    [
        ("answers lost", ["storm", "renames", "appends"]),
        ("mount killed", ["copies", "edits", "storm"]),
        ("bytes flipped on the way up", ["copies", "edits", "git"]),
    ],
)
def test_a_short_run(name: str, workloads: list[str]) -> None:
    (scenario,) = (scenario for scenario in SCENARIOS if scenario.name == name)
    result = play(scenario, seed=3, seconds=5, names=workloads, keep=None)
    assert not result.problems
    assert result.struck and result.files
