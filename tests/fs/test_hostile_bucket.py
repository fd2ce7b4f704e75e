"""A bucket that somebody filled with malice: any keys, with any metadata."""

from __future__ import annotations

import stat

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ossfs.fs.hidden import is_hidden
from ossfs.store.base import ObjectHeaders
from tests.model.runner import run_in_virtual_time
from tests.support.memory_store import MemoryStore
from tests.support.posix import Posix, mounted

PARTS = st.one_of(
    st.sampled_from(
        ["", ".", "..", "a", "b", "a\nb", "\x1b[2J", "\0", "\\", "%2e%2e", "~", "-rf", "*", ".ossfs-0123abcd"]
    ),
    st.sampled_from(["n" * 255, "n" * 256, "ü" * 128, "\u202e", "\ud7ff", "\U0001f600", " ", "."]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), min_size=1, max_size=4),
)
KEYS = (
    st.lists(PARTS, min_size=1, max_size=4)
    .map("/".join)
    .filter(lambda key: 0 < len(key.encode()) <= 1023 and key[0] != "\\")  # the service has no others
)
NUMBERS = st.one_of(
    st.sampled_from(["0", "-1", "33188", "16877", "41471", "25008", "8630", "99999999999999999999", "²", ""]),
    st.integers(-(2**70), 2**70).map(str),
    st.text(max_size=5),
)
METADATA = st.dictionaries(
    st.sampled_from(
        ["mode", "uid", "gid", "mtime", "atime", "ctime", "ossfs-rdev", "xattr", "symlink-target"]
    ),
    NUMBERS,
    max_size=4,
)


def can_be_shown(key: str) -> bool:
    """The promise of docs/semantics.md (`hidden-keys`, `hidden-ours`), in its own words."""
    parts = key.removesuffix("/").split("/")
    return not is_hidden(parts[0]) and all(
        part not in ("", ".", "..") and "\0" not in part and len(part.encode()) <= 255 for part in parts
    )


async def walk(fs: Posix, top: str, found: dict[str, int]) -> None:
    """Every path below *top*, with its mode."""
    for name in await fs.listdir(top):
        assert name not in ("", ".", "..") and "/" not in name and "\0" not in name
        path = f"{top}/{name}" if top else name
        shown = await fs.stat(path)
        found[path] = shown.mode
        assert 0 <= shown.uid < 2**32 - 1 and 0 <= shown.gid < 2**32 - 1 and shown.size >= 0
        if stat.S_ISDIR(shown.mode):
            await walk(fs, path, found)
        elif stat.S_ISREG(shown.mode):
            assert await fs.read_file(path) == path.encode()
        elif stat.S_ISLNK(shown.mode):
            assert await fs.readlink(path)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(objects=st.dictionaries(KEYS, METADATA, max_size=8))
def test_any_keys_with_any_metadata_make_a_tree(objects: dict[str, dict[str, str]]) -> None:
    async def work() -> dict[str, int]:
        store = MemoryStore()
        for key, meta in objects.items():
            store.add(key, b"" if key.endswith("/") else key.encode(), headers=ObjectHeaders(meta=meta))
        found: dict[str, int] = {}
        with trio.fail_after(1000):
            async with mounted(store) as fs:
                await walk(fs, "", found)
        return found

    found: dict[str, int] = run_in_virtual_time(work, 1)
    shown = {key.removesuffix("/") for key in objects if can_be_shown(key)}
    assert shown <= set(found), shown - set(found)
    for path in set(found) - shown:  # what has no object of its own is a directory above one
        assert stat.S_ISDIR(found[path])
        assert any(key.startswith(path + "/") for key in objects)
