"""One mount from beginning to end: the only place that wires the parts together.

Threading: `run` starts the trio loop in the thread that calls it and returns when the mount has
ended and everything is in the bucket.  Worker threads (HTTP, invalidation) are started below it, so
a process that goes into the background must fork before (daemon.py).

The order at the end matters.  umount(8) and sync(2) do not wait for us, and the kernel may drop
queued RELEASEs: when the session has ended every inode counts as released, and the process stays
until the last file is in the bucket.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import pyfuse3
import trio

from ossfs import journal, logs, status, utab
from ossfs.access import find_credentials, forget_secrets, keep_acl, store_config, written_as
from ossfs.caches import Caches, open_caches
from ossfs.config import MountConfig
from ossfs.control import ControlTarget, ProgressReport, serve_control
from ossfs.errors import MountError, StoreError
from ossfs.exporter import serve_metrics
from ossfs.fs.ports import FsConfig, Journal, NoJournal
from ossfs.fs.staging import default_directory
from ossfs.fs.tree import Tree, make_tree
from ossfs.fuse.guard import Guard
from ossfs.fuse.kernel import KernelCaches, mount_options, tune
from ossfs.fuse.ops import Operations
from ossfs.metrics import Metrics
from ossfs.mountpoint import FSTYPE, holders_of, mount_at
from ossfs.notify import Notifier, uploads_text
from ossfs.preflight import explain
from ossfs.private import check_private
from ossfs.registry import Registration, Registry
from ossfs.store.base import BucketInfo, ObjectStore
from ossfs.store.credentials import CredentialsProvider
from ossfs.store.oss import open_store

log = logging.getLogger(__name__)


def _is_news(record: logging.LogRecord) -> bool:
    """Nobody waits any more for the answer to a request that an unmount has swept away: that is no error."""
    return "fuse_reply_* failed with No such file or directory" not in record.getMessage()


logging.getLogger("pyfuse3").addFilter(_is_news)

MAX_TASKS = 1024
"""Requests of the kernel that may wait at a time.  When all are taken nothing is read any more, not even
the request that would free what they wait for."""
HELD_SECONDS = 3.0
"""How long after an unmount the kernel's session may go on, when nothing is left to be uploaded."""
PREFLIGHT_TIMEOUT = 20.0
"""Seconds for the one LIST that proves endpoint, credentials, bucket and prefix: a person waits."""
TELL_REPEATS = 5.0
"""Seconds between two looks at what the log has held back; half of the shortest time that it is held."""
UMOUNT_NOFOLLOW = 8
MNT_DETACH = 2


def run(
    config: MountConfig, ready: Callable[[], None], credentials: CredentialsProvider | None = None
) -> int:
    """Mount, call *ready* once it is usable, serve until it is unmounted; the exit status.

    credentials: found by the caller already; sought here otherwise.
    1 when files did not reach the bucket, or when an error ended the mount.  Raises
    UserError with the reason when it cannot be mounted.
    """
    if credentials is None:
        credentials = find_credentials(config)
    forget_secrets()
    registry = Registry()
    where = (config.bucket, config.prefix, config.endpoint_url)
    left = registry.wait_for_predecessors(*where, report=log.info)
    if left:
        raise MountError(
            f"process {left[0].pid} still uploads files of an earlier mount of {config.source}; wait for it, "
            "or end it and lose them"
        )
    with registry.register(
        bucket=config.bucket, prefix=config.prefix, endpoint=config.endpoint_url, mountpoint=config.mountpoint
    ) as registration:
        mounted = False

        def tell() -> None:
            nonlocal mounted
            mounted = True
            ready()

        try:
            failed = trio.run(_Mount(config, credentials, registration, tell).run)
        except Exception as error:
            if not mounted:
                raise  # who waits for the mount is told
            cause = _cause(error)
            if isinstance(cause, MemoryError) or getattr(cause, "errno", None) == errno.ENOMEM:
                log.critical("the mount has ended: this process gets no more memory")
            else:
                log.critical("the mount has ended: %s", cause, exc_info=error)
            return 1
        finally:
            logs.tell_repeats(everything=True)
    return 1 if failed else 0


