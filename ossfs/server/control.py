"""Control over HTTP, under /_ossfs/ and only if the server was started for it: no signature is asked.

    GET  /_ossfs/stats                       the counters
    POST /_ossfs/stats                       the same, starting them anew
    POST /_ossfs/faults                      a JSON list of faults replaces the script
    POST /_ossfs/set?latency=&bandwidth=&clock_offset=&expired_tokens=&token=&requester_pays=
    POST /_ossfs/fill?bucket=&prefix=&n=&size=

Runs in the connection's thread; the same functions serve the in-process interface.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

from ossfs.server.blobs import Extent
from ossfs.server.checksum import combine, crc64
from ossfs.server.database import pack_extents
from ossfs.server.errors import OssError
from ossfs.server.index import NORMAL, Props, Record
from ossfs.server.model import Answer, Request, Service
from ossfs.server.wire import parse_query

PREFIX = "/_ossfs/"
# Filled objects are this pattern over and over: byte i is i % 251. One block of it serves all of them.
_PERIOD = 251
_BLOCK = _PERIOD * 32768
MAX_FILL = 10_000_000


def pattern(size: int) -> bytes:
    """The content of a filled object."""
    return (bytes(range(_PERIOD)) * (size // _PERIOD + 1))[:size]


def stats(service: Service, *, reset: bool) -> dict[str, Any]:
    """The counters."""
    result = service.stats.snapshot(reset=reset)
    result["open_uploads"] = service.uploads.count()
    return result


def fill(service: Service, bucket_name: str, prefix: str, count: int, size: int) -> None:
    """`count` objects of `size` bytes that share their data; n=1: the key is the prefix itself."""
    bucket = service.index.bucket(bucket_name)
    database = service.database
    block = pattern(min(size, _BLOCK))
    md5, crc, left = hashlib.md5(usedforsecurity=False), 0, size
    block_crc = crc64(block)
    extents: list[Extent] = []
    with database.files.from_bytes(block) as blob:
        while left:
            step = min(left, len(block))
            md5.update(block if step == len(block) else block[:step])
            crc = combine(crc, block_crc if step == len(block) else crc64(block[:step]), step)
            extents.append(Extent(blob.blob, 0, step))
            left -= step
        record = Record(
            size,
            service.seconds(),
            md5.hexdigest().upper(),
            crc,
            NORMAL,
            bucket.storage_class,
            Props(),
            pack_extents(extents),
        )
        with database.transaction():
            service.index.check_alive(bucket)
            database.keep(blob)
            service.index.fill(bucket, _fill_keys(prefix, count), record)
        blob.kept = True


def _fill_keys(prefix: str, count: int) -> Iterator[bytes]:
    if count == 1:
        yield prefix.encode()
        return
    for number in range(count):
        yield f"{prefix}{number:06d}".encode()


def read_file(piece: tuple[int, int, int]) -> bytes:
    """The bytes of a small piece of a file."""
    fd, offset, length = piece
    return os.pread(fd, length, offset)


def handle(service: Service, request: Request, path: str, query: str) -> Answer:
    """One control request."""
    request.params = dict(parse_query(query))
    name = path[len(PREFIX) :]
    if name == "stats" and request.method in ("GET", "POST"):
        return _json(stats(service, reset=request.method == "POST"))
    if request.method != "POST":
        raise OssError("MethodNotAllowed")
    body = request.read_body()
    if name == "faults":
        try:
            rules = json.loads(body)
            if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
                raise ValueError("a list of faults is expected")
            service.faults.replace(rules)
        except ValueError as error:
            raise OssError("InvalidArgument", str(error)) from error
        return _json({"faults": len(rules)})
    if name == "set":
        _set(service, request)
        return _json({})
    if name == "fill":
        count = request.number("n", 1, 1, MAX_FILL)
        size = request.number("size", 0, 0, 1 << 45)
        prefix = request.params.get("prefix", "")
        if not 1 <= len(prefix.encode()) <= 1016:
            raise OssError("InvalidObjectName")
        fill(service, request.params.get("bucket", ""), prefix, count, size)
        return _json({"filled": count})
    raise OssError("InvalidArgument", "There is no such control.", status=404)


def _set(service: Service, request: Request) -> None:
    known = {"latency", "bandwidth", "clock_offset", "expired_tokens", "token", "requester_pays"}
    for name in request.params:
        if name not in known:
            raise OssError("InvalidArgument", f"{name} can't be set.", ArgumentName=name)
    numbers: dict[str, float] = {}
    for name in ("latency", "bandwidth", "clock_offset"):
        if name in request.params:
            try:
                numbers[name] = float(request.params[name])
            except ValueError:
                raise OssError("InvalidArgument", f"{name} is a number.", ArgumentName=name) from None
            low = -1e9 if name == "clock_offset" else 0.0
            if not low <= numbers[name] <= 1e12:
                raise OssError("InvalidArgument", f"{name} is out of bounds.", ArgumentName=name)
    service.latency = numbers.get("latency", service.latency)
    service.bandwidth = int(numbers.get("bandwidth", service.bandwidth))
    service.clock.offset = numbers.get("clock_offset", service.clock.offset)
    if "expired_tokens" in request.params:
        service.auth.expired_tokens = frozenset(filter(None, request.params["expired_tokens"].split(",")))
    if "requester_pays" in request.params:
        service.requester_pays = request.params["requester_pays"] == "1"
    if "token" in request.params:
        service.auth.token = request.params["token"] or None


def _json(value: object) -> Answer:
    return Answer(200, [("Content-Type", "application/json")], json.dumps(value).encode() + b"\n")
