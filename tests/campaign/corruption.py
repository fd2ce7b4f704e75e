"""Flipped bytes, counted: as many are caught as were injected.

    python -m tests.campaign.corruption --injections 10000

Objects, parts of uploads and whole files go up and come down while the server flips a byte in a third
of them.  Each flip must be seen by the store, and after each operation the bytes must be right.

Threading: a trio thread; the server has threads of its own.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
from pathlib import Path

import trio

from ossfs.metrics import Metrics
from ossfs.server import RunningServer, ServerConfig, start_server
from ossfs.store.base import ObjectHeaders, ObjectStore
from ossfs.store.calls import StoreConfig
from ossfs.store.credentials import Credentials, StaticCredentials
from ossfs.store.oss import open_store

FLIP = {"action": "flip", "rate": 0.33, "count": -1}
PART = 100 * 1024
"""The least size of a part."""
PARALLEL = 8


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.corruption", description=__doc__)
    parser.add_argument("--injections", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.getLogger("ossfs").setLevel(logging.CRITICAL)  # of repeats, which are what is wanted here
    with tempfile.TemporaryDirectory(prefix="ossfs-corruption-") as directory:
        server = start_server(ServerConfig(directory=Path(directory), buckets=("bkt",), control=True))
        try:
            injected, caught, operations = trio.run(campaign, server, options.injections, options.seed)
        finally:
            server.stop()
    print(f"{operations} operations, {injected} bytes flipped, {caught} caught")
    return 0 if injected == caught else 1


async def campaign(server: RunningServer, injections: int, seed: int) -> tuple[int, int, int]:
    """Until so many bytes were flipped; (flipped, caught, operations)."""
    metrics = Metrics()
    config = StoreConfig(endpoint=server.url, bucket="bkt", call_timeout=60)
    keys = StaticCredentials(Credentials(server.access_key_id, server.access_key_secret))
    ops = ("Put", "UploadPart", "Get")
    server.set_faults([{**FLIP, "op": op, "seed": seed + i} for i, op in enumerate(ops)])
    operations = 0

    def injected() -> int:
        return int(server.stats()["faults"].get("flip", 0))

    async with open_store(config, keys, metrics) as store:

        async def worker(number: int) -> None:
            nonlocal operations
            rng = random.Random(seed * 1000 + number)
            key = f"k{number}"
            while injected() < injections:
                data = rng.randbytes(rng.randrange(1, 20_000))
                if rng.random() < 0.1:
                    data = rng.randbytes(rng.randrange(PART, 2 * PART))
                    await _upload(store, key, data)
                else:
                    await store.put(key, [data], ObjectHeaders(), forbid_overwrite=False)
                buffer = bytearray(len(data))
                await store.get(key, memoryview(buffer))
                if buffer != data:
                    raise AssertionError(f"{key}: wrong bytes of {len(data)}")
                operations += 2

        async with trio.open_nursery() as nursery:
            for number in range(PARALLEL):
                nursery.start_soon(worker, number)
    return injected(), metrics.snapshot().get("errors.ChecksumMismatch", 0), operations


async def _upload(store: ObjectStore, key: str, data: bytes) -> None:
    upload = await store.initiate(key, ObjectHeaders())
    pieces = (data[:PART], data[PART:]) if len(data) > PART else (data,)
    parts = [await store.put_part(key, upload, i, [piece]) for i, piece in enumerate(pieces, 1)]
    await store.complete(key, upload, parts)


if __name__ == "__main__":
    sys.exit(main())
