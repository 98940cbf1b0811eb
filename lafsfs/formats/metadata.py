"""POSIX attributes in the metadata of a directory entry (design.md section 4).

Everything POSIX is under the key "lafsfs", so that it survives what other clients do to entries. What is
there may come from anybody: `decode` takes what it understands and never raises.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

_KEY = "lafsfs"
_NANO = 1_000_000_000
_TIME = (-(1 << 63), 1 << 63)
_NUMBERS = (  # the smallest value, and the first that is too large
    ("mode", (0, 1 << 32)),
    ("uid", (0, 1 << 32)),
    ("gid", (0, 1 << 32)),
    ("mtime", _TIME),
    ("ctime", _TIME),
    ("crtime", _TIME),
    ("ino", (0, 1 << 63)),
    ("size", (0, 1 << 63)),
    ("rdev", (0, 1 << 64)),
    ("atime", _TIME),
    ("nlink", (0, 1 << 32)),
)
_MAX_NAME = 255
_NO_XATTRS: Mapping[bytes, bytes] = MappingProxyType({})


class Posix(NamedTuple):
    """Attributes of one inode as stored in an edge. Times in nanoseconds since 1970; `mode` carries the file
    type.

    None in a field that may be None means: not stored, to be derived.
    """

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    ctime_ns: int
    crtime_ns: int
    ino: int | None = None
    size: int | None = None
    rdev: int = 0
    atime_ns: int | None = None
    nlink: int | None = None
    xattrs: Mapping[bytes, bytes] = _NO_XATTRS
    of: bytes | None = None  # digest of the content's cap that all this belongs to


def encode(
    posix: Posix,
    raw_name: bytes | None,
    old: Mapping[str, Any] | None,
    put_back: tuple[int, int] | None = None,
    upon: tuple[int, str] | None = None,
) -> dict[str, Any]:
    """The metadata to store: `old` with our key and the classic times replaced.

    `raw_name` is what the user called the entry when that differs from the stored name. The classic `mtime`
    and `ctime` in float seconds are for other tools. `put_back`: the entry is that of the first version of the
    directory, and was missing in the second (sequence numbers). `upon`: it was written upon that version, in which
    there was this name only.
    """
    ours: dict[str, Any] = {
        "mode": posix.mode,
        "uid": posix.uid,
        "gid": posix.gid,
        "mtime": posix.mtime_ns,
        "ctime": posix.ctime_ns,
        "crtime": posix.crtime_ns,
    }
    optional = {
        "ino": posix.ino,
        "size": posix.size,
        "rdev": posix.rdev or None,
        "atime": posix.atime_ns,
        "nlink": posix.nlink,
    }
    ours.update({key: value for key, value in optional.items() if value is not None})
    if posix.xattrs:
        ours["xattr"] = {_text(name): _base64(value) for name, value in sorted(posix.xattrs.items())}
    if posix.of is not None:
        ours["of"] = _base64(posix.of)
    if raw_name is not None:
        ours["name"] = _base64(raw_name)
    if put_back is not None:
        ours["back"] = list(put_back)
    if upon is not None:
        ours["upon"] = list(upon)
    metadata = dict(old or {})
    metadata[_KEY] = ours
    metadata["mtime"] = posix.mtime_ns / _NANO
    metadata["ctime"] = posix.ctime_ns / _NANO
    return metadata


def decode(metadata: Mapping[str, Any]) -> tuple[Posix | None, bytes | None]:
    """(attributes, raw name) of an entry; None for what is not there.

    Attributes are None unless mode and mtime are present and sane; other malformed fields count as absent.
    """
    ours = metadata.get(_KEY)
    if not isinstance(ours, dict):
        return None, None
    raw_name = _raw_name(ours["name"]) if "name" in ours else None
    # A large directory has this done for each entry, so it is one pass. JSON numbers are int, and bool is not.
    get = ours.get
    mode, uid, gid, mtime, ctime, crtime, ino, size, rdev, atime, nlink = [
        value if type(value := get(key)) is int and low <= value < high else None
        for key, (low, high) in _NUMBERS
    ]
    if mode is None or mtime is None:
        return None, raw_name
    ctime = mtime if ctime is None else ctime
    crtime = ctime if crtime is None else crtime
    xattrs = _xattrs(ours["xattr"]) if "xattr" in ours else _NO_XATTRS
    of = _unbase64(ours["of"]) if "of" in ours else None
    posix = Posix(
        mode, uid or 0, gid or 0, mtime, ctime, crtime, ino or None, size, rdev or 0, atime, nlink, xattrs, of
    )
    return posix, raw_name


def _raw_name(value: object) -> bytes | None:
    name = _unbase64(value)
    fits = name is not None and 0 < len(name) <= _MAX_NAME and b"/" not in name and b"\0" not in name
    return name if fits else None


def was_put_back(metadata: Mapping[str, Any]) -> tuple[int, int] | None:
    """`put_back` as it was given to `encode`."""
    ours = metadata.get(_KEY)
    numbers = ours.get("back") if isinstance(ours, dict) else None
    if not isinstance(numbers, list) or len(numbers) != 2 or not all(type(one) is int for one in numbers):
        return None
    return numbers[0], numbers[1]


def written_upon(metadata: Mapping[str, Any]) -> tuple[int, str] | None:
    """`upon` as it was given to `encode`."""
    ours = metadata.get(_KEY)
    upon = ours.get("upon") if isinstance(ours, dict) else None
    if not isinstance(upon, list) or [type(one) for one in upon] != [int, str]:
        return None
    return upon[0], upon[1]


def classic_times(metadata: Mapping[str, Any]) -> int:
    """Modification time (ns) of an entry without our key: `mtime`, else `tahoe.linkmotime`, else 0."""
    tahoe = metadata.get("tahoe")
    candidates = [metadata.get("mtime"), tahoe.get("linkmotime") if isinstance(tahoe, dict) else None]
    for seconds in candidates:
        if isinstance(seconds, int | float) and not isinstance(seconds, bool) and abs(seconds) < 1 << 33:
            return round(seconds * _NANO)
    return 0


def stored_name(raw: bytes, taken: Callable[[str], bool]) -> tuple[str, bytes | None]:
    """(name to store, raw bytes to keep in the metadata or None when they say nothing new).

    A name that is UTF-8 in NFC and free is stored as it is. Any other is made valid, bytes that are no UTF-8
    written as %XX, and unique by a suffix `~2`, `~3` …; `taken` tells which stored names exist.
    """
    base = _readable(raw)
    name, number = base, 2
    while taken(name):
        name = f"{base}~{number}"
        number += 1
    return (name, None) if name.encode("utf-8") == raw else (name, raw)


def stands_for(stored: str, raw: bytes) -> bool:
    """Whether `stored_name` can have given `stored` for `raw`. Not so when another client renamed the entry."""
    base = _readable(raw)
    return stored.startswith(base) and re.fullmatch("(~[0-9]+)?", stored[len(base) :]) is not None


def _readable(raw: bytes) -> str:
    text = raw.decode("utf-8", "surrogateescape")
    readable = re.sub("[\udc80-\udcff]", lambda match: f"%{ord(match[0]) - 0xDC00:02X}", text)
    return unicodedata.normalize("NFC", readable)


def _xattrs(value: object) -> dict[bytes, bytes]:
    if not isinstance(value, dict):
        return {}
    pairs = ((_bytes(name), _unbase64(data)) for name, data in value.items())
    return {name: data for name, data in pairs if name and b"\0" not in name and data is not None}


def _text(name: bytes) -> str:
    """The name of an extended attribute as text; bytes that are no UTF-8 become lone surrogates, as in
    os.fsdecode.
    """
    return name.decode("utf-8", "surrogateescape")


def _bytes(name: str) -> bytes:
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return b""


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unbase64(value: object) -> bytes | None:
    if not isinstance(value, str):
        return None
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None
