"""Which versions of a mutable file are where (formats.md 6.4, 6.6): values only; `survey` fills them.

A share counts when its header is consistent and its signature was checked. Others are remembered as
corrupt, with the bytes they begin with, so that the next publish can replace them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from lafsfs.errors import (
    FormatError,
    NotEnoughServersError,
    NotEnoughSharesError,
    OutdatedServersError,
    RollbackError,
)
from lafsfs.formats import mutable_share
from lafsfs.formats.mutable import Header
from lafsfs.grid.server import StorageServer


@dataclass(frozen=True)
class Version:
    """What names one version of a mutable file, and its length in bytes."""

    seqnum: int
    root_hash: bytes
    size: int

    @classmethod
    def of(cls, header: Header) -> Version:
        return cls(header.seqnum, header.root_hash, header.data_length)


@dataclass(frozen=True)
class Share:
    """One share as it was last seen. `header` is None for a corrupt one; `head` is what it begins with."""

    server: StorageServer
    shnum: int
    header: Header | None
    checkstring: bytes
    head: bytes = field(default=b"", repr=False)


Place = tuple[str, int]
"""Server id and share number."""


class ServerMap:
    """What is known of one mutable file. Not shared between operations: `copy` it."""

    def __init__(self, fingerprint: bytes) -> None:
        self._fingerprint = fingerprint
        self.shares: dict[Place, Share] = {}
        self.answered: dict[str, StorageServer] = {}
        self.failed: dict[str, StorageServer] = {}
        self.verified: set[Header] = set()
        self.complete = False
        """Whether enough servers were asked for a writer to know all shares there may be."""

    def copy(self) -> ServerMap:
        """An independent copy."""
        other = ServerMap(self._fingerprint)
        other.shares, other.answered, other.failed = dict(self.shares), dict(self.answered), dict(self.failed)
        other.verified, other.complete = set(self.verified), self.complete
        return other

    # --- filling it ----------------------------------------------------------------------------------

    def record(self, server: StorageServer, heads: dict[int, bytes]) -> list[Share]:
        """Take a server's answer, the first bytes of all its shares; the corrupt shares among them.

        A share whose signature is not in its head stays out of the map until `confirm` is called for its
        header.
        """
        self.answered[server.server_id] = server
        self.failed.pop(server.server_id, None)
        for place in [place for place in self.shares if place[0] == server.server_id]:
            del self.shares[place]
        corrupt = []
        for shnum, head in heads.items():
            if not head:
                continue  # an empty share is one that its writer did not get to
            share = self._understand(server, shnum, head)
            self.shares[server.server_id, shnum] = share
            if share.header is None:
                corrupt.append(share)
        return corrupt

    def record_failure(self, server: StorageServer) -> None:
        """The server did not answer: nothing is known of its shares."""
        self.failed[server.server_id] = server
        self.answered.pop(server.server_id, None)

    def record_written(self, server: StorageServer, shnum: int, header: Header) -> None:
        """A share was just written with this header."""
        self.verified.add(header)
        self.shares[server.server_id, shnum] = Share(server, shnum, header, header.checkstring)

    def mark_corrupt(self, server_id: str, shnum: int) -> None:
        """A share of which a part turned out to be wrong."""
        share = self.shares.get((server_id, shnum))
        if share is not None:
            self.shares[server_id, shnum] = Share(share.server, shnum, None, share.checkstring)

    def _understand(self, server: StorageServer, shnum: int, head: bytes) -> Share:
        checkstring = mutable_share.checkstring_at(head)
        try:
            header: Header | None = mutable_share.parse_header(head)
            assert header is not None
            if header not in self.verified and _signature_end(header) <= len(head):
                self._verify(header, head)
            if not shnum < header.n:
                header = None
        except FormatError:
            header = None
        return Share(server, shnum, header, checkstring, head)

    def _verify(self, header: Header, head: bytes) -> None:
        at = header.sections
        key, signature = head[slice(*at.verification_key)], head[slice(*at.signature)]
        mutable_share.check_signature(header, key, signature, self._fingerprint)
        self.verified.add(header)

    def unverified(self) -> dict[Header, Share]:
        """Headers whose signature nobody checked yet, each with a share that has it."""
        found: dict[Header, Share] = {}
        for share in self.shares.values():
            if share.header is not None and share.header not in self.verified:
                found.setdefault(share.header, share)
        return found

    def forget_heads(self) -> None:
        """Keep of the shares only what is needed to write over them: there may be many maps."""
        self.shares = {place: replace(share, head=b"") for place, share in self.shares.items()}

    # --- reading it ----------------------------------------------------------------------------------

    def good(self) -> Iterable[tuple[Share, Header]]:
        """The shares that count."""
        for share in self.shares.values():
            if share.header is not None and share.header in self.verified:
                yield share, share.header

    def versions(self) -> dict[Header, set[int]]:
        """Share numbers by version."""
        found: dict[Header, set[int]] = {}
        for share, header in self.good():
            found.setdefault(header, set()).add(share.shnum)
        return found

    def shares_of(self, header: Header) -> list[Share]:
        """All good shares of a version."""
        return [share for share, other in self.good() if other == header]

    def best(self, failed: Collection[Header] = ()) -> Header | None:
        """The newest recoverable version. Of two with one sequence number not the one that is in `failed`: what we
        tried to write there is known here, and the other one's writer may believe that his is there.
        """
        recoverable = [header for header, numbers in self.versions().items() if len(numbers) >= header.k]
        return max(
            recoverable,
            key=lambda header: (header.seqnum, header not in failed, header.order),
            default=None,
        )

    def has_rival(self, header: Header, failed: Collection[Header] = ()) -> bool:
        """Whether another version, none of `failed`, has the same sequence number and can be recovered, too."""
        return any(
            other.seqnum == header.seqnum
            and other != header
            and other not in failed
            and len(numbers) >= other.k
            for other, numbers in self.versions().items()
        )

    def highest_seqnum(self) -> int:
        """The highest sequence number of any good share, recoverable or not; 0 if there are none."""
        return max((header.seqnum for _, header in self.good()), default=0)

    def state(self) -> bytes:
        """A digest of which server holds what; another one when anything is written."""
        whole = hashlib.blake2b(digest_size=16)
        for (server_id, shnum), share in sorted(self.shares.items(), key=lambda item: item[0]):
            whole.update(repr((server_id, shnum, share.checkstring)).encode())
        return whole.digest()

    def unrecoverable_newer(self) -> list[Header]:
        """Versions with a higher sequence number than the best one, of which there are too few shares."""
        best = self.best()
        seqnum = best.seqnum if best is not None else 0
        return [header for header in self.versions() if header.seqnum > seqnum]

    def require_best(
        self, floor: int, forgiven: Collection[Header] = (), *, older_ok: bool = False
    ) -> Header:
        """The newest version, or the reason why it cannot be had.

        NotEnoughServersError or NotEnoughSharesError: no version is recoverable, or the newest is not (an
        older one is only given when `older_ok`, or when the newest are in `forgiven`: failed writes of
        our own). RollbackError: the best is older than sequence number `floor`, which was seen before;
        OutdatedServersError if that may be because of servers that do not answer.
        """
        best = self.best(forgiven)
        newer = [header for header in self.unrecoverable_newer() if header not in forgiven]
        if best is None or (newer and not older_ok):
            raise self._unrecoverable(best, newer)
        if best.seqnum < floor:
            kind = OutdatedServersError if self.failed else RollbackError
            raise kind(f"the servers offer version {best.seqnum}, but {floor} was seen before")
        return best

    def _unrecoverable(self, best: Header | None, newer: Collection[Header]) -> Exception:
        reach = f"{len(self.answered)} servers answered, {len(self.failed)} did not"
        if newer:
            newest = max(newer, key=lambda header: header.order)
            count = len(self.versions()[newest])
            what = f"of version {newest.seqnum}, {count} of {newest.k} shares needed were found"
            if best is not None:
                what += f" (version {best.seqnum} is there)"
        else:
            what = "no shares were found"
        if self.failed or not self.answered:
            return NotEnoughServersError(f"{what}; {reach}")
        return NotEnoughSharesError(f"{what}; {reach}", self.highest_seqnum(), self.state())


def _signature_end(header: Header) -> int:
    return max(header.sections.signature.end, header.sections.verification_key.end)
