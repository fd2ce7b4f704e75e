"""The mounts of this host: who is mounted where, who still drains, and who died.

Threading: all functions block on local files only and may be called from any thread; a Registration
belongs to the process that made it.

Each mount keeps three files in the runtime directory, named by its random id: `ID.json` tells what it
is, `ID.sock` is its control socket, and `ID.lock` is held by flock for the life of the process.  The
kernel drops the lock whatever the process dies of, so a lock that is free is the one sign of a dead
mount: process ids are used again, and files stay.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import glob
import json
import logging
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

from ossfs.errors import MountError
from ossfs.mountpoint import FSTYPE, mount_at, read_mountinfo, resolve_mountpoint

log = logging.getLogger(__name__)

State: TypeAlias = Literal["starting", "mounted", "draining", "dead"]
"""The file never says "dead": that is what its lock says."""

PREDECESSOR_TIMEOUT: Final = 600.0
"""Seconds that a new mount waits for a draining one of the same bucket, unless told otherwise."""

_POLL: Final = 0.05
_MAX_RECORD: Final = 64 * 1024
_RUNTIME_DIR_VARIABLE: Final = "OSSFS_RUNTIME_DIR"
_TEMPORARY: Final = "/tmp/ossfs-{}"  # noqa: S108 # nosec B108 # its owner is checked wherever it is used


@dataclass(frozen=True, slots=True)
class MountRecord:
    """What `ID.json` says of one mount.  device: MAJ:MIN of the mount, "" until it is mounted."""

    mount_id: str
    pid: int
    bucket: str
    prefix: str
    endpoint: str
    mountpoint: str
    state: State
    socket: str
    device: str = ""
    started: float = 0.0

    @property
    def source(self) -> str:
        """`bucket` or `bucket:/prefix`."""
        return f"{self.bucket}:/{self.prefix}" if self.prefix else self.bucket


_RECORD_TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    **dict.fromkeys("mount_id bucket prefix endpoint mountpoint state socket device".split(), str),
    "pid": int,
    "started": (int, float),
}


def runtime_directory() -> str:
    """Where this user's state files and sockets are; made when missing, and nobody else's for certain."""
    directory = os.environ.get(_RUNTIME_DIR_VARIABLE, "")
    uid = os.geteuid()
    if not directory:
        base = os.environ.get("XDG_RUNTIME_DIR", "")
        if uid == 0:
            directory = "/run/ossfs"
        elif base.startswith("/") and os.path.isdir(base):
            directory = os.path.join(base, "ossfs")
        else:
            directory = _TEMPORARY.format(uid)
    try:
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            pass
        status = os.lstat(directory)
    except OSError as error:
        raise MountError(
            f"the runtime directory {directory} cannot be made: {error.strerror}; make it, or name another "
            f"one in {_RUNTIME_DIR_VARIABLE}"
        ) from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid or status.st_mode & 0o022:
        raise MountError(
            f"the runtime directory {directory} must be a directory of yours that nobody else can write to; "
            f"remove it, or name another one in {_RUNTIME_DIR_VARIABLE}"
        )
    return directory


class Registration:
    """This process's entry in the registry, a context manager that removes it.

    It is also removed, in effect, by the death of the process.
    """

    def __init__(self, record: MountRecord, lock_fd: int, directory: str) -> None:
        self._record = record
        self._lock_fd = lock_fd
        self._directory = directory

    @property
    def record(self) -> MountRecord:
        """What others read of this mount."""
        return self._record

    @property
    def mount_id(self) -> str:
        """The random id, which also names hidden keys and journal entries."""
        return self._record.mount_id

    @property
    def socket(self) -> str:
        """Where the control socket of this mount is to be."""
        return self._record.socket

    def set_state(self, state: State) -> None:
        """Tell the others; "mounted" also notes which device the mount got."""
        device = self._record.device
        if state == "mounted":
            mount = mount_at(self._record.mountpoint)
            if mount is not None and mount.fstype == FSTYPE:
                device = mount.device
        self._record = dataclasses.replace(self._record, state=state, device=device)
        _write_record(self._directory, self._record)

    def close(self) -> None:
        """Leave the registry.  Harmless when it was done already."""
        if self._lock_fd < 0:
            return
        _remove_files(self._directory, self.mount_id)
        os.close(self._lock_fd)
        self._lock_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Registry:
    """The mounts that are registered in one runtime directory, the user's own by default.

    owner: whose directory it is.  Another user's is only read, and what it says is not believed further than
    it has to be: he can put anything there, and swap the directory for a link at any moment.
    """

    def __init__(self, directory: str | None = None, *, owner: int | None = None) -> None:
        self.directory = runtime_directory() if directory is None else directory
        self._owner = os.geteuid() if owner is None else owner

    def register(
        self, *, bucket: str, prefix: str, endpoint: str, mountpoint: str, mount_id: str | None = None
    ) -> Registration:
        """Enter a mount that is starting.  To be called in the process that will serve it."""
        mount_id = mount_id or secrets.token_hex(8)
        record = MountRecord(
            mount_id=mount_id,
            pid=os.getpid(),
            bucket=bucket,
            prefix=prefix,
            endpoint=endpoint,
            mountpoint=mountpoint,
            state="starting",
            socket=os.path.join(self.directory, f"{mount_id}.sock"),
            started=time.time(),
        )
        # The lock file gets its name only once it is locked, so that a free one always means a dead mount.
        lock = os.path.join(self.directory, f"{mount_id}.lock")
        unnamed = f"{lock}.tmp"
        lock_fd = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(unnamed, lock)
            _write_record(self.directory, record)
        except BaseException:
            os.close(lock_fd)
            raise
        return Registration(record, lock_fd, self.directory)

    def mounts(self) -> list[MountRecord]:
        """The live mounts, oldest first.  What dead ones left behind is removed on the way."""
        return self._look()[0]

    def dead_mounts(self) -> list[MountRecord]:
        """Mounts whose processes have ended and whose mount points are still taken, oldest first."""
        return self._look()[1]

    def _look(self) -> tuple[list[MountRecord], list[MountRecord]]:
        """The live ones and the dead ones.

        The files of a dead one are removed once its mount is gone: until then somebody may want to know
        what that was.
        """
        alive: list[MountRecord] = []
        dead: list[MountRecord] = []
        for mount_id in self._ids():
            lives = self.is_alive(mount_id)
            record = _read_record(self.directory, mount_id, self._owner)
            if lives and record is not None:
                alive.append(record)
            elif not lives and record is not None and _is_there(record):
                dead.append(dataclasses.replace(record, state="dead"))
            elif not lives and self._owner == os.geteuid():
                _remove_files(self.directory, mount_id)
        # The kernel uses the numbers of devices again: what a live one has is not a dead one's.
        taken = {(record.mountpoint, record.device) for record in alive}
        dead = [record for record in dead if (record.mountpoint, record.device) not in taken]
        for records in (alive, dead):
            records.sort(key=lambda record: (record.started, record.mount_id))
        return alive, dead

    def is_alive(self, mount_id: str) -> bool:
        """Does the process of that mount still run?"""
        path = os.path.join(self.directory, f"{mount_id}.lock")
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):
                return False
            raise
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who ask are not in each other's way
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def find_by_mountpoint(self, path: str) -> MountRecord | None:
        """The live mount at *path*: the youngest that is mounted there, else the youngest that is not yet or
        no more (it drains)."""
        place = resolve_mountpoint(path)
        here = [record for record in self.mounts() if record.mountpoint == place]
        mount = mount_at(place)
        on_top = [record for record in here if mount is not None and record.device == mount.device]
        candidates = on_top or here
        return candidates[-1] if candidates else None

    def predecessors(self, bucket: str, prefix: str, endpoint: str) -> list[MountRecord]:
        """Live mounts of the same objects that are no longer mounted: what they still upload must come first.

        umount(8) returns before the uploads are done, so a record may say "mounted" of a mount that is not.
        This process's own mount is none of them.
        """
        records = self.mounts()
        same = [
            record
            for record in records
            if (record.bucket, record.prefix, record.endpoint) == (bucket, prefix, endpoint)
            and record.pid != os.getpid()
        ]
        if not same:
            return []
        # The kernel gives the device number of a mount that is gone to the next one: of two live records with
        # the same number and place, only the younger can be the one that is mounted.
        owners = {(record.device, record.mountpoint): record.mount_id for record in records if record.device}
        mounted = {
            owners.get((mount.device, mount.mountpoint))
            for mount in read_mountinfo()
            if mount.fstype == FSTYPE
        }
        return [
            record
            for record in same
            if record.state == "draining" or (record.state == "mounted" and record.mount_id not in mounted)
        ]

    def wait_for_predecessors(
        self,
        bucket: str,
        prefix: str,
        endpoint: str,
        timeout: float = PREDECESSOR_TIMEOUT,
        report: Callable[[str], None] = lambda line: None,
    ) -> list[MountRecord]:
        """Wait until there are none, or *timeout* seconds have passed; the ones that are left.

        Blocking: for the process that is going to mount, before it starts its loop.  *report* gets one line
        for each mount that is waited for.
        """
        deadline = time.monotonic() + timeout
        for record in self.predecessors(bucket, prefix, endpoint):
            report(
                f"waiting for an earlier mount of {record.source} (process {record.pid}), which still uploads"
            )
            self.wait_gone(record, max(0.0, deadline - time.monotonic()))
        return self.predecessors(bucket, prefix, endpoint)

    def wait_gone(self, record: MountRecord, timeout: float) -> bool:
        """Wait until the process of *record* has ended; False when it had not after *timeout* seconds."""
        deadline = time.monotonic() + timeout
        while self.is_alive(record.mount_id):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            # A blocking flock cannot be given a time limit, and the state of a lock is nothing to poll(2) on.
            time.sleep(min(_POLL, left))
        return True

    def _ids(self) -> Iterable[str]:
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        return sorted(name.removesuffix(".lock") for name in names if name.endswith(".lock"))


def all_registries() -> list[Registry]:
    """The user's own registry, and for root those of all users."""
    registries = [Registry()]
    if os.geteuid() == 0:
        for pattern in ("/run/user/{}/ossfs", _TEMPORARY):
            places = sorted(glob.glob(pattern.format("*")))
            for path in places:
                owner = _owner_of(path, pattern)
                if owner is not None:
                    registries.append(Registry(path, owner=owner))
    return registries


