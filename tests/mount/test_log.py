"""The log of a real mount: why a program got EIO, repeats, and the journal's priorities."""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounts import BUCKET, MIB, Mount, Room, Service, ossfs_command, run, spawn, wait_for

REFUSED = {"action": "status", "status": 400, "code": "InvalidArgument", "count": -1}
"""An answer that has no class of its own and is not worth a repeat: EIO at once."""


@pytest.fixture(scope="module")
def logging_mount(service: Service, room: Room) -> Iterator[Mount]:
    options: dict[str, str | int | float] = {"chunk_size": "5MB", "ttl": 0, "negative_ttl": 0}
    mount = Mount(service, room, source=f"{BUCKET}:/log", options=options)
    mount.mount()
    yield mount
    mount.close()


@pytest.fixture
def mounted(logging_mount: Mount) -> Iterator[Mount]:
    yield logging_mount
    logging_mount.service.faults()


def write(path: Path, size: int) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(bytes(size - 1) + b"x")


def rename(path: Path, to: str) -> None:
    path.rename(path.parent / to)


CALLS: list[tuple[str, str, str, Callable[[Path], object]]] = [
    ("Get", "GetObject", "log/file", Path.read_bytes),
    ("Put", "PutObject", "log/new", lambda path: write(path.with_name("new"), 10)),
    ("Initiate", "InitiateMultipartUpload", "log/new", lambda path: write(path.with_name("new"), 11 * MIB)),
    ("UploadPart", "UploadPart", "log/new", lambda path: write(path.with_name("new"), 11 * MIB)),
    ("Complete", "CompleteMultipartUpload", "log/new", lambda path: write(path.with_name("new"), 11 * MIB)),
    ("Copy", "CopyObject", "log/to", lambda path: rename(path, "to")),
    ("Put", "PutObject", "log/dir/", lambda path: path.with_name("dir").mkdir()),
    ("List", "ListObjects", "", lambda path: os.listdir(path.parent)),
    ("Head", "HeadObject", "log/file", lambda path: os.truncate(path, 3)),
]


@pytest.mark.parametrize("op, call, key, program", CALLS, ids=[f"{c[1]}-{c[2]}" for c in CALLS])
def test_an_eio_has_a_line_with_key_and_request_id(
    mounted: Mount, service: Service, op: str, call: str, key: str, program: Callable[[Path], object]
) -> None:
    mounted.allowed += ["InvalidArgument"]
    service.write("log/file", b"content")
    assert (mounted.path / "file").exists()
    before = len(mounted.log())
    service.faults({"op": op, "key": key, **REFUSED})
    with pytest.raises(OSError) as caught:
        program(mounted.path / "file")
    service.faults()
    assert caught.value.errno == errno.EIO
    what = f"{call} {key!r}" if key else call
    line = re.compile(rf" ERROR .*{re.escape(what)} failed: .*\[400 InvalidArgument\] request-id=[0-9A-F]+")
    assert line.search(mounted.log()[before:]), mounted.log()[before:]


def test_repeats_are_told_of_at_the_end(mounted: Mount, service: Service) -> None:
    """Each with another request id: of one file, one line, and another that counts them."""
    mounted.allowed += ["InvalidArgument"]
    service.write("log/repeated", b"content")
    service.write("log/other", b"content")
    before = len(mounted.log())
    service.faults({"op": "Get", **REFUSED})
    for name in ["repeated", *["other"] * 2, *["repeated"] * 9]:
        with pytest.raises(OSError, match="Input/output error"):
            (mounted.path / name).read_bytes()
    service.faults()
    mounted.remount()
    about = [line for line in mounted.log()[before:].splitlines() if "fuse.read: GetObject 'log/rep" in line]
    assert len(about) == 2 and re.search(r"repeated \d+ times in \d+ s$", about[1]), about


def test_under_systemd_standard_error_has_priorities(mounted: Mount, tmp_path: Path) -> None:
    """JOURNAL_STREAM names what standard error is, as systemd sets it."""
    if mounted.running():
        mounted.umount()
    with open(tmp_path / "journal", "wb") as stream:
        status = os.fstat(stream.fileno())
        environment = mounted.environment | {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        process = spawn([*mounted.command(), "-f"], stdout=stream, stderr=stream, env=environment)
    journal = tmp_path / "journal"
    try:
        wait_for(lambda: "is mounted at" in journal.read_text() or process.poll() is not None, "a mount")
        process.send_signal(signal.SIGUSR1)
        wait_for(lambda: "<4>debug logging is on" in journal.read_text(), "the log's word of it")
        run(*ossfs_command(), "umount", mounted.path, env=mounted.environment)
    finally:
        assert process.wait(60) == 0
    lines = journal.read_text().splitlines()
    assert lines and all(re.match(r"<[2-7]>[^0-9]", line) for line in lines), lines
    assert any(line.startswith("<6>") for line in lines)
