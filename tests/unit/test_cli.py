"""The command line: one line for each error, the exit status, and what is printed.  No mount is made here."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from ossfs import __version__, cli, control, mountpoint, registry
from ossfs.control import MountBusy, UploadProgress
from ossfs.errors import MountError, UserError
from ossfs.mountpoint import MountInfo
from ossfs.registry import Registry

BUCKET = {"bucket": "bucket", "prefix": "p", "endpoint": "http://x"}

pytestmark = pytest.mark.usefixtures("restore_logging")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("OSSFS_", "OSS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OSSFS_RUNTIME_DIR", str(tmp_path / "run"))


def failure(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 1) -> str:
    """The one line that the command says."""
    assert cli.run(list(arguments)) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ossfs: ")
    assert captured.err.count("\n") == 1
    return captured.err.rstrip("\n")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"ossfs {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["-h"], ["mount", "-h"], ["umount", "--help"], ["serve", "-h"]]
)
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == 0
    assert "Usage: ossfs" in capsys.readouterr().out


def test_nothing_said_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 2
    assert "Commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mont"], "No such command"),
        (["mount"], "SOURCE"),
        (["mount", "bucket"], "MOUNTPOINT"),
        (["umount"], "MOUNTPOINT"),
        (["umount", "a", "b"], "b"),
        (["serve", "/x", "--port", "many"], "--port"),
        (["serve", "/x", "--port", "70000"], "--port"),
        (["mount", "bucket", "/mnt", "--secret", "x"], "--secret"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = failure(capsys, *arguments, status=2)
    assert said in line
    assert "--help" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["", "/mnt"], "SOURCE '' names no bucket"),
        (["bucket", "/mnt"], "region is missing"),
        (["bucket", "/mnt", "-o", "region=cn-hangzhou,chunk_size=1MB"], "chunk_size=1MB"),
        (["bucket", "/mnt", "-o", "region=cn-hangzhou", "-o", "secure=perhaps"], "secure=perhaps"),
        (["bucket", "/mnt", "-o", "regoin=cn-hangzhou"], "did you mean region?"),
        (["bucket", "/mnt", "-o", "region=cn-hangzhou"], "no credentials"),
    ],
)
def test_what_is_wrong_with_a_mount_is_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in failure(capsys, "mount", *arguments)


def test_key_and_secret_are_missing_each_by_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSS_ACCESS_KEY_ID", "id")
    assert "OSS_ACCESS_KEY_SECRET is missing" in failure(
        capsys, "mount", "bucket", "/mnt", "-o", "region=cn-x"
    )
    monkeypatch.delenv("OSS_ACCESS_KEY_ID")
    monkeypatch.setenv("OSS_ACCESS_KEY_SECRET", "hush-hush")
    line = failure(capsys, "mount", "bucket", "/mnt", "-o", "region=cn-x")
    assert "OSS_ACCESS_KEY_ID is missing" in line
    assert "hush" not in line


def test_the_place_is_checked_before_anything_is_started(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OSS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("OSS_ACCESS_KEY_SECRET", "secret")
    monkeypatch.setattr(mountpoint, "check_fuse", lambda allow_other: None)
    place = tmp_path / "m"
    options = ["-o", f"region=cn-x,log_file={tmp_path}/log"]
    assert "does not exist" in failure(capsys, "mount", "bucket", str(place), *options)
    place.mkdir()
    (place / "x").touch()
    assert "nonempty" in failure(capsys, "mount", "bucket", str(place), *options)
    (place / "x").unlink()
    with Registry().register(mountpoint=str(place), **BUCKET):
        line = failure(capsys, "mount", "bucket", str(place), *options)
        assert f"process {os.getpid()} is mounting bucket:/p" in line


def test_an_earlier_mount_that_still_uploads(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OSS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("OSS_ACCESS_KEY_SECRET", "secret")
    monkeypatch.setattr(mountpoint, "check_fuse", lambda allow_other: None)

    def never_gone(self: Registry, *where: str, report: Any) -> list[registry.MountRecord]:
        assert where == ("bucket", "p", "https://oss-cn-x.aliyuncs.com")
        report("waiting")
        return [registry.MountRecord("id", 99, "bucket", "p", "http://x", "/m", "draining", "/s")]

    monkeypatch.setattr(Registry, "wait_for_predecessors", never_gone)
    log = f"log_file={tmp_path}/log"
    (tmp_path / "m").mkdir()
    assert cli.run(["mount", "bucket:/p", str(tmp_path / "m"), "-o", f"region=cn-x,{log}"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "ossfs: waiting"
    assert lines[1].startswith("ossfs: process 99 still uploads files of an earlier mount of bucket:/p")


def test_a_ca_file_that_cannot_be_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("OSS_ACCESS_KEY_SECRET", "secret")
    line = failure(capsys, "mount", "bucket", "/mnt", "-o", "region=cn-x,ca_file=/no/such.pem")
    assert line.startswith("ossfs: ca_file=/no/such.pem cannot be read")


STUBBED_MOUNT = """
import os, sys, types
stub = types.ModuleType("ossfs.mount")
def run(config, ready, credentials=None):
    import threading
    {body}
