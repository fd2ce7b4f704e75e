"""Signatures: the published vectors, and each way to be refused."""

from __future__ import annotations

import calendar
import time
from collections.abc import Callable
from email.utils import formatdate
from urllib.parse import parse_qsl, urlsplit

import oss2
import pytest

from ossfs.server import RunningServer
from ossfs.server.auth import (
    Signed,
    canonical_request_v4,
    signature_v1,
    signature_v4,
    string_to_sign_v1,
    string_to_sign_v4,
)
from tests.server.wiretools import Reply, Wire

DATE = "Wed, 28 Dec 2022 10:27:41 GMT"
PUT_HEADERS = {
    "content-md5": "eB5eJF1ptWaXm4bijSPyxw==",
    "content-type": "text/html",
    "date": DATE,
    "x-oss-date": DATE,
    "x-oss-meta-author": "alice",
    "x-oss-meta-magic": "abracadabra",
}
V4_QUERY = [
    ("param1", "value1"),
    ("+param1", "value3"),
    ("|param1", "value4"),
    ("+param2", ""),
    ("|param2", ""),
    ("param2", ""),
]
V4_HEADERS = {
    "content-type": "text/plain",
    "x-oss-head1": "value",
    "x-oss-content-sha256": "UNSIGNED-PAYLOAD",
    "abc": "value",
    "zabc": "value",
    "xyz": "value",
}


@pytest.mark.parametrize(
    ("signed", "date", "expected"),
    [
        (Signed("PUT", "examplebucket", "nelson", [], PUT_HEADERS), DATE, "kSHKmLxlyEAKtZPkJhG9bZb5k7M="),
        (
            Signed("PUT", "examplebucket", "nelson", [("acl", "")], PUT_HEADERS),
            DATE,
            "/afkugFbmWDQ967j1vr6zygBLQk=",
        ),
        (
            Signed("GET", "examplebucket", "", [("resourceGroup", "")], {"date": DATE, "x-oss-date": DATE}),
            DATE,
            "vkQmfuUDyi1uDi3bKt67oemssIs=",
        ),
        (
            Signed("GET", "bucket", "key", [("versionId", "versionId")], {}),
            "1699807420",
            "dcLTea+Yh9ApirQ8o8dOPqtvJXQ=",
        ),
    ],
)
def test_v1_vectors(signed: Signed, date: str, expected: str) -> None:
    assert signature_v1("sk", string_to_sign_v1(signed, date)) == expected


@pytest.mark.parametrize(
    ("date", "additional", "more", "expected"),
    [
        ("20231216T162057Z", (), {}, "e21d18daa82167720f9b1047ae7e7f1ce7cb77a31e8203a7d5f4624fa0284afe"),
        (
            "20231216T172512Z",
            ("zabc", "abc"),
            {},
            "4a4183c187c07c8947db7620deb0a6b38d9fbdd34187b6dbaccb316fa251212f",
        ),
        (
            "20231217T034736Z",
            (),
            {"x-oss-security-token": "token"},
            "b94a3f999cf85bcdc00d332fbd3734ba03e48382c36fa4d5af5df817395bd9ea",
        ),
    ],
)
def test_v4_vectors(date: str, additional: tuple[str, ...], more: dict[str, str], expected: str) -> None:
    headers = {**V4_HEADERS, "x-oss-date": date, **more}
    signed = Signed("PUT", "bucket", "1234+-/123/1.txt", V4_QUERY, headers)
    canonical = canonical_request_v4(signed, additional)
    assert (
        canonical.split("\n")[2]
        == "%2Bparam1=value3&%2Bparam2&%7Cparam1=value4&%7Cparam2&param1=value1&param2"
    )
    scope = f"{date[:8]}/cn-hangzhou/oss/aliyun_v4_request"
    assert signature_v4("sk", scope, string_to_sign_v4(date, scope, canonical)) == expected


