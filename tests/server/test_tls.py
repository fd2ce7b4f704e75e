"""The same over TLS."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from ossfs.server import RunningServer
from ossfs.server.control import pattern
from tests.server.wiretools import Wire


@pytest.fixture
def wire(start: Callable[..., RunningServer], tmp_path: Path) -> Wire:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    context = ssl.create_default_context()
    authority.configure_trust(context)
    server = start(cert=cert, key=key, idle_timeout=5, body_timeout=0.3)
    assert server.url.startswith("https://")
    return Wire(server, context=context)


@pytest.mark.parametrize("size", [0, 100, 100_000, 5_000_000])
def test_put_and_get(wire: Wire, size: int) -> None:
    data = pattern(size)
    assert wire("PUT", "k", body=data).status == 200
    assert wire("GET", "k").body == data
    if size > 10:
        assert wire("GET", "k", headers={"Range": "bytes=5-"}).body == data[5:]


def test_plain_text_and_silence(wire: Wire) -> None:
    assert b"<Error>" not in wire.raw(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    # A body that never comes.
    connection = wire.connect()
    target, headers = wire.head("PUT", "k")
    connection.putrequest("PUT", target, skip_host=True, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.putheader("Content-Length", "5")
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 400
    assert b"RequestTimeout" in response.read()
    connection.close()


def test_faults(wire: Wire) -> None:
    wire("PUT", "k", body=pattern(100_000))
    wire.server.set_faults([{"op": "Get", "action": "reset"}, {"op": "Put", "action": "lose"}])
    with pytest.raises(OSError):
        wire("GET", "k")
    with pytest.raises(OSError):
        wire("PUT", "k", body=b"x")
    assert wire("GET", "k").body == b"x"


def test_stopping_with_open_connections(wire: Wire) -> None:
    connection = wire.connect()
    connection.connect()
    wire.server.stop()
    connection.close()
