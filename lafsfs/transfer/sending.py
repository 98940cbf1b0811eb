"""Sending the pieces of immutable shares; what happens when a server fails midway (formats.md 8.4, 9.5)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from lafsfs.errors import NotEnoughServersError, ServerError, ServerRefusedError
from lafsfs.formats.hashing import Buffer
from lafsfs.grid.server import StorageServer
from lafsfs.grid.transport import Payload
from lafsfs.transfer.concurrent import together
from lafsfs.transfer.placing import Homes, Missing, NewFile

log = logging.getLogger(__name__)


class ShareSender:
    """One share on its way to one server."""

    def __init__(self, server: StorageServer, file: NewFile, shnum: int, missing: Missing) -> None:
        self.server = server
        self.shnum = shnum
        self.alive = True
        self.finished = False
        self._file = file
        self._missing = missing

    async def send(self, position: int, pieces: Sequence[Buffer]) -> None:
        """Write the next bytes of the share, except those that the server has already. ServerError."""
        data = Payload(*pieces)
        if not any(begin < position + data.size and position < end for begin, end in self._missing):
            return
        file = self._file
        try:
            progress = await self.server.write_share(
                file.storage_index, self.shnum, file.upload_secret, position, data, file.share_size
            )
        except ServerRefusedError as error:
            if error.status != 404 or not await self.is_there():
                raise
            self.finished, self._missing = True, ()
        else:
            self.finished, self._missing = progress.finished, progress.missing

    async def is_there(self) -> bool:
        """Whether the server has the complete share, whoever wrote it."""
        return self.shnum in await self.server.immutable_shares(self._file.storage_index)


async def send_all(
    senders: Sequence[ShareSender],
    homes: Homes,
    happy: int,
    parts: Sequence[Sequence[Buffer]],
    position: int,
) -> None:
    """Send every share its next part, which begins at `position` of the share.

    A server that fails is dropped from `homes` for good. NotEnoughServersError when happiness falls below
    `happy`.
    """
    alive = [sender for sender in senders if sender.alive]
    await together(*(partial(_send, s, senders, homes, happy, parts[s.shnum], position) for s in alive))


def finish_all(senders: Sequence[ShareSender], homes: Homes, happy: int) -> None:
    """After the last part: shares that their servers do not call complete are lost. NotEnoughServersError."""
    for sender in senders:
        if sender.alive and not sender.finished:
            _drop(sender.server, senders, homes, happy, "it lost part of a share")


async def _send(
    sender: ShareSender,
    senders: Sequence[ShareSender],
    homes: Homes,
    happy: int,
    pieces: Sequence[Buffer],
    position: int,
) -> None:
    try:
        await sender.send(position, pieces)
    except ServerError as error:
        if sender.alive:
            _drop(sender.server, senders, homes, happy, str(error))


def _drop(
    server: StorageServer, senders: Sequence[ShareSender], homes: Homes, happy: int, reason: str
) -> None:
    log.warning("%s failed during an upload: %s", server.name, reason)
    for sender in senders:
        if sender.server is server:
            sender.alive = False
    lost = homes.open.pop(server, {})
    kept = {s.shnum for s in senders if s.server is server and s.finished}
    if kept:
        homes.open[server] = {shnum: missing for shnum, missing in lost.items() if shnum in kept}
    found = homes.happiness()
    if found < happy or not homes.shares():
        raise NotEnoughServersError(
            f"an upload lost too many servers: {found} are left, {happy} are wanted; {reason}"
        )
