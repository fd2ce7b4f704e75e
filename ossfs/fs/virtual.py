"""Virtual extended attributes, user.oss.*: what the service knows of an object, read-only.

Threading: trio thread only.

listxattr(2) does not show them, so `cp -a` and `rsync -X` copy none.  They speak of the object that is in
the bucket: what has none (a file that was not committed yet, or has bytes that the bucket lacks, a
directory without a marker) answers ENODATA, since a question must not publish a half-written file.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from ossfs.errors import NotFound, PosixError
from ossfs.fs.context import Context
from ossfs.fs.inodes import FileNode, Node
from ossfs.store.base import ObjectInfo

PREFIX = b"user.oss."
"""Kept for virtual attributes: what is below it cannot be set."""
URL_SECONDS = 1200
"""For which a user.oss.url is valid."""


def is_archived(storage_class: str) -> bool:
    """Archive, ColdArchive and DeepColdArchive objects must be restored before they are read."""
    return "Archive" in storage_class


def is_restored(restore: str | None) -> bool:
    """Does this x-oss-restore header say that there is a copy to read?"""
    return 'ongoing-request="false"' in (restore or "")


def restore_state(info: ObjectInfo) -> str | None:
    """The x-oss-restore header of an archived object, or why it cannot be read; None for others."""
    if not is_archived(info.storage_class):
        return None
    return info.restore or f"not restored: storage class {info.storage_class}, reading is EIO until it is"


_OF_OBJECT: dict[bytes, Callable[[ObjectInfo], str | None]] = {
    PREFIX + b"etag": lambda info: info.etag,
    PREFIX + b"crc64": lambda info: None if info.crc64 is None else str(info.crc64),
    PREFIX + b"storage-class": lambda info: info.storage_class,
    PREFIX + b"type": lambda info: info.object_type,
    PREFIX + b"restore": restore_state,
}
_URL = PREFIX + b"url"
NAMES = frozenset({*_OF_OBJECT, _URL})


async def value_of(ctx: Context, node: Node, name: bytes) -> bytes:
    """The value of one of NAMES, asked of the bucket now (one HEAD).  Raises ENODATA."""
    if node.detached:
        raise PosixError(errno.ENODATA, "the file has no name any more")
    writer = node.writer if isinstance(node, FileNode) else None
    if writer is not None:
        if writer.data_dirty or writer.uncommitted:
            raise PosixError(errno.ENODATA, "the bucket does not have these bytes yet")
        await writer.commit()  # only times wait there: what stands there afterwards stays
    key = ctx.inodes.key(node)
    if not key:
        raise PosixError(errno.ENODATA, "the root of the bucket is no object")
    try:
        info = await ctx.store.head(key)
    except NotFound:
        raise PosixError(errno.ENODATA, f"there is no object {key}") from None
    if name == _URL:
        return (await ctx.store.sign_url("GET", key, URL_SECONDS)).encode()
    value = _OF_OBJECT[name](info)
    if value is None:
        raise PosixError(errno.ENODATA)
    return value.encode()
