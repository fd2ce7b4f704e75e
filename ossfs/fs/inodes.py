"""Inode numbers, names and lookup counts.  No I/O.

Threading: trio thread only; nothing here awaits, so a lookup count is raised in the same step that
makes the reply.

A nodeid belongs to one version of an object.  When another version is found under the name, the old
inode is detached (it keeps answering who still holds it) and the name gets a new one.  A number is
the hash of the key when that is free, else the next free one after it; a referenced number is never
given to another file.
"""

from __future__ import annotations

import errno
import hashlib
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ossfs.errors import PosixError, StoreError
from ossfs.fs.attrs import Attrs
from ossfs.fs.dircache import DirCache
from ossfs.store.base import WRITE_ID, ListedObject, ObjectInfo

if TYPE_CHECKING:
    from ossfs.fs.handles import FileHandle
    from ossfs.fs.meta import Order
    from ossfs.fs.writer import Writer

ROOT = 1
_MASK = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an object: (size, crc64) is its identity, the ETag is only its token.

    key: where the bytes are, which after an unlink is a hidden key.
    """

    key: str
    etag: str
    size: int
    crc64: int | None
    last_modified: int = 0
    write_id: str | None = field(default=None, compare=False)
    """Who wrote it, where that is known: tells it from the same bytes made anew, as of an empty lock file."""

    @staticmethod
    def of(info: ObjectInfo) -> Version:
        """The version that a HEAD or GET described."""
        write_id = info.headers.meta.get(WRITE_ID)
        return Version(info.key, info.etag, info.size, info.crc64, info.last_modified, write_id)

    def same_bytes(self, other: Version) -> bool:
        """Are these two the same bytes?  With no CRC on one side only the same token says so."""
        if self.size != other.size:
            return False
        if self.crc64 is not None and other.crc64 is not None:
            return self.crc64 == other.crc64
        return self.etag == other.etag

    def continues_as(self, other: Version) -> bool:
        """Is this still what *other* was found to be?  A foreign chmod changes the token, not the bytes."""
        return self.etag == other.etag or self.same_bytes(other)

    def is_still(self, info: ObjectInfo, since: float) -> bool:
        """Is what a HEAD found this object, or was it made anew?  since: seconds ago, when it was there."""
        found = Version.of(info)
        if not self.same_bytes(found):
            return False
        if self.write_id in (None, found.write_id):
            return True
        # Somebody has written the same bytes: before that, as a chmod does, or since?
        return info.server_date - info.last_modified > since


class Node:
    """What files and directories have in common.

    parent is None for the root and for what has been removed or superseded (`detached`).
    """

    __slots__ = ("attrs", "attrs_at", "changes", "ino", "name", "nlookup", "parent", "renamed_ns")

    def __init__(self, ino: int, parent: DirNode | None, name: str) -> None:
        self.ino = ino
        self.parent = parent
        self.name = name
        self.nlookup = 0
        self.attrs: Attrs | None = None
        """None: not asked for yet."""
        self.attrs_at = float("-inf")
        """trio time at which the attributes were known to be true."""
        self.changes = 0
        """Counts local changes: an answer asked for before one of them is not believed."""
        self.renamed_ns = 0
        """When this mount last renamed it: its ctime, which a copy in the bucket does not keep."""

    @property
    def detached(self) -> bool:
        """Has this inode no name any more?"""
        return self.parent is None

    def touched(self) -> None:
        """This mount changed the file: answers that are under way are too old."""
        self.changes += 1

    def path(self) -> str:
        """The path below the mount's root, without a leading slash."""
        names: list[str] = []
        node: Node = self
        while node.parent is not None:
            names.append(node.name)
            node = node.parent
        return "/".join(reversed(names))


