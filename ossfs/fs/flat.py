"""Listing a whole subtree at once, for who walks it: `find`, `du`, `rsync`.

Threading: trio thread only; the listing runs as a background job.

A walk lists one directory after another, and waits for each.  When two subdirectories of one
directory have been listed, the prefix of that directory is listed without a delimiter, a thousand
keys a page, whatever the depth; the directories below it are then answered from that.  Keys come in
byte order, so a subtree is complete as soon as a later key has been seen.  The listing stays a few
pages ahead of the walker and stops when the walker leaves.
"""

from __future__ import annotations

import trio

from ossfs.errors import PosixError, StoreError
from ossfs.fs.context import Context
from ossfs.fs.inodes import DirNode
from ossfs.fs.meta import Metadata
from ossfs.limits import LIST_PAGE
from ossfs.store.base import ListedObject

AHEAD = 8
"""Pages that are fetched beyond the directory that the walker is in."""
MOST_KEYS = 200_000
"""Of one walk, in memory."""
WAIT_PAGES = 3
"""Pages that a directory waits for; a larger one before it is better listed by itself."""
PATIENCE = 2.0
"""Seconds without the walker asking, after which it has left."""


class _Walk:
    """One listing of everything below *prefix*, from *start* on."""

    def __init__(self, prefix: str, start: str, at: float) -> None:
        self.prefix = prefix
        self.start = start
        self.at = at
        self.seen = start
        """All keys up to this one have been taken in."""
        self.complete = False
        self.failed = False
        self.stalled = False
        """Far enough ahead of the walker."""
        self.dirs: dict[str, dict[str, ListedObject | None]] = {}
        self.markers: dict[str, ListedObject] = {}
        self.stale: set[str] = set()
        self.keys = 0
        self.pages = 0
        self.used_at_page = 0
        self.progress = trio.Event()
        self.wanted = trio.Event()

    def take(self, obj: ListedObject) -> None:
        self.keys += 1
        parts = obj.key[len(self.prefix) :].split("/")
        directory = self.prefix
        for name in parts[:-1]:
            below = self.dirs.setdefault(directory, {})
            below[name] = None
            directory += name + "/"
        self.dirs.setdefault(directory, {})
        if parts[-1]:
            self.dirs[directory].setdefault(parts[-1], obj)
        else:
            self.markers[directory] = obj

    def passed(self, prefix: str) -> bool:
        """Have all keys below *prefix* been taken in?"""
        return self.complete or (self.seen > prefix and not self.seen.startswith(prefix))

    def covers(self, prefix: str) -> bool:
        return prefix.startswith(self.prefix) and prefix >= self.start


class FlatListings:
    """The walks of one mount."""

    def __init__(self, ctx: Context, meta: Metadata) -> None:
        self._ctx = ctx
        self._meta = meta
        self._walks: list[_Walk] = []
        self._ended = trio.Event()
        ctx.inodes.on_change = self.changed

    def stop(self) -> None:
        """The mount is ending."""
        self._ended.set()
        for walk in self._walks:
            walk.wanted.set()

    def changed(self, node: DirNode) -> None:
        """This mount changed an entry of *node*: what a walk says of that directory is too old."""
        if self._walks:
            try:
                prefix = self._ctx.inodes.key(node)
            except PosixError:
                return  # below a directory that is gone: nobody lists it
            for walk in self._walks:
                walk.stale.add(prefix)

    def moved(self) -> None:
        """A directory has moved: no walk knows any more what is where."""
        for walk in self._walks:
            walk.failed = True
            walk.wanted.set()
            self._tell(walk)

    def walked(self, parent: DirNode | None) -> bool:
        """Was a subdirectory of *parent* listed just now?"""
        if parent is None or parent.listed_subdir is None:
            return False
        return trio.current_time() - parent.listed_subdir[1] < self._ctx.config.ttl

    def listing(self, node: DirNode) -> None:
        """A directory is about to be listed: is somebody walking the tree?"""
        parent = node.parent
        if parent is None:
            return
        before, walked = parent.listed_subdir, self.walked(parent)
        parent.listed_subdir = (node.ino, trio.current_time())
        if not walked or before is None or before[0] == node.ino:
            return
        prefix = self._ctx.inodes.key(parent)
        here = self._ctx.inodes.key(node)
        if any(w.covers(here) and not w.failed for w in self._walks):
            return
        walk = _Walk(prefix, here, trio.current_time())
        self._walks.append(walk)
        self._ctx.jobs.start(lambda: self._run(walk))

    async def find(
        self, node: DirNode
    ) -> tuple[dict[str, ListedObject | None], ListedObject | None, float] | None:
        """(names, marker, when asked) of a directory, if a walk has it or is just about to."""
        prefix = self._ctx.inodes.key(node)
        for walk in self._walks:
            if not walk.covers(prefix):
                continue
            waited = 0
            while not (walk.passed(prefix) or walk.failed or walk.stalled) and waited < WAIT_PAGES:
                await walk.progress.wait()
                waited += 1
            if walk.failed or not walk.passed(prefix) or prefix in walk.stale or prefix not in walk.dirs:
                continue
            if trio.current_time() - walk.at >= self._ctx.config.ttl:
                continue
            walk.used_at_page = walk.pages
            walk.wanted.set()
            return walk.dirs[prefix], walk.markers.get(prefix), walk.at
        return None

    async def _run(self, walk: _Walk) -> None:
        # Keys from `start` on, `start` itself (a marker) included: a marker of a listing is exclusive.
        marker = walk.start[:-1]
        try:
            while walk.keys < MOST_KEYS:
                page = await self._ctx.store.list(walk.prefix, marker=marker, max_keys=LIST_PAGE)
                await self._meta.recall(page.objects)
                for obj in page.objects:
                    if obj.key >= walk.start:
                        walk.take(obj)
                        walk.seen = obj.key
                walk.pages += 1
                # The walker stats every directory that it enters: ask for the markers' attributes ahead.
                self._meta.ask_ahead([o for o in page.objects if o.key.endswith("/")])
                if page.undecodable:
                    return  # which directories they are in cannot be told
                if page.next_marker is None:
                    walk.complete = True
                    self._tell(walk)
                    break
                marker = page.next_marker
                self._tell(walk)
                if not await self._still_wanted(walk):
                    return
            # What is known stays until it is too old.
            with trio.move_on_after(max(0.0, walk.at + self._ctx.config.ttl - trio.current_time())):
                await self._ended.wait()
        except StoreError:
            pass  # each directory is then listed by itself, and the error told there
        finally:
            walk.failed = True
            self._tell(walk)
            self._walks.remove(walk)

    async def _still_wanted(self, walk: _Walk) -> bool:
        if walk.failed or self._ended.is_set() or trio.current_time() - walk.at >= self._ctx.config.ttl:
            return False
        while walk.pages - walk.used_at_page >= AHEAD:
            walk.wanted = trio.Event()
            walk.stalled = True
            self._tell(walk)
            with trio.move_on_after(PATIENCE) as scope:
                await walk.wanted.wait()
            walk.stalled = False
            if scope.cancelled_caught or walk.failed or self._ended.is_set():
                return False
        return True

    @staticmethod
    def _tell(walk: _Walk) -> None:
        walk.progress.set()
        walk.progress = trio.Event()
