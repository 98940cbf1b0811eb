"""What the entries of a directory stand for (formats.md 3 and 7): caps, unknown caps, metadata rules."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from lafsfs.errors import FormatError
from lafsfs.formats import caps
from lafsfs.formats.packed import Entry, Packed, make_entry, open_rw, seal_rw

__all__ = [
    "Child",
    "Entry",
    "Packed",
    "child_caps",
    "child_entry",
    "make_entry",
    "merge_metadata",
    "open_rw",
    "pack_metadata",
    "parse_metadata",
    "seal_rw",
    "understand",
    "unknown_pair",
]

_READ_ONLY = b"ro."
_IMMUTABLE = b"imm."


@dataclass(frozen=True)
class Child:
    """What an entry leads to.

    For a known cap `rw_uri` is its write cap or b"", `ro_uri` its read cap. For an unknown one they are what
    the directory holds, made explicit by the prefix `ro.` or `imm.`.
    """

    cap: caps.Cap
    rw_uri: bytes = field(repr=False)
    ro_uri: bytes = field(repr=False)

    @property
    def unknown(self) -> bool:
        return isinstance(self.cap, caps.UnknownCap)

    @classmethod
    def of(cls, cap: caps.FileCap | caps.DirCap) -> Child:
        """The child that a known cap stands for."""
        full = cap.to_bytes()
        return cls(cap, full, cap.read_cap().to_bytes()) if cap.is_writable else cls(cap, b"", full)


def child_caps(entry: Entry, writekey: bytes | None, deep_immutable: bool) -> Child:
    """What an entry read from a directory leads to.

    `writekey` is the directory's, None when it is not known; `deep_immutable` is true for DIR2-CHK and
    DIR2-LIT. FormatError when the child is not allowed there or its cap is damaged: such a child is skipped
    by readers, and its entry kept.
    """
    if deep_immutable:
        if entry.rwdata:
            raise FormatError("an immutable directory holds a write cap")
        rw_uri = b""
    else:
        rw_uri = open_rw(entry.rwdata, writekey) if writekey is not None else b""
    return understand(rw_uri, entry.ro_uri, deep_immutable)


def understand(rw_uri: bytes, ro_uri: bytes, deep_immutable: bool) -> Child:
    """The child for a pair of caps, either of which may be empty. FormatError when it may not be used."""
    strongest = rw_uri or ro_uri
    if not strongest:
        return Child(caps.UnknownCap(b"", None), b"", b"")
    cap = caps.parse(strongest, deep_immutable=deep_immutable)
    if not isinstance(cap, caps.UnknownCap):
        return Child.of(cap)
    if cap.error is not None:
        raise cap.error
    rw_uri, ro_uri = unknown_pair(rw_uri, ro_uri, deep_immutable)
    return Child(cap, rw_uri, ro_uri)


def unknown_pair(rw_uri: bytes, ro_uri: bytes, deep_immutable: bool) -> tuple[bytes, bytes]:
    """(rw, ro) under which an unknown cap is attached, with its prefix. FormatError when refused."""
    if rw_uri and not ro_uri:
        if not rw_uri.startswith((_READ_ONLY, _IMMUTABLE)):
            raise FormatError("an unknown cap that might be a write cap cannot be attached alone")
        rw_uri, ro_uri = b"", rw_uri
    if rw_uri and deep_immutable:
        raise FormatError("an unknown write cap in an immutable directory")
    if rw_uri and ro_uri.startswith(_IMMUTABLE):
        raise FormatError("a write cap beside an immutable one")
    if not ro_uri:
        return rw_uri, b""
    checked = caps.parse(ro_uri, deep_immutable=deep_immutable)
    if isinstance(checked, caps.UnknownCap) and checked.error is not None:
        raise checked.error
    if deep_immutable:
        return b"", ro_uri if ro_uri.startswith(_IMMUTABLE) else _IMMUTABLE + ro_uri.removeprefix(_READ_ONLY)
    return rw_uri, ro_uri if ro_uri.startswith((_READ_ONLY, _IMMUTABLE)) else _READ_ONLY + ro_uri


def child_entry(name: str, child: Child, metadata: dict[str, Any], writekey: bytes | None) -> bytes:
    """The raw entry for a child under a name; `writekey` None for an immutable directory.

    FormatError when the child may not be there: a mutable or write-capable one in an immutable directory.
    A metadata key "no-write" that is true keeps the write cap out.
    """
    rw_uri = b"" if metadata.get("no-write") is True else child.rw_uri
    if writekey is None:
        child = understand(rw_uri, child.ro_uri, deep_immutable=True)
    return make_entry(name, child.ro_uri, rw_uri, pack_metadata(metadata), writekey)


# --- metadata --------------------------------------------------------------------------------------


def pack_metadata(metadata: dict[str, Any]) -> bytes:
    """Metadata as directories store it: JSON with Python's default separators and escapes."""
    return json.dumps(metadata).encode("ascii")


def parse_metadata(data: bytes) -> dict[str, Any]:
    """The metadata of an entry. FormatError unless it is a JSON object."""
    try:
        # What begins so is UTF-8; `loads` would look at more of it to find that out.
        metadata = json.loads(data.decode("utf-8", "surrogatepass") if data.startswith(b'{"') else data)
    except (ValueError, RecursionError) as error:
        raise FormatError("the metadata of an entry is not JSON") from error
    if not isinstance(metadata, dict):
        raise FormatError("the metadata of an entry is not an object")
    return metadata


def merge_metadata(old: dict[str, Any] | None, new: dict[str, Any] | None, now: float) -> dict[str, Any]:
    """The metadata to store when an entry is set, by Tahoe's rule (formats.md 7.1). `now` in Unix seconds.

    `old` is the metadata of the entry there was under the name, `new` what the caller gives (None: keep
    `old`).
    """
    before = old or {}
    if new is None:
        merged = dict(before)
    else:
        merged = {key: value for key, value in new.items() if key != "tahoe"}
        if "tahoe" in before:
            merged["tahoe"] = before["tahoe"]
    times = merged.get("tahoe")
    times = dict(times) if isinstance(times, dict) else {}
    if "linkcrtime" not in times:
        times["linkcrtime"] = before.get("ctime", now)
    times["linkmotime"] = now
    merged["tahoe"] = times
    return merged
