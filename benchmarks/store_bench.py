"""What the store layer costs: CPU of a HEAD, and bytes a second of GET and PUT, plain and TLS.

    python -m benchmarks.store_bench [ENDPOINT [CA_FILE]]

Without an endpoint it starts the embedded server in a thread of its own, which shares the interpreter
and so caps the byte rates and inflates the CPU: name another server to measure the client alone.  The
bucket is "bkt"; keys are OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET, or nonsense for servers that do
not look.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from ossfs.metrics import Metrics
from ossfs.store.base import ObjectHeaders, ObjectStore
from ossfs.store.credentials import Credentials, StaticCredentials
from ossfs.store.oss import StoreConfig, open_store

HEADS = 2000
SIZE = 8 << 20
TOTAL = 512 << 20


async def timed(what: str, concurrency: int, work: Callable[[int], Awaitable[None]]) -> None:
    """Run *work* that many times at once and print the rate of TOTAL bytes, and the CPU."""
    cpu, wall = time.process_time(), time.perf_counter()
    async with trio.open_nursery() as nursery:
        for number in range(concurrency):
            nursery.start_soon(work, number)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"{what:28} {TOTAL / wall / 1e6:10.1f} MB/s    {cpu / TOTAL * 2**30:8.3f} s CPU a GiB", flush=True)


async def bench(store: ObjectStore) -> None:
    """All rows."""
    await store.put("bench/small", [b"x" * 100], ObjectHeaders(meta={"mode": "33188", "mtime": "1700000000"}))
    for _ in range(100):
        await store.head("bench/small")
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(HEADS):
        await store.head("bench/small")
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"{'HEAD, one after the other':28} {cpu * 1000 / HEADS:10.3f} ms CPU, {wall * 1000 / HEADS:.3f} ms")

    data = os.urandom(SIZE)
    body = [memoryview(data)[at : at + (128 << 10)] for at in range(0, SIZE, 128 << 10)]
    await store.put("bench/large", body, ObjectHeaders())
    count = TOTAL // SIZE
    for concurrency in (1, 4):

        async def get(number: int, each: int = count // concurrency) -> None:
            into = memoryview(bytearray(SIZE))
            for _ in range(each):
                await store.get("bench/large", into)

        async def put(number: int, each: int = count // concurrency) -> None:
            for _ in range(each):
                await store.put(f"bench/put{number}", body, ObjectHeaders())

        await timed(f"GET 8 MiB, {concurrency} at once", concurrency, get)
        await timed(f"PUT 8 MiB, {concurrency} at once", concurrency, put)
    keys = [f"bench/put{number}" for number in range(4)]
    await store.delete_many(["bench/small", "bench/large", *keys])


async def run(endpoint: str, ca_file: str | None, keys: Credentials) -> None:
    """Measure one endpoint."""
    print(endpoint)
    config = StoreConfig("bkt", endpoint, region="cn-hangzhou", ca_file=ca_file)
    async with open_store(config, StaticCredentials(keys), Metrics()) as store:
        await bench(store)


def main() -> None:
    """The command."""
    if len(sys.argv) > 1:
        keys = Credentials(
            os.environ.get("OSS_ACCESS_KEY_ID", "id"), os.environ.get("OSS_ACCESS_KEY_SECRET", "secret")
        )
        trio.run(run, sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None, keys)
        return
    from ossfs.server import ServerConfig, start_server

    with tempfile.TemporaryDirectory() as directory:
        server = start_server(ServerConfig(directory=Path(directory), buckets=("bkt",)))
        try:
            trio.run(run, server.url, None, Credentials(server.access_key_id, server.access_key_secret))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
