"""What is measured on a mounted directory: large files, small files, directories. All data is compared."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.running import Run, check

MIB = 1 << 20
SMALL = 4096


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """A descriptor."""
    fd = os.open(path, flags | os.O_CLOEXEC, 0o644)
    try:
        yield fd
    finally:
        os.close(fd)


def write_file(path: Path, data: bytes, *, flags: int = os.O_TRUNC, sync: bool = False) -> None:
    """Write in pieces of 1 MiB and close."""
    with opened(path, os.O_WRONLY | os.O_CREAT | flags) as fd:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view[:MIB]) :]
        if sync:
            os.fsync(fd)


def same(path: Path, data: bytes, piece: int = MIB) -> None:
    """Read in pieces and compare."""
    with opened(path, os.O_RDONLY) as fd:
        position = 0
        while part := os.read(fd, piece):
            check(data[position : position + len(part)] == part, f"{path.name} at {position}")
            position += len(part)
        check(position == len(data), f"{path.name} is {position} bytes long")


def forget_pages(path: Path) -> None:
    """Have the kernel drop what it holds of a file."""
    with opened(path, os.O_RDONLY) as fd:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def stream(run: Run) -> None:
    """A large file from front to end."""
    data, path = run.data(run.sizes.mib * MIB), run.directory / "large"
    megabytes = len(data) / 1e6
    with run.timed("write and close", "MB", megabytes):
        write_file(path, data)
    with run.timed("overwrite, fsync", "MB", megabytes):
        write_file(path, data[::-1], flags=0, sync=True)
    same(path, data[::-1])
    with run.timed("read warm", "MB", megabytes):
        same(path, data[::-1])
    if run.cold():
        with run.timed("read cold", "MB", megabytes):
            same(path, data[::-1])


def random_places(run: Run) -> None:
    """4 KiB here and there in a large file."""
    data, path = bytearray(run.data(run.sizes.mib * MIB)), run.directory / "large"
    write_file(path, bytes(data), sync=True)
    forget_pages(path)
    offsets = [run.random.randrange(len(data) // SMALL) * SMALL for _ in range(run.sizes.operations)]
    with opened(path, os.O_RDWR) as fd:

        def read(offset: int) -> None:
            check(os.pread(fd, SMALL, offset) == data[offset : offset + SMALL], f"at {offset}")

        def write(offset: int) -> None:
            data[offset : offset + SMALL] = block = run.data(SMALL)
            os.pwrite(fd, block, offset)

        def write_through(offset: int) -> None:
            write(offset)
            os.fsync(fd)

        run.each("random read 4 KiB", "ops", offsets, read)
        run.each("random write 4 KiB", "ops", reversed(offsets), write)
        run.each("random write 4 KiB, fsync", "ops", offsets[: len(offsets) // 10], write_through)
    same(path, bytes(data))


def small_files(run: Run) -> None:
    """A storm of small files, and of directories."""
    contents = {run.directory / f"file {number}": run.data(SMALL) for number in range(run.sizes.files)}
    run.each("create 4 KiB", "ops", contents.items(), lambda item: write_file(*item))
    run.each("stat", "ops", contents, os.stat)
    run.each("read 4 KiB warm", "ops", contents.items(), lambda item: same(*item))
    if run.cold():
        run.each("read 4 KiB cold", "ops", contents.items(), lambda item: same(*item))
    run.each("rename", "ops", contents, lambda path: os.rename(path, f"{path}.new"))
    names = {f"{path.name}.new" for path in contents}
    check(set(os.listdir(run.directory)) == names, "the listing after renaming")
    run.each("unlink", "ops", [run.directory / name for name in names], os.unlink)
    folders = [run.directory / f"folder {number}" for number in range(run.sizes.files)]
    run.each("mkdir", "ops", folders, os.mkdir)
    check(len(os.listdir(run.directory)) == len(folders), "the listing of directories")
    run.each("rmdir", "ops", folders, os.rmdir)


def listing(run: Run) -> None:
    """A directory of many entries."""
    folder = run.directory / "many"
    folder.mkdir()
    paths = [folder / f"entry {number:06}" for number in range(run.sizes.entries)]
    made = run.each("create empty", "ops", paths, lambda path: write_file(path, b""))

    def look() -> None:
        with os.scandir(folder) as entries:
            sizes = [entry.stat(follow_symlinks=False).st_size for entry in entries]
        check(sizes == [0] * made, "the listing")

    if run.cold():
        with run.timed("list with stat, cold", "entries", made):
            look()
    with run.timed("list with stat", "entries", made):
        look()
    with run.timed("list names", "entries", made):
        check(len(os.listdir(folder)) == made, "the names")


def append(run: Run) -> None:
    """A log file: opened for every line; and open all the time, forced to the disk now and then."""
    path, lines = run.directory / "log", [run.data(200) for _ in range(run.sizes.operations)]
    done = run.each("append, reopened", "ops", lines, lambda line: write_file(path, line, flags=os.O_APPEND))
    more = 0
    with opened(path, os.O_WRONLY | os.O_APPEND) as fd:

        def add(numbered: tuple[int, bytes]) -> None:
            os.write(fd, numbered[1])
            if numbered[0] % 100 == 99:
                os.fsync(fd)

        more = run.each("append", "ops", enumerate(lines), add)
    same(path, b"".join(itertools.chain(lines[:done], lines[:more])))


def four_at_once(run: Run) -> None:
    """Four processes write, then each reads what its neighbour wrote."""
    data = [run.data(run.sizes.mib * MIB // 4) for _ in range(4)]
    paths = [run.directory / f"part {number}" for number in range(4)]
    megabytes = sum(map(len, data)) / 1e6
    with run.timed("four write", "MB", megabytes):
        in_processes(lambda i: write_file(paths[i], data[i]))
    for path in paths:
        forget_pages(path)
    with run.timed("four read", "MB", megabytes):
        in_processes(lambda i: same(paths[i - 1], data[i - 1]))


def in_processes(work: Callable[[int], object], count: int = 4) -> None:
    """`work` of 0 to `count` - 1, each in a process of its own."""
    children = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            try:
                work(number)
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(pid)
    statuses = [os.waitpid(pid, 0)[1] for pid in children]
    check(not any(statuses), "one of several processes failed, or read wrong data")


def latency(run: Run) -> None:
    """What small work feels like while a large file is copied."""
    data, path, small = run.data(2 * run.sizes.mib * MIB), run.directory / "large", run.directory / "small"
    small.write_bytes(b"x")
    copying = os.fork()
    if copying == 0:
        try:
            write_file(path, data)
        finally:
            os._exit(0)
    waits: list[float] = []
    number = 0
    while os.waitpid(copying, os.WNOHANG)[0] == 0:
        began = time.perf_counter()
        fresh = run.directory / f"s{number}"
        write_file(fresh, b"x" * 1000)
        fresh.unlink()
        waits.append(time.perf_counter() - began)
        number += 1
    waits.sort()
    for share, step in ((0.5, "create, unlink during a copy (median)"), (0.99, "the same, 99th percentile")):
        run.value(step, "ops", 1 / waits[int(share * (len(waits) - 1))] if waits else 0.0)
    same(path, data)
