"""What every ObjectStore does: the one in memory and the one on the wire pass the same tests."""

from __future__ import annotations

import array
import hashlib
import time
from dataclasses import replace

import pytest

from ossfs.errors import (
    AlreadyExists,
    InvalidRange,
    InvalidRequest,
    NoSuchUpload,
    NotFound,
    PreconditionFailed,
)
from ossfs.store.base import ObjectHeaders, ObjectInfo, ObjectStore, StoredAs
from ossfs.store.checksum import crc64

ODD_KEYS = [
    "dir/with space",
    "plus+plus",
    "per%cent%2F",
    "hash#?query&amp;<x>",
    "new\nline",
    "ret\rurn\ttab",
    "back\\slash",
    "quote\"'",
    "smile😀",
    "e\u0301",
    "a//b",
    "./x",
    "x/../y",
    "ctrl\x01\x1f",
    "tilde~-_.!*()",
    "n" * 1023,
]


pytestmark = pytest.mark.timeout(30)


async def read(store: ObjectStore, key: str, size: int = 1 << 20, start: int = 0) -> bytes:
    buffer = bytearray(size)
    _, count = await store.get(key, memoryview(buffer), start=start)
    return bytes(buffer[:count])


async def test_put_head_get(store: ObjectStore) -> None:
    body = b"hello world"
    before = int(time.time())
    result = await store.put("a/b", [b"hello", bytearray(b" "), memoryview(b"world")], ObjectHeaders())
    assert result.etag == hashlib.md5(body).hexdigest().upper()
    assert result.crc64 == 5981764153023615706
    assert abs(result.server_date - before) <= 5
    info = await store.head("a/b")
    assert (info.key, info.size, info.etag, info.crc64) == ("a/b", 11, result.etag, result.crc64)
    assert (info.object_type, info.storage_class, info.tag_count) == ("Normal", "Standard", 0)
    assert abs(info.last_modified - before) <= 5
    assert await read(store, "a/b") == body


async def test_headers_survive_a_rewrite(store: ObjectStore) -> None:
    headers = ObjectHeaders(
        meta={"mode": "33188", "mtime": "1700000000.5", "ossfs-wid": "w1"},
        content_type="text/x-thing",
        cache_control="no-cache",
        content_disposition='attachment; filename="x"',
        content_encoding="identity",
        content_language="en",
        expires="Thu, 01 Dec 2033 16:00:00 GMT",
        storage_class="IA",
    )
    await store.put("h", [b"x"], headers)
    info = await store.head("h")
    assert info.headers == headers
    assert info.storage_class == "IA"
    await store.put("h2", [b"x"], info.headers)
    assert (await store.head("h2")).headers == headers


async def test_default_content_type(store: ObjectStore) -> None:
    await store.put("page.html", [b"x"], ObjectHeaders())
    assert (await store.head("page.html")).headers.content_type == "application/octet-stream"


async def test_ranges(store: ObjectStore) -> None:
    data = bytes(range(256)) * 400
    await store.put("r", [data], ObjectHeaders())
    assert await read(store, "r", 10) == data[:10]
    assert await read(store, "r", 10, start=100) == data[100:110]
    assert await read(store, "r", 10, start=len(data) - 4) == data[-4:]
    assert await read(store, "r", 1, start=len(data) - 1) == data[-1:]
    assert await read(store, "r", len(data)) == data
    assert await read(store, "r", len(data) * 2) == data
    with pytest.raises(InvalidRange):
        await read(store, "r", 10, start=len(data))
    info, count = await store.get("r", memoryview(bytearray(7)), start=9)
    assert (info.size, count) == (len(data), 7)


async def test_empty_object(store: ObjectStore) -> None:
    result = await store.put("e", [], ObjectHeaders())
    assert (result.etag, result.crc64) == ("D41D8CD98F00B204E9800998ECF8427E", 0)
    info, count = await store.get("e", memoryview(bytearray(10)))
    assert (info.size, count) == (0, 0)
    with pytest.raises(InvalidRange):
        await read(store, "e", 10, start=1)


async def test_get_into_nothing(store: ObjectStore) -> None:
    await store.put("e", [b"abc"], ObjectHeaders())
    info, count = await store.get("e", memoryview(bytearray()))
    assert (info.size, count) == (3, 0)


async def test_missing(store: ObjectStore) -> None:
    for call in (
        store.head("no"),
        store.get("no", memoryview(bytearray(1))),
        store.copy("no", "there"),
        store.get_tagging("no"),
    ):
        with pytest.raises(NotFound) as caught:
            await call
        assert not isinstance(caught.value, NoSuchUpload)
        assert caught.value.status == 404
        assert caught.value.request_id


