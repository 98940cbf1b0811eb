"""Renewing the leases of everything that can be reached from the root (formats.md 5.3): they last 31 days, and servers
may delete what nobody leases.

A walk over the whole tree, as the grid has it, a few objects at a time and never more than so many a second. Where it
is goes to the journal now and then, so that a machine that is often switched off comes to the end as well.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import trio

from lafsfs.errors import GridError, LafsError, NotEnoughServersError
from lafsfs.formats.caps import DirCap, UnknownCap, parse
from lafsfs.formats.packed import Packed
from lafsfs.tree.entries import parsed
from lafsfs.tree.inodes import ROOT
from lafsfs.tree.journal import Batch

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree

log = logging.getLogger(__name__)

SETTLE = 60.0  # seconds after mounting before anything is renewed
FIRST = 600.0  # the same, of a tree of which nothing was renewed yet: what is new has leases
RETRY = 600.0  # seconds after which servers that did not answer are asked again
INCOMPLETE = 86400.0  # seconds after which a round that missed something is repeated
AT_ONCE = 20  # objects that are renewed together
_SAVE_EVERY = 10.0
_LOOK_AGAIN = 3600.0  # the clock may be set, or stand still while the machine sleeps
_KEY = "leases"


@dataclass(frozen=True)
class Round:
    """What a walk did: objects with a fresh lease, objects of which no server has a share, and those of which that is
    not known, unreadable directories among them.
    """

    renewed: int = 0
    lost: int = 0
    missed: int = 0


@dataclass(frozen=True)
class LeaseStatus:
    """`finished` and `next`: Unix times of the end of the last whole walk and of the beginning of the next one, None if
    there is none. `last`: what the last whole walk did; `current`: what the one that is under way did so far.
    """

    state: Literal["off", "waiting", "renewing", "unreachable"]
    finished: float | None
    next: float | None
    last: Round
    current: Round


@dataclass
class _Progress:
    """What the journal keeps."""

    finished: float | None = None
    last: Round = Round()
    started: float | None = None
    current: Round = Round()
    position: list[str] = field(default_factory=list)  # names from the root to what was renewed last


class Leases:
    """Renews what one tree has, every `lease_interval` seconds."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._progress = _read(tree.journal.meta(_KEY))
        self._saved = self._progress
        self._saved_at = float("-inf")
        self._state: Literal["off", "waiting", "renewing", "unreachable"] = "waiting"

    @property
    def _interval(self) -> float | None:
        return self._tree.options.lease_interval

    def status(self) -> LeaseStatus:
        """How far it is; never waits."""
        progress = self._progress
        if self._interval is None:
            return LeaseStatus("off", progress.finished, None, progress.last, Round())
        due = self._due() if self._state == "waiting" else None
        return LeaseStatus(self._state, progress.finished, due, progress.last, progress.current)

    def _due(self) -> float:
        """When the next walk begins, in Unix seconds; one that was interrupted goes on at once."""
        progress, interval = self._progress, self._interval
        assert interval is not None
        if progress.finished is None or progress.started is not None:
            return progress.started or time.time()
        return progress.finished + min(interval, INCOMPLETE if progress.last.missed else interval)

    # --- the schedule --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Renew when it is time, until cancelled."""
        if self._interval is None:
            return
        known = self._progress.finished is not None or self._progress.started is not None
        await trio.sleep(min(SETTLE if known else FIRST, self._interval))
        while True:
            wait = self._due() - time.time()
            if wait > 0:
                await trio.sleep(min(wait, _LOOK_AGAIN))
                continue
            try:
                self._state = "renewing"
                await self._round()
                self._state = "waiting"
            except LafsError as problem:
                self._state = "unreachable"
                log.info("leases could not be renewed: %s", problem)
                await trio.sleep(min(RETRY, self._interval))
            finally:
                self.save()

    def save(self) -> None:
        """Write down how far it is. A full disk is no reason to fail."""
        self._saved_at = trio.current_time()
        if self._progress is self._saved:
            return
        batch = Batch()
        batch.meta[_KEY] = asdict(self._progress)
        try:
            self._tree.journal.commit(batch)
        except LafsError as problem:
            log.warning("it is not written down how far the renewal of leases is: %s", problem)
        else:
            self._saved = self._progress

    # --- one walk ------------------------------------------------------------------------------------

    async def _round(self) -> None:
        """Renew everything behind the position, and note that all was done. GridError when no server answers."""
        if self._progress.started is None:
            self._progress = replace(self._progress, started=time.time(), current=Round(), position=[])
        walk = _Walk(self._tree, self._progress.position)
        async with contextlib.aclosing(walk.objects()) as objects:
            waiting: set[bytes] = set()
            async for storage_index in objects:
                if storage_index is not None:
                    waiting.add(storage_index)
                await trio.lowlevel.checkpoint()
                if len(waiting) >= AT_ONCE or walk.unreadable:
                    await self._renew(waiting, walk)
                    waiting = set()
            await self._renew(waiting, walk)
        done = self._progress
        self._progress = _Progress(finished=time.time(), last=done.current)
        log.info("leases: %d renewed, %d lost, %d missed", *asdict(done.current).values())

    async def _renew(self, storage_indexes: set[bytes], walk: _Walk) -> None:
        began = trio.current_time()
        result = await self._tree.nodes.renew_leases(storage_indexes)
        if result.unknown and not result.renewed and not result.lost:
            raise NotEnoughServersError("no server answers")
        so_far = self._progress.current
        self._progress = replace(
            self._progress,
            position=list(walk.position),
            current=Round(
                so_far.renewed + len(result.renewed),
                so_far.lost + len(result.lost),
                so_far.missed + len(result.unknown) + walk.unreadable,
            ),
        )
        walk.unreadable = 0
        if trio.current_time() - self._saved_at > _SAVE_EVERY:
            self.save()
        await trio.sleep_until(began + len(storage_indexes) / self._tree.options.lease_rate)


