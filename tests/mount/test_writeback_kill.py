"""kill -9 at random points of random write-back workloads: what close accepted is in the bucket.

`python -m tests.mount.test_writeback_kill N` (`make kill`) runs N of them and prints a summary.

A workload is one program that makes, overwrites, appends to, renames, removes and chmods files; what it
knows of each name is what the calls that returned have said.  A call that the kill cut short leaves its
names in doubt: the old state or the new one.  A removal is durable within a second only, so a removed
name may hold what it held last.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounts import Mount, Room, Service, detach

NAMES = [f"{directory}f{n}" for directory in ("", "d/", "e/") for n in range(6)]
Allowed = dict[str, set[bytes | None]]
"""Which bytes a name may hold; None: it may be absent."""


class Program:
    """One workload; `allowed` is what the bucket may hold when it has ended, whenever that was."""

    def __init__(self, root: Path, rng: random.Random) -> None:
        self.root = root
        self.rng = rng
        self.known: dict[str, bytes | None] = dict.fromkeys(NAMES)
        self.allowed: Allowed = {name: {None} for name in NAMES}
        self.calls = 0
        self.closes = 0

    def run(self) -> None:
        """Until the mount is gone."""
        try:
            while True:
                self.step()
                self.calls += 1
        except OSError:
            pass  # killed

    def step(self) -> None:
        rng, name = self.rng, self.rng.choice(NAMES)
        path, now = self.root / name, self.known[name]
        kind = rng.random()
        if kind < 0.6 or now is None:
            self.write(name, path, now)
        elif kind < 0.75:
            other = rng.choice(NAMES)
            if other == name:
                return
            self.doubt(name, None)
            self.doubt(other, now)
            os.rename(path, self.root / other)
            self.settle(other, now)
            self.settle(name, None)
        elif kind < 0.85:
            self.doubt(name, None)
            path.unlink()
            # Deleted within a second: until then it may be there after a crash.
            self.known[name] = None
        elif kind < 0.92:
            path.chmod(rng.choice((0o600, 0o644, 0o755)))
        else:
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)

    def write(self, name: str, path: Path, now: bytes | None) -> None:
        rng = self.rng
        data = rng.randbytes(rng.choice((1, 200, 5000, 70_000, 300_000)))
        flags = os.O_WRONLY | os.O_CREAT
        how = rng.random()
        if now is None:
            flags |= os.O_EXCL if how < 0.5 else os.O_TRUNC
            new = data
        elif how < 0.6:
            flags |= os.O_TRUNC
            new = data
        elif how < 0.8:
            flags |= os.O_APPEND
            new = now + data
        else:
            new = data + now[len(data) :]
        # A truncation may get there alone.
        self.doubt(name, new)
        if flags & os.O_TRUNC or now is None:
            self.doubt(name, b"")
        fd = os.open(path, flags, 0o644)
        try:
            half = len(data) // 2 if rng.random() < 0.3 else 0
            if half:
                self.doubt(name, (now or b"") + data[:half] if flags & os.O_APPEND else data[:half])
                os.write(fd, data[:half])
            os.write(fd, data[half:])
        finally:
            os.close(fd)
        self.closes += 1
        self.settle(name, new)

    def doubt(self, name: str, state: bytes | None) -> None:
        self.allowed[name].add(state)

    def settle(self, name: str, state: bytes | None) -> None:
        self.known[name] = state
        self.allowed[name] = {state}


def one(mount: Mount, service: Service, seed: int) -> tuple[int, int]:
    """One workload and its end; (calls, files that were left to the next mount).  Raises AssertionError."""
    rng = random.Random(seed)
    root = mount.path / f"r{seed}"
    for directory in (root, root / "d", root / "e"):
        directory.mkdir()
    delay = rng.choice((0.0, 0.015, 0.2, 1.0))
    rules = [{"op": "Put", "action": "delay", "seconds": delay, "count": -1}] if delay else []
    if rng.random() < 0.3:
        rules = [{"op": "Put", "action": "lose", "rate": 0.3, "count": -1, "seed": seed}]
    service.faults(*rules)
    program = Program(root, rng)
    thread = threading.Thread(target=program.run)
    thread.start()
    time.sleep(rng.uniform(0.05, 1.5))
    mount.kill()
    thread.join(60)
    assert not thread.is_alive()
    detach(str(mount.path))
    if rng.random() < 0.3:
        # Once more, somewhere in the next mount's start: most of that is the upload of what was left.
        service.faults({"op": "Put", "action": "delay", "seconds": 0.3, "count": -1})
        mount.begin()
        time.sleep(rng.uniform(0.2, 2.0))
        mount.kill()
        detach(str(mount.path))
    service.faults()
    before = len(mount.log())
    mount.mount()
    replayed = mount.log()[before:].partition(" files that an earlier mount had accepted")[0]
    prefix = mount.key(root) + "/"
    keys = set(service.keys(prefix))
    wrong = []
    for name in NAMES:
        there = service.read(prefix + name) if prefix + name in keys else None
        if there not in program.allowed[name]:
            sizes = [None if state is None else len(state) for state in program.allowed[name]]
            wrong.append(f"{name}: {None if there is None else len(there)} bytes, may be {sizes}")
    wrong += [f"{key}: nobody else wrote" for key in keys if ".conflict-" in key]
    assert not wrong, f"seed {seed}, {program.calls} calls, delay {delay}: " + "; ".join(wrong)
    left = int(replayed.split()[-1]) if replayed.split() and replayed.split()[-1].isdigit() else 0
    return program.closes, left


EXPECTED = [r"after \d+ attempts?", r"attempt \d+", r"not in the bucket"]


@pytest.mark.parametrize("seed", range(3))
def test_what_close_accepted_survives_kill_9(
    service: Service, new_mount: Callable[..., Mount], tmp_path: Path, seed: int
) -> None:
    mount = new_mount(cache_dir=tmp_path / "cache", writeback=True)
    mount.allowed = EXPECTED
    one(mount, service, seed)


def main(count: int) -> int:
    """The campaign; its exit status."""
    closes = left = failed = 0
    with tempfile.TemporaryDirectory() as directory:
        room = Room(Path(directory))
        service = Service(room.make("server"))
        mount = Mount(service, room, options={"cache_dir": f"{directory}/cache", "writeback": True})
        mount.mount()
        try:
            for seed in range(count):
                try:
                    accepted, replayed = one(mount, service, 1000 + seed)
                    closes, left = closes + accepted, left + replayed
                except AssertionError as error:
                    failed += 1
                    print(error, flush=True)
                    if not mount.running():
                        mount.mount()
        finally:
            mount.umount()
            service.stop()
            room.close()
    print(
        f"{count} workloads killed: {closes} files whose close had returned, {left} of them uploaded by the "
        f"next mount, {failed} workloads with a file that is not what it should be"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
