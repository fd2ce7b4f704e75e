"""Multipart uploads: Initiate, UploadPart, UploadPartCopy, Complete, Abort, and the two listings.

Each runs in its connection's thread. Complete moves no data: the object becomes the row of its parts'
extents.
"""

from __future__ import annotations

import base64
import hashlib
import re
from itertools import pairwise
from urllib.parse import quote

from ossfs.server.blobs import Extent
from ossfs.server.checksum import combine
from ossfs.server.clock import xml_date
from ossfs.server.database import pack_extents
from ossfs.server.digests import content_digests, cut, join
from ossfs.server.errors import OssError, invalid_argument
from ossfs.server.index import MULTIPART, Bucket, Record
from ossfs.server.metadata import request_props, storage_class
from ossfs.server.model import Answer, Request, Service, is_archived, quoted
from ossfs.server.ops_write import copy_source, encryption_headers, source_conditions
from ossfs.server.uploads import Part, Upload
from ossfs.server.xmltext import XmlError, element, parse

MAX_PART_NUMBER = 10000
_COPY_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{1,18})\Z")


def initiate(service: Service, request: Request) -> Answer:
    """POST ?uploads."""
    index = service.index
    bucket = index.bucket(request.bucket_name)
    props = request_props(request.headers)
    wanted_class = storage_class(request.headers, bucket.storage_class)
    index.check_overwrite(bucket, request.key_bytes, request.forbids_overwrite)
    upload_id = service.uploads.create(
        bucket, request.key_bytes, service.seconds(), wanted_class, props, "sequential" in request.params
    )
    url = request.params.get("encoding-type") == "url"
    document = (
        "<InitiateMultipartUploadResult>"
        + ("<EncodingType>url</EncodingType>" if url else "")
        + element("Bucket", bucket.name)
        + element("Key", quote(request.key, safe="") if url else request.key)
        + element("UploadId", upload_id)
        + "</InitiateMultipartUploadResult>"
    )
    answer = Answer.xml(document)
    answer.headers += encryption_headers(props)
    return answer


def _part_number(request: Request) -> int:
    text = request.params.get("partNumber", "")
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    if not 1 <= value <= MAX_PART_NUMBER:
        raise invalid_argument("Part number must be an integer between 1 and 10000.", "partNumber", text)
    return value


def upload_part(service: Service, request: Request) -> Answer:
    """PUT ?partNumber=n&uploadId=id."""
    bucket = service.index.bucket(request.bucket_name)
    number = _part_number(request)
    upload_id = request.params["uploadId"]
    service.uploads.get(bucket, request.key_bytes, upload_id)
    with request.spool(service, service.config.max_part_size) as blob:
        part = Part(number, blob.size, service.seconds(), blob.etag, blob.crc, blob.extents)
        with service.database.transaction():
            # Again: it may have been completed or aborted meanwhile.
            upload = service.uploads.get(bucket, request.key_bytes, upload_id)
            service.database.keep(blob)
            service.uploads.put_part(upload, part)
        blob.kept = True
    return Answer(
        headers=[
            ("ETag", quoted(part.etag)),
            ("x-oss-hash-crc64ecma", str(part.crc)),
            ("Content-MD5", base64.b64encode(blob.md5).decode()),
            *encryption_headers(upload.props),
        ]
    )


def upload_part_copy(service: Service, request: Request) -> Answer:
    """The same with x-oss-copy-source: the data is read once for its MD5, and not written."""
    index, database = service.index, service.database
    bucket = index.bucket(request.bucket_name)
    number = _part_number(request)
    upload_id = request.params["uploadId"]
    service.uploads.get(bucket, request.key_bytes, upload_id)
    source_name, source_key = copy_source(request)
    source_bucket = index.bucket(source_name)
    with database.lock:
        source = index.get_existing(source_bucket, source_key)
        pins = database.pin(source.extents)
    try:
        source_conditions(request.headers, source)
        if is_archived(source, service.seconds()):
            raise OssError("InvalidObjectState")
        first, last = _copy_bounds(request.headers.get("x-oss-copy-source-range", ""), source.size)
        length = last - first + 1
        if length > service.config.max_part_size:
            raise OssError("EntityTooLarge")
        extents = cut(source.extents, first, length)
        md5, crc = content_digests(service, extents)
        part = Part(number, length, service.seconds(), md5.hex().upper(), crc, extents)
        with database.transaction():
            # The pins hold the blobs, even if the source was deleted meanwhile.
            upload = service.uploads.get(bucket, request.key_bytes, upload_id)
            service.uploads.put_part(upload, part)
    finally:
        database.unpin(pins)
    answer = Answer.xml(
        "<CopyPartResult>"
        + element("LastModified", xml_date(part.mtime))
        + element("ETag", quoted(part.etag))
        + "</CopyPartResult>"
    )
    answer.headers += [("ETag", quoted(part.etag)), ("x-oss-hash-crc64ecma", str(crc))]
    return answer


