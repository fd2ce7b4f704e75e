"""The transport's rules, against servers that misbehave on purpose."""

from __future__ import annotations

import gc
import socket
import ssl
import threading
import time
from collections.abc import Callable

import pytest
import trio

from ossfs.errors import (
    AccessDenied,
    ChecksumMismatch,
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    InvalidRequest,
    NameNotResolved,
    NotFound,
    PlainHttp,
    ServerFault,
    ShortBody,
    TlsFailed,
)
from ossfs.metrics import Metrics
from ossfs.server import RunningServer
from ossfs.store import transport
from ossfs.store.base import ObjectHeaders
from ossfs.store.checksum import crc64
from ossfs.store.credentials import Credentials, StaticCredentials
from ossfs.store.oss import StoreConfig, open_store
from tests.store.conftest import Tls, credentials_of
from tests.store.scripted import Scripted, Talk, object_step, ok

KEYS = StaticCredentials(Credentials("id", "secret"))
Make = Callable[..., StoreConfig]


def server_context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.cert, tls.key)
    return context


@pytest.fixture(params=["http", "https"])
def scripted(request: pytest.FixtureRequest, tls: Tls) -> Callable[..., Scripted]:
    """Makes a scripted server, plain or with TLS."""
    context = server_context(tls) if request.param == "https" else None
    return lambda *steps: Scripted(*steps, context=context)


async def test_connections_are_kept_and_reused(
    scripted: Callable[..., Scripted], wire_config: Make, tls: Tls
) -> None:
    with trio.fail_after(10), scripted(ok) as server:
        async with open_store(wire_config(server.url, ca_file=str(tls.ca)), KEYS, Metrics()) as store:
            for _ in range(5):
                await store.once.put("k", [b"x" * 100_000], ObjectHeaders())
                await store.once.delete("k")
        assert server.connections == 1


async def test_refusals_keep_the_connection(wire_config: Make) -> None:
    def missing(talk: Talk) -> None:
        talk.error(404, "NoSuchKey")

    with trio.fail_after(10), Scripted(missing) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            for _ in range(3):
                with pytest.raises(NotFound):
                    await store.once.get("k", memoryview(bytearray(5)))
        assert server.connections == 1


async def test_connection_close_is_honoured(wire_config: Make) -> None:
    def last(talk: Talk) -> None:
        talk.read_body()
        talk.answer(Connection="close")

    with trio.fail_after(10), Scripted(last) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            await store.once.delete("k")
            await store.once.delete("k")
        assert server.connections == 2


async def test_every_request_asks_for_standard_ranges(wire_config: Make) -> None:
    with trio.fail_after(10), Scripted(object_step(b"0123456789")) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            await store.once.get("k", memoryview(bytearray(4)), start=2, etag="ABC")
        head = server.heads[0].lower()
        assert "range: bytes=2-5\r\n" in head
        assert "x-oss-range-behavior: standard" in head
        assert 'if-match: "abc"' in head
        assert "accept-encoding" not in head


async def test_a_whole_answer_to_a_range_is_an_error(wire_config: Make) -> None:
    def whole(talk: Talk) -> None:
        talk.answer(200, b"0123456789", ETag='"E"')

    with trio.fail_after(10), Scripted(whole) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            for start, size in ((2, 4), (0, 4), (2, 100)):
                with pytest.raises(ServerFault):
                    await store.once.get("k", memoryview(bytearray(size)), start=start)
            _, count = await store.once.get("k", memoryview(bytearray(100)))  # this is what it asked for
            assert count == 10


@pytest.mark.parametrize(
    "content_range", ["", "bytes 0-3/10", "bytes 2-4/10", "bytes 5-2/10", "bytes 2-5/*", "x"]
)
async def test_content_range_has_to_be_what_was_asked(wire_config: Make, content_range: str) -> None:
    def wrong(talk: Talk) -> None:
        talk.answer(206, b"2345", ETag='"E"', Content_Range=content_range)

    with trio.fail_after(10), Scripted(wrong) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            with pytest.raises(ServerFault):
                await store.once.get("k", memoryview(bytearray(4)), start=2)


