"""What a mount says of itself: the document of `ossfs status --json`, and of Prometheus.

Threading: trio thread only; nothing here waits.

docs/status.md describes the document, and a test holds the two together.  Within one schema number keys are
added and never renamed or removed, but for `counters`, whose names follow the code.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import Any, Final

from ossfs import __version__
from ossfs.config import MountConfig
from ossfs.fs.tree import Tree
from ossfs.fs.writer import Writer
from ossfs.metrics import BOUNDS, Metrics, quantile
from ossfs.prices import count_classes, estimate, price_class

SCHEMA: Final = 1
MOST_FILES: Final = 100
"""Files being written that are listed one by one, those with most to send first: an answer stays small."""


def document(
    config: MountConfig,
    tree: Tree,
    metrics: Metrics,
    *,
    state: str,
    started: float,
    metrics_url: str | None = None,
) -> dict[str, Any]:
    """All numbers at one moment.  started: unix seconds.  metrics_url: where they are for Prometheus."""
    counters = metrics.snapshot()
    budget = tree.ctx.budget
    return {
        "schema": SCHEMA,
        "version": __version__,
        "pid": os.getpid(),
        "source": config.source,
        "endpoint": config.endpoint_url,
        "mountpoint": config.mountpoint,
        "state": state,
        "started": started,
        "uptime_seconds": max(0.0, time.time() - started),
        "transfer": {
            "received_bytes": counters.get("bytes_received", 0),
            "sent_bytes": counters.get("bytes_sent", 0),
            "read_bytes": counters.get("programs.bytes_read", 0),
            "written_bytes": counters.get("programs.bytes_written", 0),
        },
        "latency_bounds_seconds": list(BOUNDS),
        "requests": _requests(counters, metrics),
        "errors": _below("errors", counters),
        "retries": counters.get("retries", 0),
        "last_error": asdict(metrics.last_failure) if metrics.last_failure is not None else None,
        "cache": {
            "memory": _hits(counters, "reads.at_once", "reads.waited"),
            "attributes": _hits(counters, "attrs.hits", "attrs.misses"),
            "disk": _disk(config, counters),
        },
        "writeback": _writeback(config, tree),
        "memory": {
            "used_bytes": budget.used,
            "peak_bytes": budget.peak,
            "limit_bytes": budget.limit,
        },
        "files": _files(tree),
        "cost": _cost(config, metrics),
        "inodes": len(tree.ctx.inodes),
        "metrics_url": metrics_url,
        "counters": counters,
    }


def _below(group: str, counters: dict[str, int]) -> dict[str, int]:
    """The counters of a group, by their names in it."""
    start = f"{group}."
    return {name.removeprefix(start): n for name, n in sorted(counters.items()) if name.startswith(start)}


def _hits(counters: dict[str, int], hits: str, misses: str) -> dict[str, int]:
    return {"hits": counters.get(hits, 0), "misses": counters.get(misses, 0)}


def _disk(config: MountConfig, counters: dict[str, int]) -> dict[str, int] | None:
    if config.cache_dir is None:
        return None
    return {
        **_hits(counters, "cache.hits", "cache.misses"),
        "read_bytes": counters.get("bytes_from_cache", 0),
        "used_bytes": counters.get("cache.bytes", 0),
        "limit_bytes": config.cache_size,
    }


def _writeback(config: MountConfig, tree: Tree) -> dict[str, Any] | None:
    log = tree.ctx.writeback
    if log is None:
        return None
    files, size = log.pending
    failing = sorted(
        (tree.ctx.inodes.key(node), why) for node, why in tree.ctx.failing.items() if node.parent
    )
    return {
        "files": files,
        "bytes": size,
        "limit_bytes": config.writeback_size,
        "set_aside": log.set_aside,
        "failing_files": len(failing),
        "failing": [{"key": key, "error": why} for key, why in failing[:MOST_FILES]],
    }


def _requests(counters: dict[str, int], metrics: Metrics) -> dict[str, dict[str, Any]]:
    shown: dict[str, dict[str, Any]] = {}
    for operation, sent in _below("requests", counters).items():
        latency = metrics.latencies.get(operation)
        counts = list(latency.counts) if latency is not None else [0] * (len(BOUNDS) + 1)
        shown[operation] = {
            "class": price_class(operation),
            "sent": sent,
            "finished": sum(counts),
            "answered": latency.answered if latency is not None else 0,
            "seconds": latency.total if latency is not None else 0.0,
            "p50_seconds": quantile(counts, 0.5),
            "p90_seconds": quantile(counts, 0.9),
            "p99_seconds": quantile(counts, 0.99),
            "latency_counts": counts,
        }
    return shown


def _cost(config: MountConfig, metrics: Metrics) -> dict[str, Any]:
    counts = count_classes({name: latency.answered for name, latency in metrics.latencies.items()})
    return {
        "put_requests": counts["put"],
        "get_requests": counts["get"],
        "put_price": config.price_put,
        "get_price": config.price_get,
        "estimate": estimate(counts, {"put": config.price_put, "get": config.price_get}),
    }


def _files(tree: Tree) -> dict[str, Any]:
    writers = sorted(tree.dirty_writers(), key=lambda writer: -writer.pending_bytes)
    return {
        "open": tree.open_files,
        "pending": len(writers),
        "pending_bytes": sum(writer.pending_bytes for writer in writers),
        "uploads": sum(writer.sender.upload is not None for writer in writers),
        "writing": [_file(tree, writer) for writer in writers[:MOST_FILES]],
    }


def _file(tree: Tree, writer: Writer) -> dict[str, Any]:
    upload = writer.sender.upload
    return {
        "key": upload.key if upload is not None else tree.ctx.inodes.key(writer.node),
        "size_bytes": writer.content.size,
        "uploaded_bytes": sum(part.size for part in upload.results.values()) if upload is not None else 0,
        "held_bytes": writer.pending_bytes,
        "parts": len(upload.results) if upload is not None else 0,
        "parts_in_flight": writer.sender.in_flight,
    }
