"""Coverage-guided fuzzing of all that comes from outside: python -m tests.fuzz [--seconds N] [TARGET...]

Each target runs in a process of its own, from its kept inputs on, with a limit of memory and of time for
one input.  What breaks a rule is left in the directory of findings with its traceback, and the exit status
is 1.  Inputs that were once findings are kept in tests/fuzz/corpus and run with the unit tests.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.targets import CORPUS, TARGETS

MEMORY_MB = 1024
INPUT_SECONDS = 10
LARGEST = 16_384


def fuzz(target: str, seconds: int, findings: Path, workspace: Path) -> tuple[int, int, bool]:
    """Executions, edges covered, and whether no rule was broken."""
    grown = workspace / target
    grown.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "tests.fuzz.one", target, str(grown), str(CORPUS / target)),
        *(f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY_MB}", f"-timeout={INPUT_SECONDS}"),
        *(f"-artifact_prefix={findings}/{target}-", f"-max_len={LARGEST}", "-print_final_stats=1"),
    ]
    with open(findings / f"{target}.log", "w+") as log:
        # libFuzzer ends without a word to Python: what targets make goes with this directory.
        base = "/dev/shm" if os.path.isdir("/dev/shm") else None
        with tempfile.TemporaryDirectory(prefix="ossfs-fuzz-", dir=base) as made:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "TMPDIR": made},
                check=False,
            )
        log.seek(0)
        text = log.read()
    executed = re.findall(r"number_of_executed_units: (\d+)", text) or re.findall(r"^#(\d+)", text, re.M)
    covered = re.findall(r"cov: (\d+)", text)
    return int(executed[-1]) if executed else 0, int(covered[-1]) if covered else 0, done.returncode == 0


def main() -> int:
    """The table of what ran; 1 when a rule was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--findings", type=Path, help="where inputs that break a rule are left")
    parser.add_argument("--workspace", type=Path, help="where inputs that reach new code are kept")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    given = parser.parse_args()
    unknown = set(given.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    findings = given.findings or Path(tempfile.mkdtemp(prefix="ossfs-findings-"))
    findings.mkdir(parents=True, exist_ok=True)
    broken = []
    print(f"{'target':<18}{'executions':>12}{'edges':>8}{'seconds':>9}")
    with tempfile.TemporaryDirectory(prefix="ossfs-fuzz-") as temporary:
        for target in given.targets or TARGETS:
            begun = time.monotonic()
            executed, covered, good = fuzz(
                target, given.seconds, findings, given.workspace or Path(temporary)
            )
            took = time.monotonic() - begun
            print(
                f"{target:<18}{executed:>12}{covered:>8}{took:>9.0f}{'' if good else '  BROKEN'}", flush=True
            )
            if not good:
                broken.append(target)
    if broken:
        print(f"findings: {findings}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
