"""The storage directory: where things are, and what a share file is (formats.md section 5)."""

from __future__ import annotations

import os
from contextlib import suppress
from enum import Enum
from functools import lru_cache
from pathlib import Path

from lafsfs.formats import base32
from storage_server import immutable, mutable


class Kind(Enum):
    """Kinds of share containers."""

    IMMUTABLE = "immutable"
    MUTABLE = "mutable"


class Layout:
    """Paths below one storage directory. Paths are plain strings: they are made for every request."""

    def __init__(self, storage_dir: Path) -> None:
        self.root = storage_dir
        self.shares = str(storage_dir / "shares")
        self.incoming = str(storage_dir / "shares" / "incoming")
        self.advisories = str(storage_dir / "corruption-advisories")
        self.journal = str(storage_dir / "lafs-journal")

    def make(self) -> None:
        """Create the directories that are missing."""
        for path in (self.incoming, self.advisories, self.journal):
            os.makedirs(path, mode=0o700, exist_ok=True)

    def bucket(self, storage_index: bytes) -> str:
        """Directory of the complete shares of a storage index."""
        name = _name(storage_index)
        return f"{self.shares}/{name[:2]}/{name}"

    def share(self, storage_index: bytes, shnum: int) -> str:
        """File of one complete share."""
        return f"{self.bucket(storage_index)}/{shnum}"

    def upload(self, storage_index: bytes, shnum: int) -> str:
        """File of one immutable share in progress."""
        name = _name(storage_index)
        return f"{self.incoming}/{name[:2]}/{name}/{shnum}"

    def scratch(self, storage_index: bytes, shnum: int) -> str:
        """File in which a share is put together before it is renamed; no share by its name."""
        return f"{self.bucket(storage_index)}/.{shnum}.new"

    def share_numbers(self, storage_index: bytes) -> list[int]:
        """Numbers of the complete shares, ascending; files of other names are not shares."""
        try:
            names = os.listdir(self.bucket(storage_index))
        except FileNotFoundError:
            return []
        return sorted(int(name) for name in names if is_share_name(name))

    def holds(self, storage_index: bytes, shnum: int) -> bool:
        """Whether a complete share of this number, of whatever kind, is there."""
        return os.path.lexists(self.share(storage_index, shnum))

    def remove_upload(self, storage_index: bytes, shnum: int) -> None:
        """Remove a share in progress and the directories that this leaves empty."""
        path = self.upload(storage_index, shnum)
        with suppress(FileNotFoundError):
            os.unlink(path)
        self.prune_upload(path)

    def prune_upload(self, path: str) -> None:
        """Remove the directories of a share in progress if they are empty."""
        bucket = os.path.dirname(path)
        for directory in (bucket, os.path.dirname(bucket)):
            try:
                os.rmdir(directory)
            except OSError:
                return

    def wipe_incoming(self) -> None:
        """Forget every upload in progress, as a server does when it starts."""
        for directory, subdirectories, files in os.walk(self.incoming, topdown=False):
            for name in files:
                os.unlink(os.path.join(directory, name))
            for name in subdirectories:
                os.rmdir(os.path.join(directory, name))


@lru_cache(maxsize=256)
def _name(storage_index: bytes) -> str:
    """The base32 of a storage index, which one request needs several times."""
    return base32.encode(storage_index)


def is_share_name(name: str) -> bool:
    """Whether a directory entry is a share: decimal digits, as we would write the number."""
    return name.isascii() and name.isdigit() and (name == "0" or name[0] != "0")


def kind_of(fd: int) -> Kind | None:
    """What container an open file holds; None if it is neither."""
    start = os.pread(fd, mutable.MAGIC_SIZE, 0)
    if immutable.recognises(start):
        return Kind.IMMUTABLE
    return Kind.MUTABLE if mutable.recognises(start) else None
