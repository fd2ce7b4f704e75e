"""`ossfs status` of real mounts: its numbers are those of the service and of the programs."""

from __future__ import annotations

import os
import socket
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.mounts import BUCKET, MIB, Mount, Room, Service, ossfs_command, run


@pytest.fixture
def mounted(service: Service, room: Room) -> Iterator[Mount]:
    mount = Mount(service, room, source=f"{BUCKET}:/status", options={"chunk_size": "5MB"})
    service.stats(reset=True)
    mount.mount()
    yield mount
    mount.close()


def test_the_numbers_are_those_of_the_service(mounted: Mount, service: Service) -> None:
    data = os.urandom(6 * MIB)
    (mounted.path / "f").write_bytes(data)
    mounted.umount()
    mounted.mount()  # so that reading asks the service
    service.stats(reset=True)
    before = mounted.status()
    assert (mounted.path / "f").read_bytes() == data
    (mounted.path / "g").write_bytes(data)
    assert not (mounted.path / "none").exists()
    shown = mounted.status()
    moved = {name: shown["transfer"][name] - before["transfer"][name] for name in shown["transfer"]}
    assert moved["read_bytes"] == moved["written_bytes"] == len(data)
    assert moved["sent_bytes"] >= len(data) and moved["received_bytes"] >= len(data)
    asked = {"GetObject": "Get", "UploadPart": "UploadPart", "CompleteMultipartUpload": "Complete"}
    for operation, theirs in asked.items():
        facts = shown["requests"][operation]
        done = facts["sent"] - before["requests"].get(operation, {"sent": 0})["sent"]
        assert done == service.stats()["requests"][theirs], operation
        assert facts["answered"] == facts["finished"] == sum(facts["latency_counts"])
        assert 0 < facts["p50_seconds"] <= facts["p90_seconds"] <= facts["p99_seconds"]
        assert facts["seconds"] > 0
    assert shown["files"]["writing"] == [] and shown["last_error"] is None
    assert shown["memory"]["peak_bytes"] >= shown["memory"]["used_bytes"]


def test_the_last_error_has_key_and_request_id(mounted: Mount, service: Service) -> None:
    mounted.allowed += ["PutObject", "fuse.flush", "refused"]
    service.faults({"op": "Put", "key": "status/refused", "action": "status", "status": 403, "count": -1})
    with pytest.raises(PermissionError):
        (mounted.path / "refused").write_bytes(b"x")
    service.faults()
    last = mounted.status()["last_error"]
    assert (last["kind"], last["operation"], last["key"]) == ("AccessDenied", "PutObject", "status/refused")
    assert last["request_id"] and last["request_id"] in last["text"]
    said = " ".join(run(*ossfs_command(), "status", mounted.path, env=mounted.environment).split())
    assert "errors AccessDenied" in said and "ago (" in said and last["request_id"] in said


def test_a_file_that_is_being_written(mounted: Mount) -> None:
    """Asked without a child process: each that inherits the descriptor closes it, and that commits."""
    from ossfs.control import request_status
    from ossfs.registry import Registry

    registries = [Registry(mounted.environment["OSSFS_RUNTIME_DIR"])]
    with open(mounted.path / "film", "wb", buffering=0) as file:
        for _ in range(12):
            file.write(bytes(MIB - 1) + b"x")
        (one,) = request_status(str(mounted.path), registries)["files"]["writing"]
        assert (one["key"], one["size_bytes"]) == ("status/film", 12 * MIB)
        assert one["parts"] + one["parts_in_flight"] == 2
        assert one["held_bytes"] > 0
    assert mounted.status()["files"]["writing"] == []


def test_scraped_counters_are_those_of_status(service: Service, room: Room) -> None:
    mount = Mount(service, room, source=f"{BUCKET}:/scraped", options={"metrics": "127.0.0.1:0"})
    mount.mount()
    try:
        (mount.path / "f").write_bytes(os.urandom(3 * MIB))
        (mount.path / "f").read_bytes()
        assert not (mount.path / "none").exists()
        url = mount.status()["metrics_url"]
        assert f"metrics are served at {url}" in mount.log()
        with urllib.request.urlopen(url, timeout=30) as answer:
            scraped = {
                (
                    sample.name,
                    *(value for _, value in sorted(sample.labels.items(), reverse=True)),
                ): sample.value
                for family in text_string_to_metric_families(answer.read().decode())
                for sample in family.samples
            }
        shown = mount.status()
        for name in ("received", "sent", "read", "written"):
            assert scraped[f"ossfs_{name}_bytes_total",] == shown["transfer"][f"{name}_bytes"], name
        assert shown["requests"]
        for operation, facts in shown["requests"].items():
            assert scraped["ossfs_requests_total", operation] == facts["sent"]
            assert scraped["ossfs_answers_total", operation] == facts["answered"]
            assert scraped["ossfs_request_duration_seconds_count", operation] == facts["finished"]
            assert scraped["ossfs_request_duration_seconds_sum", operation] == pytest.approx(facts["seconds"])
            assert scraped["ossfs_request_duration_seconds_bucket", operation, "+Inf"] == facts["finished"]
        for kind, count in shown["errors"].items():
            assert scraped["ossfs_errors_total", kind] == count
        for cache in ("memory", "attributes"):
            assert scraped["ossfs_cache_hits_total", cache] == shown["cache"][cache]["hits"]
        assert scraped["ossfs_memory_limit_bytes",] == shown["memory"]["limit_bytes"]
        # Who connects and says nothing keeps neither the mount nor its end waiting.
        host, _, port = url.removeprefix("http://").removesuffix("/metrics").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=30):
            assert (mount.path / "f").stat().st_size == 3 * MIB
            mount.umount()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=30)
    finally:
        mount.close()


def test_a_port_that_is_taken_is_refused_in_one_line(service: Service, room: Room) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        mount = Mount(service, room, options={"metrics": address})
        status, said = mount.try_mount()
        mount.close()
    assert (status, said.count("\n")) == (1, 1), said
    assert said.startswith(
        f"ossfs: metrics={address} cannot be listened at: Address already in use; accepted:"
    )
