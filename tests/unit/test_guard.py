"""The wrapper around every operation: nothing leaves it but a result or an errno, and it always ends."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyfuse3
import pytest
import trio
import trio.testing

from ossfs import errors, logs
from ossfs.errors import NoCredentials, OssfsError, PosixError
from ossfs.fuse.guard import Guard, guarded, unguarded_operations
from ossfs.fuse.ops import Operations
from ossfs.metrics import Metrics

pytestmark = pytest.mark.timeout(30)


def tree_of(root: type[OssfsError]) -> Iterator[type[OssfsError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree_of(child)


CLASSES = [c for c in tree_of(OssfsError) if c is not PosixError]


def make(timeout: float = 8.0, progress: list[int] | None = None) -> Guard:
    moved = progress if progress is not None else [0]
    return Guard(timeout, Metrics(), lambda: moved[0])


async def errno_from(guard: Guard, error: BaseException) -> int:
    async def work() -> None:
        raise error

    with pytest.raises(pyfuse3.FUSEError) as caught:
        await guard.run("fuse.test", work)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    return caught.value.errno


def test_every_operation_is_guarded() -> None:
    names = [n for n in vars(pyfuse3.Operations) if not n.startswith("_")]
    calls = [n for n in names if callable(getattr(pyfuse3.Operations, n))]
    assert unguarded_operations(Operations, calls) == ["forget"]
    # What is left to pyfuse3 answers ENOSYS, so the kernel must be content without it.
    assert {n for n in calls if n not in vars(Operations)} == {"init", "poll", "stacktrace", "access"}


async def test_a_result_is_passed_on() -> None:
    guard = make()

    async def work() -> int:
        return 7

    with trio.fail_after(5):
        assert await guard.run("fuse.x", work) == 7
    assert guard.metrics.snapshot() == {"fuse.x": 1}
    assert not guard._active


@pytest.mark.parametrize("kind", CLASSES, ids=lambda c: c.__name__)
async def test_each_class_of_error_has_an_errno(
    kind: type[OssfsError], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "ossfs.fuse.guard")
    guard = make()
    with trio.fail_after(5):
        error = (
            NoCredentials(["nowhere"], "what happened") if kind is NoCredentials else kind("what happened")
        )
        code = await errno_from(guard, error)
    assert code == kind.errno and code in errno.errorcode and code != errno.ENOSYS
    (record,) = [r for r in caplog.records if r.name == "ossfs.fuse.guard"]
    assert record.levelno == (max(kind.level, logging.ERROR) if code == errno.EIO else kind.level)
    assert record.exc_info is None
    assert "fuse.test" in record.getMessage() and "what happened" in record.getMessage()
    assert not guard._active


EIO_CLASSES = [c for c in CLASSES if c.errno == errno.EIO]


def test_most_failures_of_the_service_are_eio() -> None:
    assert {errors.ServerFault, errors.ConnectionLost, errors.NoSuchBucket, errors.NotModified} < {
        *EIO_CLASSES
    }


@pytest.mark.usefixtures("restore_logging")
@pytest.mark.parametrize("level", ["info", "error"])
@pytest.mark.parametrize("kind", EIO_CLASSES, ids=lambda c: c.__name__)
async def test_each_eio_has_a_line_that_says_why(kind: type[OssfsError], level: str, tmp_path: Path) -> None:
    """With key and request id, at any level that can be set."""
    path = tmp_path / "log"
    logs.set_up(level, log_file=str(path))
    error: OssfsError = kind("what happened")
    if isinstance(error, errors.StoreError):
        error.operation, error.key, error.request_id = "GetObject", "dir/key", "5F0000001"
    with trio.fail_after(5):
        assert await errno_from(make(), error) == errno.EIO
    (line,) = path.read_text().splitlines()
    assert " ERROR " in line and "what happened" in line
    if isinstance(error, errors.StoreError):
        assert "GetObject 'dir/key'" in line and "request-id=5F0000001" in line


@pytest.mark.parametrize(
    "error",
    [
        PosixError(errno.EIO, "why"),
        PosixError(errno.ENOSYS, "why"),
        errors.ServerFault("why"),
        KeyError("why"),
    ],
    ids=repr,
)
async def test_an_eio_without_a_key_names_the_file(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        raise error

    with trio.fail_after(5), pytest.raises(pyfuse3.FUSEError):
        await make().run("fuse.test", work, lambda: "dir/a\nfile")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith(r"fuse.test of 'dir/a\nfile': ")


async def test_a_file_that_cannot_be_named_hides_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise PosixError(errno.EIO, "why")

    with trio.fail_after(5), pytest.raises(pyfuse3.FUSEError) as caught:
        await make().run("fuse.test", work, lambda: str(1 // 0))
    assert caught.value.errno == errno.EIO
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR] == ["fuse.test: EIO: why"]


@pytest.mark.parametrize("code", [errno.ENOTEMPTY, errno.EXDEV, errno.ENODATA])
async def test_an_errno_that_the_tree_decided_on(code: int) -> None:
    with trio.fail_after(5):
        assert await errno_from(make(), PosixError(code)) == code
        assert await errno_from(make(), pyfuse3.FUSEError(code)) == code


async def test_enosys_never_leaks() -> None:
    """After one, the kernel does not send that kind of request any more."""
    with trio.fail_after(5):
        assert await errno_from(make(), PosixError(errno.ENOSYS)) == errno.EIO
        assert await errno_from(make(), pyfuse3.FUSEError(errno.ENOSYS)) == errno.EIO


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("oops"), OSError(errno.ENOENT, "of a file of ours"), AssertionError()]
)
async def test_what_nobody_foresaw_is_eio_with_a_traceback(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with trio.fail_after(5):
        assert await errno_from(make(), error) == errno.EIO
    (record,) = caplog.records
    assert record.levelno >= logging.ERROR and record.exc_info is not None
    assert record.exc_info[1] is error


async def test_a_group_of_errors_is_eio() -> None:
    with trio.fail_after(5):
        assert await errno_from(make(), ExceptionGroup("two", [ValueError(), KeyError()])) == errno.EIO


async def test_no_progress_is_a_timeout(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    guard = make(timeout=8.0)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(guard.watch)
        with trio.fail_after(100), pytest.raises(pyfuse3.FUSEError) as caught:
            await guard.run("fuse.read", trio.sleep_forever)
        nursery.cancel_scope.cancel()
    assert caught.value.errno == errno.ETIMEDOUT
    assert trio.current_time() - began == pytest.approx(8.0)
    assert "fuse.read: no progress for 8 seconds" in caplog.text
    assert not guard._active


async def test_progress_puts_the_deadline_off(autojump_clock: trio.testing.MockClock) -> None:
    moved = [0]
    guard = make(timeout=8.0, progress=moved)

    async def bytes_move() -> None:
        for _ in range(10):
            await trio.sleep(5)
            moved[0] += 1

    async def slow() -> str:
        await trio.sleep(50)
        return "done"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(guard.watch)
        nursery.start_soon(bytes_move)
        with trio.fail_after(100):
            assert await guard.run("fuse.flush", slow) == "done"
            began = trio.current_time()
            with pytest.raises(pyfuse3.FUSEError) as caught:
                await guard.run("fuse.flush", trio.sleep_forever)
        nursery.cancel_scope.cancel()
    assert caught.value.errno == errno.ETIMEDOUT
    assert 8.0 <= trio.current_time() - began <= 8.0 + 2 * 8.0 / 8


async def test_cancellation_from_outside_is_not_a_timeout() -> None:
    guard = make()
    ended = []
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                try:
                    await guard.run("fuse.x", trio.sleep_forever)
                except trio.Cancelled:
                    ended.append("cancelled")
                    raise

            nursery.start_soon(run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert ended == ["cancelled"] and not guard._active


async def test_the_decorator_names_and_passes() -> None:
    class Owner:
        def __init__(self) -> None:
            self.guard = make()

        def about(self, first: str, arguments: tuple[Any, ...]) -> str:
            return f"{first}={arguments[0]}"

        @guarded
        async def add(self, a: int, *, b: int) -> int:
            """Doc."""
            return a + b

        async def bare(self) -> None:
            raise NotImplementedError

    owner = Owner()
    with trio.fail_after(5):
        assert await owner.add(1, b=2) == 3
    assert owner.guard.metrics.snapshot() == {"fuse.add": 1}
    assert Owner.add.__doc__ == "Doc." and Owner.add.__name__ == "add"
    assert unguarded_operations(Owner, ["add", "bare", "absent"]) == ["bare"]
