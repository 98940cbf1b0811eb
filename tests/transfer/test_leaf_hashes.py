"""Hash trees fetched by groups of leaves."""

from __future__ import annotations

import hashlib

import pytest

from lafsfs.errors import CorruptShareError
from lafsfs.formats import merkle
from lafsfs.transfer.leaf_hashes import LeafHashes


def _tree(count: int) -> tuple[list[bytes], bytes]:
    leaves = [hashlib.sha256(b"%d" % i).digest() for i in range(count)]
    return leaves, b"".join(merkle.nodes(leaves))


def _cut(stored: bytes, where: tuple[int, int]) -> bytes:
    return stored[where[0] : where[0] + where[1]]


@pytest.mark.parametrize("count", [1, 2, 3, 1000, 1024, 1025, 3000, 4097])
def test_all_leaves(count: int) -> None:
    leaves, stored = _tree(count)
    known = LeafHashes(count, stored[:32])
    for leaf in {0, count // 2, count - 1}:
        group = known.group_of(leaf)
        known.add(group, _cut(stored, known.row_range(group)), _cut(stored, known.top_range()))
        assert known.get(leaf) == leaves[leaf]
        assert len(_cut(stored, known.row_range(group))) <= 32 * 1024


@pytest.mark.parametrize("count", [2, 5, 2049])
def test_damage_is_found_and_not_kept(count: int) -> None:
    _, stored = _tree(count)
    known = LeafHashes(count, stored[:32])
    group = known.group_of(count - 1)
    row, top = _cut(stored, known.row_range(group)), _cut(stored, known.top_range())
    for at in {0, len(row) // 2, len(row) - 1}:
        with pytest.raises(CorruptShareError):
            known.add(group, row[:at] + bytes([row[at] ^ 1]) + row[at + 1 :], top)
    for bad in ((row[:-32], top), (row, top + bytes(32)), (row, bytes(len(top))) if top else (row[32:], top)):
        with pytest.raises(CorruptShareError):
            known.add(group, *bad)
    assert known.get(count - 1) is None
    known.add(group, row, top)
    assert known.get(count - 1) is not None


def test_only_the_groups_used_last_are_kept() -> None:
    """A file of a terabyte must not cost its whole hash tree in memory."""
    count = 70 * 1024
    _, stored = _tree(count)
    known = LeafHashes(count, stored[:32])
    top = _cut(stored, known.top_range())
    for group in range(70):
        known.add(group, _cut(stored, known.row_range(group)), top)
        known.get(0)
    present = [group for group in range(70) if known.get(group * 1024) is not None]
    assert len(present) == 64
    assert 0 in present
