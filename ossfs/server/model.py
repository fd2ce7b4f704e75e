"""A request and its answer, as the operations see them, and the service that they work on.

Threads: `Request` and `Answer` belong to one connection's thread; `Service` is shared, its parts say how.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from ossfs.server.auth import Authenticator
from ossfs.server.blobs import Extent, Spool, is_inline
from ossfs.server.clock import Clock
from ossfs.server.config import ServerConfig
from ossfs.server.database import Database
from ossfs.server.errors import OssError
from ossfs.server.faults import Faults, Plan
from ossfs.server.index import Bucket, Index, Record
from ossfs.server.metadata import expected_digests
from ossfs.server.stats import Stats
from ossfs.server.uploads import Uploads
from ossfs.server.wire import Body

OWNER = "1000000000000001"
MAX_XML = 2 << 20


class Service:
    """Everything that lives as long as the server."""

    def __init__(self, config: ServerConfig, access_key_id: str, secret: str) -> None:
        self.config = config
        self.clock = Clock()
        self.stats = Stats()
        self.faults = Faults()
        self.database = Database(config.directory, config.inline_size)
        self.index = Index(self.database)
        self.uploads = Uploads(self.database, self.index)
        self.auth = Authenticator(access_key_id, secret, config.region, config.security_token, self.clock)
        # What digests.py remembers.
        self.digests_lock = threading.Lock()
        self.remembered_digests: OrderedDict[tuple[Extent, ...], tuple[bytes, int]] = OrderedDict()
        self.stopping = threading.Event()
        # Set by tests: seconds before each answer, bytes a second of each connection (0: no limit).
        self.latency = 0.0
        self.bandwidth = 0
        # Set by tests: as for an account that is not the bucket's owner, where the requester pays.
        self.requester_pays = False
        # host:port as clients reach it.
        self.endpoint = ""

    @property
    def location(self) -> str:
        """The region as the bucket's location names it."""
        return f"oss-{self.config.region}"

    def seconds(self) -> int:
        """Now, as objects keep it."""
        return int(self.clock.now())


class Request:
    """One request, addressed and routed."""

    __slots__ = (
        "body",
        "bucket_name",
        "headers",
        "host",
        "id",
        "key",
        "method",
        "op",
        "params",
        "plan",
        "query",
    )

    def __init__(self, method: str, headers: dict[str, str], request_id: str) -> None:
        self.method = method
        self.headers = headers
        self.id = request_id
        self.host = headers.get("host", "")
        self.bucket_name = ""
        self.key = ""
        self.query: list[tuple[str, str]] = []
        self.params: dict[str, str] = {}
        self.op = ""
        self.plan = Plan()
        self.body: Body | None = None

    @property
    def key_bytes(self) -> bytes:
        """The key as the index has it."""
        return self.key.encode()

    @property
    def forbids_overwrite(self) -> bool:
        """x-oss-forbid-overwrite."""
        return self.headers.get("x-oss-forbid-overwrite", "").lower() == "true"

    def number(self, name: str, default: int, low: int, high: int, ec: str = "") -> int:
        """An integer parameter in its bounds."""
        text = self.params.get(name, "")
        if not text:
            return default
        value = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1
        if not low <= value <= high:
            raise OssError(
                "InvalidArgument",
                f"Argument {name} must be an integer between {low} and {high}.",
                ec=ec,
                ArgumentName=name,
                ArgumentValue=text,
            )
        return value

    def read_body(self) -> bytes:
        """The whole of a document."""
        assert self.body is not None
        return self.body.read(MAX_XML, OssError("MalformedXML", "The request body is too large."))

    def spool(self, service: Service, limit: int) -> Spool:
        """Receive the body into a blob, held against what the headers say of it."""
        body = self.body
        assert body is not None
        if not body.is_declared:
            raise OssError("MissingContentLength")
        if body.length is not None and body.length > limit:
            raise OssError("EntityTooLarge")
        md5, crc = expected_digests(self.headers)
        spool = service.database.files.spool(
            body, limit=limit, too_large=lambda: OssError("EntityTooLarge"), flip=self.plan.is_action("flip")
        )
        if md5 is not None and md5 != spool.md5:
            spool.discard()
            raise OssError("InvalidDigest")
        if crc is not None and crc != spool.crc:
            spool.discard()
            raise OssError("InvalidCRC64")
        return spool


@dataclass(slots=True)
class Content:
    """A piece of an object that is being answered; its blobs are pinned until `close`."""

    service: Service
    extents: tuple[Extent, ...]
    pins: tuple[int, ...]

    def pieces(self, offset: int, length: int) -> Iterator[bytes | tuple[int, int, int]]:
        """Bytes, or (descriptor, offset, length) valid until the next step."""
        fd, opened = -1, 0
        try:
            for blob, start, size in self.extents:
                if offset >= size:
                    offset -= size
                    continue
                count = min(size - offset, length)
                if is_inline(blob):
                    at = start + offset
                    yield self.service.database.inline_data(blob)[at : at + count]
                else:
                    if blob != opened:
                        if fd >= 0:
                            os.close(fd)
                            fd = -1
                        fd, opened = self.service.database.files.open(blob), blob
                    yield fd, start + offset, count
                offset = 0
                length -= count
                if not length:
                    return
        finally:
            if fd >= 0:
                os.close(fd)

    def close(self) -> None:
        """Unpin."""
        self.service.database.unpin(self.pins)
        self.pins = ()


@dataclass(slots=True)
class Answer:
    """What goes back. `content` with `start` and `length` is sent instead of `body`."""

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    content: Content | None = None
    start: int = 0
    length: int = 0
    close: bool = False

    @classmethod
    def xml(cls, document: str, status: int = 200) -> Answer:
        """A document, which may come without its XML declaration."""
        body = ('<?xml version="1.0" encoding="UTF-8"?>\n' + document).encode()
        return cls(status, [("Content-Type", "application/xml")], body)


def quoted(etag: str) -> str:
    """As headers and documents have it."""
    return f'"{etag}"'


def is_archived(record: Record, now: int) -> bool:
    """The data can't be read: archived and not (or no longer) restored."""
    if record.storage_class not in ("Archive", "ColdArchive", "DeepColdArchive"):
        return False
    restore = record.props.restore
    return restore is None or not restore[0] <= now < restore[1]


__all__ = ["MAX_XML", "OWNER", "Answer", "Bucket", "Content", "Request", "Service", "is_archived", "quoted"]
