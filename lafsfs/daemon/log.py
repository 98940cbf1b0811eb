"""Where a mount process writes what it has to say.

In the background: `mount.log` in the state directory of the tree, private to its owner and bounded in
size. In the foreground: stderr. Both redact (redaction.py). Paths inside the tree do not belong into the
log file: nothing in the state directory tells a name in clear.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from pathlib import Path

from lafsfs.daemon.redaction import RedactingFormatter

LOG_NAME = "mount.log"
_MAX_BYTES = 4 << 20
_BACKUPS = 2
_FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"
_THIRD_PARTIES = ("httpx", "httpcore", "asyncio", "uvicorn")


class _PrivateRotatingFileHandler(logging.handlers.RotatingFileHandler):
    """A rotating log file only its owner may read."""

    def _open(self):  # type: ignore[no-untyped-def]  # the base class's return type is not public
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(descriptor, self.mode, encoding=self.encoding, errors=self.errors)


def log_to_stderr(level: int = logging.INFO) -> None:
    """All records to stderr, redacted."""
    _use(logging.StreamHandler(sys.stderr), level)


def log_to_file(directory: Path, level: int = logging.INFO) -> Path:
    """All records to `directory`/mount.log, redacted. Returns that path. OSError when it cannot be
    written.
    """
    path = directory / LOG_NAME
    _use(
        _PrivateRotatingFileHandler(
            path, mode="a", maxBytes=_MAX_BYTES, backupCount=_BACKUPS, encoding="utf-8", errors="replace"
        ),
        level,
    )
    return path


def _use(handler: logging.Handler, level: int) -> None:
    """Makes `handler` the only one."""
    handler.setFormatter(RedactingFormatter(_FORMAT))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level)
    for name in _THIRD_PARTIES:
        logging.getLogger(name).setLevel(logging.WARNING)
