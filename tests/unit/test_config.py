"""Options, environment, file and defaults; and what is said of each value that cannot be accepted."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossfs import config as config_module
from ossfs.access import keep_acl, written_as
from ossfs.arguments import parse_source, split_options
from ossfs.config import (
    MountConfig,
    load_config,
    option_names,
    parse_options,
    read_file,
)
from ossfs.errors import ConfigError
from ossfs.limits import GIB, KIB, MIB
from ossfs.store.base import BucketInfo, StoredAs
from ossfs.values import default_memory, default_state_dir, format_size, parse_size
from tests.support.options import complaint, load

EXAMPLE = Path(__file__).parents[2] / "systemd" / "ossfs.toml.example"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OSSFS_")]:
        monkeypatch.delenv(name)


# ---- SOURCE


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("bucket", ("bucket", "")),
        ("bucket:", ("bucket", "")),
        ("bucket:/", ("bucket", "")),
        ("bucket:/a/b", ("bucket", "a/b")),
        ("bucket:/a/b/", ("bucket", "a/b")),
        ("bucket:/with space/é", ("bucket", "with space/é")),
        ("bucket:/a:b", ("bucket", "a:b")),
        ("oss://bucket", ("bucket", "")),
        ("oss://bucket/", ("bucket", "")),
        ("OSS://bucket/a/b/", ("bucket", "a/b")),
    ],
)
def test_sources(source: str, expected: tuple[str, str]) -> None:
    assert parse_source(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "", ":/x", "oss://", "oss:///x", "s3://bucket", "Bucket", "ab", "-bucket", "bucket-", "bu_cket",
        "b" * 64, "bucket:x", "bucket/x", "bucket:/a//b", "bucket:/a/../b", "bucket:/.", "bucket:/a\0b",
        "bucket:/" + "x" * 1022, "bucket:/\udcff",
    ],
)  # fmt: skip
def test_bad_sources_are_one_line(source: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_source(source)
    assert str(caught.value).startswith("SOURCE ")
    assert "accepted" in str(caught.value)
    assert str(caught.value).isprintable()


def test_empty_mountpoint() -> None:
    with pytest.raises(ConfigError, match="MOUNTPOINT"):
        load(mountpoint="")


def test_root_directory_is_the_prefix() -> None:
    assert load("root_directory=/a/b/").prefix == "a/b"
    assert load("root_directory=a/b", source="bucket:/a/b").prefix == "a/b"
    assert load("root_directory=/", source="bucket:/a/b").prefix == "a/b"
    assert load().prefix == ""
    line = complaint("root_directory=x", source="bucket:/a")
    assert "root_directory" in line
    assert "SOURCE" in line


def test_source_as_it_is_shown() -> None:
    assert load().source == "bucket"
    assert load(source="oss://bucket/a/").source == "bucket:/a"


# ---- endpoint


@pytest.mark.parametrize(
    ("options", "url"),
    [
        (["region=cn-hangzhou"], "https://oss-cn-hangzhou.aliyuncs.com"),
        (["region=oss-cn-hangzhou"], "https://oss-cn-hangzhou.aliyuncs.com"),
        (["region=cn-hangzhou,internal"], "https://oss-cn-hangzhou-internal.aliyuncs.com"),
        (["region=cn-hangzhou,secure=false"], "http://oss-cn-hangzhou.aliyuncs.com"),
        (["region=us-west-1,internal=yes,secure=off"], "http://oss-us-west-1-internal.aliyuncs.com"),
        (["endpoint=oss.example.com"], "https://oss.example.com"),
        (["endpoint=oss.example.com:8443/"], "https://oss.example.com:8443"),
        (["endpoint=127.0.0.1:9000,secure=0"], "http://127.0.0.1:9000"),
        (["endpoint=http://127.0.0.1:9000"], "http://127.0.0.1:9000"),
        (["endpoint=https://[::1]:9000"], "https://[::1]:9000"),
        (["endpoint=https://x.example,region=cn-hangzhou"], "https://x.example"),
    ],
)
def test_endpoint_url(options: list[str], url: str) -> None:
    assert load_config("bucket", "/mnt", options).endpoint_url == url


@pytest.mark.parametrize(
    ("option", "region"),
    [
        ("region=cn-beijing", "cn-beijing"),
        ("endpoint=oss-cn-beijing.aliyuncs.com", "cn-beijing"),
        ("endpoint=http://oss-cn-beijing-internal.aliyuncs.com", "cn-beijing"),
        ("endpoint=127.0.0.1:80", None),
        ("endpoint=oss-accelerate.aliyuncs.com", None),
    ],
)
def test_region_for_signing(option: str, region: str | None) -> None:
    assert load_config("bucket", "/mnt", [option]).signing_region == region


def test_neither_region_nor_endpoint() -> None:
    line = complaint(region="")
    assert line.startswith("region is missing")
    assert "endpoint" in line


@pytest.mark.parametrize(
    "options",
    [
        "endpoint=http://x.example,secure=true",
        "endpoint=https://x.example,secure=false",
        "endpoint=oss-cn-hangzhou.aliyuncs.com,internal",
        "endpoint=bucket.oss-cn-hangzhou.aliyuncs.com",
        "endpoint=ftp://x.example",
        "endpoint=http://x.example/path",
        "endpoint=http://x.example?q",
        "endpoint=http://",
        "endpoint=",
        "endpoint=a b",
        "endpoint=x.example:port",
        "endpoint=x.example:0",
        "region=hangzhou",
        "region=cn-hangzhou-internal",
        "region=",
        "region=cn hangzhou",
    ],
)
def test_bad_endpoints_and_regions(options: str) -> None:
    assert options.split("=")[0] in complaint(options, region="")


def test_secrets_in_an_endpoint_are_not_repeated() -> None:
    line = complaint("endpoint=https://id:hush-hush@x.example", region="")
    assert "hush" not in line
    assert "OSS_ACCESS_KEY_ID" in line


# ---- values


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("10485760", 10 * MIB), ("10MB", 10 * MIB), ("10MiB", 10 * MIB), ("10m", 10 * MIB),
        ("10 mb", 10 * MIB),
        ("1G", GIB), ("1gib", GIB), ("1.5GB", 3 * GIB // 2), ("512k", 512 * KIB), ("7b", 7),
        ("1t", 1024 * GIB), (5 * MIB, 5 * MIB),
    ],
)  # fmt: skip
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1", "1,5MB", "10XB", "0x10", "1e6", True, 1.5, None, "10MBs"])
def test_bad_sizes(text: object) -> None:
    with pytest.raises(ValueError, match="accepted"):
        parse_size(text)


@given(st.integers(min_value=0, max_value=2**50))
def test_a_size_survives_being_shown(size: int) -> None:
    assert parse_size(format_size(size)) == size


def test_chunk_size() -> None:
    assert load().chunk_size == 10 * MIB
    assert load("chunk_size=5MB").chunk_size == 5 * MIB
    assert load("chunk_size=5GB").chunk_size == 5 * GIB
    assert "5MB" in complaint("chunk_size=4MB")
    assert "5MB" in complaint("chunk_size=5242879")
    assert "5GB" in complaint("chunk_size=6GB")
    assert complaint("chunk_size=ten").startswith("-o chunk_size=ten ")


@pytest.mark.parametrize("word", ["true", "yes", "on", "1", "TRUE", "Yes"])
def test_true(word: str) -> None:
    assert load(f"allow_other={word}").allow_other is True


@pytest.mark.parametrize("word", ["false", "no", "off", "0", "False"])
def test_false(word: str) -> None:
    assert load(f"secure={word}").secure is False


def test_a_bare_name_is_true() -> None:
    config = load("allow_other,nonempty,ro,encrypt")
    assert (config.allow_other, config.nonempty, config.ro, config.encrypt) == (True, True, True, "AES256")


@pytest.mark.parametrize("name", ["secure", "internal", "ro", "allow_other", "nonempty"])
def test_bad_booleans(name: str) -> None:
    line = complaint(f"{name}=maybe")
    assert line.startswith(f"-o {name}=maybe ")
    assert "true" in line
    assert "false" in line


@pytest.mark.parametrize("name", ["region", "chunk_size", "ttl", "umask", "uid", "config", "passwd_file"])
def test_a_value_is_needed(name: str) -> None:
    assert complaint(name).startswith(f"-o {name} has no value")


@pytest.mark.parametrize(
    ("word", "value"),
    [("true", "AES256"), ("aes256", "AES256"), ("KMS", "KMS"), ("sm4", "SM4"), ("false", None), ("0", None)],
)
def test_encrypt(word: str, value: str | None) -> None:
    assert load(f"encrypt={word}").encrypt == value


def test_how_what_is_written_is_kept() -> None:
    config = load("storage_class=coldarchive,acl=Public-Read,kms_key_id=key,keep_acl=always")
    assert (config.storage_class, config.acl, config.keep_acl) == ("ColdArchive", "public-read", "always")
    assert written_as(config) == StoredAs("ColdArchive", "KMS", "key", acl="public-read")
    assert written_as(load()) == StoredAs()
    assert load("kms_key_id=key,encrypt=kms").encryption == "KMS"
    assert load("encrypt=sm4").encryption == "SM4"
    for other in ("encrypt=AES256", "encrypt=false"):
        with pytest.raises(
            ConfigError, match=r"kms_key_id=key contradicts encrypt=.*accepted: .*encrypt=KMS"
        ):
            load(f"kms_key_id=key,{other}")
    assert complaint("storage_class=cheap").endswith("Standard, IA, Archive, ColdArchive, DeepColdArchive")
    assert complaint("acl=none").endswith("default, private, public-read, public-read-write")


def test_when_acls_are_kept() -> None:
    def bucket(acl: str) -> BucketInfo:
        return BucketInfo("bkt", "oss-cn-hangzhou", "Standard", acl=acl)

    assert not keep_acl(load(), bucket("private"))
    for open_to_all in (bucket("public-read"), bucket("public-read-write"), bucket(""), None):
        assert keep_acl(load(), open_to_all)
        assert not keep_acl(load("keep_acl=never"), open_to_all)
    assert keep_acl(load("keep_acl=always"), bucket("private"))


@pytest.mark.parametrize(
    ("text", "bits", "shown"),
    [
        ("819200", 819_200, "100KB"),
        ("100KB", 819_200, "100KB"),
        ("100MB/s", 838_860_800, "100MB"),
        ("1.5MB", 12_582_912, "1536KB"),
        ("8Mbit", 8_000_000, "8000000"),
        ("8 mbit/s", 8_000_000, "8000000"),
        ("0.8Gbit", 800_000_000, "800000000"),
    ],
)
def test_traffic_limits(text: str, bits: int, shown: str) -> None:
    config = load(f"traffic_limit={text}")
    assert config.traffic_limit == bits
    assert config.to_dict()["traffic_limit"] == shown
    assert load(f"traffic_limit={shown}").traffic_limit == bits


@pytest.mark.parametrize("text", ["819199", "99KB", "101MB", "838860801", "fast", "-1", "", "1TB", "1Tbit"])
def test_bad_traffic_limits(text: str) -> None:
    line = complaint(f"traffic_limit={text}")
    assert "100KB to 100MB a second" in line and "bits a second from 819200 to 838860800" in line


def test_parts_that_a_traffic_limit_would_keep_too_long() -> None:
    with pytest.raises(
        ConfigError, match=r"chunk_size=1GB takes too long at .*100KB; accepted: .* up to 29MB"
    ):
        load("chunk_size=1GB,traffic_limit=100KB")
    assert load("chunk_size=29MB,traffic_limit=100KB").traffic_limit == 819_200


def test_modes() -> None:
    config = load("umask=027")
    assert (config.umask, config.default_file_mode, config.default_dir_mode) == (0o027, 0o640, 0o750)
    config = load("umask=027,file_mode=600,dir_mode=0700")
    assert (config.default_file_mode, config.default_dir_mode) == (0o600, 0o700)
    assert (load().default_file_mode, load().default_dir_mode) == (0o644, 0o755)


@pytest.mark.parametrize("text", ["8", "rwx", "1777", "-1", "99999", ""])
def test_bad_modes(text: str) -> None:
    assert "octal" in complaint(f"umask={text}")


def test_owner() -> None:
    assert (load().owner, load().group) == (os.getuid(), os.getgid())
    config = load("uid=1000,gid=50")
    assert (config.owner, config.group) == (1000, 50)
    config = load("uid=root,gid=root")
    assert (config.uid, config.gid) == (0, 0)
    for bad in ("uid=no-such-user", "gid=no-such-group", "uid=-1", f"uid={2**32}", "gid="):
        assert complaint(bad).startswith(f"-o {bad.split('=')[0]}=")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("5", 5), ("1.5", 1.5), ("500ms", 0.5), ("2m", 120), ("1h", 3600), ("7s", 7)],
)
def test_times(text: str, seconds: float) -> None:
    assert load(f"ttl={text}").ttl == pytest.approx(seconds)


@pytest.mark.parametrize(
    "option",
    ["ttl=soon", "ttl=-1", "ttl=", "negative_ttl=2d", "op_timeout=0", "ttl=100000", "connections=0",
     "connections=257", "connections=2.5", "memory=1MB", "memory=x", "encrypt=rot13", "flush=never",
     "excl=maybe", "log_level=loud", "config=", "ca_file="],
)  # fmt: skip
def test_other_bad_values_name_the_option(option: str) -> None:
    assert complaint(option).startswith(f"-o {option.split('=')[0]}=")


def test_attrs_and_what_may_be_ignored() -> None:
    assert (load().attrs, load().ignore_attrs) == ("head", False)
    config = load("attrs=list,ignore_attrs")
    assert (config.attrs, config.ignore_attrs) == ("list", True)
    with pytest.raises(
        ConfigError, match=r"ignore_attrs=true contradicts attrs=head.*accepted: .*attrs=list"
    ):
        load("ignore_attrs")


def test_words() -> None:
    config = load("flush=always,excl=strict,log_level=DEBUG")
    assert (config.flush, config.excl, config.log_level) == ("always", "strict", "debug")
    assert (load().flush, load().excl, load().log_level) == ("auto", "local", "info")


def test_defaults() -> None:
    config = load()
    assert (config.ttl, config.negative_ttl, config.secure, config.internal) == (5.0, 1.0, True, False)
    assert 32 * MIB <= config.memory <= GIB
    assert config.memory == default_memory()
    assert config.encrypt is None


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    config = load("passwd_file=secrets,ca_file=~/ca.pem,state_dir=state", mountpoint="mnt")
    assert config.passwd_file == str(tmp_path / "secrets")
    assert config.ca_file == "/home/somebody/ca.pem"
    assert config.state_dir == str(tmp_path / "state")
    assert config.mountpoint == str(tmp_path / "mnt")


def test_state_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_state_dir() == "/var/lib/ossfs"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/x/state")
    assert default_state_dir() == "/x/state/ossfs"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_state_dir() == "/home/somebody/.local/state/ossfs"


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().ttl = 3.0  # type: ignore[misc]


# ---- -o


def test_commas_can_be_escaped() -> None:
    assert split_options(r"a=1\,2,b,,c=x\\,d=\y") == ["a=1,2", "b", "c=x\\", r"d=\y"]
    assert split_options("a\\") == ["a\\"]
    assert split_options("") == []


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda t: t == t.strip()))
)
def test_escaping_loses_nothing(values: list[str]) -> None:
    text = ",".join(value.replace("\\", "\\\\").replace(",", "\\,") for value in values)
    assert split_options(text) == values


def test_the_last_of_two_counts() -> None:
    assert load("ttl=1", "ttl=2,ttl=3").ttl == 3.0
    assert load("ro,rw").ro is False
    assert load("rw,ro").ro is True


def test_words_of_fstab_are_accepted() -> None:
    config = load("defaults,_netdev,nofail,auto,noauto,user,x-systemd.automount,x-gvfs-show,comment=hello")
    assert config.mount_flags == ()
    config = load("nosuid,nodev,noexec,noatime,nosuid")
    assert config.mount_flags == ("nosuid", "nodev", "noexec", "noatime")


def test_unknown_options_get_a_hint() -> None:
    line = complaint("regoin=x")
    assert "did you mean region?" in line
    assert "ossfs mount --help" in line
    assert len(line) < 120
    assert "did you mean allow_other?" in complaint("allow-other")
    assert "did you mean" not in complaint("qqqqqq=1")


@pytest.mark.parametrize("name", ["bucket", "prefix", "mountpoint", "mount_flags"])
def test_arguments_are_no_options(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "unknown option" in complaint(f"{name}=x")
    monkeypatch.setenv(f"OSSFS_{name.upper()}", "x")
    assert load().bucket == "bucket"
    assert load().mountpoint == "/mnt"


@pytest.mark.parametrize(
    "name",
    ["access_key_id", "access_key_secret", "accessKeySecret", "ak", "secret", "OSS_ACCESS_KEY_SECRET",
     "password", "security-token", "sts_token", "session_token"],
)  # fmt: skip
def test_credentials_are_no_options(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as caught:
        load(f"{name}=hush-hush")
    line = str(caught.value)
    assert "hush" not in line
    assert "OSS_ACCESS_KEY_SECRET" in line
    assert "passwd_file" in line
    file = tmp_path / "x.toml"
    file.write_text(f'{name} = "hush-hush"\n')
    with pytest.raises(ConfigError) as caught:
        load(f"config={file}")
    assert "hush" not in str(caught.value)
    assert str(file) in str(caught.value)
    monkeypatch.setenv(f"OSSFS_{name.upper()}", "hush-hush")
    with pytest.raises(ConfigError, match="environment variable OSSFS_"):
        load()


def test_unknown_values_are_not_repeated() -> None:
    assert "hush" not in complaint("unknown=hush-hush")


# ---- what others build on


def test_made_directly() -> None:
    config = MountConfig(bucket="bucket", mountpoint="/mnt", endpoint="http://127.0.0.1:1", prefix="/a/")
    assert config.prefix == "a"
    assert config.chunk_size == 10 * MIB
    with pytest.raises(ConfigError, match="bucket name"):
        MountConfig(bucket="X", mountpoint="/mnt", endpoint="http://127.0.0.1:1")


def test_to_dict_can_be_read_back(tmp_path: Path) -> None:
    config = load("umask=027,memory=64MB,uid=5", source="bucket:/p")
    shown = config.to_dict()
    assert shown["umask"] == "027"
    assert shown["memory"] == "64MB"
    assert shown["endpoint_url"] == "https://oss-cn-hangzhou.aliyuncs.com"
    again: dict[str, Any] = {k: v for k, v in shown.items() if k in option_names() and v is not None}
    assert MountConfig(bucket="bucket", prefix="p", mountpoint="/mnt", **again).to_dict() == shown


def test_the_example_file_has_every_option_and_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    text = EXAMPLE.read_text()
    config_module.read_file(str(EXAMPLE))
    # With all of it put into force, too.
    wanted = set(option_names()) - {"config"}
    uncommented = "\n".join(
        line.removeprefix("#") if line.startswith("#") and line[1:2].islower() else line
        for line in text.splitlines()
    )
    values = tomllib.loads(uncommented)
    assert set(values) == wanted
    values.pop("endpoint")
    config = MountConfig(bucket="bucket", mountpoint="/mnt", **values)
    for name in (
        "ttl",
        "negative_ttl",
        "chunk_size",
        "connections",
        "flush",
        "excl",
        "op_timeout",
        "log_level",
    ):
        assert getattr(config, name) == getattr(load(), name), "the example shows the defaults"


def test_every_option_is_described() -> None:
    for name in option_names():
        assert MountConfig.model_fields[name].description, name


def test_parse_options_returns_what_was_said() -> None:
    assert parse_options(["ro,ttl=3", "nosuid"]) == ({"ro": True, "ttl": "3"}, ("nosuid",))


def test_read_file_returns_plain_values(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("ttl = 3\nsecure = false\n")
    found = read_file(str(file))
    assert found.values == {"ttl": 3, "secure": False}
    assert found.place("secure") == f"config file {file}, line 2"


# ---- metrics


@pytest.mark.parametrize(
    ("given_as", "address"),
    [
        ("127.0.0.1:9105", "127.0.0.1:9105"),
        ("localhost:0", "localhost:0"),
        ("[::1]:09105", "[::1]:9105"),
        (" 0.0.0.0:80", "0.0.0.0:80"),
    ],
)
def test_where_metrics_are_served(given_as: str, address: str) -> None:
    assert load(f"metrics={given_as}").metrics == address


@pytest.mark.parametrize(
    "text",
    ["9105", ":9105", "127.0.0.1", "127.0.0.1:", "::1:9105", "[::x]:1", "a b:1", "a:65536", "a:-1", "a:b"],
)
def test_what_is_no_address_to_listen_at(text: str) -> None:
    said = complaint(f"metrics={text}")
    assert said.startswith(f"-o metrics={text} is") and "127.0.0.1:9105" in said


# ---- prices


@pytest.mark.parametrize(("given_as", "price"), [("0.01", 0.01), ("0", 0.0), ("3", 3.0), ("1e-3", 0.001)])
def test_prices(given_as: str, price: float) -> None:
    assert load(f"price_put={given_as}").price_put == price


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "1000000", "cheap", "true"])
def test_what_is_no_price(text: str) -> None:
    assert "a number from 0 to 999999" in complaint(f"price_get={text}")
