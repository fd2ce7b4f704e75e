"""The values of options: from what a person wrote to what the code uses, or what is wrong with it.

No state; safe from any thread.  Each parser takes what an option, an environment variable or a TOML
file may hold, and raises ValueError with the end of a sentence: whoever asked for the value puts the
option's name and the value before it.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from ossfs.limits import GIB, KIB, MAX_KEY_BYTES, MIB

MIN_MEMORY: Final = 32 * MIB
MAX_DEFAULT_MEMORY: Final = GIB
MIN_CACHE: Final = 64 * MIB
"""Less would be written and evicted by one sequential reader's queue."""
DEFAULT_CACHE: Final = 10 * GIB
DEFAULT_WRITEBACK: Final = GIB

_TRUE: Final = frozenset({"true", "yes", "on", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "0"})
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_SECONDS = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*(ms|s|m|h)?", re.IGNORECASE)
_PRICE = "is no price; accepted: a number from 0 to 999999, as in 0.01"
_HOST = re.compile(r"[a-z0-9_.:-]+")
"""A name, or an address of either kind; urlsplit has taken brackets away."""
REGION = re.compile(r"[a-z0-9]+(-[a-z0-9]+)+")

CREDENTIALS_HINT: Final = (
    "credentials are accepted from OSS_ACCESS_KEY_ID, OSS_ACCESS_KEY_SECRET and OSS_SESSION_TOKEN in the "
    "environment, or from a file named by -o passwd_file=FILE"
)
CREDENTIAL_SOURCES: Final = (
    "auto",
    "environment",
    "oidc",
    "passwd",
    "ossutil",
    "aliyun",
    "ini",
    "uri",
    "ecs",
    "anonymous",
)
"""Values of the option `credentials`: auto tries the others in this order, but for anonymous."""


def parse_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, str | int) else ""
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("is no yes or no; accepted: true, yes, on, 1, false, no, off, 0")


def parse_size(value: object) -> int:
    """Bytes of `10MB`, `10MiB`, `10m`, `1.5G` or a plain number.

    MB and MiB are the same 1024*1024 bytes here, as the original driver counted them.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("is no size; accepted: bytes, or a number with KB, MB, GB or TB, as in 10MB")
    match = _SIZE.fullmatch(str(value).strip())
    if match is None:
        raise ValueError("is no size; accepted: bytes, or a number with KB, MB, GB or TB, as in 10MB")
    power = " kmgt".index(match[2].lower() or " ")
    return int(Decimal(match[1]) * KIB**power)


def format_size(size: int) -> str:
    """The shortest exact spelling that `parse_size` takes: 5MB, 1GB, 1000."""
    for suffix, unit in (("GB", GIB), ("MB", MIB), ("KB", KIB)):
        if size >= unit and size % unit == 0:
            return f"{size // unit}{suffix}"
    return str(size)


def size_between(least: int, most: int | None, example: str) -> Callable[[int], int]:
    accepted = f"{format_size(least)} to {format_size(most)}" if most else f"{format_size(least)} and more"

    def check(size: int) -> int:
        if size < least:
            raise ValueError(
                f"is below the least, {format_size(least)}; accepted: {accepted}, as in {example}"
            )
        if most is not None and size > most:
            raise ValueError(f"is above the most, {format_size(most)}; accepted: {accepted}, as in {example}")
        return size

    return check


def parse_seconds(value: object) -> float:
    if not isinstance(value, bool) and isinstance(value, int | float):
        value = str(value)
    match = _SECONDS.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("is no time; accepted: seconds, or a number with ms, s, m or h, as in 5 or 500ms")
    unit = (match[2] or "s").lower()
    return float(match[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}[unit]


_AGE = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s*(s|m|h|d|w)?", re.IGNORECASE)


def parse_age(value: str) -> float:
    """Seconds from an age: a number with s, m, h, d or w."""
    match = _AGE.fullmatch(value.strip())
    if match is None:
        raise ValueError("is no age; accepted: a number with s, m, h, d or w, as in 1d or 12h")
    unit = (match[2] or "s").lower()
    return float(match[1]) * {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}[unit]


MIN_TRAFFIC: Final = 819_200
MAX_TRAFFIC: Final = 838_860_800
"""Bits a second that x-oss-traffic-limit may be (HTTP 400 InvalidArgument beyond): 100 KB and 100 MB."""
_BITS = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)bit(?:/s|ps)?", re.IGNORECASE)


def parse_traffic(value: object) -> int:
    """Bits a second of `1MB` or `1MB/s` (bytes), `8Mbit` (bits), or a plain number of bits, as OSS has it."""
    accepted = (
        "accepted: 100KB to 100MB a second, as in 1MB, or bits a second from 819200 to 838860800, as in "
        "8Mbit or 8000000"
    )
    text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    bits = _BITS.fullmatch(text)
    size = _SIZE.fullmatch(text.removesuffix("/s"))
    if text.isascii() and text.isdigit():
        found = int(text)
    elif bits is not None:  # bits are counted in thousands, as networks do
        found = int(Decimal(bits[1]) * 1000 ** " kmg".index(bits[2].lower() or " "))
    elif size is not None:
        found = 8 * parse_size(text.removesuffix("/s"))
    else:
        raise ValueError(f"is no speed; {accepted}")
    if not MIN_TRAFFIC <= found <= MAX_TRAFFIC:
        raise ValueError(f"is {'below the least' if found < MIN_TRAFFIC else 'above the most'}; {accepted}")
    return found


def format_traffic(bits: int) -> str:
    """The shortest exact spelling that `parse_traffic` takes."""
    return format_size(bits // 8) if bits % (8 * KIB) == 0 else str(bits)


def seconds_between(least: float, most: float) -> Callable[[float], float]:
    def check(seconds: float) -> float:
        if not least <= seconds <= most:
            raise ValueError(f"is out of range; accepted: {least:g} to {most:g} seconds")
        return seconds

    return check


def whole(least: int, most: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
        if not (text.isascii() and text.isdigit() and len(text) < 10) or not least <= int(text) <= most:
            raise ValueError(f"is not accepted; accepted: a whole number from {least} to {most}")
        return int(text)

    return parse


def parse_price(value: object) -> float:
    """Of so many requests as the price list names; in any currency."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise ValueError(_PRICE)
    try:
        price = float(value)
    except ValueError:
        raise ValueError(_PRICE) from None
    if not 0 <= price < 1e6:  # false for nan, too
        raise ValueError(_PRICE)
    return price


