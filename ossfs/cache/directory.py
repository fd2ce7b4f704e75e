"""The directory on disk that belongs to one bucket and prefix, and to one mount at a time.

Below `cache_dir` each (endpoint, bucket, prefix) has a directory of its own: private (0700), locked by
the mount that uses it, and marked with the version of its format.  What lies in it, and how, is the
matter of the modules that are given its path.

    CACHE_DIR/BUCKET-0123456789abcdef/
        format    "ossfs cache 1"
        lock      flock'ed while a mount runs; holds its pid, for messages

Threading: CacheDirectory is used from one thread, before the mount serves and after it has ended; the
functions are for any.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from types import TracebackType
from typing import Final, Self

from ossfs.errors import MountError
from ossfs.private import check_private

FORMAT: Final = 1
"""Goes up when something below the directory is laid out so that older versions would misread it."""
_WORDS: Final = "ossfs cache"


def directory_name(endpoint: str, bucket: str, prefix: str) -> str:
    """The name below cache_dir: for people the bucket, for certainty a digest of all three."""
    digest = hashlib.sha256("\0".join((endpoint, bucket, prefix)).encode()).hexdigest()
    return f"{bucket}-{digest[:16]}"


KEEP_FREE: Final = 1 << 30
KEEP_FREE_SHARE: Final = 20


class CacheDirectory:
    """The locked directory of one mount, at `path`; give it back with `close`.

    Raises MountError, of one line, when it cannot be used: another mount has it, it belongs to somebody
    else, its format is unknown, or the disk says no.
    """

    def __init__(self, cache_dir: str, *, endpoint: str, bucket: str, prefix: str) -> None:
        self.path = os.path.join(cache_dir, directory_name(endpoint, bucket, prefix))
        self._lock: int | None = None
        try:
            os.makedirs(cache_dir, mode=0o700, exist_ok=True)
            check_private(cache_dir, "cache_dir", shared=True)
            self._make_private()
            self._take_lock()
            self._check_format()
        except OSError as error:
            self.close()
            raise MountError(
                f"cache_dir {self.path}: {error.strerror}; accepted: a directory on a local disk that this "
                "user can write to"
            ) from error
        except BaseException:
            self.close()
            raise

    def _make_private(self) -> None:
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            pass
        found = os.lstat(self.path)
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if found.st_uid != os.geteuid():
            raise MountError(
                f"cache_dir {self.path} belongs to uid {found.st_uid}; accepted: a cache_dir of the user "
                "who mounts"
            )
        check_private(self.path, "cache_dir")  # what others may have put there would be believed
        if stat.S_IMODE(found.st_mode) != 0o700:
            os.chmod(self.path, 0o700)

    def _take_lock(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._lock = os.open(os.path.join(self.path, "lock"), flags, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip()
            raise MountError(
                f"cache_dir {self.path} is in use by another mount{f' (process {pid})' if pid else ''}; "
                "accepted: another cache_dir, or none"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _check_format(self) -> None:
        path = os.path.join(self.path, "format")
        try:
            with open(path, "rb") as file:
                text = file.read(100).decode("utf-8", "replace").strip()
        except FileNotFoundError:
            self._write_format(path)
            return
        if text != f"{_WORDS} {FORMAT}":
            raise MountError(
                f"cache_dir {self.path} has the format {text!r}, and this ossfs knows '{_WORDS} {FORMAT}'; "
                "accepted: the ossfs that made it, another cache_dir, or removing it when nothing is pending"
            )

    def _write_format(self, path: str) -> None:
        """Whole or not at all: half a mark would be an unknown format."""
        with open(path + ".new", "wb") as file:
            file.write(f"{_WORDS} {FORMAT}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(path + ".new", path)
        sync_directory(self.path)

    def close(self) -> None:
        """Let another mount have it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def free_space(path: str) -> int:
    """Bytes of the disk below *path* that we may still take."""
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


def left_to_others(path: str) -> int:
    """Bytes of that disk that the caches do not take: one GiB, or a twentieth of a small disk."""
    disk = os.statvfs(path)
    return min(KEEP_FREE, disk.f_blocks * disk.f_frsize // KEEP_FREE_SHARE)


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
