"""Who we are to the service: where the keys come from, and how oss2 signs with them.

Threading: providers may be asked from any thread; `refresh` may block.

Two sources for now, a file that was named and the environment; a provider is anything with `get`
and `refresh`, so that a chain of more can be one too.  The names of the environment's variables are
oss2's (EnvironmentVariableCredentialsProvider), the file's form is ossfs 1.x's.
"""

from __future__ import annotations

import hmac
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Protocol
from urllib.parse import quote_from_bytes

import oss2

from ossfs.errors import ConfigError

SYSTEM_PASSWD_FILE: Final = "/etc/passwd-ossfs"  # noqa: S105  a path
"""The one file that a group may read: ossfs 1.x has it so (mode 640)."""

_ACCEPTED: Final = "set OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET, or name a file with -o passwd_file="


@dataclass(frozen=True)
class Credentials:
    """Keys for signing.  The secret parts are not shown by repr.

    expiration: unix seconds, or None for keys that do not expire.
    """

    access_key_id: str
    access_key_secret: str = field(repr=False)
    security_token: str = field(default="", repr=False)
    expiration: float | None = None


class CredentialsProvider(Protocol):
    """Where credentials come from."""

    def get(self) -> Credentials:
        """The current ones; from any thread."""
        ...

    def refresh(self) -> None:
        """The service called them expired: get new ones, if that is possible.  May block."""
        ...


class StaticCredentials:
    """Keys that do not change."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def get(self) -> Credentials:
        return self._credentials

    def refresh(self) -> None:
        """Nothing can be done."""


class PasswdFile:
    """Lines of `[bucket:]AccessKeyId:AccessKeySecret`; # begins a comment.  Read again by refresh.

    Raises ConfigError when the file cannot be used.
    """

    def __init__(self, bucket: str, path: str) -> None:
        self._bucket = bucket
        self._path = path
        self._credentials = self._read()

    def get(self) -> Credentials:
        return self._credentials

    def refresh(self) -> None:
        """Read the file again: somebody may have put new keys there."""
        self._credentials = self._read()

    def _read(self) -> Credentials:
        path = self._path
        try:
            with open(path, encoding="utf-8") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                allowed = 0o640 if path == SYSTEM_PASSWD_FILE else 0o600
                if mode & 0o077 & ~allowed:
                    raise ConfigError(
                        f"passwd_file {path} has mode {mode:04o}: others could use its secrets; "
                        f"make it {allowed:04o} (chmod {allowed:o} {path})"
                    )
                text = file.read()
        except OSError as error:
            raise ConfigError(f"passwd_file {path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"passwd_file {path} is not text: lines are [bucket:]KEY_ID:SECRET") from None
        return self._parse(text)

    def _parse(self, text: str) -> Credentials:
        general: Credentials | None = None
        for number, line in enumerate(text.splitlines(), 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            fields = [part.strip() for part in line.split(":")]
            if len(fields) not in (2, 3) or not all(fields):
                raise ConfigError(
                    f"passwd_file {self._path} line {number} is malformed: lines are [bucket:]KEY_ID:SECRET"
                )
            credentials = Credentials(fields[-2], fields[-1])
            if len(fields) == 3 and fields[0] == self._bucket:
                return credentials
            if len(fields) == 2 and general is None:
                general = credentials
        if general is None:
            raise ConfigError(
                f"passwd_file {self._path} has no line for bucket {self._bucket}: "
                "lines are [bucket:]KEY_ID:SECRET"
            )
        return general


def load_credentials(bucket: str, passwd_file: str | None, environ: Mapping[str, str]) -> CredentialsProvider:
    """The credentials for *bucket*: those of the file when one is named, else the environment's.

    Raises ConfigError with one line that says what is missing and what is accepted.
    """
    if passwd_file:
        return PasswdFile(bucket, passwd_file)
    key_id = environ.get("OSS_ACCESS_KEY_ID", "").strip()
    secret = environ.get("OSS_ACCESS_KEY_SECRET", "").strip()
    if not key_id and not secret:
        raise ConfigError(f"no credentials: {_ACCEPTED}")
    if not key_id:
        raise ConfigError(f"OSS_ACCESS_KEY_SECRET is set, but OSS_ACCESS_KEY_ID is missing: {_ACCEPTED}")
    if not secret:
        raise ConfigError(f"OSS_ACCESS_KEY_ID is set, but OSS_ACCESS_KEY_SECRET is missing: {_ACCEPTED}")
    token = environ.get("OSS_SESSION_TOKEN", "").strip()
    return StaticCredentials(Credentials(key_id, secret, token))


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
    if region:
        return SignerV4(_ForOss2(provider))
    return oss2.ProviderAuth(_ForOss2(provider))
