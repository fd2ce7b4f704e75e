"""What docs/security.md claims of secrets, and of directories and files that somebody else may have made."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ossfs import journal, logs
from ossfs.cache.directory import CacheDirectory
from ossfs.config import load_config
from ossfs.errors import MountError
from ossfs.fuse.kernel import mount_options
from ossfs.private import check_private
from ossfs.registry import Registry
from ossfs.store.chain import Wanted, load_credentials
from ossfs.store.credentials import Credentials, RefreshingCredentials, StaticCredentials, make_auth
from ossfs.store.passwd_file import PasswdFile
from ossfs.store.profiles import read_aliyun
from tests.support.memory_store import MemoryStore

SECRET = "hush-hush-hush"
TOKEN = "token-of-the-hush"


@pytest.fixture
def to_another(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Give a file or link to another user; or, who may not, become another."""

    def give(path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, 54321, -1, follow_symlinks=False)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: 54321)

    return give


# --------------------------------------------------------------------------------------------------
# Secrets.


def shown(thing: object) -> str:
    """All that a debugger's or a log's first look shows."""
    return f"{thing!r} {thing!s} {vars(thing) if hasattr(thing, '__dict__') else ''}"


def test_credentials_show_no_secret() -> None:
    keys = Credentials("LTAI", SECRET, TOKEN, 5.0)
    for thing in (keys, [keys], {"keys": keys}, StaticCredentials(keys)):
        assert SECRET not in f"{thing!r} {thing!s}" and TOKEN not in f"{thing!r} {thing!s}"
    assert "LTAI" in repr(keys)


def test_providers_and_profiles_show_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_SECRET_VALUES", set())
    passwd = tmp_path / "passwd"
    passwd.write_text(f"LTAI:{SECRET}\n")
    passwd.chmod(0o600)
    aliyun = tmp_path / "config.json"
    aliyun.write_text(
        json.dumps(
            {
                "profiles": [
                    {
                        "name": "default",
                        "mode": "StsToken",
                        "access_key_id": "LTAI",
                        "access_key_secret": SECRET,
                        "sts_token": TOKEN,
                    }
                ]
            }
        )
    )
    things: list[Any] = [
        PasswdFile("bucket", str(passwd)),
        RefreshingCredentials("s", lambda: Credentials("LTAI", SECRET, TOKEN)),
        load_credentials(Wanted("bucket"), {"OSS_ACCESS_KEY_ID": "LTAI", "OSS_ACCESS_KEY_SECRET": SECRET}),
        *read_aliyun(str(aliyun), None),
    ]
    for thing in things:
        assert SECRET not in f"{thing!r} {thing!s}" and TOKEN not in f"{thing!r} {thing!s}"
    for region in (None, "cn-hangzhou"):
        auth = make_auth(StaticCredentials(Credentials("LTAI", SECRET, TOKEN)), region)
        assert SECRET not in shown(auth) and TOKEN not in shown(auth)


def test_credentials_cannot_be_pickled_or_copied() -> None:
    keys = Credentials("LTAI", SECRET)
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="credentials are not copied or pickled"):
            leak(keys)


def test_a_configuration_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSS_ACCESS_KEY_ID", "LTAI")
    monkeypatch.setenv("OSS_ACCESS_KEY_SECRET", SECRET)
    monkeypatch.setenv("OSS_SESSION_TOKEN", TOKEN)
    config = load_config("bucket", "/m", ["region=cn-hangzhou"])
    for text in (shown(config), json.dumps(config.to_dict()), pickle.dumps(config).decode("latin-1")):
        assert SECRET not in text and TOKEN not in text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    logs.set_up(log_file=str(path))
    return path


