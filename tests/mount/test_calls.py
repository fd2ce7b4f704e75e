"""What the calls of POSIX do on a mount, and with which errno they refuse."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.mounts import MIB, Mount, end, run, spawn, wait_for

CHUNK = 5 * MIB


def _refused(code: int) -> pytest.RaisesExc[OSError]:
    return pytest.RaisesExc(OSError, check=lambda error: error.errno == code)


def test_name_limits(place: Path) -> None:
    (place / ("n" * 255)).write_text("x")
    for call in (
        lambda: (place / ("n" * 256)).write_text("x"),
        lambda: (place / ("ü" * 128)).write_text("x"),
        lambda: (place / ("n" * 256)).mkdir(),
        lambda: (place / ("n" * 256)).stat(),
        lambda: os.rename(place / ("n" * 255), place / ("m" * 256)),
    ):
        with _refused(errno.ENAMETOOLONG):
            call()


def test_exclusive_creation(mount: Mount, place: Path) -> None:
    fd = os.open(place / "f", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with _refused(errno.EEXIST):
        os.open(place / "f", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(fd, b"first")
    os.close(fd)
    with _refused(errno.EEXIST):
        os.open(place / "f", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    assert mount.read(place / "f") == b"first"
    os.symlink("nowhere", place / "link")
    with _refused(errno.EEXIST):
        os.open(place / "link", os.O_WRONLY | os.O_CREAT | os.O_EXCL)


def test_o_append_writes_at_the_end_whatever_the_position(mount: Mount, place: Path) -> None:
    (place / "f").write_bytes(b"one")
    first = os.open(place / "f", os.O_RDWR | os.O_APPEND)
    second = os.open(place / "f", os.O_WRONLY | os.O_APPEND)
    os.write(first, b"two")
    os.lseek(first, 0, os.SEEK_SET)
    os.write(second, b"three")
    os.write(first, b"four")
    assert os.pread(first, 100, 0) == b"onetwothreefour"
    os.close(first)
    os.close(second)
    assert mount.read(place / "f") == b"onetwothreefour"


def test_o_trunc_empties(mount: Mount, place: Path) -> None:
    (place / "f").write_bytes(b"x" * (CHUNK + 5))
    fd = os.open(place / "f", os.O_WRONLY | os.O_TRUNC)
    assert os.fstat(fd).st_size == 0
    os.close(fd)
    wait_for(lambda: mount.read(place / "f") == b"", "the truncation, which nobody wrote after")
    fd = os.open(place / "f", os.O_RDWR | os.O_TRUNC)
    os.write(fd, b"new")
    os.close(fd)
    assert mount.read(place / "f") == b"new"


@pytest.mark.parametrize("size", [0, 1, 100_000, CHUNK, 2 * CHUNK + 17, 3 * CHUNK, 4 * CHUNK + 3])
@pytest.mark.parametrize("way", ["path", "descriptor"])
def test_truncate_up_and_down(mount: Mount, place: Path, size: int, way: str) -> None:
    data = random.Random(4).randbytes(2 * CHUNK + 17)
    path = place / "f"
    path.write_bytes(data)
    if way == "path":
        os.truncate(path, size)
    else:
        with open(path, "r+b") as file:
            file.truncate(size)
    expected = data[:size] + bytes(max(0, size - len(data)))
    assert path.stat().st_size == size
    wait_for(lambda: mount.service.sdk.head_object(mount.key(path)).content_length == size, "the truncation")
    assert mount.read(path) == expected
    mount.remount()
    assert path.read_bytes() == expected


def test_truncate_among_writes_of_one_descriptor(mount: Mount, place: Path) -> None:
    with open(place / "f", "w+b") as file:
        file.write(b"a" * 1000)
        file.truncate(10)
        file.seek(20)
        file.write(b"b" * 5)
        file.flush()
        os.ftruncate(file.fileno(), 30)
        assert os.pread(file.fileno(), 100, 0) == b"a" * 10 + bytes(10) + b"b" * 5 + bytes(5)
    assert mount.read(place / "f") == b"a" * 10 + bytes(10) + b"b" * 5 + bytes(5)


def test_a_hole_reads_as_zeros(mount: Mount, place: Path) -> None:
    with open(place / "f", "wb") as file:
        file.seek(3 * CHUNK + 5)
        file.write(b"end")
    expected = bytes(3 * CHUNK + 5) + b"end"
    assert mount.read(place / "f") == expected
    mount.remount()
    assert (place / "f").read_bytes() == expected


def test_fsync_puts_the_bytes_into_the_bucket_before_close(mount: Mount, place: Path) -> None:
    with open(place / "f", "wb") as file:
        for text in (b"one", b"two", b"x" * CHUNK, b"three"):
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            assert mount.read(place / "f").endswith(text)
    assert mount.read(place / "f") == b"onetwo" + b"x" * CHUNK + b"three"


def test_fsync_of_a_directory(mount: Mount, place: Path) -> None:
    with open(place / "f", "wb") as file:
        file.write(b"dirty")
        file.flush()
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        assert mount.read(place / "f") == b"dirty"


def test_a_reader_sees_what_a_writer_of_this_mount_has_written(place: Path) -> None:
    with open(place / "f", "wb") as writer:
        writer.write(b"before close")
        writer.flush()
        assert (place / "f").read_bytes() == b"before close"
        assert (place / "f").stat().st_size == 12


def test_a_removed_file_stays_readable_to_who_has_it_open(mount: Mount, place: Path) -> None:
    data = random.Random(5).randbytes(CHUNK + 99)
    (place / "f").write_bytes(data)
    mount.remount()
    with open(place / "f", "rb") as file:
        assert file.read(10) == data[:10]
        (place / "f").unlink()
        assert not (place / "f").exists()
        assert os.listdir(place) == []
        assert not mount.service.exists(mount.key(place / "f"))
        assert file.read() == data[10:]
        (place / "f").write_bytes(b"another")
        file.seek(0)
        assert file.read() == data
    assert mount.read(place / "f") == b"another"
    wait_for(lambda: not mount.service.keys(".ossfs-"), "the end of hidden objects")


def test_a_file_removed_while_it_is_written_never_comes_to_be(mount: Mount, place: Path) -> None:
    with open(place / "f", "w+b") as file:
        file.write(b"x" * (2 * CHUNK + 1))
        (place / "f").unlink()
        file.write(b"more")
        file.flush()
        os.fsync(file.fileno())
        file.seek(2 * CHUNK)
        assert file.read() == b"xmore"
        assert os.fstat(file.fileno()).st_nlink == 0
    assert os.listdir(place) == []
    mount.remount()
    assert os.listdir(place) == []
    assert mount.service.keys(mount.key(place)) == [mount.key(place) + "/"]


def test_rename_of_a_file_that_is_written(mount: Mount, place: Path) -> None:
    data = random.Random(6).randbytes(2 * CHUNK)
    with open(place / "a", "w+b") as file:
        file.write(data)
        os.rename(place / "a", place / "b")
        file.write(b"after")
        file.flush()
        assert os.listdir(place) == ["b"]
    assert mount.read(place / "b") == data + b"after"
    assert not mount.service.exists(mount.key(place / "a"))
    mount.remount()
    assert os.listdir(place) == ["b"]
    assert (place / "b").read_bytes() == data + b"after"


def test_rename_over_a_file_that_is_read(mount: Mount, place: Path) -> None:
    (place / "old").write_bytes(b"old" * 100_000)
    (place / "new").write_bytes(b"new")
    mount.remount()
    with open(place / "old", "rb") as file:
        os.rename(place / "new", place / "old")
        assert file.read() == b"old" * 100_000
    assert (place / "old").read_bytes() == b"new"
    assert mount.read(place / "old") == b"new"


def test_rename_of_a_directory_with_an_open_file(mount: Mount, place: Path) -> None:
    (place / "d" / "deep").mkdir(parents=True)
    for number in range(20):
        (place / "d" / "deep" / f"f{number}").write_text(str(number))
    with open(place / "d" / "deep" / "dirty", "wb") as file:
        file.write(b"x" * (CHUNK + 1))
        os.rename(place / "d", place / "e")
        file.write(b"after")
    assert mount.read(place / "e" / "deep" / "dirty") == b"x" * (CHUNK + 1) + b"after"
    for _ in range(2):
        assert os.listdir(place) == ["e"]
        assert sorted(os.listdir(place / "e" / "deep")) == sorted([*(f"f{n}" for n in range(20)), "dirty"])
        assert (place / "e" / "deep" / "f7").read_text() == "7"
        mount.remount()
    assert not mount.service.keys(mount.key(place / "d"))


def test_renames_that_are_refused(place: Path) -> None:
    for name in ("empty", "full", "full/child"):
        (place / name).mkdir()
    (place / "file").write_text("x")
    for old, new, code in (
        ("empty", "full", errno.ENOTEMPTY),
        ("file", "empty", errno.EISDIR),
        ("empty", "file", errno.ENOTDIR),
        ("full", "full/child/below", errno.EINVAL),
        ("missing", "x", errno.ENOENT),
    ):
        with _refused(code):
            os.rename(place / old, place / new)
    os.rename(place / "full", place / "empty")
    assert sorted(os.listdir(place)) == ["empty", "file"]
    assert os.listdir(place / "empty") == ["child"]


def test_rmdir_refuses_what_is_not_empty(mount: Mount, place: Path) -> None:
    (place / "d").mkdir()
    (place / "d" / "f").write_text("x")
    with _refused(errno.ENOTEMPTY):
        os.rmdir(place / "d")
    with _refused(errno.ENOTDIR):
        os.rmdir(place / "d" / "f")
    with _refused(errno.EISDIR):
        os.unlink(place / "d")
    (place / "d" / "f").unlink()
    assert os.listdir(place) == ["d"]
    mount.remount()
    assert os.listdir(place) == ["d"], "a directory stays when its last file goes"
    os.rmdir(place / "d")
    assert os.listdir(place) == []
    # Written by another program since: there is no marker, and the listing that we have is old.
    (place / "e").mkdir()
    mount.service.write(mount.key(place / "e" / "foreign"), b"x")
    with _refused(errno.ENOTEMPTY):
        os.rmdir(place / "e")


def test_hard_links_are_refused(place: Path) -> None:
    (place / "f").write_text("x")
    with _refused(errno.EPERM):
        os.link(place / "f", place / "g")
    assert os.listdir(place) == ["f"]


def test_fallocate_and_o_tmpfile_are_refused_as_programs_expect(place: Path) -> None:
    """Both answers make programs go another way; posix_fallocate(3) goes it by itself."""
    fd = os.open(place / "f", os.O_RDWR | os.O_CREAT)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.fallocate(fd, 0, ctypes.c_int64(0), ctypes.c_int64(4096)) == -1
        assert ctypes.get_errno() == errno.EOPNOTSUPP
        os.posix_fallocate(fd, 0, 5000)
        assert os.fstat(fd).st_size == 5000
    finally:
        os.close(fd)
    with _refused(errno.EOPNOTSUPP):
        os.open(place, os.O_RDWR | os.O_TMPFILE)
    assert os.listdir(place) == ["f"]


def test_symlinks_and_pipes(mount: Mount, place: Path) -> None:
    (place / "file").write_text("content")
    (place / "link").symlink_to("file")
    (place / "long").symlink_to("/" + "x" * 4000)
    (place / "odd").symlink_to("a b\n%ü#?")
    os.mkfifo(place / "pipe", 0o640)
    for _ in range(2):
        assert os.readlink(place / "link") == "file"
        assert (place / "link").read_text() == "content"
        assert os.readlink(place / "long") == "/" + "x" * 4000
        assert os.readlink(place / "odd") == "a b\n%ü#?"
        assert (place / "link").lstat().st_size == 4
        assert stat.S_ISFIFO((place / "pipe").lstat().st_mode)
        assert stat.S_IMODE((place / "pipe").lstat().st_mode) == 0o640
        mount.remount()
    reader = spawn(["cat", place / "pipe"], stdout=subprocess.PIPE)
    try:
        run("bash", "-c", 'echo through > "$1"', "-", place / "pipe")
        assert reader.communicate(timeout=20)[0] == b"through\n"
    finally:
        end(reader)


def test_extended_attributes(mount: Mount, place: Path) -> None:
    path = place / "f"
    path.write_text("x")
    os.setxattr(path, "user.one", b"1")
    os.setxattr(path, "user.binary", bytes(range(256)))
    os.setxattr(path, "user.empty", b"")
    with _refused(errno.EEXIST):
        os.setxattr(path, "user.one", b"2", os.XATTR_CREATE)
    with _refused(errno.ENODATA):
        os.setxattr(path, "user.none", b"2", os.XATTR_REPLACE)
    (place / "d").mkdir()
    os.setxattr(place / "d", "user.dir", b"d")
    for _ in range(2):
        assert sorted(os.listxattr(path)) == ["user.binary", "user.empty", "user.one"]
        assert os.getxattr(path, "user.binary") == bytes(range(256))
        assert os.getxattr(path, "user.empty") == b""
        assert os.getxattr(place / "d", "user.dir") == b"d"
        with _refused(errno.ENODATA):
            os.getxattr(path, "user.none")
        mount.remount()
    os.removexattr(path, "user.binary")
    run("setfattr", "-n", "user.tool", "-v", "by setfattr", path)
    path.write_text("written anew")
    mount.remount()
    assert sorted(os.listxattr(path)) == ["user.empty", "user.one", "user.tool"]
    assert 'user.tool="by setfattr"' in run("getfattr", "-d", "--absolute-names", path)


def test_mode_owner_and_times_outlive_a_remount(mount: Mount, place: Path) -> None:
    for name in ("f", "d"):
        path = place / name
        path.mkdir() if name == "d" else path.write_text("x")
        os.chown(path, 12345, 54321)
        os.chmod(path, 0o2751)  # after chown, which takes the set-group-id bit of a file away
        os.utime(path, ns=(1_111_111_111_222_333_444, 1_555_555_555_666_777_888))
        for _ in range(2):
            status = path.stat()
            assert stat.S_IMODE(status.st_mode) == 0o2751
            assert (status.st_uid, status.st_gid) == (12345, 54321)
            assert status.st_mtime_ns // 10**9 == 1_555_555_555
            assert status.st_atime_ns // 10**9 == 1_111_111_111
            mount.remount()
    (place / "f").write_text("new content")
    status = (place / "f").stat()
    assert (stat.S_IMODE(status.st_mode) & 0o777, status.st_uid) == (0o751, 12345)
    assert abs(status.st_mtime - time.time()) < 60
    assert mount.read(place / "f") == b"new content"


def test_attributes_set_while_the_file_is_written(mount: Mount, place: Path) -> None:
    with open(place / "f", "wb") as file:
        file.write(b"x" * (2 * CHUNK + 1))
        os.fchmod(file.fileno(), 0o604)
        os.fchown(file.fileno(), 77, 88)
        os.utime(file.fileno(), (1_000_000_000, 1_000_000_001))
    for _ in range(2):
        status = (place / "f").stat()
        assert (oct(status.st_mode), status.st_uid, status.st_gid) == (oct(0o100604), 77, 88)
        assert int(status.st_mtime) == 1_000_000_001
        mount.remount()
    assert mount.read(place / "f") == b"x" * (2 * CHUNK + 1)


def test_umask_and_mode_of_what_is_made(place: Path) -> None:
    run("bash", "-c", "umask 027; touch f; mkdir d; umask 0; mkdir e; touch g", cwd=place)
    modes = {name: oct(stat.S_IMODE((place / name).stat().st_mode)) for name in "fdeg"}
    assert modes == {"f": "0o640", "d": "0o750", "e": "0o777", "g": "0o666"}


def test_a_shared_mapping_is_read_and_written(mount: Mount, place: Path) -> None:
    data = bytearray(random.Random(7).randbytes(CHUNK + 12345))
    path = place / "f"
    path.write_bytes(data)
    mount.remount()
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        assert mapping[:] == data
        for offset in (0, 4095, CHUNK - 2, len(data) - 4):
            mapping[offset : offset + 4] = data[offset : offset + 4] = b"mmap"
        mapping.flush()
        os.fsync(file.fileno())
        assert mount.read(path) == data
        mapping[100:104] = data[100:104] = b"last"
    mount.remount()
    assert path.read_bytes() == data


def test_statvfs_and_access(place: Path) -> None:
    assert os.statvfs(place).f_namemax == 255
    assert os.statvfs(place).f_bavail > 0
    assert os.access(place, os.R_OK | os.W_OK | os.X_OK)


def test_directories_of_other_programs_and_their_neighbours(mount: Mount, place: Path) -> None:
    service, key = mount.service, mount.key(place)
    service.write(f"{key}/foo-bar", b"file")
    service.write(f"{key}/implicit/deep/file", b"deep")
    service.write(f"{key}/marked/", b"")
    wait_for((place / "marked").exists, "what another program has made")
    assert not (place / "foo").exists()
    assert (place / "foo-bar").is_file()
    assert (place / "implicit" / "deep" / "file").read_bytes() == b"deep"
    assert (place / "marked").is_dir()
    assert (place / "implicit").is_dir()


def test_a_directory_of_more_entries_than_a_page(mount: Mount, place: Path) -> None:
    prefix = mount.key(place)
    mount.service.fill(f"{prefix}/many/n", 2345, 3)
    names = [f"n{number:06}" for number in range(2345)]
    wait_for((place / "many").exists, "what another program has made")
    assert sorted(os.listdir(place / "many")) == names
    assert run("ls", "-l", place / "many").count("\n") == 2346
    assert (place / "many" / "n002344").stat().st_size == 3
    for entry in os.scandir(place / "many"):
        os.unlink(entry)
    assert os.listdir(place / "many") == []


@pytest.mark.parametrize("call", ["lockf", "flock"])
def test_locks_are_those_of_the_machine(place: Path, call: str) -> None:
    program = f"import fcntl,sys; f=open(sys.argv[1],'a'); fcntl.{call}(f, fcntl.LOCK_EX|fcntl.LOCK_NB)"
    lock = getattr(fcntl, call)
    with open(place / "f", "a") as file:
        lock(file, fcntl.LOCK_EX)
        assert "BlockingIOError" in run(sys.executable, "-c", program, place / "f", status=1)
        lock(file, fcntl.LOCK_UN)
        run(sys.executable, "-c", program, place / "f")


def test_posix_fallocate_is_a_hole_in_the_bucket(mount: Mount, place: Path) -> None:
    size = 40 * MIB + 17
    mount.service.stats(reset=True)
    with open(place / "f", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
        assert os.fstat(file.fileno()).st_size == size
    assert mount.read(place / "f") == bytes(size)
    assert mount.service.stats()["bytes_in"] < 20 * MIB  # zeros to copy from, once


KILLED = """
import sys
file = open(sys.argv[1], "wb", 0)
file.write(b"x" * 9_000_000)
print(flush=True)
sys.stdin.read()
"""


def test_a_killed_writer_leaves_what_it_had_written(mount: Mount, place: Path) -> None:
    writer = spawn(
        [sys.executable, "-c", KILLED, place / "f"],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
    )
    assert writer.stdout is not None and writer.stdin is not None
    with writer.stdout, writer.stdin:
        writer.stdout.readline()
        end(writer, signal.SIGKILL)
    wait_for(lambda: mount.service.exists(mount.key(place / "f")), "the file of a killed writer")
    assert mount.read(place / "f") == b"x" * 9_000_000
