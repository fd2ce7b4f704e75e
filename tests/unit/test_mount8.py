"""The helpers of mount(8): how they are called, what they answer, and how they get to /sbin."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ossfs import cli, control, mount8
from ossfs.commands.helper import helper_script
from ossfs.errors import ConfigError, MountError
from ossfs.mount8 import HELPERS, options_of

MOUNT, UMOUNT = "/sbin/mount.ossfs", "/sbin/umount.fuse.ossfs"

pytestmark = pytest.mark.usefixtures("restore_logging")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OSSFS_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("OSS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("OSS_ACCESS_KEY_SECRET", "hush")


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


# -- mount ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["bucket"], "mountpoint"),
        (["bucket", "/mnt", "more"], "more"),
        (["bucket", "/mnt", "-z"], "-z"),
        (["bucket", "/mnt", "-o"], "-o"),
        (["bucket", "/mnt", "-t", "ext4"], "ext4"),
        (["bucket", "/mnt", "-N", "/run/ns"], "nsenter --mount=/run/ns"),
        (["BUCKET", "/mnt", "-o", "region=cn-x"], "no bucket name"),
        (["bucket", "/mnt", "-o", "regoin=cn-x"], "did you mean region?"),
        (["bucket", "/mnt", "-o", "ttl=soon,region=cn-x"], "ttl=soon"),
        (["bucket", "/mnt", "-o", "config=/no/such.toml"], "config file /no/such.toml"),
        (["bucket", "/mnt", "-o", "region=cn-x,remount,ro"], "remount is not supported"),
    ],
)
def test_what_is_asked_wrongly_has_status_1(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mount8.run(MOUNT, arguments) == 1
    line = said(capsys)
    assert line.startswith("mount.ossfs: ") and word in line


def test_a_mount_that_fails_has_status_32(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    assert mount8.run(MOUNT, ["bucket", str(absent), "-o", "region=cn-x"]) == 32
    assert "does not exist" in said(capsys)


@pytest.mark.parametrize(
    "error, status",
    [
        (MountError("m"), 32),
        (ExceptionGroup("g", [MountError("m")]), 32),
        (ConfigError("c"), 1),
        (BlockingIOError(11, "cannot fork"), 2),
        (MemoryError(), 2),
        (ValueError("v"), 4),
        (ExceptionGroup("g", [ValueError("v"), KeyError("k")]), 4),
    ],
)
def test_statuses_of_mount_8(
    error: Exception, status: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise error

    monkeypatch.setattr(cli, "mount", fail)
    assert mount8.run(MOUNT, ["bucket", "/mnt"]) == status
    assert said(capsys).startswith("mount.ossfs: ")


def test_an_interrupt_has_status_8(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "mount", interrupt)
    assert mount8.run(MOUNT, ["bucket", "/mnt"]) == 8


def test_a_fake_mount_looks_at_everything_and_mounts_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ossfs.mountpoint.check_fuse", lambda allow_other: None)
    monkeypatch.setattr(cli, "mount", lambda *_, **__: pytest.fail("it was mounted"))
    arguments = ["-f", "bucket", str(tmp_path), "-n", "-o", "region=cn-x,nonempty"]
    assert mount8.run(MOUNT, arguments) == 0
    assert mount8.run(MOUNT, [*arguments, "-o", "ttl=x"]) == 1
    monkeypatch.delenv("OSS_ACCESS_KEY_SECRET")
    assert mount8.run(MOUNT, arguments) == 1
    assert "OSS_ACCESS_KEY_SECRET is missing" in capsys.readouterr().err


def test_sloppy_leaves_unknown_options_out_and_secrets_refused(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["rw,url=http://x,ttl=1,_netdev,noatime,x-systemd.automount", "allow_otter"]
    assert options_of(asked, sloppy=True) == (
        ["ttl=1", "_netdev", "noatime", "x-systemd.automount"],
        ["url=http://x", "allow_otter"],
    )
    assert mount8.run(MOUNT, ["bucket", "/mnt", "-s", "-o", "region=cn-x,secret=hush-hush"]) == 1
    line = said(capsys)
    assert "secret is not accepted" in line and "hush-hush" not in line


def test_the_rw_of_mount_8_does_not_override_a_config_file(tmp_path: Path) -> None:
    from ossfs.config import load_config

    file = tmp_path / "ro.toml"
    file.write_text('ro = true\nregion = "cn-x"\n')
    options, _ = options_of([f"rw,config={file}"])
    assert load_config("bucket", "/mnt", options).ro
    options, _ = options_of(["rw,ro,region=cn-x"])
    assert load_config("bucket", "/mnt", options).ro


def test_commas_in_values_stay() -> None:
    assert options_of([r"ttl=1,credential_process=a\,b"]) == (["ttl=1", r"credential_process=a\,b"], [])


def test_the_source_is_shown_as_it_was_written() -> None:
    """`mount -a` compares what the kernel shows with /etc/fstab."""
    from ossfs.config import load_config

    for source in ("bucket", "bucket:/a/b", "oss://bucket/a/b", "oss://bucket/a/b/"):
        assert load_config(source, "/mnt", ["region=cn-x"]).fsname == source


# -- umount -----------------------------------------------------------------------------------------


def test_umount_of_what_is_no_mount(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert mount8.run(UMOUNT, [str(tmp_path), "-n", "-t", "fuse.ossfs"]) == 32
    assert said(capsys) == f"umount.fuse.ossfs: {tmp_path} is not an ossfs mount\n"
    assert mount8.run(UMOUNT, []) == 1
    assert "mountpoint" in said(capsys)
    assert mount8.run(UMOUNT, ["/mnt", "-N", "/run/ns"]) == 1


BUSY = control.MountBusy("in use")
HANGS = MountError("does not answer")
UNKNOWN = control.MountUnknown("another user's")


@pytest.mark.parametrize(
    "error, flags, status, command",
    [
        (None, ["-v"], 0, None),
        (control.MountDied("dead"), [], 0, None),
        (BUSY, [], 32, None),
        (BUSY, ["-f"], 32, None),
        (BUSY, ["-l"], 0, ["umount", "-i", "-l", "--", "/mnt"]),
        (BUSY, ["-r"], 0, ["mount", "-i", "-o", "remount,ro", "--", "/mnt"]),
        (HANGS, [], 32, None),
        (HANGS, ["-r"], 32, None),
        (HANGS, ["-l"], 0, ["umount", "-i", "-l", "--", "/mnt"]),
        (HANGS, ["-f"], 0, ["umount", "-i", "-l", "-f", "--", "/mnt"]),
        (UNKNOWN, [], 0, ["umount", "-i", "--", "/mnt"]),
        (UNKNOWN, ["-l"], 0, ["umount", "-i", "-l", "--", "/mnt"]),
    ],
)
def test_flags_of_umount(
    error: MountError | None,
    flags: list[str],
    status: int,
    command: list[str] | None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unmount(place: str, _show: object) -> list[str]:
        assert place == "/mnt"
        if error is not None:
            raise error
        return []

    ran: list[list[str]] = []
    monkeypatch.setattr(control, "request_unmount", unmount)
    monkeypatch.setattr(mount8, "_is_mounted", lambda place: place == "/mnt")
    monkeypatch.setattr(mount8, "_run", lambda *words: ran.append(list(words)))
    assert mount8.run(UMOUNT, ["/mnt", *flags]) == status
    assert ran == ([command] if command else [])
    assert said(capsys).startswith("umount.fuse.ossfs: ")


def test_what_is_unmounted_already_is_not_detached(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another mount namespace still has it: nothing more can be done here."""

    def held(place: str, _show: object) -> list[str]:
        raise MountError("another mount namespace still has it")

    monkeypatch.setattr(control, "request_unmount", held)
    monkeypatch.setattr(mount8, "_run", lambda *words: pytest.fail(" ".join(words)))
    assert mount8.run(UMOUNT, ["/mnt", "-l", "-f"]) == 32
    assert "another mount namespace" in said(capsys)


