"""The registry of mounts: live ones, dead ones, and whom a new mount has to wait for."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ossfs import mountpoint, registry
from ossfs.errors import MountError
from ossfs.mountpoint import FSTYPE, MountInfo
from ossfs.registry import Registration, Registry, all_registries, runtime_directory

BUCKET = {"bucket": "bucket", "prefix": "p", "endpoint": "http://x"}
SAME = ("bucket", "p", "http://x")

OTHER_PROCESS = """
import sys
from ossfs.registry import Registry
directory, place = sys.argv[1:]
here = Registry(directory)
registration = here.register(bucket="bucket", prefix="p", endpoint="http://x", mountpoint=place)
for line in iter(sys.stdin.readline, ""):
    registration.set_state(line.strip())
    print(registration.mount_id, flush=True)
registration.close()
"""


class Other:
    """A registered mount in a process of its own."""

    def __init__(self, directory: Path, place: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER_PROCESS, str(directory), place],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.mount_id = self.say("starting")

    def say(self, state: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(state + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.communicate(timeout=20)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=20)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Callable[[str], Other]]:
    started: list[Other] = []

    def start(place: str = "/m/other") -> Other:
        started.append(Other(tmp_path, place))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture
def mountinfo(monkeypatch: pytest.MonkeyPatch) -> list[MountInfo]:
    """What the kernel is to say."""
    mounts: list[MountInfo] = []
    monkeypatch.setattr(registry, "read_mountinfo", lambda: mounts)
    monkeypatch.setattr(mountpoint, "read_mountinfo", lambda: mounts)
    return mounts


def ours(place: str, device: str) -> MountInfo:
    return MountInfo(device, place, FSTYPE, "bucket")


def enter(where: Registry, place: str = "/m/a") -> Registration:
    return where.register(mountpoint=place, **BUCKET)


def test_an_entry_lives_as_long_as_its_registration(tmp_path: Path) -> None:
    here = Registry(str(tmp_path))
    assert here.mounts() == []
    with enter(here) as registration:
        record = registration.record
        assert here.mounts() == [record]
        assert (record.pid, record.state, record.source) == (os.getpid(), "starting", "bucket:/p")
        assert record.socket == registration.socket == str(tmp_path / f"{registration.mount_id}.sock")
        assert here.is_alive(registration.mount_id)
        registration.set_state("draining")
        assert here.mounts()[0].state == "draining"
    assert here.mounts() == []
    assert not here.is_alive(registration.mount_id)
    assert list(tmp_path.iterdir()) == []
    registration.close()


def test_ids_are_different_and_can_be_chosen(tmp_path: Path) -> None:
    here = Registry(str(tmp_path))
    with enter(here) as one, enter(here) as two:
        assert one.mount_id != two.mount_id
    with here.register(mountpoint="/m", mount_id="abc", **BUCKET) as registration:
        assert registration.mount_id == "abc"
        with pytest.raises(FileExistsError):
            os.open(tmp_path / "abc.lock", os.O_CREAT | os.O_EXCL)


def test_a_dead_process_leaves_nothing_that_counts(tmp_path: Path, other: Callable[[], Other]) -> None:
    here = Registry(str(tmp_path))
    one = other()
    assert [record.mount_id for record in here.mounts()] == [one.mount_id]
    assert here.mounts()[0].pid == one.process.pid
    one.kill()
    assert list(tmp_path.iterdir()) != []
    assert not here.is_alive(one.mount_id)
    assert here.mounts() == []
    assert list(tmp_path.iterdir()) == []


def test_two_who_ask_at_once_do_not_take_each_other_for_the_owner(tmp_path: Path) -> None:
    import fcntl

    lock = tmp_path / "dead.lock"
    lock.touch()
    with open(lock) as somebody_else_asks:
        fcntl.flock(somebody_else_asks, fcntl.LOCK_SH)
        assert not Registry(str(tmp_path)).is_alive("dead")


def test_a_link_in_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "x.lock").symlink_to("/dev/zero")
    assert not Registry(str(tmp_path)).is_alive("x")


def test_files_of_another_form_are_passed_over(tmp_path: Path) -> None:
    here = Registry(str(tmp_path))
    with enter(here) as good, enter(here) as odd, enter(here) as broken, enter(here) as missing:
        (tmp_path / f"{odd.mount_id}.json").write_text('{"from": "the future"}')
        (tmp_path / f"{broken.mount_id}.json").write_text("{")
        (tmp_path / f"{missing.mount_id}.json").unlink()
        assert [record.mount_id for record in here.mounts()] == [good.mount_id]


def test_a_missing_directory_has_no_mounts(tmp_path: Path) -> None:
    assert Registry(str(tmp_path / "none")).mounts() == []


# ---- finding


def test_find_by_mountpoint(tmp_path: Path, mountinfo: list[MountInfo]) -> None:
    here = Registry(str(tmp_path))
    with enter(here, "/m/a") as a, enter(here, "/m/b"):
        found = here.find_by_mountpoint("/m/x/../a/")
        assert found is not None
        assert found.mount_id == a.mount_id
        assert here.find_by_mountpoint("/m/c") is None


def test_of_two_at_one_place_the_one_on_top_is_found(tmp_path: Path, mountinfo: list[MountInfo]) -> None:
    here = Registry(str(tmp_path))
    with enter(here) as older, enter(here) as younger:
        mountinfo.append(ours("/m/a", "0:50"))
        younger.set_state("mounted")
        older.set_state("draining")
        found = here.find_by_mountpoint("/m/a")
        assert found is not None
        assert found.mount_id == younger.mount_id


# ---- predecessors


def test_who_is_mounted_is_no_predecessor(
    tmp_path: Path, mountinfo: list[MountInfo], other: Callable[[str], Other]
) -> None:
    # The other process reads the real mountinfo, in which it is not mounted: its device is unknown.
    here = Registry(str(tmp_path))
    one = other("/m/other")
    assert here.predecessors(*SAME) == [], "it is starting"
    one.say("draining")
    assert [record.mount_id for record in here.predecessors(*SAME)] == [one.mount_id]
    assert here.predecessors("bucket", "p", "http://y") == []
    assert here.predecessors("bucket", "q", "http://x") == []
    assert here.predecessors("tekcub", "p", "http://x") == []


@pytest.fixture
def as_others(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make what is registered from now on somebody else's."""
    own = os.getpid()

    def pretend(offset: int) -> None:
        monkeypatch.setattr(os, "getpid", lambda: own + offset)

    return pretend


