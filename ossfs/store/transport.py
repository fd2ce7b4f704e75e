"""The HTTP session that oss2 is given: connections, their pool, and one exchange over them.

Threading: one Session for a store, used by many worker threads at once; the pool has a lock of its
own.  `Exchange.cancel` may be called from any thread.

oss2 takes a session object by its documented extension point (oss2.Bucket(..., session=)), calls its
do_request(req, timeout) and wants .status, .headers, .request_id, .read() and iteration of the
answer.  What oss2 has no words for (buffers to fill, a limit, a way to cancel) travels as the
request's `data`, an Exchange: oss2 hands that through untouched because it has a length.

No proxies from the environment, no netrc, no redirects.  Answers of status 300 and above are turned
into errors by the function that the session was made with, so that oss2 never parses them.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol
from urllib.parse import quote

from ossfs.errors import (
    ConnectFailed,
    ConnectionLost,
    InvalidRequest,
    NameNotResolved,
    PlainHttp,
    StoreError,
    TlsFailed,
)
from ossfs.metrics import Metrics
from ossfs.store.attempt import Attempt
from ossfs.store.base import Buffer
from ossfs.store.connection import Closed, Connection, Head, Watch
from ossfs.store.resolver import ResolveError, Resolver

log = logging.getLogger(__name__)

IDLE_LIMIT: Final = 45.0
"""Seconds after which an idle connection is dropped: Alibaba's own SDK drops its after 50."""
FRESH_LIMIT: Final = 5.0
"""Seconds of idleness allowed to a connection for requests that must not be sent twice."""
_PATIENCE_AFTER_BREAK: Final = 2.0
"""Seconds to wait for the answer of a server that broke the connection while it was sent to."""
_SMALL_BODY: Final = 16 * 1024
"""Up to here a body is joined with the head into one send."""


_TLS_SILENCE: Final = 1.5
"""Seconds of silence in a handshake after which it is asked whether TLS is spoken there at all."""
_NOT_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST")
"""OpenSSL's reasons when what came back is no TLS record."""


class Request(Protocol):
    """What oss2 gives to a session (oss2.http.Request)."""

    method: str
    url: str
    params: dict[str, str]
    headers: Any
    data: Any


class Response:
    """What oss2 wants of an answer.  The body has been received when this exists."""

    __slots__ = ("_body", "headers", "received", "request_id", "status")

    def __init__(self, head: Head, body: bytes, received: int = 0) -> None:
        self.status = head.status
        self.headers = head.headers
        self.request_id = head.headers.get("x-oss-request-id", "")
        self._body = body
        self.received = received
        """Bytes that went into the exchange's view."""

    def read(self, amt: int | None = None) -> bytes:
        """The (rest of the) body that is not in the view."""
        if amt is None:
            body, self._body = self._body, b""
        else:
            body, self._body = self._body[:amt], self._body[amt:]
        return body

    def __iter__(self) -> Iterator[bytes]:
        if self._body:
            yield self.read()


class Exchange:
    """One request's buffers and conditions.

    body: sent as it is; any C-contiguous buffers.
    into: where the body of a good answer to a GET goes; on_head(head) is called before, checks the
        head and returns how many bytes there will be; on_data(count) while they arrive.
    fresh: wants a connection that was used less than 5 s ago, or a new one.
    repeatable: may be sent again at once when an idle connection turns out to be dead.
    patient: the service may work for long before it says a word (copy, complete).
    """

    __slots__ = (
        "attempt",
        "body",
        "fresh",
        "into",
        "key",
        "length",
        "on_data",
        "on_head",
        "operation",
        "patient",
        "repeatable",
        "seconds",
        "watch",
    )

    def __init__(
        self,
        operation: str,
        key: str,
        attempt: Attempt,
        *,
        io_timeout: float,
        body: Sequence[Buffer] = (),
        into: memoryview | None = None,
        on_head: Callable[[Head], int] | None = None,
        on_data: Callable[[int], None] | None = None,
        fresh: bool = False,
        repeatable: bool = False,
        patient: bool = False,
    ) -> None:
        self.operation = operation
        self.key = key
        self.attempt = attempt
        self.body = [memoryview(buffer).cast("B") for buffer in body]
        self.length = sum(map(len, self.body))
        self.into = into
        self.on_head = on_head
        self.on_data = on_data
        self.fresh = fresh
        self.repeatable = repeatable
        self.patient = patient
        self.seconds: float | None = None
        """How long it took, once it has ended."""
        self.watch = Watch(attempt, float("inf") if patient else io_timeout)

    def __len__(self) -> int:
        return self.length

    def cancel(self) -> None:
        """Shut the connection down; from any thread."""
        self.watch.cancel()


