"""Which names can be files here, and which keys can be paths.

Pure functions; safe from any thread.
"""

from __future__ import annotations

import errno

from ossfs import limits
from ossfs.errors import PosixError
from ossfs.fs.hidden import is_hidden


def decode_name(raw: bytes, *, creating: bool = False) -> str:
    """A component of a path as the kernel sends it.

    Raises ENAMETOOLONG over 255 bytes.  What is not UTF-8 cannot be a key: ENOENT, or EILSEQ for a
    name that is to be made.
    """
    if len(raw) > limits.MAX_NAME_BYTES:
        raise PosixError(errno.ENAMETOOLONG)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise PosixError(errno.EILSEQ if creating else errno.ENOENT, "not UTF-8") from None


def check_key(key: str) -> None:
    """Raises ENAMETOOLONG or EINVAL for a key that the service would not take."""
    if key.startswith("\\"):
        raise PosixError(errno.EINVAL, "a key cannot begin with a backslash")
    if len(key.encode("utf-8", "surrogatepass")) > limits.MAX_KEY_BYTES:
        raise PosixError(errno.ENAMETOOLONG, "the key is over 1023 bytes")


def showable(name: str, *, in_root: bool) -> bool:
    """Can this component of a key be shown as a name?  Hidden keys of ossfs cannot either."""
    if name in ("", ".", "..") or "\0" in name:
        return False
    if in_root and is_hidden(name):
        return False
    return len(name.encode("utf-8", "surrogatepass")) <= limits.MAX_NAME_BYTES
