"""Mounts under a systemd that has booted: services, mount units and /etc/fstab, from boot to power off."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.booted import ONLINE, UID, USER, Booted, make_root, until
from tests.support.mounts import BUCKET, MIB, Room, Service

CHECKOUT = Path(__file__).parents[2]
SERVICE, NATIVE, FSTAB = "/mnt/service", "/mnt/bucket", "/mnt/fstab"
UNITS = {SERVICE: "ossfs@data.service", NATIVE: "mnt-bucket.mount", FSTAB: "mnt-fstab.mount"}
USERS, MINE = f"/home/{USER}/bucket", f"/home/{USER}/mine"
HAND, AUTO = "/mnt/hand", "/mnt/auto"


def _configure(machine: Booted, service: Service) -> None:
    """What an administrator would write, with the files of systemd/."""
    toml = f'endpoint = "{service.url}"\nop_timeout = 30\nmemory = "64MB"\n'
    keys = f"OSS_ACCESS_KEY_ID={service.key_id}\nOSS_ACCESS_KEY_SECRET={service.key_secret}\n"
    passwd = f"{service.key_id}:{service.key_secret}\n"
    machine.write("/etc/ossfs/passwd", passwd, 0o600)
    machine.write("/etc/ossfs/mounts.toml", toml + 'passwd_file = "passwd"\n')
    for name, place in (("data", SERVICE), ("wrong", "/mnt/wrong"), ("slow", "/mnt/slow")):
        secret = keys if name != "wrong" else keys.replace(service.key_secret, "hush-hush")
        # With a cache, so that the hardening of the unit is tried by all that a mount does.
        machine.write(f"/etc/ossfs/{name}.toml", toml + f'cache_dir = "/var/cache/ossfs-{name}"\n')
        machine.write(
            f"/etc/ossfs/{name}.env", f"SOURCE={BUCKET}:/{name}\nMOUNTPOINT={place}\n{secret}", 0o600
        )
    native = (CHECKOUT / "systemd" / "mnt-bucket.mount").read_text()
    native = native.replace("What=my-bucket\n", f"What={BUCKET}:/native\n")
    machine.write("/etc/systemd/system/mnt-bucket.mount", native.replace("data.toml", "mounts.toml"))
    options = "_netdev,nofail,x-systemd.mount-timeout=infinity,config=/etc/ossfs/mounts.toml"
    mine = f"noauto,user,config=/home/{USER}/.config/ossfs/fstab.toml"
    machine.write(
        "/etc/fstab",
        f"{BUCKET}:/fstab {FSTAB} ossfs {options} 0 0\n{BUCKET}:/mine {MINE} fuse.ossfs {mine} 0 0\n"
        f"{BUCKET}:/auto {AUTO} ossfs noauto,x-systemd.automount,x-systemd.idle-timeout=3s,{options} 0 0\n",
    )
    machine.write("/etc/systemd/system/slow-network.service", ONLINE)
    # Shorter than it ships, so that the test need not wait a minute; long enough for a busy machine.
    machine.write("/etc/systemd/system/ossfs@.service.d/test.conf", "[Service]\nWatchdogSec=10\n")
    home = machine.root / "home" / USER / ".config" / "ossfs"
    machine.write(f"/home/{USER}/.config/ossfs/passwd", passwd, 0o600)
    machine.write(f"/home/{USER}/.config/ossfs/fstab.toml", toml + 'passwd_file = "passwd"\n')
    (machine.root / MINE.lstrip("/")).mkdir(exist_ok=True)
    os.chown(machine.root / MINE.lstrip("/"), UID, UID)
    machine.write(f"/home/{USER}/.config/ossfs/data.toml", toml)
    machine.write(
        f"/home/{USER}/.config/ossfs/data.env", f"SOURCE={BUCKET}:/user\nMOUNTPOINT={USERS}\n{keys}", 0o600
    )
    for path in (home.parent, home, *home.iterdir()):
        os.chown(path, UID, UID)
    machine.write(f"/var/lib/systemd/linger/{USER}", "")
    machine.enable("slow-network.service", "mnt-bucket.mount", "ossfs@data.service")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, room: Room, service: Service) -> Iterator[Booted]:
    directory = tmp_path_factory.mktemp("machine")
    root = Path(os.environ.get("OSSFS_ACCEPTANCE_ROOT") or directory / "root")
    make_root(root)
    made = Booted(root, directory / "console")
    try:
        _configure(made, service)
        made.boot()
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def _quick(service: Service) -> Iterator[None]:
    yield
    service.latency(0)


def _write_and_kill(machine: Booted, service: Service, *places: str) -> None:
    """Files whose uploads begin when their writers are killed, and take a while."""
    writers = [machine.hold(f"{place}/pending", 3 * MIB) for place in places]
    service.latency(2)
    for writer in writers:
        machine.kill(writer)


def _pid(machine: Booted, unit: str = UNITS[SERVICE]) -> int:
    """As the machine counts them."""
    return int(machine.show(unit, "MainPID"))


def test_all_is_mounted_after_boot(machine: Booted, service: Service) -> None:
    assert machine.systemctl("list-units", "--failed", "--no-legend", "ossfs@*", "mnt-*").strip() == ""
    online = int(machine.show("slow-network.service", "ActiveEnterTimestampMonotonic"))
    remote = int(machine.show("remote-fs.target", "ActiveEnterTimestampMonotonic"))
    for place, unit in UNITS.items():
        assert machine.is_mounted(place), machine.systemctl("status", unit, status=None)
        assert machine.show(unit, "ActiveState") == "active"
        # Not before the network is up, and remote-fs.target, which others wait for, not before the mount.
        assert online <= int(machine.show(unit, "InactiveExitTimestampMonotonic"))
        if unit != UNITS[FSTAB]:  # nofail: nobody waits for it
            assert int(machine.show(unit, "ActiveEnterTimestampMonotonic")) <= remote
        machine.run("sh", "-c", f"echo {place} > {place}/made")
    assert service.read("data/made") == f"{SERVICE}\n".encode()
    assert service.read("native/made") == f"{NATIVE}\n".encode()
    assert service.read("fstab/made") == f"{FSTAB}\n".encode()
    assert machine.run("findmnt", "-n", "-o", "SOURCE", FSTAB).strip() == f"{BUCKET}:/fstab"
    assert "all written files are in the bucket" in machine.show(UNITS[SERVICE], "StatusText")


@pytest.mark.skipif(not os.path.exists("/dev/autofs"), reason="this kernel has no autofs")
def test_a_mount_that_is_made_when_it_is_needed(machine: Booted, service: Service) -> None:
    service.write("auto/there", b"it is")
    machine.systemctl("start", "mnt-auto.automount")
    assert not machine.is_mounted(AUTO)
    assert machine.run("cat", f"{AUTO}/there") == "it is"
    assert machine.is_mounted(AUTO)
    machine.run("sh", "-c", f"echo new > {AUTO}/new")
    until(lambda: not machine.is_mounted(AUTO), "it to be unmounted, since nobody uses it")
    until(lambda: f" on {AUTO} " not in machine.run("ossfs", "status"), "its process to end")
    assert machine.run("cat", f"{AUTO}/new") == "new\n"
    machine.systemctl("stop", "mnt-auto.automount")
    assert not machine.is_mounted(AUTO)


def test_others_may_use_it(machine: Booted) -> None:
    """The mount of the service is everybody's: it lies in no name space of its own."""
    machine.run("chmod", "777", SERVICE)
    machine.as_user("sh", "-c", f"echo mine > {SERVICE}/mine")
    assert machine.run("stat", "-c", "%U", f"{SERVICE}/mine").strip() == USER


