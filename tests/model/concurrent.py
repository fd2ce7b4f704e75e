"""Several programs at once on one mount.

Each has a directory of its own, where the model says exactly what it must see.  Beside that they write
disjoint ranges of one shared file, append lines to a shared log, and write through descriptors into a
directory that somebody keeps renaming.  Callers give up at random and try again, which must neither stop
the work that they had begun nor do it twice.

Threading: one trio run in virtual time; the programs are tasks of it.
"""

from __future__ import annotations

import errno
import os
import random
from dataclasses import replace
from functools import partial
from typing import Any

import trio

from ossfs.errors import ConnectionLost, OssfsError, ServerFault, Throttled, errno_of
from ossfs.store.retry import RetryStore
from tests.model.programs import Maker, Op, Setting, applicable, apply, make_setting
from tests.model.reference import Reference, pattern
from tests.model.runner import (
    EPOCH,
    Mismatch,
    compare,
    conditions,
    different,
    expected_objects,
    first,
    run_in_virtual_time,
    shown,
)
from tests.model.subject import Subject
from tests.support.memory_store import MemoryStore
from tests.support.posix import Posix, mounted

LIMIT = 1_000_000.0
"""Virtual seconds for a whole run: more is a deadlock."""
PATHS = {"open": (1,), "rename": (0, 1), "symlink": (1,)}
"""Which arguments are paths; of other operations it is the first, if that is a text."""
REPEATABLE = set("read write ftruncate fsync stat fstat listdir chmod setxattr utimes".split())
"""Calls that may be given up and made again with the same effect."""
RANGE = 700


def below(top: str, op: Op) -> Op:
    """The same operation in the directory *top*."""
    where = PATHS.get(op.name, (0,))
    args = [
        (f"{top}/{arg}" if arg else top) if at in where and isinstance(arg, str) else arg
        for at, arg in enumerate(op.args)
    ]
    return Op(op.name, tuple(args))


def run_concurrently(seed: int, operations: int, *, programs: int = 4, faults: float = 0.0) -> int:
    """Run; the number of operations that were done.  Raises Mismatch, or what the product raised."""
    try:
        return run_in_virtual_time(partial(Together(seed, operations, programs, faults).run), seed)
    except BaseExceptionGroup as group:
        raise first(group) from None