async def test_a_short_body_is_an_error(
    scripted: Callable[..., Scripted], wire_config: Make, tls: Tls
) -> None:
    def short(talk: Talk) -> None:
        talk.answer(206, b"x" * 500_000, 1_000_000, Content_Range="bytes 0-999999/1000000")
        talk.close()

    with trio.fail_after(10), scripted(short) as server:
        async with open_store(wire_config(server.url, ca_file=str(tls.ca)), KEYS, Metrics()) as store:
            with pytest.raises((ShortBody, ConnectionLost)) as caught:
                await store.once.get("k", memoryview(bytearray(1_000_000)))
            assert caught.value.operation == "GetObject"
            assert caught.value.key == "k"


async def test_a_reset_within_the_body_is_an_error(wire_config: Make) -> None:
    def cut(talk: Talk) -> None:
        talk.answer(206, b"x" * 1000, 1_000_000, Content_Range="bytes 0-999999/1000000")
        talk.reset()

    with trio.fail_after(10), Scripted(cut) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            with pytest.raises((ConnectionLost, ShortBody)):
                await store.once.get("k", memoryview(bytearray(1_000_000)))


async def test_a_flipped_byte_is_noticed(oss_server: RunningServer, wire_config: Make) -> None:
    data = bytes(range(256)) * 2000
    config = wire_config(oss_server.url, region="cn-hangzhou")
    with trio.fail_after(20):
        async with open_store(config, credentials_of(oss_server), Metrics()) as store:
            await store.put("k", [data], ObjectHeaders())
            oss_server.set_faults([{"op": "Get", "action": "flip"}])
            told: list[int] = []
            with pytest.raises(ChecksumMismatch):
                await store.once.get("k", memoryview(bytearray(len(data))), progress=told.append)
            assert len(data) not in told  # the end was not reported before it was compared
            buffer = bytearray(len(data))
            oss_server.set_faults([{"op": "Get", "action": "flip"}])
            await store.get("k", memoryview(buffer))
            assert buffer == data


async def test_a_flipped_byte_replaces_nothing(oss_server: RunningServer, wire_config: Make) -> None:
    """The service compares before it stores: when all attempts fail, the old object is still there."""
    with trio.fail_after(20):
        async with open_store(wire_config(oss_server.url), credentials_of(oss_server), Metrics()) as store:
            await store.put("k", [b"old"], ObjectHeaders())
            oss_server.set_faults([{"op": "Put", "action": "flip", "count": -1}])
            with pytest.raises(ChecksumMismatch):
                await store.once.put("k", [b"n", b"ew"], ObjectHeaders())
            oss_server.set_faults([])
            buffer = bytearray(3)
            await store.get("k", memoryview(buffer))
            assert buffer == b"old"


async def test_what_was_stored_wrong_is_noticed(wire_config: Make) -> None:
    def wrong(talk: Talk) -> None:
        talk.read_body()
        talk.answer(ETag='"E"', x_oss_hash_crc64ecma="1")

    with trio.fail_after(10), Scripted(wrong) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            with pytest.raises(ChecksumMismatch):
                await store.once.put("k", [b"abc"], ObjectHeaders())
            with pytest.raises(ChecksumMismatch) as caught:
                await store.once.put_part("k", "u", 1, [b"abc"])
            assert caught.value.request_id == "SCRIPTED"
            part = await _part(store.once)
            with pytest.raises(ChecksumMismatch):
                await store.once.complete("k", "u", [part])


async def _part(store: object) -> object:
    from ossfs.store.base import PartResult

    return PartResult(1, 3, "E", crc64([b"abc"]))


