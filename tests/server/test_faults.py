"""Scripted faults, each of them, and the counters; in process and over HTTP."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import fastcrc
import oss2
import pytest

from ossfs.server import RunningServer, routing
from ossfs.server.control import pattern
from ossfs.server.faults import OPERATIONS, Faults
from tests.server.wiretools import Wire

BODY = bytes(range(256)) * 8


def test_status(wire: Wire) -> None:
    wire("PUT", "k", body=BODY)
    unavailable = {"action": "status", "status": 503, "code": "ServiceUnavailable"}
    wire.server.set_faults([{"op": "Get", **unavailable}])
    reply = wire("GET", "k")
    assert (reply.status, reply.code) == (503, "ServiceUnavailable")
    assert wire("GET", "k").body == BODY
    for status, code, shown in (
        (400, "RequestTimeout", "RequestTimeout"),
        (403, "AccessDenied", "AccessDenied"),
        (429, "QpsLimitExceeded", "QpsLimitExceeded"),
        (500, "", "InternalError"),
        (599, "", "InternalError"),
    ):
        wire.server.set_faults([{"op": "Head", "action": "status", "status": status, "code": code}])
        reply = wire("HEAD", "k")
        assert (reply.status, reply.code) == (status, shown)


def test_a_refused_put_is_read_to_its_end(wire: Wire, sdk: Callable[..., oss2.Bucket]) -> None:
    bucket = sdk(wire.server)
    wire.server.set_faults([{"op": "Put", "action": "status", "status": 503, "code": "ServiceUnavailable"}])
    with pytest.raises(oss2.exceptions.ServerError) as caught:
        bucket.put_object("k", bytes(5_000_000))
    assert caught.value.status == 503
    bucket.put_object("k", bytes(5_000_000))


def test_matching(wire: Wire) -> None:
    wire.server.set_faults(
        [
            {
                "op": "UploadPart",
                "key": "tar",
                "part": 3,
                "skip": 1,
                "count": 2,
                "action": "status",
                "status": 503,
            },
        ]
    )
    upload = wire("POST", "target", {"uploads": ""}).xml.findtext("UploadId") or ""
    other = wire("POST", "else", {"uploads": ""}).xml.findtext("UploadId") or ""

    def status(key: str, number: int) -> int:
        params = {"partNumber": str(number), "uploadId": upload if key == "target" else other}
        return wire("PUT", key, params, body=b"x").status

    assert status("target", 1) == 200
    assert status("else", 3) == 200
    assert [status("target", 3) for _ in range(4)] == [200, 503, 503, 200]
    wire.server.set_faults([{"op": "*", "count": -1, "action": "status", "status": 500}])
    assert [wire("GET", "k").status for _ in range(3)] == [500] * 3
    wire.server.set_faults([])
    assert wire("GET", "k").status == 404


def test_rates_are_repeatable() -> None:
    def run(seed: int) -> list[bool]:
        faults = Faults()
        faults.replace([{"op": "Get", "action": "reset", "rate": 0.3, "seed": seed, "count": -1}])
        return [bool(faults.plan("Get", "", None)[1]) for _ in range(200)]

    assert run(1) == run(1) != run(2)
    assert 30 < sum(run(1)) < 90


def test_every_operation_has_a_name_for_faults() -> None:
    tables = (*routing.BUCKET_OPERATIONS.values(), *routing.KEY_OPERATIONS.values())
    names = {operation.name for table in tables for operation in table.values()}
    assert names | {"Copy", "UploadPartCopy", "ListBuckets"} == OPERATIONS


@pytest.mark.parametrize(
    "fault",
    [
        {"op": "Get"},
        {"op": "Get", "action": "explode"},
        {"op": "Gett", "action": "reset"},
        {"op": "Get", "action": "reset", "when": "now"},
        {"op": "Get", "action": "reset", "count": "many"},
    ],
)
def test_scripts_that_make_no_sense(wire: Wire, fault: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        wire.server.set_faults([fault])
    reply = wire.send("POST", "/_ossfs/faults", {"Host": "h"}, json.dumps([fault]).encode())
    assert reply.status == 400


def test_delay_and_latency(wire: Wire) -> None:
    wire.server.set_faults([{"op": "Get", "action": "delay", "seconds": 0.2}])
    begin = time.monotonic()
    assert wire("GET", "k").status == 404
    assert time.monotonic() - begin >= 0.2
    wire.server.set_latency(0.1)
    begin = time.monotonic()
    wire("GET", "k")
    assert time.monotonic() - begin >= 0.1


def test_reset(wire: Wire) -> None:
    wire.server.set_faults([{"op": "Put", "action": "reset"}])
    with pytest.raises(ConnectionError):
        wire("PUT", "k", body=b"x")
    assert wire("GET", "k").status == 404


def test_lose_the_answer(wire: Wire) -> None:
    wire.server.set_faults([{"op": "Put", "action": "lose"}])
    with pytest.raises(ConnectionError):
        wire("PUT", "k", body=BODY)
    assert wire("GET", "k").body == BODY


@pytest.mark.parametrize("size", [100, 2048, 3_000_000])
@pytest.mark.parametrize("after", [0, 50])
def test_cut(wire: Wire, size: int, after: int) -> None:
    wire.server.fill("demo", "k", 1, size)
    wire.server.set_faults([{"op": "Get", "action": "cut", "after": after}])
    with pytest.raises(http.client.IncompleteRead) as caught:
        wire("GET", "k")
    assert caught.value.partial == pattern(size)[:after]
    wire.server.set_faults([{"op": "Head", "action": "cut", "after": after}])
    assert wire("HEAD", "k").status == 200


@pytest.mark.parametrize("size", [1, 100, 2048, 3_000_000])
def test_flip_of_what_is_read(wire: Wire, size: int) -> None:
    data = pattern(size)
    wire.server.fill("demo", "k", 1, size)
    wire.server.set_faults([{"op": "Get", "action": "flip", "count": 2}])
    reply = wire("GET", "k")
    assert reply.body == bytes((data[0] ^ 1,)) + data[1:]
    assert reply.headers["x-oss-hash-crc64ecma"] == str(fastcrc.crc64.xz(data))
    if size > 50:
        reply = wire("GET", "k", headers={"Range": "bytes=50-60"})
        assert reply.body == bytes((data[50] ^ 1,)) + data[51:61]
    wire.server.set_faults([])
    assert wire("GET", "k").body == data


def test_flip_of_what_is_stored(wire: Wire, sdk: Callable[..., oss2.Bucket]) -> None:
    wire.server.set_faults([{"op": "Put", "action": "flip"}, {"op": "UploadPart", "action": "flip"}])
    bucket = sdk(wire.server)
    with pytest.raises(oss2.exceptions.InconsistentError):
        bucket.put_object("k", BODY)
    assert bucket.get_object("k").read() == bytes((BODY[0] ^ 1,)) + BODY[1:]
    upload = bucket.init_multipart_upload("k").upload_id
    with pytest.raises(oss2.exceptions.InconsistentError):
        bucket.upload_part("k", upload, 1, BODY)


def test_stall(start: Callable[..., RunningServer]) -> None:
    server = start()
    wire = Wire(server)
    server.set_faults([{"op": "Put", "action": "stall", "count": 2}])
    with wire.socket() as sock:
        sock.settimeout(0.2)
        sock.sendall(wire.raw_request("PUT", "k", "Content-Length: 5\r\n", b"hello"))
        with pytest.raises(TimeoutError):
            sock.recv(1)
    assert wire("GET", "k").status == 404
    # The server stops although somebody hangs.
    with wire.socket() as sock:
        sock.sendall(wire.raw_request("PUT", "k", "Content-Length: 5\r\n", b"hello"))
        while server.stats()["in_flight"] == 0:
            time.sleep(0.001)
        server.stop()
        assert sock.recv(1) == b""


def test_slow_and_bandwidth(wire: Wire) -> None:
    wire.server.fill("demo", "k", 1, 3000)
    wire.server.fill("demo", "small", 1, 200)
    for key, seconds in (("k", 0.3), ("small", 0.02)):
        wire.server.set_faults([{"op": "Get", "action": "slow", "bytes_per_second": 10_000}])
        begin = time.monotonic()
        assert wire("GET", key).body == pattern(3000 if key == "k" else 200)
        assert time.monotonic() - begin >= seconds * 0.9
    wire.server.set_bandwidth(20_000)
    begin = time.monotonic()
    assert wire("PUT", "p", body=bytes(4000)).status == 200
    assert time.monotonic() - begin >= 0.18
    wire.server.set_bandwidth(0)
    assert wire("GET", "p").body == bytes(4000)


def test_traffic_limits(wire: Wire) -> None:
    name = "x-oss-traffic-limit"
    begin = time.monotonic()
    assert wire("PUT", "k", headers={name: "819200"}, body=bytes(20_480)).status == 200
    assert time.monotonic() - begin >= 0.18
    assert wire("GET", "k", {name: "838860800"}).status == 200
    for params, headers in (
        ({name: "819199"}, {}),
        ({}, {name: "838860801"}),
        ({}, {name: "fast"}),
        ({name: "819200"}, {name: "819200"}),
    ):
        reply = wire("GET", "k", params, headers)
        assert (reply.status, reply.code) == (400, "InvalidArgument")


def test_counters(wire: Wire) -> None:
    wire.server.reset_stats()
    wire("PUT", "k", body=BODY)
    wire("GET", "k", headers={"Range": "bytes=0-9"})
    wire("HEAD", "k")
    wire("POST", "m", {"uploads": ""})
    wire.server.set_faults([{"op": "Get", "action": "reset"}, {"op": "Get", "action": "delay", "seconds": 0}])
    with pytest.raises(ConnectionError):
        wire("GET", "k")
    wire("GET", "k")
    wire.raw(b"garbage\r\n\r\n")
    wire("GET", "k", {"prefix": "%ff"})
    stats = wire.server.stats()
    assert stats["requests"] == {"Put": 1, "Get": 4, "Head": 1, "Initiate": 1, "Malformed": 1}
    assert stats["total_requests"] == 8
    assert stats["bytes_in"] == len(BODY)
    assert stats["bytes_out"] > 10 + 2 * len(BODY)
    assert (stats["faults_fired"], stats["faults"]) == (2, {"reset": 1, "delay": 1})
    assert stats["open_uploads"] == 1
    assert (stats["in_flight"], stats["in_flight_peak"]) == (0, 1)
    assert stats["statuses"]["206"] == 1
    assert wire.server.reset_stats()["total_requests"] == 8
    assert wire.server.stats()["total_requests"] == 0


def test_the_peak_counts_what_is_at_the_same_time(wire: Wire) -> None:
    wire.server.set_faults([{"op": "Get", "action": "stall", "count": -1}])
    sockets = [wire.socket() for _ in range(5)]
    for sock in sockets:
        sock.sendall(wire.raw_request("GET", "k"))
    while wire.server.stats()["in_flight"] < 5:
        time.sleep(0.001)
    for sock in sockets:
        sock.close()
    assert wire.server.stats()["in_flight_peak"] == 5


def test_sequential_gets_never_overlap_in_the_counters(wire: Wire) -> None:
    wire.server.fill("demo", "k", 1, 300_000)
    wire.server.reset_stats()
    for _ in range(50):
        wire("GET", "k")
        wire("HEAD", "k")
    assert wire.server.stats()["in_flight_peak"] == 1


# Over HTTP


def _control(wire: Wire, method: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    reply = wire.send(method, f"/_ossfs/{path}", {"Host": "127.0.0.1"}, data)
    assert reply.status == 200, reply.body
    return json.loads(reply.body)


def test_control_over_http(wire: Wire) -> None:
    _control(
        wire, "POST", "faults", [{"op": "Get", "action": "status", "status": 500, "code": "InternalError"}]
    )
    assert wire("GET", "k").status == 500
    assert _control(wire, "GET", "stats")["requests"]["Get"] == 1
    assert _control(wire, "POST", "stats")["requests"]["Get"] == 1
    assert "Get" not in _control(wire, "GET", "stats")["requests"]
    _control(wire, "POST", "fill?bucket=demo&prefix=one&n=1&size=1000")
    _control(wire, "POST", "fill?bucket=demo&prefix=many/&n=1500&size=3")
    assert wire("GET", "one").body == pattern(1000)
    assert wire("GET", "many/001499").body == pattern(3)
    assert wire("GET", "many/001500").status == 404
    wire("DELETE", "many/000000")
    assert wire("GET", "many/000001").body == pattern(3)
    _control(wire, "POST", "set?latency=0.05&bandwidth=1000000&clock_offset=1000&expired_tokens=a,b")
    begin = time.monotonic()
    assert wire("GET", "one").code == "RequestTimeTooSkewed"
    assert time.monotonic() - begin >= 0.05
    _control(wire, "POST", "set?latency=0&bandwidth=0&clock_offset=0&expired_tokens=")
    assert wire("GET", "one").status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "set?latency=soon", None, 400),
        ("POST", "set?latency=-1", None, 400),
        ("POST", "set?gravity=1", None, 400),
        ("POST", "fill?bucket=nowhere&prefix=x", None, 404),
        ("POST", "fill?bucket=demo", None, 400),
        ("POST", "fill?bucket=demo&prefix=x&n=0", None, 400),
        ("POST", "faults", b"junk", 400),
        ("POST", "faults", b'{"op": "Get"}', 400),
        ("POST", "unknown", None, 404),
        ("DELETE", "stats", None, 405),
    ],
)
def test_control_refusals(wire: Wire, method: str, path: str, body: bytes | None, status: int) -> None:
    assert wire.send(method, f"/_ossfs/{path}", {"Host": "h"}, body).status == status


def test_there_is_no_control_unless_asked_for(start: Callable[..., RunningServer]) -> None:
    wire = Wire(start())
    reply = wire.send("GET", "/_ossfs/stats", {"Host": "127.0.0.1"})
    assert reply.status == 403


def test_a_big_filled_object(wire: Wire) -> None:
    size = 20_000_000
    wire.server.fill("demo", "big", 1, size)
    got = wire("GET", "big")
    assert got.body == pattern(size)
    assert got.headers["x-oss-hash-crc64ecma"] == str(fastcrc.crc64.xz(got.body))


def test_many_threads_change_the_script(wire: Wire) -> None:
    done = threading.Event()

    def change() -> None:
        while not done.is_set():
            wire.server.set_faults([{"op": "Get", "action": "status", "status": 500, "count": -1}])
            wire.server.set_faults([])

    thread = threading.Thread(target=change)
    thread.start()
    try:
        assert {wire("GET", "k").status for _ in range(20)} <= {404, 500}
    finally:
        done.set()
        thread.join()
