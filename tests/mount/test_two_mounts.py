"""Two mounts of one bucket: what one closes the other sees, and what neither may do to the other."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounts import MIB, Mount, Room, Service, wait_for

TTL = 1
SLACK = 2
CHUNK = 5 * MIB


@pytest.fixture(scope="module")
def pair(room: Room, service: Service) -> Iterator[tuple[Mount, Mount]]:
    mounts = [Mount(service, room, options={"ttl": TTL, "chunk_size": "5MB"}, name=name) for name in "ab"]
    for mount in mounts:
        mount.mount()
    yield mounts[0], mounts[1]
    for mount in mounts:
        mount.close()


@pytest.fixture
def places(pair: tuple[Mount, Mount], request: pytest.FixtureRequest) -> Iterator[tuple[Path, Path]]:
    """One directory, seen through both."""
    first, second = (mount.path / request.node.name for mount in pair)
    first.mkdir()
    wait_for(second.is_dir, "the directory in the other mount", TTL + SLACK)
    yield first, second
    for mount in pair:
        unexpected, mount.allowed = mount.unexpected(), []
        assert not unexpected, "\n".join(unexpected)


def test_what_one_closes_the_other_sees_within_the_ttl(
    pair: tuple[Mount, Mount], places: tuple[Path, Path]
) -> None:
    first, second = places
    pair[0].allowed = pair[1].allowed = ["WARNING .* replaced while open"]
    for number in range(4):
        data = f"version {number}".encode() * (number * 10_000 + 1)
        one, other = places if number % 2 == 0 else places[::-1]
        (one / "f").write_bytes(data)
        wait_for(lambda: _read(other / "f") == data, "what the other has closed", TTL + SLACK)  # noqa: B023
    assert (first / "f").stat().st_size == len(data)
    assert os.listdir(second) == ["f"]


def test_what_one_closes_the_other_sees_at_its_next_open(
    pair: tuple[Mount, Mount], places: tuple[Path, Path]
) -> None:
    first, second = places
    pair[0].allowed = pair[1].allowed = ["WARNING .* replaced while open"]
    (first / "f").write_bytes(b"0" * 200_000)
    wait_for((second / "f").exists, "the new file", TTL + SLACK)
    for number in range(1, 4):
        data = str(number).encode() * (200_000 + number)
        (first / "f").write_bytes(data)
        assert (second / "f").read_bytes() == data
        (second / "f").write_bytes(data[::-1])
        assert (first / "f").read_bytes() == data[::-1]


def _read(path: Path) -> bytes | None:
    """None when it is not there, or was replaced between open and read."""
    try:
        return path.read_bytes()
    except OSError as error:
        assert error.errno in (errno.ENOENT, errno.ESTALE)
        return None


def test_stat_and_listing_are_as_old_as_the_ttl_at_most(places: tuple[Path, Path]) -> None:
    first, second = places
    (first / "f").write_bytes(b"1")
    (first / "g").write_bytes(b"1")
    wait_for(lambda: sorted(os.listdir(second)) == ["f", "g"], "the listing", TTL + SLACK)
    (second / "f").stat()
    (first / "f").write_bytes(b"12345")
    (first / "g").unlink()
    (first / "h").mkdir()
    wait_for(lambda: (second / "f").stat().st_size == 5, "the size", TTL + SLACK)
    wait_for(lambda: sorted(os.listdir(second)) == ["f", "h"], "the listing", TTL + SLACK)
    wait_for(lambda: not (second / "g").exists(), "the end of a file", TTL + SLACK)


def test_a_rename_of_one_is_seen_by_the_other(places: tuple[Path, Path]) -> None:
    first, second = places
    (first / "d").mkdir()
    (first / "d" / "f").write_bytes(b"x" * 1000)
    wait_for((second / "d" / "f").exists, "the file", TTL + SLACK)
    os.rename(first / "d", first / "e")
    wait_for(lambda: os.listdir(second) == ["e"], "the new name", TTL + SLACK)
    wait_for((second / "e" / "f").exists, "the file's new place", TTL + SLACK)
    assert (second / "e" / "f").read_bytes() == b"x" * 1000


def test_attributes_of_one_are_seen_by_the_other(places: tuple[Path, Path]) -> None:
    first, second = places
    (first / "f").write_bytes(b"x")
    wait_for((second / "f").exists, "the file", TTL + SLACK)
    # Times of objects have a resolution of a second: from the next on, a listing tells of the change.
    modified = (first / "f").stat().st_mtime
    wait_for(lambda: time.time() > modified + 2, "another second")
    os.chmod(first / "f", 0o601)
    os.setxattr(first / "f", "user.a", b"b")
    wait_for(lambda: stat.S_IMODE((second / "f").stat().st_mode) == 0o601, "the mode", TTL + SLACK)
    wait_for(lambda: os.listxattr(second / "f") == ["user.a"], "the attribute", TTL + SLACK)
    assert (second / "f").read_bytes() == b"x"


def test_attributes_set_in_the_second_of_the_write_are_seen_by_the_other(places: tuple[Path, Path]) -> None:
    first, second = places
    # Written early in a second, so that all of it happens in that second.
    wait_for(lambda: time.time() % 1 < 0.1, "a new second")
    (first / "f").write_bytes(b"x")
    wait_for((second / "f").exists, "the file", TTL + SLACK)
    os.chmod(first / "f", 0o601)
    os.setxattr(first / "f", "user.a", b"b")
    # Neither ETag nor, within one second, LastModified tells of it: the listing that does is younger.
    wait_for(lambda: stat.S_IMODE((second / "f").stat().st_mode) == 0o601, "the mode", 4 * TTL + SLACK)
    wait_for(lambda: os.listxattr(second / "f") == ["user.a"], "the attribute", TTL + SLACK)
    assert (second / "f").read_bytes() == b"x"


def test_both_append(pair: tuple[Mount, Mount], places: tuple[Path, Path]) -> None:
    first, second = places
    pair[0].allowed = pair[1].allowed = [
        "WARNING .* appended to the new version",
        "WARNING .* replaced while open",
    ]
    (first / "log").write_bytes(b"begin\n")
    wait_for((second / "log").exists, "the file", TTL + SLACK)
    expected = b"begin\n"
    for number in range(6):
        with open(places[number % 2] / "log", "ab") as file:
            file.write(b"line %d\n" % number)
        expected += b"line %d\n" % number
    for place in places:
        wait_for(lambda: _read(place / "log") == expected, "all lines", TTL + SLACK)  # noqa: B023


def test_appends_at_the_same_time_are_both_kept(pair: tuple[Mount, Mount], places: tuple[Path, Path]) -> None:
    first, second = places
    pair[0].allowed = pair[1].allowed = ["WARNING .* appended to the new version"]
    (first / "log").write_bytes(b"begin\n")
    wait_for((second / "log").exists, "the file", TTL + SLACK)
    with open(first / "log", "ab") as one, open(second / "log", "ab") as two:
        one.write(b"one\n")
        two.write(b"two\n")
    lines = sorted(pair[0].service.read(pair[0].key(first / "log")).splitlines())
    assert lines == [b"begin", b"one", b"two"]


def test_a_conflict_loses_nothing(pair: tuple[Mount, Mount], places: tuple[Path, Path]) -> None:
    first, second = places
    pair[0].allowed = pair[1].allowed = [r"(?:WARNING|ERROR) .*f\b"]
    (first / "f").write_bytes(b"a" * 1000)
    wait_for((second / "f").exists, "the file", TTL + SLACK)
    with pytest.raises(OSError) as caught, open(first / "f", "r+b") as one:
        one.write(b"first")
        with open(second / "f", "r+b") as two:
            two.write(b"second")
    assert caught.value.errno == errno.ESTALE
    assert (first / "f").read_bytes() == b"second" + b"a" * 994
    names = pair[0].service.keys(f"{pair[0].key(first)}/f.conflict-")
    assert len(names) == 1
    assert pair[0].service.read(names[0])[:5] == b"first"


def test_both_create_one_name(pair: tuple[Mount, Mount], places: tuple[Path, Path]) -> None:
    first, second = places
    pair[0].allowed = pair[1].allowed = [r"(?:WARNING|ERROR) .*f\b"]
    one = os.open(first / "f", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    two = os.open(second / "f", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(one, b"one")
    os.write(two, b"two")
    os.close(two)
    with pytest.raises(OSError) as caught:
        os.close(one)
    assert caught.value.errno == errno.EEXIST
    assert pair[0].service.read(pair[0].key(first / "f")) == b"two"


def test_a_reader_never_sees_two_versions_mixed(pair: tuple[Mount, Mount], places: tuple[Path, Path]) -> None:
    first, second = places
    pair[1].allowed = ["WARNING .* ESTALE: .*/f was replaced while open"]
    (first / "f").write_bytes(b"1" * (4 * CHUNK))
    wait_for((second / "f").exists, "the file", TTL + SLACK)
    with open(second / "f", "rb", 0) as file:
        seen = file.read(1000)
        (first / "f").write_bytes(b"2" * (4 * CHUNK))
        try:
            while piece := file.read(MIB):
                seen += piece
        except OSError as error:
            assert error.errno in (errno.ESTALE, errno.EIO)
    assert len(set(seen)) == 1
    wait_for(lambda: _read(second / "f") == b"2" * (4 * CHUNK), "the new version", TTL + SLACK)


def test_the_page_cache_never_shows_old_bytes_after_a_reopen(
    pair: tuple[Mount, Mount], places: tuple[Path, Path]
) -> None:
    """Replacements of the same size within one second: neither size nor time tells of them."""
    first, second = places
    pair[0].allowed = pair[1].allowed = ["WARNING .* replaced while open"]
    (first / "f").write_bytes(b"0" * 300_000)
    wait_for((second / "f").exists, "the new file", TTL + SLACK)
    for number in range(1, 30):
        data = (b"%02d" % number) * 150_000
        pair[0].service.write(pair[0].key(first / "f"), data)
        for place in places:
            assert (place / "f").read_bytes() == data
            with (
                open(place / "f", "rb") as file,
                mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped,
            ):
                assert mapped[-100:] == data[-100:]


def test_a_foreign_deletion_is_seen_at_the_next_open(
    pair: tuple[Mount, Mount], places: tuple[Path, Path]
) -> None:
    first, second = places
    for name in "abc":
        (first / name).write_bytes(b"x" * 1000)
    wait_for(lambda: sorted(os.listdir(second)) == ["a", "b", "c"], "the files", TTL + SLACK)
    for name in "abc":
        assert (second / name).read_bytes() == b"x" * 1000
    for name in "abc":
        pair[0].service.sdk.delete_object(pair[0].key(first / name))
        for place in places:
            with pytest.raises(FileNotFoundError):
                (place / name).read_bytes()
    with open(second / "a", "wb") as file:
        file.write(b"anew")
    assert pair[0].service.read(pair[0].key(first / "a")) == b"anew"


def test_a_new_file_is_seen_within_negative_ttl(
    room: Room, service: Service, new_mount: Callable[..., Mount]
) -> None:
    mount = new_mount(ttl=60, negative_ttl=1)
    service.write("of-others/a", b"x")
    assert not (mount.path / "of-others" / "b").exists()
    assert os.listdir(mount.path / "of-others") == ["a"]
    service.write("of-others/b", b"new")
    wait_for((mount.path / "of-others" / "b").exists, "the new file", 1 + SLACK)
    assert (mount.path / "of-others" / "b").read_bytes() == b"new"


def test_a_directory_that_vanishes_while_it_is_open_lists_as_empty(
    pair: tuple[Mount, Mount], places: tuple[Path, Path]
) -> None:
    first, second = places
    (first / "d").mkdir()
    (first / "d" / "f").write_bytes(b"x")
    wait_for((second / "d" / "f").exists, "the file", TTL + SLACK)
    here, there = (os.open(place / "d", os.O_RDONLY | os.O_DIRECTORY) for place in places)
    try:
        (first / "d" / "f").unlink()
        (first / "d").rmdir()
        assert os.listdir(here) == []
        wait_for(lambda: os.listdir(there) == [], "the end of the other's", TTL + SLACK)
        with pytest.raises(FileNotFoundError):
            os.mkdir("new", dir_fd=here)
        wait_for(lambda: not (second / "d").exists(), "the end of the name", TTL + SLACK)
    finally:
        os.close(here)
        os.close(there)


def test_rmdir_beside_a_create_of_another_machine(
    pair: tuple[Mount, Mount], places: tuple[Path, Path]
) -> None:
    first, second = places
    for number in range(20):
        (first / f"d{number}").mkdir()
    wait_for(lambda: len(os.listdir(second)) == 20, "the directories", TTL + SLACK)
    pair[0].allowed = pair[1].allowed = ["WARNING .*"]
    errors: list[int | None] = []

    def remove() -> None:
        for number in range(20):
            try:
                (first / f"d{number}").rmdir()
            except OSError as error:
                errors.append(error.errno)

    remover = threading.Thread(target=remove)
    remover.start()
    made = []
    for number in range(20):
        try:
            (second / f"d{number}" / "f").write_bytes(b"%d" % number)
            made.append(number)
        except FileNotFoundError:
            pass
    remover.join()
    assert set(errors) <= {errno.ENOTEMPTY}
    for number in made:
        key = f"{pair[1].key(second)}/d{number}/f"
        assert pair[0].service.read(key) == b"%d" % number
        for place in places:
            path = place / f"d{number}" / "f"
            wait_for(path.exists, "the file that was made", TTL + SLACK)


def test_a_foreign_chmod_under_an_open_reader(pair: tuple[Mount, Mount], places: tuple[Path, Path]) -> None:
    first, second = places
    data = os.urandom(4 * CHUNK)
    (first / "f").write_bytes(data)
    wait_for((second / "f").exists, "the file", TTL + SLACK)
    with open(second / "f", "rb", 0) as file:
        seen = file.read(1000)
        os.chmod(first / "f", 0o640)
        while piece := file.read(MIB):
            seen += piece
    assert seen == data
    wait_for(lambda: stat.S_IMODE((second / "f").stat().st_mode) == 0o640, "the mode", TTL + SLACK)


def test_a_file_removed_or_replaced_elsewhere_while_it_is_open(
    pair: tuple[Mount, Mount], places: tuple[Path, Path]
) -> None:
    """What this machine removes or renames over stays readable to who has it open here; others get ESTALE."""
    first, second = places
    pair[1].allowed = ["WARNING .* ESTALE: .* was replaced while open"]
    old, new = os.urandom(3 * CHUNK), os.urandom(3 * CHUNK)
    for name, data in (("gone", old), ("replaced", old), ("new", new)):
        (first / name).write_bytes(data)
    wait_for(lambda: len(os.listdir(second)) == 3, "the files", TTL + SLACK)
    with (
        open(first / "gone", "rb") as gone,
        open(first / "replaced", "rb") as replaced,
        open(second / "replaced", "rb", 0) as elsewhere,
    ):
        seen = elsewhere.read(1000)
        (first / "gone").unlink()
        (first / "new").rename(first / "replaced")
        assert gone.read() == old and replaced.read() == old
        try:
            while piece := elsewhere.read(MIB):
                seen += piece
        except OSError as error:
            assert error.errno in (errno.ESTALE, errno.EIO)
        assert old.startswith(seen)
    wait_for(lambda: os.listdir(second) == ["replaced"], "what is left", TTL + SLACK)
    assert (second / "replaced").read_bytes() == new
