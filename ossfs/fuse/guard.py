"""The one wrapper around every FUSE operation: deadline, error to errno, log level, counters.

Threading: trio thread only.

pyfuse3 takes the whole mount down for any exception but FUSEError, and a program whose request is
never answered stays in D state, so nothing may leave a handler but a result or an errno, and every
handler ends.  A deadline counts time without progress: while bytes move, or requests are answered,
it is put off.
"""

from __future__ import annotations

import errno
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import pyfuse3
import trio

from ossfs.errors import OssfsError, StoreError, errno_of, level_of
from ossfs.metrics import Metrics

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

CHECKS = 8
"""How often in a deadline's time progress is looked for."""


class Guard:
    """timeout: seconds without progress.  progress: a number that moves when the store does."""

    def __init__(self, timeout: float, metrics: Metrics, progress: Callable[[], int]) -> None:
        self.timeout = timeout
        self.metrics = metrics
        self._progress = progress
        self._active: set[trio.CancelScope] = set()

    async def watch(self) -> None:
        """Put deadlines off while there is progress.  Runs as long as the mount."""
        last = self._progress()
        while True:
            await trio.sleep(self.timeout / CHECKS)
            now = self._progress()
            if now != last:
                last = now
                deadline = trio.current_time() + self.timeout
                for scope in self._active:
                    scope.deadline = deadline

    async def run(
        self, name: str, work: Callable[[], Awaitable[R]], about: Callable[[], str] = lambda: ""
    ) -> R:
        """The result of *work*, or FUSEError.

        about: says which file it is, when something is to be told that does not say it.
        """
        self.metrics.count(name)
        scope = trio.CancelScope(deadline=trio.current_time() + self.timeout)
        self._active.add(scope)
        try:
            with scope:
                return await work()
        except pyfuse3.FUSEError as error:
            raise pyfuse3.FUSEError(_never_enosys(error.errno)) from None
        except OssfsError as error:
            self.metrics.failed(error, name)
            code = _never_enosys(errno_of(error))
            # EIO says nothing by itself, so whoever gets one finds the reason in the log.
            level = max(level_of(error), logging.ERROR) if code == errno.EIO else level_of(error)
            if log.isEnabledFor(level):
                known = isinstance(error, StoreError) and error.key
                log.log(level, "%s%s: %s", name, "" if known else _of(about), error)
            raise pyfuse3.FUSEError(code) from None
        except MemoryError:
            log.error("%s: the process gets no more memory", name)
            raise pyfuse3.FUSEError(errno.ENOMEM) from None
        except Exception as error:
            self.metrics.failed(error, name)
            log.exception("%s%s: unforeseen", name, _of(about))
            raise pyfuse3.FUSEError(errno.EIO) from None
        finally:
            self._active.discard(scope)
        log.error("%s%s: no progress for %g seconds", name, _of(about), self.timeout)
        raise pyfuse3.FUSEError(errno.ETIMEDOUT)


def _of(about: Callable[[], str]) -> str:
    """` of 'dir/file'`, "" when that is not known."""
    try:
        path = about()
    except Exception:  # while one error is told, no other may come
        log.debug("which file that is cannot be told", exc_info=True)
        return ""
    return f" of {path!r}" if path else ""


def _never_enosys(code: int) -> int:
    """After one ENOSYS the kernel stops sending that kind of request for good."""
    return errno.EIO if code == errno.ENOSYS else code


class Guarded(Protocol):
    """Who owns guarded methods."""

    guard: Guard

    def about(self, first: str, arguments: tuple[Any, ...]) -> str:
        """The path that a call is about, "" when it is not known.  first: the name of its first argument."""


S = TypeVar("S", bound=Guarded)


def guarded(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Run the method under its owner's guard."""
    name = f"fuse.{method.__name__}"
    first = list(inspect.signature(method).parameters)[1:2]

    @functools.wraps(method)
    async def wrapper(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        work = functools.partial(method, self, *args, **kwargs)
        return await self.guard.run(name, work, lambda: self.about("".join(first), args))

    wrapper.__guarded__ = True  # type: ignore[attr-defined]
    return wrapper  # type: ignore[return-value]


def unguarded_operations(owner: type[Any], names: list[str]) -> list[str]:
    """For a test: the operations that *owner* defines without a guard."""
    return [n for n in names if n in vars(owner) and not getattr(vars(owner)[n], "__guarded__", False)]
