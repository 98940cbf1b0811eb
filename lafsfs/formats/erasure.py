"""Erasure coding, k of n, byte for byte as zfec does it (formats.md section 4.2).

Intel ISA-L does the work when `libisal.so.2` is there, fed with zfec's generator matrix; zfec does it
otherwise, or when the environment says LAFSFS_ERASURE=zfec. Both use the field GF(256) with polynomial 0x11d
and release the GIL; callers with more than a few KiB run these functions in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache

import zfec

from lafsfs.formats import isal
from lafsfs.formats.hashing import Buffer


def encode(k: int, n: int, pieces: Sequence[Buffer], wanted: Sequence[int] | None = None) -> list[Buffer]:
    """The blocks with the numbers `wanted` (default: all n) of `pieces`, which are k buffers of one length.

    Blocks 0 to k-1 are the pieces themselves, not copies.
    """
    numbers = range(n) if wanted is None else wanted
    library = _library()
    computed = sorted({i for i in numbers if i >= k})
    blocks: dict[int, Buffer] = dict(enumerate(pieces))
    if computed and library is not None:
        tables = _encoding_tables(library, k, n, tuple(computed))
        blocks.update(zip(computed, library.apply(tables, pieces), strict=True))
    elif computed:
        blocks.update(zip(computed, zfec.Encoder(k, n).encode(list(pieces), computed), strict=True))
    return [blocks[i] for i in numbers]


def decode(k: int, n: int, blocks: Sequence[Buffer], numbers: Sequence[int]) -> list[Buffer]:
    """The k pieces, in order, from any k `blocks` whose distinct share numbers are `numbers`."""
    given = dict(zip(numbers, blocks, strict=True))
    lost = tuple(i for i in range(k) if i not in given)
    if lost:
        library = _library()
        if library is None:
            return _decode_zfec(k, n, given)
        order = tuple(sorted(given))
        tables = _decoding_tables(library, k, n, order, lost)
        given.update(zip(lost, library.apply(tables, [given[i] for i in order]), strict=True))
    return [given[i] for i in range(k)]


def _decode_zfec(k: int, n: int, given: dict[int, Buffer]) -> list[Buffer]:
    """Decode by zfec, which wants every primary block at its own place."""
    spare = iter(sorted(i for i in given if i >= k))
    order = [i if i in given else next(spare) for i in range(k)]
    pieces: list[Buffer] = zfec.Decoder(k, n).decode([given[i] for i in order], order)
    return pieces


def _library() -> isal.Library | None:
    """ISA-L, unless it is missing or the environment forbids it."""
    return None if os.environ.get("LAFSFS_ERASURE") == "zfec" else isal.library()


@lru_cache(maxsize=64)
def generator(k: int, n: int) -> tuple[bytes, ...]:
    """zfec's generator matrix: n rows of k coefficients. Learnt by encoding the k unit vectors."""
    units = [bytes(int(i == j) for j in range(k)) for i in range(k)]
    return tuple(bytes(row) for row in zfec.Encoder(k, n).encode(units, list(range(n))))


@lru_cache(maxsize=256)
def _encoding_tables(library: isal.Library, k: int, n: int, rows: tuple[int, ...]) -> isal.Tables:
    matrix = generator(k, n)
    return library.tables(k, [matrix[i] for i in rows])


@lru_cache(maxsize=256)
def _decoding_tables(
    library: isal.Library, k: int, n: int, order: tuple[int, ...], lost: tuple[int, ...]
) -> isal.Tables:
    """Tables that compute the pieces `lost` from the blocks `order`."""
    matrix = generator(k, n)
    inverse = library.invert(k, [matrix[i] for i in order])
    return library.tables(k, [inverse[i] for i in lost])
