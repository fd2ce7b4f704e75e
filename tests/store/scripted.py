"""A server that does exactly what a test says, byte by byte, on a raw socket.

Threading: one thread accepts, one serves each connection; steps are taken in order, one a request.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable
from email.utils import formatdate
from types import TracebackType


class Talk:
    """One connection as a step sees it."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        """Of the connection, from 1."""
        self.head = ""
        self._buffer = b""
        self.closed = False

    def read_head(self) -> bool:
        while b"\r\n\r\n" not in self._buffer:
            data = self.sock.recv(65536)
            if not data:
                return False
            self._buffer += data
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        self.head = head.decode()
        return True

    def header(self, name: str) -> str | None:
        for line in self.head.split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return None

    def read_body(self) -> bytes:
        size = int(self.header("content-length") or "0")
        while len(self._buffer) < size:
            data = self.sock.recv(1 << 20)
            if not data:
                break
            self._buffer += data
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return body

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self, status: int = 200, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        """A complete answer; underscores in header names become dashes."""
        lines = [f"HTTP/1.1 {status} X", f"Date: {formatdate(usegmt=True)}", "x-oss-request-id: SCRIPTED"]
        lines.append(f"Content-Length: {len(body) if length is None else length}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def error(self, status: int, code: str, **headers: str) -> None:
        self.answer(status, f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode(), **headers)

    def close(self) -> None:
        self.closed = True
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()

    def reset(self) -> None:
        """Close with a RST."""
        self.closed = True
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


Step = Callable[[Talk], None]


class Scripted:
    """Serves the steps; the last one goes on serving.  heads: what was asked, in order."""

    def __init__(self, *steps: Step, context: ssl.SSLContext | None = None) -> None:
        self._steps = list(steps)
        self._context = context
        self._lock = threading.Lock()
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.talks: list[Talk] = []
        self.ended = threading.Event()
        """Set when a connection has ended, by whomever."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._threads: list[threading.Thread] = []
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                thread = threading.Thread(target=self._serve, args=(sock, self.connections), daemon=True)
                self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
            talk = Talk(sock, number)
            with self._lock:
                self.talks.append(talk)
            while not talk.closed and talk.read_head():
                with self._lock:
                    self.heads.append(talk.head)
                    step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
                step(talk)
        except OSError:
            pass  # the other side went away, which is what many a test is about
        finally:
            sock.close()
            self.ended.set()

    def __enter__(self) -> Scripted:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        self._thread.join(5)
        for talk in self.talks:
            if not talk.closed:
                try:
                    talk.sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        for thread in self._threads:
            thread.join(5)


def ok(talk: Talk) -> None:
    """Whatever was asked, it is fine: the CRC is left out, so that nothing is compared."""
    talk.read_body()
    talk.answer(ETag='"E"')


def object_step(data: bytes, crc: int | None = None, etag: str = "E") -> Step:
    """Serves *data* as an object, with ranges as the service does them."""

    def step(talk: Talk) -> None:
        headers = {"ETag": f'"{etag}"', "Last-Modified": "Tue, 14 Nov 2023 22:13:20 GMT"}
        if crc is not None:
            headers["x-oss-hash-crc64ecma"] = str(crc)
        asked = talk.header("range")
        if talk.head.startswith("HEAD"):
            talk.answer(200, b"", len(data), **headers)
            return
        assert asked is not None
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last) + 1, len(data))
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        talk.answer(206, data[start:end], **headers)

    return step
