"""The functions of which the mount tests of sshfs and pyfuse3 are made, in a mount on the bundled server.

    python -m tests.suites.functions FILE [--in DIRECTORY]

FILE is test/test_sshfs.py or test/test_examples.py of a checkout. What these call the source directory, which a mount
of theirs shows elsewhere, is here the mounted directory itself.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.suites.around import SuiteError, judged_mount

Function = Callable[..., object]


def functions_of(file: Path) -> dict[str, Function]:
    """The test functions of a module that take a mounted directory."""
    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = vars(module).items()
    return {name: function for name, function in found if name.startswith("tst_") and callable(function)}


def run_one(function: Function, where: str) -> str | None:
    """What went wrong, if something did."""
    known = {"mnt_dir": where, "src_dir": where, "cache_timeout": 0, "tol": 1}  # as the suites call them
    wanted = inspect.signature(function).parameters
    try:
        function(**{name: value for name, value in known.items() if name in wanted})
    except Exception:
        return traceback.format_exc()
    return None


def run_all(functions: dict[str, Function], where: Path) -> list[str]:
    """The names of those that failed, after printing why."""
    failed = []
    for name, function in functions.items():
        with TemporaryDirectory(prefix="functions-", dir=where) as directory:
            problem = run_one(function, directory)
        if problem is not None:
            failed.append(name)
            print(f"--- {name}\n{problem}", flush=True)
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when nothing failed and the tree survived."""
    parser = argparse.ArgumentParser(description="mount tests of sshfs and pyfuse3")
    parser.add_argument("file", type=Path)
    parser.add_argument("--ten", action="store_true", help="on ten servers, three of them not running")
    parser.add_argument("--in", dest="where", type=Path, help="a directory instead of a mount")
    options = parser.parse_args(arguments)
    functions = functions_of(options.file.resolve())
    try:
        with nullcontext(options.where) if options.where else judged_mount(ten=options.ten) as where:
            os.umask(0o022)
            failed = run_all(functions, where)
    except SuiteError as problem:
        print(f"FAILED: {problem}", file=sys.stderr)
        return 1
    print(
        f"{options.file.name}: {len(functions) - len(failed)} passed, {len(failed)} failed: {' '.join(failed)}"
    )
    return 1 if failed or not functions else 0


if __name__ == "__main__":
    sys.exit(main())
