"""Packed directories (formats.md 7): a concatenation of entries, split lazily.

A directory of many entries is split into names only; an entry is decoded when somebody asks for it, and
entries that nobody changed are written back byte for byte. One that nobody looks at may be kept compressed, as entries
are much alike.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from lafsfs.errors import FormatError
from lafsfs.formats import aes, keys, netstring

_MAC_SIZE = 32
# The lengths of an entry and, at its start, of its name.
_LENGTHS = re.compile(rb"(0|[1-9][0-9]{0,18}):(0|[1-9][0-9]{0,18}):")
_COMMA = ord(",")
_LENGTH_BITS = 30  # no directory is read beyond 1 GiB; a place and a length take 8 bytes then
_LENGTH_MASK = (1 << _LENGTH_BITS) - 1
_WORTH_FOLDING = 4 << 10  # bytes


class Entry(NamedTuple):
    """One decoded entry. `raw` is what is inside its outer netstring; the other fields are parts of it."""

    name: str
    ro_uri: bytes
    rwdata: bytes
    metadata: bytes
    raw: bytes

    def __repr__(self) -> str:
        return f"Entry(name={self.name!r}, metadata={self.metadata!r})"  # the rest gives access

    @classmethod
    def parse(cls, raw: bytes) -> Entry:
        """Decode the inside of an outer netstring. FormatError when it does not hold four netstrings.

        The caps come without trailing spaces, the name NFC-normalised. Bytes behind the metadata are kept in
        `raw` and otherwise ignored.
        """
        name, at = netstring.read(raw, 0)
        ro_uri, at = netstring.read(raw, at)
        rwdata, at = netstring.read(raw, at)
        metadata, at = netstring.read(raw, at)
        return cls(_normal(name), ro_uri.rstrip(b" "), rwdata, metadata, raw)


class Packed:
    """The contents of a directory: names to raw entries. Immutable; `with_changes` is cheap.

    Between `fold` and the next look at an entry the entries take less than half of their memory.
    """

    __slots__ = ("_changes", "_data", "_folded", "_ordered", "_spans", "_used")

    def __init__(self, data: bytes = b"") -> None:
        """Split `data`; FormatError when it is no sequence of entries. The same as `parse`."""
        self._data: bytes | None = data
        self._folded = b""  # the same, compressed; `_data` may be None then
        self._used = True
        self._changes: Mapping[str, bytes] = {}
        # name -> where the inside of the outer netstring starts, and its length: one number, as many are kept
        self._spans, self._ordered = _split(data)

    @classmethod
    def parse(cls, data: bytes) -> Packed:
        """Split the contents of a directory. FormatError when they are no sequence of entries."""
        return cls(bytes(data))

    def __len__(self) -> int:
        return len(self._spans) + len(self._changes)

    def __contains__(self, name: object) -> bool:
        return name in self._spans or name in self._changes

    def names(self) -> Iterator[str]:
        """All names: those that were parsed in stored order, then changed and new ones."""
        yield from self._spans
        yield from self._changes

    def foldable(self) -> bytes | None:
        """What there is to compress, if it is worth it; None if somebody looked at it since the last call."""
        if self._used:
            self._used = False
            return None
        if self._folded:
            self._data = None
        return self._data if self._data is not None and len(self._data) >= _WORTH_FOLDING else b""

    def fold(self, folded: bytes) -> None:
        """Keep `folded`, which is `squeeze` of what is `foldable`, unless somebody looked at an entry meanwhile."""
        self._folded = folded
        if not self._used:
            self._data = None

    def _entries(self) -> bytes:
        """All entries, for who is going to look at more of them."""
        self._used = True
        self._data = self._once()
        return self._data

    def _once(self) -> bytes:
        """All entries, for who needs them once. `fold` may come in between, in another thread."""
        data = self._data
        return data if data is not None else zlib.decompress(self._folded)

    def raw(self, name: str) -> bytes | None:
        """The inside of the entry's outer netstring, or None."""
        changed = self._changes.get(name)
        if changed is not None:
            return changed
        span = self._spans.get(name)
        if span is None:
            return None
        start = span >> _LENGTH_BITS
        return self._entries()[start : start + (span & _LENGTH_MASK)]

    def holding(self, text: bytes) -> Iterator[str]:
        """The names of the entries that have `text` in them. Cheap when there are none."""
        if text in self._once():
            yield from (name for name in self._spans if text in (self.raw(name) or b""))
        yield from (name for name, raw in self._changes.items() if text in raw)

    def get(self, name: str) -> Entry | None:
        """The decoded entry, or None. FormatError when it is broken inside."""
        raw = self.raw(name)
        return None if raw is None else Entry.parse(raw)

    def with_changes(self, changes: Mapping[str, bytes | None]) -> Packed:
        """A copy in which each name has the given raw entry (from `make_entry`), or is gone for None."""
        spans, changed = dict(self._spans), dict(self._changes)
        for name, raw in changes.items():
            spans.pop(name, None)
            changed.pop(name, None)
            if raw is not None:
                changed[name] = raw
        copy = Packed.__new__(Packed)
        copy._data, copy._changes, copy._spans = self._entries(), changed, spans
        copy._folded, copy._used, copy._ordered = b"", True, False
        return copy

    def pack(self) -> bytes:
        """The contents to store: entries sorted by name, unchanged ones byte for byte."""
        data = self._once()
        if self._ordered:
            return data
        view = memoryview(data)
        parts: list[bytes | memoryview] = []
        for name in sorted(self.names()):
            changed = self._changes.get(name)
            if changed is None:
                start, length = divmod(self._spans[name], 1 << _LENGTH_BITS)
                before = len(b"%d:" % length)
                parts.append(view[start - before : start + length + 1])
            else:
                parts.append(netstring.netstring(changed))
        return b"".join(parts)


