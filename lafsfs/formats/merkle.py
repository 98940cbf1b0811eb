"""Merkle trees over 32-byte hashes, whole and incomplete (formats.md section 2).

Nodes are numbered breadth first: root 0, children of i are 2i+1 and 2i+2. A tree over L leaves has
P = pow2(L) places for leaves, the first being node P-1; places without a leaf hold the empty-leaf hash of
their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lafsfs.errors import CorruptShareError
from lafsfs.formats.hashing import empty_leaf_hash, pair_hash


def pow2(n: int) -> int:
    """The smallest power of two that is at least `n`; 1 for 0."""
    return 1 << (n - 1).bit_length() if n > 0 else 1


def nodes(leaves: Sequence[bytes]) -> list[bytes]:
    """The whole padded tree, breadth first: 2 * pow2(len(leaves)) - 1 hashes."""
    places = pow2(len(leaves))
    row = list(leaves) + [empty_leaf_hash(i) for i in range(len(leaves), places)]
    rows = [row]
    while len(row) > 1:
        row = [pair_hash(row[i], row[i + 1]) for i in range(0, len(row), 2)]
        rows.append(row)
    return [node for row in reversed(rows) for node in row]


def root(leaves: Sequence[bytes]) -> bytes:
    """The root of the tree over `leaves`."""
    return nodes(leaves)[0]


def sibling(node: int) -> int:
    """The other child of the parent of `node`, which is not the root."""
    return node - 1 if node % 2 == 0 else node + 1


def parent(node: int) -> int:
    """The parent of `node`, which is not the root."""
    return (node - 1) // 2


def needed(leaf: int, leaf_count: int) -> list[int]:
    """The nodes needed to check leaf number `leaf` against the root: siblings on its path, lowest first."""
    node = pow2(leaf_count) - 1 + leaf
    siblings = []
    while node:
        siblings.append(sibling(node))
        node = parent(node)
    return siblings


class IncompleteTree:
    """A tree of which only the root is known at first. Every node it holds was checked against the root."""

    __slots__ = ("_first_leaf", "_known", "leaf_count")

    def __init__(self, leaf_count: int) -> None:
        self.leaf_count = leaf_count
        self._first_leaf = pow2(leaf_count) - 1
        self._known: dict[int, bytes] = {}

    def set_root(self, root_hash: bytes) -> None:
        """Trust `root_hash`. CorruptShareError if another root is trusted already."""
        if self._known.setdefault(0, root_hash) != root_hash:
            raise CorruptShareError("two different roots for one hash tree")

    def leaf_is_known(self, leaf: int) -> bool:
        """Whether the hash of that leaf is known and checked."""
        return self._first_leaf + leaf in self._known

    def leaf(self, leaf: int) -> bytes | None:
        """The checked hash of that leaf, if known."""
        return self._known.get(self._first_leaf + leaf)

    def missing(self, leaf: int) -> set[int]:
        """Numbers of the nodes still needed to check leaf number `leaf`, besides the leaf itself."""
        node = self._first_leaf + leaf
        wanted = set()
        while node and node not in self._known:
            other = sibling(node)
            if other not in self._known:
                wanted.add(other)
            node = parent(node)
        return wanted

    def add(self, nodes: Mapping[int, bytes], leaves: Mapping[int, bytes]) -> None:
        """Check hashes given by node number and by leaf number, and keep them.

        CorruptShareError when they do not lead to the root, contradict each other or what is known, lie
        outside the tree, or cannot be checked for want of a sibling; the tree is then what it was.
        """
        fresh = self._fresh(nodes, leaves)
        rows: dict[int, list[int]] = {}
        for node in fresh:
            rows.setdefault((node + 1).bit_length(), []).append(node)
        for row in range(max(rows, default=0), 1, -1):
            for node in rows.get(row, ()):
                if node % 2 == 0 and node - 1 in fresh:
                    continue  # its sibling, in the same row, checks the pair
                above = parent(node)
                computed = self._parent_hash(node, fresh)
                told = self._known.get(above) or fresh.get(above)
                if told is None:
                    fresh[above] = computed
                    rows.setdefault(row - 1, []).append(above)
                elif told != computed:
                    raise CorruptShareError("a hash tree does not lead to its root")
        if 0 in fresh:
            raise CorruptShareError("a hash tree without a trusted root")
        self._known.update(fresh)

    def _fresh(self, nodes: Mapping[int, bytes], leaves: Mapping[int, bytes]) -> dict[int, bytes]:
        """The hashes that are not known yet, by node number, checked only for contradictions."""
        fresh: dict[int, bytes] = {}
        given = [*nodes.items(), *((self._first_leaf + leaf, value) for leaf, value in leaves.items())]
        for node, value in given:
            if not 0 <= node <= 2 * self._first_leaf:
                raise CorruptShareError("a node outside its hash tree")
            told = self._known.get(node) or fresh.get(node)
            if told is None:
                fresh[node] = value
            elif told != value:
                raise CorruptShareError("two different hashes for one node of a hash tree")
        return fresh

    def _parent_hash(self, node: int, fresh: Mapping[int, bytes]) -> bytes:
        """The hash that the parent of `node` must have."""
        other = sibling(node)
        own = fresh[node]
        beside = self._known.get(other) or fresh.get(other)
        if beside is None:
            raise CorruptShareError("a hash tree with a node missing")
        return pair_hash(own, beside) if node < other else pair_hash(beside, own)
