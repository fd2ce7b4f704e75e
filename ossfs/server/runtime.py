"""Starting and stopping a server: directory, credentials, listening socket, threads.

Threads: one accepts, each connection has its own. `RunningServer` may be used from any thread.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import secrets
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ossfs.server import control
from ossfs.server.config import ServerConfig
from ossfs.server.http import serve_connection
from ossfs.server.model import Service
from ossfs.server.ops_bucket import is_bucket_name


class ServerError(RuntimeError):
    """The server can't start; the text says why."""


def _load_credentials(config: ServerConfig) -> tuple[str, str]:
    """Those of the configuration, or those that the directory keeps, made at the first start."""
    if config.access_key_id is not None and config.access_key_secret is not None:
        return config.access_key_id, config.access_key_secret
    path = config.directory / "credentials.json"
    try:
        stored = json.loads(path.read_text())
    except FileNotFoundError:
        stored = {
            "access_key_id": "LTAI" + secrets.token_hex(10),
            "access_key_secret": secrets.token_urlsafe(24),
        }
        temporary = path.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            json.dump(stored, file)
        temporary.replace(path)
    return (
        config.access_key_id or stored["access_key_id"],
        config.access_key_secret or stored["access_key_secret"],
    )


def _lock_directory(directory: Path) -> int:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise ServerError(f"another server uses {directory}") from None
    return fd


def _tls_context(config: ServerConfig) -> ssl.SSLContext | None:
    if config.cert is None and config.key is None:
        return None
    if config.cert is None or config.key is None:
        raise ServerError("a certificate and its key are needed together")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.cert, config.key)
    except (OSError, ssl.SSLError) as error:
        raise ServerError(f"the certificate can't be used: {error}") from error
    return context


