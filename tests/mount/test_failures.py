"""close(2) tells the truth: when an upload fails, the program hears of it and the old object stays."""

from __future__ import annotations

import errno
import mmap
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounts import MIB, Mount, Service, run, run_status, wait_for

CHUNK = 5 * MIB
OLD = random.Random(8).randbytes(100_000)
NEW = random.Random(9).randbytes(4 * CHUNK + 321)

REFUSALS = [
    pytest.param(
        {"op": "UploadPart", "part": 3, "action": "status", "status": 403, "count": -1}, id="part-forbidden"
    ),
    pytest.param(
        {"op": "UploadPart", "part": 3, "action": "status", "status": 503, "count": -1}, id="part-unavailable"
    ),
    pytest.param({"op": "Initiate", "action": "status", "status": 403, "count": -1}, id="upload-forbidden"),
    pytest.param({"op": "Complete", "action": "status", "status": 403, "count": -1}, id="end-forbidden"),
    pytest.param({"op": "UploadPart", "part": 2, "action": "reset", "count": -1}, id="connection-reset"),
]


@pytest.fixture
def mount(new_mount: Callable[..., Mount], service: Service) -> Mount:
    made = new_mount(chunk_size="5MB", op_timeout=2)
    made.allowed = [
        "(?:WARNING|ERROR) .*(?:target|403|503|giving up|not in the bucket|did not reach|no progress)"
    ]
    return made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(NEW)
    return path


@pytest.mark.parametrize(
    ("fault", "over"),
    [
        *(pytest.param(*case.values, "an old file", id=case.id) for case in REFUSALS),
        pytest.param(*REFUSALS[0].values, "nothing", id="part-forbidden-of-a-new-file"),
    ],
)
def test_cp_fails_when_the_upload_fails(
    mount: Mount, service: Service, source: Path, fault: dict[str, object], over: str
) -> None:
    target = mount.path / "target"
    service.sdk.delete_object("target")
    if over == "an old file":
        service.write("target", OLD)
    service.faults(fault)
    status, output = run_status("cp", source, target)
    assert status != 0, "cp must hear of it"
    assert "error" in output or "denied" in output or "timed out" in output.lower(), output
    if over == "an old file":
        assert service.read("target") == OLD
    else:
        assert not service.exists("target")
    wait_for(lambda: not service.uploads(), "the upload's end")
    service.faults()
    # What is seen here is what is there, and the next try succeeds.
    wait_for(lambda: target.exists() == (over == "an old file"), "the end of what has failed")
    if over == "an old file":
        assert target.read_bytes() == OLD
    run("cp", source, target)
    assert service.read("target") == NEW
    mount.remount()
    assert target.read_bytes() == NEW
    assert "target" in mount.log(), "the log names the file"


def test_cp_of_a_small_file_fails_too(mount: Mount, service: Service, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"new")
    service.write("small-target", OLD)
    service.faults({"op": "Put", "key": "small-target", "action": "status", "status": 403, "count": -1})
    assert run_status("cp", tmp_path / "small", mount.path / "small-target")[0] != 0
    assert service.read("small-target") == OLD
    service.faults()
    assert (mount.path / "small-target").read_bytes() == OLD
    run("cp", tmp_path / "small", mount.path / "small-target")
    assert service.read("small-target") == b"new"


def test_a_reader_beside_a_failed_write_gets_no_mixture(mount: Mount, service: Service) -> None:
    """The kernel's pages hold what was written; the bytes from before must not come after them."""
    path = mount.path / "beside"
    service.write("beside", OLD)
    written = NEW[:50_000]
    reader = os.open(path, os.O_RDONLY)
    writer = os.open(path, os.O_RDWR)
    try:
        assert os.pread(reader, 4096, 90_000) == OLD[90_000:94_096]
        os.pwrite(writer, written, 0)
        assert os.pread(reader, 4096, 0) == written[:4096]
        service.faults({"op": "Put", "key": "beside", "action": "status", "status": 403, "count": -1})
        with pytest.raises(PermissionError):
            os.fsync(writer)
        assert path.read_bytes() == OLD, "a new open has what the bucket has"
        assert os.pread(writer, 60_000, 0) == written + OLD[50_000:60_000]
    finally:
        with pytest.raises(PermissionError):
            os.close(writer)

    def refused() -> bool:
        # Whether the pages are still there is the kernel's matter.
        os.posix_fadvise(reader, 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            assert os.pread(reader, 4096, 0) == written[:4096]
        except OSError as error:
            assert error.errno in (errno.ESTALE, errno.EIO)
            return True
        return False

    wait_for(refused, "the reader to be told")
    os.close(reader)
    service.faults()
    assert path.read_bytes() == OLD == service.read("beside")


def test_mapped_pages_after_a_failed_fsync(mount: Mount, service: Service) -> None:
    """Who mapped the file keeps its own pages; who opens it has the bucket's."""
    path = mount.path / "mapped"
    service.write("mapped", OLD)
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, len(OLD)) as pages:
        pages[:8192] = NEW[:8192]
        service.faults({"op": "Put", "key": "mapped", "action": "status", "status": 403, "count": -1})
        with pytest.raises(PermissionError):
            pages.flush()  # msync(2), which the kernel ends with an fsync
        assert path.read_bytes() == OLD
        assert pages[:8192] == NEW[:8192]
        assert pages[8192:] == OLD[8192:]
        with pytest.raises(PermissionError):
            os.close(fd)
    service.faults()
    wait_for(lambda: not mount.status()["files"]["open"], "the end of the mapping")
    assert path.read_bytes() == OLD == service.read("mapped")


