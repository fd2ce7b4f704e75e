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
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import pyfuse3
import trio

from ossfs.errors import OssfsError, errno_of, level_of
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

    async def run(self, name: str, work: Callable[[], Awaitable[R]]) -> R:
        """The result of *work*, or FUSEError."""
        self.metrics.count(name)
        scope = trio.CancelScope(deadline=trio.current_time() + self.timeout)
        self._active.add(scope)
        try:
            with scope:
                return await work()
        except pyfuse3.FUSEError as error:
            raise pyfuse3.FUSEError(_never_enosys(error.errno)) from None
        except OssfsError as error:
            level = level_of(error)
            self.metrics.failed(error, name)
            if log.isEnabledFor(level):
                log.log(level, "%s: %s", name, error)
            raise pyfuse3.FUSEError(_never_enosys(errno_of(error))) from None
        except MemoryError:
            log.error("%s: the process gets no more memory", name)
            raise pyfuse3.FUSEError(errno.ENOMEM) from None
        except Exception:
            log.exception("%s: unforeseen", name)
            raise pyfuse3.FUSEError(errno.EIO) from None
        finally:
            self._active.discard(scope)
        log.error("%s: no progress for %g seconds", name, self.timeout)
        raise pyfuse3.FUSEError(errno.ETIMEDOUT)


def _never_enosys(code: int) -> int:
    """After one ENOSYS the kernel stops sending that kind of request for good."""
    return errno.EIO if code == errno.ENOSYS else code


class Guarded(Protocol):
    """Who owns guarded methods."""

    guard: Guard


S = TypeVar("S", bound=Guarded)


def guarded(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Run the method under its owner's guard."""
    name = f"fuse.{method.__name__}"

    @functools.wraps(method)
    async def wrapper(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.guard.run(name, functools.partial(method, self, *args, **kwargs))

    wrapper.__guarded__ = True  # type: ignore[attr-defined]
    return wrapper  # type: ignore[return-value]


def unguarded_operations(owner: type[Any], names: list[str]) -> list[str]:
    """For a test: the operations that *owner* defines without a guard."""
    return [n for n in names if n in vars(owner) and not getattr(vars(owner)[n], "__guarded__", False)]
