"""`ossfs check`, `config`, `url` and `list`, where no mount is needed."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ossfs import checks, cli
from ossfs.checks import find_unshowable, unshowable_because
from ossfs.commands import url as url_command
from ossfs.commands.mounts import unmount_all
from ossfs.commands.url import mount_of, parse_expiry
from ossfs.errors import ConfigError, MountError
from ossfs.registry import MountRecord
from tests.support.memory_store import MemoryStore
from tests.support.mounts import BUCKET, Service

pytestmark = pytest.mark.usefixtures("restore_logging")


@pytest.fixture
def service(running: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Service]:
    monkeypatch.setenv("OSS_ACCESS_KEY_ID", running.key_id)
    monkeypatch.setenv("OSS_ACCESS_KEY_SECRET", running.key_secret)
    monkeypatch.setenv("OSSFS_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "run").mkdir(mode=0o700)
    yield running
    running.faults()
    running.clock_offset(0)


def options(service: Service, *more: str) -> list[str]:
    return ["-o", ",".join([f"endpoint={service.url}", *more])]


# -- check ------------------------------------------------------------------------------------------


def findings(capsys: pytest.CaptureFixture[str], status: int, *arguments: str) -> dict[str, dict[str, str]]:
    """What `check --json` says, by what was looked at."""
    assert cli.run(["check", *arguments, "--json"]) == status
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] == (status == 0)
    return {entry["what"]: entry for entry in document["findings"]}


def test_all_is_well(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    before = service.keys()
    found = findings(capsys, 0, f"{BUCKET}:/some/prefix", *options(service, "region=cn-hangzhou"))
    assert {entry["outcome"] for entry in found.values()} == {"ok"}
    assert {"endpoint", "clock", "credentials", "region", "list", "get", "put", "delete", "multipart"} <= set(
        found
    )
    assert {"versioning", "encryption", "/dev/fuse", "allow_other"} <= set(found)
    assert found["credentials"]["found"] == "from OSS_ACCESS_KEY_ID in the environment"
    assert service.keys() == before
    assert service.uploads() == []


def test_the_table(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["check", BUCKET, *options(service)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["check", "result", "found", "to", "do"]
    assert any(line.startswith("region") and "set -o region=cn-hangzhou" in line for line in lines)


@pytest.mark.parametrize(
    ("op", "what", "action"),
    [
        ("List", "list", "oss:ListObjects"),
        ("Put", "put", "oss:PutObject"),
        ("Get", "get", "oss:GetObject"),
        ("Initiate", "multipart", "oss:PutObject"),
        ("UploadPart", "multipart", "oss:PutObject"),
        ("Abort", "abort", "oss:AbortMultipartUpload"),
        ("Delete", "delete", "oss:DeleteObject"),
    ],
)
def test_each_permission(
    service: Service, capsys: pytest.CaptureFixture[str], op: str, what: str, action: str
) -> None:
    service.faults({"op": op, "action": "status", "status": 403, "code": "AccessDenied", "count": -1})
    found = findings(capsys, 1, BUCKET, *options(service))
    failed = [entry["what"] for entry in found.values() if entry["outcome"] == "FAILED"]
    assert failed == [what]
    assert action in found[what]["fix"]
    service.faults()
    hidden = service.keys(".ossfs-")
    assert len(hidden) == (1 if op == "Delete" else 0)
    if hidden:
        assert hidden[0] in found["delete"]["found"]
    for key in hidden:
        service.sdk.delete_object(key)
    if op == "Abort":
        for upload in service.sdk.list_multipart_uploads().upload_list:
            service.sdk.abort_multipart_upload(upload.key, upload.upload_id)


def test_asking_for_acls_is_a_wish(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert "acl" not in findings(capsys, 0, BUCKET, *options(service))
    found = findings(capsys, 0, BUCKET, *options(service, "keep_acl=always,acl=private,kms_key_id=key"))
    assert found["acl"]["outcome"] == "ok" and "KMS" in found["encryption"]["found"]
    service.faults({"op": "GetAcl", "action": "status", "status": 403, "code": "AccessDenied", "count": -1})
    found = findings(capsys, 0, BUCKET, *options(service, "keep_acl=always"))
    assert found["acl"]["outcome"] == "note" and "oss:GetObjectAcl" in found["acl"]["fix"]


def test_bucket_info_is_a_wish(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.faults(
        {"op": "BucketInfo", "action": "status", "status": 403, "code": "AccessDenied", "count": -1}
    )
    found = findings(capsys, 0, BUCKET, *options(service))
    assert found["bucket info"]["outcome"] == "note"
    assert "oss:GetBucketInfo" in found["bucket info"]["fix"]


def test_the_clock(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.clock_offset(120)
    found = findings(capsys, 0, BUCKET, *options(service))
    assert found["clock"]["outcome"] == "note"
    assert re.search(r"(120|119|121) seconds behind|2(\.0\d)? minutes behind", found["clock"]["found"])
    service.clock_offset(-3600 * 5)
    found = findings(capsys, 1, BUCKET, *options(service))
    assert "5 hours ahead of the service" in found["clock"]["found"]
    assert "timedatectl" in found["clock"]["fix"]


def test_mounting_with_a_wrong_clock_says_by_how_much(
    service: Service, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    service.clock_offset(3600 * 3)
    (tmp_path / "m").mkdir()
    done = subprocess.run(
        [*_command(), "mount", BUCKET, tmp_path / "m", *options(service, f"state_dir={tmp_path}")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "by 3 hours behind the service" in done.stderr


def _command() -> list[str]:
    from tests.support.mounts import ossfs_command

    return ossfs_command()


def test_keys_that_do_not_belong_together(
    service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSS_ACCESS_KEY_SECRET", "hush-hush")
    found = findings(capsys, 1, BUCKET, *options(service))
    assert found["signature"]["outcome"] == "FAILED"
    assert "OSS_ACCESS_KEY_SECRET" in found["signature"]["fix"]
    assert "put" not in found
    monkeypatch.delenv("OSS_ACCESS_KEY_ID")
    monkeypatch.delenv("OSS_ACCESS_KEY_SECRET")
    found = findings(capsys, 1, BUCKET, *options(service))
    assert "~/.ossutilconfig (" in found["credentials"]["found"]
    assert "OSS_ACCESS_KEY_ID" in found["credentials"]["fix"]


def test_the_wrong_place(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    found = findings(capsys, 1, BUCKET, "-o", "endpoint=http://127.0.0.1:9")
    assert found["endpoint"]["outcome"] == "FAILED"
    assert "127.0.0.1:9" in found["endpoint"]["found"]
    found = findings(capsys, 1, "no-such-bucket", *options(service))
    assert found["bucket"]["outcome"] == "FAILED"
    found = findings(capsys, 1, BUCKET, *options(service, "region=cn-beijing"))
    assert found["region"]["outcome"] == "FAILED"


def test_a_read_only_mount_needs_no_writing(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.faults({"op": "Put", "action": "status", "status": 403, "code": "AccessDenied", "count": -1})
    found = findings(capsys, 0, BUCKET, *options(service, "ro"))
    assert found["put"]["outcome"] == "note"


def test_the_mount_point(service: Service, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    place = tmp_path / "m"
    found = findings(capsys, 1, BUCKET, *options(service), "--mountpoint", str(place))
    assert "mkdir" in found["mount point"]["fix"]
    place.mkdir()
    found = findings(capsys, 0, BUCKET, *options(service), "--mountpoint", str(place))
    assert found["mount point"]["outcome"] == "ok"
    (place / "file").touch()
    found = findings(capsys, 1, BUCKET, *options(service), "--mountpoint", str(place))
    assert "nonempty" in found["mount point"]["fix"]


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    from ossfs.config import load_config

    config = load_config("bkt", "/", ["region=cn-x,allow_other"])

    def refuse(allow_other: bool) -> None:
        raise MountError("there is no /dev/fuse; run `modprobe fuse`")

    monkeypatch.setattr(checks, "check_fuse", refuse)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    (finding,) = checks.check_machine(config, None)
    assert (finding.what, finding.outcome, finding.fix) == ("/dev/fuse", "FAILED", "run `modprobe fuse`")

    def refuse_others(allow_other: bool) -> None:
        if allow_other:
            raise MountError("allow_other is for root; add user_allow_other")

    monkeypatch.setattr(checks, "check_fuse", refuse_others)
    assert [one.outcome for one in checks.check_machine(config, None)] == ["ok", "FAILED"]


def test_keys_that_are_no_paths(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    for key in ("k/good", "k//twice", "k/../up", "k/" + "n" * 256, "k/both", "k/both-more", "k/both/below"):
        service.write(key, b"x")
    assert cli.run(["check", f"{BUCKET}:/k", *options(service), "--keys", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    found = {entry["key"]: entry["why"] for entry in document["keys"]}
    assert set(found) == {"k//twice", "k/../up", "k/" + "n" * 256, "k/both"}
    assert "directory" in found["k/both"]
    assert cli.run(["check", f"{BUCKET}:/k/both", *options(service), "--keys"]) == 0
    assert "all keys can be shown" in capsys.readouterr().out


async def test_shadowed_keys_are_found_across_pages() -> None:
    store = MemoryStore()
    from ossfs.store.base import ObjectHeaders

    for key in [
        "a",
        *(f"a-{n:04}" for n in range(1500)),
        "a/b",
        "z",
        ".ossfs-0123456789abcdef/orphan-1",
        "d/",
    ]:
        await store.put(key, [b""], ObjectHeaders())
    assert [entry.key async for entry in find_unshowable(store, "")] == ["a"]


@pytest.mark.parametrize("path", ["a", "a/b/", "é", "x" * 255, "", ".ossfs-0123456789abcdef/x"])
def test_paths(path: str) -> None:
    assert unshowable_because(path) == ""


# -- config -----------------------------------------------------------------------------------------


def test_where_values_come_from(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.toml"
    file.write_text('# of mine\nregion = "cn-hangzhou"\n\nttl = 7\nmemory = "64MB"\n')
    monkeypatch.setenv("OSSFS_TTL", "9")
    arguments = ["config", "bkt:/p", "-o", f"config={file},umask=027,credential_process=/bin/keys hush-hush"]
    assert cli.run([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["endpoint_url"] == "https://oss-cn-hangzhou.aliyuncs.com"
    shown = document["options"]
    assert shown["region"] == {"value": "cn-hangzhou", "origin": f"config file {file}, line 2"}
    assert shown["ttl"] == {"value": 9.0, "origin": "environment variable OSSFS_TTL"}
    assert shown["memory"] == {"value": "64MB", "origin": f"config file {file}, line 5"}
    assert shown["umask"] == {"value": "027", "origin": "-o"}
    assert shown["negative_ttl"]["origin"] == "default"
    assert shown["root_directory"] == {"value": "p", "origin": "SOURCE"}
    assert shown["credential_process"]["value"] == "/bin/keys ***"
    assert cli.run(arguments) == 0
    text = capsys.readouterr().out
    assert "hush" not in text
    assert re.search(r"^ttl +9 +environment variable OSSFS_TTL", text, re.MULTILINE)
    assert re.search(r"^ro +false +default", text, re.MULTILINE)


def test_every_option_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    from ossfs.config import option_names

    assert cli.run(["config", "bkt", "-o", "region=cn-x", "--json"]) == 0
    assert sorted(json.loads(capsys.readouterr().out)["options"]) == option_names()


# -- url --------------------------------------------------------------------------------------------


def test_url_of_an_object(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.write("dir/an object", b"content")
    for more in ((), ("region=cn-hangzhou",)):
        assert cli.run(["url", f"oss://{BUCKET}/dir/an object", *options(service, *more)]) == 0
        link = capsys.readouterr().out.strip()
        assert service.key_secret not in link
        with urllib.request.urlopen(link, timeout=30) as answer:
            assert answer.read() == b"content"
    assert cli.run(["url", f"oss://{BUCKET}/dir/an object", "--method", "head", *options(service)]) == 0
    request = urllib.request.Request(capsys.readouterr().out.strip(), method="HEAD")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.headers["Content-Length"] == "7"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["oss://bkt/k", "--method", "PUT"], "--method PUT is not accepted; accepted: GET, HEAD"),
        (["oss://bkt/k", "--method", "DELETE"], "accepted: GET, HEAD"),
        (["oss://bkt/k", "--expires", "8d"], "accepted: 1s to 7d"),
        (["oss://bkt/k", "--expires", "0s"], "accepted: 1s to 7d"),
        (["oss://bkt/k", "--expires", "soon"], "is no age"),
        (["oss://bkt/"], "names no object"),
        (["/nonexistent/file"], "No such file"),
        (["/etc"], "is a directory"),
        (["/etc/passwd"], "is in no ossfs mount"),
        (["/etc/passwd", "-o", "ro"], "-o is for oss://"),
    ],
)
def test_urls_that_are_refused(
    service: Service, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert cli.run(["url", *arguments]) == 1
    errors = capsys.readouterr().err
    assert said in errors
    assert errors.count("\n") == 1


def test_expiry() -> None:
    assert [parse_expiry(text) for text in ("90s", "20m", "12h", "7d")] == [90, 1200, 43200, 604800]
    with pytest.raises(ConfigError):
        parse_expiry("-1s")
    assert url_command.METHODS == ("GET", "HEAD")


def record(mountpoint: str, **values: Any) -> MountRecord:
    return MountRecord(
        **{
            "mount_id": "1",
            "pid": 1,
            "bucket": "b",
            "prefix": "",
            "endpoint": "http://e",
            "mountpoint": mountpoint,
            "state": "mounted",
            "socket": "/s",
            "started": time.time(),
            **values,
        }
    )


def test_the_innermost_mount_is_asked() -> None:
    outer, inner, beside = record("/mnt/a"), record("/mnt/a/b"), record("/mnt/a/bc")
    older = record("/mnt/a/b", started=1.0)
    records = [older, outer, inner, beside]
    assert mount_of("/mnt/a/b/f", records) is inner
    assert mount_of("/mnt/a/x", records) is outer
    assert mount_of("/mnt/a", records) is None
    assert mount_of("/f", [record("/")]) is not None


# -- list and umount --all --------------------------------------------------------------------------


def test_no_mounts(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["list"]) == 0
    assert capsys.readouterr().out == "no bucket is mounted\n"
    assert cli.run(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert cli.run(["umount", "--all"]) == 0


def test_umount_wants_one_or_all(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["umount"], ["umount", "/mnt", "--all"]):
        assert cli.run(arguments) == 2
        assert "either a MOUNTPOINT or --all" in capsys.readouterr().err


def test_one_that_is_busy_does_not_keep_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    places = ["/one", "/two", "/three"]
    monkeypatch.setattr("ossfs.commands.mounts.all_mounts", lambda: [record(place) for place in places])
    asked: list[str] = []
    complaints: list[str] = []

    def unmount(place: str) -> int:
        asked.append(place)
        if place == "/two":
            raise MountError("/two is in use")
        return 0

    assert unmount_all(unmount, complaints.append) == 1
    assert asked == ["/three", "/two", "/one"]
    assert complaints == ["/two is in use"]
