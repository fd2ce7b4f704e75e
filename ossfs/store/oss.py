"""The object store's operations, and how a bucket is opened.

Threading: OssStore is for the one trio thread.

Requests are made in calls.py; what the service answers is read in answers.py and listing.py.  This layer
repeats nothing: retry.py does.
"""

from __future__ import annotations

import builtins
import hashlib
import logging
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar
from urllib.parse import quote, unquote_to_bytes

from ossfs.errors import (
    ChecksumMismatch,
    ConfigError,
    InvalidRange,
    InvalidRequest,
    NoSuchUpload,
    NotFound,
    PreconditionFailed,
    ServerFault,
    StoreError,
)
from ossfs.metrics import Metrics
from ossfs.store.answers import (
    crc_of,
    error_from,
    etag_of,
    http_date,
    object_info,
    put_result,
)
from ossfs.store.attempt import current_attempt
from ossfs.store.base import (
    BucketInfo,
    BucketStat,
    Buffer,
    Guard,
    ListPage,
    ObjectHeaders,
    ObjectInfo,
    PartResult,
    Progress,
    PutResult,
    Replaceable,
    StoredAs,
    Unchanged,
    UploadInfo,
)
from ossfs.store.calls import Calls, StoreConfig
from ossfs.store.checksum import Crc64, crc64
from ossfs.store.connection import Head, natural
from ossfs.store.credentials import CredentialsProvider
from ossfs.store.listing import parse_deleted, parse_listing, parse_time, parse_uploads, parse_xml
from ossfs.store.request import (
    Receiver,
    check_key,
    complete_document,
    copy_source,
    delete_document,
    in_xml,
    storage_headers,
    whole_crc,
    write_headers,
)
from ossfs.store.retry import RetryStore
from ossfs.store.transport import Exchange, Response, Session, tls_context
from ossfs.store.workers import Workers

log = logging.getLogger(__name__)

T = TypeVar("T")


