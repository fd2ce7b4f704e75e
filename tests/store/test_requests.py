"""What is put on the wire: headers, directives, documents, presigned URLs."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from ossfs.errors import AccessDenied, PreconditionFailed, ServerFault, TokenExpired
from ossfs.metrics import Metrics
from ossfs.server import ServerConfig, start_server
from ossfs.store.base import ObjectHeaders, PartResult, StoredAs
from ossfs.store.credentials import Credentials, StaticCredentials
from ossfs.store.oss import StoreConfig, open_store
from ossfs.store.passwd_file import PasswdFile
from tests.store.scripted import Scripted, Talk, ok

KEYS = StaticCredentials(Credentials("id", "secret"))
Make = Callable[..., StoreConfig]


def answers(*documents: bytes) -> list[Callable[[Talk], None]]:
    def make(document: bytes) -> Callable[[Talk], None]:
        def step(talk: Talk) -> None:
            talk.head += "\r\n\r\n" + talk.read_body().decode()
            seen.append(talk.head.lower())
            talk.answer(200, document, ETag='"E"')

        return step

    seen.clear()
    return [make(document) for document in documents]


seen: list[str] = []
COPIED = (
    b'<CopyObjectResult><ETag>"E"</ETag>'
    b"<LastModified>2023-11-14T22:13:20.000Z</LastModified></CopyObjectResult>"
)
STARTED = b"<InitiateMultipartUploadResult><UploadId>U</UploadId></InitiateMultipartUploadResult>"


async def test_how_it_is_kept_is_said_on_all_that_is_written(wire_config: Make) -> None:
    kept = StoredAs("IA", "KMS", "key", acl="private")
    headers = kept.over(ObjectHeaders())
    with trio.fail_after(10), Scripted(*answers(b"", STARTED, COPIED, COPIED, COPIED)) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            await store.once.put("k", [], headers)
            await store.once.initiate("k", headers)
            await store.once.copy("k", "c", stored_as=kept)
            await store.once.copy("k", "c", headers=headers)
            await store.once.copy("k", "c", stored_as=StoredAs(acl="default"))
    for head in seen[:4]:
        assert "x-oss-storage-class: ia\r\n" in head
        assert "x-oss-server-side-encryption: kms\r\n" in head
        assert "x-oss-server-side-encryption-key-id: key\r\n" in head
        assert "x-oss-object-acl: private\r\n" in head
    assert "x-oss-object-acl" not in seen[4], "asking for it wants a permission"


async def test_who_pays_is_said_in_every_request(tmp_path: Path, wire_config: Make) -> None:
    """A server that refuses what does not say it."""
    server = start_server(ServerConfig(tmp_path / "oss", buckets=("bkt",)))
    keys = StaticCredentials(Credentials(server.access_key_id, server.access_key_secret))
    server.set_requester_pays(True)
    into = memoryview(bytearray(10))
    try:
        with trio.fail_after(20):
            async with open_store(wire_config(server.url), keys, Metrics()) as store:
                with pytest.raises(AccessDenied):
                    await store.list("")
            for region in (None, "cn-hangzhou"):
                config = wire_config(server.url, region=region, requester_pays=True)
                async with open_store(config, keys, Metrics()) as store:
                    await store.put("k", [b"data"], ObjectHeaders(tagging="a=b"))
                    await store.copy("k", "c")
                    upload = await store.initiate("u", ObjectHeaders())
                    parts = [
                        await store.put_part("u", upload, 1, [bytes(102400)]),
                        await store.copy_part("u", upload, 2, "k", 0, 4),
                    ]
                    assert len(await store.list_uploads("")) == 1
                    await store.complete("u", upload, parts)
                    await store.abort("u", await store.initiate("u", ObjectHeaders()))
                    assert (await store.get("k", into))[1] == 4 and (await store.head("c")).size == 4
                    assert await store.get_acl("k") == "default" and await store.get_tagging("k") == "a=b"
                    assert len((await store.list("")).objects) == 3
                    assert (await store.bucket_info()).name == "bkt"
                    assert (await store.bucket_stat()).object_count == 3
                    with urllib.request.urlopen(await store.sign_url("GET", "k", 60), timeout=5) as answer:
                        assert answer.read() == b"data"
                    await store.delete("k")
                    assert await store.delete_many(["c", "u"]) == []
    finally:
        server.stop()


async def test_a_traffic_limit_is_asked_for_where_bytes_move(wire_config: Make) -> None:
    limit = "x-oss-traffic-limit: 819200\r\n"
    part = b'<CopyPartResult><ETag>"P"</ETag></CopyPartResult>'
    with trio.fail_after(10), Scripted(*answers(b"", b"", COPIED, part, STARTED)) as server:
        async with open_store(wire_config(server.url, traffic_limit=819200), KEYS, Metrics()) as store:
            await store.once.put("k", [b"x"], ObjectHeaders())
            await store.once.put_part("k", "U", 1, [b"x"])
            await store.once.copy("k", "c")
            await store.once.copy_part("k", "U", 1, "s", 0, 5)
            await store.once.initiate("k", ObjectHeaders())
    assert limit in seen[0] and limit in seen[1]
    assert all("traffic" not in head for head in seen[2:]), "copies use nobody's line"
    range_ = {"ETag": '"E"', "Content_Range": "bytes 0-2/3"}
    with trio.fail_after(10), Scripted(lambda talk: _answer_get(talk, range_)) as server:
        async with open_store(wire_config(server.url, traffic_limit=819200), KEYS, Metrics()) as store:
            await store.once.get("k", memoryview(bytearray(3)))
    assert limit in seen[-1]


def _answer_get(talk: Talk, headers: dict[str, str]) -> None:
    seen.append(talk.head.lower() + "\r\n\r\n")
    talk.answer(206, b"abc", **headers)


async def test_copies(wire_config: Make) -> None:
    with trio.fail_after(10), Scripted(*answers(COPIED, COPIED, COPIED)) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            result = await store.once.copy("a b/ü", "c", etag="OLD")
            assert (result.etag, result.last_modified) == ("E", 1700000000)
            headers = ObjectHeaders(meta={"m": "1"}, storage_class="IA", acl="private")
            await store.once.copy("a", "c", headers=headers, forbid_overwrite=True)
            await store.once.copy("a", "c", headers=ObjectHeaders(tagging=""))
    assert "put /bkt/c http/1.1" in seen[0]
    assert "x-oss-copy-source: /bkt/a%20b%2f%c3%bc\r\n" in seen[0]
    assert 'x-oss-copy-source-if-match: "old"\r\n' in seen[0]
    assert "x-oss-metadata-directive: copy\r\n" in seen[0]
    assert "x-oss-metadata-directive: replace\r\n" in seen[1]
    assert "x-oss-storage-class: ia\r\n" in seen[1]
    assert "x-oss-object-acl: private\r\n" in seen[1]
    assert "x-oss-forbid-overwrite: true\r\n" in seen[1]
    assert "x-oss-tagging-directive" not in seen[1]
    assert "x-oss-tagging-directive: replace\r\n" in seen[2]


async def test_part_copies(wire_config: Make) -> None:
    copied = b'<CopyPartResult><ETag>"P"</ETag></CopyPartResult>'
    with trio.fail_after(10), Scripted(*answers(copied)) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            part = await store.once.copy_part("k", "U", 3, "s", 100, 50, etag="OLD")
    assert part == PartResult(3, 50, "P", None)
    assert "x-oss-copy-source-range: bytes=100-149\r\n" in seen[0]
    assert 'x-oss-copy-source-if-match: "old"\r\n' in seen[0]
    assert "partnumber=3" in seen[0]


async def test_native_symlinks(wire_config: Make) -> None:
    def link(talk: Talk) -> None:
        assert talk.head.startswith("GET /bkt/l?symlink HTTP/1.1")
        talk.answer(200, b"", x_oss_symlink_target="dir%2Ft%C3%BCr")

    with trio.fail_after(10), Scripted(link) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            assert await store.get_symlink("l") == "dir/tür"


async def test_a_complete_is_done_when_its_headers_say_so(wire_config: Make) -> None:
    with trio.fail_after(10), Scripted(*answers(b"<cut off")) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            result = await store.once.complete("k", "U", [PartResult(1, 1, 'A&"', None)])
    assert result.etag == "E"
    assert "<partnumber>1</partnumber><etag>&quot;a&amp;" in seen[0]


@pytest.mark.parametrize("document", [b"", b"<x/>", b"<BucketStat><Storage>x</Storage></BucketStat>"])
async def test_documents_that_make_no_sense(wire_config: Make, document: bytes) -> None:
    with trio.fail_after(10), Scripted(*answers(document)) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            calls = [store.once.initiate("k", ObjectHeaders()), store.once.bucket_info(), store.once.list("")]
            if document != b"<x/>":
                calls.append(store.once.bucket_stat())
            for call in calls:
                with pytest.raises(ServerFault):
                    await call


async def test_nothing_to_delete_asks_nobody(wire_config: Make) -> None:
    async with open_store(wire_config("http://127.0.0.1:1"), KEYS, Metrics()) as store:
        assert await store.delete_many([]) == []


@pytest.mark.parametrize("token", [None, "a token/+="])
@pytest.mark.parametrize("region", [None, "cn-hangzhou"])
async def test_presigned_urls_work_without_keys(
    tmp_path: Path, wire_config: Make, region: str | None, token: str | None
) -> None:
    def fetch(url: str) -> bytes:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bytes(answer.read())

    server = start_server(ServerConfig(tmp_path / "oss", buckets=("bkt",), security_token=token))
    keys = StaticCredentials(Credentials(server.access_key_id, server.access_key_secret, token or ""))
    try:
        with trio.fail_after(20):
            async with open_store(wire_config(server.url, region=region), keys, Metrics()) as store:
                for key in ("a b/?c", "d/ü+%2F&=#", "plain"):
                    await store.put(key, [key.encode()], ObjectHeaders())
                    url = await store.sign_url("GET", key, 60)
                    assert ("OSS4-HMAC-SHA256" in url) == (region is not None)
                    assert await trio.to_thread.run_sync(fetch, url) == key.encode()
                    with pytest.raises(urllib.error.HTTPError) as caught:
                        await trio.to_thread.run_sync(
                            fetch,
                            url.replace("Signature=", "Signature=0").replace(
                                "x-oss-signature=", "x-oss-signature=0"
                            ),
                        )
                    assert caught.value.code == 403
                    caught.value.close()
    finally:
        server.stop()


async def test_new_keys_are_read_when_the_old_ones_expire(
    wire_config: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def expired(talk: Talk) -> None:
        talk.error(403, "SecurityTokenExpired")

    path = tmp_path / "passwd"
    path.write_text("old:secret")
    path.chmod(0o600)
    keys = PasswdFile("bkt", str(path))
    path.write_text("new:secret")
    with trio.fail_after(10), Scripted(expired, ok, expired) as server:
        async with open_store(wire_config(server.url), keys, Metrics()) as store:
            await store.delete("k")
            assert "OSS old:" in server.heads[0]
            assert "OSS new:" in server.heads[1]
            path.unlink()
            with pytest.raises(TokenExpired):
                await store.delete("k")
    assert "the old credentials are kept" in caplog.text


async def test_a_range_beyond_a_shorter_successor_is_another_version(wire_config: Make) -> None:
    """Which of the two a service finds first, the range or the ETag, nobody says."""

    def no_such_range(talk: Talk) -> None:
        talk.answer(416, b"<Error><Code>InvalidRange</Code></Error>")

    def replaced(talk: Talk) -> None:
        assert talk.head.startswith("HEAD") and 'If-Match: "OLD"' in talk.head
        talk.answer(412)

    with trio.fail_after(10), Scripted(no_such_range, replaced) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            with pytest.raises(PreconditionFailed):
                await store.get("k", memoryview(bytearray(10)), start=1000, etag="OLD")
