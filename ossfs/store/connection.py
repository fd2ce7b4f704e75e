"""One HTTP/1.1 connection: bytes out of and into the caller's buffers, plain or TLS.

Threading: a Connection belongs to one worker thread at a time; only `Watch.cancel` is called from
another one, and it does no more than shut the socket down.

Why not http.client: a HEAD through it costs 0.2 ms of CPU, through this 0.05; a body goes from the
socket into the caller's memoryview, and out of the caller's buffers by one sendmsg, without slices.

Time: plain sockets block in the kernel with SO_RCVTIMEO and SO_SNDTIMEO of one *tick*, which spares
the poll() before each call that Python's own timeouts cost, and lets MSG_WAITALL fill a large piece
in one call.  OpenSSL retries a blocking socket for ever, so TLS sockets have Python's timeout, of the
same tick.  At each tick the Watch decides whether to go on.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from ossfs.errors import ConnectionLost, DeadlineExceeded, ServerFault, ShortBody
from ossfs.store.attempt import Attempt

_HEAD_BUFFER: Final = 16 * 1024
_MAX_HEAD: Final = 64 * 1024
_MAX_INTERIM: Final = 100
"""Answers of status 1xx before the one that counts; RFC 9110 has no limit, a server without end needs one."""
_MAX_TRAILERS: Final = 100
_IOV_MAX: Final = 1000
"""Buffers in one sendmsg; the kernel's limit is 1024."""
_PIECE: Final = 256 * 1024
"""Bytes received between two calls of on_data: small enough to be in the cache for the CRC."""
_TLS_JOIN: Final = 64 * 1024
"""Small buffers are joined up to this before they become TLS records."""
_MAX_SMALL_BODY: Final = 64 * 1024 * 1024
"""No answer that is kept in memory is larger: a listing of 1000 keys is under 1 MiB."""

