"""POSIX attributes and object headers: both ways, with what ossfs 1.x writes, and with damage."""

from __future__ import annotations

import base64
import json
import stat
from dataclasses import fields, replace
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossfs.fs import attrs as attributes
from ossfs.fs.attrs import Attrs, Defaults
from ossfs.limits import MAX_META_BYTES
from ossfs.store.base import WRITE_ID, ObjectHeaders, ObjectInfo

NS = attributes.NS
MODIFIED = 1_600_000_000
DEFAULTS = Defaults(uid=77, gid=88, file_mode=0o640, dir_mode=0o750)
KINDS = [stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK]

times = st.integers(-(10**18), 10**18) | st.integers(-3 * NS, 3 * NS)
ids = st.integers(0, 2**32 - 2)
xattr_names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20
)
xattrs = st.dictionaries(xattr_names.map(lambda n: "user." + n), st.binary(max_size=40), max_size=4)
meta_names = st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,11}\Z").filter(lambda n: n not in attributes._OURS)
ascii_text = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
headers = st.builds(
    ObjectHeaders,
    meta=st.dictionaries(meta_names, ascii_text, max_size=4),
    content_type=st.none() | ascii_text,
    cache_control=st.none() | ascii_text,
    content_disposition=st.none() | ascii_text,
    content_encoding=st.none() | ascii_text,
    content_language=st.none() | ascii_text,
    expires=st.none() | ascii_text,
    storage_class=st.none() | st.sampled_from(["Standard", "IA", "Archive"]),
    encryption=st.none() | st.sampled_from(["AES256", "KMS"]),
)
complete = st.builds(
    Attrs,
    mode=st.builds(lambda k, p: k | p, st.sampled_from(KINDS), st.integers(0, 0o7777)),
    uid=ids,
    gid=ids,
    mtime_ns=times,
    atime_ns=times,
    ctime_ns=times,
    rdev=st.integers(0, 2**63 - 1),
    xattrs=xattrs,
    carried=headers,
    tag_count=st.integers(0, 10),
)


def info(meta: dict[str, str] | None = None, *, size: int = 0, key: str = "k", **more: object) -> ObjectInfo:
    return ObjectInfo(key, size, "E", MODIFIED, MODIFIED, headers=ObjectHeaders(meta=meta or {}), **more)  # type: ignore[arg-type]


def decode(meta: dict[str, str] | None = None, *, directory: bool = False, **more: object) -> Attrs:
    return attributes.decode(info(meta, **more), DEFAULTS, directory=directory)  # type: ignore[arg-type]


# -- round trips


@given(attrs=complete, write_id=st.none() | st.just("ab" * 16))
def test_round_trip(attrs: Attrs, write_id: str | None) -> None:
    sent = attributes.encode(attrs, write_id=write_id)
    assert all(k.isascii() and v.isascii() and v.isprintable() for k, v in sent.meta.items())
    assert sent.meta.get(WRITE_ID) == write_id
    stored = ObjectInfo("k", 5, "E", MODIFIED, MODIFIED, headers=sent, tag_count=attrs.tag_count)
    assert attributes.decode(stored, DEFAULTS) == attrs


@given(attrs=complete)
def test_round_trip_of_a_directory(attrs: Attrs) -> None:
    attrs.mode = stat.S_IFDIR | stat.S_IMODE(attrs.mode)
    stored = ObjectInfo(
        "k/", 0, "E", MODIFIED, MODIFIED, headers=attributes.encode(attrs), tag_count=attrs.tag_count
    )
    assert attributes.decode(stored, DEFAULTS, directory=True) == attrs


@given(ns=times)
def test_times_round_trip(ns: int) -> None:
    assert attributes.parse_time(attributes.format_time(ns)) == ns


@given(
    target=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
    | st.just("\udcff")
)
def test_the_target_in_a_header_round_trips(target: str) -> None:
    attrs = replace(attributes.new(stat.S_IFLNK, 0o777, 1, 2, NS), header_target=target)
    sent = attributes.encode(attrs)
    assert sent.meta["symlink-target"].isascii()
    found = decode(sent.meta)
    assert found.header_target == target and found.kind == stat.S_IFLNK


@given(carried=headers)
def test_foreign_headers_are_carried(carried: ObjectHeaders) -> None:
    before = replace(carried, meta=dict(carried.meta))
    stored = ObjectInfo("k", 1, "E", MODIFIED, MODIFIED, headers=carried)
    attrs = attributes.decode(stored, DEFAULTS)
    sent = attributes.encode(attrs)
    for field in fields(ObjectHeaders):
        if field.name != "meta":
            assert getattr(sent, field.name) == getattr(before, field.name)
    assert {k: v for k, v in sent.meta.items() if k in before.meta} == before.meta
    assert carried == before, "what was decoded is not touched"


