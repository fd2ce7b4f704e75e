"""The control socket: who is served, what is answered, and what a client that leaves changes (nothing)."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from ossfs import control, mountpoint, registry
from ossfs.control import (
    MAX_LINE,
    MountBusy,
    ProgressReport,
    UploadProgress,
    request,
    request_flush,
    request_status,
    request_unmount,
    serve_control,
)
from ossfs.errors import MountError
from ossfs.mountpoint import FSTYPE, MountInfo
from ossfs.registry import MountRecord, Registration, Registry

BUCKET = {"bucket": "bucket", "prefix": "", "endpoint": "http://x"}


class Target:
    """A mount that does what the test says."""

    def __init__(self) -> None:
        self.started = trio.Event()
        self.go = trio.Event()
        self.unmounts = 0
        self.finished = 0
        self.failed: list[str] = []
        self.error: Exception | None = None
        self.steps: list[UploadProgress] = []

    def status(self) -> dict[str, object]:
        if self.error is not None:
            raise self.error
        return {"uploads": 3, "path": Path("/x")}

    async def unmount(self, progress: ProgressReport) -> list[str]:
        self.unmounts += 1
        for step in self.steps:
            await progress(step)
        self.started.set()
        await self.go.wait()
        if self.error is not None:
            raise self.error
        self.finished += 1
        return self.failed

    async def flush(self, progress: ProgressReport) -> list[str]:
        return ["flushed"]


@asynccontextmanager
async def served(path: Path, target: Target) -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, str(path), target)
        try:
            yield str(path)
        finally:
            nursery.cancel_scope.cancel()


async def ask(path: str, line: bytes) -> trio.SocketStream:
    stream = await trio.open_unix_socket(path)
    await stream.send_all(line)
    return stream


async def answers(stream: trio.SocketStream) -> list[dict[str, Any]]:
    """All lines up to the last one that is no progress."""
    data = b""
    while True:
        received = await stream.receive_some()
        if not received:
            break
        data += received
        lines = [json.loads(line) for line in data.split(b"\n")[:-1]]
        if lines and "progress" not in lines[-1]:
            return lines
    return [json.loads(line) for line in data.split(b"\n")[:-1]]


async def test_the_socket_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    path.write_text("left by somebody")
    async with served(path, Target()):
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
    assert not path.exists()


async def test_status_and_flush_on_one_connection(tmp_path: Path) -> None:
    async with served(tmp_path / "c.sock", Target()) as path:
        stream = await ask(path, b'{"op": "status"}\n{"op"')
        assert await answers(stream) == [{"status": {"uploads": 3, "path": "/x"}}]
        await stream.send_all(b': "flush"}\n')
        assert await answers(stream) == [{"failed": ["flushed"]}]
        await stream.aclose()


@pytest.mark.parametrize(
    "line", [b"\n", b"{}\n", b"[]\n", b"{\n", b'"x"\n', b"\xff\xfe\n", b'{"op": "rm"}\n', b'{"op": ["x"]}\n']
)
async def test_malformed_requests_are_answered(tmp_path: Path, line: bytes) -> None:
    async with served(tmp_path / "c.sock", Target()) as path:
        stream = await ask(path, line)
        (answer,) = await answers(stream)
        assert answer["kind"] == "malformed"
        await stream.send_all(b'{"op": "status"}\n')
        assert "status" in (await answers(stream))[0]
        await stream.aclose()


async def test_deeply_nested_json(tmp_path: Path) -> None:
    async with served(tmp_path / "c.sock", Target()) as path:
        stream = await ask(path, b"[" * 50000 + b"\n")
        assert (await answers(stream))[0]["kind"] == "malformed"
        await stream.aclose()


async def test_an_endless_line_ends_the_connection(tmp_path: Path) -> None:
    async with served(tmp_path / "c.sock", Target()) as path:
        stream = await ask(path, b"x" * (MAX_LINE + 4097))
        assert (await answers(stream))[0]["kind"] == "malformed"
        # The mount is none the worse.
        other = await ask(path, b'{"op": "status"}\n')
        assert "status" in (await answers(other))[0]
        await stream.aclose()
        await other.aclose()


async def test_others_are_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        # Root is always served: pretend that the peer is not root.
        monkeypatch.setattr(control, "_PEER_CREDENTIALS", _Peer(uid=12345))
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    async with served(tmp_path / "c.sock", Target()) as path:
        stream = await trio.open_unix_socket(path)
        assert (await answers(stream))[0]["kind"] == "denied"
        await stream.aclose()


class _Peer:
    size = 12

    def __init__(self, uid: int) -> None:
        self.uid = uid

    def unpack(self, _raw: bytes) -> tuple[int, int, int]:
        return 1, self.uid, 0


async def test_unmount_reports_progress_and_failures(tmp_path: Path) -> None:
    target = Target()
    target.steps = [{"files": 3, "bytes_done": 0, "bytes_total": 300}]
    target.failed = ["a/b.txt"]
    async with served(tmp_path / "c.sock", target) as path:
        stream = await ask(path, b'{"op": "umount"}\n')
        first = json.loads(await stream.receive_some())
        assert first == {"progress": {"files": 3, "bytes_done": 0, "bytes_total": 300}}
        target.go.set()
        assert (await answers(stream))[-1] == {"failed": ["a/b.txt"]}
        await stream.aclose()


async def test_a_second_client_joins(tmp_path: Path) -> None:
    target = Target()
    async with served(tmp_path / "c.sock", target) as path:
        one = await ask(path, b'{"op": "umount"}\n')
        await target.started.wait()
        two = await ask(path, b'{"op": "umount"}\n')
        await trio.testing.wait_all_tasks_blocked()
        target.go.set()
        assert (await answers(one))[-1] == (await answers(two))[-1] == {"failed": []}
        assert target.unmounts == 1
        await one.aclose()
        await two.aclose()


async def test_a_client_that_leaves_does_not_stop_the_unmount(tmp_path: Path) -> None:
    target = Target()
    async with served(tmp_path / "c.sock", target) as path:
        stream = await ask(path, b'{"op": "umount"}\n')
        await target.started.wait()
        await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        target.go.set()
        await trio.testing.wait_all_tasks_blocked()
        assert target.finished == 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.EBUSY, "busy"), "busy"),
        (OSError(errno.EIO, "io"), "failed"),
        (MountError("no"), "refused"),
        (ZeroDivisionError("bug"), "failed"),
    ],
)
async def test_an_unmount_that_fails_may_be_tried_again(tmp_path: Path, error: Exception, kind: str) -> None:
    target = Target()
    target.error = error
    target.go.set()
    async with served(tmp_path / "c.sock", target) as path:
        stream = await ask(path, b'{"op": "umount"}\n')
        answer = (await answers(stream))[-1]
        assert answer["kind"] == kind
        # Its own words, which say more than an errno.
        assert str(error.strerror if isinstance(error, OSError) else error) in answer["error"]
        target.error = None
        await stream.send_all(b'{"op": "umount"}\n')
        assert (await answers(stream))[-1] == {"failed": []}
        await stream.aclose()


async def test_a_status_that_fails_does_not_take_the_mount_down(tmp_path: Path) -> None:
    target = Target()
    target.error = ZeroDivisionError("bug")
    async with served(tmp_path / "c.sock", target) as path:
        stream = await ask(path, b'{"op": "status"}\n')
        assert await answers(stream) == []
        target.error = None
        other = await ask(path, b'{"op": "status"}\n')
        assert "status" in (await answers(other))[0]
        await stream.aclose()
        await other.aclose()


async def test_the_end_of_the_mount_is_told(tmp_path: Path) -> None:
    target = Target()
    async with served(tmp_path / "c.sock", target) as path:
        stream = await ask(path, b'{"op": "umount"}\n')
        await target.started.wait()
    assert (await answers(stream))[-1]["kind"] == "ending"
    await stream.aclose()


async def test_who_waits_hears_something_from_time_to_time(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    target = Target()
    async with served(tmp_path / "c.sock", target) as path:
        stream = await ask(path, b'{"op": "umount"}\n')
        await target.started.wait()
        assert json.loads(await stream.receive_some()) == {"progress": {}}
        target.go.set()
        await stream.aclose()


async def test_a_silent_client_is_dropped(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with served(tmp_path / "c.sock", Target()) as path:
        stream = await trio.open_unix_socket(path)
        assert await stream.receive_some() == b""
        await stream.aclose()


# ---- the client, against a scripted server in a thread


class Script:
    """A server that sends what it was told to whoever asks."""

    def __init__(self, path: str, lines: list[bytes], after: Callable[[], None] = lambda: None) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.bind(path)
        self.sock.listen(1)
        self.asked = b""
        self.lines = lines
        self.after = after
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        connection, _ = self.sock.accept()
        with connection:
            self.asked = connection.recv(1000)
            connection.sendall(b"".join(self.lines))
        self.after()

    def close(self) -> None:
        self.thread.join()
        self.sock.close()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    fake: list[MountInfo] = []
    monkeypatch.setattr(registry, "read_mountinfo", lambda: fake)
    monkeypatch.setattr(mountpoint, "read_mountinfo", lambda: fake)
    return Registry(str(tmp_path))


@pytest.fixture
def entry(here: Registry) -> Iterator[Registration]:
    with here.register(mountpoint="/m/a", **BUCKET) as registration:
        yield registration


def test_unmount_waits_for_the_process_to_go(here: Registry, entry: Registration) -> None:
    lines = [b'{"progress": {"files": 2}}\n', b'{"failed": ["x"]}\n']
    script = Script(entry.socket, lines, after=entry.close)
    seen: list[UploadProgress] = []
    assert request_unmount("/m/a", seen.append, [here]) == ["x"]
    script.close()
    assert seen == [{"files": 2}]
    assert json.loads(script.asked) == {"op": "umount"}
    assert not here.is_alive(entry.mount_id)


def test_a_process_that_does_not_end(
    here: Registry, entry: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "END_TIMEOUT", 0.0)
    script = Script(entry.socket, [b'{"failed": []}\n'])
    with pytest.raises(MountError, match=r"is unmounted .* has not ended"):
        request_unmount("/m/a", None, [here])
    script.close()


def test_the_caller_unmounts(here: Registry, entry: Registration, monkeypatch: pytest.MonkeyPatch) -> None:
    """On top of an autofs the process of the mount must not come near."""
    unmounted: list[str] = []

    def unmount(place: str) -> None:
        unmounted.append(place)
        entry.close()

    script = Script(entry.socket, [b'{"progress": {"files": 1}}\n', b'{"failed": ["a"]}\n'])
    seen: list[UploadProgress] = []
    assert control.flush_and_unmount("/m/a", unmount, seen.append, [here]) == ["a"]
    script.close()
    assert unmounted == ["/m/a"] and seen == [{"files": 1}]


def test_the_caller_unmounts_and_the_process_does_not_end(
    here: Registry, entry: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "PREDECESSOR_TIMEOUT", 0.0)
    script = Script(entry.socket, [b'{"failed": []}\n'])
    with pytest.raises(MountError, match=r"may still upload"):
        control.flush_and_unmount("/m/a", lambda place: None, None, [here])
    script.close()


def test_busy(here: Registry, entry: Registration) -> None:
    script = Script(entry.socket, [b'{"error": "Device or resource busy", "kind": "busy"}\n'])
    with pytest.raises(MountBusy, match=r"/m/a is in use; .*still mounted"):
        request_unmount("/m/a", None, [here])
    script.close()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([b'{"error": "no such luck", "kind": "refused"}\n'], "answered: no such luck"),
        ([], "ended without an answer"),
        ([b'{"progress": {}}\n'], "ended without an answer"),
        ([b"nonsense\n"], "cannot be asked"),
    ],
)
def test_bad_answers(here: Registry, entry: Registration, lines: list[bytes], said: str) -> None:
    script = Script(entry.socket, lines)
    with pytest.raises(MountError, match=said):
        request_status("/m/a", [here])
    script.close()


def test_status_and_flush(here: Registry, entry: Registration) -> None:
    script = Script(entry.socket, [b'{"status": {"a": 1}}\n'])
    assert request_status("/m/a", [here]) == {"a": 1}
    script.close()
    os.unlink(entry.socket)
    script = Script(entry.socket, [b'{"failed": []}\n'])
    assert request_flush("/m/a", None, [here]) == []
    script.close()


def test_a_mount_that_hangs(here: Registry, entry: Registration, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "CLIENT_TIMEOUT", 0.01)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.bind(entry.socket)
        silent.listen(1)
        with pytest.raises(MountError, match="does not answer"):
            request(entry.record, "status")


def test_starting_or_ending(here: Registry, entry: Registration, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MountError, match="is starting or ending"):
        request_unmount("/m/a", None, [here])
    entry.set_state("draining")

    def wait_gone(record: MountRecord, timeout: float) -> bool:
        entry.close()
        return not here.is_alive(record.mount_id)

    monkeypatch.setattr(here, "wait_gone", wait_gone)
    with pytest.raises(MountError, match="has ended now"):
        request_unmount("/m/a", None, [here])


def test_no_mount_at_all(here: Registry, tmp_path: Path) -> None:
    with pytest.raises(MountError, match=r"is not an ossfs mount$"):
        request_unmount(str(tmp_path), None, [here])
    with pytest.raises(MountError, match=r"is not an ossfs mount$"):
        request_status(str(tmp_path), [here])


def test_a_mount_of_another_user(here: Registry, tmp_path: Path) -> None:
    mountpoint.read_mountinfo().append(MountInfo("0:1", str(tmp_path), FSTYPE, "bucket"))
    with pytest.raises(MountError, match="another user"):
        request_unmount(str(tmp_path), None, [here])


def test_a_dead_mount_is_cleaned_up_and_said(
    here: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned: list[str] = []
    monkeypatch.setattr(control, "clean_up_dead", lambda place: cleaned.append(place) or True)
    with pytest.raises(MountError, match=r"was dead.*is free again.*lost"):
        request_unmount(str(tmp_path), None, [here])
    assert cleaned == [str(tmp_path)]


async def test_client_and_server_together(here: Registry) -> None:
    target = Target()
    target.steps = [{"files": 1, "bytes_done": 1, "bytes_total": 2}]
    target.go.set()
    with here.register(mountpoint="/m/a", **BUCKET) as entry:
        record: MountRecord = entry.record
        async with served(Path(entry.socket), target):
            answer = await trio.to_thread.run_sync(request, record, "umount", None)
            assert answer == {"failed": []}