stub.run = run
sys.modules["ossfs.mount"] = stub
from ossfs import cli, mountpoint
mountpoint.check_fuse = lambda allow_other: None
sys.exit(cli.run(sys.argv[1:]))
"""


def mount_with(body: str, *arguments: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    place = tmp_path / "place"
    place.mkdir(exist_ok=True)
    body = textwrap.indent(textwrap.dedent(body), "    ").strip()
    return subprocess.run(
        [
            sys.executable,
            "-c",
            STUBBED_MOUNT.replace("{body}", body),
            "mount",
            "bucket",
            str(place),
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "OSS_ACCESS_KEY_ID": "id", "OSS_ACCESS_KEY_SECRET": "hush-hush"},
        check=False,
    )


def test_mount_returns_when_it_is_usable(tmp_path: Path) -> None:
    options = f"endpoint=http://127.0.0.1:9,state_dir={tmp_path},log_file={tmp_path}/log,log_level=debug"
    body = """
    import logging
    logging.getLogger("ossfs").info("%s %s hush-hush", config.mountpoint, threading.active_count())
    logging.getLogger("ossfs").info("trio %s", "pyfuse3" in sys.modules)
    ready()
    return 0
    """
    result = mount_with(body, "-o", options, tmp_path=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    log = (tmp_path / "log").read_text()
    assert f"INFO {tmp_path}/place 1 ***" in log
    assert "trio False" in log


def test_mount_tells_why_not(tmp_path: Path) -> None:
    options = f"endpoint=http://127.0.0.1:9,log_file={tmp_path}/log"
    body = """
    from ossfs.errors import MountError
    raise MountError("there is no bucket; make one")
    """
    result = mount_with(body, "-o", options, tmp_path=tmp_path)
    assert (result.returncode, result.stderr) == (1, "ossfs: there is no bucket; make one\n")
    result = mount_with(body, "-f", "-o", options, tmp_path=tmp_path)
    assert (result.returncode, result.stderr) == (1, "ossfs: there is no bucket; make one\n")
    result = mount_with("os._exit(7)", "-o", options, tmp_path=tmp_path)
    assert result.returncode == 1
    assert result.stderr.endswith(f"see {tmp_path}/log\n")


def test_mount_in_the_foreground(tmp_path: Path) -> None:
    body = """
    import logging
    logging.getLogger("ossfs").info("here I am")
    ready()
    return 3
    """
    result = mount_with(body, "-f", "-o", "endpoint=http://127.0.0.1:9", tmp_path=tmp_path)
    assert result.returncode == 3
    assert "INFO here I am" in result.stderr


def test_ctrl_c_is_quiet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(control, "request_unmount", interrupted)
    assert cli.run(["umount", "/m"]) == 130
    assert capsys.readouterr().err == ""


def test_an_error_in_a_group(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def grouped(*_: object) -> None:
        raise ExceptionGroup("trio's", [MountError("one line")])

    monkeypatch.setattr(control, "request_unmount", grouped)
    assert failure(capsys, "umount", "/m") == "ossfs: one line"

    def several(*_: object) -> None:
        raise ExceptionGroup("trio's", [MountError("one"), ValueError("two")])

    monkeypatch.setattr(control, "request_unmount", several)
    with pytest.raises(ExceptionGroup):
        cli.run(["umount", "/m"])


# ---- umount


def test_umount_of_what_is_no_mount(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert failure(capsys, "umount", str(tmp_path)) == f"ossfs: {tmp_path} is not an ossfs mount"
    assert "is not an ossfs mount" in failure(capsys, "umount", str(tmp_path / "missing"))


def test_umount(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def request_unmount(place: str, show: Any) -> list[str]:
        assert place == "/m"
        for done in (0, 120, 120, 300):
            show(UploadProgress(files=3, bytes_done=done << 20, bytes_total=300 << 20))
        show(UploadProgress())
        return []

    monkeypatch.setattr(control, "request_unmount", request_unmount)
    assert cli.run(["umount", "/m"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "ossfs: uploading: 3 files, 0 of 300 MB",
        "ossfs: uploading: 3 files, 120 of 300 MB",
        "ossfs: uploading: 3 files, 300 of 300 MB",
    ]


def test_umount_names_what_failed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "request_unmount", lambda place, show: ["dir/a b.txt", "new\nline"])
    assert cli.run(["umount", "/m"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "ossfs: failed to upload: dir/a b.txt",
        "ossfs: failed to upload: 'new\\nline'",
    ]


def test_umount_of_a_mount_in_use(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> None:
        raise MountBusy("/m is in use")

    monkeypatch.setattr(control, "request_unmount", busy)
    assert failure(capsys, "umount", "/m") == "ossfs: /m is in use"


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with cli.ProgressLine() as show:
        show(UploadProgress(files=1))
        show(UploadProgress(files=1, bytes_done=5, bytes_total=10))
    assert "uploading: 1 file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        ({}, ""),
        ({"files": 0, "bytes_done": 5, "bytes_total": 5}, ""),
        ({"files": 1, "bytes_done": 0, "bytes_total": 0}, "1 file"),
        ({"files": 1, "bytes_done": 5, "bytes_total": 100}, "1 file, 5 of 100 bytes"),
        ({"files": 2, "bytes_done": 5 << 10, "bytes_total": 100 << 10}, "2 files, 5 of 100 KB"),
        ({"files": 3, "bytes_done": 120 << 20, "bytes_total": 300 << 20}, "3 files, 120 of 300 MB"),
        ({"files": 3, "bytes_done": 120 << 30, "bytes_total": (300 << 30) - 1}, "3 files, 120 of 300 GB"),
    ],
)
def test_progress_text(progress: UploadProgress, text: str) -> None:
    assert cli.progress_text(progress) == text


@pytest.mark.parametrize(("place", "why"), [("none/log", "No such file"), (".", "Is a directory")])
def test_a_log_file_that_cannot_be_written(
    place: str, why: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OSS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("OSS_ACCESS_KEY_SECRET", "secret")
    monkeypatch.setattr(mountpoint, "check_fuse", lambda allow_other: None)
    options = f"endpoint=http://127.0.0.1:9,log_file={tmp_path}/{place}"
    line = failure(capsys, "mount", "bucket", str(tmp_path), "-o", options)
    assert f"log_file {tmp_path}" in line and why in line and "accepted" in line


# ---- status: see also test_status_command.py


def test_status_of_the_host(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.run(["status"]) == 0
    assert capsys.readouterr().out == "no bucket is mounted\n"
    fake: list[MountInfo] = []
    monkeypatch.setattr(registry, "read_mountinfo", lambda: fake)
    with Registry().register(mountpoint="/m/a", **BUCKET):
        assert cli.run(["status"]) == 0
        said = f"bucket:/p on /m/a: the mount at /m/a (process {os.getpid()}) is starting or ending"
        assert said in capsys.readouterr().out
        assert cli.run(["status", "--json"]) == 0
        (shown,) = json.loads(capsys.readouterr().out)
        assert (shown["mountpoint"], shown["pid"], shown["state"]) == ("/m/a", os.getpid(), "starting")


# ---- serve


def test_serve_options_belong_together(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--key" in failure(capsys, "serve", str(tmp_path), "--cert", "x.pem")
    monkeypatch.setenv("OSS_ACCESS_KEY_ID", "id")
    assert "OSS_ACCESS_KEY_SECRET" in failure(capsys, "serve", str(tmp_path))


def test_what_serve_prints(tmp_path: Path) -> None:
    text = cli.serving_text("/d", "http://127.0.0.1:1", ("id", "se'cret"), "bkt", None)
    assert text.startswith("serving /d at http://127.0.0.1:1\n")
    assert "export OSS_ACCESS_KEY_ID=id" in text
    assert "export OSS_ACCESS_KEY_SECRET='se'\"'\"'cret'" in text
    assert "ossfs mount bkt /tmp/bucket -o endpoint=http://127.0.0.1:1\n" in text
    text = cli.serving_text("/d", "https://127.0.0.1:1", None, "bkt", tmp_path / "cert.pem")
    assert f"-o endpoint=https://127.0.0.1:1,ca_file={tmp_path}/cert.pem" in text
    assert "export" not in text


def test_serve_until_sigint(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from ossfs.cli import main; main()", "serve", str(tmp_path / "d")]
    with subprocess.Popen([*command, "--bucket", "bkt"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith(f"serving {tmp_path / 'd'} at http://127.0.0.1:")
        server.send_signal(signal.SIGINT)
        rest = server.stdout.read()
        assert server.wait(timeout=30) == 0
    assert "export OSS_ACCESS_KEY_SECRET=" in rest
    assert "ossfs mount bkt " in rest


def test_serve_where_it_cannot(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = os.umask(0o022)
    try:
        failure(capsys, "serve", str(tmp_path / "file"))
        failure(capsys, "serve", str(tmp_path / "d"), "--cert", "/no/cert", "--key", "/no/key")
        assert os.umask(0o022) == 0o022, "the process is as it was"
    finally:
        os.umask(before)


# ---- as a program


def test_main_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ossfs", "--version"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0


def test_the_package_is_a_program_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ossfs", "--version"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("ossfs", run_name="__main__")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"ossfs {__version__}\n"


def test_umount_imports_nothing_large(tmp_path: Path) -> None:
    code = """
    import sys
    from ossfs import cli
    assert cli.run(["umount", sys.argv[1]]) == 1
    large = {"oss2", "requests", "pyfuse3", "pydantic_settings", "ossfs.mount", "ossfs.server", "ossfs.store"}
    print(sorted(large & set(sys.modules)))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stdout == "[]\n"


