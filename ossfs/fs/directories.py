"""Reading directories: snapshots that readdir offsets index, filled from listings page by page.

Threading: trio thread only.

A snapshot is append-only.  While it is read, names that this mount removes are left out, and names
that only this mount has are put in; everything else is what the bucket answered.
"""

from __future__ import annotations

import trio

from ossfs.fs.dircache import Known
from ossfs.fs.handles import DirHandle
from ossfs.fs.inodes import DirNode, FileNode, Node
from ossfs.fs.links import SYMLINK
from ossfs.fs.lookup import Lookup
from ossfs.fs.meta import Order
from ossfs.fs.names import showable
from ossfs.fs.stats import SYMLINK_SIZES
from ossfs.limits import LIST_PAGE
from ossfs.store.base import ListedObject

CACHED_NAMES = 200_000
"""Directories with more entries than this are streamed, not kept."""
BEHIND = 50_000
"""Entries of a streamed directory that are kept behind the reader, who may seek back a little."""
_FREED = ("", Known(None, float("-inf")))


class Directories:
    """Fills the snapshots of open directories."""

    def __init__(self, lookup: Lookup) -> None:
        self.ctx = lookup.ctx
        self.lookup = lookup

    async def read_dir(self, handle: DirHandle, offset: int) -> bool:
        """Make sure that entry *offset* of the snapshot is there.  False: the directory ends before it."""
        if offset == 0 and handle.entries and handle.complete:
            handle.restart()
        if offset < handle.freed:
            handle.restart()  # seekdir far back: the directory is listed again up to there
        while offset >= len(handle.entries):
            if handle.complete:
                return False
            first = len(handle.entries)
            await self._next_page(handle)
            await self._learn_types([known.obj for _, known in handle.entries[first:] if known.obj])
        self._free(handle, offset)
        return True

    async def _learn_types(self, objects: list[ListedObject]) -> None:
        """What readdir says of an entry's type cannot be corrected later.

        Of native symlinks it is always right.  Links and special files of ossfs are ordinary objects, small
        or empty ones: to tell them from files takes a HEAD for each such object, so that is on request only.
        """
        await self.lookup.links.learn(objects, quiet=True)
        if self.ctx.config.exact_types:
            small = (obj for obj in objects if obj.size in SYMLINK_SIZES and obj.etag)
            await self.lookup.meta.ask_all(obj for obj in small if obj.object_type != SYMLINK)

    def _free(self, handle: DirHandle, offset: int) -> None:
        """Let go of what was read long ago of a directory that is too large to be kept."""
        upto = offset - BEHIND
        if handle.mergeable or upto - handle.freed < LIST_PAGE:
            return
        for index in range(handle.freed, upto):
            handle.names.pop(handle.entries[index][0], None)
            handle.entries[index] = _FREED
        handle.freed = upto

    async def _next_page(self, handle: DirHandle) -> None:
        parent, cache = handle.node, handle.node.cache
        now = trio.current_time()
        if handle.token is None:
            self._start_snapshot(handle, now)
            if cache.complete(now, self._believed(parent)):
                for name, known in cache.entries.items():
                    self._emit(handle, name, known)
                handle.complete = True
                return
            self.lookup.flat.listing(parent)
            walked = await self.lookup.flat.find(parent)
            if walked is not None:
                self._from_walk(handle, *walked)
                return
            if parent.detached and parent is not self.ctx.inodes.root:
                handle.complete = True
                return
        assert handle.token is not None
        prefix = self.ctx.inodes.key(parent)
        first = handle.marker is None
        asked = trio.current_time()  # not when the first page was: a long listing is not old when it ends
        page = await self.ctx.store.list(
            prefix, delimiter="/", marker=handle.marker or "", max_keys=LIST_PAGE
        )
        await self.lookup.meta.recall(page.objects)
        if first:
            self.lookup.names.note_marker(parent, page, prefix, handle.began_at)
        found = list(self.lookup.names.names_of(parent, page, prefix))
        if len(handle.entries) > CACHED_NAMES:
            handle.mergeable = False
            parent.order = None
        if handle.mergeable:
            cache.merge(found, asked, handle.token, complete=False)
        for name, obj in found:
            if name in cache.leaving:
                continue
            if cache.touched_since(name, handle.token):
                changed = cache.entries.get(name)
                if changed is not None:
                    self._emit(handle, name, changed)
            else:
                self._emit(handle, name, Known(obj, asked))
        if page.next_marker is None:
            if handle.mergeable:
                everything = [(n, k.obj) for n, k in handle.entries if n not in handle.unborn]
                cache.merge(everything, handle.began_at, handle.token, complete=True)
            handle.complete = True
        else:
            handle.marker = page.next_marker

    def _believed(self, parent: DirNode) -> float:
        """How old a complete listing may be that answers an opendir, in seconds.

        Who walks a large directory needs its entries for a while: if they grew too old half way, they
        would be asked for by name, and once more in pages.
        """
        ttl = self.ctx.config.ttl
        return ttl if len(parent.cache.entries) <= LIST_PAGE else ttl / 2

    def _from_walk(
        self,
        handle: DirHandle,
        names: dict[str, ListedObject | None],
        marker: ListedObject | None,
        asked: float,
    ) -> None:
        """All entries, from a listing of the whole subtree."""
        assert handle.token is not None
        parent = handle.node
        in_root = parent is self.ctx.inodes.root
        shown = [(n, obj) for n, obj in names.items() if showable(n, in_root=in_root)]
        if len(shown) < len(names):
            self.ctx.metrics.count("keys_hidden", len(names) - len(shown))
        self.lookup.names.marker_seen(parent, marker, asked)
        parent.cache.merge(shown, asked, handle.token, complete=True)
        for name, known in parent.cache.entries.items():
            if name not in parent.cache.leaving:
                self._emit(handle, name, known)
        handle.complete = True

    def _start_snapshot(self, handle: DirHandle, now: float) -> None:
        handle.token = handle.node.cache.begin()
        handle.began_at = now
        handle.node.order = Order(handle.entries, handle.names)
        # What the bucket does not have yet, and directories that it has only for the sake of that.
        for node in self.ctx.unborn:
            child: Node = node
            while child.parent is not None and child.parent is not handle.node:
                child = child.parent
            if child.parent is None or handle.node.children.get(child.name) is not child:
                continue
            if isinstance(child, FileNode):
                placeholder = ListedObject(self.ctx.inodes.key(child), child.size, "", 0)
                self._emit(handle, child.name, Known(placeholder, now))
            elif child.name not in handle.node.cache.leaving:
                self._emit(handle, child.name, Known(None, now))
            else:
                continue
            handle.unborn.add(child.name)

    def _emit(self, handle: DirHandle, name: str, known: Known) -> None:
        handle.unborn.discard(name)
        index = handle.names.get(name)
        if index is None:
            handle.names[name] = len(handle.entries)
            handle.entries.append((name, known))
        elif known.obj is None or not handle.entries[index][1].obj:
            handle.entries[index] = (name, Known(None, known.at))

    def entry(self, handle: DirHandle, name: str, known: Known) -> Node | None:
        """The inode for an entry of a snapshot; None when it has gone since."""
        parent = handle.node
        child = parent.children.get(name)
        if isinstance(child, FileNode) and child.local:
            return child
        if name in parent.cache.leaving:
            return None
        current = parent.cache.entries.get(name)
        if current is not None and current.at >= known.at:
            known = current
        elif known.obj is not None and not known.obj.etag:
            return None  # was only here, and is gone
        elif current is None and handle.token is not None and parent.cache.touched_since(name, handle.token):
            return None  # removed after the snapshot was taken
        return self.lookup.node_for(parent, name, known)
