"""Which bytes of which object versions lie in which file of the read cache: a SQLite database.

    objects   a version: (key, ETag)
    segments  a stretch of SEGMENT bytes of a version, and the one file that holds what is cached of it
    pieces    checked runs of bytes inside a segment: none crosses a multiple of PIECE

A piece is written down after its bytes, so what a killed mount leaves is at most bytes without a piece.
A power failure may leave pieces without bytes; their checksums say so.  The write-ahead log and
synchronous=NORMAL keep the database itself whole in both cases.

Threading: any thread; one lock around each call, which holds it for microseconds (a query) to
milliseconds (an eviction).  Raises sqlite3.Error.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

SEGMENT: Final = 4 << 20
"""What is evicted at a time: files large enough to be few, and small enough that one used byte does not
keep much alive."""
PIECE: Final = 128 << 10
"""What has one checksum: to read a page of it costs reading all of it, and this is the kernel's own
smallest read-ahead."""
DISK_BLOCK: Final = 4096
"""File systems give space in these."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, etag TEXT NOT NULL, UNIQUE (key, etag)
);
CREATE TABLE IF NOT EXISTS segments (
    id INTEGER PRIMARY KEY AUTOINCREMENT, object INTEGER NOT NULL, start INTEGER NOT NULL,
    bytes INTEGER NOT NULL, used INTEGER NOT NULL, UNIQUE (object, start)
);
CREATE INDEX IF NOT EXISTS segments_used ON segments (used);
CREATE TABLE IF NOT EXISTS pieces (
    segment INTEGER NOT NULL, start INTEGER NOT NULL, length INTEGER NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (segment, start)
) WITHOUT ROWID;
"""

_FIND = """
SELECT segments.id, segments.start, pieces.start, pieces.length, pieces.crc
FROM objects JOIN segments ON segments.object = objects.id JOIN pieces ON pieces.segment = segments.id
WHERE objects.key = ? AND objects.etag = ? AND segments.start >= ? AND segments.start < ?
  AND pieces.start < ? AND pieces.start + pieces.length > ?
