"""How a mount ends that no program ended."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ossfs import mount
from ossfs.store.credentials import Credentials, StaticCredentials

KEYS = StaticCredentials(Credentials("id", "secret"))


@pytest.fixture
def end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a mount that ends with an error."""
    monkeypatch.setenv("OSSFS_RUNTIME_DIR", str(tmp_path / "run"))
    config = SimpleNamespace(
        bucket="bkt", prefix="", endpoint_url="http://127.0.0.1:1", source="bkt", mountpoint=str(tmp_path)
    )

    def run(error: Exception, *, mounted: bool = True) -> int:
        async def serve(self: mount._Mount) -> list[str]:
            if mounted:
                self.ready()
            raise ExceptionGroup("nursery", [ExceptionGroup("nursery", [error])])

        monkeypatch.setattr(mount._Mount, "run", serve)
        return mount.run(config, lambda: None, KEYS)  # type: ignore[arg-type]

    return run


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "receive_buf failed")])
def test_without_memory(end: Callable[..., int], error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    assert end(error) == 1
    (record,) = caplog.records
    assert record.getMessage() == "the mount has ended: this process gets no more memory"
    assert record.levelno == logging.CRITICAL and record.exc_info is None


def test_an_unforeseen_error_is_in_the_log_whole(
    end: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    assert end(ZeroDivisionError("seven")) == 1
    (record,) = caplog.records
    assert record.getMessage() == "the mount has ended: seven" and record.exc_info


def test_before_it_is_mounted_who_waits_is_told(end: Callable[..., int]) -> None:
    with pytest.raises(ExceptionGroup):
        end(ZeroDivisionError(), mounted=False)


@pytest.mark.parametrize(
    "said, code, text",
    [
        ("fusermount3: failed to unmount /m: Device or resource busy", errno.EBUSY, ""),
        (
            "fusermount3: failed to open /etc/mtab: No such file or directory",
            errno.EPERM,
            "fusermount3: failed to open /etc/mtab: No such file or directory",
        ),
        ("", errno.EPERM, "fusermount3 has failed, and does not say why"),
    ],
)
def test_a_user_is_told_why_fusermount3_does_not_unmount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, code: int, text: str
) -> None:
    program = tmp_path / "fusermount3"
    program.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(OSError) as caught:
        mount._unmount("/m", False)
    assert caught.value.errno == code
    assert text in caught.value.strerror
