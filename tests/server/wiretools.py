"""A client of its own for the server's tests: it signs what it is told to and adds nothing."""

from __future__ import annotations

import base64
import hmac
import http.client
import socket
import ssl
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import oss2

from ossfs.server import RunningServer

SUB_RESOURCES = oss2.ProviderAuth._subresource_key_set


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def xml(self) -> ElementTree.Element:
        return ElementTree.fromstring(self.body)

    @property
    def error(self) -> ElementTree.Element:
        """The error document, from the body or from x-oss-err."""
        encoded = self.headers.get("x-oss-err")
        return ElementTree.fromstring(base64.b64decode(encoded) if encoded else self.body)

    @property
    def code(self) -> str | None:
        return self.error.findtext("Code")


class Wire:
    """Signed requests (V1, header), each on a connection of its own."""

    def __init__(
        self, server: RunningServer, bucket: str = "demo", context: ssl.SSLContext | None = None
    ) -> None:
        self.server = server
        self.bucket = bucket
        parts = urlsplit(server.url)
        self.address = (parts.hostname or "", parts.port or 0)
        self._context = context

    def authorization(
        self, method: str, resource: str, params: dict[str, str], headers: dict[str, str], secret: str = ""
    ) -> str:
        low = {name.lower(): value for name, value in headers.items()}
        lines = [method, low.get("content-md5", ""), low.get("content-type", ""), low["date"]]
        lines += [f"{name}:{low[name].strip()}" for name in sorted(low) if name.startswith("x-oss-")]
        signed = sorted((k, v) for k, v in params.items() if k in SUB_RESOURCES)
        if signed:
            resource += "?" + "&".join(f"{k}={v}" if v else k for k, v in signed)
        lines.append(resource)
        key = (secret or self.server.access_key_secret).encode()
        digest = hmac.digest(key, "\n".join(lines).encode(), "sha1")
        return f"OSS {self.server.access_key_id}:{base64.b64encode(digest).decode()}"

    def head(
        self,
        method: str,
        key: str = "",
        params: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        *,
        bucket: str | None = None,
        sign: bool = True,
    ) -> tuple[str, dict[str, str]]:
        """(target, headers)."""
        params, headers = params or {}, dict(headers or {})
        bucket = self.bucket if bucket is None else bucket
        resource = f"/{bucket}/{key}" if bucket else "/"
        headers.setdefault("Date", formatdate(usegmt=True))
        headers.setdefault("Host", f"{self.address[0]}:{self.address[1]}")
        if sign:
            headers.setdefault("Authorization", self.authorization(method, resource, params, headers))
        target = quote(resource, safe="/")
        if params:
            target += "?" + "&".join(
                f"{quote(k, safe='')}={quote(v, safe='')}" if v else quote(k, safe="")
                for k, v in params.items()
            )
        return target, headers

    def connect(self) -> http.client.HTTPConnection:
        if self._context is not None:
            return http.client.HTTPSConnection(*self.address, timeout=30, context=self._context)
        return http.client.HTTPConnection(*self.address, timeout=30)

    def __call__(
        self,
        method: str,
        key: str = "",
        params: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        body: Any = None,
        **more: Any,
    ) -> Reply:
        target, headers = self.head(method, key, params, headers, **more)
        return self.send(method, target, headers, body)

    def send(self, method: str, target: str, headers: dict[str, str], body: Any = None) -> Reply:
        """Exactly that."""
        connection = self.connect()
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            chunked = hasattr(body, "__next__")
            if chunked:
                connection.putheader("Transfer-Encoding", "chunked")
            elif "Content-Length" not in headers and (body is not None or method in ("PUT", "POST")):
                connection.putheader("Content-Length", str(len(body or b"")))
            connection.endheaders(body, encode_chunked=chunked)
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def socket(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=30)

    def raw(self, data: bytes) -> bytes:
        """All that comes back for these bytes, after which nothing more is sent."""
        with self.socket() as sock:
            try:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # refused before all was sent: what it said is still readable, or it reset
            received = bytearray()
            try:
                while piece := sock.recv(65536):
                    received += piece
            except ConnectionResetError:
                pass
            return bytes(received)

    def raw_request(
        self,
        method: str,
        key: str = "",
        extra: str = "",
        body: bytes = b"",
        params: dict[str, str] | None = None,
    ) -> bytes:
        """A signed request as bytes, with `extra` header lines."""
        target, headers = self.head(method, key, params)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"{method} {target} HTTP/1.1\r\n{lines}{extra}\r\n".encode() + body
