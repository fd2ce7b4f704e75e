"""Where the buckets are that the benchmarks run on: the embedded server, osswire, or a service somewhere.

Threading: one thread.

All three give the same interface: a bucket to mount, a way to fill it that is no client's doing, and
counters of requests and bytes.  A local server is started anew for each row, so that no row inherits
what an earlier one left.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlencode, urlsplit

from benchmarks.errors import BenchError

with warnings.catch_warnings():
    # Its sources have invalid escapes, which are warned of when they are compiled.
    warnings.simplefilter("ignore")
    import oss2

MIB = 1 << 20
OSSFS = Path(sys.executable).parent / "ossfs"
START_SECONDS = 20.0


@dataclass(frozen=True)
class Counters:
    """What was asked of a server.  received and sent are bytes of bodies, as the client sees them."""

    requests: dict[str, int] = field(default_factory=dict)
    received: int = 0
    sent: int = 0
    peak: int | None = None
    """The most requests at one moment, when the server tells."""

    @property
    def total(self) -> int:
        return sum(self.requests.values())


@dataclass(frozen=True)
class Network:
    """latency: seconds added to each request.  bandwidth: bytes a second of each connection, 0 = no limit."""

    latency: float = 0.0
    bandwidth: int = 0
    tls: bool = False

    def __str__(self) -> str:
        words = [f"{self.latency * 1000:g} ms" if self.latency else "no latency"]
        if self.bandwidth:
            words.append(f"{self.bandwidth / 1e6:g} MB/s a connection")
        if self.tls:
            words.append("TLS")
        return ", ".join(words)


class Server(Protocol):
    """A service with one bucket for us."""

    name: str
    dialects: frozenset[str]
    url: str
    bucket: str
    prefix: str
    """Where in the bucket everything happens: "" or "NAME/"."""
    keys: tuple[str, str]
    region: str | None
    ca_file: str | None
    """PEM file with the certificate to trust; None: the system's."""

    def start(self) -> None:
        """Be ready, with an empty bucket (or prefix)."""

    def stop(self) -> None:
        """Leave nothing behind."""

    def fill(self, prefix: str, count: int, size: int) -> None:
        """*count* objects of *size* bytes named PREFIX000000 and so on; count 1: the key is the prefix."""

    def reset(self) -> None:
        """Count from here."""

    def counters(self) -> Counters | None:
        """Since reset; None when the server does not tell."""


class _Local:
    """A server that is a process of ours."""

    name = ""
    dialects: frozenset[str] = frozenset()
    bucket = "bench"
    prefix = ""
    keys = ("bench-id", "bench-secret-of-no-worth")
    region: str | None = "cn-hangzhou"

    def __init__(self, network: Network) -> None:
        self.network = network
        self.url = ""
        self.ca_file: str | None = None
        self._key_file = ""
        self._scratch: str | None = None
        self._context: ssl.SSLContext | None = None
        self._process: subprocess.Popen[str] | None = None

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = self.ca_file = self._context = None

    def _secure(self) -> None:
        """A certificate for this start, when TLS is asked for."""
        if self.network.tls:
            self._scratch = tempfile.mkdtemp(prefix="ossfs-bench-cert-")
            self.ca_file = os.path.join(self._scratch, "cert.pem")
            self._key_file = os.path.join(self._scratch, "key.pem")
            make_certificate(self.ca_file, self._key_file)
            self._context = ssl.create_default_context(cafile=self.ca_file)

    def _call(self, path: str, *, post: bool = True, body: bytes = b"") -> bytes:
        request = urllib.request.Request(
            self.url + path, data=body if post else None, method="POST" if post else "GET"
        )
        with urllib.request.urlopen(request, timeout=60, context=self._context) as answer:
            data: bytes = answer.read()
            return data

    def _query(self, path: str, **values: object) -> bytes:
        return self._call(f"{path}?{urlencode(values, quote_via=quote)}", body=b"x")


