"""POSIX attributes to object headers and back, as ossfs 1.x keeps them.

Pure functions; no state, no I/O; safe from any thread.

User metadata (x-oss-meta-*), all ASCII:

    mode     decimal st_mode with the type bits (33188 a file); bare permission bits are read too
    uid gid  decimal
    mtime atime ctime   decimal seconds, ".%09d" when there are nanoseconds: the two fields of a
                        timespec, so half a second before 1970 is "-1.500000000"
    xattr    url-encoded JSON object of name to base64 of the value
    symlink-target      read only: "header:<len>:<urlencoded>", the target of a link with an empty body
    ossfs-rdev          decimal st_rdev of a device node (ours; 1.x does not keep it)
    ossfs-wid           the write id (store.base.WRITE_ID)

All other metadata and headers belong to somebody else and are carried along untouched.
"""

from __future__ import annotations

import base64
import binascii
import json
import mimetypes
import os
import re
import secrets
import stat
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote

from ossfs import limits
from ossfs.store.base import WRITE_ID, ObjectHeaders, ObjectInfo

DIRECTORY_TYPE = "application/x-directory"
DIRECTORY_TYPES = frozenset({DIRECTORY_TYPE, "httpd/unix-directory"})
NS = 1_000_000_000

_PACKED = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
    "br": "application/x-brotli",
}
"""By mimetypes' name of an encoding: the bytes of a.tar.gz are no tar archive."""

_OURS = frozenset(
    {"mode", "uid", "gid", "mtime", "atime", "ctime", "xattr", "symlink-target", "ossfs-rdev", WRITE_ID}
)
_TIME = re.compile(r"(-?)(\d{1,18})(?:\.(\d{1,9})\d*)?\Z", re.ASCII)


@dataclass(slots=True)
class Attrs:
    """The attributes of one file.  Times in nanoseconds since the epoch; mode with the type bits.

    carried: headers and metadata that are not ours, sent back with every rewrite.
    stored_mtime: False when mtime is only the object's LastModified (which a copy would change).
    """

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    atime_ns: int
    ctime_ns: int
    rdev: int = 0
    xattrs: dict[str, bytes] = field(default_factory=dict)
    carried: ObjectHeaders = field(default_factory=ObjectHeaders)
    tag_count: int = 0
    header_target: str | None = None
    """The target of a symlink that is kept in a header (old ossfs), or None."""
    stored_mtime: bool = True
    listed: bool = False
    """Of a mount with attrs=list: what is shown is not stored, and what is stored is only carried."""

    @property
    def kind(self) -> int:
        """The S_IFMT bits."""
        return stat.S_IFMT(self.mode)

    def same_but_ctime(self, other: Attrs) -> bool:
        """Would storing these instead of *other* change nothing but the ctime?"""
        return replace(self, ctime_ns=other.ctime_ns) == other

    def stores_as(self, other: Attrs) -> bool:
        """Would the bucket hold the same for both?"""
        return self.carried == other.carried if self.listed else self == other

    def copy(self) -> Attrs:
        """A copy that can be changed without touching this one."""
        carried = replace(self.carried, meta=dict(self.carried.meta))
        return replace(self, xattrs=dict(self.xattrs), carried=carried)


@dataclass(frozen=True, slots=True)
class Defaults:
    """For objects that carry no attributes.  Modes are permission bits."""

    uid: int = 0
    gid: int = 0
    file_mode: int = 0o644
    dir_mode: int = 0o755
    listed: bool = False
    """Stored attributes are not looked at: all that is shown is these, and LastModified."""


def parse_time(text: str) -> int | None:
    """Nanoseconds from "seconds[.fraction]"; None when it is not a time.

    >>> parse_time("1700000000.000000005")
    1700000000000000005
    """
    match = _TIME.match(text.strip())
    if match is None:
        return None
    sign, seconds, fraction = match.groups()
    nanoseconds = int((fraction or "").ljust(9, "0"))
    if sign and int(seconds) == 0:
        return -nanoseconds  # no timespec looks like that: somebody's plain decimal
    return int(sign + seconds) * NS + nanoseconds


def format_time(ns: int) -> str:
    """The inverse of parse_time.

    >>> format_time(1700000000000000005)
    '1700000000.000000005'
    >>> format_time(-1)
    '-1.999999999'
    """
    seconds, fraction = divmod(ns, NS)
    return f"{seconds}.{fraction:09d}" if fraction else str(seconds)


