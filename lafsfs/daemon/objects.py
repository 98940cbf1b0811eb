"""What can be asked of a running mount about single objects of its tree: their capabilities, names for those of
others, and immutable directories.

Paths are bytes, relative to the mounted root.
"""

from __future__ import annotations

import errno
import os
import unicodedata

from lafsfs.daemon.engine import child_of
from lafsfs.errors import BadCapError, LafsError, UnknownAliasError, UsageError
from lafsfs.formats.caps import UnknownCap, parse
from lafsfs.tree.attaching import attach, caps_to_attach, detach
from lafsfs.tree.inodes import Caps
from lafsfs.tree.seal_subtree import seal
from lafsfs.tree.tree import Tree


async def cap_of(tree: Tree, path: bytes, kind: str) -> str:
    """The cap of what is at `path`: its strongest (`kind` "write"), its read cap or its verify cap.

    UnknownAliasError when there is nothing, BadCapError when there is no such cap of it.
    """
    try:
        return _diminished(await tree.caps_at(path), kind)
    except OSError as problem:
        raise _refusal(path, problem) from problem


async def attach_at(tree: Tree, path: bytes, text: str, below: list[str], read_only: bool) -> None:
    """Let `path` lead to the capability `text`, or to what is `below` it; with `read_only`, without the right to write.

    It is in the journal on return. BadCapError, UnknownAliasError, ReadOnlyError, UsageError when there is something
    at `path` already; GridError when `below` has to be looked up and cannot.
    """
    caps = caps_to_attach(text.encode("utf-8", "surrogateescape"))
    for position, name in enumerate(below):
        child = await child_of(tree.nodes, caps, unicodedata.normalize("NFC", name))
        if child is None:
            raise UnknownAliasError(f"there is no {'/'.join(below[: position + 1])!r} below that directory")
        caps = child.rw_uri, child.ro_uri
    directory, _, name_there = path.rpartition(b"/")
    try:
        if not name_there:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        parent = await tree.find(directory)
        await attach(tree, parent.ino, name_there, (b"", caps[1]) if read_only else caps)
    except OSError as problem:
        raise _refusal(path, problem) from problem


async def detach_at(tree: Tree, path: bytes, timeout: float | None) -> None:
    """Take the name `path` away and leave the object as it is, whatever is in it.

    UnknownAliasError when there is nothing; ReadOnlyError; BusyError while files below it are open for writing;
    PendingError when what was changed in it is not on the grid after `timeout` seconds.
    """
    directory, _, name = path.rpartition(b"/")
    try:
        if not name:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        await detach(tree, (await tree.find(directory)).ino, name, timeout)
    except OSError as problem:
        raise _refusal(path, problem) from problem


async def seal_at(tree: Tree, path: bytes, timeout: float | None) -> tuple[str, tuple[int, int]]:
    """Make the directory at `path` immutable, with all below it: its read cap, and how many directories and mutable
    files became immutable. Errors as of `seal`.
    """
    try:
        cap, done = await seal(tree, await tree.find(path), timeout)
    except OSError as problem:
        raise _refusal(path, problem) from problem
    return cap.to_string(), done.counts


def _refusal(path: bytes, problem: OSError) -> LafsError:
    """What an error of a system call means to who named `path`."""
    where = os.fsdecode(path).encode("utf-8", "backslashreplace").decode() or "the root of the mount"
    if problem.errno in (errno.ENOENT, errno.ENOTDIR):
        return UnknownAliasError(f"{where}: {problem.strerror}")
    if problem.errno in (errno.EEXIST, errno.EPERM, errno.ENAMETOOLONG, errno.EINVAL):
        return UsageError(f"{where}: {problem.strerror}")
    return LafsError(f"{where}: {problem.strerror}")


def _diminished(caps: Caps, kind: str) -> str:
    """The string of the strongest cap, of the read cap or of the verify cap. BadCapError when there is none."""
    strongest = caps[0] or caps[1]
    if kind == "write":
        return _text(strongest)
    if kind not in ("read", "verify"):
        raise UsageError("an unknown kind of capability")
    cap = parse(strongest)
    if isinstance(cap, UnknownCap):
        if kind == "read" and caps[1]:
            return _text(caps[1])
        raise BadCapError("a capability of a kind this version does not know cannot be diminished")
    if kind == "read":
        return cap.read_cap().to_string()
    verifier = cap.verify_cap()
    if verifier is None:
        raise BadCapError("its content is in the capability itself: there is nothing to verify on the grid")
    return verifier.to_string()


def _text(cap: bytes) -> str:
    return cap.decode("utf-8", "backslashreplace")
