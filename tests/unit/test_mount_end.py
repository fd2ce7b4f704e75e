"""How a mount ends that no program ended."""

from __future__ import annotations

import errno
import logging
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