class _Origin:
    """Where connections go."""

    __slots__ = ("host", "host_header", "port", "secure")

    def __init__(self, scheme: str, netloc: str) -> None:
        self.secure = scheme == "https"
        self.host_header = netloc
        host, colon, port = netloc.rpartition(":")
        if not colon or not port.isdigit():
            host, port = netloc, ""
        self.host = host.strip("[]")
        self.port = int(port) if port else (443 if self.secure else 80)


class Pool:
    """Idle connections to one origin, the most recently used on top."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._closed = False

    def take(self, max_idle: float) -> Connection | None:
        """A connection that was idle for less than *max_idle* seconds and is alive."""
        while True:
            now = time.monotonic()
            with self._lock:
                if not self._idle or now - self._idle[-1].idle_since >= max_idle:
                    return None
                connection = self._idle.pop()
            if not connection.is_stale():
                return connection
            connection.close()

    def give(self, connection: Connection) -> None:
        """Put a connection back that can be used again."""
        connection.idle_since = time.monotonic()
        connection.uses += 1
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def prune(self) -> None:
        """Close what has been idle for too long."""
        limit = time.monotonic() - IDLE_LIMIT
        with self._lock:
            if not self._idle or self._idle[0].idle_since > limit:
                return
            old = [connection for connection in self._idle if connection.idle_since <= limit]
            self._idle = [connection for connection in self._idle if connection.idle_since > limit]
        for connection in old:
            connection.close()

    def close(self) -> None:
        """Close all idle connections, now and whenever one comes back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __len__(self) -> int:
        with self._lock:
            return len(self._idle)


