"""The read cache on disk: bytes of object versions, written behind their reader, checked when read.

A version is (key, ETag), so a replaced object is another one and its old bytes are never asked for.
What is cached survives the mount, and a kill -9: see index.py.  A checksum of each piece is compared
whenever it is read; what is damaged is dropped, counted, logged and fetched from the bucket again.
Nothing here ever fails a reader: what the disk does not have, or cannot do, is a miss.

The bytes lie in sparse files, one for each segment, at their own offsets:

    index.db            which bytes are where
    blocks/af/4a3af     segment 0x4a3af

Space: at most `limit` bytes, least recently used segments go first, and before them nothing is
written: part of the disk is left to others (directory.py).

Threading: constructed and closed in any thread; `keep` and the async methods are for the trio thread.
All disk I/O runs in threads of its own: a pool reads, one thread writes, evicts and forgets, in the
order in which it was told.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from ossfs.cache.directory import free_space, left_to_others
from ossfs.cache.index import PIECE, SEGMENT, Index, Piece, space
from ossfs.metrics import Metrics
from ossfs.store.base import Progress
from ossfs.store.checksum import crc64
from ossfs.store.workers import Workers

log = logging.getLogger(__name__)

READERS: Final = 8
"""Threads that read: enough for an SSD's queue."""
QUEUE: Final = 64 << 20
"""Bytes that wait to be written.  More are not cached: the disk is slower than the network, and the
reader is not to wait for it."""
BATCH: Final = 16 << 20
"""Bytes written for one transaction of the index."""
_SWEEP_AT_ONCE: Final = 500
_EVICT_AT_ONCE: Final = 64


@dataclass(slots=True)
class _Keep:
    key: str
    etag: str
    start: int
    data: bytes
    done: Callable[[], None]


@dataclass(slots=True)
class _Forget:
    key: str
    etag: str
    done: Callable[[], None]


