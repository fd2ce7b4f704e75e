"""restic and borgbackup keep a repository on a mount, and find it whole."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import oss2
import pytest

from tests.support.mounts import MIB, Mount, Service, run, tree_digest

COMMAND_SECONDS = 300.0


@pytest.fixture
def work(source_tree: Path, tmp_path: Path) -> Path:
    """A tree of this test's own, which it may change, and with more bytes than one pack has."""
    copy = tmp_path / "work"
    run("cp", "-a", source_tree, copy)
    (copy / "incompressible").write_bytes(random.Random(7).randbytes(48 * MIB))
    return copy


def change(work: Path) -> None:
    """What happens between two backups: some files go, some change, some are new."""
    shutil.rmtree(work / "encodings")
    (work / "incompressible").unlink()
    with open(work / "odd" / "large", "r+b") as file:
        file.seek(3 * MIB)
        file.write(b"changed in the middle")
    (work / "new").write_bytes(random.Random(8).randbytes(5 * MIB))


def restic(mount: Mount, cache: Path, *arguments: str | Path, cwd: Path | None = None) -> str:
    """What restic says; its repository is on the mount."""
    environment = dict(os.environ, RESTIC_PASSWORD="a password", GOMAXPROCS="2")
    command = ["restic", "-r", str(mount.path / "restic"), "--cache-dir", str(cache)]
    return run(*command, *arguments, env=environment, cwd=cwd, seconds=COMMAND_SECONDS)


def backed_up_by_restic(mount: Mount, work: Path, tmp_path: Path) -> None:
    """A repository's whole life; fails at the first thing that is not as it should be."""
    cache, back = tmp_path / "cache", tmp_path / "back"
    restic(mount, cache, "init")
    restic(mount, cache, "backup", ".", cwd=work)
    assert "no errors were found" in restic(mount, cache, "check", "--read-data")
    restic(mount, cache, "restore", "latest", "--target", back / "first")
    first = tree_digest(work)
    assert tree_digest(back / "first") == first

    mount.remount()
    change(work)
    restic(mount, cache, "backup", ".", cwd=work)
    # Nothing that an earlier command has kept on the disk helps this one.
    shutil.rmtree(cache)
    assert "no errors were found" in restic(mount, cache, "check", "--read-data")
    before = stored(mount)
    said = restic(mount, cache, "forget", "--keep-last", "1", "--prune")
    assert "remove" in said
    assert "no errors were found" in restic(mount, cache, "check", "--read-data")
    restic(mount, cache, "restore", "latest", "--target", back / "second")
    second = tree_digest(work)
    assert second != first
    assert tree_digest(back / "second") == second

    # What was pruned is gone from the bucket, and not from a listing alone.
    mount.umount()
    assert stored(mount) < before - 40 * MIB
    mount.mount()
    assert "no errors were found" in restic(mount, cache, "check", "--read-data")


def test_restic(new_mount: Callable[..., Mount], work: Path, tmp_path: Path) -> None:
    mount = new_mount("bkt:/plain")
    backed_up_by_restic(mount, work, tmp_path)
    mount.umount()
    assert not mount.service.uploads()


def test_restic_while_one_request_in_a_hundred_fails(
    new_mount: Callable[..., Mount], service: Service, work: Path, tmp_path: Path
) -> None:
    mount = new_mount("bkt:/faulty")
    service.stats(reset=True)
    service.faults(
        {"action": "status", "status": 503, "rate": 0.005, "count": -1, "seed": 1},
        {"action": "status", "status": 500, "rate": 0.005, "count": -1, "seed": 2},
        # Few requests may be a hundred: some fail for certain, among them those that carry the data.
        *({"action": "status", "status": 502, "op": op, "skip": 5} for op in ("Put", "Get", "Copy")),
    )
    backed_up_by_restic(mount, work, tmp_path)
    mount.umount()
    service.faults()
    assert service.stats()["faults"]["status"] >= 5
    assert not service.uploads()


def test_borg(new_mount: Callable[..., Mount], work: Path, tmp_path: Path) -> None:
    mount = new_mount("bkt:/borg", umask="077")
    repository = str(mount.path / "repository")
    environment = dict(
        os.environ,
        BORG_PASSPHRASE="a password",
        BORG_BASE_DIR=str(tmp_path / "base"),
        BORG_EXIT_CODES="modern",
    )

    def borg(*arguments: str, cwd: Path | None = None) -> str:
        return run("borg", *arguments, env=environment, cwd=cwd, seconds=COMMAND_SECONDS)

    def extracted(archive: str) -> dict[str, tuple[Any, ...]]:
        target = tmp_path / archive
        target.mkdir()
        borg("extract", "--numeric-ids", f"{repository}::{archive}", cwd=target)
        return tree_digest(target)

    borg("init", "-e", "repokey", repository)
    borg("create", f"{repository}::first", ".", cwd=work)
    borg("check", "--verify-data", repository)
    first = tree_digest(work)
    assert extracted("first") == first

    mount.remount()
    change(work)
    borg("create", f"{repository}::second", ".", cwd=work)
    before = stored(mount)
    borg("prune", "--keep-last", "1", repository)
    borg("compact", repository)
    borg("check", "--verify-data", repository)
    second = tree_digest(work)
    assert second != first
    assert extracted("second") == second
    assert "first" not in borg("list", repository)

    mount.umount()
    assert stored(mount) < before - 40 * MIB, "the bytes of the pruned archive are in the bucket"
    assert not mount.service.uploads()
    mount.mount()
    borg("check", "--verify-data", repository)


def stored(mount: Mount) -> int:
    """Bytes of the objects below the mount's prefix; repeated, since requests may be made to fail."""
    for _ in range(10):
        try:
            listed = oss2.ObjectIteratorV2(mount.service.sdk, prefix=mount.prefix)
            return sum(found.size for found in listed)
        except oss2.exceptions.ServerError:
            continue
    raise AssertionError("ten listings have failed")
