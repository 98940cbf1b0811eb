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

# Numbers as JSON writes them, and as we do: what is larger, smaller or shorter is for others to judge.
_LONG = rb"[1-9][0-9]{0,18}"
_SHORT = rb"[0-9]{1,10}"
_FLOAT = rb"[1-9][0-9]{0,11}\.[0-9]{1,20}"
_LENGTH = rb"([1-9][0-9]{0,8}):"
_NAME = re.compile(rb"([1-9][0-9]{0,3}):")
_OWNER = rb'%b, "uid": %b, "gid": %b'
_PLAIN = re.compile(
    b","  # behind the name
    + _LENGTH + b"(" + IMMUTABLE + b"),"
    rb"(?:48:.{48}|0:),"  # a sealed write cap of no bytes
    + _LENGTH +
    rb'\{"lafsfs": \{"mode": (' + _OWNER % (_SHORT, _SHORT, _SHORT) +
    rb'), "mtime": (' + _LONG + rb'), "ctime": (' + _LONG + rb'), "crtime": (' + _LONG + rb'), "ino": (' + _LONG +
    rb')(?:, "size": (?:' + _LONG + rb'|0))?(?:, "atime": (' + _LONG + rb'))?, "nlink": ([1-9][0-9]{0,8})'
    rb'(?:, "of": "([A-Za-z0-9+/]{8})")?\}, "mtime": ' + _FLOAT + rb', "ctime": ' + _FLOAT +
    rb', "tahoe": \{"linkcrtime": ' + _FLOAT + rb', "linkmotime": ' + _FLOAT + rb"\}\},",
    re.DOTALL,
)  # fmt: skip


def plain(raw: bytes) -> Seen | None:
    """What an entry of a `Packed` says, None if it is not of the form that we write for immutable files."""
    name = _NAME.match(raw)
    found = _PLAIN.fullmatch(raw, name.end() + int(name[1])) if name is not None else None
    if found is None:
        return None
    length, cap, literal, chk_size, left, who, mtime, ctime, crtime, ino, atime, nlink, of = found.groups()
    if len(cap) != int(length) or len(raw) - found.end(5) - 2 != int(left):
        return None
    size, owner = size_of_groups(literal, chk_size), _owner(who)
    if size is None or owner is None or not _is_of(cap, of):
        return None
    modified, number = int(mtime), int(ino)
    # Equal times are one number: there may be many files.
    accessed = modified if atime is None else int(atime)
    changed = modified if ctime == mtime else int(ctime)
    created = modified if crtime == mtime else int(crtime)
    if (modified | accessed | changed | created | number) >> 63:
        return None
    mode, uid, gid = owner
    attributes = Attributes(mode, uid, gid, 0, size, accessed, modified, changed, created)
    return Seen(attributes, (b"", cap), number, int(nlink), None, None)


@lru_cache(256)
def _owner(text: bytes) -> tuple[int, int, int] | None:
    """(mode, uid, gid), the same numbers for all files that have them; None if they are not those of a file."""
    mode, uid, gid = map(int, re.findall(_SHORT, text))
    sane = is_mode(mode) and not stat.S_ISDIR(mode) and max(uid, gid) >> 32 == 0
    return (mode, uid, gid) if sane and _OWNER % (b"%d" % mode, b"%d" % uid, b"%d" % gid) == text else None


def _is_of(cap: bytes, of: bytes | None) -> bool:
    """Whether the digest `of` the content, if there is one, is that of `cap`: if not, somebody else put it there."""
    digest = digest_of(cap)
    return of is None or (digest is not None and b2a_base64(digest, newline=False) == of)
