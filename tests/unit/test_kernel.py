"""The kernel's side of a mount: options, the mount's device, its knobs, and the invalidation thread."""

from __future__ import annotations

import errno
import logging
import os
import threading
from pathlib import Path

import pyfuse3
import pytest

from ossfs.fuse import kernel
from ossfs.fuse.kernel import KernelCaches, device_of, mount_options, tune


def test_mount_options() -> None:
    plain = mount_options("bucket:/p", allow_other=False, read_only=False)
    assert plain == {"fsname=bucket:/p", "subtype=ossfs", "default_permissions"}
    more = mount_options("bucket", allow_other=True, read_only=True)
    assert more == {"fsname=bucket", "subtype=ossfs", "default_permissions", "allow_other", "ro"}


def test_commas_and_backslashes_do_not_end_an_option() -> None:
    options = mount_options("b:/a,ro,b\\c", allow_other=False, read_only=False)
    assert "fsname=b:/a\\,ro\\,b\\\\c" in options
    assert "ro" not in options


MOUNTINFO = rb"""22 28 0:20 / /sys rw,nosuid - sysfs sysfs rw
31 28 0:50 / /mnt/plain rw - fuse.ossfs bkt rw
32 28 0:51 / /mnt/with\040space\011tab\134slash rw - fuse.ossfs bkt rw
33 28 0:52 / /mnt/b\303\274cher rw - fuse.ossfs bkt rw
"""


@pytest.fixture
def mountinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "mountinfo"
    path.write_bytes(MOUNTINFO)
    monkeypatch.setattr(kernel, "MOUNTINFO", str(path))
    return path


def test_device_of(mountinfo: Path) -> None:
    assert device_of("/mnt/plain") == "0:50"
    assert device_of("/mnt/with space\ttab\\slash") == "0:51"
    assert device_of("/mnt/bücher") == "0:52"
    assert device_of("/mnt") is None
    assert device_of("/mnt/with\\040space\\011tab\\134slash") is None, "a name that only looks escaped"


def test_device_of_odd_paths(mountinfo: Path) -> None:
    with mountinfo.open("ab") as file:
        for number, path in enumerate(
            ["/mnt/日本", "/mnt/a\u3000b\x1cc", "/mnt/cr\rx", "/mnt/bad\udcff"], 60
        ):
            file.write(
                b"40 28 0:%d / " % number + path.encode("utf-8", "surrogateescape") + b" rw - f b rw\n"
            )
    assert device_of("/mnt/日本") == "0:60"
    assert device_of("/mnt/a\u3000b\x1cc") == "0:61"
    assert device_of("/mnt/cr\rx") == "0:62"
    assert device_of("/mnt/bad\udcff") == "0:63"


def test_the_topmost_mount_counts(mountinfo: Path) -> None:
    with mountinfo.open("ab") as file:
        file.write(b"50 31 0:99 / /mnt/plain rw - fuse.ossfs other rw\n")
    assert device_of("/mnt/plain") == "0:99"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What `tune` would have written."""
    knobs: dict[str, int] = {}
    monkeypatch.setattr(kernel, "_write", lambda path, value, consequence: knobs.update({path: value}))
    return knobs


def test_tune(
    mountinfo: Path, written: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = tmp_path / "control"
    (control / "50").mkdir(parents=True)
    monkeypatch.setattr(kernel, "FUSE_CONTROL", str(control))
    tune("/mnt/nothing")
    assert not written
    tune("/mnt/plain")
    assert written == {
        "/sys/class/bdi/0:50/read_ahead_kb": kernel.READ_AHEAD_KIB,
        f"{control}/50/max_background": kernel.MAX_BACKGROUND,
        f"{control}/50/congestion_threshold": kernel.MAX_BACKGROUND * 3 // 4,
    }


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_fusectl_is_looked_at_without_a_mount(
    steps: int,
    mountinfo: Path,
    written: dict[str, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As far as the kernel and our rights let us; what was opened is closed."""
    monkeypatch.setattr(kernel, "FUSE_CONTROL", str(tmp_path / "absent"))
    opened: list[int] = []

    def system_call(number: int, *arguments: object) -> int:
        if len(opened) == steps:
            raise OSError(errno.EPERM, "not for you")
        opened.append(os.open("/", os.O_RDONLY) if number != kernel._FSCONFIG else -1)
        return max(opened[-1], 0)

    monkeypatch.setattr(kernel, "_system_call", system_call)
    tune("/mnt/plain")
    control = f"/proc/self/fd/{opened[2]}" if steps == 3 else str(tmp_path / "absent")
    assert f"{control}/50/max_background" in written
    for fd in opened:
        if fd >= 0:
            with pytest.raises(OSError, match="Bad file"):
                os.fstat(fd)


