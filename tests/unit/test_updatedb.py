"""updatedb.conf: would updatedb crawl the mount?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ossfs import checks, updatedb
from ossfs.config import load_config
from ossfs.updatedb import advice, crawled

DEBIAN = """\
PRUNE_BIND_MOUNTS="yes"
# PRUNENAMES=".git .bzr .hg .svn"
PRUNEPATHS="/tmp /var/spool /media /var/lib/os-prober /var/lib/ceph"
PRUNEFS="NFS afs nfs4 ftpfs curlftpfs smbfs sshfs fusesmb fuse.glusterfs fuse.sshfs lustre fuse"
"""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    return tmp_path / "updatedb.conf"


@pytest.mark.parametrize(
    ("text", "place", "answer"),
    [
        (DEBIAN, "/mnt/bucket", True),
        (DEBIAN, "/media/bucket", False),
        (DEBIAN, "/media", False),
        (DEBIAN, "/mediathek", True),
        (DEBIAN, "/mnt/tmp", True),
        (DEBIAN.replace("sshfs ", "fuse.ossfs "), "/mnt/bucket", False),
        ('PRUNEFS = "FUSE.OSSFS"\n', "/mnt", False),
        ('#PRUNEFS = "fuse.ossfs"\n', "/mnt", True),
        ('PRUNEFS = "fuse.ossfsx"\n', "/mnt", True),
        ('PRUNENAMES = "bucket .git"\n', "/mnt/bucket/deeper", False),
        ('PRUNEPATHS = "/mnt/"\n', "/mnt/bucket", False),
        ('PRUNEPATHS = "/"\n', "/mnt", False),
        ("", "/mnt", True),
        ("garbage \x00\n", "/mnt", True),
    ],
)
def test_what_is_crawled(conf: Path, text: str, place: str, answer: bool) -> None:
    conf.write_text(text)
    assert crawled(place, conf=str(conf)) is answer


def test_without_the_file_there_is_no_updatedb(conf: Path) -> None:
    assert not crawled("/mnt", conf=str(conf))


def test_who_is_told(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """root, who runs updatedb, cannot enter a mount of others without allow_other."""
    conf.write_text(DEBIAN)
    for uid, allow_other, told in ((0, False, True), (1000, False, False), (1000, True, True)):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        line = advice("/mnt", allow_other=allow_other, conf=str(conf))
        assert bool(line) is told
        if told:
            assert "/mnt" in line and f"add fuse.ossfs to PRUNEFS in {conf}" in line and "\n" not in line
    assert not advice("/tmp/x", allow_other=True, conf=str(conf))
    assert updatedb.UPDATEDB_CONF == "/etc/updatedb.conf"


def test_check_notes_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = load_config("bkt", "/", ["region=cn-x,allow_other"])
    monkeypatch.setattr(checks, "advice", lambda place, *, allow_other: f"it will crawl {place}; stop it")
    notes = [one for one in checks.check_machine(config, str(tmp_path)) if one.what == "updatedb"]
    assert notes == [checks.Finding("updatedb", "note", f"it will crawl {tmp_path}", "stop it")]
    assert not [one for one in checks.check_machine(config, None) if one.what == "updatedb"]
