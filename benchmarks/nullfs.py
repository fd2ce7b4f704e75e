"""An empty pyfuse3 file system: one file, read from one buffer, written to nowhere.

    python -m benchmarks.nullfs MOUNTPOINT SIZE

It is tuned like a mount of ossfs, so what it reaches is what the kernel, libfuse and the event loop
leave for ossfs.  The file is opened without the page cache of an earlier open: each read is a request.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

import pyfuse3
import trio

from ossfs.fuse.kernel import tune

FILE = pyfuse3.ROOT_INODE + 1


class NullOperations(pyfuse3.Operations):
    """The least that open, read, write and stat need."""

    enable_writeback_cache = False

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        # What a read of ossfs returns is memory that a socket has filled, so pages are touched here too.
        self._data = memoryview(os.urandom(2 << 20))

    def _attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        found = pyfuse3.EntryAttributes()
        found.st_ino = inode
        found.st_mode = stat.S_IFDIR | 0o755 if inode == pyfuse3.ROOT_INODE else stat.S_IFREG | 0o644
        found.st_size = 0 if inode == pyfuse3.ROOT_INODE else self._size
        found.st_nlink = 1
        found.st_blksize = 1 << 20
        found.attr_timeout = found.entry_timeout = 60
        return found

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._attributes(inode)

    async def setattr(self, inode, attr, fields, fh, ctx) -> pyfuse3.EntryAttributes:  # type: ignore[no-untyped-def]
        return self._attributes(inode)

    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if name != b"file":
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._attributes(FILE)

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=FILE, keep_cache=False)

    async def read(self, fh: int, off: int, size: int) -> memoryview:  # type: ignore[override]
        return self._data[: max(0, min(size, self._size - off))]

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return len(buf)

    async def flush(self, fh: int) -> None:
        pass

    async def release(self, fh: int) -> None:
        pass


def main() -> None:
    """The program; ends when it is unmounted."""
    mountpoint, size = sys.argv[1], int(sys.argv[2])
    pyfuse3.init(NullOperations(size), mountpoint, {"fsname=null", "subtype=null"})

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, tune, mountpoint)
            await pyfuse3.main(min_tasks=4, max_tasks=1024)

    try:
        trio.run(serve)
    finally:
        pyfuse3.close(unmount=False)


if __name__ == "__main__":
    main()
