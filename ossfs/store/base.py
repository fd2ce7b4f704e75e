"""The object store as the file system sees it.

Threading: all methods of an ObjectStore are async and are called from the one trio thread; buffers
that they are given may be read or filled from worker threads until the call returns.  `progress`
callbacks may run in any thread.  A call with side effects is never abandoned when its task is
cancelled: it returns, or raises, once its outcome is known.  Cancelling a `get` ends its connection.

Failures are subclasses of ossfs.errors.StoreError.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview
"""A piece of a body.  Memoryviews are C-contiguous and cast to "B": their len() is their bytes."""

WRITE_ID = "ossfs-wid"
"""User metadata name (x-oss-meta-ossfs-wid) by which a lost answer is told from somebody else's object."""


@dataclass(slots=True)
class ObjectHeaders:
    """What a PutObject, CopyObject (REPLACE) or InitiateMultipartUpload stores beside the bytes.

    meta: user metadata, lower-case names without "x-oss-meta-", ASCII values.
    The other fields are the plain header values, None when not to be sent.
    """

    meta: dict[str, str] = field(default_factory=dict)
    content_type: str | None = None
    cache_control: str | None = None
    content_disposition: str | None = None
    content_encoding: str | None = None
    content_language: str | None = None
    expires: str | None = None
    storage_class: str | None = None
    encryption: str | None = None
    encryption_key_id: str | None = None
    data_encryption: str | None = None
    acl: str | None = None
    tagging: str | None = None
    """url-encoded `k=v&k2=v2`"""


