"""Which record of the journal's log has the newest state of each row."""

from __future__ import annotations

from collections.abc import Iterator

from lafsfs.errors import JournalError
from lafsfs.tree.record_log import POSITION_BITS, RecordLog
from lafsfs.tree.rows import CONTENT, EDGE, META, OBJECT, Row, name_in_edge, rows_of

_SIZE_BITS = 32  # a content's place is reference << 32 | size
_SIZE = (1 << _SIZE_BITS) - 1
_PER_OBJECT, _PER_EDGE = 160, 96  # bytes that such rows take in a record, about


class RowIndex:
    """References to records, by kind and key. Values of meta rows are few and are kept.

    Each segment counts the rows of it that are the newest state of something.
    """

    def __init__(self, log: RecordLog) -> None:
        self._log = log
        self.objects: dict[int, int] = {}
        self.contents: dict[int, int] = {}
        self.edges: dict[int, dict[bytes, int]] = {}  # by directory and name
        self.metas: dict[str, tuple[int, bytes]] = {}
        self._edge_count = 0
        self._content_bytes = 0

    @property
    def count(self) -> int:
        """Objects and names."""
        return len(self.objects) + self._edge_count

    @property
    def estimate(self) -> int:
        """About how many bytes the rows take that count."""
        return (
            len(self.objects) * _PER_OBJECT
            + self._edge_count * _PER_EDGE
            + self._content_bytes
            + sum(len(value) for _, value in self.metas.values())
        )

    # --- changing ------------------------------------------------------------------------------------

    def took(self, reference: int, record: bytes) -> None:
        """A record stands in the log: its rows are the newest now."""
        for one in rows_of(record):
            place = None if one.gone else reference
            if one.kind == OBJECT:
                self.put_object(one.number, place)
            elif one.kind == CONTENT:
                self.put_content(one.number, place, len(one.payload))
            elif one.kind == EDGE:
                self.put_edge(one.number, one.payload if one.gone else name_in_edge(one.payload), place)
            elif one.kind == META:
                name, value = one.payload[: one.number].decode(), one.payload[one.number :]
                self.put_meta(name, None if one.gone else (reference, value))

    def put_object(self, ino: int, reference: int | None) -> None:
        """The row of an inode stands there now; None: it was deleted."""
        self._move(self.objects.get(ino), reference)
        if reference is not None:
            self.objects[ino] = reference
        else:
            self.objects.pop(ino, None)

    def put_content(self, ino: int, reference: int | None, size: int) -> None:
        """As `put_object`, of a content of `size` bytes."""
        old = self.contents.pop(ino, None)
        if old is not None:
            self._content_bytes -= old & _SIZE
            old >>= _SIZE_BITS
        self._move(old, reference)
        if reference is not None:
            self.contents[ino] = reference << _SIZE_BITS | size
            self._content_bytes += size

    def put_edge(self, directory: int, name: bytes, reference: int | None) -> None:
        """As `put_object`, of a name."""
        names = self.edges.get(directory)
        old = names.pop(name, None) if names is not None else None
        self._move(old, reference)
        if old is not None:
            self._edge_count -= 1
        if reference is not None:
            self._edge_count += 1
            if names is None:
                names = self.edges[directory] = {}
            names[name] = reference
        elif names is not None and not names:
            del self.edges[directory]

    def put_meta(self, name: str, place: tuple[int, bytes] | None) -> None:
        """As `put_object`, with the value."""
        old = self.metas.pop(name, None)
        self._move(old[0] if old else None, place[0] if place else None)
        if place is not None:
            self.metas[name] = place

    def _move(self, old: int | None, new: int | None) -> None:
        if old is not None and new is not None and old >> POSITION_BITS == new >> POSITION_BITS:
            return  # as nearly always
        if old is not None:
            self._log.segment_of(old).live -= 1
        if new is not None:
            self._log.segment_of(new).live += 1

    # --- asking --------------------------------------------------------------------------------------

    def counts(self, one: Row, reference: int) -> bool:
        """Whether a row of the record at `reference` is the newest state of what it tells."""
        if one.gone:
            return False
        if one.kind == OBJECT:
            return self.objects.get(one.number) == reference
        if one.kind == EDGE:
            return self.edges.get(one.number, {}).get(name_in_edge(one.payload)) == reference
        if one.kind == CONTENT:
            return self.contents.get(one.number, -1) >> _SIZE_BITS == reference
        return self.metas.get(one.payload[: one.number].decode(), (None,))[0] == reference

    def content(self, ino: int) -> bytes | None:
        """A small content, None if there is none. JournalError."""
        place = self.contents.get(ino)
        if place is None:
            return None
        for one in rows_of(self._log.read(place >> _SIZE_BITS)):
            if one.kind == CONTENT and one.number == ino and not one.gone:
                return one.payload
        raise JournalError("unpublished content is damaged on the local disk")

    def payloads(self, kind: int) -> Iterator[tuple[int, bytes | None]]:
        """(number, payload) of all objects or edges, those of one record after the other; None: unreadable."""
        if kind == OBJECT:
            places = [(reference, ino) for ino, reference in self.objects.items()]
        else:
            places = [(ref, directory) for directory, names in self.edges.items() for ref in names.values()]
        for reference, numbers in _grouped(places):
            try:
                record = self._log.read(reference)
            except JournalError:
                yield from ((number, None) for number in numbers)
                continue
            for one in rows_of(record):
                if one.kind == kind and self.counts(one, reference):
                    yield one.number, one.payload


def _grouped(places: list[tuple[int, int]]) -> Iterator[tuple[int, list[int]]]:
    """The numbers of each reference, in ascending order of references."""
    places.sort()
    numbers: list[int] = []
    for index, (reference, number) in enumerate(places):
        numbers.append(number)
        if index + 1 == len(places) or places[index + 1][0] != reference:
            yield reference, numbers
            numbers = []
