"""Fuzz targets: what any client may send to the embedded server.  One thread.

Each request is answered, with no status above 499 but 501, without a line in the error log, and without a
file outside the server's directory.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ossfs.server.config import ServerConfig
from ossfs.server.http import serve_connection
from ossfs.server.model import Service
from ossfs.server.xmltext import XmlError, parse

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Za-z -]+\r\n")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = (
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
)
_LIFETIME = 300
"""Requests that one directory sees: what an input meets depends on few others."""


class _Failures(logging.Handler):
    """Errors that the server logs are failures of the target."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record)


class Subject:
    """A service on a directory of its own, a bucket, and a guard of the file system."""

    def __init__(self, *, signed: bool) -> None:
        self._signed = signed
        self._failures = _Failures()
        self._directory = ""
        self._service: Service | None = None
        self._left = 0
        self._outside: list[str] = []
        self._watching = False
        logger = logging.getLogger("ossfs.server")
        logger.addHandler(self._failures)
        logger.propagate = False
        sys.addaudithook(self._audit)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._watching:
            return
        if event == "open":
            path, _, flags = args
            if isinstance(path, int) or not isinstance(flags, int) or not flags & _WRITES:
                return
            paths = [path]
        elif event in _CHANGES:
            paths = [arg for arg in args if isinstance(arg, str | bytes | os.PathLike)]
        elif event in ("os.system", "subprocess.Popen", "os.exec", "socket.connect"):
            self._outside.append(event)
            return
        else:
            return
        for path in paths:
            if not os.path.realpath(os.fsdecode(path)).startswith(self._directory + os.sep):
                self._outside.append(f"{event} {os.fsdecode(path)}")

    def _begin(self) -> Service:
        if self._service is not None:
            self._service.database.close()
            shutil.rmtree(self._directory)
        self._directory = os.path.realpath(tempfile.mkdtemp(prefix="ossfs-fuzz-"))
        atexit.register(shutil.rmtree, self._directory, ignore_errors=True)
        config = ServerConfig(
            Path(self._directory), min_part_size=16, inline_size=64, idle_timeout=0.2, body_timeout=0.2
        )
        service = self._service = Service(config, "LTAIfuzz", "secret of the fuzzer")
        service.endpoint = "127.0.0.1:1"
        service.index.put_bucket("demo", service.seconds(), "private", "Standard")
        if not self._signed:
            service.auth.check = lambda signed: True  # type: ignore[method-assign]
        self._left = _LIFETIME
        return service

    def converse(self, data: bytes) -> bytes:
        """Everything that the server answers to these bytes."""
        service = self._service
        if service is None or self._left <= 0:
            service = self._begin()
        self._left -= 1
        ours, theirs = socket.socketpair()
        answers = bytearray()
        try:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            ours.sendall(data)
            ours.shutdown(socket.SHUT_WR)
            self._watching = True
            try:
                serve_connection(service, theirs)
            finally:
                self._watching = False
            theirs.close()
            try:
                while more := ours.recv(1 << 20):
                    answers += more
            except ConnectionResetError:
                pass  # it closed without reading all that was sent
        finally:
            ours.close()
            theirs.close()
        failures, self._failures.seen = self._failures.seen, []
        if failures:
            record = failures[0]
            raise AssertionError(record.getMessage()) from (record.exc_info[1] if record.exc_info else None)
        outside, self._outside = self._outside, []
        assert not outside, outside
        return bytes(answers)


_subjects: dict[bool, Subject] = {}


def _converse(data: bytes, *, signed: bool) -> list[int]:
    """The statuses of the answers."""
    if len(data) > 100_000:
        return []
    if signed not in _subjects:
        _subjects[signed] = Subject(signed=signed)
    # Files are easier to read, and to change, with plain ends of lines in the head.
    head, empty, body = data.partition(b"\n\n")
    if empty and b"\r" not in head:
        data = head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + body
    answers = _subjects[signed].converse(data)
    statuses = [int(status) for status in _STATUS.findall(answers)]
    if answers:
        assert _STATUS.match(answers), answers[:100]
        first = answers.partition(b"\r\n\r\n")[0]
        assert not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]|\n(?<!\r\n)", first), first
    assert all(status < 500 or status == 501 for status in statuses), answers[:500]
    return statuses


def request(data: bytes) -> None:
    """Any bytes as the conversation of somebody who has the keys: all operations, headers and documents."""
    _converse(data, signed=False)


def unsigned(data: bytes) -> None:
    """The same of somebody who has not: nothing is ever done, or told."""
    for status in _converse(data, signed=True):
        assert status >= 400 or status == 100, status


def xml(data: bytes) -> None:
    """A document of a request: XmlError, or a tree of a depth that recursion can walk."""
    try:
        root = parse(data)
    except XmlError:
        return
    level = [root]
    for _ in range(20):
        level = [child for node in level for child in node.children]
    assert not level


TARGETS: dict[str, Callable[[bytes], None]] = {"request": request, "unsigned": unsigned, "xml": xml}
