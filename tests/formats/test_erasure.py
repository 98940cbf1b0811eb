"""Erasure coding: ISA-L and zfec give the same bytes, and any k blocks give the pieces back."""

from __future__ import annotations

import random

import pytest
import zfec

from lafsfs.formats import erasure, isal

SMALL = [(k, n) for n in range(1, 17) for k in range(1, n + 1)]
LARGE = [(1, 256), (256, 256), (128, 256), (255, 256), (17, 33), (100, 101), (50, 200)]


@pytest.fixture(params=["isal", "zfec"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run with each of the two implementations."""
    if request.param == "zfec":
        monkeypatch.setenv("LAFSFS_ERASURE", "zfec")
    else:
        monkeypatch.delenv("LAFSFS_ERASURE", raising=False)
        if isal.library() is None:
            pytest.skip("ISA-L is not installed")
    return str(request.param)


def _pieces(k: int, length: int, seed: int) -> list[bytes]:
    source = random.Random(seed)
    return [source.randbytes(length) for _ in range(k)]


def _check(k: int, n: int, length: int) -> None:
    source = random.Random(k * 1000 + n)
    pieces = _pieces(k, length, n)
    expected = [bytes(b) for b in zfec.Encoder(k, n).encode(pieces, list(range(n)))]
    assert [bytes(b) for b in erasure.encode(k, n, pieces)] == expected
    wanted = source.sample(range(n), min(n, 3))
    assert [bytes(b) for b in erasure.encode(k, n, pieces, wanted)] == [expected[i] for i in wanted]
    for _ in range(3):
        numbers = source.sample(range(n), k)
        views = [memoryview(expected[i]) for i in numbers]
        assert [bytes(p) for p in erasure.decode(k, n, views, numbers)] == pieces


def test_small_codes(engine: str) -> None:
    for k, n in SMALL:
        _check(k, n, 67)


@pytest.mark.parametrize(("k", "n"), LARGE)
def test_large_codes(engine: str, k: int, n: int) -> None:
    _check(k, n, 131)


@pytest.mark.parametrize("length", [0, 1, 2, 15, 31, 32, 33, 63, 64, 65, 4096, 100_003])
def test_any_length(engine: str, length: int) -> None:
    _check(3, 10, length)


def test_read_only_and_writable_memory_alike(engine: str) -> None:
    pieces = _pieces(3, 1000, 1)
    expected = [bytes(b) for b in erasure.encode(3, 10, pieces)]
    whole = bytearray(b"".join(pieces))
    views = [memoryview(whole)[i * 1000 : (i + 1) * 1000] for i in range(3)]
    blocks = erasure.encode(3, 10, views)
    assert [bytes(b) for b in blocks] == expected
    assert blocks[0] is views[0]


def test_isal_refuses_what_cannot_be_decoded() -> None:
    library = isal.library()
    if library is None:
        pytest.skip("ISA-L is not installed")
    with pytest.raises(ValueError, match="singular"):
        library.invert(2, [b"\1\1", b"\1\1"])
    with pytest.raises(ValueError, match="one length"):
        erasure.encode(2, 3, [b"ab", b"a"])
