"""An ObjectStore around an ObjectStore: deadlines, repeats, and the settling of lost answers.

Threading: for the one trio thread.

What is repeated: transient failures (5xx, 408, 429, RequestTimeout, broken connections, short
bodies, CRC mismatches), after a pause of full jitter under an exponential ceiling, at least what
Retry-After asks for, until the call's time is over.  Time in which bytes moved is not counted.

What a lost answer means: the work may have been done.  Repeating an unconditional put, copy or part is
harmless.  A repeated delete may meet what another machine has made since: it looks first, when its
caller says how to tell.  A request with a condition of its own (forbid-overwrite, source-if-match) or
Complete meets its own work on the repeat, as 409, 412 or NoSuchUpload; so that refusal is settled by
a HEAD: when the object carries the write id that this call sends (x-oss-meta-ossfs-wid) and has its
size, the call has succeeded.  As long as an answer is lost, cancelling the task does not end the
call: its outcome is not known yet.
"""

from __future__ import annotations

import builtins
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import trio

from ossfs.errors import (
    AlreadyExists,
    DeadlineExceeded,
    NoSuchUpload,
    NotFound,
    PreconditionFailed,
    StoreError,
    TokenExpired,
    Transient,
)
from ossfs.metrics import Metrics
from ossfs.store.attempt import Attempt, current_attempt
from ossfs.store.base import (
    WRITE_ID,
    BucketInfo,
    BucketStat,
    Buffer,
    Guard,
    ListPage,
    ObjectHeaders,
    ObjectInfo,
    ObjectStore,
    PartResult,
    Progress,
    PutResult,
    Replaceable,
    StoredAs,
    Unchanged,
    UploadInfo,
)
from ossfs.store.checksum import crc64
from ossfs.store.request import whole_crc

log = logging.getLogger(__name__)

T = TypeVar("T")
Settle = Callable[[], Awaitable[PutResult | None]]

BASE_DELAY: Final = 0.2
MAX_DELAY: Final = 10.0
"""Seconds: ceilings of the first and of the longest pause."""
_WARN_FROM: Final = 3
"""The attempt from which failures are worth a warning; one or two are a network's everyday."""
_MAX_STRETCH: Final = 10.0
"""A call whose bytes move may take so many times its call_timeout, whatever happens."""
_SETTLE_ERRORS: Final = (AlreadyExists, PreconditionFailed, NoSuchUpload)


