"""One request: built and signed by oss2, carried by our own transport, in one worker thread.

Threading: Calls is for the one trio thread; each call is built, signed, sent and parsed in a worker thread,
so that the trio thread does nothing but wait.

oss2 gives the signatures, the URL forms (virtual host, path style for addresses) and the request
objects, through Bucket._do; its result models, its CRC and its requests session are not used.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import oss2

from ossfs.errors import ConfigError, InvalidRequest, StoreError
from ossfs.metrics import Metrics
from ossfs.store.attempt import Attempt, current_attempt
from ossfs.store.base import Buffer
from ossfs.store.credentials import CredentialsProvider, make_auth
from ossfs.store.request import Receiver
from ossfs.store.transport import Exchange, Response, Session
from ossfs.store.workers import Workers

T = TypeVar("T")

# oss2 writes the canonical request, security token included, into its debug log.
logging.getLogger("oss2").setLevel(logging.WARNING)

PAYER: Final = "x-oss-request-payer"
REQUESTER: Final = "requester"
LIMITED: Final = frozenset({"GetObject", "PutObject", "UploadPart"})
"""What a traffic limit is asked for.  Copies take one, too, but their bytes use nobody's line, and a limited
copy of some GB would answer after hours."""

_ENDPOINT: Final = re.compile(r"https?://[A-Za-z0-9_.-]+(:[0-9]{1,5})?/?\Z")


@dataclass(frozen=True)
class StoreConfig:
    """Where the bucket is and how patiently to talk to it.

    endpoint: with its scheme.  region: without "oss-"; selects V4 signatures.
    ca_file: PEM file of the authorities to trust instead of the system's.
    requester_pays: say in each request that its sender pays for it.
    traffic_limit: bits a second of each GetObject, PutObject and UploadPart; None for no limit.
    Times in seconds: io_timeout is the longest silence on a connection, call_timeout the time for one
    call with its repeats, which grows while bytes move.
    """

    bucket: str
    endpoint: str
    region: str | None = None
    ca_file: str | None = None
    requester_pays: bool = False
    traffic_limit: int | None = None
    max_connections: int = 64
    connect_timeout: float = 10.0
    io_timeout: float = 30.0
    call_timeout: float = 60.0


class Calls:
    """Requests to one bucket, each sent once."""

    def __init__(
        self,
        config: StoreConfig,
        credentials: CredentialsProvider,
        metrics: Metrics,
        workers: Workers,
        session: Session,
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._workers = workers
        self.name = config.bucket
        if not _ENDPOINT.match(config.endpoint):
            raise ConfigError(
                f"endpoint {config.endpoint} cannot be used: it is http://HOST[:PORT] or https://HOST[:PORT]"
            )
        try:
            self._bucket = oss2.Bucket(
                make_auth(credentials, config.region),
                config.endpoint,
                config.bucket,
                session=session,
                enable_crc=False,
                region=config.region,
                app_name="ossfs",
                is_verify_object_strict=False,
            )
        except oss2.exceptions.ClientError as error:
            raise ConfigError(
                f"endpoint {config.endpoint} or bucket {config.bucket} cannot be used: {error.body}"
            ) from None

    async def run(
        self,
        operation: str,
        method: str,
        key: str,
        finish: Callable[[Response], T],
        *,
        params: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        body: Sequence[Buffer] = (),
        receiver: Receiver | None = None,
        once: bool = False,
        read: bool = False,
        patient: bool = False,
        prepare: Callable[[], None] | None = None,
    ) -> T:
        """One request in one worker thread.

        once: must not be sent twice blindly.  read: has no side effects, so cancelling ends it.
        prepare: runs in the thread before anything is sent.
        """
        attempt = current_attempt.get()
        if attempt is None:
            attempt = Attempt(self._config.call_timeout)
        exchange = Exchange(
            operation,
            key,
            attempt,
            # What has bought time with its bytes is silent no longer than a call without any may take.
            io_timeout=min(self._config.io_timeout, self._config.call_timeout),
            body=body,
            into=receiver.into if receiver is not None else None,
            on_head=receiver.on_head if receiver is not None else None,
            on_data=receiver.on_data if receiver is not None else None,
            fresh=once,
            repeatable=not once,
            patient=patient,
        )

        headers = {} if headers is None else headers  # the same one: prepare may add to it
        if self._config.requester_pays:
            headers[PAYER] = REQUESTER
        if self._config.traffic_limit is not None and operation in LIMITED:
            headers["x-oss-traffic-limit"] = str(self._config.traffic_limit)

        def work() -> T:
            if prepare is not None:
                prepare()
            began = time.monotonic()
            try:
                response = self._bucket._do(
                    method, self.name, key, data=exchange, params=params, headers=headers
                )
            except UnicodeEncodeError:  # from the signer
                raise InvalidRequest("a header's value is not text") from None
            finally:
                exchange.seconds = time.monotonic() - began
            try:
                return finish(response)
            except StoreError as error:
                error.request_id = error.request_id or response.request_id
                raise

        metrics = self._metrics
        metrics.count(f"requests.{operation}")
        try:
            result = await self._workers.run(work, exchange.cancel if read else None)
        except StoreError as error:
            error.operation = operation
            error.key = key
            metrics.count(f"errors.{type(error).__name__}")
            metrics.failed(error)
            if exchange.seconds is not None:
                metrics.observe(operation, exchange.seconds, False)
            raise
        assert exchange.seconds is not None
        metrics.observe(operation, exchange.seconds, True)
        return result

    async def sign_url(self, method: str, key: str, expires: int) -> str:
        """A URL that needs no keys, for *expires* seconds."""

        def sign() -> str:
            params = {PAYER: REQUESTER} if self._config.requester_pays else None
            url: str = self._bucket.sign_url(method, key, expires, params=params)
            return url

        return await self._workers.run(sign)  # the provider of the credentials may wait for a network
