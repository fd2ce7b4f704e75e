"""Commands that ask a mount, and access keys of a mount: where they are not, and that they are renewed."""

from __future__ import annotations

import json
import os
import random
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.metadata import MetadataService, metadata_service
from tests.support.mounts import (
    BUCKET,
    MIB,
    Mount,
    Room,
    Service,
    is_mounted,
    ossfs_command,
    run,
    run_status,
    wait_for,
)


@pytest.fixture
def mounted(service: Service, room: Room) -> Iterator[Mount]:
    mount = Mount(service, room, source=f"{BUCKET}:/commands")
    mount.mount()
    yield mount
    mount.close()


def ossfs(mount: Mount, *arguments: str | Path, status: int = 0) -> str:
    return run(*ossfs_command(), *arguments, env=mount.environment, status=status)


def test_url_of_a_mounted_file(mounted: Mount) -> None:
    directory = mounted.path / "a directory"
    directory.mkdir()
    file = directory / "ü +%"
    file.write_bytes(b"content")
    link = ossfs(mounted, "url", file).strip()
    with urllib.request.urlopen(link, timeout=30) as answer:
        assert answer.read() == b"content"
    link = ossfs(mounted, "url", file, "--method", "HEAD", "--expires", "1h").strip()
    with urllib.request.urlopen(urllib.request.Request(link, method="HEAD"), timeout=30) as answer:
        assert answer.headers["Content-Length"] == "7"
    assert "accepted: GET, HEAD" in ossfs(mounted, "url", file, "--method", "PUT", status=1)
    assert "is a directory" in ossfs(mounted, "url", directory, status=1)
    assert "No such file" in ossfs(mounted, "url", directory / "none", status=1)


def test_what_a_mount_is_asked_to_sign(mounted: Mount) -> None:
    """The mount itself refuses, too: whoever asks at its socket gets URLs to read with and no others."""
    from ossfs.control import request
    from ossfs.errors import MountError
    from ossfs.registry import Registry

    registry = Registry(mounted.environment["OSSFS_RUNTIME_DIR"])
    (record,) = [one for one in registry.mounts() if one.mountpoint == str(mounted.path)]
    for path, method in (("f", "PUT"), ("f", "DELETE"), ("../f", "GET"), ("a//b", "GET"), (3, "GET")):
        with pytest.raises(MountError, match="expected path, method GET or HEAD"):
            request(record, "url", path=path, method=method, expires=60)
    assert "/commands/f?" in request(record, "url", path="f", method="GET", expires=60)["url"].replace(
        "%2F", "/"
    )


def test_list_and_umount_all(service: Service, room: Room, tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    mounts = [Mount(service, room, source=f"{BUCKET}:/{name}") for name in ("one", "two")]
    try:
        for mount in mounts:
            mount.environment["OSSFS_RUNTIME_DIR"] = str(runtime)
            mount.mount()
        listed = json.loads(ossfs(mounts[0], "list", "--json"))
        assert [entry["source"] for entry in listed] == [f"{BUCKET}:/one", f"{BUCKET}:/two"]
        assert [entry["mountpoint"] for entry in listed] == [str(mount.path) for mount in mounts]
        assert str(mounts[1].path) in ossfs(mounts[0], "list")
        (mounts[0].path / "f").write_bytes(b"x")
        with open(mounts[1].path / "held", "wb"):
            said = ossfs(mounts[0], "umount", "--all", status=1)
            assert "is in use" in said
            assert is_mounted(mounts[1].path)
        mounts[0].await_end()
        assert service.read("one/f") == b"x"
        ossfs(mounts[0], "umount", "--all")
        mounts[1].await_end()
    finally:
        for mount in mounts:
            mount.close()


def test_check_sees_the_mount(mounted: Mount) -> None:
    command = [*ossfs_command(), "check", BUCKET, "-o", f"endpoint={mounted.service.url}", "--json"]
    command += ["--mountpoint", str(mounted.path)]
    status, said = run_status(*command, env=mounted.environment)
    assert status == 0
    assert f"is a mount of {BUCKET}:/commands, and answers" in said
    mounted.kill()
    status, said = run_status(*command, env=mounted.environment)
    assert status == 1
    assert "whose process has ended" in said


def test_keys_are_not_to_be_seen(mounted: Mount) -> None:
    process = Path(f"/proc/{mounted.pid}")
    secret = mounted.service.key_secret.encode()
    assert mounted.environment["OSS_ACCESS_KEY_SECRET"].encode() == secret
    for place in ("environ", "cmdline"):
        assert secret not in (process / place).read_bytes()
    assert b"OSSFS_RUNTIME_DIR=" in (process / "environ").read_bytes(), "the rest is left alone"
    assert mounted.service.key_secret not in mounted.log()


@pytest.fixture
def temporary(service: Service, room: Room) -> Iterator[tuple[Mount, MetadataService]]:
    """A mount whose keys come from a URI, with a token that the service demands."""
    with metadata_service() as source:
        source.key_id, source.secret = service.key_id, service.key_secret
        mount = Mount(service, room, source=f"{BUCKET}:/temporary", options={"chunk_size": "5MB"})
        del mount.environment["OSS_ACCESS_KEY_ID"], mount.environment["OSS_ACCESS_KEY_SECRET"]
        mount.environment |= {"ALIBABA_CLOUD_CREDENTIALS_URI": source.uri, "HOME": str(mount.directory)}
        service.token("token-1")
        try:
            mount.mount()
            yield mount, source
        finally:
            mount.close()
            service.token("")


def test_a_token_expires_in_the_middle_of_a_write(temporary: tuple[Mount, MetadataService]) -> None:
    mount, source = temporary
    data = random.Random(7).randbytes(24 * MIB)
    file = os.open(mount.path / "file", os.O_WRONLY | os.O_CREAT)
    try:
        for start in range(0, 12 * MIB, MIB):
            assert os.write(file, data[start : start + MIB]) == MIB
        source.token = "token-2"
        mount.service.token("token-2", "token-1")
        for start in range(12 * MIB, 24 * MIB, MIB):
            assert os.write(file, data[start : start + MIB]) == MIB
        os.fsync(file)
    finally:
        os.close(file)
    assert (mount.path / "file").read_bytes() == data
    assert "new credentials from ALIBABA_CLOUD_CREDENTIALS_URI" in mount.log()
    mount.umount()
    mount.service.token("")
    assert mount.service.read("temporary/file") == data
    for token in ("token-1", "token-2", source.secret):
        assert token not in mount.log()


def test_a_token_that_cannot_be_renewed_is_an_error(temporary: tuple[Mount, MetadataService]) -> None:
    """And once there are new ones again, the mount goes on."""
    mount, source = temporary
    mount.allowed += [".*"]
    (mount.path / "before").write_bytes(b"x")
    source.broken = True
    mount.service.token("token-2", "token-1")
    with pytest.raises(PermissionError):
        (mount.path / "file").write_bytes(b"content")
    assert "new credentials cannot be had" in mount.log()
    source.broken = False
    source.token = "token-2"

    def works_again() -> bool:
        try:
            (mount.path / "file").write_bytes(b"content")
        except PermissionError:
            return False  # the source has just been asked in vain, and is let alone for a moment
        return True

    wait_for(works_again, "new credentials")
    assert (mount.path / "file").read_bytes() == b"content"
