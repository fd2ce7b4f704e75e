"""From names to inodes: lookups, attributes and listings.  Nothing here changes the bucket.

Threading: trio thread only.

Names are answered from what is known of their directory (dircache.py), or asked for (resolve.py).

Listings carry neither mode nor type.  An entry whose attributes are unknown is answered at once as
a regular file with an attribute timeout of zero; the kernel then sends GETATTR, which runs side by
side where LOOKUPs queue, and there the HEAD is sent.  If it turns out to be something else, the
inode is forgotten and ESTALE makes the kernel look up again.  Entries of up to 4095 bytes may be the
symlinks of ossfs 1.x, which the kernel follows without a GETATTR: their LOOKUP waits for the HEAD.
"""

from __future__ import annotations

import errno
import logging
import stat

import trio

from ossfs.errors import NotFound, PosixError
from ossfs.fs import attrs as attributes
from ossfs.fs import ranges
from ossfs.fs.context import Context
from ossfs.fs.dircache import ABSENT, Absent, Known
from ossfs.fs.flat import FlatListings
from ossfs.fs.inodes import DirNode, FileNode, Node, Version
from ossfs.fs.links import SYMLINK, NativeLinks
from ossfs.fs.listed import ListedAttributes
from ossfs.fs.meta import WITH_BODY, Metadata
from ossfs.fs.names import showable
from ossfs.fs.resolve import OneAtATime, Resolver, listed, with_later_ctime
from ossfs.fs.stats import SYMLINK_SIZES, Stat, stat_of
from ossfs.store.base import ListedObject, ObjectInfo

log = logging.getLogger(__name__)

LIVE_CLASSES = frozenset({"", "Standard", "IA"})
"""Storage classes that a GET may be tried on without a thought for its price or its success."""


