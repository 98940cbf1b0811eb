"""Doing something as another user, in a process of its own."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

NOBODY = 65534


def as_user(uid: int, action: Callable[[], T], *, gid: int | None = None, groups: tuple[int, ...] = ()) -> T:
    """The result of `action` done with the rights of `uid`; what it raises is raised here. Needs root."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _run(uid, uid if gid is None else gid, groups, action, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as answers:
        data = answers.read()
    os.waitpid(child, 0)
    assert data, "the other user's process ended without an answer"
    ok, value = pickle.loads(data)
    if not ok:
        raise value
    result: T = value
    return result


def _run(uid: int, gid: int, groups: tuple[int, ...], action: Callable[[], T], writing: int) -> None:
    try:
        os.setgroups(list(groups))
        os.setgid(gid)
        os.setuid(uid)
        answer: tuple[bool, object] = (True, action())
    except BaseException as problem:
        answer = (False, problem)
    with os.fdopen(writing, "wb") as answers:
        pickle.dump(answer, answers)
    os._exit(0)
