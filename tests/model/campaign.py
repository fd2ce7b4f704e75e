"""The long run: python -m tests.model.campaign --seed S --operations N [--faults 0.2].

Each program has a seed of its own, counted up from --seed.  A failure is made smaller and printed as the
Python of a regression test; the run goes on, and ends with status 1.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from tests.model.programs import make_program, smaller
from tests.model.runner import fails, run_program


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--length", type=int, default=80, help="operations of one program")
    parser.add_argument("--faults", type=float, default=0.0, help="the share of requests that fail")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds to repeat them; 0: never")
    parser.add_argument("--failures", type=int, default=5, help="stop after so many")
    options = parser.parse_args(arguments)
    faults = {"faults": options.faults, "call_timeout": options.patience}
    began = told = time.monotonic()
    seed, done, failures = options.seed, 0, 0
    while done < options.operations and failures < options.failures:
        program = make_program(seed, options.length, **faults)
        try:
            done += run_program(program)
        except Exception as error:
            failures += 1
            print(f"seed {seed}: {type(error).__name__}: {error}", flush=True)
            small = smaller(program, fails)
            try:
                run_program(small)
            except Exception:
                traceback.print_exc(limit=-8, file=sys.stdout)
            print(small.source(), flush=True)
        seed += 1
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"{done} operations, {seed - options.seed} programs, {told - began:.0f} s", flush=True)
    print(
        f"seeds {options.seed} to {seed - 1}: {done} operations in {time.monotonic() - began:.0f} s, "
        f"{failures} failures",
        flush=True,
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
