"""Renames: copy, then delete; whatever stops one in between leaves both names, never neither.

Threading: trio thread only; the work runs as jobs.

A directory is renamed under a fence: commits, creations and copies below it wait, and then go to the
new keys.  Its keys are copied many at a time, listed again until nothing changed meanwhile, and only
then deleted, and only those whose version is the one that was copied.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import trio

from ossfs import limits
from ossfs.errors import AlreadyExists, NotFound, ObjectArchived, OssfsError, PosixError, StoreError
from ossfs.fs import attrs as attributes
from ossfs.fs.attrs import Attrs, new_write_id
from ossfs.fs.changes import Changes
from ossfs.fs.commit import check_absent_if_versioned, copy_object
from ossfs.fs.context import run_all
from ossfs.fs.inodes import DirNode, FileNode, Node, Version
from ossfs.fs.links import SYMLINK
from ossfs.fs.names import check_key
from ossfs.fs.setattrs import AttributeStore
from ossfs.fs.stored import stored_as
from ossfs.fs.virtual import is_archived
from ossfs.fs.writer import note_version
from ossfs.store.base import ListedObject

log = logging.getLogger(__name__)

PARALLEL_COPIES = 48
"""Of a directory rename.  300 files in 0.3 s at 15 ms want 20 or more at a time; the connections of
the pool (64) leave room for readers and writers."""

ROUNDS = 8
"""Of committing what is written below a name, before its rename is refused with EBUSY."""

PARALLEL_DELETES = 8
"""Batches of a directory rename.  What another machine puts under an old name between the last listing and
its delete is lost, so they follow at once."""


class Renames:
    """rename(2)."""

    def __init__(self, changes: Changes, attributes: AttributeStore) -> None:
        self.changes = changes
        self.attributes = attributes
        self.lookup = changes.lookup
        self.ctx = changes.ctx

    async def rename(self, old: DirNode, name: str, new: DirNode, new_name: str, *, no_replace: bool) -> None:
        """rename(2): copy, then delete; whatever stops it in between leaves both, never neither."""
        source = await self.lookup.lookup(old, name)
        key = self.changes.check_new_name(new, new_name)
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

        async def attempt() -> bool:
            return await self._rename_file(old, name, new, new_name, file, file_target, no_replace)

        await self.ctx.jobs.run(lambda: self._repeatedly(attempt, "its uploads"))

    async def _repeatedly(self, attempt: Callable[[], Awaitable[bool]], what: str) -> None:
        """Until no upload has begun meanwhile: an attempt says False when one has."""
        for _ in range(ROUNDS):
            if await attempt():
                return
        raise PosixError(errno.EBUSY, f"{what} begin faster than they can be completed")

    async def _rename_file(
        self,
        old: DirNode,
        name: str,
        new: DirNode,
        new_name: str,
        node: FileNode,
        target: FileNode | None,
        no_replace: bool,
    ) -> bool:
        """False: somebody has begun to write it meanwhile, as for directories."""
        async with self.changes.writers_locked(node, target):
            if node.parent is not old or node.name != name:
                raise PosixError(errno.ENOENT)
            if node.writer is not None and (node.writer.data_dirty or node.writer.has_upload):
                # An upload is bound to its key: what is pending goes up under the old name.
                await node.writer.commit_locked()
            if target is not None:
                if target.writer is not None and target.writer.entry is not None:
                    await target.writer.commit_locked()  # or a crash could put it over its successor
                await self.changes.prepare_removal(target)
            await self.changes.keep_directory(old, name)
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
                    if _has_upload(node):
                        return False
                    version = node.version
                    if version is None:
                        raise PosixError(errno.ENOENT)
                    stored = node.attrs.copy() if node.attrs is not None else None
                    moved = await self._copy_file(node, version, target, target_key, no_replace)
                    # In the step in which the old target loses the name, so that nobody finds neither.
                    self._moved(node, new, new_name, moved, stored)
                    try:
                        await self.changes.deletes.now(source_key, version)
                    except OssfsError:
                        self._move_back(node, old, name, new, version)
                        raise
                    gone = True
                    self.lookup.memory.forget(source_key)
            finally:
                old.cache.left(name, gone=gone)
            self.changes.entry_changed(old)
            self.changes.entry_changed(new)
            node.renamed_ns = self.ctx.wall_ns()
            return True

    def _moved(self, node: FileNode, new: DirNode, name: str, version: Version, stored: Attrs | None) -> None:
        there = new.children.get(name)
        if there is not None:
            self.lookup.supersede(there)
        self.ctx.inodes.move(node, new, name)
        kind = node.object_type
        note_version(self.ctx, node, version)
        if kind == SYMLINK:
            node.object_type = kind
            new.cache.forget(name)  # the next listing shows it as what it is
            self._forget_target(node)
        if node.writer is not None:
            node.writer.base_moved(version)
            same = stored is not None and node.attrs is not None and stored.stores_as(node.attrs)
            node.writer.attrs_dirty = not same

    @staticmethod
    def _forget_target(node: FileNode) -> None:
        """A link has moved: the path from it to its target is another one."""
        node.attrs = node.target = None
        node.attrs_at = float("-inf")

    def _move_back(self, node: FileNode, old: DirNode, name: str, new: DirNode, version: Version) -> None:
        """The old name could not be removed: what the kernel knows under it stays there."""
        if node.parent is not new or name in old.children or node.writer is not None:
            return  # in use under its new name already
        new.cache.forget(node.name)
        self.ctx.inodes.move(node, old, name)
        note_version(self.ctx, node, version)

    async def _copy_file(
        self, node: FileNode, version: Version, target: FileNode | None, key: str, no_replace: bool
    ) -> Version:
        attrs = node.attrs
        if attrs is None and node.object_type != SYMLINK:
            attrs = attributes.decode(await self.ctx.store.head(version.key), self.ctx.defaults)
        kept = stored_as(node, attrs)
        pending = node.writer is not None and node.writer.attrs_dirty
        if attrs is not None and attrs.stored_mtime and not pending:
            attrs = None  # everything is in the object: COPY takes it along
        if no_replace:
            await check_absent_if_versioned(self.ctx, key)
        async with AsyncExitStack() as stack:
            if target is not None and target.parent is not None:
                # Its object is replaced in one step by the copy; who has it open keeps its bytes.
                await stack.enter_async_context(self.changes.taking_away(target))
            if node.object_type == SYMLINK:
                version, attrs = replace(version, etag=""), None  # the ETag that was shown is the target's
            made = await copy_object(
                self.ctx,
                version,
                key,
                attrs,
                write_id=new_write_id(),
                stored_as=kept,
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
        await self.changes.keep_directory(old, name)
        for directory in [node, *(n for n in self.ctx.inodes.below(node) if isinstance(n, DirNode))]:
            await self.attributes.store_if_pending(directory)
        await self._repeatedly(
            lambda: self._rename_committed(old, name, new, new_name, node, target), "uploads below it"
        )
        await self._upload_deferred(node)
        self.changes.entry_changed(old)
        self.changes.entry_changed(new)
        node.renamed_ns = self.ctx.wall_ns()

    async def _rename_committed(
        self, old: DirNode, name: str, new: DirNode, new_name: str, node: DirNode, target: Node | None
    ) -> bool:
        """Commit what is written below, and rename.

        False: the upload of another file has begun meanwhile.  An upload is bound to its key, and what was
        sent of it may be held nowhere else, so it has to be completed first.
        """
        busy = [n for n in self.ctx.inodes.below(node) if isinstance(n, FileNode) and n.writer is not None]
        async with self.changes.writers_locked(*busy):
            for file in sorted(busy, key=lambda n: n.ino):
                if file.writer is not None:
                    await file.writer.commit_locked()
            source = self.ctx.inodes.key(node)
            destination = self.ctx.inodes.child_key(new, new_name) + "/"
            async with self.ctx.keys.fence(source, destination):
                if any(_has_upload(n) for n in self.ctx.inodes.below(node)):
                    return False
                if node.parent is not old or node.name != name:
                    raise PosixError(errno.ENOENT)
                # Also where we know of no target: another machine may have made one.
                await self.changes.check_empty(destination, target if isinstance(target, DirNode) else None)
                if new_name in new.cache.leaving:
                    await self.changes.deletes.flush()  # of a file of that name, which the fence lets by
                old.cache.leave(name)
                gone = False
                try:
                    made = await self._move_prefix(source, destination, replaces=isinstance(target, DirNode))
                    if isinstance(target, DirNode) and made and destination not in made:
                        await self.ctx.store.delete(destination)  # the marker of what was replaced
                    gone = True
                finally:
                    old.cache.left(name, gone=gone)
                    self.lookup.flat.moved()
                if isinstance(target, DirNode) and target.parent is not None:
                    self.ctx.inodes.detach(target)
                elif new.children.get(new_name) is not None:
                    self.lookup.supersede(new.children[new_name])
                self.ctx.inodes.move(node, new, new_name)
                new.cache.set(new_name, None, trio.current_time())
                self._moved_below(node, source, destination, made)
        return True

    async def _upload_deferred(self, directory: DirNode) -> None:
        """Files closed while the rename began: after a crash they would come back under the old name."""
        for file in list(self.ctx.inodes.below(directory)):
            if isinstance(file, FileNode) and file.writer is not None and file.writer.entry is not None:
                async with file.writer.lock:
                    try:
                        await file.writer.commit_locked()
                    except OssfsError as error:
                        log.warning("%s: %s", file.path(), error)  # it is tried again

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
                if child.object_type == SYMLINK:
                    self._forget_target(child)

    async def _move_prefix(self, source: str, destination: str, *, replaces: bool) -> dict[str, Version]:
        """Copy all keys below *source*, look again until nothing changed meanwhile, then delete.

        Raw keys are copied, also those that no path can show.  On an error only our own copies are
        removed; the sources are untouched.  Returns the copies by their key.

        A copy never replaces what another machine has put there: two that rename to one name would each
        take the copies of the other for its own, and remove them when its sources are gone.

        replaces: an empty directory is in the way; after an error it is still there, with a marker.
        """
        copied: dict[str, ListedObject] = {}
        made: dict[str, Version] = {}
        try:
            while True:
                found = await self.list_all(source)
                fresh = [o for o in found if not _same(copied.get(o.key), o)]
                if not fresh:
                    break
                archived = [o for o in fresh if is_archived(o.storage_class)]
                if archived and not copied:
                    raise ObjectArchived(
                        "an archived object cannot be copied", operation="CopyObject", key=archived[0].key
                    )
                replaceable = {source, *copied} if replaces else set(copied)
                await self._copy_batch(fresh, source, destination, copied, made, replaceable)
            if not found:
                raise PosixError(errno.ENOENT, "another machine has removed or renamed it")
        except BaseException:
            with trio.CancelScope(shield=True):
                ours = [destination + k[len(source) :] for k in copied if not (replaces and k == source)]
                await self._remove([made[key] for key in ours], quiet=True)
            raise
        gone = set(copied) - {o.key for o in found}
        await self._remove([made[destination + k[len(source) :]] for k in gone], quiet=True)
        await self._remove([_version(o) for o in found], quiet=False)
        return made

    async def _copy_batch(
        self,
        objects: list[ListedObject],
        source: str,
        destination: str,
        copied: dict[str, ListedObject],
        made: dict[str, Version],
        replaceable: set[str],
    ) -> None:
        done = 0

        async def one(obj: ListedObject) -> None:
            nonlocal done
            key = destination + obj.key[len(source) :]
            check_key(key)
            version = _version(obj)
            fresh = obj.key not in replaceable
            try:
                if fresh:
                    await check_absent_if_versioned(self.ctx, key)
                result = await copy_object(
                    self.ctx,
                    version,
                    key,
                    None,
                    write_id=new_write_id(),
                    # A listing does not say how it is encrypted: then as what this mount writes.
                    stored_as=replace(self.ctx.config.written, storage_class=obj.storage_class, acl=None),
                    forbid_overwrite=fresh and not self.ctx.config.versioned,
                )
            except AlreadyExists:
                raise PosixError(errno.ENOTEMPTY, f"another machine has made {key}") from None
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

    async def _remove(self, versions: list[Version], *, quiet: bool) -> None:
        """Delete in batches.  quiet: failures are logged, since nothing is lost by what stays."""
        size = limits.DELETE_BATCH
        batches = [versions[i : i + size] for i in range(0, len(versions), size)]

        async def remove(batch: list[Version]) -> None:
            try:
                await self.changes.deletes.all_now(batch)
            except OssfsError as error:
                if not quiet:
                    raise
                log.warning("could not be removed: %s", error)

        await run_all(PARALLEL_DELETES, [lambda b=b: remove(b) for b in batches])  # type: ignore[misc]


def _has_upload(node: Node) -> bool:
    return isinstance(node, FileNode) and node.writer is not None and node.writer.has_upload


def _version(listed_now: ListedObject) -> Version:
    return Version(listed_now.key, listed_now.etag, listed_now.size, None, listed_now.last_modified)


def _same(copied: ListedObject | None, listed_now: ListedObject) -> bool:
    """Is this key, as it is listed now, the version that was copied?"""
    return (
        copied is not None
        and copied.etag == listed_now.etag
        and copied.size == listed_now.size
        and copied.last_modified == listed_now.last_modified
    )
