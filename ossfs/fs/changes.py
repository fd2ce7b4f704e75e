"""Changing the tree: making, removing and renaming names.

Threading: trio thread only; every change runs as a job, so a caller that gives up does not stop it
half way, and its keys stay locked until its outcome is known.

Order of locks: the writers' locks (by inode number), then keys or a fence.  Between taking a name's
key and acting on it, the name is looked at again.
"""

from __future__ import annotations

import errno
import logging
import secrets
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from ossfs import limits
from ossfs.errors import AlreadyExists, NotFound, ObjectArchived, OssfsError, PosixError, StoreError
from ossfs.fs import attrs as attributes
from ossfs.fs.attrs import Attrs
from ossfs.fs.commit import copy_object
from ossfs.fs.context import run_all
from ossfs.fs.deletes import Deletes
from ossfs.fs.hidden import HiddenKeys, is_hidden
from ossfs.fs.inodes import DirNode, FileNode, Node, Version
from ossfs.fs.lookup import Lookup, listed
from ossfs.fs.names import check_key, showable
from ossfs.fs.ports import Caller
from ossfs.fs.writer import note_version
from ossfs.store.base import WRITE_ID, ListedObject

log = logging.getLogger(__name__)

Change = Callable[[Attrs], None]
"""Edits attributes in place."""

