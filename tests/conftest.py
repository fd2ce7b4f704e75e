"""For all tests: signals as a program finds them that a person starts, and no access keys of his."""

from __future__ import annotations

import os
import signal

pytest_plugins = ["tests.support.fixtures"]


def pytest_configure() -> None:
    """A shell without job control starts what runs in its background with SIGINT ignored, and every
    child would inherit that: tests of Ctrl-C would wait for ever."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Whose machine this is must not matter: neither an ECS instance's role nor somebody's keys count.
    for name in list(os.environ):
        if name.startswith(("OSS_", "ALIBABA_CLOUD_")):
            del os.environ[name]
    os.environ["ALIBABA_CLOUD_ECS_METADATA_DISABLED"] = "true"
