"""An ObjectStore in memory, for tests of everything above the store.

Threading: for the one trio thread, like any ObjectStore.  Strongly consistent; every call is a
checkpoint.  Time comes from an injectable clock; waits are trio.sleep, so that an autojump clock
works.  As with the real store, a call with side effects is shielded from cancellation once begun.

Bodies are kept as views that copies share, so a part copied a thousand times costs its memory once.
"""

from __future__ import annotations

import builtins
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from urllib.parse import parse_qsl, quote

import trio

from ossfs.errors import (
    AlreadyExists,
    ConnectionLost,
    DanglingSymlink,
    InvalidRange,
    InvalidRequest,
    NoSuchUpload,
    NotFound,
    ObjectArchived,
    ObjectImmutable,
    PreconditionFailed,
    ShortBody,
    StoreError,
    TooLarge,
)
from ossfs.limits import MAX_KEY_BYTES, MAX_META_BYTES, MAX_PARTS, MIN_PART_SIZE
from ossfs.store.base import (
    BucketInfo,
    BucketStat,
    Buffer,
    Guard,
    ListedObject,
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
from ossfs.store.checksum import combine, crc64
from tests.support.memory_model import (
    ARCHIVES,
    META_NAME,
    OPERATIONS,
    READS,
    Fault,
    Part,
    StoredObject,
    Upload,
    copy_headers,
    cut,
    md5,
)

__all__ = ["Fault", "MemoryStore", "StoredObject"]

Hook = Callable[[str, str], Awaitable[None]]


class MemoryStore:
    """One bucket in memory.

    name: of the bucket.  clock: unix seconds.  latency: seconds added to every call.
    min_part_size: enforced by complete, as the service does it.
    copy_changes_etag: give every copy another ETag (what the service does to multipart objects).
    crc_of_copied_parts: does an object with copied parts have a CRC?
    versioning: "", "Enabled" or "Suspended"; when set, forbid_overwrite is ignored as documented.
    max_copy_size: a larger CopyObject is refused, as with a change of class or encryption.
    acl: of the bucket.

    calls counts by method name; bytes_in and bytes_out count body bytes as the service sees them.
    before(op, key) is awaited before the work, after(op, key) once it is done and before the answer.
    """

    def __init__(
        self,
        name: str = "bkt",
        *,
        clock: Callable[[], float] = time.time,
        latency: float = 0.0,
        min_part_size: int = MIN_PART_SIZE,
        copy_changes_etag: bool = False,
        crc_of_copied_parts: bool = True,
        versioning: str = "",
        max_copy_size: int | None = None,
        acl: str = "private",
    ) -> None:
        self.name = name
        self.clock = clock
        self.latency = latency
        self.min_part_size = min_part_size
        self.copy_changes_etag = copy_changes_etag
        self.crc_of_copied_parts = crc_of_copied_parts
        self.versioning = versioning
        self.max_copy_size = max_copy_size
        self.acl = acl
        self.objects: dict[str, StoredObject] = {}
        self.uploads: dict[str, Upload] = {}
        self.immutable: set[str] = set()
        """Keys under retention: they can be neither replaced nor deleted."""
        self.faults: list[Fault] = []
        self.before: Hook | None = None
        self.after: Hook | None = None
        self.calls: Counter[str] = Counter()
        self.bytes_in = 0
        self.bytes_out = 0
        self.in_flight = 0
        self.peak_in_flight = 0
        self._sorted: list[str] | None = None
        self._serial = count(1)
        self._digests: dict[tuple[str, int, int], tuple[str, int]] = {}

    # -- what tests use beside the interface ------------------------------------------------------

    def add(
        self,
        key: str,
        data: bytes = b"",
        headers: ObjectHeaders | None = None,
        *,
        object_type: str = "Normal",
        storage_class: str = "Standard",
        symlink_target: str | None = None,
        last_modified: int | None = None,
    ) -> StoredObject:
        """Put an object as another client would, without a call being counted."""
        headers = copy_headers(headers) if headers else ObjectHeaders()
        headers.storage_class = storage_class
        made = self._store(key, [memoryview(data)], headers, object_type=object_type)
        made.symlink_target = symlink_target
        if symlink_target is not None:
            made.object_type = "Symlink"
        if last_modified is not None:
            made.last_modified = last_modified
        return made

    def remove(self, key: str) -> None:
        """Delete an object as another client would."""
        if self.objects.pop(key, None) is not None:
            self._sorted = None

    def data(self, key: str) -> bytes:
        """The bytes of an object; KeyError when there is none."""
        return self.objects[key].data

    def keys(self) -> list[str]:
        """All keys, in order."""
        return list(self._keys())

    def reset_counts(self) -> None:
        """Start counting anew."""
        self.calls.clear()
        self.bytes_in = self.bytes_out = self.peak_in_flight = 0

    # -- machinery --------------------------------------------------------------------------------

    def now(self) -> int:
        return int(self.clock())

    def _keys(self) -> list[str]:
        # Code point order of str is byte order of UTF-8.
        if self._sorted is None:
            self._sorted = sorted(self.objects)
        return self._sorted

    def _pick(self, op: str, key: str, number: int | None) -> Fault | None:
        for fault in self.faults:
            if fault.op not in ("", op) or fault.count == 0:
                continue
            if fault.key not in (None, key) or fault.number not in (None, number):
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            if fault.count > 0:
                fault.count -= 1
            fault.hits += 1
            return fault
        return None

    @asynccontextmanager
    async def _call(self, op: str, key: str = "", number: int | None = None) -> AsyncIterator[Fault | None]:
        await trio.lowlevel.checkpoint()
        self.calls[op] += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            with trio.CancelScope(shield=op not in READS):
                fault = self._pick(op, key, number)
                if self.latency:
                    await trio.sleep(self.latency)
                if fault is not None and fault.delay:
                    await trio.sleep(fault.delay)
                if self.before is not None:
                    await self.before(op, key)
                if fault is not None and fault.error is not None and not fault.lose and fault.cut is None:
                    raise fault.make_error(StoreError, op, key)
                yield fault
                if self.after is not None:
                    await self.after(op, key)
                if fault is not None and fault.lose:
                    raise fault.make_error(ConnectionLost, op, key)
        finally:
            self.in_flight -= 1

    def _fail(
        self, error: type[StoreError], op: str, key: str, status: int, code: str, message: str = ""
    ) -> StoreError:
        return error(
            message or code,
            operation=OPERATIONS[op],
            key=key,
            status=status,
            code=code,
            request_id=f"{next(self._serial):024X}",
        )

    def _check_key(self, op: str, key: str) -> None:
        if key in ("", ".", ".."):
            raise self._fail(InvalidRequest, op, key, 0, "InvalidObjectName")
        try:
            size = len(key.encode())
        except UnicodeEncodeError:
            raise self._fail(InvalidRequest, op, key, 0, "InvalidObjectName") from None
        if size > MAX_KEY_BYTES or key[0] in "/\\":
            raise self._fail(InvalidRequest, op, key, 400, "InvalidObjectName")

    def _check_headers(self, op: str, key: str, headers: ObjectHeaders) -> None:
        size = 0
        for name, value in headers.meta.items():
            if not META_NAME.match(name) or not value.isascii():
                raise self._fail(InvalidRequest, op, key, 400, "InvalidArgument", f"bad metadata {name!r}")
            size += len(name) + len(value)
        if size >= MAX_META_BYTES:
            raise self._fail(InvalidRequest, op, key, 400, "InvalidArgument", "metadata too large")

    def _check_target(self, op: str, key: str, forbid_overwrite: bool) -> None:
        if key in self.immutable and key in self.objects:
            raise self._fail(ObjectImmutable, op, key, 409, "FileImmutable")
        if forbid_overwrite and key in self.objects and not self.versioning:
            raise self._fail(AlreadyExists, op, key, 409, "FileAlreadyExists")

    def _store(
        self,
        key: str,
        pieces: list[memoryview],
        headers: ObjectHeaders,
        *,
        object_type: str = "Normal",
        etag: str | None = None,
        crc: int | None = None,
        has_crc: bool = True,
    ) -> StoredObject:
        headers = copy_headers(headers)
        storage_class = headers.storage_class or "Standard"
        tagging, headers.tagging = headers.tagging, None
        acl, headers.acl = headers.acl, None
        headers.content_type = headers.content_type or "application/octet-stream"
        headers.storage_class = storage_class
        made = StoredObject(
            pieces=pieces,
            size=sum(len(piece) for piece in pieces),
            etag=etag if etag is not None else md5(pieces),
            crc64=(crc if crc is not None else crc64(pieces)) if has_crc else None,
            last_modified=self.now(),
            headers=headers,
            object_type=object_type,
            storage_class=storage_class,
            tagging=tagging or "",
            acl=acl,
        )
        if key not in self.objects:
            self._sorted = None
        self.objects[key] = made
        return made

    def _find(self, op: str, key: str) -> StoredObject:
        try:
            return self.objects[key]
        except KeyError:
            raise self._fail(NotFound, op, key, 404, "NoSuchKey") from None

    def _followed(self, op: str, key: str) -> tuple[StoredObject, StoredObject]:
        """The object, and the one that its bytes come from."""
        found = self._find(op, key)
        if found.symlink_target is None:
            return found, found
        target = self.objects.get(found.symlink_target)
        if target is None:
            raise self._fail(DanglingSymlink, op, key, 404, "SymlinkTargetNotExist")
        if target.symlink_target is not None:
            raise self._fail(InvalidRequest, op, key, 400, "InvalidTargetType")
        return found, target

    def _info(self, key: str, found: StoredObject, target: StoredObject) -> ObjectInfo:
        headers = copy_headers(found.headers)
        headers.storage_class = target.storage_class
        return ObjectInfo(
            key=key,
            size=target.size,
            etag=target.etag,
            last_modified=max(found.last_modified, target.last_modified),
            server_date=self.now(),
            crc64=target.crc64 if found is target else None,
            object_type=found.object_type,
            storage_class=target.storage_class,
            headers=headers,
            tag_count=len(parse_qsl(found.tagging, keep_blank_values=True)),
            restore=target.restore,
        )

    def _readable(self, op: str, key: str, found: StoredObject) -> None:
        if found.storage_class in ARCHIVES and 'ongoing-request="false"' not in (found.restore or ""):
            raise self._fail(ObjectArchived, op, key, 403, "InvalidObjectState")

    def _take(self, body: Sequence[Buffer]) -> list[memoryview]:
        data = b"".join(memoryview(buffer).cast("B") for buffer in body)
        self.bytes_in += len(data)
        return [memoryview(data)] if data else []

    def _digest(self, found: StoredObject, start: int, length: int) -> tuple[str, int]:
        """ETag and CRC of a range; remembered, since copies of one zero block are many."""
        known = (found.etag, start, length)
        if known not in self._digests:
            pieces = cut(found.pieces, start, length)
            self._digests[known] = (md5(pieces), crc64(pieces))
        return self._digests[known]

    def _result(self, made: StoredObject, *, last_modified: bool = False) -> PutResult:
        return PutResult(
            etag=made.etag,
            crc64=made.crc64,
            server_date=self.now(),
            last_modified=made.last_modified if last_modified else None,
        )

    # -- ObjectStore ------------------------------------------------------------------------------

    async def list(
        self, prefix: str, *, delimiter: str = "", marker: str = "", max_keys: int = 1000
    ) -> ListPage:
        async with self._call("list", prefix):
            if not 1 <= max_keys <= 1000:
                raise self._fail(InvalidRequest, "list", prefix, 400, "InvalidArgument")
            keys = self._keys()
            objects: list[ListedObject] = []
            prefixes: list[str] = []
            at = max(bisect_left(keys, prefix), bisect_right(keys, marker))
            last = ""
            truncated = False
            while at < len(keys) and keys[at].startswith(prefix):
                key = keys[at]
                group = None
                if delimiter:
                    end = key.find(delimiter, len(prefix))
                    if end >= 0:
                        group = key[: end + len(delimiter)]
                if group is not None and group == marker:  # a prefix as marker: all under it is done
                    at = self._after_group(keys, group, at)
                    continue
                if len(objects) + len(prefixes) >= max_keys:
                    truncated = True
                    break
                if group is not None:
                    prefixes.append(group)
                    last = group
                    at = self._after_group(keys, group, at)
                    continue
                found = self.objects[key]
                objects.append(
                    ListedObject(
                        key=key,
                        size=found.size,
                        etag=found.etag,
                        last_modified=found.last_modified,
                        object_type=found.object_type,
                        storage_class=found.storage_class,
                    )
                )
                last = key
                at += 1
            return ListPage(objects, prefixes, last if truncated else None, self.now())

    @staticmethod
    def _after_group(keys: Sequence[str], group: str, at: int) -> int:
        while at < len(keys) and keys[at].startswith(group):
            at += 1
        return at

    async def head(self, key: str) -> ObjectInfo:
        self._check_key("head", key)
        async with self._call("head", key):
            found, target = self._followed("head", key)
            return self._info(key, found, target)

    async def get(
        self,
        key: str,
        into: memoryview,
        *,
        start: int = 0,
        etag: str | None = None,
        progress: Progress | None = None,
    ) -> tuple[ObjectInfo, int]:
        self._check_key("get", key)
        async with self._call("get", key) as fault:
            found, target = self._followed("get", key)
            if etag is not None and etag != target.etag:
                raise self._fail(PreconditionFailed, "get", key, 412, "PreconditionFailed")
            self._readable("get", key, target)
            if start and start >= target.size:
                raise self._fail(InvalidRange, "get", key, 416, "InvalidRange")
            view = into.cast("B")
            wanted = min(len(view), target.size - start)
            done = 0
            for piece in cut(target.pieces, start, wanted):
                if fault is not None and fault.cut is not None:
                    piece = piece[: fault.cut - done]
                view[done : done + len(piece)] = piece
                done += len(piece)
                if fault is not None and fault.flip and done:
                    view[0] ^= 0xFF
                if progress is not None and len(piece):
                    progress(done)
            self.bytes_out += done
            if fault is not None and fault.cut is not None:
                raise fault.make_error(ShortBody, "get", key)
            return self._info(key, found, target), done

    async def put(
        self,
        key: str,
        body: Sequence[Buffer],
        headers: ObjectHeaders,
        *,
        forbid_overwrite: bool = False,
        replaceable: Replaceable | None = None,
    ) -> PutResult:
        self._check_key("put", key)
        if replaceable is not None:
            try:
                there = await self.head(key)
            except NotFound:
                forbid_overwrite = True
            else:
                if not replaceable(there):
                    raise self._fail(PreconditionFailed, "put", key, 0, "", "replaced meanwhile")
        async with self._call("put", key):
            self._check_headers("put", key, headers)
            pieces = self._take(body)
            self._check_target("put", key, forbid_overwrite)
            return self._result(self._store(key, pieces, headers))

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
        self._check_key("copy", key)
        async with self._call("copy", key):
            found = self._find("copy", source)
            if etag is not None and etag != found.etag:
                raise self._fail(PreconditionFailed, "copy", source, 412, "PreconditionFailed")
            self._readable("copy", source, found)
            if self.max_copy_size is not None and found.size > self.max_copy_size:
                raise self._fail(TooLarge, "copy", source, 400, "EntityTooLarge")
            self._check_target("copy", key, forbid_overwrite)
            if headers is not None:
                self._check_headers("copy", key, headers)
                new = copy_headers(headers)
            elif source == key:
                new = ObjectHeaders()  # "request's metadata always replaces" when copied onto itself
            else:
                bare = replace(
                    found.headers, storage_class=None, encryption=None, encryption_key_id=None,
                    data_encryption=None,
                )  # fmt: skip
                new = (stored_as or StoredAs()).over(bare)
            if new.tagging is None:
                new.tagging = found.tagging
            result_etag = found.etag
            if found.object_type in ("Multipart", "Appendable"):
                result_etag = self._digest(found, 0, found.size)[0]
            if self.copy_changes_etag:
                result_etag = md5([f"{found.etag}{next(self._serial)}".encode()])
            made = self._store(
                key,
                found.pieces,
                new,
                etag=result_etag,
                crc=found.crc64,
                has_crc=found.crc64 is not None,
                object_type="Symlink" if found.symlink_target is not None else "Normal",
            )
            made.symlink_target = found.symlink_target
            return self._result(made, last_modified=True)

    async def delete(
        self, key: str, *, guard: Guard | None = None, unchanged: Unchanged | None = None
    ) -> None:
        self._check_key("delete", key)
        async with self._call("delete", key):
            if key in self.immutable and key in self.objects:
                raise self._fail(ObjectImmutable, "delete", key, 409, "FileImmutable")
            self.remove(key)

    async def delete_many(self, keys: Sequence[str], *, guard: Guard | None = None) -> builtins.list[str]:
        for key in keys:
            self._check_key("delete_many", key)
        async with self._call("delete_many", keys[0] if keys else ""):
            if not 1 <= len(keys) <= 1000:
                raise self._fail(InvalidRequest, "delete_many", "", 400, "MalformedXML")
            kept = [key for key in keys if key in self.immutable and key in self.objects]
            for key in keys:
                if key not in kept:
                    self.remove(key)
            return kept

    async def initiate(self, key: str, headers: ObjectHeaders, *, forbid_overwrite: bool = False) -> str:
        self._check_key("initiate", key)
        async with self._call("initiate", key):
            self._check_headers("initiate", key, headers)
            self._check_target("initiate", key, forbid_overwrite)
            upload_id = f"{next(self._serial):032X}"
            self.uploads[upload_id] = Upload(key, upload_id, copy_headers(headers), self.now())
            return upload_id

    def _upload(self, op: str, key: str, upload_id: str) -> Upload:
        upload = self.uploads.get(upload_id)
        if upload is None or upload.key != key:
            raise self._fail(NoSuchUpload, op, key, 404, "NoSuchUpload")
        return upload

    async def put_part(self, key: str, upload_id: str, number: int, body: Sequence[Buffer]) -> PartResult:
        self._check_key("put_part", key)
        async with self._call("put_part", key, number):
            pieces = self._take(body)
            upload = self._upload("put_part", key, upload_id)
            if not 1 <= number <= MAX_PARTS:
                raise self._fail(InvalidRequest, "put_part", key, 400, "InvalidArgument")
            part = Part(pieces, sum(map(len, pieces)), md5(pieces), crc64(pieces))
            upload.parts[number] = part
            return PartResult(number, part.size, part.etag, part.crc64)

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
        self._check_key("copy_part", key)
        async with self._call("copy_part", key, number):
            upload = self._upload("copy_part", key, upload_id)
            found = self._find("copy_part", source)
            if etag is not None and etag != found.etag:
                raise self._fail(PreconditionFailed, "copy_part", source, 412, "PreconditionFailed")
            self._readable("copy_part", source, found)
            if not 1 <= number <= MAX_PARTS or length <= 0 or start + length > found.size:
                raise self._fail(InvalidRequest, "copy_part", key, 400, "InvalidArgument")
            part_etag, part_crc = self._digest(found, start, length)
            upload.parts[number] = Part(cut(found.pieces, start, length), length, part_etag, part_crc)
            return PartResult(number, length, part_etag, None)

    async def complete(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[PartResult],
        *,
        forbid_overwrite: bool = False,
        write_id: str | None = None,
    ) -> PutResult:
        self._check_key("complete", key)
        async with self._call("complete", key):
            upload = self._upload("complete", key, upload_id)
            if not parts:
                raise self._fail(InvalidRequest, "complete", key, 400, "MalformedXML")
            numbers = [part.number for part in parts]
            if sorted(set(numbers)) != numbers:
                raise self._fail(InvalidRequest, "complete", key, 400, "InvalidPartOrder")
            chosen = []
            for part in parts:
                have = upload.parts.get(part.number)
                if have is None or have.etag != part.etag:
                    raise self._fail(InvalidRequest, "complete", key, 400, "InvalidPart")
                chosen.append(have)
            if any(part.size < self.min_part_size for part in chosen[:-1]):
                raise self._fail(InvalidRequest, "complete", key, 400, "EntityTooSmall")
            self._check_target("complete", key, forbid_overwrite)
            crc = 0
            pieces: list[memoryview] = []
            for have in chosen:
                crc = combine(crc, have.crc64, have.size)
                pieces.extend(have.pieces)
            joined = md5(["".join(part.etag for part in chosen).encode()])
            copied = any(part.crc64 is None for part in parts)
            made = self._store(
                key,
                pieces,
                upload.headers,
                object_type="Multipart",
                etag=f"{joined}-{len(chosen)}",
                crc=crc,
                has_crc=self.crc_of_copied_parts or not copied,
            )
            del self.uploads[upload_id]
            return self._result(made)

    async def abort(self, key: str, upload_id: str) -> None:
        self._check_key("abort", key)
        async with self._call("abort", key):
            upload = self.uploads.get(upload_id)
            if upload is not None and upload.key == key:
                del self.uploads[upload_id]

    async def list_uploads(self, prefix: str) -> builtins.list[UploadInfo]:
        async with self._call("list_uploads", prefix):
            found = [
                UploadInfo(upload.key, upload.upload_id, upload.initiated)
                for upload in self.uploads.values()
                if upload.key.startswith(prefix)
            ]
            return sorted(found, key=lambda upload: (upload.key, upload.upload_id))

    async def get_symlink(self, key: str) -> str:
        self._check_key("get_symlink", key)
        async with self._call("get_symlink", key):
            found = self._find("get_symlink", key)
            if found.symlink_target is None:
                raise self._fail(InvalidRequest, "get_symlink", key, 400, "NotSymlink")
            return found.symlink_target

    async def get_tagging(self, key: str) -> str:
        self._check_key("get_tagging", key)
        async with self._call("get_tagging", key):
            return self._find("get_tagging", key).tagging

    async def get_acl(self, key: str) -> str:
        self._check_key("get_acl", key)
        async with self._call("get_acl", key):
            return self._find("get_acl", key).acl or "default"

    async def bucket_info(self) -> BucketInfo:
        async with self._call("bucket_info"):
            return BucketInfo(self.name, "oss-cn-hangzhou", "Standard", self.versioning, acl=self.acl)

    async def bucket_stat(self) -> BucketStat:
        async with self._call("bucket_stat"):
            return BucketStat(sum(o.size for o in self.objects.values()), len(self.objects))

    async def sign_url(self, method: str, key: str, expires: int) -> str:
        self._check_key("sign_url", key)
        return f"http://{self.name}.invalid/{quote(key)}?method={method}&expires={expires}"
