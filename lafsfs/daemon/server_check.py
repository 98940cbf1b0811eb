"""Servers as people give them: from NURLs and FURLs to entries, checked by asking the servers."""

from __future__ import annotations

import dataclasses
import functools
import os

import trio

from lafsfs.config import ClientSecrets, GridProfile, ServerEntry
from lafsfs.errors import FormatError, UsageError
from lafsfs.formats import base32
from lafsfs.formats.keys import LeaseSecrets
from lafsfs.gbs.nurl import Furl, Nurl
from lafsfs.grid.exchange import PROBE
from lafsfs.grid.server import StorageServer
from lafsfs.grid.servers import Grid, ServerStatus

__all__ = ["ServerStatus", "ask_all", "entries_from", "verified"]


def entries_from(
    texts: list[str], nickname: str = "", server_id: str | None = None, seed: str | None = None
) -> list[ServerEntry]:
    """One entry per secret among the NURLs and FURLs given. UsageError; its text never holds one of them.

    The other arguments describe a single server. Without a server id the pin of the NURL serves as one.
    """
    nurls: dict[str, list[Nurl]] = {}
    furls: dict[str, Furl] = {}
    for position, text in enumerate(texts, 1):
        try:
            if _looks_like_furl(text):
                furl = Furl.parse(text)
                furls[furl.swissnum] = furl
            else:
                nurl = Nurl.parse(text)
                nurls.setdefault(nurl.swissnum, []).append(nurl)
        except FormatError as error:
            raise UsageError(f"argument {position} cannot be used: {error}") from None
    if furls.keys() - nurls.keys():
        raise UsageError("a FURL needs the NURL of the same server beside it")
    if len(nurls) != 1 and (server_id or seed or nickname):
        raise UsageError("a name, server id or permutation seed can be given for one server at a time")
    try:
        raw_seed = base32.decode(seed) if seed else b""
    except FormatError:
        raise UsageError("the permutation seed is not base32") from None
    return [
        ServerEntry(server_id or group[0].spki, tuple(group), furls.get(swissnum), raw_seed, nickname)
        for swissnum, group in nurls.items()
    ]


def _looks_like_furl(text: str) -> bool:
    return text.strip().startswith("pb://") and "#" not in text


def verified(entry: ServerEntry) -> ServerEntry:
    """`entry` after the server has answered; its FURL filled in from the certificate if it was not known.

    ServerError, PinMismatchError above all, if it does not answer as it should. Runs its own event loop.
    """
    seed20 = trio.run(_seed20_of, entry)
    if entry.furl is not None:
        return entry
    nurl = entry.nurls[0]
    return dataclasses.replace(entry, furl=Furl(seed20, f"tcp:{nurl.host}:{nurl.port}", nurl.swissnum))


async def _seed20_of(entry: ServerEntry) -> bytes:
    # No secret of the client is needed to ask a server for its version.
    server = StorageServer(entry, LeaseSecrets(os.urandom(32)), PROBE)
    try:
        await server.version()
        return server.seed20
    finally:
        await server.aclose()


def ask_all(profile: GridProfile) -> list[ServerStatus]:
    """The state of every server, asked now. Runs its own event loop; takes a few seconds at most."""
    return trio.run(functools.partial(_ask_all, profile))


async def _ask_all(profile: GridProfile) -> list[ServerStatus]:
    async with Grid(profile, ClientSecrets(os.urandom(32), os.urandom(32))) as grid:
        await grid.poll()
        return grid.status()