def test_v4_presigned_vector() -> None:
    date = "20231217T025437Z"
    scope = "20231217/cn-hangzhou/oss/aliyun_v4_request"
    query = [
        *V4_QUERY,
        ("x-oss-signature-version", "OSS4-HMAC-SHA256"),
        ("x-oss-date", date),
        ("x-oss-expires", "599"),
        ("x-oss-credential", f"ak/{scope}"),
        ("x-oss-signature", "left out"),
    ]
    headers = {"content-type": "application/octet-stream", "x-oss-head1": "value", "abc": "value"}
    canonical = canonical_request_v4(
        Signed("PUT", "bucket", "1234+-/123/1.txt", query, headers), (), skip=("x-oss-signature",)
    )
    expected = "a39966c61718be0d5b14e668088b3fa07601033f6518ac7b523100014269c0fe"
    assert signature_v4("sk", scope, string_to_sign_v4(date, scope, canonical)) == expected


def test_odd_keys_and_parameters_are_signed_alike(bucket: oss2.Bucket) -> None:
    for key in ("a b", "ü/%41+&=?#", "line\nbreak", "x" * 1023, "'\"<>&", "a//b/./../c", "~*()!"):
        bucket.put_object(key, key.encode(), headers={"x-oss-meta-a": "spa ced"})
        assert bucket.get_object(key).read() == key.encode()
        assert bucket.head_object(key).headers["x-oss-meta-a"] == "spa ced"
        assert [o.key for o in bucket.list_objects(prefix=key).object_list] == [key]
        bucket.delete_object(key)


def test_presigned_urls(
    server: RunningServer, wire: Wire, sdk: Callable[..., oss2.Bucket], bucket: oss2.Bucket
) -> None:
    bucket.put_object("k/ü +", b"data")
    url = bucket.sign_url("GET", "k/ü +", 60, params={"response-content-type": "text/x"})
    reply = wire.send("GET", url[len(server.url) :], {"Host": "127.0.0.1"})
    assert (reply.status, reply.body, reply.headers["content-type"]) == (200, b"data", "text/x")
    # Another method, another key, another parameter: none of it is what was signed.
    assert wire.send("DELETE", url[len(server.url) :], {"Host": "127.0.0.1"}).code == "SignatureDoesNotMatch"
    put = bucket.sign_url("PUT", "new", 60)
    assert wire.send("PUT", put[len(server.url) :], {"Host": "x"}, b"new").status == 200
    server.set_clock_offset(120)
    reply = wire.send("GET", url[len(server.url) :], {"Host": "127.0.0.1"})
    assert (reply.status, reply.code) == (403, "AccessDenied")
    assert reply.error.findtext("Message") == "Request has expired."


def _presigned_v1(server: RunningServer, **changes: str | None) -> str:
    expires = str(int(time.time()) + 60)
    query: dict[str, str | None] = {
        "OSSAccessKeyId": server.access_key_id,
        "Expires": expires,
        "Signature": "wrong",
        **changes,
    }
    return "/demo/k?" + "&".join(f"{k}={v}" for k, v in query.items() if v is not None)


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"Signature": None}, "AccessDenied", "Query string authentication requires the Signature, Expires"),
        ({"Expires": None}, "AccessDenied", "Query string authentication requires"),
        ({"OSSAccessKeyId": None}, "AccessDenied", "Query string authentication requires"),
        ({"Expires": "soon"}, "AccessDenied", "Invalid date (should be seconds since epoch)."),
        ({"Expires": "1"}, "AccessDenied", "Request has expired."),
        ({"OSSAccessKeyId": "nobody"}, "InvalidAccessKeyId", ""),
        ({}, "SignatureDoesNotMatch", ""),
    ],
)
def test_presigned_v1_refusals(wire: Wire, changes: dict[str, str | None], code: str, message: str) -> None:
    reply = wire.send("GET", _presigned_v1(wire.server, **changes), {"Host": "h"})
    assert (reply.status, reply.code) == (403, code)
    assert (reply.error.findtext("Message") or "").startswith(message)


def test_of_a_repeated_parameter_the_first_counts(wire: Wire, sdk: Callable[..., oss2.Bucket]) -> None:
    wire("PUT", "k", body=b"x")
    url = sdk(wire.server).sign_url("GET", "k", 60)[len(wire.server.url) :]
    assert wire.send("GET", url + "&Expires=1&Signature=no", {"Host": "h"}).status == 200