@pytest.mark.parametrize("ending", ["close", "reset", "stay"])
async def test_an_early_answer_is_the_answer(
    scripted: Callable[..., Scripted], wire_config: Make, tls: Tls, ending: str
) -> None:
    """Not a broken pipe: the server said no before it read the body."""

    done = threading.Event()

    def early(talk: Talk) -> None:
        talk.error(403, "AccessDenied")
        if ending == "stay":
            done.wait(10)
            talk.close()
        elif ending == "reset" and not isinstance(talk.sock, ssl.SSLSocket):
            # Let the answer be read before the reset can overtake it.
            done.wait(0.2)
            talk.reset()
        else:
            talk.close()

    with trio.fail_after(20), scripted(early) as server:
        config = wire_config(server.url, ca_file=str(tls.ca), io_timeout=2.0)
        async with open_store(config, KEYS, Metrics()) as store:
            with pytest.raises(AccessDenied):
                await store.once.put("k", [b"x" * 50_000_000], ObjectHeaders())
        done.set()


async def test_a_body_that_could_not_be_sent_was_not_stored(wire_config: Make) -> None:
    with trio.fail_after(10), Scripted(Talk.reset) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            with pytest.raises(ConnectionLost) as caught:
                await store.once.put("k", [b"x" * 50_000_000], ObjectHeaders())
            assert not caught.value.maybe_done


async def test_a_lost_answer_may_mean_that_it_is_done(wire_config: Make) -> None:
    def lose(talk: Talk) -> None:
        talk.read_body()
        talk.close()

    with trio.fail_after(10), Scripted(lose) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            with pytest.raises(ConnectionLost) as caught:
                await store.once.put("k", [b"x"], ObjectHeaders())
            assert caught.value.maybe_done


async def test_a_dead_idle_connection_is_not_used(
    scripted: Callable[..., Scripted], wire_config: Make, tls: Tls
) -> None:
    """The server closed it while it was idle: a request with a condition goes over a new one."""

    def once(talk: Talk) -> None:
        ok(talk)
        talk.close()

    with trio.fail_after(10), scripted(once, once) as server:
        config = wire_config(server.url, ca_file=str(tls.ca))
        async with open_store(config, KEYS, Metrics()) as store:
            await store.once.put("k", [b"x"], ObjectHeaders())
            server.ended.wait(5)
            await store.once.put("k", [b"x"], ObjectHeaders(), forbid_overwrite=True)
        assert server.connections == 2


async def test_an_idle_connection_that_dies_is_replaced_at_once(wire_config: Make) -> None:
    """The server closes it just when it is used again."""

    def never_again(talk: Talk) -> None:
        talk.close()

    metrics = Metrics()
    with trio.fail_after(10), Scripted(ok, never_again, object_step(b"data")) as server:
        async with open_store(wire_config(server.url), KEYS, metrics) as store:
            await store.once.put("k", [b"x"], ObjectHeaders())
            info = await store.once.head("k")
            assert info.size == 4
        assert server.connections == 2
        assert metrics.snapshot()["connections.stale"] == 1


async def test_what_must_not_be_sent_twice_is_not(wire_config: Make) -> None:
    def never_again(talk: Talk) -> None:
        talk.read_body()
        talk.close()

    with trio.fail_after(10), Scripted(ok, never_again) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            await store.once.put("k", [b"x"], ObjectHeaders())
            with pytest.raises(ConnectionLost):
                await store.once.put("k", [b"x"], ObjectHeaders(), forbid_overwrite=True)
        assert len(server.heads) == 2


