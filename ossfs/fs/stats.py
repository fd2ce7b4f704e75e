"""What stat(2) shows of an inode, from what is known of it.  No I/O.

Threading: trio thread only.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass

import trio

from ossfs.fs import attrs as attributes
from ossfs.fs.attrs import Attrs
from ossfs.fs.inodes import DirNode, FileNode, Node
from ossfs.fs.ports import FsConfig

SYMLINK_SIZES = range(4096)
"""PATH_MAX: a 1.x symlink is an ordinary object whose body is the target; older ones are empty and have
it in a header."""


@dataclass(frozen=True, slots=True)
class Stat:
    """What stat(2) shows of an inode.  Sizes in bytes, times in ns, timeouts in seconds."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    entry_timeout: float
    attr_timeout: float

    @property
    def blocks(self) -> int:
        """Of 512 bytes; never 0 for a file with bytes, or `tar -S` would archive a hole."""
        return -(-self.size // 512)


def stat_of(node: Node, config: FsConfig, root: Attrs) -> Stat:
    """What is known of a node now, with the time that the kernel may believe it.

    root: attributes for a directory whose own are not known yet.
    """
    ttl = config.ttl
    now = trio.current_time()
    attrs = node.attrs
    if isinstance(node, DirNode):
        timeout = 0.0 if attrs is None else max(0.0, ttl - (now - node.attrs_at))
        attrs = attrs or root
        return Stat(
            ino=node.ino,
            mode=attrs.mode,
            nlink=1,
            uid=attrs.uid,
            gid=attrs.gid,
            rdev=0,
            size=0,
            atime_ns=attrs.atime_ns,
            mtime_ns=max(attrs.mtime_ns, node.changed_ns),
            ctime_ns=max(attrs.ctime_ns, node.changed_ns, node.renamed_ns),
            entry_timeout=ttl,
            attr_timeout=timeout,
        )
    assert isinstance(node, FileNode)
    if attrs is None:
        modified = (node.version.last_modified if node.version else 0) * attributes.NS
        return Stat(
            ino=node.ino,
            mode=stat.S_IFREG | config.file_mode,
            nlink=1,
            uid=config.uid,
            gid=config.gid,
            rdev=0,
            size=node.size,
            atime_ns=modified,
            mtime_ns=modified,
            ctime_ns=max(modified, node.renamed_ns),
            entry_timeout=_entry_timeout(node, now, ttl),
            attr_timeout=0.0,
        )
    size = node.size
    if node.kind == stat.S_IFLNK and node.target is not None:
        size = len(node.target.encode("utf-8", "surrogateescape"))
    elif node.kind == stat.S_IFLNK and attrs.header_target is not None:
        size = len(attrs.header_target.encode("utf-8", "surrogateescape"))
    elif node.kind not in (stat.S_IFREG, stat.S_IFLNK):
        size = 0
    local = node.local or node.detached
    timeout = ttl if local else max(0.0, ttl - (now - node.attrs_at))
    return Stat(
        ino=node.ino,
        mode=attrs.mode,
        nlink=0 if node.detached else 1,
        uid=attrs.uid,
        gid=attrs.gid,
        rdev=attrs.rdev,
        size=size,
        atime_ns=attrs.atime_ns,
        mtime_ns=attrs.mtime_ns,
        ctime_ns=max(attrs.ctime_ns, node.renamed_ns),
        entry_timeout=timeout,
        attr_timeout=timeout,
    )


def _entry_timeout(node: FileNode, now: float, ttl: float) -> float:
    """Of an entry whose type is a guess.  A possible symlink must be looked up before it is followed."""
    if node.size in SYMLINK_SIZES:
        return 0.0
    known = node.parent.cache.entries.get(node.name) if node.parent is not None else None
    age = now - known.at if known is not None else ttl
    return max(0.0, ttl - age)
