"""What a mount does about a bucket with versioning, where the service ignores forbid-overwrite."""

from __future__ import annotations

import logging

import pytest

from ossfs.config import load_config
from ossfs.errors import AccessDenied, MountError
from ossfs.mount import _Mount
from tests.support.memory_store import Fault, MemoryStore


def _mount(*options: str) -> _Mount:
    config = load_config("bkt", "/mnt", ["region=cn-hangzhou", *options])
    return _Mount(config, None, None, lambda: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("state", ["Enabled", "Suspended"])
async def test_a_versioned_bucket_is_told_of_and_looked_at_before_creating(
    state: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        mount = _mount()
        info = await mount._bucket(MemoryStore(versioning=state))
    assert info is not None and info.versioning == state
    assert f"is {state}" in caplog.text and "forbid-overwrite" in caplog.text


@pytest.mark.parametrize("state", ["Enabled", "Suspended"])
async def test_excl_strict_is_refused_on_a_versioned_bucket(state: str) -> None:
    with pytest.raises(MountError, match=r"excl=strict.*accepted there: excl=local"):
        await _mount("excl=strict")._bucket(MemoryStore(versioning=state))


async def test_other_buckets_take_excl_strict(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    with caplog.at_level(logging.WARNING):
        info = await _mount("excl=strict")._bucket(store)
    assert info is not None and not info.versioning
    assert not caplog.records
    store.faults.append(Fault(op="bucket_info", error=AccessDenied))
    assert await _mount("excl=strict")._bucket(store) is None, "taken as never enabled"
