"""The same programs while requests fail: 503s, broken connections, lost answers, slow ones.

With time enough every call is repeated until it works, and the product must do exactly what the model
does (`call_timeout` of minutes).  Without, calls fail, and then the rules are: an error is only reported
where something went wrong; each name holds the old or the new; bytes are always one of the versions that
the file has had since it was last known to be in the bucket; a file that is moved is in one place at
least; and a clean write afterwards works.  Modes and times are not looked at then, since they may be lost
where no call reports anything (see docs/semantics.md).

Threading: as in runner.py.
"""

from __future__ import annotations

import copy
import random
from typing import Any

import trio

from ossfs.errors import (
    ConnectFailed,
    ConnectionLost,
    OssfsError,
    RequestTimeout,
    ServerFault,
    StoreError,
    Throttled,
)
from ossfs.store.retry import RetryStore
from tests.model.programs import Op, Program, apply
from tests.model.reference import Directory, File, Link, Node, Reference, pattern
from tests.model.runner import Mismatch, Run, different, shown
from tests.model.subject import Subject

PATIENT = 100.0
"""Seconds of call_timeout from which on no call is expected to fail."""
HARMLESS = {"read", "stat", "fstat", "listdir", "readlink", "getxattr"}
BEFORE: list[type[StoreError]] = [Throttled, ServerFault, ConnectFailed, RequestTimeout]


