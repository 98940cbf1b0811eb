"""Extended attributes that tell what an object is on the grid: `user.lafs.cap`, `.readcap` and so on.

They are computed when asked for by name, cannot be set, and are not listed: what copies all attributes of a file
(`cp -a`, `rsync -X`, `tar --xattrs`) asks for the listed ones, and the copy is another object with other capabilities.
An object of which the grid does not have the present content has none of them yet (ENODATA): the capabilities of what
it was before would be those of something else.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from lafsfs.errors import BadCapError, FormatError
from lafsfs.formats import base32
from lafsfs.formats.caps import Cap, DirCap, MutableReadCap, MutableWriteCap, UnknownCap, parse
from lafsfs.formats.dirnode import understand
from lafsfs.tree.inodes import Caps, Inode

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree

PREFIX = b"user.lafs."
NAMES = frozenset(PREFIX + name for name in (b"cap", b"readcap", b"verifycap", b"kind", b"si", b"seqnum"))


def explicit(caps: Caps) -> Caps:
    """The (write, read) caps of an object to be given away: those of an unknown kind with the prefix that directories
    leave out. BadCapError for a damaged entry, of which there are none.
    """
    try:
        child = understand(*caps, deep_immutable=False)
    except FormatError as problem:
        raise BadCapError("the entry of that file holds no usable capability") from problem
    if not (child.rw_uri or child.ro_uri):
        raise BadCapError("the entry of that file holds no capability")
    return child.rw_uri, child.ro_uri


def kind_of(cap: Cap) -> str:
    """The kind of a capability in Tahoe's words: what is between `URI:` and the next colon, else `unknown`."""
    return "unknown" if isinstance(cap, UnknownCap) else cap.to_string().split(":", 2)[1]


class CapAttributes:
    """Answers for one tree."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    async def get(self, inode: Inode, name: bytes, *, owner: bool) -> bytes:
        """The value of one of NAMES. ENODATA where there is none; GridError when servers must be asked and fail.

        Only the owner of the mount (`owner`) is told what lets one write, and the read capability of a directory, which
        opens all below it whatever the permission bits there say: EPERM for others.
        """
        caps = self._present(inode)
        if not owner and (name == PREFIX + b"cap" or (inode.is_dir and name == PREFIX + b"readcap")):
            raise _error(errno.EPERM)
        strongest = parse(caps[0] or caps[1])
        if name == PREFIX + b"kind":
            return kind_of(strongest).encode()
        if name == PREFIX + b"cap":
            return caps[0] or caps[1]
        if name == PREFIX + b"readcap" and caps[1]:
            return caps[1]
        if isinstance(strongest, UnknownCap):
            raise _error(errno.ENODATA)
        return await self._of_known(inode, strongest, name)

    def _present(self, inode: Inode) -> Caps:
        """The caps under which the grid has the object as it is now; those of a mutable file stay while it changes."""
        if inode.caps is None:
            raise _error(errno.ENODATA)
        try:
            caps = explicit(inode.caps)
        except BadCapError:
            raise _error(errno.ENODATA) from None
        cap = parse(caps[0] or caps[1])
        if inode.content is not None and not (isinstance(cap, MutableWriteCap | MutableReadCap)):
            raise _error(errno.ENODATA)
        return caps

    async def _of_known(self, inode: Inode, cap: Cap, name: bytes) -> bytes:
        assert not isinstance(cap, UnknownCap)
        verifier = cap.verify_cap()
        if verifier is None or cap.storage_index is None:
            raise _error(errno.ENODATA)  # all of it is in the capability
        if name == PREFIX + b"verifycap":
            return verifier.to_bytes()
        if name == PREFIX + b"si":
            return base32.encode(cap.storage_index).encode()
        if name != PREFIX + b"seqnum":
            raise _error(errno.ENODATA)
        return b"%d" % await self._sequence_number(inode, cap)

    async def _sequence_number(self, inode: Inode, cap: Cap) -> int:
        """Of the version last seen, which is at most `refresh` old for a directory, and asked for for a file."""
        if isinstance(cap, DirCap) and cap.is_mutable:
            folder = await self._tree.folder(inode.ino)
            if folder.snapshot is not None:
                return folder.snapshot.version.seqnum
        elif isinstance(cap, MutableWriteCap | MutableReadCap):
            return (await self._tree.nodes.mutable_file(cap).newest()).seqnum
        raise _error(errno.ENODATA)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
