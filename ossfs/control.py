"""The control socket of a mount: umount, flush and status, asked for by its owner or by root.

Threading: the server part runs on the mount's trio loop; the client part is synchronous and belongs
to a command of its own process.

One JSON object a line, both ways.  A request is {"op": "status" | "flush" | "umount"}, or {"op": "url"} with
path, method and expires; the answers are any number of {"progress": {...}}, also as a sign of life, and then
one of {"status": {...}}, {"failed": [names]}, {"url": text} or {"error": line, "kind": kind}.
Kinds, not texts, are what a client decides by.

An unmount belongs to the mount and not to the client that asked: it goes on when the client goes away,
and a second client that asks joins it.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Protocol, TypeAlias, TypedDict

import trio

from ossfs.errors import MountError, OssfsError, UserError
from ossfs.mountpoint import FSTYPE, clean_up_dead, mount_at, resolve_mountpoint
from ossfs.registry import PREDECESSOR_TIMEOUT, MountRecord, Registry, all_registries

log = logging.getLogger(__name__)

MAX_LINE: Final = 64 * 1024
MAX_ANSWER: Final = 64 * 1024 * 1024
"""An unmount may name many files; a process that pretends to be a mount cannot fill the memory."""
HEARTBEAT: Final = 5.0
"""Seconds after which a client that waits is told the latest progress again."""
CLIENT_TIMEOUT: Final = 60.0
"""Seconds without a line after which a client gives a mount up as hanging."""
END_TIMEOUT: Final = 60.0
"""Seconds that a process may take to end once it is unmounted and everything is in the bucket."""
_IDLE: Final = 60.0
_PEER_CREDENTIALS = struct.Struct("3i")


class UploadProgress(TypedDict, total=False):
    """What is left of a flush or unmount: files still to be finished, bytes done of bytes in all."""

    files: int
    bytes_done: int
    bytes_total: int


ProgressReport: TypeAlias = Callable[[UploadProgress], Awaitable[None]]


class MountBusy(MountError):
    """The mount point is in use; the mount still works."""


class MountDied(MountError):
    """The mount was dead, and has been removed from its place."""


class MountUnknown(MountError):
    """There is an ossfs mount, but no record that this user may see tells of its process."""


class _NotListening(MountError):
    """The process lives, and its control socket is not there: it is just starting, or it is ending."""


class ControlTarget(Protocol):
    """What the mount lets its owner ask for."""

    def status(self) -> dict[str, object]:
        """What is going on, as JSON takes it.  Must not block."""

    async def unmount(self, progress: ProgressReport) -> list[str]:
        """Wait until everything is in the bucket, then unmount; the names of files that failed to upload.

        The client is told what this returns: the end of the mount may cancel the server only afterwards.
        A mount point that is in use: OSError with EBUSY, and the mount works on.
        """

    async def flush(self, progress: ProgressReport) -> list[str]:
        """Wait until everything is in the bucket; the names of files that failed to upload."""

    async def url(self, path: str, method: str, expires: int) -> str:
        """A presigned URL of the object at *path*, relative to the mount, for *expires* seconds."""


# --------------------------------------------------------------------------------------------------
# Server.


async def serve_control(
    path: str, target: ControlTarget, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve *target* at the socket *path* until cancelled.  `task_status.started` once it can be asked."""
    listener = _listen(path)
    try:
        async with trio.open_nursery() as nursery:
            server = _Server(target, nursery)
            task_status.started()
            await trio.serve_listeners(server.handle, [listener], handler_nursery=nursery)
    finally:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


def _listen(path: str) -> trio.SocketListener:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # On Linux the socket file gets the mode of the socket, so at no moment is it open to others.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(path)
        sock.listen(16)
        sock.setblocking(False)
        return trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    except BaseException:
        sock.close()
        raise


class _Operation:
    """One flush or unmount that runs, with any number of clients looking on."""

    def __init__(self, work: Callable[[ProgressReport], Awaitable[list[str]]]) -> None:
        self._work = work
        self._changed = trio.Event()
        self.progress: UploadProgress = {}
        self.answer: dict[str, object] | None = None

    async def run(self) -> None:
        """Do the work; whatever comes out of it is an answer."""
        try:
            self.answer = {"failed": await self._work(self._report)}
        except UserError as error:
            self.answer = {"error": str(error), "kind": "refused"}
        except OSError as error:
            if error.errno != errno.EBUSY:
                log.error("a request at the control socket failed: %s", error)
            kind = "busy" if error.errno == errno.EBUSY else "failed"
            self.answer = {"error": error.strerror or str(error), "kind": kind}
        except Exception as error:  # the mount must survive a request, and the asker be told
            log.exception("a request at the control socket failed")
            self.answer = {"error": f"internal error: {error!r}", "kind": "failed"}
        finally:
            if self.answer is None:
                self.answer = {"error": "the mount is ending", "kind": "ending"}
            self._wake()

    async def changed(self) -> None:
        """Wait for news."""
        await self._changed.wait()

    def _wake(self) -> None:
        event, self._changed = self._changed, trio.Event()
        event.set()

    async def _report(self, progress: UploadProgress) -> None:
        # The latest only: a client that does not read must not hold the work up.
        self.progress = progress
        self._wake()


