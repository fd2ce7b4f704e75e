"""Buckets: GetService, PutBucket, DeleteBucket, and what is read of one. Each in its connection's thread."""

from __future__ import annotations

import re

from ossfs.server.clock import xml_date
from ossfs.server.errors import OssError, invalid_argument
from ossfs.server.index import Bucket
from ossfs.server.metadata import BUCKET_ACLS, STORAGE_CLASSES
from ossfs.server.model import OWNER, Answer, Request, Service
from ossfs.server.xmltext import XmlError, element, parse

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]\Z")
_OWNER_XML = f"<Owner><ID>{OWNER}</ID><DisplayName>{OWNER}</DisplayName></Owner>"


def is_bucket_name(name: str) -> bool:
    """By the naming rules."""
    return _NAME.match(name) is not None


def _description(service: Service, bucket: Bucket) -> str:
    return (
        element("Name", bucket.name)
        + element("Location", service.location)
        + element("CreationDate", xml_date(bucket.created))
        + element("ExtranetEndpoint", service.endpoint)
        + element("IntranetEndpoint", service.endpoint)
        + element("StorageClass", bucket.storage_class)
    )


def list_buckets(service: Service, request: Request) -> Answer:
    """GET on the service."""
    prefix, marker = request.params.get("prefix", ""), request.params.get("marker", "")
    limit = request.number("max-keys", 100, 1, 1000)
    found = [
        bucket
        for bucket in service.index.buckets()
        if bucket.name.startswith(prefix) and bucket.name > marker
    ]
    more, found = len(found) > limit, found[:limit]
    lines = [
        "<ListAllMyBucketsResult>",
        element("Prefix", prefix),
        element("Marker", marker),
        element("MaxKeys", limit),
        element("IsTruncated", "true" if more else "false"),
        element("NextMarker", found[-1].name if more else ""),
        _OWNER_XML,
        "<Buckets>",
    ]
    for bucket in found:
        region = element("Region", service.config.region)
        lines.append(f"<Bucket>{_description(service, bucket)}{region}</Bucket>")
    lines.append("</Buckets></ListAllMyBucketsResult>")
    return Answer.xml("".join(lines))


def put_bucket(service: Service, request: Request) -> Answer:
    """PUT on a bucket."""
    if not is_bucket_name(request.bucket_name):
        raise OssError("InvalidBucketName", BucketName=request.bucket_name)
    acl = _bucket_acl(request, "private")
    storage_class = request.headers.get("x-oss-storage-class") or "Standard"
    body = request.read_body()
    if body.strip():
        try:
            root = parse(body)
        except XmlError:
            raise OssError("MalformedXML") from None
        storage_class = (root.value("StorageClass") or storage_class).strip()
    if storage_class not in STORAGE_CLASSES:
        raise invalid_argument("The storage class is not valid.", "StorageClass", storage_class)
    service.index.put_bucket(request.bucket_name, service.seconds(), acl, storage_class)
    return Answer(headers=[("Location", f"/{request.bucket_name}")])


def _bucket_acl(request: Request, default: str) -> str:
    acl = request.headers.get("x-oss-acl") or default
    if acl not in BUCKET_ACLS:
        raise invalid_argument("The bucket ACL is not valid.", "x-oss-acl", acl)
    return acl


def delete_bucket(service: Service, request: Request) -> Answer:
    """DELETE on an empty bucket."""
    service.index.delete_bucket(service.index.bucket(request.bucket_name))
    return Answer(204)


def put_bucket_acl(service: Service, request: Request) -> Answer:
    """PUT ?acl."""
    bucket = service.index.bucket(request.bucket_name)
    acl = _bucket_acl(request, bucket.acl)
    service.index.put_bucket(bucket.name, bucket.created, acl, bucket.storage_class)
    return Answer()


def head_bucket(service: Service, request: Request) -> Answer:
    """HEAD on a bucket: not a documented call; tells whether there is one."""
    service.index.bucket(request.bucket_name)
    return Answer()


