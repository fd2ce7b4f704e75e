"""What docs/security.md claims of a mount: who sees its secrets, who gets in, what a bucket can do to it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounts import Mount, Room, Service, is_mounted, ossfs_command, run, run_status

pytestmark = pytest.mark.timeout(90)

NOBODY = 65534
DECOY = "decoy-of-a-secret"

ODD = ("../../../etc/passwd", "./x", "/y", "..", "\x01z", "new\nline", "plain", "n" * 300)
OBJECTS: list[tuple[str, dict[str, int], bytes]] = [
    ("devices/null", {"mode": stat.S_IFCHR | 0o666, "ossfs-rdev": os.makedev(1, 3), "uid": 0}, b""),
    ("setuid/become", {"mode": stat.S_IFREG | 0o4755, "uid": 0, "gid": 0}, Path("/usr/bin/id").read_bytes()),
    *((f"odd/{name}", {}, b"x") for name in ODD),
]
"""What somebody who can write to the bucket has put there."""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture(scope="module")
def shared_mount(room: Room, service: Service) -> Iterator[Mount]:
    """A mount for all users, with all that writes to a disk switched on."""
    for key, kept, body in OBJECTS:
        headers = {f"x-oss-meta-{name}": str(value) for name, value in kept.items()}
        service.sdk.put_object(key, body, headers=headers)
    cache = room.make("cache") / "cache"
    mount = Mount(service, room, options={"log_level": "debug", "allow_other": True, "cache_dir": str(cache)})
    mount.mount()
    yield mount
    mount.close()


@pytest.fixture(scope="module")
def alone(room: Room, service: Service) -> Iterator[Mount]:
    """A mount for its owner, whose keys come from a program that writes down what it was given."""
    keys = json.dumps({"AccessKeyId": service.key_id, "AccessKeySecret": service.key_secret})
    program = room.make("program") / "program"
    program.write_text(
        f"#!/bin/sh\ntr '\\0' '\\n' </proc/self/environ >{program.parent}/seen\nprintf '%s' '{keys}'\n"
    )
    program.chmod(0o700)
    mount = Mount(service, room, options={"credential_process": str(program)}, name="alone")
    mount.environment |= {"OSS_ACCESS_KEY_ID": "decoy", "OSS_ACCESS_KEY_SECRET": DECOY, "KEPT": "1"}
    mount.mount()
    yield mount
    mount.close()


def as_nobody(directory: Path, *command: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
    """The command, run in *directory* by a user who owns nothing, and may not pass through its parents."""
    return subprocess.run(
        [os.fspath(word) for word in command],
        cwd=directory,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


# --------------------------------------------------------------------------------------------------
# Secrets.


def test_no_secret_is_to_be_seen_from_outside(mount: Mount, service: Service) -> None:
    file = mount.path / "file"
    file.write_bytes(b"x")
    url = os.getxattr(file, "user.oss.url").decode()
    signature = url.rpartition("ignature=")[2].partition("&")[0]
    assert signature
    mount.allowed = [".*"]
    service.faults({"op": "Head", "action": "status", "status": 403, "count": 1})
    with pytest.raises(OSError):
        os.getxattr(file, "user.oss.etag")
    service.faults()
    told = mount.log()
    assert "DEBUG" in told and "HeadObject" in told
    for command in (["status"], ["status", "--json"], ["list"], ["list", "--json"]):
        where = [str(mount.path)] if command[0] == "status" else []
        told += run(*ossfs_command(), *command, *where, env=mount.environment)
    told += run(*ossfs_command(), "config", "bkt", "-o", f"endpoint={service.url}", env=mount.environment)
    for name in ("cmdline", "environ"):
        told += Path(f"/proc/{mount.pid}/{name}").read_text(errors="replace")
    for place in (mount.environment["OSSFS_RUNTIME_DIR"], str(mount.options["state_dir"])):
        told += "".join(path.read_text() for path in Path(place).iterdir() if path.is_file())
    assert str(mount.path) in told
    assert service.key_secret not in told
    assert signature not in told


def test_children_of_a_mount_are_given_no_secret(alone: Mount) -> None:
    seen = (Path(str(alone.options["credential_process"])).parent / "seen").read_text()
    assert "KEPT=1" in seen and DECOY not in seen
    environment = Path(f"/proc/{alone.pid}/environ").read_text(errors="replace")
    assert "KEPT=1" in environment and DECOY not in environment


def test_a_secret_is_no_option(alone: Mount) -> None:
    command = [*ossfs_command(), "mount", "bkt", str(alone.path), "-o", "access_key_secret=hush-hush"]
    code, said = run_status(*command, env=alone.environment)
    assert code != 0 and "hush" not in said and "OSS_ACCESS_KEY_SECRET" in said


# --------------------------------------------------------------------------------------------------
# Who gets in.


def test_what_a_mount_makes_is_for_its_owner(mount: Mount) -> None:
    (mount.path / "cached").write_bytes(b"x" * 300_000)
    (mount.path / "cached").read_bytes()
    places = [Path(str(mount.options[name])) for name in ("cache_dir", "state_dir")]
    runtime = Path(mount.environment["OSSFS_RUNTIME_DIR"])
    (cache,) = places[0].iterdir()
    for directory in (*places, cache, runtime):
        assert stat.S_IMODE(directory.lstat().st_mode) == 0o700, directory
    (socket,) = (path for path in runtime.iterdir() if path.is_socket() and mount_of(path) == mount.pid)
    assert stat.S_IMODE(socket.lstat().st_mode) == 0o600
    for journal in places[1].iterdir():
        assert stat.S_IMODE(journal.lstat().st_mode) == 0o600


def mount_of(socket: Path) -> int:
    """The process whose control socket that is."""
    pid: int = json.loads(socket.with_suffix(".json").read_text())["pid"]
    return pid


@as_root
def test_other_users_stay_outside_without_allow_other(alone: Mount) -> None:
    (alone.path / "file").write_bytes(b"x")
    (alone.path / "file").chmod(0o644)
    (alone.directory / "beside").write_bytes(b"y")
    name = alone.path.name
    assert as_nobody(alone.directory, "cat", "beside").stdout == "y"
    done = as_nobody(alone.directory, "cat", f"{name}/file")
    assert done.returncode != 0 and "Permission denied" in done.stderr


@as_root
def test_with_allow_other_the_modes_of_files_hold(mount: Mount, place: Path) -> None:
    for name, mode in (("open", 0o644), ("closed", 0o600)):
        (place / name).write_bytes(b"x")
        (place / name).chmod(mode)
    assert as_nobody(place, "cat", "open").stdout == "x"
    assert "Permission denied" in as_nobody(place, "cat", "closed").stderr
    assert "Permission denied" in as_nobody(place, "rm", "-f", "open").stderr
    read = ("getfattr", "--only-values", "-n", "user.oss.url")
    assert "http" in as_nobody(place, *read, "open").stdout
    refused = as_nobody(place, *read, "closed")
    assert refused.returncode != 0 and "http" not in refused.stdout
    assert "http" in run(*read, place / "closed")


@as_root
def test_nobody_else_may_ask_a_mount(mount: Mount) -> None:
    runtime = Path(mount.environment["OSSFS_RUNTIME_DIR"])
    name = next(path.name for path in runtime.iterdir() if path.is_socket() and mount_of(path) == mount.pid)
    ask = f"import socket; socket.socket(socket.AF_UNIX).connect({name!r}); print('connected')"
    runtime.chmod(0o711)  # where the directory lets him pass, the socket does not
    try:
        refused = as_nobody(runtime, "/usr/bin/python3", "-c", ask)
        assert "PermissionError" in refused.stderr and not refused.stdout
    finally:
        runtime.chmod(0o700)
    assert "connected" in run("/usr/bin/python3", "-c", ask, cwd=runtime)


def test_an_untrusted_certificate_is_refused_in_one_line(
    room: Room, tls_files: tuple[Path, Path, Path]
) -> None:
    service = Service(room.make("tls-server"), tls=tls_files)
    mount = Mount(service, room, options={}, name="tls")
    try:
        code, said = mount.try_mount(ca_file=None)
        assert code == 1 and not is_mounted(mount.path)
        (line,) = said.strip().splitlines()
        assert "certificate" in line and "ca_file" in line
        mount.mount()  # with the CA
        (mount.path / "file").write_bytes(b"x")
        assert mount.read(mount.path / "file") == b"x"
    finally:
        mount.close()
        service.stop()


def test_an_unsafe_directory_is_refused_in_one_line(room: Room, service: Service, tmp_path: Path) -> None:
    """As in /tmp, where somebody else was first."""
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o777)
    mount = Mount(service, room, name="unsafe")
    try:
        code, said = mount.try_mount(state_dir=str(place))
        assert code == 1 and not is_mounted(mount.path)
        (line,) = said.strip().splitlines()
        assert f"state_dir {place} has mode 0777: others can write to it" in line
    finally:
        mount.close()


# --------------------------------------------------------------------------------------------------
# What a bucket can do.


def test_devices_of_a_bucket_are_no_devices(mount: Mount) -> None:
    null = mount.path / "devices" / "null"
    assert stat.S_ISCHR(null.stat().st_mode) and null.stat().st_rdev == os.makedev(1, 3)
    with pytest.raises(PermissionError):
        null.read_bytes()
    assert os.statvfs(mount.path).f_flag & os.ST_NODEV


@as_root
def test_a_setuid_program_of_a_bucket_gives_nothing_away(mount: Mount) -> None:
    made = (mount.path / "setuid" / "become").stat()
    assert made.st_uid == 0 and made.st_mode & stat.S_ISUID
    done = as_nobody(mount.path / "setuid", "./become", "-u")
    assert done.stdout.strip() == str(NOBODY), done.stderr
    assert os.statvfs(mount.path).f_flag & os.ST_NOSUID


def test_keys_that_are_no_paths_lead_nowhere(mount: Mount) -> None:
    top = mount.path / "odd"
    assert sorted(os.listdir(top)) == ["\x01z", "new\nline", "plain"]
    walked = [Path(here, name) for here, below, files in os.walk(top) for name in below + files]
    assert len(walked) == 3
    assert all(os.path.normpath(path) == str(path) for path in walked)
