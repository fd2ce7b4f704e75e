"""Of an object: tags, ACL, restoring from the archive. Each runs in its connection's thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ossfs.server.errors import OssError
from ossfs.server.index import Record
from ossfs.server.metadata import check_tags, object_acl
from ossfs.server.model import OWNER, Answer, Request, Service
from ossfs.server.xmltext import XmlError, element, parse

_DAY = 86400
TIERS = ("Expedited", "Standard", "Bulk")
"""How soon a ColdArchive object is wanted; all of them take `restore_seconds` here."""


@contextmanager
def _changing(service: Service, request: Request) -> Iterator[Record]:
    """The object, whose properties are stored at the end."""
    bucket = service.index.bucket(request.bucket_name)
    with service.database.transaction():
        record = service.index.get_existing(bucket, request.key_bytes)
        yield record
        service.index.set_props(bucket, request.key_bytes, record)


def put_tagging(service: Service, request: Request) -> Answer:
    """PUT ?tagging."""
    try:
        root = parse(request.read_body())
    except XmlError:
        raise OssError("MalformedXML") from None
    tag_set = root.find("TagSet")
    if root.name != "Tagging" or tag_set is None:
        raise OssError("MalformedXML")
    tags = check_tags([(tag.value("Key") or "", tag.value("Value") or "") for tag in tag_set.findall("Tag")])
    with _changing(service, request) as record:
        record.props.tags = tags
    return Answer()


def get_tagging(service: Service, request: Request) -> Answer:
    """GET ?tagging."""
    bucket = service.index.bucket(request.bucket_name)
    record = service.index.get_existing(bucket, request.key_bytes)
    lines = [
        f"<Tag>{element('Key', name)}{element('Value', value)}</Tag>" for name, value in record.props.tags
    ]
    return Answer.xml(f"<Tagging><TagSet>{''.join(lines)}</TagSet></Tagging>")


def delete_tagging(service: Service, request: Request) -> Answer:
    """DELETE ?tagging."""
    with _changing(service, request) as record:
        record.props.tags = []
    return Answer(204)


def put_acl(service: Service, request: Request) -> Answer:
    """PUT ?acl; unlike tags it touches LastModified."""
    acl = object_acl(request.headers)
    with _changing(service, request) as record:
        record.props.acl = acl
        record.mtime = service.seconds()
    return Answer()


def get_acl(service: Service, request: Request) -> Answer:
    """GET ?acl."""
    bucket = service.index.bucket(request.bucket_name)
    record = service.index.get_existing(bucket, request.key_bytes)
    return Answer.xml(
        f"<AccessControlPolicy><Owner><ID>{OWNER}</ID><DisplayName>{OWNER}</DisplayName></Owner>"
        f"<AccessControlList>{element('Grant', record.props.acl)}</AccessControlList></AccessControlPolicy>"
    )


def restore(service: Service, request: Request) -> Answer:
    """POST ?restore: readable after `restore_seconds` of the server's clock, for the asked days."""
    days = 1
    body = request.read_body()
    if body.strip():
        try:
            root = parse(body)
        except XmlError:
            raise OssError("MalformedXML") from None
        text = (root.value("Days") or "1").strip()
        job = root.find("JobParameters")
        if job is not None and (job.value("Tier") or "").strip() not in TIERS:
            raise OssError("MalformedXML")
        days = int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0
        if not 1 <= days <= 365:
            raise OssError("MalformedXML")
    now = service.seconds()
    with _changing(service, request) as record:
        if record.storage_class not in ("Archive", "ColdArchive", "DeepColdArchive"):
            raise OssError("OperationNotSupported")
        old = record.props.restore
        if old is not None and now < old[0]:
            raise OssError("RestoreAlreadyInProgress")
        if old is not None and now < old[1]:
            record.props.restore = (old[0], now + days * _DAY)
            return Answer()
        ready = now + service.config.restore_seconds
        record.props.restore = (ready, ready + days * _DAY)
    return Answer(202)