def test_user_errors_are_found() -> None:
    assert issubclass(MountBusy, UserError)


def test_mount_warns_of_updatedb(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ossfs import updatedb

    asked = []

    def advice(mountpoint: str, *, allow_other: bool) -> str:
        asked.append((mountpoint, allow_other))
        return "updatedb will"

    monkeypatch.setenv("OSS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("OSS_ACCESS_KEY_SECRET", "secret")
    monkeypatch.setattr(mountpoint, "check_fuse", lambda allow_other: None)
    monkeypatch.setattr(updatedb, "advice", advice)
    monkeypatch.setattr(cli, "_serve_mount", lambda *arguments: 0)
    (tmp_path / "m").mkdir()
    options = f"region=cn-x,allow_other,log_file={tmp_path}/log"
    assert cli.run(["mount", "-f", "bucket", str(tmp_path / "m"), "-o", options]) == 0
    assert capsys.readouterr().err == "ossfs: warning: updatedb will\n"
    assert asked == [(str(tmp_path / "m"), True)]


# ---- completion


@pytest.mark.parametrize(
    "words, expected",
    [("ossfs stat", {"status"}), ("ossfs status --w", {"--watch"}), ("ossfs u", {"umount", "url"})],
)
def test_a_shell_completes_commands_and_options(words: str, expected: set[str]) -> None:
    environment = {
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
        "_OSSFS_COMPLETE": "complete_bash",
    }
    done = subprocess.run(
        [sys.executable, "-m", "ossfs"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert set(done.stdout.split()) == expected, done.stderr
