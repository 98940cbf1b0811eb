"""Mode, owner and times: their rules, their bounds, and their form in an entry on the grid."""

from __future__ import annotations

import json
import stat
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafsfs.formats import metadata
from lafsfs.formats.caps import ChkCap, DirCap, LiteralCap, MutableReadCap, MutableWriteCap
from lafsfs.formats.packed import Entry, make_entry
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree.attributes import (
    TIME_MAX,
    TIME_MIN,
    Attributes,
    born_with,
    from_posix,
    new_attributes,
    to_posix,
    without_set_id,
)
from lafsfs.tree.entries import Seen, see, write_entry
from lafsfs.tree.inodes import Caps, Inode
from lafsfs.tree.options import TreeOptions
from tests.support.trees import EAGER, IDLE, new_root, opened

KINDS = [stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK]
OPTIONS = TreeOptions(uid=1000, gid=1001, umask=0o027)
WRITEKEY = bytes(range(16))

LITERAL = LiteralCap(b"twenty bytes of data").to_bytes()
CHK = ChkCap(bytes(16), bytes(32), 3, 10, 123_456).to_bytes()
HUGE = ChkCap(bytes(16), bytes(32), 3, 10, 10**40).to_bytes()
FILE = MutableWriteCap(bytes(16), bytes(32), mdmf=True)
DIRECTORY = DirCap(MutableWriteCap(bytes(16), bytes(32), mdmf=False))
FILE_CAPS: list[Caps] = [
    (b"", LITERAL),
    (b"", CHK),
    (FILE.to_bytes(), FILE.read_cap().to_bytes()),
    (b"", MutableReadCap(bytes(16), bytes(32), mdmf=False).to_bytes()),
    (b"future:rw", b"ro.future:ro"),
]
DIRECTORY_CAPS: Caps = (DIRECTORY.to_bytes(), DIRECTORY.read_cap().to_bytes())

times = st.integers(TIME_MIN, TIME_MAX) | st.sampled_from([0, -1, 1, TIME_MIN, TIME_MAX, -1_000_000_001])
ids = st.integers(0, (1 << 32) - 1)


@st.composite
def attributes(draw: st.DrawFn) -> Attributes:
    mode = draw(st.sampled_from(KINDS)) | draw(st.integers(0, 0o7777))
    size = 4096 if stat.S_ISDIR(mode) else draw(st.integers(0, (1 << 63) - 1))
    rdev = draw(st.integers(0, (1 << 64) - 1)) if mode & stat.S_IFMT(mode) else 0
    moments = [draw(times) for _ in range(4)]
    return Attributes(mode, draw(ids), draw(ids), rdev, size, *moments)


# --- rules ---------------------------------------------------------------------------------------------


def test_what_a_write_takes_from_every_mode() -> None:
    for mode in range(0o10000):
        kept = without_set_id(stat.S_IFREG | mode)
        assert kept & ~0o6000 == stat.S_IFREG | mode & ~0o6000
        assert not kept & stat.S_ISUID
        # Without group execution the bit means mandatory locking, and stays.
        assert bool(kept & stat.S_ISGID) == bool(mode & stat.S_ISGID and not mode & stat.S_IXGRP)
        assert without_set_id(kept) == kept


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [0, stat.S_ISGID, stat.S_ISUID, stat.S_ISVTX])
def test_what_a_directory_hands_down(kind: int, bits: int) -> None:
    parent = new_attributes(stat.S_IFDIR | 0o755 | bits, 5, 6)
    mode, gid = born_with(parent, kind | 0o640, 77)
    if bits == stat.S_ISGID:
        assert gid == 6
        assert mode == kind | 0o640 | (stat.S_ISGID if kind == stat.S_IFDIR else 0)
    else:
        assert (mode, gid) == (kind | 0o640, 77)


def test_new_things() -> None:
    made = new_attributes(stat.S_IFREG | 0o600, 1, 2, 3, 4)
    assert made.atime == made.mtime == made.ctime == made.crtime
    assert (made.uid, made.gid, made.rdev, made.size) == (1, 2, 3, 4)
    assert (made.is_regular, made.is_dir) == (True, False)
    assert new_attributes(stat.S_IFDIR, 1, 2, size=7).size == 4096


# --- on the grid and back --------------------------------------------------------------------------------


@settings(max_examples=70, deadline=None)
@given(attributes(), st.integers(2, (1 << 63) - 1), st.integers(1, 65000))
def test_attributes_survive_an_entry(a: Attributes, ino: int, nlink: int) -> None:
    stored = json.loads(json.dumps(metadata.encode(to_posix(a, ino, nlink, None, None), None, None)))
    posix, _ = metadata.decode(stored)
    assert posix is not None
    assert from_posix(posix, a.size) == a
    assert (posix.ino, posix.nlink) == (ino, nlink)
    assert posix.size == (a.size if a.is_regular else None)
    assert stored["mtime"] == a.mtime / 1_000_000_000, "for other tools"