def _owner_of(path: str, pattern: str) -> int | None:
    """The user after whom a place is named, if it is his.  In /tmp, anybody may make any name."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    is_his = stat.S_ISDIR(status.st_mode) and path == pattern.format(status.st_uid)
    return status.st_uid if is_his else None


def _write_record(directory: str, record: MountRecord) -> None:
    """Replace the record whole: a reader sees the old one or the new one."""
    path = os.path.join(directory, f"{record.mount_id}.json")
    with open(f"{path}.tmp", "w", encoding="utf-8") as file:
        json.dump(dataclasses.asdict(record), file)
    os.replace(f"{path}.tmp", path)


def _read_record(directory: str, mount_id: str, owner: int) -> MountRecord | None:
    """What the file says, or None when it is not there, not yet there, of another version's form, or not
    the owner's own ordinary file: to open a pipe would wait for ever, and a link may lead anywhere."""
    try:
        fd = os.open(
            os.path.join(directory, f"{mount_id}.json"),
            os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK,
        )
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != owner:
                raise ValueError("it is not an ordinary file of the owner's")
            record = MountRecord(**json.loads(file.read(_MAX_RECORD)))
        if not all(isinstance(getattr(record, name), kind) for name, kind in _RECORD_TYPES.items()):
            raise ValueError("its values are of other types")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        log.warning("the state file of mount %s cannot be read: %s", mount_id, error)
        return None
    # Nobody is sent to another socket, or another mount's files, by what a file says.
    return dataclasses.replace(record, mount_id=mount_id, socket=os.path.join(directory, f"{mount_id}.sock"))


def _is_there(record: MountRecord) -> bool:
    """Is the mount that *record* tells of still in this host's table of mounts?"""
    wanted = (record.mountpoint, record.device, FSTYPE)
    return any((mount.mountpoint, mount.device, mount.fstype) == wanted for mount in read_mountinfo())


def _remove_files(directory: str, mount_id: str) -> None:
    # The lock file last: while it is there, somebody will try again.
    for suffix in ("sock", "json.tmp", "json", "lock"):
        try:
            os.unlink(os.path.join(directory, f"{mount_id}.{suffix}"))
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            log.warning("what a dead mount left cannot be removed: %s", error)