class _Server:
    def __init__(self, target: ControlTarget, nursery: trio.Nursery) -> None:
        self._target = target
        self._nursery = nursery
        self._running: dict[str, _Operation] = {}

    async def handle(self, stream: trio.SocketStream) -> None:
        """One client, until it goes away."""
        try:
            if not _is_owner(stream):
                await _send(
                    stream, {"error": "only the owner of the mount and root may ask", "kind": "denied"}
                )
                return
            buffer = bytearray()
            while (line := await _read_line(stream, buffer)) is not None:
                await self._answer(stream, line)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            log.debug("a client of the control socket went away")
        except Exception:
            log.exception("the control socket failed to answer")
        finally:
            await trio.aclose_forcefully(stream)

    async def _answer(self, stream: trio.SocketStream, line: bytes) -> None:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
            request = None
        op = request.get("op") if isinstance(request, dict) else None
        if op == "status":
            await _send(stream, {"status": self._target.status()})
        elif op == "umount":
            await self._follow(stream, op, self._target.unmount)
        elif op == "flush":
            await self._follow(stream, op, self._target.flush)
        elif op == "url":
            await self._sign(stream, request)
        else:
            await _send(stream, {"error": "expected op: status, flush, umount or url", "kind": "malformed"})

    async def _sign(self, stream: trio.SocketStream, request: dict[str, Any]) -> None:
        path, method, expires = (request.get(name) for name in ("path", "method", "expires"))
        if (
            not isinstance(path, str)
            or not isinstance(expires, int)
            or any(part in ("", ".", "..") for part in path.split("/"))
            or method not in ("GET", "HEAD")  # what it can do is read: whoever has the URL may be anybody
        ):
            await _send(
                stream, {"error": "expected path, method GET or HEAD, and expires", "kind": "malformed"}
            )
            return
        try:
            url = await self._target.url(path, method, expires)
        except OssfsError as error:
            await _send(stream, {"error": str(error), "kind": "refused"})
            return
        await _send(stream, {"url": url})

    async def _follow(
        self, stream: trio.SocketStream, op: str, work: Callable[[ProgressReport], Awaitable[list[str]]]
    ) -> None:
        operation = self._running.get(op)
        if operation is None:
            operation = self._running[op] = _Operation(work)
            self._nursery.start_soon(self._run, op, operation)
        # The unmount ends the mount, and with it this task: its last word is still to be sent.
        with trio.CancelScope() as scope:
            scope.shield = True
            while operation.answer is None:
                with trio.move_on_after(HEARTBEAT):
                    await operation.changed()
                if operation.answer is None:
                    await _send(stream, {"progress": operation.progress})
            await _send(stream, operation.answer)

    async def _run(self, op: str, operation: _Operation) -> None:
        try:
            await operation.run()
        finally:
            del self._running[op]


def _is_owner(stream: trio.SocketStream) -> bool:
    raw = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    _pid, uid, _gid = _PEER_CREDENTIALS.unpack(raw)
    return uid in (0, os.geteuid())


async def _read_line(stream: trio.SocketStream, buffer: bytearray) -> bytes | None:
    while (end := buffer.find(b"\n")) < 0:
        if len(buffer) > MAX_LINE:
            await _send(stream, {"error": "the line is too long", "kind": "malformed"})
            return None
        with trio.fail_after(_IDLE):
            data = await stream.receive_some(4096)
        if not data:
            return None
        buffer += data
    line = bytes(buffer[:end])
    del buffer[: end + 1]
    return line


async def _send(stream: trio.SocketStream, answer: dict[str, Any]) -> None:
    with trio.fail_after(HEARTBEAT):
        await stream.send_all(json.dumps(answer, default=str).encode() + b"\n")


# --------------------------------------------------------------------------------------------------
# Client.


