"""Where keys come from, what is refused, and that the faster signer signs as oss2 does."""

from __future__ import annotations

import os
from pathlib import Path

import oss2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oss2.auth import ProviderAuthV4
from oss2.http import Request

from ossfs.errors import ConfigError
from ossfs.store import passwd_file as module
from ossfs.store.chain import Wanted
from ossfs.store.chain import load_credentials as load
from ossfs.store.credentials import Credentials, CredentialsProvider, StaticCredentials, make_auth

OFF_CLOUD = {"ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true"}
KEYS = StaticCredentials(Credentials("id", "secret", "token"))


def load_credentials(bucket: str, path: str | None, environ: dict[str, str]) -> CredentialsProvider:
    return load(Wanted(bucket, passwd_file=path, home="/nonexistent"), {**OFF_CLOUD, **environ})


def passwd(directory: Path, text: str, mode: int = 0o600) -> str:
    path = directory / "passwd"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_the_environment() -> None:
    environ = {"OSS_ACCESS_KEY_ID": " id ", "OSS_ACCESS_KEY_SECRET": "s\n", "OSS_SESSION_TOKEN": "t"}
    provider = load_credentials("b", None, environ)
    assert provider.get() == Credentials("id", "s", "t")
    provider.refresh()
    del environ["OSS_SESSION_TOKEN"]
    assert load_credentials("b", None, environ).get().security_token == ""


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({}, "no credentials"),
        ({"OSS_ACCESS_KEY_ID": "id"}, "OSS_ACCESS_KEY_SECRET is missing"),
        ({"OSS_ACCESS_KEY_SECRET": "hush"}, "OSS_ACCESS_KEY_ID is missing"),
        ({"OSS_ACCESS_KEY_ID": "", "OSS_ACCESS_KEY_SECRET": " "}, "no credentials"),
    ],
)
def test_what_is_missing_is_named(environ: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        load_credentials("b", None, environ)
    text = str(caught.value)
    assert "\n" not in text
    assert "hush" not in text
    assert "passwd_file=" in text


def test_the_file(tmp_path: Path) -> None:
    path = passwd(tmp_path, "# mine\n\nother:o:os\n gen:gs\nb:id:sec\nsecond:x\n")
    assert load_credentials("b", path, {}).get() == Credentials("id", "sec")
    assert load_credentials("c", path, {"OSS_ACCESS_KEY_ID": "no"}).get() == Credentials("gen", "gs")
    provider = load_credentials("b", path, {})
    Path(path).write_text("new:keys\n")
    provider.refresh()
    assert provider.get() == Credentials("new", "keys")


@pytest.mark.parametrize(
    "text", ["", "other:id:secret\n", "id\n", "a:b:c:d\n", ":secret\n", "b::s\n", "\udcff"]
)
def test_files_that_cannot_be_used(tmp_path: Path, text: str) -> None:
    path = tmp_path / "passwd"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="passwd") as caught:
        load_credentials("b", str(path), {})
    assert "secret" not in str(caught.value).replace("KEY_ID:SECRET", "")


def test_files_that_others_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for mode in (0o644, 0o640, 0o604, 0o660):
        with pytest.raises(ConfigError, match="0600"):
            load_credentials("b", passwd(tmp_path, "i:s", mode), {})
    load_credentials("b", passwd(tmp_path, "i:s", 0o400), {})
    monkeypatch.setattr(module, "SYSTEM_PASSWD_FILE", str(tmp_path / "passwd"))
    load_credentials("b", passwd(tmp_path, "i:s", 0o640), {})
    with pytest.raises(ConfigError, match="0640"):
        load_credentials("b", passwd(tmp_path, "i:s", 0o644), {})


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_credentials("b", "/nonexistent/passwd", dict(os.environ))


@given(
    st.text(min_size=1, max_size=30).filter(lambda key: key.isprintable()),
    st.dictionaries(
        st.sampled_from(["prefix", "marker", "uploadId", "acl"]), st.text(max_size=10), max_size=3
    ),
    st.sampled_from(["GET", "PUT"]),
)
def test_signatures_are_oss2s(key: str, params: dict[str, str], method: str) -> None:
    def signed(auth: ProviderAuthV4) -> str:
        request = Request(
            method,
            "http://h/",
            params=dict(params),
            headers={"Content-Type": "text/plain", "x-oss-meta-a": "b"},
            region="cn-hangzhou",
            product="oss",
        )
        date = "20231216T162057Z"
        return str(auth._ProviderAuthV4__make_signature(request, "bkt", key, [], auth_keys, date))

    auth_keys = oss2.credentials.Credentials("id", "secret", "token")
    ours = make_auth(KEYS, "cn-hangzhou")
    theirs = ProviderAuthV4(oss2.StaticCredentialsProvider("id", "secret", "token"))
    assert signed(ours) == signed(theirs)


def test_v1_without_a_region() -> None:
    assert make_auth(KEYS, None).auth_version() == "v1"
    assert make_auth(KEYS, "cn-hangzhou").auth_version() == "v4"