def test_on_an_autofs_the_helper_itself_unmounts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process of the mount would wait at the mount point until it is gone."""

    def flush_and_unmount(place: str, unmount: Callable[[str], None], _show: object) -> list[str]:
        unmount(place)
        return []

    ran: list[list[str]] = []
    monkeypatch.setattr("ossfs.mountpoint.is_on_autofs", lambda place: place == "/mnt")
    monkeypatch.setattr(control, "flush_and_unmount", flush_and_unmount)
    monkeypatch.setattr(mount8, "_run", lambda *words: ran.append(list(words)))
    assert mount8.run(UMOUNT, ["/mnt"]) == 0
    assert ran == [["umount", "-i", "--", "/mnt"]]
    assert capsys.readouterr() == ("", "")


def test_what_did_not_reach_the_bucket_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "request_unmount", lambda place, show: ["a", "b\n"])
    assert mount8.run(UMOUNT, ["/mnt"]) == 32
    assert capsys.readouterr().err.splitlines() == [
        "umount.fuse.ossfs: failed to upload: a",
        "umount.fuse.ossfs: failed to upload: 'b\\n'",
    ]


def test_a_command_that_fails_says_why(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(MountError, match=r"^umount failed: .*not mounted"):
        mount8._run("umount", "-i", "--", str(tmp_path))


# -- /sbin ------------------------------------------------------------------------------------------


def install(*arguments: str, status: int = 0) -> None:
    assert cli.run(["install-helper", *arguments]) == status


def test_helpers_are_installed_once_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sbin = tmp_path / "sbin"
    asked = ("--prefix", str(tmp_path))

    def lines(what: str) -> list[str]:
        return [f"{sbin / name}: {what}" for name in HELPERS]

    install(*asked)
    assert capsys.readouterr().out.splitlines() == lines("installed")
    assert sorted(path.name for path in sbin.iterdir()) == sorted(HELPERS)
    assert all(path.stat().st_mode & 0o7777 == 0o755 for path in sbin.iterdir())
    install(*asked)
    assert capsys.readouterr().out.splitlines() == lines("is up to date")
    (sbin / HELPERS[0]).write_text(helper_script("/gone/bin/python"))
    install(*asked)
    assert capsys.readouterr().out.splitlines()[0] == f"{sbin / HELPERS[0]}: replaced"
    assert (sbin / HELPERS[0]).read_text() == helper_script()
    install(*asked, "--remove")
    assert capsys.readouterr().out.splitlines() == lines("removed")
    install(*asked, "--remove")
    assert capsys.readouterr().out.splitlines() == lines("is not there")
    assert not list(sbin.iterdir())


def test_other_programs_helpers_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sbin").mkdir()
    other = tmp_path / "sbin" / HELPERS[0]
    other.write_text("#!/bin/sh\nexec something-else\n")
    install("--prefix", str(tmp_path), status=1)
    assert f"{other} is not of ossfs" in capsys.readouterr().err
    install("--prefix", str(tmp_path), "--remove")
    assert f"{other}: is not of ossfs, left alone" in capsys.readouterr().out
    assert other.read_text() == "#!/bin/sh\nexec something-else\n"
    other.unlink()
    other.symlink_to("/no/such/file")
    install("--prefix", str(tmp_path), status=1)
    assert other.is_symlink()


def test_a_place_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    install("--prefix", str(tmp_path / "file"), status=1)
    assert "cannot be written: " in capsys.readouterr().err


def test_a_helper_runs_this_ossfs_and_nothing_of_where_it_is_called(tmp_path: Path) -> None:
    install("--prefix", str(tmp_path))
    (tmp_path / "ossfs.py").write_text("raise SystemExit('the wrong one')\n")
    done = subprocess.run(
        [tmp_path / "sbin" / "mount.ossfs", "bucket"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("mount.ossfs: the following arguments are required: mountpoint; usage: ")
    assert sys.executable in helper_script()