class OssStore:
    """One bucket, each call tried once."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._run = calls.run
        self._name = calls.name

    # -- reading ----------------------------------------------------------------------------------

    async def list(
        self, prefix: str, *, delimiter: str = "", marker: str = "", max_keys: int = 1000
    ) -> ListPage:
        params = {"encoding-type": "url", "max-keys": str(max_keys)}
        if prefix:
            params["prefix"] = prefix
        if delimiter:
            params["delimiter"] = delimiter
        if marker:
            params["marker"] = marker
        return await self._run(
            "ListObjects",
            "GET",
            "",
            lambda response: parse_listing(response.read(), http_date(response.headers.get("date", ""))),
            params=params,
            read=True,
        )

    async def head(self, key: str) -> ObjectInfo:
        return await self._head(key)

    async def _head(self, key: str, etag: str | None = None) -> ObjectInfo:
        check_key(key, "HeadObject")

        def finish(response: Response) -> ObjectInfo:
            said = response.headers.get("content-length", "")
            length = natural(said)
            if length is None:
                raise ServerFault(f"Content-Length is {said[:40]!r}")
            return object_info(key, response.headers, length)

        headers = {"If-Match": f'"{etag}"'} if etag is not None else None
        return await self._run("HeadObject", "HEAD", key, finish, headers=headers, read=True)

    async def get(
        self,
        key: str,
        into: memoryview,
        *,
        start: int = 0,
        etag: str | None = None,
        progress: Progress | None = None,
    ) -> tuple[ObjectInfo, int]:
        check_key(key, "GetObject")
        view = into.cast("B")
        if not view:
            info = await self._head(key, etag)
            if start and start >= info.size:
                raise InvalidRange("the range begins beyond the end", operation="GetObject", key=key)
            return info, 0
        headers = {
            "Range": f"bytes={start}-{start + len(view) - 1}",
            "x-oss-range-behavior": "standard",
        }
        if etag is not None:
            headers["If-Match"] = f'"{etag}"'
        receiver = Receiver(key, view, start, progress, current_attempt.get())

        def finish(response: Response) -> tuple[ObjectInfo, int]:
            assert receiver.info is not None
            return receiver.info, response.received

        try:
            return await self._run(
                "GetObject", "GET", key, finish, headers=headers, receiver=receiver, read=True
            )
        except InvalidRange:
            if start and etag is None:
                raise
            # No range fits an empty object, and none beyond the end of one that took its place; this answer
            # says nothing else of it.
            info = await self._head(key, etag)
            if start and start >= info.size:
                raise
        if info.size:
            raise ServerFault("the range was refused though it fits", operation="GetObject", key=key)
        return info, 0

    async def get_symlink(self, key: str) -> str:
        check_key(key, "GetSymlink")

        def finish(response: Response) -> str:
            target = response.headers.get("x-oss-symlink-target", "")
            try:
                return unquote_to_bytes(target.encode("utf-8", "surrogateescape")).decode()
            except UnicodeDecodeError:
                raise InvalidRequest("the target of the symlink is not UTF-8") from None

        return await self._run("GetSymlink", "GET", key, finish, params={"symlink": ""}, read=True)

    async def get_tagging(self, key: str) -> str:
        check_key(key, "GetObjectTagging")

        def finish(response: Response) -> str:
            return "&".join(
                f"{quote(tag.findtext('Key', ''), safe='')}={quote(tag.findtext('Value', ''), safe='')}"
                for tag in parse_xml(response.read()).iterfind("TagSet/Tag")
            )

        return await self._run("GetObjectTagging", "GET", key, finish, params={"tagging": ""}, read=True)

    async def get_acl(self, key: str) -> str:
        check_key(key, "GetObjectACL")

        def finish(response: Response) -> str:
            acl = parse_xml(response.read()).findtext("AccessControlList/Grant", "")
            if not acl:
                raise ServerFault("the answer has no Grant")
            return acl

        return await self._run("GetObjectACL", "GET", key, finish, params={"acl": ""}, read=True)

    async def bucket_info(self) -> BucketInfo:
        def finish(response: Response) -> BucketInfo:
            bucket = parse_xml(response.read()).find("Bucket")
            if bucket is None:
                raise ServerFault("the answer has no Bucket")
            rule = bucket.findtext("ServerSideEncryptionRule/SSEAlgorithm", "")
            return BucketInfo(
                name=bucket.findtext("Name", self._name),
                location=bucket.findtext("Location", ""),
                storage_class=bucket.findtext("StorageClass", "Standard"),
                versioning=bucket.findtext("Versioning", ""),
                encryption="" if rule == "None" else rule,
                acl=bucket.findtext("AccessControlList/Grant", ""),
            )

        return await self._run("GetBucketInfo", "GET", "", finish, params={"bucketInfo": ""}, read=True)

    async def bucket_stat(self) -> BucketStat:
        def finish(response: Response) -> BucketStat:
            root = parse_xml(response.read())
            storage, count = (
                natural(root.findtext("Storage", "0")),
                natural(root.findtext("ObjectCount", "0")),
            )
            if storage is None or count is None:
                raise ServerFault("a number of the answer is malformed")
            return BucketStat(storage, count)

        return await self._run("GetBucketStat", "GET", "", finish, params={"stat": ""}, read=True)

    async def list_uploads(self, prefix: str) -> builtins.list[UploadInfo]:
        found: builtins.list[UploadInfo] = []
        markers: tuple[str, str] | None = ("", "")
        while markers is not None:
            params = {"uploads": "", "encoding-type": "url", "max-uploads": "1000", "prefix": prefix}
            params["key-marker"], params["upload-id-marker"] = markers
            page, markers = await self._run(
                "ListMultipartUploads",
                "GET",
                "",
                lambda response: parse_uploads(response.read()),
                params={name: value for name, value in params.items() if value or name == "uploads"},
                read=True,
            )
            found += page
        return found

    # -- writing ----------------------------------------------------------------------------------

    def _compare(self, ours: int | None, headers: dict[str, str]) -> int | None:
        """The service's CRC, after it was compared with ours when both are known."""
        theirs = crc_of(headers)
        if ours is not None and theirs is not None and ours != theirs:
            raise ChecksumMismatch(f"the CRC-64 sent is {ours}, the service has {theirs}")
        return theirs if theirs is not None else ours

    async def put(
        self,
        key: str,
        body: Sequence[Buffer],
        headers: ObjectHeaders,
        *,
        forbid_overwrite: bool = False,
        replaceable: Replaceable | None = None,
    ) -> PutResult:
        check_key(key, "PutObject")
        if replaceable is not None:
            try:
                found = await self.head(key)
            except NotFound:
                forbid_overwrite = True
            else:
                if not replaceable(found):
                    raise PreconditionFailed(
                        "the object was replaced meanwhile", operation="PutObject", key=key
                    )
        sent = write_headers(headers)
        if forbid_overwrite:
            sent["x-oss-forbid-overwrite"] = "true"
        views = [memoryview(buffer).cast("B") for buffer in body]
        crc = Crc64()

        def prepare() -> None:
            crc.value = crc64(views)
            # The service compares the CRC with nothing, and says it when the old object is gone already.
            # Of the MD5 it is the one who compares, before it stores anything (PutObject, Content-MD5).
            digest = hashlib.md5(usedforsecurity=False)
            for view in views:
                digest.update(view)
            sent["Content-MD5"] = b64encode(digest.digest()).decode("ascii")

        def finish(response: Response) -> PutResult:
            self._compare(crc.value, response.headers)
            return put_result(response.headers)

        return await self._run(
            "PutObject",
            "PUT",
            key,
            finish,
            headers=sent,
            body=views,
            once=forbid_overwrite or replaceable is not None,
            prepare=prepare,
        )

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
        check_key(source, "CopyObject")
        check_key(key, "CopyObject")
        if headers is not None:
            sent = write_headers(headers)
            sent["x-oss-metadata-directive"] = "REPLACE"
            if headers.tagging is not None:
                sent["x-oss-tagging-directive"] = "Replace"
        else:
            sent = {"x-oss-metadata-directive": "COPY"}
            if stored_as is not None:
                sent |= {name: value for name, value in storage_headers(stored_as).items() if value}
        sent["x-oss-copy-source"] = copy_source(self._name, source)
        if etag is not None:
            sent["x-oss-copy-source-if-match"] = f'"{etag}"'
        if forbid_overwrite:
            sent["x-oss-forbid-overwrite"] = "true"

        def finish(response: Response) -> PutResult:
            root = parse_xml(response.read())
            return put_result(
                response.headers,
                root.findtext("ETag", "").strip('"'),
                parse_time(root.findtext("LastModified", "")),
            )

        once = forbid_overwrite or etag is not None
        return await self._run("CopyObject", "PUT", key, finish, headers=sent, once=once, patient=True)

    async def delete(
        self, key: str, *, guard: Guard | None = None, unchanged: Unchanged | None = None
    ) -> None:
        check_key(key, "DeleteObject")
        await self._run("DeleteObject", "DELETE", key, lambda response: None, once=True)

    async def delete_many(self, keys: Sequence[str], *, guard: Guard | None = None) -> builtins.list[str]:
        for key in keys:
            check_key(key, "DeleteMultipleObjects")
        if not keys:
            return []
        # What XML has no way to write is deleted by itself.
        names = [key for key in keys if in_xml(key)]
        for key in keys:
            if not in_xml(key):
                await self.delete(key)
        if not names:
            return []
        document = delete_document(names)
        digest = hashlib.md5(document, usedforsecurity=False).digest()
        headers = {"Content-MD5": b64encode(digest).decode(), "Content-Type": "application/xml"}
        deleted = await self._run(
            "DeleteMultipleObjects",
            "POST",
            "",
            lambda response: parse_deleted(response.read()),
            params={"delete": "", "encoding-type": "url"},
            headers=headers,
            body=[document],
            once=True,
        )
        return [key for key in names if key not in deleted]

    async def initiate(self, key: str, headers: ObjectHeaders, *, forbid_overwrite: bool = False) -> str:
        check_key(key, "InitiateMultipartUpload")
        sent = write_headers(headers)
        if forbid_overwrite:
            sent["x-oss-forbid-overwrite"] = "true"

        def finish(response: Response) -> str:
            upload_id = parse_xml(response.read()).findtext("UploadId", "")
            if not upload_id:
                raise ServerFault("the answer has no UploadId")
            return upload_id

        return await self._run(
            "InitiateMultipartUpload",
            "POST",
            key,
            finish,
            params={"uploads": "", "encoding-type": "url"},
            headers=sent,
            once=True,
        )

    async def put_part(self, key: str, upload_id: str, number: int, body: Sequence[Buffer]) -> PartResult:
        check_key(key, "UploadPart")
        views = [memoryview(buffer).cast("B") for buffer in body]
        size = sum(map(len, views))
        crc = Crc64()

        def finish(response: Response) -> PartResult:
            self._compare(crc.value, response.headers)
            return PartResult(number, size, etag_of(response.headers), crc.value)

        return await self._run(
            "UploadPart",
            "PUT",
            key,
            finish,
            params={"partNumber": str(number), "uploadId": upload_id},
            body=views,
            prepare=lambda: setattr(crc, "value", crc64(views)),
        )

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
    ) -> PartResult:
        check_key(source, "UploadPartCopy")
        check_key(key, "UploadPartCopy")
        headers = {
            "x-oss-copy-source": copy_source(self._name, source),
            "x-oss-copy-source-range": f"bytes={start}-{start + length - 1}",
        }
        if etag is not None:
            headers["x-oss-copy-source-if-match"] = f'"{etag}"'

        def finish(response: Response) -> PartResult:
            copied = parse_xml(response.read()).findtext("ETag", "").strip('"')
            return PartResult(number, length, copied or etag_of(response.headers), None)

        return await self._run(
            "UploadPartCopy",
            "PUT",
            key,
            finish,
            params={"partNumber": str(number), "uploadId": upload_id},
            headers=headers,
            patient=True,
        )

    async def complete(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[PartResult],
        *,
        forbid_overwrite: bool = False,
        write_id: str | None = None,
    ) -> PutResult:
        check_key(key, "CompleteMultipartUpload")
        document = complete_document(parts)
        headers = {"Content-Type": "application/xml"}
        if forbid_overwrite:
            headers["x-oss-forbid-overwrite"] = "true"

        def finish(response: Response) -> PutResult:
            self._compare(whole_crc(parts), response.headers)
            # It is done: what the headers say is enough, a body that cannot be read is no failure.
            made = etag_of(response.headers) or parse_xml(response.read()).findtext("ETag", "").strip('"')
            return put_result(response.headers, made)

        return await self._run(
            "CompleteMultipartUpload",
            "POST",
            key,
            finish,
            params={"uploadId": upload_id, "encoding-type": "url"},
            headers=headers,
            body=[document],
            once=True,
            patient=True,
        )

    async def abort(self, key: str, upload_id: str) -> None:
        check_key(key, "AbortMultipartUpload")
        try:
            await self._run(
                "AbortMultipartUpload",
                "DELETE",
                key,
                lambda response: None,
                params={"uploadId": upload_id},
                once=True,
            )
        except NoSuchUpload:
            pass  # as wished

    async def sign_url(self, method: str, key: str, expires: int) -> str:
        check_key(key, "SignUrl")
        return await self._calls.sign_url(method, key, expires)