class Embedded(_Local):
    """`ossfs serve --control` on a temporary directory."""

    name = "the embedded server"
    dialects = frozenset({"oss"})

    def __init__(self, network: Network, directory: str | None = None) -> None:
        super().__init__(network)
        self._parent = directory
        self._directory: str | None = None

    def start(self) -> None:
        self._secure()
        self._directory = tempfile.mkdtemp(prefix="ossfs-bench-data-", dir=self._parent)
        environment = dict(os.environ, OSS_ACCESS_KEY_ID=self.keys[0], OSS_ACCESS_KEY_SECRET=self.keys[1])
        secure = ["--cert", self.ca_file, "--key", self._key_file] if self.ca_file else []
        self._process = subprocess.Popen(
            [OSSFS, "serve", self._directory, "--bucket", self.bucket, "--control", *secure],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        words = _first_line(self._process).split()
        if not words or not words[-1].startswith("http"):
            raise BenchError(f"the embedded server did not start; it said {' '.join(words)!r}")
        self.url = words[-1]
        self._query("/_ossfs/set", latency=self.network.latency, bandwidth=self.network.bandwidth)

    def stop(self) -> None:
        super().stop()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def fill(self, prefix: str, count: int, size: int) -> None:
        self._query("/_ossfs/fill", bucket=self.bucket, prefix=prefix, n=count, size=size)

    def reset(self) -> None:
        self._call("/_ossfs/stats")

    def counters(self) -> Counters:
        stats = json.loads(self._call("/_ossfs/stats", post=False))
        return Counters(stats["requests"], stats["bytes_out"], stats["bytes_in"], stats["in_flight_peak"])


class Osswire(_Local):
    """A server in memory that speaks OSS and S3 and does not check signatures; its program is given."""

    name = "osswire"
    dialects = frozenset({"oss", "s3"})
    bucket = "bkt"

    def __init__(self, network: Network, program: str) -> None:
        super().__init__(network)
        if not os.access(program, os.X_OK) or os.path.isdir(program):
            raise BenchError(f"--server {program}: no program there; accepted: the path of a built osswire")
        self._program = os.path.abspath(program)

    def start(self) -> None:
        self._secure()
        port = _free_port()
        self.url = f"{'https' if self.ca_file else 'http'}://127.0.0.1:{port}"
        secure = ["-cert", self.ca_file, "-key", self._key_file] if self.ca_file else []
        self._process = subprocess.Popen(
            [
                self._program,
                *("-addr", f"127.0.0.1:{port}", "-buckets", self.bucket, "-md5=false"),
                *("-lat", f"{self.network.latency * 1000:g}ms", "-bw", str(self.network.bandwidth)),
                *secure,
            ],
            stderr=subprocess.DEVNULL,
            text=True,
            # Its garbage collector would otherwise run several times a row.
            env=dict(os.environ, GOGC="400"),
        )
        _await_port(port, self._process)

    def fill(self, prefix: str, count: int, size: int) -> None:
        self._query("/_fill", bucket=self.bucket, prefix=prefix, n=count, size=size)

    def reset(self) -> None:
        self._call("/_stats", body=b"x")

    def counters(self) -> Counters:
        stats: dict[str, Any] = json.loads(self._call("/_stats", post=False))
        received, sent = stats.pop("bytes_out"), stats.pop("bytes_in")
        peak = stats.pop("peak_inflight", None)
        stats.pop("open_uploads", None)
        return Counters(stats, received, sent, peak)


class Remote:
    """Somebody's bucket.  All is done below a prefix of our own, which is removed at the end."""

    dialects = frozenset({"oss"})

    def __init__(self, url: str, bucket: str, keys: tuple[str, str], region: str | None = None) -> None:
        self.name = url
        self.url = url
        self.bucket = bucket
        self.keys = keys
        self.region = region
        self.ca_file: str | None = None
        self.prefix = f"ossfs-bench-{secrets.token_hex(6)}/"
        auth = oss2.AuthV4(*keys) if region else oss2.Auth(*keys)
        self._bucket = oss2.Bucket(auth, url, bucket, region=region)

    def start(self) -> None:
        try:
            self._bucket.list_objects(self.prefix, max_keys=1)
        except oss2.exceptions.OssError as error:
            raise BenchError(f"{self.url}, bucket {self.bucket}: {error.code or error}") from error

    def stop(self) -> None:
        names: list[str] = []
        for found in oss2.ObjectIterator(self._bucket, prefix=self.prefix):
            names.append(found.key)
            if len(names) == 1000:
                self._bucket.batch_delete_objects(names)
                names = []
        if names:
            self._bucket.batch_delete_objects(names)
        for upload in oss2.MultipartUploadIterator(self._bucket, prefix=self.prefix):
            self._bucket.abort_multipart_upload(upload.key, upload.upload_id)

    def fill(self, prefix: str, count: int, size: int) -> None:
        name = self.prefix + prefix
        if count == 1:
            self._fill_one(name, size)
            return
        body = os.urandom(size)
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(lambda i: self._bucket.put_object(f"{name}{i:06d}", body), range(count)))

    def _fill_one(self, name: str, size: int) -> None:
        step = 16 * MIB
        data = os.urandom(min(step, size))
        if size <= step:
            self._bucket.put_object(name, data)
            return
        upload = self._bucket.init_multipart_upload(name).upload_id

        def part(number: int) -> oss2.models.PartInfo:
            length = min(step, size - (number - 1) * step)
            made = self._bucket.upload_part(name, upload, number, data[:length])
            return oss2.models.PartInfo(number, made.etag)

        with ThreadPoolExecutor(8) as pool:
            parts = list(pool.map(part, range(1, -(-size // step) + 1)))
        self._bucket.complete_multipart_upload(name, upload, parts)

    def reset(self) -> None:
        pass

    def counters(self) -> None:
        return None


def make_certificate(certificate: str, key: str) -> None:
    """A certificate for 127.0.0.1 that signs itself, by openssl(1).  Raises BenchError."""
    command = [
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-days", "7", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-keyout", key, "-out", certificate),
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise BenchError("--tls wants the program openssl: apt-get install openssl") from None
    except subprocess.CalledProcessError as error:
        raise BenchError(f"openssl made no certificate: {error.stderr.strip()}") from error


def signed_url(server: Server, method: str, key: str) -> str:
    """A URL that carries its signature: what any HTTP client can send."""
    bucket = oss2.Bucket(
        oss2.Auth(*server.keys), server.url, server.bucket, is_path_style=_is_local(server.url)
    )
    url: str = bucket.sign_url(method, server.prefix + key, 24 * 3600, slash_safe=True)
    return url


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host == "localhost" or host.replace(".", "").isdigit() or ":" in host


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(START_SECONDS):
            return ""
    return process.stdout.readline()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def _await_port(port: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchError("the server did not start") from error
            time.sleep(0.02)
