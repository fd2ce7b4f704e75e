"""What the service answers, as records and errors.

Threading: pure functions; run in worker threads.

Errors are decided by status and code (documentation, "Error responses"), never by their message.  A
HEAD has no body: its error comes base64-encoded in x-oss-err, and where a server leaves that out the
status alone has to do.
"""

from __future__ import annotations

import base64
import binascii
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

from ossfs import errors
from ossfs.errors import ServerFault, StoreError
from ossfs.store.base import ObjectHeaders, ObjectInfo, PutResult
from ossfs.store.connection import natural
from ossfs.store.listing import parse_xml

_WRONG_ENDPOINT_EC: Final = "0003-00001403"
"""AccessDenied because the bucket lives elsewhere has no code of its own."""

_BY_CODE: Final[dict[str, type[StoreError]]] = {
    "NoSuchKey": errors.NotFound,
    "NoSuchVersion": errors.NotFound,
    "SymlinkTargetNotExist": errors.DanglingSymlink,
    "NoSuchBucket": errors.NoSuchBucket,
    "NoSuchUpload": errors.NoSuchUpload,
    "InvalidAccessKeyId": errors.InvalidAccessKey,
    "SignatureDoesNotMatch": errors.SignatureMismatch,
    "RequestTimeTooSkewed": errors.ClockSkewed,
    "SecurityTokenExpired": errors.TokenExpired,
    "InvalidSecurityToken": errors.TokenExpired,
    "PermanentRedirect": errors.WrongRegion,
    "InvalidObjectState": errors.ObjectArchived,
    "FileAlreadyExists": errors.AlreadyExists,
    "ObjectAlreadyExists": errors.AlreadyExists,
    "FileImmutable": errors.ObjectImmutable,
    "ObjectNotAppendable": errors.ObjectImmutable,
    "StaleFile": errors.ServerFault,  # "retry", says its page
    "EntityTooLarge": errors.TooLarge,
    "RequestTimeout": errors.RequestTimeout,
    "PreconditionFailed": errors.PreconditionFailed,
    "NotModified": errors.NotModified,
    "InvalidRange": errors.InvalidRange,
    "InvalidDigest": errors.ChecksumMismatch,
    "InvalidCRC64": errors.ChecksumMismatch,
}

_BY_STATUS: Final[dict[int, type[StoreError]]] = {
    304: errors.NotModified,
    401: errors.AccessDenied,
    403: errors.AccessDenied,
    404: errors.NotFound,
    408: errors.RequestTimeout,
    409: errors.Conflict,
    412: errors.PreconditionFailed,
    413: errors.TooLarge,
    416: errors.InvalidRange,
    429: errors.Throttled,
}

_THROTTLES: Final = frozenset(
    {
        "QpsLimitExceeded",
        "TotalQpsLimitExceeded",
        "DownloadTrafficRateLimitExceeded",
        "UploadTrafficRateLimitExceeded",
        "MetaOperationQpsLimitExceeded",
        "ActiveRequestLimitExceeded",
        "CpuLimitExceeded",
    }
)

_WRONG_SIGNING_REGION_EC: Final = "0002-00000226"

_MAX_ERROR: Final = 64 * 1024


def error_from(status: int, headers: dict[str, str], body: bytes) -> StoreError:
    """The error that an answer of status 300 or above means."""
    details: dict[str, str] = {}
    document = body
    if not document and "x-oss-err" in headers:
        try:
            document = base64.b64decode(headers["x-oss-err"], validate=True)
        except (binascii.Error, ValueError):
            document = b""
    if document and len(document) <= _MAX_ERROR:
        try:
            root = parse_xml(document)
        except ServerFault:
            pass  # a proxy's page: the status has to do
        else:
            if root.tag == "Error":
                details = {element.tag: element.text or "" for element in root}
    code = details.get("Code", "")
    ec = details.get("EC", "") or headers.get("x-oss-ec", "")
    error = _class_of(status, code, ec, "Endpoint" in details)(
        details.get("Message", "") or code or f"HTTP status {status}",
        status=status,
        code=code,
        ec=ec,
        request_id=headers.get("x-oss-request-id", "") or details.get("RequestId", ""),
    )
    error.server_date = http_date(headers.get("date", ""))
    after = headers.get("retry-after", "")
    if after.isascii() and after.isdigit():
        error.retry_after = float(after)
    return error


