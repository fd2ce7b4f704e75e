"""What write-back left on the local disk when no mount has it: for `ossfs pending`.

Threading: the main thread of a command; the loops that it runs are its own.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import trio

from ossfs.access import find_credentials, store_config
from ossfs.cache import writelog
from ossfs.cache.directory import CacheDirectory, directory_name
from ossfs.cache.writelog import Aside, Found
from ossfs.config import MountConfig
from ossfs.errors import ConfigError, MountError
from ossfs.fs.writeback import beside, replay
from ossfs.metrics import Metrics
from ossfs.store.base import ObjectHeaders, ObjectStore
from ossfs.store.oss import open_store

T = TypeVar("T")


class Leftovers:
    """The files of one bucket and prefix that wait below cache_dir, and the damaged ones; locked.

    Raises MountError when a mount has them (`ossfs status` tells of those), ConfigError without cache_dir.
    """

    def __init__(self, config: MountConfig) -> None:
        if config.cache_dir is None:
            raise ConfigError(
                "files wait in a cache_dir; accepted: -o cache_dir=DIR as the mount had it, with its SOURCE"
            )
        self._config = config
        self._directory: CacheDirectory | None = None
        self._found = Found()
        names = {"endpoint": config.endpoint_url, "bucket": config.bucket, "prefix": config.prefix}
        directory = os.path.join(config.cache_dir, directory_name(**names))
        self._place = os.path.join(directory, "writeback")
        if not os.path.isdir(directory):
            return
        self._directory = CacheDirectory(config.cache_dir, **names)
        try:
            self._found = writelog.read(self._place)
            if self._found.damaged:
                writelog.compact(self._place, self._found)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise MountError(f"cache_dir {self._place}: {error}; accepted: a disk that works") from error
            raise

    def close(self) -> None:
        """Let a mount have them."""
        if self._directory is not None:
            self._directory.close()
            self._directory = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def waiting(self) -> dict[str, dict[str, Any]]:
        """By key: bytes, and when close(2) accepted it in unix seconds.  The last entry of a name counts."""
        return {
            entry.meta["key"]: {"bytes": len(entry.data), "closed": entry.meta["closed"]}
            for entry in self._found.entries
        }

    @property
    def damaged(self) -> list[Aside]:
        """What was set aside."""
        return writelog.aside(self._place)

    def upload(self) -> list[str]:
        """Upload what waits, as the next mount would.  One line for each file that could not be."""
        if not self._found.entries:
            return []

        async def work(store: ObjectStore) -> list[str]:
            done, failed = await replay(store, self._found.entries, hostname=socket.gethostname())
            writelog.finish(self._place, self._found, done)
            return [f"{key}: {error}" for key, error in failed]

        return self._with_store(work)

    def drop(self, name: str) -> None:
        """Give up what waits under the key *name*, or what was set aside as *name*."""
        numbers = [entry.number for entry in self._found.entries if entry.meta["key"] == name]
        if numbers:
            writelog.finish(self._place, self._found, numbers)
            return
        writelog.drop_aside(self._set_aside(name))

    def put(self, name: str) -> str:
        """Put what was set aside as *name* into the bucket, beside the file that it was to be.  Its key."""
        one = self._set_aside(name)
        if one.meta is None:
            raise ConfigError(
                f"of {name} no name of a file can be read; accepted: --drop, or a look at {one.path}"
            )
        key = next(beside(one.meta["key"], socket.gethostname(), "damaged"))
        headers = ObjectHeaders(**one.meta["headers"])

        async def work(store: ObjectStore) -> None:
            await store.put(key, [one.data] if one.data else [], headers, forbid_overwrite=True)

        self._with_store(work)
        writelog.drop_aside(one)
        return key

    def _set_aside(self, name: str) -> Aside:
        for one in self.damaged:
            if one.name == name:
                return one
        raise ConfigError(f"nothing is pending as {name}; accepted: a name that `ossfs pending` lists")

    def _with_store(self, work: Callable[[ObjectStore], Awaitable[T]]) -> T:
        credentials = find_credentials(self._config)

        async def run() -> T:
            async with open_store(store_config(self._config), credentials, Metrics()) as store:
                return await work(store)

        return trio.run(run)
