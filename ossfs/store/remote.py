"""Credentials that somebody has to be asked for: the metadata service, STS, a URI, a program.

Threading: every function here blocks, and may be called from any thread.

The requests are made by the classes of the alibabacloud-credentials package.  It is imported by the
first function that needs it: the import takes 0.3 s, and it is an extra, so it may be missing.  Each
call makes a new provider, because the package's own caches cannot be told that the service called
credentials expired; keeping and renewing them is RefreshingCredentials' work.  Its background threads
are switched off: a mount forks after it has asked for the first time.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from ossfs.errors import ConfigError
from ossfs.logs import redact
from ossfs.store.credentials import Credentials
from ossfs.store.profiles import Profile, plain
from ossfs.values import show

METADATA_HOST: Final = "100.100.100.200"
"""The address at which an ECS instance finds its metadata (documentation, "Instance metadata")."""
METADATA_SECONDS: Final = 1.0
"""How long the metadata service may take to take a connection: it is on the same host, or nowhere."""
PROCESS_SECONDS: Final = 60.0
_MAX_OUTPUT: Final = 64 * 1024
_MAX_SOURCES: Final = 8
"""Profiles that may name each other as their source."""

_PROXY_VARIABLES: Final = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
_environment_lock = threading.Lock()

SECRET_VARIABLES: Final = (
    "OSS_ACCESS_KEY_ID",
    "OSS_ACCESS_KEY_SECRET",
    "OSS_SESSION_TOKEN",
    "ALIBABA_CLOUD_ACCESS_KEY_ID",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET",
    "ALIBABA_CLOUD_SECURITY_TOKEN",
)
"""Environment variables that no child process of a mount is given."""


def _library() -> Any:
    """alibabacloud_credentials.provider, with its log silenced: it writes what it holds there."""
    try:
        from alibabacloud_credentials import provider
    except ImportError:
        raise ConfigError(
            "needs the package alibabacloud-credentials (pip install 'ossfs[credentials]')"
        ) from None
    chatter = logging.getLogger("credentials")
    chatter.handlers.clear()
    chatter.propagate = False
    chatter.setLevel(logging.CRITICAL + 1)
    return provider


def _refusals() -> type[Exception]:
    """The error of the package for an answer that it does not like."""
    from alibabacloud_credentials.exceptions import CredentialException

    refusal: type[Exception] = CredentialException
    return refusal


def _reason(error: Exception) -> str:
    """What a library said, as a part of one line."""
    why = " ".join(redact(str(error)).split())
    return show(why, 200) if why else type(error).__name__


def _from_library(make: Callable[[Any], Any], *, unquoted: bool = False) -> Credentials:
    """What the provider that *make* makes answers.  Whatever goes wrong is a ConfigError without secrets.

    unquoted: the package's errors quote the whole answer, in which nobody knows what is secret.
    """
    library = _library()
    try:
        found = make(library).get_credentials()
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001  the package raises what its HTTP library does, and more
        if unquoted and isinstance(error, _refusals()):
            raise ConfigError("the answer holds no credentials") from None
        raise ConfigError(_reason(error)) from None
    if found is None:
        raise ConfigError("the answer holds no credentials")
    return _checked(
        found.get_access_key_id(),
        found.get_access_key_secret(),
        found.get_security_token(),
        found.get_expiration(),
    )


def _checked(key_id: object, secret: object, token: object, expiration: object) -> Credentials:
    """Credentials of what somebody answered, who may have put anything there."""
    texts = (key_id, secret, token or "")
    if not all(isinstance(text, str) for text in texts) or not key_id or not secret:
        raise ConfigError("the answer holds no credentials")
    try:
        moment = float(expiration) if expiration else None  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        moment = math.nan
    if moment is not None and not math.isfinite(moment):
        raise ConfigError("the answer holds credentials with an expiration that is no time")
    return Credentials(str(key_id), str(secret), str(token or ""), moment)


@contextmanager
def _directly() -> Iterator[None]:
    """Without a proxy: nobody but the host's own metadata service may see what is asked of it.

    Both libraries take proxies from the environment and cannot be told not to; nothing else in this process
    looks at these variables.
    """
    with _environment_lock:
        kept = {name: os.environ.pop(name) for name in _PROXY_VARIABLES if name in os.environ}
        try:
            yield
        finally:
            os.environ.update(kept)


def ecs_role(role: str | None, *, only_hardened: bool = False, host: str | None = None) -> Credentials:
    """Those of the RAM role of this ECS instance; *role* None: the one that it has.

    In hardened mode, and without it where the metadata service does not know that, unless *only_hardened*.
    """
    address = host or METADATA_HOST
    name, _, port = address.partition(":")
    try:
        socket.create_connection((name, int(port or 80)), METADATA_SECONDS).close()
    except OSError:
        raise ConfigError(f"no metadata service answers at {address}") from None

    def make(library: Any) -> Any:
        provider = library.EcsRamRoleCredentialsProvider(
            role_name=role or "", disable_imds_v1=only_hardened, async_update_enabled=False
        )
        # The one way to ask another address, which the package has as a constant.
        provider._EcsRamRoleCredentialsProvider__metadata_service_host = address
        return provider

    with _directly():
        return _from_library(make)


def ecs_url(url: str) -> Credentials:
    """Those of a complete metadata URL, as [AkService] of an ossutil 1.x configuration has it."""
    from oss2.credentials import EcsRamRoleCredentialsFetcher

    logging.getLogger("oss2.credentials").setLevel(logging.CRITICAL + 1)
    try:
        with _directly():
            found = EcsRamRoleCredentialsFetcher(url).fetch(retry_times=2, timeout=5)
    except Exception as error:  # noqa: BLE001  oss2 lets everything through that requests raises
        raise ConfigError(_reason(error)) from None
    return _checked(found.access_key_id, found.access_key_secret, found.security_token, found.expiration)


def from_uri(uri: str) -> Credentials:
    """Those that a URI answers (ALIBABA_CLOUD_CREDENTIALS_URI)."""
    return _from_library(lambda library: library.URLCredentialsProvider(uri=uri), unquoted=True)


def from_oidc(
    role_arn: str,
    provider_arn: str,
    token_file: str,
    *,
    session: str | None = None,
    seconds: int | None = None,
    endpoint: str | None = None,
    region: str | None = None,
) -> Credentials:
    """STS AssumeRoleWithOIDC, as RRSA gives a pod its role.  The token file is read each time."""
    return _from_library(
        lambda library: library.OIDCRoleArnCredentialsProvider(
            role_arn=role_arn,
            oidc_provider_arn=provider_arn,
            oidc_token_file_path=token_file,
            role_session_name=session or "ossfs",
            duration_seconds=seconds,
            sts_endpoint=endpoint,
            sts_region_id=region,
        )
    )


def assume_role(
    base: Credentials,
    role_arn: str,
    *,
    session: str | None = None,
    seconds: int | None = None,
    policy: str | None = None,
    external_id: str | None = None,
    endpoint: str | None = None,
    region: str | None = None,
) -> Credentials:
    """STS AssumeRole with the keys of *base*."""
    return _from_library(
        lambda library: library.RamRoleArnCredentialsProvider(
            access_key_id=base.access_key_id,
            access_key_secret=base.access_key_secret,
            security_token=base.security_token or None,
            role_arn=role_arn,
            role_session_name=session or "ossfs",
            duration_seconds=seconds,
            policy=policy,
            external_id=external_id,
            sts_endpoint=endpoint,
            sts_region_id=region,
        )
    )


def from_process(command: str) -> Credentials:
    """What a program prints: JSON with AccessKeyId, AccessKeySecret, and SecurityToken and Expiration for
    temporary ones; the names of the aliyun command's External mode are understood, too.

    It is run without a shell, and without the keys of our own environment.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if not words:
        raise ConfigError("is no command; accepted: a program and its arguments")
    environment = {name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES}
    try:
        done = subprocess.run(  # noqa: S603 # nosec B603 # the program that the user named, without a shell
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROCESS_SECONDS,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{show(words[0])} did not end within {PROCESS_SECONDS:.0f} seconds") from None
    except OSError as error:
        raise ConfigError(f"{show(words[0])} cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        # Neither output is quoted: nobody knows what such a program prints when it fails.
        raise ConfigError(f"{show(words[0])} ended with exit status {done.returncode}")
    try:
        document = json.loads(done.stdout[:_MAX_OUTPUT])
        given = {plain(name): value for name, value in document.items()}
    except (ValueError, AttributeError, RecursionError):
        raise ConfigError(f"{show(words[0])} printed no JSON object") from None
    key_id, secret = given.get("accesskeyid"), given.get("accesskeysecret")
    token = given.get("securitytoken") or given.get("ststoken") or ""
    if not (isinstance(key_id, str) and key_id and isinstance(secret, str) and secret):
        raise ConfigError(f"{show(words[0])} printed no AccessKeyId and AccessKeySecret")
    return Credentials(key_id, secret, str(token), _moment(given.get("expiration"), words[0]))


def _moment(text: object, program: str) -> float | None:
    if text in (None, ""):
        return None
    try:
        if isinstance(text, int | float) and math.isfinite(text):
            return float(text)
        moment = datetime.fromisoformat(str(text))
    except (ValueError, OverflowError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ConfigError(f"{show(program)} printed an Expiration that is no time as in 2030-01-31T12:00:00Z")
    return moment.timestamp()


def _seconds(profile: Profile) -> int | None:
    text = profile.get("expired_seconds")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10) or int(text) < 900:
        raise ConfigError(f"profile {show(profile.name)}: its duration is at least 900 seconds")
    return int(text)


def of_profile(profile: Profile, others: Mapping[str, Profile], depth: int = 0) -> Credentials:
    """The credentials of a profile, whatever it takes to get them.  ConfigError names what is missing."""

    def need(name: str) -> str:
        value = profile.get(name)
        if not value:
            raise ConfigError(f"profile {show(profile.name)} ({profile.mode}) has no {name}")
        return value

    mode = profile.mode
    if mode == "AK":
        return Credentials(need("access_key_id"), need("access_key_secret"))
    if mode == "StsToken":
        return Credentials(need("access_key_id"), need("access_key_secret"), need("sts_token"))
    if mode == "EcsUrl":
        return ecs_url(need("ecs_ak"))
    if mode == "EcsRamRole":
        return ecs_role(profile.get("ram_role_name") or None)
    if mode == "OIDC":
        return from_oidc(
            need("ram_role_arn"),
            need("oidc_provider_arn"),
            need("oidc_token_file"),
            session=profile.get("ram_session_name") or None,
            seconds=_seconds(profile),
            region=profile.get("sts_region") or None,
        )
    if mode in ("RamRoleArn", "ChainableRamRoleArn"):
        if mode == "RamRoleArn":
            base = Credentials(need("access_key_id"), need("access_key_secret"), profile.get("sts_token"))
        else:
            source = others.get(need("source_profile"))
            if source is None or depth >= _MAX_SOURCES:
                raise ConfigError(f"profile {show(profile.name)}: its source_profile cannot be followed")
            base = of_profile(source, others, depth + 1)
        return assume_role(
            base,
            need("ram_role_arn"),
            session=profile.get("ram_session_name") or None,
            seconds=_seconds(profile),
            policy=profile.get("policy") or None,
            external_id=profile.get("external_id") or None,
            region=profile.get("sts_region") or None,
        )
    if mode == "External":
        return from_process(need("process_command"))
    if mode == "CredentialsURI":
        return from_uri(need("credentials_uri"))
    if mode in ("CloudSSO", "OAuth"):
        # The package writes new tokens of such a login back into the file, as the aliyun command does.
        return _from_library(
            lambda library: library.CLIProfileCredentialsProvider(
                profile_name=profile.name, profile_file=profile.path
            )
        )
    raise ConfigError(
        f"profile {show(profile.name)} has mode {show(mode)}, which holds no keys; "
        "use -o credentials=anonymous"
    )
