"""Runs a program on the model and on the product over a store in memory, and compares.

Threading: each program has a trio run of its own, in virtual time.  The schedule of tasks follows from the
seed, so a failure comes again.
"""

from __future__ import annotations

import contextlib
import logging
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import trio
import trio.testing

from ossfs.errors import OssfsError, errno_of
from ossfs.fs import content, resolve, staging
from ossfs.fs import hidden as hidden_keys
from ossfs.fs.plan import PlanLimits
from ossfs.fs.writer import Writer
from tests.model.programs import MIB, Op, Program, Setting, applicable, apply, populate
from tests.model.reference import Directory, Fact, File, Link, Reference, pattern
from tests.model.subject import Subject
from tests.support.memory_store import MemoryStore
from tests.support.posix import Posix, mounted

EPOCH = 1_700_000_000
LIMIT = 50_000.0
"""Virtual seconds that one operation may take: more is a deadlock."""


class Mismatch(AssertionError):
    """The product did something else than the model."""


async def _inline(work: Callable[..., Any], *args: Any) -> Any:
    # A thread would let virtual time jump ahead of it.
    await trio.lowlevel.checkpoint()
    return work(*args)


@contextlib.contextmanager
def conditions(setting: Setting) -> Iterator[str | None]:
    """What can only be set from inside; the directory for staging files."""
    directory = tempfile.mkdtemp(prefix="ossfs-model-") if setting.staging else None

    def limits(_: Writer) -> PlanLimits:
        return PlanLimits(
            chunk_size=setting.chunk,
            min_part=setting.min_part,
            max_parts=setting.max_parts,
            single_put_fetch=setting.single_put_fetch,
            zero_copy_min=setting.zero_copy_min,
        )

    threadless = SimpleNamespace(Lock=trio.Lock, to_thread=SimpleNamespace(run_sync=_inline))
    try:
        with (
            mock.patch.object(Writer, "_limits", limits),
            mock.patch.object(content, "_KEEP", max(1, setting.chunk // 4)),
            mock.patch.object(content, "_LEAST_BLOCK", 16),
            mock.patch.object(content, "_LARGEST_BLOCK", setting.chunk // 2),
            mock.patch.object(content, "_SLACK", setting.chunk // 4),
            mock.patch.object(hidden_keys, "ZERO_BLOCK", MIB),
            mock.patch.object(resolve, "LIST_PAGE", setting.list_page),
            mock.patch.object(staging, "trio", threadless),
        ):
            yield directory
    finally:
        if directory is not None:
            shutil.rmtree(directory)


def run_program(program: Program) -> int:
    """Run it; the number of operations that were done.  Raises Mismatch, or what the product raised."""
    try:
        return run_in_virtual_time(partial(make_run(program).run), program.seed)
    except BaseExceptionGroup as group:
        raise first(group) from None


def make_run(program: Program) -> Run:
    """The runner that the setting asks for."""
    if program.setting.faults:
        from tests.model.faults import FaultyRun

        return FaultyRun(program)
    return Run(program)


def first(error: BaseException) -> BaseException:
    """What is in a group of exceptions: a mismatch, or the first there is."""
    while isinstance(error, BaseExceptionGroup):
        found = error.subgroup(Mismatch)
        error = (found or error).exceptions[0]
    return error


def run_in_virtual_time(work: Callable[[], Any], seed: int) -> Any:
    """trio.run with a clock that jumps, and an order of tasks that follows from the seed."""
    from trio._core import _run

    logging.disable(logging.CRITICAL)
    try:
        with mock.patch.object(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True):
            _run._r.seed(seed)
            return trio.run(work, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        logging.disable(logging.NOTSET)


def fails(program: Program) -> bool:
    """Does it fail, in whatever way?"""
    try:
        run_program(program)
    except Exception:
        return True
    return False


class Run:
    """One program on one bucket."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.setting = program.setting
        self.rng = random.Random(program.seed)
        self.model = Reference()
        self.done = 0
        self.staging: str | None = None
        self.delete_sync = False

    async def run(self) -> int:
        setting = self.setting
        self.store = MemoryStore(
            clock=self.now,
            latency=setting.latency,
            min_part_size=setting.min_part,
            copy_changes_etag=setting.copy_changes_etag,
            crc_of_copied_parts=setting.crc_of_copied_parts,
        )
        populate(self.model, setting)
        for path, size in setting.foreign:
            self.store.add(setting.prefix + path, pattern(size, 3), last_modified=EPOCH - 100)
        ops = [*self.program.ops, Op("remount"), Op("check")]
        with conditions(setting) as self.staging:
            while ops:
                await self._mount(ops)
        return self.done

    def now(self) -> float:
        """Unix seconds."""
        return EPOCH + trio.current_time()

    def served(self) -> Any:
        """The store that the mount is given."""
        return self.store

    async def _mount(self, ops: list[Op]) -> None:
        setting = self.setting
        async with mounted(
            self.served(),
            wall_ns=lambda: int(self.now() * 10**9),
            chunk_size=setting.chunk,
            min_part=setting.min_part,
            memory=setting.memory,
            staging_dir=self.staging,
            prefix=setting.prefix,
            ttl=setting.ttl,
            delete_sync=self.delete_sync,
        ) as posix:
            subject = Subject(posix)
            while ops:
                op = ops.pop(0)
                if op.name == "remount":
                    break
                await self.step(subject, op)
            await self.before_drain(subject)
            self.model.slots.clear()
        self.check_bucket()

    async def before_drain(self, subject: Subject) -> None:
        """The mount is about to end, with files still open."""

    async def step(self, subject: Subject, op: Op) -> None:
        """One operation on both sides."""
        if not applicable(self.model, op):
            return
        self.done += 1
        with trio.move_on_after(LIMIT) as scope:
            await self.both(subject, op)
        if scope.cancelled_caught:
            raise Mismatch(f"{op} does not end")

    async def both(self, subject: Subject, op: Op) -> None:
        if op.name == "check":
            await self.check(subject)
            return
        expected = apply(self.model, op)
        got, _ = await self.attempt(subject, op)
        if got != expected:
            raise Mismatch(f"operation {self.done}, {op}: {shown(got)}, not {shown(expected)}")

    async def attempt(self, subject: Subject, op: Op) -> tuple[tuple[str, Any], OssfsError | None]:
        """What the product answers, as `apply` says it; and the error itself."""
        try:
            if op.name == "forget":
                subject.forget()
                return ("ok", None), None
            return ("ok", await getattr(subject, op.name)(*op.args)), None
        except OssfsError as error:
            return ("error", errno_of(error)), error

    async def check(self, subject: Subject) -> None:
        """The whole tree, and whatever is open."""
        compare(self.model.snapshot(), await subject.snapshot())
        got, expected = await subject.in_slots(), self.model.in_slots()
        if got != expected:
            raise Mismatch(f"in open files: {shown(got)}, not {shown(expected)}")
        self._check_closed()

    def _check_closed(self) -> None:
        """What is closed is in the bucket."""
        still_open = {id(opened.file) for opened in self.model.slots.values()}
        for path in self.model.paths():
            node = self.model.find(path)
            if isinstance(node, File) and id(node) not in still_open:
                found = self.store.objects.get(self.setting.prefix + path)
                if found is None or found.data != node.data:
                    raise Mismatch(f"closed, and not in the bucket: {path}: {shown(found and found.data)}")

    def check_bucket(self) -> None:
        """Nobody has anything open: the bucket holds the files, and nothing else."""
        expected, directories = expected_objects(self.model, self.setting.prefix)
        directories.add(self.setting.prefix)
        got = {key: found.data for key, found in self.store.objects.items() if key not in directories}
        if got != expected:
            raise Mismatch(f"in the bucket: {shown(different(got, expected))}")
        if self.store.uploads:
            raise Mismatch(f"an upload is left: {self.store.uploads}")


def expected_objects(model: Reference, prefix: str) -> tuple[dict[str, bytes], set[str]]:
    """The bytes of every object that a bucket should hold, and the keys that directories may have."""
    expected: dict[str, bytes] = {}
    directories: set[str] = set()
    for path in model.paths():
        node, key = model.find(path), prefix + path
        if isinstance(node, File):
            expected[key] = bytes(node.data)
        elif isinstance(node, Link):
            expected[key] = node.target.encode()
        elif isinstance(node, Directory):
            directories.add(key + "/")
    return expected, directories


def different(got: dict[Any, Any], expected: dict[Any, Any]) -> dict[Any, tuple[Any, Any]]:
    """key -> (got, expected) where they differ."""
    return {
        key: (got.get(key), expected.get(key))
        for key in sorted(got.keys() | expected.keys())
        if got.get(key) != expected.get(key)
    }


def compare(expected: dict[str, Fact], got: dict[str, Fact]) -> None:
    """Two snapshots; times count only where a program has set them."""
    for path, known in expected.items():
        if known[5] is None and path in got:
            got[path] = (*got[path][:5], None, *got[path][6:])
    if got != expected:
        raise Mismatch(f"(got, expected) by path: {shown(different(got, expected))}")


def shown(value: Any) -> str:
    """repr, with the middle of long bytes left out."""
    if isinstance(value, bytes | bytearray) and len(value) > 24:
        return (
            f"<{len(value)} bytes {bytes(value[:8]).hex()}..{bytes(value[-4:]).hex()} {hash(bytes(value)):x}>"
        )
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {shown(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(shown, value)) + ")"
    return repr(value)


__all__ = ["Mismatch", "Posix", "Run", "fails", "run_program"]