def _presigned_v4(bucket: oss2.Bucket, server: RunningServer, **changes: str | None) -> str:
    url = urlsplit(bucket.sign_url("GET", "k", 60))
    query: dict[str, str | None] = dict(parse_qsl(url.query))
    query.update({name.replace("_", "-"): value for name, value in changes.items()})
    return url.path + "?" + "&".join(f"{k}={v}" for k, v in query.items() if v is not None)


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"x_oss_signature": None}, 403, "AccessDenied"),
        ({"x_oss_date": None}, 403, "AccessDenied"),
        ({"x_oss_date": "yesterday"}, 403, "AccessDenied"),
        ({"x_oss_date": "20200101T000000Z"}, 403, "AccessDenied"),
        ({"x_oss_date": "29990101T000000Z"}, 403, "AccessDenied"),
        ({"x_oss_expires": "0"}, 400, "InvalidArgument"),
        ({"x_oss_expires": "604801"}, 400, "InvalidArgument"),
        ({"x_oss_signature_version": "OSS5"}, 400, "InvalidArgument"),
        ({"x_oss_credential": "ak/x"}, 400, "InvalidArgument"),
        ({"x_oss_signature": "00"}, 403, "SignatureDoesNotMatch"),
    ],
)
def test_presigned_v4_refusals(
    wire: Wire, sdk: Callable[..., oss2.Bucket], changes: dict[str, str | None], status: int, code: str
) -> None:
    target = _presigned_v4(sdk(wire.server, v4=True), wire.server, **changes)
    reply = wire.send("GET", target, {"Host": "h"})
    assert (reply.status, reply.code) == (status, code)


def test_header_and_query_together_are_refused(wire: Wire) -> None:
    reply = wire("GET", "k", {"OSSAccessKeyId": "a", "Expires": "1", "Signature": "b"})
    assert (reply.status, reply.code) == (400, "InvalidArgument")


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Authorization": "OSS nocolon"}, 400, "InvalidArgument"),
        ({"Authorization": "OSS :x"}, 400, "InvalidArgument"),
        ({"Authorization": "Basic abc"}, 400, "InvalidArgument"),
        ({"Authorization": "OSS nobody:abc"}, 403, "InvalidAccessKeyId"),
        ({"Date": "today"}, 403, "AccessDenied"),
        ({"Date": ""}, 403, "AccessDenied"),
        ({"Date": "Wed, 99 Foo 2022 10:27:41 GMT"}, 403, "AccessDenied"),
        ({"Date": "Wed, 28 Dec 2022 30:27:41 GMT"}, 403, "AccessDenied"),
        ({"x-oss-security-token": "unknown"}, 403, "InvalidSecurityToken"),
        ({"Date": DATE}, 403, "RequestTimeTooSkewed"),
    ],
)
def test_v1_header_refusals(wire: Wire, headers: dict[str, str], status: int, code: str) -> None:
    reply = wire("GET", "k", headers=headers)
    assert (reply.status, reply.code) == (status, code)
    assert reply.headers["x-oss-request-id"] == reply.error.findtext("RequestId")


def test_a_wrong_secret_reports_the_string_to_sign(wire: Wire) -> None:
    date = formatdate(usegmt=True)
    headers = {"Date": date, "x-oss-meta-b": "2"}
    headers["Authorization"] = wire.authorization("PUT", "/demo/a ü", {}, headers, secret="wrong")
    reply = wire("PUT", "a ü", headers=headers, body=b"x")
    assert (reply.status, reply.code) == (403, "SignatureDoesNotMatch")
    expected = f"PUT\n\n\n{date}\nx-oss-meta-b:2\n/demo/a ü"
    assert reply.error.findtext("StringToSign") == expected
    assert bytes.fromhex(reply.error.findtext("StringToSignBytes") or "").decode() == expected
    assert reply.error.findtext("OSSAccessKeyId") == wire.server.access_key_id
    assert reply.error.findtext("EC") == reply.headers["x-oss-ec"] == "0002-00000040"