def test_the_hardening_is_one_that_a_mount_can_live_with(machine: Booted, service: Service) -> None:
    """Large files, edits in place, and reading through the cache on disk."""
    confined = machine.run("cat", f"/proc/{_pid(machine)}/status")
    assert "\nSeccomp:\t2\n" in confined and "\nNoNewPrivs:\t1\n" in confined
    machine.run(
        "sh", "-c", f"head -c 30M /dev/urandom > {SERVICE}/large && cp {SERVICE}/large /var/tmp/large"
    )
    edit = "conv=notrunc bs=1M count=1 seek=11 status=none"
    for path in (f"{SERVICE}/large", "/var/tmp/large"):
        machine.run("sh", "-c", f"dd if=/dev/zero of={path} {edit} && echo end >> {path}")
    machine.run("mkfifo", f"{SERVICE}/pipe")
    machine.run("ln", "-s", "large", f"{SERVICE}/link")
    machine.run("mv", f"{SERVICE}/large", f"{SERVICE}/moved")
    machine.systemctl("restart", UNITS[SERVICE])
    for _ in range(2):  # the second time from the disk
        machine.run("cmp", f"{SERVICE}/moved", "/var/tmp/large")
        machine.run("sh", "-c", "echo 1 > /proc/sys/vm/drop_caches", status=None)
    assert int(machine.run("du", "-sk", "/var/cache/ossfs-data").split()[0]) > 10_000
    said = machine.journal("-u", UNITS[SERVICE], "-p", "warning")
    assert "not permitted" not in said and "denied" not in said, said


