"""The numbers of status.py for Prometheus, over HTTP (`-o metrics=127.0.0.1:9105`).

Threading: one thread of its own serves one scrape at a time; it asks the trio loop for the document, and
turns it into text itself.  What goes wrong there is logged and costs that one scrape: it can neither block
the mount nor end it.  A client that says nothing is let go after `PATIENCE`.

prometheus_client is imported when the option asks for it.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import trio

from ossfs.errors import ConfigError, MountError

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import CollectorRegistry

log = logging.getLogger(__name__)

PATIENCE: Final = 5.0
"""Seconds that a client may take for its request; scrapes come one after another."""
STOP: Final = 2.0
"""Seconds that the end of a mount waits for a scrape that is under way."""

Document = dict[str, Any]

COUNTERS: Final = {
    "ossfs_received_bytes": ("bodies of good answers, on the wire", "transfer.received_bytes"),
    "ossfs_sent_bytes": ("bodies of requests, on the wire", "transfer.sent_bytes"),
    "ossfs_read_bytes": ("what programs read, page cache apart", "transfer.read_bytes"),
    "ossfs_written_bytes": ("what programs wrote", "transfer.written_bytes"),
    "ossfs_retries": ("requests that were sent again after a failure", "retries"),
    "ossfs_request_cost_estimate": ("what the requests cost by the prices given", "cost.estimate"),
    "ossfs_disk_cache_read_bytes": ("read from the cache on disk", "cache.disk.read_bytes"),
}
"""Counters, which Prometheus shows with _total: what each says, and where the document has it."""
GAUGES: Final = {
    "ossfs_start_time_seconds": ("when the mount began, in unix seconds", "started"),
    "ossfs_memory_used_bytes": ("used of the budget of all buffers", "memory.used_bytes"),
    "ossfs_memory_peak_bytes": ("the most that was used so far", "memory.peak_bytes"),
    "ossfs_memory_limit_bytes": ("the budget of all buffers", "memory.limit_bytes"),
    "ossfs_disk_cache_used_bytes": ("what the cache on disk holds", "cache.disk.used_bytes"),
    "ossfs_disk_cache_limit_bytes": ("what it may hold", "cache.disk.limit_bytes"),
    "ossfs_writeback_files": ("files that only the local disk has yet", "writeback.files"),
    "ossfs_writeback_bytes": ("what they hold", "writeback.bytes"),
    "ossfs_writeback_limit_bytes": ("what they may hold", "writeback.limit_bytes"),
    "ossfs_open_files": ("open files", "files.open"),
    "ossfs_pending_files": ("files with something that the bucket has not yet", "files.pending"),
    "ossfs_pending_bytes": ("what of them is in memory", "files.pending_bytes"),
    "ossfs_uploads": ("multipart uploads of files being written", "files.uploads"),
    "ossfs_inodes": ("files and directories that are known", "inodes"),
    "ossfs_last_error_timestamp_seconds": ("when the last error that is news came", "last_error.at"),
}


@asynccontextmanager
async def serve_metrics(address: str | None, ask: Callable[[], Document]) -> AsyncIterator[str | None]:
    """Serve what *ask* says, called in the trio thread, at HOST:PORT; the URL.  None: nothing is served.

    Raises ConfigError without prometheus_client, MountError when the address cannot be listened at.
    """
    if address is None:
        yield None
        return
    server = _listen(address, _registry(ask, trio.lowlevel.current_trio_token()))
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    host = address.rpartition(":")[0]
    url = f"http://{host}:{server.server_port}/metrics"
    log.info("metrics are served at %s", url)
    try:
        yield url
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP):
            # A scrape under way still asks this loop, which therefore must not stand still here.
            await trio.to_thread.run_sync(server.shutdown, abandon_on_cancel=True)
        server.server_close()


def _registry(ask: Callable[[], Document], token: trio.lowlevel.TrioToken) -> CollectorRegistry:
    try:
        from prometheus_client import CollectorRegistry, ProcessCollector
    except ImportError:
        raise ConfigError(
            "metrics needs the package prometheus_client, which is not installed; install it with "
            "pip install 'ossfs[metrics]'"
        ) from None
    registry = CollectorRegistry(auto_describe=False)

    class Collector:
        """Made anew at each scrape, by what prometheus_client calls a custom collector."""

        def collect(self) -> Iterator[Metric]:
            """In the thread of the server."""
            document: Document = trio.from_thread.run_sync(ask, trio_token=token)
            yield from families(document)

    registry.register(Collector())  # collect() is all that it needs
    ProcessCollector(registry=registry)
    return registry


def families(document: Document) -> Iterator[Metric]:
    """A document of status.py as what Prometheus knows."""
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        InfoMetricFamily,
    )

    about = {name: str(document[name]) for name in ("version", "source", "endpoint", "mountpoint", "state")}
    yield InfoMetricFamily("ossfs_mount", "which mount this is", value=about)
    for name, (text, path) in COUNTERS.items():
        value = _find(document, path)
        if value is not None:
            yield CounterMetricFamily(name, text, value=value)
    for name, (text, path) in GAUGES.items():
        value = _find(document, path)
        if value is not None:
            yield GaugeMetricFamily(name, text, value=value)
    for name, text, key in (
        ("ossfs_requests", "requests to the service that were begun", "sent"),
        ("ossfs_answers", "requests that the service answered with success", "answered"),
    ):
        family = CounterMetricFamily(name, text, labels=["operation"])
        for operation, facts in document["requests"].items():
            family.add_metric([operation], facts[key])
        yield family
    durations = HistogramMetricFamily(
        "ossfs_request_duration_seconds", "time of a request in its thread", labels=["operation"]
    )
    for operation, facts in document["requests"].items():
        buckets = _cumulated(document["latency_bounds_seconds"], facts["latency_counts"])
        durations.add_metric([operation], buckets, sum_value=facts["seconds"])
    yield durations
    errors = CounterMetricFamily("ossfs_errors", "failed or refused requests", labels=["class"])
    for kind, count in document["errors"].items():
        errors.add_metric([kind], count)
    yield errors
    charged = CounterMetricFamily(
        "ossfs_charged_requests", "answers of success by price class", labels=["class"]
    )
    for kind in ("put", "get"):
        charged.add_metric([kind], document["cost"][f"{kind}_requests"])
    yield charged
    for key, text in (("hits", "what the cache had"), ("misses", "what it had not")):
        family = CounterMetricFamily(f"ossfs_cache_{key}", text, labels=["cache"])
        for cache, facts in document["cache"].items():
            if facts is not None:
                family.add_metric([cache], facts[key])
        yield family


def _find(document: Document, path: str) -> float | None:
    """What the document has at *path*; None when that part is null, as without a cache on disk."""
    found: Any = document
    for name in path.split("."):
        if found is None:
            return None
        found = found[name]
    return None if found is None else float(found)


def _cumulated(bounds: list[float], counts: list[int]) -> list[tuple[str, float]]:
    """Prometheus' buckets, each of which has all below it, too."""
    total = 0
    buckets = []
    for bound, count in zip([*map(str, bounds), "+Inf"], counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets


# --------------------------------------------------------------------------------------------------
# HTTP.


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE

    def log_message(self, format: str, *args: object) -> None:
        """One scrape is no news."""
        log.debug("metrics: %s", format % args)


class _Server(WSGIServer):
    def server_bind(self) -> None:
        """As HTTPServer does, but without the name of the host, whose look-up may take long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """Of a client that went away, say: its scrape is lost, and nothing else."""
        log.debug("metrics: a scrape failed", exc_info=True)


class _Server6(_Server):
    address_family = socket.AF_INET6


def _listen(address: str, registry: CollectorRegistry) -> _Server:
    from prometheus_client import make_wsgi_app

    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
        kind = _Server6 if family == socket.AF_INET6 else _Server
        return make_server(
            host, int(port), make_wsgi_app(registry), server_class=kind, handler_class=_Handler
        )
    except OSError as error:  # gaierror is one
        raise MountError(
            f"metrics={address} cannot be listened at: {error.strerror or error}; accepted: an address of "
            "this machine with a free port, as in 127.0.0.1:9105, or port 0 for any"
        ) from None
