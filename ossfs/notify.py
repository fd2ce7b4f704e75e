"""What systemd is told of a mount: the protocol of sd_notify(3), a datagram of NAME=VALUE lines.

Threading: `Notifier` is used by the thread of the trio loop, and its datagrams never wait.  The watchdog's
sign of life is sent by a task of the loop and by nothing else: a loop that hangs must fall silent.

Without NOTIFY_SOCKET in the environment nothing is sent.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Final, Self

import trio

log = logging.getLogger(__name__)

STATUS_SECONDS: Final = 5.0
"""How often the status line is looked at; it is sent only when it has changed."""


class Notifier:
    """Tells the service manager, if one asked for it.

    address: NOTIFY_SOCKET, a path, or a name that begins with "@" for the abstract namespace.
    watchdog: seconds within which a sign of life is expected; None for never.
    """

    def __init__(self, address: str | None, watchdog: float | None = None) -> None:
        self.watchdog = watchdog
        self._status = ""
        self._socket: socket.socket | None = None
        if address is None:
            return
        if not address.startswith(("/", "@")):
            log.warning("NOTIFY_SOCKET=%s is ignored; accepted: a path, or @NAME", address)
            return
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Self:
        """The one that the environment asks for; takes the variables out: children must not speak for us.

        WATCHDOG_PID names the process that is to be watched; the watchdog is off in any other.
        """
        address = environment.pop("NOTIFY_SOCKET", None) or None
        pid = environment.pop("WATCHDOG_PID", None)
        text = environment.pop("WATCHDOG_USEC", None)
        watchdog = None
        if address and text and pid in (None, "", str(os.getpid())):
            if text.isascii() and text.isdigit() and int(text) > 0:
                watchdog = int(text) / 1e6
            else:
                log.warning("WATCHDOG_USEC=%s is ignored; accepted: microseconds", text)
        return cls(address, watchdog)

    @property
    def enabled(self) -> bool:
        """Does anybody listen?"""
        return self._socket is not None

    def send(self, *lines: str) -> None:
        """Send NAME=VALUE lines.  A manager that cannot be told is no reason to end a mount: it is logged."""
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            log.warning("the service manager cannot be told %s: %s", lines[0], error.strerror)

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows, if it has changed."""
        if text != self._status:
            self._status = text
            self.send(f"STATUS={text}")

    def ready(self, text: str) -> None:
        """The mount is usable."""
        self._status = text
        self.send("READY=1", f"STATUS={text}")

    def stopping(self, text: str) -> None:
        """The mount has begun to end."""
        self._status = text
        self.send("STOPPING=1", f"STATUS={text}")

    async def run(self, describe: Callable[[], str]) -> None:
        """Send signs of life, and what *describe* says, until cancelled.

        Three signs in the time that the watchdog grants, so that one may be late on a busy machine.
        """
        if not self.enabled:
            return
        pause = STATUS_SECONDS if self.watchdog is None else min(STATUS_SECONDS, self.watchdog / 3)
        while True:
            if self.watchdog is not None:
                self.send("WATCHDOG=1")
            self.status(describe())
            await trio.sleep(pause)

    def close(self) -> None:
        """Say nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def uploads_text(files: int, size: int) -> str:
    """What the status line says of uploads.  size: bytes that wait."""
    if not files:
        return "all written files are in the bucket"
    return f"uploads pending: {files} file{'' if files == 1 else 's'}, {-(-size // (1 << 20))} MB"
