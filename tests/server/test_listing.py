"""Listings, against a naive model and by the protocol's particulars."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from urllib.parse import unquote

import oss2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossfs.server.database import Database
from ossfs.server.index import NORMAL, Index, Props, Record, successor
from tests.server.wiretools import Wire

_numbers = itertools.count()
_KEYS = st.text(alphabet="ab/-é\U0010ffff", min_size=1, max_size=6)
_PREFIXES = st.text(alphabet="ab/-é", max_size=3)


def _model(
    keys: set[bytes], prefix: bytes, delimiter: bytes, after: bytes, limit: int
) -> tuple[list[tuple[bytes, bool]], bool]:
    """Go through all keys in order; (key or prefix, is it a prefix)."""
    found: list[tuple[bytes, bool]] = []
    skip = b""
    if delimiter and after.startswith(prefix):
        at = after.find(delimiter, len(prefix))
        if at >= 0 and at + len(delimiter) == len(after):
            skip = after
    for key in sorted(keys):
        if not key.startswith(prefix) or key <= after or (skip and key.startswith(skip)):
            continue
        at = key.find(delimiter, len(prefix)) if delimiter else -1
        item = (key, False) if at < 0 else (key[: at + len(delimiter)], True)
        if not found or found[-1] != item:
            found.append(item)
    return found[:limit], len(found) > limit


@pytest.fixture(scope="module")
def database_and_index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, Index]]:
    database = Database(tmp_path_factory.mktemp("index"), 0)
    yield database, Index(database)
    database.close()


@settings(max_examples=300, deadline=None)
@given(
    keys=st.sets(_KEYS, max_size=40),
    prefix=_PREFIXES,
    delimiter=st.sampled_from(["", "/", "-", "a/", "é"]),
    after=_PREFIXES,
    limit=st.integers(1, 7),
)
def test_scan_is_what_the_model_says(
    database_and_index: tuple[Database, Index],
    keys: set[str],
    prefix: str,
    delimiter: str,
    after: str,
    limit: int,
) -> None:
    index = database_and_index[1]
    name = f"bucket-{next(_numbers)}"
    index.put_bucket(name, 0, "private", "Standard")
    bucket = index.bucket(name)
    raw = {key.encode() for key in keys}
    index.fill(bucket, iter(raw), Record(0, 0, "", 0, NORMAL, "Standard", Props()))
    args = (prefix.encode(), delimiter.encode())
    entries, more = index.scan(bucket, *args, after.encode(), limit)
    shown = [(entry.key, entry.record is None) for entry in entries]
    assert (shown, more) == _model(raw, *args, after.encode(), limit)
    # Paged from the start, it is the whole, once each.
    paged: list[tuple[bytes, bool]] = []
    marker = b""
    while True:
        entries, more = index.scan(bucket, *args, marker, limit)
        paged += [(entry.key, entry.record is None) for entry in entries]
        if not more:
            break
        marker = entries[-1].key
    assert paged == _model(raw, *args, b"", 10**6)[0]


def test_the_successor_of_a_prefix() -> None:
    assert successor(b"a") == b"b"
    assert successor(b"a\xff") == b"b"
    assert successor(b"\xff\xff") is None


def test_many_keys_under_one_prefix(wire: Wire, bucket: oss2.Bucket) -> None:
    wire.server.fill("demo", "dir/", 3000)
    wire.server.fill("demo", "dir2/", 3000)
    wire.server.fill("demo", "top", 1)
    for limit in (1, 2, 100):
        found = [o.key for o in oss2.ObjectIteratorV2(bucket, delimiter="/", max_keys=limit)]
        assert found == ["dir/", "dir2/", "top"]
    assert sum(1 for _ in oss2.ObjectIterator(bucket, max_keys=1000)) == 6001
    assert sum(1 for _ in oss2.ObjectIteratorV2(bucket, prefix="dir/", max_keys=999)) == 3000


def test_v1_document(wire: Wire) -> None:
    wire("PUT", "a/1", body=b"x")
    wire("PUT", "b", headers={"x-oss-storage-class": "IA"}, body=b"hello")
    page = wire("GET", params={"delimiter": "/", "max-keys": "1"}).xml
    assert page.tag == "ListBucketResult"
    assert page.findtext("Name") == "demo"
    assert (page.findtext("Prefix"), page.findtext("Marker"), page.findtext("Delimiter")) == ("", "", "/")
    assert (page.findtext("MaxKeys"), page.findtext("IsTruncated")) == ("1", "true")
    assert page.findtext("NextMarker") == page.findtext("CommonPrefixes/Prefix") == "a/"
    page = wire("GET", params={"delimiter": "/", "marker": "a/"}).xml
    assert (page.findtext("IsTruncated"), page.find("NextMarker")) == ("false", None)
    assert page.find("CommonPrefixes") is None
    item = page.find("Contents")
    assert item is not None
    assert {child.tag for child in item} == {
        "Key", "LastModified", "ETag", "Type", "Size", "StorageClass", "Owner",
    }  # fmt: skip
    assert item.findtext("ETag") == '"5D41402ABC4B2A76B9719D911017C592"'
    assert (item.findtext("Type"), item.findtext("Size"), item.findtext("StorageClass")) == (
        "Normal",
        "5",
        "IA",
    )
    assert (item.findtext("LastModified") or "").endswith(".000Z")


def test_v2_document(wire: Wire) -> None:
    wire.server.fill("demo", "k", 5)
    params = {"list-type": "2", "max-keys": "2", "start-after": "k000000"}
    page = wire("GET", params=params).xml
    assert (page.findtext("KeyCount"), page.findtext("StartAfter")) == ("2", "k000000")
    assert (page.find("Marker"), page.find("NextMarker"), page.find("Contents/Owner")) == (None, None, None)
    token = page.findtext("NextContinuationToken") or ""
    page = wire("GET", params={**params, "continuation-token": token, "fetch-owner": "true"}).xml
    assert [c.findtext("Key") for c in page.findall("Contents")] == ["k000003", "k000004"]
    assert page.find("Contents/Owner") is not None
    assert (page.findtext("IsTruncated"), page.findtext("ContinuationToken")) == ("false", token)
    assert page.find("NextContinuationToken") is None
    for bad in ("garbage", "CgA", "!!!!", "AAAA", token + "A"):
        reply = wire("GET", params={"list-type": "2", "continuation-token": bad})
        assert (reply.status, reply.code) == (400, "InvalidArgument"), bad


def test_long_keys_in_tokens(wire: Wire, bucket: oss2.Bucket) -> None:
    keys = ["é" * 500, "é" * 500 + "a", "é" * 511]
    for key in keys:
        wire("PUT", key, body=b"")
    assert [o.key for o in oss2.ObjectIteratorV2(bucket, max_keys=1)] == sorted(keys)


@pytest.mark.parametrize("version", ["1", "2"])
def test_url_encoding(wire: Wire, version: str) -> None:
    keys = ["a b/ü\n\x01/1", "a b/ü\n\x01/2+", "a b/ý"]
    for key in keys:
        wire("PUT", key, body=b"")
    params = {"prefix": "a b/", "delimiter": "/", "encoding-type": "url", "max-keys": "1"}
    if version == "2":
        params.update({"list-type": "2", "start-after": "a "})
    page = wire("GET", params=params).xml
    assert page.findtext("EncodingType") == "url"
    assert page.findtext("Prefix") == "a%20b%2F"
    assert page.findtext("Delimiter") == "%2F"
    assert page.findtext("CommonPrefixes/Prefix") == "a%20b%2F%C3%BC%0A%01%2F"
    if version == "2":
        token = unquote(page.findtext("NextContinuationToken") or "")
        page = wire("GET", params={**params, "continuation-token": token}).xml
    else:
        assert page.findtext("NextMarker") == "a%20b%2F%C3%BC%0A%01%2F"
        page = wire("GET", params={**params, "marker": unquote(page.findtext("NextMarker") or "")}).xml
    assert [c.findtext("Key") for c in page.findall("Contents")] == ["a%20b%2F%C3%BD"]


@pytest.mark.parametrize(
    "params",
    [
        {"max-keys": "0"},
        {"max-keys": "1001"},
        {"max-keys": "-1"},
        {"max-keys": "ten"},
        {"prefix": "x" * 1024},
        {"marker": "x" * 1024},
        {"encoding-type": "base64"},
        {"list-type": "2", "max-keys": "0"},
    ],
)
def test_refusals(wire: Wire, params: dict[str, str]) -> None:
    reply = wire("GET", params=params)
    assert (reply.status, reply.code) == (400, "InvalidArgument")
    if params.get("max-keys"):
        assert reply.headers["x-oss-ec"] == "0015-00000402"


def test_defaults_and_empty_parameters(wire: Wire) -> None:
    wire.server.fill("demo", "k", 150)
    page = wire("GET").xml
    assert (page.findtext("MaxKeys"), len(page.findall("Contents"))) == ("100", 100)
    empty = dict.fromkeys(("prefix", "delimiter", "continuation-token", "start-after", "max-keys"), "")
    assert len(wire("GET", params={"list-type": "2", **empty}).xml.findall("Contents")) == 100
    assert wire("GET", bucket="nowhere").code == "NoSuchBucket"


def test_types_of_entries(wire: Wire) -> None:
    wire("PUT", "n", body=b"x")
    wire("POST", "a", {"append": "", "position": "0"}, body=b"xy")
    wire("PUT", "s", {"symlink": ""}, {"x-oss-symlink-target": "somewhere"})
    upload = wire("POST", "m", {"uploads": ""}).xml.findtext("UploadId") or ""
    wire("PUT", "m", {"partNumber": "1", "uploadId": upload}, body=b"xyz")
    wire("POST", "m", {"uploadId": upload}, {"x-oss-complete-all": "yes"})
    page = wire("GET").xml
    shown = {c.findtext("Key"): (c.findtext("Type"), c.findtext("Size")) for c in page.findall("Contents")}
    assert shown == {
        "a": ("Appendable", "2"),
        "m": ("Multipart", "3"),
        "n": ("Normal", "1"),
        "s": ("Symlink", "9"),
    }
