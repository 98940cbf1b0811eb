"""Which capabilities can be mounted. Light to import: `lafsfs mount` refuses before it starts anything."""

from __future__ import annotations

from lafsfs.errors import BadCapError
from lafsfs.formats import caps
from lafsfs.formats.caps import DirCap


def root_cap(text: str) -> DirCap:
    """The directory cap that `text` is. BadCapError for anything else; the message never holds the cap."""
    cap = caps.parse(text.strip())
    if isinstance(cap, caps.UnknownCap):
        if cap.error is not None:
            raise BadCapError("that is not a well-formed capability")
        raise BadCapError("that is no capability of a kind lafsfs knows (they begin with URI:)")
    return as_directory(cap)


def as_directory(cap: caps.Cap) -> DirCap:
    """`cap` if a directory can be read with it, else BadCapError."""
    if isinstance(cap, caps.UnknownCap):
        raise BadCapError("that is a capability of a kind this version of lafsfs does not know")
    if cap.is_verifier:
        raise BadCapError("that is a verify cap: it can check shares, but not read a directory")
    if not isinstance(cap, DirCap):
        raise BadCapError("that is the capability of a file; only a directory can be mounted")
    return cap
