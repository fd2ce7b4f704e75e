"""Buckets and objects in the index: rows to records and back, and the ordered scan of listings.

Threads: every method takes the database's lock. An operation that must be atomic wraps its calls
in `Database.transaction()`; the lock is re-entrant.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ossfs.server.blobs import Extent
from ossfs.server.database import EXTENT_SIZE, Database, pack_crc, unpack_crc, unpack_extents
from ossfs.server.errors import OssError

NORMAL, MULTIPART, APPENDABLE, SYMLINK = "Normal", "Multipart", "Appendable", "Symlink"
_COLUMNS = "size, mtime, etag, crc, type, class, props, extents"
# Listings show of the properties only whether an archived object is restored, and nothing of the data.
_LISTED = (
    "size, mtime, etag, crc, type, class, "
    "CASE WHEN class LIKE '%Archive' THEN props ELSE '{\"h\":{}}' END, x''"
)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket; equal instances are the same bucket."""

    id: int
    name: str
    created: int
    acl: str
    storage_class: str


@dataclass(slots=True)
class Props:
    """What a listing doesn't show: stored as JSON beside the row."""

    headers: dict[str, str] = field(default_factory=dict)
    tags: list[tuple[str, str]] = field(default_factory=list)
    acl: str = "default"
    target: str | None = None
    # Restored from the archive: ready from, until (unix seconds).
    restore: tuple[int, int] | None = None

    def dumps(self) -> str:
        """As stored."""
        data: dict[str, Any] = {"h": self.headers}
        if self.tags:
            data["t"] = self.tags
        if self.acl != "default":
            data["a"] = self.acl
        if self.target is not None:
            data["l"] = self.target
        if self.restore is not None:
            data["r"] = self.restore
        return json.dumps(data)

    @classmethod
    def loads(cls, text: str) -> Props:
        """The reverse of dumps."""
        data = json.loads(text)
        restore = data.get("r")
        return cls(
            data["h"],
            [(name, value) for name, value in data.get("t", ())],
            data.get("a", "default"),
            data.get("l"),
            None if restore is None else (restore[0], restore[1]),
        )


@dataclass(slots=True)
class Record:
    """An object."""

    size: int
    mtime: int
    etag: str
    crc: int
    type: str
    storage_class: str
    props: Props
    # The extents as the index has them: unpacked only by those who read or copy the data.
    packed: bytes = b""

    @property
    def extents(self) -> tuple[Extent, ...]:
        """Where the data is."""
        return unpack_extents(self.packed)

    @property
    def md5(self) -> bytes | None:
        """Known for objects that were put (or copied from such) only."""
        if self.type in (NORMAL, SYMLINK) and len(self.etag) == 32:
            return bytes.fromhex(self.etag)
        return None


@dataclass(slots=True)
class Entry:
    """One line of a listing: an object, or a common prefix (`record` None)."""

    key: bytes
    record: Record | None