class FileNode(Node):
    """Everything but directories.

    kind: the S_IFMT bits; a guess (S_IFREG) until attrs are known.
    version: what the bucket holds, None before the first commit of a new file.
    """

    __slots__ = (
        "body",
        "exclusive",
        "given_up",
        "handles",
        "head",
        "hidden_key",
        "kind",
        "object_type",
        "pages_etag",
        "size",
        "storage_class",
        "target",
        "validated_at",
        "version",
        "writer",
    )

    def __init__(self, ino: int, parent: DirNode | None, name: str) -> None:
        super().__init__(ino, parent, name)
        self.kind = stat.S_IFREG
        self.size = 0
        self.version: Version | None = None
        self.object_type = "Normal"
        self.storage_class = ""
        """"" where neither a listing nor a HEAD said it yet: what the bucket gives to new objects."""
        self.writer: Writer | None = None
        self.handles: set[FileHandle] = set()
        self.hidden_key: str | None = None
        """Where the bytes went when the name was removed while the file was open."""
        self.validated_at = float("-inf")
        """trio time at which the bucket was last asked about this very key."""
        self.body: bytes | None = None
        """The whole object, when a recent GET brought it along; of `version`."""
        self.head: bytes | None = None
        """The same of a large object: its first bytes."""
        self.pages_etag: str | None = None
        """The version that the kernel's pages came from."""
        self.exclusive = False
        """Made with O_EXCL by this mount: it may be a lock between machines."""
        self.target: str | None = None
        """Of a symlink, once read."""
        self.given_up = False
        """Bytes that were shown here could not be put into the bucket: see Writer.show_no_more."""

    @property
    def local(self) -> bool:
        """Does this mount hold state that the bucket does not have yet?"""
        return self.writer is not None


class DirNode(Node):
    """A directory: a prefix, with or without a marker object."""

    __slots__ = (
        "cache",
        "changed_ns",
        "children",
        "listed_subdir",
        "marker",
        "marker_at",
        "order",
        "pending",
        "reads",
        "refused",
    )

    def __init__(
        self, ino: int, parent: DirNode | None, name: str, *, own: bool = False, now: float = 0.0
    ) -> None:
        super().__init__(ino, parent, name)
        self.children: dict[str, Node] = {}
        """Inodes that the kernel refers to, or that hold local state."""
        self.cache = DirCache(own=own, now=now)
        self.marker: ListedObject | bool | None = None
        """The marker object or True when it is there, False when it is not, None when unknown."""
        self.marker_at = float("-inf")
        self.changed_ns = 0
        """Wall clock of the last local change of an entry: the directory's mtime while mounted."""
        self.listed_subdir: tuple[int, float] | None = None
        """The subdirectory that was listed last (inode number), and when: see flat.py."""
        self.order: Order | None = None
        """How it was listed last: see meta.py."""
        self.pending = False
        """Times were set that the marker does not have yet."""
        self.reads = 0
        """Above zero where stats were followed by opens: there a stat may bring the bytes along."""
        self.refused: dict[str, StoreError] = {}
        """Names whose delete was refused after unlink(2) had returned: the next fsync tells."""


def exists_now(directory: DirNode, now: float) -> None:
    """Something was put below this directory just now: it, and those above it, are there.  now: trio time.

    An older listing may have said that there is no such directory.
    """
    above = directory
    while above.parent is not None and above.name not in above.parent.cache.entries:
        above.parent.cache.set(above.name, None, now)
        above = above.parent