def _copy_bounds(text: str, size: int) -> tuple[int, int]:
    """An invalid range means the whole source."""
    match = _COPY_RANGE.match(text.strip())
    if match is not None:
        first, last = int(match[1]), int(match[2])
        if first <= last < size:
            return first, last
    return 0, size - 1


def complete(service: Service, request: Request) -> Answer:
    """POST ?uploadId=id."""
    index, database, uploads = service.index, service.database, service.uploads
    bucket = index.bucket(request.bucket_name)
    key = request.key_bytes
    body = request.read_body()
    everything = request.headers.get("x-oss-complete-all", "").lower() == "yes"
    if everything and body:
        raise invalid_argument(
            "The x-oss-complete-all header and a part list can't be given together.",
            "x-oss-complete-all",
            "yes",
            "0042-00000216",
        )
    listed = None if everything else _parse_complete(body)
    with database.transaction():
        index.check_alive(bucket)
        upload = uploads.get(bucket, key, request.params["uploadId"])
        parts = _chosen(uploads.parts(upload), listed)
        for part in parts[:-1]:
            if part.size < service.config.min_part_size:
                raise OssError(
                    "EntityTooSmall",
                    ProposedSize=str(part.size),
                    MinSizeAllowed=str(service.config.min_part_size),
                    PartNumber=str(part.number),
                    ETag=part.etag,
                )
        index.check_overwrite(bucket, key, request.forbids_overwrite)
        record = _joined(service, upload, parts)
        index.put(bucket, key, record)
        uploads.remove(upload)
    url = request.params.get("encoding-type") == "url"
    document = (
        "<CompleteMultipartUploadResult>"
        + ("<EncodingType>url</EncodingType>" if url else "")
        + element("Location", f"http://{request.host}/{quote(request.key, safe='')}")
        + element("Bucket", bucket.name)
        + element("Key", quote(request.key, safe="") if url else request.key)
        + element("ETag", quoted(record.etag))
        + "</CompleteMultipartUploadResult>"
    )
    answer = Answer.xml(document)
    answer.headers += [("ETag", quoted(record.etag)), ("x-oss-hash-crc64ecma", str(record.crc))]
    answer.headers += encryption_headers(record.props)
    return answer


def _parse_complete(body: bytes) -> list[tuple[int, str]]:
    try:
        root = parse(body)
    except XmlError:
        raise OssError("MalformedXML", ec="0042-00000205") from None
    listed = []
    for node in root.findall("Part"):
        number, etag = (node.value("PartNumber") or "").strip(), (node.value("ETag") or "").strip()
        if not (number.isascii() and number.isdigit() and len(number) < 10) or not etag:
            raise OssError("MalformedXML", ec="0042-00000205")
        if not 1 <= int(number) <= MAX_PART_NUMBER:
            raise OssError("InvalidPartOrder")
        listed.append((int(number), etag.strip('"')))
    if root.name != "CompleteMultipartUpload" or not listed:
        raise OssError("MalformedXML", ec="0042-00000205")
    if any(a[0] >= b[0] for a, b in pairwise(listed)):
        raise OssError("InvalidPartOrder")
    return listed


def _chosen(parts: list[Part], listed: list[tuple[int, str]] | None) -> list[Part]:
    if listed is None:
        if not parts:
            raise OssError("InvalidPart")
        return parts
    by_number = {part.number: part for part in parts}
    chosen = []
    for number, etag in listed:
        part = by_number.get(number)
        if part is None or part.etag != etag.upper():
            raise OssError("InvalidPart", PartNumber=str(number), ETag=etag)
        chosen.append(part)
    return chosen


