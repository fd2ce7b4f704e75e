"""What a dead mount would leave in the bucket, written down before it can be left there.

Listings of uploads carry no metadata, so which unfinished uploads are ours is known only from here.
Each mount appends to a file of its own in the state directory, JSON lines, and holds a lock on it
for its life: a file whose lock is free belongs to a dead mount, and the next mount of this host
sweeps what it names.  Other hosts' leftovers are not known here and are left alone.

Threading: `Journal` is used from the trio thread; a line is one write(2), and is not fsynced: what
a power failure forgets is an unfinished upload, never data.  `sweep` is async.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ossfs.errors import NotFound, PosixError, StoreError
from ossfs.fs.stored import put_back
from ossfs.private import is_ours
from ossfs.store.base import WRITE_ID, ObjectStore

log = logging.getLogger(__name__)

SUFFIX = ".journal"


class FileJournal:
    """Implements fs.ports.Journal.  Raises OSError when the directory cannot be used."""

    def __init__(self, directory: str, mount_id: str, bucket: str, endpoint: str) -> None:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self.path = os.path.join(directory, mount_id + SUFFIX)
        self._fd = os.open(
            self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise
        self._open: set[tuple[str, str]] = set()
        self._torn = False
        self._write({"do": "mount", "bucket": bucket, "endpoint": endpoint})

    def _write(self, line: dict[str, str], *, must: bool = False) -> None:
        """must: raise PosixError when it cannot be written, because data would hang on it."""
        data = json.dumps(line).encode() + b"\n"
        if self._torn:
            data = b"\n" + data  # or this line would be lost with the one before
        try:
            written = os.write(self._fd, data)
            self._torn = written < len(data)
            if self._torn:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            log.error("journal %s: %s", self.path, error.strerror)
            if must:
                code = error.errno or errno.EIO
                raise PosixError(code, f"journal {self.path}", level=logging.ERROR) from error

    def upload_started(self, key: str, upload_id: str) -> None:
        """A multipart upload exists."""
        self._open.add((key, upload_id))
        self._write({"do": "upload", "key": key, "id": upload_id})

    def upload_ended(self, key: str, upload_id: str) -> None:
        """It was completed or aborted."""
        self._open.discard((key, upload_id))
        self._write({"do": "ended", "key": key, "id": upload_id})

    def hidden_created(self, key: str, *, restore_to: str | None = None, write_id: str | None = None) -> None:
        """A hidden object is about to be made.

        With restore_to it is the only copy of what that key held, for as long as the key holds an
        object with this write_id; that is not to be put there when this raises PosixError.
        """
        self._open.add((key, ""))
        line = {"do": "hidden", "key": key}
        if restore_to is not None and write_id is not None:
            line["restore_to"] = restore_to
            line["write_id"] = write_id
        self._write(line, must=restore_to is not None)

    def hidden_deleted(self, key: str) -> None:
        """It is gone."""
        self._open.discard((key, ""))
        self._write({"do": "deleted", "key": key})

    def close(self) -> None:
        """The mount ended in order; the file goes when it names nothing any more."""
        if not self._open:
            _remove(self.path)
        os.close(self._fd)


@dataclass(slots=True)
class Leftovers:
    """What one dead mount's journal still names."""

    path: str
    bucket: str = ""
    endpoint: str = ""
    uploads: set[tuple[str, str]] = field(default_factory=set)
    hidden: dict[str, tuple[str | None, set[str]]] = field(default_factory=dict)
    """Hidden key to the key that it is the old version of, and the write ids of what replaced that."""


def read(path: str) -> Leftovers:
    """What a journal names.  A damaged line (a torn write) is passed over."""
    found = Leftovers(path)
    with open(path, "rb") as file:
        for raw in file:
            if raw == b"\n":
                continue  # after a torn line
            try:
                line = json.loads(raw)
                if not all(isinstance(value, str) for value in line.values()):
                    raise TypeError("no line of ours")
                _take(line, found)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                log.warning("%s: a damaged line is passed over", path)
    return found


def _take(line: dict[str, str], found: Leftovers) -> None:
    match line["do"]:
        case "mount":
            found.bucket, found.endpoint = line["bucket"], line["endpoint"]
        case "upload":
            found.uploads.add((line["key"], line["id"]))
        case "ended":
            found.uploads.discard((line["key"], line["id"]))
        case "hidden":
            ids = found.hidden.get(line["key"], (None, set()))[1]
            found.hidden[line["key"]] = line.get("restore_to"), ids
            if "write_id" in line:
                ids.add(line["write_id"])
        case "deleted":
            found.hidden.pop(line["key"], None)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError as error:
        log.debug("%s: %s", path, error.strerror)  # another mount has swept it


async def sweep(
    store: ObjectStore,
    directory: str,
    bucket: str,
    endpoint: str,
    *,
    older_than: float = 0.0,
    dry_run: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> int:
    """Clean up after the dead mounts of this host that had this bucket.  Returns what was removed.

    older_than: seconds since a dead mount wrote its journal last; younger ones are left alone.
    dry_run: say what would be done, and do nothing.  report gets one line for each thing.
    """
    removed = 0
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return 0
    for name in names:
        if not name.endswith(SUFFIX):
            continue
        path = os.path.join(directory, name)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        try:
            if not is_ours(fd):
                log.warning("%s is not of this user: nothing in it is believed", path)
                continue
            left = read(path)
            young = time.time() - os.fstat(fd).st_mtime < older_than
            if (left.bucket, left.endpoint) == (bucket, endpoint) and not young:
                if dry_run:
                    removed += _tell(left, report)
                else:
                    removed += await _clean(store, left, report)
                    _remove(path)
        except FileNotFoundError:
            pass  # another mount of this host was faster
        except StoreError as error:
            log.warning("%s stays for the next mount: %s", path, error)
        finally:
            os.close(fd)
    return removed


def _tell(left: Leftovers, report: Callable[[str], None]) -> int:
    for key, upload_id in sorted(left.uploads):
        report(f"would abort upload {upload_id} of {key}")
    for key, (restore_to, _) in sorted(left.hidden.items()):
        report(f"would delete {key}" + (f", or put it back as {restore_to}" if restore_to else ""))
    return len(left.uploads) + len(left.hidden)


async def _clean(store: ObjectStore, left: Leftovers, report: Callable[[str], None]) -> int:
    removed = 0
    for key, upload_id in sorted(left.uploads):
        await store.abort(key, upload_id)
        log.info("aborted an upload of %s that a dead mount left", key)
        report(f"aborted upload {upload_id} of {key}")
        removed += 1
    for key, (restore_to, write_ids) in sorted(left.hidden.items()):
        if restore_to is not None and await _unfinished(store, restore_to, write_ids):
            try:
                await put_back(store, key, restore_to)
            except NotFound:
                log.error("%s: a dead mount had not finished it, and its old version is gone", restore_to)
            else:
                log.warning("%s: its old version is put back; a dead mount had not finished it", restore_to)
                report(f"put the old version of {restore_to} back")
        await store.delete(key)
        report(f"deleted {key}")
        removed += 1
    return removed


async def _unfinished(store: ObjectStore, key: str, write_ids: set[str]) -> bool:
    """Does the key hold what the dead mount had put there unfinished, and nothing later?"""
    try:
        info = await store.head(key)
    except NotFound:
        return False
    return info.headers.meta.get(WRITE_ID) in write_ids
