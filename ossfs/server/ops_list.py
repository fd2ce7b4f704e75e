"""ListObjects (V1 and V2). Runs in its connection's thread; a page is one consistent view."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import quote

from ossfs.server.clock import xml_date
from ossfs.server.errors import invalid_argument
from ossfs.server.index import Entry
from ossfs.server.metadata import restore_text
from ossfs.server.model import OWNER, Answer, Request, Service
from ossfs.server.xmltext import element, escape

MAX_KEYS, DEFAULT_KEYS = 1000, 100
_OWNER_XML = f"<Owner><ID>{OWNER}</ID><DisplayName>{OWNER}</DisplayName></Owner>"


def _text(request: Request, name: str) -> str:
    value = request.params.get(name, "")
    if len(value.encode()) >= 1024:
        raise invalid_argument(f"The length of {name} must be less than 1024.", name, value[:64])
    return value


def _encode_token(key: bytes) -> str:
    """Opaque: a tiny message holding the key, in base64 with `-` for `=`."""
    size, length = bytearray(), len(key)
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    size.append(length)
    return base64.b64encode(b"\x0a" + bytes(size) + key).decode().replace("=", "-")


def _decode_token(token: str) -> bytes:
    problem = invalid_argument("The continuation token is not valid.", "continuation-token", token[:64])
    try:
        data = base64.b64decode(token.replace("-", "="), validate=True)
        # Encoding again is the whole check: one key has one token.
        key = data[2 if data[1] < 128 else 3 :]
        key.decode()
    except (binascii.Error, ValueError, IndexError):
        raise problem from None
    if _encode_token(key) != token:
        raise problem
    return key


def list_objects(service: Service, request: Request) -> Answer:
    """GET on a bucket."""
    bucket = service.index.bucket(request.bucket_name)
    second = request.params.get("list-type") == "2"
    limit = request.number("max-keys", DEFAULT_KEYS, 1, MAX_KEYS, "0015-00000402")
    prefix, delimiter = _text(request, "prefix"), _text(request, "delimiter")
    encoding = request.params.get("encoding-type", "")
    if encoding not in ("", "url"):
        raise invalid_argument("Invalid Encoding Method specified in Request.", "encoding-type", encoding)
    url = encoding == "url"

    def shown(text: str) -> str:
        return quote(text, safe="") if url else text

    lines = ["<ListBucketResult>", element("Name", bucket.name), element("Prefix", shown(prefix))]
    if second:
        token = request.params.get("continuation-token", "")
        start_after = _text(request, "start-after")
        after = _decode_token(token) if token else start_after.encode()
        lines += [element("StartAfter", shown(start_after)), element("ContinuationToken", token)]
    else:
        marker = _text(request, "marker")
        after = marker.encode()
        lines.append(element("Marker", shown(marker)))
    entries, more = service.index.scan(bucket, prefix.encode(), delimiter.encode(), after, limit)
    lines += [
        element("MaxKeys", limit),
        element("Delimiter", shown(delimiter)),
        "<EncodingType>url</EncodingType>" if url else "",
        element("IsTruncated", "true" if more else "false"),
    ]
    if more and second:
        next_token = _encode_token(entries[-1].key)
        lines.append(element("NextContinuationToken", shown(next_token)))
    elif more:
        lines.append(element("NextMarker", shown(entries[-1].key.decode())))
    if second:
        lines.append(element("KeyCount", len(entries)))
    owner = _OWNER_XML if not second or request.params.get("fetch-owner") == "true" else ""
    lines += _entry_lines(entries, url, owner, service.seconds())
    lines.append("</ListBucketResult>")
    return Answer.xml("".join(lines))


def _entry_lines(entries: list[Entry], url: bool, owner: str, now: int) -> list[str]:
    contents: list[str] = []
    prefixes: list[str] = []
    for entry in entries:
        name = entry.key.decode()
        name = quote(name, safe="") if url else escape(name)
        record = entry.record
        if record is None:
            prefixes.append(f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>")
            continue
        restore = restore_text(record, now)
        contents.append(
            f"<Contents><Key>{name}</Key><LastModified>{xml_date(record.mtime)}</LastModified>"
            f'<ETag>"{record.etag}"</ETag><Type>{record.type}</Type><Size>{record.size}</Size>'
            f"<StorageClass>{record.storage_class}</StorageClass>"
            f"{element('RestoreInfo', restore) if restore else ''}{owner}</Contents>"
        )
    return contents + prefixes
