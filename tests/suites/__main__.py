"""Any suite, in a mount on the bundled server, or in a directory of another file system to compare with.

    python -m tests.suites [--in DIRECTORY] [--options OPT,...] COMMAND

COMMAND is run by the shell in an empty directory of the mount; $WHERE is that directory. It has failed if its exit code
is not 0; the mount must be alive afterwards, and show the same tree without cache and state.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import mkdtemp

from tests.suites.around import SuiteError, judged_mount


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of the command; 1 when the tree did not survive."""
    parser = argparse.ArgumentParser(description="a command in a mount")
    parser.add_argument("command")
    parser.add_argument("--options", default="allow_other,suid,dev", help="for lafsfs mount -o")
    parser.add_argument("--ten", action="store_true", help="on ten servers, three of them not running")
    parser.add_argument("--in", dest="where", type=Path, help="a directory instead of a mount")
    options = parser.parse_args(arguments)
    chosen = (
        nullcontext(options.where) if options.where else judged_mount("-o", options.options, ten=options.ten)
    )
    try:
        with chosen as top:
            where = mkdtemp(prefix="suite-", dir=top)
            os.chmod(where, 0o755)
            start = time.monotonic()
            environment = {**os.environ, "WHERE": where}
            result = subprocess.run(options.command, shell=True, cwd=where, env=environment, check=False)
            print(f"exit code {result.returncode} after {time.monotonic() - start:.0f} s", flush=True)
    except SuiteError as problem:
        print(f"FAILED: {problem}", file=sys.stderr)
        return 1
    return result.returncode


if __name__ == "__main__":
    sys.exit(main())
