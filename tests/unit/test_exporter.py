"""What Prometheus gets: names and numbers, and that no scraper can do harm."""

from __future__ import annotations

import re
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from ossfs import exporter
from ossfs.errors import ConfigError, MountError
from ossfs.exporter import families, serve_metrics
from tests.unit.test_status_command import shown

PAGE = Path(__file__).parents[2] / "docs" / "status.md"
DISK = {"hits": 1, "misses": 2, "read_bytes": 3, "used_bytes": 4, "limit_bytes": 5}


def document(**changes: Any) -> dict[str, Any]:
    """One in which nothing is null."""
    one = shown(latency_bounds_seconds=[0.1, 1.0], last_error={"at": 1_700_000_001.0})
    one["requests"]["PutObject"]["latency_counts"] = [2, 1, 1]
    one["cache"]["disk"] = DISK
    one["cost"] = {"put_requests": 6, "get_requests": 7, "estimate": 0.5}
    one["writeback"] = {"files": 1, "bytes": 2, "limit_bytes": 3}
    return one | changes


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as answer:
        text: str = answer.read().decode()
    return text


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (one.name, *(value for _, value in sorted(one.labels.items(), reverse=True))): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


async def test_a_scrape() -> None:
    with trio.fail_after(30):
        async with serve_metrics("127.0.0.1:0", document) as url:
            assert url is not None and re.fullmatch(r"http://127\.0\.0\.1:[1-9][0-9]*/metrics", url)
            found = samples(await trio.to_thread.run_sync(fetch, url))
    assert found["ossfs_sent_bytes_total",] == 3 << 20
    assert found["ossfs_requests_total", "PutObject"] == 4
    buckets = [
        found["ossfs_request_duration_seconds_bucket", "PutObject", le] for le in ("0.1", "1.0", "+Inf")
    ]
    assert buckets == [2, 3, 4], "each bucket has all below it"
    assert found["ossfs_errors_total", "Throttled"] == 2
    assert found["ossfs_cache_misses_total", "disk"] == 2
    assert found["ossfs_last_error_timestamp_seconds",] == 1_700_000_001
    assert any(name[0] == "process_cpu_seconds_total" for name in found)


async def test_six_is_as_good_as_four() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with trio.fail_after(30):
        async with serve_metrics("[::1]:0", document) as url:
            assert url is not None
            assert "ossfs_mount_info" in await trio.to_thread.run_sync(fetch, url)


async def test_a_document_that_fails_costs_its_scrape_only() -> None:
    answers: list[Any] = [ZeroDivisionError("no"), document()]

    def ask() -> dict[str, Any]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    with trio.fail_after(30):
        async with serve_metrics("127.0.0.1:0", ask) as url:
            assert url is not None
            with pytest.raises((urllib.error.HTTPError, ConnectionError)) as caught:
                await trio.to_thread.run_sync(fetch, url)
            if isinstance(caught.value, urllib.error.HTTPError):
                assert caught.value.code == 500
                caught.value.close()
            assert "ossfs_mount_info" in await trio.to_thread.run_sync(fetch, url)


async def test_who_says_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter._Handler, "timeout", 0.1)
    with trio.fail_after(30):
        async with serve_metrics("127.0.0.1:0", document) as url:
            assert url is not None
            port = int(url.split(":")[2].split("/")[0])
            with socket.create_connection(("127.0.0.1", port), timeout=20):
                assert "ossfs_mount_info" in await trio.to_thread.run_sync(fetch, url)


async def test_nothing_is_served_unasked() -> None:
    async with serve_metrics(None, document) as url:
        assert url is None


async def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(
        ConfigError, match=r"needs the package prometheus_client.*pip install 'ossfs\[metrics\]'"
    ):
        async with serve_metrics("127.0.0.1:0", document):
            pass


@pytest.mark.parametrize("address", ["203.0.113.1:0", "no-such-host.invalid:0"])
async def test_addresses_of_others_are_refused(address: str) -> None:
    with pytest.raises(MountError, match=f"metrics={re.escape(address)} cannot be listened at"):
        async with serve_metrics(address, document):
            pass


def exported() -> dict[str, str]:
    """The names that Prometheus sees, and their types."""
    found = {}
    for family in families(document()):
        name = family.name
        ending = {"counter": "_total", "info": "_info"}.get(family.type, "")
        found[name + ending] = "gauge" if family.type == "info" else family.type
    return found


def test_the_page_lists_all_metrics() -> None:
    rows = re.findall(r"^\| `(ossfs_\w+)` \| (\w+) \|", PAGE.read_text(), re.MULTILINE)
    assert dict(rows) == exported() and len(rows) == len(exported())


def test_names_follow_the_conventions() -> None:
    for name, kind in exported().items():
        assert re.fullmatch(r"ossfs_[a-z]+(_[a-z]+)*", name)
        assert name.endswith("_total") == (kind == "counter")
        if kind == "histogram":
            assert name.endswith("_seconds")


def test_what_is_null_is_left_out() -> None:
    one = document(last_error=None)
    one["cost"]["estimate"] = None
    one["cache"]["disk"] = None
    names = {family.name for family in families(one)}
    assert not any("disk" in name or "last_error" in name or "cost" in name for name in names)
