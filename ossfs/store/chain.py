"""Which credentials a bucket is opened with: the sources, their order, and what is said when none has any.

Threading: `load_credentials` blocks (files, and for some sources the network) and is called before the
loop is started.

What is named explicitly counts alone: an error there is an error.  Otherwise each source is tried in the
order of SOURCES, and one that has nothing, or nothing usable, is passed over and remembered, so that the
message can tell all that was looked at.  Names of variables and files are those of oss2, ossutil, ossfs
1.x and the aliyun command.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ossfs import logs
from ossfs.errors import ConfigError, NoCredentials
from ossfs.store import remote
from ossfs.store.credentials import (
    Anonymous,
    Credentials,
    CredentialsProvider,
    RefreshingCredentials,
    StaticCredentials,
)
from ossfs.store.passwd_file import SYSTEM_PASSWD_FILE, PasswdFile
from ossfs.store.profiles import Profile, read_aliyun, read_credentials_ini, read_ossutil

ACCEPTED: Final = "set OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET, or name a file with -o passwd_file="
MAX_PASSED_OVER: Final = 120
"""Characters of each source's reason in the one line that lists them all."""


@dataclass(frozen=True)
class Wanted:
    """What the options say of credentials.

    choice: auto, or the name of one source of SOURCES, or anonymous.
    process: a command that prints credentials.  ram_role: of the ECS instance.
    role_arn: a role to assume with the credentials that were found.
    profile: which one of a configuration file that has several.
    """

    bucket: str
    choice: str = "auto"
    passwd_file: str | None = None
    process: str | None = None
    ram_role: str | None = None
    role_arn: str | None = None
    profile: str | None = None
    home: str = field(default_factory=lambda: os.path.expanduser("~"))


Finder = Callable[[Wanted, Mapping[str, str]], CredentialsProvider]


def _pair(environ: Mapping[str, str], key_id: str, secret: str, token: str) -> CredentialsProvider:
    id_value, secret_value = environ.get(key_id, "").strip(), environ.get(secret, "").strip()
    if not id_value and not secret_value:
        raise ConfigError("not set")
    if not id_value:
        raise _HalfSet(f"{secret} is set, but {key_id} is missing: {ACCEPTED}")
    if not secret_value:
        raise _HalfSet(f"{key_id} is set, but {secret} is missing: {ACCEPTED}")
    credentials = Credentials(id_value, secret_value, environ.get(token, "").strip())
    return StaticCredentials(credentials, f"{key_id} in the environment")


class _HalfSet(ConfigError):
    """Somebody meant this source, so that passing over it would be a surprise."""


def _environment(wanted: Wanted, environ: Mapping[str, str]) -> CredentialsProvider:
    try:
        return _pair(environ, "OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN")
    except _HalfSet:
        raise
    except ConfigError:
        pass
    return _pair(
        environ,
        "ALIBABA_CLOUD_ACCESS_KEY_ID",
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET",
        "ALIBABA_CLOUD_SECURITY_TOKEN",
    )


def _oidc(wanted: Wanted, environ: Mapping[str, str]) -> CredentialsProvider:
    names = ("ALIBABA_CLOUD_ROLE_ARN", "ALIBABA_CLOUD_OIDC_PROVIDER_ARN", "ALIBABA_CLOUD_OIDC_TOKEN_FILE")
    role, provider, file = (environ.get(name, "").strip() for name in names)
    if not (role and provider and file):
        raise ConfigError("not set")
    session = environ.get("ALIBABA_CLOUD_ROLE_SESSION_NAME") or None
    return RefreshingCredentials(
        f"RRSA/OIDC role {role}", lambda: remote.from_oidc(role, provider, file, session=session)
    )


def _system_passwd_file(wanted: Wanted, environ: Mapping[str, str]) -> CredentialsProvider:
    if not os.path.exists(SYSTEM_PASSWD_FILE):
        raise ConfigError("no such file")
    return PasswdFile(wanted.bucket, SYSTEM_PASSWD_FILE)


def _of_profile(
    path: str, wanted: Wanted, read: Callable[[str, str | None], tuple[Profile, Mapping[str, Profile]]]
) -> CredentialsProvider:
    name = wanted.profile

    def fetch() -> Credentials:
        return remote.of_profile(*read(path, name))

    profile, _ = read(path, name)
    # Also keys that do not expire: somebody may put new ones into the file.
    return RefreshingCredentials(f"profile {profile.name} of {path}", fetch)


def _ossutil(wanted: Wanted, environ: Mapping[str, str]) -> CredentialsProvider:
    path = environ.get("OSSUTIL_CONFIG_FILE") or os.path.join(wanted.home, ".ossutilconfig")
    return _of_profile(path, wanted, read_ossutil)


