"""What fs needs of the outside, and the settings that it is given.

The protocols are implemented in ossfs.fuse (the kernel), ossfs.journal (the state directory) and
ossfs.cache (the disk), and by plain objects in tests.

Threading: everything here is called from the trio thread and returns at once, unless it is async; an
implementation that has to wait hands the work to a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ossfs import limits
from ossfs.store.base import Buffer, ListedObject, ObjectInfo, Progress, StoredAs


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call: as in the FUSE request's context."""

    uid: int
    gid: int
    umask: int = 0o022


@dataclass(frozen=True, slots=True)
class FsConfig:
    """Settings of one mount.  Times in seconds, sizes in bytes.

    prefix: "" or "some/dir/" (with the slash): the part of the bucket that is mounted.
    mount_id: random hex; names the hidden keys of this mount.
    """

    prefix: str = ""
    mount_id: str = "0000"
    hostname: str = "localhost"
    ttl: float = 5.0
    negative_ttl: float = 1.0
    chunk_size: int = limits.DEFAULT_CHUNK_SIZE
    memory: int = 256 * limits.MIB
    uid: int = 0
    gid: int = 0
    file_mode: int = 0o644
    dir_mode: int = 0o755
    read_only: bool = False
    attrs_list: bool = False
    """What listings say is all that is shown; no HEAD for attributes."""
    ignore_attrs: bool = False
    """With attrs_list: chmod, chown and utimes succeed and do nothing."""
    exact_types: bool = False
    """readdir tells links and special files from files, at a HEAD for each small object."""
    flush_always: bool = False
    delete_sync: bool = False
    """unlink waits for its DELETE, instead of going with others within a second."""
    excl_strict: bool = False
    op_timeout: float = 60.0
    versioned: bool = False
    """forbid-overwrite is ignored by the service: see BucketInfo.versioning."""
    connections: int = 64
    staging_dir: str | None = None
    """Where bytes go when memory is short; None: nowhere."""
    written: StoredAs = field(default_factory=StoredAs)
    """How what is written is kept; None: as the object was before, or as the bucket says."""
    keep_acl: bool = False
    """Ask for an object's own ACL before it is copied or replaced, and send it along."""
    min_part: int = limits.MIN_PART_SIZE
    """Lower only against a server that was told the same."""


class Kernel(Protocol):
    """The kernel's caches.  Both calls queue the work for a thread and return."""

    def invalidate_inode(self, ino: int, *, attributes_only: bool = False) -> None: ...

    def invalidate_entry(self, parent: int, name: bytes) -> None: ...


class Journal(Protocol):
    """What a dead mount leaves behind, written down before it can be left behind."""

    def upload_started(self, key: str, upload_id: str) -> None: ...

    def upload_ended(self, key: str, upload_id: str) -> None: ...

    def hidden_created(
        self, key: str, *, restore_to: str | None = None, write_id: str | None = None
    ) -> None: ...

    def hidden_deleted(self, key: str) -> None: ...


class BlockCache(Protocol):
    """Bytes of object versions on the local disk.  Nothing here fails: what cannot be done is a miss.

    A version is (key, ETag); one without an ETag is never cached.
    """

    async def read(
        self, key: str, etag: str, start: int, view: memoryview, progress: Progress | None = None
    ) -> int:
        """Fill the beginning of *view*; how many bytes, all of them checked."""
        ...

    async def holds(self, key: str, etag: str, length: int) -> bool:
        """Are the first *length* bytes there, as far as is known?"""
        ...

    def keep(self, key: str, etag: str, start: int, data: bytes, done: Callable[[], None]) -> bool:
        """Write *data* behind its reader; done() when its memory is free.  False: not taken."""
        ...

    async def forget(self, key: str, etag: str) -> None:
        """Drop all of a version."""
        ...


class AttrStore(Protocol):
    """What HEADs said, on the local disk.  Nothing here fails: what cannot be done is a miss."""

    async def recall(self, objects: Sequence[ListedObject]) -> list[ObjectInfo]:
        """What is remembered of exactly these versions."""
        ...

    def remember(self, info: ObjectInfo) -> None:
        """Keep it.  Only for what had settled: see meta.SETTLED."""
        ...


class WriteBack(Protocol):
    """Files that are safe on the local disk before the bucket has them."""

    @property
    def pending(self) -> tuple[int, int]:
        """(files, bytes) that are there and not in the bucket."""
        ...

    @property
    def crowded(self) -> bool:
        """Is more than half of its room taken?"""
        ...

    @property
    def full(self) -> bool:
        """Was there no room for the last one?"""
        ...

    @property
    def set_aside(self) -> int:
        """Damaged entries of earlier mounts that nobody has decided on yet."""
        ...

    async def put(self, meta: dict[str, Any], body: Sequence[Buffer]) -> int | None:
        """Make a file safe; its number, or None when it has to go to the bucket at once."""
        ...

    async def done(self, number: int) -> None:
        """A crash is not to bring it back."""
        ...


class NoKernel:
    """For tests without a mount."""

    def invalidate_inode(self, ino: int, *, attributes_only: bool = False) -> None:
        pass

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        pass


class NoJournal:
    """For tests, and for mounts without a state directory."""

    def upload_started(self, key: str, upload_id: str) -> None:
        pass

    def upload_ended(self, key: str, upload_id: str) -> None:
        pass

    def hidden_created(self, key: str, *, restore_to: str | None = None, write_id: str | None = None) -> None:
        pass

    def hidden_deleted(self, key: str) -> None:
        pass