def request(
    record: MountRecord,
    op: str,
    on_progress: Callable[[UploadProgress], None] | None = None,
    *,
    timeout: float | None = None,
    **arguments: object,
) -> dict[str, Any]:
    """Ask the mount of *record*; the answer, without errors: those are raised as MountError.

    timeout: seconds without a line after which it is given up as hanging; CLIENT_TIMEOUT unless told.
    """
    where = record.mountpoint
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(CLIENT_TIMEOUT if timeout is None else timeout)
            sock.connect(record.socket)
            sock.sendall(json.dumps({"op": op, **arguments}).encode() + b"\n")
            with sock.makefile("rb") as lines:
                while line := lines.readline(MAX_ANSWER):
                    answer: dict[str, Any] = json.loads(line)
                    if "progress" in answer:
                        if on_progress is not None:
                            on_progress(answer["progress"])
                        continue
                    if "error" not in answer:
                        return answer
                    if answer.get("kind") == "busy":
                        raise MountBusy(
                            f"{where} is in use; end the programs that have files or their directory there "
                            f"(`fuser -vm {where}` lists them) and try again; it is still mounted"
                        )
                    raise MountError(
                        f"the mount at {where} (process {record.pid}) answered: {answer['error']}"
                    )
    except (FileNotFoundError, ConnectionRefusedError):
        raise _NotListening(
            f"the mount at {where} (process {record.pid}) is starting or ending; try again in a moment"
        ) from None
    except TimeoutError:
        raise MountError(
            f"the mount at {where} (process {record.pid}) does not answer; see its log, or end that process "
            f"and run: umount -l {where}"
        ) from None
    except (OSError, ValueError) as error:
        raise MountError(
            f"the mount at {where} (process {record.pid}) cannot be asked: {error}; see its log"
        ) from None
    raise MountError(f"the mount at {where} (process {record.pid}) ended without an answer; see its log")


def find_mount(mountpoint: str, registries: Iterable[Registry]) -> tuple[Registry, MountRecord] | None:
    """The live mount at *mountpoint* and the registry that has it, or None."""
    for registry in registries:
        record = registry.find_by_mountpoint(mountpoint)
        if record is not None:
            return registry, record
    return None


def _find(mountpoint: str, registries: Iterable[Registry] | None) -> tuple[Registry, MountRecord]:
    """The live mount at *mountpoint*, or a MountError that says what is there instead.

    A mount whose process has died is cleaned up on the way.
    """
    place = resolve_mountpoint(mountpoint)
    found = find_mount(place, all_registries() if registries is None else registries)
    if found is not None:
        return found
    if clean_up_dead(place):
        raise MountDied(
            f"the mount at {place} was dead: its process had ended before; the mount point is free again, "
            "what was not uploaded by then is lost"
        )
    mount = mount_at(place)
    if mount is not None and mount.fstype == FSTYPE:
        raise MountUnknown(f"the ossfs mount at {place} is another user's; run this as that user or as root")
    raise MountError(f"{place} is not an ossfs mount")


def request_status(mountpoint: str, registries: Iterable[Registry] | None = None) -> dict[str, Any]:
    """What the mount at *mountpoint* says of itself: see status.py."""
    _registry, record = _find(mountpoint, registries)
    return status_of(record)


def status_of(record: MountRecord, timeout: float | None = None) -> dict[str, Any]:
    """What the mount of *record* says of itself.  timeout: see request."""
    status: dict[str, Any] = request(record, "status", timeout=timeout)["status"]
    return status


def request_flush(
    mountpoint: str,
    on_progress: Callable[[UploadProgress], None] | None = None,
    registries: Iterable[Registry] | None = None,
) -> list[str]:
    """Wait until everything is in the bucket; the names of files that failed to upload."""
    _registry, record = _find(mountpoint, registries)
    failed: list[str] = request(record, "flush", on_progress)["failed"]
    return failed


def request_unmount(
    mountpoint: str,
    on_progress: Callable[[UploadProgress], None] | None = None,
    registries: Iterable[Registry] | None = None,
) -> list[str]:
    """Unmount once everything is in the bucket, and wait for the process to end; what failed to upload.

    A mount whose process has died is cleaned up; that is a MountError nonetheless, since what it had not
    uploaded is lost.  A mount point that is in use: MountBusy.
    """
    registry, record = _find(mountpoint, registries)
    place = record.mountpoint
    try:
        failed: list[str] = request(record, "umount", on_progress)["failed"]
    except _NotListening:
        if record.state != "draining" or not registry.wait_gone(record, PREDECESSOR_TIMEOUT):
            raise
        raise MountError(
            f"the mount at {place} was ending already and has ended now; its log says if all was uploaded"
        ) from None
    if not registry.wait_gone(record, END_TIMEOUT):
        raise MountError(
            f"{place} is unmounted and everything is in the bucket, but process {record.pid} has not ended"
        )
    return failed


def flush_and_unmount(
    mountpoint: str,
    unmount: Callable[[str], None],
    on_progress: Callable[[UploadProgress], None] | None = None,
    registries: Iterable[Registry] | None = None,
) -> list[str]:
    """As request_unmount, but it is this process that calls *unmount*, and not that of the mount.

    For a mount on top of an autofs: while systemd takes it away, whoever is not of systemd's process group
    waits at the mount point until it is gone, and the process of the mount is not.
    """
    registry, record = _find(mountpoint, registries)
    failed: list[str] = request(record, "flush", on_progress)["failed"]
    unmount(record.mountpoint)
    if not registry.wait_gone(record, PREDECESSOR_TIMEOUT):
        raise MountError(
            f"{record.mountpoint} is unmounted, but process {record.pid} has not ended; it may still upload"
        )
    return failed
