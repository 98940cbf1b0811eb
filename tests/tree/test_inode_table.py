"""The inode table: what is in use is not forgotten, all else is; directories stay while something below is known."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lafsfs.tree.attributes import new_attributes
from lafsfs.tree.inodes import ROOT, Inode, InodeTable, derived_number

steps = st.lists(
    st.tuples(
        st.sampled_from(["lookup", "forget", "open", "close", "link", "unlink", "store", "publish"]),
        st.integers(2, 7),
        st.integers(0, 2),
    ),
    max_size=40,
)


def new(ino: int) -> Inode:
    mode = 0o40755 if ino < 5 else 0o100644  # 1 to 4 are directories
    return Inode(ino, new_attributes(mode, 0, 0), (b"", b"x"))


@settings(max_examples=100, deadline=None)
@given(steps)
def test_what_is_held_stays_and_what_is_not_goes(sequence: list[tuple[str, int, int]]) -> None:
    table = InodeTable()
    table.add(new(ROOT))
    for what, ino, number in sequence:
        inode = table.get(ino)
        if inode is None:
            if what != "lookup":
                continue
            inode = new(ino)
            inode.lookups = 1
            table.add(inode)
            above = max((other for other in (ROOT, 2, 3, 4) if other < ino and other in table), default=ROOT)
            table.link(inode, above, b"n%d" % ino)
        elif what == "lookup":
            inode.lookups += 1
        elif what == "forget" and inode.lookups:
            table.forget(ino, min(inode.lookups, number + 1))
        elif what == "open":
            inode.opens += 1
        elif what == "close" and inode.opens:
            inode.opens -= 1
            table.drop_if_unused(inode)
        elif what == "link" and ino >= 5:
            above = ROOT + number
            if above in table:
                table.link(inode, above, b"l%d" % number)
                table.link(inode, above, b"l%d" % number)
        elif what == "unlink" and inode.links:
            table.unlink(inode, *list(inode.links)[number % len(inode.links)])
            table.unlink(inode, 99, b"never was")
            table.drop_if_unused(inode)
        elif what == "store":
            inode.stored = True
        elif what == "publish":
            inode.stored = False
            table.drop_if_unused(inode)
        check(table)
    for inode in list(table):
        inode.opens, inode.stored = 0, False
        for link in list(inode.links)[1:]:
            table.unlink(inode, *link)
    for ino in range(7, 1, -1):
        held = table.get(ino)
        if held is not None:
            table.forget(ino, held.lookups)
            table.drop_if_unused(held)
    assert [inode.ino for inode in table] == [ROOT]
    assert check(table) is None


def check(table: InodeTable) -> None:
    for inode in table:
        assert inode.anchors == sum(link[0] == inode.ino for other in table for link in other.links)
        assert not inode.unused
        for directory, _ in inode.links:
            assert directory in table, "the way up is known"
    assert len(table) == len(list(table))


def test_numbers_are_never_given_twice() -> None:
    table = InodeTable()
    first = table.fresh_number()
    table.add(new(first + 1))
    numbers = [first, *(table.fresh_number() for _ in range(1000))]
    assert first + 1 not in numbers
    assert len(set(numbers)) == len(numbers)
    assert numbers == sorted(numbers)
    assert all(ROOT < number < 1 << 63 for number in numbers)
    starts = {InodeTable().fresh_number() for _ in range(100)}
    assert len(starts) == 100


def test_derived_numbers() -> None:
    assert derived_number(5, b"a") == derived_number(5, b"a")
    numbers = {derived_number(directory, b"%d" % name) for directory in range(30) for name in range(30)}
    assert len(numbers) == 900
    assert all(ROOT < number < 1 << 63 for number in numbers)
