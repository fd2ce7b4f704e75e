"""The kernel's side of a mount: options, read-ahead, and the invalidation of its caches.

Threading: `KernelCaches` is called from the trio thread and does its work in a thread of its own:
an invalidation made on the loop thread while a READ of those pages is in flight deadlocks, because
the kernel waits for the READ and the READ for the loop.
"""

from __future__ import annotations

import logging
import os
import queue
import threading

import pyfuse3

log = logging.getLogger(__name__)

READ_AHEAD_KIB = 4096
"""Reads come in pieces of 1 MiB instead of 128 KiB: measured 1.3 GB/s instead of 0.5 on two cores."""
MAX_BACKGROUND = 64
"""Read-ahead and asynchronous requests in flight; the kernel's default of 12 starves parallel readers."""


def mount_options(source: str, *, allow_other: bool, read_only: bool) -> set[str]:
    """Options for pyfuse3.init.  Permissions are always checked by the kernel."""
    # A comma would end the option in libfuse's parser.
    options = {"fsname=" + source.replace("\\", "\\\\").replace(",", "\\,"), "subtype=ossfs"}
    options.add("default_permissions")
    if allow_other:
        options.add("allow_other")
    if read_only:
        options.add("ro")
    return options


def device_of(mountpoint: str) -> str | None:
    """ "MAJOR:MINOR" of the topmost mount on a path, without asking the mount itself."""
    found = None
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.split()
            path = fields[4].encode("latin-1", "backslashreplace").decode("unicode_escape", "replace")
            if path == mountpoint or fields[4] == mountpoint:
                found = fields[2]
    return found


def tune(mountpoint: str) -> None:
    """Raise the kernel's read-ahead and background limit for this mount, as far as we may.

    Blocking file I/O on sysfs only; safe in any thread.
    """
    device = device_of(mountpoint)
    if device is None:
        return
    _write(f"/sys/class/bdi/{device}/read_ahead_kb", READ_AHEAD_KIB, "sequential reads are slower")
    connection = device.split(":")[1]
    _write(f"/sys/fs/fuse/connections/{connection}/max_background", MAX_BACKGROUND, "")
    _write(f"/sys/fs/fuse/connections/{connection}/congestion_threshold", MAX_BACKGROUND * 3 // 4, "")


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