@settings(max_examples=70, deadline=None)
@given(
    attributes(),
    st.sampled_from(FILE_CAPS),
    st.dictionaries(st.binary(min_size=1, max_size=20).filter(lambda n: 0 not in n), st.binary(max_size=40)),
    st.binary(min_size=1, max_size=255).filter(lambda name: not {0, 47} & set(name)),
)
def test_an_inode_survives_its_entry(
    a: Attributes, caps: Caps, xattrs: dict[bytes, bytes], name: bytes
) -> None:
    inode = Inode(99, a, DIRECTORY_CAPS if a.is_dir else caps, nlink=3)
    inode.xattrs = xattrs or None
    stored, raw_name = metadata.stored_name(name, lambda _: False)
    raw = write_entry(inode, stored, name, None, WRITEKEY)
    seen = see(raw, WRITEKEY, OPTIONS)
    size = {LITERAL: 20, CHK: 123_456, b"ro.future:ro": 0}.get(caps[1], a.size if a.is_regular else 0)
    assert seen.attributes == a._replace(size=4096 if a.is_dir else size)
    assert seen.caps[0] == inode.caps[0]  # type: ignore[index]
    assert (seen.ino, seen.nlink, seen.xattrs, seen.extra) == (99, 3, xattrs or None, None)
    assert metadata.decode(json.loads(Entry.parse(raw).metadata))[1] == raw_name
    assert see(raw, None, OPTIONS).caps[0] == b"", "a reader gets no write cap"


def test_what_other_clients_keep_in_an_entry_survives() -> None:
    theirs = {
        "tahoe": {"linkcrtime": 1.5, "linkmotime": 2.5},
        "comment": [1, {"x": None}],
        "lafsfs": {"old": 1},
    }
    old = make_entry("name", LITERAL, b"", json.dumps(theirs).encode(), WRITEKEY)
    inode = Inode(99, new_attributes(stat.S_IFREG | 0o644, 1, 2), (b"", CHK))
    written = json.loads(Entry.parse(write_entry(inode, "name", b"name", old, WRITEKEY)).metadata)
    assert written["comment"] == [1, {"x": None}]
    assert written["tahoe"]["linkcrtime"] == 1.5
    assert written["tahoe"]["linkmotime"] > 2.5
    assert "old" not in written["lafsfs"]
    # and when the entry moves, so that there is no old one in its new place
    inode.extra = see(old, WRITEKEY, OPTIONS).extra
    moved = json.loads(Entry.parse(write_entry(inode, "new", b"new", None, WRITEKEY)).metadata)
    assert moved["comment"] == [1, {"x": None}]


# --- what anybody may have written there -----------------------------------------------------------------

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
fields = [
    "mode",
    "uid",
    "gid",
    "mtime",
    "ctime",
    "crtime",
    "ino",
    "size",
    "rdev",
    "atime",
    "nlink",
    "xattr",
    "of",
]
numbers = st.integers(-(1 << 65), 1 << 65) | st.sampled_from(
    [TIME_MIN, TIME_MAX, 0o100644, 0o40755, 0o644, 0o160000, 1 << 31]
)


@settings(max_examples=120, deadline=None)
@given(
    st.dictionaries(st.sampled_from(fields), numbers | anything) | anything,
    st.dictionaries(st.sampled_from(["mtime", "ctime", "tahoe", "other"]), anything | numbers),
    st.sampled_from([*FILE_CAPS, DIRECTORY_CAPS, (b"", b""), (b"", HUGE)]),
)
def test_foreign_metadata_never_does_harm(ours: Any, others: dict[str, Any], caps: Caps) -> None:
    raw = make_entry("name", caps[1], caps[0], json.dumps({"lafsfs": ours, **others}).encode(), WRITEKEY)
    check_sane(see(raw, WRITEKEY, OPTIONS), caps == DIRECTORY_CAPS)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff", b'{"lafsfs": null}', b'{"lafsfs": []}'])
def test_metadata_that_is_none(text: bytes) -> None:
    for caps in FILE_CAPS:
        seen = see(make_entry("name", caps[1], caps[0], text, WRITEKEY), WRITEKEY, OPTIONS)
        check_sane(seen, False)
        a = seen.attributes
        assert (a.mode, a.uid, a.gid) == (stat.S_IFREG | 0o640, 1000, 1001)