class Session:
    """The session object for oss2.

    refusal(exchange, head, body): makes the error for an answer of status 300 or above.
    connect_timeout, io_timeout: seconds; io_timeout is the longest silence on a connection.
    """

    def __init__(
        self,
        refusal: Callable[[Exchange, Head, bytes], StoreError],
        metrics: Metrics,
        *,
        context: ssl.SSLContext | None = None,
        connect_timeout: float = 10.0,
        io_timeout: float = 30.0,
        resolver: Resolver | None = None,
    ) -> None:
        self._refusal = refusal
        self._metrics = metrics
        self._context = context
        self._connect_timeout = connect_timeout
        self._tick = max(0.02, min(1.0, io_timeout / 4))
        self._resolver = resolver if resolver is not None else Resolver()
        self._lock = threading.Lock()
        self._pools: dict[str, tuple[_Origin, Pool]] = {}

    def close(self) -> None:
        """Close all idle connections."""
        for _, pool in list(self._pools.values()):
            pool.close()

    def prune(self) -> None:
        """Close connections that have been idle for too long."""
        for _, pool in list(self._pools.values()):
            pool.prune()

    def idle(self) -> int:
        """Count of idle connections."""
        return sum(len(pool) for _, pool in list(self._pools.values()))

    def _pool(self, scheme: str, netloc: str) -> tuple[_Origin, Pool]:
        base = f"{scheme}//{netloc}"
        try:
            return self._pools[base]
        except KeyError:
            with self._lock:
                return self._pools.setdefault(base, (_Origin(scheme.rstrip(":"), netloc), Pool()))

    def do_request(self, req: Request, timeout: object) -> Response:
        """Send a request and receive its answer.  Raises StoreError; *timeout* is the exchange's."""
        exchange = req.data
        if not isinstance(exchange, Exchange):
            raise TypeError("requests of this store carry an Exchange")
        scheme, _, netloc, path = req.url.split("/", 3)
        origin, pool = self._pool(scheme, netloc)
        try:
            return self._exchange(
                exchange, req.method, build_head(req, path, origin.host_header, exchange), origin, pool
            )
        except Closed as error:  # a distinction for this module only
            lost = ConnectionLost(error.message, operation=exchange.operation, key=exchange.key)
            lost.maybe_done = error.maybe_done
            raise lost from error
        except StoreError as error:
            error.operation = exchange.operation
            error.key = exchange.key
            raise
        finally:
            exchange.watch.detach()

    def _exchange(
        self, exchange: Exchange, method: str, head: bytes, origin: _Origin, pool: Pool
    ) -> Response:
        reused = pool.take(FRESH_LIMIT if exchange.fresh else IDLE_LIMIT)
        if reused is not None:
            try:
                return self._run(exchange, method, head, reused, pool)
            except Closed:
                # The other side closed it while it was idle, as it may.
                if not exchange.repeatable or exchange.watch.cancelled:
                    raise
                log.debug("an idle connection was closed by the other side: a new one is used")
                self._metrics.add("connections.stale")
        return self._run(exchange, method, head, self._connect(exchange, origin), pool)

    def _connect(self, exchange: Exchange, origin: _Origin) -> Connection:
        watch = exchange.watch
        until = time.monotonic() + min(self._connect_timeout, watch.remaining())
        try:
            addresses = self._resolver.resolve(
                origin.host, origin.port, max(0.05, until - time.monotonic()), watch.check
            )
        except ResolveError as error:
            raise NameNotResolved(str(error)) from error
        failure: Exception | None = None
        for position, (family, address) in enumerate(addresses):
            left = until - time.monotonic()
            if left <= 0:
                break
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                failure = error
                continue
            try:
                watch.attach(sock)
                sock.settimeout(max(0.05, left / (len(addresses) - position)))
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if origin.secure:
                    sock = secure = self._secured(sock, origin)
                    watch.attach(secure)
                    self._handshake(secure, origin, until)
                self._metrics.add("connections.opened")
                return Connection(sock, self._tick)
            except (OSError, StoreError) as error:
                watch.detach()
                sock.close()
                if isinstance(error, StoreError):
                    raise
                failure = error
        watch.check()
        what = failure if failure is not None and str(failure) else "timed out"
        raise ConnectFailed(f"cannot connect to {origin.host} port {origin.port}: {what}") from failure

    def _secured(self, sock: socket.socket, origin: _Origin) -> ssl.SSLSocket:
        context = self._context
        if context is None:
            context = self._context = tls_context(None)
        return context.wrap_socket(sock, server_hostname=origin.host, do_handshake_on_connect=False)

    def _handshake(self, sock: ssl.SSLSocket, origin: _Origin, until: float) -> None:
        """Raises TlsFailed, or an OSError that is worth another try."""
        sock.settimeout(max(0.05, min(_TLS_SILENCE, until - time.monotonic())))
        try:
            try:
                sock.do_handshake()
            except TimeoutError:
                # A server without TLS may wait for the rest of what it takes for a request.
                if speaks_plain_http(sock.family, sock.getpeername()):
                    raise PlainHttp(f"{origin.host} port {origin.port} speaks HTTP without TLS") from None
                sock.settimeout(max(0.05, until - time.monotonic()))
                sock.do_handshake()  # goes on where it was
        except ssl.SSLCertVerificationError as error:
            raise TlsFailed(
                f"the certificate of {origin.host} is not trusted: {error.verify_message}"
            ) from error
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            raise  # cut off in the middle: worth another try
        except ssl.SSLError as error:
            if error.reason in _NOT_TLS:
                raise PlainHttp(f"{origin.host} port {origin.port} speaks HTTP without TLS") from error
            raise TlsFailed(f"no TLS connection to {origin.host}: {error.reason or error}") from error

    def _run(
        self, exchange: Exchange, method: str, head: bytes, connection: Connection, pool: Pool
    ) -> Response:
        """One exchange over one connection, which goes back into the pool or is closed."""
        watch = exchange.watch
        reusable = False
        try:
            watch.attach(connection.sock)
            answer, complete = self._ask(exchange, method, head, connection)
            refused: StoreError | None = None
            if answer.status >= 300:
                refused = self._refusal(exchange, answer, connection.read_small(answer, watch))
                response = None
            else:
                response = self._receive(exchange, answer, connection)
            reusable = complete and answer.keep_alive and connection.is_clean()
        finally:
            watch.detach()
            if reusable:
                pool.give(connection)
                pool.prune()
            else:
                connection.close()
        if exchange.length and complete:
            self._metrics.add("bytes_sent", exchange.length)
        if response is None:
            assert refused is not None
            raise refused
        return response

    def _ask(self, exchange: Exchange, method: str, head: bytes, connection: Connection) -> tuple[Head, bool]:
        """Send the request; the head of the answer, and whether all was sent before it came."""
        watch = exchange.watch
        body = exchange.body
        if body and exchange.length <= _SMALL_BODY:
            head = b"".join((head, *body))
            body = []
        try:
            complete = connection.send(head, body, watch)
        except OSError as error:
            watch.check()
            # A server that does not want to hear the rest may have said so before it closed.
            watch = Watch(Attempt(min(_PATIENCE_AFTER_BREAK, watch.remaining())), _PATIENCE_AFTER_BREAK)
            try:
                return connection.read_head(method, watch), False
            except StoreError:
                lost = Closed(f"the connection broke while the request was sent: {error}")
                lost.maybe_done = False  # the service never had all of it
                raise lost from error
        try:
            return connection.read_head(method, watch), complete
        except ConnectionLost as error:
            if not complete:
                error.maybe_done = False
            raise

    def _receive(self, exchange: Exchange, head: Head, connection: Connection) -> Response:
        watch = exchange.watch
        if exchange.into is not None:
            assert exchange.on_head is not None
            size = exchange.on_head(head)
            connection.read_into(exchange.into[:size], watch, exchange.on_data)
            self._metrics.add("bytes_received", size)
            return Response(head, b"", size)
        body = connection.read_small(head, watch)
        if body:
            self._metrics.add("bytes_received", len(body))
        return Response(head, body)


