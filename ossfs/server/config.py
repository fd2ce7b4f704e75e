"""What one server is told before it starts; immutable, so every thread may read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30


@dataclass(frozen=True)
class ServerConfig:
    """The settings of one embedded server; sizes are parameters so that tests can lower them."""

    directory: Path
    host: str = "127.0.0.1"
    port: int = 0
    buckets: tuple[str, ...] = ()
    access_key_id: str | None = None
    access_key_secret: str | None = None
    region: str = "cn-hangzhou"
    security_token: str | None = None
    cert: Path | None = None
    key: Path | None = None
    control: bool = False
    min_part_size: int = 102400
    # Not in the service's interface: limits that tests lower, and time-outs of the embedded server.
    max_put_size: int = 5 * GIB
    max_part_size: int = 5 * GIB
    # Of a copy to another bucket, and of one that changes class or encryption.
    max_foreign_copy: int = 5 * GIB
    max_changed_copy: int = GIB
    inline_size: int = 16384
    idle_timeout: float = 120.0
    body_timeout: float = 60.0
    restore_seconds: int = 60
    max_connections: int = 2000
