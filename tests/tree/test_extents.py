"""The extent map against a plain list of bytes."""

from __future__ import annotations

import itertools

from hypothesis import example, given, settings
from hypothesis import strategies as st

from lafsfs.tree.extents import ExtentMap, Piece

SIZE = 24
Source = tuple[int, int] | None  # (record, byte of it); None: below the map


class Model:
    """Where each byte of a small file comes from."""

    def __init__(self) -> None:
        self.bytes: list[Source] = [None] * SIZE

    def insert(self, start: int, end: int, record: int, skip: int) -> None:
        for at in range(start, end):
            self.bytes[at] = (record, skip + at - start)

    def remove(self, start: int, end: int) -> None:
        for at in range(start, end):
            self.bytes[at] = None


def sources(pieces: list[Piece]) -> list[Source]:
    """What each byte of some pieces comes from."""
    return [
        None if piece.record is None else (piece.record, piece.skip + at)
        for piece in pieces
        for at in range(piece.end - piece.start)
    ]


def check(extents: ExtentMap, model: Model) -> None:
    """The map says what the model says, of every range, and is in order."""
    for start, end in itertools.combinations_with_replacement(range(SIZE + 1), 2):
        pieces = extents.cover(start, end)
        assert sources(pieces) == model.bytes[start:end]
        if start < end:
            assert [piece.start for piece in pieces] == [start, *(piece.end for piece in pieces[:-1])]
            assert pieces[-1].end == end
            assert all(piece.start < piece.end for piece in pieces)
        else:
            assert pieces == []
    ranges = list(extents)
    assert len(extents) == len(ranges)
    assert all(one.end <= other.start for one, other in itertools.pairwise(ranges))
    assert extents.live == sum(source is not None for source in model.bytes)
    assert extents.end == max((at + 1 for at, source in enumerate(model.bytes) if source), default=0)


bounds = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE))
steps = st.lists(st.tuples(st.sampled_from(["insert", "remove"]), bounds, st.integers(0, 9)), max_size=12)


@settings(max_examples=50, deadline=None)
@given(steps)
@example([("insert", (2, 10), 0), ("insert", (4, 6), 3), ("remove", (5, 5), 0), ("insert", (0, 24), 1)])
def test_any_sequence(sequence: list[tuple[str, tuple[int, int], int]]) -> None:
    extents, model = ExtentMap(), Model()
    for record, (what, (start, end), skip) in enumerate(sequence):
        if what == "insert":
            extents.insert(start, end, record, skip)
            model.insert(start, end, record, skip)
        else:
            extents.remove(start, end)
            model.remove(start, end)
    check(extents, model)


def test_all_pairs_of_writes() -> None:
    """Every way in which one range can lie to another, then a third over both."""
    ranges = list(itertools.combinations(range(5), 2))
    for one, two, three in itertools.product(ranges, repeat=3):
        extents = ExtentMap()
        expected: list[Source] = [None] * 5
        for record, (start, end) in enumerate((one, two, three)):
            extents.insert(start, end, record)
            expected[start:end] = [(record, at) for at in range(end - start)]
        assert sources(extents.cover(0, 5)) == expected
        extents.remove(*two)
        expected[two[0] : two[1]] = [None] * (two[1] - two[0])
        assert sources(extents.cover(0, 5)) == expected
        assert extents.live == sum(source is not None for source in expected)


def test_a_copy_is_independent() -> None:
    extents = ExtentMap()
    extents.insert(0, 10, 1)
    copy = extents.copy()
    extents.insert(5, 7, 2)
    copy.remove(0, 5)
    assert list(extents) == [Piece(0, 5, 1, 0), Piece(5, 7, 2, 0), Piece(7, 10, 1, 7)]
    assert list(copy) == [Piece(5, 10, 1, 5)]
    assert (extents.live, copy.live) == (10, 5)


def test_offsets_of_the_largest_files() -> None:
    extents = ExtentMap()
    far = 1 << 44
    extents.insert(far - 1, far, 1 << 60)
    assert extents.end == far
    assert extents.cover(0, far) == [Piece(0, far - 1, None, 0), Piece(far - 1, far, 1 << 60, 0)]
