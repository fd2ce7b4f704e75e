"""The chain of credentials: each source, their order, and how temporary ones stay fresh."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ossfs.errors import ConfigError
from ossfs.logs import redact
from ossfs.store import chain, remote
from ossfs.store.chain import SOURCES, Wanted, load_credentials
from ossfs.store.credentials import Anonymous, Credentials, RefreshingCredentials
from tests.support.metadata import MetadataService, metadata_service
from tests.support.mounts import run

OFF_CLOUD = {"ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true"}
KEYS = {"OSS_ACCESS_KEY_ID": "env-id", "OSS_ACCESS_KEY_SECRET": "env-secret"}


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[MetadataService]:
    # The library reads the variable that the other tests run with when it is imported.
    monkeypatch.setattr("alibabacloud_credentials.utils.auth_util.environment_ecs_metadata_disabled", "false")
    with metadata_service() as running:
        monkeypatch.setattr(remote, "METADATA_HOST", running.address)
        yield running


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def found(home: Path, environ: dict[str, str] | None = None, **wanted: Any) -> tuple[Credentials, str]:
    provider = load_credentials(Wanted("b", home=str(home), **wanted), {**OFF_CLOUD, **(environ or {})})
    return provider.get(), provider.source


# -- files of other tools ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "[Credentials]\nlanguage=EN\nendpoint = oss-cn-x.aliyuncs.com\naccessKeyID=i\n"
        "accessKeySecret = s%d\nstsToken=t\n",
        "[default]\n# comment\naccess-key-id = i\naccess_key_secret=s%d\nsts-token=t\nregion=cn-hangzhou\n",
        "[profile default]\nmode=StsToken\nAccessKeyId=i\naccessKeySecret=s%d\nststoken=t\n",
        "\ufeff[DEFAULT]\nAccessKeyID=i\nACCESSKEYSECRET=s%d\nstsToken=t\n",
    ],
)
def test_ossutil_of_both_versions(tmp_path: Path, text: str) -> None:
    write(tmp_path / ".ossutilconfig", text)
    credentials, source = found(tmp_path)
    assert credentials == Credentials("i", "s%d", "t")
    assert ".ossutilconfig" in source


def test_a_profile_of_ossutil(tmp_path: Path) -> None:
    write(
        tmp_path / ".ossutilconfig",
        "[default]\naccess-key-id=i\naccess-key-secret=s\n"
        "[profile Two]\naccess-key-id=j\naccess-key-secret=u\n",
    )
    assert found(tmp_path, profile="two")[0] == Credentials("j", "u")
    with pytest.raises(ConfigError, match="has no profile 'three'"):
        found(tmp_path, profile="three", choice="ossutil")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "access=hush-hush\n",
        "[Credentials]\nhush-hush\n",
        "[Credentials]\naccessKeyID=i\n",
        "\0\udcff",
        "[default]\nmode=Hush\n",
    ],
)
def test_ossutil_files_without_credentials(tmp_path: Path, text: str) -> None:
    (tmp_path / ".ossutilconfig").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        found(tmp_path, choice="ossutil")
    assert "hush-hush" not in str(caught.value)
    assert "\n" not in str(caught.value)


def aliyun(home: Path, *profiles: dict[str, Any], current: str = "default") -> None:
    write(home / ".aliyun" / "config.json", json.dumps({"current": current, "profiles": list(profiles)}))


def test_the_aliyun_command(tmp_path: Path) -> None:
    aliyun(
        tmp_path,
        {"name": "default", "mode": "AK", "access_key_id": "i", "access_key_secret": "s"},
        {"name": "sts", "mode": "StsToken", "access_key_id": "j", "access_key_secret": "u", "sts_token": "t"},
        {"name": "odd", "mode": "Nonsense"},
    )
    assert found(tmp_path)[0] == Credentials("i", "s")
    assert found(tmp_path, profile="sts")[0] == Credentials("j", "u", "t")
    assert found(tmp_path, {"ALIBABA_CLOUD_PROFILE": "sts"})[0] == Credentials("j", "u", "t")
    with pytest.raises(ConfigError, match=r"profile odd has the mode 'Nonsense'; accepted: AK"):
        found(tmp_path, profile="odd", choice="aliyun")
    with pytest.raises(ConfigError, match="CLI_PROFILE_DISABLED is set"):
        found(tmp_path, {"ALIBABA_CLOUD_CLI_PROFILE_DISABLED": "true"})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"profiles": 3}', '{"profiles": [{}]}', "null"])
def test_files_of_the_aliyun_command_that_make_no_sense(tmp_path: Path, text: str) -> None:
    write(tmp_path / ".aliyun" / "config.json", text)
    with pytest.raises(ConfigError, match=r"no configuration|not a configuration|has no profile"):
        found(tmp_path, choice="aliyun")


def test_credentials_ini(tmp_path: Path) -> None:
    path = write(tmp_path / "x.ini", "[default]\ntype=access_key\naccess_key_id=i\naccess_key_secret=s\n")
    assert found(tmp_path, {"ALIBABA_CLOUD_CREDENTIALS_FILE": str(path)})[0] == Credentials("i", "s")
    write(tmp_path / ".alibabacloud" / "credentials.ini", path.read_text())
    assert found(tmp_path)[0] == Credentials("i", "s")


def test_keys_of_a_file_are_read_again(tmp_path: Path) -> None:
    write(tmp_path / ".ossutilconfig", "[default]\naccess-key-id=i\naccess-key-secret=s\n")
    provider = load_credentials(Wanted("b", home=str(tmp_path)), OFF_CLOUD)
    write(tmp_path / ".ossutilconfig", "[default]\naccess-key-id=j\naccess-key-secret=u\n")
    assert provider.get().access_key_id == "i"
    provider.refresh()
    assert provider.get() == Credentials("j", "u")


# -- order ------------------------------------------------------------------------------------------


def test_the_order(tmp_path: Path, service: MetadataService) -> None:
    """Each source counts before those after it; take the first away, and the next has it."""
    write(tmp_path / ".ossutilconfig", "[default]\naccess-key-id=ossutil\naccess-key-secret=s\n")
    aliyun(tmp_path, {"name": "default", "mode": "AK", "access_key_id": "aliyun", "access_key_secret": "s"})
    ini = tmp_path / ".alibabacloud" / "credentials.ini"
    write(ini, "[default]\ntype=access_key\naccess_key_id=ini\naccess_key_secret=s\n")
    environ = {
        **KEYS,
        "ALIBABA_CLOUD_ACCESS_KEY_ID": "cloud",
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "s",
        "ALIBABA_CLOUD_CREDENTIALS_URI": service.uri,
    }

    def winner() -> str:
        return load_credentials(Wanted("b", home=str(tmp_path)), environ).get().access_key_id

    assert winner() == "env-id"
    del environ["OSS_ACCESS_KEY_ID"], environ["OSS_ACCESS_KEY_SECRET"]
    assert winner() == "cloud"
    del environ["ALIBABA_CLOUD_ACCESS_KEY_ID"], environ["ALIBABA_CLOUD_ACCESS_KEY_SECRET"]
    assert winner() == "ossutil"
    (tmp_path / ".ossutilconfig").write_text("[broken")
    assert winner() == "aliyun"
    (tmp_path / ".aliyun" / "config.json").unlink()
    assert winner() == "ini"
    ini.unlink()
    service.key_id = "uri"
    assert winner() == "uri"
    del environ["ALIBABA_CLOUD_CREDENTIALS_URI"]
    service.key_id = "ecs"
    assert winner() == "ecs"


def test_one_source_can_be_named(tmp_path: Path) -> None:
    write(tmp_path / ".ossutilconfig", "[default]\naccess-key-id=i\naccess-key-secret=s\n")
    assert found(tmp_path, KEYS, choice="ossutil")[0] == Credentials("i", "s")
    with pytest.raises(ConfigError) as caught:
        found(tmp_path, KEYS, choice="aliyun")
    assert "~/.aliyun/config.json (no such file)" in str(caught.value)
    assert "ossutil" not in str(caught.value)


def test_everything_that_was_looked_at_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        found(tmp_path)
    line = str(caught.value)
    assert "\n" not in line
    for _, label, _ in SOURCES:
        assert label in line


def test_names_of_sources_are_those_of_the_option() -> None:
    from ossfs.values import CREDENTIAL_SOURCES

    assert ("auto", *(name for name, _, _ in SOURCES), "anonymous") == CREDENTIAL_SOURCES


def test_anonymous_is_asked_for_by_name_only(tmp_path: Path) -> None:
    provider = load_credentials(Wanted("b", choice="anonymous", home=str(tmp_path)), KEYS)
    assert isinstance(provider, Anonymous)


def test_the_library_is_not_imported_for_plain_keys() -> None:
    program = (
        "import sys\nfrom ossfs.store.chain import Wanted, load_credentials\n"
        "load_credentials(Wanted('b'), {'OSS_ACCESS_KEY_ID': 'i', 'OSS_ACCESS_KEY_SECRET': 's'})\n"
        "print('alibabacloud_credentials' in sys.modules, 'Tea' in sys.modules)"
    )
    assert run(sys.executable, "-c", program).split() == ["False", "False"]


def test_a_missing_library_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: MetadataService
) -> None:
    monkeypatch.setitem(sys.modules, "alibabacloud_credentials", None)
    with pytest.raises(ConfigError, match=r"pip install 'ossfs\[credentials\]'"):
        load_credentials(Wanted("b", choice="ecs", home=str(tmp_path)), {})


# -- the metadata service ---------------------------------------------------------------------------


def ecs(**wanted: Any) -> Credentials:
    return load_credentials(Wanted("b", choice="ecs", home="/nonexistent", **wanted), {}).get()


def test_role_of_the_instance(service: MetadataService) -> None:
    before = threading.enumerate()
    credentials = ecs()
    assert (credentials.access_key_id, credentials.access_key_secret) == ("id", "secret-of-the-role")
    assert credentials.security_token == "token-1"
    assert credentials.expiration is not None and credentials.expiration > time.time() + 3000
    assert all(with_token for method, _, with_token in service.asked if method == "GET")
    left = [one.name for one in threading.enumerate() if one not in before]
    # The server's own thread may still be closing its connection.
    assert not [name for name in left if "process_request" not in name], "a mount forks after this"


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_no_proxy_sees_what_the_metadata_service_says(
    service: MetadataService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert ecs().access_key_id == "id"
    write(tmp_path / ".ossutilconfig", f"[AkService]\necsAk={service.uri}\n")
    assert found(tmp_path)[0].access_key_id == "id"
    assert os.environ[variable] == "http://127.0.0.1:9"


def test_a_role_by_name_is_not_asked_for(service: MetadataService) -> None:
    ecs(ram_role="role")
    assert service.address == remote.METADATA_HOST
    assert not [path for _, path, _ in service.asked if path.endswith("security-credentials/")]


def test_metadata_without_hardened_mode(service: MetadataService) -> None:
    service.hardened = False
    assert ecs().access_key_id == "id"
    with pytest.raises(ConfigError, match="no credentials"):
        load_credentials(Wanted("b", choice="ecs"), {"ALIBABA_CLOUD_IMDSV1_DISABLED": "true"})


def test_metadata_with_hardened_mode_only(service: MetadataService) -> None:
    service.demand_token = True
    assert ecs().access_key_id == "id"


def test_an_instance_without_a_role(service: MetadataService) -> None:
    service.role = ""
    with pytest.raises(ConfigError, match="RAM role of an ECS instance"):
        ecs()


def test_no_metadata_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "METADATA_HOST", "127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"no metadata service answers at 127\.0\.0\.1:9"):
        ecs()


def test_the_url_of_ossutil_1(tmp_path: Path, service: MetadataService) -> None:
    write(tmp_path / ".ossutilconfig", f"[Credentials]\nlanguage=EN\n[AkService]\necsAk={service.uri}\n")
    assert found(tmp_path)[0].security_token == "token-1"


# -- STS --------------------------------------------------------------------------------------------


class _Answer:
    status_code = 200

    def __init__(self, document: object) -> None:
        self.body = json.dumps(document).encode()


@pytest.fixture
def sts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The requests that STS would get; the answer is the same each time."""
    from Tea.core import TeaCore

    asked: list[Any] = []

    def answer(request: Any, runtime: Any = None) -> _Answer:
        asked.append(request)
        until = datetime.fromtimestamp(time.time() + 3600, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return _Answer(
            {
                "Credentials": {
                    "AccessKeyId": "tmp",
                    "AccessKeySecret": "tmp-s",
                    "SecurityToken": "tmp-t",
                    "Expiration": until,
                }
            }
        )

    monkeypatch.setattr(TeaCore, "do_action", staticmethod(answer))
    return asked


def test_oidc(tmp_path: Path, sts: list[Any]) -> None:
    token = write(tmp_path / "token", "jwt-1")
    environ = {
        "ALIBABA_CLOUD_ROLE_ARN": "acs:ram::1:role/r",
        "ALIBABA_CLOUD_OIDC_PROVIDER_ARN": "acs:ram::1:oidc-provider/p",
        "ALIBABA_CLOUD_OIDC_TOKEN_FILE": str(token),
    }
    provider = load_credentials(Wanted("b", home=str(tmp_path)), {**OFF_CLOUD, **environ})
    assert provider.get().security_token == "tmp-t"
    assert "acs:ram::1:role/r" in provider.source
    token.write_text("jwt-2")
    provider.refresh()
    assert [request.query["OIDCToken"] for request in sts] == ["jwt-1", "jwt-2"]
    assert {request.query["Action"] for request in sts} == {"AssumeRoleWithOIDC"}


def test_a_role_is_assumed_with_what_was_found(tmp_path: Path, sts: list[Any]) -> None:
    credentials, source = found(tmp_path, KEYS, role_arn="acs:ram::1:role/r")
    assert credentials.access_key_id == "tmp"
    assert "OSS_ACCESS_KEY_ID" in source and "acs:ram::1:role/r" in source
    (request,) = sts
    assert request.query["Action"] == "AssumeRole"
    assert request.query["AccessKeyId"] == "env-id"
    assert "Signature" in request.query
    assert "env-secret" not in str(request.query)


def test_profiles_that_need_sts(tmp_path: Path, sts: list[Any]) -> None:
    base = {"name": "base", "mode": "AK", "access_key_id": "i", "access_key_secret": "s"}
    role = {**base, "name": "role", "mode": "RamRoleArn", "ram_role_arn": "arn", "expired_seconds": 900}
    chained = {
        "name": "chained",
        "mode": "ChainableRamRoleArn",
        "ram_role_arn": "arn2",
        "source_profile": "role",
    }
    loop = {"name": "loop", "mode": "ChainableRamRoleArn", "ram_role_arn": "arn", "source_profile": "loop"}
    short = {**role, "name": "short", "expired_seconds": 60}
    aliyun(tmp_path, base, role, chained, loop, short, current="role")
    assert found(tmp_path)[0].access_key_id == "tmp"
    assert sts[0].query["DurationSeconds"] == "900"
    assert found(tmp_path, profile="chained")[0].access_key_id == "tmp"
    assert [request.query["AccessKeyId"] for request in sts] == ["i", "i", "tmp"]
    with pytest.raises(ConfigError, match="cannot be followed"):
        found(tmp_path, profile="loop")
    with pytest.raises(ConfigError, match="at least 900 seconds"):
        found(tmp_path, profile="short")


def test_what_sts_says_is_told_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from Tea.core import TeaCore

    class Refusal(_Answer):
        status_code = 403

    refusal = Refusal({"Code": "NoPermission", "AccessKeySecret": "hush-hush", "SecurityToken": "hush-2"})
    monkeypatch.setattr(TeaCore, "do_action", staticmethod(lambda *_: refusal))
    with pytest.raises(ConfigError, match="NoPermission") as caught:
        found(tmp_path, KEYS, role_arn="arn")
    assert "hush" not in str(caught.value)


# -- a program --------------------------------------------------------------------------------------


def program(directory: Path, body: str) -> str:
    path = write(directory / "keys", f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return f"{path} 'an argument'"


def test_a_program_prints_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSS_ACCESS_KEY_SECRET", "must-not-get-there")
    command = program(
        tmp_path,
        'printf \'{"AccessKeyId":"%s","AccessKeySecret":"[%s]","SecurityToken":"t",'
        '"Expiration":"2999-01-31T12:00:00Z"}\' "$1" "$OSS_ACCESS_KEY_SECRET"',
    )
    credentials, source = found(tmp_path, KEYS, process=command)
    assert credentials.access_key_id == "an argument"
    assert credentials.access_key_secret == "[]"
    assert credentials.expiration == datetime(2999, 1, 31, 12, tzinfo=UTC).timestamp()
    assert source == "credential_process"


def test_the_form_of_the_aliyun_command(tmp_path: Path) -> None:
    command = program(tmp_path, 'echo \'{"mode":"AK","access_key_id":"i","access_key_secret":"s"}\'')
    aliyun(tmp_path, {"name": "default", "mode": "External", "process_command": command})
    assert found(tmp_path)[0] == Credentials("i", "s")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("echo hush-hush; exit 3", "exit status 3"),
        ("echo hush-hush", "no JSON object"),
        ("echo '[\"hush-hush\"]'", "no JSON object"),
        ('echo \'{"AccessKeyId":"i"}\'', "no AccessKeyId and AccessKeySecret"),
        ('echo \'{"AccessKeyId":"i","AccessKeySecret":"hush-hush","Expiration":"soon"}\'', "no time"),
    ],
)
def test_programs_that_fail(tmp_path: Path, body: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        found(tmp_path, process=program(tmp_path, body))
    assert "hush-hush" not in str(caught.value)
    assert str(caught.value).startswith("credential_process: ")


def test_commands_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("'", "/nonexistent/program"):
        with pytest.raises(ConfigError, match="credential_process: "):
            found(tmp_path, process=command)
    monkeypatch.setattr(remote, "PROCESS_SECONDS", 0.2)
    with pytest.raises(ConfigError, match="did not end within"):
        found(tmp_path, process=program(tmp_path, "exec sleep 60"))


# -- staying fresh ----------------------------------------------------------------------------------


class Source:
    """Credentials numbered from 1, of a clock that stands where it is put."""

    def __init__(self, lifetime: float = 1000.0) -> None:
        self.now = 0.0
        self.lifetime = lifetime
        self.asked = 0
        self.fetched = 0
        self.broken = False
        self.arrived = threading.Event()
        self.proceed = threading.Event()
        self.proceed.set()
        self.provider = RefreshingCredentials("test", self.fetch, lambda: self.now)

    def fetch(self) -> Credentials:
        self.asked += 1
        self.arrived.set()
        assert self.proceed.wait(10)
        if self.broken:
            raise ConfigError("the source is broken")
        self.fetched += 1
        return Credentials(f"id{self.fetched}", "s" * 8, "t" * 8, self.now + self.lifetime)


def test_they_are_kept_while_they_are_good() -> None:
    source = Source()
    source.now = 800.0  # 15 % of 1000 s before the end begins at 850
    assert source.provider.get().access_key_id == "id1"
    assert source.fetched == 1


def test_they_are_renewed_ahead_in_a_thread() -> None:
    """Nobody waits: the old ones are handed out until the new ones are there."""
    source = Source()
    source.now = 860.0
    source.proceed.clear()
    source.arrived.clear()
    assert source.provider.get().access_key_id == "id1"
    assert source.arrived.wait(10)
    assert source.provider.get().access_key_id == "id1"
    (thread,) = [one for one in threading.enumerate() if one.name == "ossfs-credentials"]
    source.proceed.set()
    thread.join(10)
    assert source.provider.get().access_key_id == "id2"
    assert source.fetched == 2


def test_expired_ones_are_renewed_before_they_are_used() -> None:
    source = Source()
    source.now = 995.0
    assert source.provider.get().access_key_id == "id2"


def test_a_source_that_fails_keeps_the_old_ones_and_is_not_pestered(caplog: pytest.LogCaptureFixture) -> None:
    source = Source()
    source.broken = True
    source.now = 1000.0
    assert source.provider.get().access_key_id == "id1"
    source.broken = False
    source.now = 1004.0
    assert source.provider.get().access_key_id == "id1"
    source.now = 1006.0
    assert source.provider.get().access_key_id == "id2"
    assert "the old ones are kept: the source is broken" in caplog.text


@pytest.mark.parametrize("good", [True, False])
def test_many_who_are_told_that_they_expired_fetch_once(good: bool) -> None:
    """Whenever each of them asks: before the first one has an answer, or just after."""
    source = Source()
    source.proceed.clear()
    source.arrived.clear()
    source.broken = not good
    threads = [threading.Thread(target=source.provider.refresh) for _ in range(8)]
    threads[0].start()
    assert source.arrived.wait(10)
    for thread in threads[1:]:
        thread.start()
    source.proceed.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert source.asked == 2
    assert source.provider.get().access_key_id == ("id2" if good else "id1")
    source.now += 6
    source.provider.refresh()
    assert source.asked == 3


def test_what_is_fetched_is_hidden_from_the_log() -> None:
    source = Source()
    assert "s" * 8 not in redact(f"x {'s' * 8} {source.provider.get().security_token}")
    assert "s" * 8 not in repr(source.provider.get())


def test_the_library_writes_nothing_to_the_log(
    service: MetadataService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    service.secret = "never-seen-anywhere"
    assert ecs().access_key_secret == "never-seen-anywhere"
    assert "never-seen-anywhere" not in caplog.text
    assert not logging.getLogger("credentials").handlers


def test_home_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Wanted("b").home == str(tmp_path)
    assert chain.SOURCES and os.path.isdir(tmp_path)