WAIT_ERRORS = (BlockingIOError, TimeoutError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Watch:
    """Decides, for one exchange, when waiting has to end; and ends it from outside.

    silence: seconds without a byte that are allowed.  Raises StoreErrors made by `fail`.
    """

    __slots__ = ("_attempt", "_last", "_lock", "_silence", "_socket", "cancelled")

    def __init__(self, attempt: Attempt, silence: float) -> None:
        self._attempt = attempt
        self._silence = silence
        self._last = time.monotonic()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.cancelled = False

    def attach(self, sock: socket.socket) -> None:
        """From now on cancel() shuts *sock* down."""
        with self._lock:
            self._socket = sock
        self.check()
        self._last = time.monotonic()

    def detach(self) -> None:
        """The socket is not ours any more."""
        with self._lock:
            self._socket = None

    def cancel(self) -> None:
        """End the exchange; from any thread, any number of times."""
        with self._lock:
            self.cancelled = True
            if self._socket is not None:
                try:
                    # Not SSLSocket.shutdown: that drops the SSL object under the reading thread.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
                except OSError:
                    pass  # it was not connected any more

    def check(self) -> None:
        """Raise when the exchange was cancelled or its time is over."""
        if self.cancelled:
            raise ConnectionLost("cancelled")
        if time.monotonic() > self._attempt.limit:
            raise DeadlineExceeded("the time for this call is over")

    def tick(self) -> None:
        """A tick has passed without a byte."""
        self.check()
        quiet = time.monotonic() - self._last
        if quiet >= self._silence:
            raise ConnectionLost(f"nothing was received or sent for {quiet:.1f} s")

    def progressed(self, count: int) -> None:
        """*count* bytes have moved."""
        self._last = now = time.monotonic()
        self._attempt.progressed(count, now)
        if now > self._attempt.limit:
            self.check()

    def remaining(self) -> float:
        """Seconds until the limit, at least 0."""
        return max(0.0, self._attempt.limit - time.monotonic())


class Head:
    """Status line and headers of an answer.  Header names are lower-case."""

    __slots__ = ("headers", "keep_alive", "length", "status")

    def __init__(self, status: int, headers: dict[str, str], keep_alive: bool, length: int | None) -> None:
        self.status = status
        self.headers = headers
        self.keep_alive = keep_alive
        self.length = length
        """Bytes of body to come, or None when that is not known in advance."""


class Closed(ConnectionLost):
    """The other side closed, or reset, before the first byte of an answer."""


class Connection:
    """A connected socket with the beginnings of an answer."""

    __slots__ = (
        "_buffer",
        "_have",
        "_pos",
        "_read",
        "_view",
        "_write",
        "idle_since",
        "sock",
        "tick",
        "tls",
        "uses",
    )

    def __init__(self, sock: socket.socket, tick: float) -> None:
        self.sock = sock
        self.tick = tick
        self.tls = isinstance(sock, ssl.SSLSocket)
        self.uses = 0
        self.idle_since = 0.0
        self._buffer = bytearray(_HEAD_BUFFER)
        self._view = memoryview(self._buffer)
        self._pos = 0
        self._have = 0
        if self.tls:
            sock.settimeout(tick)
            # The SSL object itself: SSLSocket.recv_into and send are layers of Python over these
            # two, which are called for each record of 16 KiB.
            inner: Any = sock._sslobj  # type: ignore[attr-defined]
            self._read: Callable[[int, memoryview], int] = inner.read
            self._write: Callable[[memoryview], int] | None = inner.write
        else:
            sock.settimeout(None)
            limit = struct.pack("ll", int(tick), int(tick % 1 * 1_000_000))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            self._read = self._read_plain
            self._write = None

    def _read_plain(self, count: int, view: memoryview) -> int:
        return self.sock.recv_into(view, count)

    def close(self) -> None:
        """Close the socket; no error is worth telling."""
        try:
            self.sock.close()
        except OSError:
            pass

    # -- idle connections -------------------------------------------------------------------------

    def is_stale(self) -> bool:
        """Has the other side closed it, or said something unasked, while it was idle?"""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        if not poll.poll(0):
            return False
        if not self.tls:
            return True
        try:  # a session ticket makes a TLS socket readable without being an answer
            return not self._nothing_to_read()
        except (OSError, ValueError):
            return True

    def _nothing_to_read(self) -> bool:
        """Take what has come already, without waiting; True when that is nothing."""
        try:
            if self.tls:
                self.sock.settimeout(0)
                try:
                    count = self._read(len(self._view) - self._have, self._view[self._have :])
                finally:
                    self.sock.settimeout(self.tick)
            else:
                count = self.sock.recv_into(self._view[self._have :], 0, socket.MSG_DONTWAIT)
        except WAIT_ERRORS:
            return True
        self._have += count
        return False

    # -- sending ----------------------------------------------------------------------------------

    def send(self, head: bytes, body: Sequence[memoryview], watch: Watch) -> bool:
        """Send a request; False when an answer came before all was sent.

        Raises OSError when the connection breaks; an answer may nevertheless be there to be read.
        """
        if self._write is not None:
            return self._send_tls(head, body, watch)
        return self._send_plain(head, body, watch)

    def _send_plain(self, head: bytes, body: Sequence[memoryview], watch: Watch) -> bool:
        sendmsg = self.sock.sendmsg
        queue: list[bytes | memoryview] = [head, *body]
        first = 0
        while first < len(queue):
            batch = queue[first : first + _IOV_MAX]
            try:
                sent = sendmsg(batch)
            except WAIT_ERRORS:
                watch.tick()
                sent = 0
            else:
                watch.progressed(sent)
            for buffer in batch:
                if sent < len(buffer):
                    break
                sent -= len(buffer)
                first += 1
            else:
                continue
            queue[first] = memoryview(queue[first])[sent:]
            # Not all was taken: the tick is over.  Perhaps nobody reads, since the answer is no.
            if not self._nothing_to_read():
                return False
        return True

    def _send_tls(self, head: bytes, body: Sequence[memoryview], watch: Watch) -> bool:
        write = self._write
        assert write is not None
        for buffer in _joined(head, body):
            view = memoryview(buffer)
            size = len(view)
            sent = 0
            while sent < size:
                try:
                    count = write(view[sent:] if sent else view)
                except WAIT_ERRORS:
                    watch.tick()
                    if not self._nothing_to_read():
                        return False
                    continue
                sent += count
                watch.progressed(count)
        return True

    # -- receiving --------------------------------------------------------------------------------

    def read_head(self, method: str, watch: Watch) -> Head:
        """The next final answer's head; raises Closed, ConnectionLost, ServerFault."""
        for _ in range(_MAX_INTERIM):
            end = self._find_head(watch)
            text = str(self._view[self._pos : end], "utf-8", "surrogateescape")
            self._pos = end + 4
            head = parse_head(text, method)
            if head.status >= 200:
                return head
        raise ServerFault("one interim answer after the other came")

    def _find_head(self, watch: Watch) -> int:
        if self._pos == self._have:
            self._pos = self._have = 0
        search_from = self._pos
        while True:
            end = self._buffer.find(b"\r\n\r\n", search_from, self._have)
            if end >= 0:
                return end
            search_from = max(self._pos, self._have - 3)
            if self._have == len(self._buffer):
                if self._have >= _MAX_HEAD:
                    raise ServerFault("the headers of the answer are too long")
                self._view.release()
                self._buffer.extend(bytes(_HEAD_BUFFER))
                self._view = memoryview(self._buffer)
            with self._view[self._have :] as room:  # released, so that the buffer can grow
                count = self._receive(room, len(room), watch)
            if count == 0:
                if self._have == self._pos:
                    raise Closed("the connection was closed without an answer")
                raise ConnectionLost("the connection was closed within the headers of an answer")
            self._have += count

    def _receive(self, view: memoryview, count: int, watch: Watch) -> int:
        """At least one byte, or 0 at the end.  Raises ConnectionLost for everything that breaks."""
        while True:
            try:
                received = self._read(count, view)
            except WAIT_ERRORS:
                watch.tick()
            except (OSError, ValueError) as error:
                watch.check()
                kind = Closed if self._have == self._pos else ConnectionLost
                raise kind(f"the connection broke: {error}") from error
            else:
                watch.progressed(received)
                return received

    def _take_buffered(self, view: memoryview) -> int:
        count = min(len(view), self._have - self._pos)
        if count:
            view[:count] = self._view[self._pos : self._pos + count]
            self._pos += count
        return count

    def read_into(self, view: memoryview, watch: Watch, on_data: Callable[[int], None] | None) -> None:
        """Fill *view* with body bytes.  on_data(count so far) is called about each 256 KiB.

        Raises ShortBody at an early end, ConnectionLost.
        """
        size = len(view)
        done = self._take_buffered(view)
        told = 0
        plain = None if self.tls else self.sock.recv_into
        read = self._read
        wait_all = socket.MSG_WAITALL
        while done < size:
            want = min(_PIECE - (done - told), size - done)
            try:
                if plain is not None:
                    count = plain(view[done : done + want], want, wait_all)
                else:
                    count = read(want, view[done : done + want])
            except WAIT_ERRORS:
                watch.tick()
                continue
            except (OSError, ValueError) as error:
                watch.check()
                raise ConnectionLost(f"the connection broke within the body: {error}") from error
            if count == 0:
                watch.check()
                raise ShortBody(f"the body ended after {done} of {size} bytes")
            done += count
            watch.progressed(count)
            if on_data is not None and done - told >= _PIECE and done < size:
                told = done
                on_data(done)
            elif done - told >= _PIECE:
                told = done
        if on_data is not None and size:
            on_data(size)

    def read_small(self, head: Head, watch: Watch) -> bytes:
        """The whole body, whatever its framing."""
        if head.length is not None:
            if head.length == 0:
                return b""
            if head.length > _MAX_SMALL_BODY:
                raise ServerFault(f"an answer of {head.length} bytes makes no sense here")
            body = bytearray(head.length)
            self.read_into(memoryview(body), watch, None)
            return bytes(body)
        if head.headers.get("transfer-encoding", "").lower() == "chunked":
            return self._read_chunked(watch)
        return self._read_to_end(watch)

    def _read_line(self, watch: Watch) -> bytes:
        while True:
            end = self._buffer.find(b"\r\n", self._pos, self._have)
            if end >= 0:
                line = bytes(self._view[self._pos : end])
                self._pos = end + 2
                return line
            if self._pos:
                rest = bytes(self._view[self._pos : self._have])
                self._view[: len(rest)] = rest
                self._pos, self._have = 0, len(rest)
            if self._have == len(self._buffer):
                raise ServerFault("a line of the chunked body is too long")
            room = self._view[self._have :]
            count = self._receive(room, len(room), watch)
            if count == 0:
                raise ShortBody("the chunked body ended early")
            self._have += count

    def _read_chunked(self, watch: Watch) -> bytes:
        body = bytearray()
        while True:
            line = self._read_line(watch)
            try:
                size = int(line.split(b";", 1)[0], 16)
            except ValueError:
                raise ServerFault("the chunked body is malformed") from None
            if size == 0:
                for _ in range(_MAX_TRAILERS):
                    if not self._read_line(watch):
                        return bytes(body)
                raise ServerFault("the chunked body has too many trailers")
            if size < 0 or len(body) + size > _MAX_SMALL_BODY:
                raise ServerFault("the chunked body is too long")
            chunk = bytearray(size)
            self.read_into(memoryview(chunk), watch, None)
            body += chunk
            if self._read_line(watch):
                raise ServerFault("the chunked body is malformed")

    def _read_to_end(self, watch: Watch) -> bytes:
        body = bytearray(self._view[self._pos : self._have])
        self._pos = self._have = 0
        while True:
            count = self._receive(self._view, len(self._view), watch)
            if count == 0:
                return bytes(body)
            body += self._view[:count]
            if len(body) > _MAX_SMALL_BODY:
                raise ServerFault("the body is too long")

    def is_clean(self) -> bool:
        """Nothing of an answer is left over."""
        return self._pos == self._have


def _joined(head: bytes, body: Sequence[memoryview]) -> list[bytes | memoryview]:
    """The request as buffers that are worth a TLS record each."""
    result: list[bytes | memoryview] = []
    small: list[bytes | memoryview] = [head]
    size = len(head)
    for buffer in body:
        if len(buffer) >= _TLS_JOIN // 4:
            if small:
                result.append(b"".join(small))
                small, size = [], 0
            result.append(buffer)
            continue
        small.append(buffer)
        size += len(buffer)
        if size >= _TLS_JOIN:
            result.append(b"".join(small))
            small, size = [], 0
    if small:
        result.append(b"".join(small))
    return result


def natural(text: str) -> int | None:
    """A size or count as the service writes it: digits, less than 2**63.  None for all else."""
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        return None
    number = int(text)
    return number if number < 1 << 63 else None


def parse_head(text: str, method: str) -> Head:
    """Status line and headers, without the empty line.  Raises ServerFault for what is not HTTP/1.x."""
    lines = text.split("\r\n")
    start = lines[0]
    code = start[9:12]
    if not start.startswith("HTTP/1.") or len(code) < 3 or not (code.isascii() and code.isdigit()):
        raise ServerFault(f"the answer is not HTTP: {start[:40]!r}")
    status = int(code)
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            raise ServerFault(f"a header of the answer is malformed: {line[:40]!r}")
        name = name.lower()
        value = value.strip()
        if name == "content-length" and headers.get(name, value) != value:
            raise ServerFault("the answer has two lengths")
        headers[name] = value
    connection = headers.get("connection", "").lower()
    keep_alive = connection != "close" if start.startswith("HTTP/1.1") else connection == "keep-alive"
    length: int | None
    if method == "HEAD" or status in (204, 304) or status < 200:
        length = 0
    elif "transfer-encoding" in headers:
        length = None
    elif "content-length" in headers:
        number = headers["content-length"]
        length = natural(number)
        if length is None:
            raise ServerFault(f"Content-Length is {number[:40]!r}")
    else:
        length = None
        keep_alive = False
    return Head(status, headers, keep_alive, length)
