"""The retry policy: what is repeated, for how long, and how lost answers are settled."""

from __future__ import annotations

import logging
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from ossfs.errors import (
    AccessDenied,
    AlreadyExists,
    ChecksumMismatch,
    ClockSkewed,
    ConnectFailed,
    ConnectionLost,
    InvalidRange,
    InvalidRequest,
    NoSuchUpload,
    NotFound,
    ObjectImmutable,
    PreconditionFailed,
    RequestTimeout,
    ServerFault,
    ShortBody,
    StoreError,
    Throttled,
    TlsFailed,
    TokenExpired,
    WrongRegion,
)
from ossfs.metrics import Metrics
from ossfs.server import RunningServer
from ossfs.store.base import WRITE_ID, ObjectHeaders, ObjectStore
from ossfs.store.calls import StoreConfig
from ossfs.store.checksum import crc64
from ossfs.store.credentials import Credentials, StaticCredentials
from ossfs.store.oss import open_store
from ossfs.store.retry import RetryStore
from tests.store.conftest import credentials_of
from tests.store.scripted import Scripted, Talk, ok
from tests.support.memory_store import Fault, MemoryStore

OURS = ObjectHeaders(meta={WRITE_ID: "ours"})
THEIRS = ObjectHeaders(meta={WRITE_ID: "theirs"})
NONE = ObjectHeaders()


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def store(memory: MemoryStore, metrics: Metrics) -> RetryStore:
    return RetryStore(memory, call_timeout=60.0, metrics=metrics, jitter=lambda: 0.5)


def assert_is_a_store(store: RetryStore) -> ObjectStore:
    return store


TRANSIENT: list[type[StoreError]] = [
    ServerFault,
    Throttled,
    RequestTimeout,
    ConnectFailed,
    ConnectionLost,
    ShortBody,
    ChecksumMismatch,
]
FINAL: list[type[StoreError]] = [
    AccessDenied,
    ClockSkewed,
    WrongRegion,
    InvalidRequest,
    InvalidRange,
    ObjectImmutable,
    TlsFailed,
    NotFound,
    AlreadyExists,
    PreconditionFailed,
]


@pytest.mark.parametrize("error", TRANSIENT)
async def test_transient_failures_are_repeated(
    autojump_clock: MockClock,
    store: RetryStore,
    memory: MemoryStore,
    metrics: Metrics,
    error: type[StoreError],
) -> None:
    with trio.fail_after(100):
        for op in ("list", "head", "get", "put", "copy", "delete", "delete_many", "initiate", "put_part"):
            memory.faults.append(Fault(op, error=error, count=2))
        await store.put("k", [b"data"], NONE)
        assert (await store.head("k")).size == 4
        assert await store.get("k", memoryview(bytearray(4)))
        assert len((await store.list("")).objects) == 1
        await store.copy("k", "c")
        upload = await store.initiate("m", NONE)
        await store.put_part("m", upload, 1, [b"1"])
        await store.delete("k")
        assert await store.delete_many(["c"]) == []
        assert memory.keys() == []
        assert metrics.snapshot()["retries"] == 18


@pytest.mark.parametrize("error", FINAL)
async def test_other_failures_are_not(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore, error: type[StoreError]
) -> None:
    with trio.fail_after(100):
        memory.faults.append(Fault("put", error=error, count=1))
        with pytest.raises(error):
            await store.put("k", [b"1"], NONE)
        assert memory.calls["put"] == 1


async def test_pauses_grow_and_end_at_the_deadline(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore
) -> None:
    times: list[float] = []

    async def before(op: str, key: str) -> None:
        times.append(trio.current_time())

    memory.before = before
    memory.faults.append(Fault("head", error=ServerFault, count=-1))
    with trio.fail_after(100):
        began = trio.current_time()
        with pytest.raises(ServerFault):
            await store.head("k")
        assert trio.current_time() - began <= 60
        pauses = [later - earlier for earlier, later in pairwise(times)]
        assert pauses[:6] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2])
        assert pauses[6:] == pytest.approx([5.0] * len(pauses[6:]))
        assert times[-1] - began > 50


