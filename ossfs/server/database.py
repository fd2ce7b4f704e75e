"""The index file: SQLite, its schema, transactions, and the reference counts of blobs.

One connection guarded by one lock serves all threads: a statement takes microseconds, and a single
writer needs no busy handling. WAL with synchronous=OFF: a committed transaction survives the death of
the process, though not a power failure.

A blob is referenced by objects and parts, and pinned by answers that are being sent. It is removed when
both counts are zero. Pins live in memory: at a start nobody reads, and rows without references are swept.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ossfs.server.blobs import BlobFiles, Extent, Spool, is_inline

_SCHEMA = """
CREATE TABLE IF NOT EXISTS bucket(
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, created INTEGER NOT NULL,
    acl TEXT NOT NULL, class TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS object(
    bucket INTEGER NOT NULL, key BLOB NOT NULL, size INTEGER NOT NULL, mtime INTEGER NOT NULL,
    etag TEXT NOT NULL, crc INTEGER NOT NULL, type TEXT NOT NULL, class TEXT NOT NULL,
    props TEXT NOT NULL, extents BLOB NOT NULL, PRIMARY KEY(bucket, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blob(id INTEGER PRIMARY KEY, refs INTEGER NOT NULL, data BLOB);
CREATE TABLE IF NOT EXISTS upload(
    id TEXT PRIMARY KEY, bucket INTEGER NOT NULL, key BLOB NOT NULL, initiated INTEGER NOT NULL,
    class TEXT NOT NULL, props TEXT NOT NULL, sequential INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS upload_key ON upload(bucket, key, id);
CREATE TABLE IF NOT EXISTS part(
    upload TEXT NOT NULL, number INTEGER NOT NULL, size INTEGER NOT NULL, mtime INTEGER NOT NULL,
    etag TEXT NOT NULL, crc INTEGER NOT NULL, extents BLOB NOT NULL,
    PRIMARY KEY(upload, number)) WITHOUT ROWID;
"""


EXTENT_SIZE = 24


def pack_extents(extents: Iterable[Extent]) -> bytes:
    """Extents as stored: little-endian, so that the first byte tells inline blobs from files."""
    packed = array("Q")
    for extent in extents:
        packed.extend(extent)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack_extents(data: bytes) -> tuple[Extent, ...]:
    """The reverse of pack_extents."""
    numbers = array("Q")
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    flat = iter(numbers)
    return tuple(map(Extent, flat, flat, flat))


def pack_crc(crc: int) -> int:
    """SQLite's integers are signed."""
    return crc - (1 << 64) if crc >= 1 << 63 else crc


def unpack_crc(value: int) -> int:
    """The reverse of pack_crc."""
    return value & 0xFFFFFFFFFFFFFFFF


class Database:
    """The connection, its lock, and the blobs' reference counts."""

    def __init__(self, directory: Path, inline_size: int) -> None:
        self.lock = threading.RLock()
        self.files = BlobFiles(directory, inline_size)
        self._connection = sqlite3.connect(
            directory / "index.sqlite", isolation_level=None, check_same_thread=False, cached_statements=256
        )
        # Explicit, since executescript and friends are not needed on the hot path.
        self.execute = self._connection.execute
        self.executemany = self._connection.executemany
        for pragma in (
            "journal_mode=WAL",
            "synchronous=OFF",
            "temp_store=MEMORY",
            "cache_size=-65536",
            "wal_autocheckpoint=4000",
        ):
            self.execute(f"PRAGMA {pragma}").fetchall()
        self._connection.executescript(_SCHEMA)
        self._pins: dict[int, int] = {}
        self._doomed: set[int] = set()
        self._dead: list[int] = []
        self._depth = 0
        self._sweep()

    def _sweep(self) -> None:
        with self.transaction():
            self.execute("DELETE FROM blob WHERE refs <= 0")
        known = {row[0] for row in self.execute("SELECT id FROM blob WHERE data IS NULL")}
        highest = self.execute("SELECT coalesce(max(id), 0) FROM blob").fetchone()[0]
        self.files.sweep(known, highest)

    def close(self) -> None:
        """No thread may use the database any more."""
        with self.lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the body or nothing of it; entered again by the same thread, it is the outer one."""
        with self.lock:
            if self._depth:
                yield
                return
            self.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                yield
                self.execute("COMMIT")
            except BaseException:
                self._dead.clear()
                # Not a plain ROLLBACK: a full disk may have ended the transaction already.
                self._connection.rollback()
                raise
            finally:
                self._depth = 0
            dead, self._dead = self._dead, []
        for blob in dead:
            if not is_inline(blob):
                self.files.unlink(blob)

    def keep(self, spool: Spool) -> None:
        """Publish a received blob, with no reference yet; within a transaction."""
        if spool.size:
            self.execute("INSERT INTO blob(id, refs, data) VALUES(?, 0, ?)", (spool.blob, spool.data))

    def retain(self, extents: Iterable[Extent]) -> None:
        """One more reference to each blob; within a transaction."""
        for blob in {extent[0] for extent in extents}:
            self.execute("UPDATE blob SET refs = refs + 1 WHERE id = ?", (blob,))
            self._doomed.discard(blob)

    def release(self, extents: Iterable[Extent]) -> None:
        """One reference less to each blob; within a transaction."""
        for blob in {extent[0] for extent in extents}:
            row = self.execute(
                "UPDATE blob SET refs = refs - 1 WHERE id = ? RETURNING refs", (blob,)
            ).fetchall()
            if row and row[0][0] <= 0:
                self._remove_or_doom(blob)

    def _remove_or_doom(self, blob: int) -> None:
        if blob in self._pins:
            self._doomed.add(blob)
            return
        # It may have been doomed in a transaction that was rolled back: the row has the last word.
        if self.execute("DELETE FROM blob WHERE id = ? AND refs <= 0 RETURNING id", (blob,)).fetchall():
            self._dead.append(blob)

    def pin(self, extents: Iterable[Extent]) -> tuple[int, ...]:
        """Keep these blobs while they are read; under the lock that the extents were read under."""
        blobs = tuple({extent[0] for extent in extents})
        for blob in blobs:
            self._pins[blob] = self._pins.get(blob, 0) + 1
        return blobs

    def unpin(self, blobs: Iterable[int]) -> None:
        """Give pinned blobs back; what was dropped meanwhile goes now."""
        with self.lock:
            free = []
            for blob in blobs:
                count = self._pins[blob] - 1
                if count:
                    self._pins[blob] = count
                else:
                    del self._pins[blob]
                    if blob in self._doomed:
                        self._doomed.discard(blob)
                        free.append(blob)
            if free:
                with self.transaction():
                    for blob in free:
                        self._remove_or_doom(blob)

    def inline_data(self, blob: int) -> bytes:
        """The bytes of an inline blob that is referenced or pinned."""
        with self.lock:
            row: tuple[Any, ...] = self.execute("SELECT data FROM blob WHERE id = ?", (blob,)).fetchone()
        data: bytes = row[0]
        return data