def _cause(error: BaseException) -> BaseException:
    """The first error in a group of groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def clean_up(config: MountConfig, *, older_than: float, dry_run: bool, report: Callable[[str], None]) -> int:
    """Remove what dead mounts of this host left in the bucket: see journal.sweep.

    Raises UserError when the bucket cannot be reached.
    """
    check_private(config.state_dir, "state_dir")
    credentials = find_credentials(config)

    async def work() -> int:
        async with open_store(store_config(config), credentials, Metrics()) as store:
            await _preflight(store, config)
            return await journal.sweep(
                store,
                config.state_dir,
                config.bucket,
                config.endpoint_url,
                older_than=older_than,
                dry_run=dry_run,
                report=report,
            )

    return trio.run(work)


async def _preflight(store: ObjectStore, config: MountConfig) -> None:
    """One LIST proves endpoint, credentials, bucket and prefix."""
    prefix = f"{config.prefix}/" if config.prefix else ""
    once: ObjectStore = getattr(store, "once", store)
    try:
        with trio.move_on_after(PREFLIGHT_TIMEOUT) as scope:
            await once.list(prefix, delimiter="/", max_keys=1)
    except StoreError as error:
        if not error.retryable or error.errno == errno.ETIMEDOUT or error.status == 0:
            raise explain(error, config) from error
        try:
            await store.list(prefix, delimiter="/", max_keys=1)
        except StoreError as again:
            raise explain(again, config) from again
    if scope.cancelled_caught:
        raise MountError(
            f"cannot mount {config.source}: {config.endpoint_url} did not answer within "
            f"{PREFLIGHT_TIMEOUT:.0f} seconds; check endpoint, region and the network"
        )


class _Mount:
    def __init__(
        self,
        config: MountConfig,
        credentials: CredentialsProvider,
        registration: Registration,
        ready: Callable[[], None],
    ) -> None:
        self.config = config
        self.credentials = credentials
        self.registration = registration
        self.ready = ready
        self.notifier = Notifier.from_environment(os.environ)
        self.metrics = Metrics()
        self.metrics_url: str | None = None
        """Where they are served for Prometheus."""
        self.detached = False
        """Is it unmounted already, while programs still hold files of it?"""

    async def run(self) -> list[str]:
        async with open_store(store_config(self.config), self.credentials, self.metrics) as store:
            await _preflight(store, self.config)
            bucket = await self._bucket(store)
            self._tell_of_archive()
            record = self._journal()
            try:
                async with open_caches(self.config, store, self.metrics) as caches:
                    return await self._serve(store, record, bucket, caches)
            finally:
                if isinstance(record, journal.FileJournal):
                    record.close()

    async def _bucket(self, store: ObjectStore) -> BucketInfo | None:
        """What the bucket says of itself; None when these keys may not ask."""
        try:
            info = await store.bucket_info()
        except StoreError as error:
            log.info("the bucket's versioning is not known (%s); taken as never enabled", error)
            return None
        if info.versioning:
            log.warning(
                "versioning of %s is %s: the service ignores forbid-overwrite there, so two machines that "
                "create one file at the same moment are told apart only by a look beforehand",
                info.name,
                info.versioning,
            )
            if self.config.excl == "strict":
                raise MountError(
                    f"excl=strict cannot be kept on {info.name}, whose versioning is {info.versioning}; "
                    "accepted there: excl=local"
                )
        return info

    def _tell_of_archive(self) -> None:
        if "Archive" in (self.config.storage_class or ""):
            log.warning(
                "storage_class=%s: what is written can be neither read, changed nor renamed until it is "
                "restored; programs that write under another name first will fail",
                self.config.storage_class,
            )

    def _journal(self) -> Journal:
        try:
            return journal.FileJournal(
                self.config.state_dir,
                self.registration.mount_id,
                self.config.bucket,
                self.config.endpoint_url,
            )
        except OSError as error:
            log.warning(
                "no journal in %s (%s): uploads that a crash leaves are not cleaned up by themselves",
                self.config.state_dir,
                error.strerror,
            )
            return NoJournal()

    async def _serve(
        self,
        store: ObjectStore,
        record: Journal,
        bucket: BucketInfo | None,
        caches: Caches,
    ) -> list[str]:
        config = self.config
        kernel = KernelCaches()
        async with trio.open_nursery() as jobs:
            tree = make_tree(
                store,
                self._fs_config(bucket),
                jobs,
                kernel,
                record,
                self.metrics,
                disk=caches.blocks,
                attr_store=caches.attrs,
                writeback=caches.writes,
            )
            async with serve_metrics(config.metrics, lambda: self.document(tree)) as self.metrics_url:
                failed = await self._with_kernel(store, tree, kernel)
            jobs.cancel_scope.cancel()
        return failed

    async def _with_kernel(self, store: ObjectStore, tree: Tree, kernel: KernelCaches) -> list[str]:
        config = self.config
        guard = Guard(config.op_timeout, self.metrics, self._progress)
        options = mount_options(
            config.fsname,
            allow_other=config.allow_other,
            read_only=config.ro,
            flags=config.mount_flags,
        )
        await trio.to_thread.run_sync(utab.add, config.fsname, config.mountpoint)
        try:
            pyfuse3.init(Operations(tree, guard), config.mountpoint, options)
        except RuntimeError as error:
            await trio.to_thread.run_sync(utab.remove, config.mountpoint)
            raise MountError(
                f"cannot mount at {config.mountpoint}: {error}; see what fusermount3 said above"
            ) from error
        try:
            return await self._session(store, tree, kernel, guard)
        finally:
            with trio.CancelScope(shield=True):
                pyfuse3.close(unmount=not self.detached)

    def document(self, tree: Tree) -> dict[str, Any]:
        """What the mount says of itself."""
        record = self.registration.record
        return status.document(
            self.config,
            tree,
            self.metrics,
            state=record.state,
            started=record.started,
            metrics_url=self.metrics_url,
        )

    def _fs_config(self, bucket: BucketInfo | None) -> FsConfig:
        config = self.config
        return FsConfig(
            prefix=f"{config.prefix}/" if config.prefix else "",
            mount_id=self.registration.mount_id,
            hostname=socket.gethostname(),
            ttl=config.ttl,
            negative_ttl=config.negative_ttl,
            chunk_size=config.chunk_size,
            memory=config.memory,
            uid=config.owner,
            gid=config.group,
            file_mode=config.default_file_mode,
            dir_mode=config.default_dir_mode,
            read_only=config.ro,
            attrs_list=config.attrs == "list",
            ignore_attrs=config.ignore_attrs,
            exact_types=config.dtype == "exact",
            flush_always=config.flush == "always",
            delete_sync=config.delete == "sync",
            excl_strict=config.excl == "strict",
            op_timeout=config.op_timeout,
            versioned=bucket is not None and bool(bucket.versioning),
            written=written_as(config),
            keep_acl=keep_acl(config, bucket),
            connections=config.connections,
            staging_dir=default_directory(),
        )

    def _progress(self) -> int:
        return sum(v for k, v in self.metrics.snapshot().items() if k.startswith("bytes_"))

    async def _session(self, store: ObjectStore, tree: Tree, kernel: KernelCaches, guard: Guard) -> list[str]:
        config = self.config
        kernel.start()
        target = _Target(self, tree)

        async with trio.open_nursery() as around:
            around.start_soon(guard.watch)
            around.start_soon(self._sweep, store)
            around.start_soon(self._signals, tree)
            around.start_soon(_tell_repeats)
            around.start_soon(self.notifier.run, lambda: self._status_line(tree))
            await around.start(serve_control, self.registration.socket, target)

            async def serve() -> None:
                await pyfuse3.main(min_tasks=4, max_tasks=MAX_TASKS)
                target.ended.set()

            around.start_soon(serve)
            await trio.to_thread.run_sync(tune, config.mountpoint)
            self.registration.set_state("mounted")
            log.info("%s is mounted at %s", config.source, config.mountpoint)
            self.ready()
            self.notifier.ready(self._status_line(tree))
            await target.ended.wait()
            await trio.to_thread.run_sync(utab.remove, config.mountpoint)
            self.registration.set_state("draining")
            self.notifier.stopping(self._status_line(tree))
            pending = len(tree.dirty_writers())
            if pending:
                log.info("%s is unmounted; %d files are still to be uploaded", config.mountpoint, pending)
            failed = await tree.drain()
            target.failed = failed
            target.drained.set()
            await target.answered()
            around.cancel_scope.cancel()
        kernel.stop()
        for name in failed:
            log.error("%s did not reach the bucket", name)
        kept = tree.ctx.writeback.pending[0] if tree.ctx.writeback is not None else 0
        if kept:
            log.error("%d files are safe in %s; the next mount uploads them", kept, config.cache_dir)
        log.info("%s has ended", config.source)
        return failed

    def _status_line(self, tree: Tree) -> str:
        """For `systemctl status`."""
        writers = tree.dirty_writers()
        text = uploads_text(len(writers), sum(writer.pending_bytes for writer in writers))
        return f"{self.config.source} at {self.config.mountpoint}: {text}"

    async def _sweep(self, store: ObjectStore) -> None:
        try:
            await journal.sweep(store, self.config.state_dir, self.config.bucket, self.config.endpoint_url)
        except OSError as error:
            log.warning("leftovers of dead mounts: %s", error)

    async def _signals(self, tree: Tree) -> None:
        with trio.open_signal_receiver(
            signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP
        ) as received:
            async for number in received:
                if number == signal.SIGHUP:
                    # logrotate's: the handler opens the file anew by itself.  A terminal that hangs up
                    # sends it too, and must not end a mount that has files to upload.
                    log.info("SIGHUP: the log goes on, in a new file when the old one was moved")
                    continue
                if number == signal.SIGUSR1:
                    logs.toggle_debug()
                    continue
                self.notifier.stopping(self._status_line(tree))
                log.info("%s: unmounting", signal.Signals(number).name)
                await tree.flush_all()
                try:
                    await trio.to_thread.run_sync(_unmount, self.config.mountpoint, False)
                except OSError as error:
                    log.warning(
                        "%s: %s; programs that still use it lose it", self.config.mountpoint, error.strerror
                    )
                    try:
                        await trio.to_thread.run_sync(_unmount, self.config.mountpoint, True)
                        self.detached = True
                    except OSError as again:
                        log.error("%s: %s", self.config.mountpoint, again.strerror)
                    pyfuse3.terminate()


async def _tell_repeats() -> None:
    """Write how often events of the log have come again, at their times."""
    while True:
        await trio.sleep(TELL_REPEATS)
        logs.tell_repeats()


class _Target(ControlTarget):
    """What the control socket asks of a mount."""

    def __init__(self, mount: _Mount, tree: Tree) -> None:
        self._mount = mount
        self._tree = tree
        self.ended = trio.Event()
        """The kernel's session is over."""
        self._device = ""
        self.drained = trio.Event()
        self.failed: list[str] = []
        self._unmounting = 0
        self._idle = trio.Event()
        self._idle.set()

    async def answered(self) -> None:
        """Until everybody who asked for the unmount knows how it ended."""
        while self._unmounting:
            await self._idle.wait()

    def status(self) -> dict[str, object]:
        """See ControlTarget."""
        return self._mount.document(self._tree)

    async def flush(self, progress: ProgressReport) -> list[str]:
        """See ControlTarget."""
        failed: list[str] = []

        async def work(scope: trio.CancelScope) -> None:
            failed.extend(await self._tree.flush_all())
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, nursery.cancel_scope)
            nursery.start_soon(self._tell, progress)
        return failed

    async def url(self, path: str, method: str, expires: int) -> str:
        """See ControlTarget."""
        prefix = self._mount.config.prefix
        key = f"{prefix}/{path}" if prefix else path
        return await self._tree.ctx.store.sign_url(method, key, expires)

    async def unmount(self, progress: ProgressReport) -> list[str]:
        """See ControlTarget."""
        if self._unmounting == 0:
            self._idle = trio.Event()
        self._unmounting += 1
        try:
            failed = await self.flush(progress)
            if not self.drained.is_set():
                place = self._mount.config.mountpoint
                mounted = await trio.to_thread.run_sync(mount_at, place)
                if mounted is not None and mounted.fstype == FSTYPE:
                    await trio.to_thread.run_sync(_unmount, place, False)
                    self._device = mounted.device
                await self._let_go(place)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._tell, progress)
                    await self.drained.wait()
                    nursery.cancel_scope.cancel()
            return sorted({*failed, *self.failed})
        finally:
            self._unmounting -= 1
            if self._unmounting == 0:
                self._idle.set()

    async def _let_go(self, place: str) -> None:
        """Wait for the end of the session; MountError when somebody holds it whom an unmount does not reach.

        A mount namespace is made with all mounts that there are, and keeps them when they go here.
        """
        while not self.ended.is_set():
            with trio.move_on_after(HELD_SECONDS):
                await self.ended.wait()
            if not self.ended.is_set() and not self._tree.dirty_writers():
                holders = await trio.to_thread.run_sync(holders_of, self._device)
                raise MountError(
                    f"{place} is unmounted here and everything is in the bucket, but another mount namespace "
                    f"({holders[0] if holders else 'a container, or unshare -m'}) still has it; "
                    "it ends with that"
                )

    async def _tell(self, progress: ProgressReport) -> None:
        sent = self._mount.metrics.snapshot().get("bytes_sent", 0)
        while True:
            writers = self._tree.dirty_writers()
            done = self._mount.metrics.snapshot().get("bytes_sent", 0) - sent
            left = sum(w.pending_bytes for w in writers)
            await progress({"files": len(writers), "bytes_done": done, "bytes_total": done + left})
            await trio.sleep(0.25)


def _unmount(mountpoint: str, lazily: bool) -> None:
    """Blocking.  Raises OSError: EBUSY when it is in use and not *lazily*; `strerror` says why.

    For root it is the system call itself: umount(8) might call a helper that asks us to unmount.
    """
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        flags = UMOUNT_NOFOLLOW | (MNT_DETACH if lazily else 0)
        if libc.umount2(os.fsencode(mountpoint), flags) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return
    command = ["fusermount3", "-u", *(["-z"] if lazily else []), "--", mountpoint]
    done = subprocess.run(  # noqa: S603 # nosec B603 # a fixed program, and a path after "--"
        command, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode != 0:
        said = " ".join(os.fsdecode(done.stderr).split())
        # Its exit status is always 1, and it speaks no other language than C's.
        code = errno.EBUSY if said.endswith(os.strerror(errno.EBUSY)) else errno.EPERM
        raise OSError(code, said or "fusermount3 has failed, and does not say why")
