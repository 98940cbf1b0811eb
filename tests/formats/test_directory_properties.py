"""Packed directories and POSIX metadata: models, refusals, and what must survive."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lafsfs.errors import FormatError
from lafsfs.formats import caps, dirnode, keys, metadata, netstring
from lafsfs.formats.packed import squeeze

WRITEKEY = bytes(range(16))
RW = b"URI:SSK:" + b"a" * 26 + b":" + b"a" * 52
RO = caps.parse(RW).read_cap().to_bytes()  # type: ignore[union-attr]
LIT = b"URI:LIT:me"
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).map(
    lambda name: unicodedata.normalize("NFC", name)
)


def entry(name: str, ro: bytes = LIT, rw: bytes = b"", writekey: bytes | None = WRITEKEY) -> bytes:
    return dirnode.make_entry(name, ro, rw, b"{}", writekey)


def fold(packed: dirnode.Packed) -> None:
    """As far as it lets itself be folded: not what was just looked at."""
    with mock.patch("lafsfs.formats.packed._WORTH_FOLDING", 0):
        data = packed.foldable()
    if data:
        packed.fold(squeeze(data))


@given(
    st.lists(st.dictionaries(NAMES, st.one_of(st.none(), st.binary(max_size=5)), max_size=6), max_size=5),
    st.integers(0, 3),
)
def test_changes_are_those_of_a_dictionary(steps: list[dict[str, bytes | None]], folds: int) -> None:
    packed, model = dirnode.Packed(), {}
    for changes in steps:
        for _ in range(folds):
            fold(packed)
        raws = {
            name: None if ro is None else entry(name, b"URI:x" + ro.hex().encode())
            for name, ro in changes.items()
        }
        packed = packed.with_changes(raws)
        for name, raw in raws.items():
            model.pop(name, None)
            if raw is not None:
                model[name] = raw
        data = b"".join(netstring.netstring(model[name]) for name in sorted(model))
        for _ in range(folds):
            fold(packed)
        assert packed.pack() == data
        assert (len(packed), set(packed.names())) == (len(model), set(model))
        assert all(packed.raw(name) == raw for name, raw in model.items())
        assert all((name in packed) == (name in model) for name in changes)
        assert sorted(packed.holding(b"x30")) == sorted(name for name, raw in model.items() if b"x30" in raw)
        for _ in range(folds):
            fold(packed)
        assert packed.pack() == data
        again = dirnode.Packed.parse(data)
        assert list(again.names()) == sorted(model)
        assert again.pack() == data
        packed = again if len(model) % 2 else packed


def test_what_nobody_looks_at_is_kept_compressed() -> None:
    raws = {f"file {number}": entry(f"file {number}") for number in range(500)}
    packed = dirnode.Packed.parse(dirnode.Packed().with_changes(raws).pack())
    assert packed.foldable() is None  # it is new
    data = packed.foldable()
    assert data
    small = squeeze(data)
    assert len(small) < len(data) / 3
    assert packed.raw("file 7") == raws["file 7"]
    packed.fold(small)  # too late, somebody looked at it
    assert packed.foldable() is None
    assert packed.foldable() == b""  # it is folded now, by what was compressed before
    assert packed._data is None
    assert packed.pack() == data
    assert list(packed.holding(b"file 77")) == ["file 77"]
    assert packed._data is not None  # an entry was looked at


def test_entries_out_of_order_twice_or_not_normalised() -> None:
    first, second = entry("b", b"URI:LIT:me"), entry("b", b"URI:LIT:ne")
    decomposed = b"".join(map(netstring.netstring, ("e\u0301".encode(), LIT, b"", b"{}")))
    data = b"".join(map(netstring.netstring, (first, decomposed, entry("a"), second)))
    packed = dirnode.Packed.parse(data)
    assert set(packed.names()) == {"a", "b", "\u00e9"}
    assert packed.raw("b") == second
    assert packed.raw("\u00e9") == decomposed
    assert packed.pack() == b"".join(map(netstring.netstring, (entry("a"), second, decomposed)))


def test_an_untouched_entry_keeps_foreign_bytes() -> None:
    odd = entry("odd") + b"something of a later version"
    packed = dirnode.Packed.parse(netstring.netstring(odd)).with_changes({"x": entry("x")})
    assert dirnode.Packed.parse(packed.pack()).raw("odd") == odd
    found = packed.get("odd")
    assert found is not None
    assert (found.name, found.ro_uri, found.metadata) == ("odd", LIT, b"{}")


@pytest.mark.parametrize(
    "data",
    [
        *(b"5", b"5:abc,", b"3:abc,", b"x:", b"-1:,", b"01:a,", b"5:1:ab,,", b"4:1:a,;", b"3:9:a,"),
        b"1_0:1:a,12345:,",
        netstring.netstring(netstring.netstring(b"\xff\xfe")),
        b"9" * 30 + b":",
        b":,",
    ],
)
def test_broken_contents_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        dirnode.Packed.parse(data)


def test_a_broken_entry_is_refused_alone() -> None:
    bad = netstring.netstring(b"bad") + b"oops"
    packed = dirnode.Packed.parse(netstring.netstring(bad) + netstring.netstring(entry("good")))
    with pytest.raises(FormatError):
        packed.get("bad")
    assert packed.get("good") is not None
    assert packed.get("none") is None


@given(st.binary(max_size=200))
def test_sealed_caps_open(rw_uri: bytes) -> None:
    sealed = dirnode.seal_rw(rw_uri, WRITEKEY)
    assert len(sealed) == 48 + len(rw_uri)
    assert dirnode.open_rw(sealed, WRITEKEY) == rw_uri.rstrip(b" ")
    key = keys.child_key_of(sealed[:16], WRITEKEY)
    assert keys.dirnode_mac(key, sealed[:-32]) == sealed[-32:]


def test_sealed_caps_cut_off_are_refused() -> None:
    assert dirnode.open_rw(b"", WRITEKEY) == b""
    with pytest.raises(FormatError):
        dirnode.open_rw(bytes(47), WRITEKEY)


def read(raw: bytes, writekey: bytes | None = WRITEKEY, deep_immutable: bool = False) -> dirnode.Child:
    return dirnode.child_caps(dirnode.Entry.parse(raw), writekey, deep_immutable)


def test_spaces_behind_caps_are_stripped() -> None:
    child = read(entry("x", RO + b"  ", RW + b"   "))
    assert (child.rw_uri, child.ro_uri) == (RW, RO)
    assert read(entry("x", b" ", b" ")).unknown


def test_damaged_caps_and_mutable_ones_in_immutable_directories_are_refused() -> None:
    for ro, rw, deep in [
        (b"URI:SSK-RO:broken", b"", False),
        (b"imm." + RO, b"", False),
        (b"ro." + RW, b"", False),
        (RO, b"URI:SSK:broken", False),
        (RO, b"", True),
        (LIT, b"URI:SSK:x", True),
        (b"imm.lafs-future:x", b"lafs-future:y", False),
        (b"ro.URI:CHK:bad", b"lafs-future:y", False),
    ]:
        with pytest.raises(FormatError):
            read(entry("x", ro if not ro.startswith(b"ro.") else b"ro." + ro, rw), deep_immutable=deep)


@pytest.mark.parametrize(
    ("rw", "ro", "deep", "kept"),
    [
        (b"", b"f:x", False, (b"", b"ro.f:x")),
        (b"", b"ro.f:x", False, (b"", b"ro.f:x")),
        (b"", b"imm.f:x", False, (b"", b"imm.f:x")),
        (b"", b"f:x", True, (b"", b"imm.f:x")),
        (b"", b"ro.f:x", True, (b"", b"imm.f:x")),
        (b"ro.f:x", b"", False, (b"", b"ro.f:x")),
        (b"imm.f:x", b"", True, (b"", b"imm.f:x")),
        (b"f:w", b"f:r", False, (b"f:w", b"ro.f:r")),
        (b"f:w", b"ro.f:r", False, (b"f:w", b"ro.f:r")),
        (b"f:w", b"", False, None),
        (b"f:w", b"imm.f:r", False, None),
        (b"f:w", b"f:r", True, None),
        (b"imm.f:w", b"f:r", True, None),
    ],
)
def test_attaching_unknown_caps(rw: bytes, ro: bytes, deep: bool, kept: tuple[bytes, bytes] | None) -> None:
    if kept is None:
        with pytest.raises(FormatError):
            dirnode.unknown_pair(rw, ro, deep)
    else:
        assert dirnode.unknown_pair(rw, ro, deep) == kept
        assert dirnode.unknown_pair(*kept, deep) == kept


def test_what_may_be_put_into_an_immutable_directory() -> None:
    literal = dirnode.understand(b"", LIT, False)
    assert dirnode.child_entry("x", literal, {}, None) == dirnode.make_entry("x", LIT, b"", b"{}", None)
    for child in (dirnode.understand(RW, RO, False), dirnode.understand(b"", RO, False)):
        with pytest.raises(FormatError):
            dirnode.child_entry("x", child, {}, None)
    with pytest.raises(FormatError):
        dirnode.make_entry("x", RO, RW, b"{}", None)
    future = dirnode.understand(b"", b"imm.f:x", True)
    stored = dirnode.Entry.parse(dirnode.child_entry("x", future, {}, None))
    assert (stored.ro_uri, stored.rwdata) == (b"f:x", b"")


def test_no_write_keeps_the_write_cap_out() -> None:
    child = dirnode.understand(RW, RO, False)
    raw = dirnode.child_entry("x", child, {"no-write": True}, WRITEKEY)
    assert read(raw).rw_uri == b""
    assert read(dirnode.child_entry("x", child, {"no-write": 1}, WRITEKEY)).rw_uri == RW


def test_metadata_that_is_no_object_is_refused() -> None:
    for bad in (b"", b"[]", b"{", b"1", b"\xff", b"[" * 100_000):
        with pytest.raises(FormatError):
            dirnode.parse_metadata(bad)


@pytest.mark.parametrize(
    ("old", "new", "merged"),
    [
        (None, None, {"tahoe": {"linkcrtime": 9.5, "linkmotime": 9.5}}),
        (None, {"a": 1, "tahoe": {"x": 1}}, {"a": 1, "tahoe": {"linkcrtime": 9.5, "linkmotime": 9.5}}),
        ({"b": 2, "ctime": 3}, None, {"b": 2, "ctime": 3, "tahoe": {"linkcrtime": 3, "linkmotime": 9.5}}),
        (
            {"b": 2, "tahoe": {"linkcrtime": 1, "more": 2, "linkmotime": 4}},
            {"a": 1},
            {"a": 1, "tahoe": {"linkcrtime": 1, "more": 2, "linkmotime": 9.5}},
        ),
    ],
)
def test_metadata_is_merged_as_tahoe_does(
    old: dict[str, Any] | None, new: dict[str, Any] | None, merged: dict[str, Any]
) -> None:
    before = json.dumps([old, new])
    assert dirnode.merge_metadata(old, new, 9.5) == merged
    assert json.dumps([old, new]) == before


# --- POSIX attributes --------------------------------------------------------------------------------

TIMES = st.integers(-(2**62), 2**62)
POSIX = st.builds(
    metadata.Posix,
    mode=st.integers(0, 2**32 - 1),
    uid=st.integers(0, 2**32 - 1),
    gid=st.integers(0, 2**32 - 1),
    mtime_ns=TIMES,
    ctime_ns=TIMES,
    crtime_ns=TIMES,
    ino=st.none() | st.integers(1, 2**63 - 1),
    size=st.none() | st.integers(0, 2**62),
    rdev=st.integers(0, 2**64 - 1),
    atime_ns=st.none() | TIMES,
    nlink=st.none() | st.integers(1, 2**31),
    xattrs=st.dictionaries(
        st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name),
        st.binary(max_size=20),
        max_size=3,
    ),
)
RAW_NAMES = st.binary(min_size=1, max_size=255).filter(lambda name: b"\0" not in name and b"/" not in name)


@given(POSIX, st.none() | RAW_NAMES)
def test_attributes_survive_json(posix: metadata.Posix, raw_name: bytes | None) -> None:
    old = {"mtime": 1, "other": [1], "lafsfs": {"mode": 1}}
    stored = dirnode.parse_metadata(dirnode.pack_metadata(metadata.encode(posix, raw_name, old)))
    assert metadata.decode(stored) == (posix, raw_name)
    assert stored["other"] == [1]
    assert stored["mtime"] == pytest.approx(posix.mtime_ns / 1e9)
    assert old["mtime"] == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    ["mode", "uid", "gid", "mtime", "ctime", "crtime", "ino", "size", "rdev", "xattr", "name"]
)


@given(st.dictionaries(FIELDS, JSON) | JSON)
def test_foreign_attributes_never_raise(ours: object) -> None:
    posix, raw_name = metadata.decode({"lafsfs": ours})
    if posix is not None:
        assert posix.mode >= 0
        assert posix.ino is None or posix.ino > 0
    assert raw_name is None or (0 < len(raw_name) <= 255)
    assert isinstance(metadata.classic_times({"mtime": ours, "tahoe": ours}), int)


def test_classic_times() -> None:
    assert metadata.classic_times({"mtime": 1.5, "tahoe": {"linkmotime": 7}}) == 1_500_000_000
    assert metadata.classic_times({"mtime": "x", "tahoe": {"linkmotime": 7}}) == 7_000_000_000
    assert metadata.classic_times({"mtime": float("nan")}) == 0
    assert metadata.classic_times({"tahoe": 3}) == 0


@given(st.lists(RAW_NAMES, unique=True, max_size=8))
def test_stored_names_are_valid_and_unique(raws: list[bytes]) -> None:
    given_names: dict[str, bytes] = {}
    for raw in raws:
        name, kept = metadata.stored_name(raw, given_names.__contains__)
        assert name not in given_names
        assert unicodedata.is_normalized("NFC", name)
        assert (kept if kept is not None else name.encode("utf-8")) == raw
        given_names[name] = raw


@pytest.mark.parametrize(
    ("raw", "taken", "expected"),
    [
        (b"plain", (), ("plain", None)),
        ("\u00e9".encode(), (), ("\u00e9", None)),
        ("e\u0301".encode(), (), ("\u00e9", "e\u0301".encode())),
        ("e\u0301".encode(), ("\u00e9",), ("\u00e9~2", "e\u0301".encode())),
        (b"caf\xe9", (), ("caf%E9", b"caf\xe9")),
        (b"x", ("x", "x~2"), ("x~3", b"x")),
    ],
)
def test_stored_name(raw: bytes, taken: tuple[str, ...], expected: tuple[str, bytes | None]) -> None:
    is_taken: Callable[[str], bool] = taken.__contains__
    assert metadata.stored_name(raw, is_taken) == expected