class Lookup:
    """The reading side of the tree."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.meta = Metadata(ctx)
        self.memory = self.meta.memory
        self.flat = FlatListings(ctx, self.meta)
        if ctx.config.attrs_list:
            self.memory = self.meta.memory = ListedAttributes(ctx.defaults)
        self.links = NativeLinks(ctx)
        self.names = Resolver(ctx, self.meta)
        self._fetching: dict[int, trio.Lock] = {}

    # -- inodes

    def node(self, ino: int) -> Node:
        """Raises ESTALE for a number that is not in use: the kernel looks up again."""
        node = self.ctx.inodes.get(ino)
        if node is None:
            raise PosixError(errno.ESTALE, f"inode {ino}")
        return node

    def directory(self, ino: int) -> DirNode:
        """The same, for a directory.  Raises ENOTDIR."""
        node = self.node(ino)
        if not isinstance(node, DirNode):
            raise PosixError(errno.ENOTDIR)
        return node

    def file(self, ino: int) -> FileNode:
        """The same, for anything but a directory.  Raises EISDIR."""
        node = self.node(ino)
        if not isinstance(node, FileNode):
            raise PosixError(errno.EISDIR)
        return node

    def supersede(self, node: Node) -> None:
        """The name stands for something else now: the next lookup gives it another inode."""
        self.ctx.inodes.detach(node)

    def forsake(self, node: FileNode) -> None:
        """The writer of this file has failed: the name shows what the bucket has from now on."""
        if node.writer is not None:
            node.writer.forsake()
        if node.parent is not None:
            node.parent.cache.forget(node.name)
            self.supersede(node)

    # -- lookup

    async def lookup(self, parent: DirNode, name: str) -> Node:
        """The inode of *name*.  Raises ENOENT."""
        if not showable(name, in_root=parent is self.ctx.inodes.root):
            raise PosixError(errno.ENOENT)
        if name.startswith("\\") and self.ctx.inodes.child_key(parent, name) == name:
            raise PosixError(errno.ENOENT, "no key begins with a backslash")
        for _ in range(5):
            child = parent.children.get(name)
            if isinstance(child, FileNode) and child.writer is not None and child.writer.given_up:
                self.forsake(child)
                child = None
            if isinstance(child, FileNode) and child.local:
                return child
            known = await self.names.resolve(parent, name)
            child = parent.children.get(name)  # may be another after the wait
            if isinstance(child, FileNode) and child.local:
                return child
            if isinstance(known, Absent):
                if name in parent.cache.leaving:
                    raise PosixError(errno.ENOENT)  # a rename may still need the inode
                if isinstance(child, DirNode) and self._holds_local_state(child):
                    return child
                if child is not None:
                    self.supersede(child)
                raise PosixError(errno.ENOENT)
            node = self.node_for(parent, name, known)
            if (
                isinstance(node, FileNode)
                and node.attrs is None
                and (node.size in SYMLINK_SIZES or node.object_type == "Symlink")
            ):
                try:
                    await self.refresh(node)
                except PosixError as error:
                    if error.errno in (errno.ESTALE, errno.ENOENT):
                        continue
                    raise
            return node
        raise PosixError(errno.ENOENT, "the name changes faster than it can be looked up")

    def _holds_local_state(self, directory: DirNode) -> bool:
        return any(isinstance(n, FileNode) and n.local for n in self.ctx.inodes.below(directory))

    def node_for(self, parent: DirNode, name: str, known: Known) -> Node:
        """The inode for what a listing or HEAD said is there.  No await: see inodes.py."""
        child = parent.children.get(name)
        inodes = self.ctx.inodes
        if known.obj is None:
            if isinstance(child, DirNode):
                return child
            if child is not None:
                self.supersede(child)
            return inodes.new_dir(parent, name)
        obj = known.obj
        if isinstance(child, FileNode):
            if child.local:
                return child
            version = child.version
            retyped = child.nlookup > 0 and child.kind != stat.S_IFLNK and self.links.path(obj) is not None
            if version is not None and version.etag == obj.etag and version.size == obj.size and not retyped:
                if version.last_modified != obj.last_modified and known.at > child.attrs_at:
                    child.attrs = None  # somebody's chmod: the same bytes with other headers
                    child.attrs_at = float("-inf")
                    child.version = Version(
                        version.key, version.etag, version.size, version.crc64, obj.last_modified
                    )
                if child.attrs is None:
                    self._remembered(child, known)
                elif known.at > child.attrs_at:
                    self._confirm(child, known.at, obj)
                return child
            if known.at < child.attrs_at and not retyped:
                return child  # an older answer than what the inode knows
        if child is not None:
            self.supersede(child)
        node = inodes.new_file(parent, name)
        node.version = Version(obj.key, obj.etag, obj.size, None, obj.last_modified)
        node.size = obj.size
        node.object_type = obj.object_type
        node.storage_class = obj.storage_class
        self._remembered(node, known)
        return node

    def _remembered(self, node: FileNode, known: Known) -> None:
        assert known.obj is not None
        attrs = self.links.attrs(known.obj)
        if attrs is not None:
            node.target = self.links.path(known.obj)
        elif known.obj.object_type != SYMLINK or not self.ctx.config.attrs_list:
            attrs = self.memory.get(known.obj)
        if attrs is not None:
            self.ctx.metrics.count("attrs.hits")
            node.attrs = attrs
            node.kind = attrs.kind
            node.attrs_at = known.at

    # -- attributes

    async def refresh(self, node: FileNode) -> None:
        """Learn the attributes of this file, from memory or from the bucket.

        Raises ENOENT when it is gone, ESTALE when the name holds another version or type now: in both
        cases the inode has lost its name.
        """
        parent = node.parent
        if parent is not None and parent.order is not None:
            self.meta.walked(parent.order, node.name)
        async with OneAtATime(self._fetching, node.ino):
            if node.attrs is not None and self.fresh(node):
                return
            if node.object_type == SYMLINK and await self._refresh_link(node):
                return
            known = node.attrs is None and await self._from_memory(node)
            known = known or (node.attrs is not None and self._confirmed(node))
            self.ctx.metrics.count("attrs.hits" if known else "attrs.misses")
            if known:
                return
            if self.ctx.config.attrs_list and node.object_type != SYMLINK:
                await self._refresh_by_listing(node)
                return
            with_body = parent is not None and parent.reads > 0 and self._small(node)
            if with_body and parent is not None:
                parent.reads -= 1
            await self._refresh(node, with_body=with_body, for_attributes=True)

    async def _from_memory(self, node: FileNode) -> bool:
        """Did a HEAD that was sent ahead bring the attributes of the listed version?"""
        if node.parent is None or node.version is None:
            return False
        known = node.parent.cache.entries.get(node.name)
        if known is None or known.obj is None or known.obj.etag != node.version.etag:
            return False
        key, changes = known.obj.key, node.changes
        await self.meta.under_way(key)
        if node.changes != changes or node.parent is None:
            return False
        attrs = self.memory.get(known.obj)
        if attrs is None:
            return False
        if attrs.kind != node.kind and node.nlookup:
            self.supersede(node)
            raise PosixError(errno.ESTALE, key)
        node.attrs, node.kind, node.attrs_at = attrs, attrs.kind, known.at
        return True

    def _confirmed(self, node: FileNode) -> bool:
        """Does a listing that is younger than the attributes show the same version, unchanged?

        The kernel lets attributes go a moment before the name, and asks then without a lookup.
        """
        known = node.parent.cache.entries.get(node.name) if node.parent is not None else None
        version = node.version
        if known is None or known.obj is None or version is None:
            return False
        obj, ttl = known.obj, self.ctx.config.ttl
        if (obj.etag, obj.last_modified) != (version.etag, version.last_modified):
            return False
        if known.at <= node.attrs_at or trio.current_time() - known.at >= ttl:
            return False
        return self._confirm(node, known.at, obj)

    def _confirm(self, node: FileNode, at: float, obj: ListedObject) -> bool:
        """A listing of time *at* shows this object: are its attributes known for certain?

        The same second is no proof: somebody's chmod may have come within it.  Then a HEAD of a later one,
        which may have been sent ahead, knows better than the inode.
        """
        seen = self.memory.seen(obj)
        if seen is None or seen.kind != node.kind:
            return False
        if node.attrs is not None and node.attrs.listed:
            node.attrs_at = at  # what an open learnt to carry along stays
            return True
        if seen != node.attrs:
            node.attrs = with_later_ctime(seen.copy(), node.attrs)
        node.attrs_at = at
        return True

    def _small(self, node: FileNode) -> bool:
        return node.size <= WITH_BODY and self._readable(node)

    def _readable(self, node: FileNode) -> bool:
        return (
            node.size > 0
            and node.storage_class in LIVE_CLASSES
            and node.object_type in ("Normal", "Multipart")
        )

    async def revalidate(
        self, node: FileNode, within: float = 0.0, *, for_reading: bool = False, truncating: bool = False
    ) -> None:
        """Ask the bucket about a file that is being opened.

        for_reading: the first bytes come along.  A stat less than *within* seconds ago that brought all
        bytes, or before a truncation, counts as the answer, once: two opens ask twice.
        """
        asked, node.validated_at = node.validated_at, float("-inf")
        parent = node.parent
        if node.attrs is not None and trio.current_time() - asked < within:
            if for_reading and parent is not None and self._small(node):
                parent.reads = min(parent.reads + 2, 64)
            if (truncating and not self.ctx.config.attrs_list) or (for_reading and node.body is not None):
                return
        with_body = for_reading and self._readable(node)
        async with OneAtATime(self._fetching, node.ino):
            listing = self.ctx.config.attrs_list and for_reading and not with_body
            if listing and node.object_type != SYMLINK:
                await self._refresh_by_listing(node, fresh=True)
            else:
                await self._refresh(node, with_body=with_body, fresh=True, for_attributes=for_reading)
            node.validated_at = float("-inf")

    async def _refresh(
        self, node: FileNode, *, with_body: bool = False, fresh: bool = False, for_attributes: bool = False
    ) -> None:
        if with_body and await ranges.on_disk(self.ctx, node.version, min(node.size, WITH_BODY)):
            with_body = False  # a HEAD says whether they are still the right ones
        parent = node.parent
        if parent is None:
            raise PosixError(errno.ESTALE)
        key = self.ctx.inodes.key(node)
        changes, at = node.changes, trio.current_time()
        body = None
        try:
            if with_body:
                info, body = await self.meta.first_bytes(key)
            elif self.ctx.config.attrs_list and for_attributes:
                info = await self.meta.glance(key)
            else:
                info = await self.meta.head(key, fresh=fresh)
        except NotFound:
            if node.changes != changes or node.local:
                return
            parent.cache.forget(node.name)
            self.memory.forget(key)
            self.supersede(node)
            raise PosixError(errno.ENOENT) from None
        if node.changes != changes or node.local:
            return  # what we did meanwhile is younger than this answer
        self.apply(node, info, at)
        if body is not None and self.ctx.inodes.get(node.ino) is node:
            self.ctx.bodies.put(node, body)
            assert node.version is not None
            ranges.keep(self.ctx, node.version, 0, body)

    async def _refresh_link(self, node: FileNode) -> bool:
        """A native symlink: is it shown as a link?  Then its attributes are what a listing says."""
        parent = node.parent
        if parent is None:
            raise PosixError(errno.ESTALE)
        changes = node.changes
        known = await self.names.resolve(parent, node.name)
        if isinstance(known, Known) and known.obj is not None:
            await self.links.learn([known.obj])
        if node.changes != changes or node.parent is None:
            raise PosixError(errno.ESTALE)
        if isinstance(known, Absent):
            self.supersede(node)
            raise PosixError(errno.ENOENT)
        shown = self.links.attrs(known.obj) if known.obj is not None else None
        if shown is None and node.kind != stat.S_IFLNK:
            return False
        if self.node_for(parent, node.name, known) is not node or shown is None:
            if node.parent is not None:
                self.supersede(node)
            raise PosixError(errno.ESTALE)
        assert known.obj is not None
        node.attrs, node.kind, node.attrs_at = shown, stat.S_IFLNK, known.at
        node.target = self.links.path(known.obj)
        return True

    async def _refresh_by_listing(self, node: FileNode, *, fresh: bool = False) -> None:
        """_refresh without a HEAD.  fresh: the answer must be younger than this call."""
        parent = node.parent
        if parent is None:
            raise PosixError(errno.ESTALE)
        changes, at = node.changes, trio.current_time()
        known: Known | Absent
        if fresh:
            key = self.ctx.inodes.key(node)
            obj = await self.names.listed_now(key)
            known = Known(obj, at) if obj is not None else ABSENT
        else:
            known = await self.names.resolve(parent, node.name)
        if node.changes != changes or node.local:
            return
        if isinstance(known, Absent):
            parent.cache.forget(node.name)
            self.supersede(node)
            raise PosixError(errno.ENOENT)
        if fresh and node.name in parent.cache.entries:
            parent.cache.entries[node.name] = known
        if self.node_for(parent, node.name, known) is not node:
            raise PosixError(errno.ESTALE)

    def apply(self, node: FileNode, info: ObjectInfo, at: float) -> None:
        """Take over what a HEAD or GET said.  Raises ESTALE when it is another version or type."""
        parent = node.parent
        assert parent is not None
        attrs = attributes.decode(info, self.ctx.defaults)
        obj = listed(info)
        self.meta.learn(obj, attrs, info)
        found = Version.of(info)
        old = node.version
        same = old is None or (old.etag == found.etag and old.size == found.size) or old.same_bytes(found)
        if not same or (attrs.kind != node.kind and node.nlookup):
            parent.cache.entries[node.name] = Known(obj, at)
            self.supersede(node)
            raise PosixError(errno.ESTALE, info.key)
        if found != old:
            self.ctx.bodies.drop(node)
        elif node.attrs is not None:
            attrs.carried.acl = node.attrs.carried.acl  # no HEAD says it; a change of it moves LastModified
        node.version = found
        node.size = found.size
        node.attrs = with_later_ctime(attrs, node.attrs)
        node.kind = attrs.kind
        node.object_type = info.object_type
        node.storage_class = info.storage_class
        node.attrs_at = node.validated_at = at
        if node.name in parent.cache.entries:
            parent.cache.entries[node.name] = Known(obj, at)

    async def refresh_dir(self, node: DirNode) -> None:
        """Ask for the attributes of a directory's marker."""
        at = trio.current_time()
        removed = node.detached and node is not self.ctx.inodes.root
        key = "" if removed else self.ctx.inodes.key(node)
        if not key:
            node.attrs = node.attrs or self.names.root_attrs.copy()
            node.attrs_at = at
            return
        if self.ctx.config.attrs_list:
            stored = self.memory.get(node.marker) if isinstance(node.marker, ListedObject) else None
            node.attrs, node.attrs_at = stored or self.names.implicit_attrs(), at
            return
        changes = node.changes
        parent = node.parent
        walking = self.flat.walked(parent)
        if walking:
            self.flat.listing(node)
        walked = await self.flat.find(node)
        if walked is None and walking and node.cache.complete_at is None:
            # Somebody walks the tree, and will list it next: the listing shows the marker, too.
            async with self.names.one_at_a_time(node):
                await self.names.first_page(node)
            if node.attrs is not None and self.fresh(node):
                return
        elif walked is not None and node.changes == changes:
            _, marker, asked = walked
            self.names.marker_seen(node, marker, asked)
            if marker is not None:
                await self.meta.under_way(marker.key)
                self.names.marker_seen(node, marker, asked)
            if node.attrs is not None and self.fresh(node):
                return
        try:
            info = await self.meta.head(key)
        except NotFound:
            info = None
        if node.changes != changes:
            return
        node.attrs_at = node.marker_at = at
        if info is None:
            node.marker = False
            node.attrs = self.names.implicit_attrs()
        else:
            node.marker = listed(info)
            attrs = attributes.decode(info, self.ctx.defaults, directory=True)
            self.meta.learn(node.marker, attrs, info)
            node.attrs = with_later_ctime(attrs, node.attrs)

    def fresh(self, node: Node) -> bool:
        """Are the attributes young enough to be answered without asking?"""
        return trio.current_time() - node.attrs_at < self.ctx.config.ttl

    async def getattr(self, node: Node) -> Stat:
        """stat(2).  Raises ENOENT or ESTALE."""
        if isinstance(node, DirNode):
            if node.attrs is None or not (node.pending or self.fresh(node)):
                await self.refresh_dir(node)
            return self.stat(node)
        assert isinstance(node, FileNode)
        if node.local or node.detached:
            if node.attrs is None:
                raise PosixError(errno.ESTALE)
            return self.stat(node)
        if node.attrs is None or not self.fresh(node):
            try:
                await self.refresh(node)
            except PosixError:
                if node.handles and node.attrs is not None:
                    return self.stat(node)  # what the descriptor was opened on
                raise
        return self.stat(node)

    def stat(self, node: Node) -> Stat:
        """What is known of a node now, with the time that the kernel may believe it."""
        return stat_of(node, self.ctx.config, self.names.root_attrs)
