"""The names of an inode: few or many, they are a set that knows its directories."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lafsfs.tree.links import Link, Links, ManyLinks, directories_of, with_link, without_link

steps = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 11)), max_size=60)


@settings(max_examples=100, deadline=None)
@given(steps)
def test_as_a_set(sequence: list[tuple[int, int]]) -> None:
    links: Links = ()
    expected: set[Link] = set()
    for directory, number in sequence:
        link = (directory, b"%d" % number)
        assert (link in links) == (link in expected)
        if link in expected:
            links = without_link(links, link)
            expected.remove(link)
        else:
            links = with_link(links, link)
            expected.add(link)
        assert set(links) == expected
        assert len(links) == len(expected)
        assert bool(links) == bool(expected)
        assert set(directories_of(links)) == {above for above, _ in expected}


def test_many_are_found_without_looking_at_all() -> None:
    links: Links = ()
    for number in range(1000):
        links = with_link(links, (7, b"%d" % number))
    assert isinstance(links, ManyLinks)
    assert list(directories_of(links)) == [7]
    assert (7, b"999") in links
    assert (8, b"999") not in links