def _class_of(status: int, code: str, ec: str, names_endpoint: bool) -> type[StoreError]:
    if code == "AccessDenied" and (names_endpoint or ec == _WRONG_ENDPOINT_EC):
        return errors.WrongRegion
    if ec == _WRONG_SIGNING_REGION_EC or (301 <= status <= 308 and status != 304):
        return errors.WrongRegion
    if code in _BY_CODE:
        return _BY_CODE[code]
    if code in _THROTTLES:
        return errors.Throttled
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status >= 500:
        return errors.ServerFault
    return errors.InvalidRequest


@lru_cache(maxsize=256)
def http_date(text: str) -> int:
    """An RFC 1123 date as unix seconds; 0 when it is none."""
    try:
        return int(parsedate_to_datetime(text).timestamp())
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0


def _number(headers: dict[str, str], name: str) -> int | None:
    """A header of up to 64 bits; None for all else."""
    value = headers.get(name, "")
    number = int(value) if value.isascii() and value.isdigit() and len(value) <= 20 else -1
    return number if 0 <= number < 1 << 64 else None


def crc_of(headers: dict[str, str]) -> int | None:
    """x-oss-hash-crc64ecma, which very old objects lack."""
    return _number(headers, "x-oss-hash-crc64ecma")


def etag_of(headers: dict[str, str]) -> str:
    """The ETag without its quotes."""
    return headers.get("etag", "").strip('"')


_META: Final = "x-oss-meta-"


def object_info(key: str, headers: dict[str, str], size: int) -> ObjectInfo:
    """What the headers of a HEAD or GET say.  size: of the whole object, in bytes."""
    get = headers.get
    storage_class = get("x-oss-storage-class", "Standard")
    object_type = get("x-oss-object-type", "Normal")
    kept = ObjectHeaders(
        meta={name[len(_META) :]: value for name, value in headers.items() if name.startswith(_META)},
        content_type=get("content-type"),
        cache_control=get("cache-control"),
        content_disposition=get("content-disposition"),
        content_encoding=get("content-encoding"),
        content_language=get("content-language"),
        expires=get("expires"),
        storage_class=storage_class,
        encryption=get("x-oss-server-side-encryption"),
        encryption_key_id=get("x-oss-server-side-encryption-key-id"),
        data_encryption=get("x-oss-server-side-data-encryption"),
    )
    return ObjectInfo(
        key=key,
        size=size,
        etag=etag_of(headers),
        last_modified=http_date(get("last-modified", "")),
        server_date=http_date(get("date", "")),
        # Of a symlink the body is the target's and most headers are the link's: whose CRC is not said.
        crc64=crc_of(headers) if object_type != "Symlink" else None,
        object_type=object_type,
        storage_class=storage_class,
        headers=kept,
        tag_count=_number(headers, "x-oss-tagging-count") or 0,
        restore=get("x-oss-restore"),
        version_id=get("x-oss-version-id"),
    )


def put_result(headers: dict[str, str], etag: str = "", last_modified: int | None = None) -> PutResult:
    """What the headers of a put, copy or complete say; *etag* from the body when there is one."""
    return PutResult(
        etag=etag or etag_of(headers),
        crc64=crc_of(headers),
        server_date=http_date(headers.get("date", "")),
        last_modified=last_modified,
        version_id=headers.get("x-oss-version-id"),
    )


def content_range(headers: dict[str, str]) -> tuple[int, int, int]:
    """First byte, one past the last byte, and whole size, of a 206's Content-Range.

    Raises ServerFault for anything else than `bytes a-b/n`.
    """
    text = headers.get("content-range", "")
    unit, _, rest = text.partition(" ")
    span, _, size = rest.partition("/")
    first, _, last = span.partition("-")
    start, end, whole = natural(first), natural(last), natural(size)
    if start is None or end is None or whole is None:
        raise ServerFault(f"Content-Range is {text[:60]!r}")
    end += 1
    if unit != "bytes" or not 0 <= start < end <= whole:
        raise ServerFault(f"Content-Range is {text[:60]!r}")
    return start, end, whole