@pytest.mark.parametrize("raw", [b"", b"noise", b"4:name,", b"4:name,0:,0:,0:,", b"4:name,0:,3:abc,2:{},"])
def test_entries_that_are_none(raw: bytes) -> None:
    seen = see(raw, WRITEKEY, OPTIONS)
    check_sane(seen, False)
    assert seen.caps == (b"", b"")


def check_sane(seen: Seen, is_dir: bool) -> None:
    """The kernel can show it, and we can write it again."""
    a = seen.attributes
    assert stat.S_IFMT(a.mode) in KINDS
    assert a.mode & ~0o177777 == 0
    assert a.is_dir == is_dir
    assert all(TIME_MIN <= t <= TIME_MAX for t in (a.atime, a.mtime, a.ctime, a.crtime))
    assert 0 <= a.size < 1 << 63
    assert 0 <= a.uid < 1 << 32
    assert 0 <= a.gid < 1 << 32
    assert 0 <= a.rdev < 1 << 64
    if seen.ino is not None:
        assert 0 < seen.ino < 1 << 63
    stored = json.loads(json.dumps(metadata.encode(to_posix(a, 5, 1, seen.xattrs, None), None, None)))
    posix, _ = metadata.decode(stored)
    assert posix is not None
    assert from_posix(posix, a.size) == a


def test_content_that_another_client_put_under_our_metadata() -> None:
    """The times tell that it changed, and a file that had other names is another file now."""
    inode = Inode(99, new_attributes(stat.S_IFREG | 0o600, 1, 2), (b"", LITERAL), nlink=2)
    entry = Entry.parse(write_entry(inode, "name", b"name", None, WRITEKEY))
    same = see(entry.raw, WRITEKEY, OPTIONS)
    assert (same.ino, same.nlink, same.attributes.mtime) == (99, 2, inode.attributes.mtime)
    other = see(make_entry("name", CHK, b"", entry.metadata, WRITEKEY), WRITEKEY, OPTIONS)
    assert (other.ino, other.nlink) == (None, None)
    assert other.attributes.mode == inode.attributes.mode
    assert other.attributes.mtime > inode.attributes.mtime
    assert other.attributes.ctime > inode.attributes.ctime


# --- which operation moves which times ---------------------------------------------------------------------

MOVES = {
    "chmod": "c",
    "chown": "c",
    "utime": "amc",
    "setxattr": "c",
    "removexattr": "c",
    "write": "mc",
    "truncate": "mc",
    "link": "c",
    "rename": "c",
    "read": "",
    "lookup": "",
    "open": "",
}


@pytest.mark.parametrize("options", [IDLE, EAGER], ids=["idle", "publishing"])
async def test_which_operation_moves_which_times(
    nodes: NodeMaker, tmp_path: Any, options: TreeOptions
) -> None:
    async with opened(nodes, await new_root(nodes), tmp_path, options) as fs:
        await fs.write("f", b"content")
        await fs.setxattr("f", b"user.x", b"y")
        actions = {
            "chmod": lambda: fs.set("f", mode=0o640),
            "chown": lambda: fs.set("f", uid=5),
            "utime": lambda: fs.set("f", atime=77, mtime=78),
            "setxattr": lambda: fs.setxattr("f", b"user.x", b"z"),
            "removexattr": lambda: fs.removexattr("f", b"user.x"),
            "write": lambda: fs.write("f", b"x"),
            "truncate": lambda: fs.set("f", size=100_000),
            "link": lambda: fs.link("f", "g"),
            "rename": lambda: fs.rename("g", "h"),
            "read": lambda: fs.read("f"),
            "lookup": lambda: fs.exists("f"),
            "open": lambda: fs.open("f"),
        }
        assert actions.keys() == MOVES.keys()
        for what, action in actions.items():
            inode = await fs.find("f")
            await fs.set("f", atime=1000, mtime=1000)
            before = inode.attributes
            await action()
            after = inode.attributes
            moved = "".join(
                letter
                for letter in "amc"
                if getattr(after, f"{letter}time") != getattr(before, f"{letter}time")
            )
            assert moved == MOVES[what], what
            assert after.ctime >= before.ctime
            assert after.crtime == before.crtime


async def test_times_that_do_not_fit_are_brought_to_the_bounds(nodes: NodeMaker, tmp_path: Any) -> None:
    """As other file systems do, for the sake of those who read the entry: the rest of it would be lost to them."""
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "a") as fs:
        await fs.write("f", b"content")
        await fs.set("f", mode=0o611, atime=TIME_MIN - 5, mtime=TIME_MAX + 1)
        await fs.drain()
    async with opened(nodes, root, tmp_path / "b") as fs:
        found = (await fs.find("f")).attributes
        assert (found.mode, found.atime, found.mtime) == (stat.S_IFREG | 0o611, TIME_MIN, TIME_MAX)