def test_active_means_usable(machine: Booted, service: Service) -> None:
    service.latency(1)
    machine.systemctl("start", "--no-block", "ossfs@slow")
    until(lambda: machine.show("ossfs@slow", "ActiveState") == "activating", "it to begin")
    # A unit that wants the mount, as services of others do.
    needs = ["-p", "Requires=ossfs@slow.service", "-p", "After=ossfs@slow.service"]
    machine.run("systemd-run", "--wait", "--collect", *needs, "sh", "-c", "echo used > /mnt/slow/used")
    service.latency(0)
    assert service.read("slow/used") == b"used\n"
    assert machine.is_mounted("/mnt/slow")
    machine.systemctl("stop", "ossfs@slow")
    assert not machine.is_mounted("/mnt/slow")


def test_a_mount_that_fails_is_never_active(machine: Booted) -> None:
    machine.systemctl("start", "ossfs@wrong", status=1)
    try:
        until(lambda: int(machine.show("ossfs@wrong", "NRestarts")) > 0, "a second attempt")
        assert machine.show("ossfs@wrong", "ActiveEnterTimestampMonotonic") == "0"
        said = machine.journal("-u", "ossfs@wrong")
        assert "the access key secret does not belong to the access key id" in said
        assert "hush-hush" not in said
    finally:
        machine.systemctl("stop", "ossfs@wrong")


def test_uploads_are_told_of(machine: Booted, service: Service) -> None:
    writer = machine.hold(f"{SERVICE}/held", MIB)
    until(lambda: "uploads pending: 1 file" in machine.show(UNITS[SERVICE], "StatusText"), "the status line")
    machine.let_go(writer)
    until(lambda: "all written" in machine.show(UNITS[SERVICE], "StatusText"), "the status line")
    assert len(service.read("data/held")) == MIB


def test_a_killed_mount_is_back(machine: Booted) -> None:
    machine.run("sh", "-c", f"echo kept > {SERVICE}/kept")
    # Somebody sits in it, whom the dead mount must not keep it for.
    sitter = machine.hold(f"{SERVICE}/lost", 1000)
    before = _pid(machine)
    machine.run("kill", "-9", str(before))
    until(lambda: _pid(machine) not in (0, before), "the next process")
    until(lambda: machine.show(UNITS[SERVICE], "ActiveState") == "active", "it to be usable")
    assert machine.run("cat", f"{SERVICE}/kept") == "kept\n"
    machine.let_go(sitter)


def test_the_watchdog_restarts_what_hangs(machine: Booted) -> None:
    before = _pid(machine)
    machine.run("kill", "-STOP", str(before))
    until(lambda: _pid(machine) not in (0, before), "the next process")
    until(lambda: machine.show(UNITS[SERVICE], "ActiveState") == "active", "it to be usable")
    assert machine.run("cat", f"{SERVICE}/kept") == "kept\n"
    assert "Watchdog timeout" in machine.journal("-u", UNITS[SERVICE])


