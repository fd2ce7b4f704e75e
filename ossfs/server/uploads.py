"""Multipart uploads and their parts in the index.

Threads: as in index.py, the database's lock is taken by every method.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ossfs.server.blobs import Extent
from ossfs.server.database import Database, pack_crc, pack_extents, unpack_crc, unpack_extents
from ossfs.server.errors import OssError
from ossfs.server.index import Bucket, Index, Props, successor


@dataclass(slots=True)
class Upload:
    """An upload that is neither completed nor aborted."""

    id: str
    key: bytes
    initiated: int
    storage_class: str
    props: Props
    sequential: bool


@dataclass(slots=True)
class Part:
    """One part of it."""

    number: int
    size: int
    mtime: int
    etag: str
    crc: int
    extents: tuple[Extent, ...]


def _upload(row: Sequence[Any]) -> Upload:
    return Upload(row[0], row[1], row[2], row[3], Props.loads(row[4]), bool(row[5]))


class Uploads:
    """The open uploads of all buckets."""

    def __init__(self, database: Database, index: Index) -> None:
        self._database = database
        self._index = index

    def count(self, bucket: Bucket | None = None) -> int:
        """Open uploads."""
        with self._database.lock:
            if bucket is None:
                row = self._database.execute("SELECT count(*) FROM upload").fetchone()
            else:
                query = "SELECT count(*) FROM upload WHERE bucket = ?"
                row = self._database.execute(query, (bucket.id,)).fetchone()
        count: int = row[0]
        return count

    def part_totals(self, bucket: Bucket) -> tuple[int, int]:
        """(parts, their bytes) of a bucket."""
        with self._database.lock:
            row = self._database.execute(
                "SELECT count(*), coalesce(sum(size), 0) FROM part JOIN upload ON upload.id = part.upload "
                "WHERE upload.bucket = ?",
                (bucket.id,),
            ).fetchone()
        return row[0], row[1]

    def create(
        self, bucket: Bucket, key: bytes, now: int, storage_class: str, props: Props, sequential: bool
    ) -> str:
        """Begin one; its id."""
        upload_id = secrets.token_hex(16).upper()
        with self._database.transaction():
            self._index.check_alive(bucket)
            self._database.execute(
                "INSERT INTO upload(id, bucket, key, initiated, class, props, sequential) "
                "VALUES(?, ?, ?, ?, ?, ?, ?)",
                (upload_id, bucket.id, key, now, storage_class, props.dumps(), int(sequential)),
            )
        return upload_id

    def get(self, bucket: Bucket, key: bytes, upload_id: str) -> Upload:
        """The upload, or NoSuchUpload."""
        with self._database.lock:
            rows = self._database.execute(
                "SELECT id, key, initiated, class, props, sequential FROM upload "
                "WHERE id = ? AND bucket = ? AND key = ?",
                (upload_id, bucket.id, key),
            ).fetchall()
        if not rows:
            raise OssError("NoSuchUpload", UploadId=upload_id)
        return _upload(rows[0])

    def put_part(self, upload: Upload, part: Part) -> None:
        """Store or replace a part. Within a transaction, after `get`."""
        execute = self._database.execute
        args = (upload.id, part.number)
        old = execute("SELECT extents FROM part WHERE upload = ? AND number = ?", args).fetchall()
        if upload.sequential and not old:
            last = execute("SELECT max(number) FROM part WHERE upload = ?", (upload.id,)).fetchone()[0] or 0
            if part.number != last + 1:
                raise OssError("PartNotSequential")
        self._database.retain(part.extents)
        execute(
            "INSERT OR REPLACE INTO part(upload, number, size, mtime, etag, crc, extents) "
            "VALUES(?, ?, ?, ?, ?, ?, ?)",
            (
                upload.id,
                part.number,
                part.size,
                part.mtime,
                part.etag,
                pack_crc(part.crc),
                pack_extents(part.extents),
            ),
        )
        if old:
            self._database.release(unpack_extents(old[0][0]))

    def parts(self, upload: Upload, after: int = 0, limit: int = -1) -> list[Part]:
        """Parts with a number above `after`, ascending."""
        with self._database.lock:
            rows = self._database.execute(
                "SELECT number, size, mtime, etag, crc, extents FROM part "
                "WHERE upload = ? AND number > ? ORDER BY number LIMIT ?",
                (upload.id, after, limit),
            ).fetchall()
        return [
            Part(number, size, mtime, etag, unpack_crc(crc), unpack_extents(extents))
            for number, size, mtime, etag, crc, extents in rows
        ]

    def remove(self, upload: Upload) -> None:
        """The upload and the parts' references go. Within a transaction."""
        for part in self.parts(upload):
            self._database.release(part.extents)
        self._database.execute("DELETE FROM part WHERE upload = ?", (upload.id,))
        self._database.execute("DELETE FROM upload WHERE id = ?", (upload.id,))

    def scan(
        self,
        bucket: Bucket,
        prefix: bytes,
        delimiter: bytes,
        marker: tuple[bytes, str],
        limit: int,
    ) -> tuple[list[tuple[bytes, Upload | None]], bool]:
        """Uploads and common prefixes (None) behind (key, upload id); whether there is more.

        An empty upload id in the marker skips all uploads of the marker's key.
        """
        key_marker, id_marker = marker
        query = (
            "SELECT id, key, initiated, class, props, sequential FROM upload WHERE bucket = ? AND key >= ?"
        )
        args: list[Any] = [bucket.id, prefix]
        high = successor(prefix) if prefix else None
        if high is not None:
            query += " AND key < ?"
            args.append(high)
        if key_marker and id_marker:
            query += " AND (key, id) > (?, ?)"
            args += [key_marker, id_marker]
        elif key_marker:
            query += " AND key > ?"
            args.append(key_marker)
        found: list[tuple[bytes, Upload | None]] = []
        with self._database.lock:
            for row in self._database.execute(query + " ORDER BY key, id", args):
                key: bytes = row[1]
                at = key.find(delimiter, len(prefix)) if delimiter else -1
                if at >= 0:
                    group = key[: at + len(delimiter)]
                    if group == key_marker or (found and found[-1] == (group, None)):
                        continue
                    found.append((group, None))
                else:
                    found.append((key, _upload(row)))
                if len(found) > limit:
                    return found[:limit], True
        return found, False
