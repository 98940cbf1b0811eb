"""Values of the tree -> values of pyfuse3; errors -> errno."""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FUSEError

from lafsfs.errors import LafsError, NoSpaceError
from lafsfs.fuse.interrupts import Interrupts
from lafsfs.tree import cap_attributes
from lafsfs.tree.attributes import BLOCK, Attributes
from lafsfs.tree.glimpses import Glimpse
from lafsfs.tree.inodes import Inline, Inode
from lafsfs.tree.tree import Tree

log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S", bound="HasTree")

BLOCK_SIZE = 4096


class HasTree(Protocol):
    """Whoever handles requests for a tree."""

    @property
    def tree(self) -> Tree: ...

    @property
    def interrupts(self) -> Interrupts: ...


def answered(
    at_hand: Callable[[Tree, tuple[Any, ...]], bool],
) -> Callable[
    [Callable[Concatenate[_S, _P], Coroutine[Any, Any, _R]]],
    Callable[Concatenate[_S, _P], Coroutine[Any, Any, _R]],
]:
    """A request handler that raises nothing but FUSEError: whatever goes wrong is answered, never ends the mount.

    EINTR when the caller was interrupted while the handler waited. The means for that cost more than most handlers do,
    so they are left out when `at_hand`, asked with the handler's arguments, says that nothing will have to be waited
    for.
    """

    def decorate(
        handler: Callable[Concatenate[_S, _P], Coroutine[Any, Any, _R]],
    ) -> Callable[Concatenate[_S, _P], Coroutine[Any, Any, _R]]:
        @functools.wraps(handler)
        async def wrapper(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
            tree = self.tree
            tree.last_request = trio.current_time()
            tree.requests += 1
            tree.running += 1
            try:
                full: NoSpaceError | None = None
                if at_hand(tree, args):
                    try:
                        return await handler(self, *args, **kwargs)
                    except NoSpaceError as problem:
                        full = problem
                call = partial(handler, self, *args, **kwargs)
                return await _patiently(self, handler.__name__, args, call, full)
            except FUSEError:
                raise
            except OSError as problem:
                raise FUSEError(problem.errno or errno.EIO) from None
            except LafsError as problem:
                if problem.errno == errno.EIO:
                    log.error("%s failed: %s", handler.__name__, problem)
                raise FUSEError(problem.errno) from None
            except Exception:
                log.exception("%s failed unexpectedly", handler.__name__)
                raise FUSEError(errno.EIO) from None
            finally:
                tree.running -= 1

        return wrapper

    return decorate


async def _patiently(
    self: HasTree,
    kind: str,
    args: tuple[Any, ...],
    call: Callable[[], Coroutine[Any, Any, _R]],
    full: NoSpaceError | None,
) -> _R:
    """What a handler returns that may wait, or (`full`) has just found no room. FUSEError with EINTR."""
    scope, requests = trio.CancelScope(), self.interrupts.requests
    requests[scope] = self.tree.last_request, kind, args
    try:
        with scope:
            if full is not None:
                return await self.tree.pushback.repeat(call, full)
            return await self.tree.pushback.patiently(call)
        raise FUSEError(errno.EINTR)
    finally:
        del requests[scope]


def fresh(tree: Tree, args: tuple[Any, ...]) -> bool:
    """Whether the names in a directory are at hand, as new as they have to be."""
    inode = tree.inodes.get(args[0])
    return inode is not None and inode.folder is not None and tree.is_fresh(inode.folder)


def going_on(tree: Tree, args: tuple[Any, ...]) -> bool:
    """Whether a directory is being listed already: its names were looked at when that began."""
    return bool(args[1])


def linkable(tree: Tree, args: tuple[Any, ...]) -> bool:
    """Whether all that a further name needs is at hand: its directory, and where files with several names are kept."""
    return fresh(tree, args[1:]) and tree.hard_links.at_hand


def local(tree: Tree, args: tuple[Any, ...]) -> bool:
    """What is asked for is always at hand."""
    return True


def remote(tree: Tree, args: tuple[Any, ...]) -> bool:
    """What is asked for may be on the grid only."""
    return False


def unpublished(tree: Tree, args: tuple[Any, ...]) -> bool:
    """Whether a content is small and not on the grid yet."""
    return isinstance(tree.files.inode_of(args[0]).content, Inline)


def free(tree: Tree, args: tuple[Any, ...]) -> bool:
    """Whether nobody else is changing a content."""
    return not tree.files.is_changing(tree.files.inode_of(args[0]))


def known(tree: Tree, args: tuple[Any, ...]) -> bool:
    """Whether the attributes of an inode are at hand: those of mutable files on the grid are not."""
    inode = tree.inodes.get(args[0])
    return inode is None or inode.content is not None or inode.caps is None or not tree.is_mutable(inode)


def ordinary(tree: Tree, args: tuple[Any, ...]) -> bool:
    """Whether an extended attribute is none of those that may have to be asked for on the grid."""
    return args[1] not in cap_attributes.NAMES


def entry(inode: Inode, timeout: float) -> EntryAttributes:
    """What stat shows, valid in the kernel for `timeout` seconds."""
    return _stat(inode.ino, inode.nlink, inode.attributes, inode.allocated, timeout)


def glance(ino: int, glimpse: Glimpse, timeout: float) -> EntryAttributes:
    """The same of a file of which there is a glimpse."""
    attributes = glimpse.attributes
    return _stat(ino, 1, attributes, attributes.size, timeout)


def _stat(ino: int, nlink: int, a: Attributes, allocated: int, timeout: float) -> EntryAttributes:
    e = _blank(timeout)
    _fill(e, ino, nlink, a, allocated)
    return e


def _blank(timeout: float) -> EntryAttributes:
    """What is the same for all."""
    e = EntryAttributes()
    e.generation = 0
    e.entry_timeout = e.attr_timeout = timeout
    e.st_blksize = BLOCK_SIZE
    return e


def _fill(e: EntryAttributes, ino: int, nlink: int, attributes: tuple[int, ...], allocated: int) -> None:
    e.st_ino = ino
    e.st_nlink = nlink
    (
        e.st_mode,
        e.st_uid,
        e.st_gid,
        e.st_rdev,
        e.st_size,
        e.st_atime_ns,
        e.st_mtime_ns,
        e.st_ctime_ns,
        _,
    ) = attributes
    e.st_blocks = -(-allocated // BLOCK)


class Row:
    """What stat shows, for one name of a listing after the other: each overwrites the one before."""

    def __init__(self, timeout: float) -> None:
        self._shown = _blank(timeout)

    def entry(self, inode: Inode) -> EntryAttributes:
        """As `answers.entry`."""
        _fill(self._shown, inode.ino, inode.nlink, inode.attributes, inode.allocated)
        return self._shown

    def glance(self, ino: int, glimpse: Glimpse) -> EntryAttributes:
        """As `answers.glance`."""
        attributes = glimpse.fields
        _fill(self._shown, ino, 1, attributes, attributes[4])
        return self._shown


def statvfs(total: int, free: int, files: int) -> pyfuse3.StatvfsData:
    """The answer to statfs; sizes in bytes, `files` in memory now."""
    s = pyfuse3.StatvfsData()
    s.f_bsize = s.f_frsize = BLOCK_SIZE
    s.f_blocks = total // BLOCK_SIZE
    s.f_bfree = s.f_bavail = free // BLOCK_SIZE
    s.f_ffree = s.f_favail = 1 << 32
    s.f_files = s.f_ffree + files
    s.f_namemax = 255
    return s
