"""Run system calls in a directory and report what each did: a program of its own, started by the tests.

A case is lines of calls, one each: `[USER] CALL ARGUMENTS`.  After each one, everything below the
case's directory is looked at: types, modes, owners, sizes, and whose times have moved.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

USERS = {
    "u1": (1001, 1001, []),
    "u2": (1002, 1002, []),
    "u3": (1003, 1003, [1001, 5000]),
}
AT_FDCWD = -100
CLOCK_REALTIME_COARSE = 5
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
NOW, LATER = 1_000_000_000 * 10**9, 4_000_000_000 * 10**9
"""Between these a time is one that a clock showed."""

libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class _Timespec(ctypes.Structure):
    _fields_ = [("sec", ctypes.c_long), ("nsec", ctypes.c_long)]


def _timespec(text: str) -> _Timespec:
    if text == "now":
        return _Timespec(0, UTIME_NOW)
    if text == "omit":
        return _Timespec(0, UTIME_OMIT)
    seconds, _, nanoseconds = text.partition(".")
    return _Timespec(int(seconds), int(nanoseconds or 0))


def _flags(text: str) -> int:
    value = 0
    for word in text.split("|"):
        value |= getattr(os, f"O_{word}")
    return value


def _mode(text: str) -> int:
    return int(text, 8)


@contextlib.contextmanager
def _opened(path: str, flags: str, mode: str = "644") -> Iterator[int]:
    descriptor = os.open(path, _flags(flags), _mode(mode))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open(path: str, flags: str, mode: str = "644", data: str = "") -> object:
    with _opened(path, flags, mode) as descriptor:
        if data:
            return os.write(descriptor, data.encode())
        return stat.S_IFMT(os.fstat(descriptor).st_mode)


def _fd(path: str, flags: str, call: str, *arguments: str) -> object:
    """Open, do one thing with the descriptor, close; the status of what was open."""
    with _opened(path, flags) as descriptor:
        if call == "truncate":
            os.ftruncate(descriptor, int(arguments[0]))
        elif call == "chmod":
            os.fchmod(descriptor, _mode(arguments[0]))
        elif call == "chown":
            os.fchown(descriptor, int(arguments[0]), int(arguments[1]))
        elif call == "fallocate":
            os.posix_fallocate(descriptor, int(arguments[0]), int(arguments[1]))
        elif call == "utimens":
            times = (_Timespec * 2)(*map(_timespec, arguments))
            _checked(libc.futimens(descriptor, times))
        elif call == "write":
            os.pwrite(descriptor, arguments[1].encode(), int(arguments[0]))
        elif call == "read":
            return os.read(descriptor, 100).decode()
        elif call == "unlink":
            os.unlink(path)
        elif call == "rmdir":
            os.rmdir(path)
        elif call == "create-in":
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(path)
            os.close(os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
        elif call == "fsync":
            os.fsync(descriptor)
        elif call == "moved":
            os.rename(path, arguments[0])
            os.mkdir("x", dir_fd=descriptor)
            above = os.stat(os.path.dirname(arguments[0]) or ".")
            return [os.path.samestat(os.stat("..", dir_fd=descriptor), above), os.listdir(descriptor)]
        elif call == "removed":
            os.rmdir(path)
            found = [os.listdir(descriptor), errno_of(lambda: os.mkdir("x", dir_fd=descriptor))]
            return [*found, errno_of(lambda: os.symlink("x", "y", dir_fd=descriptor))]
        elif call == "over":
            os.rename(arguments[0], path)
            return [os.read(descriptor, 100).decode(), os.fstat(descriptor).st_nlink]
        else:
            raise AssertionError(call)
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            return oct(status.st_mode)
        return [oct(status.st_mode), status.st_uid, status.st_gid, status.st_size, status.st_nlink]


def _renameat2(flags: int, old: str, new: str) -> None:
    _checked(libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


def _utimens(path: str, atime: str, mtime: str, follow: bool = True) -> None:
    times = (_Timespec * 2)(_timespec(atime), _timespec(mtime))
    _checked(libc.utimensat(AT_FDCWD, os.fsencode(path), times, 0 if follow else 0x100))


def _bind(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path)


def _connect(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(path)


def _times(path: str) -> list[object]:
    """Those that were set; looking at links and directories has moved their atime."""
    status = os.stat(path, follow_symlinks=False)
    shown = [status.st_mtime_ns]
    if not stat.S_ISLNK(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        shown.append(status.st_atime_ns)
    return [time_ns if not NOW < time_ns < LATER else "now" for time_ns in shown]


def _access(path: str, mode: str, *effective: str) -> bool:
    bits = sum(getattr(os, f"{letter.upper()}_OK") for letter in mode)
    return os.access(path, bits, effective_ids=bool(effective))


def _statvfs(path: str) -> list[object]:
    found = os.statvfs(path)
    return [found.f_namemax, found.f_blocks > 0, found.f_bavail <= found.f_blocks]


def _limited(path: str) -> None:
    """A write beyond RLIMIT_FSIZE."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        os.truncate(path, 11)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _dir(path: str) -> list[str]:
    return sorted(os.listdir(path))


