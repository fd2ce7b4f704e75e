"""What is under a name: from listings, and from HEADs where a directory is too large to be listed for it.

Threading: trio thread only.

The first miss in a directory fetches one page of its listing: if that is all, the directory is
complete, and further names cost nothing.  In a larger directory a miss is one HEAD and one LIST at the
same time; who looks names up in the order of a listing has a page of it fetched instead.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import replace

import trio

from ossfs.errors import DanglingSymlink, NotFound
from ossfs.fs import attrs as attributes
from ossfs.fs.attrs import Attrs
from ossfs.fs.context import Context, run_all
from ossfs.fs.dircache import ABSENT, Absent, Known
from ossfs.fs.inodes import DirNode
from ossfs.fs.links import SYMLINK
from ossfs.fs.meta import NEAR, Metadata
from ossfs.fs.names import showable
from ossfs.limits import LIST_PAGE
from ossfs.store.base import ListedObject, ListPage, ObjectInfo


class Resolver:
    """Names of directories, and the markers that listings show on the way."""

    def __init__(self, ctx: Context, meta: Metadata) -> None:
        self.ctx = ctx
        self.meta = meta
        self.root_attrs = attributes.new(
            stat.S_IFDIR, ctx.config.dir_mode, ctx.config.uid, ctx.config.gid, ctx.wall_ns()
        )
        self.root_attrs.listed = ctx.config.attrs_list
        self._asking: dict[int, trio.Lock] = {}

    async def resolve(self, parent: DirNode, name: str) -> Known | Absent:
        config = self.ctx.config
        cache = parent.cache
        known = cache.find(name, trio.current_time(), config.ttl, config.negative_ttl)
        if known is not None:
            return known
        async with self.one_at_a_time(parent):
            now = trio.current_time()
            known = cache.find(name, now, config.ttl, config.negative_ttl)
            if known is not None:
                return known
            if cache.more_at is None or now - cache.more_at >= config.ttl * 12:
                page, sure = await self.first_page(parent)
                found = cache.find(name, now, config.ttl, config.negative_ttl)
                if found is not None:
                    return found
                if page.next_marker is None and sure:
                    return ABSENT
            found = await self._page_from(parent, name)
            if found is not None:
                return found
        return await self._ask(parent, name)

    def one_at_a_time(self, parent: DirNode) -> OneAtATime:
        """One listing of a directory at a time: who comes second finds what the first has learnt."""
        return OneAtATime(self._asking, parent.ino)

    async def _page_from(self, parent: DirNode, name: str) -> Known | Absent | None:
        """In a large directory, for who looks names up in the order of its listing: the page from *name* on.

        One request then answers for a thousand names.  None: nobody walks along the listing.
        """
        order = parent.order
        at = order.index.get(name) if order is not None else None
        if order is None or at is None:
            return None
        steps, order.looked = at - order.looked, at
        if not 0 < steps <= NEAR:
            return None
        cache, prefix = parent.cache, self.ctx.inodes.key(parent)
        marker = ""
        if at > 0:
            before, known = order.entries[at - 1]
            marker = prefix + before + ("/" if known.obj is None else "")
        asked = trio.current_time()
        token = cache.begin()
        try:
            page = await self.ctx.store.list(prefix, delimiter="/", marker=marker, max_keys=LIST_PAGE)
            await self.meta.recall(page.objects)
            cache.merge(self.names_of(parent, page, prefix), asked, token, complete=False)
            found = cache.entries.get(name)
            if name in cache.leaving or (found is None and cache.touched_since(name, token)):
                return ABSENT
            return found if found is not None and found.at >= asked else None
        finally:
            cache.end(token)

    async def first_page(self, parent: DirNode) -> tuple[ListPage, bool]:
        """One page of a directory: all of it, or a sign that it is large; and whether it proves absences."""
        cache = parent.cache
        prefix = self.ctx.inodes.key(parent)
        at = trio.current_time()
        token = cache.begin()
        try:
            page = await self.ctx.store.list(prefix, delimiter="/", max_keys=LIST_PAGE)
            await self.meta.recall(page.objects)
            complete = page.next_marker is None
            self.note_marker(parent, page, prefix, at)
            cache.merge(self.names_of(parent, page, prefix), at, token, complete=complete)
            if not complete:
                cache.more_at = at
            return page, not cache.forgot_since(token)
        finally:
            cache.end(token)

    def note_marker(self, parent: DirNode, page: ListPage, prefix: str, at: float) -> None:
        """The first page of a listing shows the directory's own marker, if there is one."""
        if prefix:
            first = page.objects[0] if page.objects else None
            self.marker_seen(parent, first if first is not None and first.key == prefix else None, at)

    def marker_seen(self, parent: DirNode, marker: ListedObject | None, at: float) -> None:
        """A listing that was asked for at time *at* shows the directory's marker, or that there is none."""
        if parent.marker_at > at or parent.pending:
            return
        parent.marker = marker if marker is not None else False
        parent.marker_at = at
        if marker is None:
            parent.attrs = self.implicit_attrs()
            parent.attrs_at = at
            return
        remembered = self.meta.memory.get(marker)
        if remembered is not None:
            parent.attrs = with_later_ctime(remembered, parent.attrs)
            parent.attrs_at = at

    def names_of(
        self, parent: DirNode, page: ListPage, prefix: str
    ) -> Iterator[tuple[str, ListedObject | None]]:
        """The entries of a page by name.  A directory hides a file of the same name."""
        in_root = parent is self.ctx.inodes.root
        cut = len(prefix)
        hidden = page.undecodable
        directories = set()
        for sub in page.prefixes:
            name = sub[cut:-1]
            if showable(name, in_root=in_root):
                directories.add(name)
                yield name, None
            else:
                hidden += 1
        for obj in page.objects:
            name = obj.key[cut:]
            if name in directories:
                hidden += 1
            elif showable(name, in_root=in_root):
                yield name, obj
            elif name:
                hidden += 1
        if hidden:
            self.ctx.metrics.count("keys_hidden", hidden)

    async def _ask(self, parent: DirNode, name: str) -> Known | Absent:
        """HEAD `key` and LIST `key/` at the same time: the way in a large directory.

        With attrs=list the HEAD is a LIST, too.
        """
        cache = parent.cache
        key = self.ctx.inodes.child_key(parent, name)
        at = trio.current_time()
        obj: ListedObject | None = None
        is_dir = False
        token = cache.begin()

        async def head() -> None:
            nonlocal obj
            if self.ctx.config.attrs_list:
                obj = await self.listed_now(key)
                return
            try:
                info = await self.ctx.store.head(key)
            except DanglingSymlink:
                obj = await self.listed_now(key)
                return
            except NotFound:
                return
            if info.object_type == SYMLINK:
                obj = await self.listed_now(key)  # what the HEAD says is the target's
                return
            obj = listed(info)
            self.meta.learn(obj, attributes.decode(info, self.ctx.defaults), info)

        async def listing() -> None:
            nonlocal is_dir
            page = await self.ctx.store.list(key + "/", max_keys=1)
            is_dir = bool(page.objects or page.prefixes)

        try:
            await run_all(2, [head, listing])
            if cache.touched_since(name, token):
                known = cache.entries.get(name)
                return ABSENT if known is None or name in cache.leaving else known
            if is_dir:
                cache.merge([(name, None)], at, token, complete=False)
            elif obj is not None:
                cache.merge([(name, obj)], at, token, complete=False)
            else:
                cache.absent(name, token)
                return ABSENT
        finally:
            cache.end(token)
        return cache.entries[name]

    def implicit_attrs(self) -> Attrs:
        """Of a directory that no marker describes."""
        return self.root_attrs.copy()

    async def listed_now(self, key: str) -> ListedObject | None:
        """The object of this very key, by a LIST: no key with this prefix comes before it."""
        page = await self.ctx.store.list(key, max_keys=1)
        return page.objects[0] if page.objects and page.objects[0].key == key else None


class OneAtATime:
    """One request at a time for one inode; the lock goes when nobody needs it."""

    def __init__(self, table: dict[int, trio.Lock], ino: int) -> None:
        self._table, self._ino = table, ino
        self._lock = table.setdefault(ino, trio.Lock())

    async def __aenter__(self) -> None:
        await self._lock.acquire()

    async def __aexit__(self, *exc: object) -> None:
        self._lock.release()
        if not self._lock.locked() and self._table.get(self._ino) is self._lock:
            del self._table[self._ino]


def with_later_ctime(found: Attrs, known: Attrs | None) -> Attrs:
    """What the bucket says; a change to the same values moves the ctime here only, and it never goes back."""
    if known is not None and known.ctime_ns > found.ctime_ns and _shown(known) == _shown(found):
        return replace(found, ctime_ns=known.ctime_ns)
    return found


def _shown(attrs: Attrs) -> tuple[object, ...]:
    return attrs.mode, attrs.uid, attrs.gid, attrs.mtime_ns, attrs.atime_ns, attrs.xattrs


def listed(info: ObjectInfo) -> ListedObject:
    """An object as a listing would show it."""
    return ListedObject(
        info.key, info.size, info.etag, info.last_modified, info.object_type, info.storage_class
    )