class BlockCache:
    """Implements fs.ports.BlockCache in *directory*, which nobody else uses.

    limit: bytes on disk.  keep_free: bytes of the disk that are left, by default by its size.
    """

    def __init__(self, directory: str, limit: int, metrics: Metrics, *, keep_free: int | None = None) -> None:
        self._blocks = os.path.join(directory, "blocks")
        self._limit = limit
        self._metrics = metrics
        os.makedirs(self._blocks, mode=0o700, exist_ok=True)
        self._keep_free = left_to_others(self._blocks) if keep_free is None else keep_free
        self._index = _open_index(os.path.join(directory, "index.db"))
        metrics.add("cache.bytes", self._index.total)
        self._reported = self._index.total
        self._broken = False
        self._full_said = False
        self._token: trio.lowlevel.TrioToken | None = None
        self._pool = Workers(READERS, name="ossfs-cache")
        self._wake = threading.Condition()
        self._queue: deque[_Keep | _Forget] = deque()
        self._queued = 0
        self._closing = False
        self._writer = threading.Thread(target=self._work, name="ossfs-cache-writer", daemon=True)
        self._writer.start()

    def close(self) -> None:
        """Write what waits, and let go of the directory.  Blocking."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._writer.join()
        for thread in self._pool.close():
            thread.join()
        try:
            self._index.close()
        except sqlite3.Error as error:
            log.warning("cache index: %s", error)

    # -- in the trio thread

    async def read(
        self, key: str, etag: str, start: int, view: memoryview, progress: Progress | None = None
    ) -> int:
        """Fill the beginning of *view* with bytes from *start*; how many of them were here and right.

        progress: told in another thread how many bytes are there.
        """
        if self._broken or not etag or not len(view):
            return 0
        count = await self._pool.run(lambda: self._read(key, etag, start, view, progress))
        self._metrics.add("cache.hits" if count == len(view) else "cache.misses")
        self._metrics.add("bytes_from_cache", count)
        return count

    async def holds(self, key: str, etag: str, length: int) -> bool:
        """Are the first *length* bytes here?  They may turn out to be damaged."""
        if self._broken or not etag:
            return False
        return await self._pool.run(lambda: self._holds(key, etag, length))

    def keep(self, key: str, etag: str, start: int, data: bytes, done: Callable[[], None]) -> bool:
        """Have *data* written behind; done() in the trio thread when the memory is free again.

        False: not taken, because the disk does not keep up; done is not called.
        """
        if self._broken or not etag or not data:
            return False
        self._token = trio.lowlevel.current_trio_token()
        with self._wake:
            if self._closing or self._queued + len(data) > QUEUE:
                self._metrics.add("cache.skipped")
                return False
            self._queued += len(data)
            self._queue.append(_Keep(key, etag, start, data, done))
            self._wake.notify()
        return True

    async def forget(self, key: str, etag: str) -> None:
        """Drop all of a version, also what still waits to be written: its bytes were not the right ones."""
        if self._broken or not etag:
            return
        self._token = trio.lowlevel.current_trio_token()
        done = trio.Event()
        with self._wake:
            if self._closing:
                return
            self._queue.append(_Forget(key, etag, done.set))
            self._wake.notify()
        await done.wait()

    async def settled(self) -> None:
        """Until everything that was kept before is written."""
        await self.forget("", "-")

    # -- in the reading threads

    def _path(self, segment: int) -> str:
        return os.path.join(self._blocks, f"{segment & 0xFF:02x}", f"{segment:x}")

    def _read(self, key: str, etag: str, start: int, view: memoryview, progress: Progress | None) -> int:
        at, end = start, start + len(view)
        opened: tuple[int, int] | None = None
        try:
            for piece in self._index.find(key, etag, start, end):
                if piece.end <= at:
                    continue
                if piece.start > at or at >= end:
                    break
                if opened is None or opened[0] != piece.segment:
                    if opened is not None:
                        os.close(opened[1])
                        opened = None
                    opened = piece.segment, os.open(self._path(piece.segment), os.O_RDONLY | os.O_CLOEXEC)
                # Straight into place where nothing of it has been handed out.
                direct = piece.start == at and piece.end <= end
                target = (
                    view[at - start : piece.end - start] if direct else memoryview(bytearray(piece.length))
                )
                if not self._check(opened[1], piece, target, key):
                    break
                stop = min(piece.end, end)
                if not direct:
                    view[at - start : stop - start] = target[at - piece.start : stop - piece.start]
                at = stop
                if progress is not None:
                    progress(at - start)
        except FileNotFoundError:
            pass  # evicted meanwhile
        except OSError as error:
            log.warning("cache %s: %s", self._blocks, error.strerror)
        except sqlite3.Error as error:
            self._give_up(error)
        finally:
            if opened is not None:
                os.close(opened[1])
        return at - start

    def _check(self, fd: int, piece: Piece, target: memoryview, key: str) -> bool:
        try:
            got = os.preadv(fd, [target], piece.start - piece.base)
            problem = "" if got == piece.length and crc64([target]) == piece.crc else "is damaged"
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
        if not problem:
            return True
        self._metrics.add("cache.corruptions")
        log.warning(
            "cache: %d bytes of %s at %d: %s %s; fetching them again",
            piece.length,
            key,
            piece.start,
            self._path(piece.segment),
            problem,
        )
        self._index.drop_piece(piece)
        return False

    def _holds(self, key: str, etag: str, length: int) -> bool:
        at = 0
        try:
            for piece in self._index.find(key, etag, 0, length):
                if piece.start > at:
                    break
                at = max(at, piece.end)
        except sqlite3.Error as error:
            self._give_up(error)
            return False
        return at >= length

    def _give_up(self, error: Exception) -> None:
        if not self._broken:
            self._broken = True
            log.error("cache index: %s; this mount goes on without its cache", error)

    # -- in the writing thread

    def _work(self) -> None:
        try:
            self._sweep()
        except (OSError, sqlite3.Error) as error:
            log.warning("cache %s: %s", self._blocks, error)
        while True:
            with self._wake:
                while not self._queue and not self._closing:
                    self._wake.wait()
                if not self._queue:
                    return
                batch = self._take_batch()
            try:
                self._carry_out(batch)
            except OSError as error:
                self._metrics.add("cache.skipped", len(batch))
                self._say_full(error)
            except sqlite3.Error as error:
                self._index_failed(error, len(batch))
            finally:
                self._finish(batch)

    def _index_failed(self, error: sqlite3.Error, skipped: int) -> None:
        if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
            self._give_up(error)
            return
        self._metrics.add("cache.skipped", skipped)
        self._say_full(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        try:
            self._index.recount()
        except sqlite3.Error as again:
            self._give_up(again)

    def _take_batch(self) -> list[_Keep | _Forget]:
        """What is done in one go: some writes, or one act of forgetting.  The lock is held."""
        batch: list[_Keep | _Forget] = []
        size = 0
        while self._queue and size < BATCH:
            item = self._queue[0]
            if isinstance(item, _Forget):
                if not batch:
                    batch.append(self._queue.popleft())
                break
            size += len(item.data)
            batch.append(self._queue.popleft())
        return batch

    def _finish(self, batch: list[_Keep | _Forget]) -> None:
        total = self._index.total
        self._metrics.add("cache.bytes", total - self._reported)
        self._reported = total
        with self._wake:
            self._queued -= sum(len(item.data) for item in batch if isinstance(item, _Keep))
        assert self._token is not None
        try:
            for item in batch:
                self._token.run_sync_soon(item.done)
        except trio.RunFinishedError:
            pass  # the mount has ended

    def _carry_out(self, batch: list[_Keep | _Forget]) -> None:
        if self._broken:
            return
        keeps = []
        for item in batch:
            if isinstance(item, _Forget):
                self._remove(self._index.segments_of(item.key, item.etag))
            else:
                keeps.append(item)
        if not keeps:
            return
        if not self._make_room(sum(space(len(item.data)) for item in keeps)):
            self._metrics.add("cache.skipped", len(keeps))
            return
        pieces: list[Piece] = []
        try:
            for item in keeps:
                self._write(item, pieces)
        finally:
            # With what is written already, also when the disk is full now.
            self._index.add(pieces)

    def _write(self, item: _Keep, pieces: list[Piece]) -> None:
        view = memoryview(item.data)
        at, end = item.start, item.start + len(item.data)
        while at < end:
            base = at // SEGMENT * SEGMENT
            stop = min(end, base + SEGMENT)
            segment = self._index.place(item.key, item.etag, base, stop - at)
            path = self._path(segment)
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            try:
                fd = os.open(path, flags, 0o600)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
                fd = os.open(path, flags, 0o600)
            try:
                _pwrite_all(fd, view[at - item.start : stop - item.start], at - base)
            finally:
                os.close(fd)
            while at < stop:
                piece_end = min(stop, (at // PIECE + 1) * PIECE)
                data = view[at - item.start : piece_end - item.start]
                pieces.append(Piece(segment, base, at, piece_end - at, crc64([data])))
                at = piece_end

    def _make_room(self, wanted: int) -> bool:
        """Evict until *wanted* bytes fit the limit and the disk.  False: they do not."""
        while True:
            over = max(
                self._index.total + wanted - self._limit,
                self._keep_free + wanted - free_space(self._blocks),
            )
            if over <= 0:
                return True
            oldest = self._index.oldest(_EVICT_AT_ONCE)
            if not oldest:
                self._say_full(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
                return False
            going: list[int] = []
            for segment, size in oldest:
                going.append(segment)
                over -= size
                if over <= 0:
                    break
            self._remove(going)
            self._metrics.add("cache.evictions", len(going))

    def _remove(self, segments: list[int]) -> None:
        self._index.remove(segments)
        for segment in segments:
            try:
                os.unlink(self._path(segment))
            except FileNotFoundError:
                pass

    def _say_full(self, error: OSError) -> None:
        if not self._full_said:
            self._full_said = True
            log.warning("cache %s: %s; what does not fit is not cached", self._blocks, error.strerror)

    def _sweep(self) -> None:
        """Remove files that the index does not know: a killed mount wrote or evicted them."""
        found: list[int] = []
        for directory in os.scandir(self._blocks):
            for entry in os.scandir(directory.path):
                try:
                    found.append(int(entry.name, 16))
                except ValueError:
                    continue
                if len(found) >= _SWEEP_AT_ONCE:
                    self._sweep_some(found)
                    found = []
        self._sweep_some(found)

    def _sweep_some(self, found: list[int]) -> None:
        for segment in set(found) - self._index.known(found):
            os.unlink(self._path(segment))


def _open_index(path: str) -> Index:
    """The index; a damaged one is thrown away: it is only a cache's."""
    try:
        return Index(path)
    except sqlite3.DatabaseError as error:
        log.warning("cache index %s: %s; beginning with an empty cache", path, error)
    for suffix in ("", "-wal", "-shm"):
        try:
            os.unlink(path + suffix)
        except FileNotFoundError:
            pass
    return Index(path)


def _pwrite_all(fd: int, data: memoryview, offset: int) -> None:
    while len(data):
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done
