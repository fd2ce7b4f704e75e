"""What survives: restarts, kill -9, crashes between file and index; and what is cleaned up."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from ossfs.server import RunningServer, ServerConfig, ServerError, serve, start_server
from ossfs.server.__main__ import main
from ossfs.server.database import Database, pack_extents
from ossfs.server.index import NORMAL, Index, Props, Record
from tests.server.wiretools import Wire

BIG = bytes(range(256)) * 400


class _Process:
    """`python -m ossfs.server` and its keys, shaped as Wire wants a server."""

    def __init__(self, directory: Path, *options: str) -> None:
        command = [sys.executable, "-m", "ossfs.server", str(directory), "--bucket", "demo", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().removeprefix("listening on ").strip()
        self.access_key_id = self.process.stdout.readline().split()[-1]
        self.access_key_secret = self.process.stdout.readline().split()[-1]

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait()


def _blob_files(directory: Path) -> list[Path]:
    return list((directory / "blobs").glob("*/*"))


def test_a_restart_keeps_everything(start: Callable[..., RunningServer], tmp_path: Path) -> None:
    server = start(min_part_size=1000)
    wire = Wire(server)
    wire("PUT", "small", headers={"x-oss-meta-a": "1"}, body=b"s")
    wire("PUT", "big", body=BIG)
    wire("POST", "a", {"append": "", "position": "0"}, body=b"ab")
    upload = wire("POST", "m", {"uploads": ""}, {"x-oss-meta-m": "2"}).xml.findtext("UploadId") or ""
    wire("PUT", "m", {"partNumber": "1", "uploadId": upload}, body=BIG)
    keys = (server.access_key_id, server.access_key_secret)
    server.stop()
    server.stop()
    again = start(min_part_size=1000)
    assert (again.access_key_id, again.access_key_secret) == keys
    wire = Wire(again)
    assert wire("GET", "small").headers["x-oss-meta-a"] == "1"
    assert wire("GET", "big").body == BIG
    assert wire("POST", "a", {"append": "", "position": "2"}, body=b"c").status == 200
    wire("PUT", "m", {"partNumber": "2", "uploadId": upload}, body=b"end")
    assert wire("POST", "m", {"uploadId": upload}, {"x-oss-complete-all": "yes"}).status == 200
    got = wire("GET", "m")
    assert (got.body, got.headers["x-oss-meta-m"]) == (BIG + b"end", "2")


def test_kill_9_loses_nothing_acknowledged(tmp_path: Path) -> None:
    directory = tmp_path / "oss"
    server = _Process(directory)
    acknowledged: dict[str, bytes] = {}
    enough = threading.Event()

    def load(number: int) -> None:
        wire = Wire(server)  # type: ignore[arg-type]
        for count in range(10_000):
            key = f"{number}/{count % 50}"
            body = f"{number} {count} ".encode() * (1 if count % 2 else 5000)
            try:
                if wire("PUT", key, body=body).status != 200:
                    return
            except OSError:
                # Unknown whether this one was stored: it is no longer the acknowledged one's turn.
                acknowledged.pop(key, None)
                return
            acknowledged[key] = body
            if count == 100:
                enough.set()

    threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    assert enough.wait(60)
    server.end(signal.SIGKILL)
    for thread in threads:
        thread.join()
    again = _Process(directory)
    try:
        wire = Wire(again)  # type: ignore[arg-type]
        assert len(acknowledged) > 100
        for key, body in acknowledged.items():
            assert wire("GET", key).body == body, key
    finally:
        assert again.end(signal.SIGTERM) == 0


def test_leftovers_are_swept(start: Callable[..., RunningServer], tmp_path: Path) -> None:
    server = start()
    Wire(server)("PUT", "k", body=BIG)
    server.stop()
    directory = tmp_path / "oss"
    (kept,) = _blob_files(directory)
    for name in ("00/0000000000000400", "ff/00000000000001fe"):
        (directory / "blobs" / name).write_bytes(b"left over")
    (directory / "blobs/00/README").write_text("not ours")
    again = start()
    assert sorted(_blob_files(directory)) == sorted([kept, directory / "blobs/00/README"])
    Wire(again)("PUT", "new", body=BIG)
    assert Wire(again)("GET", "k").body == BIG


def test_replaced_and_deleted_data_goes(wire: Wire, tmp_path: Path) -> None:
    directory = tmp_path / "oss"
    for _ in range(3):
        wire("PUT", "k", body=BIG)
        assert len(_blob_files(directory)) == 1
    wire("PUT", "c", headers={"x-oss-copy-source": "/demo/k"})
    wire("PUT", "c", headers={"x-oss-copy-source": "/demo/c", "x-oss-meta-a": "1"})
    assert len(_blob_files(directory)) == 1
    wire("DELETE", "k")
    assert len(_blob_files(directory)) == 1
    assert wire("GET", "c").body == BIG
    wire("DELETE", "c")
    assert _blob_files(directory) == []


def test_a_reader_keeps_what_it_reads(wire: Wire, tmp_path: Path) -> None:
    size = 30_000_000
    wire.server.fill("demo", "k", 1, size)
    with wire.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.sendall(wire.raw_request("GET", "k", "Connection: close\r\n"))
        data = bytearray(sock.recv(1000))
        # The rest waits in the server, while the object goes.
        wire("PUT", "k", body=b"new")
        wire("DELETE", "k")
        while more := sock.recv(1 << 20):
            data += more
    assert len(data[data.index(b"\r\n\r\n") + 4 :]) == size
    wire.server.stop()
    assert _blob_files(tmp_path / "oss") == []


def test_a_rolled_back_release_removes_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path, 0)
    index = Index(database)
    index.put_bucket("bbb", 0, "private", "Standard")
    bucket = index.bucket("bbb")
    blob = database.files.from_bytes(BIG)
    record = Record(
        blob.size, 0, blob.etag, blob.crc, NORMAL, "Standard", Props(), pack_extents(blob.extents)
    )
    with database.transaction():
        database.keep(blob)
        index.put(bucket, b"k", record)
    pins = database.pin(record.extents)
    with pytest.raises(ZeroDivisionError), database.transaction():
        index.delete(bucket, [b"k"])
        raise ZeroDivisionError
    database.unpin(pins)
    with pytest.raises(ZeroDivisionError), database.transaction():
        index.delete(bucket, [b"k"])
        raise ZeroDivisionError
    # SQLite may have given up the transaction by itself, as it does on a full disk.
    with pytest.raises(ZeroDivisionError), database.transaction():
        index.delete(bucket, [b"k"])
        database.execute("ROLLBACK")
        raise ZeroDivisionError
    assert index.get(bucket, b"k") == record
    assert len(_blob_files(tmp_path)) == 1
    # A reader's pin outlives the object, and then the file goes.
    pins = database.pin(record.extents)
    index.delete(bucket, [b"k"])
    assert len(_blob_files(tmp_path)) == 1
    database.unpin(pins)
    assert _blob_files(tmp_path) == []
    database.close()


def test_one_server_a_directory(start: Callable[..., RunningServer], tmp_path: Path) -> None:
    server = start()
    with pytest.raises(ServerError, match="another server"):
        start()
    server.stop()
    start()


def test_a_forked_child_does_not_hold_the_directory(start: Callable[..., RunningServer]) -> None:
    server = start()
    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of forks beside threads
        child = os.fork()
    if not child:
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(0)
    try:
        server.stop()
        start().stop()
    finally:
        os.close(write_end)
        os.close(read_end)
        os.waitpid(child, 0)


def test_starts_that_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ServerError, match="bucket name"):
        start_server(ServerConfig(tmp_path, buckets=("No",)))
    with pytest.raises(ServerError, match="together"):
        start_server(ServerConfig(tmp_path, cert=tmp_path / "c"))
    with pytest.raises(ServerError, match="certificate"):
        start_server(ServerConfig(tmp_path, cert=tmp_path / "c", key=tmp_path / "k"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match="can't listen"):
            start_server(ServerConfig(tmp_path, port=port))
        assert main([str(tmp_path), "--port", str(port)]) == 1
    assert "can't listen" in capsys.readouterr().err


def test_credentials_are_private(start: Callable[..., RunningServer], tmp_path: Path) -> None:
    start()
    mode = stat.S_IMODE(os.stat(tmp_path / "oss/credentials.json").st_mode)
    assert mode == 0o600
    given = start(tmp_path / "given", access_key_id="id", access_key_secret="secret")
    assert (given.access_key_id, given.access_key_secret) == ("id", "secret")
    assert Wire(given)("GET", params={"location": ""}).status == 200
    assert not (tmp_path / "given/credentials.json").exists()


def test_in_the_foreground_until_a_signal(tmp_path: Path) -> None:
    seen: list[tuple[str, str, str]] = []

    def ready(url: str, access_key_id: str, secret: str) -> None:
        seen.append((url, access_key_id, secret))
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    serve(ServerConfig(tmp_path / "oss"), on_ready=ready)
    assert signal.getsignal(signal.SIGTERM) is before
    assert seen[0][0].startswith("http://127.0.0.1:")


def test_control_from_the_command_line(tmp_path: Path) -> None:
    server = _Process(tmp_path / "oss", "--control", "--region", "cn-beijing")
    wire = Wire(server)  # type: ignore[arg-type]
    assert wire.send("GET", "/_ossfs/stats", {"Host": "h"}).status == 200
    assert wire("GET", params={"location": ""}).xml.text == "oss-cn-beijing"
    assert server.end(signal.SIGINT) == 0
