"""Inode numbers, names and lookup counts."""

from __future__ import annotations

import errno
import hashlib
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ossfs.errors import PosixError
from ossfs.fs import inodes as module
from ossfs.fs.inodes import ROOT, DirNode, FileNode, Inodes, Node, Version
from ossfs.store.base import ObjectInfo


def few_numbers(data: bytes, digest_size: int) -> SimpleNamespace:
    """Instead of a hash: so few numbers that they collide all the time."""
    return SimpleNamespace(digest=lambda: (sum(data) % 5).to_bytes(digest_size, "big"))


# -- keys and paths


@pytest.mark.parametrize("prefix", ["", "some/prefix/"])
def test_keys(prefix: str) -> None:
    inodes = Inodes(prefix)
    a = inodes.new_dir(inodes.root, "a")
    file = inodes.new_file(a, "ü b")
    assert inodes.key(inodes.root) == prefix
    assert inodes.key(a) == f"{prefix}a/"
    assert inodes.key(file) == f"{prefix}a/ü b"
    assert inodes.child_key(a, "new") == f"{prefix}a/new"
    assert inodes.child_key(inodes.root, "new") == f"{prefix}new"
    assert (inodes.root.path(), a.path(), file.path()) == ("", "a", "a/ü b")


def test_the_deepest_tree_there_can_be() -> None:
    inodes = Inodes("")
    parent, made = inodes.root, []
    for _ in range(511):
        parent = inodes.new_dir(parent, "d")
        made.append(parent)
    file = inodes.new_file(parent, "f")
    assert inodes.key(file) == "d/" * 511 + "f"
    assert list(inodes.below(inodes.root)) == [*made, file]
    assert list(inodes.below(made[-1])) == [file]
    inodes.remember(file)
    inodes.forget(file.ino, 1)
    assert len(inodes) == 1


def test_below_gives_parents_first() -> None:
    inodes = Inodes("")
    a = inodes.new_dir(inodes.root, "a")
    inodes.new_file(inodes.root, "other")
    seen = set()
    for name in "xyz":
        sub = inodes.new_dir(a, name)
        for leaf in "12":
            inodes.new_file(sub, leaf)
    for node in inodes.below(a):
        assert node.parent is a or node.parent in seen
        seen.add(node)
    assert {n.path() for n in seen} == {"a/x", "a/y", "a/z"} | {f"a/{d}/{f}" for d in "xyz" for f in "12"}


@pytest.mark.parametrize("prefix", ["", "some/prefix/"])
def test_what_has_lost_its_name_has_no_key(prefix: str) -> None:
    """A directory that another machine removed must not turn into the mount's root for who is in it."""
    inodes = Inodes(prefix)
    gone = inodes.new_dir(inodes.root, "gone")
    below = inodes.new_dir(gone, "below")
    file = inodes.new_file(below, "file")
    for node in (gone, below, file):
        inodes.remember(node)
    assert inodes.key(file) == f"{prefix}gone/below/file"
    inodes.detach(gone)
    lost: list[Node] = [gone, below, file]
    for node in lost:
        with pytest.raises(PosixError) as caught:
            inodes.key(node)
        assert caught.value.errno == errno.ESTALE
    for parent in (gone, below):
        with pytest.raises(PosixError):
            inodes.child_key(parent, "new")
        with pytest.raises(PosixError):
            inodes.new_file(parent, "new")
        with pytest.raises(PosixError):
            inodes.new_dir(parent, "new")
        assert "new" not in parent.children
    assert inodes.key(inodes.root) == prefix


def test_an_orphan_has_its_hidden_key() -> None:
    inodes = Inodes("")
    file = inodes.new_file(inodes.root, "f")
    inodes.remember(file)
    file.hidden_key = ".ossfs-0000/orphan-1"
    inodes.detach(file)
    assert inodes.key(file) == ".ossfs-0000/orphan-1"


# -- numbers


def test_numbers_come_from_the_key() -> None:
    """The same file has the same number in the next mount, so that tar and rsync see no other file."""
    first, second = Inodes("p/"), Inodes("p/")
    second.new_file(second.root, "something before")
    for inodes in (first, second):
        inodes.new_file(inodes.root, "f")
        inodes.new_dir(inodes.root, "d")
    for name in ("f", "d"):
        assert first.root.children[name].ino == second.root.children[name].ino
    assert first.root.children["f"].ino < 1 << 63


def test_a_file_and_a_directory_of_one_name_differ() -> None:
    inodes = Inodes("")
    file = inodes.new_file(inodes.root, "x")
    inodes.remember(file)
    inodes.detach(file)
    assert inodes.new_dir(inodes.root, "x").ino != file.ino


