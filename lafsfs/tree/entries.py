"""Directory entries <-> inodes: what an edge on the grid says about a file, and what we write there."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Iterator
from typing import Any

from lafsfs.errors import FormatError
from lafsfs.formats import metadata as posix_metadata
from lafsfs.formats.cap_sizes import immutable_size
from lafsfs.formats.caps import ChkCap, DirCap, LiteralCap, UnknownCap, parse
from lafsfs.formats.dirnode import (
    Entry,
    Packed,
    child_entry,
    make_entry,
    merge_metadata,
    open_rw,
    pack_metadata,
    parse_metadata,
    understand,
)
from lafsfs.tree.attributes import bounded, foreign_attributes, from_posix, is_mode, to_posix
from lafsfs.tree.inodes import Caps, Inode
from lafsfs.tree.options import TreeOptions
from lafsfs.tree.plain_entries import plain
from lafsfs.tree.seen import Seen, digest_of

_PREFIXES = (b"ro.", b"imm.")
_DIRECTORY = b"URI:DIR2"
_OURS = frozenset(("lafsfs", "tahoe", "mtime", "ctime"))  # metadata that is written anew with every entry


def entries_with(packed: Packed, cap: bytes) -> Iterator[bytes]:
    """The entries of a directory that lead to the object with this read cap, whatever they are called."""
    for stored in packed.holding(cap):
        raw = packed.raw(stored)
        if raw is not None and parsed(raw).ro_uri == cap:
            yield raw


def see(raw: bytes, writekey: bytes | None, options: TreeOptions) -> Seen:
    """Read one entry. Foreign and damaged metadata never raise: defaults take their place."""
    return plain(raw) or thoroughly(raw, writekey, options)


def thoroughly(raw: bytes, writekey: bytes | None, options: TreeOptions) -> Seen:
    """As `see`, whatever the entry looks like."""
    entry = parsed(raw)
    caps = _caps_of(entry, writekey)
    metadata = _metadata_of(entry)
    posix, _ = posix_metadata.decode(metadata)
    is_dir = _is_directory(entry.ro_uri or caps[0])
    size = content_size(caps)
    extra = _foreign(metadata)
    if posix is None or not is_mode(posix.mode) or stat.S_ISDIR(posix.mode) != is_dir:
        times = posix_metadata.classic_times(metadata)
        ids = (options.uid, options.gid, options.umask)
        return Seen(foreign_attributes(is_dir, size or 0, times, ids), caps, None, None, None, extra)
    if size is None:
        size = posix.size or 0
    attributes = from_posix(posix, size)
    ino, nlink = posix.ino, posix.nlink
    if posix.of is not None and posix.of != digest_of(caps[1]):
        # Another client put other content under this name, and kept what it does not understand.
        when = max(_link_time(metadata), bounded(attributes.ctime + 1))
        attributes = attributes._replace(atime=when, mtime=when, ctime=when)
        if (nlink or 1) > 1:
            ino, nlink = None, None  # not the file of the other names any more
    return Seen(attributes, caps, ino, nlink, dict(posix.xattrs) or None, extra)


def _link_time(metadata: dict[str, Any]) -> int:
    """When the entry was last written, in nanoseconds; 0 if it does not tell."""
    return posix_metadata.classic_times({"tahoe": metadata.get("tahoe")})


def _caps_of(entry: Entry, writekey: bytes | None) -> Caps:
    """(rw_uri, ro_uri); rw empty for whoever cannot open it."""
    try:
        rw = open_rw(entry.rwdata, writekey) if writekey is not None and entry.rwdata else b""
    except FormatError:
        rw = b""
    return rw, entry.ro_uri


def parsed(raw: bytes) -> Entry:
    """A decoded entry; one that is broken inside counts as an entry of nothing."""
    try:
        return Entry.parse(raw)
    except FormatError:
        return Entry("", b"", b"", b"{}", raw)


def subdirectories(packed: Packed) -> Iterator[str]:
    """The names of the entries that lead to directories."""
    return (name for name in packed.holding(_DIRECTORY) if directory_cap(packed.raw(name) or b"") is not None)


def directory_cap(raw: bytes) -> bytes | None:
    """The read cap of the directory that an entry leads to, None if that is no directory."""
    cap = parsed(raw).ro_uri if _DIRECTORY in raw else b""
    return cap if _is_directory(cap) else None


def write_entry(
    inode: Inode,
    stored: str,
    name: bytes,
    old_raw: bytes | None,
    writekey: bytes | None,
    put_back: tuple[int, int] | None = None,
    upon: tuple[int, str] | None = None,
) -> bytes:
    """The entry of `inode` as it will stand on the grid; keys of other clients in the replaced entry survive.

    `put_back` and `upon` as in emptied.py.
    """
    assert inode.caps is not None
    old = _metadata_of(parsed(old_raw)) if old_raw is not None else None
    if old is None and inode.extra is not None:
        old = json.loads(inode.extra)
    posix = to_posix(
        inode.attributes, inode.alias or inode.ino, inode.nlink, inode.xattrs, digest_of(inode.caps[1])
    )
    mine = posix_metadata.encode(posix, name if stored.encode() != name else None, old, put_back, upon)
    merged = merge_metadata(old, mine, time.time())
    rw, ro = inode.caps
    try:
        return child_entry(stored, understand(rw, ro, deep_immutable=False), merged, writekey)
    except FormatError:  # a cap that we cannot use is still somebody's: it stays as it was
        return make_entry(stored, ro, rw, pack_metadata(merged), writekey)


def was_put_back(raw: bytes) -> tuple[int, int] | None:
    """`put_back` of an entry as it was written."""
    return posix_metadata.was_put_back(_metadata_of(parsed(raw))) if b'"back"' in raw else None


def written_upon(raw: bytes) -> tuple[int, str] | None:
    """`upon` of an entry as it was written."""
    return posix_metadata.written_upon(_metadata_of(parsed(raw))) if b'"upon"' in raw else None


def linked_since(raw: bytes) -> object:
    """Since when there is an entry of this name, as Tahoe's part of the metadata tells it (Unix time); else None."""
    tahoes = _metadata_of(parsed(raw)).get("tahoe")
    return tahoes.get("linkcrtime") if isinstance(tahoes, dict) else None