def test_an_edit_that_fails_leaves_the_old_object(mount: Mount, service: Service) -> None:
    service.write("target", NEW)
    service.faults({"op": "UploadPartCopy", "action": "status", "status": 403, "count": -1})
    with pytest.raises(OSError) as caught, open(mount.path / "target", "r+b") as file:
        file.seek(2 * CHUNK)
        file.write(b"edit")
    assert caught.value.errno in (errno.EACCES, errno.EPERM, errno.EIO)
    service.faults()
    assert service.read("target") == NEW
    wait_for(lambda: not service.uploads(), "the upload's end")
    assert (mount.path / "target").read_bytes() == NEW
    with open(mount.path / "target", "r+b") as file:
        file.seek(2 * CHUNK)
        file.write(b"edit")
    assert service.read("target") == NEW[: 2 * CHUNK] + b"edit" + NEW[2 * CHUNK + 4 :]


def test_a_failure_that_passes_is_not_heard_of(mount: Mount, service: Service, source: Path) -> None:
    service.faults(
        {"op": "UploadPart", "part": 2, "action": "status", "status": 503, "count": 2},
        {"op": "UploadPart", "part": 3, "action": "lose"},
        {"op": "UploadPart", "part": 1, "action": "reset"},
        {"op": "Complete", "action": "lose"},
        {"op": "Get", "action": "cut", "after": 1000, "count": 2},
    )
    run("cp", source, mount.path / "target")
    assert service.sdk.head_object("target").content_length == len(NEW)
    mount.remount()
    assert (mount.path / "target").read_bytes() == NEW
    assert not service.uploads()


def test_a_flipped_byte_of_a_small_file_is_never_read(
    new_mount: Callable[..., Mount], service: Service
) -> None:
    mount = new_mount(op_timeout=5)
    mount.allowed = ["WARNING", "ERROR"]
    service.write("flipped", OLD)
    service.faults({"op": "Get", "key": "flipped", "action": "flip", "count": 1})
    assert (mount.path / "flipped").read_bytes() == OLD


def test_a_flipped_byte_never_reaches_who_reads_a_whole_file(mount: Mount, service: Service) -> None:
    """The kernel's read-ahead swallows the first error: the program must get it all the same."""
    mount.allowed.append("CRC-64 of the bytes received")
    service.fill("flipped/f", 12, 5 * MIB + 123)
    expected = service.read("flipped/f000000")
    service.faults({"op": "Get", "action": "flip", "count": -1, "rate": 0.3, "seed": 5})
    refused = 0
    for _ in range(2):
        for path in sorted((mount.path / "flipped").iterdir()):
            try:
                assert path.read_bytes() == expected
            except OSError as error:
                assert error.errno == errno.EIO
                refused += 1
    assert refused
    service.faults()
    for path in (mount.path / "flipped").iterdir():
        assert path.read_bytes() == expected


def test_fsync_reports_a_failed_upload(mount: Mount, service: Service) -> None:
    service.write("target", OLD)
    service.faults({"op": "Put", "key": "target", "action": "status", "status": 403, "count": -1})
    fd = os.open(mount.path / "target", os.O_RDWR | os.O_TRUNC)
    os.write(fd, b"new")
    with pytest.raises(OSError):
        os.fsync(fd)
    service.faults()
    try:
        os.close(fd)
    except OSError:
        pass  # it may say so again
    assert service.read("target") in (OLD, b"new")


@pytest.mark.parametrize("status", [403, 503])
def test_umount_names_the_files_that_did_not_reach_the_bucket(
    mount: Mount, service: Service, status: int
) -> None:
    # Nobody hears how the creation ends of a file that nothing was written to: it comes after close.
    service.faults({"op": "Put", "key": f"made-{status}", "action": "status", "status": status, "count": -1})
    (mount.path / f"made-{status}").touch()
    mount.allowed.append("ERROR fuse.release: no progress")
    output = mount.umount(status=1)
    assert "ossfs: failed to upload: " in output
    assert f"made-{status}" in output


def test_a_listing_that_fails_is_no_empty_directory(mount: Mount, service: Service) -> None:
    for number in range(3):
        service.write(f"dir/f{number}", b"x")
    mount.allowed = [".*"]
    mount.remount()
    service.faults({"op": "List", "action": "status", "status": 403, "count": -1})
    with pytest.raises(OSError):
        os.listdir(mount.path / "dir")
    service.faults()
    assert sorted(os.listdir(mount.path / "dir")) == ["f0", "f1", "f2"]


def test_a_read_that_fails_is_no_short_file(mount: Mount, service: Service) -> None:
    service.write("target", NEW)
    service.faults({"op": "Get", "key": "target", "action": "status", "status": 403, "count": -1})
    with pytest.raises(OSError):
        (mount.path / "target").read_bytes()
    service.faults()
    assert (mount.path / "target").read_bytes() == NEW