async def test_old_connections_are_left_to_requests_that_may_be_repeated(
    wire_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(10), Scripted(ok) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            await store.once.put("k", [b"x"], ObjectHeaders())
            monkeypatch.setattr(transport, "FRESH_LIMIT", 0.0)
            await store.once.put("k", [b"x"], ObjectHeaders())
            assert server.connections == 1
            await store.once.put("k", [b"x"], ObjectHeaders(), forbid_overwrite=True)
            assert server.connections == 2
            monkeypatch.setattr(transport, "IDLE_LIMIT", 0.0)
            await store.once.put("k", [b"x"], ObjectHeaders())
            assert server.connections == 3


async def test_silence_ends(scripted: Callable[..., Scripted], wire_config: Make, tls: Tls) -> None:
    release = threading.Event()

    def silent(talk: Talk) -> None:
        release.wait(10)
        talk.close()

    with trio.fail_after(10), scripted(silent) as server:
        config = wire_config(server.url, ca_file=str(tls.ca), io_timeout=0.3)
        async with open_store(config, KEYS, Metrics()) as store:
            with pytest.raises(ConnectionLost, match="nothing was received"):
                await store.once.head("k")
        release.set()


async def test_a_call_has_a_deadline(scripted: Callable[..., Scripted], wire_config: Make, tls: Tls) -> None:
    release = threading.Event()

    def trickle(talk: Talk) -> None:
        talk.send(b"HTTP/1.1 206 X\r\nContent-Length: 1000\r\nContent-Range: bytes 0-999/1000\r\n\r\n")
        while not release.wait(0.05):
            talk.send(b"x")

    with trio.fail_after(10), scripted(trickle) as server:
        config = wire_config(server.url, ca_file=str(tls.ca), io_timeout=1.0, call_timeout=0.5)
        async with open_store(config, KEYS, Metrics()) as store:
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                await store.get("k", memoryview(bytearray(1000)))
            assert time.monotonic() - began < 3
        release.set()


async def test_cancelling_a_get_shuts_the_socket(
    scripted: Callable[..., Scripted], wire_config: Make, tls: Tls
) -> None:
    asked = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def slow(talk: Talk) -> None:
        talk.answer(206, b"x" * 10, 1000, Content_Range="bytes 0-999/1000")
        token.run_sync_soon(asked.set)
        talk.sock.recv(1)  # returns when the client is gone
        talk.close()

    with trio.fail_after(10), scripted(slow) as server:
        async with open_store(wire_config(server.url, ca_file=str(tls.ca)), KEYS, Metrics()) as store:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(store.get, "k", memoryview(bytearray(1000)))
                    await asked.wait()
                    began = time.monotonic()
                    nursery.cancel_scope.cancel()
            assert not scope.cancelled_caught
            assert time.monotonic() - began < 2
            assert await trio.to_thread.run_sync(server.ended.wait, 5)


async def test_a_put_is_not_abandoned(wire_config: Make) -> None:
    asked = trio.Event()
    go_on = threading.Event()
    token = trio.lowlevel.current_trio_token()

    def slow(talk: Talk) -> None:
        talk.read_body()
        token.run_sync_soon(asked.set)
        go_on.wait(10)
        talk.answer(ETag='"DONE"')

    with trio.fail_after(10), Scripted(slow) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            results: list[str] = []

            async def put() -> None:
                results.append((await store.put("k", [b"x"], ObjectHeaders())).etag)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(put)
                await asked.wait()
                nursery.cancel_scope.cancel()
                go_on.set()
            assert results == ["DONE"]


async def test_chunked_and_unframed_answers(wire_config: Make) -> None:
    document = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"

    def chunked(talk: Talk) -> None:
        talk.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for position in range(0, len(document), 7):
            piece = document[position : position + 7]
            talk.send(f"{len(piece):x};ext=1\r\n".encode() + piece + b"\r\n")
        talk.send(b"0\r\nTrailer: x\r\n\r\n")

    def unframed(talk: Talk) -> None:
        talk.send(b"HTTP/1.1 200 OK\r\n\r\n" + document)
        talk.close()

    with trio.fail_after(10), Scripted(chunked, chunked, unframed) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            for _ in range(3):
                assert (await store.once.list("")).objects == []
        assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"220 smtp ready\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nxml",
        b"HTTP/1.1 200 OK\r\nContent-Le",
    ],
    ids=range(13),
)
async def test_nonsense_is_an_error(wire_config: Make, answer: bytes) -> None:
    def step(talk: Talk) -> None:
        talk.send(answer)
        talk.close()

    with trio.fail_after(10), Scripted(step) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            with pytest.raises((ServerFault, ConnectionLost, ShortBody)):
                await store.once.list("")


