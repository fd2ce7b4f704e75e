"""What a local file system answers, the mount answers: the same calls in both, compared one by one."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.posix.cases import cases
from tests.posix.permissions import permissions
from tests.support.mounts import Mount, Room, end, run, spawn

WORKER = Path(__file__).with_name("worker.py")
SECONDS = 90.0
CASES = {**cases(), **permissions()}

EXCUSED = (
    ("chown .*-1 -1", "POSIX: the times need not be updated"),
    ("exchange d e", "two names cannot change places in one step in a bucket: EINVAL"),
    ("link f g", "no hard links: EPERM"),
)
"""Lines of a case that may differ, and why."""
SETGID_OF_DATA = r"bits 2745 u1 (?!chmod|utimens|setxattr)"
"""A change of the bytes or the owner by who is not in the file's group takes the setgid bit also where
nobody may execute the file, since Linux 6.2 and on file systems in the kernel: the call gets there without
the caller's groups."""


class Outcomes:
    """local, mounted: by case, a list of [line, answer, what is there, whose times moved]."""

    def __init__(self, mount: Mount, local: Path) -> None:
        self.mount = mount
        self.local, self.mounted = _run_in(local, mount.path)


def _run_in(*places: Path) -> list[dict[str, list[Any]]]:
    given = json.dumps(CASES).encode()
    running = []
    for place in places:
        (place.parent / "cases").write_bytes(given)
        with open(place.parent / "cases", "rb") as cases, open(place.parent / "told", "wb") as told:
            running.append(spawn([sys.executable, WORKER, place], stdin=cases, stdout=told))
    try:
        assert [process.wait(SECONDS) for process in running] == [0] * len(places)
    finally:
        for process in running:
            end(process)
    return [json.loads((place.parent / "told").read_bytes()) for place in places]


@pytest.fixture(scope="module")
def outcomes(room: Room, shared_mount: Mount) -> Iterator[Outcomes]:
    local = room.make("local") / "top"
    local.mkdir()
    probe = local.parent / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.a", b"")
    except OSError as error:
        assert error.errno == errno.ENOTSUP
        pytest.skip("the local file system keeps no user attributes: nothing to compare with")
    yield Outcomes(shared_mount, local)


@pytest.mark.parametrize("name", CASES)
def test_the_same_as_local(outcomes: Outcomes, name: str) -> None:
    differences = []
    told = outcomes.local[name]
    if re.match(SETGID_OF_DATA, name):
        told = json.loads(json.dumps(told).replace("0o100745", "0o102745"))
    for local, mounted in zip(told, outcomes.mounted[name], strict=True):
        if local != mounted and not any(re.search(pattern, local[0]) for pattern, _ in EXCUSED):
            differences.append(f"{local[0]}\n    local {local[1:]}\n    mount {mounted[1:]}")
    assert not differences, "\n".join(differences)


def test_what_differs_by_design(outcomes: Outcomes) -> None:
    told = {line[0]: line[1] for name in ("link", "dots") for line in outcomes.mounted[name]}
    assert told["link f g"] == "EPERM"
    assert told["exchange d e"] == "EINVAL"


def test_a_new_mount_shows_the_same(outcomes: Outcomes) -> None:
    mount = outcomes.mount

    def look() -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = json.loads(run(sys.executable, WORKER, mount.path, "look"))
        return found

    before = look()
    mount.remount()
    after = look()
    assert len(before) > 500
    changed = [p for p in before.keys() | after.keys() if before.get(p) != after.get(p)]
    assert not changed, "\n".join(f"{p}: {before.get(p)}, then {after.get(p)}" for p in sorted(changed))


def test_keys_end_at_1023_bytes(shared_mount: Mount) -> None:
    top = shared_mount.path / "keys"
    deep = top / ("a" * 255) / ("b" * 255) / ("c" * 255)
    deep.mkdir(parents=True)
    room = 1023 - len(os.fsencode(deep.relative_to(shared_mount.path))) - 1
    longest = "é" * (room // 2) + "x" * (room % 2)
    over = longest + "x"
    for path, code in ((deep / longest, 0), (deep / over, errno.ENAMETOOLONG)):
        for make in (
            lambda p: p.write_bytes(b"x"),
            lambda p: p.symlink_to("x"),
            os.mkfifo,
            lambda p: (top / "f").touch() or (top / "f").rename(p),
        ):
            try:
                make(path)
            except OSError as error:
                assert error.errno == code
            else:
                assert not code
                path.unlink()
    with pytest.raises(OSError) as caught:
        (deep / longest).mkdir()  # its key ends in a slash
    assert caught.value.errno == errno.ENAMETOOLONG
    (deep / longest[:-1]).mkdir()
    with pytest.raises(OSError) as caught:
        top.rename(shared_mount.path / "more-keys")
    assert caught.value.errno == errno.ENAMETOOLONG
    assert os.listdir(deep) == [longest[:-1]] and not (shared_mount.path / "more-keys").exists()


def test_objects_end_at_the_service_s_limit(shared_mount: Mount) -> None:
    path = shared_mount.path / "large"
    path.touch()
    with pytest.raises(OSError) as caught:
        os.truncate(path, 1_000_000_000_000_000)
    assert caught.value.errno == errno.EFBIG
    assert path.stat().st_size == 0


def test_no_other_file_system(shared_mount: Mount, tmp_path: Path) -> None:
    path = shared_mount.path / "here"
    path.touch()
    (tmp_path / "there").touch()
    for call in (os.rename, os.link):
        for source, target in (
            (path, tmp_path / "x"),
            (tmp_path / "there", shared_mount.path / "x"),
        ):
            with pytest.raises(OSError) as caught:
                call(source, target)
            assert caught.value.errno == errno.EXDEV
    assert path.exists()
