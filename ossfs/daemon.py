"""A mount that runs on in the background, begun by a fork.

Threading: `run_in_background` forks, and must be called while the process has one thread and neither
trio nor pyfuse3 has begun anything: a fork takes locks of other threads along, and nobody frees them.

The parent waits at a pipe for one word: that the child is usable, or the reason why not.  The end of
the pipe without a word means that the child died.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Final, NoReturn, TypeAlias

from ossfs.errors import MountError, UserError

log = logging.getLogger(__name__)

START_TIMEOUT: Final = 900.0
"""Seconds that a mount may take to become usable; longer than it waits for an earlier one's uploads."""

_TERMINATION_SECONDS: Final = 10.0
_MAX_WORD: Final = 4096

Child: TypeAlias = Callable[[Callable[[], None]], int]
"""Called with `ready`; returns the exit status."""


def run_in_background(child: Child, timeout: float = START_TIMEOUT, log_place: str = "the log") -> int:
    """Run *child* in a process of its own; 0 once it has called `ready`.

    Raises MountError with the reason when it ended, or raised a UserError, before that, and when it was
    not usable after *timeout* seconds: then it is terminated.  *log_place* is where a message says to look.
    Until `ready`, the child's standard error is that of the parent; afterwards it is /dev/null, as its
    input and output are.
    """
    if threading.active_count() != 1:
        raise RuntimeError("a process with threads must not fork")
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _run_child(child, writer)
    os.close(writer)
    try:
        word = _read_word(reader, timeout)
    except TimeoutError:
        _terminate(pid)
        raise MountError(f"the mount was not usable after {timeout:.0f} seconds; see {log_place}") from None
    except BaseException:  # Ctrl-C, which the child ignores
        _terminate(pid)
        raise
    finally:
        os.close(reader)
    if word is None:
        os.waitpid(pid, 0)
        raise MountError(f"ossfs ended unexpectedly before the mount was usable; see {log_place}")
    if word:
        os.waitpid(pid, 0)
        raise MountError(word)
    return 0


def _run_child(child: Child, writer: int) -> NoReturn:
    """The whole life of the child: it must never return into the parent's code."""
    status = 1
    pipe: int | None = writer

    def say(word: str) -> None:
        nonlocal pipe
        if pipe is None:
            return
        try:
            os.write(pipe, json.dumps(word[:_MAX_WORD]).encode() + b"\n")
        except OSError:
            # The parent was killed while it waited; that is no reason to end a mount.
            log.warning("nobody waits any more to hear: %s", word or "usable")
        os.close(pipe)
        pipe = None

    def ready() -> None:
        if pipe is not None:
            os.setsid()
            # First, so that whoever reads the parent's output sees its end when the parent has ended.
            _leave_terminal()
            say("")

    try:
        # The parent's process group is kept until it is ready: where systemd mounts on demand, all others
        # that come near the mount point have to wait until it is mounted (autofs), we among them.
        # Ctrl-C reaches all of the group; the parent passes it on in its own way.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.chdir("/")
        status = child(ready)
        if pipe is not None and status == 0:
            say("the mount ended before it was usable; see the log")
    except KeyboardInterrupt:
        status = 130
    except BaseException as caught:
        error = user_error_in(caught)
        if error is None:
            log.critical("ossfs ends because of an error that nobody foresaw", exc_info=True)
        else:
            if pipe is None:
                log.error("%s", error)
            say(str(error))
    finally:
        try:
            logging.shutdown()
        finally:
            # Not sys.exit: what the parent wanted to do at its exit is not for the child to do.
            os._exit(status)


def user_error_in(error: BaseException) -> UserError | None:
    """The UserError that *error* is, or that is the only thing in it: trio's nurseries raise groups."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, UserError) else None


def _leave_terminal() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)


def _read_word(reader: int, timeout: float) -> str | None:
    """What the child said: "" for usable, a reason, or None when it ended without a word."""
    deadline = time.monotonic() + timeout
    data = b""
    while not data.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reader], [], [], left)[0]:
            raise TimeoutError
        piece = os.read(reader, _MAX_WORD)
        if not piece:
            return None
        data += piece
    word: str = json.loads(data)
    return word


def _terminate(pid: int) -> None:
    """End the child: politely, so that it can unmount, and then for certain."""
    os.kill(pid, signal.SIGTERM)
    pidfd = os.pidfd_open(pid)
    try:
        if not select.select([pidfd], [], [], _TERMINATION_SECONDS)[0]:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(pidfd)
    os.waitpid(pid, 0)
