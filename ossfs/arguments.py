"""The words of a command line: SOURCE, and the pieces of -o.

No state; safe from any thread.  What options there are, and what they take, is known in config.py.
"""

from __future__ import annotations

import re
from typing import Final

from ossfs.errors import ConfigError
from ossfs.values import normalise_prefix, show

BUCKET_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")


KERNEL_FLAGS: Final = frozenset(
    """suid nosuid dev nodev exec noexec atime noatime diratime nodiratime relatime norelatime strictatime
    nostrictatime lazytime nolazytime sync async dirsync""".split()
)
"""Flags that mount(8) hands over and the kernel understands; kept for the mount in `mount_flags`."""

MOUNT8_WORDS: Final = frozenset(
    """_netdev nofail auto noauto user nouser users owner group defaults comment silent loud mand nomand
    iversion noiversion""".split()
)
"""Words of /etc/fstab that are for mount(8) itself: accepted, and nothing for us to do."""

_CREDENTIAL_WORDS: Final = frozenset(
    """accesskey accesskeyid accesskeysecret accessid ak akid sk aksecret keyid keysecret secret secretkey
    secretaccesskey securitytoken sessiontoken ststoken token password passwd osskey osssecret
    ossaccesskeyid ossaccesskeysecret osssecuritytoken osssessiontoken""".split()
)
"""Names, without their punctuation, under which somebody would try to hand over a secret."""


def names_a_secret(name: str) -> bool:
    """Is that a name, however it is written, under which somebody would hand over a secret?"""
    return re.sub(r"[^a-z]", "", name.lower()) in _CREDENTIAL_WORDS


def parse_source(source: str) -> tuple[str, str]:
    """Bucket and prefix of `bucket`, `bucket:/prefix` or `oss://bucket/prefix`."""
    accepted = "accepted: bucket, bucket:/prefix or oss://bucket/prefix"
    scheme, mark, rest = source.partition("://")
    if mark:
        if scheme.lower() != "oss":
            raise ConfigError(f"SOURCE {show(source)} is of another scheme; {accepted}")
        bucket, _, prefix = rest.partition("/")
    else:
        bucket, colon, prefix = source.partition(":")
        if colon and prefix and not prefix.startswith("/"):
            raise ConfigError(f"SOURCE {show(source)} has no slash after the colon; {accepted}")
    if not bucket:
        raise ConfigError(f"SOURCE {show(source)} names no bucket; {accepted}")
    if not BUCKET_NAME.fullmatch(bucket):
        raise ConfigError(
            f"SOURCE {show(source)}: {show(bucket)} is no bucket name (3 to 63 lower-case letters, digits "
            f"and hyphens); {accepted}"
        )
    try:
        return bucket, normalise_prefix(prefix)
    except ValueError as error:
        raise ConfigError(f"SOURCE {show(source)}: the prefix {error}") from None


def split_options(text: str) -> list[str]:
    r"""The comma-separated pieces of one -o argument; `\,` is a comma of a value and `\\` a backslash."""
    pieces, current, escaped = [], "", False
    for char in text:
        if escaped:
            current += char if char in ",\\" else "\\" + char
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == ",":
            pieces.append(current)
            current = ""
        else:
            current += char
    pieces.append(current + ("\\" if escaped else ""))
    return [piece for piece in (piece.strip() for piece in pieces) if piece]
