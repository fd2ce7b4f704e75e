"""`ossfs pending`: what write-back left is listed, uploaded, dropped, and put beside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import trio

from ossfs import cli
from ossfs.cache.directory import CacheDirectory
from ossfs.cache.writelog import WriteLog
from ossfs.store.base import WRITE_ID, ObjectHeaders
from tests.support.mounts import BUCKET, Service

pytestmark = pytest.mark.usefixtures("restore_logging")


@pytest.fixture
def service(running: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("OSS_ACCESS_KEY_ID", running.key_id)
    monkeypatch.setenv("OSS_ACCESS_KEY_SECRET", running.key_secret)
    yield running
    running.faults()


class Place:
    """The cache_dir of one test."""

    def __init__(self, service: Service, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.service = service
        self.cache = cache
        self.capsys = capsys
        self.names = {"endpoint": service.url, "bucket": BUCKET, "prefix": cache.parent.name}

    def leave(self, **files: bytes) -> None:
        """As a killed mount does."""

        async def work() -> None:
            log = WriteLog(str(Path(directory.path) / "writeback"), 1 << 30, keep_free=0)
            for name, data in files.items():
                headers = ObjectHeaders(meta={WRITE_ID: name, "mode": "33188"})
                key = f"{self.names['prefix']}/{name}"
                meta = {"key": key, "headers": asdict(headers), "original": None, "closed": 1_700_000_000}
                assert await log.put(meta, [data]) is not None
            await trio.to_thread.run_sync(log.close)

        with CacheDirectory(str(self.cache), **self.names) as directory:
            trio.run(work)

    def pending(self, *arguments: str, status: int = 0) -> str:
        source = f"{BUCKET}:/{self.names['prefix']}"
        options = f"endpoint={self.service.url},cache_dir={self.cache}"
        assert cli.run(["pending", source, "-o", options, *arguments]) == status
        said = self.capsys.readouterr()
        return said.out if status != 1 else said.out + said.err

    def listed(self, *arguments: str, status: int = 0) -> tuple[list[str], list[dict[str, Any]]]:
        document = json.loads(self.pending(*arguments, "--json", status=status))
        return [one["key"].rpartition("/")[2] for one in document["waiting"]], document["damaged"]

    def damage(self, data: bytes) -> None:
        (segment,) = self.cache.glob("*/writeback/*.log")
        at = segment.read_bytes().index(data)
        with segment.open("r+b") as file:
            file.seek(at)
            file.write(b"X")


@pytest.fixture
def place(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Place:
    return Place(service, tmp_path / "cache", capsys)


def test_what_waits_is_listed_uploaded_and_dropped(place: Place) -> None:
    prefix = place.names["prefix"]
    assert place.pending() == "nothing is pending\n"
    assert not place.cache.exists(), "a look makes nothing"
    place.leave(a=b"1", b=b"22", c=b"333")
    shown = place.pending().splitlines()
    assert shown[0].split() == ["name", "bytes", "closed", "state"]
    assert [line.split()[:3] for line in shown[1:]] == [
        [f"{prefix}/{name}", size, "2023-11-14T22:13:20+00:00"]
        for name, size in (("a", "1"), ("b", "2"), ("c", "3"))
    ]
    assert place.listed("--drop", f"{prefix}/b") == (["a", "c"], [])
    place.service.faults({"op": "Put", "key": f"{prefix}/c", "count": -1, "action": "status", "status": 403})
    assert place.listed("--upload", status=1) == (["c"], [])
    assert place.service.read(f"{prefix}/a") == b"1" and not place.service.exists(f"{prefix}/b")
    place.service.faults()
    assert place.pending("--upload") == "nothing is pending\n"
    assert place.service.read(f"{prefix}/c") == b"333"
    assert "nothing is pending as nothing" in place.pending("--drop", "nothing", status=1)


def test_what_was_damaged(place: Place) -> None:
    prefix = place.names["prefix"]
    place.leave(good=b"g" * 100, bad=b"b" * 100, worse=b"w" * 100)
    place.damage(b"b" * 100)
    place.damage(b"w" * 100)
    waiting, damaged = place.listed()
    assert waiting == ["good"]
    assert [(one["key"], one["bytes"]) for one in damaged] == [
        (f"{prefix}/bad", 100),
        (f"{prefix}/worse", 100),
    ]
    assert place.listed("--upload")[1] == damaged
    _, left = place.listed("--drop", damaged[1]["name"])
    assert left == damaged[:1] and not Path(damaged[1]["path"]).exists()
    place.pending("--put", damaged[0]["name"])
    (kept,) = [key for key in place.service.keys(f"{prefix}/") if ".damaged-" in key]
    assert kept.startswith(f"{prefix}/bad.damaged-")
    assert place.service.read(kept) == b"X" + b"b" * 99
    assert not place.service.exists(f"{prefix}/bad")
    assert place.listed()[1] == [], "what was decided on does not come back"


def test_what_has_no_name_is_not_guessed_at(place: Place) -> None:
    place.leave(bad=b"b" * 100, good=b"g")
    (segment,) = place.cache.glob("*/writeback/*.log")
    with segment.open("r+b") as file:
        file.seek(20)
        file.write(b"\xff\xff")
    waiting, (damaged,) = place.listed()
    assert waiting == ["good"] and damaged["key"] is None
    assert "no name of a file can be read" in place.pending("--put", damaged["name"], status=1)
    assert Path(damaged["path"]).exists()


def test_a_mount_that_runs_is_left_alone(place: Place) -> None:
    place.leave(a=b"1")
    with CacheDirectory(str(place.cache), **place.names):
        assert "in use by another mount" in place.pending("--upload", status=1)
    assert place.listed()[0] == ["a"]


def test_without_a_cache_dir(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["pending", BUCKET, "-o", f"endpoint={service.url}"]) == 1
    assert "cache_dir" in capsys.readouterr().err