PARALLEL_COPIES = 48
"""Of a directory rename.  300 files in 0.3 s at 15 ms want 20 or more at a time; the connections of
the pool (64) leave room for readers and writers."""


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
        if parent.attrs is None:
            await self.lookup.refresh_dir(parent)
        assert parent.attrs is not None
        gid = caller.gid
        permissions = stat.S_IMODE(mode) & ~caller.umask
        if parent.attrs.mode & stat.S_ISGID:
            gid = parent.attrs.gid
            if stat.S_ISDIR(mode):
                permissions |= stat.S_ISGID
        return attributes.new(
            stat.S_IFMT(mode), permissions, caller.uid, gid, self.ctx.wall_ns(), name=name, rdev=rdev
        )

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
            marker = await self._put_marker(key, attrs, forbid=True)
            node = self.ctx.inodes.new_dir(parent, name, own=True, now=trio.current_time())
            node.attrs = attrs
            node.attrs_at = node.marker_at = trio.current_time()
            node.marker = marker
            parent.cache.set(name, None, trio.current_time())
            self.entry_changed(parent)
        return node

    async def _put_marker(self, key: str, attrs: Attrs, *, forbid: bool) -> ListedObject:
        headers = attributes.encode(attrs, write_id=_write_id())
        if headers.content_type is None:
            headers.content_type = attributes.DIRECTORY_TYPE
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
            headers = attributes.encode(attrs, write_id=_write_id())
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
    async def _writer_locked(self, *nodes: Node | None) -> AsyncIterator[None]:
        """The locks of these files' writers, in order of inode number."""
        writers = {n.ino: n.writer for n in nodes if isinstance(n, FileNode) and n.writer is not None}
        async with AsyncExitStack() as stack:
            for ino in sorted(writers):
                await stack.enter_async_context(writers[ino].lock)
            yield

    async def unlink(self, parent: DirNode, name: str) -> None:
        """Remove a file.  Who has it open keeps its bytes."""
        node = await self.lookup.lookup(parent, name)
        if isinstance(node, DirNode):
            raise PosixError(errno.EISDIR)
        assert isinstance(node, FileNode)
        if self._may_wait(node):
            await self._keep_directory(parent, name)
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

        def ended(gone: bool) -> None:
            parent.cache.left(name, gone=gone)
            if not gone:
                parent.cache.forget(name)
            self.ctx.keys.let_go(key)
            self.ctx.inodes.drop_if_unused(parent)

        self.lookup.memory.forget(key)
        self.ctx.inodes.detach(node)
        self.entry_changed(parent)
        self.deletes.queue(key, version, ended)
        return True

    async def _unlink(self, parent: DirNode, name: str, node: FileNode) -> None:
        async with self._writer_locked(node):
            if node.parent is not parent or node.name != name:
                raise PosixError(errno.ENOENT)
            await self._prepare_removal(node)
            await self._keep_directory(parent, name)
            key = self.ctx.inodes.key(node)
            parent.cache.leave(name)
            gone = False
            try:
                async with self.ctx.keys.hold(key):
                    if node.parent is not parent or node.name != name:
                        raise PosixError(errno.ENOENT)
                    await self.take_away(node, replaced=False)
                    gone = True
            finally:
                parent.cache.left(name, gone=gone)
            self.entry_changed(parent)

    async def _prepare_removal(self, node: FileNode) -> None:
        """An upload is bound to its key: complete it, so that its bytes can move.  The lock is held."""
        if node.handles and node.writer is not None and node.writer.has_upload:
            await node.writer.commit_locked()

    async def take_away(self, node: FileNode, *, replaced: bool) -> None:
        """Remove a file's object and its name; its key and its writer's lock are held.

        replaced: something else is about to be put under the key, so it need not be deleted.
        Bytes that only the bucket has go to a hidden key while somebody has the file open.
        """
        key = self.ctx.inodes.key(node)
        writer = node.writer
        orphan: str | None = None
        if node.handles:
            orphan = self.hidden.fresh("orphan")
            if node.version is not None:
                made = await copy_object(
                    self.ctx, node.version, orphan, node.attrs, storage_class=node.storage_class
                )
                old = node.version
                kept = Version(orphan, made.etag, old.size, old.crc64, old.last_modified)
                node.version = kept
                if writer is not None:
                    writer.base_moved(kept)
            node.hidden_key = orphan
        in_bucket = node.version is not None or writer is None or not writer.created
        if in_bucket and not replaced:
            await self.ctx.store.delete(key)
        self.lookup.memory.forget(key)
        if writer is not None and not node.handles:
            writer.abandon()
        self.ctx.inodes.detach(node)

    async def orphan_released(self, node: FileNode) -> None:
        """The last descriptor of a removed file is closed: its hidden object goes."""
        key, node.hidden_key = node.hidden_key, None
        if key is None or node.version is None:
            return
        try:
            await self.hidden.delete(key)
        except StoreError as error:
            log.warning("%s", error)  # it is in the journal: the next mount sweeps it

    async def _keep_directory(self, parent: DirNode, leaving: str) -> None:
        """A directory must not vanish because its last known entry goes: put the marker first."""
        if parent is self.ctx.inodes.root or parent.detached:
            return
        if parent.marker:
            return
        others = any(n != leaving and n not in parent.cache.leaving for n in parent.cache.entries)
        if others:
            return
        key = self.ctx.inodes.key(parent)
        attrs = (parent.attrs or self.lookup.implicit_attrs()).copy()
        async with self.ctx.keys.hold(key):
            if self.ctx.inodes.key(parent) != key or parent.marker:
                return
            try:
                parent.marker = await self._put_marker(key, attrs, forbid=True)
            except AlreadyExists:
                parent.marker = True

    async def rmdir(self, parent: DirNode, name: str) -> None:
        """Remove a directory.  Raises ENOTEMPTY, by a fresh listing."""
        node = await self.lookup.lookup(parent, name)
        if not isinstance(node, DirNode):
            raise PosixError(errno.ENOTDIR)
        await self.ctx.jobs.run(lambda: self._rmdir(parent, name, node))

    async def _rmdir(self, parent: DirNode, name: str, node: DirNode) -> None:
        await self._keep_directory(parent, name)
        key = self.ctx.inodes.key(node)
        async with self.ctx.keys.fence(key):
            if node.parent is not parent or node.name != name:
                raise PosixError(errno.ENOENT)
            await self.check_empty(node)
            parent.cache.leave(name)
            gone = False
            try:
                await self.ctx.store.delete(key)
                gone = True
            finally:
                parent.cache.left(name, gone=gone)
            self.lookup.memory.forget(key)
            self.ctx.inodes.detach(node)
        self.entry_changed(parent)

    async def check_empty(self, node: DirNode) -> None:
        """A fresh LIST shows nothing but a zero-byte marker, hidden keys and what we are deleting."""
        for child in node.children.values():
            if isinstance(child, FileNode) and child.local and child.name not in node.cache.leaving:
                raise PosixError(errno.ENOTEMPTY)
        prefix = self.ctx.inodes.key(node)
        marker = ""
        while True:
            page = await self.ctx.store.list(prefix, marker=marker)
            if page.undecodable:
                raise PosixError(errno.ENOTEMPTY, "keys that are not UTF-8")
            for obj in page.objects:
                rest = obj.key[len(prefix) :]
                if rest == "" and obj.size == 0:
                    continue
                if node is self.ctx.inodes.root and is_hidden(rest.split("/", 1)[0]):
                    continue
                if rest in node.cache.leaving:
                    continue
                raise PosixError(errno.ENOTEMPTY)
            if page.next_marker is None:
                return
            marker = page.next_marker

    # -- renaming

    async def rename(self, old: DirNode, name: str, new: DirNode, new_name: str, *, no_replace: bool) -> None:
        """rename(2): copy, then delete; whatever stops it in between leaves both, never neither."""
        source = await self.lookup.lookup(old, name)
        key = self.check_new_name(new, new_name)
        try:
            target: Node | None = await self.lookup.lookup(new, new_name)
        except PosixError as error:
            if error.errno != errno.ENOENT:
                raise
            target = None
        if target is source:
            return
        if target is not None and no_replace:
            raise PosixError(errno.EEXIST)
        if isinstance(source, DirNode):
            check_key(key + "/")
            if target is not None and not isinstance(target, DirNode):
                raise PosixError(errno.ENOTDIR)
            above: Node | None = new
            while above is not None:
                if above is source:
                    raise PosixError(errno.EINVAL, "into itself")
                above = above.parent
            directory = source
            await self.ctx.jobs.run(lambda: self._rename_dir(old, name, new, new_name, directory, target))
            return
        assert isinstance(source, FileNode)
        if isinstance(target, DirNode):
            raise PosixError(errno.EISDIR)
        file, file_target = source, target
        assert file_target is None or isinstance(file_target, FileNode)
        await self.ctx.jobs.run(
            lambda: self._rename_file(old, name, new, new_name, file, file_target, no_replace)
        )

    async def _rename_file(
        self,
        old: DirNode,
        name: str,
        new: DirNode,
        new_name: str,
        node: FileNode,
        target: FileNode | None,
        no_replace: bool,
    ) -> None:
        async with self._writer_locked(node, target):
            if node.parent is not old or node.name != name:
                raise PosixError(errno.ENOENT)
            if node.writer is not None:
                # An upload is bound to its key: what is pending goes up under the old name.
                await node.writer.commit_locked()
            if target is not None:
                await self._prepare_removal(target)
            await self._keep_directory(old, name)
            source_key = self.ctx.inodes.key(node)
            target_key = self.ctx.inodes.child_key(new, new_name)
            old.cache.leave(name)
            gone = False
            try:
                async with self.ctx.keys.hold(source_key, target_key):
                    if (
                        node.parent is not old
                        or node.name != name
                        or new.children.get(new_name)
                        not in (
                            target,
                            None,
                        )
                    ):
                        raise PosixError(errno.ESTALE)
                    version = node.version
                    if version is None:
                        raise PosixError(errno.ENOENT)
                    moved = await self._copy_file(node, version, target, target_key, no_replace)
                    await self.ctx.store.delete(source_key)
                    gone = True
                    self.ctx.inodes.move(node, new, new_name)
                    self.lookup.memory.forget(source_key)
                    note_version(self.ctx, node, moved)
                    if node.writer is not None:
                        node.writer.base_moved(moved)
            finally:
                old.cache.left(name, gone=gone)
            self.entry_changed(old)
            self.entry_changed(new)

    async def _copy_file(
        self, node: FileNode, version: Version, target: FileNode | None, key: str, no_replace: bool
    ) -> Version:
        if target is not None and target.parent is not None:
            # Its object is replaced in one step by the copy; who has it open keeps its bytes.
            await self.take_away(target, replaced=True)
        attrs = node.attrs
        needs_meta = version.size > limits.MAX_SINGLE_COPY_SIZE
        if attrs is None and needs_meta:
            attrs = attributes.decode(await self.ctx.store.head(version.key), self.ctx.defaults)
        if attrs is not None and attrs.stored_mtime and not needs_meta:
            attrs = None  # everything is in the object: COPY takes it along
        write_id = _write_id()
        if attrs is not None and attrs.tag_count and needs_meta:
            tagging = await self.ctx.store.get_tagging(version.key)
            attrs = attrs.copy()
            attrs.carried.tagging = tagging or None
        made = await copy_object(
            self.ctx,
            version,
            key,
            attrs,
            write_id=write_id,
            storage_class=node.storage_class,
            forbid_overwrite=no_replace and not self.ctx.config.versioned,
        )
        if node.attrs is not None:
            node.attrs.stored_mtime = node.attrs.stored_mtime or attrs is not None
        crc = made.crc64 if made.crc64 is not None else version.crc64
        return Version(key, made.etag, version.size, crc, made.last_modified or made.server_date)

    async def _rename_dir(
        self,
        old: DirNode,
        name: str,
        new: DirNode,
        new_name: str,
        node: DirNode,
        target: Node | None,
    ) -> None:
        await self._keep_directory(old, name)
        busy = [n for n in self.ctx.inodes.below(node) if isinstance(n, FileNode) and n.writer is not None]
        async with self._writer_locked(*busy):
            for file in sorted(busy, key=lambda n: n.ino):
                if file.writer is not None:
                    await file.writer.commit_locked()
            source = self.ctx.inodes.key(node)
            destination = self.ctx.inodes.child_key(new, new_name) + "/"
            async with self.ctx.keys.fence(source, destination):
                if node.parent is not old or node.name != name:
                    raise PosixError(errno.ENOENT)
                if isinstance(target, DirNode):
                    await self.check_empty(target)
                old.cache.leave(name)
                gone = False
                try:
                    made = await self._move_prefix(source, destination)
                    gone = True
                finally:
                    old.cache.left(name, gone=gone)
                if isinstance(target, DirNode) and target.parent is not None:
                    self.ctx.inodes.detach(target)
                elif new.children.get(new_name) is not None:
                    self.lookup.supersede(new.children[new_name])
                self.ctx.inodes.move(node, new, new_name)
                new.cache.set(new_name, None, trio.current_time())
                self._moved_below(node, source, destination, made)
        self.entry_changed(old)
        self.entry_changed(new)

    def _moved_below(self, node: DirNode, source: str, destination: str, copies: dict[str, Version]) -> None:
        """Every inode below a renamed directory: new keys; tokens may have changed with the copies."""
        node.cache.forget_all()
        node.marker = None
        node.touched()
        for child in self.ctx.inodes.below(node):
            child.touched()
            if isinstance(child, DirNode):
                child.cache.forget_all()
                child.marker = None
            elif isinstance(child, FileNode) and child.version is not None:
                old = child.version
                key = destination + old.key[len(source) :]
                made = copies.get(key)
                etag = made.etag if made is not None else old.etag
                moved = Version(key, etag, old.size, old.crc64, old.last_modified)
                child.version = moved
                if child.writer is not None:
                    child.writer.base_moved(moved)

    async def _move_prefix(self, source: str, destination: str) -> dict[str, Version]:
        """Copy all keys below *source*, look again until nothing changed meanwhile, then delete.

        Raw keys are copied, also those that no path can show.  On an error only our own copies are
        removed; the sources are untouched.  Returns the copies by their key.
        """
        copied: dict[str, ListedObject] = {}
        made: dict[str, Version] = {}
        try:
            while True:
                found = await self.list_all(source)
                fresh = [o for o in found if not _same(copied.get(o.key), o)]
                if not fresh:
                    break
                archived = [o for o in fresh if "Archive" in o.storage_class]
                if archived and not copied:
                    raise ObjectArchived(
                        "an archived object cannot be copied", operation="CopyObject", key=archived[0].key
                    )
                await self._copy_batch(fresh, source, destination, copied, made)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._remove_keys([destination + k[len(source) :] for k in copied], quiet=True)
            raise
        gone = set(copied) - {o.key for o in found}
        await self._remove_keys([destination + k[len(source) :] for k in gone], quiet=True)
        await self._remove_keys([o.key for o in found], quiet=False)
        return made

    async def _copy_batch(
        self,
        objects: list[ListedObject],
        source: str,
        destination: str,
        copied: dict[str, ListedObject],
        made: dict[str, Version],
    ) -> None:
        done = 0

        async def one(obj: ListedObject) -> None:
            nonlocal done
            key = destination + obj.key[len(source) :]
            check_key(key)
            version = Version(obj.key, obj.etag, obj.size, None, obj.last_modified)
            attrs = None
            if obj.size > limits.MAX_SINGLE_COPY_SIZE:
                attrs = attributes.decode(await self.ctx.store.head(obj.key), self.ctx.defaults)
            try:
                result = await copy_object(
                    self.ctx, version, key, attrs, write_id=_write_id(), storage_class=obj.storage_class
                )
            except NotFound:
                return  # removed meanwhile: the next listing says so
            except StoreError as error:
                if error.errno != errno.ESTALE:
                    raise
                return  # replaced meanwhile: it is copied again in the next round
            copied[obj.key] = obj
            made[key] = Version(key, result.etag, obj.size, result.crc64, obj.last_modified)
            done += 1
            if done % 1000 == 0:
                log.info("rename of %s: %d of %d copied", source, done, len(objects))

        await run_all(PARALLEL_COPIES, [lambda o=o: one(o) for o in objects])  # type: ignore[misc]

    async def list_all(self, prefix: str) -> list[ListedObject]:
        """Every object below a prefix."""
        found: list[ListedObject] = []
        marker = ""
        while True:
            page = await self.ctx.store.list(prefix, marker=marker)
            if page.undecodable:
                raise PosixError(errno.EIO, f"{prefix} has keys that are not UTF-8", level=logging.ERROR)
            found.extend(page.objects)
            if page.next_marker is None:
                return found
            marker = page.next_marker

    async def _remove_keys(self, keys: list[str], *, quiet: bool) -> None:
        """Delete in batches.  quiet: failures are logged, since nothing is lost by what stays."""
        batches = [keys[i : i + limits.DELETE_BATCH] for i in range(0, len(keys), limits.DELETE_BATCH)]
        for batch in batches:
            try:
                refused = await self.ctx.store.delete_many(batch)
                for key in refused:
                    await self.ctx.store.delete(key)
            except OssfsError as error:
                if not quiet:
                    raise
                log.warning("could not be removed: %s", error)

    # -- attributes of files that nobody writes

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
                version = node.version
                try:
                    made = await copy_object(self.ctx, version, key, attrs, write_id=_write_id())
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

    async def store_dir_attrs(self, node: DirNode, change: Change) -> None:
        """Apply *change* to a directory: its marker is put again.

        The root of a mount without a prefix has no key: there the change lasts as long as the mount.
        """
        await self.ctx.jobs.run(lambda: self._store_dir_attrs(node, change))

    async def _store_dir_attrs(self, node: DirNode, change: Change) -> None:
        key = self.ctx.inodes.key(node)
        if node.attrs is None or not self.lookup.fresh(node):
            await self.lookup.refresh_dir(node)
        assert node.attrs is not None
        attrs = node.attrs.copy()
        attrs.mtime_ns = max(attrs.mtime_ns, node.changed_ns)
        change(attrs)
        if not attributes.fits(attrs):
            raise PosixError(errno.ENOSPC, "the attributes take more than 8 KiB")
        attrs.carried.meta.pop(WRITE_ID, None)
        if key and not (node.detached and node is not self.ctx.inodes.root):
            async with self.ctx.keys.hold(key):
                if self.ctx.inodes.key(node) != key:
                    raise PosixError(errno.ESTALE)
                if isinstance(node.marker, ListedObject) and node.marker.size > 0:
                    # A marker with a body is content: keep it.
                    marker = node.marker
                    version = Version(key, marker.etag, marker.size, None, marker.last_modified)
                    await copy_object(self.ctx, version, key, attrs, write_id=_write_id())
                    node.marker = listed(await self.ctx.store.head(key))
                else:
                    node.marker = await self._put_marker(key, attrs, forbid=False)
                    node.marker_at = trio.current_time()
        if node is self.ctx.inodes.root:
            self.lookup.root_attrs = attrs.copy()
        node.attrs = attrs
        node.changed_ns = 0
        node.attrs_at = trio.current_time()
        node.touched()


def _write_id() -> str:
    return secrets.token_hex(16)


def _same(copied: ListedObject | None, listed_now: ListedObject) -> bool:
    """Is this key, as it is listed now, the version that was copied?"""
    return (
        copied is not None
        and copied.etag == listed_now.etag
        and copied.size == listed_now.size
        and copied.last_modified == listed_now.last_modified
    )
