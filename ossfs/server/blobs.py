"""Bytes on disk: one file for each received body, under a generated number.

Nothing a client sends ever becomes part of a path. A blob is written by one connection's thread, is
published by the index (which commits its number), and never changes afterwards. A file that no row of the
index mentions is the leftover of a crash, and is swept when the server starts. Bodies of at most
`inline_size` bytes stay in memory and go into the index itself.

Threads: `BlobFiles` may be used by all of them; a `Spool` belongs to one.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol

from ossfs.server.checksum import crc64

log = logging.getLogger("ossfs.server")

CHUNK = 256 * 1024  # stays in the second-level cache between recv, MD5, CRC and write


class Extent(NamedTuple):
    """`length` bytes of a blob from `offset` on; an object is a row of these."""

    blob: int
    offset: int
    length: int


class Source(Protocol):
    """Where a body comes from."""

    def readinto(self, view: memoryview) -> int:
        """Fill a part of `view`; 0 at the end."""


def is_inline(blob: int) -> bool:
    """Blobs kept in the index have odd numbers, those in files even ones."""
    return bool(blob & 1)


class BlobFiles:
    """The directory of blob files."""

    def __init__(self, directory: Path, inline_size: int) -> None:
        self._root = directory / "blobs"
        self.inline_size = inline_size
        for low in range(256):
            (self._root / f"{low:02x}").mkdir(parents=True, exist_ok=True)
        self._numbers = itertools.count(1)
        self._buffers: deque[bytearray] = deque()

    def path(self, blob: int) -> str:
        """The file of a blob."""
        return f"{self._root}/{(blob >> 1) & 255:02x}/{blob:016x}"

    def sweep(self, known: set[int], highest: int) -> int:
        """Remove files that the index doesn't know; numbers start behind everything seen."""
        removed = 0
        for file in self._root.glob("*/*"):
            try:
                blob = int(file.name, 16)
            except ValueError:
                continue
            highest = max(highest, blob)
            if blob not in known:
                file.unlink()
                removed += 1
        self._numbers = itertools.count((highest >> 1) + 1)
        return removed

    def new_number(self, inline: bool) -> int:
        """A number never used before (next() on a count is atomic under the GIL)."""
        return next(self._numbers) * 2 + inline

    def open(self, blob: int) -> int:
        """A descriptor for reading."""
        return os.open(self.path(blob), os.O_RDONLY | os.O_CLOEXEC)

    def unlink(self, blob: int) -> None:
        """Remove the file; descriptors that are open keep reading it."""
        try:
            os.unlink(self.path(blob))
        except OSError as error:
            # Whatever was committed stays so; at worst the file is swept at the next start.
            if error.errno != errno.ENOENT:
                log.warning("a blob could not be removed: %s", error)

    def take_buffer(self) -> bytearray:
        """A buffer of CHUNK bytes; give it back."""
        try:
            return self._buffers.pop()
        except IndexError:
            return bytearray(CHUNK)

    def give_buffer(self, buffer: bytearray) -> None:
        """Return what take_buffer gave."""
        if len(self._buffers) < 32:
            self._buffers.append(buffer)

    def spool(self, source: Source, *, limit: int, too_large: Callable[[], Exception], flip: bool) -> Spool:
        """Receive a body to its end. Raises what `source` raises, having removed the file."""
        spool = Spool(self)
        buffer = self.take_buffer()
        try:
            view = memoryview(buffer)
            while count := source.readinto(view):
                if spool.size + count > limit:
                    raise too_large()
                if flip and not spool.size:
                    buffer[0] ^= 1
                spool.write(view[:count])
            spool.finish()
        except BaseException:
            spool.discard()
            raise
        finally:
            self.give_buffer(buffer)
        return spool

    def from_bytes(self, data: bytes) -> Spool:
        """A blob of bytes in memory."""
        spool = Spool(self)
        spool.write(memoryview(data))
        spool.finish()
        return spool


class Spool:
    """A blob being received; in a `with`, it is removed at the end unless `kept` was set."""

    __slots__ = ("_fd", "_files", "_md5", "_pending", "blob", "crc", "kept", "md5", "size")

    def __init__(self, files: BlobFiles) -> None:
        self._files = files
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._pending = bytearray()
        self._fd = -1
        self.blob = 0
        self.size = 0
        self.crc = 0
        self.md5 = b""
        self.kept = False

    def write(self, data: memoryview) -> None:
        """Append; MD5, CRC and write(2) all release the GIL for a big buffer."""
        self._md5.update(data)
        self.crc = crc64(data, self.crc)
        self.size += len(data)
        if self._fd < 0:
            if self.size <= self._files.inline_size:
                self._pending += data
                return
            self.blob = self._files.new_number(inline=False)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._fd = os.open(self._files.path(self.blob), flags, 0o600)
            if self._pending:
                self._write_all(memoryview(self._pending))
                self._pending = bytearray()
        self._write_all(data)

    def _write_all(self, data: memoryview) -> None:
        done = 0
        while done < len(data):
            done += os.write(self._fd, data[done:])

    def finish(self) -> None:
        """The body is complete."""
        self.md5 = self._md5.digest()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        elif self.size:
            self.blob = self._files.new_number(inline=True)

    @property
    def data(self) -> bytes | None:
        """The bytes of an inline blob."""
        return bytes(self._pending) if self.blob & 1 else None

    @property
    def extents(self) -> tuple[Extent, ...]:
        """The whole blob; nothing for an empty body."""
        return (Extent(self.blob, 0, self.size),) if self.size else ()

    @property
    def etag(self) -> str:
        """Upper-case hex MD5, without quotes."""
        return self.md5.hex().upper()

    def discard(self) -> None:
        """Remove the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self.blob and not self.blob & 1:
            self._files.unlink(self.blob)

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.kept:
            self.discard()
