"""Changing the tree: making and removing names.

Threading: trio thread only; every change runs as a job, so a caller that gives up does not stop it
half way, and its keys stay locked until its outcome is known.

Order of locks: the writers' locks (by inode number), then keys or a fence.  Between taking a name's
key and acting on it, the name is looked at again.
"""

from __future__ import annotations

import errno
import logging
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from ossfs.errors import AlreadyExists, PosixError, StoreError
from ossfs.fs import attrs as attributes
from ossfs.fs.attrs import Attrs, new_write_id
from ossfs.fs.commit import check_absent_if_versioned, copy_object
from ossfs.fs.deletes import Deletes
from ossfs.fs.hidden import HiddenKeys, is_hidden
from ossfs.fs.inodes import DirNode, FileNode, Node, Version, exists_now
from ossfs.fs.links import SYMLINK
from ossfs.fs.listed import check_kind
from ossfs.fs.lookup import Lookup
from ossfs.fs.names import check_key, showable
from ossfs.fs.ports import Caller
from ossfs.fs.stored import acl_to_keep, stored_as, written
from ossfs.fs.writer import note_version
from ossfs.store.base import ListedObject, ObjectInfo

log = logging.getLogger(__name__)


class Changes:
    """The changing side of the tree."""

    def __init__(self, lookup: Lookup, hidden: HiddenKeys) -> None:
        self.lookup = lookup
        self.ctx = lookup.ctx
        self.hidden = hidden
        self.deletes = Deletes(self.ctx)

    # -- making

    def check_new_name(self, parent: DirNode, name: str) -> str:
        """The key that a new file would have.  Raises EPERM, ENAMETOOLONG, ENOENT."""
        if parent.detached and parent is not self.ctx.inodes.root:
            raise PosixError(errno.ENOENT)
        if not showable(name, in_root=parent is self.ctx.inodes.root):
            raise PosixError(errno.EPERM, "a name that ossfs keeps for itself")
        key = self.ctx.inodes.child_key(parent, name)
        check_key(key)
        return key

    async def new_attrs(self, parent: DirNode, name: str, mode: int, caller: Caller, rdev: int = 0) -> Attrs:
        """Attributes of a new file: umask, owner, and the parent's setgid bit."""
        check_kind(self.ctx.config, stat.S_IFMT(mode))
        if self.ctx.config.attrs_list:
            shown = attributes.as_listed(0, self.ctx.defaults, directory=stat.S_ISDIR(mode))
            shown.carried.content_type = attributes.content_type_of(name, stat.S_IFMT(mode))
            shown.atime_ns = shown.mtime_ns = shown.ctime_ns = self.ctx.wall_ns()
            written(self.ctx.config, shown, fresh=True)
            return shown
        if parent.attrs is None:
            await self.lookup.refresh_dir(parent)
        assert parent.attrs is not None
        gid = caller.gid
        permissions = stat.S_IMODE(mode) & ~caller.umask
        if parent.attrs.mode & stat.S_ISGID:
            gid = parent.attrs.gid
            if stat.S_ISDIR(mode):
                permissions |= stat.S_ISGID
        made = attributes.new(
            stat.S_IFMT(mode), permissions, caller.uid, gid, self.ctx.wall_ns(), name=name, rdev=rdev
        )
        written(self.ctx.config, made, fresh=True)
        return made

    def entry_changed(self, parent: DirNode) -> None:
        """An entry came or went: the directory's mtime and ctime move."""
        parent.changed_ns = self.ctx.wall_ns()

    async def mkdir(self, parent: DirNode, name: str, mode: int, caller: Caller) -> DirNode:
        """Put the marker.  Raises EEXIST also when another machine was first."""
        key = self.check_new_name(parent, name) + "/"
        check_key(key)
        attrs = await self.new_attrs(parent, name, stat.S_IFDIR | stat.S_IMODE(mode), caller)
        return await self.ctx.jobs.run(lambda: self._mkdir(parent, name, key, attrs))

    async def _mkdir(self, parent: DirNode, name: str, key: str, attrs: Attrs) -> DirNode:
        async with self.ctx.keys.hold(key, key[:-1]):
            if self.ctx.inodes.child_key(parent, name) + "/" != key:
                raise PosixError(errno.ESTALE)
            child = parent.children.get(name)
            if child is not None and (isinstance(child, DirNode) or child.attrs is not None):
                raise PosixError(errno.EEXIST)
            if child is not None:
                self.lookup.supersede(child)
            marker = await self.put_marker(key, attrs, forbid=True)
            node = self.ctx.inodes.new_dir(parent, name, own=True, now=trio.current_time())
            node.attrs = attrs
            node.attrs_at = node.marker_at = trio.current_time()
            node.marker = marker
            parent.cache.set(name, None, trio.current_time())
            self.entry_changed(parent)
        return node

    async def put_marker(
        self, key: str, attrs: Attrs, *, forbid: bool, replaces: bool = False
    ) -> ListedObject:
        """Put a directory's marker.  replaces: there is one, whose ACL and tags a put would take away."""
        tagging = None
        if not replaces:
            written(self.ctx.config, attrs, fresh=True)
        else:
            attrs.carried.acl = attrs.carried.acl or await acl_to_keep(self.ctx, key)
            if attrs.tag_count:
                tagging = await self.ctx.store.get_tagging(key) or None
        headers = attributes.encode(attrs, write_id=new_write_id())
        headers.tagging = tagging
        if headers.content_type is None:
            headers.content_type = attributes.DIRECTORY_TYPE
        if forbid:
            await check_absent_if_versioned(self.ctx, key)
        made = await self.ctx.store.put(
            key, [], headers, forbid_overwrite=forbid and not self.ctx.config.versioned
        )
        return ListedObject(key, 0, made.etag, made.last_modified or made.server_date)

    async def make_object(
        self, parent: DirNode, name: str, attrs: Attrs, body: bytes, *, target: str | None = None
    ) -> FileNode:
        """A symlink, FIFO, socket or device node: one put that does not overwrite."""
        key = self.check_new_name(parent, name)
        if not attributes.fits(attrs):
            raise PosixError(errno.ENOSPC, "the attributes take more than 8 KiB")
        return await self.ctx.jobs.run(lambda: self._make_object(parent, name, key, attrs, body, target))

    async def _make_object(
        self, parent: DirNode, name: str, key: str, attrs: Attrs, body: bytes, target: str | None
    ) -> FileNode:
        async with self.ctx.keys.hold(key):
            child = parent.children.get(name)
            if isinstance(child, FileNode) and child.local:
                raise PosixError(errno.EEXIST)
            if self.ctx.inodes.child_key(parent, name) != key:
                raise PosixError(errno.ESTALE)
            headers = attributes.encode(attrs, write_id=new_write_id())
            await check_absent_if_versioned(self.ctx, key)
            made = await self.ctx.store.put(
                key,
                [body] if body else [],
                headers,
                forbid_overwrite=not self.ctx.config.versioned,
            )
            if parent.children.get(name) is not None:
                self.lookup.supersede(parent.children[name])
            node = self.ctx.inodes.new_file(parent, name)
            node.kind = attrs.kind
            node.attrs = attrs
            node.target = target
            modified = made.last_modified or made.server_date
            note_version(self.ctx, node, Version(key, made.etag, len(body), made.crc64, modified))
            self.entry_changed(parent)
        return node

    # -- removing

    @asynccontextmanager
    async def writers_locked(self, *nodes: Node | None) -> AsyncIterator[None]:
        """The locks of these files' writers, in order of inode number."""
        files = [n for n in nodes if isinstance(n, FileNode)]
        while True:
            writers = {n.ino: n.writer for n in files if n.writer is not None}
            async with AsyncExitStack() as stack:
                for ino in sorted(writers):
                    await stack.enter_async_context(writers[ino].lock)
                if all(n.writer is None or writers.get(n.ino) is n.writer for n in files):
                    yield
                    return
            # A writer came while we waited for another: all of them again, in their order.

    async def unlink(self, parent: DirNode, name: str) -> None:
        """Remove a file.  Who has it open keeps its bytes."""
        node = await self.lookup.lookup(parent, name)
        if isinstance(node, DirNode):
            raise PosixError(errno.EISDIR)
        assert isinstance(node, FileNode)
        if self._may_wait(node):
            await self.keep_directory(parent, name)
            if self._unlink_soon(parent, name, node):
                return
        await self.ctx.jobs.run(lambda: self._unlink(parent, name, node))

    def _may_wait(self, node: FileNode) -> bool:
        """Can the object be removed in company, a moment later?  Lock files (O_EXCL) cannot."""
        return (
            not self.ctx.config.delete_sync
            and not node.exclusive
            and not node.handles
            and node.writer is None
            and node.version is not None
            and node.object_type != SYMLINK  # its HEAD, by which a late delete looks, is the target's
        )

    def _unlink_soon(self, parent: DirNode, name: str, node: FileNode) -> bool:
        """The name is gone now, the object within a second.  No await: nothing comes between."""
        if not self._may_wait(node) or node.parent is not parent or node.name != name:
            return False
        key = self.ctx.inodes.key(node)
        if not self.ctx.keys.try_hold(key):
            return False
        version = node.version
        parent.cache.leave(name)

        def ended(gone: bool, error: StoreError | None) -> None:
            if error is not None:
                parent.refused[name] = error
            parent.cache.left(name, gone=gone)
            if not gone:
                parent.cache.forget(name)
            self.ctx.keys.let_go(key)
            self.ctx.inodes.drop_if_unused(parent)

        self.lookup.memory.forget(key)
        self.ctx.inodes.detach(node)
        self.entry_changed(parent)
        parent.refused.pop(name, None)
        self.deletes.queue(key, version, ended)
        return True

    async def _unlink(self, parent: DirNode, name: str, node: FileNode) -> None:
        async with self.writers_locked(node):
            if node.parent is not parent or node.name != name:
                raise PosixError(errno.ENOENT)
            await self.prepare_removal(node)
            await self.keep_directory(parent, name)
            key = self.ctx.inodes.key(node)
            parent.cache.leave(name)
            gone = False
            try:
                async with self.ctx.keys.hold(key):
                    if node.parent is not parent or node.name != name:
                        raise PosixError(errno.ENOENT)
                    writer = node.writer
                    async with self.taking_away(node):
                        if node.version is not None or writer is None or not writer.created:
                            await self.deletes.now(key, node.version)
                    gone = True
            finally:
                parent.cache.left(name, gone=gone)
            self.entry_changed(parent)

    async def prepare_removal(self, node: FileNode) -> None:
        """An upload is bound to its key: complete it, so that its bytes can move.  The lock is held."""
        if node.handles and node.writer is not None and node.writer.has_upload:
            await node.writer.commit_locked()

    @asynccontextmanager
    async def taking_away(self, node: FileNode) -> AsyncIterator[None]:
        """Remove a file's name; its key and its writer's lock are held.

        Bytes that only the bucket has go to a hidden key first, while somebody has the file open.  The
        body of the block deletes or replaces the object; when it raises, the file keeps its name.
        """
        key = self.ctx.inodes.key(node)
        orphan = self.hidden.fresh("orphan") if node.handles else None
        kept: Version | None = None
        if orphan is not None and node.version is not None:
            old = node.version
            made = await copy_object(self.ctx, old, orphan, node.attrs, stored_as=stored_as(node))
            kept = Version(orphan, made.etag, old.size, old.crc64, old.last_modified)
        try:
            yield
        except BaseException as error:
            if isinstance(error, StoreError) and error.maybe_done and node.writer is not None:
                # The name may hold another file by now: what was appended to this one is not put there.
                node.writer.appends_only = False
            if kept is not None:
                self.ctx.jobs.start(lambda: self.hidden.delete(kept.key))
            raise
        self.lookup.memory.forget(key)
        if node.writer is not None:
            await node.writer.end_entry()
        if orphan is not None:
            node.hidden_key = orphan
        if kept is not None:
            node.version = kept
            if node.writer is not None:
                node.writer.base_moved(kept)
        if node.writer is not None and not node.handles:
            node.writer.abandon()
        self.ctx.inodes.detach(node)
        if orphan is not None and not node.handles:  # closed meanwhile
            self.ctx.jobs.start(lambda: self.orphan_released(node))

    async def orphan_released(self, node: FileNode) -> None:
        """The last descriptor of a removed file is closed: its hidden object goes."""
        key, node.hidden_key = node.hidden_key, None
        if key is None or node.version is None:
            return
        try:
            await self.hidden.delete(key)
        except StoreError as error:
            log.warning("%s", error)  # it is in the journal: the next mount sweeps it

    async def keep_directory(self, parent: DirNode, leaving: str) -> None:
        """A directory must not vanish because its last known entry goes: put the marker first."""
        if parent is self.ctx.inodes.root or parent.detached:
            return
        if parent.marker:
            return
        others = any(n != leaving and n not in parent.cache.leaving for n in parent.cache.entries)
        if others:
            return
        key = self.ctx.inodes.key(parent)
        attrs = (parent.attrs or self.lookup.names.implicit_attrs()).copy()
        async with self.ctx.keys.hold(key):
            if self.ctx.inodes.key(parent) != key or parent.marker:
                return
            try:
                parent.marker = await self.put_marker(key, attrs, forbid=True)
            except AlreadyExists:
                parent.marker = True
            exists_now(parent, trio.current_time())

    async def rmdir(self, parent: DirNode, name: str) -> None:
        """Remove a directory.  Raises ENOTEMPTY, by a fresh listing."""
        node = await self.lookup.lookup(parent, name)
        if not isinstance(node, DirNode):
            raise PosixError(errno.ENOTDIR)
        await self.ctx.jobs.run(lambda: self._rmdir(parent, name, node))

    async def _rmdir(self, parent: DirNode, name: str, node: DirNode) -> None:
        await self.keep_directory(parent, name)
        key = self.ctx.inodes.key(node)
        async with self.ctx.keys.fence(key):
            if node.parent is not parent or node.name != name:
                raise PosixError(errno.ENOENT)
            marker = await self.check_empty(key, node)
            parent.cache.leave(name)
            gone = False
            try:
                await self._delete_marker(key, marker)
                gone = True
            finally:
                parent.cache.left(name, gone=gone)
            self.lookup.memory.forget(key)
            self.ctx.inodes.detach(node)
        self.entry_changed(parent)

    async def _delete_marker(self, key: str, marker: ListedObject | None) -> None:
        """Raises what the store raises.  Another machine's mkdir, after an answer was lost, is left alone."""

        def unchanged(info: ObjectInfo) -> bool:
            # Markers are all alike: only the second in which it was made tells them apart.
            return marker is not None and info.last_modified == marker.last_modified

        await self.ctx.store.delete(key, unchanged=unchanged)

    async def check_empty(self, prefix: str, node: DirNode | None) -> ListedObject | None:
        """A fresh LIST shows nothing but a zero-byte marker, hidden keys and what we are deleting.

        node: what this mount knows of the directory; None when it knows of none.  Returns the marker.
        """
        found: ListedObject | None = None
        for child in node.children.values() if node is not None else ():
            if isinstance(child, FileNode) and child.local:
                raise PosixError(errno.ENOTEMPTY)
        leaving = node.cache.leaving if node is not None else {}
        marker = ""
        while True:
            page = await self.ctx.store.list(prefix, marker=marker)
            if page.undecodable:
                raise PosixError(errno.ENOTEMPTY, "keys that are not UTF-8")
            for obj in page.objects:
                rest = obj.key[len(prefix) :]
                if rest == "" and obj.size == 0:
                    found = obj
                    continue
                if prefix == self.ctx.config.prefix and is_hidden(rest.split("/", 1)[0]):
                    continue
                if rest in leaving:
                    continue
                raise PosixError(errno.ENOTEMPTY)
            if page.next_marker is None:
                return found
            marker = page.next_marker
