"""From a request line to bucket, key and operation. Stateless but for reading the set of buckets.

Addressing: a Host that is an IP address or `localhost` is path style. Otherwise the first label is a
bucket if a bucket of that name exists, or if the rest is `localhost` or begins with `oss-`: then the path is
the key. Anything else is path style too. Dot segments are never resolved: a key is opaque.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from ossfs.server import ops_attributes, ops_bucket, ops_list, ops_multipart, ops_read, ops_write
from ossfs.server.auth import SUB_RESOURCES
from ossfs.server.errors import OssError
from ossfs.server.model import Answer, Request, Service
from ossfs.server.wire import bad_request, parse_query

Handler = Callable[[Service, Request], Answer]


class Operation(NamedTuple):
    """A name, as faults and counters use it, and what does it."""

    name: str
    handler: Handler


# (method, sub-resource or "") -> operation; on a bucket, and on a key. Of several sub-resources the first
# in the table decides.
BUCKET_OPERATIONS: dict[str, dict[str, Operation]] = {
    "GET": {
        "bucketInfo": Operation("BucketInfo", ops_bucket.bucket_info),
        "location": Operation("Location", ops_bucket.bucket_location),
        "acl": Operation("BucketAcl", ops_bucket.bucket_acl),
        "stat": Operation("Stat", ops_bucket.bucket_stat),
        "live": Operation("LiveChannels", ops_bucket.live_channels),
        "versioning": Operation("Versioning", ops_bucket.bucket_versioning),
        "uploads": Operation("ListUploads", ops_multipart.list_uploads),
        "": Operation("List", ops_list.list_objects),
    },
    "HEAD": {"": Operation("HeadBucket", ops_bucket.head_bucket)},
    "PUT": {
        "acl": Operation("PutBucketAcl", ops_bucket.put_bucket_acl),
        "": Operation("PutBucket", ops_bucket.put_bucket),
    },
    "POST": {"delete": Operation("DeleteMulti", ops_write.delete_multiple)},
    "DELETE": {"": Operation("DeleteBucket", ops_bucket.delete_bucket)},
}
KEY_OPERATIONS: dict[str, dict[str, Operation]] = {
    "GET": {
        "uploadId": Operation("ListParts", ops_multipart.list_parts),
        "symlink": Operation("GetSymlink", ops_read.get_symlink),
        "tagging": Operation("GetTagging", ops_attributes.get_tagging),
        "acl": Operation("GetAcl", ops_attributes.get_acl),
        "": Operation("Get", ops_read.get_object),
    },
    "HEAD": {
        "objectMeta": Operation("ObjectMeta", ops_read.get_object_meta),
        "": Operation("Head", ops_read.head_object),
    },
    "PUT": {
        "uploadId": Operation("UploadPart", ops_multipart.upload_part),
        "symlink": Operation("Symlink", ops_write.put_symlink),
        "tagging": Operation("PutTagging", ops_attributes.put_tagging),
        "acl": Operation("PutAcl", ops_attributes.put_acl),
        "": Operation("Put", ops_write.put_object),
    },
    "POST": {
        "uploads": Operation("Initiate", ops_multipart.initiate),
        "uploadId": Operation("Complete", ops_multipart.complete),
        "append": Operation("Append", ops_write.append_object),
        "restore": Operation("Restore", ops_attributes.restore),
    },
    "DELETE": {
        "uploadId": Operation("Abort", ops_multipart.abort),
        "tagging": Operation("DeleteTagging", ops_attributes.delete_tagging),
        "": Operation("Delete", ops_write.delete_object),
    },
}
_COPIES = {
    "Put": Operation("Copy", ops_write.copy_object),
    "UploadPart": Operation("UploadPartCopy", ops_multipart.upload_part_copy),
}
_LIST_BUCKETS = Operation("ListBuckets", ops_bucket.list_buckets)

# Signed, yet only modifiers of an operation: all others name an operation of their own.
_MODIFIERS = frozenset(
    "continuation-token security-token versionId partNumber position sequential x-oss-request-payer "
    "x-oss-traffic-limit response-content-type response-content-language response-expires "
    "response-cache-control response-content-disposition response-content-encoding callback callback-var "
    "x-oss-ac-source-ip x-oss-ac-subnet-mask x-oss-ac-vpc-id x-oss-ac-forward-allow status comp".split()
)


def split_target(target: str) -> tuple[str, str]:
    """(raw path, raw query), of origin or absolute form."""
    if not target.startswith("/"):
        scheme, separator, rest = target.partition("://")
        if not separator or scheme.lower() not in ("http", "https"):
            raise bad_request("The request target is malformed.")
        slash = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
        target = rest[slash:]
        if not target.startswith("/"):
            target = "/" + target
    path, _, query = target.partition("#")[0].partition("?")
    return path, query


def _decode_path(text: str) -> str:
    if "%" not in text and text.isascii():
        return text
    try:
        return unquote_to_bytes(text.encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise OssError("InvalidObjectName", "The object name is not valid UTF-8.") from None


def host_bucket(service: Service, host: str) -> str:
    """The bucket that a Host header names, or nothing for path style."""
    label, dot, rest = host.partition(":")[0].partition(".")
    if not dot or not ops_bucket.is_bucket_name(label):
        return ""
    last = rest.rpartition(".")[2]
    if last.isdigit():
        return ""  # an IP address
    if rest == "localhost" or rest.startswith("oss-") or service.index.find_bucket(label) is not None:
        return label
    return ""


def address(service: Service, request: Request, path: str, query: str) -> None:
    """Fill in bucket, key and query."""
    if query:
        request.query = parse_query(query)
        params = request.params
        for name, value in request.query:
            params.setdefault(name, value)
    bucket = host_bucket(service, request.host)
    if bucket:
        key = path[1:]
    else:
        bucket, _, key = path[1:].partition("/")
        bucket = _decode_path(bucket)
    request.bucket_name = bucket
    request.key = _decode_path(key)


def operation(request: Request) -> Operation:
    """What is asked for; MethodNotAllowed or NotImplemented if that is nothing known."""
    if not request.bucket_name:
        if request.method != "GET":
            raise OssError("MethodNotAllowed")
        return _LIST_BUCKETS
    table = (KEY_OPERATIONS if request.key else BUCKET_OPERATIONS).get(request.method)
    if table is None:
        raise OssError("MethodNotAllowed")
    params = request.params
    found = None
    if params:
        found = next((table[name] for name in table if name and name in params), None)
        if found is None:
            _refuse_unknown(params)
    if found is None:
        found = table.get("")
    if found is None:
        raise OssError("MethodNotAllowed")
    if "x-oss-copy-source" in request.headers:
        found = _COPIES.get(found.name, found)
    return found


def _refuse_unknown(params: Mapping[str, str]) -> None:
    for name in params:
        if name in SUB_RESOURCES and name not in _MODIFIERS:
            raise OssError("NotImplemented", f"The sub-resource {name} is not implemented.", ec="")


def check_names(request: Request) -> None:
    """Names that no bucket or object can have."""
    if request.bucket_name and not ops_bucket.is_bucket_name(request.bucket_name):
        raise OssError("InvalidBucketName", BucketName=request.bucket_name)
    key = request.key
    if key:
        if len(key) > 1023 or len(key.encode()) > 1023:
            raise OssError("InvalidObjectName", "The Length of Object name must be less than 1024.")
        if key[0] in "/\\":
            raise OssError("InvalidObjectName")
    if request.params.get("versionId", "null") not in ("", "null"):
        raise OssError("NoSuchVersion")
