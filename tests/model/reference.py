"""What POSIX says: a file system in a few plain objects, which the model test holds the product against.

Sizes in bytes.  Failing calls raise OSError.  A modification time is known only where a program has set
it; permissions are kept, not checked, since the kernel checks them.
"""

from __future__ import annotations

import errno
import os
import random
import stat
from dataclasses import dataclass, field

UMASK = 0o022
OWNER = 1000
_NOISE = random.Random(7).randbytes(1 << 18)


def pattern(length: int, tag: int) -> bytes:
    """*length* bytes that belong to *tag*; the tag 0 stands for zeros."""
    if tag == 0:
        return bytes(length)
    if length >= len(_NOISE):
        start = (tag * 7919) % len(_NOISE)
        return (_NOISE[start:] + _NOISE * (length // len(_NOISE) + 1))[:length]
    start = (tag * 7919) % (len(_NOISE) - length)
    return _NOISE[start : start + length]


@dataclass(eq=False)
class Node:
    """mtime: ns, or None when only the clock knows."""

    mode: int
    uid: int = OWNER
    gid: int = OWNER
    mtime: int | None = None
    xattrs: dict[str, bytes] = field(default_factory=dict)


@dataclass(eq=False)
class File(Node):
    data: bytearray = field(default_factory=bytearray)
    past: list[bytes] = field(default_factory=list)
    """Every content since the bucket was last known to have the present one, when faults are on."""
    fresh: bool = False
    """Made since then: the bucket may have nothing of it."""


@dataclass(eq=False)
class Link(Node):
    target: str = ""


@dataclass(eq=False)
class Directory(Node):
    entries: dict[str, Node] = field(default_factory=dict)


@dataclass(eq=False)
class Open:
    """An open file description."""

    file: File
    flags: int
    copies: int = 1

    @property
    def readable(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_WRONLY

    @property
    def writable(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY


Fact = tuple[str, int, int, int, int, int | None, bytes | str, tuple[tuple[str, bytes], ...]]
"""Kind, mode, uid, gid, size, mtime, content, extended attributes."""


class Reference:
    """The model.  Methods have the names and arguments of the operations of a program."""

    def __init__(self, *, remembers: bool = False, owner: int = OWNER) -> None:
        """remembers: note in `File.past` what files held.  owner: uid and gid of what is made."""
        self.root = Directory(0o755)
        self.slots: dict[int, Open] = {}
        self._remembers = remembers
        self._owner = owner

    # -- paths

    def find(self, path: str) -> Node:
        node: Node = self.root
        for name in path.split("/"):
            if not name:
                continue
            if not isinstance(node, Directory):
                raise OSError(errno.ENOTDIR, path)
            if name not in node.entries:
                raise OSError(errno.ENOENT, path)
            node = node.entries[name]
        return node

    def get(self, path: str) -> Node | None:
        """The node, or None when there is none."""
        try:
            return self.find(path)
        except OSError:
            return None

    def _parent(self, path: str) -> tuple[Directory, str]:
        head, _, name = path.rpartition("/")
        parent = self.find(head)
        if not isinstance(parent, Directory):
            raise OSError(errno.ENOTDIR, path)
        return parent, name

    def paths(self) -> list[str]:
        """Every path, parents first."""
        found: list[str] = []
        pending: list[tuple[str, Directory]] = [("", self.root)]
        while pending:
            prefix, directory = pending.pop()
            for name, node in directory.entries.items():
                found.append(prefix + name)
                if isinstance(node, Directory):
                    pending.append((f"{prefix}{name}/", node))
        return sorted(found)

    def through_link(self, path: str, *, last: bool) -> bool:
        """Is a component of the path (last: or the last) a symbolic link, which a kernel would follow?"""
        names = path.split("/")
        count = len(names) if last else len(names) - 1
        return any(isinstance(self.get("/".join(names[: i + 1])), Link) for i in range(count))

    # -- open files

    def open(self, slot: int, path: str, flags: int, mode: int) -> None:
        parent, name = self._parent(path)
        node = parent.entries.get(name)
        if node is None:
            if not flags & os.O_CREAT:
                raise OSError(errno.ENOENT, path)
            node = parent.entries[name] = File(mode & ~UMASK, self._owner, self._owner, fresh=True)
        elif flags & os.O_CREAT and flags & os.O_EXCL:
            raise OSError(errno.EEXIST, path)
        elif isinstance(node, Directory):
            raise OSError(errno.EISDIR, path)
        assert isinstance(node, File)
        if flags & os.O_TRUNC:
            self._resize(node, 0)
        self.slots[slot] = Open(node, flags)

    def write(self, slot: int, offset: int, length: int, tag: int) -> int:
        opened = self.slots[slot]
        data = opened.file.data
        self._remember(opened.file)
        if opened.flags & os.O_APPEND:
            offset = len(data)
        if offset > len(data):
            data.extend(bytes(offset - len(data)))
        data[offset : offset + length] = pattern(length, tag)
        opened.file.mtime = None
        return length

    def read(self, slot: int, offset: int, length: int) -> bytes:
        return bytes(self.slots[slot].file.data[offset : offset + length])

    def _remember(self, file: File) -> None:
        if self._remembers:
            file.past.append(bytes(file.data))

    def _resize(self, file: File, size: int) -> None:
        self._remember(file)
        data = file.data
        if size < len(data):
            del data[size:]
        else:
            data.extend(bytes(size - len(data)))
        file.mtime = None

    def ftruncate(self, slot: int, size: int) -> None:
        self._resize(self.slots[slot].file, size)

    def truncate(self, path: str, size: int) -> None:
        node = self.find(path)
        if isinstance(node, Directory):
            raise OSError(errno.EISDIR, path)
        assert isinstance(node, File)
        self._resize(node, size)

    def fsync(self, slot: int) -> None:
        pass

    def dup(self, slot: int) -> None:
        self.slots[slot].copies += 1

    def close(self, slot: int) -> None:
        opened = self.slots[slot]
        opened.copies -= 1
        if opened.copies == 0:
            del self.slots[slot]

    def fstat(self, slot: int) -> tuple[int, int]:
        file = self.slots[slot].file
        return len(file.data), file.mode

    # -- names

    def mkdir(self, path: str, mode: int) -> None:
        parent, name = self._parent(path)
        if name in parent.entries:
            raise OSError(errno.EEXIST, path)
        parent.entries[name] = Directory(mode & ~UMASK, self._owner, self._owner)

    def symlink(self, target: str, path: str) -> None:
        parent, name = self._parent(path)
        if name in parent.entries:
            raise OSError(errno.EEXIST, path)
        parent.entries[name] = Link(0o777, self._owner, self._owner, target=target)

    def readlink(self, path: str) -> str:
        node = self.find(path)
        if not isinstance(node, Link):
            raise OSError(errno.EINVAL, path)
        return node.target

    def unlink(self, path: str) -> None:
        node = self.find(path)
        if isinstance(node, Directory):
            raise OSError(errno.EISDIR, path)
        parent, name = self._parent(path)
        del parent.entries[name]

    def rmdir(self, path: str) -> None:
        node = self.find(path)
        if not isinstance(node, Directory):
            raise OSError(errno.ENOTDIR, path)
        if node.entries:
            raise OSError(errno.ENOTEMPTY, path)
        parent, name = self._parent(path)
        del parent.entries[name]

    def rename(self, old: str, new: str, no_replace: bool) -> None:
        old_parent, old_name = self._parent(old)
        new_parent, new_name = self._parent(new)
        node = self.find(old)
        target = new_parent.entries.get(new_name)
        if target is not None and no_replace:
            raise OSError(errno.EEXIST, new)
        if isinstance(node, Directory) and new.startswith(old + "/"):
            raise OSError(errno.EINVAL, new)
        if isinstance(target, Directory) and old.startswith(new + "/"):
            raise OSError(errno.ENOTEMPTY, new)
        if target is node:
            return
        if target is not None:
            if isinstance(node, Directory):
                if not isinstance(target, Directory):
                    raise OSError(errno.ENOTDIR, new)
                if target.entries:
                    raise OSError(errno.ENOTEMPTY, new)
            elif isinstance(target, Directory):
                raise OSError(errno.EISDIR, new)
        del old_parent.entries[old_name]
        new_parent.entries[new_name] = node

    def listdir(self, path: str) -> list[str]:
        node = self.find(path)
        if not isinstance(node, Directory):
            raise OSError(errno.ENOTDIR, path)
        return sorted(node.entries)

    # -- attributes

    def stat(self, path: str) -> tuple[str, int, int]:
        node = self.find(path)
        size = 0
        if isinstance(node, File):
            size = len(node.data)
        elif isinstance(node, Link):
            size = len(node.target)
        return _kind(node), node.mode, size

    def chmod(self, path: str, mode: int) -> None:
        self.find(path).mode = mode

    def fchmod(self, slot: int, mode: int) -> None:
        self.slots[slot].file.mode = mode

    def chown(self, path: str, uid: int, gid: int) -> None:
        node = self.find(path)
        node.uid, node.gid = uid, gid

    def utimes(self, path: str, mtime: int) -> None:
        node = self.find(path)
        if not isinstance(node, Directory):  # a directory's is moved by every entry
            node.mtime = mtime

    def futimes(self, slot: int, mtime: int) -> None:
        self.slots[slot].file.mtime = mtime

    def setxattr(self, path: str, name: str, length: int, tag: int) -> None:
        self.find(path).xattrs[name] = pattern(length, tag)

    def getxattr(self, path: str, name: str) -> bytes:
        xattrs = self.find(path).xattrs
        if name not in xattrs:
            raise OSError(errno.ENODATA, path)
        return xattrs[name]

    def removexattr(self, path: str, name: str) -> None:
        xattrs = self.find(path).xattrs
        if name not in xattrs:
            raise OSError(errno.ENODATA, path)
        del xattrs[name]

    # -- the whole

    def snapshot(self) -> dict[str, Fact]:
        """Everything that can be seen by path."""
        return {path: fact(self.find(path)) for path in self.paths()}

    def in_slots(self) -> dict[int, tuple[int, bytes | None]]:
        """Size and, if it may be read, content of what is open."""
        return {
            slot: (len(o.file.data), bytes(o.file.data) if o.readable else None)
            for slot, o in sorted(self.slots.items())
        }


def _kind(node: Node) -> str:
    return {File: "file", Link: "link", Directory: "directory"}[type(node)]


def fact(node: Node) -> Fact:
    """What a snapshot says of a node."""
    content: bytes | str = b""
    if isinstance(node, File):
        content = bytes(node.data)
    elif isinstance(node, Link):
        content = node.target
    size = 0 if isinstance(node, Directory) else len(content)
    mtime = node.mtime
    return (
        _kind(node),
        node.mode,
        node.uid,
        node.gid,
        size,
        mtime,
        content,
        tuple(sorted(node.xattrs.items())),
    )


KIND_OF_MODE = {stat.S_IFREG: "file", stat.S_IFLNK: "link", stat.S_IFDIR: "directory"}