def successor(prefix: bytes) -> bytes | None:
    """The smallest string greater than everything that begins with `prefix`; None: there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,)) if stripped else None


def _record(row: Sequence[Any]) -> Record:
    size, mtime, etag, crc, kind, storage_class, props, extents = row
    return Record(size, mtime, etag, unpack_crc(crc), kind, storage_class, Props.loads(props), extents)


class Index:
    """Buckets and objects."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._buckets: dict[str, Bucket] = {}
        for row in database.execute("SELECT id, name, created, acl, class FROM bucket"):
            self._buckets[row[1]] = Bucket(*row)

    # Buckets

    def find_bucket(self, name: str) -> Bucket | None:
        """The bucket of that name."""
        return self._buckets.get(name)

    def bucket(self, name: str) -> Bucket:
        """The bucket of that name, or NoSuchBucket."""
        bucket = self._buckets.get(name)
        if bucket is None:
            raise OssError("NoSuchBucket", BucketName=name)
        return bucket

    def buckets(self) -> list[Bucket]:
        """All, by name."""
        with self.database.lock:
            return [self._buckets[name] for name in sorted(self._buckets)]

    def put_bucket(self, name: str, now: int, acl: str, storage_class: str) -> None:
        """Create; an existing bucket (always one's own) gets the ACL."""
        with self.database.transaction():
            old = self._buckets.get(name)
            if old is not None:
                if old.storage_class != storage_class:
                    raise OssError("BucketAlreadyExists", BucketName=name)
                self.database.execute("UPDATE bucket SET acl = ? WHERE id = ?", (acl, old.id))
                bucket = replace(old, acl=acl)
            else:
                cursor = self.database.execute(
                    "INSERT INTO bucket(name, created, acl, class) VALUES(?, ?, ?, ?)",
                    (name, now, acl, storage_class),
                )
                bucket = Bucket(cursor.lastrowid or 0, name, now, acl, storage_class)
            self._buckets[name] = bucket

    def delete_bucket(self, bucket: Bucket) -> None:
        """Only an empty one, uploads included."""
        with self.database.transaction():
            for query in (
                "SELECT 1 FROM object WHERE bucket = ? LIMIT 1",
                "SELECT 1 FROM upload WHERE bucket = ? LIMIT 1",
            ):
                if self.database.execute(query, (bucket.id,)).fetchone():
                    raise OssError("BucketNotEmpty", BucketName=bucket.name)
            self.database.execute("DELETE FROM bucket WHERE id = ?", (bucket.id,))
            self._buckets.pop(bucket.name, None)

    def check_alive(self, bucket: Bucket) -> None:
        """Within a transaction: the bucket was not deleted while the body arrived."""
        current = self._buckets.get(bucket.name)
        if current is None or current.id != bucket.id:
            raise OssError("NoSuchBucket", BucketName=bucket.name)

    # Objects

    def get(self, bucket: Bucket, key: bytes) -> Record | None:
        """The object, or None."""
        with self.database.lock:
            rows = self.database.execute(
                f"SELECT {_COLUMNS} FROM object WHERE bucket = ? AND key = ?",  # noqa: S608 # nosec B608 # constants
                (bucket.id, key),
            ).fetchall()
        return _record(rows[0]) if rows else None

    def get_existing(self, bucket: Bucket, key: bytes) -> Record:
        """The object, or NoSuchKey."""
        record = self.get(bucket, key)
        if record is None:
            raise OssError("NoSuchKey", Key=key.decode())
        return record

    def load_small(self, record: Record) -> bytes | None:
        """The content if it is a single inline blob (or empty); under the lock that `record` came under."""
        if not record.packed:
            return b""
        if len(record.packed) == EXTENT_SIZE and record.packed[0] & 1:
            blob, offset, length = record.extents[0]
            data = self.database.inline_data(blob)
            return data if length == len(data) else data[offset : offset + length]
        return None

    def exists(self, bucket: Bucket, key: bytes) -> bool:
        """Whether there is such an object."""
        with self.database.lock:
            query = "SELECT 1 FROM object WHERE bucket = ? AND key = ?"
            return self.database.execute(query, (bucket.id, key)).fetchone() is not None

    def check_overwrite(self, bucket: Bucket, key: bytes, forbid: bool) -> None:
        """FileAlreadyExists, if overwriting is forbidden and the object is there."""
        if forbid and self.exists(bucket, key):
            raise OssError("FileAlreadyExists", Key=key.decode())

    def put(self, bucket: Bucket, key: bytes, record: Record) -> None:
        """Store or replace; new blobs were kept before. Within a transaction."""
        execute = self.database.execute
        old = execute("SELECT extents FROM object WHERE bucket = ? AND key = ?", (bucket.id, key)).fetchall()
        # First retain, then release: a self-copy has the same blobs.
        self.database.retain(record.extents)
        execute(
            f"INSERT OR REPLACE INTO object(bucket, key, {_COLUMNS}) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                bucket.id,
                key,
                record.size,
                record.mtime,
                record.etag,
                pack_crc(record.crc),
                record.type,
                record.storage_class,
                record.props.dumps(),
                record.packed,
            ),
        )
        if old and old[0][0]:
            self.database.release(unpack_extents(old[0][0]))

    def set_props(self, bucket: Bucket, key: bytes, record: Record) -> None:
        """Store changed properties and time of an object that stays. Within a transaction."""
        self.database.execute(
            "UPDATE object SET props = ?, mtime = ? WHERE bucket = ? AND key = ?",
            (record.props.dumps(), record.mtime, bucket.id, key),
        )

    def delete(self, bucket: Bucket, keys: Sequence[bytes]) -> None:
        """Those that exist go."""
        with self.database.transaction():
            for key in keys:
                rows = self.database.execute(
                    "DELETE FROM object WHERE bucket = ? AND key = ? RETURNING extents", (bucket.id, key)
                ).fetchall()
                if rows and rows[0][0]:
                    self.database.release(unpack_extents(rows[0][0]))

    def fill(self, bucket: Bucket, keys: Iterator[bytes], record: Record) -> None:
        """Many objects of one content at once, sharing its blobs."""
        with self.database.transaction():
            for key in keys:
                self.put(bucket, key, record)

    def totals(self, bucket: Bucket) -> list[tuple[str, int, int]]:
        """(storage class, objects, bytes) of a bucket."""
        with self.database.lock:
            return self.database.execute(
                "SELECT class, count(*), coalesce(sum(size), 0) FROM object WHERE bucket = ? GROUP BY class",
                (bucket.id,),
            ).fetchall()

    # Listing

    def scan(
        self, bucket: Bucket, prefix: bytes, delimiter: bytes, after: bytes, limit: int
    ) -> tuple[list[Entry], bool]:
        """Up to `limit` objects and common prefixes behind `after` in byte order; whether there is more."""
        entries: list[Entry] = []
        low = prefix
        if after >= prefix:
            low = after + b"\0"
            group = self._group(after, prefix, delimiter)
            if group == after:
                # A common prefix as marker has been listed: everything under it is done.
                low = successor(group) or b"\xff" * 1025
        high = successor(prefix) if prefix else None
        with self.database.lock:
            while True:
                next_low = self._scan_run(bucket, prefix, delimiter, (low, high), limit, entries)
                if len(entries) > limit:
                    return entries[:limit], True
                if next_low is None:
                    return entries, False
                low = next_low

    @staticmethod
    def _group(key: bytes, prefix: bytes, delimiter: bytes) -> bytes | None:
        """The common prefix that `key` belongs to."""
        if not delimiter or not key.startswith(prefix):
            return None
        at = key.find(delimiter, len(prefix))
        return None if at < 0 else key[: at + len(delimiter)]

    def _scan_run(
        self,
        bucket: Bucket,
        prefix: bytes,
        delimiter: bytes,
        bounds: tuple[bytes, bytes | None],
        limit: int,
        entries: list[Entry],
    ) -> bytes | None:
        """One query's worth; returns where to go on, None at the end of the range."""
        low, high = bounds
        wanted = limit + 1 - len(entries)
        query = f"SELECT key, {_LISTED} FROM object WHERE bucket = ? AND key >= ?"  # noqa: S608 # nosec B608 # constants
        args: list[Any] = [bucket.id, low]
        if high is not None:
            query += " AND key < ?"
            args.append(high)
        args.append(wanted + 16)
        count = skipped = 0
        group = key = b""
        for row in self.database.execute(query + " ORDER BY key LIMIT ?", args):
            count += 1
            key = row[0]
            if group and key.startswith(group):
                skipped += 1
                if skipped > 16:
                    # Many keys under this prefix: seek behind it instead of reading them.
                    return successor(group)
                continue
            if len(entries) > limit:
                return None
            group = self._group(key, prefix, delimiter) or b""
            skipped = 0
            entries.append(Entry(group, None) if group else Entry(key, _record(row[1:])))
        if count < wanted + 16:
            return None
        return (successor(group) if group else None) or key + b"\0"
