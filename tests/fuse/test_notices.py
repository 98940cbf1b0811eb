"""What the kernel is told of: in order, each once, and contents always."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyfuse3
import pytest
import trio

from lafsfs.fuse import notices as module
from lafsfs.fuse.notices import Notices

_LAST = (99, b"last")


@dataclass
class Told:
    """What the kernel heard."""

    entries: list[tuple[int, bytes]] = field(default_factory=list)
    inodes: list[tuple[int, bool]] = field(default_factory=list)
    knows: bool = True


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    made = Told()

    def entry(number: int, name: bytes, deleted: int = 0) -> None:
        made.entries.append((number, name))
        if not made.knows:
            raise FileNotFoundError

    monkeypatch.setattr(pyfuse3, "invalidate_entry", entry)
    monkeypatch.setattr(
        pyfuse3, "invalidate_inode", lambda number, attr_only: made.inodes.append((number, not attr_only))
    )
    return made


@contextmanager
def little_room() -> Iterator[None]:
    """Two names may wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MOST", 2)
        yield


async def send(notices: Notices, told: Told) -> None:
    """Let all that waits be sent."""
    notices.entry_changed(*_LAST)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notices.run)
        with trio.fail_after(10):
            while not notices.knows(*_LAST):  # noqa: ASYNC110
                await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    assert told.entries.pop() == _LAST


async def test_each_once_in_order(told: Told) -> None:
    notices = Notices()
    for name in b"abca":
        notices.entry_changed(7, bytes([name]))
    notices.inode_changed(8, content=False)
    notices.inode_changed(8, content=True)
    notices.inode_changed(8, content=False)
    notices.inode_changed(9, content=False)
    await send(notices, told)
    assert told.entries == [(7, b"a"), (7, b"b"), (7, b"c")]
    assert told.inodes == [(8, True), (9, False)]


async def test_what_is_on_its_way(told: Told) -> None:
    notices = Notices()
    assert notices.knows(7, b"a")
    notices.entry_changed(7, b"a")
    notices.entry_changed(7, b"b")
    assert not notices.knows(7, b"a")
    notices.asked(7, b"a")
    assert notices.knows(7, b"a")
    notices.entry_changed(7, b"a")
    assert not notices.knows(7, b"a")
    await send(notices, told)
    assert notices.knows(7, b"a")
    assert notices.knows(7, b"b")


async def test_a_kernel_that_has_forgotten_is_no_trouble(told: Told) -> None:
    told.knows = False
    notices = Notices()
    notices.entry_changed(7, b"a")
    notices.inode_changed(8, content=True)
    await send(notices, told)
    assert told.inodes == [(8, True)]
    assert notices.knows(7, b"a")


async def test_contents_are_never_left_out(told: Told) -> None:
    notices = Notices()
    with little_room():
        for number in range(10):
            notices.entry_changed(number, b"name")
            notices.inode_changed(number, content=True)
    await send(notices, told)
    assert told.inodes == [(number, True) for number in range(10)]
    assert len(told.entries) < 10  # the rest times out