def test_a_copy_shares_nothing_that_can_be_changed() -> None:
    """Or the tags that one rewrite sends again would be sent for ever, over those set meanwhile."""
    attrs = decode({"foreign": "x", "xattr": attributes.encode_xattrs({"user.a": b"1"})})
    copy = attrs.copy()
    assert copy == attrs
    copy.xattrs["user.b"] = b"2"
    copy.carried.tagging = "a=b"
    copy.carried.meta["foreign"] = "y"
    assert attrs.xattrs == {"user.a": b"1"}
    assert attrs.carried.tagging is None and attrs.carried.meta == {"foreign": "x"}


# -- what ossfs 1.x writes


@pytest.mark.parametrize(
    ("meta", "directory", "mode"),
    [
        ({"mode": "33188"}, False, stat.S_IFREG | 0o644),
        ({"mode": "41471"}, False, stat.S_IFLNK | 0o777),
        ({"mode": "4516"}, False, stat.S_IFIFO | 0o644),
        ({"mode": "493"}, True, stat.S_IFDIR | 0o755),  # its mkdir
        ({"mode": "16877"}, True, stat.S_IFDIR | 0o755),  # its chmod of a directory
        ({"mode": "420"}, False, stat.S_IFREG | 0o644),
        ({"mode": "35309"}, False, stat.S_IFREG | 0o4755),
        ({"mode": "17407"}, True, stat.S_IFDIR | 0o1777),
        ({}, False, stat.S_IFREG | 0o640),
        ({}, True, stat.S_IFDIR | 0o750),
        ({"mode": "0"}, False, stat.S_IFREG),
        ({"mode": "16877"}, False, stat.S_IFREG | 0o755),  # a key without a slash is no directory
        ({"mode": "33188"}, True, stat.S_IFDIR | 0o644),
    ],
)
def test_modes_of_1x(meta: dict[str, str], directory: bool, mode: int) -> None:
    attrs = decode(meta, directory=directory, key="k/" if directory else "k")
    assert attrs.mode == mode
    assert attributes.encode(attrs).meta["mode"] == str(mode)


def test_a_file_of_1x_read_and_written() -> None:
    meta = {
        "mode": "33188",
        "uid": "1000",
        "gid": "1001",
        "mtime": "1700000000.000000005",
        "atime": "1700000001",
        "ctime": "1700000002.500000000",
        "xattr": "%7B%22user.foo%22%3A%22YmFy%22%7D",
    }
    attrs = decode(meta, size=3)
    assert (attrs.mode, attrs.uid, attrs.gid) == (0o100644, 1000, 1001)
    assert attrs.mtime_ns == 1_700_000_000 * NS + 5
    assert attrs.atime_ns == 1_700_000_001 * NS
    assert attrs.ctime_ns == 1_700_000_002 * NS + 500_000_000
    assert attrs.xattrs == {"user.foo": b"bar"}
    assert attrs.stored_mtime
    assert attributes.encode(attrs).meta == meta


def test_times_are_those_of_a_timespec() -> None:
    """1.x prints tv_sec and tv_nsec, and tv_nsec counts upwards before 1970 too."""
    assert attributes.format_time(-500_000_000) == "-1.500000000"
    assert attributes.parse_time("-1.500000000") == -500_000_000
    assert attributes.parse_time("-2") == -2 * NS
    assert attributes.parse_time("-0.5") == -500_000_000, "nothing but a plain decimal begins with -0"


@pytest.mark.parametrize(
    ("text", "ns"),
    [("0", 0), (" 7 ", 7 * NS), ("1.5", 1_500_000_000), ("1.0000000019", NS + 1), ("00012", 12 * NS)],
)
def test_times_of_others(text: str, ns: int) -> None:
    assert attributes.parse_time(text) == ns


def test_xattrs_are_rfc_3986_with_the_slash_left_alone() -> None:
    text = attributes.encode_xattrs({"user.ü b": b"\xff\xfe\xfd" * 2, "user.x+y": b""})
    assert text == quote('{"user.ü b":"//79//79","user.x+y":""}', safe="/")
    assert "//79" in text and "+" not in text and "%20" in text
    assert attributes.decode_xattrs(text) == {"user.ü b": b"\xff\xfe\xfd" * 2, "user.x+y": b""}


def test_no_xattrs_no_header() -> None:
    attrs = decode({"xattr": attributes.encode_xattrs({"user.a": b""})})
    attrs.xattrs = {}
    assert "xattr" not in attributes.encode(attrs).meta