def unprivileged(mode: int) -> int:
    """A mode after a change of the bytes by who is not root: without setuid, and setgid of programs."""
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode


def _number(text: str | None, highest: int) -> int | None:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 20:
        return None
    value = int(text)
    return value if value <= highest else None


def decode_xattrs(text: str) -> dict[str, bytes] | None:
    """Extended attributes from the x-oss-meta-xattr value; None when it is damaged."""
    try:
        data = json.loads(unquote(text, errors="strict"))
        if not isinstance(data, dict):
            return None
        if not all(k and "\0" not in k and k.encode() for k in data):
            return None  # no name that a system call could pass; half a surrogate does not encode
        return {k: base64.b64decode(v, validate=True) for k, v in data.items()}
    except (ValueError, TypeError, binascii.Error, RecursionError):
        return None


def encode_xattrs(xattrs: dict[str, bytes]) -> str:
    """The x-oss-meta-xattr value; RFC 3986, with "/" left alone as 1.x does."""
    data = {k: base64.b64encode(v).decode("ascii") for k, v in xattrs.items()}
    return quote(json.dumps(data, separators=(",", ":"), ensure_ascii=False), safe="/")


def decode_header_target(text: str) -> str | None:
    """The target in "header:<len>:<urlencoded>", or None."""
    parts = text.split(":", 2)
    if len(parts) != 3 or parts[0] != "header" or not parts[2]:
        return None
    return unquote(parts[2], errors="surrogateescape")


def is_marker(key: str, size: int, content_type: str | None) -> bool:
    """Does this object stand for a directory?"""
    return key.endswith("/") or (size == 0 and content_type in DIRECTORY_TYPES)


def decode(info: ObjectInfo, defaults: Defaults, *, directory: bool = False) -> Attrs:
    """The attributes of an object.

    directory: the object is a directory's marker, whatever its metadata says.  Damaged values count
    as not stored, and are kept as foreign metadata where they could mean something to somebody.
    """
    meta = info.headers.meta
    if defaults.listed:
        # Times of the bytes that were there before would be wrong for those that replace them.
        kept = {k: v for k, v in meta.items() if k not in _NOT_CARRIED}
        shown = as_listed(info.last_modified, defaults, directory=directory)
        return replace(shown, carried=replace(info.headers, meta=kept), tag_count=info.tag_count)
    modified = info.last_modified * NS
    mode = _number(meta.get("mode"), 0o177777)
    kind = stat.S_IFMT(mode) if mode is not None else 0
    if directory:
        kind = stat.S_IFDIR
    elif kind in (0, stat.S_IFDIR) or kind not in _KINDS:
        kind = stat.S_IFREG
    if info.object_type == "Symlink" and not directory:
        kind = stat.S_IFREG  # shown as what it points to, unless the tree decides otherwise
    header_target = None
    if "symlink-target" in meta and info.size == 0:
        header_target = decode_header_target(meta["symlink-target"])
        if header_target is not None and not directory:
            kind = stat.S_IFLNK
            if mode is None:
                mode = 0o777
    if mode is None:
        mode = defaults.dir_mode if kind == stat.S_IFDIR else defaults.file_mode
    uid = _number(meta.get("uid"), 0xFFFFFFFE)
    gid = _number(meta.get("gid"), 0xFFFFFFFE)
    times = {name: parse_time(meta[name]) if name in meta else None for name in ("mtime", "atime", "ctime")}
    mtime = times["mtime"]
    xattrs: dict[str, bytes] = {}
    kept = {k: v for k, v in meta.items() if k not in _OURS}
    if "symlink-target" in meta and header_target is None:
        kept["symlink-target"] = meta["symlink-target"]
    if "xattr" in meta:
        decoded = decode_xattrs(meta["xattr"])
        if decoded is None:
            kept["xattr"] = meta["xattr"]
        else:
            xattrs = decoded
    mtime_ns = modified if mtime is None else mtime
    return Attrs(
        mode=kind | stat.S_IMODE(mode),
        uid=defaults.uid if uid is None else uid,
        gid=defaults.gid if gid is None else gid,
        mtime_ns=mtime_ns,
        atime_ns=mtime_ns if times["atime"] is None else times["atime"],
        ctime_ns=(modified if mtime is None else mtime_ns) if times["ctime"] is None else times["ctime"],
        rdev=_number(meta.get("ossfs-rdev"), 2**63 - 1) or 0,
        xattrs=xattrs,
        carried=replace(info.headers, meta=kept),
        tag_count=info.tag_count,
        header_target=header_target,
        stored_mtime=mtime is not None,
    )


