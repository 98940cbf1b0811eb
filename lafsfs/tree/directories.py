"""What a directory shows: the state last seen on the grid, with the journal laid over it."""

from __future__ import annotations

import hashlib
import time
from bisect import bisect_right
from collections.abc import Iterator
from itertools import chain, count
from typing import NamedTuple

import trio

from lafsfs.errors import FormatError
from lafsfs.formats import metadata as posix_metadata
from lafsfs.formats.dirnode import Entry, Packed, parse_metadata
from lafsfs.nodes.directory import Directory, Snapshot
from lafsfs.tree.inodes import ROOT, Inode

NAME_MAX = 255
FIRST_COOKIE = 3  # 1 and 2 are "." and ".."
LINKS_DIRECTORY = b".lafsfs-links"  # in the root, not shown (hard_links.py)
_OWN_NAME = b'"name"'  # in the metadata of an entry that is shown under another name than it is stored
UNKNOWN = 0  # inode number of a kid that nobody looked at yet
_HIDDEN_IN_ROOT, _HIDDEN_ELSEWHERE = frozenset((LINKS_DIRECTORY,)), frozenset[bytes]()


class Pending(NamedTuple):
    """A name that differs from the grid. `ino` None: removed. `base`: digest of the entry it replaces there."""

    ino: int | None
    base: bytes | None
    base_ino: int | None
    version: int


def digest(raw: bytes | None) -> bytes | None:
    """Identifies an entry as it stands on the grid."""
    return None if raw is None else hashlib.blake2b(raw, digest_size=16).digest()


