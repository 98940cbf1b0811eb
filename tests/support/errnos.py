"""What a refused system call must answer."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator


@contextlib.contextmanager
def refused(*numbers: int) -> Iterator[None]:
    """The body must raise an OSError with one of these numbers."""
    found = "no error"
    try:
        yield
    except OSError as problem:
        if problem.errno in numbers:
            return
        found = str(problem)
    wanted = " or ".join(errno.errorcode[number] for number in numbers)
    raise AssertionError(f"{found} instead of {wanted}")
