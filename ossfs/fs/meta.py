"""Asking the bucket about objects: HEADs that nobody asks twice, and HEADs that are sent ahead.

Threading: trio thread only; what is fetched ahead runs in background jobs.

A listing says nothing of modes and owners, so `ls -l` needs a HEAD for each file, once.  When a
program starts to stat what it listed, in the order in which it was listed, the HEADs of the entries
that follow are sent ahead, many at a time.  What they say is remembered by (key, ETag,
LastModified): as long as listings show an object unchanged, it needs no HEAD again.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import trio

from ossfs.errors import NotFound, StoreError
from ossfs.fs import attrs as attributes
from ossfs.fs.attrs import Attrs
from ossfs.fs.context import Context, run_all
from ossfs.fs.dircache import Known
from ossfs.limits import KIB
from ossfs.store.base import ListedObject, ObjectInfo

log = logging.getLogger(__name__)

MEMORY = 200_000
"""Attributes remembered, least recently used out first: some 100 MB at the most."""
SETTLED = 2
"""Seconds: times of objects have a resolution of one, so younger ones may change unseen (as in
git's index)."""
WITH_BODY = 128 * KIB
"""A GET of so much costs little more than a HEAD, and spares the next request."""
AHEAD_PARALLEL = 48
"""HEADs ahead in flight: at 15 ms some 3000 a second, which is what one core can send and parse."""
AHEAD_FIRST, AHEAD_MOST = 32, 1024
"""Entries of a listing that are asked about ahead of the walker."""
SETTLE_MOST = 10_000
"""Young objects that are looked at once more when they are older."""
NEAR = 64
"""Entries between two stats that still count as walking the listing."""


MANY_BARE = 50
"""HEADs that found nothing, from which on it is worth a line in the log."""


class AttrMemory:
    """Attributes of objects that were seen, for as long as a listing shows them unchanged."""

    def __init__(self, capacity: int = MEMORY) -> None:
        self._capacity = capacity
        self._known: OrderedDict[str, tuple[ListedObject, Attrs, bool]] = OrderedDict()

    def put(self, obj: ListedObject, attrs: Attrs, server_date: int) -> None:
        """Remember what a HEAD at *server_date* said."""
        settled = server_date - obj.last_modified >= SETTLED
        self._known[obj.key] = (obj, attrs.copy(), settled)
        self._known.move_to_end(obj.key)
        if len(self._known) > self._capacity:
            self._known.popitem(last=False)

    def get(self, obj: ListedObject) -> Attrs | None:
        """The attributes of exactly this object as it is listed, if they are known."""
        known = self._known.get(obj.key)
        if known is None:
            return None
        seen, attrs, settled = known
        if seen is obj or (settled and seen.etag == obj.etag and seen.last_modified == obj.last_modified):
            self._known.move_to_end(obj.key)
            return attrs.copy()
        return None

    def seen(self, obj: ListedObject) -> Attrs | None:
        """get, without a copy: not to be changed."""
        known = self._known.get(obj.key)
        if known is None:
            return None
        seen, attrs, settled = known
        if seen is obj or (settled and seen.etag == obj.etag and seen.last_modified == obj.last_modified):
            return attrs
        return None

    def knows(self, obj: ListedObject) -> bool:
        """Are they known?"""
        return self.seen(obj) is not None

    def unsure(self, obj: ListedObject) -> bool:
        """Is this what is known of the key, and was it too young to be believed when listed anew?"""
        known = self._known.get(obj.key)
        return known is not None and known[0] is obj and not known[2]

    def forget(self, key: str) -> None:
        """This object has changed."""
        self._known.pop(key, None)


@dataclass(eq=False)
class Order:
    """The order in which a directory was listed last, and how far somebody walks along it."""

    entries: list[tuple[str, Known]]
    index: dict[str, int]
    last: int = -1
    looked: int = -1
    """Of the last name that was looked up and not known."""
    upto: int = 0
    window: int = AHEAD_FIRST


@dataclass(eq=False)
class _Flight:
    done: trio.Event = field(default_factory=trio.Event)
    info: ObjectInfo | None = None
    error: StoreError | None = None


class Metadata:
    """What is known of objects beside their listings."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self.memory = AttrMemory()
        self._flights: dict[str, _Flight] = {}
        self._queue: deque[ListedObject] = deque()
        self._runners = 0
        self._walk: Order | None = None
        self._bare = self._stored = 0
        """Of the HEADs sent ahead in that walk: how many found no attributes, and how many did."""
        self._bare_told = False
        self._young: dict[str, ListedObject] = {}
        """Asked about ahead, while another change in the same second could still have come."""
        self._settling = False
        self._stopped = trio.Event()

    async def head(self, key: str, *, fresh: bool = False) -> ObjectInfo:
        """HEAD, shared with who asks the same at the moment.

        fresh: the answer must be younger than this call, so no earlier request is joined.
        """
        flight = None if fresh else self._flights.get(key)
        if flight is None:
            flight = _Flight()
            self._flights[key] = flight
            try:
                flight.info = await self._ctx.store.head(key)
            except StoreError as error:
                flight.error = error
            except BaseException:
                # Cancelled: who joined asks again.
                flight.error = None
                raise
            finally:
                if self._flights.get(key) is flight:
                    del self._flights[key]
                flight.done.set()
        else:
            await flight.done.wait()
            if flight.info is None and flight.error is None:
                return await self.head(key, fresh=True)
        if flight.error is not None:
            raise flight.error
        assert flight.info is not None
        return flight.info

    def learn(self, obj: ListedObject, attrs: Attrs, info: ObjectInfo) -> None:
        """Remember what a HEAD or GET said of an object, which is *attrs* here."""
        self.memory.put(obj, attrs, info.server_date)
        store = self._ctx.attr_store
        if store is not None and info.server_date - info.last_modified >= SETTLED:
            store.remember(info)

    async def recall(self, objects: Sequence[ListedObject]) -> None:
        """A page of a listing has come: what the disk remembers of it spares HEADs."""
        store = self._ctx.attr_store
        if store is None:
            return
        unknown = {obj.key: obj for obj in objects if not self.memory.knows(obj)}
        if not unknown:
            return
        for info in await store.recall(list(unknown.values())):
            obj = unknown[info.key]
            if not self.memory.knows(obj):
                attrs = attributes.decode(info, self._ctx.defaults, directory=obj.key.endswith("/"))
                self.memory.put(obj, attrs, info.server_date)

    async def under_way(self, key: str) -> None:
        """Until a HEAD of this key that is under way, if there is one, has been answered."""
        flight = self._flights.get(key)
        if flight is not None:
            await flight.done.wait()
            await trio.lowlevel.checkpoint()  # who sent it notes what it said

    async def first_bytes(self, key: str) -> tuple[ObjectInfo, bytes | None]:
        """Attributes and the first WITH_BODY bytes, in one GET; no bytes where only a HEAD succeeds."""
        buffer = bytearray(WITH_BODY)
        try:
            info, count = await self._ctx.store.get(key, memoryview(buffer))
        except NotFound:
            raise
        except StoreError:
            if self._ctx.config.attrs_list:
                raise
            return await self.head(key, fresh=True), None  # archived, say: HEAD knows more
        return info, bytes(memoryview(buffer)[:count])

    async def glance(self, key: str) -> ObjectInfo:
        """What a HEAD would say, by a GET of one byte: for mounts that send no HEAD for attributes."""
        info, _ = await self._ctx.store.get(key, memoryview(bytearray(1)))
        return info

    # -- ahead of who walks a listing

    def walked(self, order: Order, name: str) -> None:
        """Somebody stats *name*: when that follows the listing's order, ask about what comes next."""
        at = order.index.get(name)
        if at is None:
            return
        if order is not self._walk:
            self._walk, self._bare, self._stored = order, 0, 0
        steps, order.last = at - order.last, at
        if not 0 < steps <= NEAR:
            order.window = AHEAD_FIRST
            order.upto = at + 1
            return
        if at + order.window // 2 < order.upto:
            return
        start = max(order.upto, at + 1)
        order.upto = min(len(order.entries), at + 1 + order.window)
        order.window = min(order.window * 2, AHEAD_MOST)
        following = (known.obj for _, known in order.entries[start : order.upto])
        self.ask_ahead([obj for obj in following if obj is not None and obj.etag])

    def ask_ahead(self, objects: list[ListedObject]) -> None:
        """Send the HEADs of these objects that are not known yet, many at a time."""
        self._queue.extend(obj for obj in objects if not self.memory.knows(obj))
        while self._queue and self._runners < AHEAD_PARALLEL:
            self._runners += 1
            self._ctx.jobs.start(self._run_ahead)

    async def ask_all(self, objects: Iterable[ListedObject]) -> None:
        """HEADs of all these objects that are not known yet, and wait for them.

        A failure is left to who asks for that object next.
        """

        async def one(obj: ListedObject) -> None:
            try:
                self.note(obj, await self.head(obj.key))
            except StoreError:
                pass

        unknown = [obj for obj in objects if not self.memory.knows(obj)]
        if unknown:
            await run_all(AHEAD_PARALLEL, [lambda o=obj: one(o) for obj in unknown])  # type: ignore[misc]

    async def _run_ahead(self) -> None:
        try:
            while self._queue:
                obj = self._queue.popleft()
                if obj.key in self._flights or self.memory.knows(obj):
                    continue
                try:
                    info = await self.head(obj.key)
                except StoreError:
                    continue  # who really wants to know asks again, and hears of it
                self.note(obj, info)
                if attributes.has_stored(info):
                    self._stored += 1
                else:
                    self._bare += 1
        finally:
            self._runners -= 1
            if self._runners == 0:
                self._tell_of_bare()

    def _tell_of_bare(self) -> None:
        """Most of a listing was walked, and its HEADs found nothing: say once what would spare them.

        Not all of it: of the last entries the walker may ask by itself.
        """
        order = self._walk
        if self._bare_told or order is None or order.upto * 2 < len(order.entries):
            return
        if self._bare >= MANY_BARE and not self._stored:
            self._bare_told = True
            log.info(
                "%d HEADs of one directory found no attributes: if other programs fill this bucket, "
                "-o attrs=list would spare them",
                self._bare,
            )

    def note(self, obj: ListedObject, info: ObjectInfo) -> None:
        """Remember the attributes of a listed object, if *info* is of that very version."""
        if obj.etag == info.etag and obj.last_modified == info.last_modified:
            attrs = attributes.decode(info, self._ctx.defaults, directory=obj.key.endswith("/"))
            self.learn(obj, attrs, info)
            if info.server_date - info.last_modified < SETTLED:
                self._look_again(obj)

    def _look_again(self, obj: ListedObject) -> None:
        """Who lists a directory that was just filled lists it again soon: be ready for that."""
        if len(self._young) >= SETTLE_MOST or self._stopped.is_set():
            return
        self._young[obj.key] = obj
        if not self._settling:
            self._settling = True
            self._ctx.jobs.start(self._settle)

    async def _settle(self) -> None:
        try:
            while self._young and not self._stopped.is_set():
                with trio.move_on_after(SETTLED + 0.5):  # half a second for clocks that tick in between
                    await self._stopped.wait()
                young, self._young = self._young, {}
                await run_all(
                    AHEAD_PARALLEL,
                    [lambda o=obj: self._second_look(o) for obj in young.values()],  # type: ignore[misc]
                )
        finally:
            self._settling = False

    async def _second_look(self, obj: ListedObject) -> None:
        if self._stopped.is_set() or not self.memory.unsure(obj):
            return
        try:
            info = await self.head(obj.key)
        except StoreError:
            return  # who really wants to know asks again, and hears of it
        self.note(replace(obj), info)  # another object, as memory goes by identity while it is not sure

    def stop(self) -> None:
        """The mount ends: nothing more is asked ahead."""
        self._stopped.set()
        self._queue.clear()
