"""Reads after writes that failed: the right bytes or an error, and never a third thing.

    python -m tests.model.distrust --seed 1 --programs 10000

A random program has one file open many times over, for reading and for writing, while requests are
refused and answers lost, without being repeated.  Of each inode the model knows the only bytes that it
may show: what was there when it was first opened, with every write that succeeded.  A write that fails
changes nothing.  A read returns those bytes, or an error where something had gone wrong; who opens the
file after a failure was told gets what the bucket holds, under another inode; and the bucket only ever
holds contents that the file has had.

Threading: each program has a trio run of its own, in virtual time.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys
import time
from dataclasses import dataclass
from functools import partial

import trio

from ossfs.errors import AccessDenied, ConnectionLost, OssfsError, ServerFault, StoreError
from ossfs.fs.tree import SetAttr
from tests.model.programs import Setting, make_setting
from tests.model.reference import pattern
from tests.model.runner import EPOCH, LIMIT, Mismatch, conditions, first, run_in_virtual_time, shown
from tests.support.memory_log import MemoryLog
from tests.support.memory_store import MemoryStore
from tests.support.posix import File, mounted

NAME = "f"
REFUSALS: list[type[StoreError]] = [AccessDenied, ServerFault]


@dataclass(eq=False)
class Inode:
    """One inode, as long as anybody has it open."""

    number: int
    now: bytes
    """The only bytes that it may show."""
    told: bool = False
    """A failure was reported, and nothing has succeeded since: who opens the file now starts anew."""
    failed: bool = False
    """Something went wrong here once: errors may follow."""


@dataclass(eq=False)
class Opened:
    """One open file."""

    file: File
    inode: Inode
    wrote: bool = False


class Distrust:
    """One program."""

    def __init__(self, seed: int, length: int) -> None:
        self.random = random.Random(seed)
        self.setting: Setting = make_setting(self.random)
        self.log = MemoryLog() if self.random.random() < 0.3 else None
        """Of a mount that writes back: close does not wait for the bucket."""
        self.length = length
        self.opened: list[Opened] = []
        self.known: dict[int, Inode] = {}
        """The last of each number: what waits for its upload is shown although nobody has it open."""
        self.past: set[bytes] = set()
        """All contents that any inode has had."""
        self.share = 0.0
        """Of the requests that go wrong at present."""
        self.done = 0

    async def run(self) -> int:
        """All of it; the number of operations."""
        setting, rng = self.setting, self.random
        self.store = MemoryStore(
            clock=lambda: EPOCH + trio.current_time(),
            min_part_size=setting.min_part,
            copy_changes_etag=setting.copy_changes_etag,
            crc_of_copied_parts=setting.crc_of_copied_parts,
        )
        self.store.add(NAME, pattern(rng.randrange(4 * setting.chunk), 1), last_modified=EPOCH - 100)
        self.past.add(self.store.data(NAME))
        self.store.before, self.store.after = self._before, self._after
        with conditions(setting) as staging:
            async with mounted(
                self.store,
                wall_ns=lambda: int((EPOCH + trio.current_time()) * 10**9),
                chunk_size=setting.chunk,
                min_part=setting.min_part,
                memory=setting.memory,
                staging_dir=staging,
                writeback=self.log,
                ttl=setting.ttl,
            ) as posix:
                self.posix = posix
                for _ in range(self.length):
                    self.done += 1
                    with trio.move_on_after(LIMIT) as scope:
                        await self._step()
                    if scope.cancelled_caught:
                        raise Mismatch("it does not end")
                self.share = 0.0
                while self.opened:
                    await self._close(self.opened.pop())
                while self.log is not None and self.log.entries:
                    await trio.sleep(1)
                if await posix.read_file(NAME) != self.store.data(NAME):
                    raise Mismatch("the mount and the bucket differ")
        if self.store.data(NAME) not in self.past:
            raise Mismatch(f"the bucket holds what the file never was: {shown(self.store.data(NAME))}")
        return self.done

    # -- what goes wrong

    async def _before(self, op: str, key: str) -> None:
        if self.random.random() < self.share:
            await trio.sleep(self.random.choice([0.0, 0.5, 2.0]))
        if self.random.random() < self.share:
            self._struck()
            raise self.random.choice(REFUSALS)("scripted", operation=op, key=key)

    async def _after(self, op: str, key: str) -> None:
        if self.random.random() < self.share / 4:
            self._struck()
            raise ConnectionLost("the answer was lost", operation=op, key=key)

    def _struck(self) -> None:
        # A part fails behind the program's back, and a later call tells.
        for one in self.opened:
            one.inode.failed = True

    # -- operations

    async def _step(self) -> None:
        rng = self.random
        if rng.random() < 0.15:
            self.share = rng.choice([0.0, 0.0, 0.2, 0.6])
        if rng.random() < 0.1:
            await trio.sleep(rng.choice([0.1, 1.0, 6.0]))
        if not self.opened or (len(self.opened) < 6 and rng.random() < 0.25):
            await self._open()
            return
        one = rng.choice(self.opened)
        kind = rng.random()
        writable = one.file.flags & os.O_ACCMODE != os.O_RDONLY
        if kind < 0.4:
            await self._read(one)
        elif kind < 0.65 and writable:
            await self._write(one)
        elif kind < 0.7 and writable:
            await self._truncate(one)
        elif kind < 0.75:
            await self._truncate_path()
        elif kind < 0.85:
            await self._fsync(one)
        else:
            self.opened.remove(one)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._close, one)
                for other in list(self.opened):
                    await trio.sleep(rng.choice([0.0, 0.1]))
                    await self._read(other)

    async def _open(self) -> None:
        flags = self.random.choice([os.O_RDONLY, os.O_RDWR, os.O_RDWR, os.O_RDWR | os.O_TRUNC])
        told = {one.inode for one in self.opened if one.inode.told}
        try:
            file = await self.posix.open(NAME, flags)
        except OssfsError:
            if not self.share and not any(one.inode.failed for one in self.opened):
                raise
            return
        for one in self.opened:
            if one.inode.number == file.ino:
                if one.inode in told and self.log is None:  # what is pending on the disk is not given up
                    raise Mismatch("who opens the file after a failure shares an inode with it")
                inode = one.inode
                break
        else:
            pending = self.known.get(file.ino) if self.log is not None and self.log.entries else None
            inode = pending or Inode(file.ino, self.store.data(NAME))
            self.known[file.ino] = inode
            if inode.now not in self.past:
                raise Mismatch(f"the bucket holds what the file never was: {shown(inode.now)}")
        if flags & os.O_TRUNC:
            self._is(inode, b"")
        self.opened.append(Opened(file, inode))

    async def _read(self, one: Opened) -> None:
        at, length = self.random.randrange(5 * self.setting.chunk), self.random.randrange(1000)
        # Beside a close that goes on the inode may be told meanwhile, but its bytes do not change.
        try:
            got = await one.file.pread(length, at)
        except OssfsError:
            if not self.share and not one.inode.failed:
                raise
            one.inode.failed = True
            return
        expected = one.inode.now[at : at + length]
        if got != expected:
            raise Mismatch(f"operation {self.done}: read {shown(got)} at {at}, not {shown(expected)}")

    async def _write(self, one: Opened) -> None:
        rng, inode = self.random, one.inode
        at = rng.choice(
            [len(inode.now), rng.randrange(len(inode.now) + 1), rng.randrange(6 * self.setting.chunk)]
        )
        data = rng.randbytes(rng.choice([1, 30, rng.randrange(1, 3 * self.setting.chunk)]))
        try:
            await one.file.pwrite(data, at)
        except OssfsError:
            self._failed(one)
            return
        grown = bytearray(inode.now.ljust(at, b"\0"))
        grown[at : at + len(data)] = data
        self._is(inode, bytes(grown))
        one.wrote = True

    async def _truncate(self, one: Opened) -> None:
        size = self.random.randrange(4 * self.setting.chunk)
        try:
            await one.file.truncate(size)
        except OssfsError:
            self._failed(one)
            return
        self._is(one.inode, one.inode.now[:size].ljust(size, b"\0"))
        one.wrote = True

    async def _truncate_path(self) -> None:
        size = self.random.randrange(4 * self.setting.chunk)
        self.past |= {one.inode.now[:size].ljust(size, b"\0") for one in self.opened}
        self.past |= {inode.now[:size].ljust(size, b"\0") for inode in self.known.values()}
        self.past.add(self.store.data(NAME)[:size].ljust(size, b"\0"))
        try:
            number = (await self.posix.setattr(NAME, SetAttr(size=size))).ino
        except OssfsError:
            # Nothing may have been tried, or an inode be given up: it shows what it did, or nothing.  Where
            # only the bucket refused it, who has the file open sees it, as after an fsync that fails.
            for one in self.opened:
                one.inode.failed = True
                with contextlib.suppress(OssfsError):
                    if (await one.file.stat()).size == size:
                        self._is(one.inode, one.inode.now[:size].ljust(size, b"\0"))
            return
        for inode in {one.inode for one in self.opened if one.inode.number == number}:
            self._is(inode, inode.now[:size].ljust(size, b"\0"))
            if self.store.data(NAME) != inode.now:
                raise Mismatch(f"operation {self.done}: truncated, and not in the bucket")
            inode.told = False  # something has succeeded since

    async def _fsync(self, one: Opened) -> None:
        try:
            await one.file.fsync()
        except OssfsError:
            self._failed(one)
            return
        if one.wrote:
            self._durable(one)
        if self.store.data(NAME) == one.inode.now:
            one.inode.told = False  # also through a descriptor that wrote nothing

    async def _close(self, one: Opened) -> None:
        try:
            await one.file.close()
        except OssfsError:
            self._failed(one)
            return
        if one.wrote:
            if self.log is None:
                self._durable(one)
            one.inode.told = False

    # -- what follows

    def _is(self, inode: Inode, now: bytes) -> None:
        inode.now = now
        self.past.add(now)

    def _failed(self, one: Opened) -> None:
        if not self.share and not one.inode.failed:
            raise Mismatch(f"operation {self.done}: an error, and nothing was wrong")
        one.inode.failed = one.inode.told = True

    def _durable(self, one: Opened) -> None:
        if self.store.data(NAME) != one.inode.now:
            found = shown(self.store.data(NAME))
            raise Mismatch(f"operation {self.done}: accepted, and not in the bucket: {found}")


def run_distrust(seed: int, length: int = 60) -> int:
    """One program; the number of its operations."""
    try:
        done: int = run_in_virtual_time(partial(Distrust(seed, length).run), seed)
    except BaseExceptionGroup as group:
        raise first(group) from None
    return done


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.model.distrust", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--programs", type=int, default=1000)
    options = parser.parse_args()
    began, done, failures = time.monotonic(), 0, 0
    for seed in range(options.seed, options.seed + options.programs):
        try:
            done += run_distrust(seed)
        except Exception as error:
            failures += 1
            print(f"seed {seed}: {type(error).__name__}: {error}", flush=True)
            if failures >= 5:
                break
    print(f"{done} operations in {time.monotonic() - began:.0f} s, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
