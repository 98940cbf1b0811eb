"""Working trees without a kernel: paths instead of inode numbers, crashes, and what a whole tree looks like.

async with client(servers, ONE) as nodes:
    root = await new_root(nodes)
    async with open_tree(nodes, root, state, QUICK) as tree:
        fs = Files(tree)
        await fs.write("a/b", b"content")
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio

from lafsfs.errors import LafsError, PendingError
from lafsfs.formats.caps import DirCap
from lafsfs.formats.packed import Packed
from lafsfs.nodes.directory import Directory
from lafsfs.nodes.maker import NewDirectory, NodeMaker
from lafsfs.tree.attaching import attach, caps_to_attach
from lafsfs.tree.changing import NewAttributes
from lafsfs.tree.inodes import ROOT, Inode
from lafsfs.tree.journal import Journal
from lafsfs.tree.options import TreeOptions
from lafsfs.tree.tree import Tree, open_tree

IDLE = TreeOptions(publish_delay=3600.0, refresh=3600.0, label="test")
"""Nothing is published before somebody drains."""
EAGER = TreeOptions(publish_delay=0.0, refresh=0.0, label="test")
"""Everything is published at once, and directories are looked at again with every access."""
DRAIN = 30.0
OWNER = (os.getuid(), os.getgid())


async def new_root(nodes: NodeMaker) -> DirCap:
    """The write cap of a new, empty directory."""
    directory, _ = await nodes.create_directory(lambda _: Packed())
    return directory.cap


@asynccontextmanager
async def opened(
    nodes: NodeMaker, root: DirCap, state: Path, options: TreeOptions = IDLE
) -> AsyncIterator[Files]:
    """A tree of `root` with its state in `state`."""
    async with open_tree(nodes, root, state, options) as tree:
        yield Files(tree)


@contextlib.contextmanager
def errno_of_lafs() -> Iterator[None]:
    """Errors as the kernel sees them."""
    try:
        yield
    except LafsError as problem:
        raise OSError(problem.errno, str(problem)) from problem


class Files:
    """A tree by paths, called as the kernel would: lookups are counted, what the kernel checks is checked."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._lookups: Counter[int] = Counter()

    # --- finding -------------------------------------------------------------------------------------

    async def find(self, path: str | bytes) -> Inode:
        """The inode at `path`, which holds one more reference then. Symlinks are not followed."""
        inode = self.tree.inode(ROOT)
        for name in os.fsencode(path).split(b"/"):
            if not name:
                continue
            if not inode.is_dir:
                raise OSError(errno.ENOTDIR, path)
            with errno_of_lafs():
                inode = await self.tree.names.lookup(inode.ino, name)
            inode.lookups += 1
            self._lookups[inode.ino] += 1
        return inode

    async def _above(self, path: str | bytes) -> tuple[Inode, bytes]:
        directory, _, name = os.fsencode(path).rpartition(b"/")
        inode = await self.find(directory)
        if not inode.is_dir:
            raise OSError(errno.ENOTDIR, path)
        return inode, name

    def forget(self) -> None:
        """The kernel drops all it has cached."""
        for ino, count in self._lookups.items():
            self.tree.forget(ino, count)
        self._lookups.clear()

    async def exists(self, path: str | bytes) -> bool:
        try:
            await self.find(path)
        except OSError as problem:
            if problem.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
            return False
        return True

    async def names(self, path: str | bytes = "") -> set[bytes]:
        """The names in a directory."""
        inode = await self.find(path)
        with errno_of_lafs():
            folder = await self.tree.folder(inode.ino)
        found = [name for _, name, _ in folder.after(2)]
        assert len(found) == len(set(found))
        return set(found)

    # --- making and removing ---------------------------------------------------------------------------

    async def make(self, path: str | bytes, mode: int, target: bytes = b"", rdev: int = 0) -> Inode:
        parent, name = await self._above(path)
        with errno_of_lafs():
            inode = await self.tree.pushback.patiently(
                lambda: self.tree.names.create(parent.ino, name, mode, OWNER, target=target, rdev=rdev)
            )
        inode.lookups += 1
        self._lookups[inode.ino] += 1
        return inode

    async def mkdir(self, path: str | bytes, mode: int = 0o755) -> Inode:
        return await self.make(path, stat.S_IFDIR | mode)

    async def create(self, path: str | bytes, mode: int = 0o644) -> int:
        """A handle of a new file."""
        inode = await self.make(path, stat.S_IFREG | mode)
        return self.tree.files.opened(inode, writable=True)

    async def symlink(self, target: bytes, path: str | bytes) -> None:
        await self.make(path, stat.S_IFLNK | 0o777, target)

    async def link(self, path: str | bytes, new: str | bytes) -> None:
        inode = await self.find(path)
        parent, name = await self._above(new)
        with errno_of_lafs():
            await self.tree.names.link(inode.ino, parent.ino, name)

    async def unlink(self, path: str | bytes) -> None:
        parent, name = await self._above(path)
        await self.find(path)
        with errno_of_lafs():
            await self.tree.names.unlink(parent.ino, name)

    async def rmdir(self, path: str | bytes) -> None:
        parent, name = await self._above(path)
        await self.find(path)
        with errno_of_lafs():
            await self.tree.names.rmdir(parent.ino, name)

    async def rename(self, old: str | bytes, new: str | bytes, flags: int = 0) -> None:
        source, name = await self._above(old)
        target, name2 = await self._above(new)
        await self.find(old)
        with errno_of_lafs():
            await self.tree.names.rename(source.ino, name, target.ino, name2, flags)

    async def attach(self, path: str | bytes, cap: bytes) -> Inode:
        """Give a capability a name."""
        parent, name = await self._above(path)
        with errno_of_lafs():
            return await attach(self.tree, parent.ino, name, caps_to_attach(cap))

    # --- contents ----------------------------------------------------------------------------------------

    async def open(self, path: str | bytes, flags: int = os.O_RDONLY) -> int:
        inode = await self.find(path)
        if inode.is_dir:
            raise OSError(errno.EISDIR, path)
        with errno_of_lafs():
            return await self.tree.files.open(await self.tree.measured(inode, needed=True), flags)

    async def close(self, handle: int) -> None:
        await self.tree.files.release(handle)

    async def pwrite(self, handle: int, data: bytes, offset: int) -> None:
        with errno_of_lafs():
            write = partial(self.tree.files.write, handle, offset, data)
            assert await self.tree.pushback.patiently(write) == len(data)

    async def pread(self, handle: int, size: int, offset: int) -> bytes:
        with errno_of_lafs():
            return bytes(await self.tree.files.read(handle, offset, size))

    async def write(self, path: str | bytes, data: bytes, offset: int = 0) -> None:
        """Write into a file, which is made if there is none; the rest of it stays."""
        if await self.exists(path):
            handle = await self.open(path, os.O_WRONLY)
        else:
            handle = await self.create(path)
        try:
            await self.pwrite(handle, data, offset)
        finally:
            await self.close(handle)

    async def replace(self, path: str | bytes, data: bytes) -> None:
        """Empty a file and write it anew."""
        handle = await self.open(path, os.O_WRONLY | os.O_TRUNC)
        try:
            await self.pwrite(handle, data, 0)
        finally:
            await self.close(handle)

    async def read(self, path: str | bytes) -> bytes:
        """All of a file."""
        handle = await self.open(path)
        try:
            return await self.pread(handle, self.tree.files.inode_of(handle).attributes.size + 1, 0)
        finally:
            await self.close(handle)

    async def readlink(self, path: str | bytes) -> bytes:
        inode = await self.find(path)
        with errno_of_lafs():
            return bytes(await self.tree.files.read_inode(inode, 0, inode.attributes.size))

    # --- attributes ----------------------------------------------------------------------------------------

    async def set(self, path: str | bytes, **values: int) -> None:
        """chmod, chown, utimens, truncate."""
        inode = await self.find(path)
        with errno_of_lafs():
            await self.tree.changing.set_attributes(inode, NewAttributes(**values))

    async def setxattr(self, path: str | bytes, name: bytes, value: bytes) -> None:
        inode = await self.find(path)
        with errno_of_lafs():
            self.tree.xattrs.set(inode, name, value)

    async def removexattr(self, path: str | bytes, name: bytes) -> None:
        inode = await self.find(path)
        with errno_of_lafs():
            self.tree.xattrs.remove(inode, name)

    # --- everything ----------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Publish all; nothing is left in the journal then."""
        try:
            await self.tree.drain(DRAIN)
        except PendingError as problem:
            raise AssertionError("\n".join(map(str, self.tree.status().items))) from problem
        await self.tree.syncer.sync_all()  # which is when logs are deleted

    async def everything(self, path: bytes = b"") -> dict[bytes, Seen]:
        """What is there: path -> what can be seen of it, the root itself left out."""
        found: dict[bytes, Seen] = {}
        for name in sorted(await self.names(path)):
            below = path + b"/" + name if path else name
            inode = await self.find(below)
            if inode.is_dir:
                found |= await self.everything(below)
                content = b""
            elif stat.S_ISLNK(inode.attributes.mode):
                content = await self.readlink(below)
            else:
                content = await self.read(below)
            found[below] = Seen.of(inode, content)
        return found