@dataclass(frozen=True, slots=True)
class StoredAs:
    """How the service keeps an object, beside its bytes and metadata.  None: as the bucket says.

    encryption: AES256, KMS or SM4.  encryption_key_id: of KMS; None is the account's default key.
    acl: "default" says as much as None, but that it is known.
    """

    storage_class: str | None = None
    encryption: str | None = None
    encryption_key_id: str | None = None
    data_encryption: str | None = None
    acl: str | None = None

    @classmethod
    def of(cls, headers: ObjectHeaders) -> StoredAs:
        """What these headers say of it."""
        return cls(
            headers.storage_class,
            headers.encryption,
            headers.encryption_key_id,
            headers.data_encryption,
            headers.acl,
        )

    def over(self, headers: ObjectHeaders) -> ObjectHeaders:
        """*headers* with all that is said here in the place of what they say."""
        made = replace(headers, meta=dict(headers.meta))
        made.storage_class = self.storage_class or headers.storage_class
        made.acl = self.acl or headers.acl
        if self.encryption is not None:  # a key belongs to its algorithm
            made.encryption, made.encryption_key_id = self.encryption, self.encryption_key_id
            made.data_encryption = self.data_encryption
        return made


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a HEAD or GET says of an object.

    size: of the whole object, also when it came with a ranged GET.  etag: without quotes.
    crc64: of the whole object, None for objects that have none.
    last_modified, server_date: unix seconds by the server's clock (Last-Modified and Date).
    """

    key: str
    size: int
    etag: str
    last_modified: int
    server_date: int
    crc64: int | None = None
    object_type: str = "Normal"
    storage_class: str = "Standard"
    headers: ObjectHeaders = field(default_factory=ObjectHeaders)
    """Ready to be sent back by a rewrite (tagging is None: see tag_count; acl is None)."""
    tag_count: int = 0
    restore: str | None = None
    """x-oss-restore of archived objects, verbatim."""
    version_id: str | None = None


@dataclass(frozen=True, slots=True)
class ListedObject:
    """One entry of a listing.  size in bytes; last_modified in unix seconds; etag without quotes."""

    key: str
    size: int
    etag: str
    last_modified: int
    object_type: str = "Normal"
    storage_class: str = "Standard"


@dataclass(frozen=True, slots=True)
class ListPage:
    """Objects and prefixes in byte order of their keys, and where the next page starts (None: at the end)."""

    objects: list[ListedObject]
    prefixes: list[str]
    next_marker: str | None
    server_date: int
    undecodable: int = 0
    """Keys that are not UTF-8 and so could not be put into this page."""


@dataclass(frozen=True, slots=True)
class PutResult:
    """The object that a put, copy or complete made.  last_modified, server_date: unix seconds.

    last_modified is None when the answer did not say (only CopyObject's does).
    """

    etag: str
    crc64: int | None
    server_date: int
    last_modified: int | None = None
    version_id: str | None = None


@dataclass(frozen=True, slots=True)
class PartResult:
    """An uploaded or copied part.  crc64 is None for a copied range: nobody knows it."""

    number: int
    size: int
    etag: str
    crc64: int | None


@dataclass(frozen=True, slots=True)
class UploadInfo:
    """An unfinished multipart upload, as listings show it: they carry no metadata."""

    key: str
    upload_id: str
    initiated: int


@dataclass(frozen=True, slots=True)
class BucketInfo:
    """versioning: "" when it was never on, else "Enabled" or "Suspended"."""

    name: str
    location: str
    storage_class: str
    versioning: str = ""
    encryption: str = ""
    """How the bucket encrypts what says nothing itself: "" for not at all, else AES256, KMS or SM4."""
    acl: str = "private"
    """private, public-read or public-read-write; "" when the answer did not say."""


@dataclass(frozen=True, slots=True)
class BucketStat:
    """Hints, up to hours old.  storage in bytes."""

    storage: int
    object_count: int


Progress: TypeAlias = Callable[[int], None]
"""Called with the count of bytes that have arrived so far, from any thread.  The count never falls."""

Guard: TypeAlias = Callable[[], bool]
"""Asked on the trio thread: is this delete still wanted?"""

Replaceable: TypeAlias = Callable[[ObjectInfo], bool]
"""Asked on the trio thread: may this object, which a put found under its name, be replaced?"""

Unchanged: TypeAlias = Callable[["ObjectInfo"], bool]
"""Told what a HEAD found after the answer to a delete was lost: is it what was to go, or made anew since?"""


class ObjectStore(Protocol):
    """One bucket.  Keys are whole keys, without a leading slash; never "", "." or ".."."""

    async def list(
        self, prefix: str, *, delimiter: str = "", marker: str = "", max_keys: int = 1000
    ) -> ListPage: ...

    async def head(self, key: str) -> ObjectInfo: ...

    async def get(
        self,
        key: str,
        into: memoryview,
        *,
        start: int = 0,
        etag: str | None = None,
        progress: Progress | None = None,
    ) -> tuple[ObjectInfo, int]:
        """Bytes [start, start+len(into)) of the object, or as many as it has, into *into*.

        With etag, another version raises PreconditionFailed.  Returns the info and the count of bytes
        received, which is less than len(into) only when the object ends there.  start beyond the end
        raises InvalidRange; an empty object with start=0 gives (info, 0).  When the answer covers the
        whole object and carries a CRC, the CRC has been compared (ChecksumMismatch).
        """
        ...

    async def put(
        self,
        key: str,
        body: Sequence[Buffer],
        headers: ObjectHeaders,
        *,
        forbid_overwrite: bool = False,
        replaceable: Replaceable | None = None,
    ) -> PutResult:
        """PutObject; the service's CRC has been compared with the body's.

        replaceable: PutObject takes no If-Match, so a HEAD goes before each attempt, repeats included.  An
        object that this refuses raises PreconditionFailed; where there is none, that attempt forbids
        overwriting.  What is put there between the HEAD and the PUT of one attempt is replaced.
        """
        ...

    async def copy(
        self,
        source: str,
        key: str,
        *,
        etag: str | None = None,
        headers: ObjectHeaders | None = None,
        stored_as: StoredAs | None = None,
        forbid_overwrite: bool = False,
    ) -> PutResult:
        """CopyObject inside the bucket.  etag: x-oss-copy-source-if-match.  headers: REPLACE, else COPY.

        stored_as: of the copy when there are no headers; the service takes nothing of this from the source.
        """
        ...

    async def delete(
        self, key: str, *, guard: Guard | None = None, unchanged: Unchanged | None = None
    ) -> None:
        """DeleteObject; no error when there is none.

        guard: asked before each repeat after a failure; when it says False the failure is raised, since
        something newer has been done under that name.

        unchanged: asked before a repeat when an answer was lost, so that the object may have been deleted,
        and made anew by somebody else; when it says False the object is left alone, without an error.
        """
        ...

    async def delete_many(self, keys: Sequence[str], *, guard: Guard | None = None) -> builtins.list[str]:
        """DeleteMultipleObjects, up to 1000 keys; returns those that the answer does not name as deleted.

        guard: as for delete.
        """
        ...

    async def initiate(self, key: str, headers: ObjectHeaders, *, forbid_overwrite: bool = False) -> str:
        """InitiateMultipartUpload; returns the upload id."""
        ...

    async def put_part(self, key: str, upload_id: str, number: int, body: Sequence[Buffer]) -> PartResult: ...

    async def copy_part(
        self,
        key: str,
        upload_id: str,
        number: int,
        source: str,
        start: int,
        length: int,
        *,
        etag: str | None = None,
    ) -> PartResult: ...

    async def complete(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[PartResult],
        *,
        forbid_overwrite: bool = False,
        write_id: str | None = None,
    ) -> PutResult:
        """CompleteMultipartUpload.  The CRC has been compared if every part has one.

        write_id: the WRITE_ID that the upload was initiated with; by it a lost answer is settled.
        """
        ...

    async def abort(self, key: str, upload_id: str) -> None:
        """AbortMultipartUpload; an upload that is not there any more is no error."""
        ...

    async def list_uploads(self, prefix: str) -> builtins.list[UploadInfo]: ...

    async def get_symlink(self, key: str) -> str:
        """The target key of a native symlink object."""
        ...

    async def get_tagging(self, key: str) -> str:
        """The tags as a url-encoded `k=v&k2=v2`, "" when there are none."""
        ...

    async def get_acl(self, key: str) -> str:
        """The object's own ACL; "default" when the bucket's holds."""
        ...

    async def bucket_info(self) -> BucketInfo: ...

    async def bucket_stat(self) -> BucketStat: ...

    async def sign_url(self, method: str, key: str, expires: int) -> str:
        """A presigned URL, valid for *expires* seconds, or as long as the credentials if that is shorter.

        No request to the service; the credentials may have to be fetched.
        """
        ...
