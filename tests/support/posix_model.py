"""Random operations on a working tree and on a real directory side by side: the same answers, the same tree.

What happened is kept in `Both.log`, for the message of a failing test.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lafsfs.tree.namespace import RENAME_EXCHANGE, RENAME_NOREPLACE
from tests.support.trees import Files

_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
SIZES = (0, 1, 10, 55, 56, 1000, 16384, 16385, 70_000, 200_000)
NAMES = ("a", "b", "c", "d", "\udcff", "e\u0301", "\u00e9")


def _renameat2(old: Path, new: Path, flags: int) -> None:
    if _libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Both:
    """The two sides. `fs` may be replaced by another opening of the same tree while no handles are open."""

    def __init__(self, real: Path, seed: int) -> None:
        self.real = real
        self.random = random.Random(seed)
        self.fs: Files = None  # type: ignore[assignment]
        self.log: list[str] = []
        self.handles: list[tuple[int, int]] = []  # (of the tree, real descriptor)
        self.failures = 0

    # --- choosing ------------------------------------------------------------------------------------

    def _paths(self) -> tuple[list[str], list[str]]:
        """(directories, others) that exist, relative; symlinks are among the others."""
        directories, others = [""], []
        for above, below, files in os.walk(self.real):
            where = os.path.relpath(above, self.real)
            where = "" if where == "." else where + "/"
            for name in below:
                is_link = os.path.islink(os.path.join(above, name))
                (others if is_link else directories).append(where + name)
            others += [where + name for name in files]
        return sorted(directories), sorted(others)

    def _new(self) -> str:
        """A path that may or may not exist, in a directory that mostly does."""
        directories, others = self._paths()
        parent = self.random.choice(directories)
        if self.random.random() < 0.04 and others:
            parent = self.random.choice(
                [path for path in others if not self._real(path).is_symlink()] or [""]
            )
        return f"{parent}/{self.random.choice(NAMES)}".lstrip("/")

    def _any(self) -> str:
        directories, others = self._paths()
        if self.random.random() < 0.1:
            return self._new()
        return self.random.choice(directories[1:] + others or ["a"])

    def _file(self) -> str:
        _, others = self._paths()
        regular = [path for path in others if stat.S_ISREG(os.lstat(self.real / path).st_mode)]
        return self.random.choice(regular or ["nothing"])

    def _real(self, path: str) -> Path:
        return self.real / path

    def _bytes(self) -> bytes:
        return self.random.randbytes(self.random.choice(SIZES) + self.random.randrange(3))

    # --- one step ---------------------------------------------------------------------------------------

    async def step(self) -> None:
        """Do one operation on both sides. AssertionError if they differ."""
        operation = self.random.choice(_OPERATIONS)
        await operation(self)

    async def _same(
        self, what: str, ours: Callable[[], Awaitable[Any]], theirs: Callable[[], Any]
    ) -> tuple[Any, Any] | None:
        self.log.append(what)
        got: Any = None
        expected: Any = None
        number = wanted = 0
        try:
            expected = theirs()
        except OSError as problem:
            wanted = problem.errno or -1
        try:
            got = await ours()
        except OSError as problem:
            number = problem.errno or -1
        if number != wanted:
            names = errno.errorcode.get(number, "success"), errno.errorcode.get(wanted, "success")
            raise AssertionError(f"{what}: {names[0]}, expected {names[1]}")
        self.failures += wanted != 0
        return None if wanted else (got, expected)

    async def create(self) -> None:
        path, mode, data = self._new(), self.random.choice((0o644, 0o600, 0o755)), self._bytes()

        async def ours() -> int:
            handle = await self.fs.create(path, mode)
            await self.fs.pwrite(handle, data, 0)
            return handle

        def theirs() -> int:
            fd = os.open(self._real(path), os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
            os.fchmod(fd, mode)
            os.pwrite(fd, data, 0)
            return fd

        made = await self._same(f"create {path!a} {len(data)}", ours, theirs)
        if made is not None:
            self.handles.append(made)
            if len(self.handles) > 4 or self.random.random() < 0.7:
                await self._close(self.handles.pop(self.random.randrange(len(self.handles))))

    async def open(self) -> None:
        path = self._file()
        truncate = os.O_TRUNC if self.random.random() < 0.2 else 0
        flags = os.O_RDWR | truncate
        made = await self._same(
            f"open {path!a} {flags}",
            lambda: self.fs.open(path, flags),
            lambda: os.open(self._real(path), flags),
        )
        if made is not None:
            self.handles.append(made)
            if len(self.handles) > 4:
                await self._close(self.handles.pop(0))

    async def write(self) -> None:
        if not self.handles:
            return await self.open()
        handle, fd = self.random.choice(self.handles)
        size = os.fstat(fd).st_size
        offset = self.random.choice((0, size, self.random.randrange(size + 1), size + 5000))
        data = self._bytes()
        await self._same(
            f"write {handle} {len(data)} at {offset}",
            lambda: self.fs.pwrite(handle, data, offset),
            lambda: os.pwrite(fd, data, offset),
        )
        return None

    async def append(self) -> None:
        path, data = self._file(), self._bytes()

        async def ours() -> None:
            inode = await self.fs.find(path)
            await self.fs.write(path, data, inode.attributes.size)

        def theirs() -> None:
            with self._real(path).open("r+b") as file:
                file.seek(0, 2)
                file.write(data)

        await self._same(f"append {path!a} {len(data)}", ours, theirs)

    async def read(self) -> None:
        if not self.handles:
            return
        handle, fd = self.random.choice(self.handles)
        size = os.fstat(fd).st_size
        offset = self.random.randrange(size + 10)
        count = self.random.choice((10, 5000, size + 1))
        read = await self._same(
            f"read {handle} {count} at {offset}",
            lambda: self.fs.pread(handle, count, offset),
            lambda: os.pread(fd, count, offset),
        )
        assert read is not None
        assert read[0] == read[1], self.log[-1]

    async def close(self) -> None:
        if self.handles:
            await self._close(self.handles.pop(self.random.randrange(len(self.handles))))

    async def _close(self, pair: tuple[int, int]) -> None:
        handle, fd = pair
        self.log.append(f"close {handle}")
        os.close(fd)
        await self.fs.close(handle)

    async def truncate(self) -> None:
        path = self._file()
        size = self.random.choice((0, 1, 100, 20_000, 300_000))
        await self._same(
            f"truncate {path!a} {size}",
            lambda: self.fs.set(path, size=size),
            lambda: os.truncate(self._real(path), size),
        )

    async def mkdir(self) -> None:
        path = self._new()

        def theirs() -> None:
            os.mkdir(self._real(path))
            os.chmod(self._real(path), 0o755)

        await self._same(f"mkdir {path!a}", lambda: self.fs.mkdir(path), theirs)

    async def rmdir(self) -> None:
        path = self._any()
        await self._same(f"rmdir {path!a}", lambda: self.fs.rmdir(path), lambda: os.rmdir(self._real(path)))

    async def unlink(self) -> None:
        path = self._any()
        await self._same(
            f"unlink {path!a}", lambda: self.fs.unlink(path), lambda: os.unlink(self._real(path))
        )

    async def link(self) -> None:
        path, new = self._any(), self._new()
        if self._real(path).is_dir() and not self._real(path).is_symlink():
            return
        await self._same(
            f"link {path!a} {new!a}",
            lambda: self.fs.link(path, new),
            lambda: os.link(self._real(path), self._real(new), follow_symlinks=False),
        )

    async def symlink(self) -> None:
        path = self._new()
        target = b"nowhere/" + self.random.randbytes(10).hex().encode()
        await self._same(
            f"symlink {path!a}",
            lambda: self.fs.symlink(target, path),
            lambda: os.symlink(target, self._real(path)),
        )

    async def rename(self) -> None:
        old, new = self._any(), self.random.choice((self._any(), self._new()))
        flags = self.random.choice((0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE))
        if old != new and (f"{old}/".startswith(f"{new}/") or f"{new}/".startswith(f"{old}/")):
            return  # the kernel answers that by itself
        await self._same(
            f"rename {old!a} {new!a} {flags}",
            lambda: self.fs.rename(old, new, flags),
            lambda: _renameat2(self._real(old), self._real(new), flags),
        )

    async def chmod(self) -> None:
        path, mode = self._any(), self.random.choice((0o600, 0o4755, 0o444, 0o777))
        if self._real(path).is_symlink():
            return
        await self._same(
            f"chmod {path!a} {mode:o}",
            lambda: self.fs.set(path, mode=mode),
            lambda: os.chmod(self._real(path), mode),
        )

    async def utimens(self) -> None:
        path = self._any()
        atime, mtime = self.random.randrange(1 << 62), self.random.randrange(1 << 62)
        await self._same(
            f"utimens {path!a}",
            lambda: self.fs.set(path, atime=atime, mtime=mtime),
            lambda: os.utime(self._real(path), ns=(atime, mtime), follow_symlinks=False),
        )

    async def xattr(self) -> None:
        path, name, value = self._any(), self.random.choice(("user.x", "user.y")), self._bytes()[:100]
        if self._real(path).is_symlink():
            return
        if self.random.random() < 0.3:
            await self._same(
                f"removexattr {path!a} {name}",
                lambda: self.fs.removexattr(path, name.encode()),
                lambda: os.removexattr(self._real(path), name),
            )
        else:
            await self._same(
                f"setxattr {path!a} {name}",
                lambda: self.fs.setxattr(path, name.encode(), value),
                lambda: os.setxattr(self._real(path), name, value),
            )

    async def forget(self) -> None:
        self.log.append("forget")
        self.fs.forget()

    # --- the whole ----------------------------------------------------------------------------------------

    async def close_all(self) -> None:
        """Close what is open, on both sides."""
        while self.handles:
            await self._close(self.handles.pop())

    def crashed(self) -> None:
        """The tree is gone: only the real side has anything left to close."""
        self.log.append("crash")
        for _, fd in self.handles:
            with suppress(OSError):
                os.close(fd)
        self.handles.clear()

    async def compare(self) -> None:
        """The whole tree, against the real one."""
        found = await self.fs.everything()
        directories, others = self._paths()
        paths = [path for path in directories + others if path]
        assert set(found) == {os.fsencode(path) for path in paths}, self.tail()
        inodes: dict[int, int] = {}
        for path in paths:
            ours, theirs = found[os.fsencode(path)], os.lstat(self._real(path))
            assert ours.mode == theirs.st_mode, (path, oct(ours.mode), oct(theirs.st_mode), self.tail())
            if not stat.S_ISDIR(theirs.st_mode):
                self._same_content(path, ours.content)
                assert ours.size == theirs.st_size, (path, self.tail())
            assert ours.nlink == theirs.st_nlink, (path, ours.nlink, theirs.st_nlink, self.tail())
            names = os.listxattr(self._real(path), follow_symlinks=False)
            values = {os.fsencode(n): os.getxattr(self._real(path), n, follow_symlinks=False) for n in names}
            assert dict(ours.xattrs) == values, (path, self.tail())
            if theirs.st_mtime < 1_500_000_000 or theirs.st_mtime > 2_500_000_000:  # set by utimens
                assert ours.times[1] == theirs.st_mtime_ns, (path, self.tail())
            assert inodes.setdefault(theirs.st_ino, ours.ino) == ours.ino, (path, self.tail())

    def _same_content(self, path: str, ours: bytes) -> None:
        theirs = self._content(path)
        if ours != theirs:
            at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
            raise AssertionError(f"{path!a}: {len(ours)} bytes for {len(theirs)}, from {at}\n{self.tail()}")

    def _content(self, path: str) -> bytes:
        real = self._real(path)
        return os.fsencode(os.readlink(real)) if real.is_symlink() else real.read_bytes()

    def tail(self) -> str:
        """The last operations."""
        return "\n".join(self.log[-200:])


_OPERATIONS: list[Callable[[Both], Awaitable[None]]] = [
    *(Both.create,) * 6,
    *(Both.write,) * 5,
    *(Both.append,) * 3,
    *(Both.read, Both.close) * 3,
    *(Both.mkdir,) * 4,
    *(Both.rename,) * 6,
    *(Both.truncate, Both.unlink, Both.link, Both.open) * 2,
    *(Both.rmdir, Both.symlink, Both.chmod, Both.utimens, Both.xattr, Both.forget),
]
