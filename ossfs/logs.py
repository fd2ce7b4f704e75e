"""The log: one line an event, without secrets, to where somebody can find it.

Threading: all of it may be used from any thread; `set_up` is called once in a process, before threads.

In the foreground the log goes to standard error.  In the background it goes to `log_file`, else to
syslog, else to a file in the state directory: a mount that died must have left its last words somewhere.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import re
import socket
import sys
import threading
import time
from collections import OrderedDict
from typing import Final

from ossfs.errors import ConfigError

ROOT: Final = "ossfs"
SYSLOG_SOCKET: Final = "/dev/log"

_FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"
_FALLBACK_NAME: Final = "ossfs.log"
_FALLBACK_BYTES: Final = 10 * 1024 * 1024
_DAEMON_FACILITY: Final = logging.handlers.SysLogHandler.LOG_DAEMON

_SECRET_VALUES: set[str] = set()
_SHORTEST_SECRET: Final = 6
_SECRET_PATTERNS: Final = (
    # Signed requests and presigned URLs, as an exception of a library might quote them.
    re.compile(r"(?i)(\b(?:signature|x-oss-signature|security-token|x-oss-security-token)=)[^&\s'\"]+"),
    re.compile(r"(?i)(\bx-oss-security-token['\"]?\s*[:=]\s*['\"]?)[^\s'\",}]+"),
    re.compile(
        r"(?i)(\bauthorization['\"]?\s*[:=]\s*['\"]?)(?:OSS4-HMAC-SHA256\s[^'\"\n]+|OSS\s[^\s'\",}]+)"
    ),
    re.compile(r"(?i)(\b(?:security|sts|session)_?token['\"]?\s*[:=]\s*['\"]?)[^\s'\",}]+"),
    re.compile(r"(?i)(\b(?:access_?key_?)?secret['\"]?\s*[:=]\s*['\"]?)[^\s'\",}]+"),
)


def hide(secret: str | None) -> None:
    """Never write *secret* to the log, whatever text it turns up in."""
    if secret and len(secret) >= _SHORTEST_SECRET:
        _SECRET_VALUES.add(secret)


def redact(text: str) -> str:
    """*text* with asterisks for what is secret."""
    for secret in tuple(_SECRET_VALUES):
        text = text.replace(secret, "***")
    for pattern in _SECRET_PATTERNS:
        text = pattern.sub(r"\1***", text)
    return text


_VISIBLE: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
"""A key may hold control characters, and a terminal that shows the log would obey them."""


class OneLine(logging.Formatter):
    """One line an event, tracebacks and repeats included, and no secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """The whole event."""
        text = super().format(record)
        repeats = getattr(record, "repeats", 0)
        if repeats:
            text += f" (and {repeats} times more like it)"
        line = " | ".join(line.strip() for line in text.splitlines() if line.strip())
        return redact(line.translate(_VISIBLE))


class RepeatFilter(logging.Filter):
    """Let the same message through at most *burst* times in *window* seconds; count the others.

    The next one that passes says how many were held back.  Only equal texts are repeats: a failure of
    another file is another event.
    """

    def __init__(self, burst: int = 3, window: float = 30.0, remembered: int = 1000) -> None:
        super().__init__()
        self._burst = burst
        self._window = window
        self._remembered = remembered
        self._lock = threading.Lock()
        self._seen: OrderedDict[tuple[str, int, str], list[float]] = OrderedDict()
        """For each message: start of its window, how many passed in it, how many were held back."""

    def filter(self, record: logging.LogRecord) -> bool:
        """May *record* pass?"""
        key = (record.name, record.levelno, record.getMessage())
        now = time.monotonic()
        with self._lock:
            seen = self._seen.get(key)
            if seen is None or now - seen[0] >= self._window:
                if seen is not None and seen[2]:
                    record.repeats = int(seen[2])
                self._seen[key] = [now, 1, 0]
                self._seen.move_to_end(key)
                while len(self._seen) > self._remembered:
                    self._seen.popitem(last=False)
                return True
            if seen[1] < self._burst:
                seen[1] += 1
                return True
            seen[2] += 1
            return False


