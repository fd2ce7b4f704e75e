"""The local file into which a writer's bytes go when memory is short: sparse, unlinked, private.

Bytes lie at the offset that they have in the file that is being written.  Nothing finds this file
after the process has ended; it is no cache and no journal.

Threading: called from the trio thread; disk I/O runs in worker threads, one operation of a file at
a time, because a late write must not overwrite younger bytes.
"""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from collections.abc import Sequence

import trio

from ossfs.errors import PosixError
from ossfs.store.base import Buffer

log = logging.getLogger(__name__)

KEEP_FREE = 64 << 20
"""Bytes of the disk that are left to others: a full root disk hurts more than our ENOSPC."""
_IOV_MAX = 1024
"""Of Linux (writev(2))."""


class Staging:
    """One writer's staging file, made at its first use.

    directory: None when the mount has none: then every use raises ENOSPC.
    """

    def __init__(self, directory: str | None) -> None:
        self._directory = directory
        self._fd: int | None = None
        self._lock = trio.Lock()

    @property
    def usable(self) -> bool:
        """Is there a place to write to?"""
        return self._directory is not None

    async def write(self, offset: int, pieces: Sequence[memoryview]) -> None:
        """Keep the bytes.  Raises ENOSPC before the disk is full, EIO when it fails."""
        async with self._lock:
            await trio.to_thread.run_sync(self._write, offset, pieces)

    async def read(self, offset: int, length: int) -> bytes:
        """Bytes that were written before."""
        async with self._lock:
            return await trio.to_thread.run_sync(self._read, offset, length)

    def close(self) -> None:
        """Give the disk space back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _write(self, offset: int, pieces: Sequence[memoryview]) -> None:
        total = sum(len(p) for p in pieces)
        try:
            fd = self._open()
            disk = os.fstatvfs(fd)
            if disk.f_bavail * disk.f_frsize - total < KEEP_FREE:
                raise PosixError(errno.ENOSPC, f"{self._directory} is nearly full", level=logging.ERROR)
            pwrite_all(fd, pieces, offset)
        except OSError as error:
            raise self._failure(error) from error

    def _read(self, offset: int, length: int) -> bytes:
        assert self._fd is not None
        out = []
        try:
            while length:
                piece = os.pread(self._fd, length, offset)
                if not piece:
                    raise PosixError(errno.EIO, "the staging file is too short", level=logging.CRITICAL)
                out.append(piece)
                offset += len(piece)
                length -= len(piece)
        except OSError as error:
            raise self._failure(error) from error
        return b"".join(out)

    def _open(self) -> int:
        if self._fd is None:
            if self._directory is None:
                raise PosixError(errno.ENOSPC, "there is no staging directory", level=logging.ERROR)
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            self._fd = os.open(self._directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        return self._fd

    def _failure(self, error: OSError) -> PosixError:
        code = error.errno if error.errno in (errno.ENOSPC, errno.EDQUOT) else errno.EIO
        return PosixError(
            code or errno.EIO, f"staging in {self._directory}: {error.strerror}", level=logging.ERROR
        )


def default_directory() -> str:
    """Where staging files go when nothing is said: /var/tmp is on a disk, where /tmp may be memory."""
    # Files there are made with O_TMPFILE: they never have a name that somebody could take first.
    on_disk = "/var/tmp"  # noqa: S108 # nosec B108
    return os.environ.get("TMPDIR") or (on_disk if os.path.isdir(on_disk) else tempfile.gettempdir())


def pwrite_all(fd: int, pieces: Sequence[Buffer], offset: int) -> None:
    """All of *pieces* at *offset*, in one call as a rule: each hands the interpreter's lock over and back."""
    views = [memoryview(piece) for piece in pieces]
    while views:
        done = os.pwritev(fd, views[:_IOV_MAX], offset)
        offset += done
        while views and done >= len(views[0]):
            done -= len(views.pop(0))
        if done:
            views[0] = views[0][done:]
