"""pyfuse3's operations: decode, call the tree, encode.  No policy.

Threading: trio thread only.  Every operation runs under the guard (guard.py); `forget` has no answer
and must not raise, so it calls nothing that could.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import Any

import pyfuse3

from ossfs.errors import PosixError
from ossfs.fs.ports import Caller
from ossfs.fs.stats import Stat
from ossfs.fs.tree import SetAttr, Tree
from ossfs.fuse.guard import Guard, guarded

BLOCK_SIZE = 1 << 20
"""st_blksize: what cp and cat use for a buffer; the largest request that FUSE sends."""
STATFS_BLOCK = 4096


class Operations(pyfuse3.Operations):
    """One mounted tree."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, tree: Tree, guard: Guard) -> None:
        super().__init__()
        self.tree = tree
        self.guard = guard

    def about(self, first: str, arguments: tuple[Any, ...]) -> str:
        """See Guarded."""
        if first == "fh":
            return self.tree.path_of_handle(arguments[0])
        if first == "inode":
            return self.tree.path_of(arguments[0])
        if first.startswith("parent_inode"):
            return self.tree.path_of(arguments[0], os.fsdecode(arguments[1]))
        return ""

    # -- names

    @guarded
    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return entry(await self.tree.lookup(parent_inode, name))

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for ino, count in inode_list:
            self.tree.forget(ino, count)

    @guarded
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return entry(await self.tree.getattr(inode))

    @guarded
    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        change = SetAttr(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            ctime_ns=attr.st_ctime_ns if fields.update_ctime else None,
        )
        return entry(await self.tree.setattr(inode, change, fh))

    @guarded
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        return await self.tree.readlink(inode)

    @guarded
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return entry(await self.tree.mknod(parent_inode, name, mode, rdev, caller(ctx)))

    @guarded
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return entry(await self.tree.mkdir(parent_inode, name, mode, caller(ctx)))

    @guarded
    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self.tree.unlink(parent_inode, name)

    @guarded
    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self.tree.rmdir(parent_inode, name)

    @guarded
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return entry(await self.tree.symlink(parent_inode, name, target, caller(ctx)))

    @guarded
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        raise PosixError(errno.EPERM, "an object has one name: no hard links")

    @guarded
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        if flags & ~pyfuse3.RENAME_NOREPLACE:
            raise PosixError(errno.EINVAL, "two names cannot be exchanged in one step")
        await self.tree.rename(
            parent_inode_old,
            name_old,
            parent_inode_new,
            name_new,
            no_replace=bool(flags & pyfuse3.RENAME_NOREPLACE),
        )

    # -- extended attributes

    @guarded
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self.tree.setxattr(inode, name, value)

    @guarded
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        return await self.tree.getxattr(inode, name)

    @guarded
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        return await self.tree.listxattr(inode, privileged=ctx.uid == 0)

    @guarded
    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self.tree.removexattr(inode, name)

    # -- files

    @guarded
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        fh, keep = await self.tree.open(inode, flags, caller(ctx))
        return file_info(fh, keep)

    @guarded
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        fh, made = await self.tree.create(parent_inode, name, mode, flags, caller(ctx))
        return file_info(fh, False), entry(made)

    # pyfuse3 takes any contiguous buffer, and needs it only until the reply, which follows at once.
    @guarded
    async def read(self, fh: int, off: int, size: int) -> bytes | memoryview:  # type: ignore[override]
        data = await self.tree.read(fh, off, size)
        self.guard.metrics.count("programs.bytes_read", len(data))
        return data

    @guarded
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        count = await self.tree.write(fh, off, buf)
        self.guard.metrics.count("programs.bytes_written", count)
        return count

    @guarded
    async def flush(self, fh: int) -> None:
        await self.tree.flush(fh)

    @guarded
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self.tree.fsync(fh)

    @guarded
    async def release(self, fh: int) -> None:
        await self.tree.release(fh)

    # -- directories

    @guarded
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        return await self.tree.opendir(inode)

    @guarded
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        def emit(name: bytes, shown: Stat, following: int) -> bool:
            return bool(pyfuse3.readdir_reply(token, name, entry(shown), following))

        await self.tree.readdir(fh, start_id, emit)

    @guarded
    async def releasedir(self, fh: int) -> None:
        await self.tree.releasedir(fh)

    @guarded
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self.tree.fsyncdir(fh)

    @guarded
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        answer = await self.tree.statfs()
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = STATFS_BLOCK
        data.f_blocks = answer.total // STATFS_BLOCK
        data.f_bfree = data.f_bavail = (answer.total - answer.used) // STATFS_BLOCK
        data.f_files = answer.files + (1 << 32)
        data.f_ffree = data.f_favail = 1 << 32
        data.f_namemax = 255
        return data


def caller(ctx: pyfuse3.RequestContext) -> Caller:
    """Who asks."""
    return Caller(uid=ctx.uid, gid=ctx.gid, umask=ctx.umask)


def entry(shown: Stat) -> pyfuse3.EntryAttributes:
    """A Stat as the kernel takes it.  All timeouts are set: pyfuse3's default is five minutes."""
    out = pyfuse3.EntryAttributes()
    out.st_ino = shown.ino
    out.generation = 0
    out.entry_timeout = shown.entry_timeout
    out.attr_timeout = shown.attr_timeout
    out.st_mode = shown.mode
    out.st_nlink = shown.nlink
    out.st_uid = shown.uid
    out.st_gid = shown.gid
    out.st_rdev = shown.rdev
    out.st_size = shown.size
    out.st_blksize = 4096 if stat.S_ISDIR(shown.mode) else BLOCK_SIZE
    out.st_blocks = shown.blocks
    out.st_atime_ns = shown.atime_ns
    out.st_mtime_ns = shown.mtime_ns
    out.st_ctime_ns = shown.ctime_ns
    return out


def file_info(fh: int, keep_cache: bool) -> pyfuse3.FileInfo:
    """keep_cache is set always: pyfuse3's default would keep pages of another version."""
    info = pyfuse3.FileInfo(fh=fh)
    info.keep_cache = keep_cache
    info.direct_io = False
    info.nonseekable = False
    return info