def squeeze(data: bytes) -> bytes:
    """`data` compressed for `Packed.fold`; 10 ms a MB."""
    return zlib.compress(data, 1)


def _split(data: bytes) -> tuple[dict[str, int], bool]:
    """Where each entry is, and whether the names ascend strictly, so that packing would change nothing."""
    if len(data) > 1 << _LENGTH_BITS:
        raise FormatError("a directory is larger than any can be")
    spans: dict[str, int] = {}
    at, end, ordered, last = 0, len(data), True, ""
    lengths = _LENGTHS.match
    while at < end:
        match = lengths(data, at)
        if match is None:
            raise FormatError("the length of a directory entry is malformed")
        inner, name_start = match.end(1) + 1, match.end()
        stop, name_end = inner + int(match[1]), name_start + int(match[2])
        if stop >= end or data[stop] != _COMMA or name_end >= stop or data[name_end] != _COMMA:
            raise FormatError("a directory entry does not end where it should")
        name = _normal(data[name_start:name_end])
        ordered = ordered and name > last
        # Of two entries with one name the last one counts.
        spans[name] = inner << _LENGTH_BITS | stop - inner
        at, last = stop + 1, name
    return spans, ordered


def _normal(name: bytes) -> str:
    if name.isascii():
        return name.decode("ascii")
    try:
        return unicodedata.normalize("NFC", name.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise FormatError("a name in a directory is not UTF-8") from error


# --- entries ---------------------------------------------------------------------------------------


def make_entry(
    name: str, ro_uri: bytes, rw_uri: bytes, metadata_json: bytes, writekey: bytes | None
) -> bytes:
    """The raw entry to hand to `Packed.with_changes`.

    `writekey` is the directory's, or None for an immutable directory, which can hold no write caps
    (FormatError).
    """
    if writekey is None:
        if rw_uri:
            raise FormatError("an immutable directory cannot hold a write cap")
        prefix = b"imm." if ro_uri.startswith(b"imm.") else b"ro."
        rwdata = b""
    else:
        prefix = b"ro."
        rwdata = seal_rw(rw_uri, writekey)
    stored_name = unicodedata.normalize("NFC", name).encode("utf-8")
    return b"".join(
        map(netstring.netstring, (stored_name, ro_uri.removeprefix(prefix), rwdata, metadata_json))
    )


def seal_rw(rw_uri: bytes, writekey: bytes) -> bytes:
    """A child's write cap (empty when there is none) as stored in a mutable directory."""
    salt = keys.child_salt_of(rw_uri)
    key = keys.child_key_of(salt, writekey)
    sealed = salt + aes.crypt(key, rw_uri)
    return sealed + keys.dirnode_mac(key, sealed)


def open_rw(rwdata: bytes, writekey: bytes) -> bytes:
    """The write cap sealed in an entry, without trailing spaces; b"" if there is none.

    As in Tahoe the MAC is not checked. FormatError when `rwdata` is too short to hold one.
    """
    if not rwdata:
        return b""
    if len(rwdata) < keys.KEY_SIZE + _MAC_SIZE:
        raise FormatError("a sealed write cap is cut off")
    if (
        len(rwdata) == keys.KEY_SIZE + _MAC_SIZE
    ):  # nothing is sealed, as for all immutable files: no key is made
        return b""
    salt = rwdata[: keys.KEY_SIZE]
    sealed = rwdata[keys.KEY_SIZE : -_MAC_SIZE]
    return aes.crypt(keys.child_key_of(salt, writekey), sealed).rstrip(b" ")
