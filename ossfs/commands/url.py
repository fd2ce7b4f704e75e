"""`ossfs url FILE`: a presigned URL of a mounted file, or of an object.

Threading: the main thread of a command; the loop that it runs for `oss://` URLs is its own.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Annotated

import typer

from ossfs.errors import ConfigError, UserError

if TYPE_CHECKING:
    from ossfs.registry import MountRecord

METHODS = ("GET", "HEAD")
MAX_SECONDS = 7 * 86400
"""The service's limit for V4 signatures (documentation, "Add signatures to URLs")."""


def url(
    file: Annotated[str, typer.Argument(metavar="FILE", help="a file of a mount, or oss://bucket/key")],
    method: Annotated[str, typer.Option("--method", metavar="GET|HEAD", help="what it is good for")] = "GET",
    expires: Annotated[
        str, typer.Option("--expires", metavar="AGE", help="how long it is good: 90s, 20m, 12h, 7d")
    ] = "20m",
    options: Annotated[
        list[str] | None, typer.Option("-o", metavar="OPT[,OPT...]", help="as for mount; for oss:// only")
    ] = None,
) -> int:
    """Print a URL with which anybody can read a file, without keys, until it expires.

    The mount that the file is in makes it, with its own keys; oss://bucket/key takes the options of `ossfs
    mount`.  Temporary keys end their URLs when they end.
    """
    verb = method.upper()
    if verb not in METHODS:
        raise ConfigError(f"--method {method} is not accepted; accepted: {', '.join(METHODS)}")
    seconds = parse_expiry(expires)
    if file.lower().startswith("oss://"):
        print(_of_object(file, verb, seconds, options or []))
        return 0
    if options:
        raise ConfigError("-o is for oss://bucket/key; a mount has its options already")
    print(_of_mounted(file, verb, seconds))
    return 0


def parse_expiry(text: str) -> int:
    """Seconds, of 1 to MAX_SECONDS.  ConfigError says what is accepted."""
    from ossfs.values import parse_age

    try:
        seconds = int(parse_age(text))
    except ValueError as error:
        raise ConfigError(f"--expires {text} {error}") from None
    if not 1 <= seconds <= MAX_SECONDS:
        raise ConfigError(f"--expires {text} is out of range; accepted: 1s to 7d")
    return seconds


def _of_mounted(file: str, method: str, seconds: int) -> str:
    from ossfs.commands.mounts import all_mounts
    from ossfs.control import request

    try:
        mode = os.lstat(file).st_mode
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; name an existing file") from None
    if stat.S_ISDIR(mode):
        raise UserError(f"{file} is a directory; name a file in it")
    # The last component is kept: of a symbolic link the link's object is meant.
    place = os.path.abspath(file)
    place = os.path.join(os.path.realpath(os.path.dirname(place)), os.path.basename(place))
    record = mount_of(place, all_mounts())
    if record is None:
        raise UserError(f"{file} is in no ossfs mount of this user; name such a file, or oss://bucket/key")
    path = os.path.relpath(place, record.mountpoint)
    answer = request(record, "url", path=path, method=method, expires=seconds)
    return str(answer["url"])


def mount_of(place: str, records: list[MountRecord]) -> MountRecord | None:
    """The mount that *place* is below: the innermost, and of one mount point the youngest."""
    around = [one for one in records if place.startswith(one.mountpoint.rstrip("/") + "/")]
    return max(around, key=lambda one: (len(one.mountpoint), one.started), default=None)


def _of_object(source: str, method: str, seconds: int, options: list[str]) -> str:
    import trio

    from ossfs.access import find_credentials, store_config
    from ossfs.config import load_config
    from ossfs.metrics import Metrics
    from ossfs.store.oss import open_store

    bucket, _, key = source.partition("://")[2].partition("/")
    if not key:
        raise ConfigError(f"{source} names no object; accepted: oss://bucket/key")
    config = load_config(f"oss://{bucket}", "/", options)
    credentials = find_credentials(config)

    async def sign() -> str:
        async with open_store(store_config(config), credentials, Metrics()) as store:
            return await store.sign_url(method, key, seconds)

    return trio.run(sign)
