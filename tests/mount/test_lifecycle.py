"""Mounting, unmounting, dying: what is said, and that nothing that was closed is lost."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.mounts import (
    MIB,
    Mount,
    Room,
    Service,
    end,
    is_mounted,
    ossfs_command,
    run,
    run_status,
    spawn,
    wait_for,
)

CHUNK = 5 * MIB
HOLDER = """
import sys
file = open(sys.argv[1], "wb", 0)
file.write(b"x" * int(sys.argv[2]))
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def _writer(path: Path, size: int) -> Iterator[None]:
    """A process has written and holds the file open; it is killed at the end."""
    writer = spawn(
        [sys.executable, "-c", HOLDER, path, str(size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writer.stdin is not None and writer.stdout is not None
    with writer.stdin, writer.stdout:
        try:
            writer.stdout.readline()
            yield
        finally:
            end(writer, signal.SIGKILL)


def _kill_a_writer(path: Path, size: int) -> None:
    """A process writes, and is killed while it has the file open."""
    with _writer(path, size):
        pass


# --------------------------------------------------------------------------------------------------
# Unmounting.


def test_ossfs_umount_waits_until_everything_is_in_the_bucket(
    new_mount: Callable[..., Mount], service: Service
) -> None:
    mount = new_mount(chunk_size="5MB")
    _kill_a_writer(mount.path / "f", 3 * CHUNK)
    service.latency(1)
    names = [f"g{number}" for number in range(5)]
    run("touch", *names, cwd=mount.path)  # they are created after close, which is what umount has to wait for
    output = mount.umount()
    service.latency(0)
    assert output.startswith("ossfs: uploading: "), output
    assert service.read("f") == b"x" * (3 * CHUNK)
    assert service.keys("g") == names


def test_ossfs_umount_refuses_while_the_mount_is_in_use(new_mount: Callable[..., Mount]) -> None:
    mount = new_mount()
    with open(mount.path / "f", "wb") as file:
        file.write(b"held")
        file.flush()
        status, output = run_status(*ossfs_command(), "umount", mount.path, env=mount.environment)
        assert (status, output.count("\n")) == (1, 1)
        assert "in use" in output
        assert is_mounted(mount.path)
        file.write(b" and more")
    mount.umount()
    assert mount.service.read("f") == b"held and more"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a mount namespace")
def test_ossfs_umount_says_when_another_namespace_has_the_mount(
    new_mount: Callable[..., Mount],
) -> None:
    """Made while the mount was there, it keeps it: the kernel's session does not end."""
    mount = new_mount()
    (mount.path / "f").write_bytes(b"x")
    holder = spawn(["unshare", "--mount", "--propagation", "private", "sleep", "60"])
    try:
        mounts = Path(f"/proc/{holder.pid}/mounts")
        here = os.readlink("/proc/self/ns/mnt")
        wait_for(lambda: os.readlink(f"/proc/{holder.pid}/ns/mnt") != here, "a mount namespace")
        assert str(mount.path) in mounts.read_text()
        for _ in range(2):
            status, output = run_status(*ossfs_command(), "umount", mount.path, env=mount.environment)
            assert (status, output.count("\n")) == (1, 1), output
            # The holder, if no other test's namespace is there at the same time.
            assert re.search(r"but another mount namespace \(process \d+, \w+\) still has it", output), output
            assert not is_mounted(mount.path) and mount.running()
        assert mount.service.read("f") == b"x"
    finally:
        end(holder)
    mount.await_end()


def test_ossfs_umount_of_what_is_no_mount(tmp_path: Path) -> None:
    status, output = run_status(*ossfs_command(), "umount", tmp_path)
    assert (status, output.count("\n")) == (1, 1), output
    assert str(tmp_path) in output
    assert "not" in output


def test_umount_8_with_a_killed_writer_loses_nothing(
    new_mount: Callable[..., Mount], service: Service
) -> None:
    mount = new_mount(chunk_size="5MB")
    service.latency(0.2)
    (mount.path / "closed").write_bytes(b"closed" * 100_000)
    _kill_a_writer(mount.path / "killed", 2 * CHUNK + 7)
    (mount.path / "empty").touch()
    run("umount", mount.path)
    mount.await_end()
    service.latency(0)
    assert service.read("closed") == b"closed" * 100_000
    assert service.read("killed") == b"x" * (2 * CHUNK + 7)
    assert service.read("empty") == b""


def test_a_new_mount_right_after_umount_8_sees_everything(
    new_mount: Callable[..., Mount], service: Service
) -> None:
    first = new_mount(chunk_size="5MB")
    _kill_a_writer(first.path / "late", 3 * CHUNK)
    service.latency(1)
    (first.path / "later").touch()
    run("umount", first.path)
    assert first.running(), "it still uploads: the point of this test"
    second = new_mount(chunk_size="5MB", mounted=False)
    second.allowed = ["^ossfs: waiting for an earlier mount of bkt "]
    second.mount()
    assert not first.running(), "the new mount has waited"
    first.await_end()
    assert {"late", "later"} <= set(os.listdir(second.path))
    service.latency(0)
    assert (second.path / "late").read_bytes() == b"x" * (3 * CHUNK)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unmounts_in_order(
    new_mount: Callable[..., Mount], service: Service, number: signal.Signals
) -> None:
    mount = new_mount(chunk_size="5MB")
    service.latency(0.2)
    _kill_a_writer(mount.path / number.name, 2 * CHUNK + 9)
    mount.signal(number)
    mount.await_end()
    assert service.read(number.name) == b"x" * (2 * CHUNK + 9)
    assert not service.uploads()


def test_sigterm_with_an_open_file_keeps_what_was_written(
    new_mount: Callable[..., Mount], service: Service
) -> None:
    mount = new_mount(chunk_size="5MB")
    mount.allowed = ["WARNING .*programs that still use it lose it"]
    fd = os.open(mount.path / "open", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"written")
    mount.signal(signal.SIGTERM)
    wait_for(lambda: not mount.running(), "the end of the mount", 20)
    with pytest.raises(OSError):
        os.write(fd, b"too late")
    with pytest.raises(OSError):
        os.close(fd)
    assert service.read("open") == b"written"
    assert not is_mounted(mount.path)


def test_sighup_opens_the_log_anew_and_ends_nothing(new_mount: Callable[..., Mount], tmp_path: Path) -> None:
    log = tmp_path / "ossfs.log"
    mount = new_mount(mounted=False)
    status, output = mount.try_mount(log_file=str(log))
    assert status == 0, output
    pid = mount.status()["pid"]
    log.rename(tmp_path / "ossfs.log.1")
    with (mount.path / "f").open("wb") as file:
        file.write(b"x" * 100_000)
        os.kill(pid, signal.SIGHUP)
        wait_for(lambda: log.exists() and "SIGHUP" in log.read_text(), "a line in the new log")
    assert mount.read(mount.path / "f") == b"x" * 100_000
    run(*ossfs_command(), "umount", mount.path, env=mount.environment)


def test_sigusr1_toggles_debug_logging(new_mount: Callable[..., Mount]) -> None:
    mount = new_mount()
    mount.allowed = ["WARNING debug logging is (on|off)"]
    mount.signal(signal.SIGUSR1)
    wait_for(lambda: "debug logging is on" in mount.log(), "the log's word of it")
    os.listdir(mount.path)
    mount.signal(signal.SIGUSR1)
    wait_for(lambda: "debug logging is off" in mount.log(), "the log's word of it")


# --------------------------------------------------------------------------------------------------
# In the background.


def test_a_mount_in_the_background_returns_when_it_is_usable(
    new_mount: Callable[..., Mount], service: Service
) -> None:
    mount = new_mount(mounted=False)
    status, output = mount.try_mount()
    assert (status, output) == (0, "")
    (mount.path / "background").write_text("x")
    assert service.read("background") == b"x"
    pid = mount.status()["pid"]
    assert os.getsid(pid) != os.getsid(0)
    shown = run(*ossfs_command(), "status", env=mount.environment)
    assert str(mount.path) in shown
    status, output = mount.try_mount()
    assert (status, output.count("\n")) == (1, 1), output
    assert "ossfs mount already" in output
    run(*ossfs_command(), "umount", mount.path, env=mount.environment)
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the end of the process")
    assert not is_mounted(mount.path)


# --------------------------------------------------------------------------------------------------
# Mounts that fail.


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


FAILURES: dict[str, tuple[dict[str, str], dict[str, str], str]] = {
    "wrong key": ({"OSS_ACCESS_KEY_ID": "LTAIwrong"}, {}, "access key id"),
    "wrong secret": ({"OSS_ACCESS_KEY_SECRET": "wrong"}, {}, "secret"),
    "no key": ({"OSS_ACCESS_KEY_ID": ""}, {}, "OSS_ACCESS_KEY_ID"),
    "no secret": ({"OSS_ACCESS_KEY_SECRET": ""}, {}, "OSS_ACCESS_KEY_SECRET"),
    "missing bucket": ({}, {"source": "no-such-bucket"}, "no bucket no-such-bucket"),
    "refused connection": ({}, {"endpoint": "http://127.0.0.1:PORT"}, "127.0.0.1:"),
    "unknown host": ({}, {"endpoint": "http://no-such-host.invalid"}, "no-such-host.invalid"),
    "no endpoint": ({}, {"endpoint": ""}, "region"),
    "missing mount point": ({}, {"mountpoint": "MNT/missing"}, "does not exist"),
    "mount point is a file": ({}, {"mountpoint": "MNT/file"}, "not a directory"),
    "non-empty mount point": ({}, {"mountpoint": "MNT"}, "not empty"),
    "unknown option": ({}, {"colour": "blue"}, "colour"),
    "mistyped option": ({}, {"chunksize": "5MB"}, "chunk_size"),
    "small chunk size": ({}, {"chunk_size": "5242879"}, "chunk_size"),
    "bad boolean": ({}, {"secure": "perhaps"}, "secure"),
    "bad number": ({}, {"memory": "lots"}, "memory"),
    "credentials as an option": ({}, {"access_key_secret": "hush"}, "OSS_ACCESS_KEY_SECRET"),
}


@pytest.mark.parametrize(
    ("case", "foreground"),
    [*((case, False) for case in FAILURES), ("wrong key", True), ("non-empty mount point", True)],
)
def test_a_mount_that_fails_says_why_in_one_line(
    room: Room, service: Service, case: str, foreground: bool
) -> None:
    environment, changes, expected = FAILURES[case]
    mount = Mount(service, room)
    changes = {
        name: value.replace("PORT", str(_free_port())).replace("MNT", str(mount.path))
        for name, value in changes.items()
    }
    mount.source = changes.pop("source", mount.source)
    place = Path(changes.pop("mountpoint", str(mount.path)))
    if place != mount.path or case.startswith("non-empty"):
        (mount.path / "file").touch()
    mount.environment |= environment
    command = mount.command(**{name: value or None for name, value in changes.items()})
    command = [str(place) if word == str(mount.path) else word for word in command]
    begun = time.monotonic()
    status, output = run_status(*command, *(["-f"] if foreground else []), env=mount.environment)
    mount.close()
    if foreground:
        output = "".join(line for line in output.splitlines(True) if " INFO " not in line)  # that is the log
    assert status == 1, output
    assert output.count("\n") == 1, output
    assert output.startswith("ossfs: ")
    assert expected in output
    assert "Traceback" not in output
    assert "hush" not in output and service.key_secret not in output
    assert time.monotonic() - begun < 25
    assert not is_mounted(mount.path)


# --------------------------------------------------------------------------------------------------
# kill -9.


def test_the_next_mount_cleans_up_a_dead_one(new_mount: Callable[..., Mount]) -> None:
    mount = new_mount()
    (mount.path / "f").write_text("kept")
    mount.kill()
    with pytest.raises(OSError):
        os.listdir(mount.path)
    mount.mount()
    assert (mount.path / "f").read_text() == "kept"


def test_ossfs_umount_of_a_dead_mount(new_mount: Callable[..., Mount]) -> None:
    mount = new_mount()
    mount.kill()
    status, output = run_status(*ossfs_command(), "umount", mount.path, env=mount.environment)
    assert not is_mounted(mount.path), output
    assert (status, output.count("\n")) == (1, 1), output
    assert "was dead" in output


def test_kill_9_in_a_large_write_leaves_the_old_object_and_the_next_mount_sweeps(
    new_mount: Callable[..., Mount], service: Service, tmp_path: Path
) -> None:
    old = random.Random(10).randbytes(CHUNK + 1)
    service.write("large", old)
    mount = new_mount(chunk_size="5MB")
    source = tmp_path / "source"
    with open(source, "wb") as file:
        file.truncate(100 * MIB)
    # The last part never gets through, so that cp is in the middle of it for certain.
    service.faults({"op": "UploadPart", "part": 15, "action": "delay", "seconds": 30, "count": -1})
    copy = spawn(["cp", source, mount.path / "large"], stderr=subprocess.PIPE)
    wait_for(lambda: "large" in service.uploads(), "the upload's beginning")
    mount.kill()
    assert copy.stderr is not None
    with copy.stderr:
        copy.stderr.read()
    assert copy.wait(20) != 0
    service.faults()
    assert service.read("large") == old
    assert "large" in service.uploads(), "nobody is there yet who could abort it"
    mount.mount()
    wait_for(lambda: "large" not in service.uploads(), "the end of the dead mount's upload")
    assert (mount.path / "large").read_bytes() == old
    run("cp", source, mount.path / "large")
    assert service.sdk.head_object("large").content_length == 100 * MIB
    mount.umount()
    assert not list(Path(str(mount.options["state_dir"])).glob("*.journal"))


def test_a_live_mount_keeps_its_uploads_when_another_one_starts(
    new_mount: Callable[..., Mount], service: Service, tmp_path: Path
) -> None:
    state = str(tmp_path / "state")
    first = new_mount(chunk_size="5MB", state_dir=state)
    # In a process of its own: a descriptor of this one would be flushed by each child that closes its copy.
    with _writer(first.path / "going-on", 3 * CHUNK):
        wait_for(lambda: "going-on" in service.uploads(), "the upload's beginning")
        second = new_mount(chunk_size="5MB", state_dir=state)
        assert os.path.isdir(second.path)
        second.remount()
        assert "going-on" in service.uploads()
    assert service.read("going-on") == b"x" * (3 * CHUNK)


# --------------------------------------------------------------------------------------------------
# Memory.


def test_a_large_file_needs_little_memory(new_mount: Callable[..., Mount], service: Service) -> None:
    mount = new_mount(memory="128MB")
    run("dd", "if=/dev/zero", f"of={mount.path}/zeros", "bs=1M", "count=300", "status=none")
    run("dd", f"if={mount.path}/zeros", "of=/dev/null", "bs=1M", "status=none")
    written = mount.memory_peak()
    assert service.sdk.head_object("zeros").content_length == 300 * MIB
    mount.remount()
    run("cmp", "-n", str(300 * MIB), mount.path / "zeros", "/dev/zero")
    assert max(written, mount.memory_peak()) < 200 * MIB
    (mount.path / "zeros").unlink()


def test_cleanup_removes_what_a_dead_mount_left(service: Service, new_mount: Callable[..., Mount]) -> None:
    """And says so first, on demand; what it does not know of stays."""
    foreign = service.sdk.init_multipart_upload("somebody-elses").upload_id
    service.write("cleanup", b"old")
    mount = new_mount(chunk_size="5MB")
    fd = os.open(mount.path / "cleanup", os.O_WRONLY)
    os.write(fd, random.randbytes(12 * MIB))
    wait_for(lambda: len(service.uploads()) == 2, "an upload in progress")
    mount.kill()
    with pytest.raises(OSError):
        os.close(fd)
    options = f"endpoint={service.url},state_dir={mount.options['state_dir']}"
    command = [*ossfs_command(), "cleanup", "bkt", "-o", options]
    said = run(*command, "--dry-run", env=mount.environment)
    assert "would abort upload" in said and "cleanup" in said and len(service.uploads()) == 2
    assert "nothing" in run(*command, "--older-than", "1d", env=mount.environment)
    assert "aborted upload" in run(*command, env=mount.environment)
    assert service.uploads() == ["somebody-elses"]
    assert "nothing" in run(*command, env=mount.environment)
    assert "accepted:" in run(*command, "--older-than", "soon", env=mount.environment, status=1)
    assert service.read("cleanup") == b"old"
    service.sdk.abort_multipart_upload("somebody-elses", foreign)
