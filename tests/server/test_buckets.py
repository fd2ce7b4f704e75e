"""Buckets, and how requests address them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import oss2
import pytest

from ossfs.server import RunningServer
from tests.server.wiretools import Wire


def test_the_sdk_understands_what_is_told_of_a_bucket(
    start: Callable[..., RunningServer], sdk: Callable[..., oss2.Bucket]
) -> None:
    server = start(region="cn-shanghai", buckets=("demo",))
    bucket = sdk(server)
    info = bucket.get_bucket_info()
    assert (info.name, info.location, info.storage_class, info.acl.grant) == (
        "demo", "oss-cn-shanghai", "Standard", "private",
    )  # fmt: skip
    assert info.extranet_endpoint == info.intranet_endpoint == server.url.removeprefix("http://")
    assert bucket.get_bucket_location().location == "oss-cn-shanghai"
    assert bucket.get_bucket_acl().acl == "private"
    assert bucket.get_bucket_versioning().status is None
    assert list(oss2.LiveChannelIterator(bucket)) == []


def test_stat(bucket: oss2.Bucket) -> None:
    bucket.put_object("a", b"12345")
    bucket.put_object("b", b"123", headers={"x-oss-storage-class": "IA"})
    upload = bucket.init_multipart_upload("m").upload_id
    bucket.upload_part("m", upload, 1, b"12")
    stat = bucket.get_bucket_stat()
    assert (stat.storage_size_in_bytes, stat.object_count, stat.multi_part_upload_count) == (10, 2, 1)
    assert (stat.standard_storage, stat.standard_object_count) == (5, 1)
    assert (stat.infrequent_access_storage, stat.infrequent_access_object_count) == (3, 1)


def test_creating_listing_deleting(wire: Wire, sdk: Callable[..., oss2.Bucket]) -> None:
    server = wire.server
    made = sdk(server, "made-here")
    made.create_bucket("public-read", oss2.models.BucketCreateConfig("IA"))
    assert made.get_bucket_acl().acl == "public-read"
    made.put_object("k", b"x")
    assert made.head_object("k").headers["x-oss-storage-class"] == "IA"
    service = oss2.Service(oss2.Auth(server.access_key_id, server.access_key_secret), server.url)
    found = list(oss2.BucketIterator(service, max_keys=1))
    assert [b.name for b in found] == ["demo", "made-here", "other"]
    assert found[0].extranet_endpoint == server.url.removeprefix("http://")
    assert [b.name for b in service.list_buckets(prefix="made").buckets] == ["made-here"]
    service.session.session.close()
    assert wire("DELETE", bucket="made-here").code == "BucketNotEmpty"
    made.delete_object("k")
    upload = made.init_multipart_upload("m").upload_id
    assert wire("DELETE", bucket="made-here").code == "BucketNotEmpty"
    made.abort_multipart_upload("m", upload)
    assert wire("DELETE", bucket="made-here").status == 204
    assert wire("DELETE", bucket="made-here").code == "NoSuchBucket"
    assert wire("HEAD", bucket="made-here").code == "NoSuchBucket"
    assert wire("HEAD").status == 200


def test_creating_refusals(wire: Wire) -> None:
    for name in ("ab", "-abc", "abc-", "ABC", "a_b", "x" * 64, "a.b"):
        reply = wire("PUT", bucket=name)
        assert (reply.status, reply.code) == (400, "InvalidBucketName"), name
    assert wire("PUT", bucket="new", headers={"x-oss-acl": "mine"}).code == "InvalidArgument"
    assert wire("PUT", bucket="new", body=b"junk").code == "MalformedXML"
    attic = b"<CreateBucketConfiguration><StorageClass>Attic</StorageClass></CreateBucketConfiguration>"
    assert wire("PUT", bucket="new", body=attic).code == "InvalidArgument"
    # One's own: again is fine, with another class it is not.
    assert wire("PUT", bucket="demo").status == 200
    cold = b"<CreateBucketConfiguration><StorageClass>IA</StorageClass></CreateBucketConfiguration>"
    assert wire("PUT", bucket="demo", body=cold).code == "BucketAlreadyExists"
    assert wire("GET", bucket="nowhere", params={"bucketInfo": ""}).code == "NoSuchBucket"


@pytest.mark.parametrize(
    ("host", "target", "status"),
    [
        ("demo.localhost:8080", "/dir/k", 200),
        ("demo.oss-cn-hangzhou.aliyuncs.com", "/dir/k", 200),
        ("demo.example.org", "/dir%2Fk", 200),
        ("nowhere.localhost", "/dir/k", 404),
        ("server.example.org", "/demo/dir/k", 200),
        ("localhost:1", "/demo/dir%2Fk", 200),
        ("10.0.0.1", "/demo/dir/k", 200),
        ("[::1]:80", "/demo/dir/k", 200),
        ("127.0.0.1", "http://127.0.0.1/demo/dir/k", 200),
    ],
)
def test_addressing(wire: Wire, host: str, target: str, status: int) -> None:
    wire("PUT", "dir/k", body=b"x")
    bucket = "nowhere" if host.startswith("nowhere") else "demo"
    _, headers = wire.head("GET", "dir/k", headers={"Host": host}, bucket=bucket)
    reply = wire.send("GET", target, headers)
    assert reply.status == status
    if status == 404:
        assert reply.code == "NoSuchBucket"


def test_virtual_hosts_have_the_bucket_at_the_root(wire: Wire) -> None:
    for target in ("/?location", "/?location=", "?location"):
        _, headers = wire.head("GET", params={"location": ""}, headers={"Host": "demo.localhost"})
        reply = wire.send("GET", target if target[0] == "/" else "http://demo.localhost" + target, headers)
        assert reply.xml.text == "oss-cn-hangzhou"


def test_answers_have_no_namespace(wire: Wire) -> None:
    wire("PUT", "k", body=b"x")
    for params in ({}, {"list-type": "2"}, {"bucketInfo": ""}, {"acl": ""}, {"stat": ""}, {"uploads": ""}):
        reply = wire("GET", params=params)
        assert reply.headers["Content-Type"] == "application/xml"
        assert b"xmlns" not in reply.body
        assert reply.body.startswith(b"<?xml ")
        ElementTree.fromstring(reply.body)