async def test_get_is_pinned_to_an_etag(store: ObjectStore) -> None:
    first = await store.put("p", [b"one"], ObjectHeaders())
    info, _ = await store.get("p", memoryview(bytearray(3)), etag=first.etag)
    assert info.etag == first.etag
    await store.put("p", [b"two"], ObjectHeaders())
    with pytest.raises(PreconditionFailed):
        await store.get("p", memoryview(bytearray(3)), etag=first.etag)


async def test_progress_ends_with_the_count(store: ObjectStore) -> None:
    data = b"x" * 3_000_000
    await store.put("g", [data], ObjectHeaders())
    told: list[int] = []
    await store.get("g", memoryview(bytearray(len(data))), progress=told.append)
    assert told == sorted(told)
    assert told[-1] == len(data)


async def test_bodies_are_counted_in_bytes(store: ObjectStore) -> None:
    numbers = array.array("I", range(1000))
    await store.put("n", [memoryview(numbers), b"", memoryview(b"end")], ObjectHeaders())
    assert await read(store, "n") == numbers.tobytes() + b"end"
    upload = await store.initiate("m", ObjectHeaders())
    part = await store.put_part("m", upload, 1, [memoryview(numbers)])
    assert part.size == 4000
    assert part.crc64 == crc64([numbers.tobytes()])
    await store.complete("m", upload, [part])
    assert (await store.head("m")).size == 4000
    into = array.array("I", bytes(4000))
    _, count = await store.get("n", memoryview(into))
    assert (count, into) == (4000, numbers)


async def test_many_small_buffers(store: ObjectStore) -> None:
    pieces = [bytes([i % 251]) * (i % 37) for i in range(5000)]
    await store.put("s", pieces, ObjectHeaders())
    assert await read(store, "s") == b"".join(pieces)


@pytest.mark.parametrize("key", ["", ".", ".."])
async def test_keys_that_are_never_sent(store: ObjectStore, key: str) -> None:
    headers = ObjectHeaders()
    await store.put("x", [b"1"], headers)
    for call in (
        store.head(key),
        store.get(key, memoryview(bytearray(1))),
        store.put(key, [b"1"], headers),
        store.copy("x", key),
        store.delete(key),
        store.delete_many(["x", key]),
        store.initiate(key, headers),
        store.put_part(key, "u", 1, [b"1"]),
        store.copy_part(key, "u", 1, "x", 0, 1),
        store.complete(key, "u", []),
        store.abort(key, "u"),
        store.get_symlink(key),
        store.get_tagging(key),
    ):
        with pytest.raises(InvalidRequest) as caught:
            await call
        assert caught.value.status == 0
    assert (await store.head("x")).size == 1


async def test_key_limits(store: ObjectStore) -> None:
    for key in ("n" * 1024, "\udcff", "/lead"):
        with pytest.raises(InvalidRequest):
            await store.put(key, [b"1"], ObjectHeaders())


@pytest.mark.parametrize("key", ODD_KEYS, ids=range(len(ODD_KEYS)))
async def test_odd_keys(store: ObjectStore, key: str) -> None:
    await store.put(key, [key.encode()], ObjectHeaders())
    assert await read(store, key) == key.encode()
    page = await store.list("")
    assert [entry.key for entry in page.objects] == [key]
    page = await store.list(key[:5], delimiter="\x02")
    assert [entry.key for entry in page.objects] == [key]
    await store.copy(key, "copy")
    assert await read(store, "copy") == key.encode()
    upload = await store.initiate(key, ObjectHeaders())
    assert [found.key for found in await store.list_uploads(key)] == [key]
    part = await store.put_part(key, upload, 1, [b"new"])
    await store.complete(key, upload, [part])
    assert await read(store, key) == b"new"
    assert await store.delete_many([key, "copy"]) == []
    assert (await store.list("")).objects == []


async def test_forbid_overwrite(store: ObjectStore) -> None:
    headers = ObjectHeaders()
    await store.put("f", [b"1"], headers, forbid_overwrite=True)
    await store.put("source", [b"s"], headers)
    with pytest.raises(AlreadyExists):
        await store.put("f", [b"2"], headers, forbid_overwrite=True)
    with pytest.raises(AlreadyExists):
        await store.copy("source", "f", forbid_overwrite=True)
    with pytest.raises(AlreadyExists):
        await store.initiate("f", headers, forbid_overwrite=True)
    upload = await store.initiate("f", headers)
    part = await store.put_part("f", upload, 1, [b"3"])
    with pytest.raises(AlreadyExists):
        await store.complete("f", upload, [part], forbid_overwrite=True)
    assert await read(store, "f") == b"1"
    await store.complete("f", upload, [part])
    assert await read(store, "f") == b"3"


