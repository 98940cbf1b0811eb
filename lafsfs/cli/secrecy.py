"""Capabilities and NURLs given as arguments disappear from `ps` while the command runs.

A short-lived command cannot help being started with them, but it can overwrite its copy in memory, which
is what /proc/PID/cmdline shows. The long-lived mount process never gets them as arguments at all
(daemon/launch.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import re
from pathlib import Path

_SECRET = re.compile(rb"(?:URI:|pb://|(?<=\0)(?:ro|imm)\.)[^\0]+")
# Fields 48 and 49 of /proc/self/stat, counted from the third, the first one behind the program's name.
_ARG_START, _ARG_END = 48 - 3, 49 - 3


def hide_secret_arguments() -> None:
    """Overwrites what looks like a secret in this process's visible arguments. sys.argv stays as it is.

    Does nothing where the kernel does not tell where the arguments are.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
        arguments = Path("/proc/self/cmdline").read_bytes()
        if start == 0 or len(arguments) != end - start:
            return
        for match in _SECRET.finditer(arguments):
            ctypes.memset(start + match.start(), ord("x"), match.end() - match.start())
