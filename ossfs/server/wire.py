"""HTTP/1.1 on a blocking socket: request heads, bodies (length or chunked), and answers.

One thread owns one connection for its whole life, so that receiving, hashing and writing a body need no
hand-over between threads; each of these calls releases the GIL for big buffers. Strict where
leniency could make two parties disagree on where a request ends: both Content-Length and
Transfer-Encoding, several lengths, folded headers or control characters are refused with a 400.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

from ossfs.server.errors import OssError

MAX_HEAD = 64 * 1024
_TLS_HANDSHAKE = b"\x16\x03"
"""How a TLS client begins (RFC 8446, 5.1): content type handshake, and the major version."""
MAX_HEADERS = 200
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_REQUEST_LINE = re.compile(r"([A-Z]{1,20}) ([\x21-\xff]+) HTTP/1\.([01])\Z")
_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\x20-\x7e\t]*)?\Z")
# SO_RCVTIMEO ends in EAGAIN, a time-out of Python's own (TLS) in TimeoutError.
_TIMEOUTS = (BlockingIOError, TimeoutError)


class Disconnected(Exception):
    """The peer is gone, or the connection has to end: nothing more can be said on it."""


class Head:
    """A parsed request head. Header names are lower-case; a repeated header is joined with commas."""

    __slots__ = ("headers", "keep_alive", "method", "target")

    def __init__(self, method: str, target: str, headers: dict[str, str], keep_alive: bool) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.keep_alive = keep_alive


def bad_request(message: str) -> OssError:
    """A request that can't be read: after the answer the connection is closed."""
    return OssError("InvalidRequest", message, close=True)


def parse_head(data: bytes) -> Head:
    """`data` is the head without its final empty line."""
    lines = data.decode("latin-1").split("\r\n")
    match = _REQUEST_LINE.match(lines[0])
    if match is None:
        raise bad_request("The request line is malformed.")
    method, target, minor = match.groups()
    if len(lines) > MAX_HEADERS:
        raise bad_request("The request has too many headers.")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not _TOKEN.match(name):
            raise bad_request("A request header is malformed.")
        name = name.lower()
        value = value.strip(" \t")
        if _BAD_VALUE.search(value):
            raise bad_request("A request header has control characters.")
        if name in headers:
            if name in ("content-length", "host", "transfer-encoding", "authorization"):
                raise bad_request("A request header is repeated.")
            value = f"{headers[name]},{value}"
        headers[name] = value
    connection = headers.get("connection", "").lower()
    keep_alive = "close" not in connection if minor == "1" else "keep-alive" in connection
    return Head(method, target, headers, keep_alive)


def parse_query(query: str) -> list[tuple[str, str]]:
    """Name and value pairs in their order; `+` is a space, as the clients' form encoding has it."""
    pairs = []
    for item in query.split("&"):
        if item:
            name, _, value = item.partition("=")
            pairs.append((_decode(name), _decode(value)))
    return pairs


