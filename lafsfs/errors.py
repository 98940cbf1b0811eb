"""One tree of exceptions. Every leaf says what a program sees (errno) and what a person sees (exit code).

Messages never hold a cap, a key or a swissnum. `contrib/doc/cli.md` lists the exit codes; they are a promise.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class LafsError(Exception):
    """Anything lafsfs reports on purpose. `errno` answers the kernel, `exit_code` the shell."""

    errno: ClassVar[int] = errno.EIO
    exit_code: ClassVar[int] = 1


# --- what a person typed -------------------------------------------------------------------------


class UsageError(LafsError):
    """Arguments that make no sense together."""

    errno = errno.EINVAL
    exit_code = 2


class BadCapError(LafsError):
    """A string that is no capability, or one of a kind that does not fit here."""

    errno = errno.EINVAL
    exit_code = 3


class UnknownAliasError(LafsError):
    """An alias, or a path below one, that does not exist."""

    errno = errno.ENOENT
    exit_code = 4


class ConfigError(LafsError):
    """A configuration file that cannot be used."""

    errno = errno.EINVAL
    exit_code = 5


class MountpointError(LafsError):
    """A mountpoint that is missing, no directory, not empty, or already mounted."""

    errno = errno.ENOTEMPTY
    exit_code = 6


class BusyError(LafsError):
    """Another process holds this state directory."""

    errno = errno.EBUSY
    exit_code = 7


class NotMountedError(LafsError):
    """No lafsfs mount answers at that place."""

    errno = errno.EINVAL
    exit_code = 8


# --- the grid ------------------------------------------------------------------------------------


class GridError(LafsError):
    """Something between us and the servers."""

    exit_code = 9


class ServerError(GridError):
    """One server failed to do what was asked; another one may do it."""

    errno = errno.EREMOTEIO


class ServerUnreachableError(ServerError):
    """No connection to the server."""

    errno = errno.EHOSTUNREACH


class ServerTimeoutError(ServerError):
    """The server did not answer before the deadline."""

    errno = errno.ETIMEDOUT


class ServerRefusedError(ServerError):
    """The server answered with an error status. `status` is the HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class BadAnswerError(ServerError):
    """The server's answer is not of the protocol."""

    errno = errno.EPROTO


class PinMismatchError(ServerError):
    """The server's certificate is not the one its NURL names. Nothing secret was sent to it."""

    errno = errno.EACCES
    exit_code = 10


class NotEnoughServersError(GridError):
    """Too few servers answered to read or to place what was asked. Trying later may help."""

    errno = errno.ETIMEDOUT


class OutdatedServersError(NotEnoughServersError):
    """What was seen before is on servers that do not answer; those that do offer an older version."""


class NotEnoughSharesError(GridError):
    """All servers answered, and fewer than k good shares exist: the content cannot be recovered from them.

    `newest`: the highest sequence number of which there is any share; 0 if there is none, or nothing that can change.
    `state`: stays the same as long as no server shows anything else.
    """

    errno = errno.EIO
    exit_code = 11

    def __init__(self, message: str, newest: int = 0, state: bytes = b"") -> None:
        super().__init__(message)
        self.newest = newest
        self.state = state


class RollbackError(GridError):
    """The servers offer an older version than one that was seen before."""

    errno = errno.EIO
    exit_code = 11


class UncoordinatedWriteError(GridError):
    """Somebody else wrote the same mutable file; what is on the grid now is not what was written against."""

    errno = errno.EAGAIN


# --- bytes that are not what they should be ----------------------------------------------------------


class FormatError(LafsError):
    """Bytes that break a layout."""

    errno = errno.EIO


class CorruptShareError(FormatError):
    """A share, or a part of it, that fails one of its checks."""


# --- the working tree --------------------------------------------------------------------------------


class ReadOnlyError(LafsError):
    """A change to something that was opened without the right to change it."""

    errno = errno.EROFS
    exit_code = 12


class PendingError(LafsError):
    """Changes are not on the grid when the time allowed was over. They are safe in the journal."""

    errno = errno.EAGAIN
    exit_code = 13


class MountFailedError(LafsError):
    """The mount process ended before the tree was usable."""

    exit_code = 14


class JournalError(LafsError):
    """The local journal cannot be read or written."""

    errno = errno.EIO
    exit_code = 15


class NoSpaceError(LafsError):
    """The local disk, or the staging limit, is full."""

    errno = errno.ENOSPC
    exit_code = 16
