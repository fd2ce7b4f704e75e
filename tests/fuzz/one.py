"""One fuzz target in a process of its own: python -m tests.fuzz.one TARGET CORPUS... -max_total_time=60

libFuzzer ends the process, so this module is a program only.
"""

from __future__ import annotations

import logging
import sys

import atheris

with atheris.instrument_imports(include=["ossfs"], enable_loader_override=False):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    target = TARGETS[sys.argv.pop(1)]
    logging.getLogger("ossfs.store").setLevel(logging.CRITICAL)
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
