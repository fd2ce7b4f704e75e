"""Names and keys: limits in bytes, UTF-8, and what is hidden."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossfs.errors import PosixError
from ossfs.fs.hidden import is_hidden
from ossfs.fs.names import check_key, decode_name, showable


def errno_of(*args: object, **kwargs: object) -> int:
    with pytest.raises(PosixError) as caught:
        decode_name(*args, **kwargs)  # type: ignore[arg-type]
    return caught.value.errno


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
def test_any_text_is_a_name(name: str) -> None:
    raw = name.encode()
    if len(raw) <= 255:
        assert decode_name(raw) == decode_name(raw, creating=True) == name


@pytest.mark.parametrize("character", ["a", "ü", "日", "😀"])
def test_the_limit_of_a_name_counts_bytes(character: str) -> None:
    most = 255 // len(character.encode())
    assert decode_name((character * most).encode()) == character * most
    assert errno_of((character * (most + 1)).encode()) == errno.ENAMETOOLONG
    assert showable(character * most, in_root=False) and not showable(character * (most + 1), in_root=False)


@pytest.mark.parametrize("raw", [b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80"])
def test_what_is_not_utf8_cannot_be_there_or_be_made(raw: bytes) -> None:
    assert errno_of(raw) == errno.ENOENT
    assert errno_of(raw, creating=True) == errno.EILSEQ
    assert errno_of(raw * 256, creating=True) == errno.ENAMETOOLONG


@pytest.mark.parametrize("name", ["", ".", "..", "a\0b"])
def test_what_is_no_component(name: str) -> None:
    assert not showable(name, in_root=False) and not showable(name, in_root=True)


@pytest.mark.parametrize("name", ["...", ".a", " ", "a\nb", "\\", "%2F", "-", "\x01", "\u202e", "\udc80"])
def test_odd_names_are_names(name: str) -> None:
    assert showable(name, in_root=True)


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        (".ossfs-0123abcd", True),
        (".ossfs-" + "f" * 32, True),
        (".ossfs-" + "f" * 33, False),
        (".ossfs-abc", False),
        (".ossfs-ABCD", False),
        (".ossfs-0123abcd\n", False),
        (".ossfs-0123abcd.txt", False),
        (".ossfs", False),
        ("x.ossfs-0123abcd", False),
        (".ossfs-٠١٢٣", False),
    ],
)
def test_hidden_names(name: str, hidden: bool) -> None:
    assert is_hidden(name) is hidden
    assert showable(name, in_root=True) is not hidden
    assert showable(name, in_root=False), "only in the mount's root"


@pytest.mark.parametrize("character", ["a", "ü", "日", "\ud800"])
def test_the_limit_of_a_key_counts_bytes(character: str) -> None:
    size = len(character.encode("utf-8", "surrogatepass"))
    check_key(character * (1023 // size))
    with pytest.raises(PosixError) as caught:
        check_key(character * (1023 // size + 1))
    assert caught.value.errno == errno.ENAMETOOLONG


def test_a_key_cannot_begin_with_a_backslash() -> None:
    """The service refuses it, and close(2) would be the first to say so."""
    check_key("dir/\\name")
    with pytest.raises(PosixError) as caught:
        check_key("\\name")
    assert caught.value.errno == errno.EINVAL
