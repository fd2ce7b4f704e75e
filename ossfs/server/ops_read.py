"""GetObject, HeadObject, GetObjectMeta, GetSymlink. Each runs in its connection's thread."""

from __future__ import annotations

import re
from urllib.parse import quote

from ossfs.server.clock import http_date
from ossfs.server.conditions import check_conditions, select_range
from ossfs.server.errors import OssError, invalid_argument
from ossfs.server.index import SYMLINK, Bucket, Record
from ossfs.server.metadata import record_headers
from ossfs.server.model import Answer, Content, Request, Service, is_archived, quoted

_OVERRIDES = {
    "response-content-type": "Content-Type",
    "response-content-language": "Content-Language",
    "response-expires": "Expires",
    "response-cache-control": "Cache-Control",
    "response-content-disposition": "Content-Disposition",
    "response-content-encoding": "Content-Encoding",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _resolve(service: Service, bucket: Bucket, key: bytes) -> tuple[Record, Record]:
    """(what describes the object, what holds its data): two records for a symlink. Under the lock."""
    record = service.index.get_existing(bucket, key)
    if record.type != SYMLINK:
        return record, record
    target = service.index.get(bucket, (record.props.target or "").encode())
    if target is None:
        raise OssError("SymlinkTargetNotExist")
    if target.type == SYMLINK:
        raise OssError("InvalidTargetType")
    return record, target


def _describe(request: Request, link: Record, data: Record, now: int) -> list[tuple[str, str]]:
    """Answer headers; through a symlink, the target's data in the link's clothes."""
    if link is data:
        headers = record_headers(data, now)
    else:
        view = Record(
            data.size,
            max(link.mtime, data.mtime),
            data.etag,
            data.crc,
            data.type,
            data.storage_class,
            link.props,
        )
        headers = [
            (name, SYMLINK if name == "x-oss-object-type" else value)
            for name, value in record_headers(view, now)
        ]
    for name, value in request.params.items():
        shown = _OVERRIDES.get(name)
        if shown is not None and value:
            if _CONTROL.search(value):
                raise invalid_argument("The response header is not valid.", name, "")
            headers = [pair for pair in headers if pair[0] != shown]
            headers.append((shown, value))
    return headers


def get_object(service: Service, request: Request) -> Answer:
    """GET, whole or a range."""
    bucket = service.index.bucket(request.bucket_name)
    now = service.seconds()
    with service.database.lock:
        link, data = _resolve(service, bucket, request.key_bytes)
        small = service.index.load_small(data)
        pins = () if small is not None else service.database.pin(data.extents)
    content = Content(service, data.extents, pins)
    try:
        check_conditions(request.headers, data)
        if is_archived(data, now):
            raise OssError("InvalidObjectState")
        answer = Answer(headers=_describe(request, link, data, now), length=data.size)
        wanted = request.headers.get("range")
        if wanted is not None:
            standard = request.headers.get("x-oss-range-behavior", "").lower() == "standard"
            bounds = select_range(wanted, data.size, standard=standard)
            if bounds is not None:
                answer.status = 206
                answer.start, answer.length = bounds[0], bounds[1] - bounds[0] + 1
                answer.headers.append(("Content-Range", f"bytes {bounds[0]}-{bounds[1]}/{data.size}"))
    except BaseException:
        content.close()
        raise
    if small is not None:
        answer.body = small[answer.start : answer.start + answer.length]
    else:
        answer.content = content
    return answer


def head_object(service: Service, request: Request) -> Answer:
    """HEAD: as GET, without the data (which may be archived)."""
    bucket = service.index.bucket(request.bucket_name)
    with service.database.lock:
        link, data = _resolve(service, bucket, request.key_bytes)
    check_conditions(request.headers, data)
    return Answer(headers=_describe(request, link, data, service.seconds()), length=data.size)


def get_object_meta(service: Service, request: Request) -> Answer:
    """HEAD ?objectMeta: few headers, and of a symlink itself."""
    bucket = service.index.bucket(request.bucket_name)
    record = service.index.get_existing(bucket, request.key_bytes)
    headers = [
        ("ETag", quoted(record.etag)),
        ("Last-Modified", http_date(record.mtime)),
        ("x-oss-hash-crc64ecma", str(record.crc)),
    ]
    return Answer(headers=headers, length=record.size)


def get_symlink(service: Service, request: Request) -> Answer:
    """GET ?symlink."""
    bucket = service.index.bucket(request.bucket_name)
    record = service.index.get_existing(bucket, request.key_bytes)
    if record.type != SYMLINK:
        raise OssError("NotSymlink")
    headers = record_headers(record, service.seconds())
    headers.append(("x-oss-symlink-target", quote(record.props.target or "", safe="")))
    return Answer(headers=headers)
