"""An ECS metadata service, and a URI that answers credentials, on the loopback."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ROLES = "/latest/meta-data/ram/security-credentials/"
TOKEN = "/latest/api/token"


class MetadataService:
    """What it answers, and what it was asked.  Attributes may be changed while it runs.

    hardened: PUT for a token works.  demand_token: GET without one is refused.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.role = "role"
        self.key_id = "id"
        self.secret = "secret-of-the-role"
        self.token = "token-1"
        self.lifetime = 3600.0
        self.hardened = True
        self.demand_token = False
        self.broken = False
        self.asked: list[tuple[str, str, bool]] = []

    @property
    def uri(self) -> str:
        """Where the credentials are without further ado."""
        return f"http://{self.address}/uri"

    def document(self) -> bytes:
        """The credentials as JSON."""
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.lifetime))
        return json.dumps(
            {
                "Code": "Success",
                "AccessKeyId": self.key_id,
                "AccessKeySecret": self.secret,
                "SecurityToken": self.token,
                "Expiration": until,
                "LastUpdated": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
        ).encode()


@contextmanager
def metadata_service() -> Iterator[MetadataService]:
    """Run one at a free port."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def _say(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_PUT(self) -> None:
            service.asked.append(("PUT", self.path, False))
            seconds = self.headers.get("X-aliyun-ecs-metadata-token-ttl-seconds", "")
            if self.path != TOKEN or not service.hardened or not 1 <= int(seconds or 0) <= 21600:
                self._say(404)
            else:
                self._say(200, b"session")

        def do_GET(self) -> None:
            token = self.headers.get("X-aliyun-ecs-metadata-token")
            service.asked.append(("GET", self.path, token is not None))
            if service.broken:
                self._say(500)
            elif self.path == "/uri":
                self._say(200, service.document())
            elif (token is None and service.demand_token) or token not in (None, "session"):
                self._say(403)
            elif self.path == ROLES:
                self._say(200, service.role.encode()) if service.role else self._say(404)
            elif service.role and self.path == ROLES + service.role:
                self._say(200, service.document())
            else:
                self._say(404)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service = MetadataService(f"127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