class FaultyRun(Run):
    """One program on one bucket that does not always answer."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.patient = self.setting.call_timeout >= PATIENT
        self.dice = random.Random(program.seed ^ 0x5EED)
        self.on = True
        self.struck = 0
        self.unsure = False
        """Something struck since the last time that everything was looked at."""
        self.model = Reference(remembers=not self.patient)
        self.failed_names = 0

    async def run(self) -> int:
        self.delete_sync = not self.patient
        return await super().run()

    def served(self) -> Any:
        self.on = True
        self.failed_names = 0
        self.store.before, self.store.after = self._before, self._after
        if not self.setting.call_timeout:
            return self.store
        return RetryStore(self.store, call_timeout=self.setting.call_timeout, jitter=self.dice.random)

    def _strikes(self, share: float) -> bool:
        if not self.on or self.dice.random() >= self.setting.faults * share:
            return False
        self.struck += 1
        self.unsure = True
        return True

    async def _before(self, op: str, key: str) -> None:
        if self._strikes(0.3):
            await trio.sleep(self.dice.choice([0.01, 0.3, 2.0]))
        if self._strikes(0.4):
            raise self.dice.choice(BEFORE)("scripted", operation=op, key=key, status=503)

    async def _after(self, op: str, key: str) -> None:
        if self._strikes(0.3):
            raise ConnectionLost("the answer was lost", operation=op, key=key)

    async def before_drain(self, subject: Subject) -> None:
        self.on = self.patient

    # -- one operation

    async def both(self, subject: Subject, op: Op) -> None:
        if self.patient:
            await super().both(subject, op)
            return
        if op.name == "check":
            self.on = False
            await self._check_content(subject)
            self.on = True
            return
        before = copy.deepcopy(self.model)
        file = self.model.slots[op.args[0]].file if op.name == "fsync" else None
        expected = apply(self.model, op)
        got, error = await self.attempt(subject, op)
        if op.name == "fsync" and isinstance(error, StoreError) and error.retryable and self.unsure:
            self.on = False
            got, error = await self.attempt(subject, op)  # extents and upload are kept: it may work now
            self.on = True
        lost = len(subject.tree.ctx.failed) > self.failed_names
        self.failed_names = len(subject.tree.ctx.failed)
        if got == expected and not lost:
            if file is not None:
                file.past.clear()
            return
        if not self.unsure or (error is None and not lost):
            raise Mismatch(f"operation {self.done}, {op}: {shown(got)}, not {shown(expected)}")
        if op.name in HARMLESS:
            return
        await self._settle(subject, op, before)

    async def _check_content(self, subject: Subject) -> None:
        got, expected = contents(await self._seen(subject)), contents(self.model)
        if got != expected:
            raise Mismatch(f"(got, expected) by path: {shown(different(got, expected))}")

    async def _seen(self, subject: Subject) -> Reference:
        """What there is, as a model."""
        seen = Reference(remembers=True)
        for path, fact in sorted((await subject.snapshot()).items()):
            head, _, name = path.rpartition("/")
            parent = seen.find(head)
            assert isinstance(parent, Directory)
            kind, mode, uid, gid, _, _, content, xattrs = fact
            if kind == "directory":
                made: Node = Directory(mode, uid, gid, xattrs=dict(xattrs))
            elif kind == "link":
                made = Link(mode, uid, gid, xattrs=dict(xattrs), target=str(content))
            else:
                assert isinstance(content, bytes)
                made = File(mode, uid, gid, xattrs=dict(xattrs), data=bytearray(content))
            parent.entries[name] = made
        return seen

    # -- after an error

    async def _settle(self, subject: Subject, op: Op, before: Reference) -> None:
        """Look at everything, hold it against what is allowed, and go on from there."""
        self.on = False
        for slot, file in list(subject.slots.items()):
            while slot in subject.slots and file.copies:
                try:
                    await subject.close(slot)
                except OssfsError:
                    pass  # it has told so
        subject.slots.clear()
        await subject.tree.ctx.jobs.wait_idle()
        subject.forget()
        await trio.sleep(self.setting.ttl * 15)
        seen = await self._seen(subject)
        await self._drop_conflicts(subject, seen)
        self._judge(op, before, seen)
        self.model = seen
        self.store.uploads.clear()  # lost answers of Initiate, without anybody to repeat the question
        await self._clean_write(subject)
        self.unsure = False
        self.failed_names = len(subject.tree.ctx.failed)
        self.on = True

    async def _drop_conflicts(self, subject: Subject, seen: Reference) -> None:
        for path in seen.paths():
            if ".conflict-" in path:
                await subject.unlink(path)
                seen.unlink(path)

    def _judge(self, op: Op, before: Reference, seen: Reference) -> None:
        after = self.model
        was, should, are = contents(before), contents(after), contents(seen)
        for path in was.keys() | should.keys() | are.keys():
            allowed = {was.get(path), should.get(path)}
            for model in (before, after):
                node = model.get(path)
                if isinstance(node, File):
                    # A file that is open has its error still to come, or was never committed.
                    allowed.update(("file", content) for content in node.past)
                    if node.fresh:
                        allowed.add(None)
            if are.get(path) not in allowed:
                raise Mismatch(
                    f"operation {self.done}, {op}: {path} is {shown(are.get(path))}, not one of "
                    f"{', '.join(map(shown, allowed))}"
                )
        if op.name == "rename":
            self._judge_rename(op.args[0], op.args[1], before, seen)

    def _judge_rename(self, old: str, new: str, before: Reference, seen: Reference) -> None:
        for path in before.paths():
            node = before.find(path)
            if (path == old or path.startswith(old + "/")) and not (isinstance(node, File) and node.fresh):
                moved = new + path[len(old) :]
                if seen.get(path) is None and seen.get(moved) is None:
                    raise Mismatch(f"operation {self.done}: {path} is gone, and {moved} is not there")

    async def _clean_write(self, subject: Subject) -> None:
        """A file of every directory is written anew, and read back."""
        for path in self.model.paths():
            node = self.model.find(path)
            if isinstance(node, File) and self.dice.random() < 0.3:
                await subject.posix.write_file(path, pattern(777, self.done + 1))
                node.data[:] = pattern(777, self.done + 1)
        await self._check_content(subject)

    def check_bucket(self) -> None:
        # A lost answer of Initiate may leave an upload without parts: see retry.py.
        for upload in [u for u in self.store.uploads.values() if not u.parts]:
            del self.store.uploads[upload.upload_id]
        if not self.patient:
            # What could not be deleted is in the journal, and swept by the next mount of the host.
            for key in [k for k in self.store.objects if k.startswith(f"{self.setting.prefix}.ossfs-")]:
                self.store.remove(key)
            self.store.uploads.clear()
        super().check_bucket()


Content = tuple[str, bytes | str]


def contents(model: Reference) -> dict[str, Content]:
    """Kind and content by path."""
    return {path: (fact[0], fact[6]) for path, fact in model.snapshot().items()}
