"""Secrets among the arguments are overwritten while the command runs."""

from __future__ import annotations

import subprocess
import sys

SHOW = """
import pathlib, sys
from lafsfs.cli.secrecy import hide_secret_arguments
hide_secret_arguments()
print(pathlib.Path("/proc/self/cmdline").read_bytes().split(b"\\0")[-5:-1])
print(sys.argv[1:])
"""


def test_what_ps_shows_holds_no_secret() -> None:
    arguments = ["mount", "URI:DIR2:mnxs4lqzbb:3pmhlxm5ivd2n3", "pb://hash@host:1/secret#v=1", "/mnt"]
    done = subprocess.run(
        [sys.executable, "-c", SHOW, *arguments], capture_output=True, text=True, check=True, timeout=30
    )
    shown, kept = done.stdout.splitlines()
    assert shown == str([b"mount", b"x" * len(arguments[1]), b"x" * len(arguments[2]), b"/mnt"])
    assert kept == str(arguments)
