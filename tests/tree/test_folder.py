"""A directory's names: any bytes, stored under valid unique names, shown so that each entry can be reached."""

from __future__ import annotations

import json
import unicodedata

from hypothesis import example, given, settings
from hypothesis import strategies as st

from lafsfs.formats import metadata
from lafsfs.formats.packed import Packed, make_entry
from lafsfs.nodes.directory import Snapshot
from lafsfs.transfer.servermap import Version
from lafsfs.tree.attributes import new_attributes, to_posix
from lafsfs.tree.directories import FIRST_COOKIE, NAME_MAX, UNKNOWN, Folder, Pending
from lafsfs.tree.inodes import ROOT, Inode

NFC, NFD = "é".encode(), unicodedata.normalize("NFD", "é").encode()
WRITEKEY = bytes(16)


def new_folder(ino: int = 5) -> Folder:
    return Folder(Inode(ino, new_attributes(0o40755, 0, 0), None), None)


def snapshot(entries: dict[str, bytes]) -> Snapshot:
    """What the grid might hold; packed and split again, as it comes from there."""
    packed = Packed.parse(Packed().with_changes(entries).pack())
    return Snapshot(Version(1, bytes(32), 0), packed)


def entry(stored: str, raw_name: bytes | None, content: bytes = b"x") -> bytes:
    posix = to_posix(new_attributes(0o100644, 0, 0), 9, 1, None, None)
    text = json.dumps(metadata.encode(posix, raw_name, None)).encode()
    return make_entry(stored, b"URI:LIT:" + content, b"", text, WRITEKEY)


def publish(folder: Folder, names: list[bytes]) -> dict[str, bytes]:
    """What a directory with these new names becomes on the grid."""
    for number, name in enumerate(names):
        folder.pending[name] = Pending(100 + number, None, None, number)
        folder.show(name, 100 + number)
    entries: dict[str, bytes] = {}
    for name in names:
        stored = folder.stored(name)
        assert stored not in entries, "two names in one place"
        entries[stored] = entry(stored, name if stored.encode() != name else None, b"%x" % len(entries))
    return entries


file_names = st.one_of(
    st.binary(min_size=1, max_size=NAME_MAX),
    st.text(min_size=1, max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")[:NAME_MAX]),
    st.lists(
        st.sampled_from([NFC, NFD, b"\xff", b"%FF", b"~2", b"a", b"K", "\u212a".encode()]), min_size=1
    ).map(lambda parts: b"".join(parts)[:NAME_MAX]),
).filter(lambda name: name not in (b".", b"..") and b"/" not in name and b"\0" not in name)


@settings(max_examples=80, deadline=None)
@given(st.lists(file_names, unique=True, max_size=8), st.randoms(use_true_random=False))
@example([NFC, NFD, b"e\xcc\x81~2", NFC + b"~2"], None)
@example([b"\xff", b"%FF", b"%FF~2", b"\xff~2"], None)
@example([b"\xff" * 255, b"%FF" * 85], None)
def test_every_name_survives_the_grid(names: list[bytes], chance: object) -> None:
    """Published, and read by a mount that knows nothing, all are there under their own names."""
    ours = new_folder()
    entries = publish(ours, names)
    for stored in entries:
        assert stored == unicodedata.normalize("NFC", stored)
        stored.encode()  # text that everybody can read
    theirs = new_folder()
    changed = theirs.adopt(snapshot(entries))
    assert {name for name, _ in changed} == set(theirs.kids) == set(names)
    for name in names:
        assert theirs.base_raw(name) == entries[ours.stored(name)]
        assert theirs.stored(name) == ours.stored(name)
    # and here, once they are not pending any more
    ours.pending.clear()
    ours.adopt(snapshot(entries))
    assert set(ours.kids) == set(names)
    assert all(ours.base_raw(name) == entries[theirs.stored(name)] for name in names)


@settings(max_examples=60, deadline=None)
@given(st.lists(file_names, unique=True, min_size=2, max_size=6), st.data())
def test_names_made_later_do_not_take_the_place_of_others(names: list[bytes], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(names) - 1))
    folder = new_folder()
    entries = publish(folder, names[:cut])
    folder.pending.clear()
    folder.adopt(snapshot(entries))
    later = publish(folder, names[cut:])
    assert not later.keys() & entries.keys()
    everything = new_folder()
    everything.adopt(snapshot({**entries, **later}))
    assert set(everything.kids) == set(names)


# --- what anybody may have put there -----------------------------------------------------------------------

stored_names = st.one_of(
    st.text(min_size=0, max_size=6),
    st.text(alphabet="ab/.~\0é", max_size=4),
    st.integers(200, 300).map("é".__mul__),
    st.sampled_from(["é", "é~2", "é~3", "%FF", "%FF~2", "%FF~02", "a~2"]),
).map(lambda text: unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode()))
claims = (
    st.none()
    | st.sampled_from([b"a", b"b", b".", b"..", NFD, NFC, b"\xff", b"%FF", b"a/b"])
    | st.binary(max_size=3)
)


@settings(max_examples=120, deadline=None)
@given(st.dictionaries(stored_names, claims, max_size=6))
@example({"b": None, "a": b"b"})
@example({"a/b": b"x", "x": b"a/b", "y": b"x"})
@example({"a/b": None, "a∕b~" + "0" * 8: None})
def test_every_entry_can_be_reached_by_one_name(claimed: dict[str, bytes | None]) -> None:
    entries = {stored: entry(stored, claim) for stored, claim in claimed.items()}
    folder = new_folder()
    folder.adopt(snapshot(entries))
    check_all_shown(folder, entries)


