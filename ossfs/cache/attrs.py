"""What HEADs said of objects, remembered on disk from one mount to the next.

A row is good for exactly one (key, ETag, LastModified), as a listing shows it; the tree only hands in
what was at least two seconds old by the service's clock, since LastModified counts whole seconds.  The
headers themselves are kept, not what a mount made of them, so options such as `uid=` may change.

Losing rows costs requests and nothing else: they are written in batches, and a damaged database is set
aside, named in the log, and begun anew.

Threading: `recall` and `remember` belong to the trio thread; the database to one thread of its own.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Final

import trio

from ossfs.metrics import Metrics
from ossfs.store.base import ListedObject, ObjectHeaders, ObjectInfo

log = logging.getLogger(__name__)

ROWS: Final = 2_000_000
"""Kept at most, some 400 bytes each."""
BATCH: Final = 2_000
"""Rows written in one transaction."""
WAITING: Final = 50_000
"""Rows that may wait for the disk; more are not remembered."""
_TRIM_EVERY: Final = 50
"""Transactions between two looks at the count of rows, which is a scan."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS attrs (
    key TEXT PRIMARY KEY, etag TEXT NOT NULL, modified INTEGER NOT NULL, info TEXT NOT NULL
);
"""
_NAMES: Final = {field.name for field in fields(ObjectHeaders)}


class AttrStore:
    """The database of one mount, below its cache directory.  `close` writes what waits."""

    def __init__(self, directory: str, metrics: Metrics, *, rows: int = ROWS) -> None:
        self._path = os.path.join(directory, "attrs.db")
        self._metrics = metrics
        self._rows = rows
        self._jobs: queue.SimpleQueue[_Recall | tuple[str, str, int, str] | None] = queue.SimpleQueue()
        self._transactions = 0
        self._thread = threading.Thread(target=self._work, name="attrs", daemon=True)
        self._thread.start()

    async def recall(self, objects: Sequence[ListedObject]) -> list[ObjectInfo]:
        """What is remembered of these objects as they are listed; in no order."""
        asked = _Recall(objects)
        self._jobs.put(asked)
        await asked.done.wait()
        self._metrics.add("attrs.recalled", len(asked.found))
        return asked.found

    def remember(self, info: ObjectInfo) -> None:
        """Write it down soon."""
        if self._jobs.qsize() < WAITING:
            self._jobs.put((info.key, info.etag, info.last_modified, _encode(info)))

    def close(self) -> None:
        """Write what waits, and end.  Blocks."""
        self._jobs.put(None)
        self._thread.join()

    # -- the thread

    def _work(self) -> None:
        database = self._open()
        going = True
        while going:
            job = self._jobs.get()
            rows: list[tuple[str, str, int, str]] = []
            while job is not None and not isinstance(job, _Recall):
                rows.append(job)
                if len(rows) >= BATCH or self._jobs.empty():
                    break
                job = self._jobs.get()
            try:
                self._write(database, rows)
                if isinstance(job, _Recall):
                    job.found = self._find(database, job.objects)
            except sqlite3.Error as error:
                database = self._begin_anew(database, error)
            finally:
                if isinstance(job, _Recall):
                    job.answer()
            going = job is not None
        database.close()

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect(self._path)
        except sqlite3.Error as error:
            return self._begin_anew(None, error)

    def _connect(self, path: str) -> sqlite3.Connection:
        database = sqlite3.connect(path, isolation_level=None)
        try:
            # A power failure may cost the last transactions, never the database.
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
            database.executescript(_SCHEMA)
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _begin_anew(self, database: sqlite3.Connection | None, error: sqlite3.Error) -> sqlite3.Connection:
        """Set the database aside; without a disk, go on in memory."""
        if database is not None:
            database.close()
        aside = self._path + ".damaged"
        try:
            for ending in ("-wal", "-shm"):
                if os.path.exists(self._path + ending):
                    os.unlink(self._path + ending)
            os.replace(self._path, aside)
            made = self._connect(self._path)
        except (OSError, sqlite3.Error) as again:
            log.warning("remembered attributes %s: %s; none are kept on disk", self._path, again)
            return self._connect(":memory:")
        log.warning("remembered attributes %s: %s; set aside as %s, begun anew", self._path, error, aside)
        return made

    def _write(self, database: sqlite3.Connection, rows: Sequence[tuple[str, str, int, str]]) -> None:
        if not rows:
            return
        database.execute("BEGIN")
        # A new rowid each time: the oldest rowids are the least recently written.
        database.executemany("INSERT OR REPLACE INTO attrs VALUES (?, ?, ?, ?)", rows)
        self._transactions += 1
        if self._transactions % _TRIM_EVERY == 0:
            (count,) = database.execute("SELECT count(*) FROM attrs").fetchone()
            if count > self._rows:
                database.execute(
                    "DELETE FROM attrs WHERE rowid IN (SELECT rowid FROM attrs ORDER BY rowid LIMIT ?)",
                    (count - self._rows * 9 // 10,),
                )
        database.execute("COMMIT")

    def _find(self, database: sqlite3.Connection, objects: Sequence[ListedObject]) -> list[ObjectInfo]:
        found = []
        wanted = {obj.key: obj for obj in objects}
        keys = list(wanted)
        for start in range(0, len(keys), 500):  # SQLite's old limit of parameters is 999
            some = keys[start : start + 500]
            marks = ",".join("?" * len(some))
            # Only question marks are put in.
            question = f"SELECT key, etag, modified, info FROM attrs WHERE key IN ({marks})"  # noqa: S608 # nosec B608
            for key, etag, modified, text in database.execute(question, some):
                obj = wanted[key]
                if etag == obj.etag and modified == obj.last_modified:
                    info = _decode(obj, text)
                    if info is not None:
                        found.append(info)
        return found


class _Recall:
    """One question of the trio thread."""

    def __init__(self, objects: Sequence[ListedObject]) -> None:
        self.objects = objects
        self.found: list[ObjectInfo] = []
        self.done = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    def answer(self) -> None:
        """From the database's thread."""
        try:
            self._token.run_sync_soon(self.done.set)
        except trio.RunFinishedError:
            pass  # nobody asks any more


def _encode(info: ObjectInfo) -> str:
    headers = {name: value for name, value in asdict(info.headers).items() if value}
    row = {"headers": headers, "tags": info.tag_count, "crc": info.crc64, "date": info.server_date}
    if info.restore is not None:
        row["restore"] = info.restore
    return json.dumps(row, separators=(",", ":"))


def _decode(obj: ListedObject, text: str) -> ObjectInfo | None:
    """None for a row that an older or damaged database holds: it costs a HEAD."""
    try:
        row = json.loads(text)
        headers = row["headers"]
        if not set(headers) <= _NAMES or not all(
            isinstance(name, str) and isinstance(value, str)
            for name, value in headers.get("meta", {}).items()
        ):
            return None
        return ObjectInfo(
            obj.key,
            obj.size,
            obj.etag,
            obj.last_modified,
            int(row["date"]),
            crc64=row["crc"],
            object_type=obj.object_type,
            storage_class=obj.storage_class,
            headers=ObjectHeaders(**headers),
            tag_count=int(row["tags"]),
            restore=row.get("restore"),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
