"""What an entry of the grid says about a file."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from lafsfs.tree.attributes import Attributes
from lafsfs.tree.inodes import Caps


class Seen(NamedTuple):
    """What one entry on the grid says: `ino` and `nlink` None where the entry does not tell."""

    attributes: Attributes
    caps: Caps
    ino: int | None
    nlink: int | None
    xattrs: dict[bytes, bytes] | None
    extra: bytes | None


def digest_of(ro_uri: bytes) -> bytes | None:
    """Short digest of a cap of immutable content; None for other caps, which stay when the content changes."""
    if not ro_uri.startswith((b"URI:CHK:", b"URI:LIT:")):
        return None
    return hashlib.blake2b(ro_uri, digest_size=6).digest()