async def test_large_headers_are_read(wire_config: Make) -> None:
    meta = {f"X-Oss-Meta-N{number}": "v" * 1000 for number in range(30)}

    def step(talk: Talk) -> None:
        talk.answer(
            200, b"", 5, ETag='"E"', **{name.replace("-", "_"): value for name, value in meta.items()}
        )

    with trio.fail_after(10), Scripted(step) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            for _ in range(2):
                info = await store.once.head("k")
                assert info.headers.meta == {f"n{number}": "v" * 1000 for number in range(30)}
        assert server.connections == 1


async def test_header_values_cannot_add_headers(wire_config: Make) -> None:
    with trio.fail_after(10), Scripted(ok) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            for value in ("a\r\nx-evil: 1", "a\nb", "\udcff"):
                with pytest.raises(InvalidRequest):
                    await store.put("k", [b""], ObjectHeaders(meta={"m": value}))
        assert server.heads == []


async def test_redirects_are_not_followed(wire_config: Make) -> None:
    def elsewhere(talk: Talk) -> None:
        talk.answer(302, b"", Location="http://127.0.0.1:1/")

    with trio.fail_after(10), Scripted(elsewhere) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            with pytest.raises(AccessDenied):
                await store.head("k")
        assert len(server.heads) == 1


async def test_the_environments_proxy_is_not_used(wire_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with trio.fail_after(10), Scripted(ok) as server:
        async with open_store(wire_config(server.url), KEYS, Metrics()) as store:
            await store.once.delete("k")
        (head,) = server.heads
        assert "/k" in head.split()[1] and "://" not in head.split()[1]  # a proxy is asked for a URL


async def test_refused_connections(wire_config: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with trio.fail_after(10):
        async with open_store(wire_config(f"http://127.0.0.1:{port}"), KEYS, Metrics()) as store:
            with pytest.raises(ConnectFailed) as caught:
                await store.once.head("k")
            assert not caught.value.maybe_done
            assert f"port {port}" in str(caught.value)


async def test_names_that_do_not_exist(wire_config: Make) -> None:
    with trio.fail_after(20):
        config = wire_config("http://oss-cn-nowhere.invalid")
        async with open_store(config, KEYS, Metrics()) as store:
            with pytest.raises(NameNotResolved, match=r"bkt\.oss-cn-nowhere\.invalid"):
                await store.once.head("k")


async def test_localhost_by_either_family(wire_config: Make) -> None:
    with trio.fail_after(10), Scripted(ok) as server:
        config = wire_config(f"http://localhost:{server.port}")
        async with open_store(config, KEYS, Metrics()) as store:
            await store.once.delete("k")
        assert server.heads[0].startswith("DELETE /bkt/k HTTP/1.1\r\n")


async def test_unknown_authorities_are_not_trusted(
    tls_server: RunningServer, wire_config: Make, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import trustme

    other = tmp_path_factory.mktemp("other") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    with trio.fail_after(10):
        for ca_file in (None, str(other)):
            config = wire_config(tls_server.url, ca_file=ca_file)
            async with open_store(config, credentials_of(tls_server), Metrics()) as store:
                with pytest.raises(TlsFailed, match="not trusted"):
                    await store.head("k")  # with retries: it is not repeated


async def test_tls_with_a_server_that_has_none(wire_config: Make, tls: Tls) -> None:
    def plain(talk: Talk) -> None:
        talk.answer(400)

    with trio.fail_after(10), Scripted(plain) as server:
        config = wire_config(server.url.replace("http:", "https:"), ca_file=str(tls.ca), connect_timeout=0.5)
        async with open_store(config, KEYS, Metrics()) as store:
            with pytest.raises((TlsFailed, ConnectFailed)):
                await store.once.head("k")
    gc.collect()  # an SSL socket left open would warn


async def test_https_to_a_server_that_waits_for_more(wire_config: Make, tls: Tls) -> None:
    """Such a server takes the handshake for the beginning of a request, and says nothing for long."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(4)

        def serve() -> None:
            first, _ = listener.accept()
            second, _ = listener.accept()
            with first, second:
                assert second.recv(100).startswith(b"HEAD / ")
                second.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        config = wire_config(f"https://127.0.0.1:{port}", ca_file=str(tls.ca), connect_timeout=60.0)
        with trio.fail_after(20):
            async with open_store(config, KEYS, Metrics()) as store:
                with pytest.raises(PlainHttp):
                    await store.head("k")  # with retries: it is not repeated
        thread.join(10)
        assert not thread.is_alive()


async def test_a_handshake_that_takes_its_time(
    wire_config: Make, tls: Tls, tls_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is asked in vain whether he speaks HTTP may go on with the handshake."""
    asked: list[object] = []
    real = ssl.SSLSocket.do_handshake

    def slow(self: ssl.SSLSocket) -> None:
        if not asked:
            asked.append(self)
            raise TimeoutError
        real(self)

    monkeypatch.setattr(ssl.SSLSocket, "do_handshake", slow)
    monkeypatch.setattr("ossfs.store.transport.speaks_plain_http", lambda *_: False)
    with trio.fail_after(20):
        config = wire_config(tls_server.url, ca_file=str(tls.ca))
        async with open_store(config, credentials_of(tls_server), Metrics()) as store:
            await store.bucket_info()
    assert asked


async def test_https_to_our_own_plain_server(wire_config: Make, tls: Tls, oss_server: RunningServer) -> None:
    config = wire_config(oss_server.url.replace("http:", "https:"), ca_file=str(tls.ca), connect_timeout=60.0)
    with trio.fail_after(20):
        async with open_store(config, KEYS, Metrics()) as store:
            with pytest.raises(PlainHttp):
                await store.head("k")


async def test_certificates_are_for_one_name(
    wire_config: Make, tls: Tls, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import trustme

    authority = trustme.CA()
    directory = tmp_path_factory.mktemp("named")
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    issued = authority.issue_cert("other.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    with trio.fail_after(10), Scripted(ok, context=context) as server:
        async with open_store(
            wire_config(server.url, ca_file=str(directory / "ca.pem")), KEYS, Metrics()
        ) as store:
            with pytest.raises(TlsFailed):
                await store.once.head("k")


@pytest.mark.parametrize("what", ["missing", "empty"])
async def test_ca_files_that_cannot_be_used(
    wire_config: Make, tmp_path_factory: pytest.TempPathFactory, what: str
) -> None:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    if what == "empty":
        path.write_text("nothing here")
    with pytest.raises(ConfigError, match="ca_file"):
        async with open_store(wire_config("https://127.0.0.1:1", ca_file=str(path)), KEYS, Metrics()):
            pass


@pytest.mark.parametrize(
    "endpoint", ["http://", "http://a b", "ftp://x", "http://example/?q", "http://x:y", "oss.example"]
)
async def test_endpoints_that_cannot_be_used(wire_config: Make, endpoint: str) -> None:
    with pytest.raises(ConfigError):
        async with open_store(wire_config(endpoint), KEYS, Metrics()):
            pass


async def test_threads_and_connections_end_with_the_store(wire_config: Make) -> None:
    before = threading.active_count()
    with trio.fail_after(10), Scripted(ok) as server:
        during = threading.active_count()
        async with (
            open_store(wire_config(server.url), KEYS, Metrics()) as store,
            trio.open_nursery() as nursery,
        ):
            for number in range(8):
                nursery.start_soon(store.once.delete, f"k{number}")
        assert await trio.to_thread.run_sync(server.ended.wait, 5)
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("ossfs-store")]
        assert during > before


async def test_bytes_are_counted(wire_config: Make) -> None:
    metrics = Metrics()
    with trio.fail_after(10), Scripted(ok, object_step(b"x" * 1000)) as server:
        async with open_store(wire_config(server.url), KEYS, metrics) as store:
            await store.put("k", [b"abc"], ObjectHeaders())
            await store.get("k", memoryview(bytearray(2000)))
    values = metrics.snapshot()
    assert (values["bytes_sent"], values["bytes_received"]) == (3, 1000)
    assert (values["requests.PutObject"], values["requests.GetObject"]) == (1, 1)
