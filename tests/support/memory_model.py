"""What MemoryStore keeps, and the failures that tests script into it.  Plain data, no I/O."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ossfs.errors import StoreError
from ossfs.store.base import Buffer, ObjectHeaders

OPERATIONS = {
    "list": "ListObjects",
    "head": "HeadObject",
    "get": "GetObject",
    "put": "PutObject",
    "copy": "CopyObject",
    "delete": "DeleteObject",
    "delete_many": "DeleteMultipleObjects",
    "initiate": "InitiateMultipartUpload",
    "put_part": "UploadPart",
    "copy_part": "UploadPartCopy",
    "complete": "CompleteMultipartUpload",
    "abort": "AbortMultipartUpload",
    "list_uploads": "ListMultipartUploads",
    "get_symlink": "GetSymlink",
    "sign_url": "SignUrl",
    "get_tagging": "GetObjectTagging",
    "get_acl": "GetObjectACL",
    "bucket_info": "GetBucketInfo",
    "bucket_stat": "GetBucketStat",
}
READS = {
    "list",
    "head",
    "get",
    "list_uploads",
    "get_symlink",
    "get_tagging",
    "get_acl",
    "bucket_info",
    "bucket_stat",
}
ARCHIVES = {"Archive", "ColdArchive", "DeepColdArchive"}
META_NAME = re.compile(r"[a-z0-9-]+\Z")


@dataclass
class Fault:
    """One scripted failure.

    op: name of the method ("put_part"), or "" for any.  key: exact key, None for any.
    number: the part number of put_part and copy_part, None for any.
    error: raised instead of doing the work (a StoreError class is instantiated, an instance raised).
    skip: so many matching calls pass first.  count: so many fail; -1 for ever.
    lose: do the work, then raise ConnectionLost (or *error*): a lost answer.
    delay: seconds to wait before anything else; the fault may be nothing but that.
    cut: get only: deliver so many bytes and raise ShortBody (or *error*).
    flip: get only: the first delivered byte is wrong (nobody notices unless they check).
    """

    op: str = ""
    key: str | None = None
    number: int | None = None
    error: StoreError | type[StoreError] | None = None
    skip: int = 0
    count: int = 1
    lose: bool = False
    delay: float = 0.0
    cut: int | None = None
    flip: bool = False
    hits: int = 0
    """How often it has struck."""

    def make_error(self, default: type[StoreError], op: str, key: str) -> StoreError:
        error = self.error if self.error is not None else default
        if isinstance(error, StoreError):
            return error
        return error("scripted fault", operation=OPERATIONS[op], key=key)


@dataclass
class StoredObject:
    """An object as the bucket keeps it; tests may look at it and change it."""

    pieces: list[memoryview]
    size: int
    etag: str
    crc64: int | None
    last_modified: int
    headers: ObjectHeaders
    object_type: str = "Normal"
    storage_class: str = "Standard"
    tagging: str = ""
    acl: str | None = None
    symlink_target: str | None = None
    restore: str | None = None

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)


@dataclass
class Part:
    pieces: list[memoryview]
    size: int
    etag: str
    crc64: int


@dataclass
class Upload:
    key: str
    upload_id: str
    headers: ObjectHeaders
    initiated: int
    parts: dict[int, Part] = field(default_factory=dict)


def copy_headers(headers: ObjectHeaders) -> ObjectHeaders:
    return replace(headers, meta=dict(headers.meta))


def cut(pieces: Sequence[memoryview], start: int, length: int) -> list[memoryview]:
    result = []
    for piece in pieces:
        if start >= len(piece):
            start -= len(piece)
            continue
        if length <= 0:
            break
        part = piece[start : start + length]
        result.append(part)
        length -= len(part)
        start = 0
    return result


def md5(pieces: Sequence[Buffer]) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest().upper()
