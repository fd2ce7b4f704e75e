"""MD5 and CRC-64 of stored data that nobody has sent: ranges copied by the server.

Copied data is not written again, but its MD5 is wanted for the ETag, and only reading tells it. What was
computed once is remembered (blobs never change), so that one part copied many times is read once.
Threads: the memory is guarded by a lock; reading happens outside of it.
"""

from __future__ import annotations

import hashlib
import os

from ossfs.server.blobs import Extent
from ossfs.server.checksum import crc64
from ossfs.server.index import Bucket
from ossfs.server.model import Content, Service

_MAX_REMEMBERED = 4096
_MAX_EXTENTS = 16


def cut(extents: tuple[Extent, ...], offset: int, length: int) -> tuple[Extent, ...]:
    """The extents of a range."""
    result = []
    for blob, start, size in extents:
        if offset >= size:
            offset -= size
            continue
        count = min(size - offset, length)
        if not count:
            break
        result.append(Extent(blob, start + offset, count))
        offset = 0
        length -= count
    return tuple(result)


def join(extents: list[Extent], more: tuple[Extent, ...]) -> None:
    """Append, merging what is contiguous in one blob."""
    for extent in more:
        last = extents[-1] if extents else None
        if last is not None and last.blob == extent.blob and last.offset + last.length == extent.offset:
            extents[-1] = Extent(last.blob, last.offset, last.length + extent.length)
        else:
            extents.append(extent)


def content_digests(service: Service, extents: tuple[Extent, ...]) -> tuple[bytes, int]:
    """(MD5, CRC-64); the blobs must be referenced or pinned by the caller."""
    # Not for objects of very many pieces, whose description would be what fills the memory.
    remember = len(extents) <= _MAX_EXTENTS
    remembered = service.remembered_digests
    with service.digests_lock:
        known = remembered.get(extents) if remember else None
        if known is not None:
            remembered.move_to_end(extents)
            return known
    md5, crc = hashlib.md5(usedforsecurity=False), 0
    buffer = service.database.files.take_buffer()
    view = memoryview(buffer)
    try:
        length = sum(extent.length for extent in extents)
        for piece in Content(service, extents, ()).pieces(0, length):
            if isinstance(piece, bytes):
                md5.update(piece)
                crc = crc64(piece, crc)
                continue
            fd, offset, count = piece
            while count:
                got = os.preadv(fd, [view[: min(count, len(buffer))]], offset)
                if not got:
                    raise OSError("a blob file is shorter than the index says")
                md5.update(view[:got])
                crc = crc64(view[:got], crc)
                offset += got
                count -= got
    finally:
        service.database.files.give_buffer(buffer)
    result = (md5.digest(), crc)
    if not remember:
        return result
    with service.digests_lock:
        remembered[extents] = result
        if len(remembered) > _MAX_REMEMBERED:
            remembered.popitem(last=False)
    return result


def content_md5(service: Service, bucket: Bucket, key: bytes) -> bytes:
    """The MD5 of an object whose ETag is something else."""
    with service.database.lock:
        record = service.index.get_existing(bucket, key)
        pins = service.database.pin(record.extents)
    try:
        return content_digests(service, record.extents)[0]
    finally:
        service.database.unpin(pins)
