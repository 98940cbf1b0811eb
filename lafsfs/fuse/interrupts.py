"""Requests whose callers were interrupted are given up, so that Ctrl-C ends a program that waits for the grid.

The kernel sends FUSE_INTERRUPT for such a request and then waits for its answer, uninterruptibly. libfuse takes that
message and pyfuse3 does not pass it on; but the signal stays pending until the answer comes, and /proc shows that.
Looked at are only requests that have been waiting for a while, of programs whose number the kernel told: by the request
itself, or when the file was opened.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import trio
from pyfuse3 import RequestContext

LONG = 0.4  # seconds after which a request is looked at
EVERY = 0.3  # seconds between two looks
_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM)
_ENDING = sum(1 << number - 1 for number in _SIGNALS)


class Interrupts:
    """The requests that are being answered.

    `requests` maps the scope of each to (trio time it began, its kind, its arguments); `files` and `directories` map
    handles to the processes that opened them. All are filled by whoever answers requests.
    """

    def __init__(self) -> None:
        self.requests: dict[trio.CancelScope, tuple[float, str, tuple[Any, ...]]] = {}
        self.files: dict[int, int] = {}
        self.directories: dict[int, int] = {}

    async def run(self) -> None:
        """Cancel the scopes of interrupted requests, until cancelled."""
        while True:
            await trio.sleep(EVERY)
            late = trio.current_time() - LONG
            for scope, (began, kind, arguments) in list(self.requests.items()):
                if began < late and is_interrupted(self._caller(kind, arguments)):
                    scope.cancel()

    def _caller(self, kind: str, arguments: tuple[Any, ...]) -> int:
        """The process that waits, 0 if it is not known."""
        if isinstance(arguments[-1], RequestContext):
            return int(arguments[-1].pid)
        openers = self.directories if kind in ("readdir", "fsyncdir") else self.files
        return openers.get(arguments[0], 0)


def is_interrupted(pid: int) -> bool:
    """Whether a signal that is meant to end it waits for a process (or thread)."""
    try:
        text = Path(f"/proc/{pid}/status").read_text() if pid else ""
    except OSError:
        return False  # it is gone, or lives in another namespace
    sets = {"SigPnd": 0, "ShdPnd": 0, "SigBlk": 0}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name in sets:
            sets[name] = int(value, 16)
    return bool((sets["SigPnd"] | sets["ShdPnd"]) & ~sets["SigBlk"] & _ENDING)
