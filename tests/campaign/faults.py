"""What is done to the mount, the service, the programs and the network while the workloads run.

A fault is a generator over a running scene: it yields whenever it has nothing to do for a while, is
resumed every tenth of a second, and is closed when the time is over, when it puts everything right
again.

Threading: one thread.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.mounts import Mount, Service, detach, ossfs_command, run_status

HOST = "oss.campaign.test"
NEAR, FAR, NETWORK = "ossfs-near", "ossfs-far", "ossfs-campaign"
"""Both ends of a cable, and the network namespace of the far one."""

Fault = Callable[["Scene"], Iterator[None]]


@dataclass
class Scene:
    """What a fault works on.  workloads: by name, the processes of the programs."""

    service: Service
    mount: Mount
    workloads: dict[str, subprocess.Popen[bytes]]
    random: random.Random
    impostor: tuple[Path, Path, Path] | None = None
    """A certificate that the mount does not trust, with its key and its CA."""
    killed: set[str] = field(default_factory=set)
    """Workloads that the fault has killed."""
    disks: dict[str, Path] = field(default_factory=dict)
    """Small disks of the mount, by what is on them: "staging", "cache"."""
    happened: int = 0
    """Times that the fault struck, where the server does not count it."""


@dataclass(frozen=True)
class Scenario:
    """A fault, and with what options the mount is made for it."""

    name: str
    fault: Fault
    options: dict[str, str | int | float] = field(default_factory=dict)
    tls: bool = False
    staging: str = ""
    """Size of a small disk for the mount's staging files; the system's temporary directory when empty."""
    cache: str = ""
    """Size of a small disk for its cache_dir; none when empty."""
    seconds: float = 0.0
    """The least that it takes."""
    workloads: tuple[str, ...] = ()
    """Those that can be played; all when empty."""
    place: str = ""
    """Where the server is: "network", at the end of a cable; "name", behind a name; else on loopback."""
    may_die: bool = False
    """The mount may end.  What it has accepted counts all the same."""
    counted: str = ""
    """The name by which the server counts the fault."""


def rules(*script: dict[str, Any]) -> Fault:
    """Requests go wrong by the server's script."""

    def fault(scene: Scene) -> Iterator[None]:
        seed = scene.random.randrange(1 << 30)
        scene.service.faults(*({"count": -1, "seed": seed + i, **rule} for i, rule in enumerate(script)))
        try:
            while True:
                yield
        finally:
            scene.service.faults()

    return fault


def pauses(scene: Scene, least: float, most: float) -> Iterator[None]:
    """Do nothing for a random time, in seconds."""
    until = time.monotonic() + scene.random.uniform(least, most)
    while time.monotonic() < until:
        yield


def server_restarts(scene: Scene) -> Iterator[None]:
    """The server goes away for up to two seconds, and comes back at the same place."""
    while True:
        yield from pauses(scene, 2, 4)
        scene.service.pause()
        scene.happened += 1
        try:
            yield from pauses(scene, 0, 2)
        finally:
            scene.service.resume()


def server_stops(scene: Scene) -> Iterator[None]:
    """The server holds still, with all connections open, for some seconds at a time."""
    while True:
        yield from pauses(scene, 1, 4)
        scene.service.signal(signal.SIGSTOP)
        scene.happened += 1
        try:
            yield from pauses(scene, 1, 8)
        finally:
            scene.service.signal(signal.SIGCONT)


def clock_skew(scene: Scene) -> Iterator[None]:
    """The server's clock jumps by more than the service allows, to and fro."""
    try:
        while True:
            yield from pauses(scene, 1, 3)
            scene.service.clock_offset(scene.random.choice([-3600, 1200, 86400]))
            scene.happened += 1
            yield from pauses(scene, 1, 3)
            scene.service.clock_offset(0)
    finally:
        scene.service.clock_offset(0)


def wrong_certificate(scene: Scene) -> Iterator[None]:
    """The server comes back with a certificate that nobody vouches for, and later with the right one."""
    while True:
        yield from pauses(scene, 1, 3)
        scene.service.pause()
        scene.service.resume(scene.impostor)
        scene.happened += 1
        try:
            yield from pauses(scene, 2, 4)
        finally:
            scene.service.pause()
            scene.service.resume()