class _Walk:
    """All objects below the root, depth first, in the order of names. `position`: the names that lead to the last one;
    `unreadable`: directories that could not be read since somebody reset it.
    """

    def __init__(self, tree: Tree, position: list[str]) -> None:
        self._tree = tree
        self._resume = position
        self._seen: set[bytes] = set()
        self.position: list[str] = []
        self.unreadable = 0

    async def objects(self) -> AsyncGenerator[bytes | None, None]:
        """Storage indexes; None for what is in its capability."""
        root = self._tree.inode(ROOT).caps
        assert root is not None
        cap = parse(root[1])
        assert isinstance(cap, DirCap)
        self._is_new(cap)
        yield cap.storage_index
        levels = [await self._names(cap, strict=True)]
        while levels:
            name, child = next(levels[-1], (None, b""))
            if name is None:
                levels.pop()
                self.position = self.position[: len(levels)]
                continue
            self.position = [*self.position[: len(levels) - 1], name]
            cap = parse(child)
            if isinstance(cap, UnknownCap):
                continue
            yield cap.storage_index
            if isinstance(cap, DirCap) and not cap.is_verifier and self._is_new(cap):
                levels.append(await self._names(cap))

    def _is_new(self, cap: DirCap) -> bool:
        """Directories may be found at several places, inside themselves as well."""
        key = cap.storage_index
        if key is None:
            return True
        known = key in self._seen
        self._seen.add(key)
        return not known

    async def _names(self, cap: DirCap, *, strict: bool = False) -> Iterator[tuple[str, bytes]]:
        """(name, read cap) of what is in a directory, from where the last walk got to."""
        depth = len(self.position)
        here = self._resume[: depth + 1] if self._resume[:depth] == self.position else []
        start = here[depth] if len(here) > depth else ""
        try:
            packed = (await self._tree.nodes.directory(cap).read(older_ok=True)).packed
        except LafsError as problem:
            if strict and isinstance(problem, GridError):
                raise
            log.info("a directory could not be read, so that leases below it are not renewed: %s", problem)
            self.unreadable += 1
            packed = Packed()
        return ((name, _read_cap(packed, name)) for name in sorted(packed.names()) if name >= start)


def _read_cap(packed: Packed, name: str) -> bytes:
    raw = packed.raw(name)
    return parsed(raw).ro_uri if raw is not None else b""


def _read(row: object) -> _Progress:
    """What the journal kept; from the beginning if that is not understood."""
    if not isinstance(row, dict):
        return _Progress()
    try:
        last, current = Round(**row["last"]), Round(**row["current"])
        return _Progress(row["finished"], last, row["started"], current, list(row["position"]))
    except (KeyError, TypeError):
        return _Progress()
