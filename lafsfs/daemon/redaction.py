"""Secrets stay out of logs: the second line of defence, behind never passing them to a logger at all.

Whatever looks like a capability, a FURL or a NURL is replaced in the finished text of a record, its traceback
included.
"""

from __future__ import annotations

import logging
import re

_SECRETS = re.compile(
    r"""
    URI(?::|%3A)[A-Za-z0-9:%._\-]*      # capabilities, also percent-encoded
  | pb://[^\s'"<>]*                     # FURLs and NURLs: the last path segment is a secret
  | (?<=Tahoe-LAFS\ )[A-Za-z0-9+/=]+    # the Authorization header of the storage protocol
  | (?:lease-renew-secret|lease-cancel-secret|upload-secret|write-enabler)[\ :=]+[A-Za-z0-9+/=]+
    """,
    re.VERBOSE | re.IGNORECASE,
)


def redact(text: str) -> str:
    """`text` with every secret in it replaced by `[secret]`."""
    return _SECRETS.sub("[secret]", text)


class RedactingFormatter(logging.Formatter):
    """Formats as usual, then redacts the whole of it."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, tracebacks included, without secrets."""
        return redact(super().format(record))