def test_a_substitute_does_not_hide_what_has_that_name() -> None:
    plain = new_folder()
    plain.adopt(snapshot({"a/b": entry("a/b", None)}))
    (substitute,) = plain.kids
    assert b"/" not in substitute
    for other in (substitute.decode(), "0"):
        entries = {"a/b": entry("a/b", None), other: entry(other, substitute if other == "0" else None)}
        folder = new_folder()
        folder.adopt(snapshot(entries))
        check_all_shown(folder, entries)


def test_a_name_goes_with_the_stored_name() -> None:
    """Tahoe's relink keeps all metadata: an entry that another client renamed is called as it was renamed."""
    folder = new_folder()
    folder.adopt(
        snapshot({"new": entry("new", b"\xff"), "%FE": entry("%FE", b"\xfe"), "é~12": entry("é~12", NFC)})
    )
    assert set(folder.kids) == {b"new", b"\xfe", NFC}


def check_all_shown(folder: Folder, entries: dict[str, bytes]) -> None:
    raws = [folder.base_raw(name) for name in folder.kids]
    assert sorted(raw or b"" for raw in raws) == sorted(entries.values())
    for name in folder.kids:
        assert 0 < len(name) <= NAME_MAX
        assert name not in (b".", b"..")
        assert not {0, 47} & set(name)


# --- following what others do ------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), st.sampled_from([b"1", b"2"])), min_size=1, max_size=4),
    st.dictionaries(st.sampled_from([b"a", b"b", b"d"]), st.booleans()),
)
def test_following_tells_what_looks_different(
    versions: list[dict[str, bytes]], ours: dict[bytes, bool]
) -> None:
    """Pending names stay ours; all other names, and only those, are as the grid has them."""
    folder = new_folder()
    for number, (name, there) in enumerate(ours.items()):
        folder.pending[name] = Pending(50 + number if there else None, None, None, number)
    before: dict[bytes, bytes] = {}
    for version in versions:
        entries = {stored: entry(stored, None, content) for stored, content in version.items()}
        changed = folder.adopt(snapshot(entries))
        folder.lay_journal()
        now = {stored.encode(): raw for stored, raw in entries.items() if stored.encode() not in ours}
        different = {name for name in now.keys() | before.keys() if now.get(name) != before.get(name)}
        assert {name for name, _ in changed} == different
        assert set(folder.kids) == now.keys() | {name for name, there in ours.items() if there}
        before = now


def test_changed_names_come_with_the_number_they_had() -> None:
    folder = new_folder()
    folder.adopt(snapshot({"a": entry("a", None, b"1"), "b": entry("b", None)}))
    assert folder.kids[b"a"][1] == UNKNOWN
    folder.show(b"a", 70)
    folder.show(b"b", 71)
    assert sorted(folder.adopt(snapshot({"a": entry("a", None, b"2")}))) == [(b"a", 70), (b"b", 71)]
    assert folder.kids[b"a"][1] == 70
    assert b"b" not in folder.kids


# --- listing -----------------------------------------------------------------------------------------------

listing_steps = st.lists(st.tuples(st.sampled_from(["show", "hide", "list"]), st.integers(0, 5)), max_size=30)


@settings(max_examples=80, deadline=None)
@given(listing_steps, st.integers(1, 3))
def test_a_listing_in_parts_while_names_change(sequence: list[tuple[str, int]], part: int) -> None:
    """What is there all the time is listed exactly once; nothing twice in one place, nothing that never was."""
    folder = new_folder()
    stable = [b"s%d" % number for number in range(3)]
    for name in stable:
        folder.show(name, 7)
    listed: list[bytes] = []
    cookie = FIRST_COOKIE - 1

    def go_on(count: int) -> None:
        nonlocal cookie
        for _, (at, name, ino) in zip(range(count), folder.after(cookie), strict=False):
            assert at > cookie
            assert folder.kids[name] == (at, ino)
            cookie = at
            listed.append(name)

    for what, number in sequence:
        name = b"n%d" % number
        if what == "show":
            folder.show(name, number)
        elif what == "hide" and name in folder.kids:
            folder.hide(name)
        else:
            go_on(part)
    go_on(100)
    assert [name for name in listed if name in stable] == stable
    assert [name for _, name, _ in folder.after(FIRST_COOKIE - 1)] == list(folder.kids)
    cookies = [at for at, _ in folder.kids.values()]
    assert cookies == sorted(set(cookies))
    assert len(folder) == len(folder.kids)


def test_a_name_keeps_its_cookie_when_it_leads_elsewhere() -> None:
    folder = new_folder()
    folder.show(b"a", 5)
    cookie = folder.kids[b"a"][0]
    folder.show(b"a", 6)
    assert folder.kids[b"a"] == (cookie, 6)
    folder.hide(b"a")
    folder.show(b"a", 6)
    assert folder.kids[b"a"][0] > cookie


def test_the_links_directory_is_hidden_in_the_root_only() -> None:
    for ino, shown in ((ROOT, []), (7, [b".lafsfs-links"])):
        folder = new_folder(ino)
        folder.show(b".lafsfs-links", 8)
        assert [name for _, name, _ in folder.after(0)] == shown