async def test_retry_after_is_honoured(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore
) -> None:
    error = Throttled("slow down")
    error.retry_after = 7.0
    memory.faults.append(Fault("head", error=error))
    memory.add("k", b"1")
    with trio.fail_after(100):
        began = trio.current_time()
        await store.head("k")
        assert trio.current_time() - began == pytest.approx(7.0)


async def test_failures_are_logged_louder_from_the_third(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    error = ServerFault("broken", operation="HeadObject", key="k", request_id="RID")
    memory.faults.append(Fault("head", error=error, count=4))
    memory.add("k", b"1")
    with caplog.at_level(logging.DEBUG, "ossfs.store.retry"), trio.fail_after(100):
        await store.head("k")
    assert [record.levelno for record in caplog.records] == [logging.DEBUG] * 2 + [logging.WARNING] * 2
    assert all("'k'" in record.message and "RID" in record.message for record in caplog.records)


async def test_waiting_to_read_can_be_cancelled(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore
) -> None:
    memory.faults.append(Fault("head", error=ServerFault, count=-1))
    with trio.move_on_after(2) as scope:
        await store.head("k")
    assert scope.cancelled_caught


async def test_a_lost_answer_is_not_abandoned(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore
) -> None:
    """The outcome is found out although the task was cancelled in the meantime."""
    memory.faults.append(Fault("put", lose=True))
    memory.faults.append(Fault("put", error=ConnectFailed, count=5))
    with trio.fail_after(100), trio.move_on_after(0.05) as scope:
        result = await store.put("k", [b"1"], OURS, forbid_overwrite=True)
        assert result.etag == memory.objects["k"].etag
    assert not scope.cancelled_caught
    assert memory.calls["put"] == 7


async def test_a_failure_without_effects_can_be_cancelled(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore
) -> None:
    memory.faults.append(Fault("put", error=ConnectFailed, count=-1))
    with trio.move_on_after(2) as scope:
        await store.put("k", [b"1"], NONE)
    assert scope.cancelled_caught


async def test_lost_puts_without_a_condition_are_repeated(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore
) -> None:
    memory.faults.append(Fault(lose=True))
    with trio.fail_after(100):
        await store.put("k", [b"1"], NONE)
        memory.faults.append(Fault(lose=True))
        await store.copy("k", "c")
        memory.faults.append(Fault(lose=True))
        await store.delete("k")
    assert (memory.calls["put"], memory.calls["copy"], memory.calls["delete"]) == (2, 2, 2)
    assert memory.calls["head"] == 0


async def test_each_attempt_of_a_put_looks_before(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore
) -> None:
    memory.add("k", b"1")
    memory.faults.append(Fault("put", error=ServerFault, count=2))
    with trio.fail_after(100):
        await store.put("k", [b"2"], OURS, replaceable=lambda info: True)
    assert (memory.calls["put"], memory.calls["head"]) == (3, 3)


async def test_our_own_object_settles_a_lost_put(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore
) -> None:
    memory.faults.append(Fault("put", lose=True))
    with trio.fail_after(100):
        result = await store.put("k", [b"12", b"3"], OURS, forbid_overwrite=True)
    made = memory.objects["k"]
    assert (result.etag, result.crc64, result.last_modified) == (made.etag, made.crc64, made.last_modified)
    assert (memory.calls["put"], memory.calls["head"]) == (2, 1)


async def test_our_own_object_with_other_bytes_settles_nothing(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore
) -> None:
    """A byte was flipped on the way up, so the service has our write id over wrong bytes."""
    memory.faults.append(Fault("put", error=ChecksumMismatch, count=1))
    memory.add("k", b"1X3", OURS)
    with trio.fail_after(100):
        result = await store.put("k", [b"12", b"3"], OURS, forbid_overwrite=True)
    assert memory.data("k") == b"123"
    assert result.crc64 == memory.objects["k"].crc64


@pytest.mark.parametrize(
    ("data", "headers"), [(b"123", THEIRS), (b"12", OURS), (b"123", NONE)], ids=["id", "size", "no id"]
)
async def test_somebody_elses_object_does_not(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore, data: bytes, headers: ObjectHeaders
) -> None:
    async def after(op: str, key: str) -> None:
        if op == "put":
            memory.add("k", data, headers)  # another machine was a moment later, or earlier

    memory.after = after
    memory.faults.append(Fault("put", lose=True))
    with trio.fail_after(100), pytest.raises(AlreadyExists):
        await store.put("k", [b"123"], OURS, forbid_overwrite=True)


async def test_a_refusal_without_a_lost_answer_is_final(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore
) -> None:
    memory.add("k", b"1", OURS)
    with trio.fail_after(100), pytest.raises(AlreadyExists):
        await store.put("k", [b"1"], OURS, forbid_overwrite=True)
    assert memory.calls["head"] == 0


async def test_a_put_that_cannot_be_repeated_is_looked_for(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore
) -> None:
    """Its answer is lost and then nothing gets through, until just before it is given up."""
    memory.faults.append(Fault("put", lose=True))
    memory.faults.append(Fault("put", error=ConnectFailed, count=-1))
    with trio.fail_after(200):
        result = await store.put("k", [b"1"], OURS, forbid_overwrite=True)
    assert result.etag == memory.objects["k"].etag


async def test_a_put_that_was_not_done_stays_failed(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore
) -> None:
    memory.faults.append(Fault("put", error=ConnectionLost, count=-1))
    with trio.fail_after(200), pytest.raises(ConnectionLost):
        await store.put("k", [b"1"], OURS, forbid_overwrite=True)
    assert memory.keys() == []


async def test_a_lost_copy_onto_itself_is_settled(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore
) -> None:
    memory.copy_changes_etag = True
    first = memory.add("k", b"1", THEIRS)
    memory.faults.append(Fault("copy", lose=True))
    with trio.fail_after(100):
        result = await store.copy("k", "k", etag=first.etag, headers=OURS)
    assert result.etag == memory.objects["k"].etag != first.etag
    assert memory.calls["copy"] == 2


async def test_a_copy_onto_itself_that_somebody_overtook_fails(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore
) -> None:
    first = memory.add("k", b"1", THEIRS)

    async def after(op: str, key: str) -> None:
        if op == "copy":
            memory.add("k", b"2", THEIRS)

    memory.after = after
    memory.faults.append(Fault("copy", lose=True))
    with trio.fail_after(100), pytest.raises(PreconditionFailed):
        await store.copy("k", "k", etag=first.etag, headers=OURS)


async def test_a_lost_copy_to_a_free_name_is_settled(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore
) -> None:
    memory.add("k", b"data", THEIRS)
    memory.faults.append(Fault("copy", lose=True))
    with trio.fail_after(100):
        result = await store.copy("k", "c", forbid_overwrite=True)
        assert result.etag == memory.objects["c"].etag
        memory.add("d", b"other", ObjectHeaders())
        with pytest.raises(AlreadyExists):
            await store.copy("k", "d", forbid_overwrite=True)


async def upload_of(store: RetryStore, headers: ObjectHeaders = OURS) -> tuple[str, list[object]]:
    upload = await store.initiate("m", headers)
    return upload, [await store.put_part("m", upload, 1, [b"part"])]


async def test_a_lost_complete_is_settled(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore
) -> None:
    with trio.fail_after(100):
        upload, parts = await upload_of(store)
        memory.faults.append(Fault("complete", lose=True))
        result = await store.complete("m", upload, parts, write_id="ours")  # type: ignore[arg-type]
        assert result.etag == memory.objects["m"].etag
        assert memory.calls["complete"] == 2


async def test_a_complete_that_the_service_did_by_itself_is_settled(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore
) -> None:
    """NoSuchUpload is looked into even when no answer is known to be lost: a proxy may have repeated."""
    with trio.fail_after(100):
        upload, parts = await upload_of(store)
        await memory.complete("m", upload, parts)  # type: ignore[arg-type]
        result = await store.complete("m", upload, parts, write_id="ours")  # type: ignore[arg-type]
        assert result.etag == memory.objects["m"].etag


@pytest.mark.parametrize("write_id", ["other", None])
async def test_a_complete_of_somebody_else_is_not_ours(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore, write_id: str | None
) -> None:
    with trio.fail_after(100):
        upload, parts = await upload_of(store)
        await memory.complete("m", upload, parts)  # type: ignore[arg-type]
        with pytest.raises(NoSuchUpload):
            await store.complete("m", upload, parts, write_id=write_id)  # type: ignore[arg-type]
        memory.remove("m")
        with pytest.raises(NoSuchUpload):
            await store.complete("m", upload, parts, write_id="ours")  # type: ignore[arg-type]


async def test_a_complete_with_the_wrong_bytes_is_not_ours(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore
) -> None:
    with trio.fail_after(100):
        upload, parts = await upload_of(store)
        memory.add("m", b"trap", OURS)
        await memory.abort("m", upload)
        assert memory.objects["m"].crc64 != crc64([b"part"])
        with pytest.raises(NoSuchUpload):
            await store.complete("m", upload, parts, write_id="ours")  # type: ignore[arg-type]


async def test_a_lost_initiate_leaves_others_alone(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    with trio.fail_after(100):
        other = await memory.initiate("m", NONE)
        await memory.initiate("m2", NONE)
        memory.faults.append(Fault("initiate", lose=True))
        upload = await store.initiate("m", NONE)
    assert {other, upload} < set(memory.uploads)
    assert len(memory.uploads) == 4
    assert "2 other unfinished uploads" in caplog.text


async def test_a_delete_is_repeated_only_while_it_is_wanted(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore
) -> None:
    wanted = [True, True, False]
    memory.add("k", b"1")
    memory.faults.append(Fault("delete", error=ServerFault, count=-1))
    memory.faults.append(Fault("delete_many", error=ServerFault, count=-1))
    with trio.fail_after(100):
        with pytest.raises(ServerFault):
            await store.delete("k", guard=lambda: wanted.pop(0))
        assert memory.calls["delete"] == 3
        with pytest.raises(ServerFault):
            await store.delete_many(["k"], guard=lambda: False)
        assert memory.calls["delete_many"] == 1


async def test_expired_tokens_are_refreshed_once(memory: MemoryStore, autojump_clock: MockClock) -> None:
    refreshed = 0

    async def refresh() -> None:
        nonlocal refreshed
        refreshed += 1

    store = RetryStore(memory, refresh=refresh)
    memory.add("k", b"1")
    memory.faults.append(Fault("head", error=TokenExpired))
    with trio.fail_after(100):
        assert (await store.head("k")).size == 1
        assert refreshed == 1
        memory.faults.append(Fault("head", error=TokenExpired, count=-1))
        with pytest.raises(TokenExpired):
            await store.head("k")
        assert refreshed == 2


async def test_progress_never_falls(
    autojump_clock: MockClock, store: RetryStore, memory: MemoryStore
) -> None:
    data = bytes(range(200)) * 10
    memory.add("k", data)
    memory.objects["k"].pieces = [memoryview(data)[at : at + 100] for at in range(0, 2000, 100)]
    memory.faults.append(Fault("get", cut=1000))
    memory.faults.append(Fault("get", cut=500))
    told: list[int] = []
    buffer = bytearray(2000)
    with trio.fail_after(100):
        _, count = await store.get("k", memoryview(buffer), progress=told.append)
    assert (count, bytes(buffer)) == (2000, data)
    assert told == list(range(100, 2001, 100))


async def test_a_get_that_is_repeated_stays_with_its_version() -> None:
    """The caller was told of bytes of the first version: the second must not be joined to them."""
    body = b"x" * 600_000

    def first(talk: Talk) -> None:
        headers = {"ETag": '"ONE"', "Content-Range": "bytes 0-599999/600000"}
        talk.answer(206, body[:400_000], len(body), **headers)
        talk.close()

    def second(talk: Talk) -> None:
        assert talk.header("if-match") == '"ONE"'
        talk.error(412, "PreconditionFailed")

    told: list[int] = []
    with trio.fail_after(10), Scripted(first, second) as server:
        config = StoreConfig("bkt", server.url)
        keys = StaticCredentials(Credentials("id", "secret"))
        async with open_store(config, keys, Metrics()) as store:
            with pytest.raises(PreconditionFailed):
                await store.get("k", memoryview(bytearray(len(body))), progress=told.append)
    assert told == [262_144]


async def test_time_in_which_bytes_move_does_not_count(
    memory: MemoryStore, autojump_clock: MockClock
) -> None:
    """Each attempt takes half of the call's time, but it moves bytes: the third one is still made."""
    from ossfs.store.attempt import current_attempt

    store = RetryStore(memory, call_timeout=10.0)

    async def before(op: str, key: str) -> None:
        await trio.sleep(9)
        attempt = current_attempt.get()
        assert attempt is not None
        attempt.progressed(1000, attempt.started + 9)

    memory.before = before
    memory.faults.append(Fault("put", error=RequestTimeout, count=4))
    with trio.fail_after(1000):
        await store.put("k", [b"1"], NONE)
    assert memory.calls["put"] == 5


# -- over the wire -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        {"op": "*", "action": "status", "status": 502},
        {"op": "*", "action": "status", "status": 500, "code": "InternalError"},
        {"op": "*", "action": "status", "status": 400, "code": "RequestTimeout"},
        {"op": "*", "action": "reset"},
        {"op": "*", "action": "lose"},
    ],
    ids=["502", "500", "RequestTimeout", "reset", "lose"],
)
async def test_faults_of_a_server_are_survived(oss_server: RunningServer, fault: dict[str, object]) -> None:
    data = bytes(range(256)) * 4000
    config = StoreConfig("bkt", oss_server.url, region="cn-hangzhou", io_timeout=5)

    def script() -> None:
        oss_server.set_faults([fault])

    with trio.fail_after(60):
        async with open_store(config, credentials_of(oss_server), Metrics()) as opened:
            store = RetryStore(opened.once, jitter=lambda: 0.0)
            for forbid in (False, True):
                script()
                await store.put(f"k{forbid}", [data], OURS, forbid_overwrite=forbid)
            script()
            buffer = bytearray(len(data))
            await store.get("kTrue", memoryview(buffer))
            assert buffer == data
            script()
            etag = (await store.head("kTrue")).etag
            script()
            await store.copy("kTrue", "kTrue", etag=etag, headers=ObjectHeaders(meta={WRITE_ID: "two"}))
            script()
            upload = await store.initiate("m", OURS)
            script()
            part = await store.put_part("m", upload, 1, [data])
            script()
            result = await store.complete("m", upload, [part], write_id="ours")
            assert result.crc64 == crc64([data])
            script()
            assert len((await store.list("")).objects) == 3
            script()
            await store.delete("m")
            script()
            assert await store.delete_many(["kTrue", "kFalse"]) == []
            assert (await store.list("")).objects == []


