"""Would updatedb(8), which feeds locate(1), crawl a mount every day?  Each crawl lists the whole bucket.

No state; safe from any thread; reads one small file.

mlocate and plocate have the same file and the same rules (updatedb.conf(5)): a word of PRUNEFS must be the
whole of the mount's type, in whatever case, so `fuse` does not mean `fuse.ossfs`; a path of PRUNEPATHS, and
a name of PRUNENAMES, take all that is below along.
"""

from __future__ import annotations

import os
import re
from typing import Final

from ossfs.mountpoint import FSTYPE

UPDATEDB_CONF: Final = "/etc/updatedb.conf"
_SETTING = re.compile(r'\s*(PRUNEFS|PRUNEPATHS|PRUNENAMES)\s*=\s*"([^"]*)"')


def crawled(mountpoint: str, *, conf: str = UPDATEDB_CONF) -> bool:
    """Would updatedb look into a mount of ours at this path (absolute, without symbolic links)?

    False where there is no such file: then updatedb is not installed.
    """
    try:
        with open(conf, encoding="utf-8", errors="surrogateescape") as file:
            found = [_SETTING.match(line) for line in file]
    except OSError:
        return False
    words: dict[str, list[str]] = {"PRUNEFS": [], "PRUNEPATHS": [], "PRUNENAMES": []}
    for match in found:
        if match is not None:
            words[match[1]] += match[2].split()
    if FSTYPE.upper() in (word.upper() for word in words["PRUNEFS"]):
        return False
    if set(mountpoint.split("/")) & set(words["PRUNENAMES"]):
        return False
    paths = [os.path.normpath(path) for path in words["PRUNEPATHS"]]
    return not any(mountpoint == path or mountpoint.startswith(path.rstrip("/") + "/") for path in paths)


def advice(mountpoint: str, *, allow_other: bool, conf: str = UPDATEDB_CONF) -> str:
    """One line for who mounts; "" when updatedb leaves the mount alone.

    updatedb runs as root, who may not enter another user's mount without allow_other.
    """
    if not (allow_other or os.geteuid() == 0) or not crawled(mountpoint, conf=conf):
        return ""
    return (
        f"updatedb will list all of {mountpoint} every day, at a price; add {FSTYPE} to PRUNEFS in {conf}, "
        "or the mount point to PRUNEPATHS"
    )