class RunningServer:
    """A server that accepts connections; stop it, or use it in a `with`."""

    def __init__(self, config: ServerConfig) -> None:
        for name in config.buckets:
            if not is_bucket_name(name):
                raise ServerError(f"{name!r} is not a valid bucket name")
        self._tls = _tls_context(config)
        self._lock_fd = _lock_directory(config.directory)
        try:
            self.access_key_id, self.access_key_secret = _load_credentials(config)
            self._service = Service(config, self.access_key_id, self.access_key_secret)
            try:
                for name in config.buckets:
                    if self._service.index.find_bucket(name) is None:
                        now = self._service.seconds()
                        self._service.index.put_bucket(name, now, "private", "Standard")
                self._listener = self._listen(config)
            except BaseException:
                self._service.database.close()
                raise
        except BaseException:
            os.close(self._lock_fd)
            raise
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._connections_lock = threading.Lock()
        self._places = threading.BoundedSemaphore(config.max_connections)
        self._acceptor = threading.Thread(target=self._accept, name="oss-accept", daemon=True)
        self._acceptor.start()

    def _listen(self, config: ServerConfig) -> socket.socket:
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        try:
            listener = socket.create_server((config.host, config.port), family=family, backlog=1024)
        except OSError as error:
            raise ServerError(f"can't listen on {config.host}:{config.port}: {error}") from error
        host, port = listener.getsockname()[:2]
        if ipaddress.ip_address(host).is_unspecified:  # who listens on all addresses is reached by this one
            host = "::1" if ":" in host else "127.0.0.1"
        self._service.endpoint = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.url = f"{'http' if self._tls is None else 'https'}://{self._service.endpoint}"
        return listener

    def _accept(self) -> None:
        stopping = self._service.stopping
        while not stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                # Stopped; or out of descriptors, which passes.
                stopping.wait(0.05)
                continue
            if not self._wait_for_place():
                sock.close()
                return
            self._service.stats.connected()
            thread = threading.Thread(target=self._converse, args=(sock,), name="oss-connection", daemon=True)
            with self._connections_lock:
                self._connections[sock] = thread
            try:
                thread.start()
            except RuntimeError:
                # No thread to be had: this client is turned away, the next may do better.
                with self._connections_lock:
                    del self._connections[sock]
                self._places.release()
                sock.close()

    def _wait_for_place(self) -> bool:
        """Wait until a connection ends if there are too many; False: the server stops."""
        while not self._places.acquire(timeout=0.2):
            if self._service.stopping.is_set():
                return False
        return True

    def _converse(self, sock: socket.socket) -> None:
        speaking = sock
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                sock.settimeout(10)
                speaking = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                with self._connections_lock:
                    # Wrapping moved the descriptor: stop() must find the one in use.
                    self._connections[speaking] = self._connections.pop(sock)
                speaking.do_handshake()
            serve_connection(self._service, speaking)
        except OSError:
            pass  # a failed handshake, or a socket that stop() has shut down
        finally:
            with self._connections_lock:
                self._connections.pop(sock, None)
                self._connections.pop(speaking, None)
            speaking.close()
            self._places.release()

    def stop(self) -> None:
        """Close everything and return when all threads have ended. May be called again."""
        service = self._service
        if service.stopping.is_set():
            return
        service.stopping.set()
        _shut(self._listener)
        self._listener.close()
        self._acceptor.join()
        while True:
            with self._connections_lock:
                left = list(self._connections.items())
            if not left:
                break
            for sock, thread in left:
                _shut(sock)
                thread.join(0.5)
        service.database.close()
        # Unlocked explicitly: a child process that was forked meanwhile shares the description.
        fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
        os.close(self._lock_fd)

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # Faults and counters

    def set_faults(self, faults: Sequence[dict[str, Any]]) -> None:
        """Replace the script; see faults.py."""
        self._service.faults.replace(faults)

    def stats(self) -> dict[str, Any]:
        """The counters."""
        return control.stats(self._service, reset=False)

    def reset_stats(self) -> dict[str, Any]:
        """The counters, which then start anew."""
        return control.stats(self._service, reset=True)

    def set_latency(self, seconds: float) -> None:
        """Before each answer."""
        self._service.latency = seconds

    def set_bandwidth(self, bytes_per_second: float) -> None:
        """Of each connection, each way; 0: no limit."""
        self._service.bandwidth = int(bytes_per_second)

    def set_clock_offset(self, seconds: float) -> None:
        """The server's clock against the machine's."""
        self._service.clock.offset = seconds

    def set_expired_tokens(self, tokens: Sequence[str]) -> None:
        """Security tokens that are answered with SecurityTokenExpired."""
        self._service.auth.expired_tokens = frozenset(tokens)

    def set_security_token(self, token: str | None) -> None:
        """The token that requests must carry from now on; None: they must carry none."""
        self._service.auth.token = token

    def set_requester_pays(self, pays: bool) -> None:
        """Refuse requests that do not say that their sender pays, as for an account that is not the owner."""
        self._service.requester_pays = pays

    def fill(self, bucket: str, prefix: str, count: int = 1, size: int = 0) -> None:
        """Make many objects at once, as POST /_ossfs/fill does."""
        control.fill(self._service, bucket, prefix, count, size)


def _shut(sock: socket.socket) -> None:
    """Wake the thread that is blocked on it."""
    try:
        # Not the method of a TLS socket, whose state belongs to its thread.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        pass  # not connected any more


def start_server(config: ServerConfig) -> RunningServer:
    """A server in threads of this process, accepting when this returns."""
    return RunningServer(config)


def serve(config: ServerConfig, *, on_ready: Callable[[str, str, str], None]) -> None:
    """In the foreground until SIGTERM or SIGINT; `on_ready(url, access key id, secret)` once it accepts."""
    umask = os.umask(0o077)  # objects are for who runs this, also in a directory that was there before
    stop = threading.Event()
    previous = {
        number: signal.signal(number, lambda _number, _frame: stop.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        with start_server(config) as server:
            on_ready(server.url, server.access_key_id, server.access_key_secret)
            stop.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        os.umask(umask)
