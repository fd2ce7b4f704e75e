"""Conditional headers and ranges, decided on plain values. Stateless."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ossfs.server.clock import http_date, parse_http_date
from ossfs.server.errors import OssError
from ossfs.server.index import Record

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})\Z")


def check_conditions(headers: Mapping[str, str], record: Record, prefix: str = "") -> None:
    """PreconditionFailed or NotModified, by If-* headers (`prefix` for those of a copy's source)."""
    match = headers.get(prefix + "if-match")
    if match is not None and match.strip('"') != record.etag:
        raise OssError("PreconditionFailed", Condition="If-Match")
    since = parse_http_date(headers.get(prefix + "if-unmodified-since", ""))
    if since is not None and record.mtime > since:
        raise OssError("PreconditionFailed", Condition="If-Unmodified-Since")
    state = (("ETag", f'"{record.etag}"'), ("Last-Modified", http_date(record.mtime)))
    none_match = headers.get(prefix + "if-none-match")
    if none_match is not None and none_match.strip('"') == record.etag:
        raise OssError("NotModified", headers=state)
    since = parse_http_date(headers.get(prefix + "if-modified-since", ""))
    if since is not None and record.mtime <= since:
        raise OssError("NotModified", headers=state)


def select_range(text: str, size: int, *, standard: bool) -> tuple[int, int] | None:
    """(first, last) to answer with 206, None to answer the whole with 200, or InvalidRange."""
    if "," in text:
        # Sources differ on several ranges: a refusal is what no client can mistake for its data.
        raise _invalid_range(text, size)
    match = _RANGE.match(text.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        return _suffix(text, int(match[2]), size, standard)
    first = int(match[1])
    last = int(match[2]) if match[2] else max(first, size - 1)
    if first > last:
        return None
    if first >= size:
        if standard:
            raise _invalid_range(text, size)
        return None
    if last >= size:
        return (first, size - 1) if standard else None
    return first, last


def _suffix(text: str, count: int, size: int, standard: bool) -> tuple[int, int] | None:
    if not size:
        if standard:
            raise _invalid_range(text, size)
        return None
    if not count:
        raise _invalid_range(text, size)
    if count > size:
        return (0, size - 1) if standard else None
    return size - count, size - 1


def _invalid_range(text: str, size: int) -> OssError:
    return OssError(
        "InvalidRange",
        headers=[("Content-Range", f"bytes */{size}")],
        ActualObjectSize=str(size),
        RangeRequested=text,
    )