def same_object(raw: bytes, other: bytes) -> bool:
    """Whether two entries lead to the same content, whatever their metadata says. Those that lead nowhere do not."""
    one, two = parsed(raw), parsed(other)
    if one.ro_uri or two.ro_uri:
        return one.ro_uri == two.ro_uri
    return bool(one.rwdata) and one.rwdata == two.rwdata  # unknown caps without a read-only form


def content_size(caps: Caps) -> int | None:
    """The size that a cap itself tells; 0 for what cannot be read, None for mutable files."""
    text = caps[0] or caps[1]
    size = immutable_size(text)
    if size is not None:
        return min(size, (1 << 63) - 1)  # anybody can write a cap; a larger size the kernel does not take
    cap = parse(text)
    if isinstance(cap, ChkCap):
        return min(cap.size, (1 << 63) - 1)
    if isinstance(cap, LiteralCap):
        return len(cap.data)
    return 0 if isinstance(cap, UnknownCap | DirCap) else None


def _is_directory(text: bytes) -> bool:
    if _DIRECTORY not in text:
        return False
    for prefix in _PREFIXES:
        text = text.removeprefix(prefix)
    return text.startswith(_DIRECTORY)


def _metadata_of(entry: Entry) -> dict[str, Any]:
    try:
        return parse_metadata(entry.metadata)
    except FormatError:
        return {}


def _foreign(metadata: dict[str, Any]) -> bytes | None:
    if metadata.keys() <= _OURS:
        return None
    return json.dumps({key: value for key, value in metadata.items() if key not in _OURS}).encode()
