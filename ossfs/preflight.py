"""Why the one request before mounting failed, in one line that says what to do.

No state; safe from any thread.  Decided by the class of the error alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit

from ossfs.config import MountConfig
from ossfs.errors import (
    AccessDenied,
    ClockSkewed,
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    InvalidAccessKey,
    MountError,
    NameNotResolved,
    NoSuchBucket,
    PlainHttp,
    RequestTimeout,
    ServerFault,
    SignatureMismatch,
    StoreError,
    Throttled,
    TlsFailed,
    TokenExpired,
    WrongRegion,
)


class _Case:
    """What the sentences speak of."""

    def __init__(self, error: StoreError, config: MountConfig, skew: float | None) -> None:
        parts = urlsplit(config.endpoint_url)
        self.error = error
        self.config = config
        self.skew = skew
        self.scheme = parts.scheme
        self.host = parts.hostname or ""
        self.address = f"{self.host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
        self.option = "endpoint" if config.endpoint is not None else "region"
        self.target = f"bucket {config.bucket}" + (f", prefix {config.prefix}" if config.prefix else "")

    @property
    def why(self) -> str:
        """The service's or the library's own words, when there are any."""
        message = " ".join(self.error.message.split())
        return f" ({message})" if message else ""


def _name(case: _Case) -> str:
    return (
        f"the host {case.host} has no address; check the {case.option} option, and this machine's name "
        "resolution and network"
    )


def _tls(case: _Case) -> str:
    return (
        f"no trusted TLS connection to {case.address}{case.why}; check the endpoint, give its CA with "
        "-o ca_file=FILE, or use http with -o secure=false where nobody listens in"
    )


def _plain(case: _Case) -> str:
    return (
        f"{case.address} speaks http, not https; set -o secure=false, or -o endpoint=http://{case.address}, "
        "where nobody listens in"
    )


def _connect(case: _Case) -> str:
    return (
        f"no {case.scheme} connection to {case.address}{case.why}; check host, port and scheme of the "
        f"{case.option} option, and firewalls on the way"
    )


def _timeout(case: _Case) -> str:
    internal = " (internal endpoints answer only inside their region)" if "-internal." in case.host else ""
    return f"{case.address} did not answer in time{internal}; check the {case.option} option and the network"


def _lost(case: _Case) -> str:
    return (
        f"{case.address} broke the connection off{case.why}; check that it is an OSS endpoint and that it "
        f"speaks {case.scheme}"
    )


def _region(case: _Case) -> str:
    return (
        f"bucket {case.config.bucket} is in another region than {case.host}{case.why}; set -o region= or "
        "-o endpoint= to the bucket's own"
    )


def _access_key(case: _Case) -> str:
    return (
        "the service does not know this access key id; check OSS_ACCESS_KEY_ID or the passwd_file, and that "
        "the key is enabled"
    )


def _signature(case: _Case) -> str:
    return (
        "the access key secret does not belong to the access key id; check OSS_ACCESS_KEY_SECRET or the "
        "passwd_file, for blanks at the end too"
    )


def _clock(case: _Case) -> str:
    by = ""
    if case.skew is not None:
        direction = "ahead of" if case.skew > 0 else "behind"
        by = f" by {format_duration(abs(case.skew))} {direction} the service"
    return f"this machine's clock is wrong{by}; set it, as with `timedatectl set-ntp true`, and mount again"


def _token(case: _Case) -> str:
    return (
        "the security token has expired; get a new one and set OSS_SESSION_TOKEN with its key id and secret"
    )


def _denied(case: _Case) -> str:
    if case.config.credentials == "anonymous":
        return (
            f"{case.target} does not let everybody list it{case.why}; leave credentials=anonymous out and "
            "give access keys"
        )
    return (
        f"the access key may not list {case.target}{case.why}; grant it oss:ListObjects, and oss:GetObject, "
        "oss:PutObject and oss:DeleteObject, or check the bucket's policy"
    )


def _bucket(case: _Case) -> str:
    return (
        f"there is no bucket {case.config.bucket} at {case.host}; check name and region, or create it first"
    )


def _throttled(case: _Case) -> str:
    return f"the service refuses requests because there are too many{case.why}; try again later"


def _fault(case: _Case) -> str:
    return (
        f"{case.address} answered with an error of its own{case.why}; try again later, or check the endpoint"
    )


def _other(case: _Case) -> str:
    return f"{case.target} cannot be listed{case.why}; check the endpoint and the options"


Step: TypeAlias = Literal["endpoint", "clock", "signature", "region", "bucket", "list"]
"""What the first request proves, one after the other."""

_SENTENCES: Final[tuple[tuple[type[StoreError], Callable[[_Case], str], Step], ...]] = (
    # Subclasses before their parents.
    (NoSuchBucket, _bucket, "bucket"),
    (InvalidAccessKey, _access_key, "signature"),
    (SignatureMismatch, _signature, "signature"),
    (ClockSkewed, _clock, "clock"),
    (TokenExpired, _token, "signature"),
    (WrongRegion, _region, "region"),
    (AccessDenied, _denied, "list"),
    (NameNotResolved, _name, "endpoint"),
    (PlainHttp, _plain, "endpoint"),
    (TlsFailed, _tls, "endpoint"),
    (ConnectFailed, _connect, "endpoint"),
    (DeadlineExceeded, _timeout, "endpoint"),
    (RequestTimeout, _timeout, "endpoint"),
    (ConnectionLost, _lost, "endpoint"),
    (Throttled, _throttled, "list"),
    (ServerFault, _fault, "list"),
)


def explain(error: StoreError, config: MountConfig, *, skew: float | None = None) -> MountError:
    """The MountError to show for *error*, which came of listing the bucket before the mount.

    skew: seconds that this machine's clock is ahead of the service's; what the answer's Date says when not
    given.
    """
    if skew is None and error.server_date:
        skew = time.time() - error.server_date
    line = f"cannot mount {config.source}: {reason(error, config, skew)}"
    facts = []
    if error.status:
        facts.append(" ".join(filter(None, (str(error.status), error.code, error.ec))))
    if error.request_id:
        facts.append(f"request id {error.request_id}")
    return MountError(f"{line} [{', '.join(facts)}]" if facts else line)


def reason(error: StoreError, config: MountConfig, skew: float | None = None) -> str:
    """What is wrong and what to do, parted by a semicolon.  skew: as for `explain`."""
    sentence = next((say for kind, say, _ in _SENTENCES if isinstance(error, kind)), _other)
    return sentence(_Case(error, config, skew))


def failed_step(error: StoreError) -> Step:
    """How far the first request came."""
    found = next((step for kind, _, step in _SENTENCES if isinstance(error, kind)), None)
    return found or ("list" if error.status else "endpoint")


def format_duration(seconds: float) -> str:
    """`40 seconds`, `17 minutes`, `2.5 hours`, `3 days`: as coarse as a person wants it."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.0f} seconds"