class Inodes:
    """All inodes of a mount.

    prefix: of the mount, "" or with a trailing slash.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.root = DirNode(ROOT, None, "")
        self.root.nlookup = 1
        self._by_ino: dict[int, Node] = {ROOT: self.root}
        self.on_drop: Callable[[FileNode], None] | None = None
        """Told of each file that nobody can reach any more."""
        self.on_change: Callable[[DirNode], None] | None = None
        """Told when this mount changes an entry of a directory."""
        self._watch(self.root)

    def _watch(self, node: DirNode) -> None:
        def touched() -> None:
            if self.on_change is not None and (node is self.root or not node.detached):
                self.on_change(node)

        node.cache.on_touch = touched

    def __len__(self) -> int:
        return len(self._by_ino)

    def get(self, ino: int) -> Node | None:
        """The inode with this number."""
        return self._by_ino.get(ino)

    def all(self) -> Iterator[Node]:
        """Every inode there is, in no order."""
        return iter(list(self._by_ino.values()))

    def key(self, node: Node) -> str:
        """The key of an inode that has a name; of a directory, its prefix with the slash.

        The root of a mount without a prefix has the key "".  Raises ESTALE for what has lost its name,
        or is below a directory that has: it must never be taken for something in the root.
        """
        if isinstance(node, FileNode) and node.hidden_key is not None:
            return node.hidden_key
        top = node
        while top.parent is not None:
            top = top.parent
        if top is not self.root:
            raise PosixError(errno.ESTALE, f"{node.name!r} has no name any more")
        path = node.path()
        if isinstance(node, DirNode):
            return f"{self.prefix}{path}/" if path else self.prefix
        return self.prefix + path

    def child_key(self, parent: DirNode, name: str) -> str:
        """The key that a file *name* in *parent* has or would have."""
        return self.key(parent) + name

    def new_file(self, parent: DirNode, name: str) -> FileNode:
        """A new inode under a name that no live inode has."""
        node = FileNode(self._number(self.child_key(parent, name)), parent, name)
        self._add(parent, node)
        return node

    def new_dir(self, parent: DirNode, name: str, *, own: bool = False, now: float = 0.0) -> DirNode:
        """The same for a directory.  own: this mount made it, so it is known to be empty."""
        number = self._number(self.child_key(parent, name) + "/")
        node = DirNode(number, parent, name, own=own, now=now)
        self._watch(node)
        self._add(parent, node)
        return node

    def _add(self, parent: DirNode, node: Node) -> None:
        assert node.name not in parent.children
        parent.children[node.name] = node
        self._by_ino[node.ino] = node

    def _number(self, key: str) -> int:
        digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return self._free(int.from_bytes(digest, "big") & _MASK)

    def _free(self, number: int) -> int:
        while number <= ROOT or number in self._by_ino:
            number = (number + 1) & _MASK
        return number

    def detach(self, node: Node) -> None:
        """Take the inode's name away.  It lives on for those who hold it."""
        parent = node.parent
        if parent is not None and parent.children.get(node.name) is node:
            del parent.children[node.name]
        node.parent = None
        node.touched()
        self.drop_if_unused(node)
        if parent is not None:
            self.drop_if_unused(parent)

    def move(self, node: Node, parent: DirNode, name: str) -> None:
        """Give the inode another name; nothing may live under that name.

        One that was detached has a name again: while a rename goes on, a lookup of the old name finds
        nothing there.
        """
        old = node.parent
        assert name not in parent.children
        if old is not None and old.children.get(node.name) is node:
            del old.children[node.name]
        node.parent = parent
        node.name = name
        node.touched()
        if self._by_ino.get(node.ino) is node:  # else dropped meanwhile: nobody is to find it
            parent.children[name] = node
        self.drop_if_unused(old)

    def remember(self, node: Node) -> None:
        """The kernel is about to be told of this inode: one more reference.

        It may have been dropped between its making and now, since nobody referred to it.
        """
        if self._by_ino.get(node.ino) is not node:
            self._revive(node)
        node.nlookup += 1

    def _revive(self, node: Node) -> None:
        if node.ino in self._by_ino:
            node.ino = self._free(node.ino)
        self._by_ino[node.ino] = node
        parent = node.parent
        if parent is None:
            return
        if node.name in parent.children:
            node.parent = None  # the name has another inode: ESTALE will lead the kernel to that
            return
        if parent is not self.root and self._by_ino.get(parent.ino) is not parent:
            self._revive(parent)
        if node.parent is not None:
            parent.children[node.name] = node

    def forget(self, ino: int, count: int) -> None:
        """The kernel dropped *count* references.  Never raises: forget has no answer."""
        node = self._by_ino.get(ino)
        if node is None or node is self.root:
            return
        node.nlookup = max(0, node.nlookup - count)
        self.drop_if_unused(node)

    def drop_if_unused(self, node: Node | None) -> None:
        """Let go of inodes that neither the kernel, nor a child, nor local state needs."""
        while node is not None and node is not self.root and node.nlookup == 0:
            if isinstance(node, DirNode):
                if node.children or node.cache.leaving or node.pending:
                    return
            elif isinstance(node, FileNode) and (node.handles or node.writer is not None):
                return
            if self._by_ino.get(node.ino) is node:
                del self._by_ino[node.ino]
                if self.on_drop is not None and isinstance(node, FileNode):
                    self.on_drop(node)
            parent = node.parent
            if parent is not None and parent.children.get(node.name) is node:
                del parent.children[node.name]
            # `parent` stays set: a dropped inode is not a removed file
            node = parent

    def below(self, directory: DirNode) -> Iterator[Node]:
        """Every live inode below a directory, parents first."""
        # Not by recursion: a key has room for five hundred directories.
        pending = [iter(list(directory.children.values()))]
        while pending:
            child = next(pending[-1], None)
            if child is None:
                pending.pop()
                continue
            yield child
            if isinstance(child, DirNode):
                pending.append(iter(list(child.children.values())))
