"""One random program on two machines that share a directory of one bucket.

Each machine makes, writes, renames and removes the same few names at the same time.  Whatever comes of it,
calls fail only with the errnos of a race that was lost, and when the time to live of what was known has
passed, both machines show exactly what the bucket holds: names, bytes, modes.

A program of the kind that keeps removes and replaces nothing.  Then every file that `close` accepted is in
the bucket at the end, under whatever name.

Threading: `run_two_machines` is one trio run in virtual time; the programs themselves are plain data, which
tests/model/test_two_machines.py runs on real mounts as well.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import stat
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from ossfs.errors import ConnectionLost, OssfsError, ServerFault, Throttled, errno_of
from ossfs.store.retry import RetryStore
from tests.model.reference import KIND_OF_MODE, pattern
from tests.model.runner import EPOCH, Mismatch, different, first, run_in_virtual_time, shown
from tests.model.subject import Subject
from tests.support.memory_store import MemoryStore
from tests.support.posix import Posix, mounted

TTL = 2.0
SETTLED = TTL + 3.0
"""Seconds after which both must show the bucket: what waits for company (deletes, times) goes within one."""
LIMIT = 100_000.0
SHARED = "s"
LOST_RACES = {
    errno.ENOENT,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENOTEMPTY,
    errno.EINVAL,
    errno.ESTALE,
}
"""What a call may answer to whom another machine was faster than; EINVAL: a directory into itself."""

Shown = dict[str, tuple[str, int, bytes | str]]
"""Path to kind, permission bits, and content."""


@dataclass(frozen=True)
class Step:
    """One thing that a program does.  wait: seconds before it."""

    call: str
    paths: tuple[str, ...]
    number: int
    wait: float


def make_steps(seed: int, machine: int, count: int, *, keeps: bool) -> list[Step]:
    """The program of one machine."""
    rng = random.Random(f"{seed}-{machine}")
    calls = ["create"] * 4 + ["mkdir", "rmdir", "move", "move", "move", "list", "read", "stat"]
    if not keeps:
        calls += ["put", "put", "append", "edit", "unlink", "rmdir", "rename", "rename", "chmod", "chmod"]
    steps = []
    for number in range(count):
        call = rng.choice(calls)
        one = _path(rng, call)
        kind = "mkdir" if one[-1] in "abc" else ""
        paths = (one, _path(rng, kind))
        if keeps and call == "create":
            paths = (f"{_directory(rng)}f{machine}-{number}", "")
        wait = rng.choice([0, 0, 0, 0.02, 0.3, 1.5])
        steps.append(Step(call, paths, machine * 10_000 + number, wait))
    return steps


def _directory(rng: random.Random) -> str:
    return rng.choice(["", "", "a/", "b/", "a/c/", "b/a/"])


def _path(rng: random.Random, call: str = "") -> str:
    """Directories have other names than files, but now and then."""
    directories = call in ("mkdir", "rmdir") or (call in ("move", "rename", "chmod") and rng.random() < 0.5)
    if rng.random() < 0.05:
        directories = not directories
    return _directory(rng) + rng.choice("abc" if directories else "xyz")


def content_of(number: int) -> bytes:
    """What the step of this number writes: told apart from what every other one writes."""
    return b"%d:" % number + pattern(number * 7 % 300, number % 250 + 1)


class _Machine:
    """A machine of the run in memory."""

    def __init__(self, posix: Posix) -> None:
        self.posix = posix
        self.subject = Subject(posix)
        self.accepted: list[int] = []

    async def do(self, step: Step) -> None:
        one, two = (f"{SHARED}/{path}" for path in step.paths)
        match step.call:
            case "create":
                await self._write(one, os.O_CREAT | os.O_EXCL, step.number)
            case "put":
                await self._write(one, os.O_CREAT | os.O_TRUNC, step.number)
            case "append":
                await self._write(one, os.O_CREAT | os.O_APPEND, step.number)
            case "edit":
                await self._write(one, 0, step.number)
            case "mkdir":
                await self.subject.mkdir(one, 0o700 | step.number % 64)
            case "rmdir":
                await self.subject.rmdir(one)
            case "move":
                await self.subject.rename(one, two, True)
            case "rename":
                await self.subject.rename(one, two, False)
            case "unlink":
                await self.subject.unlink(one)
            case "chmod":
                await self.subject.chmod(one, 0o600 | step.number % 64)
            case "list":
                await self.subject.listdir(os.path.dirname(one))
            case "stat":
                await self.subject.stat(one)
            case "read":
                if (await self.subject.stat(one))[0] == "file":
                    await self.posix.read_file(one)
            case _:
                raise AssertionError(step.call)

    async def _write(self, path: str, flags: int, number: int) -> None:
        if not flags & os.O_CREAT and (await self.subject.stat(path))[0] != "file":
            raise OSError(errno.EISDIR, path)
        file = await self.posix.open(path, os.O_WRONLY | flags)
        try:
            await file.write(content_of(number))
        finally:
            await file.close()
        self.accepted.append(number)

    async def shown(self) -> Shown:
        facts = await self.subject.snapshot(SHARED)
        return {
            path.removeprefix(f"{SHARED}/"): (kind, mode, content)
            for path, (kind, mode, _, _, _, _, content, _) in facts.items()
        }


def in_bucket(store: MemoryStore) -> Shown:
    """What any other tool would say that the directory holds."""
    return tree_of(
        {key: (int(item.headers.meta.get("mode", 0)), item.data) for key, item in store.objects.items()},
        f"{SHARED}/",
    )


def tree_of(objects: dict[str, tuple[int, bytes]], top: str) -> Shown:
    """What is to be seen of objects (mode and bytes by key) below the prefix *top*."""
    found: Shown = {}
    for key, (mode, data) in objects.items():
        path = key.removeprefix(top)
        if path == key or not path:
            continue
        for at in range(len(path)):
            if path[at] == "/" and found.get(path[:at], ("",))[0] != "directory":
                found[path[:at]] = ("directory", 0o755, b"")
        if path.endswith("/"):
            found[path[:-1]] = ("directory", stat.S_IMODE(mode), b"")
        elif found.get(path, ("",))[0] != "directory":
            found[path] = (KIND_OF_MODE[stat.S_IFMT(mode) or stat.S_IFREG], stat.S_IMODE(mode), data)
    return found


def run_two_machines(seed: int, count: int, *, keeps: bool, faults: float = 0.0) -> int:
    """Run; the number of steps that succeeded.  Raises Mismatch, or what the product raised."""
    try:
        return run_in_virtual_time(partial(_TwoMachines(seed, count, keeps, faults).run), seed)
    except BaseExceptionGroup as group:
        raise first(group) from None


class _TwoMachines:
    def __init__(self, seed: int, count: int, keeps: bool, faults: float) -> None:
        self.rng = random.Random(seed)
        self.seed, self.count, self.keeps, self.faults = seed, count, keeps, faults
        self.succeeded = 0
        self.told: list[str] = []

    def now(self) -> float:
        return EPOCH + trio.current_time()

    async def _before(self, op: str, key: str) -> None:
        await trio.sleep(self.rng.choice([0, 0.001, 0.01, 0.05, 0.3]))
        if self.rng.random() < self.faults:
            raise self.rng.choice([Throttled, ServerFault])("scripted", operation=op, key=key, status=503)

    async def _after(self, op: str, key: str) -> None:
        await trio.sleep(self.rng.choice([0, 0.001, 0.01, 0.05]))
        if self.rng.random() < self.faults:
            raise ConnectionLost("the answer was lost", operation=op, key=key)

    async def run(self) -> int:
        store = MemoryStore(clock=self.now)
        store.add(f"{SHARED}/")
        store.before, store.after = self._before, self._after
        async with self._mounted(store, "1") as one, self._mounted(store, "2") as two:
            machines = [_Machine(one), _Machine(two)]
            with trio.move_on_after(LIMIT) as scope:
                async with trio.open_nursery() as nursery:
                    for number, machine in enumerate(machines):
                        nursery.start_soon(self._program, machine, number)
            if scope.cancelled_caught:
                raise Mismatch("they wait for one another for ever")
            self.faults = 0.0
            await trio.sleep(SETTLED)
            self._check(store, [await machine.shown() for machine in machines])
            if self.keeps:
                self._check_kept(store, [n for m in machines for n in m.accepted])
        return self.succeeded

    def _mounted(self, store: MemoryStore, mount_id: str) -> Any:
        served = RetryStore(store, call_timeout=600.0, jitter=self.rng.random) if self.faults else store
        return mounted(
            served,
            wall_ns=lambda: int(self.now() * 10**9),
            ttl=TTL,
            mount_id=mount_id * 8,
            hostname=f"host{mount_id}",
        )

    async def _program(self, machine: _Machine, number: int) -> None:
        for step in make_steps(self.seed, number, self.count, keeps=self.keeps):
            await trio.sleep(step.wait)
            began = trio.current_time()
            try:
                await machine.do(step)
            except OSError as error:
                answer = error.errno
            except OssfsError as error:
                answer = errno_of(error)
                if answer not in LOST_RACES:
                    raise Mismatch(f"machine {number}, {step}: {error!r}\n{self.history()}") from error
            else:
                answer = 0
                self.succeeded += 1
            name = errno.errorcode.get(answer or 0, "ok")
            self.told.append(f"{began:.3f}-{trio.current_time():.3f} machine {number} {step} {name}")

    def history(self) -> str:
        return "\n".join(self.told[-60:])

    def _check(self, store: MemoryStore, views: list[Shown]) -> None:
        expected = in_bucket(store)
        for number, view in enumerate(views):
            if view != expected:
                raise Mismatch(
                    f"machine {number} (shown, in the bucket): {shown(different(view, expected))}\n"
                    f"{self.history()}"
                )
        if store.uploads:
            raise Mismatch(f"an upload is left: {store.uploads}")

    def _check_kept(self, store: MemoryStore, accepted: list[int]) -> None:
        held = {item.data for item in store.objects.values()}
        lost = [number for number in accepted if content_of(number) not in held]
        if lost:
            raise Mismatch(f"lost: {lost}\n{self.history()}")


# --------------------------------------------------------------------------------------------------
# On real mounts.


def do_on_a_mount(step: Step, top: Path) -> None:
    """The same step by system calls.  Raises OSError."""
    one, two = (top / path for path in step.paths)
    match step.call:
        case "create":
            _put(one, os.O_CREAT | os.O_EXCL, step.number)
        case "put":
            _put(one, os.O_CREAT | os.O_TRUNC, step.number)
        case "append":
            _put(one, os.O_CREAT | os.O_APPEND, step.number)
        case "edit":
            _put(one, 0, step.number)
        case "mkdir":
            one.mkdir(0o700 | step.number % 64)
        case "rmdir":
            one.rmdir()
        case "move":
            rename_no_replace(one, two)
        case "rename":
            one.rename(two)
        case "unlink":
            one.unlink()
        case "chmod":
            one.chmod(0o600 | step.number % 64)
        case "list":
            os.listdir(one.parent)
        case "stat":
            one.stat()
        case "read":
            one.read_bytes()
        case _:
            raise AssertionError(step.call)


def rename_no_replace(old: Path, new: Path) -> None:
    """renameat2(2) with RENAME_NOREPLACE.  Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), 1) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(old))


def _put(path: Path, flags: int, number: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | flags, 0o644)
    try:
        os.write(descriptor, content_of(number))
    finally:
        os.close(descriptor)


def seen_in(top: Path) -> Shown | None:
    """What a mount shows; None when it changes meanwhile."""
    found: Shown = {}
    try:
        for directory, directories, files in os.walk(top, onerror=_raise):
            for name in [*directories, *files]:
                path = Path(directory, name)
                mode = path.lstat().st_mode
                content = path.read_bytes() if stat.S_ISREG(mode) else b""
                kind = KIND_OF_MODE[stat.S_IFMT(mode)]
                found[str(path.relative_to(top))] = (kind, stat.S_IMODE(mode), content)
    except OSError as error:
        if error.errno not in LOST_RACES:
            raise
        return None
    return found


def _raise(error: OSError) -> None:
    raise error