def parse_octal(value: object) -> int:
    # An integer of a TOML file is refused: nobody can tell whether `22` was meant as octal.
    if not isinstance(value, str):
        raise ValueError('must be text; accepted: octal digits in quotes, as in "022"')
    digits = value.strip().lower().removeprefix("0o")
    if not re.fullmatch(r"[0-7]{1,4}", digits) or int(digits, 8) > 0o777:
        raise ValueError("is no mode; accepted: octal digits up to 777, as in 022")
    return int(digits, 8)


def parse_id(look_up: Callable[[str], int], what: str) -> Callable[[object], int]:
    def parse(value: object) -> int:
        text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
        if text.isascii() and text.isdigit():
            if len(text) > 10 or int(text) >= 2**32 - 1:
                raise ValueError(f"is too large; accepted: the number or the name of a {what}")
            return int(text)
        try:
            return look_up(text)
        except (KeyError, ValueError):
            raise ValueError(f"is unknown here; accepted: the number or the name of a {what}") from None

    return parse


def one_of(*words: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        word = str(value).strip().lower()
        if word not in words:
            raise ValueError(f"is not accepted; accepted: {', '.join(words)}")
        return word

    return parse


STORAGE_CLASSES: Final = ("Standard", "IA", "Archive", "ColdArchive", "DeepColdArchive")
ACLS: Final = ("default", "private", "public-read", "public-read-write")


def spelt_as(*words: str) -> Callable[[object], str]:
    """One of these words, in whatever case; the result is as the service spells it."""

    def parse(value: object) -> str:
        lower = str(value).strip().lower()
        for word in words:
            if word.lower() == lower:
                return word
        raise ValueError(f"is not accepted; accepted: {', '.join(words)}")

    return parse


def parse_encrypt(value: object) -> str | None:
    known = {"aes256": "AES256", "kms": "KMS", "sm4": "SM4"}
    word = str(value).strip().lower() if isinstance(value, str | int) else ""
    if word in known:
        return known[word]
    if word in _TRUE:
        return "AES256"
    if word in _FALSE:
        return None
    raise ValueError("is not accepted; accepted: true (which is AES256), AES256, KMS, SM4, false")


def parse_path(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("is no path; accepted: the path of a file or directory")
    # Absolute from here on: a mount in the background has / as its working directory.
    return os.path.abspath(os.path.expanduser(value))


def parse_text(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError("is no text; accepted: one line that is not empty")
    return value.strip()


def parse_region(value: object) -> str:
    region = str(value).strip().removeprefix("oss-") if isinstance(value, str) else ""
    if not REGION.fullmatch(region):
        raise ValueError("is no region; accepted: a region id as in cn-hangzhou")
    if region.endswith("-internal"):
        raise ValueError(
            f"is no region; accepted: region={region.removesuffix('-internal')} with internal=true"
        )
    return region


def parse_endpoint(value: object) -> str:
    text = value.strip() if isinstance(value, str) else ""
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        good = (
            bool(parts.hostname)
            and parts.scheme in ("", "http", "https")
            and parts.path in ("", "/")
            and not (parts.query or parts.fragment)
            and (parts.port is None or parts.port > 0)
            and _HOST.fullmatch(parts.hostname or "")
            and text.isprintable()  # urlsplit passes over line breaks
            and " " not in text
        )
    except ValueError:  # a port that is no number
        good = False
    else:
        if "@" in parts.netloc:
            raise ValueError(f"holds credentials, which an endpoint must not; {CREDENTIALS_HINT}")
    if not good:
        raise ValueError("is no endpoint; accepted: a host or URL as in https://oss-cn-hangzhou.aliyuncs.com")
    scheme, mark, rest = text.rstrip("/").rpartition("://")
    return scheme.lower() + mark + rest


def parse_listen(value: object) -> str:
    """HOST:PORT to listen at, normalised; ValueError otherwise."""
    text = value.strip() if isinstance(value, str) else ""
    host, colon, port = text.rpartition(":")
    inner = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    known = ":" not in host and _HOST.fullmatch(host.lower()) is not None
    try:
        known = known or (inner != host and ipaddress.ip_address(inner).version == 6)
    except ValueError:
        known = False
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else -1
    if not (colon and known and 0 <= number <= 65535):
        raise ValueError("is no address to listen at; accepted: HOST:PORT as in 127.0.0.1:9105 or [::1]:9105")
    return f"{host}:{number}"


def normalise_prefix(text: str) -> str:
    """A prefix without slashes at either end; ValueError when it cannot be a path."""
    prefix = text.strip("/")
    if not prefix:
        return ""
    if any(part in ("", ".", "..") for part in prefix.split("/")) or "\0" in prefix:
        raise ValueError(
            "is no prefix; accepted: a path without empty, . and .. components, as in backups/2024"
        )
    try:
        size = len(prefix.encode("utf-8"))
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8; accepted: a path in UTF-8, as in backups/2024") from None
    if size > MAX_KEY_BYTES - 2:
        raise ValueError(f"is too long; accepted: up to {MAX_KEY_BYTES - 2} bytes")
    return prefix


def parse_prefix(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("is no prefix; accepted: a path as in backups/2024")
    return normalise_prefix(value)


def default_memory() -> int:
    """A quarter of what this machine, or this container, has: at least MIN_MEMORY, at most 1 GiB."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(limit).read_text()))
        except (OSError, ValueError):
            pass  # no such cgroup version here, or "max"
    return max(MIN_MEMORY, min(total // 4, MAX_DEFAULT_MEMORY))


def default_state_dir() -> str:
    """Where journals and spool files are kept: for root /var/lib/ossfs, else below XDG_STATE_HOME."""
    if os.geteuid() == 0:
        return "/var/lib/ossfs"
    base = os.environ.get("XDG_STATE_HOME", "")
    if not base.startswith("/"):
        base = os.path.expanduser("~/.local/state")
    return os.path.join(base, "ossfs")


def show(value: object, limit: int = 80) -> str:
    """A value, wherever it came from, as one printable line for a message."""
    text = str(value)
    if not text or not text.isprintable():
        text = repr(text)
    return text if len(text) <= limit else text[: limit - 3] + "..."