def network_cut(scene: Scene) -> Iterator[None]:
    """The cable is pulled, and put back after a while."""
    while True:
        yield from pauses(scene, 1, 4)
        subprocess.run(["ip", "link", "set", NEAR, "down"], check=True)
        scene.happened += 1
        try:
            yield from pauses(scene, 1, 8)
        finally:
            subprocess.run(["ip", "link", "set", NEAR, "up"], check=True)


def names_unknown(scene: Scene) -> Iterator[None]:
    """The endpoint's name is not to be resolved for a while."""
    hosts = Path("/etc/hosts")
    text = hosts.read_text()
    while True:
        yield from pauses(scene, 1, 4)
        # Not another file: this one is mounted there.
        hosts.write_text("".join(line for line in text.splitlines(True) if HOST not in line))
        # Connections that are open need no name.
        scene.service.pause()
        scene.service.resume()
        scene.happened += 1
        try:
            yield from pauses(scene, 1, 6)
        finally:
            hosts.write_text(text)


def mount_killed(scene: Scene) -> Iterator[None]:
    """kill -9 of the mount; then it is mounted anew over the dead one."""
    while True:
        yield from pauses(scene, 0.3, 4)
        scene.mount.kill()
        scene.happened += 1
        detach(str(scene.mount.path))
        scene.mount.mount()


def programs_killed(scene: Scene) -> Iterator[None]:
    """kill -9 of the programs, one after another."""
    for name in scene.random.sample(sorted(scene.workloads), len(scene.workloads)):
        yield from pauses(scene, 0.5, 3)
        scene.workloads[name].kill()
        scene.killed.add(name)
        scene.happened += 1
    while True:
        yield


def stopped_a_minute(scene: Scene) -> Iterator[None]:
    """SIGSTOP of the mount for a minute, once: all that it waits for has given it up meanwhile."""
    yield from pauses(scene, 2, 4)
    scene.mount.signal(signal.SIGSTOP)
    scene.happened += 1
    try:
        yield from pauses(scene, 60, 60)
    finally:
        scene.mount.signal(signal.SIGCONT)
    while True:
        yield


def disk_full(name: str) -> Fault:
    """Somebody else fills that disk of the mount's, and gives it free again."""

    def fault(scene: Scene) -> Iterator[None]:
        filler = scene.disks[name] / "filler"
        while True:
            yield from pauses(scene, 1, 3)
            try:
                with filler.open("wb", buffering=0) as file:
                    while file.write(bytes(1 << 20)) == 1 << 20:
                        pass
            except OSError as error:
                assert error.errno == errno.ENOSPC, error
            scene.happened += 1
            try:
                yield from pauses(scene, 1, 4)
            finally:
                filler.unlink()

    return fault


def mount_stopped(scene: Scene) -> Iterator[None]:
    """SIGSTOP of the mount, for longer and longer."""
    seconds = 2.0
    while True:
        yield from pauses(scene, 1, 3)
        scene.mount.signal(signal.SIGSTOP)
        scene.happened += 1
        try:
            yield from pauses(scene, seconds, seconds)
        finally:
            scene.mount.signal(signal.SIGCONT)
        seconds = min(60.0, seconds * 2)


def unmounted(scene: Scene) -> Iterator[None]:
    """ossfs umount while everything is in use: it waits for the uploads, and refuses while files are open."""
    while True:
        yield from pauses(scene, 0.5, 2)
        command = [*ossfs_command(), "umount", scene.mount.path]
        status, said = run_status(*command, env=scene.mount.environment)
        scene.happened += 1
        if status == 0:
            scene.mount.await_end()
            scene.mount.mount()
        elif "is in use" not in said:
            raise AssertionError(said)


def limit(kind: int, value: int) -> Fault:
    """A resource limit of the mount's process."""

    def fault(scene: Scene) -> Iterator[None]:
        before = resource.prlimit(scene.mount.pid, kind)
        resource.prlimit(scene.mount.pid, kind, (value, before[1]))
        scene.happened += 1
        try:
            while True:
                yield
        finally:
            resource.prlimit(scene.mount.pid, kind, before)

    return fault


def nothing(scene: Scene) -> Iterator[None]:
    """All is well: what the programs do by themselves."""
    scene.happened += 1
    while True:
        yield