def _grant(acl: str) -> str:
    return f"<AccessControlList>{element('Grant', acl)}</AccessControlList>"


def bucket_info(service: Service, request: Request) -> Answer:
    """GET ?bucketInfo."""
    bucket = service.index.bucket(request.bucket_name)
    return Answer.xml(
        "<BucketInfo><Bucket>"
        "<AccessMonitor>Disabled</AccessMonitor><Comment></Comment>"
        "<CrossRegionReplication>Disabled</CrossRegionReplication>"
        "<DataRedundancyType>LRS</DataRedundancyType><ResourceGroupId></ResourceGroupId>"
        "<TransferAcceleration>Disabled</TransferAcceleration>"
        f"{_description(service, bucket)}{_OWNER_XML}{_grant(bucket.acl)}"
        "<ServerSideEncryptionRule><SSEAlgorithm>None</SSEAlgorithm></ServerSideEncryptionRule>"
        "<BucketPolicy><LogBucket></LogBucket><LogPrefix></LogPrefix></BucketPolicy>"
        "<BlockPublicAccess>false</BlockPublicAccess>"
        "</Bucket></BucketInfo>"
    )


def bucket_location(service: Service, request: Request) -> Answer:
    """GET ?location."""
    service.index.bucket(request.bucket_name)
    return Answer.xml(element("LocationConstraint", service.location))


def bucket_acl(service: Service, request: Request) -> Answer:
    """GET ?acl."""
    bucket = service.index.bucket(request.bucket_name)
    return Answer.xml(f"<AccessControlPolicy>{_OWNER_XML}{_grant(bucket.acl)}</AccessControlPolicy>")


def bucket_versioning(service: Service, request: Request) -> Answer:
    """GET ?versioning: never enabled here."""
    service.index.bucket(request.bucket_name)
    return Answer.xml("<VersioningConfiguration></VersioningConfiguration>")


def bucket_stat(service: Service, request: Request) -> Answer:
    """GET ?stat."""
    bucket = service.index.bucket(request.bucket_name)
    with service.database.lock:
        totals = {name: (count, size) for name, count, size in service.index.totals(bucket)}
        uploads = service.uploads.count(bucket)
        parts, part_bytes = service.uploads.part_totals(bucket)
    standard = totals.get("Standard", (0, 0))
    lines = [
        "<BucketStat>",
        element("Storage", sum(size for _, size in totals.values()) + part_bytes),
        element("ObjectCount", sum(count for count, _ in totals.values())),
        element("MultipartUploadCount", uploads),
        element("MultipartPartCount", parts),
        element("LiveChannelCount", 0),
        element("DeleteMarkerCount", 0),
        element("LastModifiedTime", service.seconds()),
        element("StandardStorage", standard[1]),
        element("StandardObjectCount", standard[0]),
    ]
    for shown, name in (
        ("InfrequentAccess", "IA"),
        ("Archive", "Archive"),
        ("ColdArchive", "ColdArchive"),
        ("DeepColdArchive", "DeepColdArchive"),
    ):
        count, size = totals.get(name, (0, 0))
        lines += [
            element(f"{shown}Storage", size),
            element(f"{shown}RealStorage", size),
            element(f"{shown}ObjectCount", count),
        ]
    lines.append("</BucketStat>")
    return Answer.xml("".join(lines))


def live_channels(service: Service, request: Request) -> Answer:
    """GET ?live: there are none."""
    service.index.bucket(request.bucket_name)
    return Answer.xml(
        "<ListLiveChannelResult>"
        + element("Prefix", request.params.get("prefix", ""))
        + element("Marker", request.params.get("marker", ""))
        + element("MaxKeys", request.number("max-keys", 100, 1, 1000))
        + "<IsTruncated>false</IsTruncated><NextMarker></NextMarker></ListLiveChannelResult>"
    )
