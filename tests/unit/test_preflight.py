"""Each way that the first request can fail has a line of its own, chosen by class."""

from __future__ import annotations

import pytest

from ossfs import errors
from ossfs.config import MountConfig
from ossfs.errors import MountError, StoreError
from ossfs.preflight import explain, format_duration


def config(**values: object) -> MountConfig:
    return MountConfig(bucket="bucket", mountpoint="/mnt", **{"region": "cn-hangzhou", **values})  # type: ignore[arg-type]


CASES = [
    (errors.NameNotResolved, "oss-cn-hangzhou.aliyuncs.com has no address", "region option"),
    (errors.ConnectFailed, "no https connection to oss-cn-hangzhou.aliyuncs.com:443", "region option"),
    (errors.TlsFailed, "no trusted TLS connection", "ca_file"),
    (errors.PlainHttp, "speaks http, not https", "secure=false"),
    (errors.DeadlineExceeded, "did not answer in time", "network"),
    (errors.RequestTimeout, "did not answer in time", "network"),
    (errors.ConnectionLost, "broke the connection off", "https"),
    (errors.WrongRegion, "is in another region", "-o region="),
    (errors.InvalidAccessKey, "does not know this access key id", "OSS_ACCESS_KEY_ID"),
    (errors.SignatureMismatch, "secret does not belong", "OSS_ACCESS_KEY_SECRET"),
    (errors.ClockSkewed, "clock is wrong", "timedatectl"),
    (errors.TokenExpired, "security token has expired", "OSS_SESSION_TOKEN"),
    (errors.AccessDenied, "may not list bucket bucket", "oss:ListObjects"),
    (errors.NoSuchBucket, "there is no bucket bucket", "create it"),
    (errors.Throttled, "too many", "later"),
    (errors.ServerFault, "an error of its own", "later"),
    (errors.InvalidRequest, "cannot be listed", "options"),
    (errors.NotFound, "cannot be listed", "options"),
    (StoreError, "cannot be listed", "options"),
]


@pytest.mark.parametrize(("kind", "what", "to_do"), CASES, ids=[kind.__name__ for kind, _, _ in CASES])
def test_each_class_has_its_line(kind: type[StoreError], what: str, to_do: str) -> None:
    error = explain(kind("words of\nthe service"), config())
    assert isinstance(error, MountError)
    line = str(error)
    assert line.startswith("cannot mount bucket: ")
    assert what in line
    assert to_do in line
    assert "\n" not in line


def test_the_lines_differ() -> None:
    lines = {str(explain(kind(), config())) for kind, _, _ in CASES}
    # RequestTimeout says the same as DeadlineExceeded, and the last three are "other".
    assert len(lines) == len(CASES) - 3


def test_every_store_error_is_explained() -> None:
    kinds = [StoreError]
    for kind in kinds:
        kinds += kind.__subclasses__()
        assert isinstance(explain(kind("x"), config()), MountError)


def test_status_and_request_id_are_there_for_the_support() -> None:
    error = errors.AccessDenied("no", status=403, code="AccessDenied", ec="0003-00000001", request_id="5F")
    assert str(explain(error, config())).endswith("[403 AccessDenied 0003-00000001, request id 5F]")


def test_option_and_port_that_are_named_are_those_in_use() -> None:
    line = str(explain(errors.ConnectFailed("refused"), config(region=None, endpoint="http://127.0.0.1:81")))
    assert "127.0.0.1:81" in line
    assert "endpoint option" in line
    assert "(refused)" in line
    line = str(explain(errors.ConnectFailed(), config(region=None, endpoint="http://127.0.0.1")))
    assert "127.0.0.1:80 " in line or "127.0.0.1:80;" in line


def test_internal_endpoints_get_a_hint() -> None:
    assert "only inside their region" in str(explain(errors.DeadlineExceeded(), config(internal=True)))
    assert "only inside" not in str(explain(errors.DeadlineExceeded(), config()))


def test_without_keys_no_key_is_spoken_of() -> None:
    line = str(explain(errors.AccessDenied(), config(credentials="anonymous")))
    assert "does not let everybody list it" in line


def test_prefix_is_named() -> None:
    line = str(explain(errors.AccessDenied(), config(prefix="a/b")))
    assert line.startswith("cannot mount bucket:/a/b: ")
    assert "prefix a/b" in line


def test_clock_skew_is_said_when_known() -> None:
    ahead = str(explain(errors.ClockSkewed(), config(), skew=3600.0 * 5))
    assert "by 5 hours ahead of the service" in ahead
    assert "by 17.5 minutes behind the service" in str(explain(errors.ClockSkewed(), config(), skew=-1050))
    assert " by " not in str(explain(errors.ClockSkewed(), config()))


@pytest.mark.parametrize(
    ("seconds", "text"), [(40, "40 seconds"), (1020, "17 minutes"), (9000, "2.5 hours"), (259200, "3 days")]
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
