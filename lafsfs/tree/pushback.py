"""Writers who find no room, at the staging limit or on a full disk, wait while the publisher makes some."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import trio

from lafsfs.errors import NoSpaceError

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree

_LOOK_AGAIN = 1.0  # seconds: space may also be made by others
_T = TypeVar("_T")


class Pushback:
    """Repeats changes that failed for lack of room. All of them leave everything as it was when they fail."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    async def patiently(self, change: Callable[[], Awaitable[_T]]) -> _T:
        """What `change` returns. NoSpaceError when there was no room for `staging_wait` seconds, or when nothing is
        left that could be published or removed.
        """
        try:
            return await change()
        except NoSpaceError as problem:
            return await self.repeat(change, problem)

    async def repeat(self, change: Callable[[], Awaitable[_T]], problem: NoSpaceError) -> _T:
        """As `patiently`, for a change that has just failed with `problem`."""
        deadline = trio.current_time() + self._tree.options.staging_wait
        queue = self._tree.publisher.files
        queue.hurry()
        try:
            while self._hope and trio.current_time() < deadline:
                await self._until_freed(deadline)
                try:
                    return await change()
                except NoSpaceError as again:
                    problem = again
        finally:
            queue.relax()
        raise problem

    @property
    def _hope(self) -> bool:
        tree = self._tree
        return not tree.publisher.idle or bool(tree.staging.retired) or tree.journal.shrinks

    async def _until_freed(self, deadline: float) -> None:
        with trio.move_on_at(min(deadline, trio.current_time() + _LOOK_AGAIN)):
            await self._tree.staging.freed.wait()