@pytest.mark.parametrize("mode", [{}, {"mode": "41471"}, {"mode": "33188"}])
def test_a_symlink_with_its_target_in_a_header(mode: dict[str, str]) -> None:
    attrs = decode({"symlink-target": "header:9:..%2Fx%20%C3%BC", **mode})
    assert attrs.kind == stat.S_IFLNK and attrs.header_target == "../x ü"
    if not mode:
        assert stat.S_IMODE(attrs.mode) == 0o777
    assert "symlink-target" in attributes.encode(attrs).meta


# -- what is not stored


def test_defaults() -> None:
    attrs = decode()
    assert (attrs.uid, attrs.gid) == (77, 88)
    assert attrs.mtime_ns == attrs.atime_ns == attrs.ctime_ns == MODIFIED * NS
    assert not attrs.stored_mtime and not attrs.xattrs and attrs.rdev == 0


def test_missing_times_are_the_mtime() -> None:
    attrs = decode({"mtime": "5"})
    assert attrs.mtime_ns == attrs.atime_ns == attrs.ctime_ns == 5 * NS
    assert attrs.stored_mtime


def test_a_native_symlink_is_what_it_points_to() -> None:
    assert decode({"mode": "41471"}, object_type="Symlink").kind == stat.S_IFREG


def test_a_device_node_keeps_its_number() -> None:
    attrs = attributes.new(stat.S_IFCHR, 0o600, 0, 0, NS, name="null", rdev=259)
    assert decode(attributes.encode(attrs).meta).rdev == 259


# -- damage

DAMAGED_NUMBERS = [
    "",
    " ",
    "x",
    "-1",
    "1.5",
    "0x1ff",
    "0o644",
    "٣",
    "1" * 21,
    "9" * 5000,
    "65536",
    "rw-r--r--",
    "1e3",
]


@pytest.mark.parametrize("value", DAMAGED_NUMBERS)
def test_damaged_modes(value: str) -> None:
    assert decode({"mode": value}).mode == stat.S_IFREG | 0o640
    assert decode({"mode": value}, directory=True).mode == stat.S_IFDIR | 0o750


@pytest.mark.parametrize("value", [*DAMAGED_NUMBERS[:-3], "4294967295", "18446744073709551616", "root"])
def test_damaged_owners(value: str) -> None:
    attrs = decode({"uid": value, "gid": value, "ossfs-rdev": "x" + value})
    assert (attrs.uid, attrs.gid, attrs.rdev) == (77, 88, 0)


@pytest.mark.parametrize(
    "value",
    ["", "x", "NaN", "inf", "1e9", "--1", "1..2", "2024-01-01T00:00:00Z", "1" * 19, "9" * 10**6, "1.x", ".5"],
)
def test_damaged_times(value: str) -> None:
    attrs = decode({"mtime": value, "atime": value, "ctime": value})
    assert attrs.mtime_ns == attrs.atime_ns == attrs.ctime_ns == MODIFIED * NS
    assert not attrs.stored_mtime


DAMAGED_XATTRS = [
    "",
    "{",
    "null",
    "[]",
    "7",
    '"x"',
    "NaN",
    '{"user.a":NaN}',
    '{"user.a":7}',
    '{"user.a":null}',
    '{"user.a":["YQ=="]}',
    '{"user.a":{"b":"c"}}',
    '{"user.a":true}',
    '{"user.a":"not base64!"}',
    '{"user.a":"é"}',
    '{"user.a":"YQ="}',
    '{"":"YQ=="}',
    '{"user.\\u0000":"YQ=="}',
    '{"user.\\ud800":"YQ=="}',
    "%ff%fe",
    "%7B%22user.a%22%3A",
    "[" * 100_000,
    '{"a":' * 50_000,
    '{"user.a":' + "9" * 1_000_000 + "}",
]


@pytest.mark.parametrize("value", DAMAGED_XATTRS, ids=lambda v: v[:20])
def test_damaged_xattrs_are_kept_as_they_are(value: str) -> None:
    attrs = decode({"xattr": value})
    assert attrs.xattrs == {}
    assert attributes.encode(attrs).meta["xattr"] == value
    attrs.xattrs = {"user.a": b"1"}
    assert attributes.decode_xattrs(attributes.encode(attrs).meta["xattr"]) == {"user.a": b"1"}


@pytest.mark.parametrize("value", ["", "header", "header:3", "header:0:", "other:3:abc", "a target"])
def test_damaged_symlink_targets_are_kept_as_they_are(value: str) -> None:
    attrs = decode({"symlink-target": value, "mode": "33188"})
    assert attrs.kind == stat.S_IFREG and attrs.header_target is None
    assert attributes.encode(attrs).meta["symlink-target"] == value