@dataclass(frozen=True)
class Seen:
    """One file, directory or other thing as seen in a tree."""

    mode: int
    owner: tuple[int, int]
    size: int
    nlink: int
    times: tuple[int, int, int, int]  # atime, mtime, ctime, crtime
    ino: int
    rdev: int
    xattrs: tuple[tuple[bytes, bytes], ...]
    content: bytes = field(repr=False)

    @classmethod
    def of(cls, inode: Inode, content: bytes) -> Seen:
        a = inode.attributes
        times = (a.atime, a.mtime, a.ctime, a.crtime)
        xattrs = tuple(sorted((inode.xattrs or {}).items()))
        return cls(a.mode, (a.uid, a.gid), a.size, inode.nlink, times, inode.ino, a.rdev, xattrs, content)


async def all_in(fs: Files) -> dict[bytes, Seen]:
    """What is in a tree, looked at again if a name was taken away meanwhile, or is going to be."""
    for _ in range(10):
        try:
            return await fs.everything()
        except OSError as problem:
            if problem.errno not in (errno.ENOENT, errno.ELOOP):
                raise
    raise AssertionError("names keep going away")


def left_in(tree: Tree) -> list[str]:
    """What the journal and the staging area still hold, the root's own attributes left out."""
    left = [_described(tree.inodes.get(ino), ino) for ino, _ in tree.journal.objects() if ino != ROOT]
    left += [f"edge {edge.name!r} in {ino}" for ino, edge in tree.journal.edges() if edge is not None]
    left += [f"content {ino}" for ino in tree.journal.contents()]
    left += [name for name, _ in tree.journal.metas("attempts")]
    left += [f"log {path.name}" for path in tree.staging.directory.iterdir()]
    return left


