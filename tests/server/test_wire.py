"""Bad input on raw sockets: a 4xx or a closed connection, never a traceback, never harm."""

from __future__ import annotations

import logging
import os
import resource
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossfs.server import RunningServer
from ossfs.server.errors import OssError
from ossfs.server.routing import split_target
from ossfs.server.wire import parse_head, parse_query
from ossfs.server.xmltext import XmlError, parse
from tests.server.wiretools import Wire


@pytest.fixture(autouse=True)
def nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def _works(wire: Wire) -> bool:
    return wire("GET", params={"location": ""}).status == 200


@pytest.mark.parametrize(
    "data",
    [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
        b"get / HTTP/1.1\r\n\r\n",
        b"GET /a b HTTP/1.1\r\n\r\n",
        b"GET nonsense HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET ftp://h/x HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nNo colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad name: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n folded: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: \x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"H%d: x\r\n" % i for i in range(300)) + b"\r\n",
        b"GET / HTTP/1.1\r\nHuge: " + b"x" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nEndless: " + b"x" * 300_000,
        b"PUT /demo/k HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"PUT /demo/k HTTP/1.1\r\nContent-Length: 5x\r\n\r\n",
        b"PUT /demo/k HTTP/1.1\r\nContent-Length: +5\r\n\r\n",
        b"PUT /demo/k HTTP/1.1\r\nContent-Length: \xb2\r\n\r\n",
        b"PUT /demo/k HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"PUT /demo/k HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        b"PUT /demo/k HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
        b"PUT /demo/k HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        b"GET /demo/%ff HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /demo/\xff HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /demo/?prefix=%ff HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /demo%2Fk HTTP/1.1\r\nHost: h\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /demo/k HTTP/1.1\r\nHost: h\r\nAuthorization: OSS\r\n\r\n",
        b"GET /demo/k HTTP/1.1\r\nHost: h\r\nAuthorization: OSS4-HMAC-SHA256 \xff\r\n\r\n",
        b"GET /demo/k HTTP/1.1\r\nHost: h\r\nAuthorization: OSS a:\xff\r\n\r\n",
    ],
    ids=lambda data: repr(data[:40]),
)
def test_bad_requests(wire: Wire, data: bytes, tmp_path: Path) -> None:
    answer = wire.raw(data)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:200]
    if answer:
        assert b"x-oss-request-id: " in answer
    assert _works(wire)
    assert {path.name for path in tmp_path.iterdir()} == {"oss"}


def test_a_tls_client_hears_at_once_that_this_is_plain_http(wire: Wire) -> None:
    parts = urlsplit(wire.server.url)
    assert parts.hostname is not None and parts.port is not None
    with (
        socket.create_connection((parts.hostname, parts.port), 60) as sock,
        pytest.raises(ssl.SSLError) as caught,
    ):
        ssl.create_default_context().wrap_socket(sock, server_hostname=parts.hostname)
    assert not isinstance(caught.value, TimeoutError)
    assert caught.value.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
    assert _works(wire)


def test_a_huge_header_is_refused_with_an_answer(wire: Wire) -> None:
    assert wire.raw(b"GET / HTTP/1.1\r\nHuge: " + b"x" * 66_000 + b"\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_a_truncated_body_leaves_nothing(wire: Wire, tmp_path: Path) -> None:
    wire("PUT", "k", body=b"old")
    for size in (0, 10, 100_000):
        answer = wire.raw(wire.raw_request("PUT", "k", "Content-Length: 200000\r\n", bytes(size)))
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"<Code>IncompleteBody</Code>" in answer
    assert wire("GET", "k").body == b"old"
    assert list((tmp_path / "oss/blobs").glob("*/*")) == []


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloXX5\r\n",
        b"5;" + b"x" * 10_000 + b"\r\nhello",
        b"5\r\nhel",
        b"5\r\nhello\r\n",
        b"",
        b"0\r\n" + b"a: b\r\n" * 300 + b"\r\n",
        b"ffffffffffffffff1\r\nhello",
    ],
)
def test_bad_chunks(wire: Wire, body: bytes) -> None:
    answer = wire.raw(wire.raw_request("PUT", "k", "Transfer-Encoding: chunked\r\n", body))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert wire("GET", "k").status == 404


def test_good_chunks(wire: Wire) -> None:
    body = b"5;ext=1\r\nhello\r\n06\r\n world\r\n0\r\nTrailer: x\r\n\r\n"
    answer = wire.raw(wire.raw_request("PUT", "k", "Transfer-Encoding: Chunked\r\n", body))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert wire("GET", "k").body == b"hello world"


def _receive(sock: socket.socket, until: bytes) -> bytes:
    data = b""
    while until not in data:
        more = sock.recv(65536)
        assert more, data
        data += more
    return data


