"""Random programs of system calls: plain data, made from a seed, and smaller when they fail."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.model.reference import Directory, File, Reference, pattern

KIB = 1 << 10
MIB = 1 << 20
NS = 10**9
SLOTS = 6
NAMES = "abcd"


@dataclass(frozen=True)
class Op:
    """One call: the name of a method of Reference and its arguments; or forget, sleep, remount, check."""

    name: str
    args: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        return f"Op({self.name!r}, {self.args!r})" if self.args else f"Op({self.name!r})"


@dataclass(frozen=True)
class Setting:
    """The mount and the bucket that a program runs on."""

    chunk: int = 256
    min_part: int = 64
    memory: int = 64 * MIB
    staging: bool = False
    max_parts: int = 10_000
    single_put_fetch: int = 128
    zero_copy_min: int = 1024
    prefix: str = ""
    ttl: float = 5.0
    list_page: int = 1000
    latency: float = 0.0
    copy_changes_etag: bool = False
    crc_of_copied_parts: bool = True
    foreign: tuple[tuple[str, int], ...] = ()
    """Objects that somebody else had put: (path, size)."""
    faults: float = 0.0
    """Of so many requests, at random, something goes wrong."""
    call_timeout: float = 0.0
    """Seconds for which a request is repeated; 0: never."""


@dataclass(frozen=True)
class Program:
    seed: int
    setting: Setting
    ops: tuple[Op, ...]

    def source(self) -> str:
        """As Python, for a regression test."""
        default = Setting()
        changed = {
            name: value for name, value in self.setting.__dict__.items() if value != getattr(default, name)
        }
        setting = ", ".join(f"{name}={value!r}" for name, value in changed.items())
        lines = "".join(f"    {op!r},\n" for op in self.ops)
        return f"Program({self.seed}, Setting({setting}), (\n{lines}))"


def make_setting(rng: random.Random, *, faults: float = 0.0, call_timeout: float = 0.0) -> Setting:
    """A mount of tiny chunks, so that everything that big files meet is met all the time."""
    chunk = rng.choice([64, 256, 256, 1024, 4096])
    foreign: tuple[tuple[str, int], ...] = ()
    if rng.random() < 0.4:
        foreign = (("a", 5 * chunk + 3), ("c/a", 10), ("c/b/a", 2 * chunk), ("d", 0))
    memory = rng.choice([8 * chunk, 16 * chunk, 64 * chunk, 64 * MIB])
    return Setting(
        chunk=chunk,
        min_part=rng.choice([chunk // 4, chunk // 2, chunk]),
        memory=memory,
        staging=memory < 64 * MIB or rng.random() < 0.5,
        max_parts=rng.choice([10_000, 10_000, 12]),
        single_put_fetch=rng.choice([0, chunk // 2, 2 * chunk, MIB]),
        zero_copy_min=rng.choice([chunk, 4 * chunk, 8 * MIB]),
        prefix=rng.choice(["", "", "p/q/"]),
        ttl=rng.choice([5.0, 5.0, 0.5]),
        list_page=rng.choice([1000, 1000, 2]),
        latency=rng.choice([0.0, 0.0, 0.02]),
        copy_changes_etag=rng.random() < 0.3,
        crc_of_copied_parts=rng.random() < 0.7,
        foreign=foreign,
        faults=faults,
        call_timeout=call_timeout,
    )


def make_program(seed: int, length: int, *, faults: float = 0.0, call_timeout: float = 0.0) -> Program:
    """The program of a seed.  It is made along a model, so that most of its calls make sense."""
    rng = random.Random(seed)
    setting = make_setting(rng, faults=faults, call_timeout=call_timeout)
    model = Reference()
    populate(model, setting)
    maker = Maker(rng, model, setting)
    ops = []
    while len(ops) < length:
        op = maker.next()
        if applicable(model, op):
            ops.append(op)
            apply(model, op)
    return Program(seed, setting, tuple(ops))


def populate(model: Reference, setting: Setting) -> None:
    """The foreign objects, as a mount shows them."""
    for path, size in setting.foreign:
        parts = path.split("/")
        directory = model.root
        for name in parts[:-1]:
            directory = directory.entries.setdefault(name, Directory(0o755, 0, 0))  # type: ignore[assignment]
        directory.entries[parts[-1]] = File(0o644, 0, 0, data=bytearray(pattern(size, 3)))


LAST_MAY_BE_LINK = {"unlink", "readlink", "stat", "utimes", "chown", "mkdir", "rmdir", "symlink"}


def applicable(model: Reference, op: Op) -> bool:
    """Would a kernel pass this call on as it is?  Links are not followed here."""
    name, args = op.name, op.args
    match name:
        case "forget" | "sleep" | "remount" | "check":
            return True
        case "open":
            slot, path, flags, _ = args
            if slot in model.slots or model.through_link(path, last=True):
                return False
            return not isinstance(model.get(path), Directory) or bool(flags & (os.O_CREAT | os.O_ACCMODE))
        case "write" | "ftruncate":
            return args[0] in model.slots and model.slots[args[0]].writable
        case "read":
            return args[0] in model.slots and model.slots[args[0]].readable
        case "fsync" | "dup" | "close" | "fstat" | "fchmod" | "futimes":
            return args[0] in model.slots
        case "rename":
            return not any(model.through_link(path, last=False) for path in args[:2])
        case "symlink":
            return not model.through_link(args[1], last=False)
        case _:
            return not model.through_link(args[0], last=name not in LAST_MAY_BE_LINK)


def apply(model: Reference, op: Op) -> tuple[str, Any]:
    """("ok", what it returns) or ("error", errno)."""
    if op.name == "remount":
        model.slots.clear()
    if op.name in ("forget", "sleep", "remount", "check"):
        return "ok", None
    try:
        return "ok", getattr(model, op.name)(*op.args)
    except OSError as error:
        return "error", error.errno


@dataclass
class Maker:
    """Makes operations that fit the state of a model."""

    rng: random.Random
    model: Reference
    setting: Setting
    tag: int = field(default=0)

    def next(self) -> Op:
        rng = self.rng
        kinds: list[tuple[int, Callable[[], Op]]] = [
            (14, self._open),
            (26, self._write),
            (8, lambda: Op("read", (self._slot(), self._offset(), self._length() * 2))),
            (6, lambda: Op("ftruncate", (self._slot(), self._offset()))),
            (3, lambda: Op("truncate", (self._path(), self._offset()))),
            (3, lambda: Op("fsync", (self._slot(),))),
            (2, lambda: Op("dup", (self._slot(),))),
            (12, lambda: Op("close", (self._slot(),))),
            (1, lambda: Op("fstat", (self._slot(),))),
            (5, lambda: Op("unlink", (self._path(),))),
            (8, lambda: Op("rename", (self._path(), self._path(), rng.random() < 0.15))),
            (4, lambda: Op("mkdir", (self._path(0.3), rng.choice([0o755, 0o700, 0o777])))),
            (3, lambda: Op("rmdir", (self._path(),))),
            (2, lambda: Op("chmod", (self._path(), rng.choice([0o600, 0o644, 0o755, 0o400])))),
            (1, lambda: Op("fchmod", (self._slot(), rng.choice([0o600, 0o640])))),
            (1, lambda: Op("chown", (self._path(), rng.randrange(3), rng.randrange(3)))),
            (2, lambda: Op("utimes", (self._path(), rng.randrange(1, 2_000_000_000) * NS))),
            (1, lambda: Op("futimes", (self._slot(), rng.randrange(1, 2_000_000_000) * NS))),
            (1, lambda: Op("symlink", (rng.choice(["a", "b/c", "nowhere"]), self._path(0.3)))),
            (1, lambda: Op("readlink", (self._path(),))),
            (2, lambda: Op("setxattr", (self._path(), self._xattr(), rng.randrange(50), rng.randrange(9)))),
            (1, lambda: Op("getxattr", (self._path(), self._xattr()))),
            (1, lambda: Op("removexattr", (self._path(), self._xattr()))),
            (2, lambda: Op("listdir", (self._path() if rng.random() < 0.7 else "",))),
            (3, lambda: Op("stat", (self._path(),))),
            (2, lambda: Op("forget")),
            (2, lambda: Op("sleep", (rng.choice([0.3, 1.1, 2.5, 6.0, 70.0]),))),
            (1, lambda: Op("remount")),
            (3, lambda: Op("check")),
        ]
        (make,) = rng.choices([make for _, make in kinds], [weight for weight, _ in kinds])
        return make()

    def _open(self) -> Op:
        rng = self.rng
        flags = rng.choice([os.O_RDONLY, os.O_WRONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR])
        if rng.random() < 0.7:
            flags |= os.O_CREAT
            if rng.random() < 0.15:
                flags |= os.O_EXCL
        if flags & os.O_ACCMODE:
            if rng.random() < 0.25:
                flags |= os.O_TRUNC
            if rng.random() < 0.25:
                flags |= os.O_APPEND
        free = [slot for slot in range(SLOTS) if slot not in self.model.slots]
        slot = rng.choice(free) if free else 0
        return Op("open", (slot, self._path(0.6), flags, rng.choice([0o644, 0o600, 0o666])))

    def _write(self) -> Op:
        self.tag += 1
        tag = 0 if self.rng.random() < 0.1 else self.tag
        return Op("write", (self._slot(), self._offset(), self._length(), tag))

    def _slot(self) -> int:
        used = list(self.model.slots)
        return self.rng.choice(used) if used else 0

    def _xattr(self) -> str:
        return self.rng.choice(["user.a", "user.b"])

    def _path(self, existing: float = 0.8) -> str:
        rng = self.rng
        if rng.random() < existing:
            paths = self.model.paths()
            if paths:
                return rng.choice(paths)
        if rng.random() < 0.6:
            parents = [p for p in self.model.paths() if isinstance(self.model.get(p), Directory)]
            if parents and rng.random() < 0.6:
                parent = rng.choice(parents)
                if parent.count("/") < 3:
                    return f"{parent}/{rng.choice(NAMES)}"
            return rng.choice(NAMES)
        return "/".join(rng.choice(NAMES) for _ in range(rng.choice([1, 2, 2, 3])))

    def _size(self) -> int:
        slots = list(self.model.slots.values())
        if slots and self.rng.random() < 0.8:
            return len(self.rng.choice(slots).file.data)
        return 0

    def _offset(self) -> int:
        rng, chunk = self.rng, self.setting.chunk
        size = self._size()
        return rng.choice(
            [
                0,
                size,
                size,
                rng.randrange(size + 1),
                rng.randrange(size + 1),
                max(0, size - rng.randrange(chunk)),
                size + rng.randrange(chunk),
                rng.randrange(8) * chunk,
                max(0, rng.randrange(8) * chunk + rng.randrange(-2, 3)),
            ]
        ) % (16 * chunk)

    def _length(self) -> int:
        rng, chunk = self.rng, self.setting.chunk
        return rng.choice(
            [
                1,
                rng.randrange(1, 20),
                rng.randrange(1, chunk),
                self.setting.min_part,
                chunk - 1,
                chunk,
                chunk + 1,
                rng.randrange(1, 4 * chunk),
            ]
        )


def smaller(program: Program, fails: Callable[[Program], bool], *, tries: int = 2000) -> Program:
    """A shorter program that fails too: operations are left out, many at first, then one by one."""
    best = program
    step = max(1, len(best.ops) // 2)
    while tries > 0:
        at, shorter = 0, False
        while at < len(best.ops) and tries > 0:
            tries -= 1
            trial = Program(best.seed, best.setting, best.ops[:at] + best.ops[at + step :])
            if fails(trial):
                best, shorter = trial, True
            else:
                at += step
        if step == 1 and not shorter:
            break
        step = max(1, step // 2)
    return _plainer(best, fails)


def _plainer(program: Program, fails: Callable[[Program], bool]) -> Program:
    """The same on a mount of fewer peculiarities, if it fails there."""
    default = Setting()
    names = "prefix ttl list_page latency copy_changes_etag crc_of_copied_parts foreign staging memory"
    for name in (names + " max_parts single_put_fetch zero_copy_min").split():
        values = {**program.setting.__dict__, name: getattr(default, name)}
        if values["memory"] < 64 * MIB:
            values["staging"] = True  # as every mount has it; without, little memory is too little
        trial = Program(program.seed, Setting(**values), program.ops)
        if trial != program and fails(trial):
            program = trial
    return program