def _joined(service: Service, upload: Upload, parts: list[Part]) -> Record:
    size = crc = 0
    extents: list[Extent] = []
    etags = hashlib.md5(usedforsecurity=False)
    for part in parts:
        join(extents, part.extents)
        crc = combine(crc, part.crc, part.size)
        size += part.size
        # OSS hashes the hexadecimal text, where S3 hashes the bytes.
        etags.update(part.etag.encode())
    etag = f"{etags.hexdigest().upper()}-{len(parts)}"
    return Record(
        size,
        service.seconds(),
        etag,
        crc,
        MULTIPART,
        upload.storage_class,
        upload.props,
        pack_extents(extents),
    )


def abort(service: Service, request: Request) -> Answer:
    """DELETE ?uploadId=id."""
    bucket = service.index.bucket(request.bucket_name)
    with service.database.transaction():
        service.uploads.remove(service.uploads.get(bucket, request.key_bytes, request.params["uploadId"]))
    return Answer(204)


def list_uploads(service: Service, request: Request) -> Answer:
    """GET ?uploads."""
    bucket = service.index.bucket(request.bucket_name)
    params = request.params
    prefix, delimiter = params.get("prefix", ""), params.get("delimiter", "")
    key_marker, id_marker = params.get("key-marker", ""), params.get("upload-id-marker", "")
    limit = request.number("max-uploads", 1000, 1, 1000)
    url = params.get("encoding-type") == "url"

    def shown(text: str) -> str:
        return quote(text, safe="") if url else text

    found, more = service.uploads.scan(
        bucket, prefix.encode(), delimiter.encode(), (key_marker.encode(), id_marker), limit
    )
    next_key = next_id = ""
    if more:
        last_key, last = found[-1]
        next_key, next_id = last_key.decode(), "" if last is None else last.id
    lines = [
        "<ListMultipartUploadsResult>",
        "<EncodingType>url</EncodingType>" if url else "",
        element("Bucket", bucket.name),
        element("KeyMarker", shown(key_marker)),
        element("UploadIdMarker", id_marker),
        element("NextKeyMarker", shown(next_key)),
        element("NextUploadIdMarker", next_id),
        element("Delimiter", shown(delimiter)),
        element("Prefix", shown(prefix)),
        element("MaxUploads", limit),
        element("IsTruncated", "true" if more else "false"),
    ]
    for key, upload in found:
        name = shown(key.decode())
        if upload is None:
            lines.append(f"<CommonPrefixes>{element('Prefix', name)}</CommonPrefixes>")
        else:
            lines.append(
                f"<Upload>{element('Key', name)}{element('UploadId', upload.id)}"
                f"{element('StorageClass', upload.storage_class)}"
                f"{element('Initiated', xml_date(upload.initiated))}</Upload>"
            )
    lines.append("</ListMultipartUploadsResult>")
    return Answer.xml("".join(lines))


def list_parts(service: Service, request: Request) -> Answer:
    """GET ?uploadId=id."""
    bucket: Bucket = service.index.bucket(request.bucket_name)
    limit = request.number("max-parts", 1000, 1, 1000)
    marker = request.number("part-number-marker", 0, 0, 1 << 31)
    url = request.params.get("encoding-type") == "url"
    with service.database.lock:
        upload = service.uploads.get(bucket, request.key_bytes, request.params["uploadId"])
        parts = service.uploads.parts(upload, marker, limit + 1)
    more, parts = len(parts) > limit, parts[:limit]
    lines = [
        "<ListPartsResult>",
        "<EncodingType>url</EncodingType>" if url else "",
        element("Bucket", bucket.name),
        element("Key", quote(request.key, safe="") if url else request.key),
        element("UploadId", upload.id),
        element("StorageClass", upload.storage_class),
        element("PartNumberMarker", marker),
        element("NextPartNumberMarker", parts[-1].number if parts else marker),
        element("MaxParts", limit),
        element("IsTruncated", "true" if more else "false"),
    ]
    for part in parts:
        lines.append(
            f"<Part>{element('PartNumber', part.number)}{element('LastModified', xml_date(part.mtime))}"
            f"{element('ETag', quoted(part.etag))}{element('HashCrc64ecma', part.crc)}"
            f"{element('Size', part.size)}</Part>"
        )
    lines.append("</ListPartsResult>")
    return Answer.xml("".join(lines))
