"""The campaign: each fault in turn, all workloads at once, then the accounts.

Threading: one thread; the mount, the server and the programs are processes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import oss2
import trustme

from tests.campaign.faults import FAR, HOST, NEAR, NETWORK, SCENARIOS, Scenario, Scene
from tests.campaign.ledger import ABSENT, ANYTHING, digest, possible
from tests.campaign.workloads import NO_HEAD, WORKLOADS
from tests.support.mounts import (
    BUCKET,
    UNMOUNT_SECONDS,
    Mount,
    Room,
    Service,
    detach,
    is_mounted,
    ossfs_command,
    run,
    run_status,
    spawn,
    wait_for,
)

_INSIDE = "OSSFS_CAMPAIGN_NAMESPACE"
OP_TIMEOUT = 10
"""Seconds, of the mounts: long enough to repeat a request, short enough for a campaign."""
LEAVE = OP_TIMEOUT * 6
"""A program that is told to end does so within this many seconds: the longest step (a renamed directory,
a transaction) is some operations, each of which may take its time."""


@dataclass
class Result:
    """How one scenario went."""

    name: str
    operations: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    struck: int = 0
    files: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def row(self) -> str:
        """A line of the report's table."""
        errors = ", ".join(f"{count} {name}" for name, count in sorted(self.errors.items())) or "none"
        verdict = "; ".join(self.problems) or "nothing lost"
        return f"| {self.name} | {self.struck} | {self.operations} | {errors} | {self.files} | {verdict} |"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each scenario")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[], help="scenarios, by name; all otherwise")
    parser.add_argument("--workloads", nargs="*", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--report", type=Path, help="append the table to this file")
    parser.add_argument("--keep", type=Path, help="keep the logs of failures in this directory")
    options = parser.parse_args()
    unknown = set(options.only) - {scenario.name for scenario in SCENARIOS}
    if unknown:
        names = ", ".join(scenario.name for scenario in SCENARIOS)
        parser.error(f"no scenario is called {', '.join(sorted(unknown))}; there are: {names}")
    results = []
    for number, scenario in enumerate(SCENARIOS):
        if options.only and scenario.name not in options.only:
            continue
        result = play(scenario, options.seed + number, options.seconds, options.workloads, options.keep)
        print(result.row(), flush=True)
        results.append(result)
    bad = sum(bool(result.problems) for result in results)
    operations = sum(result.operations for result in results)
    print(f"{len(results)} scenarios, {operations} operations, {bad} with problems")
    if options.report:
        with options.report.open("a") as report:
            report.writelines(result.row() + "\n" for result in results)
    return 1 if bad else 0


def play(scenario: Scenario, seed: int, seconds: float, names: list[str], keep: Path | None) -> Result:
    """One scenario, from an empty bucket to the accounts."""
    result = Result(scenario.name)
    began = time.monotonic()
    with ExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ossfs-campaign-")))
        room = Room(top)
        stack.callback(room.close)
        certificates = [_certificate(top / f"tls{i}") for i in range(2)] if scenario.tls else [None, None]
        server = top / "server"
        server.mkdir()
        service = _service(scenario, server, certificates[0], stack)
        stack.callback(service.stop)
        endpoint = service.url
        if scenario.place == "name":
            endpoint = endpoint.replace("127.0.0.1", HOST)
        mount = Mount(
            service,
            room,
            options={
                "endpoint": endpoint,
                "op_timeout": OP_TIMEOUT,
                "chunk_size": "5MB",
                "memory": "64MB",
                **scenario.options,
            },
        )
        # So that nobody writes beside the mount while there is none.
        run("mount", "-t", "tmpfs", "-o", "ro,size=4k", "tmpfs", mount.path)
        stack.callback(detach, str(mount.path))
        stack.callback(_end, mount)
        disks = {"staging": top / "staging", "cache": top / "cache"}
        for name, size in (("staging", scenario.staging), ("cache", scenario.cache)):
            disks[name].mkdir()
            if size:
                run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disks[name])
                stack.callback(detach, str(disks[name]))
        mount.environment["TMPDIR"] = str(disks["staging"])
        if scenario.cache:
            mount.options["cache_dir"] = str(disks["cache"] / "ossfs")
        mount.mount()
        scene = Scene(service, mount, {}, random.Random(seed), certificates[1], disks=disks)
        playable = [name for name in names if not scenario.workloads or name in scenario.workloads]
        try:
            _Play(scene, scenario, result, top, seed, max(seconds, scenario.seconds)).run(playable)
        except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
            result.problems.append(f"the scenario broke off: {error}")
        result.seconds = time.monotonic() - began
        if result.problems and keep is not None:
            keep.mkdir(exist_ok=True)
            (keep / f"{scenario.name.replace(' ', '-')}.log").write_text(mount.log())
    return result