def test_mounted_by_its_own_word_but_not_by_the_kernels(
    tmp_path: Path, mountinfo: list[MountInfo], as_others: Callable[[int], None]
) -> None:
    here = Registry(str(tmp_path))
    as_others(1)
    with enter(here, "/m/a") as registration:
        mountinfo.append(ours("/m/a", "0:50"))
        registration.set_state("mounted")
        as_others(0)
        assert registration.record.device == "0:50"
        assert here.predecessors(*SAME) == []
        mountinfo.clear()  # umount(8) has returned
        assert here.predecessors(*SAME) == [registration.record]
        mountinfo.append(ours("/m/b", "0:50"))  # another mount got the number
        assert here.predecessors(*SAME) == [registration.record]


def test_the_next_mount_at_the_same_place_may_get_the_same_number(
    tmp_path: Path, mountinfo: list[MountInfo], as_others: Callable[[int], None]
) -> None:
    here = Registry(str(tmp_path))
    as_others(1)
    with enter(here, "/m/a") as old:
        mountinfo.append(ours("/m/a", "0:50"))
        old.set_state("mounted")
        as_others(2)
        with here.register(mountpoint="/m/a", bucket="another", prefix="", endpoint="http://x") as new:
            new.set_state("mounted")
            as_others(0)
            assert here.predecessors(*SAME) == [old.record]
            assert here.predecessors("another", "", "http://x") == []


def test_the_own_entry_is_no_predecessor(tmp_path: Path, mountinfo: list[MountInfo]) -> None:
    here = Registry(str(tmp_path))
    with enter(here) as registration:
        registration.set_state("draining")
        assert here.predecessors(*SAME) == []


def test_wait_until_the_predecessor_has_ended(tmp_path: Path, other: Callable[[], Other]) -> None:
    here = Registry(str(tmp_path))
    one = other()
    one.say("draining")
    said: list[str] = []
    ender = threading.Thread(target=one.end)

    def report(line: str) -> None:
        said.append(line)
        ender.start()

    assert here.wait_for_predecessors(*SAME, timeout=30, report=report) == []
    ender.join()
    assert len(said) == 1
    assert str(one.process.pid) in said[0]
    assert "bucket:/p" in said[0]


