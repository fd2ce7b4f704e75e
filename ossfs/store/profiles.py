"""The configuration files of other tools that hold credentials, read into one form.

No state; safe from any thread; local files only.  `~/.ossutilconfig` (ossutil 1.x and 2.x write
different sections into the same file), `~/.aliyun/config.json` and `~/.alibabacloud/credentials.ini`
all end up as Profiles, whose field names are those of `~/.aliyun/config.json`.

Whatever is wrong with a file is a ConfigError that names it, and never quotes it.
"""

from __future__ import annotations

import configparser
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ossfs.errors import ConfigError
from ossfs.values import show

_MODES: Final = {
    "": "AK",
    "ak": "AK",
    "accesskey": "AK",
    "ststoken": "StsToken",
    "sts": "StsToken",
    "ramrolearn": "RamRoleArn",
    "chainableramrolearn": "ChainableRamRoleArn",
    "ecsramrole": "EcsRamRole",
    "oidc": "OIDC",
    "oidcrolearn": "OIDC",
    "cloudsso": "CloudSSO",
    "oauth": "OAuth",
    "external": "External",
    "process": "External",
    "credentialsuri": "CredentialsURI",
    "uri": "CredentialsURI",
    "anonymous": "Anonymous",
}
_NAMES: Final = {
    "accesskeyid": "access_key_id",
    "accesskeysecret": "access_key_secret",
    "ststoken": "sts_token",
    "securitytoken": "sts_token",
    "rolearn": "ram_role_arn",
    "ramrolearn": "ram_role_arn",
    "rolename": "ram_role_name",
    "ecsrolename": "ram_role_name",
    "ramrolename": "ram_role_name",
    "rolesessionname": "ram_session_name",
    "ramsessionname": "ram_session_name",
    "sessionname": "ram_session_name",
    "tokentimeout": "expired_seconds",
    "durationseconds": "expired_seconds",
    "roledurationseconds": "expired_seconds",
    "sessionexpiration": "expired_seconds",
    "expiredseconds": "expired_seconds",
    "oidcproviderarn": "oidc_provider_arn",
    "oidctokenfile": "oidc_token_file",
    "oidctokenfilepath": "oidc_token_file",
    "credentialprocess": "process_command",
    "processcommand": "process_command",
    "credentialuri": "credentials_uri",
    "credentialsuri": "credentials_uri",
    "sourceprofile": "source_profile",
    "stsregion": "sts_region",
    "stsregionid": "sts_region",
    "externalid": "external_id",
    "enablevpc": "enable_vpc",
    "ecsak": "ecs_ak",
}
"""Names as the tools spell them, without punctuation and case, to those of ~/.aliyun/config.json."""


@dataclass(frozen=True)
class Profile:
    """How one named profile gets its credentials.  Its fields hold secrets, so repr does not show them."""

    path: str
    name: str
    mode: str
    fields: Mapping[str, Any] = field(repr=False)

    def get(self, name: str) -> str:
        """A field as text, "" when it is not there."""
        value = self.fields.get(name)
        return str(value).strip() if value not in (None, "") else ""


def plain(text: str) -> str:
    """A name without case and punctuation."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _profile(path: str, name: str, given: Mapping[str, Any]) -> Profile:
    fields = {_NAMES.get(plain(key), key.lower().replace("-", "_")): value for key, value in given.items()}
    word = str(fields.get("mode") or fields.get("type") or "")
    mode = _MODES.get(plain(word))
    if mode is None:
        raise ConfigError(
            f"profile {show(name)} has the mode {word[:40]!r}; accepted: AK, StsToken, RamRoleArn, "
            "ChainableRamRoleArn, EcsRamRole, OIDC, CloudSSO, OAuth, External, CredentialsURI"
        )
    if mode == "AK" and fields.get("sts_token"):
        mode = "StsToken"
    if mode == "RamRoleArn" and fields.get("source_profile") and not fields.get("access_key_id"):
        mode = "ChainableRamRoleArn"
    return Profile(path, name, mode, fields)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except FileNotFoundError:
        raise ConfigError("no such file") from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError("is not text") from None


def _ini(path: str) -> dict[str, dict[str, str]]:
    """Sections of an ini file, under their names in lower case."""
    parser = configparser.ConfigParser(
        interpolation=None, default_section="\0", strict=False, comment_prefixes=("#", ";")
    )
    parser.optionxform = str.lower  # type: ignore[assignment, method-assign]
    try:
        parser.read_string(_read(path))
    except configparser.Error as error:
        line = getattr(error, "lineno", None) or next((n for n, _ in getattr(error, "errors", [])), 0)
        raise ConfigError(f"line {line} is malformed; accepted: [section] and name=value") from None
    return {name.strip().lower(): dict(parser[name]) for name in parser.sections()}


def read_ossutil(path: str, name: str | None) -> tuple[Profile, Mapping[str, Profile]]:
    """The wanted profile of an ossutil configuration file, and all of them by name.

    1.x has [Credentials] and perhaps [AkService]; 2.x has [default] and [profile NAME].
    """
    sections = _ini(path)
    profiles: dict[str, Profile] = {}
    for section, values in sections.items():
        kind, _, rest = section.partition(" ")
        if section == "default" or (kind == "profile" and rest.strip()):
            called = "default" if section == "default" else rest.strip()
            profiles[called] = _profile(path, called, values)
    service = sections.get("akservice", {})
    if service.get("ecsak"):
        profiles.setdefault("default", Profile(path, "AkService", "EcsUrl", {"ecs_ak": service["ecsak"]}))
    if "credentials" in sections:
        profiles.setdefault("default", _profile(path, "Credentials", sections["credentials"]))
    return _pick(profiles, (name or "default").lower()), profiles


def read_aliyun(path: str, name: str | None) -> tuple[Profile, Mapping[str, Profile]]:
    """The wanted, or else the current, profile of the aliyun command's configuration, and all of them."""
    try:
        document = json.loads(_read(path))
        listed = [entry for entry in document["profiles"] if isinstance(entry["name"], str)]
        current = name or document.get("current") or "default"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError("is not a configuration of the aliyun command") from None
    wanted = [entry for entry in listed if entry["name"] == current]
    if not wanted:
        raise ConfigError(f"has no profile {current!r}")
    profiles: dict[str, Profile] = {}
    for entry in listed:
        try:
            profiles[entry["name"]] = _profile(path, entry["name"], entry)
        except ConfigError:
            if entry["name"] == current:
                raise
    return profiles[current], profiles


def read_credentials_ini(path: str, name: str | None) -> tuple[Profile, Mapping[str, Profile]]:
    """The wanted, or else the default, profile of ~/.alibabacloud/credentials.ini."""
    profiles = {}
    for section, values in _ini(path).items():
        try:
            profiles[section] = _profile(path, section, values)
        except ConfigError:
            if section == (name or "default").lower():
                raise
    return _pick(profiles, (name or "default").lower()), profiles


def _pick(profiles: Mapping[str, Profile], name: str) -> Profile:
    if name not in profiles:
        raise ConfigError(f"has no profile {name!r}")
    return profiles[name]
