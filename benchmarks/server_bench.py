"""How fast the embedded server is: MB/s of signed PUT and GET, and small requests a second.

The server runs in a process of its own, the clients are threads of one or more other processes, on the same
cores: raw sockets, requests signed (V1) beforehand, bodies sent from one buffer and received into another.

    python benchmarks/server_bench.py [--connections 4] [--size 8388608] [--seconds 4] [--directory DIR]
"""

from __future__ import annotations

import argparse
import base64
import hmac
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from urllib.parse import urlsplit

BUCKET = "bench"
_NAMES = {
    "put": "PUT",
    "get": "GET",
    "small": "HEAD and PUT 4 KiB",
    "small_put": "PUT 4 KiB",
    "small_get": "GET 4 KiB",
}


class Client:
    """One connection."""

    def __init__(self, host: str, port: int, keys: tuple[str, str]) -> None:
        self._address = (host, port)
        self._keys = keys
        self._sock = socket.create_connection(self._address)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(bytearray(1 << 20))

    def head(self, method: str, key: str, length: int | None) -> bytes:
        """A signed request head."""
        date = formatdate(usegmt=True)
        to_sign = f"{method}\n\n\n{date}\n/{BUCKET}/{key}"
        digest = hmac.digest(self._keys[1].encode(), to_sign.encode(), "sha1")
        signature = base64.b64encode(digest).decode()
        size = "" if length is None else f"Content-Length: {length}\r\n"
        return (
            f"{method} /{BUCKET}/{key} HTTP/1.1\r\nHost: {self._address[0]}:{self._address[1]}\r\n"
            f"Date: {date}\r\nAuthorization: OSS {self._keys[0]}:{signature}\r\n{size}\r\n"
        ).encode()

    def request(self, head: bytes, body: bytes = b"", *, is_head: bool = False) -> int:
        """Send, receive; the length of the answer's body."""
        sock = self._sock
        if len(body) > 65536:
            sock.sendall(head, socket.MSG_MORE)
            sock.sendall(body)
        else:
            sock.sendall(head + body)
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            more = sock.recv(65536)
            if not more:
                raise ConnectionError("the server closed")
            data += more
        if not data.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(data.decode("latin-1"))
        at = data.lower().find(b"content-length: ")
        length = 0 if at < 0 else int(data[at + 16 : data.find(b"\r\n", at)])
        left = 0 if is_head else length - (len(data) - end - 4)
        while left > 0:
            count = sock.recv_into(self._buffer, min(left, len(self._buffer)), socket.MSG_WAITALL)
            if not count:
                raise ConnectionError("the server closed")
            left -= count
        return length


def _repeat(work: Callable[[int], int], seconds: float) -> Iterator[int]:
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        yield work(count)
        count += 1


def _worker(
    task: str,
    url: str,
    keys: tuple[str, str],
    name: str,
    size: int,
    seconds: float,
    gate: object,
    out: object,
) -> None:
    """One connection's load; reports (requests, bytes)."""
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None
    client = Client(parts.hostname, parts.port, keys)
    body = os.urandom(min(size, 1 << 20)) * max(1, size // (1 << 20))

    def put(number: int) -> int:
        client.request(client.head("PUT", f"{name}/{number % 16}", len(body)), body)
        return len(body)

    def get(number: int) -> int:
        return client.request(client.head("GET", f"{name}/{number % 4}", None))

    def small(number: int) -> int:
        if number % 2:
            client.request(client.head("HEAD", f"{name}/{number // 2 % 500}", None), is_head=True)
        else:
            client.request(client.head("PUT", f"{name}/{number // 2 % 500}", len(body)), body)
        return 0

    def small_put(number: int) -> int:
        client.request(client.head("PUT", f"{name}/{number}", len(body)), body)
        return 0

    def small_get(number: int) -> int:
        return client.request(client.head("GET", f"{name}/{number % 100}", None))

    if task in ("get", "small_get"):
        for number in range(4 if task == "get" else 100):
            put_name = f"{name}/{number}"
            client.request(client.head("PUT", put_name, len(body)), body)
    work = {"put": put, "get": get, "small": small, "small_put": small_put, "small_get": small_get}[task]
    gate.wait()  # type: ignore[attr-defined]
    done = list(_repeat(work, seconds))
    out.put((len(done), sum(done)))  # type: ignore[attr-defined]


def measure(
    task: str, url: str, keys: tuple[str, str], connections: int, size: int, seconds: float, processes: bool
) -> tuple[float, float]:
    """(requests, bytes) a second of all connections together."""
    context = multiprocessing.get_context("fork")
    make: Callable[..., threading.Thread | multiprocessing.Process]
    if processes:
        gate, out = context.Barrier(connections + 1), context.Queue()
        make = context.Process  # type: ignore[assignment]
    else:
        import queue

        gate, out = threading.Barrier(connections + 1), queue.Queue()  # type: ignore[assignment]
        make = threading.Thread
    workers = [
        make(target=_worker, args=(task, url, keys, f"{task}{number}", size, seconds, gate, out))
        for number in range(connections)
    ]
    for worker in workers:
        worker.start()
    gate.wait()
    begin = time.monotonic()
    results = [out.get() for _ in workers]
    elapsed = time.monotonic() - begin
    for worker in workers:
        worker.join()
    return sum(count for count, _ in results) / elapsed, sum(size for _, size in results) / elapsed


def main() -> None:
    """Print one line a measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--size", type=int, default=8 << 20)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        command = [sys.executable, "-m", "ossfs.server", directory, "--bucket", BUCKET]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        url = server.stdout.readline().split()[-1]
        keys = (server.stdout.readline().split()[-1], server.stdout.readline().split()[-1])
        try:
            for _ in range(arguments.rounds):
                for task, size, processes in (
                    ("put", arguments.size, False),
                    ("get", arguments.size, False),
                    ("small", 4096, True),
                    ("small_put", 4096, True),
                    ("small_get", 4096, True),
                ):
                    rate, speed = measure(
                        task, url, keys, arguments.connections, size, arguments.seconds, processes
                    )
                    what = {"small": "HEAD and PUT 4 KiB", "small_put": "PUT 4 KiB", "small_get": "GET 4 KiB"}
                    shown = (
                        f"{speed / 1e6:8.0f} MB/s" if task in ("put", "get") else f"{rate:8.0f} requests/s"
                    )
                    print(f"{what.get(task, task.upper()):20} {shown}", flush=True)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