async def test_put_with_a_look_before(store: ObjectStore) -> None:
    headers = ObjectHeaders()
    await store.put("f", [b"1"], headers, replaceable=lambda info: False)  # there is none
    with pytest.raises(PreconditionFailed):
        await store.put("f", [b"2"], headers, replaceable=lambda info: False)
    assert await read(store, "f") == b"1"
    sizes: list[int] = []

    def any_of(info: ObjectInfo) -> bool:
        sizes.append(info.size)
        return True

    await store.put("f", [b"23"], headers, replaceable=any_of)
    assert await read(store, "f") == b"23" and sizes == [1]


async def test_copy(store: ObjectStore) -> None:
    headers = ObjectHeaders(meta={"a": "1"}, content_type="text/plain")
    made = await store.put("s", [b"data"], headers)
    result = await store.copy("s", "d")
    assert (result.etag, result.crc64) == (made.etag, made.crc64)
    assert result.last_modified is not None
    info = await store.head("d")
    assert (info.headers.meta, info.headers.content_type) == ({"a": "1"}, "text/plain")
    assert info.last_modified == result.last_modified
    await store.copy("s", "d", etag=made.etag, headers=ObjectHeaders(meta={"b": "2"}, storage_class="IA"))
    info = await store.head("d")
    assert (info.headers.meta, info.storage_class) == ({"b": "2"}, "IA")
    assert info.headers.content_type == "application/octet-stream"
    assert await read(store, "d") == b"data"
    with pytest.raises(PreconditionFailed):
        await store.copy("s", "d", etag="0" * 32)


async def test_copy_onto_itself_replaces_the_headers(store: ObjectStore) -> None:
    made = await store.put("s", [b"data"], ObjectHeaders(meta={"mode": "1"}))
    await store.copy("s", "s", etag=made.etag, headers=ObjectHeaders(meta={"mode": "2"}))
    assert (await store.head("s")).headers.meta == {"mode": "2"}
    assert await read(store, "s") == b"data"


async def test_how_objects_are_kept(store: ObjectStore) -> None:
    kept = StoredAs("IA", "KMS", "key", acl="public-read")
    headers = kept.over(ObjectHeaders(meta={"m": "1"}, content_type="x/y"))

    async def found(key: str) -> StoredAs:
        return replace(StoredAs.of((await store.head(key)).headers), acl=await store.get_acl(key))

    await store.put("s", [b"data"], headers)
    assert await found("s") == kept
    upload = await store.initiate("u", headers)
    await store.complete("u", upload, [await store.put_part("u", upload, 1, [b"x"])])
    assert await found("u") == kept
    await store.copy("s", "c")
    assert await found("c") == StoredAs("Standard", acl="default"), "the service takes nothing of it over"
    assert (await store.head("c")).headers.meta == {"m": "1"}
    await store.copy("s", "c", stored_as=kept)
    assert await found("c") == kept
    await store.copy(
        "s", "c", headers=replace(headers, acl=None, encryption="AES256", encryption_key_id=None)
    )
    assert await found("c") == StoredAs("IA", "AES256", acl="default")
    with pytest.raises(NotFound):
        await store.get_acl("none")
    assert (await store.bucket_info()).acl == "private"


async def test_tagging(store: ObjectStore) -> None:
    tags = "k%20ey=va%26lue&two="
    await store.put("t", [b"1"], ObjectHeaders(tagging=tags))
    assert (await store.head("t")).tag_count == 2
    assert await store.get_tagging("t") == tags
    await store.copy("t", "u", headers=ObjectHeaders())
    assert (await store.head("u")).tag_count == 2
    await store.copy("t", "u", headers=ObjectHeaders(tagging="x=y"))
    assert await store.get_tagging("u") == "x=y"
    await store.put("t", [b"1"], ObjectHeaders())
    assert await store.get_tagging("t") == ""


async def test_listing_with_delimiter_and_pages(store: ObjectStore) -> None:
    keys = ["a", "a-b", "a/", "a/1", "a/2/x", "b", "c/d/e", "c/f", "é/x", "z"]
    for key in keys:
        await store.put(key, [key.encode()], ObjectHeaders())
    page = await store.list("", delimiter="/")
    assert [entry.key for entry in page.objects] == ["a", "a-b", "b", "z"]
    assert page.prefixes == ["a/", "c/", "é/"]
    assert page.next_marker is None
    page = await store.list("a/", delimiter="/")
    assert ([entry.key for entry in page.objects], page.prefixes) == (["a/", "a/1"], ["a/2/"])
    entry = page.objects[1]
    assert (entry.size, entry.etag) == (3, hashlib.md5(b"a/1").hexdigest().upper())
    assert abs(entry.last_modified - page.server_date) <= 5
    for delimiter, size in (("", 1), ("", 3), ("/", 1), ("/", 2)):
        whole = await store.list("", delimiter=delimiter)
        found: list[str] = []
        groups: list[str] = []
        marker = ""
        while True:
            page = await store.list("", delimiter=delimiter, marker=marker, max_keys=size)
            assert len(page.objects) + len(page.prefixes) <= size
            found += [entry.key for entry in page.objects]
            groups += page.prefixes
            if page.next_marker is None:
                break
            marker = page.next_marker
        assert found == [entry.key for entry in whole.objects]
        assert groups == whole.prefixes
    page = await store.list("", marker="a/1")
    assert [entry.key for entry in page.objects] == ["a/2/x", "b", "c/d/e", "c/f", "z", "é/x"]
    assert (await store.list("nothing")).objects == []


