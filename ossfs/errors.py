"""The one tree of errors, and the one table from error to errno and log level.

No state; safe from any thread.  Code outside this module decides by class, never by text.

    OssfsError
    ├── UserError                 one line for the person at the command line
    │   ├── ConfigError           an option, variable or file that cannot be accepted
    │   │   └── NoCredentials     no source has keys
    │   └── MountError            the mount cannot be made, and why
    ├── PosixError                an errno that the tree itself decided on
    └── StoreError                the service, or the way to it
        ├── NotFound              no such key
        │   ├── NoSuchBucket
        │   ├── DanglingSymlink   a native symlink whose target is not there
        │   └── NoSuchUpload
        ├── AccessDenied          the service says no
        │   ├── InvalidAccessKey
        │   ├── SignatureMismatch
        │   ├── ClockSkewed
        │   ├── TokenExpired
        │   └── WrongRegion
        ├── AlreadyExists         forbid-overwrite met an object
        ├── PreconditionFailed    the ETag is another one
        ├── NotModified
        ├── InvalidRange
        ├── TooLarge
        ├── ObjectArchived        has to be restored before it can be read
        ├── ObjectImmutable       retention, or an object type that cannot be changed
        ├── InvalidRequest        a 4xx that is a mistake of ours
        ├── Conflict              409 of another kind
        └── Transient             worth another try
            ├── NoThread              this process gets no more threads; nothing was sent
            ├── Throttled
            ├── ServerFault       5xx, or an answer that makes no sense
            ├── RequestTimeout    the service gave up waiting for our body
            ├── ConnectFailed     nothing was sent
            │   ├── NameNotResolved
            │   └── TlsFailed     (not retried: see `retryable`)
            │       └── PlainHttp  no TLS is spoken there at all
            ├── ConnectionLost    cut in the middle; the work may have been done
            ├── ShortBody         fewer bytes than Content-Length
            ├── ChecksumMismatch
            └── DeadlineExceeded
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping


class OssfsError(Exception):
    """Base of all errors that this package raises on purpose."""

    errno: int = errno.EIO
    level: int = logging.ERROR


class UserError(OssfsError):
    """Its text is one complete line for the user: what is wrong, and what is accepted or to be done."""

    errno = errno.EINVAL


class ConfigError(UserError):
    """An option, variable or file that cannot be accepted."""


class Contradiction(ConfigError):
    """Options that do not go together.  options: their names."""

    def __init__(self, message: str, *options: str) -> None:
        super().__init__(message)
        self.options = options

    def located(self, origins: Mapping[str, str]) -> Contradiction:
        """The same, with the files and variables that those options come from, by *origins*."""
        named = [(name, origins[name]) for name in self.options if name in origins]
        if all(origin == "-o" for _, origin in named):
            return self  # in plain sight
        places = "; ".join(f"{name}: {origin}" for name, origin in named)
        return type(self)(f"{self} ({places})", *self.options)


class NoCredentials(ConfigError):
    """None of the sources has keys.  looked_at: each of them, and why it has none.  accepted: what to do."""

    def __init__(self, looked_at: list[str], accepted: str) -> None:
        super().__init__(f"no credentials: {accepted}; looked at: {'; '.join(looked_at)}")
        self.looked_at = looked_at
        self.accepted = accepted


class MountError(UserError):
    """The mount cannot be made."""


class PosixError(OssfsError):
    """An answer that POSIX names for the call at hand, decided without asking anybody else."""

    level = logging.DEBUG

    def __init__(self, code: int, what: str = "", *, level: int = logging.DEBUG) -> None:
        super().__init__(f"{errno.errorcode.get(code, code)}{': ' if what else ''}{what}")
        self.errno = code
        self.level = level


class StoreError(OssfsError):
    """The service refused, or could not be reached.

    operation: name of the call, as the service's documentation has it (PutObject...)
    key: the object's key, or "" for bucket operations
    status: HTTP status, or 0 when there was no answer
    code, ec: the service's error code and detailed code, "" when there was no answer
    request_id: the service's id of the request, "" when there was no answer
    """

    retryable: bool = False
    """May the same call be tried again?"""
    maybe_done: bool = False
    """The work may have been done although no good answer came."""

    def __init__(
        self,
        message: str = "",
        *,
        operation: str = "",
        key: str = "",
        status: int = 0,
        code: str = "",
        ec: str = "",
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.operation = operation
        self.key = key
        self.status = status
        self.code = code
        self.ec = ec
        self.request_id = request_id
        self.server_date: int = 0
        """The service's clock when it answered, in unix seconds; 0 when there was no answer that said."""
        self.retry_after: float | None = None
        """Seconds the service asked us to wait, or None."""

    def __str__(self) -> str:
        parts = [self.operation or "request"]
        if self.key:
            parts.append(repr(self.key))
        parts.append("failed:")
        parts.append(self.message or type(self).__name__)
        if self.status:
            parts.append(f"[{self.status} {self.code}]".replace(" ]", "]"))
        if self.request_id:
            parts.append(f"request-id={self.request_id}")
        return " ".join(parts)


