"""The mount process: `python -m lafsfs.daemon --request FD (--report FD | --foreground)`. See launch.py."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import json
import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import trio

from lafsfs.config import Paths
from lafsfs.daemon import failures, log
from lafsfs.daemon.memory import reuse_buffers
from lafsfs.daemon.spec import MountRequest, from_pipe
from lafsfs.errors import PendingError

_log = logging.getLogger("lafsfs.daemon")
_INTERRUPTED = 130


def main() -> int:
    """Mounts, serves, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="lafsfs-mount-process")
    parser.add_argument("--request", type=int, required=True)
    parser.add_argument("--report", type=int)
    parser.add_argument("--foreground", action="store_true")
    arguments = parser.parse_args()
    request = from_pipe(arguments.request)
    os.umask(0o077)
    if arguments.foreground:
        return _foreground(request)
    os.set_inheritable(arguments.report, False)
    return _background(request, arguments.report)


def _foreground(request: MountRequest) -> int:
    """Logs to stderr and says there what went wrong."""
    log.log_to_stderr()

    def announce(notes: list[str]) -> None:
        for note in [*notes, f"mounted at {request.mountpoint}"]:
            print(f"lafsfs: {note}", file=sys.stderr)
        _notify_service_manager()

    try:
        _run(request, announce, lambda _: None)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:
        answer = failures.to_wire(error)
        print(f"lafsfs: {answer['message']}", file=sys.stderr)
        return failures.from_wire(answer).exit_code
    return 0


def _background(request: MountRequest, report: int) -> int:
    """Tells the parent once how it went; from then on there is only the log."""
    waiting = [report]

    def tell(answer: dict[str, object]) -> None:
        while waiting:
            descriptor = waiting.pop()
            with contextlib.suppress(BrokenPipeError):
                os.write(descriptor, json.dumps(answer).encode() + b"\n")
            os.close(descriptor)

    def announce(notes: list[str]) -> None:
        _detach_stderr()
        tell({"notes": notes})

    log.log_to_stderr(logging.ERROR)
    try:
        _run(request, announce, _use_log_file)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except PendingError as error:
        _log.warning("%s", error)
        return error.exit_code
    except Exception as error:
        answer = failures.to_wire(error)
        if not waiting:
            _log.error("the mount process ends: %s", answer["message"])
        tell(answer)
        return failures.from_wire(answer).exit_code
    return 0


def _notify_service_manager() -> None:
    """Tells systemd that the tree is usable, when it started us (Type=notify)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier, contextlib.suppress(OSError):
            notifier.sendto(b"READY=1", "\0" + address[1:] if address[0] == "@" else address)


def _use_log_file(state_dir: Path) -> None:
    log.log_to_file(state_dir)


def _detach_stderr() -> None:
    """Leaves the terminal (or the pipe) of whoever started us."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


def _run(
    request: MountRequest, announce: Callable[[list[str]], None], use_log: Callable[[Path], None]
) -> None:
    reuse_buffers()
    # Looking for garbage among what is loaded would find none: not now, which takes a tenth longer, and not later.
    gc.disable()
    # Imported late: what is wrong with the system's FUSE library becomes a message, not a stack of imports.
    from lafsfs.daemon import mount

    gc.freeze()
    gc.enable()
    trio.run(mount.run, request, Paths.discover(os.environ), announce, use_log)


if __name__ == "__main__":
    faulthandler.enable()
    sys.exit(main())
