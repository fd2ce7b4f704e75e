"""PutObject, AppendObject, PutSymlink, CopyObject, DeleteObject, DeleteMultipleObjects.

Each runs in its connection's thread. Bodies are received outside of any lock; what they become is decided
in one transaction, so that every operation on an object is atomic.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from urllib.parse import quote, unquote

from ossfs.server.blobs import Spool
from ossfs.server.checksum import combine, crc64
from ossfs.server.clock import xml_date
from ossfs.server.conditions import check_conditions
from ossfs.server.database import pack_extents
from ossfs.server.digests import content_md5
from ossfs.server.errors import OssError, invalid_argument
from ossfs.server.index import APPENDABLE, NORMAL, SYMLINK, Bucket, Props, Record
from ossfs.server.metadata import expected_digests, header_tags, request_props, storage_class
from ossfs.server.model import Answer, Request, Service, is_archived, quoted
from ossfs.server.xmltext import XmlError, element, parse

_CONDITIONALS = {
    "if-match": "If-Match",
    "if-none-match": "If-None-Match",
    "if-modified-since": "If-Modified-Since",
    "if-unmodified-since": "If-Unmodified-Since",
}
MAX_DELETE = 1000


def encryption_headers(props: Props) -> list[tuple[str, str]]:
    """What answers to writes echo."""
    return [pair for pair in props.headers.items() if pair[0].startswith("x-oss-server-side-")]


def put_object(service: Service, request: Request) -> Answer:
    """PUT."""
    for name, shown in _CONDITIONALS.items():
        if name in request.headers:
            raise OssError("NotImplemented", Header=shown)
    index, database = service.index, service.database
    bucket = index.bucket(request.bucket_name)
    key = request.key_bytes
    props = request_props(request.headers)
    wanted_class = storage_class(request.headers, bucket.storage_class)
    forbid = request.forbids_overwrite
    index.check_overwrite(bucket, key, forbid)
    with request.spool(service, service.config.max_put_size) as blob:
        record = Record(
            blob.size,
            service.seconds(),
            blob.etag,
            blob.crc,
            NORMAL,
            wanted_class,
            props,
            pack_extents(blob.extents),
        )
        with database.transaction():
            index.check_alive(bucket)
            index.check_overwrite(bucket, key, forbid)
            database.keep(blob)
            index.put(bucket, key, record)
        blob.kept = True
    return Answer(
        headers=[
            ("ETag", quoted(record.etag)),
            ("x-oss-hash-crc64ecma", str(record.crc)),
            ("Content-MD5", base64.b64encode(blob.md5).decode()),
            *encryption_headers(props),
        ]
    )


def append_object(service: Service, request: Request) -> Answer:
    """POST ?append&position=N."""
    index, database = service.index, service.database
    bucket = index.bucket(request.bucket_name)
    key = request.key_bytes
    text = request.params.get("position")
    if text is None or text == "":
        raise OssError("MissingArgument", ArgumentName="position")
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise invalid_argument("The position is not valid.", "position", text)
    position = int(text)
    props = request_props(request.headers)
    wanted_class = storage_class(request.headers, bucket.storage_class)
    _check_append(index.get(bucket, key), position)
    with request.spool(service, service.config.max_put_size) as blob, database.transaction():
        index.check_alive(bucket)
        old = index.get(bucket, key)
        _check_append(old, position)
        if position + blob.size > service.config.max_put_size:
            raise OssError("EntityTooLarge")
        record = _appended(service, old, blob, Record(0, 0, "", 0, APPENDABLE, wanted_class, props))
        changes_acl = "x-oss-object-acl" in request.headers and record.props.acl != props.acl
        if changes_acl:
            record.props.acl = props.acl
        if old is None or blob.size or changes_acl:
            index.put(bucket, key, record)
    return Answer(
        headers=[
            ("ETag", quoted(record.etag)),
            ("x-oss-next-append-position", str(record.size)),
            ("x-oss-hash-crc64ecma", str(record.crc)),
            *encryption_headers(record.props),
        ]
    )


def _check_append(old: Record | None, position: int) -> None:
    if old is not None and old.type != APPENDABLE:
        raise OssError("ObjectNotAppendable")
    length = 0 if old is None else old.size
    if position != length:
        raise OssError("PositionNotEqualToLength", headers=[("x-oss-next-append-position", str(length))])


def _appended(service: Service, old: Record | None, blob: Spool, fresh: Record) -> Record:
    """The object with the blob behind it; the blob is kept if it is used. Within the transaction."""
    if old is not None and not blob.size:
        return old
    base = fresh if old is None else old
    size, crc = base.size + blob.size, combine(base.crc, blob.crc, blob.size)
    now = service.seconds()
    extents = base.extents
    last = extents[-1] if extents else None
    tail = blob
    if last is not None and last.blob & 1 and blob.data is not None:
        # Small appends are gathered: an object of a million lines must not become a million blobs.
        data = service.database.inline_data(last.blob)[last.offset : last.offset + last.length] + blob.data
        if len(data) <= service.config.inline_size:
            tail = service.database.files.from_bytes(data)
            extents = extents[:-1]
    service.database.keep(tail)
    blob.kept = tail is blob
    etag = (crc.to_bytes(8, "little") + now.to_bytes(8, "little")).hex().upper()
    return Record(
        size, now, etag, crc, APPENDABLE, base.storage_class, base.props, pack_extents(extents + tail.extents)
    )


def put_symlink(service: Service, request: Request) -> Answer:
    """PUT ?symlink."""
    index = service.index
    bucket = index.bucket(request.bucket_name)
    target = unquote(request.headers.get("x-oss-symlink-target", ""), errors="replace")
    if not 1 <= len(target.encode()) <= 1023:
        raise invalid_argument("The symlink target is not valid.", "x-oss-symlink-target", target)
    props = request_props(request.headers)
    props.target = target
    data = target.encode()
    etag = hashlib.md5(data, usedforsecurity=False).hexdigest().upper()
    wanted_class = storage_class(request.headers, bucket.storage_class)
    record = Record(len(data), service.seconds(), etag, crc64(data), SYMLINK, wanted_class, props)
    with service.database.transaction():
        index.check_alive(bucket)
        index.check_overwrite(bucket, request.key_bytes, request.forbids_overwrite)
        index.put(bucket, request.key_bytes, record)
    return Answer(headers=[("ETag", quoted(etag))])


def copy_source(request: Request) -> tuple[str, bytes]:
    """(bucket, key) of x-oss-copy-source."""
    text = request.headers.get("x-oss-copy-source", "")
    path, _, version = text.partition("?")
    bucket, _, key = unquote(path, errors="replace").removeprefix("/").partition("/")
    if not text.startswith("/") or not bucket or not key:
        raise invalid_argument(
            "Copy Source must mention the source bucket and key.", "x-oss-copy-source", text
        )
    if version and version not in ("versionId=null", "versionId="):
        raise OssError("NoSuchVersion")
    return bucket, key.encode()


def source_conditions(headers: Mapping[str, str], record: Record) -> None:
    """x-oss-copy-source-if-*."""
    check_conditions(headers, record, "x-oss-copy-source-")


def copy_object(service: Service, request: Request) -> Answer:
    """PUT with x-oss-copy-source: no data moves."""
    index, database = service.index, service.database
    bucket = index.bucket(request.bucket_name)
    key = request.key_bytes
    source_name, source_key = copy_source(request)
    source_bucket = index.bucket(source_name)
    source = index.get_existing(source_bucket, source_key)
    digest = None
    if source.type == APPENDABLE:
        digest = content_md5(service, source_bucket, source_key)
    with database.transaction():
        index.check_alive(bucket)
        current = index.get_existing(source_bucket, source_key)
        if current.type == APPENDABLE and current.etag != source.etag:
            # It grew while it was hashed: rare enough to hash it here.
            digest = content_md5(service, source_bucket, source_key)
        source_conditions(request.headers, current)
        if is_archived(current, service.seconds()):
            raise OssError("InvalidObjectState")
        index.check_overwrite(bucket, key, request.forbids_overwrite)
        same_object = source_bucket.id == bucket.id and source_key == key
        record = _copied(service, request, bucket, current, same_object)
        if digest is not None and current.type == APPENDABLE:
            record.etag = digest.hex().upper()
        _check_copy_size(service, current, record, source_bucket.id == bucket.id)
        index.put(bucket, key, record)
    document = (
        "<CopyObjectResult>"
        + element("ETag", quoted(record.etag))
        + element("LastModified", xml_date(record.mtime))
        + "</CopyObjectResult>"
    )
    answer = Answer.xml(document)
    answer.headers += [("ETag", quoted(record.etag)), ("x-oss-hash-crc64ecma", str(record.crc))]
    answer.headers += encryption_headers(record.props)
    return answer


def _copied(service: Service, request: Request, bucket: Bucket, source: Record, same_object: bool) -> Record:
    headers = request.headers
    directive = headers.get("x-oss-metadata-directive", "COPY").upper()
    tagging = headers.get("x-oss-tagging-directive", "Copy").upper()
    for name, value in (("x-oss-metadata-directive", directive), ("x-oss-tagging-directive", tagging)):
        if value not in ("COPY", "REPLACE"):
            raise invalid_argument("The directive is not valid.", name, value)
    asked = request_props(headers)
    if directive == "COPY" and not same_object:
        # Encryption is what the request says, or none: COPY does not take the source's over.
        own = dict(encryption_headers(source.props))
        kept = {name: value for name, value in source.props.headers.items() if name not in own}
        kept.update(encryption_headers(asked))
        asked.headers = kept
    asked.tags = header_tags(headers) if tagging == "REPLACE" else list(source.props.tags)
    asked.target = source.props.target
    kind = SYMLINK if source.type == SYMLINK else NORMAL
    wanted_class = storage_class(headers, bucket.storage_class)
    return Record(
        source.size, service.seconds(), source.etag, source.crc, kind, wanted_class, asked, source.packed
    )


def _check_copy_size(service: Service, source: Record, copy: Record, same_bucket: bool) -> None:
    """Only what needs no new data may be big."""
    changed = source.storage_class != copy.storage_class or encryption_headers(
        source.props
    ) != encryption_headers(copy.props)
    config = service.config
    if (changed and source.size > config.max_changed_copy) or (
        not same_bucket and source.size > config.max_foreign_copy
    ):
        raise OssError("EntityTooLarge", "The source object is too large to be copied.")


def delete_object(service: Service, request: Request) -> Answer:
    """DELETE: 204, whether it was there or not."""
    bucket = service.index.bucket(request.bucket_name)
    service.index.delete(bucket, [request.key_bytes])
    return Answer(204)


def delete_multiple(service: Service, request: Request) -> Answer:
    """POST ?delete."""
    bucket = service.index.bucket(request.bucket_name)
    quiet, keys = _parse_delete(request)
    service.index.delete(bucket, [key.encode() for key in keys])
    if quiet:
        return Answer()
    url = request.params.get("encoding-type") == "url"
    lines = ["<DeleteResult>"]
    if url:
        lines.append("<EncodingType>url</EncodingType>")
    for key in keys:
        lines.append(f"<Deleted>{element('Key', quote(key, safe='') if url else key)}</Deleted>")
    lines.append("</DeleteResult>")
    return Answer.xml("".join(lines))


def _parse_delete(request: Request) -> tuple[bool, list[str]]:
    body = request.read_body()
    md5, _ = expected_digests(request.headers)
    if md5 is not None and md5 != hashlib.md5(body, usedforsecurity=False).digest():
        raise OssError("InvalidDigest")
    try:
        root = parse(body)
    except XmlError:
        raise OssError("MalformedXML") from None
    objects = root.findall("Object")
    if root.name != "Delete" or not 1 <= len(objects) <= MAX_DELETE:
        raise OssError("MalformedXML")
    keys = []
    for node in objects:
        key = node.value("Key")
        if not key or not 1 <= len(key.encode()) <= 1023:
            raise OssError("MalformedXML")
        keys.append(key)
    return (root.value("Quiet") or "").strip().lower() == "true", keys