def _described(inode: Inode | None, ino: int) -> str:
    if inode is None:
        return f"object {ino}, not in memory"
    where = ", ".join(f"{name!r} in {directory}" for directory, name in inode.links)
    pending = len(inode.folder.pending) if inode.folder is not None else "no"
    return (
        f"object {ino}: {inode.nlink} links ({where}), dirty {inode.dirty}, stored {inode.stored}, "
        f"{inode.pending} names and {pending} in it pending, {inode.opens} times open"
    )


# --- crashes ---------------------------------------------------------------------------------------------


class Crash(BaseException):
    """The process ends here."""


@dataclass
class CrashPoints:
    """Lets a tree die at the n-th of the named steps; `copy` is the state directory as it was then.

    Steps: before and after every commit of the journal, every upload, every publish of a directory. With `number` 0
    nothing dies, and `passed` lists all steps.
    """

    state: Path
    copy: Path
    number: int = 0
    wanted: Callable[[str], bool] = lambda step: True
    passed: list[str] = field(default_factory=list)
    dead: bool = False
    paused: bool = False

    def step(self, name: str) -> None:
        if self.dead:
            raise Crash(name)
        if self.wanted(name) and not self.paused:
            self.passed.append(name)
            if len(self.passed) == self.number:
                self.dead = True
                copy_state(self.state, self.copy)
                raise Crash(name)

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """Watch the steps of every tree, the calls themselves are the real ones."""
        places: list[tuple[type, str]] = [
            (Journal, "commit"),
            (NodeMaker, "upload"),
            (NewDirectory, "publish"),
            (Directory, "publish"),
        ]
        originals = [(place, name, getattr(place, name)) for place, name in places]
        try:
            for place, name, original in originals:
                watch = self._watched_sync if place is Journal else self._watched
                setattr(place, name, watch(name, original))
            with contextlib.suppress(Crash):
                try:
                    yield
                except BaseExceptionGroup as group:
                    _, rest = group.split((Crash, trio.Cancelled))
                    if rest is not None:
                        raise
        finally:
            for place, name, original in originals:
                setattr(place, name, original)

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        async def watched(*args: Any, **kwargs: Any) -> Any:
            self.step(f"before {name}")
            result = await call(*args, **kwargs)
            self.step(f"after {name}")
            return result

        return watched

    def _watched_sync(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.step(f"before {name}")
            result = call(*args, **kwargs)
            self.step(f"after {name}")
            return result

        return watched


def copy_state(state: Path, copy: Path) -> None:
    """The state directory as a power failure at this instant could leave it. A kept directory that a thread is writing
    just now has a scratch name, which may be gone before it is copied.
    """
    shutil.copytree(state, copy, ignore=shutil.ignore_patterns("*.new"))