def test_waiting_has_an_end(tmp_path: Path, other: Callable[[], Other]) -> None:
    here = Registry(str(tmp_path))
    one = other()
    one.say("draining")
    left = here.wait_for_predecessors(*SAME, timeout=0.01)
    assert [record.mount_id for record in left] == [one.mount_id]
    assert not here.wait_gone(left[0], 0)
    one.kill()
    assert here.wait_gone(left[0], 0)


def test_nobody_to_wait_for(tmp_path: Path) -> None:
    assert Registry(str(tmp_path)).wait_for_predecessors(*SAME, timeout=0) == []


# ---- the directory


def test_runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSSFS_RUNTIME_DIR", str(tmp_path / "run"))
    assert runtime_directory() == str(tmp_path / "run")
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
    assert Registry().directory == str(tmp_path / "run")
    assert all_registries()[0].directory == str(tmp_path / "run")


def test_runtime_directory_of_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OSSFS_RUNTIME_DIR", raising=False)
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid or 4321)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    if uid != 0:
        assert runtime_directory() == str(tmp_path / "ossfs")
    else:
        # Made by root, and so not the pretended user's.
        with pytest.raises(MountError, match="must be a directory of yours"):
            runtime_directory()
    assert [one.directory for one in all_registries()] if uid != 0 else True


def test_a_directory_that_others_can_write_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSSFS_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    with pytest.raises(MountError, match="nobody else can write"):
        runtime_directory()
    (tmp_path / "run").rmdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "real")
    with pytest.raises(MountError, match="must be a directory"):
        runtime_directory()


def test_a_directory_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSSFS_RUNTIME_DIR", str(tmp_path / "a" / "b"))
    with pytest.raises(MountError, match="cannot be made"):
        runtime_directory()


def test_a_place_that_is_named_by_a_user_must_be_that_users(tmp_path: Path) -> None:
    """Root looks at what anybody can make in /tmp."""
    pattern = f"{tmp_path}/ossfs-{{}}"
    mine, others = (tmp_path / f"ossfs-{uid}" for uid in (os.getuid(), os.getuid() + 1))
    mine.mkdir()
    others.mkdir()
    assert registry._owner_of(str(mine), pattern) == os.getuid()
    assert registry._owner_of(str(others), pattern) is None
    mine.rmdir()
    mine.symlink_to(others)
    assert registry._owner_of(str(mine), pattern) is None
    assert registry._owner_of(str(tmp_path / "ossfs-0x"), pattern) is None


def test_a_dead_mount_is_known_until_its_mount_point_is_free(
    tmp_path: Path, other: Callable[[str], Other], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = [MountInfo("0:77", "/m/other", FSTYPE, "bucket")]
    monkeypatch.setattr(registry, "read_mountinfo", lambda: list(table))
    here = Registry(str(tmp_path))
    dead = other("/m/other")
    record = tmp_path / f"{dead.mount_id}.json"
    record.write_text(record.read_text().replace('"device": ""', '"device": "0:77"'))
    assert not here.dead_mounts()
    dead.kill()
    assert not here.mounts()
    (found,) = here.dead_mounts()
    assert (found.mountpoint, found.state, found.mount_id) == ("/m/other", "dead", dead.mount_id)
    table[0] = MountInfo("0:78", "/m/other", FSTYPE, "bucket")  # another one is there now
    assert not here.dead_mounts()
    assert not record.exists(), "nothing of it is left"


def test_a_live_mount_with_the_number_of_a_dead_one(
    tmp_path: Path, other: Callable[[str], Other], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "read_mountinfo", lambda: [MountInfo("0:77", "/m/other", FSTYPE, "bucket")])
    here = Registry(str(tmp_path))
    first, second = other("/m/other"), other("/m/other")
    for one in (first, second):
        record = tmp_path / f"{one.mount_id}.json"
        record.write_text(record.read_text().replace('"device": ""', '"device": "0:77"'))
    first.kill()
    assert [one.mount_id for one in here.mounts()] == [second.mount_id]
    assert not here.dead_mounts()
