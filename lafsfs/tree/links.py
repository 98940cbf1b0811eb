"""The names that lead to an inode: mostly one, sometimes many thousand."""

from __future__ import annotations

from collections.abc import Collection, Iterator

Link = tuple[int, bytes]  # (inode number of the directory, name)

_FEW = 8  # so many are found in a tuple as fast as anywhere else, and a tuple takes the least memory


class ManyLinks(Collection[Link]):
    """A set of names that knows its directories. Changed in place."""

    __slots__ = ("_count", "_names")

    def __init__(self, links: Collection[Link]) -> None:
        self._names: dict[int, dict[bytes, None]] = {}
        self._count = 0
        for link in links:
            self.add(link)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Link]:
        return ((directory, name) for directory, names in self._names.items() for name in names)

    def __contains__(self, link: object) -> bool:
        return isinstance(link, tuple) and link[1] in self._names.get(link[0], ())

    def directories(self) -> Collection[int]:
        """The directories that have at least one of the names."""
        return self._names.keys()

    def add(self, link: Link) -> None:
        """Add a name that is not there."""
        self._names.setdefault(link[0], {})[link[1]] = None
        self._count += 1

    def discard(self, link: Link) -> None:
        """Take a name away that is there."""
        names = self._names[link[0]]
        del names[link[1]]
        if not names:
            del self._names[link[0]]
        self._count -= 1


Links = tuple[Link, ...] | ManyLinks


def with_link(links: Links, link: Link) -> Links:
    """`links` and one that is not among them."""
    if isinstance(links, ManyLinks):
        links.add(link)
        return links
    return (*links, link) if len(links) < _FEW else ManyLinks((*links, link))


def without_link(links: Links, link: Link) -> Links:
    """`links` without one that is among them."""
    if isinstance(links, ManyLinks) and len(links) > 1:
        links.discard(link)
        return links
    return tuple(other for other in links if other != link)


def directories_of(links: Links) -> Collection[int]:
    """The directories in which the names are."""
    if isinstance(links, ManyLinks):
        return links.directories()
    return (links[0][0],) if len(links) == 1 else {directory for directory, _ in links}
