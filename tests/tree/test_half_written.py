"""What somebody is writing just now is waited for, but not for ever."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from lafsfs.errors import NotEnoughSharesError
from lafsfs.tree.half_written import PAUSES, when_written


class Asked:
    """Answers when it was asked often enough."""

    def __init__(self, failures: int) -> None:
        self.times = 0
        self._failures = failures

    async def __call__(self) -> str:
        self.times += 1
        if self.times <= self._failures:
            raise NotEnoughSharesError("of version 2, 1 of 2 shares")
        return "version 2"


@pytest.mark.parametrize("failures", range(len(PAUSES) + 1))
async def test_it_is_asked_again(autojump_clock: MockClock, failures: int) -> None:
    asked = Asked(failures)
    assert await when_written(asked) == "version 2"
    assert asked.times == failures + 1


async def test_it_gives_up(autojump_clock: MockClock) -> None:
    asked = Asked(100)
    with pytest.raises(NotEnoughSharesError):
        await when_written(asked)
    assert asked.times == len(PAUSES) + 1
