"""What the machine and the server allow without ossfs: plain HTTP, the store layer, an empty file system.

Threading: `transfer` runs its connections in threads of this process; receiving and sending let go of
the GIL, and the buffers are large.

A row of the table is worth what it is compared with: the same bytes by plain HTTP over as many
connections tell what the server and the network give, and a pyfuse3 file system that answers from one
buffer tells what the kernel takes.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.clients import unmount
from benchmarks.errors import BenchError
from benchmarks.processes import usage
from benchmarks.servers import MIB, Server, signed_url

PIECE = 8 * MIB
"""Bytes of one request of a large transfer: between the reader's blocks (4 MiB) and the parts (10 MiB)."""
START_SECONDS = 20.0


class HttpConnection:
    """One connection that sends ready-made requests and looks at nothing but status and length."""

    def __init__(self, url: str, ca_file: str | None = None) -> None:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        sock: socket.socket = socket.create_connection((host, port), 30)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=ca_file)
            sock = context.wrap_socket(sock, server_hostname=host)
        self._sock = sock
        self._buffer = memoryview(bytearray(MIB))

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def request(self, method: str, url: str, body: bytes = b"", headers: str = "") -> int:
        """Send one request, receive the answer; bytes of its body.  Raises BenchError for a refusal."""
        parts = urlsplit(url)
        length = f"Content-Length: {len(body)}\r\n" if method == "PUT" else ""
        head = (
            f"{method} {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n{headers}{length}\r\n"
        )
        if len(body) > 65536:
            self._sock.sendall(head.encode())
            self._sock.sendall(body)
        else:
            self._sock.sendall(head.encode() + body)
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            more = self._sock.recv(65536)
            if not more:
                raise BenchError(f"{parts.netloc} closed the connection within an answer")
            data += more
        if not data.startswith(b"HTTP/1.1 2"):
            raise BenchError(f"{method} {parts.path}: {data[:300].decode('latin-1').splitlines()[0]}")
        at = data.lower().find(b"content-length: ", 0, end + 2)
        size = 0 if at < 0 else int(data[at + 16 : data.find(b"\r\n", at)])
        left = size - (len(data) - end - 4)
        flags = 0 if isinstance(self._sock, ssl.SSLSocket) else socket.MSG_WAITALL
        while left > 0:
            count = self._sock.recv_into(self._buffer, min(left, len(self._buffer)), flags)
            if not count:
                raise BenchError(f"{parts.netloc} closed the connection within a body")
            left -= count
        return size


def transfer(server: Server, connections: int, works: list[Callable[[HttpConnection], object]]) -> float:
    """Seconds that *works* take on so many connections, which are opened beforehand."""
    todo = iter(works)
    lock = threading.Lock()
    gate = threading.Barrier(connections + 1)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            connection = HttpConnection(server.url, server.ca_file)
        except OSError as error:
            failures.append(error)
            gate.abort()
            return
        try:
            gate.wait()
            while True:
                with lock:
                    work = next(todo, None)
                if work is None:
                    return
                work(connection)
        except threading.BrokenBarrierError:
            pass
        except Exception as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, daemon=True) for _ in range(connections)]
    for thread in threads:
        thread.start()
    try:
        gate.wait(60)
    except threading.BrokenBarrierError:
        pass
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    if failures:
        raise BenchError(f"plain HTTP to {server.url}: {failures[0]}")
    return time.perf_counter() - begin


@dataclass(frozen=True)
class RawLoad:
    """The bytes of a row, as plain HTTP: *objects* of *size* bytes each, up ("PUT") or down ("GET")."""

    method: str
    objects: int
    size: int
    connections: int
    """When the server does not tell how many the row had."""

    def seconds(self, server: Server, connections: int) -> float:
        """Over so many connections of *server*."""
        works: list[Callable[[HttpConnection], object]] = []
        if self.method == "GET":
            server.fill("raw/", self.objects, self.size) if self.objects > 1 else server.fill(
                "raw/000000", 1, self.size
            )
            for number in range(self.objects):
                url = signed_url(server, "GET", f"raw/{number:06d}")
                if self.size <= PIECE:
                    works.append(lambda c, url=url: c.request("GET", url))  # type: ignore[misc]
                    continue
                for start in range(0, self.size, PIECE):
                    last = min(start + PIECE, self.size) - 1
                    wanted = f"Range: bytes={start}-{last}\r\n"
                    works.append(lambda c, url=url, h=wanted: c.request("GET", url, headers=h))  # type: ignore[misc]
        else:
            piece = min(self.size, PIECE)
            body = os.urandom(piece)
            for number in range(self.objects * self.size // piece):
                # The same few names again and again: a server that keeps bodies keeps only these.
                name = f"raw/{number % 64:06d}" if self.size > PIECE else f"raw/{number:06d}"
                url = signed_url(server, "PUT", name)
                works.append(lambda c, url=url: c.request("PUT", url, body))  # type: ignore[misc]
        return transfer(server, min(connections, len(works)), works)


# --------------------------------------------------------------------------------------------------
# The kernel's share.


@dataclass(frozen=True)
class KernelLimit:
    """An empty pyfuse3 file system: MB/s and CPU seconds a GiB, of its process, read and written."""

    read: float
    read_cpu: float
    write: float
    write_cpu: float


def kernel_limit(total: int, runs: int) -> KernelLimit:
    """Read and write *total* bytes through it; the best of *runs*.  Raises BenchError."""
    results: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory(prefix="ossfs-bench-null-") as directory:
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.nullfs", directory, str(total)])
        try:
            file = Path(directory) / "file"
            deadline = time.monotonic() + START_SECONDS
            while not os.path.ismount(directory):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise BenchError("the empty file system did not mount")
                time.sleep(0.02)
            time.sleep(0.3)  # its read-ahead is raised just after it can be seen
            for _ in range(runs):
                for name, work in (("read", read_through), ("write", write_through)):
                    before, begin = usage(process.pid).cpu, time.perf_counter()
                    work(file, total)
                    seconds = time.perf_counter() - begin
                    cpu = (usage(process.pid).cpu - before) / total * (1 << 30)
                    best = results.get(name, (0.0, 0.0))
                    results[name] = max(best, (total / 1e6 / seconds, cpu))
        finally:
            unmount(Path(directory))
            process.terminate()
            process.wait(10)
    return KernelLimit(*results["read"], *results["write"])


def read_through(path: Path, total: int) -> None:
    """Read a whole file in pieces of 1 MiB."""
    buffer = bytearray(MIB)
    done = 0
    fd = os.open(path, os.O_RDONLY)
    try:
        while count := os.readv(fd, [buffer]):
            done += count
    finally:
        os.close(fd)
    if done != total:
        raise BenchError(f"{path}: {done} bytes instead of {total}")


def write_through(path: Path, total: int) -> None:
    """Write a file in pieces of 1 MiB, and close it."""
    data = os.urandom(MIB)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        for at in range(0, total, MIB):
            os.write(fd, data[: total - at])
    finally:
        os.close(fd)
