"""Copies, which move no data, and appending."""

from __future__ import annotations

import email.utils
import hashlib
import struct
import time
from collections.abc import Callable

import fastcrc
import pytest

from ossfs.server import RunningServer
from tests.server.wiretools import Wire

BIG = bytes(range(256)) * 40


def _crc(data: bytes) -> str:
    return str(fastcrc.crc64.xz(data))


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest().upper()}"'


def test_copy_keeps_or_replaces(wire: Wire) -> None:
    wire("PUT", "s ü", headers={"x-oss-meta-a": "1", "Content-Type": "a/b", "x-oss-tagging": "t=1"}, body=BIG)
    source = {"x-oss-copy-source": "/demo/s%20%C3%BC"}
    reply = wire("PUT", "d", headers=source)
    assert reply.xml.findtext("ETag") == reply.headers["ETag"] == _etag(BIG)
    assert (reply.xml.findtext("LastModified") or "").endswith(".000Z")
    assert reply.headers["x-oss-hash-crc64ecma"] == _crc(BIG)
    got = wire("GET", "d")
    assert (got.body, got.headers["x-oss-meta-a"], got.headers["Content-Type"]) == (BIG, "1", "a/b")
    assert got.headers["x-oss-tagging-count"] == "1"
    replace = {"x-oss-metadata-directive": "REPLACE", "x-oss-meta-b": "2", "x-oss-storage-class": "IA"}
    wire("PUT", "d", headers={**source, **replace, "x-oss-tagging-directive": "Replace"}, bucket="other")
    got = wire("GET", "d", bucket="other")
    assert (got.body, got.headers["x-oss-meta-b"], got.headers["x-oss-storage-class"]) == (BIG, "2", "IA")
    assert "x-oss-meta-a" not in got.headers
    assert "x-oss-tagging-count" not in got.headers


def test_a_copy_is_encrypted_as_it_says_and_not_as_its_source(wire: Wire) -> None:
    kms = {"x-oss-server-side-encryption": "KMS", "x-oss-server-side-encryption-key-id": "key"}
    wire("PUT", "s", headers={**kms, "x-oss-meta-a": "1"}, body=b"x")
    source = {"x-oss-copy-source": "/demo/s"}
    wire("PUT", "plain", headers=source)
    headers = wire("HEAD", "plain").headers
    assert headers["x-oss-meta-a"] == "1" and not any(name in headers for name in kms)
    reply = wire("PUT", "d", headers={**source, **kms})
    for headers in (reply.headers, wire("HEAD", "d").headers):
        assert all(headers[name] == value for name, value in kms.items())


def test_copy_onto_itself_replaces_the_metadata(wire: Wire) -> None:
    wire("PUT", "k", headers={"x-oss-meta-a": "1", "x-oss-tagging": "t=1"}, body=BIG)
    source = {"x-oss-copy-source": "/demo/k", "x-oss-meta-b": "2"}
    assert wire("PUT", "k", headers=source).status == 200
    got = wire("GET", "k")
    assert (got.body, got.headers["x-oss-meta-b"], got.headers["x-oss-tagging-count"]) == (BIG, "2", "1")
    assert "x-oss-meta-a" not in got.headers


@pytest.mark.parametrize(
    ("source", "status", "code"),
    [
        ("/demo/absent", 404, "NoSuchKey"),
        ("/nowhere/k", 404, "NoSuchBucket"),
        ("demo/k", 400, "InvalidArgument"),
        ("/demo", 400, "InvalidArgument"),
        ("/demo/k?versionId=7", 404, "NoSuchVersion"),
        ("/demo/k?versionId=null", 200, None),
        ("/demo/k", 200, None),
    ],
)
def test_copy_sources(wire: Wire, source: str, status: int, code: str | None) -> None:
    wire("PUT", "k", body=b"x")
    reply = wire("PUT", "d", headers={"x-oss-copy-source": source})
    assert reply.status == status
    if code:
        assert reply.code == code


def test_copy_refusals(wire: Wire) -> None:
    etag = wire("PUT", "k", body=b"x").headers["ETag"]
    source = {"x-oss-copy-source": "/demo/k"}
    before = "Sat, 01 Jan 2000 00:00:00 GMT"
    for headers, status in (
        ({"x-oss-copy-source-if-match": etag}, 200),
        ({"x-oss-copy-source-if-match": "other"}, 412),
        ({"x-oss-copy-source-if-unmodified-since": before}, 412),
        ({"x-oss-copy-source-if-none-match": etag}, 304),
        ({"x-oss-copy-source-if-modified-since": before}, 200),
        ({"x-oss-metadata-directive": "MERGE"}, 400),
        ({"x-oss-tagging-directive": "MERGE"}, 400),
    ):
        assert wire("PUT", "d", headers={**source, **headers}).status == status, headers
    assert wire("PUT", "d", headers=source, bucket="nowhere").code == "NoSuchBucket"


