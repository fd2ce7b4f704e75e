"""The kernel's side of a mount: options, read-ahead, and the invalidation of its caches.

Threading: `KernelCaches` is called from the trio thread and does its work in a thread of its own:
an invalidation made on the loop thread while a READ of those pages is in flight deadlocks, because
the kernel waits for the READ and the READ for the loop.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import queue
import re
import threading
from collections.abc import Iterable, Iterator

import pyfuse3

log = logging.getLogger(__name__)

MOUNTINFO = "/proc/self/mountinfo"
READ_AHEAD_KIB = 4096
"""Reads come in pieces of 1 MiB instead of 128 KiB: measured 1.3 GB/s instead of 0.5 on two cores."""
MAX_BACKGROUND = 64
"""Read-ahead and asynchronous requests in flight.  A random read of a page is one of them: with the kernel's
default of 12, 16 threads at 15 ms read 670 pages a second, with this 870."""
FUSE_CONTROL = "/sys/fs/fuse/connections"


FLAGS = frozenset(
    "suid nosuid dev nodev exec noexec atime noatime diratime nodiratime sync async dirsync".split()
)
"""Flags of mount(8) that libfuse hands to the kernel; it refuses others, such as relatime."""


def mount_options(source: str, *, allow_other: bool, read_only: bool, flags: Iterable[str] = ()) -> set[str]:
    """Options for pyfuse3.init.  Permissions are always checked by the kernel."""
    # A comma would end the option in libfuse's parser.
    options = {"fsname=" + source.replace("\\", "\\\\").replace(",", "\\,"), "subtype=ossfs"}
    options.add("default_permissions")
    options.update(FLAGS.intersection(flags))
    if allow_other:
        options.add("allow_other")
    if read_only:
        options.add("ro")
    return options


def device_of(mountpoint: str) -> str | None:
    """ "MAJOR:MINOR" of the topmost mount on a path, without asking the mount itself."""
    found = None
    wanted = os.fsencode(mountpoint)
    # As bytes: nothing but a space separates fields, and nothing but a newline lines.
    with open(MOUNTINFO, "rb") as lines:
        for line in lines:
            fields = line.split(b" ")
            if _unescape(fields[4]) == wanted:
                found = fields[2].decode("ascii")
    return found


def _unescape(field: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), field)


def tune(mountpoint: str) -> None:
    """Raise the kernel's read-ahead and background limit for this mount, as far as we may.

    Blocking: sysfs, and one request to the mount itself, so in a thread, while the session is served.
    """
    try:
        # Waits for the answer to INIT, which lowers what has been written before it: on a busy machine
        # every other mount kept 128 KiB, and read at a third of the speed.
        os.stat(mountpoint)
    except OSError as error:
        log.debug("cannot look at %s: %s", mountpoint, error.strerror)
    device = device_of(mountpoint)
    if device is None:
        return
    _write(f"/sys/class/bdi/{device}/read_ahead_kb", READ_AHEAD_KIB, "sequential reads are slower")
    connection = device.split(":")[1]
    with fuse_control() as control:
        _write(f"{control}/{connection}/max_background", MAX_BACKGROUND, "many readers at a time are slower")
        _write(f"{control}/{connection}/congestion_threshold", MAX_BACKGROUND * 3 // 4, "")


@contextlib.contextmanager
def fuse_control() -> Iterator[str]:
    """Where the kernel's fusectl file system can be seen, also where nobody has mounted it.

    Then it is mounted for us alone, as a descriptor that no path leads to; that wants root and Linux 5.2.
    """
    if os.path.isdir(FUSE_CONTROL) and os.listdir(FUSE_CONTROL):
        yield FUSE_CONTROL
        return
    with contextlib.ExitStack() as stack:
        try:
            context = _system_call(_FSOPEN, b"fusectl", 1)
            stack.callback(os.close, context)
            _system_call(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
            mount = _system_call(_FSMOUNT, context, 1, 0)
            stack.callback(os.close, mount)
        except OSError as error:
            log.debug("cannot look at fusectl: %s", error.strerror)
            yield FUSE_CONTROL
            return
        yield f"/proc/self/fd/{mount}"


_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
"""The same numbers on every architecture; glibc has names for them since 2.36 only."""
_FSCONFIG_CMD_CREATE = 6


def _system_call(number: int, *arguments: int | bytes | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _write(path: str, value: int, consequence: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(str(value))
    except OSError as error:
        level = logging.INFO if consequence else logging.DEBUG
        log.log(
            level,
            "cannot set %s to %d: %s%s",
            path,
            value,
            error.strerror,
            consequence and "; " + consequence,
        )


class KernelCaches:
    """Implements fs.ports.Kernel.  start after pyfuse3.init, stop before pyfuse3.close."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[int, bytes | None, bool] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to carry out what was queued."""
        self._thread = threading.Thread(target=self._run, name="invalidate", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the queue; waits a moment only, since the kernel may be waiting for us."""
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(1.0)

    def invalidate_inode(self, ino: int, *, attributes_only: bool = False) -> None:
        """Drop the kernel's attributes, and its pages, of an inode."""
        self._queue.put((ino, None, attributes_only))

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        """Drop a dentry."""
        self._queue.put((parent, name, False))

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            ino, name, attributes_only = item
            try:
                if name is None:
                    pyfuse3.invalidate_inode(ino, attributes_only)
                else:
                    pyfuse3.invalidate_entry(ino, name)
            except OSError as error:
                # ENOENT: the kernel does not know the inode any more, which is as good.
                log.debug("invalidate %d: %s", ino, os.strerror(error.errno or 0))
            except Exception:
                # Without this thread the kernel would show old pages from here on.
                log.exception("invalidate %d: unforeseen", ino)
