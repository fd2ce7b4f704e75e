"""From an inode, or a name that is free, to a descriptor.

Threading: trio thread only.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from typing import TYPE_CHECKING

import trio

from ossfs.errors import PosixError
from ossfs.fs import attrs as attributes
from ossfs.fs.attrs import Attrs
from ossfs.fs.changes import Changes
from ossfs.fs.context import Context
from ossfs.fs.handles import FileHandle
from ossfs.fs.hidden import HiddenKeys
from ossfs.fs.inodes import DirNode, FileNode, Node, Version
from ossfs.fs.listed import check_rewritable
from ossfs.fs.lookup import Lookup
from ossfs.fs.names import decode_name
from ossfs.fs.ports import Caller
from ossfs.fs.stats import Stat
from ossfs.fs.writer import Writer, note_version

VALIDATED = 1.0
"""Seconds for which a GETATTR's answer counts as the revalidation of an open."""


class Opening:
    """The part of a Tree that opens and creates files."""

    ctx: Context
    hidden: HiddenKeys
    look: Lookup
    changes: Changes
    _handles: dict[int, FileHandle]
    _next_handle: int

    if TYPE_CHECKING:

        def check_writable(self) -> None: ...

        def _refer(self, node: Node) -> Stat: ...

    async def open(self, ino: int, flags: int, caller: Caller) -> tuple[int, bool]:
        """open(2) of a file that exists: (handle, may the kernel keep its pages?).

        Raises ESTALE when the name holds another version than this inode: the kernel looks up again.
        """
        node = self.look.file(ino)
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        if writable or flags & os.O_TRUNC:
            self.check_writable()
        if writable or flags & os.O_TRUNC:
            await self._uploaded(node)
        self._forsake_failed(node)
        writer = node.writer
        if writer is not None and not writer.data_dirty and not writer.handles:
            # Only times wait there: the open must not miss what others did for their sake.
            await writer.commit()
            await writer.end_if_idle()
        if not node.local:
            await self._revalidate(node, for_reading=not writable, truncating=bool(flags & os.O_TRUNC))
        if writable or flags & os.O_TRUNC:
            check_rewritable(node.attrs)
        if node.kind != stat.S_IFREG:
            raise PosixError(errno.ESTALE if node.kind == stat.S_IFLNK else errno.ENXIO)
        if writable and node.object_type == "Symlink":
            raise PosixError(errno.EPERM, "a native symlink is shown as its target, read-only")
        await self._undisturbed(node)
        keep = node.version is not None and node.pages_etag == node.version.etag
        if flags & os.O_TRUNC:
            with self._writer(node).pinned():
                await self._open_truncated(node, caller)
                handle = self._handle(node, flags)
            keep = False
        else:
            handle = self._handle(node, flags)
        if node.version is not None and not node.local:
            node.pages_etag = node.version.etag
        return handle, keep

    async def _uploaded(self, node: FileNode) -> None:
        """What close(2) accepted is in the bucket before it is changed again: see writeback.py."""
        if node.writer is not None and node.writer.entry is not None:
            await node.writer.commit()

    async def _undisturbed(self, node: FileNode) -> None:
        """A removal that began while nobody had the file open would not keep its bytes for who opens now."""
        while not (node.detached or node.handles or node.local):
            key = self.ctx.inodes.key(node)
            if not self.ctx.keys.busy(key):
                return
            async with self.ctx.keys.hold(key):
                pass
        if node.detached:
            raise PosixError(errno.ESTALE)

    async def _revalidate(
        self, node: FileNode, *, for_reading: bool = False, truncating: bool = False
    ) -> None:
        if node.detached:
            raise PosixError(errno.ESTALE)
        try:
            await self.look.revalidate(node, within=VALIDATED, for_reading=for_reading, truncating=truncating)
        except PosixError as error:
            if error.errno == errno.ENOENT:
                # With ENOENT open(O_CREAT) would fail; with ESTALE the kernel looks up, and creates.
                raise PosixError(errno.ESTALE) from None
            raise

    async def _open_truncated(self, node: FileNode, caller: Caller) -> None:
        writer = self._writer(node)
        await writer.truncate(0)  # also of an empty file: its times move
        writer.truncated_by_open()
        if caller.uid != 0 and node.attrs is not None:
            # The kernel sends a SETATTR of the mode before a write, but none before this.
            mode = attributes.unprivileged(node.attrs.mode)
            if mode != node.attrs.mode:
                node.attrs.mode = mode
                writer.attributes_changed()

    def _forsake_failed(self, node: FileNode) -> None:
        """New opens start from the bucket: a writer whose failure was reported keeps its old handles only."""
        if node.writer is not None and node.writer.reported:
            self.look.forsake(node)
            raise PosixError(errno.ESTALE)

    def _writer(self, node: FileNode, *, created: bool = False) -> Writer:
        if node.writer is None:
            node.writer = Writer(self.ctx, self.hidden, node, created=created)
            self.ctx.bodies.drop(node)
        return node.writer

    def _handle(self, node: FileNode, flags: int) -> int:
        access = flags & os.O_ACCMODE
        handle = FileHandle(
            self.ctx,
            node,
            readable=access != os.O_WRONLY,
            writable=access != os.O_RDONLY,
            appending=bool(flags & os.O_APPEND),
        )
        node.handles.add(handle)
        if handle.writable:
            handle.writer = self._writer(node)
            handle.writer.handles.add(handle)
        number = self._next_handle
        self._next_handle += 1
        self._handles[number] = handle
        return number

    async def create(
        self, parent: int, raw: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[int, Stat]:
        """open(2) with O_CREAT of a name that the kernel just found absent.  No request is sent.

        The first commit forbids overwriting, unless O_TRUNC was given: a stale "not there" must not
        erase somebody's file.
        """
        self.check_writable()
        directory = self.look.directory(parent)
        name = decode_name(raw, creating=True)
        key = self.changes.check_new_name(directory, name)
        attrs = await self.changes.new_attrs(directory, name, stat.S_IFREG | stat.S_IMODE(mode), caller)
        child = directory.children.get(name)
        if isinstance(child, FileNode) and child.writer is not None and child.writer.reported:
            self.look.forsake(child)
            child = None
        if isinstance(child, FileNode) and child.local:
            if flags & os.O_EXCL:
                raise PosixError(errno.EEXIST)
            await self._uploaded(child)
            with self._writer(child).pinned():
                if flags & os.O_TRUNC:
                    await self._open_truncated(child, caller)
                return self._handle(child, flags), self._refer(child)
        if isinstance(child, DirNode):
            raise PosixError(errno.EEXIST if flags & os.O_EXCL else errno.EISDIR)
        strict = flags & os.O_EXCL and self.ctx.config.excl_strict
        version = await self.ctx.jobs.run(lambda: self._claim(key, attrs)) if strict else None
        if directory.children.get(name) is not None:
            self.look.supersede(directory.children[name])
        node = self.ctx.inodes.new_file(directory, name)
        node.attrs = attrs
        node.attrs_at = trio.current_time()
        node.exclusive = bool(flags & os.O_EXCL)
        self.changes.entry_changed(directory)
        if version is not None:
            note_version(self.ctx, node, version)
            self._writer(node)
        else:
            self._writer(node, created=not flags & os.O_TRUNC).uncommitted = True
        return self._handle(node, flags), self._refer(node)

    async def _claim(self, key: str, attrs: Attrs) -> Version:
        """-o excl=strict: an empty object at open, so that a lock file excludes other machines."""
        if self.ctx.config.versioned:
            raise PosixError(errno.ENOTSUP, "excl=strict on a versioned bucket", level=logging.ERROR)
        write_id = attributes.new_write_id()
        headers = attributes.encode(attrs, write_id=write_id)
        async with self.ctx.keys.hold(key):
            made = await self.ctx.store.put(key, [], headers, forbid_overwrite=True)
        return Version(key, made.etag, 0, made.crc64, made.last_modified or made.server_date, write_id)
