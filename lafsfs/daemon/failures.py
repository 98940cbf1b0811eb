"""Errors on their way from a mount process to the person who asked for something."""

from __future__ import annotations

import logging
from typing import Any

from lafsfs import errors
from lafsfs.daemon.redaction import redact
from lafsfs.errors import LafsError

_log = logging.getLogger(__name__)


def lafs_error_in(error: BaseException) -> LafsError | None:
    """The first LafsError in `error`, which may be a group of errors of several tasks."""
    if isinstance(error, LafsError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((found for inner in error.exceptions if (found := lafs_error_in(inner))), None)
    return None


def to_wire(error: BaseException) -> dict[str, Any]:
    """`error` as plain data. What is no LafsError is a defect: its traceback goes to the log, its kind to
    the user.
    """
    known = lafs_error_in(error)
    if known is not None:
        return {"error": type(known).__name__, "message": redact(str(known)) or type(known).__name__}
    _log.error("unexpected error", exc_info=error)
    return {"error": "LafsError", "message": f"unexpected error ({_kind_of(error)}); the log has the details"}


def from_wire(answer: dict[str, Any]) -> LafsError:
    """The error that to_wire described, with the exit code of its kind."""
    kind = getattr(errors, str(answer.get("error")), LafsError)
    if not (isinstance(kind, type) and issubclass(kind, LafsError)):
        kind = LafsError
    if issubclass(kind, errors.ServerRefusedError):
        kind = errors.ServerError
    return kind(str(answer.get("message", "")))


def _kind_of(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return type(error).__name__
