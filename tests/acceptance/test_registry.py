"""docker-registry keeps its files on a mount: images pushed, pulled, removed and collected."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import subprocess
import tarfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from tests.support.mounts import MIB, Mount, Service, end, run, spawn, wait_for

COMMAND_SECONDS = 300.0
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


# --------------------------------------------------------------------------------------------------
# Images, as the OCI image layout specification describes them.


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer_of(files: Mapping[str, bytes]) -> tuple[bytes, str]:
    """A compressed layer with these files, and the digest of the archive in it."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return gzip.compress(archive.getvalue(), 1, mtime=0), digest_of(archive.getvalue())


class Layout:
    """A directory with images: an index, and blobs by their digest."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.blobs = directory / "blobs" / "sha256"
        self.blobs.mkdir(parents=True)
        (directory / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
        self._manifests: list[dict[str, Any]] = []

    def _blob(self, kind: str, data: bytes) -> dict[str, Any]:
        digest = digest_of(data)
        (self.blobs / digest.removeprefix("sha256:")).write_bytes(data)
        return {"mediaType": kind, "digest": digest, "size": len(data)}

    def add(self, tag: str, layers: list[tuple[bytes, str]]) -> str:
        """An image of these layers; the digest of its manifest."""
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Labels": {"tag": tag}},
            "rootfs": {"type": "layers", "diff_ids": [inner for _, inner in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._blob(CONFIG, json.dumps(config).encode()),
            "layers": [self._blob(LAYER, packed) for packed, _ in layers],
        }
        described = self._blob(MANIFEST, json.dumps(manifest).encode())
        self._manifests.append({**described, "annotations": {"org.opencontainers.image.ref.name": tag}})
        index = {"schemaVersion": 2, "manifests": self._manifests}
        (self.directory / "index.json").write_text(json.dumps(index))
        digest: str = described["digest"]
        return digest


def whole(layout: Path) -> set[str]:
    """The digests of the blobs that a layout has; fails when one is not what its name says."""
    names = set()
    for blob in (layout / "blobs" / "sha256").iterdir():
        assert digest_of(blob.read_bytes()) == f"sha256:{blob.name}"
        names.add(f"sha256:{blob.name}")
    return names


def parts_of(layout: Layout, digest: str) -> set[str]:
    """The digests of all blobs of an image."""
    manifest = json.loads((layout.blobs / digest.removeprefix("sha256:")).read_bytes())
    return {digest, manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])}


# --------------------------------------------------------------------------------------------------
# The registry.


class Registry:
    """Debian's docker-registry with its files in a directory of a mount."""

    def __init__(self, mount: Mount, directory: Path, port: int) -> None:
        self.mount = mount
        self.address = f"127.0.0.1:{port}"
        self._config = directory / "config.yml"
        # YAML is a superset of JSON.
        self._config.write_text(
            json.dumps(
                {
                    "version": 0.1,
                    "log": {"level": "info"},
                    "storage": {
                        "filesystem": {"rootdirectory": str(mount.path / "registry")},
                        "delete": {"enabled": True},
                    },
                    "http": {"addr": self.address, "secret": "of this test"},
                    "health": {"storagedriver": {"enabled": True, "interval": "1s", "threshold": 3}},
                }
            )
        )
        self._log = directory / "registry.log"
        self._process: subprocess.Popen[bytes] | None = None

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def start(self) -> None:
        with open(self._log, "ab") as log:
            self._process = spawn(
                ["docker-registry", "serve", self._config],
                stdout=log,
                stderr=log,
                env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
            )
        wait_for(self._answers, "the registry")

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, self.log()
        try:
            with urllib.request.urlopen(f"http://{self.address}/v2/", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        if self._process is not None:
            end(self._process)

    def push(self, layout: Layout, tag: str) -> None:
        copy(f"oci:{layout.directory}:{tag}", f"docker://{self.address}/image:{tag}")

    def pull(self, tag: str, into: Path) -> str:
        """The digest of what was pulled."""
        copy(f"docker://{self.address}/image:{tag}", f"oci:{into}:{tag}")
        (manifest,) = json.loads((into / "index.json").read_bytes())["manifests"]
        digest: str = manifest["digest"]
        return digest

    def delete(self, tag: str) -> None:
        run("skopeo", "delete", "--tls-verify=false", f"docker://{self.address}/image:{tag}")

    def collect(self) -> str:
        """What `garbage-collect` says.  It is for registries that are stopped."""
        assert self._process is not None and self._process.poll() is not None
        return run("docker-registry", "garbage-collect", self._config, seconds=COMMAND_SECONDS)

    def blobs(self) -> dict[str, str]:
        """From the bucket, past the mount: the digest of each blob's bytes, by the digest that it has."""
        found = {}
        for key in self.mount.service.keys(f"{self.mount.prefix}registry/docker/registry/v2/blobs/"):
            if key.endswith("/data"):
                found[f"sha256:{key.split('/')[-2]}"] = digest_of(self.mount.service.read(key))
        return found


def copy(source: str, target: str) -> None:
    run(
        *("skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false"),
        *("--preserve-digests", source, target),
        seconds=COMMAND_SECONDS,
    )


@pytest.fixture
def registry(
    new_mount: Callable[..., Mount], request: pytest.FixtureRequest, tmp_path: Path, free_port: int
) -> Iterator[Registry]:
    made = Registry(new_mount(f"bkt:/{request.node.name}"), tmp_path, free_port)
    made.start()
    yield made
    made.stop()
    # Shown with a failure.
    print("\n".join(line for line in made.log().splitlines() if "level=error" in line))


def test_images_are_pushed_pulled_and_collected(registry: Registry, tmp_path: Path) -> None:
    noise = random.Random(3)
    system = layer_of({"bin/sh": noise.randbytes(45 * MIB), "etc/passwd": b"root:x:0:0::/:/bin/sh\n"})
    program = layer_of({f"opt/{number}": noise.randbytes(MIB // 2) for number in range(60)})
    small = layer_of({"etc/motd": b"hello\n"})
    other = layer_of({"opt/other": noise.randbytes(27 * MIB)})
    layout = Layout(tmp_path / "made")
    kept = layout.add("kept", [system, program, small])
    doomed = layout.add("doomed", [system, other])
    survive = parts_of(layout, kept)
    go = parts_of(layout, doomed) - survive
    mount = registry.mount

    registry.push(layout, "kept")
    registry.push(layout, "doomed")
    assert registry.pull("kept", tmp_path / "pulled") == kept
    assert whole(tmp_path / "pulled") == survive
    assert registry.blobs() == {digest: digest for digest in survive | go}

    # Another mount, to which everything is new.
    registry.stop()
    mount.remount()
    registry.start()
    assert registry.pull("doomed", tmp_path / "pulled-doomed") == doomed
    assert whole(tmp_path / "pulled-doomed") == parts_of(layout, doomed)
    assert registry.pull("kept", tmp_path / "pulled-kept") == kept
    assert whole(tmp_path / "pulled-kept") == survive

    registry.delete("doomed")
    registry.stop()
    said = registry.collect()
    assert all(f"blob eligible for deletion: {digest}" in said for digest in go), said
    mount.umount()
    assert registry.blobs() == {digest: digest for digest in survive}
    assert not mount.service.uploads()

    # What is left works on: pulled, collected once more, and what has gone is pushed again.
    mount.mount()
    registry.start()
    assert registry.pull("kept", tmp_path / "pulled-again") == kept
    assert whole(tmp_path / "pulled-again") == survive
    registry.push(layout, "doomed")
    assert registry.pull("doomed", tmp_path / "pulled-doomed-again") == doomed
    registry.stop()
    assert f"{len(survive | go)} blobs marked, 0 blobs and 0 manifests eligible" in registry.collect()
    mount.umount()
    assert registry.blobs() == {digest: digest for digest in survive | go}
    # skopeo asks for each blob before it pushes it; nothing else is an error to the registry.
    errors = [line for line in registry.log().splitlines() if "level=error" in line]
    assert all('err.code="blob unknown"' in line for line in errors), errors


def ask(method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Message:
    """The headers of an answer that is no error."""
    request = urllib.request.Request(url, body or None, dict(headers or {}), method=method)
    with urllib.request.urlopen(request, timeout=COMMAND_SECONDS) as answer:
        assert 200 <= answer.status < 300
        found: Message = answer.headers
        return found


def test_an_upload_in_chunks_goes_on_after_a_remount(registry: Registry) -> None:
    """The registry opens one file again and again to append, and keeps the state of its hash beside it."""
    chunks = [random.Random(seed).randbytes(size * MIB) for seed, size in enumerate((3, 7, 1, 12, 6))]
    digest = digest_of(b"".join(chunks))
    place = ask("POST", f"http://{registry.address}/v2/image/blobs/uploads/")["Location"]
    sent = 0
    for number, chunk in enumerate(chunks):
        if number == 3:
            registry.stop()
            registry.mount.remount()
            registry.start()
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{sent}-{sent + len(chunk) - 1}",
        }
        answer = ask("PATCH", place, chunk, headers)
        sent += len(chunk)
        assert answer["Range"] == f"0-{sent - 1}"
        place = answer["Location"]
    separator = "&" if "?" in place else "?"
    answer = ask("PUT", f"{place}{separator}digest={digest}")
    assert answer["Docker-Content-Digest"] == digest
    registry.stop()
    registry.mount.umount()
    assert registry.blobs() == {digest: digest}
    # What the upload needed while it ran has gone.
    assert not [key for key in registry.mount.service.keys(registry.mount.prefix) if "_uploads/" in key[:-1]]


def test_pushes_while_one_request_in_a_hundred_fails(
    registry: Registry, service: Service, tmp_path: Path
) -> None:
    noise = random.Random(4)
    layout = Layout(tmp_path / "made")
    layers = [layer_of({f"opt/{n}": noise.randbytes(2 * MIB)}) for n in range(16)]
    images = {
        tag: layout.add(tag, layers[at : at + 8]) for at, tag in ((0, "first"), (4, "second"), (8, "third"))
    }
    service.stats(reset=True)
    service.faults(
        {"action": "status", "status": 503, "rate": 0.005, "count": -1, "seed": 1},
        {"action": "status", "status": 500, "rate": 0.005, "count": -1, "seed": 2},
        *({"action": "status", "status": 502, "op": op, "skip": 5} for op in ("Put", "Copy", "List")),
    )
    # Side by side, as several people push.
    with ThreadPoolExecutor() as pushers:
        list(pushers.map(lambda tag: registry.push(layout, tag), images))
    for tag, digest in images.items():
        assert registry.pull(tag, tmp_path / f"pulled-{tag}") == digest
        assert whole(tmp_path / f"pulled-{tag}") == parts_of(layout, digest)
    registry.delete("second")
    registry.stop()
    registry.collect()
    registry.mount.umount()
    service.faults()
    assert service.stats()["faults"]["status"] >= 5
    left = parts_of(layout, images["first"]) | parts_of(layout, images["third"])
    assert registry.blobs() == {digest: digest for digest in left}
    assert not service.uploads_with_parts()


def test_a_push_goes_on_after_the_mount_was_killed(registry: Registry, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "made")
    noise = random.Random(5)
    layers = [layer_of({f"opt/{n}": noise.randbytes(33 * MIB)}) for n in range(3)]
    digest = layout.add("image", layers)
    mount, service = registry.mount, registry.mount.service
    service.bandwidth(20 * MIB)
    with ThreadPoolExecutor(1) as pusher:
        push = pusher.submit(registry.push, layout, "image")
        wait_for(lambda: service.uploads_with_parts(), "a layer that is on its way")
        mount.kill()
        registry.stop()
        with pytest.raises(AssertionError):
            push.result()
    service.bandwidth(0)
    mount.mount()
    registry.start()
    registry.push(layout, "image")
    assert registry.pull("image", tmp_path / "pulled") == digest
    assert whole(tmp_path / "pulled") == parts_of(layout, digest)
    registry.stop()
    mount.umount()
    assert registry.blobs() == {blob: blob for blob in parts_of(layout, digest)}
    assert not service.uploads(), "the dead mount's uploads are still there"
