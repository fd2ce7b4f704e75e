"""The log: one line an event, without secrets, to where somebody can find it.

Threading: all of it may be used from any thread; `set_up` is called once in a process, before threads.

In the foreground the log goes to standard error, with priorities where the journal reads that.  In the
background it goes to `log_file`, else to syslog, else to a file in the state directory: a mount that died
must have left its last words somewhere.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import re
import socket
import sys
from typing import Final, TextIO

from ossfs.errors import ConfigError
from ossfs.repeats import Repeats

ROOT: Final = "ossfs"
SYSLOG_SOCKET: Final = "/dev/log"
JOURNAL: Final = "the journal"

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
    """One line an event, tracebacks included, and no secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """The whole event."""
        text = super().format(record)
        repeats = getattr(record, "repeats", 0)
        if repeats:
            text += f" (and {repeats} times more like it)"
        line = " | ".join(line.strip() for line in text.splitlines() if line.strip())
        return redact(line.translate(_VISIBLE))


class JournalLine(OneLine):
    """For a standard error that systemd reads: the priority in front, and no time, which the journal has.

    See sd-daemon(3); the unit's SyslogLevelPrefix= is on unless somebody turns it off.
    """

    def __init__(self) -> None:
        super().__init__("%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The whole event."""
        return f"<{_syslog_severity(record.levelno)}>{super().format(record)}"


class LogFile(logging.handlers.WatchedFileHandler):
    """A file that is opened anew when a rotation has moved it away.

    An event that cannot be written is lost, as when the disk is full: the mount goes on, and the next one
    tries again.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, encoding="utf-8", errors="replace")

    def emit(self, record: logging.LogRecord) -> None:
        """Write one event."""
        try:
            super().emit(record)
        except OSError:  # of opening it: that, FileHandler does not catch
            self.handleError(record)


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
    if place == JOURNAL:
        handler.setFormatter(JournalLine())
    else:
        handler.setFormatter(OneLine("%(message)s" if isinstance(handler, SyslogHandler) else _FORMAT))
    handler.addFilter(Repeats(handler))
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
        try:
            return LogFile(log_file), log_file
        except OSError as error:
            raise ConfigError(
                f"log_file {log_file} cannot be written to: {error.strerror}; "
                "accepted: a file, new or old, in a directory that exists"
            ) from None
    if not background:
        return logging.StreamHandler(sys.stderr), JOURNAL if is_journal(sys.stderr) else "standard error"
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


def is_journal(stream: TextIO) -> bool:
    """Does the journal read *stream*?  JOURNAL_STREAM has the device and inode of what it does read."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def tell_repeats(*, everything: bool = False) -> None:
    """Write what is due of repeated events; *everything* when the process is about to end."""
    for handler in logging.getLogger().handlers:
        for one in handler.filters:
            if isinstance(one, Repeats):
                one.tell(everything=everything)


def toggle_debug() -> bool:
    """Debug logging on, or back to the configured level; True when it is on now."""
    logger = logging.getLogger(ROOT)
    on = logger.level != logging.DEBUG
    # A mount that was told to debug from the start is quietened all the same.
    logger.setLevel(logging.DEBUG if on else max(_configured_level, logging.INFO))
    logger.warning("debug logging is %s", "on" if on else "off", extra={"always": True})
    return on
