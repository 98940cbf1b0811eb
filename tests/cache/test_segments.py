"""The segment cache: its limit, who goes first, several processes, damage."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lafsfs.cache.segments import Part, SegmentCache

SI, UEB = b"s" * 16, b"u" * 32
BLOCK = 4096


def put(cache: SegmentCache, name: str, pieces: list[bytes | memoryview]) -> bool:
    """Whether one part is kept."""
    return cache.put([Part(SI, UEB, name, pieces)]) == 1


def _bytes_below(directory: Path) -> int:
    """Disk blocks of all files but the lock."""
    sizes = [p.stat().st_size for p in directory.rglob("*") if p.is_file() and p.name != "lock"]
    return sum(-(-size // BLOCK) * BLOCK for size in sizes)


def test_keeps_what_it_was_given(tmp_path: Path) -> None:
    cache = SegmentCache(tmp_path / "c", 1 << 20)
    assert cache.get(SI, UEB, "a") is None
    assert put(cache, "a", [b"one", memoryview(b"two")])
    assert cache.get(SI, UEB, "a") == b"onetwo"
    assert SegmentCache(tmp_path / "c", 1 << 20).get(SI, UEB, "a") == b"onetwo"
    for other in ((b"t" * 16, UEB, "a"), (SI, b"v" * 32, "a"), (SI, UEB, "b")):
        assert cache.get(*other) is None
    assert cache.usage().used == BLOCK
    cache.discard(SI, UEB, "a")
    assert cache.get(SI, UEB, "a") is None
    assert cache.usage().used == 0


def test_names_tell_nothing(tmp_path: Path) -> None:
    cache = SegmentCache(tmp_path, 1 << 20)
    put(cache, "segment 0", [b"data"])
    names = "".join(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert "segment" not in names
    assert SI.decode() not in names


def test_the_limit_is_never_exceeded_and_the_oldest_go(tmp_path: Path) -> None:
    cache = SegmentCache(tmp_path, 10 * BLOCK)
    for i in range(10):
        assert put(cache, str(i), [bytes(BLOCK - i)])
        _age(tmp_path, by=100)
    assert cache.get(SI, UEB, "0") is not None  # now the one used last
    assert put(cache, "new", [b"x"])
    assert _bytes_below(tmp_path) <= 9 * BLOCK
    assert cache.usage().used == _bytes_below(tmp_path)
    present = {i for i in range(10) if cache.get(SI, UEB, str(i)) is not None}
    assert 0 in present
    assert 1 not in present
    assert cache.get(SI, UEB, "new") == b"x"


def _age(directory: Path, by: float) -> None:
    for path in directory.rglob("*"):
        status = path.stat()
        os.utime(path, (status.st_atime - by, status.st_mtime - by))


@pytest.mark.parametrize("limit", [0, BLOCK, 3 * BLOCK])
def test_what_is_larger_than_the_limit_is_not_kept(tmp_path: Path, limit: int) -> None:
    cache = SegmentCache(tmp_path, limit)
    assert not put(cache, "a", [bytes(limit + 1)])
    assert _bytes_below(tmp_path) == 0


def test_several_parts(tmp_path: Path) -> None:
    cache = SegmentCache(tmp_path, 3 * BLOCK)
    parts = [Part(SI, UEB, name, [name.encode()]) for name in "ab"]
    large = Part(SI, UEB, "large", [bytes(4 * BLOCK)])
    assert cache.put([parts[0], large, parts[1], parts[0]]) == 3
    assert [cache.get(SI, UEB, name) for name in ("a", "b", "large")] == [b"a", b"b", None]
    assert cache.usage().used == _bytes_below(tmp_path) == 2 * BLOCK
    assert cache.put([Part(SI, UEB, str(i), [b"x"]) for i in range(10)]) == 10
    assert cache.usage().used == _bytes_below(tmp_path) <= 3 * BLOCK
    assert cache.put([]) == 0


def test_what_cannot_be_written_is_not_counted(tmp_path: Path) -> None:
    cache = SegmentCache(tmp_path, 3 * BLOCK)
    put(cache, "a", [b"a"])
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    shutil.rmtree(folder)
    folder.write_bytes(b"in the way")
    (tmp_path / "lock").write_bytes(b"")
    assert not put(cache, "a", [b"a"])
    assert cache.usage().used == 0


def test_a_count_that_a_crash_left_wrong_is_corrected(tmp_path: Path) -> None:
    cache = SegmentCache(tmp_path, 10 * BLOCK)
    put(cache, "a", [b"a"])
    (tmp_path / "lock").write_bytes((9 * BLOCK).to_bytes(8, "big"))
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    (folder / "incoming").write_bytes(bytes(100 * BLOCK))
    assert put(cache, "b", [bytes(2 * BLOCK)])
    assert cache.usage().used == _bytes_below(tmp_path) == 3 * BLOCK
    (tmp_path / "lock").write_bytes(b"")
    assert cache.usage().used == 3 * BLOCK


def test_random_use_by_many_threads(tmp_path: Path) -> None:
    limit = 20 * BLOCK
    caches = [SegmentCache(tmp_path, limit) for _ in range(4)]

    def use(seed: int) -> None:
        source = random.Random(seed)
        for _ in range(100):
            part, cache = str(source.randrange(40)), source.choice(caches)
            found = cache.get(SI, UEB, part)
            assert found in (None, part.encode() * 1000)
            put(cache, part, [part.encode() * 1000])
            with (tmp_path / "lock").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # nobody moves files while they are counted
                assert _bytes_below(tmp_path) <= limit

    with ThreadPoolExecutor(4) as pool:
        for result in [pool.submit(use, seed) for seed in range(4)]:
            result.result()
    assert caches[0].usage().used == _bytes_below(tmp_path) <= limit


_FILL = """
import sys
from pathlib import Path
from lafsfs.cache.segments import Part, SegmentCache
cache = SegmentCache(Path(sys.argv[1]), int(sys.argv[2]))
for i in range(100):
    assert cache.put([Part(b"s" * 16, b"u" * 32, sys.argv[3] + str(i), [bytes(5000)])])
"""


def test_several_processes(tmp_path: Path) -> None:
    limit = 30 * BLOCK
    command = [sys.executable, "-c", _FILL, str(tmp_path), str(limit)]
    running = [subprocess.Popen([*command, name]) for name in "abc"]
    try:
        assert [process.wait(60) for process in running] == [0, 0, 0]
    finally:
        for process in running:
            process.kill()
    assert SegmentCache(tmp_path, limit).usage().used == _bytes_below(tmp_path) <= limit


def test_a_look_at_what_is_in_memory(tmp_path: Path) -> None:
    cache = SegmentCache(tmp_path, 1 << 30)
    old = Part(SI, UEB, "old", (b"of long ago",))
    cache.put([Part(SI, UEB, "small", (b"a", b"bc")), Part(SI, UEB, "large", (bytes(100_000),)), old])
    assert cache.peek(SI, UEB, "small") == b"abc"
    assert cache.peek(SI, UEB, "large") is None, "not in the loop"
    assert cache.peek(SI, UEB, "absent") is None
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == b"of long ago")
    os.utime(path, (1, 1))
    assert cache.peek(SI, UEB, "old") is None, "its last use has to be written down"
    assert cache.get(SI, UEB, "old") == b"of long ago"
    assert cache.peek(SI, UEB, "old") == b"of long ago"