def test_a_target_beside_a_body_is_somebody_elses() -> None:
    attrs = decode({"symlink-target": "header:1:x"}, size=4)
    assert attrs.kind == stat.S_IFREG and attrs.header_target is None
    assert attributes.encode(attrs).meta["symlink-target"] == "header:1:x"


def test_a_target_that_is_not_utf8() -> None:
    attrs = decode({"symlink-target": "header:3:%FF"})
    assert attrs.header_target is not None
    assert attrs.header_target.encode("utf-8", "surrogateescape") == b"\xff"
    assert attributes.encode(attrs).meta["symlink-target"] == "header:3:%FF"


@given(
    meta=st.dictionaries(
        st.sampled_from(sorted(attributes._OURS)),
        st.text(max_size=30) | st.sampled_from(DAMAGED_NUMBERS + DAMAGED_XATTRS[:20]),
    ),
    size=st.integers(0, 2),
    directory=st.booleans(),
    object_type=st.sampled_from(["Normal", "Symlink", "Appendable", "Multipart"]),
)
def test_nothing_raises(meta: dict[str, str], size: int, directory: bool, object_type: str) -> None:
    attrs = decode(meta, size=size, directory=directory, object_type=object_type)
    assert stat.S_IFMT(attrs.mode) in attributes._KINDS
    assert 0 <= attrs.uid < 2**32 and 0 <= attrs.gid < 2**32
    assert all(abs(t) < 2**63 * NS for t in (attrs.mtime_ns, attrs.atime_ns, attrs.ctime_ns))
    attributes.encode(attrs)
    for name in attrs.xattrs:
        name.encode()


# -- the 8 KiB of metadata


def test_what_fits() -> None:
    attrs = attributes.new(stat.S_IFREG, 0o644, 0, 0, NS)
    seen = set()
    for length in range(5700, 6100, 3):  # whole groups of base64: padding is longer, encoded
        attrs.xattrs = {"user.a": b"x" * length}
        size = attributes.meta_bytes(attributes.encode(attrs, write_id="f" * 32))
        assert attributes.fits(attrs) is (size < MAX_META_BYTES)
        seen.add(attributes.fits(attrs))
    assert seen == {True, False}


def test_meta_bytes_counts_foreign_metadata_too() -> None:
    assert attributes.meta_bytes(ObjectHeaders(meta={"a": "123"})) == len("x-oss-meta-a123")
    attrs = decode({"foreign": "x" * 8100})
    assert not attributes.fits(attrs)


# -- types


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.txt", "text/plain"),
        ("A.JPG", "image/jpeg"),
        ("a.json", "application/json"),
        ("a.tar.gz", "application/gzip"),
        ("a.tgz", "application/gzip"),
        ("noextension", None),
        (".bashrc", None),
        ("data:,x", None),
        ("data:,x.png", "image/png"),
        ("http://x.txt", "text/plain"),
        ("a.é", None),
        ("", None),
    ],
)
def test_content_types(name: str, expected: str | None) -> None:
    assert attributes.content_type_of(name, stat.S_IFREG) == expected


def test_content_types_of_other_kinds() -> None:
    assert attributes.content_type_of("a.txt", stat.S_IFDIR) == "application/x-directory"
    assert attributes.content_type_of("a.txt", stat.S_IFLNK) is None
    assert attributes.new(stat.S_IFDIR, 0o755, 0, 0, 0).carried.content_type == attributes.DIRECTORY_TYPE


@pytest.mark.parametrize(
    ("key", "size", "content_type", "expected"),
    [
        ("d/", 0, None, True),
        ("d/", 5, "text/plain", True),
        ("d", 0, "application/x-directory", True),
        ("d", 0, "httpd/unix-directory", True),
        ("d", 5, "application/x-directory", False),
        ("d", 0, None, False),
    ],
)
def test_markers(key: str, size: int, content_type: str | None, expected: bool) -> None:
    assert attributes.is_marker(key, size, content_type) is expected


def test_1x_reads_what_we_write() -> None:
    """Its parser looks for quotes and base64 only: no escapes that it does not know."""
    attrs = attributes.new(stat.S_IFREG, 0o644, 5, 6, 1_700_000_000 * NS, name="a.txt")
    attrs.xattrs = {"user.ключ": b"\x00\x01"}
    meta = attributes.encode(attrs).meta
    assert meta["mode"] == "33188" and meta["mtime"] == "1700000000"
    assert "\\u" not in meta["xattr"]
    value = json.loads(unquote(meta["xattr"]))
    assert base64.b64decode(value["user.ключ"]) == b"\x00\x01"
