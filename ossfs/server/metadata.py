"""Request headers to what is stored with an object, and back to answer headers. Stateless."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from urllib.parse import unquote_plus

from ossfs.server.clock import http_date
from ossfs.server.errors import OssError, invalid_argument
from ossfs.server.index import APPENDABLE, Props, Record

DEFAULT_TYPE = "application/octet-stream"
STORAGE_CLASSES = ("Standard", "IA", "Archive", "ColdArchive", "DeepColdArchive")
OBJECT_ACLS = ("default", "private", "public-read", "public-read-write")
BUCKET_ACLS = OBJECT_ACLS[1:]
ENCRYPTIONS = ("AES256", "KMS", "SM4")
MAX_META = 8 * 1024
MAX_TAGS, MAX_TAG_KEY, MAX_TAG_VALUE = 10, 128, 256

# Stored and given back as they came.
_KEPT = {
    "content-type": "Content-Type",
    "cache-control": "Cache-Control",
    "content-disposition": "Content-Disposition",
    "content-encoding": "Content-Encoding",
    "content-language": "Content-Language",
    "expires": "Expires",
    "x-oss-server-side-encryption": "x-oss-server-side-encryption",
    "x-oss-server-side-encryption-key-id": "x-oss-server-side-encryption-key-id",
    "x-oss-server-side-data-encryption": "x-oss-server-side-data-encryption",
}
_META = "x-oss-meta-"
_META_NAME = re.compile(r"[A-Za-z0-9-]+\Z")
_META_VALUE = re.compile(r"[\x20-\x7e]*\Z")
_PERSISTENT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*\Z")
_RESERVED = frozenset(
    "content-length transfer-encoding connection date server etag last-modified content-range accept-ranges "
    "content-md5 keep-alive upgrade trailer te host".split()
)


def expected_digests(headers: Mapping[str, str]) -> tuple[bytes | None, int | None]:
    """What the client says that MD5 and CRC-64 of the body are."""
    md5 = crc = None
    text = headers.get("content-md5")
    if text:
        try:
            md5 = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise OssError("InvalidDigest") from None
        if len(md5) != 16:
            raise OssError("InvalidDigest")
    text = headers.get("x-oss-hash-crc64ecma")
    if text:
        if not (text.isascii() and text.isdigit() and len(text) <= 20):
            raise invalid_argument("The CRC-64 is not a number.", "x-oss-hash-crc64ecma", text)
        crc = int(text)
    return md5, crc


def stored_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers kept with the object: standard ones, encryption, user metadata."""
    kept: dict[str, str] = {}
    total = 0
    for name, value in headers.items():
        shown = _KEPT.get(name)
        if shown is not None:
            if value:
                kept[shown] = value
        elif name.startswith(_META):
            rest = name[len(_META) :]
            if not _META_NAME.match(rest):
                raise invalid_argument(
                    "The name of the user metadata is not valid.", name, value, "0011-00000004"
                )
            if not _META_VALUE.match(value):
                raise invalid_argument(
                    "The value of the user metadata is not valid.", name, "", "0011-00000005"
                )
            total += len(rest) + len(value)
            kept[name] = value
    if total > MAX_META:
        raise invalid_argument(
            "The total size of the user metadata exceeds 8 KB.", "x-oss-meta", str(total), "0011-00000002"
        )
    if "x-oss-server-side-encryption" in kept and (kept["x-oss-server-side-encryption"] not in ENCRYPTIONS):
        raise OssError("InvalidEncryptionAlgorithmError")
    persistent = headers.get("x-oss-persistent-headers")
    if persistent:
        _add_persistent(kept, persistent)
    return kept


def _add_persistent(kept: dict[str, str], text: str) -> None:
    """`name:base64,name:base64`."""
    for item in text.split(","):
        name, _, encoded = item.strip().partition(":")
        try:
            value = base64.b64decode(encoded, validate=True).decode("ascii")
        except (binascii.Error, ValueError):
            raise invalid_argument("The header is not valid.", "x-oss-persistent-headers", item) from None
        if (
            not _PERSISTENT_NAME.match(name)
            or name.lower() in _RESERVED
            or name.lower().startswith("x-oss-")
            or not _META_VALUE.match(value)
        ):
            raise invalid_argument("The header is not valid.", "x-oss-persistent-headers", item)
        kept[name] = value


def storage_class(headers: Mapping[str, str], default: str) -> str:
    """The class asked for."""
    value = headers.get("x-oss-storage-class")
    if value is None:
        return default
    if value not in STORAGE_CLASSES:
        raise invalid_argument("The storage class is not valid.", "x-oss-storage-class", value)
    return value


def object_acl(headers: Mapping[str, str]) -> str:
    """The ACL asked for."""
    value = headers.get("x-oss-object-acl", "default")
    if value not in OBJECT_ACLS:
        raise invalid_argument("The object ACL is not valid.", "x-oss-object-acl", value)
    return value


def header_tags(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """x-oss-tagging: url-encoded k=v&k2=v2."""
    text = headers.get("x-oss-tagging")
    if not text:
        return []
    tags = []
    for item in text.split("&"):
        name, _, value = item.partition("=")
        tags.append((unquote_plus(name), unquote_plus(value)))
    return check_tags(tags)


def check_tags(tags: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Within the limits, or InvalidTag."""
    names = {name for name, _ in tags}
    if len(tags) > MAX_TAGS or len(names) != len(tags):
        raise OssError("InvalidTag", "The number of tags or their names are not valid.")
    for name, value in tags:
        if not 1 <= len(name) <= MAX_TAG_KEY or len(value) > MAX_TAG_VALUE:
            raise OssError("InvalidTag")
    return tags


def request_props(headers: Mapping[str, str]) -> Props:
    """All that a put, initiate, append or symlink stores beside the data."""
    return Props(stored_headers(headers), header_tags(headers), object_acl(headers))


def record_headers(record: Record, now: int) -> list[tuple[str, str]]:
    """The answer headers of an object, without Content-Length."""
    props = record.props
    stored = props.headers
    headers = [
        ("ETag", f'"{record.etag}"'),
        ("Last-Modified", http_date(record.mtime)),
        ("Accept-Ranges", "bytes"),
        ("x-oss-object-type", record.type),
        ("x-oss-storage-class", record.storage_class),
        ("x-oss-hash-crc64ecma", str(record.crc)),
    ]
    if "Content-Type" not in stored:
        headers.append(("Content-Type", DEFAULT_TYPE))
    headers += stored.items()
    md5 = record.md5
    if md5 is not None:
        headers.append(("Content-MD5", base64.b64encode(md5).decode()))
    if record.type == APPENDABLE:
        headers.append(("x-oss-next-append-position", str(record.size)))
    if props.tags:
        headers.append(("x-oss-tagging-count", str(len(props.tags))))
    restore = restore_text(record, now)
    if restore:
        headers.append(("x-oss-restore", restore))
    return headers


def restore_text(record: Record, now: int) -> str:
    """x-oss-restore and RestoreInfo; empty if never restored or expired."""
    restore = record.props.restore
    if restore is None or now >= restore[1]:
        return ""
    if now < restore[0]:
        return 'ongoing-request="true"'
    return f'ongoing-request="false", expiry-date="{http_date(restore[1])}"'