def _aliyun(wanted: Wanted, environ: Mapping[str, str]) -> CredentialsProvider:
    if environ.get("ALIBABA_CLOUD_CLI_PROFILE_DISABLED", "").lower() == "true":
        raise ConfigError("ALIBABA_CLOUD_CLI_PROFILE_DISABLED is set")
    return _of_profile(
        os.path.join(wanted.home, ".aliyun", "config.json"), _named(wanted, environ), read_aliyun
    )


def _credentials_ini(wanted: Wanted, environ: Mapping[str, str]) -> CredentialsProvider:
    path = environ.get("ALIBABA_CLOUD_CREDENTIALS_FILE") or os.path.join(
        wanted.home, ".alibabacloud", "credentials.ini"
    )
    return _of_profile(path, _named(wanted, environ), read_credentials_ini)


def _named(wanted: Wanted, environ: Mapping[str, str]) -> Wanted:
    name = wanted.profile or environ.get("ALIBABA_CLOUD_PROFILE") or None
    return Wanted(wanted.bucket, profile=name, home=wanted.home)


def _ecs(wanted: Wanted, environ: Mapping[str, str]) -> CredentialsProvider:
    if environ.get("ALIBABA_CLOUD_ECS_METADATA_DISABLED", "").lower() == "true":
        raise ConfigError("ALIBABA_CLOUD_ECS_METADATA_DISABLED is set")
    role = wanted.ram_role or environ.get("ALIBABA_CLOUD_ECS_METADATA") or None
    hardened = environ.get("ALIBABA_CLOUD_IMDSV1_DISABLED", "").lower() == "true"
    return RefreshingCredentials(
        f"RAM role {role or ''}".rstrip() + " of this ECS instance",
        lambda: remote.ecs_role(role, only_hardened=hardened),
    )


def _uri(wanted: Wanted, environ: Mapping[str, str]) -> CredentialsProvider:
    uri = environ.get("ALIBABA_CLOUD_CREDENTIALS_URI", "").strip()
    if not uri:
        raise ConfigError("not set")
    return RefreshingCredentials("ALIBABA_CLOUD_CREDENTIALS_URI", lambda: remote.from_uri(uri))


SOURCES: Final[tuple[tuple[str, str, Finder], ...]] = (
    ("environment", "OSS_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_ID in the environment", _environment),
    ("oidc", "ALIBABA_CLOUD_ROLE_ARN with OIDC", _oidc),
    ("passwd", SYSTEM_PASSWD_FILE, _system_passwd_file),
    ("ossutil", "~/.ossutilconfig", _ossutil),
    ("aliyun", "~/.aliyun/config.json", _aliyun),
    ("ini", "~/.alibabacloud/credentials.ini", _credentials_ini),
    ("uri", "ALIBABA_CLOUD_CREDENTIALS_URI", _uri),
    ("ecs", "RAM role of an ECS instance", _ecs),
)
"""Name (for -o credentials=), what people call it, and how it is asked; in the order of the chain.

The metadata service comes last: off ECS it takes a second to find out that nobody answers there."""


def load_credentials(
    wanted: Wanted, environ: Mapping[str, str], sources: tuple[tuple[str, str, Finder], ...] = SOURCES
) -> CredentialsProvider:
    """The credentials for a bucket.

    Raises ConfigError of one line: what is wrong with the source that was named, or each source that was
    looked at and why it has none.
    """
    provider = _find(wanted, environ, sources)
    if isinstance(provider, StaticCredentials):
        logs.hide(provider.get().access_key_secret)
        logs.hide(provider.get().security_token)
    if not wanted.role_arn:
        return provider
    base, role = provider, wanted.role_arn

    def assume() -> Credentials:
        return remote.assume_role(base.get(), role)

    try:
        return RefreshingCredentials(f"role {role}, assumed with {base.source}", assume)
    except ConfigError as error:
        raise ConfigError(f"role_arn={role} cannot be assumed with {base.source}: {error}") from None


def _find(
    wanted: Wanted, environ: Mapping[str, str], sources: tuple[tuple[str, str, Finder], ...]
) -> CredentialsProvider:
    choice = wanted.choice
    if choice == "anonymous":
        return Anonymous()
    if wanted.process:
        command = wanted.process
        try:
            return RefreshingCredentials("credential_process", lambda: remote.from_process(command))
        except ConfigError as error:
            raise ConfigError(f"credential_process: {error}") from None
    if wanted.passwd_file:
        return PasswdFile(wanted.bucket, wanted.passwd_file)
    if wanted.ram_role and choice == "auto":
        choice = "ecs"
    looked: list[str] = []
    for name, label, find in sources:
        if choice not in ("auto", name):
            continue
        try:
            return find(wanted, environ)
        except _HalfSet:
            raise
        except ConfigError as error:
            reason = str(error)
            if choice == "auto" and len(reason) > MAX_PASSED_OVER:
                reason = reason[: MAX_PASSED_OVER - 3] + "..."
            looked.append(f"{label} ({reason})")
    raise NoCredentials(looked, ACCEPTED)