def test_expect_continue(wire: Wire) -> None:
    with wire.socket() as sock:
        sock.sendall(wire.raw_request("PUT", "k", "Content-Length: 5\r\nExpect: 100-continue\r\n"))
        assert _receive(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"hello")
        assert _receive(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    # Refused before the body: no 100, the answer, and the end, since the body may or may not follow.
    target, headers = wire.head("PUT", "k", headers={"x-oss-forbid-overwrite": "true"})
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with wire.socket() as sock:
        extra = "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        sock.sendall(f"PUT {target} HTTP/1.1\r\n{lines}{extra}".encode())
        answer = _receive(sock, b"</Error>")
        assert answer.startswith(b"HTTP/1.1 409 ")
        assert b"Connection: close" in answer
        while sock.recv(4096):
            pass


def test_keep_alive_and_pipelining(wire: Wire) -> None:
    with wire.socket() as sock:
        one = wire.raw_request("PUT", "a", "Content-Length: 5\r\n", b"hello")
        two = wire.raw_request("GET", "a")
        three = wire.raw_request("HEAD", "absent")
        last = wire.raw_request("GET", "absent", "Connection: close\r\n")
        sock.sendall(one + b"\r\n" + two + three + last)
        data = b""
        while more := sock.recv(65536):
            data += more
    statuses = [line[9:12] for line in data.split(b"\r\n") if line.startswith((b"HTTP/1.1", b"helloHTTP"))]
    assert data.count(b"HTTP/1.1 200 OK") == 2, statuses
    assert data.count(b"HTTP/1.1 404 Not Found") == 2
    assert data.endswith(b"</Error>\n")


def test_after_a_refused_body_the_connection_goes_on(wire: Wire) -> None:
    with wire.socket() as sock:
        sock.sendall(
            wire.raw_request("PUT", "k", "If-Match: x\r\nContent-Length: 300000\r\n", bytes(300_000))
        )
        assert _receive(sock, b"</Error>").startswith(b"HTTP/1.1 400 ")
        sock.sendall(wire.raw_request("PUT", "k", "Content-Length: 5\r\n", b"hello"))
        assert _receive(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_http_1_0_closes(wire: Wire) -> None:
    request = wire.raw_request("GET", params={"location": ""}).replace(b"HTTP/1.1", b"HTTP/1.0")
    with wire.socket() as sock:
        sock.sendall(request)
        data = b""
        while more := sock.recv(65536):
            data += more
    assert b"Connection: close" in data


def test_a_silent_peer_is_let_go(start: Callable[..., RunningServer]) -> None:
    wire = Wire(start(idle_timeout=0.1, body_timeout=0.1))
    with wire.socket() as sock:
        assert sock.recv(1) == b""
    with wire.socket() as sock:
        sock.sendall(b"GET / HT")
        assert sock.recv(1) == b""
    for framing in ("Content-Length: 100\r\n", "Transfer-Encoding: chunked\r\n"):
        with wire.socket() as sock:
            sock.sendall(wire.raw_request("PUT", "k", framing, b"5\r\nhe"))
            answer = _receive(sock, b"</Error>")
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert b"<Code>RequestTimeout</Code>" in answer


def test_a_peer_that_vanishes(wire: Wire) -> None:
    wire.server.fill("demo", "big", 1, 50_000_000)
    for request in (
        wire.raw_request("GET", "big"),
        wire.raw_request("PUT", "k", "Content-Length: 100000\r\n", b"some"),
        b"GET / H",
        b"",
    ):
        with wire.socket() as sock:
            sock.sendall(request)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert _works(wire)
    assert wire("GET", "k").status == 404


def test_a_broken_operation_is_a_500(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(wire.server._service.index, "bucket", broken)
    reply = wire("GET", "k")
    assert (reply.status, reply.code) == (500, "InternalError")
    assert b"secret" not in reply.body
    assert "broken" not in reply.body.decode()
    assert [record.getMessage() for record in caplog.records] == ["GET Get failed"]
    caplog.clear()


def test_a_blob_that_is_gone_breaks_the_answer_off(wire: Wire, tmp_path: Path) -> None:
    body = bytes(range(256)) * 1000
    wire("PUT", "gone", body=body)
    wire("PUT", "short", body=body)
    gone, short = sorted((tmp_path / "oss/blobs").glob("*/*"))
    gone.unlink()
    short.write_bytes(body[:1000])
    for key in ("gone", "short"):
        assert body not in wire.raw(wire.raw_request("GET", key))
    # What is gone can be deleted.
    assert wire("DELETE", "gone").status == 204
    assert _works(wire)


def test_more_than_a_thousand_descriptors(wire: Wire) -> None:
    """select(2) would fail here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 3000:
        pytest.skip("the limit of open files is too low")
    resource.setrlimit(resource.RLIMIT_NOFILE, (3000, hard))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        wire.server.set_faults([{"op": "Get", "action": "stall"}])
        with wire.socket() as sock:
            sock.settimeout(0.1)
            sock.sendall(wire.raw_request("GET", "k"))
            with pytest.raises(TimeoutError):
                sock.recv(1)
        assert _works(wire)
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_heads_and_targets_parse_or_are_refused(data: bytes) -> None:
    for text in (data, b"GET /" + data + b" HTTP/1.1\r\nHost: h", b"GET / HTTP/1.1\r\n" + data):
        try:
            head = parse_head(text)
            path, query = split_target(head.target)
            assert path.startswith("/")
            parse_query(query)
        except OssError as error:
            assert 400 <= error.status < 500


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100))
def test_documents_parse_or_are_refused(data: bytes) -> None:
    for text in (data, b"<a>" + data + b"</a>"):
        try:
            parse(text)
        except XmlError:
            pass