ORDER BY pieces.start
"""


@dataclass(frozen=True, slots=True)
class Piece:
    """Cached bytes [start, start+length) of a version; base: where its segment begins in the object."""

    segment: int
    base: int
    start: int
    length: int
    crc: int

    @property
    def end(self) -> int:
        return self.start + self.length


def space(length: int) -> int:
    """What so many bytes take on disk."""
    return -(-length // DISK_BLOCK) * DISK_BLOCK


class Index:
    """The database at *path*, made if there is none.  total: bytes on disk by its own count."""

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(_SCHEMA)
            total, last = self._db.execute("SELECT SUM(bytes), MAX(used) FROM segments").fetchone()
        except BaseException:
            self._db.close()
            raise
        self.total: int = total or 0
        self._tick: int = last or 0
        self._touched: dict[int, int] = {}

    def close(self) -> None:
        """Write down what was used when, and close."""
        with self._lock:
            try:
                self._db.execute("BEGIN")
                self._store_uses()
                self._db.execute("COMMIT")
            finally:
                self._db.close()

    def recount(self) -> None:
        """A change was taken back: the total follows what is in the database."""
        with self._lock:
            (total,) = self._db.execute("SELECT SUM(bytes) FROM segments").fetchone()
            self.total = total or 0

    def find(self, key: str, etag: str, start: int, end: int) -> list[Piece]:
        """The pieces that overlap [start, end), by their start; counts as a use of them."""
        with self._lock:
            rows = self._db.execute(
                _FIND, (key, etag, start // SEGMENT * SEGMENT, end, end, start)
            ).fetchall()
            if rows:
                self._tick += 1
                for row in rows:
                    self._touched[row[0]] = self._tick
        return [Piece(row[0], row[1], row[2], row[3], row[4] & ((1 << 64) - 1)) for row in rows]

    def place(self, key: str, etag: str, base: int, length: int) -> int:
        """The segment of a version that begins at *base*, charged with *length* bytes more."""
        charge = space(length)
        with self._lock, self._db:
            self._db.execute("BEGIN")
            self._tick += 1
            self._db.execute("INSERT OR IGNORE INTO objects (key, etag) VALUES (?, ?)", (key, etag))
            (obj,) = self._db.execute(
                "SELECT id FROM objects WHERE key = ? AND etag = ?", (key, etag)
            ).fetchone()
            (segment,) = self._db.execute(
                "INSERT INTO segments (object, start, bytes, used) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (object, start) DO UPDATE "
                "SET bytes = bytes + excluded.bytes, used = excluded.used RETURNING id",
                (obj, base, charge, self._tick),
            ).fetchone()
            self.total += charge
        return int(segment)

    def add(self, pieces: Iterable[Piece]) -> None:
        """These are on disk now."""
        with self._lock, self._db:
            self._db.execute("BEGIN")
            self._store_uses()
            for piece in pieces:
                self._add(piece)

    def _add(self, piece: Piece) -> None:
        """Of two pieces of which one covers the other, the longer stays.  place() has charged the new one."""
        inside = (piece.segment, piece.start, piece.end)
        if self._db.execute(
            "SELECT 1 FROM pieces WHERE segment = ? AND start <= ? AND start + length >= ?", inside
        ).fetchone():
            self._discharge(piece.segment, space(piece.length))
            return
        for start, length in self._db.execute(
            "SELECT start, length FROM pieces WHERE segment = ? AND start >= ? AND start + length <= ?",
            inside,
        ).fetchall():
            self._db.execute("DELETE FROM pieces WHERE segment = ? AND start = ?", (piece.segment, start))
            self._discharge(piece.segment, space(length))
        # SQLite's integers are signed.  A segment that was evicted meanwhile takes no piece.
        crc = piece.crc - (1 << 64) if piece.crc >> 63 else piece.crc
        self._db.execute(
            "INSERT OR REPLACE INTO pieces SELECT id, ?, ?, ? FROM segments WHERE id = ?",
            (piece.start, piece.length, crc, piece.segment),
        )

    def _discharge(self, segment: int, amount: int) -> None:
        row = self._db.execute(
            "UPDATE segments SET bytes = bytes - ? WHERE id = ? RETURNING id", (amount, segment)
        ).fetchone()
        if row is not None:
            self.total -= amount

    def drop_piece(self, piece: Piece) -> None:
        """Its bytes are not what they were."""
        with self._lock:
            self._db.execute(
                "DELETE FROM pieces WHERE segment = ? AND start = ?", (piece.segment, piece.start)
            )

    def oldest(self, count: int) -> list[tuple[int, int]]:
        """(segment, bytes) of those that were used least recently."""
        with self._lock, self._db:
            self._db.execute("BEGIN")
            self._store_uses()
            return self._db.execute(
                "SELECT id, bytes FROM segments ORDER BY used LIMIT ?", (count,)
            ).fetchall()

    def remove(self, segments: Sequence[int]) -> None:
        """Forget these; their files may go then."""
        with self._lock, self._db:
            self._db.execute("BEGIN")
            for segment in segments:
                row = self._db.execute(
                    "DELETE FROM segments WHERE id = ? RETURNING object, bytes", (segment,)
                ).fetchone()
                if row is None:
                    continue
                self._touched.pop(segment, None)
                self._db.execute("DELETE FROM pieces WHERE segment = ?", (segment,))
                self._db.execute(
                    "DELETE FROM objects WHERE id = ? "
                    "AND NOT EXISTS (SELECT 1 FROM segments WHERE object = ?)",
                    (row[0], row[0]),
                )
                self.total -= row[1]

    def segments_of(self, key: str, etag: str) -> list[int]:
        """All segments of a version."""
        with self._lock:
            rows = self._db.execute(
                "SELECT segments.id FROM objects JOIN segments ON segments.object = objects.id "
                "WHERE key = ? AND etag = ?",
                (key, etag),
            ).fetchall()
        return [row[0] for row in rows]

    def known(self, segments: Sequence[int]) -> set[int]:
        """Which of these exist."""
        with self._lock:
            return {
                row[0]
                for segment in segments
                for row in self._db.execute("SELECT id FROM segments WHERE id = ?", (segment,))
            }

    def _store_uses(self) -> None:
        touched, self._touched = self._touched, {}
        self._db.executemany(
            "UPDATE segments SET used = ? WHERE id = ?",
            ((tick, segment) for segment, tick in touched.items()),
        )