class RetryStore:
    """*store* with a retry policy.

    call_timeout: seconds for one call with all its repeats.
    refresh: gets new credentials; called once in a call that meets TokenExpired.
    jitter: a number in [0, 1) for each pause.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        call_timeout: float = 60.0,
        metrics: Metrics | None = None,
        refresh: Callable[[], Awaitable[None]] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.once = store
        """The same bucket, each call tried once."""
        self._call_timeout = call_timeout
        self._metrics = metrics if metrics is not None else Metrics()
        self._refresh = refresh
        self._jitter = jitter

    async def _call(
        self,
        attempt_call: Callable[[], Awaitable[T]],
        *,
        effects: bool = False,
        settle: Callable[[], Awaitable[T | None]] | None = None,
        always_settle: tuple[type[StoreError], ...] = (),
        guard: Guard | None = None,
    ) -> tuple[T, bool]:
        """Call until it works; returns the result, and whether an answer was lost on the way.

        effects: the call changes something.  settle: finds out whether an earlier attempt of this call
        did the work, and returns what it would have.  always_settle: errors that call for it even
        when no answer is known to be lost.
        """
        with trio.CancelScope() as scope:
            began = trio.current_time()
            expires = began + self._call_timeout
            latest = began + self._call_timeout * _MAX_STRETCH
            lost = refreshed = False
            number = 0
            while True:
                number += 1
                attempt = Attempt(max(0.1, expires - trio.current_time()))
                mark = current_attempt.set(attempt)
                try:
                    return await attempt_call(), lost
                except TokenExpired as error:
                    if refreshed or self._refresh is None:
                        raise
                    refreshed = True
                    log.info("%s: new credentials are fetched", error)
                    await self._refresh()
                    continue
                except _SETTLE_ERRORS as error:
                    if settle is not None and (lost or isinstance(error, always_settle)):
                        scope.shield = True
                        result = await settle()
                        if result is not None:
                            log.info("%s: an earlier attempt had done it", error)
                            return result, lost
                    raise
                except Transient as failure:
                    problem = failure
                finally:
                    current_attempt.reset(mark)

                if effects and problem.maybe_done:
                    lost = True
                    scope.shield = True  # the outcome is not known: see the module's text
                now = trio.current_time()
                expires = min(latest, expires + attempt.busy)
                pause = self._pause(number, problem)
                if (
                    not problem.retryable
                    or isinstance(problem, DeadlineExceeded)
                    or now + pause >= expires
                    or (guard is not None and not guard())
                ):
                    if lost and settle is not None:
                        result = await self._last_resort(settle)
                        if result is not None:
                            return result, lost
                    raise problem
                self._metrics.count("retries")
                log.log(
                    logging.WARNING if number >= _WARN_FROM else logging.DEBUG,
                    "attempt %d: %s; again in %.1f s",
                    number,
                    problem,
                    pause,
                )
                await trio.sleep(pause)
        raise AssertionError("nobody cancels the scope of a call")

    def _pause(self, number: int, problem: StoreError) -> float:
        ceiling = min(MAX_DELAY, BASE_DELAY * float(1 << min(number - 1, 16)))
        return max(self._jitter() * ceiling, problem.retry_after or 0.0)

    async def _last_resort(self, settle: Callable[[], Awaitable[T | None]]) -> T | None:
        """One look at what was done before a call whose answer was lost is given up."""
        try:
            return await settle()
        except StoreError as error:
            log.debug("and what became of it cannot be found out: %s", error)
            return None

    async def _read(self, attempt_call: Callable[[], Awaitable[T]]) -> T:
        result, _ = await self._call(attempt_call)
        return result

    # -- reading ----------------------------------------------------------------------------------

    async def list(
        self, prefix: str, *, delimiter: str = "", marker: str = "", max_keys: int = 1000
    ) -> ListPage:
        return await self._read(
            lambda: self.once.list(prefix, delimiter=delimiter, marker=marker, max_keys=max_keys)
        )

    async def head(self, key: str) -> ObjectInfo:
        return await self._read(lambda: self.once.head(key))

    async def get(
        self,
        key: str,
        into: memoryview,
        *,
        start: int = 0,
        etag: str | None = None,
        progress: Progress | None = None,
    ) -> tuple[ObjectInfo, int]:
        told = 0
        version = etag

        def tell(count: int) -> None:
            nonlocal told
            if count > told:
                told = count
                if progress is not None:
                    progress(count)

        async def attempt_call() -> tuple[ObjectInfo, int]:
            nonlocal version
            attempt = current_attempt.get()
            try:
                return await self.once.get(
                    key, into, start=start, etag=version, progress=tell if progress is not None else None
                )
            except Transient:
                # Bytes that the caller was told of must be joined by bytes of the same version.
                if told and version is None and attempt is not None:
                    version = attempt.etag
                raise

        return await self._read(attempt_call)

    async def get_symlink(self, key: str) -> str:
        return await self._read(lambda: self.once.get_symlink(key))

    async def get_tagging(self, key: str) -> str:
        return await self._read(lambda: self.once.get_tagging(key))

    async def get_acl(self, key: str) -> str:
        return await self._read(lambda: self.once.get_acl(key))

    async def bucket_info(self) -> BucketInfo:
        return await self._read(self.once.bucket_info)

    async def bucket_stat(self) -> BucketStat:
        return await self._read(self.once.bucket_stat)

    async def list_uploads(self, prefix: str) -> builtins.list[UploadInfo]:
        return await self._read(lambda: self.once.list_uploads(prefix))

    # -- writing ----------------------------------------------------------------------------------

    async def _settled(
        self, key: str, write_id: str | None, size: int | None, crc: int | None
    ) -> PutResult | None:
        """The object at *key* as a result, if it is the one that was written under *write_id*."""
        if write_id is None:
            return None
        try:
            info = await self.head(key)
        except NotFound:
            return None
        if info.headers.meta.get(WRITE_ID) != write_id:
            return None
        if size is not None and info.size != size:
            return None
        if crc is not None and info.crc64 is not None and info.crc64 != crc:
            return None
        return PutResult(info.etag, info.crc64, info.server_date, info.last_modified, info.version_id)

    async def put(
        self,
        key: str,
        body: Sequence[Buffer],
        headers: ObjectHeaders,
        *,
        forbid_overwrite: bool = False,
        replaceable: Replaceable | None = None,
    ) -> PutResult:
        async def settle() -> PutResult | None:
            size = sum(memoryview(buffer).nbytes for buffer in body)
            crc = crc64(body)  # at most a chunk: some milliseconds
            result = await self._settled(key, headers.meta.get(WRITE_ID), size, None)
            if result is None or result.crc64 in (None, crc):
                return result
            # Ours, but its bytes were damaged on the way.  Nobody else has put anything since.
            result, _ = await self._call(lambda: self.once.put(key, body, headers), effects=True)
            return result

        result, _ = await self._call(
            lambda: self.once.put(
                key, body, headers, forbid_overwrite=forbid_overwrite, replaceable=replaceable
            ),
            effects=True,
            settle=settle if forbid_overwrite or replaceable is not None else None,
        )
        return result

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
        async def settle() -> PutResult | None:
            if headers is not None:
                return await self._settled(key, headers.meta.get(WRITE_ID), None, None)
            # The copy carries its source's write id, which says the same when the contents agree.
            try:
                info = await self.head(source)
            except NotFound:
                return None
            return await self._settled(key, info.headers.meta.get(WRITE_ID), info.size, info.crc64)

        conditional = forbid_overwrite or etag is not None
        result, _ = await self._call(
            lambda: self.once.copy(
                source,
                key,
                etag=etag,
                headers=headers,
                stored_as=stored_as,
                forbid_overwrite=forbid_overwrite,
            ),
            effects=True,
            settle=settle if conditional else None,
        )
        return result

    async def delete(
        self, key: str, *, guard: Guard | None = None, unchanged: Unchanged | None = None
    ) -> None:
        lost = False

        async def attempt_call() -> None:
            nonlocal lost
            if lost and unchanged is not None:
                try:
                    info = await self.once.head(key)
                except NotFound:
                    return  # an earlier attempt had done it
                if not unchanged(info):
                    log.warning("%s was made anew by somebody else, and is left alone", key)
                    return
            try:
                await self.once.delete(key)
            except Transient as failure:
                lost = lost or failure.maybe_done
                raise

        await self._call(attempt_call, effects=True, guard=guard)

    async def delete_many(self, keys: Sequence[str], *, guard: Guard | None = None) -> builtins.list[str]:
        result, _ = await self._call(lambda: self.once.delete_many(keys), effects=True, guard=guard)
        return result

    async def initiate(self, key: str, headers: ObjectHeaders, *, forbid_overwrite: bool = False) -> str:
        upload_id, lost = await self._call(
            lambda: self.once.initiate(key, headers, forbid_overwrite=forbid_overwrite), effects=True
        )
        if lost:
            await self._report_strays(key, upload_id)
        return upload_id

    async def _report_strays(self, key: str, upload_id: str) -> None:
        """Say in the log what a lost Initiate may have left.

        An upload of that key that is not ours may as well be another machine's, just begun: aborting it
        would lose that machine's data, while an upload without parts costs nothing.
        """
        try:
            uploads = await self.once.list_uploads(key)
        except StoreError as error:
            log.debug("the uploads of %r cannot be listed: %s", key, error)
            return
        others = [upload for upload in uploads if upload.key == key and upload.upload_id != upload_id]
        if others:
            log.warning(
                "an answer to InitiateMultipartUpload of %r was lost: %d other unfinished uploads of "
                "that key are left alone, since they may be somebody else's",
                key,
                len(others),
            )

    async def put_part(self, key: str, upload_id: str, number: int, body: Sequence[Buffer]) -> PartResult:
        result, _ = await self._call(lambda: self.once.put_part(key, upload_id, number, body), effects=True)
        return result

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
        result, _ = await self._call(
            lambda: self.once.copy_part(key, upload_id, number, source, start, length, etag=etag),
            effects=True,
        )
        return result

    async def complete(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[PartResult],
        *,
        forbid_overwrite: bool = False,
        write_id: str | None = None,
    ) -> PutResult:
        async def settle() -> PutResult | None:
            return await self._settled(key, write_id, sum(part.size for part in parts), whole_crc(parts))

        result, _ = await self._call(
            lambda: self.once.complete(
                key, upload_id, parts, forbid_overwrite=forbid_overwrite, write_id=write_id
            ),
            effects=True,
            settle=settle,
            always_settle=(NoSuchUpload,),
        )
        return result

    async def abort(self, key: str, upload_id: str) -> None:
        await self._call(lambda: self.once.abort(key, upload_id), effects=True)

    async def sign_url(self, method: str, key: str, expires: int) -> str:
        return await self.once.sign_url(method, key, expires)
