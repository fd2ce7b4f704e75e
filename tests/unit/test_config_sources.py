"""Options, environment and file: which of them counts, and how a mistake in one of them is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ossfs.commands.config import in_force
from ossfs.config import load_config, option_names
from ossfs.errors import ConfigError
from ossfs.limits import MIB
from tests.support.options import complaint, load


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OSSFS_")]:
        monkeypatch.delenv(name)


def test_option_over_environment_over_file_over_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.toml"
    file.write_text('ttl = 1\nnegative_ttl = 1.5\nchunk_size = "20MB"\nro = true\n')
    monkeypatch.setenv("OSSFS_NEGATIVE_TTL", "2")
    monkeypatch.setenv("OSSFS_CHUNK_SIZE", "30MB")
    config = load("chunk_size=40MB", f"config={file}")
    assert (config.ttl, config.negative_ttl, config.chunk_size) == (1.0, 2.0, 40 * MIB)
    assert (config.ro, config.excl) == (True, "local")
    assert config.origins["ttl"] == f"config file {file}, line 1"
    assert config.origins["negative_ttl"] == "environment variable OSSFS_NEGATIVE_TTL"
    assert config.origins["chunk_size"] == "-o"
    assert "excl" not in config.origins


def test_the_file_may_be_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.toml"
    file.write_text("region = 'cn-beijing'\n")
    monkeypatch.setenv("OSSFS_CONFIG", str(file))
    config = load_config("bucket", "/mnt")
    assert config.region == "cn-beijing"
    assert config.config == str(file)


def test_rw_overrides_the_file(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("ro = true\n")
    assert load(f"config={file}").ro is True
    assert load(f"config={file},rw").ro is False


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSSFS_TTL", "")
    assert load().ttl == 5.0
    assert "ttl" not in load().origins


def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSSFS_TTL", "soon")
    assert complaint().startswith("environment variable OSSFS_TTL=soon is no time")


def test_a_misspelt_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSSFS_REGOIN", "cn-hangzhou")
    assert "did you mean OSSFS_REGION?" in complaint()
    monkeypatch.delenv("OSSFS_REGOIN")
    monkeypatch.setenv("OSSFS_SOMEBODY_ELSES", "1")
    monkeypatch.setenv("OSSFS_RUNTIME_DIR", "/x")
    load()


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('passwd_file = "keys"\nca_file = "/etc/ca.pem"\n')
    config = load(f"config={file}")
    assert config.passwd_file == str(tmp_path / "keys")
    assert config.ca_file == "/etc/ca.pem"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("ttl = 'soon'", "ttl = soon"),
        ("chunk_size = '1MB'", "chunk_size = 1MB"),
        ("umask = 22", "umask = 22"),
        ("ro = 'maybe'", "ro = maybe"),
        ("ro = 2", "ro = 2"),
        ("ttl = true", "ttl = True"),
        ("chunk_size = 1.5", "chunk_size = 1.5"),
        ("region = 5", "region = 5"),
        ("endpoint = 5", "endpoint = 5"),
        ("root_directory = 5", "root_directory = 5"),
        ("ca_file = 5", "ca_file = 5"),
        ("regoin = 'x'", "did you mean region?"),
        ("bucket = 'x'", "unknown option bucket"),
        ("ttl = [1]", "ttl is a table or list"),
        ("[ttl]\na = 1", "ttl is a table or list"),
        ("config = 'y'", "config cannot be in a config file"),
    ],
)
def test_a_bad_key_is_named_with_its_file(text: str, named: str, tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text(text)
    line = complaint(f"config={file}", region="" if "region" in text else "region=cn-hangzhou")
    assert line.startswith(f"config file {file}, line 1: ")
    assert named in line


def test_a_mistake_is_named_with_its_file_line_and_key(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    head = '# options\nregion = "cn-hangzhou"\n\n"ttl"=1 # seconds\n'
    for text, said in (
        ("storage_class = 'cheap'", "storage_class = cheap is not accepted; accepted: Standard, IA"),
        ("traffic-limit = '1MB'", "unknown option traffic-limit; did you mean traffic_limit?"),
        ("Traffic_Limit.x = 1", "unknown option Traffic_Limit; did you mean traffic_limit?"),
        ("[mount]\nttl = 2", "unknown option mount; `ossfs mount --help` lists"),
        ("access_key_secret = 'hush'", "access_key_secret is not accepted; credentials are accepted from"),
        ("memory = '1MB'", "memory = 1MB is below the least, 32MB; accepted: 32MB and more"),
    ):
        file.write_text(head + text + "\n")
        line = complaint(f"config={file}", region="")
        assert line.startswith(f"config file {file}, line 5: {said}"), line
        assert "hush" not in line


def test_a_contradiction_names_the_places_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.toml"
    file.write_text('\nencrypt = "AES256"\n')
    line = complaint(f"config={file},kms_key_id=key")
    assert line.endswith(f"without encrypt (kms_key_id: -o; encrypt: config file {file}, line 2)")
    monkeypatch.setenv("OSSFS_KMS_KEY_ID", "key")
    line = complaint(f"config={file}")
    assert line.endswith(
        f"(kms_key_id: environment variable OSSFS_KMS_KEY_ID; encrypt: config file {file}, line 2)"
    )
    assert complaint("encrypt=AES256").endswith(
        "(kms_key_id: environment variable OSSFS_KMS_KEY_ID; encrypt: -o)"
    )
    monkeypatch.delenv("OSSFS_KMS_KEY_ID")
    assert complaint("encrypt=AES256,kms_key_id=key").endswith("without encrypt")


def test_where_the_values_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.toml"
    file.write_text('acl="private"\nstorage_class="ia"\nrequester_pays = true\ntraffic_limit = "8Mbit"\n')
    monkeypatch.setenv("OSSFS_KMS_KEY_ID", "key")
    rows = {
        name: (value, origin) for name, value, origin in in_force(load(f"config={file}", "keep_acl=never"))
    }
    assert rows["acl"] == ("private", f"config file {file}, line 1")
    assert rows["storage_class"] == ("IA", f"config file {file}, line 2")
    assert rows["requester_pays"] == (True, f"config file {file}, line 3")
    assert rows["traffic_limit"] == ("8000000", f"config file {file}, line 4")
    assert rows["kms_key_id"] == ("key", "environment variable OSSFS_KMS_KEY_ID")
    assert rows["keep_acl"] == ("never", "-o")
    assert rows["encrypt"] == (None, "default")
    assert set(rows) == set(option_names())


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    for content, said in ((b"a = = b", "is no TOML"), (b"\xff", "is not UTF-8"), (None, "cannot be read")):
        if content is None:
            file = tmp_path / "missing.toml"
        else:
            file.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            load(f"config={file}")
        assert str(file) in str(caught.value)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


def test_line_of_the_mistake_is_said(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("ttl = 1\nro = maybe\n")
    with pytest.raises(ConfigError, match="line 2"):
        load(f"config={file}")
