"""Fuzz targets: what a service, proxies, other people's objects and local files may say to a mount.

Each target takes bytes and holds one rule: what cannot be accepted ends in the documented error and in
no other, and what is accepted is what its type says.  One thread.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import cache
from math import isfinite
from types import SimpleNamespace
from typing import Any
from unittest import mock

from ossfs.arguments import split_options
from ossfs.config import load_config, parse_options, read_file
from ossfs.errors import ConfigError, PosixError, StoreError
from ossfs.fs import attrs
from ossfs.fs.attrs import Attrs, Defaults
from ossfs.fs.links import relative
from ossfs.fs.names import check_key, decode_name, showable
from ossfs.fs.stats import Stat
from ossfs.fuse.ops import entry
from ossfs.limits import MAX_KEY_BYTES, MAX_NAME_BYTES
from ossfs.metrics import Metrics
from ossfs.store import profiles, remote
from ossfs.store.answers import content_range, object_info
from ossfs.store.attempt import Attempt
from ossfs.store.base import ObjectHeaders, ObjectInfo, PartResult
from ossfs.store.calls import Calls, StoreConfig
from ossfs.store.connection import Connection, Watch
from ossfs.store.credentials import Anonymous, Credentials, RefreshingCredentials
from ossfs.store.listing import decode
from ossfs.store.oss import OssStore
from ossfs.store.passwd_file import PasswdFile
from ossfs.store.request import Receiver, write_headers
from ossfs.store.transport import Response

LATEST = 1 << 38
"""Seconds, after the year 9999: the last one that a date of HTTP or XML can name."""


def run(call: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that waits for nothing."""
    try:
        call.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


def one_line(error: ConfigError, *secrets: str) -> None:
    """The rule for what people are told: one line that can be printed, and no secret."""
    text = str(error)
    assert text and text.isprintable(), repr(text)
    assert len(text) < 2000, len(text)
    for secret in secrets:
        assert secret not in text


# --------------------------------------------------------------------------------------------------
# Answers of the service, from the bytes on the socket to the records that the rest works with.


class AnsweredCalls(Calls):
    """Every request gets the answer that *connection* brings."""

    connection: Connection

    async def run(self, operation: str, method: str, key: str, finish: Any, **kwargs: Any) -> Any:
        watch = Watch(Attempt(5.0), 1.0)
        head = self.connection.read_head(method, watch)
        receiver: Receiver | None = kwargs.get("receiver")
        if head.status >= 300:
            from ossfs.store.answers import error_from

            raise error_from(head.status, head.headers, self.connection.read_small(head, watch))
        if receiver is not None:
            size = receiver.on_head(head)
            assert 0 <= size <= len(receiver.into)
            self.connection.read_into(receiver.into[:size], watch, receiver.on_data)
            return finish(Response(head, b"", size))
        return finish(Response(head, self.connection.read_small(head, watch)))


@cache
def _answered() -> tuple[AnsweredCalls, OssStore]:
    config = StoreConfig("bucket", "http://localhost:1", "cn-hangzhou")
    calls = AnsweredCalls(config, Anonymous(), Metrics(), None, None)  # type: ignore[arg-type]
    return calls, OssStore(calls)


_HEADERS = ObjectHeaders()
_PARTS = [PartResult(1, 5, "A", 7), PartResult(2, 5, "B", None)]
CALLS: list[Callable[[OssStore], Coroutine[Any, Any, Any]]] = [
    lambda s: s.list("a/", delimiter="/"),
    lambda s: s.head("k"),
    lambda s: s.get("k", memoryview(bytearray(64)), start=0),
    lambda s: s.get("k", memoryview(bytearray(64)), start=10, etag="A"),
    lambda s: s.get_symlink("k"),
    lambda s: s.get_tagging("k"),
    lambda s: s.bucket_info(),
    lambda s: s.bucket_stat(),
    lambda s: s.list_uploads("a/"),
    lambda s: s.copy("a", "b"),
    lambda s: s.delete_many(["a", "b%41", "c\n"]),
    lambda s: s.initiate("k", _HEADERS),
    lambda s: s.copy_part("k", "U", 1, "a", 0, 10),
    lambda s: s.complete("k", "U", _PARTS),
    lambda s: s.put("k", [b""], _HEADERS),
]


def answer(data: bytes) -> None:
    """A whole HTTP answer to any operation: a StoreError, or a record that keeps its type's word."""
    if not data or len(data) > 60_000:
        return
    ours, theirs = socket.socketpair()
    try:
        theirs.sendall(data[1:])
        theirs.shutdown(socket.SHUT_WR)
        calls, store = _answered()
        calls.connection = Connection(ours, 1.0)
        try:
            result = run(CALLS[data[0] % len(CALLS)](store))
        except StoreError:
            return
        check_record(result)
    finally:
        ours.close()
        theirs.close()


