"""Entries of immutable files as we write them, read in one go: JSON and netstrings one by one take five times as long,
and a listing reads every entry of a directory.

What `plain` understands is what entries.py reads from the same bytes; all the rest is left to that.
"""

from __future__ import annotations

import re
import stat
from binascii import b2a_base64
from functools import lru_cache

from lafsfs.formats.cap_sizes import IMMUTABLE, size_of_groups
from lafsfs.tree.attributes import Attributes, is_mode
from lafsfs.tree.seen import Seen, digest_of

# Numbers below 2**63, or nearly so, as JSON writes them: what is larger is for others to judge.
_63 = rb"(?:[1-8][0-9]{18}|9[01][0-9]{17}|[1-9][0-9]{0,17}|0)"
_32 = rb"(?:[1-9][0-9]{0,8}|0)"
_FLOAT = rb"(?:[1-9][0-9]{0,11}|0)(?:\.[0-9]{1,20})?"
_LENGTH = rb"([1-9][0-9]{0,8}):"
_NAME = re.compile(rb"([1-9][0-9]{0,3}):")
_PLAIN = re.compile(
    b","  # behind the name
    + _LENGTH + b"(" + IMMUTABLE + b"),"
    rb"(?:48:.{48}|0:),"  # a sealed write cap of no bytes
    + _LENGTH + rb'(\{"lafsfs": \{'
    rb'"mode": (' + _32 + rb'), "uid": (' + _32 + rb'), "gid": (' + _32 +
    rb'), "mtime": (' + _63 + rb'), "ctime": (' + _63 + rb'), "crtime": (' + _63 + rb'), "ino": (' + _63 +
    rb')(?:, "size": ' + _63 + rb')?(?:, "rdev": (' + _32 + rb'))?(?:, "atime": (' + _63 + rb'))?'
    rb', "nlink": (' + _32 + rb')(?:, "of": "([A-Za-z0-9+/]{8})")?\}, "mtime": ' + _FLOAT +
    rb', "ctime": ' + _FLOAT + rb', "tahoe": \{"linkcrtime": ' + _FLOAT + rb', "linkmotime": ' + _FLOAT + rb"\}\}),",
    re.DOTALL,
)  # fmt: skip


def plain(raw: bytes) -> Seen | None:
    """What an entry of a `Packed` says, None if it is not of the form that we write for immutable files."""
    name = _NAME.match(raw)
    found = _PLAIN.fullmatch(raw, name.end() + int(name[1])) if name is not None else None
    if found is None:
        return None
    length, cap, literal, size, rest_length, rest, *owner = found.group(1, 2, 3, 4, 5, 6, 7, 8, 9)
    mode, uid, gid = _owner(*owner)
    mtime, ctime, crtime, ino, nlink = map(int, found.group(10, 11, 12, 13, 16))
    rdev, atime, of = found.group(14, 15, 17)
    if not mode or len(cap) != int(length) or len(rest) != int(rest_length) or not _is_of(cap, of):
        return None
    accessed = mtime if atime is None else int(atime)
    bytes_in_it = size_of_groups(literal, size)
    attributes = Attributes(mode, uid, gid, int(rdev or 0), bytes_in_it, accessed, mtime, ctime, crtime)
    return Seen(attributes, (b"", cap), ino or None, nlink, None, None)


@lru_cache(256)
def _owner(mode: bytes, uid: bytes, gid: bytes) -> tuple[int, int, int]:
    """(mode, uid, gid), the same numbers for all files that have them; mode 0 for what is no file."""
    kind = int(mode)
    return kind if is_mode(kind) and not stat.S_ISDIR(kind) else 0, int(uid), int(gid)


def _is_of(cap: bytes, of: bytes | None) -> bool:
    """Whether the digest `of` the content, if there is one, is that of `cap`: if not, somebody else put it there."""
    digest = digest_of(cap)
    return of is None or (digest is not None and b2a_base64(digest, newline=False) == of)