def test_big_copies(start: Callable[..., RunningServer]) -> None:
    wire = Wire(start(max_foreign_copy=5000, max_changed_copy=1000))
    wire.server.fill("demo", "two", 1, 2000)
    wire.server.fill("demo", "six", 1, 6000)
    for source, headers, bucket, status in (
        ("two", {}, "demo", 200),
        ("six", {}, "demo", 200),
        ("two", {}, "other", 200),
        ("six", {}, "other", 400),
        ("two", {"x-oss-storage-class": "IA"}, "demo", 400),
        ("two", {"x-oss-server-side-encryption": "AES256"}, "demo", 400),
    ):
        reply = wire("PUT", "d", headers={"x-oss-copy-source": f"/demo/{source}", **headers}, bucket=bucket)
        assert reply.status == status, (source, headers, bucket)
        if status == 400:
            assert reply.code == "EntityTooLarge"


def test_copy_of_an_appendable_is_normal(wire: Wire) -> None:
    wire("POST", "a", {"append": "", "position": "0"}, body=BIG)
    wire("PUT", "d", headers={"x-oss-copy-source": "/demo/a"})
    got = wire("GET", "d")
    assert (got.body, got.headers["ETag"]) == (BIG, _etag(BIG))
    assert got.headers["x-oss-object-type"] == "Normal"


def test_append(wire: Wire) -> None:
    wire.server.set_clock_offset(100)
    data = b""
    for piece in (b"hello", b" ", b"world", BIG, b"tail", b"x" * 200, b"y" * 200, b""):
        reply = wire("POST", "a", {"append": "", "position": str(len(data))}, body=piece)
        data += piece
        assert reply.status == 200
        assert reply.headers["x-oss-next-append-position"] == str(len(data))
        assert reply.headers["x-oss-hash-crc64ecma"] == _crc(data)
    got = wire("GET", "a")
    assert got.body == data
    assert got.headers["x-oss-object-type"] == "Appendable"
    assert got.headers["x-oss-next-append-position"] == str(len(data))
    assert "Content-MD5" not in got.headers
    crc, mtime = struct.unpack("<QQ", bytes.fromhex(got.headers["ETag"].strip('"')))
    assert str(crc) == _crc(data)
    modified = email.utils.parsedate_to_datetime(got.headers["Last-Modified"])
    assert mtime == int(modified.timestamp())


def test_the_etag_of_an_appendable(wire: Wire) -> None:
    wire.server.set_clock_offset(1700000000 - time.time())
    headers = {"Date": "Tue, 14 Nov 2023 22:13:20 GMT"}
    reply = wire("POST", "a", {"append": "", "position": "0"}, headers, body=b"hello world")
    assert reply.headers["ETag"] in (
        '"DA5223EFCD7E035300F1536500000000"',
        '"DA5223EFCD7E035301F1536500000000"',
    )


def test_append_metadata_is_the_first_ones(wire: Wire) -> None:
    wire("POST", "a", {"append": "", "position": "0"}, {"x-oss-meta-a": "1"}, body=b"1")
    more = {"x-oss-meta-a": "2", "x-oss-object-acl": "public-read"}
    wire("POST", "a", {"append": "", "position": "1"}, more, body=b"")
    assert wire("GET", "a", sign=False).headers["x-oss-meta-a"] == "1"


@pytest.mark.parametrize(
    ("params", "status", "code"),
    [
        ({"append": "", "position": "2"}, 409, "PositionNotEqualToLength"),
        ({"append": "", "position": "-1"}, 400, "InvalidArgument"),
        ({"append": "", "position": "x"}, 400, "InvalidArgument"),
        ({"append": "", "position": ""}, 400, "MissingArgument"),
        ({"append": ""}, 400, "MissingArgument"),
    ],
)
def test_append_refusals(wire: Wire, params: dict[str, str], status: int, code: str) -> None:
    wire("POST", "a", {"append": "", "position": "0"}, body=b"1")
    reply = wire("POST", "a", params, body=b"2")
    assert (reply.status, reply.code) == (status, code)
    if status == 409:
        assert reply.headers["x-oss-next-append-position"] == "1"
    assert wire("POST", "new", {"append": "", "position": "1"}, body=b"2").status == 409
    wire("PUT", "n", body=b"1")
    assert wire("POST", "n", {"append": "", "position": "1"}, body=b"2").code == "ObjectNotAppendable"