def test_a_system_call_that_fails() -> None:
    with pytest.raises(OSError, match=r"\[Errno") as caught:
        kernel._system_call(kernel._FSMOUNT, -1, 0, 0)
    assert caught.value.errno in (errno.EBADF, errno.EPERM, errno.ENOSYS)


def test_a_knob_that_we_may_not_turn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    knob = tmp_path / "knob"
    kernel._write(str(knob), 7, "slower")
    assert knob.read_text() == "7" and not caplog.records
    kernel._write(str(tmp_path / "no" / "knob"), 7, "sequential reads are slower")
    kernel._write(str(tmp_path / "no" / "knob"), 7, "")
    first, second = caplog.records
    assert first.levelno == logging.INFO and "sequential reads are slower" in first.getMessage()
    assert second.levelno == logging.DEBUG and not second.getMessage().endswith("; ")


class FakeKernel:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[object] = []
        self.threads: set[int] = set()
        self.errors: list[Exception] = []
        self.gate = threading.Event()
        self.gate.set()
        monkeypatch.setattr(pyfuse3, "invalidate_inode", self.inode)
        monkeypatch.setattr(pyfuse3, "invalidate_entry", self.entry)

    def note(self, *call: object) -> None:
        assert self.gate.wait(5)
        self.calls.append(call)
        self.threads.add(threading.get_ident())
        if self.errors:
            raise self.errors.pop(0)

    def inode(self, ino: int, attr_only: bool) -> None:
        self.note("inode", ino, attr_only)

    def entry(self, parent: int, name: bytes) -> None:
        self.note("entry", parent, name)


def test_invalidation_has_a_thread_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the loop's thread it would deadlock with a READ of those pages."""
    fake = FakeKernel(monkeypatch)
    caches = KernelCaches()
    caches.invalidate_inode(1)  # before the session begins
    assert not fake.calls
    caches.start()
    caches.invalidate_inode(2, attributes_only=True)
    caches.invalidate_entry(3, b"name")
    caches.stop()
    assert fake.calls == [("inode", 1, False), ("inode", 2, True), ("entry", 3, b"name")]
    assert threading.get_ident() not in fake.threads and len(fake.threads) == 1


def test_the_caller_never_waits_for_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeKernel(monkeypatch)
    fake.gate.clear()
    caches = KernelCaches()
    caches.start()
    for ino in range(1000):
        caches.invalidate_inode(ino)
    assert not fake.calls
    fake.gate.set()
    caches.stop()
    assert len(fake.calls) == 1000


def test_the_thread_survives_whatever_happens(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fake = FakeKernel(monkeypatch)
    fake.errors = [
        FileNotFoundError(errno.ENOENT, "no inode"),
        OSError("without a number"),
        RuntimeError("odd"),
    ]
    caches = KernelCaches()
    caches.start()
    for ino in range(4):
        caches.invalidate_inode(ino)
    caches.stop()
    assert len(fake.calls) == 4
    assert [r.levelno for r in caplog.records] == [logging.DEBUG, logging.DEBUG, logging.ERROR]


def test_stop_without_start() -> None:
    KernelCaches().stop()
