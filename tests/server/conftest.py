"""A server for each test, on a directory of its own, and clients for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ossfs.server import RunningServer, ServerConfig, start_server

with warnings.catch_warnings():
    # Its sources have invalid escapes, which are warned of when they are compiled.
    warnings.simplefilter("ignore")
    import oss2

    from tests.server.wiretools import Wire


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
    """Start servers with settings; all are stopped at the end."""
    running: list[RunningServer] = []

    def begin(directory: Path | None = None, **settings: Any) -> RunningServer:
        settings.setdefault("buckets", ("demo", "other"))
        server = start_server(ServerConfig(directory or tmp_path / "oss", **settings))
        running.append(server)
        return server

    yield begin
    for server in running:
        server.stop()


@pytest.fixture
def server(start: Callable[..., RunningServer]) -> RunningServer:
    return start(min_part_size=1024, inline_size=256, control=True)


@pytest.fixture
def wire(server: RunningServer) -> Wire:
    return Wire(server)


@pytest.fixture
def sdk() -> Iterator[Callable[..., oss2.Bucket]]:
    """oss2 buckets, whose connections are closed at the end."""
    made: list[oss2.Bucket] = []

    def make(server: RunningServer, bucket: str = "demo", *, v4: bool = False, **options: Any) -> oss2.Bucket:
        keys = (server.access_key_id, server.access_key_secret)
        auth = oss2.AuthV4(*keys) if v4 else oss2.Auth(*keys)
        options.setdefault("region", "cn-hangzhou")
        result = oss2.Bucket(auth, server.url, bucket, **options)
        made.append(result)
        return result

    yield make
    for bucket in made:
        bucket.session.session.close()


@pytest.fixture(params=["v1", "v4"])
def bucket(
    request: pytest.FixtureRequest, server: RunningServer, sdk: Callable[..., oss2.Bucket]
) -> oss2.Bucket:
    """The same tests under both signatures."""
    return sdk(server, v4=request.param == "v4")