_KINDS = frozenset(
    {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK}
)


_NOT_CARRIED = frozenset({"mtime", "atime", "ctime", WRITE_ID})


def has_stored(info: ObjectInfo) -> bool:
    """Does this object carry attributes of ossfs?"""
    return not _OURS.isdisjoint(info.headers.meta)


def as_listed(last_modified: int, defaults: Defaults, *, directory: bool = False) -> Attrs:
    """The attributes that a listing is enough for.  last_modified in unix seconds."""
    modified = last_modified * NS
    return Attrs(
        mode=stat.S_IFDIR | defaults.dir_mode if directory else stat.S_IFREG | defaults.file_mode,
        uid=defaults.uid,
        gid=defaults.gid,
        mtime_ns=modified,
        atime_ns=modified,
        ctime_ns=modified,
        listed=True,
    )


def carried_kind(attrs: Attrs) -> int:
    """The S_IFMT bits of the mode that is carried unseen; S_IFREG when there is none."""
    mode = _number(attrs.carried.meta.get("mode"), 0o177777)
    kind = stat.S_IFMT(mode) if mode is not None else 0
    return stat.S_IFLNK if "symlink-target" in attrs.carried.meta else kind or stat.S_IFREG


def encode(attrs: Attrs, *, write_id: str | None = None) -> ObjectHeaders:
    """The headers that a put, initiate or REPLACE copy of this file sends."""
    meta = dict(attrs.carried.meta)
    if attrs.listed:
        return replace(attrs.carried, meta=meta if write_id is None else {**meta, WRITE_ID: write_id})
    meta["mode"] = str(attrs.mode)
    meta["uid"] = str(attrs.uid)
    meta["gid"] = str(attrs.gid)
    meta["mtime"] = format_time(attrs.mtime_ns)
    meta["atime"] = format_time(attrs.atime_ns)
    meta["ctime"] = format_time(attrs.ctime_ns)
    if attrs.xattrs:
        meta["xattr"] = encode_xattrs(attrs.xattrs)
    if attrs.rdev:
        meta["ossfs-rdev"] = str(attrs.rdev)
    if attrs.header_target is not None:
        encoded = quote(attrs.header_target, safe="", errors="surrogateescape")
        meta["symlink-target"] = f"header:{len(encoded)}:{encoded}"
    if write_id is not None:
        meta[WRITE_ID] = write_id
    return replace(attrs.carried, meta=meta)


def new_write_id() -> str:
    """A write id that no other write has."""
    return secrets.token_hex(16)


def meta_bytes(headers: ObjectHeaders) -> int:
    """What the service counts against its 8 KB: names and values of all user metadata."""
    return sum(len("x-oss-meta-") + len(k) + len(v) for k, v in headers.meta.items())


def fits(attrs: Attrs) -> bool:
    """Would the service store these attributes, with room for the write id?"""
    return meta_bytes(encode(attrs, write_id="x" * 32)) < limits.MAX_META_BYTES


def content_type_of(name: str, kind: int) -> str | None:
    """The Content-Type for a new file, from its name's extension, as 1.x does; None when unknown."""
    if kind == stat.S_IFDIR:
        return DIRECTORY_TYPE
    if kind != stat.S_IFREG:
        return None
    # Only the extension: a name such as "data:,x" would be taken for a URL.
    stem, extension = os.path.splitext(name)
    found, packed = mimetypes.guess_type("x" + extension) if stem else (None, None)
    return found if packed is None else _PACKED.get(packed)


def new(
    kind: int,
    permissions: int,
    uid: int,
    gid: int,
    now_ns: int,
    *,
    name: str = "",
    rdev: int = 0,
) -> Attrs:
    """The attributes of a file that is just being made."""
    return Attrs(
        mode=kind | permissions,
        uid=uid,
        gid=gid,
        mtime_ns=now_ns,
        atime_ns=now_ns,
        ctime_ns=now_ns,
        rdev=rdev,
        carried=ObjectHeaders(content_type=content_type_of(name, kind)),
    )
