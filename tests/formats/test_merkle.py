"""Merkle trees: properties that vectors cannot show."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lafsfs.errors import CorruptShareError
from lafsfs.formats import merkle


def _leaves(count: int) -> list[bytes]:
    return [hashlib.sha256(b"%d" % i).digest() for i in range(count)]


def _rooted(leaves: list[bytes]) -> tuple[merkle.IncompleteTree, list[bytes]]:
    tree = merkle.IncompleteTree(len(leaves))
    whole = merkle.nodes(leaves)
    tree.set_root(whole[0])
    return tree, whole


@given(st.integers(1, 70), st.data())
def test_leaves_in_any_order_need_exactly_what_is_missing(count: int, data: st.DataObject) -> None:
    leaves = _leaves(count)
    tree, whole = _rooted(leaves)
    for leaf in data.draw(st.permutations(range(count))):
        missing = tree.missing(leaf)
        assert tree.leaf_is_known(leaf) == (not missing and tree.leaf(leaf) is not None)
        for absent in missing:
            with pytest.raises(CorruptShareError):
                tree.add({i: whole[i] for i in missing if i != absent}, {leaf: leaves[leaf]})
        tree.add({i: whole[i] for i in missing}, {leaf: leaves[leaf]})
        assert tree.leaf(leaf) == leaves[leaf]
        assert not tree.missing(leaf)


@given(st.integers(1, 40), st.data())
def test_a_damaged_node_is_refused_and_nothing_kept(count: int, data: st.DataObject) -> None:
    leaves = _leaves(count)
    tree, whole = _rooted(leaves)
    damaged = data.draw(st.integers(0, len(whole) - 1))
    given_nodes = dict(enumerate(whole))
    given_nodes[damaged] = bytes(32)
    with pytest.raises(CorruptShareError):
        tree.add(given_nodes, {})
    assert not any(tree.leaf_is_known(i) for i in range(count) if count > 1)
    tree.add(dict(enumerate(whole)), dict(enumerate(leaves)))
    assert all(tree.leaf_is_known(i) for i in range(count))


@pytest.mark.parametrize("node", [-1, 7, 100])
def test_nodes_outside_the_tree_are_refused(node: int) -> None:
    tree, whole = _rooted(_leaves(4))
    with pytest.raises(CorruptShareError):
        tree.add({node: whole[0]}, {})


def test_leaf_and_its_node_must_agree() -> None:
    leaves = _leaves(2)
    tree, whole = _rooted(leaves)
    with pytest.raises(CorruptShareError):
        tree.add({1: whole[1], 2: whole[2]}, {0: bytes(32)})


def test_the_first_root_stays() -> None:
    tree, _ = _rooted(_leaves(2))
    with pytest.raises(CorruptShareError):
        tree.set_root(bytes(32))
    with pytest.raises(CorruptShareError):
        merkle.IncompleteTree(1).add({}, {0: bytes(32)})