async def test_delete(store: ObjectStore) -> None:
    await store.put("d", [b"1"], ObjectHeaders())
    await store.delete("d")
    await store.delete("d")
    with pytest.raises(NotFound):
        await store.head("d")


async def test_delete_many(store: ObjectStore) -> None:
    keys = [f"k{number}" for number in range(50)]
    for key in keys[:10]:
        await store.put(key, [b"1"], ObjectHeaders())
    assert await store.delete_many(keys) == []
    assert (await store.list("")).objects == []


async def test_multipart(store: ObjectStore) -> None:
    headers = ObjectHeaders(meta={"mode": "33188"}, content_type="text/plain")
    upload = await store.initiate("m", headers)
    second = await store.put_part("m", upload, 7, [b"b"])
    first = await store.put_part("m", upload, 2, [b"x" * 1000, b"a" * 102400])
    first = await store.put_part("m", upload, 2, [b"a" * 102400])
    with pytest.raises(NotFound):
        await store.head("m")
    listed = await store.list_uploads("m")
    assert [(found.key, found.upload_id) for found in listed] == [("m", upload)]
    result = await store.complete("m", upload, [first, second])
    assert result.etag == "8CB0E9C485EDDD0078747AB04DE049E9-2"
    assert result.crc64 == 10317615437480851157
    info = await store.head("m")
    assert (info.size, info.object_type, info.crc64) == (102401, "Multipart", 10317615437480851157)
    assert info.headers.meta == {"mode": "33188"}
    assert await read(store, "m") == b"a" * 102400 + b"b"
    assert await store.list_uploads("") == []


async def test_copied_parts(store: ObjectStore) -> None:
    data = bytes(range(256)) * 1000
    made = await store.put("s", [data], ObjectHeaders())
    upload = await store.initiate("m", ObjectHeaders())
    one = await store.copy_part("m", upload, 1, "s", 100, 150_000, etag=made.etag)
    assert (one.number, one.size, one.crc64) == (1, 150_000, None)
    two = await store.put_part("m", upload, 2, [b"tail"])
    with pytest.raises(PreconditionFailed):
        await store.copy_part("m", upload, 3, "s", 0, 150_000, etag="0" * 32)
    await store.complete("m", upload, [one, two])
    assert await read(store, "m") == data[100:150_100] + b"tail"


async def test_completion_is_checked(store: ObjectStore) -> None:
    upload = await store.initiate("m", ObjectHeaders())
    small = await store.put_part("m", upload, 1, [b"small"])
    last = await store.put_part("m", upload, 2, [b"last"])
    with pytest.raises(InvalidRequest) as caught:
        await store.complete("m", upload, [small, last])
    assert caught.value.code == "EntityTooSmall"
    await store.put_part("m", upload, 1, [b"other"])
    with pytest.raises(InvalidRequest) as caught:
        await store.complete("m", upload, [small])
    assert caught.value.code == "InvalidPart"


async def test_uploads_that_are_not_there(store: ObjectStore) -> None:
    upload = await store.initiate("m", ObjectHeaders())
    part = await store.put_part("m", upload, 1, [b"1"])
    await store.abort("m", upload)
    await store.abort("m", upload)
    for call in (
        store.put_part("m", upload, 2, [b"1"]),
        store.complete("m", upload, [part]),
    ):
        with pytest.raises(NoSuchUpload):
            await call


async def test_bucket(store: ObjectStore) -> None:
    info = await store.bucket_info()
    assert (info.name, info.location, info.storage_class) == ("bkt", "oss-cn-hangzhou", "Standard")
    assert info.versioning == ""
    await store.put("x", [b"12345"], ObjectHeaders())
    stat = await store.bucket_stat()
    assert (stat.storage, stat.object_count) == (5, 1)


async def test_signed_urls_name_the_key(store: ObjectStore) -> None:
    assert "thing" in await store.sign_url("GET", "thing", 60)
    with pytest.raises(InvalidRequest):
        await store.sign_url("GET", "..", 60)
