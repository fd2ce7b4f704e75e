"""Storing attributes of files that nobody writes, and of directories.

Threading: trio thread only; the work runs as jobs.

The attributes of an object can only be changed by copying it onto itself; those of a directory by
putting its marker again.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import trio

from ossfs.errors import PosixError, StoreError
from ossfs.fs import attrs as attributes
from ossfs.fs.attrs import Attrs, new_write_id
from ossfs.fs.changes import Changes
from ossfs.fs.commit import copy_object
from ossfs.fs.inodes import DirNode, FileNode, Version, exists_now
from ossfs.fs.resolve import listed
from ossfs.fs.writer import note_version
from ossfs.store.base import WRITE_ID, ListedObject

Change = Callable[[Attrs], None]
"""Edits attributes in place."""

SOON = 1.0
"""Seconds that times of a directory may wait for more changes."""


class AttributeStore:
    """chmod, chown and utimes of what is closed."""

    def __init__(self, changes: Changes) -> None:
        self.changes = changes
        self.lookup = changes.lookup
        self.ctx = changes.ctx

    async def store_attrs(self, node: FileNode, change: Change) -> None:
        """Apply *change* (a function of Attrs) to a closed file: a copy onto itself.

        When somebody replaced the object meanwhile, the change is applied to the new version.
        """
        await self.ctx.jobs.run(lambda: self._store_attrs(node, change))

    async def _store_attrs(self, node: FileNode, change: Change) -> None:
        for _ in range(4):
            key = self.ctx.inodes.key(node)
            async with self.ctx.keys.hold(key):
                if node.writer is not None and node.attrs is not None:
                    change(node.attrs)
                    node.writer.attributes_changed()
                    return
                if node.detached and node.attrs is not None:
                    change(node.attrs)  # a removed file: nobody will see it after the last close
                    return
                if key != self.ctx.inodes.key(node):
                    continue
                if node.attrs is None or node.version is None or not self.lookup.fresh(node):
                    await self.lookup.revalidate(node)
                assert node.attrs is not None and node.version is not None
                if node.object_type not in ("Normal", "Multipart"):
                    raise PosixError(errno.EPERM, f"{key} is of type {node.object_type}")
                attrs = node.attrs.copy()
                change(attrs)
                if not attributes.fits(attrs):
                    raise PosixError(errno.ENOSPC, "the attributes take more than 8 KiB")
                if node.storage_class:  # of the last listing: a lifecycle rule changes nothing but that
                    attrs.carried.storage_class = node.storage_class
                version = node.version
                try:
                    made = await copy_object(self.ctx, version, key, attrs, write_id=new_write_id())
                except StoreError as error:
                    if error.errno != errno.ESTALE:
                        raise
                    node.validated_at = node.attrs_at = float("-inf")
                    continue
                attrs.stored_mtime = True
                node.attrs = attrs
                crc = made.crc64 if made.crc64 is not None else version.crc64
                modified = made.last_modified or made.server_date
                pages = node.pages_etag == version.etag
                note_version(self.ctx, node, Version(key, made.etag, version.size, crc, modified))
                if not pages:
                    node.pages_etag = None
                self._remember(node)
                return
        raise PosixError(errno.ESTALE, "the object changes faster than its attributes can be set")

    def _remember(self, node: FileNode) -> None:
        if node.parent is not None and node.attrs is not None:
            known = node.parent.cache.entries.get(node.name)
            if known is not None and known.obj is not None:
                self.lookup.memory.put(known.obj, node.attrs, known.obj.last_modified)

    async def store_dir_attrs(self, node: DirNode, change: Change, *, soon: bool = False) -> None:
        """Apply *change* to a directory: its marker is put again; soon: within a second.

        The root of a mount without a prefix has no key: there the change lasts as long as the mount.
        """
        if node.attrs is None or not (node.pending or self.lookup.fresh(node)):
            await self.lookup.refresh_dir(node)
        assert node.attrs is not None
        changed = node.attrs.copy()
        change(changed)
        if node.marker and not node.changed_ns and changed.same_but_ctime(node.attrs):
            node.attrs = changed
            return
        if not soon:
            await self.ctx.jobs.run(lambda: self._store_dir_attrs(node, change))
            return
        node.attrs = changed
        node.changed_ns = 0
        node.touched()
        if not node.pending:
            node.pending = True

            async def later() -> None:
                await trio.sleep(SOON)
                await self.store_pending(node)

            self.ctx.jobs.start(later)

    async def store_pending(self, node: DirNode) -> None:
        """Put the marker of a directory whose times were set, if that has not been done yet."""
        if node.pending:
            await self.ctx.jobs.run(lambda: self._store_dir_attrs(node, lambda attrs: None))

    async def _store_dir_attrs(self, node: DirNode, change: Change) -> None:
        removed = node.detached and node is not self.ctx.inodes.root
        key = "" if removed else self.ctx.inodes.key(node)
        assert node.attrs is not None
        attrs = node.attrs.copy()
        stored = node.changed_ns
        if stored:
            attrs.mtime_ns = max(attrs.mtime_ns, stored)
            attrs.ctime_ns = max(attrs.ctime_ns, stored)
        change(attrs)
        node.pending = False
        if not attributes.fits(attrs):
            raise PosixError(errno.ENOSPC, "the attributes take more than 8 KiB")
        attrs.carried.meta.pop(WRITE_ID, None)
        if key:
            async with self.ctx.keys.hold(key):
                if self.ctx.inodes.key(node) != key:
                    raise PosixError(errno.ESTALE)
                if isinstance(node.marker, ListedObject) and node.marker.size > 0:
                    # A marker with a body is content: keep it.
                    marker = node.marker
                    version = Version(key, marker.etag, marker.size, None, marker.last_modified)
                    await copy_object(self.ctx, version, key, attrs, write_id=new_write_id())
                    node.marker = listed(await self.ctx.store.head(key))
                else:
                    node.marker = await self.changes.put_marker(
                        key, attrs, forbid=False, replaces=bool(node.marker)
                    )
                    node.marker_at = trio.current_time()
                exists_now(node, trio.current_time())
                self.lookup.memory.forget(key)  # the marker before looked the same in a listing
                self.lookup.flat.changed(node)
        if node is self.ctx.inodes.root:
            self.lookup.names.root_attrs = attrs.copy()
        if not node.pending:  # else they were set anew meanwhile, and will be stored
            node.attrs = attrs
        if node.changed_ns == stored:  # else an entry came or went meanwhile
            node.changed_ns = 0
        node.attrs_at = trio.current_time()
        node.touched()

    async def store_if_pending(self, node: DirNode) -> None:
        """store_pending, for who runs as a job already."""
        if node.pending:
            await self._store_dir_attrs(node, lambda attrs: None)
