"""Check and verify one object: is all of it there, is what is there right (formats.md 11)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import trio

from lafsfs.errors import BadCapError, FormatError, ServerError
from lafsfs.formats import base32, caps, mutable_share, rsa
from lafsfs.formats.mutable import Header
from lafsfs.grid import placement
from lafsfs.grid.server import StorageServer
from lafsfs.grid.servers import Grid
from lafsfs.transfer.retrieve import ShareReader
from lafsfs.transfer.servermap import ServerMap, Share
from lafsfs.transfer.survey import READ_HEAD, Mode, Target, survey
from lafsfs.transfer.verify_chk import ChkShare

SHARES_AT_ONCE = 8
_WINDOW = 4 << 20

Checkable = (
    caps.ChkCap | caps.ChkVerifyCap | caps.MutableWriteCap | caps.MutableReadCap | caps.MutableVerifyCap
)


@dataclass(frozen=True)
class CheckResult:
    """What a check found. `good` and `other` map share ids to the ids of the servers that hold them.

    `good` are the shares of the best version (verified ones, when verifying), `other` those of other
    versions.
    """

    storage_index: bytes
    healthy: bool
    recoverable: bool
    needed: int
    expected: int
    happiness: int
    good: Mapping[int, frozenset[str]]
    other: int
    recoverable_versions: int
    unrecoverable_versions: int
    corrupt: tuple[tuple[str, int], ...]
    responding: tuple[str, ...]
    prefix: str = ""
    servermap: ServerMap | None = field(default=None, repr=False, compare=False)

    @property
    def summary(self) -> str:
        """One line for people."""
        if self.healthy:
            return "Healthy"
        shares = f"{len(self.good)} shares (enc {self.needed}-of-{self.expected})"
        return f"Unhealthy: {shares}" if self.prefix else f"Not Healthy: {shares}"

    def results(self) -> dict[str, Any]:
        """The `results` of Tahoe's `t=check&output=json`."""
        index = base32.encode(self.storage_index)
        return {
            "healthy": self.healthy,
            "recoverable": self.recoverable,
            "count-happiness": self.happiness,
            "count-shares-good": len(self.good),
            "count-shares-needed": self.needed,
            "count-shares-expected": self.expected,
            "count-good-share-hosts": len(set().union(*self.good.values())),
            "count-wrong-shares": self.other,
            "count-recoverable-versions": self.recoverable_versions,
            "count-unrecoverable-versions": self.unrecoverable_versions,
            "count-corrupt-shares": len(self.corrupt),
            "list-corrupt-shares": [[server, index, shnum] for server, shnum in self.corrupt],
            "servers-responding": list(self.responding),
            "sharemap": {f"{self.prefix}{n}": sorted(servers) for n, servers in sorted(self.good.items())},
        }


async def check(grid: Grid, cap: Checkable, *, verify: bool = False) -> CheckResult:
    """Ask every server for the shares of a file; with `verify` fetch and check every byte of them.

    Servers that do not answer count as holding nothing. Corrupt shares are reported to their servers.
    Works with any cap down to the verify cap; with a write cap the private key is verified too.
    BadCapError for literals.
    """
    if isinstance(cap, caps.ChkCap | caps.ChkVerifyCap):
        return await _check_immutable(grid, cap.verify_cap(), verify)
    if isinstance(cap, caps.MutableWriteCap | caps.MutableReadCap | caps.MutableVerifyCap):
        return await _check_mutable(grid, cap, verify)
    raise BadCapError("only files on the grid can be checked")


# --- immutable ---------------------------------------------------------------------------------------


