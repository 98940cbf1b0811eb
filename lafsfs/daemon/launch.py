"""Starting mount processes.

A mount process is always a fresh `python -m lafsfs.daemon` that gets its request through a pipe, so that
neither its arguments nor its environment hold the capability, whatever the arguments of `lafsfs mount`
were.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import NoReturn

from lafsfs.daemon import failures
from lafsfs.daemon.spec import MountRequest, into_pipe
from lafsfs.errors import MountFailedError


def in_background(request: MountRequest) -> list[str]:
    """Starts the process and returns when the tree is usable, with notes for the user.

    Raises what kept the process from mounting; MountFailedError when it just died.
    """
    request_fd = into_pipe(request)
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(
            [*_command(request_fd), "--report", str(writer)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(request_fd, writer),
            start_new_session=True,
            cwd="/",
            env=_frugal(os.environ),
        )
    finally:
        os.close(request_fd)
        os.close(writer)
    with os.fdopen(reader, "rb") as report:
        try:
            line = report.readline()
        except KeyboardInterrupt:
            process.terminate()
            raise
    return _notes_of(line, process)


def _frugal(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that lives long.

    glibc gives every thread a heap of its own and keeps what was freed there: with the buffers of uploads in
    worker threads that comes to a hundred megabytes.
    """
    return {"MALLOC_ARENA_MAX": "2", "MALLOC_TRIM_THRESHOLD_": "1000000", **environment}


def in_foreground(request: MountRequest) -> NoReturn:
    """Becomes the mount process: same process id, fresh arguments, log on stderr. Does not return."""
    request_fd = into_pipe(request)
    sys.stdout.flush()
    sys.stderr.flush()
    command = [*_command(request_fd), "--foreground"]
    os.execve(command[0], command, _frugal(os.environ))


def _command(request_fd: int) -> list[str]:
    return [sys.executable, "-P", "-m", "lafsfs.daemon", "--request", str(request_fd)]


def _notes_of(line: bytes, process: subprocess.Popen[bytes]) -> list[str]:
    """What the process reported in its one line."""
    if not line:
        code = process.wait()
        raise MountFailedError(f"the mount process ended before the tree was usable (exit code {code})")
    answer = json.loads(line)
    if "error" in answer:
        process.wait()
        raise failures.from_wire(answer)
    return [str(note) for note in answer["notes"]]
