"""Random work of several clients on one directory tree, and what must have become of it in the end.

Every file that somebody makes or changes gets a token, a string of its own, which counts as acknowledged when the call
that wrote it returned. A token is given up only by whoever takes a file out of the tree and looks at it then: what is
not given up must be found somewhere in the end.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import re
import stat
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import trio

from tests.support.syscalls import rename2
from tests.support.tahoe import TahoeClient
from tests.support.trees import Files

TOKEN = re.compile(rb"<[0-9a-z]+:[0-9]+>")
EXPECTED = {
    errno.ENOENT,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EINVAL,
    errno.ESTALE,
    errno.ELOOP,
    errno.ETIMEDOUT,
}
"""What a call may say because somebody else was quicker, or because servers do not answer."""
NOREPLACE, EXCHANGE = 1, 2
FILE_NAMES = [b"f%d.txt" % number for number in range(6)]
OWN_NAMES = [b"x%d" % number for number in range(4)]
DIRECTORY_NAMES = [b"d%d" % number for number in range(3)]

KINDS = {
    "create": 10,
    "append": 10,
    "replace": 5,
    "delete": 6,
    "move": 4,
    "symlink": 2,
    "mkdir": 5,
    "rmdir": 2,
    "remove_all": 1,
    "move_directory": 2,
}
"""What a worker does, and how often."""


@dataclass
class Tokens:
    """What was written, and what was taken out again."""

    acknowledged: set[bytes] = field(default_factory=set)
    given_up: set[bytes] = field(default_factory=set)
    history: list[tuple[str, ...]] = field(default_factory=list)
    """Who did what, to explain a loss."""

    def give_up(self, content: bytes) -> None:
        self.given_up.update(TOKEN.findall(content))

    def note(self, who: bytes, *what: object) -> None:
        self.history.append((f"{time.time():.3f}", who.decode(), *map(str, what)))

    def missing(self, contents: Iterable[bytes]) -> set[bytes]:
        """Acknowledged tokens that are in none of the contents."""
        found: set[bytes] = set()
        for content in contents:
            found.update(TOKEN.findall(content))
        return self.acknowledged - self.given_up - found


class Place(Protocol):
    """A tree that somebody can work on; paths are relative to its top. Errors are OSError."""

    async def names(self, path: bytes) -> set[bytes]: ...
    async def is_dir(self, path: bytes) -> bool: ...
    async def make(self, path: bytes, data: bytes) -> None: ...
    async def append(self, path: bytes, data: bytes) -> None: ...
    async def content(self, path: bytes) -> bytes:
        """What is in a file, or where a symlink leads. IsADirectoryError."""
        ...

    async def rename(self, old: bytes, new: bytes, flags: int) -> None: ...
    async def unlink(self, path: bytes) -> None: ...
    async def mkdir(self, path: bytes) -> None: ...
    async def rmdir(self, path: bytes) -> None: ...
    async def symlink(self, target: bytes, path: bytes) -> None: ...


class OfTree:
    """A working tree without a kernel."""

    def __init__(self, fs: Files) -> None:
        self._fs = fs

    async def names(self, path: bytes) -> set[bytes]:
        return await self._fs.names(path)

    async def is_dir(self, path: bytes) -> bool:
        return (await self._fs.find(path)).is_dir

    async def make(self, path: bytes, data: bytes) -> None:
        await self._write(await self._fs.create(path), 0, data)

    async def append(self, path: bytes, data: bytes) -> None:
        handle = await self._fs.open(path, os.O_WRONLY)
        await self._write(handle, self._fs.tree.files.inode_of(handle).attributes.size, data)

    async def _write(self, handle: int, offset: int, data: bytes) -> None:
        try:
            await self._fs.pwrite(handle, data, offset)
        finally:
            await self._fs.close(handle)

    async def content(self, path: bytes) -> bytes:
        inode = await self._fs.find(path)
        if inode.is_dir:
            raise IsADirectoryError(errno.EISDIR, "a directory")
        link = stat.S_ISLNK(inode.attributes.mode)
        return await self._fs.readlink(path) if link else await self._fs.read(path)

    async def rename(self, old: bytes, new: bytes, flags: int) -> None:
        await self._fs.rename(old, new, flags)

    async def unlink(self, path: bytes) -> None:
        await self._fs.unlink(path)

    async def mkdir(self, path: bytes) -> None:
        await self._fs.mkdir(path)

    async def rmdir(self, path: bytes) -> None:
        await self._fs.rmdir(path)

    async def symlink(self, target: bytes, path: bytes) -> None:
        await self._fs.symlink(target, path)


class OfMount:
    """A mount. Every call runs in a thread."""

    def __init__(self, top: Path) -> None:
        self._top = os.fsencode(top)

    def _at(self, path: bytes) -> bytes:
        return os.path.join(self._top, path)

    async def names(self, path: bytes) -> set[bytes]:
        return set(await trio.to_thread.run_sync(os.listdir, self._at(path)))

    async def is_dir(self, path: bytes) -> bool:
        return stat.S_ISDIR((await trio.to_thread.run_sync(os.lstat, self._at(path))).st_mode)

    async def make(self, path: bytes, data: bytes) -> None:
        await trio.to_thread.run_sync(_write_file, self._at(path), os.O_CREAT | os.O_EXCL, data)

    async def append(self, path: bytes, data: bytes) -> None:
        await trio.to_thread.run_sync(_write_file, self._at(path), os.O_APPEND, data)

    async def content(self, path: bytes) -> bytes:
        return await trio.to_thread.run_sync(_content, self._at(path))

    async def rename(self, old: bytes, new: bytes, flags: int) -> None:
        await trio.to_thread.run_sync(rename2, self._at(old), self._at(new), flags)

    async def unlink(self, path: bytes) -> None:
        await trio.to_thread.run_sync(os.unlink, self._at(path))

    async def mkdir(self, path: bytes) -> None:
        await trio.to_thread.run_sync(os.mkdir, self._at(path))

    async def rmdir(self, path: bytes) -> None:
        await trio.to_thread.run_sync(os.rmdir, self._at(path))

    async def symlink(self, target: bytes, path: bytes) -> None:
        await trio.to_thread.run_sync(os.symlink, target, self._at(path))


def _write_file(path: bytes, flags: int, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | flags, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


def _content(path: bytes) -> bytes:
    if stat.S_ISLNK(os.lstat(path).st_mode):
        return os.readlink(path)
    with open(path, "rb") as file:
        return file.read()


class Worker:
    """One client; `step` does one random thing."""

    def __init__(self, place: Place, name: str, seed: str, tokens: Tokens) -> None:
        self._place = place
        self._name = name.encode()
        self._random = random.Random(seed)
        self._tokens = tokens
        self._numbers = itertools.count(1)
        self.done: Counter[str] = Counter()

    async def step(self) -> None:
        """One call or a few; what others made impossible in the meantime is no error."""
        (kind,) = self._random.choices(list(KINDS), list(KINDS.values()))
        try:
            await getattr(self, f"_{kind}")()
            self.done[kind] += 1
        except OSError as problem:
            if problem.errno not in EXPECTED:
                raise
            self.done[f"{kind} was not possible"] += 1
            self._tokens.note(self._name, kind, "was not possible:", problem.strerror)

    # --- choosing --------------------------------------------------------------------------------------

    async def _directory(self) -> bytes:
        """Some directory, the root more often than others."""
        path = b""
        while self._random.random() < 0.55:
            below = [name for name in sorted(await self._place.names(path)) if name[:1] == b"d"]
            if not below:
                break
            found = path + b"/" + self._random.choice(below) if path else self._random.choice(below)
            if not await self._place.is_dir(found):
                break
            path = found
        return path

    async def _some(self, kind: bytes) -> bytes:
        directory = await self._directory()
        names = [name for name in sorted(await self._place.names(directory)) if name.startswith(kind)]
        if not names:
            raise FileNotFoundError(errno.ENOENT, "nothing there")
        return _join(directory, self._random.choice(names))

    def _token(self) -> bytes:
        return b"<%s:%d>" % (self._name, next(self._numbers))

    def _filler(self) -> bytes:
        return b"." * self._random.choice((0, 10, 100, 1000, 1000, 20_000))

    def _temporary(self) -> bytes:
        return b"t-%s-%d" % (self._name, next(self._numbers))

    # --- doing -----------------------------------------------------------------------------------------

    async def _create(self) -> None:
        await self._make(_join(await self._directory(), self._random.choice(FILE_NAMES)))

    async def _make(self, path: bytes) -> None:
        token = self._token()
        self._tokens.note(self._name, "make", path, token)
        await self._place.make(path, token + self._filler() + b"\n")
        self._tokens.acknowledged.add(token)

    async def _append(self) -> None:
        token, path = self._token(), await self._some(b"f")
        self._tokens.note(self._name, "append", path, token)
        await self._place.append(path, token + self._filler() + b"\n")
        self._tokens.acknowledged.add(token)

    async def _replace(self) -> None:
        """As an editor does it, but with an exchange: what was replaced is known for sure."""
        path = await self._some(b"f")
        temporary = self._temporary()
        await self._make(temporary)
        try:
            self._tokens.note(self._name, "exchange", path, temporary)
            await self._place.rename(temporary, path, EXCHANGE)
        finally:
            await self._discard(temporary)

    async def _delete(self) -> None:
        await self._take_out(await self._some(b"f"))

    async def _take_out(self, path: bytes) -> None:
        temporary = self._temporary()
        self._tokens.note(self._name, "take out", path, temporary)
        await self._place.rename(path, temporary, NOREPLACE)
        await self._discard(temporary)

    async def _discard(self, path: bytes) -> None:
        content = await self._place.content(path)
        self._tokens.note(self._name, "discard", path, TOKEN.findall(content))
        self._tokens.give_up(content)
        await self._place.unlink(path)

    async def _mkdir(self) -> None:
        await self._place.mkdir(_join(await self._directory(), self._random.choice(DIRECTORY_NAMES)))

    async def _rmdir(self) -> None:
        await self._place.rmdir(await self._some(b"d"))

    async def _remove_all(self) -> None:
        await self._remove_below(await self._some(b"d"))

    async def _remove_below(self, path: bytes) -> None:
        for name in sorted(await self._place.names(path)):
            below = _join(path, name)
            if await self._place.is_dir(below):
                await self._remove_below(below)
            else:
                await self._take_out(below)
        self._tokens.note(self._name, "rmdir", path)
        await self._place.rmdir(path)

    async def _move(self) -> None:
        target = _join(await self._directory(), self._random.choice(FILE_NAMES))
        source = await self._some(b"f")
        self._tokens.note(self._name, "move", source, target)
        await self._place.rename(source, target, NOREPLACE)

    async def _move_directory(self) -> None:
        target = _join(await self._directory(), self._random.choice(DIRECTORY_NAMES))
        source = await self._some(b"d")
        self._tokens.note(self._name, "move directory", source, target)
        await self._place.rename(source, target, NOREPLACE)

    async def _symlink(self) -> None:
        token = self._token()
        await self._place.symlink(token, _join(await self._directory(), self._random.choice(FILE_NAMES)))
        self._tokens.acknowledged.add(token)


class TahoeWorker:
    """A Tahoe node's web API: files and directories are made, files taken out.

    Tahoe's rename removes whatever stands under the old name by then: only what nobody else writes is taken out.
    """

    def __init__(self, client: TahoeClient, root: str, seed: str, tokens: Tokens) -> None:
        self._client, self._root = client, quote(root)
        self._random = random.Random(seed)
        self._tokens = tokens
        self._numbers = itertools.count(1)
        self.done: Counter[str] = Counter()

    async def step(self) -> None:
        """One change; a refusal, also because somebody else was writing, is no error."""
        kind = self._random.choice(("create", "create", "create", "take_out", "mkdir"))
        try:
            await trio.to_thread.run_sync(getattr(self, f"_{kind}"))
            self.done[kind] += 1
        except (AssertionError, OSError, HTTPException):  # Tahoe may break off in the middle of an answer
            self.done[f"{kind} was refused"] += 1

    def _below(self, path: str, kind: str) -> list[str]:
        _, details = json.loads(self._client.request("GET", f"/uri/{self._root}/{path}?t=json"))
        return sorted(name for name, child in details["children"].items() if child[0] == kind)

    def _directory(self) -> str:
        path = ""
        while self._random.random() < 0.55 and (below := self._below(path, "dirnode")):
            path += quote(self._random.choice(below)) + "/"
        return path

    def _create(self) -> None:
        token = b"<tahoe:%d>" % next(self._numbers)
        name = self._random.choice([*FILE_NAMES, *OWN_NAMES]).decode()
        path = self._directory() + name
        self._tokens.note(b"tahoe", "make", path, token)
        self._client.request("PUT", f"/uri/{self._root}/{path}?replace=false", token + b"." * 200)
        self._tokens.acknowledged.add(token)

    def _take_out(self) -> None:
        directory = self._directory()
        names = [name for name in self._below(directory, "filenode") if name.startswith("x")]
        if not names:
            raise FileNotFoundError
        name, new = quote(self._random.choice(names)), f"t-tahoe-{next(self._numbers)}"
        query = f"t=rename&from_name={name}&to_name={new}&replace=false"
        self._client.request("POST", f"/uri/{self._root}/{directory}?{query}", b"")
        content = self._client.request("GET", f"/uri/{self._root}/{directory}{new}")
        self._tokens.note(b"tahoe", "take out", directory, name, TOKEN.findall(content))
        self._tokens.give_up(content)
        self._client.request("DELETE", f"/uri/{self._root}/{directory}{new}")

    def _mkdir(self) -> None:
        name = self._random.choice(DIRECTORY_NAMES).decode()
        self._client.request(
            "POST", f"/uri/{self._root}/{self._directory()}?t=mkdir&name={name}&replace=false", b""
        )


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


def unlike(trees: Mapping[str, Mapping[bytes, tuple[object, ...]]]) -> list[str]:
    """In what the trees differ, path by path."""
    paths = set().union(*trees.values())
    found = []
    for path in sorted(paths):
        seen = {label: tree.get(path) for label, tree in trees.items()}
        if len(set(seen.values())) > 1:
            found.append(f"{path!r}: " + ", ".join(f"{label}: {what}" for label, what in seen.items()))
    return found
