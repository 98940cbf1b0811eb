"""pjdfstest, as root, in a mount on the bundled server: `make pjdfstest PJDFSTEST=DIR`, DIR being a built checkout.

    python -m tests.suites.pjdfstest DIR [--jobs N] [--in DIRECTORY] [PATTERN ...]

A PATTERN (like `chown/00.t`) picks files. With --in the tests run in a directory of another file system instead.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.suites.around import SuiteError, judged_mount

_PLAN = re.compile(r"^1\.\.(\d+)")
_RESULT = re.compile(r"^(not )?ok\b\s*(\d*)")
_TODO = re.compile(r"#\s*TODO\b", re.IGNORECASE)
FILE_DEADLINE = 900.0


@dataclass
class Outcome:
    """Assertions of one test file. `known` failed, but are marked TODO by the suite itself."""

    name: str
    passed: int = 0
    known: int = 0
    failures: list[str] = field(default_factory=list)


def judge(name: str, output: str) -> Outcome:
    """Count the assertions in TAP output; one that the plan promised and that never came has failed."""
    outcome = Outcome(name)
    planned: int | None = None
    seen = 0
    for line in output.splitlines():
        if plan := _PLAN.match(line):
            planned = int(plan[1])
        elif result := _RESULT.match(line):
            seen += 1
            if not result[1]:
                outcome.passed += 1
            elif _TODO.search(line):
                outcome.known += 1
            else:
                outcome.failures.append(line)
    if planned is None or seen != planned:
        outcome.failures.append(f"{seen} assertions instead of {planned}")
    return outcome


def run_file(test: Path, checkout: Path, where: Path) -> Outcome:
    """Run one file in an empty directory below `where`."""
    name = str(test.relative_to(checkout / "tests"))
    with TemporaryDirectory(prefix="pjd-", dir=where) as directory:
        os.chmod(directory, 0o755)
        try:
            done = subprocess.run(
                ["sh", test],
                cwd=directory,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=FILE_DEADLINE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Outcome(name, failures=[f"no end after {FILE_DEADLINE:.0f} s"])
        return judge(name, done.stdout.decode(errors="replace"))


def run_all(checkout: Path, where: Path, patterns: Sequence[str], jobs: int) -> list[Outcome]:
    """Run the files that match a pattern (all without one)."""
    tests = sorted((checkout / "tests").rglob("*.t"))
    if patterns:
        tests = [test for test in tests if any(pattern in str(test) for pattern in patterns)]
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda test: run_file(test, checkout, where), tests))


def report(outcomes: Sequence[Outcome]) -> bool:
    """Print what failed and the sums; True when nothing did."""
    for outcome in outcomes:
        for line in outcome.failures:
            print(f"{outcome.name}: {line}")
    passed = sum(outcome.passed for outcome in outcomes)
    known = sum(outcome.known for outcome in outcomes)
    failed = sum(len(outcome.failures) for outcome in outcomes)
    todo = f", {known} failed that are marked TODO upstream" if known else ""
    print(f"pjdfstest: {len(outcomes)} files, {passed} passed, {failed} failed{todo}")
    return failed == 0 and passed > 0


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all passed and the tree survived."""
    parser = argparse.ArgumentParser(description="pjdfstest in a mount")
    parser.add_argument("checkout", type=Path, help="a built checkout of pjdfstest")
    parser.add_argument("patterns", nargs="*", help="parts of the names of test files")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--options", default="allow_other,suid,dev", help="for lafsfs mount -o")
    parser.add_argument("--ten", action="store_true", help="on ten servers, three of them not running")
    parser.add_argument("--in", dest="where", type=Path, help="a directory instead of a mount")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        parser.error("pjdfstest acts as several users and makes device nodes: run it as root")
    checkout: Path = options.checkout.resolve()
    if not os.access(checkout / "pjdfstest", os.X_OK):
        parser.error(f"there is no built pjdfstest in {checkout}")
    try:
        with (
            nullcontext(options.where)
            if options.where
            else judged_mount("-o", options.options, ten=options.ten) as where
        ):
            ok = report(run_all(checkout, where, options.patterns, options.jobs))
    except SuiteError as problem:
        print(f"FAILED: {problem}", file=sys.stderr)
        return 1
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