class Together:
    """One run."""

    def __init__(self, seed: int, operations: int, programs: int, faults: float) -> None:
        self.rng = random.Random(seed)
        self.setting: Setting = replace(make_setting(self.rng), foreign=(), latency=0.02)
        self.operations = operations
        self.programs = programs
        self.faults = faults
        self.done = 0
        self.lines: list[bytes] = []
        self.ranges = [bytearray(RANGE) for _ in range(programs)]
        self.moving: dict[str, bytearray] = {}
        self.models = [Reference() for _ in range(programs)]
        self.appending = trio.Lock()
        self.naming = trio.Lock()
        """The kernel's lock of the directory that files are published in."""
        self.published: dict[str, list[bytes]] = {}
        self.place = "r"

    def now(self) -> float:
        return EPOCH + trio.current_time()

    async def _before(self, op: str, key: str) -> None:
        await trio.sleep(self.rng.choice([0, 0, 0.001, 0.05, 0.4]))
        if self.rng.random() < self.faults:
            raise self.rng.choice([Throttled, ServerFault])("scripted", operation=op, key=key, status=503)

    async def _after(self, op: str, key: str) -> None:
        await trio.sleep(self.rng.choice([0, 0, 0.001, 0.05]))
        if self.rng.random() < self.faults:
            raise ConnectionLost("the answer was lost", operation=op, key=key)

    async def run(self) -> int:
        setting = self.setting
        store = MemoryStore(
            clock=self.now,
            min_part_size=setting.min_part,
            copy_changes_etag=setting.copy_changes_etag,
            crc_of_copied_parts=setting.crc_of_copied_parts,
        )
        store.before, store.after = self._before, self._after
        served = RetryStore(store, call_timeout=600.0, jitter=self.rng.random) if self.faults else store
        with conditions(setting) as staging:
            async with mounted(
                served,
                wall_ns=lambda: int(self.now() * 10**9),
                chunk_size=setting.chunk,
                min_part=setting.min_part,
                memory=setting.memory * 2,
                staging_dir=staging,
                prefix=setting.prefix,
                ttl=setting.ttl,
            ) as posix:
                with trio.move_on_after(LIMIT) as scope:
                    await self._all(posix)
                if scope.cancelled_caught:
                    raise Mismatch("they wait for one another for ever")
                for upload in [u for u in store.uploads.values() if self.faults and not u.parts]:
                    del store.uploads[upload.upload_id]
        self._check_bucket(store)
        return self.done

    async def _all(self, posix: Posix) -> None:
        for name in [self.place, *(f"t{i}" for i in range(self.programs))]:
            await posix.mkdir(name)
        await posix.write_file("shared", b"")
        self.left = self.programs
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._rename, posix)
            for number in range(self.programs):
                nursery.start_soon(self._program, posix, number)

    # -- one program

    async def _program(self, posix: Posix, number: int) -> None:
        rng = random.Random(self.rng.random())
        model, subject = self.models[number], Subject(posix)
        maker = Maker(rng, model, self.setting)
        done = 0
        while done < self.operations:
            kind = rng.random()
            if kind < 0.08:
                await self._append(posix, number, done, rng)
            elif kind < 0.16:
                await self._write_range(posix, number, rng)
            elif kind < 0.20:
                await self._write_where_it_is_moved(posix, f"{number}-{done}", rng)
            elif kind < 0.24:
                await self._publish(posix, f"new-{number}-{done}", rng)
            elif kind < 0.30:
                await self._read_published(posix, rng)
            else:
                op = maker.next()
                if op.name in ("forget", "remount") or not applicable(model, op):
                    continue
                await self._step(model, subject, f"t{number}", op, rng)
            done += 1
            self.done += 1
        for slot in list(model.slots):
            while slot in model.slots:
                await self._step(model, subject, f"t{number}", Op("close", (slot,)), rng)
        self.left -= 1

    async def _step(self, model: Reference, subject: Subject, top: str, op: Op, rng: random.Random) -> None:
        if op.name == "check":
            got = await subject.snapshot(top)
            compare({f"{top}/{path}": fact for path, fact in model.snapshot().items()}, got)
            if await subject.in_slots() != model.in_slots():
                raise Mismatch(f"{top}: in open files")
            return
        expected = apply(model, op)
        real = below(top, op)
        appends = op.name == "write" and subject.slots[op.args[0]].flags & os.O_APPEND
        if op.name in REPEATABLE and not appends and rng.random() < 0.1:
            with trio.move_on_after(rng.choice([0.0, 0.01, 0.1])):
                await self._call(subject, real)
        got = await self._call(subject, real)
        if got != expected:
            raise Mismatch(f"{top}: {op}: {shown(got)}, not {shown(expected)}")

    async def _call(self, subject: Subject, op: Op) -> tuple[str, Any]:
        try:
            return "ok", await getattr(subject, op.name)(*op.args)
        except OssfsError as error:
            return "error", errno_of(error)

    # -- what they share

    async def _append(self, posix: Posix, number: int, count: int, rng: random.Random) -> None:
        lines = [
            f"{number}-{count}-{i}:{'x' * rng.randrange(200)}\n".encode() for i in range(rng.randrange(1, 4))
        ]
        file = await posix.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for line in lines:
            async with self.appending:  # the kernel holds the inode's lock
                await file.write(line)
            if rng.random() < 0.2:
                await file.fsync()
        await file.close()
        self.lines += lines

    async def _write_range(self, posix: Posix, number: int, rng: random.Random) -> None:
        file = await posix.open("shared", os.O_RDWR)
        mine = self.ranges[number]
        for _ in range(rng.randrange(1, 4)):
            start = rng.randrange(RANGE)
            data = pattern(rng.randrange(1, RANGE - start + 1), rng.randrange(1, 1000))
            mine[start : start + len(data)] = data
            await file.pwrite(data, number * RANGE + start)
            got = await file.pread(RANGE, number * RANGE)
            if bytes(got) != mine[: len(got)] or len(got) < start + len(data):
                raise Mismatch(f"of the shared file, program {number} reads {shown(bytes(got))}")
        await file.close()

    async def _write_where_it_is_moved(self, posix: Posix, name: str, rng: random.Random) -> None:
        while True:
            try:
                file = await posix.open(f"{self.place}/{name}", os.O_RDWR | os.O_CREAT)
                break
            except OssfsError as error:
                if errno_of(error) not in (errno.ENOENT, errno.ESTALE):
                    raise
                await trio.sleep(0.05)  # it is being renamed
        data = self.moving[name] = bytearray()
        for _ in range(rng.randrange(1, 6)):
            piece = pattern(rng.randrange(1, 3 * self.setting.chunk), rng.randrange(1, 1000))
            await file.pwrite(piece, len(data))
            data += piece
            await trio.sleep(rng.choice([0, 0.01, 0.5]))
            if await file.pread(len(data), 0) != data:
                raise Mismatch(f"{name}, in a directory that is moved, reads wrongly")
        await file.close()

    async def _publish(self, posix: Posix, temporary: str, rng: random.Random) -> None:
        """A new version under a name of its own, which then replaces the old."""
        name = rng.choice(["public-a", "public-b"])
        data = pattern(rng.randrange(3 * self.setting.chunk), rng.randrange(1, 10_000))
        async with self.naming:
            file = await posix.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        await file.pwrite(data, 0)
        if rng.random() < 0.7:
            await file.close()
        versions = self.published.setdefault(name, [])
        async with self.naming:
            versions.append(data)
            await posix.rename(temporary, name)
        if file.copies:
            await file.close()

    async def _read_published(self, posix: Posix, rng: random.Random) -> None:
        """Whatever is replaced meanwhile, a reader sees one version, and one always."""
        name = rng.choice(["public-a", "public-b"])
        before = len(self.published.get(name, []))
        try:
            file = await posix.open(name)
        except OssfsError as error:
            if errno_of(error) == errno.ESTALE or before < 2:
                return  # replaced twice while it was opened; or not there yet
            raise
        size = (await file.stat()).size
        data = await file.pread(size // 2, 0)
        await trio.sleep(rng.choice([0, 0.01, 1.0]))
        data += await file.pread(size - size // 2, size // 2)
        await file.close()
        if data not in self.published[name]:
            raise Mismatch(f"{name} reads as {shown(data)}, which nobody has written")

    async def _rename(self, posix: Posix) -> None:
        while self.left:
            await trio.sleep(self.rng.choice([0.1, 1.0, 5.0]))
            other = "s" if self.place == "r" else "r"
            await posix.rename(self.place, other)
            self.place = other

    def _check_bucket(self, store: MemoryStore) -> None:
        prefix = self.setting.prefix
        expected: dict[str, bytes] = {}
        directories = {prefix, f"{prefix}{self.place}/"}
        for number, model in enumerate(self.models):
            files, places = expected_objects(model, f"{prefix}t{number}/")
            expected |= files
            directories |= places | {f"{prefix}t{number}/"}
        for name, data in self.moving.items():
            expected[f"{prefix}{self.place}/{name}"] = bytes(data)
        got = {key: found.data for key, found in store.objects.items() if key not in directories}
        log = got.pop(f"{prefix}log", b"")
        if sorted(log.splitlines(keepends=True)) != sorted(self.lines):
            raise Mismatch(f"the log has {len(log.splitlines())} lines of {len(self.lines)}, or others")
        for name, versions in self.published.items():
            if got.pop(prefix + name) != versions[-1]:
                raise Mismatch(f"{name} is not what was published last")
        shared = got.pop(f"{prefix}shared")
        if shared != b"".join(self.ranges)[: len(shared)]:
            raise Mismatch("the shared file is wrong")
        if got != expected:
            raise Mismatch(f"in the bucket: {shown(different(got, expected))}")
        if store.uploads:
            raise Mismatch(f"an upload is left: {store.uploads}")
