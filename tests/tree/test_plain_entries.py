"""The quick way to read an entry tells the same as the thorough one, or nothing."""

from __future__ import annotations

import json
import stat

from hypothesis import given
from hypothesis import strategies as st

from lafsfs.formats.caps import ChkCap, DirCap, LiteralCap, MutableWriteCap
from lafsfs.formats.packed import make_entry
from lafsfs.tree.attributes import Attributes
from lafsfs.tree.entries import parsed, see, thoroughly, write_entry
from lafsfs.tree.inodes import Inode
from lafsfs.tree.options import TreeOptions
from lafsfs.tree.plain_entries import plain

KEY = b"k" * 16
OPTIONS = TreeOptions(uid=7, gid=8)
T = 1_700_000_000_123_456_789
LITERAL = LiteralCap(b"some content").to_bytes()
CHK = ChkCap(b"k" * 16, b"h" * 32, 3, 10, 12345).to_bytes()

CAPS = st.one_of(
    st.binary(max_size=55).map(lambda data: LiteralCap(data).to_bytes()),
    st.integers(0, 1 << 64).map(lambda size: ChkCap(b"k" * 16, b"h" * 32, 3, 10, size).to_bytes()),
    st.just(MutableWriteCap(b"w" * 16, b"f" * 32, False).to_bytes()),
    st.just(DirCap(LiteralCap(b"")).to_bytes()),
    st.sampled_from([b"", b"URI:LIT:1", b"URI:LIT:", b"ro.URI:LIT:", b"URI:NEW:abc"]),
)
TIMES = st.sampled_from([T, T + 1]) | st.integers(-(1 << 63), (1 << 63) - 1)
U32 = st.integers(0, 3) | st.integers(0, (1 << 32) - 1)
DEVICES = st.sampled_from([0, 0, 0, 5])
MODES = st.sampled_from(
    [stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777, stat.S_IFCHR | 0o600, stat.S_IFDIR | 0o755]
)
ATTRIBUTES = st.builds(Attributes, MODES, U32, U32, DEVICES, U32, TIMES, TIMES, TIMES, TIMES)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40)
JSON_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
)
XATTRS = st.none() | st.dictionaries(st.just(b"user.a"), st.binary(max_size=5), min_size=1)


def inode(attributes: Attributes, cap: bytes, ino: int = 1 << 62, nlink: int = 1) -> Inode:
    return Inode(ino, attributes, (b"", cap), nlink)


@given(ATTRIBUTES, CAPS, st.integers(2, (1 << 63) - 1), U32, NAMES, XATTRS)
def test_what_we_write_is_read_alike(
    attributes: Attributes, cap: bytes, ino: int, nlink: int, name: str, xattrs: dict[bytes, bytes] | None
) -> None:
    one = inode(attributes, cap, ino, nlink)
    one.xattrs = xattrs
    raw = write_entry(one, name, name.encode(), None, KEY)
    assert plain(raw) in (None, thoroughly(raw, KEY, OPTIONS))


def ordinary(cap: bytes) -> bytes:
    attributes = Attributes(0o100644, 1000, 1000, 0, 12, T, T, T + 5, T - 5)
    return write_entry(inode(attributes, cap), "a name", b"a name", None, KEY)


def test_ordinary_files_are_read_the_quick_way() -> None:
    for cap in (LITERAL, CHK):
        seen = plain(ordinary(cap))
        assert seen is not None
        assert seen == thoroughly(ordinary(cap), KEY, OPTIONS) == see(ordinary(cap), KEY, OPTIONS)


def test_content_of_another_client_is_left_to_the_thorough_way() -> None:
    raw = ordinary(LITERAL)
    other = make_entry("a name", LiteralCap(b"other").to_bytes(), b"", parsed(raw).metadata, KEY)
    assert plain(other) is None
    assert see(other, KEY, OPTIONS).attributes.size == 5


@given(
    st.floats(0, 1),
    st.integers(0, 3),
    st.one_of(st.binary(max_size=3), st.sampled_from([b"0", b"1", b'"', b" ", b"e5", b"-"])),
)
def test_damaged_entries_are_read_alike(place: float, cut: int, put: bytes) -> None:
    raw = ordinary(CHK)
    behind_name = raw.index(b",") + 1
    at = behind_name + int(place * (len(raw) - behind_name))
    damaged = raw[:at] + put + raw[at + cut :]
    assert plain(damaged) in (None, thoroughly(damaged, KEY, OPTIONS))


@given(
    st.sampled_from(
        ["mode", "uid", "gid", "mtime", "ctime", "crtime", "ino", "size", "rdev", "atime", "nlink", "of"]
    ),
    JSON_VALUES,
    st.sampled_from(["lafsfs", "mtime", "ctime", "tahoe", "else"]),
    JSON_VALUES,
)
def test_other_metadata_are_read_alike(inner: str, inside: object, outer: str, outside: object) -> None:
    old = parsed(ordinary(LITERAL)).metadata
    metadata = json.loads(old)
    metadata["lafsfs"][inner] = inside
    changed = [metadata, {**json.loads(old), outer: outside}]
    for one in changed:
        raw = make_entry("n", LITERAL, b"", json.dumps(one).encode(), KEY)
        assert plain(raw) in (None, thoroughly(raw, KEY, OPTIONS))
