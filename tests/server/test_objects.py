"""Objects one at a time: what is stored, read, copied, appended, linked, tagged, restored."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path

import fastcrc
import oss2
import pytest

from ossfs.server import RunningServer
from ossfs.server.index import Props, Record
from ossfs.server.metadata import restore_text
from ossfs.server.model import is_archived
from tests.server.wiretools import Wire

BIG = bytes(range(256)) * 40


def _crc(data: bytes) -> str:
    return str(fastcrc.crc64.xz(data))


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest().upper()}"'


@pytest.mark.parametrize("data", [b"", b"hello", BIG], ids=["empty", "inline", "file"])
def test_put_get_head(wire: Wire, data: bytes) -> None:
    put = wire("PUT", "k", body=data)
    assert (put.status, put.body) == (200, b"")
    for reply in (put, wire("GET", "k"), wire("HEAD", "k")):
        assert reply.headers["ETag"] == _etag(data)
        assert reply.headers["x-oss-hash-crc64ecma"] == _crc(data)
        assert reply.headers["Content-MD5"] == base64.b64encode(hashlib.md5(data).digest()).decode()
        assert reply.headers["Server"] == "AliyunOSS"
        assert len(reply.headers["x-oss-request-id"]) == 24
        assert reply.headers["Date"] and reply.headers["x-oss-server-time"].isdigit()
    got, head = wire("GET", "k"), wire("HEAD", "k")
    assert (got.body, head.body) == (data, b"")
    for reply in (got, head):
        assert reply.headers["Content-Length"] == str(len(data))
        assert reply.headers["Content-Type"] == "application/octet-stream"
        assert reply.headers["x-oss-object-type"] == "Normal"
        assert reply.headers["x-oss-storage-class"] == "Standard"
        assert reply.headers["Accept-Ranges"] == "bytes"
    meta = wire("HEAD", "k", {"objectMeta": ""})
    assert meta.headers["Content-Length"] == str(len(data))
    assert meta.headers["ETag"] == _etag(data)
    assert meta.headers["Last-Modified"] == head.headers["Last-Modified"]


def test_overwriting_replaces_everything(wire: Wire) -> None:
    wire("PUT", "k", headers={"x-oss-meta-a": "1", "x-oss-tagging": "t=1"}, body=BIG)
    wire("PUT", "k", body=b"new")
    reply = wire("GET", "k")
    assert reply.body == b"new"
    assert "x-oss-meta-a" not in reply.headers
    assert "x-oss-tagging-count" not in reply.headers


def test_a_put_makes_a_normal_object_of_anything(wire: Wire) -> None:
    tagged = {"x-oss-meta-a": "1", "x-oss-tagging": "t=1"}
    wire("POST", "Appendable", {"append": "", "position": "0"}, tagged, body=BIG)
    wire("PUT", "Symlink", {"symlink": ""}, {**tagged, "x-oss-symlink-target": "k"})
    upload = wire("POST", "Multipart", {"uploads": ""}, tagged).xml.findtext("UploadId") or ""
    wire("PUT", "Multipart", {"partNumber": "1", "uploadId": upload}, body=BIG)
    wire("POST", "Multipart", {"uploadId": upload}, {"x-oss-complete-all": "yes"})
    shown = {c.findtext("Key"): c.findtext("Type") for c in wire("GET").xml.findall("Contents")}
    assert shown == {kind: kind for kind in ("Appendable", "Multipart", "Symlink")}
    for key in shown:
        wire("PUT", key or "", body=b"new")
        reply = wire("GET", key or "")
        assert (reply.body, reply.headers["x-oss-object-type"]) == (b"new", "Normal")
        assert "x-oss-meta-a" not in reply.headers
        assert "x-oss-tagging-count" not in reply.headers
        assert "x-oss-next-append-position" not in reply.headers


def test_stored_headers_come_back(wire: Wire) -> None:
    sent = {
        "Content-Type": "text/x; a=b",
        "Cache-Control": "no-cache",
        "Content-Disposition": "attachment",
        "Content-Encoding": "x-none",
        "Content-Language": "de",
        "Expires": "Thu, 01 Dec 2094 16:00:00 GMT",
        "X-OSS-Meta-Mode": "0644",
        "x-oss-server-side-encryption": "AES256",
        "X-Oss-Storage-Class": "IA",
    }
    put = wire("PUT", "k", headers={**sent, "x-oss-persistent-headers": "x-own:aGVsbG8="}, body=b"x")
    assert put.status == 200
    assert put.headers["x-oss-server-side-encryption"] == "AES256"
    for reply in (wire("GET", "k"), wire("HEAD", "k")):
        for name, value in sent.items():
            assert reply.headers[name] == value
        assert reply.headers["x-own"] == "hello"
        assert "x-oss-meta-mode" in list(reply.headers)


@pytest.mark.parametrize(
    ("headers", "code", "ec"),
    [
        ({"x-oss-meta-a_b": "1"}, "InvalidArgument", "0011-00000004"),
        ({"x-oss-meta-": "1"}, "InvalidArgument", "0011-00000004"),
        ({"x-oss-meta-a": "\xe4"}, "InvalidArgument", "0011-00000005"),
        ({"x-oss-meta-a": "x" * 8192}, "InvalidArgument", "0011-00000002"),
        ({"x-oss-server-side-encryption": "ROT13"}, "InvalidEncryptionAlgorithmError", None),
        ({"x-oss-storage-class": "Attic"}, "InvalidArgument", None),
        ({"x-oss-object-acl": "everyone"}, "InvalidArgument", None),
        ({"x-oss-tagging": "&".join(f"k{i}=v" for i in range(11))}, "InvalidTag", None),
        ({"x-oss-tagging": "=v"}, "InvalidTag", None),
        ({"x-oss-persistent-headers": "Content-Length:MQ=="}, "InvalidArgument", None),
        ({"x-oss-persistent-headers": "x-own:!"}, "InvalidArgument", None),
        ({"Content-MD5": "AAAA"}, "InvalidDigest", None),
        ({"Content-MD5": "not base64"}, "InvalidDigest", None),
        ({"Content-MD5": base64.b64encode(bytes(16)).decode()}, "InvalidDigest", None),
        ({"x-oss-hash-crc64ecma": "1"}, "InvalidCRC64", None),
        ({"x-oss-hash-crc64ecma": "one"}, "InvalidArgument", None),
        ({"If-Match": "x"}, "NotImplemented", "0017-00000245"),
        ({"If-None-Match": "*"}, "NotImplemented", "0017-00000245"),
        ({"If-Modified-Since": "x"}, "NotImplemented", "0017-00000245"),
        ({"If-Unmodified-Since": "x"}, "NotImplemented", "0017-00000245"),
    ],
)
def test_refused_puts_leave_nothing(wire: Wire, headers: dict[str, str], code: str, ec: str | None) -> None:
    if "x-oss-meta-a" in headers and not headers["x-oss-meta-a"].isascii():
        # The client's signature would be over UTF-8: the value is what is refused, before anything else
        # would be, but after authentication; so sign what the server sees.
        target, signed = wire.head("PUT", "k", headers={"x-oss-meta-a": "\xe4"})
        reply = wire.send("PUT", target, signed, BIG)
    else:
        reply = wire("PUT", "k", headers=headers, body=BIG)
    assert (reply.status, reply.code) == (400, code)
    if ec is not None:
        assert reply.error.findtext("EC") == reply.headers["x-oss-ec"] == ec
    if code == "NotImplemented":
        assert reply.error.findtext("Header") == next(iter(headers))
    assert wire("GET", "k").code == "NoSuchKey"


def test_digests_that_match_are_accepted(wire: Wire) -> None:
    md5 = base64.b64encode(hashlib.md5(BIG).digest()).decode()
    assert (
        wire("PUT", "k", headers={"Content-MD5": md5, "x-oss-hash-crc64ecma": _crc(BIG)}, body=BIG).status
        == 200
    )


def test_a_body_without_length(wire: Wire) -> None:
    target, headers = wire.head("PUT", "k")
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    answer = wire.raw(f"PUT {target} HTTP/1.1\r\n{lines}\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 411 ")
    assert b"<Code>MissingContentLength</Code>" in answer
    assert wire("PUT", "k", body=iter([b"chunk", b"", BIG, b"end"])).status == 200
    assert wire("GET", "k").body == b"chunk" + BIG + b"end"


def test_forbid_overwrite(wire: Wire) -> None:
    forbid = {"x-oss-forbid-overwrite": "true"}
    assert wire("PUT", "k", headers=forbid, body=b"1").status == 200
    for reply in (
        wire("PUT", "k", headers=forbid, body=BIG),
        wire("PUT", "k", headers={**forbid, "x-oss-copy-source": "/demo/k"}),
        wire("PUT", "k", {"symlink": ""}, {**forbid, "x-oss-symlink-target": "t"}),
        wire("POST", "k", {"uploads": ""}, forbid),
    ):
        assert (reply.status, reply.code, reply.headers["x-oss-ec"]) == (
            409,
            "FileAlreadyExists",
            "0026-00000002",
        )
    assert wire("GET", "k").body == b"1"
    assert wire("PUT", "k", headers={"x-oss-forbid-overwrite": "false"}, body=b"2").status == 200


def test_too_large(start: Callable[..., RunningServer]) -> None:
    wire = Wire(start(max_put_size=1000, max_part_size=500))
    assert wire("PUT", "k", body=bytes(1000)).status == 200
    assert wire("PUT", "k", body=bytes(1001)).code == "EntityTooLarge"
    assert wire("PUT", "k", body=iter([bytes(600), bytes(600)])).code == "EntityTooLarge"
    assert wire("POST", "a", {"append": "", "position": "0"}, body=bytes(600)).status == 200
    assert wire("POST", "a", {"append": "", "position": "600"}, body=bytes(600)).code == "EntityTooLarge"
    upload = wire("POST", "m", {"uploads": ""}).xml.findtext("UploadId") or ""
    assert wire("PUT", "m", {"partNumber": "1", "uploadId": upload}, body=bytes(501)).code == "EntityTooLarge"


def test_missing_things(wire: Wire) -> None:
    for method in ("GET", "HEAD"):
        reply = wire(method, "absent")
        assert (reply.status, reply.code) == (404, "NoSuchKey")
        assert reply.error.findtext("Key") == "absent"
        reply = wire(method, "absent", bucket="nowhere")
        assert (reply.status, reply.code) == (404, "NoSuchBucket")
        assert reply.error.findtext("BucketName") == "nowhere"
    assert wire("HEAD", "absent", {"objectMeta": ""}).code == "NoSuchKey"
    assert wire("PUT", "k", body=b"x", bucket="nowhere").code == "NoSuchBucket"
    assert wire("DELETE", "k", bucket="nowhere").code == "NoSuchBucket"
    assert wire("GET", "k", {"versionId": "abc"}).code == "NoSuchVersion"


@pytest.mark.parametrize(
    ("key", "code"),
    [("x" * 1024, "InvalidObjectName"), ("/a", "InvalidObjectName"), ("\\a", "InvalidObjectName")],
)
def test_impossible_names(wire: Wire, key: str, code: str) -> None:
    reply = wire("PUT", key, body=b"x")
    assert (reply.status, reply.code) == (400, code)


def test_methods_and_sub_resources_that_are_nothing(wire: Wire) -> None:
    assert wire("PATCH", "k").status == 405
    assert wire("POST", "k").status == 405
    assert wire("GET", "k", {"x-oss-process": "image/resize"}).code == "NotImplemented"
    assert wire("GET", params={"cors": ""}).code == "NotImplemented"
    assert wire("PUT", bucket="").status == 405


# Ranges: (Range, what the plain mode gives, what the standard mode gives); a tuple is 206 of
# [first, last], None the whole with 200, a number an error.
RANGES = [
    ("bytes=0-0", (0, 0), (0, 0)),
    ("bytes=5-9", (5, 9), (5, 9)),
    ("bytes=0-999", (0, 999), (0, 999)),
    ("bytes=990-", (990, 999), (990, 999)),
    ("bytes=-1", (999, 999), (999, 999)),
    ("bytes=-1000", (0, 999), (0, 999)),
    ("bytes=990-1000", None, (990, 999)),
    ("bytes=0-999999", None, (0, 999)),
    ("bytes=1000-", None, 416),
    ("bytes=1000-2000", None, 416),
    ("bytes=-1001", None, (0, 999)),
    ("bytes=-0", 416, 416),
    ("bytes=9-5", None, None),
    ("lines=0-5", None, None),
    ("bytes=a-b", None, None),
    ("bytes=-", None, None),
    ("bytes=" + "9" * 5000 + "-", None, None),
    ("bytes=0-1,5-6", 416, 416),
]
EMPTY_RANGES = [("bytes=0-0", None, 416), ("bytes=0-", None, 416), ("bytes=-5", None, 416), ("x", None, None)]


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("standard", [False, True])
def test_ranges(start: Callable[..., RunningServer], standard: bool, inline: bool) -> None:
    wire = Wire(start(inline_size=4096 if inline else 16))
    data = bytes(i % 251 for i in range(1000))
    wire("PUT", "k", body=data)
    wire("PUT", "empty", body=b"")
    cases = [("k", data, *case) for case in RANGES] + [("empty", b"", *case) for case in EMPTY_RANGES]
    for key, content, text, plain, strict in cases:
        headers = {"Range": text}
        if standard:
            headers["x-oss-range-behavior"] = "standard"
        expected = strict if standard else plain
        reply = wire("GET", key, headers=headers)
        if isinstance(expected, tuple):
            first, last = expected
            assert (reply.status, reply.body) == (206, content[first : last + 1]), text
            assert reply.headers["Content-Range"] == f"bytes {first}-{last}/{len(content)}"
            assert reply.headers["x-oss-hash-crc64ecma"] == _crc(content)
        elif expected is None:
            assert (reply.status, reply.body) == (200, content), text
            assert "Content-Range" not in reply.headers
        else:
            assert (reply.status, reply.code) == (expected, "InvalidRange"), text


def test_conditions(wire: Wire) -> None:
    etag = wire("PUT", "k", body=b"x").headers["ETag"]
    modified = wire("HEAD", "k").headers["Last-Modified"]
    before, after = "Sat, 01 Jan 2000 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"
    for method in ("GET", "HEAD"):
        for headers, status in (
            ({"If-Match": etag}, 200),
            ({"If-Match": etag.strip('"')}, 200),
            ({"If-Match": '"0"'}, 412),
            ({"If-None-Match": etag}, 304),
            ({"If-None-Match": '"0"'}, 200),
            ({"If-Modified-Since": modified}, 304),
            ({"If-Modified-Since": after}, 304),
            ({"If-Modified-Since": before}, 200),
            ({"If-Modified-Since": "nonsense"}, 200),
            ({"If-Unmodified-Since": modified}, 200),
            ({"If-Unmodified-Since": before}, 412),
            ({"If-Match": '"0"', "Range": "bytes=0-0"}, 412),
        ):
            reply = wire(method, "k", headers=headers)
            assert reply.status == status, (method, headers)
            if status == 304:
                assert reply.body == b""
                assert reply.headers["ETag"] == etag
            if status == 412:
                assert reply.code == "PreconditionFailed"


def test_response_overrides(wire: Wire) -> None:
    wire("PUT", "k", headers={"Content-Type": "text/plain"}, body=b"x")
    names = {
        "response-content-type": "Content-Type",
        "response-content-language": "Content-Language",
        "response-expires": "Expires",
        "response-cache-control": "Cache-Control",
        "response-content-disposition": "Content-Disposition",
        "response-content-encoding": "Content-Encoding",
    }
    reply = wire("GET", "k", {name: f"v {name}" for name in names})
    for name, shown in names.items():
        assert reply.headers.get_all(shown) == [f"v {name}"]
    reply = wire("GET", "k", {"response-content-type": "a\r\nX-Injected: 1"})
    assert reply.status == 400
    assert "X-Injected" not in reply.headers


# Links


def test_symlinks(wire: Wire) -> None:
    wire("PUT", "dir/target ü", headers={"Content-Type": "a/b", "x-oss-meta-a": "t"}, body=BIG)
    sent = {"x-oss-symlink-target": "dir%2Ftarget%20%C3%BC", "x-oss-meta-a": "l"}
    assert wire("PUT", "ln", {"symlink": ""}, sent).status == 200
    link = wire("GET", "ln", {"symlink": ""})
    assert (link.body, link.headers["x-oss-symlink-target"]) == (b"", "dir%2Ftarget%20%C3%BC")
    for reply in (wire("GET", "ln"), wire("HEAD", "ln")):
        assert reply.headers["Content-Length"] == str(len(BIG))
        assert reply.headers["ETag"] == _etag(BIG)
        assert reply.headers["x-oss-object-type"] == "Symlink"
        assert reply.headers["x-oss-meta-a"] == "l"
    assert wire("GET", "ln", headers={"Range": "bytes=1-2"}).body == BIG[1:3]
    assert wire("HEAD", "ln", {"objectMeta": ""}).headers["Content-Length"] == str(
        len("dir/target ü".encode())
    )
    wire("PUT", "copy", headers={"x-oss-copy-source": "/demo/ln"})
    assert wire("GET", "copy", {"symlink": ""}).headers["x-oss-symlink-target"] == "dir%2Ftarget%20%C3%BC"
    wire("DELETE", "dir/target ü")
    assert wire("GET", "ln").code == wire("HEAD", "ln").code == "SymlinkTargetNotExist"
    wire("PUT", "two", {"symlink": ""}, {"x-oss-symlink-target": "ln"})
    assert wire("GET", "two").code == "InvalidTargetType"
    wire("PUT", "plain", body=b"x")
    assert wire("GET", "plain", {"symlink": ""}).code == "NotSymlink"
    assert wire("GET", "absent", {"symlink": ""}).code == "NoSuchKey"
    assert wire("PUT", "no", {"symlink": ""}).code == "InvalidArgument"


# Deleting


def test_delete(wire: Wire, server: RunningServer) -> None:
    wire("PUT", "d/", body=b"")
    wire("PUT", "d/k", body=BIG)
    assert wire("DELETE", "d/").status == 204
    assert wire("DELETE", "d/").status == 204
    assert wire("GET", "d/k").body == BIG


def test_delete_multiple(bucket: oss2.Bucket, wire: Wire) -> None:
    keys = ["a", "b&<>", "ü", "line\nbreak", "sp ace+"]
    for key in keys:
        bucket.put_object(key, BIG)
    assert bucket.batch_delete_objects([*keys, "absent"]).deleted_keys == [*keys, "absent"]
    assert bucket.list_objects().object_list == []
    wire("PUT", "q", body=b"x")
    quiet = wire(
        "POST",
        params={"delete": ""},
        body=b"<Delete><Quiet>true</Quiet><Object><Key>q</Key></Object></Delete>",
    )
    assert (quiet.status, quiet.body) == (200, b"")
    assert wire("GET", "q").status == 404


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"garbage",
        b"<Delete></Delete>",
        b"<Other><Object><Key>k</Key></Object></Other>",
        b"<Delete><Object></Object></Delete>",
        b"<Delete>" + b"<Object><Key>k</Key></Object>" * 1001 + b"</Delete>",
        b"<Delete><Object><Key>" + b"x" * (2 << 20) + b"</Key></Object></Delete>",
        b'<!DOCTYPE d [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
        b"<Delete><Object><Key>&b;</Key></Object></Delete>",
        b'<!DOCTYPE d SYSTEM "file:///etc/passwd"><Delete><Object><Key>k</Key></Object></Delete>',
        b"<a>" * 100,
        b'<?xml version="1.0" encoding="no-such"?><Delete/>',
    ],
)
def test_documents_that_are_refused(wire: Wire, document: bytes) -> None:
    wire("PUT", "k", body=b"x")
    reply = wire("POST", params={"delete": ""}, body=document)
    assert (reply.status, reply.code) == (400, "MalformedXML")
    assert wire("GET", "k").status == 200


def test_delete_checks_its_digest(wire: Wire) -> None:
    document = b"<Delete><Object><Key>k</Key></Object></Delete>"
    wrong = base64.b64encode(bytes(16)).decode()
    assert (
        wire("POST", params={"delete": ""}, headers={"Content-MD5": wrong}, body=document).code
        == "InvalidDigest"
    )


# Tags, ACL, archive


def test_tagging(bucket: oss2.Bucket, wire: Wire) -> None:
    bucket.put_object("k", b"x", headers={"x-oss-tagging": "a=1&b+c=%C3%BC"})
    assert bucket.get_object_tagging("k").tag_set.tagging_rule == {"a": "1", "b c": "ü"}
    before = bucket.head_object("k").last_modified
    rule = oss2.models.TaggingRule()
    rule.add("only", "<this>")
    bucket.put_object_tagging("k", oss2.models.Tagging(rule))
    assert bucket.get_object_tagging("k").tag_set.tagging_rule == {"only": "<this>"}
    assert bucket.head_object("k").headers["x-oss-tagging-count"] == "1"
    bucket.delete_object_tagging("k")
    assert bucket.get_object_tagging("k").tag_set.tagging_rule == {}
    assert bucket.head_object("k").last_modified == before
    assert wire("PUT", "k", {"tagging": ""}, body=b"junk").code == "MalformedXML"
    assert wire("PUT", "k", {"tagging": ""}, body=b"<Tagging/>").code == "MalformedXML"
    assert wire("PUT", "absent", {"tagging": ""}, body=b"<Tagging><TagSet/></Tagging>").code == "NoSuchKey"


def test_object_acl(bucket: oss2.Bucket) -> None:
    bucket.put_object("k", b"x")
    assert bucket.get_object_acl("k").acl == "default"
    bucket.put_object_acl("k", "public-read")
    assert bucket.get_object_acl("k").acl == "public-read"


def test_archived_objects(start: Callable[..., RunningServer], sdk: Callable[..., oss2.Bucket]) -> None:
    server = start(restore_seconds=30)
    wire, bucket = Wire(server), sdk(server)
    bucket.put_object("k", BIG, headers={"x-oss-storage-class": "Archive"})
    bucket.put_object("plain", b"x")
    assert bucket.head_object("k").headers["x-oss-storage-class"] == "Archive"
    for reply in (
        wire("GET", "k"),
        wire("PUT", "c", headers={"x-oss-copy-source": "/demo/k"}),
    ):
        assert (reply.status, reply.code) == (403, "InvalidObjectState")
    upload = bucket.init_multipart_upload("m").upload_id
    with pytest.raises(oss2.exceptions.ServerError) as caught:
        bucket.upload_part_copy("demo", "k", (0, 9), "m", upload, 1)
    assert caught.value.code == "InvalidObjectState"
    assert wire("POST", "k", {"restore": ""}).status == 202
    assert wire("POST", "k", {"restore": ""}).code == "RestoreAlreadyInProgress"
    assert wire("GET", "k").code == "InvalidObjectState"
    assert bucket.head_object("k").headers["x-oss-restore"] == 'ongoing-request="true"'
    assert b'<RestoreInfo>ongoing-request="true"</RestoreInfo>' in wire("GET").body
    server.set_clock_offset(31)
    assert wire("GET", "k").body == BIG
    restored = bucket.list_objects(prefix="k").object_list[0]
    assert restored.storage_class == "Archive"
    assert (
        bucket.head_object("k").headers["x-oss-restore"].startswith('ongoing-request="false", expiry-date="')
    )
    days = b"<RestoreRequest><Days>3</Days></RestoreRequest>"
    assert wire("POST", "k", {"restore": ""}, body=days).status == 200
    assert wire("POST", "plain", {"restore": ""}).code == "OperationNotSupported"
    assert (
        wire("POST", "k", {"restore": ""}, body=b"<RestoreRequest><Days>0</Days></RestoreRequest>").status
        == 400
    )
    assert wire("POST", "k", {"restore": ""}, body=b"junk").code == "MalformedXML"
    record = Record(1, 0, "", 0, "Normal", "Archive", Props(restore=(100, 200)))
    assert [is_archived(record, now) for now in (99, 100, 199, 200)] == [True, False, False, True]
    assert restore_text(record, 199).startswith('ongoing-request="false"')
    assert restore_text(record, 200) == "", "the copy to read is gone again"


@pytest.mark.parametrize(("tier", "status"), [("Expedited", 202), ("Bulk", 202), ("Soon", 400), ("", 400)])
def test_restoring_in_a_tier(wire: Wire, tier: str, status: int) -> None:
    wire("PUT", "k", headers={"x-oss-storage-class": "ColdArchive"}, body=b"x")
    document = (
        f"<RestoreRequest><Days>2</Days><JobParameters><Tier>{tier}</Tier></JobParameters></RestoreRequest>"
    )
    assert wire("POST", "k", {"restore": ""}, body=document.encode()).status == status
    assert ("x-oss-restore" in wire("HEAD", "k").headers) == (status == 202)


def test_acl_and_class_ride_on_every_kind_of_put(wire: Wire) -> None:
    kept = {"x-oss-object-acl": "public-read", "x-oss-storage-class": "IA", "x-oss-tagging": "t=1"}
    wire("PUT", "put", headers=kept, body=b"x")
    wire("PUT", "link", {"symlink": ""}, headers={**kept, "x-oss-symlink-target": "put"})
    wire("POST", "append", {"append": "", "position": "0"}, headers=kept, body=b"x")
    wire("PUT", "copy", headers={**kept, "x-oss-copy-source": "/demo/put"})
    upload = wire("POST", "m", {"uploads": ""}, headers=kept).xml.findtext("UploadId") or ""
    wire("PUT", "m", {"partNumber": "1", "uploadId": upload}, body=b"x")
    wire("POST", "m", {"uploadId": upload}, headers={"x-oss-complete-all": "yes"})
    for key in ("put", "link", "append", "copy", "m"):
        assert wire("GET", key, {"acl": ""}).xml.findtext("AccessControlList/Grant") == "public-read", key
        headers = wire("HEAD", key).headers
        assert headers["x-oss-storage-class"] == "IA", key
        assert headers["x-oss-tagging-count"] == "1", key
    wire("PUT", "copy", headers={"x-oss-copy-source": "/demo/put"})
    assert wire("GET", "copy", {"acl": ""}).xml.findtext("AccessControlList/Grant") == "default"
    assert wire("HEAD", "copy").headers["x-oss-storage-class"] == "Standard"
    for name in ("x-oss-object-acl", "x-oss-storage-class"):
        assert wire("PUT", "bad", headers={name: "none"}, body=b"x").code == "InvalidArgument"


def test_a_put_takes_the_acl_of_what_was_there_away(wire: Wire) -> None:
    wire("PUT", "k", headers={"x-oss-object-acl": "public-read"}, body=b"x")
    wire("PUT", "k", body=b"y")
    assert wire("GET", "k", {"acl": ""}).xml.findtext("AccessControlList/Grant") == "default"


def test_who_pays(wire: Wire) -> None:
    payer = {"x-oss-request-payer": "requester"}
    assert wire("PUT", "k", body=b"x", headers=payer).status == 200
    assert wire("GET", "k", headers={"x-oss-request-payer": "nobody"}).code == "InvalidArgument"
    wire.server.set_requester_pays(True)
    for method, key, params in (
        ("GET", "k", {}),
        ("GET", "", {}),
        ("DELETE", "k", {}),
        ("POST", "m", {"uploads": ""}),
    ):
        reply = wire(method, key, params)
        assert (reply.status, reply.code) == (403, "AccessDenied")
    assert wire("GET", "k", headers=payer).body == b"x"
    assert wire("GET", "k", payer).body == b"x", "in the query, as presigned URLs have it"


def test_the_sdk_tells_missing_from_there(bucket: oss2.Bucket, tmp_path: Path) -> None:
    assert not bucket.object_exists("k")
    bucket.put_object("k", BIG)
    assert bucket.object_exists("k")
    assert bucket.get_object_meta("k").content_length == len(BIG)
    with pytest.raises(oss2.exceptions.NoSuchKey):
        bucket.head_object("absent")
    with pytest.raises(oss2.exceptions.NotModified):
        bucket.get_object("k", headers={"If-None-Match": bucket.head_object("k").etag})
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(BIG * 30)
    oss2.resumable_upload(
        bucket, "r", str(source), multipart_threshold=1, part_size=102400, store=_store(tmp_path)
    )
    assert bucket.head_object("r").object_type == "Multipart"
    oss2.resumable_download(
        bucket, "r", str(target), multiget_threshold=1, part_size=100_000, store=_store(tmp_path, down=True)
    )
    assert target.read_bytes() == BIG * 30


def _store(directory: Path, *, down: bool = False) -> object:
    kind = oss2.ResumableDownloadStore if down else oss2.ResumableStore
    return kind(root=str(directory))


def test_errors_about_odd_keys_are_well_formed(wire: Wire) -> None:
    reply = wire("GET", "a\x01b\n<&>")
    assert reply.code == "NoSuchKey"
    assert reply.error.findtext("Key") == "a\ufffdb\n<&>"


def test_no_name_leaves_the_directory(wire: Wire, tmp_path: Path) -> None:
    keys = ["../../x", "..", ".", "a/../../../../etc/x", "%2e%2e/x", "a\x00b", "blobs/00/x", "index.sqlite"]
    for key in keys:
        target, headers = wire.head("PUT", key)
        assert wire.send("PUT", target, headers, BIG + key.encode()).status == 200
        assert wire("GET", key).body == BIG + key.encode()
    assert {path.name for path in tmp_path.iterdir()} == {"oss"}
    names = {path.name for path in (tmp_path / "oss").iterdir()}
    assert names <= {
        "blobs",
        "credentials.json",
        "index.sqlite",
        "index.sqlite-wal",
        "index.sqlite-shm",
        "lock",
    }
