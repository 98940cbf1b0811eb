"""`make crash`: seeded rounds of load, crash, remount and check."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections import Counter

from tests.crash.campaign import KINDS, CrashError, run
from tests.support.mounts import clean_leftovers


def main() -> int:
    """Exit code 1, with the seed and what is wrong, when something is."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--rounds", type=int, default=200, help="of each seed")
    parser.add_argument("--minutes", type=float, help="go on with the next seeds until so much time is over")
    parser.add_argument("--kind", choices=sorted(KINDS), help="rounds of this kind only")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # so that what was started is ended
    clean_leftovers()
    end = time.monotonic() + (arguments.minutes or 1e9) * 60
    total: Counter[str] = Counter()
    seed = arguments.seed
    kinds = [arguments.kind] * arguments.rounds if arguments.kind else []
    while True:
        print(f"seed {seed}, {arguments.rounds} rounds", flush=True)
        try:
            total += run(
                seed, arguments.rounds, kinds=kinds, verbose=True, go_on=lambda: time.monotonic() < end
            )
        except CrashError as error:
            print(error, file=sys.stderr)
            return 1
        if arguments.minutes is None or time.monotonic() >= end:
            break
        seed += 1
    print(", ".join(f"{name}: {count}" for name, count in sorted(total.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