class SyslogHandler(logging.Handler):
    """Events as datagrams to the local syslog or journal.

    A syslog daemon that hangs must not hang the mount: what it does not take at once is dropped.
    """

    def __init__(self, address: str = SYSLOG_SOCKET) -> None:
        super().__init__()
        self._address = address
        self._socket: socket.socket | None = None
        self._connect()

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.connect(self._address)
        except BaseException:
            sock.close()
            raise
        self._socket = sock
        return sock

    def emit(self, record: logging.LogRecord) -> None:
        """Send one event, with one new try at a daemon that was restarted."""
        priority = _DAEMON_FACILITY << 3 | _syslog_severity(record.levelno)
        data = f"<{priority}>ossfs[{os.getpid()}]: {self.format(record)}".encode("utf-8", "replace")
        for _ in range(2):
            try:
                sock = self._socket or self._connect()
                sock.send(data)
                return
            except BlockingIOError:
                return
            except OSError:
                if self._socket is not None:
                    self._socket.close()
                    self._socket = None

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        super().close()


def _syslog_severity(level: int) -> int:
    for least, severity in (
        (logging.CRITICAL, 2),
        (logging.ERROR, 3),
        (logging.WARNING, 4),
        (logging.INFO, 6),
    ):
        if level >= least:
            return severity
    return 7


_configured_level = logging.INFO


def set_up(
    level: str = "info",
    *,
    background: bool = False,
    log_file: str | None = None,
    state_dir: str | None = None,
    syslog_socket: str = SYSLOG_SOCKET,
) -> str:
    """Send the log to its place; a few words that say where that is.  Raises ConfigError for log_file."""
    global _configured_level
    _configured_level = logging.getLevelNamesMapping()[level.upper()]
    handler, place = _handler(background, log_file, state_dir, syslog_socket)
    handler.setFormatter(OneLine("%(message)s" if isinstance(handler, SyslogHandler) else _FORMAT))
    handler.addFilter(RepeatFilter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)  # of libraries
    logging.getLogger(ROOT).setLevel(_configured_level)
    logging.raiseExceptions = False  # a full disk of log must not print tracebacks, or stop anything
    return place


def _handler(
    background: bool, log_file: str | None, state_dir: str | None, syslog_socket: str
) -> tuple[logging.Handler, str]:
    if log_file is not None:
        # Opened again by itself when a rotation has moved it away.
        try:
            return logging.handlers.WatchedFileHandler(log_file, encoding="utf-8", errors="replace"), log_file
        except OSError as error:
            raise ConfigError(
                f"log_file {log_file} cannot be written to: {error.strerror}; "
                "accepted: a file, new or old, in a directory that exists"
            ) from None
    if not background:
        return logging.StreamHandler(sys.stderr), "standard error"
    if os.path.exists(syslog_socket):
        try:
            return SyslogHandler(syslog_socket), "syslog"
        except OSError:
            pass  # a socket that nobody listens at
    if state_dir is not None:
        path = os.path.join(state_dir, _FALLBACK_NAME)
        try:
            os.makedirs(state_dir, mode=0o700, exist_ok=True)
            return (
                logging.handlers.RotatingFileHandler(
                    path, maxBytes=_FALLBACK_BYTES, backupCount=1, encoding="utf-8", errors="replace"
                ),
                path,
            )
        except OSError:
            pass  # no place left but the one that is closed at `ready`
    return logging.StreamHandler(sys.stderr), "standard error"


def toggle_debug() -> bool:
    """Debug logging on, or back to the configured level; True when it is on now."""
    logger = logging.getLogger(ROOT)
    on = logger.level != logging.DEBUG
    # A mount that was told to debug from the start is quietened all the same.
    logger.setLevel(logging.DEBUG if on else max(_configured_level, logging.INFO))
    logger.warning("debug logging is %s", "on" if on else "off")
    return on