def _refusal(exchange: Exchange, head: Head, body: bytes) -> StoreError:
    return error_from(head.status, head.headers, body)


@asynccontextmanager
async def open_store(
    config: StoreConfig, credentials: CredentialsProvider, metrics: Metrics
) -> AsyncIterator[RetryStore]:
    """The bucket of *config*, with retries; its `once` is the same without them.

    Closes connections and ends threads when left.  Raises ConfigError for an endpoint, bucket or CA
    file that cannot be used; nothing is sent.
    """
    context: ssl.SSLContext | None = None
    if config.endpoint.startswith("https://"):
        try:
            context = tls_context(config.ca_file)
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "strerror", None) or "it holds no certificates"
            raise ConfigError(f"ca_file {config.ca_file} cannot be used: {reason}") from None
    session = Session(
        _refusal,
        metrics,
        context=context,
        connect_timeout=config.connect_timeout,
        io_timeout=config.io_timeout,
    )
    workers = Workers(config.max_connections, on_idle=session.prune)
    store = OssStore(Calls(config, credentials, metrics, workers, session))

    if context is None:
        log.info("plain http: parts of objects that are read are protected by no checksum")

    async def refresh() -> None:
        try:
            await workers.run(credentials.refresh)
        except ConfigError as error:
            log.warning("the old credentials are kept: %s", error)

    try:
        yield RetryStore(store, call_timeout=config.call_timeout, metrics=metrics, refresh=refresh)
    finally:
        threads = workers.close()
        session.close()
        for thread in threads:
            thread.join(0.5)  # they are idle, and end at once; a hung one is a daemon