@pytest.mark.parametrize("place", [SERVICE, NATIVE, FSTAB])
def test_stopping_waits_for_the_uploads(machine: Booted, service: Service, place: str) -> None:
    machine.run("touch", f"{place}/marker")
    prefix = {SERVICE: "data", NATIVE: "native", FSTAB: "fstab"}[place]
    _write_and_kill(machine, service, place)
    machine.systemctl("stop", UNITS[place])
    assert machine.show(UNITS[place], "Result") == "success"
    assert not machine.is_mounted(place)
    assert f"on {place} " not in machine.run("ossfs", "status"), "its process has ended"
    service.latency(0)
    assert len(service.read(f"{prefix}/pending")) == 3 * MIB
    machine.run("rm", "-f", f"{place}/pending")
    machine.systemctl("start", UNITS[place])
    assert len(machine.run("cat", f"{place}/pending")) == 3 * MIB
    machine.run("rm", f"{place}/pending")


def test_stopping_a_service_in_use_keeps_what_was_written(machine: Booted, service: Service) -> None:
    writer = machine.hold(f"{SERVICE}/open", 2 * MIB)
    machine.systemctl("stop", UNITS[SERVICE])
    assert not machine.is_mounted(SERVICE)
    assert len(service.read("data/open")) == 2 * MIB
    machine.let_go(writer)
    machine.systemctl("start", UNITS[SERVICE])


def test_the_unit_of_a_user(machine: Booted, service: Service) -> None:
    unit = "ossfs-user@data"
    machine.as_user("systemctl", "--user", "start", unit)
    assert machine.is_mounted(USERS)
    machine.as_user("sh", "-c", f"echo mine > {USERS}/mine")
    assert service.read("user/mine") == b"mine\n"
    pid = machine.as_user("systemctl", "--user", "show", "--value", "-p", "MainPID", unit).strip()
    machine.run("kill", "-9", pid)
    until(lambda: machine.as_user("sh", "-c", f"cat {USERS}/mine", status=None) == "mine\n", "it to be back")
    machine.as_user("systemctl", "--user", "stop", unit)
    assert not machine.is_mounted(USERS)


def test_a_user_mounts_and_unmounts_a_line_of_fstab(machine: Booted, service: Service) -> None:
    machine.as_user("mount", MINE)
    assert machine.is_mounted(MINE)
    writer = machine.hold(f"{MINE}/pending", 1000, user=True)
    service.latency(1)
    machine.kill(writer)
    machine.as_user("umount", MINE)
    service.latency(0)
    assert not machine.is_mounted(MINE)
    assert len(service.read("mine/pending")) == 1000


def test_root_unmounts_the_mount_of_a_user(machine: Booted, service: Service) -> None:
    machine.as_user("mount", MINE)
    machine.run("umount", MINE)
    assert not machine.is_mounted(MINE)
    until(lambda: f" on {MINE} " not in machine.run("ossfs", "status"), "its process to end")


def test_no_secret_is_in_the_journal_or_an_argument(machine: Booted, service: Service) -> None:
    assert service.key_secret not in machine.journal()
    assert service.key_secret not in machine.run("ps", "-ewwo", "args")


def test_power_off_waits_for_the_uploads(machine: Booted, service: Service) -> None:
    """And the next boot finds all of them mounted again, but what was mounted by hand."""
    machine.run("mkdir", "-p", HAND)
    machine.run("ossfs", "mount", f"{BUCKET}:/hand", HAND, "-o", "config=/etc/ossfs/mounts.toml")
    _write_and_kill(machine, service, SERVICE, NATIVE, FSTAB, HAND)
    machine.poweroff()
    service.latency(0)
    for prefix in ("data", "native", "fstab", "hand"):
        assert len(service.read(f"{prefix}/pending")) == 3 * MIB, prefix
    machine.boot()
    for place in UNITS:
        until(lambda place=place: machine.is_mounted(place), f"{place} to be mounted")  # type: ignore[misc]
        assert machine.run("stat", "-c", "%s", f"{place}/pending").strip() == str(3 * MIB)
    machine.poweroff()


def test_systemd_was_not_killed(machine: Booted) -> None:
    """What the fixtures did was enough: the machine is off, and nothing of it is left here."""
    done = subprocess.run(["findmnt", "-n", "-t", "fuse.ossfs"], capture_output=True, text=True, check=False)
    assert SERVICE not in done.stdout
