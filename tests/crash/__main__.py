"""`make crash`: SEED= and ROUNDS= in the environment, or as options."""

from __future__ import annotations

import argparse
import os
import random
import sys

from tests.crash.campaign import CrashError, run
from tests.support.mounts import clean_leftovers


def main() -> int:
    """Exit code 1, with the seed and what is wrong, when something is."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED") or random.randrange(1 << 32)))
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("ROUNDS") or 200))
    arguments = parser.parse_args()
    clean_leftovers()
    print(f"seed {arguments.seed}, {arguments.rounds} rounds", flush=True)
    try:
        counts = run(arguments.seed, arguments.rounds, verbose=True)
    except CrashError as error:
        print(error, file=sys.stderr)
        return 1
    print(", ".join(f"{name}: {count}" for name, count in sorted(counts.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
