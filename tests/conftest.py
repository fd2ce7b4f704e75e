"""For all tests: signals as a program finds them that a person starts."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """A shell without job control starts what runs in its background with SIGINT ignored, and every
    child would inherit that: tests of Ctrl-C would wait for ever."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