async def _check_immutable(grid: Grid, cap: caps.ChkVerifyCap, verify: bool) -> CheckResult:
    if not 1 <= cap.k <= cap.n <= 256:
        raise BadCapError("a cap with an impossible encoding")
    found: dict[int, set[str]] = {}
    corrupt: list[tuple[str, int]] = []
    responding: list[str] = []
    limiter = trio.CapacityLimiter(SHARES_AT_ONCE)

    async def look(server: StorageServer) -> None:
        try:
            numbers = await server.immutable_shares(cap.storage_index)
        except ServerError:
            return
        responding.append(server.server_id)
        async with trio.open_nursery() as nursery:
            for shnum in numbers:
                nursery.start_soon(look_at_share, server, shnum)

    async def look_at_share(server: StorageServer, shnum: int) -> None:
        async with limiter:
            try:
                if verify:
                    await ChkShare(server, cap, shnum).verify()
            except ServerError:
                return
            except FormatError as error:
                corrupt.append((server.server_id, shnum))
                await server.advise_corrupt("immutable", cap.storage_index, shnum, str(error))
                return
        if shnum < cap.n:
            found.setdefault(shnum, set()).add(server.server_id)

    async with trio.open_nursery() as nursery:
        for server in grid.permuted(cap.storage_index):
            nursery.start_soon(look, server)
    recoverable = len(found) >= cap.k
    return CheckResult(
        storage_index=cap.storage_index,
        healthy=len(found) == cap.n,
        recoverable=recoverable,
        needed=cap.k,
        expected=cap.n,
        happiness=placement.happiness(found),
        good={shnum: frozenset(servers) for shnum, servers in found.items()},
        other=0,
        recoverable_versions=int(recoverable),
        unrecoverable_versions=int(not recoverable),
        corrupt=tuple(sorted(corrupt)),
        responding=tuple(sorted(responding)),
    )


# --- mutable -----------------------------------------------------------------------------------------


async def _check_mutable(
    grid: Grid, cap: caps.MutableWriteCap | caps.MutableReadCap | caps.MutableVerifyCap, verify: bool
) -> CheckResult:
    target = Target.of(cap)
    found = await survey(grid, target, Mode.ALL, head=READ_HEAD)
    if verify:
        await _verify_shares(found, target)
    return describe(found, target)


def describe(found: ServerMap, target: Target) -> CheckResult:
    """The result that a map of all servers amounts to."""
    versions = found.versions()
    best = found.best()
    shown = best or max(versions, key=lambda header: header.order, default=None)
    good: dict[int, set[str]] = {}
    if shown is not None:
        for share in found.shares_of(shown):
            good.setdefault(share.shnum, set()).add(share.server.server_id)
    recoverable = sum(len(numbers) >= header.k for header, numbers in versions.items())
    needed, expected = (shown.k, shown.n) if shown is not None else (3, 10)
    return CheckResult(
        storage_index=target.storage_index,
        healthy=len(good) == expected and len(versions) == recoverable == 1,
        recoverable=best is not None,
        needed=needed,
        expected=expected,
        happiness=placement.happiness(good),
        good={shnum: frozenset(servers) for shnum, servers in good.items()},
        other=sum(header != shown for _, header in found.good()),
        recoverable_versions=recoverable,
        unrecoverable_versions=len(versions) - recoverable,
        corrupt=tuple(sorted(place for place, share in found.shares.items() if share.header is None)),
        responding=tuple(sorted(found.answered)),
        prefix=_version_prefix(shown),
        servermap=found,
    )


def _version_prefix(header: Header | None) -> str:
    return "" if header is None else f"seq{header.seqnum}-{base32.encode(header.root_hash)[:4]}-sh"


async def _verify_shares(found: ServerMap, target: Target) -> None:
    """Check every byte of every share of the best version; the bad ones are marked corrupt in the map."""
    best = found.best()
    if best is None:
        return
    limiter = trio.CapacityLimiter(SHARES_AT_ONCE)

    async def look(share: Share) -> None:
        async with limiter:
            try:
                await _verify_share(ShareReader(share, best, target), best, target)
            except ServerError:
                found.shares.pop((share.server.server_id, share.shnum), None)
            except FormatError as error:
                found.mark_corrupt(share.server.server_id, share.shnum)
                await share.server.advise_corrupt("mutable", target.storage_index, share.shnum, str(error))

    async with trio.open_nursery() as nursery:
        for share in found.shares_of(best):
            nursery.start_soon(look, share)


async def _verify_share(reader: ShareReader, header: Header, target: Target) -> None:
    at = header.sections
    key, signature = await reader.read(at.verification_key), await reader.read(at.signature)
    mutable_share.check_signature(header, bytes(key), bytes(signature), target.fingerprint)
    if target.writekey is not None:
        rsa.unseal(bytes(await reader.read(at.encprivkey)), target.writekey)
    await reader.leaves()
    step = max(1, _WINDOW // max(1, header.segment_size // header.k))
    for first in range(0, header.num_segments, step):
        await reader.blocks(first, min(first + step, header.num_segments) - 1)