async def test_a_put_of_a_large_body_over_a_dying_connection(oss_server: RunningServer) -> None:
    config = StoreConfig("bkt", oss_server.url, region="cn-hangzhou", io_timeout=5)
    data = [bytes([number]) * 1_000_000 for number in range(20)]
    with trio.fail_after(60):
        async with open_store(config, credentials_of(oss_server), Metrics()) as store:
            oss_server.set_faults([{"op": "Put", "action": "reset", "count": 2}])
            result = await store.put("k", data, NONE)
            assert result.crc64 == crc64(data)


async def test_a_wrong_secret_is_not_repeated(oss_server: RunningServer) -> None:
    from ossfs.errors import InvalidAccessKey, SignatureMismatch

    for keys, error in (
        (Credentials(oss_server.access_key_id, "wrong"), SignatureMismatch),
        (Credentials("nobody", "wrong"), InvalidAccessKey),
    ):
        for region in (None, "cn-hangzhou"):
            config = StoreConfig("bkt", oss_server.url, region=region)
            metrics = Metrics()
            with trio.fail_after(10):
                async with open_store(config, StaticCredentials(keys), metrics) as store:
                    with pytest.raises(error):
                        await store.list("")
                    with pytest.raises(error):
                        await store.head("k")
            assert "retries" not in metrics.snapshot()


async def test_keys_without_a_secret_are_never_shown() -> None:
    keys = Credentials("id", "very-secret", "token-secret")
    assert "secret" not in repr(keys)
    with trio.fail_after(10), Scripted(ok) as server:
        config = StoreConfig("bkt", server.url, region="cn-hangzhou")
        async with open_store(config, StaticCredentials(keys), Metrics()) as store:
            await store.once.delete("k")
        assert "x-oss-security-token: token-secret" in server.heads[0]