def _busy(path: str) -> list[object]:
    """A program that is open for writing does not run, and one that runs is not opened for writing."""
    shutil.copy("/bin/sleep", path)
    with _opened(path, "WRONLY"):
        answers = [errno_of(lambda: subprocess.run([f"./{path}", "0"], check=True))]
    with subprocess.Popen([f"./{path}", "60"]) as running:
        answers.append(errno_of(lambda: os.close(os.open(path, os.O_WRONLY))))
        answers.append(errno_of(lambda: os.truncate(path, 0)))
        answers.append(errno_of(lambda: os.close(os.open(path, os.O_RDONLY))))
        answers.append(errno_of(lambda: os.unlink(path)))
        running.kill()
    return answers


def _read(path: str) -> str:
    with _opened(path, "RDONLY|NONBLOCK") as descriptor:
        return os.read(descriptor, 1000).decode()


CALLS: dict[str, Callable[..., object]] = {
    "access": _access,
    "bind": _bind,
    "busy": _busy,
    "link": os.link,
    "connect": _connect,
    "chdir": lambda path: os.close(os.open(path, os.O_PATH | os.O_DIRECTORY)),
    "chmod": lambda path, mode: os.chmod(path, _mode(mode)),
    "chown": lambda path, uid, gid: os.chown(path, int(uid), int(gid)),
    "lchown": lambda path, uid, gid: os.lchown(path, int(uid), int(gid)),
    "fd": _fd,
    "limited": _limited,
    "ls": _dir,
    "mkdir": lambda path, mode="755": os.mkdir(path, _mode(mode)),
    "mkfifo": lambda path, mode="644": os.mkfifo(path, _mode(mode)),
    "mknod": lambda path, kind, mode, major="0", minor="0": os.mknod(
        path, getattr(stat, f"S_I{kind}") | _mode(mode), os.makedev(int(major), int(minor))
    ),
    "open": _open,
    "create": lambda path, mode="644", data="": _open(path, "CREAT|EXCL|WRONLY", mode, data),
    "read": _read,
    "readlink": os.readlink,
    "rename": os.rename,
    "exchange": lambda old, new: _renameat2(2, old, new),
    "noreplace": lambda old, new: _renameat2(1, old, new),
    "badflags": lambda old, new: _renameat2(3, old, new),
    "rmdir": lambda path: _checked(libc.rmdir(os.fsencode(path))),
    "statvfs": _statvfs,
    "symlink": lambda target, path: os.symlink(target, path),
    "times": _times,
    "truncate": lambda path, size: _checked(libc.truncate(os.fsencode(path), ctypes.c_long(int(size)))),
    "umask": lambda mask: oct(os.umask(_mode(mask))),
    "unlink": lambda path: _checked(libc.unlink(os.fsencode(path))),
    "utimens": _utimens,
    "lutimens": lambda path, atime, mtime: _utimens(path, atime, mtime, False),
    "getxattr": lambda path, name: os.getxattr(path, name, follow_symlinks=False).decode(),
    "setxattr": lambda path, name, value, flags="0": os.setxattr(
        path, name, value.encode(), int(flags), follow_symlinks=False
    ),
    "removexattr": lambda path, name: os.removexattr(path, name, follow_symlinks=False),
    "listxattr": lambda path: sorted(os.listxattr(path, follow_symlinks=False)),
}