def check_record(record: Any) -> None:
    """Whatever the service said: text that is UTF-8 again, sizes and times that the kernel takes."""
    if isinstance(record, list | tuple | set):
        for item in record:
            check_record(item)
    elif isinstance(record, ObjectInfo):
        info_of(record)
    elif hasattr(record, "objects"):
        for listed in record.objects:
            listed.key.encode()
            assert 0 <= listed.size < 1 << 63, listed
            assert abs(listed.last_modified) < LATEST
        for prefix in record.prefixes:
            prefix.encode()
        assert record.next_marker != ""
    elif hasattr(record, "server_date"):
        assert abs(record.server_date) < LATEST
        assert record.crc64 is None or 0 <= record.crc64 < 1 << 64


def info_of(info: ObjectInfo) -> None:
    assert 0 <= info.size < 1 << 63, info.size
    assert info.crc64 is None or 0 <= info.crc64 < 1 << 64
    assert abs(info.last_modified) < LATEST
    assert info.tag_count >= 0
    for directory in (False, True):
        shown = attrs.decode(info, Defaults(), directory=directory)
        shown_is_possible(shown, info.size, directory)
    attrs.decode(info, Defaults(listed=True))


def shown_is_possible(shown: Attrs, size: int, directory: bool) -> None:
    """The kernel takes it, and what is stored again reads as the same."""
    assert stat.S_ISDIR(shown.mode) == directory
    for name, value in shown.xattrs.items():
        assert name and "\0" not in name and isinstance(value, bytes)
        name.encode()
    entry(
        Stat(
            ino=1,
            mode=shown.mode,
            nlink=1,
            uid=shown.uid,
            gid=shown.gid,
            rdev=shown.rdev,
            size=size,
            atime_ns=shown.atime_ns,
            mtime_ns=shown.mtime_ns,
            ctime_ns=shown.ctime_ns,
            entry_timeout=0.0,
            attr_timeout=0.0,
        )
    )
    stored = attrs.encode(shown)
    again = attrs.decode(
        ObjectInfo("k", size, "E", 0, 0, None, "Normal", "Standard", stored), Defaults(), directory=directory
    )
    assert again.mode == shown.mode and again.xattrs == shown.xattrs, (again, shown)
    assert (again.uid, again.gid, again.rdev) == (shown.uid, shown.gid, shown.rdev)
    assert (again.mtime_ns, again.ctime_ns) == (shown.mtime_ns, shown.ctime_ns)
    assert again.header_target == shown.header_target
    write_headers(stored)


def metadata(data: bytes) -> None:
    """Lines of `name: value`, as stored metadata: never an error, and stable when it is stored again."""
    headers: dict[str, str] = {}
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        name, colon, value = line.partition(":")
        if colon and name:
            headers[name.lower()] = value.strip()
    try:
        content_range(headers)
    except StoreError:
        pass
    for size in (0, 1):
        info_of(object_info("k", headers, size))


# --------------------------------------------------------------------------------------------------
# Keys and names.


def keys(data: bytes) -> None:
    """A key as a listing spells it: None, or a text of which each component is shown as a name, or hidden."""
    spelt, _, other = data.decode("utf-8", "surrogateescape").partition("\n")
    key = decode(spelt.encode("ascii", "ignore").decode())
    if key is not None:
        key.encode()
        for at, part in enumerate(key.split("/")):
            if showable(part, in_root=at == 0):
                raw = part.encode()
                assert raw not in (b"", b".", b"..") and b"/" not in raw and b"\0" not in raw
                assert len(raw) <= MAX_NAME_BYTES
                assert decode_name(raw) == part
        for prefix in ("", "m/"):
            target = decode(other.encode("ascii", "ignore").decode())
            if target is not None and key.startswith(prefix):
                path = relative(key, target, prefix)
                if path is not None:
                    assert not path.startswith("/") and "\0" not in path
                    depth = key[len(prefix) :].count("/")
                    assert path.split("/").count("..") <= depth, (key, target, path)
        try:
            check_key(key)
        except PosixError:
            pass
        else:
            assert len(key.encode()) <= MAX_KEY_BYTES and not key.startswith("\\")
    for creating in (False, True):
        try:
            name = decode_name(data, creating=creating)
        except PosixError:
            continue
        assert name.encode() == data and len(data) <= MAX_NAME_BYTES


# --------------------------------------------------------------------------------------------------
# Files of keys and options.