class NotFound(StoreError):
    errno = errno.ENOENT
    level = logging.DEBUG


class NoSuchBucket(NotFound):
    errno = errno.EIO
    level = logging.ERROR


class DanglingSymlink(NotFound):
    pass


class NoSuchUpload(NotFound):
    errno = errno.EIO
    level = logging.WARNING


class AccessDenied(StoreError):
    errno = errno.EACCES
    level = logging.ERROR


class InvalidAccessKey(AccessDenied):
    pass


class SignatureMismatch(AccessDenied):
    pass


class ClockSkewed(AccessDenied):
    errno = errno.EIO


class TokenExpired(AccessDenied):
    pass


class WrongRegion(AccessDenied):
    errno = errno.EIO


class AlreadyExists(StoreError):
    errno = errno.EEXIST
    level = logging.DEBUG


class PreconditionFailed(StoreError):
    errno = errno.ESTALE
    level = logging.WARNING


class NotModified(StoreError):
    errno = errno.EIO
    level = logging.WARNING


class InvalidRange(StoreError):
    errno = errno.EIO
    level = logging.WARNING


class TooLarge(StoreError):
    errno = errno.EFBIG


class ObjectArchived(StoreError):
    errno = errno.EIO

    def __str__(self) -> str:
        return super().__str__() + ": it is archived, and must be restored before it can be read"


class ObjectImmutable(StoreError):
    errno = errno.EPERM
    level = logging.WARNING


class InvalidRequest(StoreError):
    errno = errno.EIO


class Conflict(StoreError):
    errno = errno.EIO


class Transient(StoreError):
    errno = errno.EIO
    level = logging.WARNING
    retryable = True


class NoThread(Transient):
    errno = errno.ENOMEM


class Throttled(Transient):
    pass


class ServerFault(Transient):
    maybe_done = True


class RequestTimeout(Transient):
    pass


class ConnectFailed(Transient):
    pass


class NameNotResolved(ConnectFailed):
    pass


class TlsFailed(ConnectFailed):
    """A certificate that cannot be trusted does not get better by asking again."""

    retryable = False


class PlainHttp(TlsFailed):
    """The port speaks HTTP without TLS."""


class ConnectionLost(Transient):
    maybe_done = True


class ShortBody(Transient):
    maybe_done = True


class ChecksumMismatch(Transient):
    maybe_done = True


class DeadlineExceeded(Transient):
    errno = errno.ETIMEDOUT
    maybe_done = True


def errno_of(error: BaseException) -> int:
    """The errno that a system call answers for *error*: EIO for everything nobody foresaw."""
    if isinstance(error, OssfsError):
        return error.errno
    return errno.EIO


def level_of(error: BaseException) -> int:
    """The logging level for *error*: a missing file is no news, a refused credential is."""
    if isinstance(error, OssfsError):
        return error.level
    return logging.CRITICAL
