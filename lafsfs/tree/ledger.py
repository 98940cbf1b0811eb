"""Where an interrupted upload was going: kept in the journal, so that the next mount goes on with it."""

from __future__ import annotations

from lafsfs.tree.crashpoints import crash_point
from lafsfs.tree.journal import Batch, Journal

LEDGER_KEY = "upload:"


def ledger_key(ino: int) -> str:
    """The journal's name for the upload of one inode. It goes with the content (see Publisher)."""
    return f"{LEDGER_KEY}{ino}"


class JournalLedger:
    """A `transfer.upload.Ledger` of one inode's content; sealed like all of the journal."""

    def __init__(self, journal: Journal, ino: int) -> None:
        self._journal = journal
        self._key = ledger_key(ino)

    def load(self) -> bytes | None:
        """What the last upload of this inode saved."""
        state = self._journal.meta(self._key)
        return state if isinstance(state, bytes) else None

    def save(self, state: bytes) -> None:
        """Durable as any commit on return: before the first byte is sent. NoSpaceError, JournalError."""
        batch = Batch()
        batch.meta[self._key] = state
        self._journal.commit(batch, freeing=True)
        crash_point("file.ledger")