@pytest.mark.parametrize("number", [0, 1, (1 << 63) - 1])
def test_colliding_numbers(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = number.to_bytes(8, "big")
    monkeypatch.setattr(hashlib, "blake2b", lambda data, digest_size: SimpleNamespace(digest=lambda: digest))
    inodes = Inodes("")
    numbers = [inodes.new_file(inodes.root, str(i)).ino for i in range(5)]
    assert len({*numbers, ROOT, 0}) == 7
    assert all(0 < n < 1 << 63 for n in numbers)


def test_a_number_in_use_is_not_given_again() -> None:
    inodes = Inodes("")
    old = inodes.new_file(inodes.root, "f")
    inodes.remember(old)
    inodes.detach(old)
    new = inodes.new_file(inodes.root, "f")
    assert new.ino != old.ino
    assert inodes.get(old.ino) is old and inodes.get(new.ino) is new
    inodes.forget(old.ino, 1)
    assert inodes.get(old.ino) is None


# -- lookup counts


def test_forget_lets_go_of_parents_too() -> None:
    inodes = Inodes("")
    a = inodes.new_dir(inodes.root, "a")
    file = inodes.new_file(a, "f")
    for node in (a, file, file):
        inodes.remember(node)
    inodes.forget(a.ino, 1)
    assert inodes.get(a.ino) is a, "a child needs it"
    inodes.forget(file.ino, 1)
    assert inodes.get(file.ino) is file
    inodes.forget(file.ino, 1)
    assert len(inodes) == 1 and not inodes.root.children
    assert file.parent is a, "dropped is not removed"


def test_forget_never_raises() -> None:
    inodes = Inodes("")
    file = inodes.new_file(inodes.root, "f")
    inodes.remember(file)
    inodes.forget(12345, 1)
    inodes.forget(ROOT, 99)
    inodes.forget(file.ino, 99)
    inodes.forget(file.ino, 1)
    assert inodes.get(ROOT) is inodes.root and len(inodes) == 1


def test_an_open_or_dirty_file_stays() -> None:
    inodes = Inodes("")
    file = inodes.new_file(inodes.root, "f")
    inodes.remember(file)
    file.handles.add("a handle")  # type: ignore[arg-type]
    file.writer = "a writer"  # type: ignore[assignment]
    inodes.forget(file.ino, 1)
    assert inodes.get(file.ino) is file
    file.handles.clear()
    inodes.drop_if_unused(file)
    assert inodes.get(file.ino) is file
    file.writer = None
    inodes.drop_if_unused(file)
    assert inodes.get(file.ino) is None


def test_an_inode_dropped_before_its_reply_is_found_again() -> None:
    """Nobody refers to it between its making, in a task of its own, and the reply."""
    inodes = Inodes("")
    a = inodes.new_dir(inodes.root, "a")
    file = inodes.new_file(a, "f")
    inodes.drop_if_unused(file)
    assert len(inodes) == 1
    inodes.remember(file)
    assert inodes.get(file.ino) is file and inodes.get(a.ino) is a
    assert inodes.root.children == {"a": a} and a.children == {"f": file}
    assert inodes.key(file) == "a/f"


def test_an_inode_dropped_and_replaced_before_its_reply() -> None:
    inodes = Inodes("")
    file = inodes.new_file(inodes.root, "f")
    inodes.drop_if_unused(file)
    other = inodes.new_file(inodes.root, "f")
    inodes.remember(other)
    inodes.remember(file)
    assert file.ino != other.ino
    assert inodes.get(file.ino) is file and inodes.get(other.ino) is other
    assert file.detached and inodes.root.children == {"f": other}
    inodes.forget(file.ino, 1)
    assert inodes.get(file.ino) is None and inodes.get(other.ino) is other


def test_a_dropped_inode_that_is_renamed_stays_dropped() -> None:
    """Its caller gave up and the kernel forgot it; the rename went on."""
    inodes = Inodes("")
    file = inodes.new_file(inodes.root, "old")
    inodes.drop_if_unused(file)
    inodes.move(file, inodes.root, "new")
    assert not inodes.root.children and len(inodes) == 1
    assert file.path() == "new"


def test_an_inode_that_was_looked_up_while_it_was_renamed() -> None:
    """The old name answers ENOENT by then, which detaches the inode; the rename gives it its new name."""
    inodes = Inodes("")
    a = inodes.new_dir(inodes.root, "a")
    file = inodes.new_file(a, "f")
    for node in (a, file):
        inodes.remember(node)
    inodes.detach(a)
    inodes.move(a, inodes.root, "b")
    assert inodes.root.children == {"b": a} and not a.detached
    assert inodes.key(file) == "b/f"


def test_version_identity() -> None:
    info = ObjectInfo("k", 3, "E", 7, 9, crc64=5)
    version = Version.of(info)
    assert version == Version("k", "E", 3, 5, 7)
    assert version.same_bytes(Version("elsewhere", "other", 3, 5)), "a copy changes the token only"
    assert not version.same_bytes(Version("k", "E", 4, 5))
    assert not version.same_bytes(Version("k", "E", 3, 6)), "the CRC counts where both are known"
    assert version.same_bytes(Version("k", "E", 3, None))
    assert not version.same_bytes(Version("k", "F", 3, None))


NAMES = st.sampled_from("abc")


class InodesModel(RuleBasedStateMachine):
    """Whatever happens, what the kernel refers to is found, under one number, and all else goes."""

    @initialize()
    def begin(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(module.hashlib, "blake2b", few_numbers)
        self.inodes = Inodes("")
        self.references: dict[int, tuple[Node, int]] = {}
        self.nodes: list[Node] = []

    def teardown(self) -> None:
        if not hasattr(self, "inodes"):
            return
        for node in self.nodes:
            if isinstance(node, FileNode):
                node.handles.clear()
        for number, (_, count) in list(self.references.items()):
            self.inodes.forget(number, count)
        for node in self.nodes:
            self.inodes.drop_if_unused(node)
        self.patch.undo()
        assert len(self.inodes) == 1, "all is forgotten"
        assert not self.inodes.root.children

    def pick(self, data: st.DataObject, *, named: bool = False, directory: bool = False) -> Node | None:
        live: list[Node] = list(self.inodes.all())
        if directory:
            live = [n for n in live if isinstance(n, DirNode) and self.connected(n)]
        if named:
            live = [n for n in live if n.parent is not None and self.connected(n)]
        live.sort(key=lambda n: n.ino)
        return data.draw(st.sampled_from(live)) if live else None

    def connected(self, node: Node) -> bool:
        while node.parent is not None:
            node = node.parent
        return node is self.inodes.root

    @rule(data=st.data(), name=NAMES, directory=st.booleans())
    def make(self, data: st.DataObject, name: str, directory: bool) -> None:
        parent = self.pick(data, directory=True)
        assert isinstance(parent, DirNode)
        if name not in parent.children:
            new = self.inodes.new_dir if directory else self.inodes.new_file
            self.nodes.append(new(parent, name))

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def reply(self, data: st.DataObject) -> None:
        """Also of nodes that were dropped in the meantime."""
        node = data.draw(st.sampled_from(self.nodes))
        self.inodes.remember(node)
        known, count = self.references.get(node.ino, (node, 0))
        assert known is node, "a referenced number was given to another file"
        self.references[node.ino] = node, count + 1

    @precondition(lambda self: self.references)
    @rule(data=st.data(), part=st.booleans())
    def forget(self, data: st.DataObject, part: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.references)))
        node, count = self.references.pop(number)
        dropped = 1 if part else count
        if count > dropped:
            self.references[number] = node, count - dropped
        self.inodes.forget(number, dropped)

    @rule(data=st.data())
    def detach(self, data: st.DataObject) -> None:
        node = self.pick(data, named=True)
        if node is not None:
            self.inodes.detach(node)
            assert node.detached

    @rule(data=st.data(), name=NAMES)
    def move(self, data: st.DataObject, name: str) -> None:
        node, parent = self.pick(data, named=True), self.pick(data, directory=True)
        if node is None or not isinstance(parent, DirNode) or name in parent.children:
            return
        if parent is node or (isinstance(node, DirNode) and parent in self.inodes.below(node)):
            return
        if self.inodes.get(parent.ino) is not parent:
            return
        self.inodes.move(node, parent, name)

    @rule(data=st.data())
    def open_or_close(self, data: st.DataObject) -> None:
        node = self.pick(data)
        if isinstance(node, FileNode):
            if node.handles:
                node.handles.clear()
                self.inodes.drop_if_unused(node)
            else:
                node.handles.add("a handle")  # type: ignore[arg-type]

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        node = self.pick(data)
        assert node is not None
        self.inodes.drop_if_unused(node)

    @invariant()
    def consistent(self) -> None:
        if not hasattr(self, "inodes"):
            return
        for number, (node, count) in self.references.items():
            assert self.inodes.get(number) is node and node.nlookup == count
        live = list(self.inodes.all())
        assert len({n.ino for n in live}) == len(live)
        for node in live:
            if isinstance(node, DirNode):
                for name, child in node.children.items():
                    assert child.parent is node and child.name == name
                    assert self.inodes.get(child.ino) is child
            if node.parent is not None:
                assert node.parent.children.get(node.name) is node
                assert self.inodes.get(node.parent.ino) is node.parent
        below = set(self.inodes.below(self.inodes.root))
        assert below == {n for n in live if n is not self.inodes.root and self.connected(n)}


TestInodesModel = InodesModel.TestCase
TestInodesModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
