"""Who we are to the service: what credentials are, how they stay fresh, and how oss2 signs with them.

Threading: providers may be asked from any thread.  `refresh` may block, and so may `get` of temporary
credentials that have run out: requests are signed in worker threads, so the loop does not wait.

Where the keys come from is told in chain.py.
"""

from __future__ import annotations

import hmac
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NoReturn, Protocol
from urllib.parse import quote_from_bytes

import oss2

from ossfs import logs
from ossfs.errors import ConfigError

log = logging.getLogger(__name__)

MAX_MARGIN: Final = 900.0
"""Seconds before they run out from which credentials are renewed, at most: the alibabacloud-credentials
library calls them stale 15 minutes before."""
_MARGIN_SHARE: Final = 0.15
"""The same as a share of their lifetime, for short-lived ones: oss2's rule."""
_TOO_LATE: Final = 10.0
"""Seconds of validity with which a request is not begun any more: it has to arrive, too."""
_AGAIN_AFTER: Final = 60.0
"""Seconds between two attempts to renew credentials that are still good."""
_AGAIN_WHEN_EXPIRED: Final = 5.0
"""The same when they have run out, so that a dead source is not asked by each of many requests."""


@dataclass(frozen=True)
class Credentials:
    """Keys for signing.  The secret parts are not shown by repr.

    expiration: unix seconds, or None for keys that do not expire.
    """

    access_key_id: str
    access_key_secret: str = field(repr=False)
    security_token: str = field(default="", repr=False)
    expiration: float | None = None

    def __reduce__(self) -> NoReturn:
        """Refuse pickle and copy: a secret stays in the one object that is asked for it."""
        raise TypeError("credentials are not copied or pickled")


class CredentialsProvider(Protocol):
    """Where credentials come from.  source: a few words that say where, for people."""

    source: str

    def get(self) -> Credentials:
        """The current ones; from any thread."""
        ...

    def refresh(self) -> None:
        """The service called them expired: get new ones, if that is possible.  May block."""
        ...


class StaticCredentials:
    """Keys that do not change."""

    def __init__(self, credentials: Credentials, source: str = "given") -> None:
        self.source = source
        self._credentials = credentials

    def get(self) -> Credentials:
        return self._credentials

    def refresh(self) -> None:
        """Nothing can be done."""


class Anonymous(StaticCredentials):
    """No keys: requests are not signed.  For buckets that everybody may read."""

    def __init__(self) -> None:
        super().__init__(Credentials("", ""), "anonymous: requests are not signed")


class RefreshingCredentials:
    """Credentials that are fetched again: before they run out, and when the service calls them expired.

    fetch: blocks; returns new ones, or raises ConfigError with the reason.  It is called at once.
    clock: unix seconds.

    The one who asks shortly before they run out gets the old ones, and a thread fetches the new ones;
    only when they have run out does he wait.  When none can be had the old ones are kept: the service
    has the last word.
    """

    def __init__(
        self, source: str, fetch: Callable[[], Credentials], clock: Callable[[], float] = time.time
    ) -> None:
        self.source = source
        self._fetch = fetch
        self._clock = clock
        self._lock = threading.Lock()
        self._renewing = threading.Lock()
        self._generation = 0
        self._refreshed = -math.inf
        """When somebody was told last that they had expired, and new ones were asked for."""
        self._take(fetch())

    def _take(self, fetched: Credentials) -> None:
        logs.hide(fetched.access_key_secret)
        logs.hide(fetched.security_token)
        now = self._clock()
        lifetime = (fetched.expiration or now) - now
        self._margin = max(0.0, min(MAX_MARGIN, lifetime * _MARGIN_SHARE))
        self._next_try = now + min(_AGAIN_AFTER, max(0.0, lifetime - self._margin))
        self._current = fetched
        self._generation += 1

    def get(self) -> Credentials:
        """The current ones.  Waits for new ones only when these have run out."""
        current = self._current
        if current.expiration is None:
            return current
        now = self._clock()
        left = current.expiration - now
        if left <= min(_TOO_LATE, self._margin):
            self._renew(self._generation, only_when_due=True)
        elif left <= self._margin and now >= self._next_try and self._renewing.acquire(blocking=False):
            threading.Thread(target=self._renew_ahead, name="ossfs-credentials", daemon=True).start()
        return self._current

    def refresh(self) -> None:
        """Fetch new ones; of many threads that ask at a time, one does it for all.

        Those that come just after it were refused with the old ones, too: what it got, or that it got
        nothing, holds for them.
        """
        self._renew(self._generation, only_when_due=False)

    def _renew_ahead(self) -> None:
        try:
            self._renew(self._generation, only_when_due=True)
        finally:
            self._renewing.release()

    def _renew(self, generation: int, *, only_when_due: bool) -> None:
        with self._lock:
            if self._generation != generation:
                return  # another thread was faster
            now = self._clock()
            if now < (self._next_try if only_when_due else self._refreshed + _AGAIN_WHEN_EXPIRED):
                return
            if not only_when_due:
                self._refreshed = now
            try:
                self._take(self._fetch())
            except ConfigError as error:
                left = (self._current.expiration or now) - now
                self._next_try = now + (_AGAIN_AFTER if left > _AGAIN_AFTER else _AGAIN_WHEN_EXPIRED)
                log.warning("new credentials cannot be had, the old ones are kept: %s", error)
            else:
                log.info("new credentials from %s", self.source)


class _ForOss2:
    """A provider as oss2 wants it (oss2.credentials.CredentialsProvider)."""

    def __init__(self, provider: CredentialsProvider) -> None:
        self._provider = provider

    def get_credentials(self) -> oss2.credentials.Credentials:
        current = self._provider.get()
        return oss2.credentials.Credentials(
            current.access_key_id, current.access_key_secret, current.security_token
        )


@lru_cache(maxsize=8)
def _signing_key(secret: str, date: str, region: str, product: str) -> bytes:
    key = f"aliyun_v4{secret}".encode()
    for part in (date, region, product, "aliyun_v4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


class SignerV4(oss2.ProviderAuthV4):  # type: ignore[misc]
    """oss2's V4 signer with its two slow spots replaced.

    It derives the day's signing key for each request (four HMACs), and encodes names byte by byte in
    Python.  Should a later oss2 call these by other names, it is merely as slow as it always was;
    tests compare the signatures with the original's.
    """

    def _ProviderAuthV4__get_signing_key(self, req: Any, credentials: Any, date_time: str) -> bytes:
        region = req.cloudbox_id or req.region or ""
        return _signing_key(credentials.get_access_key_secret(), date_time[:8], region, req.product)

    def _ProviderAuthV4__v4_uri_encode(self, raw_text: str | bytes, keep_slashes: bool) -> str:
        raw = raw_text if isinstance(raw_text, bytes) else raw_text.encode("utf-8", "surrogateescape")
        return quote_from_bytes(raw, safe="/" if keep_slashes else "")


def make_auth(provider: CredentialsProvider, region: str | None) -> Any:
    """The oss2 auth object: V4 when the region is known, since V4 signs it, else V1."""
    if isinstance(provider, Anonymous):
        return oss2.AnonymousAuth()
    if region:
        return SignerV4(_ForOss2(provider))
    return oss2.ProviderAuth(_ForOss2(provider))
