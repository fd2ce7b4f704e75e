"""Errors by status and code, and the headers of objects."""

from __future__ import annotations

import base64

import pytest

from ossfs import errors
from ossfs.store.answers import content_range, error_from, http_date, object_info

CASES = [
    (404, "NoSuchKey", errors.NotFound),
    (404, "NoSuchBucket", errors.NoSuchBucket),
    (404, "NoSuchUpload", errors.NoSuchUpload),
    (404, "SymlinkTargetNotExist", errors.DanglingSymlink),
    (404, "", errors.NotFound),
    (403, "AccessDenied", errors.AccessDenied),
    (403, "InvalidAccessKeyId", errors.InvalidAccessKey),
    (403, "SignatureDoesNotMatch", errors.SignatureMismatch),
    (403, "RequestTimeTooSkewed", errors.ClockSkewed),
    (403, "SecurityTokenExpired", errors.TokenExpired),
    (403, "InvalidSecurityToken", errors.TokenExpired),
    (403, "InvalidObjectState", errors.ObjectArchived),
    (403, "PermanentRedirect", errors.WrongRegion),
    (403, "UserDisable", errors.AccessDenied),
    (403, "", errors.AccessDenied),
    (307, "", errors.WrongRegion),
    (304, "", errors.NotModified),
    (409, "FileAlreadyExists", errors.AlreadyExists),
    (409, "FileImmutable", errors.ObjectImmutable),
    (409, "ObjectNotAppendable", errors.ObjectImmutable),
    (409, "StaleFile", errors.ServerFault),
    (409, "BucketNotEmpty", errors.Conflict),
    (412, "PreconditionFailed", errors.PreconditionFailed),
    (412, "", errors.PreconditionFailed),
    (416, "InvalidRange", errors.InvalidRange),
    (400, "RequestTimeout", errors.RequestTimeout),
    (400, "EntityTooLarge", errors.TooLarge),
    (400, "InvalidArgument", errors.InvalidRequest),
    (400, "EntityTooSmall", errors.InvalidRequest),
    (400, "InvalidDigest", errors.ChecksumMismatch),
    (400, "IncompleteBody", errors.InvalidRequest),
    (405, "MethodNotAllowed", errors.InvalidRequest),
    (408, "", errors.RequestTimeout),
    (429, "QpsLimitExceeded", errors.Throttled),
    (503, "TotalQpsLimitExceeded", errors.Throttled),
    (503, "ServiceUnavailable", errors.ServerFault),
    (500, "InternalError", errors.ServerFault),
    (599, "", errors.ServerFault),
]


def document(code: str, extra: str = "") -> bytes:
    return f"<Error><Code>{code}</Code><Message>Words.</Message><EC>0001</EC>{extra}</Error>".encode()


@pytest.mark.parametrize(("status", "code", "kind"), CASES)
def test_errors(status: int, code: str, kind: type[errors.StoreError]) -> None:
    error = error_from(status, {"x-oss-request-id": "RID"}, document(code) if code else b"")
    assert type(error) is kind
    assert (error.status, error.code, error.request_id) == (status, code, "RID")
    if code:
        assert (error.ec, error.message) == ("0001", "Words.")
        in_header = error_from(status, {"x-oss-err": base64.b64encode(document(code)).decode()}, b"")
        assert type(in_header) is kind


def test_wrong_region() -> None:
    endpoint = "<Endpoint>oss-cn-beijing.aliyuncs.com</Endpoint>"
    assert type(error_from(403, {}, document("AccessDenied", endpoint))) is errors.WrongRegion
    by_ec = b"<Error><Code>AccessDenied</Code><EC>0003-00001403</EC></Error>"
    assert type(error_from(403, {}, by_ec)) is errors.WrongRegion
    signing = {"x-oss-ec": "0002-00000226"}
    assert (
        type(error_from(400, signing, document("InvalidArgument").replace(b"0001", b"")))
        is errors.WrongRegion
    )


@pytest.mark.parametrize(
    "body",
    [b"<html>proxy</html>", b"garbage", b"<!DOCTYPE x><Error/>", b"<Error>" + b" " * 70_000 + b"</Error>"],
    ids=range(4),
)
def test_bodies_that_say_nothing(body: bytes) -> None:
    error = error_from(502, {"retry-after": "3"}, body)
    assert type(error) is errors.ServerFault
    assert error.retry_after == 3.0
    assert error_from(502, {"x-oss-err": "***", "retry-after": "soon"}, b"").retry_after is None


def test_object_headers() -> None:
    info = object_info(
        "k",
        {
            "etag": '"ABC-2"',
            "last-modified": "Tue, 14 Nov 2023 22:13:20 GMT",
            "date": "Tue, 14 Nov 2023 22:13:21 GMT",
            "x-oss-hash-crc64ecma": "18446744073709551615",
            "x-oss-object-type": "Appendable",
            "x-oss-tagging-count": "3",
            "x-oss-restore": 'ongoing-request="true"',
            "x-oss-version-id": "V",
            "x-oss-meta-mode": "33188",
            "x-oss-server-side-encryption": "KMS",
            "x-oss-server-side-encryption-key-id": "key",
            "content-language": "de",
        },
        99,
    )
    assert (info.etag, info.last_modified, info.server_date) == ("ABC-2", 1700000000, 1700000001)
    assert (info.crc64, info.size, info.object_type, info.tag_count) == (2**64 - 1, 99, "Appendable", 3)
    assert (info.restore, info.version_id, info.storage_class) == ('ongoing-request="true"', "V", "Standard")
    assert (info.headers.meta, info.headers.encryption) == ({"mode": "33188"}, "KMS")
    assert (info.headers.encryption_key_id, info.headers.content_language) == ("key", "de")
    link = {"x-oss-object-type": "Symlink", "x-oss-hash-crc64ecma": "1"}
    assert object_info("k", link, 1).crc64 is None  # nobody says whose it is
    bare = object_info("k", {}, 0)
    assert (bare.etag, bare.crc64, bare.last_modified, bare.object_type) == ("", None, 0, "Normal")


def test_dates_and_ranges() -> None:
    assert http_date("nonsense") == 0
    assert content_range({"content-range": "bytes 0-0/1"}) == (0, 1, 1)
    for text in ("bytes 1-0/5", "bytes 0-5/5", "bytes -5/5", "items 0-1/5", "bytes 0-1/*", ""):
        with pytest.raises(errors.ServerFault):
            content_range({"content-range": text})
