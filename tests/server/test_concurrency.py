"""Many clients at once: operations on one object are atomic, the last write is what is read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fastcrc
import oss2
import pytest

from ossfs.server import RunningServer
from tests.server.wiretools import Wire

N = 8


def _race(work: Callable[[int], int]) -> list[int]:
    """Run it N times at once."""
    gate = threading.Barrier(N)

    def run(number: int) -> int:
        gate.wait()
        return work(number)

    with ThreadPoolExecutor(N) as pool:
        return list(pool.map(run, range(N)))


@pytest.mark.parametrize("size", [10, 100_000])
def test_of_those_that_forbid_overwriting_one_wins(wire: Wire, size: int, tmp_path: Path) -> None:
    forbid = {"x-oss-forbid-overwrite": "true"}
    for key in ("a", "b", "c", "d"):
        statuses = _race(
            lambda number, key=key: wire("PUT", key, headers=forbid, body=bytes((number,)) * size).status  # type: ignore[misc]
        )
        assert sorted(statuses) == [200] + [409] * (N - 1)
        assert wire("GET", key).body == bytes((statuses.index(200),)) * size
    assert len(list((tmp_path / "oss/blobs").glob("*/*"))) == (4 if size > 256 else 0)


def test_of_appends_at_one_position_one_wins(wire: Wire) -> None:
    params = {"append": "", "position": "0"}
    statuses = _race(lambda number: wire("POST", "a", params, body=bytes((number,)) * 1000).status)
    assert sorted(statuses) == [200] + [409] * (N - 1)
    assert wire("GET", "a").body == bytes((statuses.index(200),)) * 1000


def test_of_completions_one_wins(wire: Wire) -> None:
    upload = wire("POST", "m", {"uploads": ""}).xml.findtext("UploadId") or ""
    wire("PUT", "m", {"partNumber": "1", "uploadId": upload}, body=b"x")
    all_of_it = {"x-oss-complete-all": "yes"}
    statuses = _race(lambda _: wire("POST", "m", {"uploadId": upload}, all_of_it).status)
    assert sorted(statuses) == [200] + [404] * (N - 1)


def test_readers_see_one_version(
    start: Callable[..., RunningServer], sdk: Callable[..., oss2.Bucket], tmp_path: Path
) -> None:
    server = start()
    sizes = [20, 20_000, 200_000]
    bodies = [bytes((65 + i,)) * size for i, size in enumerate(sizes * 4)]
    valid = {(len(body), str(fastcrc.crc64.xz(body))) for body in bodies}
    writer = sdk(server)
    writer.put_object("k", bodies[0])
    done = threading.Event()

    def write(_: int) -> int:
        for body in bodies * 10:
            writer.put_object("k", body)
        done.set()
        return 0

    def read(number: int) -> int:
        if number == 0:
            return write(0)
        bucket = sdk(server)
        count = 0
        while not done.is_set() or not count:
            result = bucket.get_object("k")
            body = result.read()
            assert (len(body), result.headers["x-oss-hash-crc64ecma"]) in valid
            assert result.headers["x-oss-hash-crc64ecma"] == str(fastcrc.crc64.xz(body))
            count += 1
        return count

    assert sum(_race(read)) >= N - 1
    assert len(list((tmp_path / "oss/blobs").glob("*/*"))) <= 1


def test_a_client_for_whom_there_is_no_thread(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_start)
        with wire.socket() as sock:
            assert sock.recv(1) == b""
    assert wire("GET", params={"location": ""}).status == 200


def test_more_connections_than_places_wait(start: Callable[..., RunningServer]) -> None:
    wire = Wire(start(max_connections=2))
    assert set(_race(lambda number: wire("PUT", str(number), body=b"x").status)) == {200}
