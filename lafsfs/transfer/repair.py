"""Making an object whole again (formats.md 11).

A mutable file is published anew, over all shares that there are; that needs the write cap. The missing
shares of an immutable file are computed from those that are left; the verify cap is enough for that,
since only ciphertext is touched, and what comes out must have the share root hash that the UEB pins.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass

from lafsfs.errors import (
    FormatError,
    GridError,
    NotEnoughSharesError,
    ServerError,
)
from lafsfs.formats import caps, mutable_share, rsa
from lafsfs.formats.mutable import SALT_SIZE, Header
from lafsfs.grid.servers import Grid
from lafsfs.transfer.check import Checkable, CheckResult, check
from lafsfs.transfer.encoding import NewShares
from lafsfs.transfer.publish import Publisher
from lafsfs.transfer.rebuild import rebuild
from lafsfs.transfer.retrieve import ShareReader, VersionReader
from lafsfs.transfer.servermap import ServerMap
from lafsfs.transfer.survey import Target

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RepairResult:
    """Check results before and after; `after` is `before` when nothing was attempted."""

    attempted: bool
    successful: bool
    before: CheckResult
    after: CheckResult
    reason: str = ""


async def repair(grid: Grid, cap: Checkable, *, verify: bool = False, force: bool = False) -> RepairResult:
    """Check, and repair what is not healthy.

    Not attempted: healthy objects; mutable ones without the write cap; unrecoverable ones; and, unless
    `force`, mutable ones whose newest version is lost or ambiguous. Never raises for what servers do.
    """
    before = await check(grid, cap, verify=verify)
    reason = _reason_against(cap, before, force)
    if before.healthy or reason:
        return RepairResult(False, before.healthy, before, before, reason)
    try:
        if isinstance(cap, caps.MutableWriteCap):
            await _republish(grid, cap, before)
        elif isinstance(cap, caps.ChkCap | caps.ChkVerifyCap):
            await rebuild(grid, cap.verify_cap(), before)
    except (GridError, FormatError) as error:
        reason = str(error)
    after = await check(grid, cap, verify=verify)
    return RepairResult(True, after.healthy and not reason, before, after, reason)


def _reason_against(cap: Checkable, before: CheckResult, force: bool) -> str:
    if not before.recoverable:
        return "too few shares are left"
    if isinstance(cap, caps.ChkCap | caps.ChkVerifyCap):
        return ""
    if not isinstance(cap, caps.MutableWriteCap):
        return "repairing a mutable file needs its write cap"
    found = before.servermap
    assert found is not None
    best = found.best()
    rivals = [
        header
        for header, numbers in found.versions().items()
        if best is not None
        and header != best
        and (header.seqnum > best.seqnum or (header.seqnum == best.seqnum and len(numbers) >= header.k))
    ]
    if rivals and not force:
        return "another version is as new or newer"
    return ""


# --- mutable -----------------------------------------------------------------------------------------


class _OldVersion:
    """The contents of a version, read as needed."""

    def __init__(self, reader: VersionReader) -> None:
        self._reader = reader
        self.size = reader.size

    async def read_into(self, offset: int, buf: memoryview) -> None:
        buf[:] = await self._reader.read(offset, len(buf))


async def _republish(grid: Grid, cap: caps.MutableWriteCap, before: CheckResult) -> None:
    target, found = Target.of(cap), before.servermap
    assert found is not None
    best = found.best()
    assert best is not None
    key = await _signing_key(found, best, cap, target)
    reader = VersionReader(target, cap.readkey, best, found)
    planned = mutable_share.plan(
        best.is_mdmf,
        found.highest_seqnum() + 1,
        best.k,
        best.n,
        best.data_length,
        key,
        secrets.token_bytes(SALT_SIZE),
    )
    with NewShares(planned, key, cap.readkey) as shares:
        await shares.encode(_OldVersion(reader))
        await Publisher(grid, target, found, shares.header, shares.writes, shares.share_size).run()


async def _signing_key(
    found: ServerMap, best: Header, cap: caps.MutableWriteCap, target: Target
) -> rsa.SigningKey:
    for share in found.shares_of(best):
        try:
            sealed = await ShareReader(share, best, target).read(best.sections.encprivkey)
            return rsa.unseal(bytes(sealed), cap.writekey)
        except (ServerError, FormatError) as error:
            log.info("no private key from %s: %s", share.server.name, error)
    raise NotEnoughSharesError("the private key could not be read from any share")
