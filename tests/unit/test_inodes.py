"""Inode numbers, names and lookup counts."""

from __future__ import annotations

import errno

import pytest

from ossfs.errors import PosixError
from ossfs.fs.inodes import DirNode, FileNode, Inodes, Node


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
        assert isinstance(parent, DirNode)
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
    assert isinstance(file, FileNode)
    inodes.remember(file)
    file.hidden_key = ".ossfs-0000/orphan-1"
    inodes.detach(file)
    assert inodes.key(file) == ".ossfs-0000/orphan-1"