class _Play:
    def __init__(
        self, scene: Scene, scenario: Scenario, result: Result, top: Path, seed: int, seconds: float
    ) -> None:
        self.scene = scene
        self.scenario = scenario
        self.result = result
        self.top = top
        self.seed = seed
        self.seconds = seconds

    def run(self, names: list[str]) -> None:
        scene, result = self.scene, self.result
        self._touch()
        before = self._idle()
        scene.service.stats(reset=True)
        for i, name in enumerate(names):
            (scene.mount.path / name).mkdir()
            scene.workloads[name] = self._program(name, self.seed * 100 + i)
        fault = self.scenario.fault(scene)
        until = time.monotonic() + self.seconds
        try:
            for _ in fault:
                if time.monotonic() > until:
                    break
                time.sleep(0.1)
        finally:
            close = getattr(fault, "close", None)
            if close is not None:
                close()
        counted = scene.service.stats()["faults"]
        result.struck = scene.happened or counted.get(self.scenario.counted, 0)
        if not result.struck:
            result.problems.append("the fault never struck")
        self._gather()
        if self.scenario.may_die and not scene.mount.running():
            detach(str(scene.mount.path))
            scene.mount.mount()
            before = self._idle()
        self._recovered(before)
        # 1: it names files that did not reach the bucket, which their programs were told of.
        status, said = run_status(
            *ossfs_command(), "umount", scene.mount.path, env=scene.mount.environment, seconds=UNMOUNT_SECONDS
        )
        if status and "failed to upload" not in said:
            result.problems.append(f"ossfs umount: {status}: {said.strip()[-200:]}")
        scene.mount.await_end(status)
        self._accounts(names)

    def _program(self, name: str, seed: int) -> subprocess.Popen[bytes]:
        words = [name, self.scene.mount.path / name, self.top / f"{name}.ledger", str(seed)]
        command = [sys.executable, "-m", "tests.campaign.workloads", *words, str(self.seconds)]
        return spawn(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def _gather(self) -> None:
        """Wait for the programs, and take what they say."""
        deadline = time.monotonic() + LEAVE
        for name, process in self.scene.workloads.items():
            try:
                output, errors = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                state = Path(f"/proc/{process.pid}/status").read_text().splitlines()[2]
                self.result.problems.append(f"{name} does not end within {LEAVE} s: {state}")
                process.kill()
                process.communicate(timeout=LEAVE)
                self.scene.killed.add(name)
                continue
            if name in self.scene.killed:
                continue
            if process.returncode:
                last = errors.decode(errors="replace").strip().splitlines()[-1:]
                self.result.problems.append(f"{name} ended with {process.returncode}: {last}")
                continue
            operations, counts, problems = json.loads(output)
            self.result.operations += operations
            for error, count in counts.items():
                self.result.errors[error] = self.result.errors.get(error, 0) + count
            self.result.problems += problems[:3]

    def _touch(self) -> None:
        """Write and read a file: the mount works."""
        path = self.scene.mount.path / f"touched-{time.monotonic_ns()}"
        path.write_bytes(b"works")
        assert path.read_bytes() == b"works"
        path.unlink()

    def _idle(self) -> tuple[int, int]:
        """Threads and descriptors of the mount when it does nothing."""
        process = Path(f"/proc/{self.scene.mount.pid}")
        return len(list((process / "task").iterdir())), len(list((process / "fd").iterdir()))

    def _recovered(self, before: tuple[int, int]) -> None:
        """All is well again: the mount works by itself, nothing leaks, the gauges are at zero."""
        problems = self.result.problems

        def works() -> bool:
            try:
                self._touch()
            except OSError:
                return False
            return True

        try:
            wait_for(works, "the mount to work again", 2 * OP_TIMEOUT)
        except AssertionError as error:
            problems.append(str(error))
            return
        # Threads of the pool and idle connections are bounded, and stay for a while.
        threads, descriptors = self._idle()
        if threads > before[0] + 130:
            problems.append(f"{threads} threads, {before[0]} at the beginning")
        if descriptors > before[1] + 200:
            problems.append(f"{descriptors} descriptors, {before[1]} at the beginning")

        def quiet() -> bool:
            status = self.scene.mount.status()
            files = status["files"]
            return not (status["memory"]["used_bytes"] or files["pending"] or files["open"])

        # Clean pages and blocks are given back when the files are forgotten.
        Path("/proc/sys/vm/drop_caches").write_text("2")
        try:
            # An upload that was put off tries again within a minute.
            wait_for(
                quiet, "the gauges at zero", 90 if "writeback" in self.scene.mount.options else 2 * OP_TIMEOUT
            )
        except AssertionError as error:
            problems.append(f"{error}: {self.scene.mount.status()}")

    def _accounts(self, names: list[str]) -> None:
        """Every file against its ledger, in the bucket and through a new mount."""
        scene, problems = self.scene, self.result.problems
        bucket: oss2.Bucket = scene.service.sdk
        every = scene.service.keys()
        keys = {key for key in every if not key.endswith("/")}
        hidden = [key for key in keys if key.startswith(".ossfs-")]
        if hidden:
            problems.append(f"left in the bucket: {hidden[:3]}")
        for upload in oss2.MultipartUploadIterator(bucket):
            # The answer to InitiateMultipartUpload was lost: it may be another machine's, and costs nothing.
            if bucket.list_parts(upload.key, upload.upload_id).parts:
                problems.append(f"an upload of {upload.key} with parts is left")
        scene.mount.mount()
        free = {"database", "git"}
        for name in names:
            outcomes = possible(self.top / f"{name}.ledger", killed=name in scene.killed)
            if name in free:
                self._check_free(name, outcomes)
                continue
            shown = {
                str(Path(directory, file).relative_to(scene.mount.path))
                for directory, _, files in os.walk(scene.mount.path / name)
                for file in files
            }
            made = {key for key in keys if key.startswith(f"{name}/")}
            if shown != made:
                problems.append(f"the mount and the bucket differ in {sorted(shown ^ made)[:3]}")
            for path, contents in outcomes.items():
                found = digest(bucket.get_object(path).read()) if path in made else ABSENT
                if path in shown and digest((scene.mount.path / path).read_bytes()) != found:
                    problems.append(f"{path}: the mount and the bucket have different bytes")
                if found not in contents and ANYTHING not in contents:
                    problems.append(f"{path}: {found}, not {' or '.join(sorted(contents))}")
                self.result.files += 1
            strange = made - set(outcomes)
            if strange:
                problems.append(f"files that nobody made: {sorted(strange)[:3]}")
        del problems[8:]

    def _check_free(self, name: str, outcomes: dict[str, set[str]]) -> None:
        """A database or repository, which check themselves."""
        problems, here = self.result.problems, self.scene.mount.path / name
        if name == "database":
            (rows,) = outcomes.get("database:rows", {"0"})
            if rows == "0":
                return
            question = "PRAGMA integrity_check; SELECT max(n) FROM rows"
            said = run_status("sqlite3", here / "db", question)[1].split()
            if said[0] != "ok" or int(said[-1]) < int(rows):
                problems.append(f"the database: {said}, with {rows} rows committed")
        elif "git:head" in outcomes:
            (head,) = outcomes["git:head"]
            if head == NO_HEAD:
                return
            for words in (["fsck", "--full", "--no-dangling"], ["cat-file", "-e", head]):
                status, said = run_status("git", "-C", here / "repo", *words)
                if status:
                    problems.append(f"git {words[0]}: {said.strip()[-200:]}")
        self.result.files += 1


def _service(
    scenario: Scenario, directory: Path, tls: tuple[Path, Path, Path] | None, stack: ExitStack
) -> Service:
    """The server, where the scenario wants it."""
    if scenario.place == "network":
        for words in (
            ["netns", "add", NETWORK],
            ["link", "add", NEAR, "type", "veth", "peer", "name", FAR, "netns", NETWORK],
            ["addr", "add", "10.211.7.1/30", "dev", NEAR],
            ["link", "set", NEAR, "up"],
            ["-n", NETWORK, "addr", "add", "10.211.7.2/30", "dev", FAR],
            ["-n", NETWORK, "link", "set", FAR, "up"],
        ):
            run("ip", *words)
            if words[:2] == ["netns", "add"]:
                # The cable goes with its end, once the server in there has ended.
                stack.callback(run, "ip", "netns", "delete", NETWORK)
        return Service(directory, tls=tls, host="10.211.7.2", within=["ip", "netns", "exec", NETWORK])
    if scenario.place == "name":
        hosts = directory / "hosts"
        hosts.write_text(Path("/etc/hosts").read_text() + f"\n127.0.0.1 {HOST} {BUCKET}.{HOST}\n")
        run("mount", "--bind", hosts, "/etc/hosts")
        stack.callback(run, "umount", "/etc/hosts")
    return Service(directory, tls=tls)


def _certificate(place: Path) -> tuple[Path, Path, Path]:
    """A certificate for 127.0.0.1, its key, and the authority that vouches for it."""
    place.mkdir()
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1")
    made.cert_chain_pems[0].write_to_path(place / "cert")
    made.private_key_pem.write_to_path(place / "key")
    authority.cert_pem.write_to_path(place / "ca")
    return place / "cert", place / "key", place / "ca"


def _end(mount: Mount) -> None:
    if mount.running():
        mount.signal(signal.SIGCONT)
        if is_mounted(mount.path):
            run_status("umount", "-l", mount.path)
        mount.kill()
    while is_mounted(mount.path):
        detach(str(mount.path))


def privately(module: str) -> None:
    """Run this module in a mount namespace of its own: what is mounted in it ends with the process."""
    os.environ.setdefault("GIT_CONFIG_NOSYSTEM", "1")
    if os.environ.get(_INSIDE) is None:
        os.environ[_INSIDE] = "1"
        words = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", *words])


if __name__ == "__main__":
    privately("tests.campaign")
    sys.exit(main())
