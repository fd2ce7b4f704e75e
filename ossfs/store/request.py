"""The parts of requests that are ours: keys, headers, documents, and what receives a ranged GET.

Threading: pure functions, from any thread; a Receiver belongs to the worker thread of its request.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote
from xml.sax.saxutils import escape  # nosec B406 # it writes XML and parses none

from ossfs.errors import ChecksumMismatch, InvalidRequest, ServerFault
from ossfs.limits import MAX_KEY_BYTES
from ossfs.store.answers import content_range, object_info
from ossfs.store.attempt import Attempt
from ossfs.store.base import ObjectHeaders, ObjectInfo, PartResult, Progress, StoredAs
from ossfs.store.checksum import Crc64, combine
from ossfs.store.connection import Head

_UNXML: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
"""Characters that XML 1.0 cannot carry in any form."""


def check_key(key: str, operation: str) -> None:
    """Refuse keys that must never be sent.

    "." and ".." are normalised away by HTTP libraries and proxies, percent-encoded or not, so that a
    DELETE would reach the bucket itself.  Raises InvalidRequest.
    """
    if key in ("", ".", ".."):
        problem = f"{key!r} is not a key"
    else:
        try:
            if len(key.encode()) <= MAX_KEY_BYTES:
                return
            problem = f"keys have at most {MAX_KEY_BYTES} bytes"
        except UnicodeEncodeError:
            problem = "keys are UTF-8"
    raise InvalidRequest(problem, operation=operation, key=key, code="InvalidObjectName")


def write_headers(headers: ObjectHeaders) -> dict[str, str]:
    """ObjectHeaders as the request's headers."""
    named = {
        "Content-Type": headers.content_type or "application/octet-stream",
        "Cache-Control": headers.cache_control,
        "Content-Disposition": headers.content_disposition,
        "Content-Encoding": headers.content_encoding,
        "Content-Language": headers.content_language,
        "Expires": headers.expires,
        "x-oss-tagging": headers.tagging,
        **storage_headers(StoredAs.of(headers)),
    }
    result = {name: value for name, value in named.items() if value}
    for name, value in headers.meta.items():
        result[f"x-oss-meta-{name}"] = value
    return result


def storage_headers(stored_as: StoredAs) -> dict[str, str | None]:
    """StoredAs as the request's headers."""
    return {
        "x-oss-storage-class": stored_as.storage_class,
        "x-oss-server-side-encryption": stored_as.encryption,
        "x-oss-server-side-encryption-key-id": stored_as.encryption_key_id,
        "x-oss-server-side-data-encryption": stored_as.data_encryption,
        # What holds anyway is not asked for: setting an ACL wants a permission of its own.
        "x-oss-object-acl": stored_as.acl if stored_as.acl != "default" else None,
    }


def copy_source(bucket: str, key: str) -> str:
    """x-oss-copy-source."""
    return f"/{bucket}/{quote(key, safe='')}"


class Receiver:
    """Checks the head of a ranged GET, and the CRC when the answer is the whole object."""

    def __init__(
        self,
        key: str,
        into: memoryview,
        start: int,
        progress: Progress | None,
        attempt: Attempt | None,
    ) -> None:
        self.attempt = attempt
        self.key = key
        self.into = into
        self.start = start
        self.progress = progress
        self.info: ObjectInfo | None = None
        self.size = 0
        self._crc: Crc64 | None = None
        self._done = 0

    def on_head(self, head: Head) -> int:
        """Check the head and return the count of bytes to come.  Raises ServerFault."""
        headers = head.headers
        if head.length is None:
            raise ServerFault("the answer does not say how long it is")
        if head.status == 206:
            start, end, whole = content_range(headers)
            if start != self.start or end - start != head.length:
                raise ServerFault(f"asked for bytes from {self.start}, got {headers['content-range']!r}")
            if end != min(whole, self.start + len(self.into)):
                raise ServerFault(f"asked for {len(self.into)} bytes, got {headers['content-range']!r}")
        elif head.status == 200 and self.start == 0 and head.length <= len(self.into):
            whole = head.length
        else:
            # The service ignored the range: its default behaviour when it does not like one.
            raise ServerFault(f"asked for a range, got status {head.status}", status=head.status)
        self.info = object_info(self.key, headers, whole)
        self.size = head.length
        if self.attempt is not None:
            self.attempt.etag = self.info.etag
        if self.start == 0 and head.length == whole and self.info.crc64 is not None:
            self._crc = Crc64()
        return head.length

    def on_data(self, count: int) -> None:
        """*count* bytes are there.  The end is told only after the CRC was compared."""
        if self._crc is not None:
            self._crc.update(self.into[self._done : count])
            self._done = count
            assert self.info is not None
            if count == self.size and self._crc.value != self.info.crc64:
                raise ChecksumMismatch(
                    f"the CRC-64 of the bytes received is {self._crc.value}, the object's {self.info.crc64}"
                )
        if self.progress is not None:
            self.progress(count)


def in_xml(key: str) -> bool:
    """Can a document carry this key?"""
    return _UNXML.search(key) is None


def delete_document(keys: Sequence[str]) -> bytes:
    """The body of DeleteMultipleObjects."""
    entities = {"\r": "&#13;", "\n": "&#10;", "\t": "&#9;"}
    listed = "".join(f"<Object><Key>{escape(key, entities)}</Key></Object>" for key in keys)
    return f'<?xml version="1.0" encoding="UTF-8"?><Delete><Quiet>false</Quiet>{listed}</Delete>'.encode()


def complete_document(parts: Sequence[PartResult]) -> bytes:
    """The body of CompleteMultipartUpload."""
    listed = "".join(
        f"<Part><PartNumber>{part.number}</PartNumber><ETag>&quot;{escape(part.etag)}&quot;</ETag></Part>"
        for part in parts
    )
    return f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()


def whole_crc(parts: Sequence[PartResult]) -> int | None:
    """The CRC of the parts' bytes in order, or None when one of them is not known."""
    crc = 0
    for part in parts:
        if part.crc64 is None:
            return None
        crc = combine(crc, part.crc64, part.size)
    return crc
