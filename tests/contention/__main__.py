"""`make contention`: SEED= and SECONDS= in the environment, or as options."""

from __future__ import annotations

import argparse
import os
import random
import sys

from tests.contention.campaign import ContentionError, Faults, run
from tests.support.mounts import clean_leftovers


def main() -> int:
    """Exit code 1, with the seed and what is wrong, when something is."""
    parser = argparse.ArgumentParser(prog="python -m tests.contention", description=__doc__)
    parser.add_argument("--seed", default=os.environ.get("SEED") or str(random.randrange(1 << 32)))
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("SECONDS") or 600))
    parser.add_argument("--faults", type=float, default=0.0, help="so many of the requests fail, 0 to 1")
    parser.add_argument(
        "--forgetful", action="store_true", help="one server answers with the first version of all"
    )
    arguments = parser.parse_args()
    clean_leftovers()
    print(f"seed {arguments.seed}, {arguments.seconds:g} seconds", flush=True)
    try:
        counts = run(arguments.seed, arguments.seconds, Faults(arguments.faults, arguments.forgetful))
    except ContentionError as error:
        print(error, file=sys.stderr)
        return 1
    print(", ".join(f"{name}: {count}" for name, count in sorted(counts.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
