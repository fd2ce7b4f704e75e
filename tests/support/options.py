"""A configuration from options, or the one line that says why there is none.  No state."""

from __future__ import annotations

import pytest

from ossfs.config import MountConfig, load_config
from ossfs.errors import ConfigError


def load(*options: str, source: str = "bucket", mountpoint: str = "/mnt") -> MountConfig:
    return load_config(source, mountpoint, ["region=cn-hangzhou", *options])


def complaint(*options: str, source: str = "bucket", region: str = "region=cn-hangzhou") -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source, "/mnt", [*([region] if region else []), *options])
    line = str(caught.value)
    assert "\n" not in line
    assert "accepted" in line
    return line
