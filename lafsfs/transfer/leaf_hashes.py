"""The leaves of a large stored hash tree, fetched and checked by groups.

Neighbouring leaves are needed together, and the hashes between them and the root of their group can be
computed. So a tree of P places is fetched as groups of neighbouring leaves, one range each, and the top of
the tree, one range at its beginning, which checks the roots of the groups.
"""

from __future__ import annotations

from collections import OrderedDict

from lafsfs.errors import CorruptShareError
from lafsfs.formats import merkle
from lafsfs.formats.hashing import HASH_SIZE

_GROUP = 1024
_KEPT_GROUPS = 64


class LeafHashes:
    """Checked leaf hashes of one tree whose root is trusted. The groups used last are kept."""

    def __init__(self, leaf_count: int, root: bytes) -> None:
        self._places = merkle.pow2(leaf_count)
        self.group_size = min(self._places, max(_GROUP, self._places // _GROUP))
        self._top = merkle.IncompleteTree(self._places // self.group_size)
        self._top.set_root(root)
        # A tree of one leaf is nothing but its root.
        self._groups: OrderedDict[int, bytes] = OrderedDict({0: root} if self._places == 1 else {})

    def group_of(self, leaf: int) -> int:
        """The number of the group of a leaf."""
        return leaf // self.group_size

    def get(self, leaf: int) -> bytes | None:
        """The checked hash of a leaf, if its group is here."""
        group = self._groups.get(self.group_of(leaf))
        if group is None:
            return None
        self._groups.move_to_end(self.group_of(leaf))
        at = leaf % self.group_size * HASH_SIZE
        return group[at : at + HASH_SIZE]

    def row_range(self, group: int) -> tuple[int, int]:
        """(offset, size) in the stored tree of the leaves of a group."""
        first = self._places - 1 + group * self.group_size
        return first * HASH_SIZE, self.group_size * HASH_SIZE

    def top_range(self) -> tuple[int, int]:
        """(offset, size) in the stored tree of what checks the roots of groups; size 0 for nothing."""
        count = self._places // self.group_size
        return 0, (2 * count - 1) * HASH_SIZE if count > 1 else 0

    def add(self, group: int, row: bytes, top: bytes) -> None:
        """Check and keep the leaves of a group, from those two ranges. CorruptShareError if they lie."""
        if len(row) != self.row_range(group)[1] or len(top) != self.top_range()[1]:
            raise CorruptShareError("a hash tree is cut off")
        root = merkle.root(_split(row))
        nodes = dict(enumerate(_split(top))) if top else {}
        self._top.add({number: nodes[number] for number in self._top.missing(group)}, {group: root})
        self._groups[group] = row
        if len(self._groups) > _KEPT_GROUPS:
            self._groups.popitem(last=False)


def _split(data: bytes) -> list[bytes]:
    return [data[at : at + HASH_SIZE] for at in range(0, len(data), HASH_SIZE)]