class Folder:
    """The names of one directory.

    `kids` maps each visible name to (cookie, inode number), in the order of cookies, which grow and are never reused.
    `snapshot` is what was last seen on the grid; `pending` holds the names that differ from it, `publishing` the
    entries on their way, `hidden` those that users do not see, `attempts` digests of entries that may have reached the
    grid without our knowing, `removed` what stood under names that are to go, `put_back` the versions of pending names
    that are put back as they were, with what their entries are to say of that (emptied.py), `returned` the numbers of
    what lost its name to others and gets it back because of what changed here (removals.py, elsewhere.py).
    `lock` is held while the snapshot is fetched, compared or published; names change without it, never across an await.
    """

    def __init__(self, inode: Inode, node: Directory | None) -> None:
        self.inode = inode
        self.hidden = _HIDDEN_IN_ROOT if inode.ino == ROOT else _HIDDEN_ELSEWHERE
        self.node = node
        self.snapshot: Snapshot | None = None
        self.kids: dict[bytes, tuple[int, int]] = {}
        self.pending: dict[bytes, Pending] = {}
        self.publishing: dict[bytes, bytes | None] = {}
        self.attempts: dict[bytes, set[bytes]] = {}
        self.removed: dict[bytes, Inode] = {}
        self.put_back: dict[bytes, tuple[int, tuple[int, int]]] = {}
        self.returned: dict[bytes, int] = {}
        self.stored_names: dict[bytes, str] = {}
        self.loaded = False
        self.awaited: int | None = (
            None  # the last of the children that were waited for, when all were looked at
        )
        self.kept_since: float | None = None  # Unix time of a snapshot that is not from the grid
        self.again = False  # to be published again though nothing changed (mending.py)
        self.behind = False  # the newest version cannot be recovered, an older one is shown
        self.checked = float("-inf")
        self.looked = float("-inf")  # when the grid was last asked for what others did, and answered
        self.was_empty = float("-inf")  # monotonic time when the grid was last known to have nothing in it
        self.lock = trio.Lock()
        self.next_cookie = FIRST_COOKIE  # of the next new name
        self._listed: list[bytes] = []  # names, and their cookies, in order, as they were when this was next:
        self._cookies: list[int] = []
        self._listed_until = FIRST_COOKIE

    # --- names ---------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.kids)

    def __bool__(self) -> bool:
        return True  # one without names is a folder, too

    def show(self, name: bytes, ino: int) -> None:
        """Make `name` stand for `ino`; an existing name keeps its cookie."""
        old = self.kids.get(name)
        if old is None:
            self.kids[name] = (self.next_cookie, ino)
            self.next_cookie += 1
        else:
            self.kids[name] = (old[0], ino)

    def hide(self, name: bytes) -> None:
        """Take `name` away."""
        del self.kids[name]

    def after(self, cookie: int) -> Iterator[tuple[int, bytes, int]]:
        """(cookie, name, inode number) of all names past `cookie`, in an order that never changes."""
        if self._listed_until != self.next_cookie or len(self._listed) > 2 * len(self.kids):
            self._listed, self._cookies = list(self.kids), [kid[0] for kid in self.kids.values()]
            self._listed_until = self.next_cookie
        names, cookies = self._listed, self._cookies
        for position in range(bisect_right(cookies, cookie), len(cookies)):
            name = names[position]
            kid = self.kids.get(name)
            if kid is not None and kid[0] == cookies[position] and name not in self.hidden:
                yield kid[0], name, kid[1]

    def start_over(self, node: Directory | None) -> None:
        """Be a directory of the grid that is not read yet; the pending names are added to that."""
        self.node, self.snapshot, self.loaded = node, None, False
        self.stored_names, self.attempts, self.removed, self.returned = {}, {}, {}, {}
        self.checked = float("-inf")

    @property
    def differs(self) -> bool:
        """Whether more is known here than the grid tells: what changed, what is on its way, what went wrong."""
        ours = self.pending, self.publishing, self.attempts, self.removed, self.put_back, self.returned
        return any(ours) or self.again or self.behind or self.kept_since is not None

    def unload(self) -> None:
        """Forget what the grid tells; it is read again when somebody asks. Nothing `differs`."""
        self.start_over(self.node)
        self.kids = {}
        self.rest()

    def rest(self) -> None:
        """Forget what only makes the next listing quicker."""
        self._listed, self._cookies, self._listed_until = [], [], FIRST_COOKIE

    def lay_journal(self) -> None:
        """Show the pending names over what was adopted."""
        for name, pending in self.pending.items():
            if pending.ino is not None:
                self.show(name, pending.ino)
            elif name in self.kids:
                self.hide(name)

    def stored(self, name: bytes) -> str:
        """The name under which the grid keeps `name` (design.md section 4); chosen once, then kept."""
        known = self.stored_names.get(name)
        if known is not None:
            return known
        if not self.stored_names and name.isascii():
            return name.decode("ascii")
        stored, raw = posix_metadata.stored_name(name, lambda candidate: self._taken(candidate, name))
        if raw is not None:
            self.stored_names[name] = stored
        return stored

    def _taken(self, stored: str, name: bytes) -> bool:
        """Whether a name other than `name` is kept, or will be, under `stored`."""
        if stored in self.stored_names.values():
            return True
        plain = stored.encode()
        if plain == name:
            return False
        return plain in self.pending or (
            self.snapshot is not None and self.snapshot.packed.raw(stored) is not None
        )

    def mark_of(self, name: bytes, pending: Pending) -> tuple[int, int] | None:
        """What the entry of a name is to say of being put back, if that is all that is `pending`."""
        version, mark = self.put_back.get(name, (None, None))
        return mark if version == pending.version else None

    def base_raw(self, name: bytes) -> bytes | None:
        """The entry of `name` as last seen on the grid."""
        if self.snapshot is None:
            return None
        stored = self.stored_names.get(name)
        if stored is None:
            try:
                stored = name.decode()
            except UnicodeDecodeError:
                return None
        raw = self.snapshot.packed.raw(stored)
        if raw is not None and name not in self.stored_names and own_name(stored, raw) is not None:
            return None  # that entry is shown under another name
        return raw

    # --- what the grid holds ---------------------------------------------------------------------------

    def replace(self, snapshot: Snapshot) -> None:
        """The grid has `snapshot` now."""
        if self.snapshot is not None and not len(self.snapshot.packed):
            self.was_empty = time.monotonic()
        self.snapshot = snapshot

    def adopt(self, snapshot: Snapshot) -> list[tuple[bytes, int]]:
        """Take a newer state of the grid. Pending names stay ours.

        Returns the names that look different now, each with the inode number it led to before.
        """
        old = self.snapshot.packed if self.snapshot is not None else Packed.parse(b"")
        old_names = self.stored_names
        shown = {name: stored for name, stored in old_names.items() if name in self.pending}
        self.stored_names = shown
        self.replace(snapshot)
        changed: list[tuple[bytes, int]] = []
        seen: set[bytes] = set()
        packed = snapshot.packed
        named = set(packed.holding(_OWN_NAME))
        for stored in packed.names():
            name = self._shown_name(stored, packed.raw(stored) if stored in named else None, seen)
            seen.add(name)
            if name in self.pending:
                continue
            if name not in self.kids:
                self.show(name, UNKNOWN)
                changed.append((name, UNKNOWN))
            elif packed.raw(stored) != old.raw(old_names.get(name) or stored):
                changed.append((name, self.kids[name][1]))
        for name in [name for name in self.kids if name not in seen and name not in self.pending]:
            changed.append((name, self.kids[name][1]))
            self.hide(name)
        return changed

    def _shown_name(self, stored: str, raw: bytes | None, seen: set[bytes]) -> bytes:
        """What an entry is called here: never as one of those `seen` before it. `raw` None: it tells no other name."""
        plain, own = stored.encode(), own_name(stored, raw) if raw is not None else None
        if own is None and not self.stored_names and plain not in seen and _addressable(plain):
            return plain  # as nearly all are
        wanted = (plain,) if own is None else (own, plain)
        name = next(
            name
            for name in chain(wanted, (_substitute(stored, number) for number in count()))
            if _addressable(name) and name not in seen and self.stored_names.get(name, stored) == stored
        )
        if name != plain or own is not None:
            self.stored_names[name] = stored
        return name


def own_name(stored: str, raw: bytes) -> bytes | None:
    """The name that an entry is to be shown under, if its metadata tell one that fits its stored name."""
    if _OWN_NAME not in raw:  # most have none: do not decode them
        return None
    try:
        name = posix_metadata.decode(parse_metadata(Entry.parse(raw).metadata))[1]
    except FormatError:
        return None
    return name if name is not None and posix_metadata.stands_for(stored, name) else None


def _addressable(name: bytes) -> bool:
    return 0 < len(name) <= NAME_MAX and b"/" not in name and b"\0" not in name and name not in (b".", b"..")


def _substitute(stored: str, number: int) -> bytes:
    """A name that the kernel can use for one that it cannot; one of many."""
    mark = hashlib.blake2b(stored.encode(), digest_size=4, salt=b"%d" % number).hexdigest().encode()
    clean = stored.replace("/", "∕").replace("\0", "␀").encode()[:200]
    return clean.decode(errors="ignore").encode() + b"~" + mark
