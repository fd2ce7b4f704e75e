"""What the store layer costs without a mount above it: CPU of a HEAD, and bytes a second of GET and PUT.

Threading: a trio loop in the calling thread, and the store's own workers.

The server is a process of its own, on the same cores.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from benchmarks.servers import MIB, Server
from ossfs.metrics import Metrics
from ossfs.store.base import ObjectHeaders, ObjectStore
from ossfs.store.calls import StoreConfig
from ossfs.store.credentials import Credentials, StaticCredentials
from ossfs.store.oss import open_store

HEADS = 1000
SIZE = 8 * MIB
TOTAL = 512 * MIB


@dataclass(frozen=True)
class StoreFigure:
    """One line: what, how fast, and CPU seconds a GiB where bytes move."""

    name: str
    text: str
    cpu_per_gib: float | None = None


def measure(server: Server) -> list[StoreFigure]:
    """Start *server* and measure against it."""
    try:
        server.start()
        return trio.run(_measure, server)
    finally:
        server.stop()


async def _measure(server: Server) -> list[StoreFigure]:
    config = StoreConfig(server.bucket, server.url, region=server.region, ca_file=server.ca_file)
    keys = StaticCredentials(Credentials(*server.keys))
    async with open_store(config, keys, Metrics()) as store:
        return await _figures(store, server.prefix + "store/")


async def _figures(store: ObjectStore, prefix: str) -> list[StoreFigure]:
    small, large = f"{prefix}small", f"{prefix}large"
    meta = {"mode": "33188", "mtime": "1700000000"}
    await store.put(small, [b"x" * 100], ObjectHeaders(meta=meta))
    for _ in range(50):
        await store.head(small)
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(HEADS):
        await store.head(small)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    text = f"{cpu * 1000 / HEADS:.2f} ms CPU, {wall * 1000 / HEADS:.2f} ms"
    figures = [StoreFigure("HEAD, one after the other", text)]

    data = os.urandom(SIZE)
    body = [memoryview(data)[at : at + (128 << 10)] for at in range(0, SIZE, 128 << 10)]
    await store.put(large, body, ObjectHeaders())
    for concurrency in (1, 4):
        each = TOTAL // SIZE // concurrency

        async def get(number: int, each: int = each) -> None:
            into = memoryview(bytearray(SIZE))
            for _ in range(each):
                await store.get(large, into)

        async def put(number: int, each: int = each) -> None:
            for _ in range(each):
                await store.put(f"{prefix}put{number}", body, ObjectHeaders())

        figures.append(await _timed(f"GET of 8 MiB, {concurrency} at once", concurrency, get))
        figures.append(await _timed(f"PUT of 8 MiB, {concurrency} at once", concurrency, put))
    return figures


async def _timed(name: str, concurrency: int, work: Callable[[int], Awaitable[None]]) -> StoreFigure:
    """Run *work* that many times at once."""
    cpu, wall = time.process_time(), time.perf_counter()
    async with trio.open_nursery() as nursery:
        for number in range(concurrency):
            nursery.start_soon(work, number)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return StoreFigure(name, f"{TOTAL / wall / 1e6:.0f} MB/s", cpu / TOTAL * (1 << 30))