@pytest.mark.parametrize(("offset", "accepted"), [(-890, True), (890, True), (-910, False), (910, False)])
def test_the_clock_window(wire: Wire, sdk: Callable[..., oss2.Bucket], offset: int, accepted: bool) -> None:
    wire.server.set_clock_offset(offset)
    reply = wire("GET", params={"location": ""})
    assert (reply.status == 200) is accepted
    with_v4 = sdk(wire.server, v4=True)
    if accepted:
        with_v4.get_bucket_location()
        return
    error = reply.error
    assert reply.code == "RequestTimeTooSkewed"
    assert error.findtext("MaxAllowedSkewMilliseconds") == "900000"
    times = [error.findtext(name) or "" for name in ("ServerTime", "RequestTime")]
    seconds = [calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%S.000Z")) for text in times]
    assert abs(seconds[0] - seconds[1] - offset) <= 2
    with pytest.raises(oss2.exceptions.ServerError) as caught:
        with_v4.get_bucket_location()
    assert caught.value.code == "RequestTimeTooSkewed"


def _v4(wire: Wire, **changes: str | None) -> Reply:
    """A V4 request of correct shape; the signature only matters once everything else is right."""
    date = changes.pop("date", None) or time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    headers: dict[str, str] = {
        "Host": "127.0.0.1",
        "x-oss-date": date,
        "x-oss-content-sha256": "UNSIGNED-PAYLOAD",
    }
    credential = changes.pop("credential", None) or (
        f"{wire.server.access_key_id}/{date[:8]}/cn-hangzhou/oss/aliyun_v4_request"
    )
    headers["Authorization"] = f"OSS4-HMAC-SHA256 Credential={credential},Signature=00"
    for name, value in changes.items():
        if value is None:
            headers.pop(name.replace("_", "-"))
        else:
            headers[name.replace("_", "-")] = value
    return wire.send("GET", "/demo/k", headers)


def test_v4_header_refusals(wire: Wire) -> None:
    key = wire.server.access_key_id
    today = time.strftime("%Y%m%d", time.gmtime())
    reply = _v4(wire)
    assert reply.code == "SignatureDoesNotMatch"
    assert (reply.error.findtext("CanonicalRequest") or "").startswith(
        "GET\n/demo/k\n\nx-oss-content-sha256:"
    )
    assert (reply.error.findtext("StringToSign") or "").startswith("OSS4-HMAC-SHA256\n")
    reply = _v4(wire, credential=f"{key}/{today}/cn-shanghai/oss/aliyun_v4_request")
    assert (reply.status, reply.code) == (400, "InvalidArgument")
    assert reply.error.findtext("Message") == "Invalid signing region in Authorization header."
    assert reply.error.findtext("EC") == "0002-00000226"
    assert (
        _v4(wire, credential=f"nobody/{today}/cn-hangzhou/oss/aliyun_v4_request").code == "InvalidAccessKeyId"
    )
    for credential in (
        f"{key}/{today}/cn-hangzhou/ecs/aliyun_v4_request",
        f"{key}/{today}/cn-hangzhou/oss/aws4_request",
        f"{key}/{today}/cn-hangzhou/oss",
        f"{key}/20200101/cn-hangzhou/oss/aliyun_v4_request",
    ):
        reply = _v4(wire, credential=credential)
        assert (reply.status, reply.code) == (400, "InvalidArgument"), credential
    reply = _v4(wire, x_oss_content_sha256="abc")
    assert (reply.status, reply.error.findtext("EC")) == (400, "0002-00000214")
    assert _v4(wire, x_oss_content_sha256=None).status == 400
    scope = f"{key}/{today}/cn-hangzhou/oss/aliyun_v4_request"
    assert _v4(wire, date="garbage", credential=scope).code == "AccessDenied"
    assert _v4(wire, date="20200101T000000Z").code == "RequestTimeTooSkewed"
    for authorization in (
        "OSS4-HMAC-SHA256 Credential",
        "OSS4-HMAC-SHA256 Signature=00",
        f"OSS4-HMAC-SHA256 Credential={key},Credential={key},Signature=00",
    ):
        assert _v4(wire, Authorization=authorization).status == 400
    good = f"OSS4-HMAC-SHA256 Credential={key}/{today}/cn-hangzhou/oss/aliyun_v4_request"
    assert _v4(wire, Authorization=f"{good},AdditionalHeaders=absent,Signature=00").status == 400
    # With Date instead of x-oss-date, and spaces: understood, and the signature is then what fails.
    reply = _v4(wire, x_oss_date=None, Date=formatdate(usegmt=True), Authorization=f"{good}, Signature=00")
    assert reply.code == "SignatureDoesNotMatch"


def test_additional_headers_are_signed(wire: Wire) -> None:
    date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    scope = f"{date[:8]}/cn-hangzhou/oss/aliyun_v4_request"
    headers = {
        "host": "127.0.0.1",
        "x-oss-date": date,
        "x-oss-content-sha256": "UNSIGNED-PAYLOAD",
        "abc": " v ",
    }
    stripped = {name: value.strip() for name, value in headers.items()}
    canonical = canonical_request_v4(Signed("GET", "demo", "", [("location", "")], stripped), ("abc", "host"))
    signature = signature_v4(wire.server.access_key_secret, scope, string_to_sign_v4(date, scope, canonical))
    headers["Authorization"] = (
        f"OSS4-HMAC-SHA256 Signature={signature}, AdditionalHeaders=abc;host, "
        f"Credential={wire.server.access_key_id}/{scope}"
    )
    assert wire.send("GET", "/demo?location", headers).status == 200
    headers["abc"] = "other"
    assert wire.send("GET", "/demo?location", headers).code == "SignatureDoesNotMatch"


def test_security_tokens(start: Callable[..., RunningServer], sdk: Callable[..., oss2.Bucket]) -> None:
    server = start(security_token="sts-1")
    wire = Wire(server)
    assert wire("GET", params={"location": ""}, headers={"x-oss-security-token": "sts-1"}).status == 200
    assert wire("GET", params={"location": ""}).code == "InvalidAccessKeyId"
    other = wire("GET", params={"location": ""}, headers={"x-oss-security-token": "sts-2"})
    assert (other.status, other.code) == (403, "InvalidSecurityToken")
    for kind in (
        oss2.StsAuth,
        lambda *a: oss2.ProviderAuthV4(oss2.credentials.StaticCredentialsProvider(*a)),
    ):
        keys = (server.access_key_id, server.access_key_secret, "sts-1")
        bucket = oss2.Bucket(kind(*keys), server.url, "demo", region="cn-hangzhou")
        bucket.put_object("k", b"data")
        url = bucket.sign_url("GET", "k", 60)
        assert wire.send("GET", url[len(server.url) :], {"Host": "h"}).body == b"data"
        bucket.session.session.close()
    server.set_expired_tokens(["sts-1"])
    expired = wire("GET", params={"location": ""}, headers={"x-oss-security-token": "sts-1"})
    assert (expired.status, expired.code) == (403, "SecurityTokenExpired")
    server.set_security_token("sts-2")
    assert wire("GET", params={"location": ""}, headers={"x-oss-security-token": "sts-2"}).status == 200


def test_anonymous_requests(wire: Wire) -> None:
    wire("PUT", "private", body=b"1")
    wire("PUT", "public", headers={"x-oss-object-acl": "public-read"}, body=b"2")
    reply = wire("GET", "private", sign=False)
    assert (reply.status, reply.code, reply.headers["x-oss-ec"]) == (403, "AccessDenied", "0003-00000001")
    assert wire("GET", "absent", sign=False).code == "AccessDenied"
    assert wire("GET", "public", sign=False).body == b"2"
    assert wire("PUT", "public", sign=False, body=b"3").code == "AccessDenied"
    assert wire("GET", sign=False).code == "AccessDenied"
    reply = wire("GET", "public", {"response-content-type": "text/html"}, sign=False)
    assert (reply.status, reply.code) == (400, "InvalidRequest")
    wire("PUT", params={"acl": ""}, headers={"x-oss-acl": "public-read"})
    assert wire("GET", "private", sign=False).body == b"1"
