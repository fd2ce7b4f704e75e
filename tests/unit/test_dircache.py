"""What is known of a directory's names: local changes against late answers, and ages."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from ossfs.fs.dircache import ABSENT, DirCache, Known
from ossfs.store.base import ListedObject

TTL, NEGATIVE = 5.0, 1.0


def obj(name: str, etag: str = "E") -> ListedObject:
    return ListedObject("d/" + name, 1, etag, 0)


def find(cache: DirCache, name: str, now: float) -> object:
    found = cache.find(name, now, TTL, NEGATIVE)
    return found.obj if isinstance(found, Known) else found


def listed(cache: DirCache, *names: str, at: float, complete: bool = True) -> None:
    token = cache.begin()
    cache.merge([(n, obj(n)) for n in names], at, token, complete=complete)
    cache.end(token)


# -- ages


def test_nothing_is_known_of_a_new_directory_of_others() -> None:
    assert find(DirCache(), "a", 0) is None
    assert not DirCache().complete(0, TTL)


def test_a_directory_of_our_own_is_known_to_be_empty() -> None:
    cache = DirCache(own=True, now=10)
    assert cache.complete(14.9, TTL) and not cache.complete(15, TTL)
    assert find(cache, "a", 14.9) is ABSENT
    assert find(cache, "a", 15) is None


def test_absence_in_a_directory_of_others_is_believed_shortly() -> None:
    cache = DirCache()
    listed(cache, "a", at=10)
    assert find(cache, "b", 10.9) is ABSENT
    assert find(cache, "b", 11) is None
    assert find(cache, "a", 14.9) == obj("a")
    assert find(cache, "a", 15) is None
    assert cache.complete(14.9, TTL)


def test_a_page_of_many_says_nothing_of_other_names() -> None:
    cache = DirCache()
    listed(cache, "a", at=10, complete=False)
    assert find(cache, "a", 10) == obj("a") and find(cache, "b", 10) is None


def test_a_directory_is_known_without_an_object() -> None:
    cache = DirCache()
    cache.set("sub", None, 0)
    found = cache.find("sub", 0, TTL, NEGATIVE)
    assert isinstance(found, Known) and found.obj is None


# -- local changes


def test_a_name_that_is_leaving_is_gone_whatever_a_listing_says() -> None:
    cache = DirCache()
    listed(cache, "a", at=0)
    cache.leave("a")
    assert find(cache, "a", 0) is ABSENT
    listed(cache, "a", at=0)
    assert find(cache, "a", 0) is ABSENT
    cache.left("a", gone=False)
    assert find(cache, "a", 0) == obj("a"), "the delete failed"


def test_two_operations_may_take_a_name_away() -> None:
    cache = DirCache()
    listed(cache, "a", at=0)
    cache.leave("a")
    cache.leave("a")
    cache.left("a", gone=False)
    assert find(cache, "a", 0) is ABSENT
    cache.left("a", gone=True)
    assert find(cache, "a", 0.5) is ABSENT and not cache.leaving


def test_a_late_answer_does_not_undo_a_local_change() -> None:
    cache = DirCache()
    listed(cache, "gone", "kept", at=0)
    token = cache.begin()
    cache.remove("gone")
    cache.set("new", obj("new"), 1)
    assert cache.touched_since("new", token) and not cache.touched_since("kept", token)
    for complete in (False, True):
        cache.merge([("gone", obj("gone")), ("kept", obj("kept"))], 0.5, token, complete=complete)
        assert find(cache, "gone", 1) in (ABSENT, None)
        assert find(cache, "new", 1) == obj("new")
    cache.absent("new", token)
    assert find(cache, "new", 1) == obj("new")
    cache.end(token)
    assert find(cache, "gone", 1.4) is ABSENT


def test_an_answer_to_a_later_request_is_believed() -> None:
    cache = DirCache()
    first = cache.begin()
    cache.set("a", obj("a"), 1)
    second = cache.begin()
    assert cache.touched_since("a", first) and not cache.touched_since("a", second)
    cache.merge([], 2, second, complete=True)
    assert find(cache, "a", 2) is ABSENT, "somebody else removed it"
    cache.end(second)
    cache.end(first)


def test_an_older_answer_does_not_undo_a_younger_one() -> None:
    cache = DirCache()
    old, new = cache.begin(), cache.begin()
    cache.merge([("b", obj("b", "new"))], 2, new, complete=True)
    cache.merge([("a", obj("a")), ("b", obj("b", "old"))], 0, old, complete=True)
    assert find(cache, "a", 2.5) is ABSENT
    assert find(cache, "b", 2.5) == obj("b", "new")
    cache.merge([("b", obj("b", "old"))], 0, old, complete=False)
    assert find(cache, "b", 2.5) == obj("b", "new")
    assert cache.complete(2.5, TTL)


def test_a_younger_head_survives_an_older_listing() -> None:
    cache = DirCache()
    listing, head = cache.begin(), cache.begin()
    cache.merge([("a", obj("a"))], 2, head, complete=False)
    cache.merge([], 0, listing, complete=True)
    assert find(cache, "a", 2) == obj("a")


def test_an_answer_that_contradicts_a_listing_makes_us_ask_again() -> None:
    """The listing may be the younger of the two: no absence follows from both together."""
    cache = DirCache()
    head = cache.begin()
    listed(cache, "a", at=2)
    cache.absent("a", head)
    assert find(cache, "a", 2) is None


def test_forgetting() -> None:
    cache = DirCache()
    listed(cache, "a", "b", at=0)
    cache.forget("a")
    assert find(cache, "a", 0) is None and find(cache, "b", 0) == obj("b")
    assert not cache.complete(0, TTL)
    cache.more_at = 0
    cache.forget_all()
    assert not cache.entries and cache.more_at is None


def test_an_answer_under_way_proves_no_absence_once_something_was_forgotten() -> None:
    """A directory that is renamed while it is listed: half of what was there is under another key."""
    for forget in (DirCache.forget_all, lambda c: c.forget("b")):
        cache = DirCache(own=True, now=0)
        token = cache.begin()
        assert not cache.forgot_since(token)
        forget(cache)
        assert cache.forgot_since(token)
        cache.merge([("a", obj("a"))], 0, token, complete=True)
        assert find(cache, "a", 0) == obj("a")
        assert find(cache, "b", 0) is None and not cache.complete(0, TTL)
        cache.end(token)
        listed(cache, "a", at=1)
        assert find(cache, "b", 1) is ABSENT


def test_nothing_is_kept_of_changes_when_no_request_is_under_way() -> None:
    cache = DirCache()
    for i in range(100):
        cache.set(str(i), None, 0)
    assert not cache._touched
    token = cache.begin()
    cache.remove("1")
    cache.forget_all()
    other = cache.begin()
    cache.end(token)
    assert cache._touched
    cache.end(other)
    assert not cache._touched and cache._changes == cache._forgot == 0


# -- a model

NAMES = ["a", "b", "c"]


class Request:
    """A listing or HEAD: sent, served once or in pieces, answered late."""

    def __init__(self, cache: DirCache, names: list[str], at: float, listing: bool) -> None:
        self.token = cache.begin()
        self.at = at
        self.names = names
        self.listing = listing
        self.seen: dict[str, bool] = {}


class CacheModel(RuleBasedStateMachine):
    """Answers are true of some moment that is not too long ago; what we did ourselves is seen at once."""

    requests = Bundle("requests")
    removals = Bundle("removals")

    @initialize(own=st.booleans(), there=st.sets(st.sampled_from(NAMES)))
    def begin(self, own: bool, there: set[str]) -> None:
        self.now = 0.0
        self.own = own
        self.cache = DirCache(own=own, now=0.0)
        self.history: dict[str, list[tuple[float, bool]]] = {
            name: [(-math.inf, not own and name in there)] for name in NAMES
        }
        self.ours: dict[str, bool] = {}
        """Names whose last change was ours, and is complete."""
        self.busy: set[str] = set()

    def there(self, name: str) -> bool:
        return self.history[name][-1][1]

    def change(self, name: str, there: bool) -> None:
        self.history[name].append((self.now, there))
        self.ours.pop(name, None)

    def was(self, name: str, there: bool, since: float) -> bool:
        """Was it so at any moment from *since* on?"""
        changes = self.history[name]
        for i, (_, state) in enumerate(changes):
            until = changes[i + 1][0] if i + 1 < len(changes) else math.inf
            if state is there and until >= since:
                return True
        return False

    @rule(step=st.sampled_from([0.1, 0.4, 0.9, 2.0, 5.0]))
    def wait(self, step: float) -> None:
        self.now += step

    # -- other machines

    @rule(name=st.sampled_from(NAMES), there=st.booleans())
    def foreign_change(self, name: str, there: bool) -> None:
        if name not in self.busy and self.there(name) is not there:
            self.change(name, there)

    # -- this mount, one operation of a name at a time

    @rule(name=st.sampled_from(NAMES), step=st.sampled_from([0.0, 0.3]))
    def put(self, name: str, step: float) -> None:
        if name in self.busy:
            return
        self.change(name, True)
        self.now += step
        self.cache.set(name, obj(name), self.now)
        self.ours[name] = True

    @rule(target=removals, name=st.sampled_from(NAMES))
    def start_removal(self, name: str) -> tuple[str, list[bool]] | None:
        if name in self.busy:
            return None
        self.busy.add(name)
        self.cache.leave(name)
        return name, []

    @rule(removal=removals)
    def removal_is_served(self, removal: tuple[str, list[bool]] | None) -> None:
        if removal is not None and not removal[1] and removal[0] in self.busy:
            self.change(removal[0], False)
            removal[1].append(True)

    @rule(removal=consumes(removals))
    def removal_is_answered(self, removal: tuple[str, list[bool]] | None) -> None:
        if removal is None:
            return
        name, served = removal
        self.busy.discard(name)
        self.cache.left(name, gone=bool(served))
        if served:
            self.ours[name] = False

    @rule(name=st.sampled_from(NAMES), everything=st.booleans())
    def forget(self, name: str, everything: bool) -> None:
        if everything:
            self.cache.forget_all()
        else:
            self.cache.forget(name)

    # -- questions to the bucket

    @rule(target=requests, name=st.sampled_from([*NAMES, None]))
    def ask(self, name: str | None) -> Request:
        names = NAMES if name is None else [name]
        return Request(self.cache, list(names), self.now, name is None)

    @rule(request=requests, count=st.integers(1, 3))
    def serve(self, request: Request, count: int) -> None:
        """A page of it."""
        page = [n for n in request.names if n not in request.seen][:count]
        for name in page:
            request.seen[name] = self.there(name)
        if request.listing and page:
            found = [(n, obj(n)) for n in page if request.seen[n]]
            self.cache.merge(found, request.at, request.token, complete=False)

    @rule(request=consumes(requests))
    def answer(self, request: Request) -> None:
        if len(request.seen) == len(request.names):
            found = [(n, obj(n)) for n, there in request.seen.items() if there]
            if request.listing or found:
                self.cache.merge(found, request.at, request.token, complete=request.listing)
            else:
                self.cache.absent(request.names[0], request.token)
        self.cache.end(request.token)

    # -- what must hold

    @invariant()
    def answers_are_true(self) -> None:
        if not hasattr(self, "cache"):
            return
        for name in NAMES:
            found = self.cache.find(name, self.now, TTL, NEGATIVE)
            if name in self.busy:
                assert found is ABSENT
            elif isinstance(found, Known):
                assert self.was(name, True, self.now - TTL)
                assert self.ours.get(name, True), "what we removed is there"
            elif found is ABSENT:
                assert self.was(name, False, self.now - (TTL if self.own else NEGATIVE))
                assert not self.ours.get(name, False), "what we made is not there"
        if self.cache.complete(self.now, TTL):
            for name in NAMES:
                if name not in self.busy and name in self.ours:
                    assert (name in self.cache.entries) is self.ours[name]


TestCacheModel = CacheModel.TestCase
TestCacheModel.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