@pytest.mark.parametrize("region", [None, "cn-hangzhou"])
def test_a_presigned_url_in_the_log_has_no_signature(
    file: Path, region: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import oss2

    monkeypatch.setattr(logs, "_SECRET_VALUES", set())  # by its form, and not because the token is known
    auth = make_auth(StaticCredentials(Credentials("LTAI", SECRET, TOKEN)), region)
    url = oss2.Bucket(auth, "http://oss.invalid", "bucket", region=region).sign_url("GET", "key", 60)
    signature = url.rpartition("ignature=")[2].partition("&")[0]
    assert len(signature) > 20 and TOKEN in url
    logging.getLogger("ossfs").warning("cannot read %s", url)
    try:
        raise RuntimeError(url)
    except RuntimeError:
        logging.getLogger("ossfs").exception("cannot read it")
    text = file.read_text()
    assert text.count("oss.invalid") >= 2
    assert signature not in text and TOKEN not in text and SECRET not in text


def test_control_characters_of_a_key_do_not_reach_the_log(file: Path) -> None:
    logging.getLogger("ossfs").warning("cannot read %s", "a\x1b[2Jb\r\n2024-01-01 ERROR forged\x9b31m\x07")
    text = file.read_text()
    assert text.count("\n") == 1 and text.endswith("\n")
    assert text.rstrip("\n").isprintable()
    assert r"a\x1b[2Jb | 2024-01-01 ERROR forged\x9b31m\x07" in text


# --------------------------------------------------------------------------------------------------
# Directories and files that somebody else may have made.


def cache(root: Path) -> CacheDirectory:
    return CacheDirectory(str(root), endpoint="http://e", bucket="b", prefix="")


def test_a_directory_of_another_user_is_refused(tmp_path: Path, to_another: Callable[[Path], None]) -> None:
    place = tmp_path / "place"
    place.mkdir(0o700)
    check_private(str(place), "state_dir")
    to_another(place)
    with pytest.raises(MountError, match=r"^state_dir /.*/place belongs to uid \d+; accepted: "):
        check_private(str(place), "state_dir")


def test_a_link_that_another_user_planted_is_refused(
    tmp_path: Path, to_another: Callable[[Path], None]
) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir(0o700)
    link.symlink_to(real)
    check_private(str(link), "cache_dir")
    to_another(link)
    with pytest.raises(MountError, match=r"^cache_dir /.*/link is a symbolic link of uid \d+; accepted: "):
        check_private(str(link), "cache_dir")
    with pytest.raises(MountError, match="symbolic link"):
        cache(link)
    assert not list(real.iterdir())


@pytest.mark.parametrize("mode", [0o770, 0o777])
def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(mode)
    for shared in (False, True):
        with pytest.raises(MountError, match=rf"^state_dir /.* has mode {mode:04o}: others can write to it"):
            check_private(str(place), "state_dir", shared=shared)


def test_a_cache_may_lie_in_a_sticky_directory_and_a_journal_may_not(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o1777)
    with cache(place) as made:
        assert stat.S_IMODE(os.stat(made.path).st_mode) == 0o700
    with pytest.raises(MountError, match="has mode 1777"):
        check_private(str(place), "state_dir")


def test_a_cache_that_others_could_write_to_is_refused(tmp_path: Path) -> None:
    with cache(tmp_path) as made:
        path = made.path
    os.chmod(path, 0o777)
    with pytest.raises(MountError, match="has mode 0777: others can write to it"):
        cache(tmp_path)


def test_a_cache_that_another_user_made_first_is_refused(
    tmp_path: Path, to_another: Callable[[Path], None]
) -> None:
    with cache(tmp_path) as made:
        path = Path(made.path)
    to_another(path)
    with pytest.raises(MountError, match=r"belongs to uid \d+"):
        cache(tmp_path)


def test_links_in_place_of_a_cache_are_not_followed(tmp_path: Path) -> None:
    with cache(tmp_path) as made:
        path = Path(made.path)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (path / "lock").unlink()
    (path / "lock").symlink_to(victim)
    with pytest.raises(MountError, match=r"^cache_dir "):
        cache(tmp_path)
    assert victim.read_text() == "precious"
    (path / "lock").unlink()
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(MountError, match=r"^cache_dir "):
        cache(tmp_path)


async def test_a_journal_of_another_user_is_not_believed(
    tmp_path: Path, to_another: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    await store.put("precious", [b"x"], journal_headers())
    planted = tmp_path / "aa.journal"
    lines = [
        {"do": "mount", "bucket": "b", "endpoint": "e"},
        {"do": "hidden", "key": "precious"},
    ]
    planted.write_text("".join(json.dumps(line) + "\n" for line in lines))
    to_another(planted)
    assert await journal.sweep(store, str(tmp_path), "b", "e") == 0
    assert (await store.head("precious")).size == 1
    assert "nothing in it is believed" in caplog.text
    assert planted.exists()


def journal_headers() -> Any:
    from ossfs.store.base import ObjectHeaders

    return ObjectHeaders()


def test_a_journal_is_not_written_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "aa.journal").symlink_to(victim)
    with pytest.raises(OSError):
        journal.FileJournal(str(tmp_path), "aa", "b", "e")
    assert victim.read_text() == "precious"


# Root looks at the registries of all users.


@pytest.fixture
def foreign(tmp_path: Path) -> Registry:
    """A registry of somebody else."""
    return Registry(str(tmp_path), owner=os.getuid() + 1)


RECORD: dict[str, Any] = {
    "mount_id": "../../x",
    "pid": 1,
    "bucket": "b",
    "prefix": "",
    "endpoint": "e",
    "mountpoint": "/m",
    "state": "mounted",
    "socket": "/run/somebody.sock",
}


def plant(directory: Path, record: object) -> int:
    """A mount that seems to live, with this record; the descriptor that keeps it so."""
    import fcntl

    fd = os.open(directory / "aa.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    (directory / "aa.json").write_text(json.dumps(record))
    return fd


def test_root_removes_nothing_in_directories_of_others(foreign: Registry, tmp_path: Path) -> None:
    (tmp_path / "passwd.lock").touch()
    assert foreign.mounts() == []
    assert (tmp_path / "passwd.lock").exists()


def test_a_record_sends_nobody_to_another_socket(tmp_path: Path) -> None:
    fd = plant(tmp_path, RECORD)
    try:
        (found,) = Registry(str(tmp_path)).mounts()
    finally:
        os.close(fd)
    assert found.socket == str(tmp_path / "aa.sock") and found.mount_id == "aa"


@pytest.mark.parametrize(
    "record",
    [
        {**RECORD, "pid": "1"},
        {**RECORD, "mountpoint": ["/"]},
        {**RECORD, "started": "now"},
        {**RECORD, "more": 1},
        [],
        "text",
        {**RECORD, "bucket": "b" * 100_000},
    ],
)
def test_a_record_of_another_form_is_passed_over(
    tmp_path: Path, record: object, caplog: pytest.LogCaptureFixture
) -> None:
    fd = plant(tmp_path, record)
    try:
        assert Registry(str(tmp_path)).mounts() == []
    finally:
        os.close(fd)
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize("kind", ["pipe", "link", "directory"])
def test_a_record_that_is_no_ordinary_file_holds_nobody_up(tmp_path: Path, kind: str) -> None:
    fd = plant(tmp_path, RECORD)
    path = tmp_path / "aa.json"
    path.rename(tmp_path / "real")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(tmp_path / "real")
    else:
        path.mkdir()
    try:
        assert Registry(str(tmp_path)).mounts() == []
    finally:
        os.close(fd)


def test_a_record_of_the_wrong_owner_is_passed_over(foreign: Registry, tmp_path: Path) -> None:
    fd = plant(tmp_path, RECORD)
    try:
        assert foreign.mounts() == []
        assert len(Registry(str(tmp_path)).mounts()) == 1
    finally:
        os.close(fd)


# --------------------------------------------------------------------------------------------------
# The kernel's side, and the embedded server.


@pytest.mark.parametrize("allow_other", [False, True])
@pytest.mark.parametrize("read_only", [False, True])
def test_permissions_are_checked_whatever_the_options(allow_other: bool, read_only: bool) -> None:
    options = mount_options(
        "bucket,allow_other", allow_other=allow_other, read_only=read_only, flags=("noexec", "default")
    )
    assert "default_permissions" in options
    assert ("allow_other" in options) == allow_other
    assert not options & {"suid", "dev"}


def test_what_the_server_keeps_is_for_its_owner(tmp_path: Path) -> None:
    """Also in a directory that others may look into."""
    directory = tmp_path / "data"
    directory.mkdir(0o755)
    server = subprocess.Popen(
        [sys.executable, "-m", "ossfs.server", directory, "--bucket", "demo"],
        stdout=subprocess.PIPE,
        text=True,
        umask=0o022,
    )
    timer = threading.Timer(30, server.kill)
    timer.start()
    try:
        assert server.stdout is not None
        assert "listening" in server.stdout.readline()
        found = {path: path.stat().st_mode for path in directory.rglob("*")}
        assert len(found) > 3
        assert not [str(path) for path, mode in found.items() if mode & 0o077]
    finally:
        timer.cancel()
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=20)
