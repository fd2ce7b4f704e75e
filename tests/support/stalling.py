"""A server that keeps its clients waiting: a relay in front of one that does not.

Threading: an accepting thread, and two for each connection; `kind` may be set from any thread.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Final

PASSES: Final = "passes"
MUTE: Final = "never answers"
"""Requests are read, and that is all."""
DEAF: Final = "reads nothing"
"""Connections are accepted, and nothing is read from them."""
TRICKLE: Final = "a byte a second"
"""Of each answer."""
HEADERS: Final = "headers, then nothing"
"""The head of an answer comes, and no byte of its body; what has no body is not answered."""
CONTINUES: Final = "100 Continue again and again"
"""A server that says every half second that it is still there."""
KINDS: Final = (MUTE, DEAF, TRICKLE, HEADERS, CONTINUES)
_PIECE: Final = 1 << 16


class Relay:
    """Listens on loopback, and forwards to a port there as `kind` says."""

    def __init__(self, port: int) -> None:
        self.kind = PASSES
        self._to = port
        self._closed = False
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Shut everything down."""
        self._closed = True
        for one in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                if self._closed:
                    return
                client.close()
                continue
            self._sockets += [client, server]
            threading.Thread(target=self._requests, args=(client, server), daemon=True).start()
            threading.Thread(target=self._answers, args=(server, client), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while True:
                while self.kind == DEAF:
                    time.sleep(0.02)
                data = client.recv(_PIECE)
                if not data:
                    break
                while self.kind == DEAF:
                    time.sleep(0.02)  # it came while we changed
                if self.kind == CONTINUES:
                    threading.Thread(target=self._continue, args=(client,), daemon=True).start()
                elif self.kind != MUTE:
                    server.sendall(data)
        except OSError:
            pass
        _end(client, server)

    def _continue(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while self.kind == CONTINUES:
                client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                time.sleep(0.5)

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        try:
            while data := server.recv(_PIECE):
                kind = self.kind
                if kind == PASSES:
                    client.sendall(data)
                elif kind == TRICKLE:
                    for i in range(len(data)):
                        client.sendall(data[i : i + 1])
                        self._while(TRICKLE, 1.0)
                elif kind == HEADERS:
                    head, _, body = data.partition(b"\r\n\r\n")
                    client.sendall(head + (b"\r\n\r\n" if body else b""))
                    self._while(HEADERS, 3600.0)
                else:
                    self._while(kind, 3600.0)
        except OSError:
            pass
        _end(client, server)

    def _while(self, kind: str, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self.kind == kind and time.monotonic() < until and not self._closed:
            time.sleep(0.02)


def _end(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