def _decode(text: str) -> str:
    if "%" not in text and "+" not in text and text.isascii():
        return text
    try:
        return unquote_to_bytes(text.replace("+", " ").encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise OssError("InvalidArgument", "The query is not valid UTF-8.") from None


class Connection:
    """The socket, what was read ahead of need, and the pace that bodies are held to."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.is_tls = isinstance(sock, ssl.SSLSocket)
        self._ahead = b""
        self._receive_timeout = 0.0
        # Bytes a second for bodies; 0: as fast as it goes.
        self.bandwidth = 0
        self._pace_start = 0.0
        self._pace_bytes = 0

    # Receiving

    def set_receive_timeout(self, seconds: float) -> None:
        """In the kernel, so that recv stays one system call without poll."""
        if seconds != self._receive_timeout:
            self._receive_timeout = seconds
            if self.is_tls:
                # OpenSSL's blocking read would just repeat after the kernel's time-out.
                self.sock.settimeout(seconds)
                return
            value = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)

    def set_send_timeout(self, seconds: float) -> None:
        """A peer that stops reading must not hold a thread for ever."""
        value = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def read_head(self) -> Head | None:
        """The next request; None when the peer closed (or stayed silent) between requests."""
        data = self._ahead
        while True:
            # Empty lines before a request line are allowed.
            while data.startswith(b"\r\n"):
                data = data[2:]
            if data.startswith(_TLS_HANDSHAKE):
                # The client waits for our half of the handshake: without an answer, until its time is over.
                self._ahead = b""
                raise bad_request("This port speaks plain HTTP, and a TLS handshake came.")
            end = data.find(b"\r\n\r\n")
            if end >= 0:
                break
            if len(data) > MAX_HEAD:
                self._ahead = b""
                raise bad_request("The request headers are too large.")
            try:
                more = self.sock.recv(65536)
            except _TIMEOUTS:
                more = b""
            except OSError as error:
                raise Disconnected from error
            if not more:
                self._ahead = b""
                return None
            data += more
        if end > MAX_HEAD:
            raise bad_request("The request headers are too large.")
        self._ahead = data[end + 4 :]
        return parse_head(data[:end])

    def receive_into(self, view: memoryview) -> int:
        """Some bytes, or 0 at the end of the stream. Fills `view` if it can without a time-out."""
        ahead = self._ahead
        if ahead:
            count = min(len(ahead), len(view))
            view[:count] = ahead[:count]
            self._ahead = ahead[count:]
        else:
            try:
                if self.is_tls:
                    count = self._receive_records(view)
                else:
                    count = self.sock.recv_into(view, len(view), socket.MSG_WAITALL)
            except _TIMEOUTS:
                raise OssError("RequestTimeout", close=True) from None
            except OSError as error:
                raise Disconnected from error
        if self.bandwidth:
            self._pace(count)
        return count

    def _receive_records(self, view: memoryview) -> int:
        """What MSG_WAITALL does, over TLS: its records are small pieces for hashing and writing."""
        count = 0
        try:
            while count < len(view) and (more := self.sock.recv_into(view[count:])):
                count += more
        except TimeoutError:
            if not count:
                raise
        return count

    def receive_line(self) -> bytes:
        """A line of the chunked framing, without CR LF."""
        while (end := self._ahead.find(b"\r\n")) < 0:
            if len(self._ahead) > 4096:
                raise bad_request("The chunked body is malformed.")
            try:
                more = self.sock.recv(65536)
            except _TIMEOUTS:
                raise OssError("RequestTimeout", close=True) from None
            except OSError as error:
                raise Disconnected from error
            if not more:
                raise OssError("IncompleteBody", close=True)
            self._ahead += more
        line, self._ahead = self._ahead[:end], self._ahead[end + 2 :]
        return line

    # Sending

    def send(self, data: bytes | memoryview, *, more: bool = False) -> None:
        """All of it."""
        try:
            if more and not self.is_tls:
                done = self.sock.send(data, socket.MSG_MORE)
                if done == len(data):
                    return
                data = memoryview(data)[done:]
            self.sock.sendall(data)
        except OSError as error:
            raise Disconnected from error

    def send_body(self, data: bytes | memoryview) -> None:
        """Body bytes, at the connection's pace."""
        if not self.bandwidth:
            self.send(data)
            return
        view = memoryview(data)
        step = self.step()
        for at in range(0, len(view), step):
            piece = view[at : at + step]
            self.send(piece)
            self._pace(len(piece))

    def send_file(self, fd: int, offset: int, length: int, buffer: bytearray) -> None:
        """Bytes of a file: by sendfile(2) where no encryption is in the way."""
        end = offset + length
        while offset < end:
            step = min(end - offset, self.step() if self.bandwidth else 4 << 20)
            try:
                if self.is_tls:
                    view = memoryview(buffer)[: min(step, len(buffer))]
                    count = os.preadv(fd, [view], offset)
                    self.sock.sendall(view[:count])
                else:
                    count = os.sendfile(self.sock.fileno(), fd, offset, step)
            except OSError as error:
                raise Disconnected from error
            if not count:
                raise Disconnected("the file is shorter than the index says")
            offset += count
            if self.bandwidth:
                self._pace(count)

    def step(self) -> int:
        """Bytes between two looks at the clock: 20 ms' worth."""
        return max(1, min(1 << 20, self.bandwidth // 50))

    def _pace(self, count: int) -> None:
        """Sleep until `count` more bytes are due."""
        now = time.monotonic()
        due = self._pace_start + self._pace_bytes / self.bandwidth
        if due < now:
            # Idle time earns nothing.
            self._pace_start, self._pace_bytes = now, 0
        self._pace_bytes += count
        time.sleep(max(0.0, self._pace_start + self._pace_bytes / self.bandwidth - now))

    # Ending

    def reset(self) -> None:
        """Close with RST."""
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass  # already closed by the peer or by stop()
        raise Disconnected

    def finish(self) -> None:
        """Say that nothing follows, and let the peer read what was said before the socket closes."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
            self.set_receive_timeout(0.5)
            for _ in range(64):
                if not self.sock.recv(65536):
                    break
        except OSError:
            pass  # the peer was faster
        except ValueError:
            pass  # a TLS object that is already shut down


class Body:
    """The body of one request, to be read to its end once."""

    __slots__ = ("_chunked", "_connection", "_continue", "_remaining", "_started", "length", "received")

    def __init__(self, connection: Connection, head: Head) -> None:
        headers = head.headers
        encoding = headers.get("transfer-encoding")
        declared = headers.get("content-length")
        self._connection = connection
        self.received = 0
        self._chunked = False
        self._started = False
        # None: unknown (chunked, or not said at all).
        self.length: int | None = None
        if encoding is not None:
            if declared is not None or encoding.lower() != "chunked":
                raise bad_request("Transfer-Encoding is not acceptable here.")
            self._chunked = True
        elif declared is not None:
            if not (declared.isascii() and declared.isdigit()) or len(declared) > 18:
                raise OssError(
                    "InvalidArgument",
                    "The Content-Length is not valid.",
                    close=True,
                    ArgumentName="Content-Length",
                    ArgumentValue=declared,
                )
            self.length = int(declared)
        self._remaining = -1 if self._chunked else self.length or 0
        self._continue = headers.get("expect", "").lower() == "100-continue"

    @property
    def is_declared(self) -> bool:
        """Content-Length or chunked was there."""
        return self._chunked or self.length is not None

    @property
    def is_done(self) -> bool:
        """All was read."""
        return self._remaining == 0

    @property
    def is_withheld(self) -> bool:
        """The client waits for a 100 that was never sent."""
        return self._continue and not self.is_done

    def readinto(self, view: memoryview) -> int:
        """Fill a part of `view`; 0 at the end of the body, IncompleteBody if the stream ends before."""
        if self._continue:
            self._continue = False
            self._connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._remaining < 0:
            self._next_chunk()
        if not self._remaining:
            return 0
        step = min(len(view), self._remaining)
        if self._connection.bandwidth:
            step = min(step, self._connection.step())
        count = self._connection.receive_into(view[:step])
        if not count:
            raise OssError("IncompleteBody", close=True)
        self._remaining -= count
        self.received += count
        if self._chunked and not self._remaining:
            self._remaining = -1
        return count

    def _next_chunk(self) -> None:
        if self._started and self._connection.receive_line():
            raise bad_request("The chunked body is malformed.")
        self._started = True
        match = _CHUNK_SIZE.match(self._connection.receive_line())
        if match is None:
            raise bad_request("The chunked body is malformed.")
        self._remaining = int(match[1], 16)
        if not self._remaining:
            # Trailers carry nothing that is used here.
            for _ in range(MAX_HEADERS):
                if not self._connection.receive_line():
                    return
            raise bad_request("The chunked body has too many trailers.")

    def read(self, limit: int, too_large: Exception) -> bytes:
        """The whole of a small body."""
        if self.length == 0:
            return b""
        if self.length is not None and self.length > limit:
            raise too_large
        data = bytearray()
        buffer = memoryview(bytearray(min(limit + 1, self.length or 65536)))
        while count := self.readinto(buffer):
            data += buffer[:count]
            if len(data) > limit:
                raise too_large
        return bytes(data)

    def drain(self, limit: int, buffer: bytearray) -> bool:
        """Read and drop the rest, so that the next request can be read; False: too much of it."""
        if self.length is not None and self._remaining > limit:
            return False
        view = memoryview(buffer)
        while count := self.readinto(view):
            limit -= count
            if limit < 0:
                return False
        return True


def encode_headers(headers: Sequence[tuple[str, str]]) -> bytes:
    """Header lines. Values were checked for control characters when they came in."""
    text = "".join([f"{name}: {value}\r\n" for name, value in headers])
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()