@contextlib.contextmanager
def _as(user: str | None) -> Iterator[None]:
    """With these ids; the saved one stays root's, so that there is a way back."""
    if user is None:
        yield
        return
    uid, gid, groups = USERS[user]
    os.setgroups(groups)
    os.setresgid(gid, gid, 0)
    os.setresuid(uid, uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups([])


def _paths(top: str) -> Iterator[str]:
    yield top
    for directory, directories, files in os.walk(top):
        for name in sorted(directories + files):
            yield os.path.join(directory, name)


def look(top: str = ".") -> tuple[dict[str, list[Any]], dict[str, tuple[int, int]]]:
    """What is there: everything that is to be equal; and the times by path."""
    facts: dict[str, list[Any]] = {}
    times: dict[str, tuple[int, int]] = {}
    for path in _paths(top):
        status = os.lstat(path)
        entry: list[object] = [oct(status.st_mode), status.st_uid, status.st_gid]
        if not stat.S_ISDIR(status.st_mode):
            entry += [status.st_size, status.st_nlink, status.st_rdev]
        if stat.S_ISLNK(status.st_mode):
            entry.append(os.readlink(path))
        facts[path] = entry
        times[path] = (status.st_mtime_ns, status.st_ctime_ns)
    return facts, times


def lasting(top: str) -> dict[str, list[object]]:
    """What a new mount must show, too; the times of directories are those of their markers then."""
    facts, times = look(top)
    return {
        os.path.relpath(path, top): [
            *fact,
            0 if os.path.isdir(path) and not os.path.islink(path) else times[path][0],
        ]
        for path, fact in facts.items()
        if path != top
    }


def _tick() -> None:
    """Until the clock that local file systems read has moved on."""
    before = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) == before:
        pass


def errno_of(work: Callable[[], object]) -> object:
    """What it answers, or the name of the error."""
    try:
        answer = work()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error.errno))
    return "ok" if answer is None else answer


def run(line: str) -> object:
    words = shlex.split(line)
    user = words.pop(0) if words[0] in USERS else None
    with _as(user):
        return errno_of(lambda: CALLS[words[0]](*words[1:]))


def _renamed(line: str) -> tuple[str, str]:
    """The old name and the new one, as `look` shows them; empty when it is no rename.

    Not by inode number: what the kernel forgets has another one when it is next looked up.
    """
    words = [word for word in shlex.split(line) if word not in USERS]
    if words[0] in ("rename", "noreplace"):
        old, new = words[1:]
    elif words[0] == "fd" and words[3] == "moved":
        old, new = words[1], words[4]
    elif words[0] == "fd" and words[3] == "over":
        old, new = words[4], words[1]
    else:
        return "", ""
    return _shown(old), _shown(new)


def _shown(path: str) -> str:
    head, tail = os.path.split(path.rstrip("/"))
    return os.path.join(".", os.path.relpath(os.path.join(os.path.realpath(head or "."), tail)))


def case(top: str, lines: list[str]) -> list[Any]:
    os.mkdir(top)
    os.chmod(top, 0o777)
    os.chdir(top)
    os.umask(0)
    told = []
    _, before = look()
    for line in lines:
        _tick()
        old, new = _renamed(line)
        answer = run(line)
        facts, after = look()
        moved = {}
        for path, (mtime, ctime) in after.items():
            origin = path
            if old in before and old not in after and f"{path}/".startswith(f"{new}/"):
                origin = old + path[len(new) :]
            was = before.get(origin)
            if was is not None:
                which = ("m" if mtime != was[0] else "") + ("c" if ctime != was[1] else "")
                if which or origin != path:
                    moved[path] = f"{origin} {which}"
        told.append([line, answer, facts, moved])
        before = after
    return told


def main() -> None:
    top = sys.argv[1]
    if len(sys.argv) > 2:
        json.dump(lasting(top), sys.stdout)
        return
    cases = json.load(sys.stdin)
    results = {}
    for number, (name, lines) in enumerate(cases.items()):
        results[name] = case(os.path.join(top, str(number)), lines)
    os.chdir("/")
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