def build_head(req: Request, path: str, host: str, exchange: Exchange) -> bytes:
    """Request line and headers.  Raises InvalidRequest for what cannot stand in a header."""
    target = f"/{path}"
    if req.params:
        query = "&".join(
            f"{quote(name, safe='')}={quote(value, safe='', errors='surrogateescape')}"
            if value
            else quote(name, safe="")
            for name, value in req.params.items()
        )
        target = f"{target}?{query}"
    lines = [f"{req.method} {target} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in req.headers.items() if value is not None]
    if exchange.length or req.method in ("PUT", "POST"):
        lines.append(f"Content-Length: {exchange.length}")
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
        raise InvalidRequest("a header's value contains a line break")
    try:
        return f"{text}\r\n\r\n".encode()
    except UnicodeEncodeError:
        raise InvalidRequest("a header's value is not text") from None


def speaks_plain_http(family: int, address: Any) -> bool:
    """Does the server at *address* answer HTTP without TLS?  Takes _TLS_SILENCE seconds at most."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(_TLS_SILENCE / 2)
            probe.connect(address)
            probe.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
            return probe.recv(5) == b"HTTP/"
    except OSError:
        return False


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Verifies certificates, by the system's authorities or those in *ca_file* (PEM).

    Raises OSError or ssl.SSLError when the file cannot be used.
    """
    context = ssl.create_default_context(cafile=ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context
