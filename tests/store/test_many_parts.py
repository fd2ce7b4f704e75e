"""As many parts as the service takes, through the real store and the embedded server."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from ossfs.fs.context import run_all
from ossfs.limits import MAX_PARTS
from ossfs.metrics import Metrics
from ossfs.server import ServerConfig, start_server
from ossfs.store.base import ObjectHeaders, PartResult
from ossfs.store.credentials import Credentials, StaticCredentials
from ossfs.store.oss import StoreConfig, open_store


@pytest.mark.slow
async def test_10000_parts_go_through(tmp_path: Path) -> None:
    with start_server(ServerConfig(directory=tmp_path, buckets=("bkt",), min_part_size=1)) as server:
        credentials = StaticCredentials(Credentials(server.access_key_id, server.access_key_secret))
        config = StoreConfig("bkt", server.url, "cn-hangzhou")
        with trio.fail_after(100):
            async with open_store(config, credentials, Metrics()) as store:
                upload = await store.initiate("k", ObjectHeaders())
                parts: dict[int, PartResult] = {}

                async def put(number: int) -> None:
                    parts[number] = await store.put_part("k", upload, number, [b"%05d;" % number])

                await run_all(8, [lambda n=n: put(n) for n in range(1, MAX_PARTS + 1)])  # type: ignore[misc]
                await store.complete("k", upload, [parts[n] for n in range(1, MAX_PARTS + 1)])
                body = bytearray(6 * MAX_PARTS)
                info, count = await store.get("k", memoryview(body))
        assert count == len(body) == info.size
        assert bytes(body) == b"".join(b"%05d;" % n for n in range(1, MAX_PARTS + 1))
