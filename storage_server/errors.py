"""What the store refuses, each with the HTTP status that says so."""

from __future__ import annotations

import errno
from typing import ClassVar

from lafsfs.errors import LafsError


class RefusedError(LafsError):
    """A request that the store does not carry out. `status` is the HTTP status of the answer."""

    errno = errno.EINVAL
    status: ClassVar[int] = 400


class BadRequestError(RefusedError):
    """A request that does not fit the protocol."""


class BadSecretError(RefusedError):
    """The secret is not the one that this share was made with."""

    errno = errno.EACCES
    status = 401


class ReadOnlyStoreError(RefusedError):
    """A new share was offered to a server that takes none."""

    errno = errno.EROFS
    status = 403


class NoShareError(RefusedError):
    """No such share, or no such upload."""

    errno = errno.ENOENT
    status = 404


class AlreadyCompleteError(RefusedError):
    """An abort of a share that is complete."""

    errno = errno.EEXIST
    status = 405


class ConflictError(RefusedError):
    """Different bytes for a range that was written before, or a share of the other kind in the way."""

    errno = errno.EEXIST
    status = 409


class TooLargeError(RefusedError):
    """A body above the limit of its endpoint."""

    errno = errno.EFBIG
    status = 413


class BadRangeError(RefusedError):
    """A range that is missing, malformed or outside of the share."""

    errno = errno.ERANGE
    status = 416


class DiskFullError(RefusedError):
    """Not enough space for the change; nothing was changed."""

    errno = errno.ENOSPC
    status = 507


class UnsettledError(RefusedError):
    """A logged change could not be made yet (disk trouble); shares cannot be used until it is."""

    errno = errno.EIO
    status = 503


class BadContainerError(LafsError):
    """A share file whose container cannot be understood."""

    errno = errno.EIO
