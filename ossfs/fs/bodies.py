"""Small objects, and the beginnings of large ones, from the GET that asked for their attributes.

Threading: trio thread only.
"""

from __future__ import annotations

from collections import OrderedDict

import trio

from ossfs.fs.budget import Budget
from ossfs.fs.inodes import FileNode
from ossfs.limits import MIB

BODIES = 16 * MIB
"""All of them together."""
BODY_AGE = 2.0
"""Seconds after which a body that nobody opened is dropped."""


class Bodies:
    """What a GET brought along, for the open and the reads that follow.

    Charged to the budget, and the first to go when memory is short.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._kept: OrderedDict[FileNode, float] = OrderedDict()
        self._bytes = 0
        budget.reclaimers[self._reclaim] = None

    def put(self, node: FileNode, body: bytes) -> None:
        """Keep the body of the node's present version, or its beginning, if there is room."""
        self.drop(node)
        now = trio.current_time()
        self._prune(now)
        if self._bytes + len(body) > BODIES or not self._budget.try_take(len(body)):
            return
        if len(body) == node.size:
            node.body = body
        else:
            node.head = body
        self._bytes += len(body)
        self._kept[node] = now

    def drop(self, node: FileNode) -> None:
        """The body is used up, or no longer true."""
        if self._kept.pop(node, None) is not None:
            kept = node.body if node.body is not None else node.head
            assert kept is not None
            self._bytes -= len(kept)
            self._budget.give(len(kept))
        node.body = node.head = None

    def clear(self) -> None:
        """Drop all."""
        for node in list(self._kept):
            self.drop(node)

    def _prune(self, now: float) -> None:
        for node, at in list(self._kept.items()):
            if now - at < BODY_AGE:
                return
            self._kept.move_to_end(node)  # in use: looked at again in its turn
            if node.handles:
                self._kept[node] = now
            else:
                self.drop(node)

    def _reclaim(self, wanted: int) -> int:
        before = self._bytes
        for node in list(self._kept):
            if before - self._bytes >= wanted:
                break
            self.drop(node)
        return before - self._bytes
