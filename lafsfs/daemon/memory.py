"""How the process gets its memory from the system."""

from __future__ import annotations

import contextlib
import ctypes

# From glibc's <malloc.h>.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3

_LARGEST_BUFFER = 32 << 20  # bytes; glibc takes no more
_SPARE = 64 << 20
_STEP = 4 << 20


def reuse_buffers() -> None:
    """Have freed buffers used again, instead of given back to the system one by one.

    Contents travel in buffers of 128 KiB to 4 MiB, and glibc maps each of those anew: the kernel clears every page of
    it and takes it away from all processors afterwards, which costs as much as encrypting what it holds. Up to 64 MiB
    that nobody uses may be kept for that. With another C library nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _LARGEST_BUFFER)
        mallopt(_TRIM_THRESHOLD, _SPARE)
        mallopt(_TOP_PAD, _STEP)


def give_back() -> None:
    """Return what nobody uses to the system, but for some; for when much was freed that will not come again.

    Blocks, a millisecond for some MiB. With another C library nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(_STEP)