@cache
def _directory() -> str:
    made = tempfile.mkdtemp(prefix="ossfs-fuzz-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def _file(data: bytes, name: str) -> str:
    path = os.path.join(_directory(), name)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    return path


def key_files(data: bytes) -> None:
    """passwd, ossutilconfig, aliyun's config.json, credentials.ini: a ConfigError of one line, or keys."""
    if not data:
        return
    path = _file(data[1:], "keys")
    try:
        if data[0] % 4 == 0:
            found = PasswdFile("bucket", path).get()
            assert found.access_key_id and found.access_key_secret
            return
        read = (profiles.read_ossutil, profiles.read_aliyun, profiles.read_credentials_ini)[data[0] % 4 - 1]
        profile, others = read(path, None if data[0] & 64 else "default")
        assert all(isinstance(name, str) for name in others)
        for name in ("access_key_id", "expired_seconds", "policy"):
            assert isinstance(profile.get(name), str)
        if profile.mode in ("AK", "StsToken"):
            remote.of_profile(profile, others)
        remote._seconds(profile)
    except ConfigError as error:
        one_line(error)


def toml(data: bytes) -> None:
    """A file of options: a ConfigError of one line, or a configuration."""
    path = _file(data, "options.toml")
    try:
        read_file(path)
        config = load_config("bucket", "/m", [f"config={path},region=cn-hangzhou"])
    except ConfigError as error:
        one_line(error)
        return
    settled(config)


def settled(config: Any) -> None:
    """What was accepted can be shown and used."""
    repr(config)
    config.to_dict()
    assert config.endpoint_url.startswith(("http://", "https://"))
    try:
        Calls(
            StoreConfig(config.bucket, config.endpoint_url, config.signing_region),
            Anonymous(),
            Metrics(),
            None,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
        )
    except ConfigError as error:
        one_line(error)


def options(data: bytes) -> None:
    """`SOURCE<newline>OPTIONS`, as on a command line or in /etc/fstab."""
    text = data.decode("utf-8", "surrogateescape").replace("\0", "")
    source, _, given = text.partition("\n")
    pieces = split_options(given)
    # split_options and its inverse.
    joined = ",".join(piece.replace("\\", "\\\\").replace(",", "\\,") for piece in pieces)
    assert split_options(joined) == pieces
    if "config" in given:
        given = given.replace("config", "c0nfig")  # what any file holds is the target `toml`'s
    try:
        parse_options([given])
        config = load_config(source, "/m", [given])
    except ConfigError as error:
        one_line(error)
        return
    settled(config)


# --------------------------------------------------------------------------------------------------
# Programs and services that hand out keys.


def _usable(credentials: Credentials) -> None:
    for text in (credentials.access_key_id, credentials.access_key_secret, credentials.security_token):
        assert isinstance(text, str)
    assert credentials.access_key_id and credentials.access_key_secret
    assert credentials.expiration is None or isfinite(credentials.expiration), credentials.expiration
    assert repr(credentials) == repr(replace(credentials, access_key_secret="", security_token=""))
    provider = RefreshingCredentials("fuzz", lambda: credentials, clock=lambda: 1.7e9)
    assert provider._current is credentials


def process(data: bytes) -> None:
    """What a credential process prints: a ConfigError of one line that quotes nothing, or usable keys."""
    done = subprocess.CompletedProcess(["p"], 0, stdout=data, stderr=b"")
    with mock.patch.object(subprocess, "run", return_value=done):
        try:
            credentials = remote.from_process("p")
        except ConfigError as error:
            one_line(error)
            return
    with mock.patch("ossfs.logs.hide"):
        _usable(credentials)


def metadata_service(data: bytes) -> None:
    """What the metadata service, a credentials URI, or STS answers: a ConfigError, or usable keys."""
    if not data:
        return
    from alibabacloud_credentials import provider as library

    body = data[1:]
    said = SimpleNamespace(status_code=200, body=body, headers={}, status_message="OK", content=body)
    core = "Tea.core.TeaCore.do_action"
    connected = mock.patch.object(socket, "create_connection", return_value=mock.Mock())
    with mock.patch(core, return_value=said), mock.patch("requests.get", return_value=said), connected:
        del library
        try:
            kind = data[0] % 3
            if kind == 0:
                credentials = remote.ecs_role("role")
            elif kind == 1:
                credentials = remote.from_uri("http://127.0.0.1/keys")
            else:
                credentials = remote.ecs_url("http://127.0.0.1/keys")
        except ConfigError as error:
            one_line(error)
            return
    with mock.patch("ossfs.logs.hide"):
        _usable(credentials)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "answer": answer,
    "metadata": metadata,
    "keys": keys,
    "key_files": key_files,
    "toml": toml,
    "options": options,
    "process": process,
    "metadata_service": metadata_service,
}
