"""What the store's tests share: stores on every kind of ground, and a clean end of each.

Threading: fixtures run in the test's thread; servers have threads of their own.
"""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

with warnings.catch_warnings():
    # oss2's docstrings hold invalid escapes, told of when it is compiled anew.
    warnings.simplefilter("ignore", DeprecationWarning)
    import oss2  # noqa: F401

from ossfs.metrics import Metrics
from ossfs.server import RunningServer, ServerConfig, start_server
from ossfs.store.base import ObjectStore
from ossfs.store.credentials import Credentials, StaticCredentials
from ossfs.store.oss import StoreConfig, open_store
from tests.support.memory_store import MemoryStore


@dataclass
class Tls:
    """A certificate for 127.0.0.1 by an authority of its own."""

    ca: Path
    cert: Path
    key: Path


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    directory = tmp_path_factory.mktemp("tls")
    made = Tls(directory / "ca.pem", directory / "cert.pem", directory / "key.pem")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(str(made.ca))
    issued.private_key_pem.write_to_path(str(made.key))
    made.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    return made


@pytest.fixture
def oss_server(tmp_path: Path) -> Iterator[RunningServer]:
    server = start_server(ServerConfig(directory=tmp_path / "oss", buckets=("bkt",), control=True))
    yield server
    server.stop()


@pytest.fixture
def tls_server(tmp_path: Path, tls: Tls) -> Iterator[RunningServer]:
    server = start_server(
        ServerConfig(directory=tmp_path / "oss", buckets=("bkt",), control=True, cert=tls.cert, key=tls.key)
    )
    yield server
    server.stop()


def credentials_of(server: RunningServer) -> StaticCredentials:
    return StaticCredentials(Credentials(server.access_key_id, server.access_key_secret))


@pytest.fixture(params=["memory", "v4", "v1", "tls"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, tls: Tls) -> AsyncIterator[ObjectStore]:
    """The same bucket in memory, and over the wire with each signature and with TLS."""
    if request.param == "memory":
        yield MemoryStore()
        return
    secure = request.param == "tls"
    server = start_server(
        ServerConfig(
            directory=tmp_path / "oss",
            buckets=("bkt",),
            cert=tls.cert if secure else None,
            key=tls.key if secure else None,
        )
    )
    config = StoreConfig(
        "bkt",
        server.url,
        region=None if request.param == "v1" else "cn-hangzhou",
        ca_file=str(tls.ca) if secure else None,
    )
    try:
        async with open_store(config, credentials_of(server), Metrics()) as opened:
            yield opened
    finally:
        server.stop()


@pytest.fixture
def wire_config() -> Callable[..., StoreConfig]:
    """A StoreConfig for tests that break things: short patience."""

    def make(url: str, **changes: object) -> StoreConfig:
        values: dict[str, object] = {"connect_timeout": 5.0, "io_timeout": 5.0, "call_timeout": 10.0}
        values.update(changes)
        return StoreConfig("bkt", url, **values)  # type: ignore[arg-type]

    return make