def files_limit(scene: Scene) -> Iterator[None]:
    """The mount may open only five descriptors more than it has."""
    have = max(int(name) for name in os.listdir(f"/proc/{scene.mount.pid}/fd"))
    yield from limit(resource.RLIMIT_NOFILE, have + 5)(scene)


def address_limit(scene: Scene) -> Iterator[None]:
    """The mount gets no more address space than 200 MiB above what it has: too little for its threads."""
    with open(f"/proc/{scene.mount.pid}/statm") as statm:
        pages = int(statm.read().split()[0])
    yield from limit(resource.RLIMIT_AS, pages * 4096 + (200 << 20))(scene)


def http(status: int, rate: float) -> Fault:
    """That status for a part of all requests."""
    return rules({"action": "status", "status": status, "rate": rate})


def lost(rate: float) -> Fault:
    """A part of all requests is carried out, and their answers never come."""
    return rules({"action": "lose", "rate": rate})


WRITE_BACK: dict[str, str | int | float] = {"writeback": True}

SCENARIOS = [
    Scenario("none", nothing),
    *(
        Scenario(f"http-{status}-{round(rate * 100)}%", http(status, rate), counted="status")
        for status in (500, 503, 429)
        for rate in (0.01, 0.1, 0.5)
    ),
    Scenario("connections reset", rules({"action": "reset", "rate": 0.1}), counted="reset"),
    Scenario("answers lost", lost(0.1), counted="lose"),
    Scenario("bodies cut", rules({"action": "cut", "op": "Get", "after": 500, "rate": 0.3}), counted="cut"),
    Scenario(
        "bytes flipped on the way up",
        rules(
            {"action": "flip", "op": "Put", "rate": 0.2},
            {"action": "flip", "op": "UploadPart", "rate": 0.2},
        ),
        counted="flip",
    ),
    # Only who reads whole files is protected by a checksum; of ranges, TLS takes care.
    Scenario(
        "bytes flipped on the way down",
        rules({"action": "flip", "op": "Get", "rate": 0.2}),
        workloads=("copies", "storm"),
        counted="flip",
    ),
    Scenario("sockets stall", rules({"action": "stall", "rate": 0.02, "seconds": 60}), counted="stall"),
    Scenario("1 KB/s", rules({"action": "slow", "rate": 0.2, "bytes_per_second": 1024}), counted="slow"),
    Scenario("server restarted", server_restarts),
    Scenario("server holds still", server_stops),
    Scenario("network cut", network_cut, place="network"),
    Scenario("name not resolved", names_unknown, place="name"),
    Scenario("clock skewed", clock_skew),
    Scenario(
        "token expired",
        rules({"action": "status", "status": 403, "code": "SecurityTokenExpired", "rate": 0.1}),
        counted="status",
    ),
    Scenario("wrong certificate", wrong_certificate, tls=True),
    Scenario("staging disk full", disk_full("staging"), {"memory": "32MB"}, staging="66m"),
    Scenario("cache disk full", disk_full("cache"), cache="96m"),
    Scenario("cached, http-500-10%", http(500, 0.1), cache="256m", counted="status"),
    Scenario("file descriptors used up", files_limit),
    Scenario("memory limit", address_limit, may_die=True),
    Scenario("mount killed", mount_killed),
    Scenario("programs killed", programs_killed),
    Scenario("mount stopped", mount_stopped),
    Scenario("mount stopped for a minute", stopped_a_minute, seconds=70),
    Scenario("unmounted under load", unmounted),
    Scenario("write-back", nothing, WRITE_BACK, cache="256m"),
    Scenario("write-back, http-500-10%", http(500, 0.1), WRITE_BACK, cache="256m", counted="status"),
    Scenario("write-back, answers lost", lost(0.1), WRITE_BACK, cache="256m", counted="lose"),
    Scenario("write-back, network cut", network_cut, WRITE_BACK, cache="256m", place="network"),
    Scenario("write-back, server restarted", server_restarts, WRITE_BACK, cache="256m"),
    Scenario("write-back, disk full", disk_full("cache"), WRITE_BACK, cache="96m"),
    Scenario("write-back, mount killed", mount_killed, WRITE_BACK, cache="256m"),
    Scenario("write-back, unmounted under load", unmounted, WRITE_BACK, cache="256m"),
]
