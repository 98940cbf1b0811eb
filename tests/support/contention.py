"""Random work of several clients on one directory tree, and what must have become of it in the end.

Every file that somebody makes or changes gets a token, a string of its own, which counts as acknowledged when the call
that wrote it returned. A token is given up only by whoever takes a file out of the tree and looks at it then: what is
not given up must be found somewhere in the end.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

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
}
"""What a call may say because somebody else was quicker."""
NOREPLACE, EXCHANGE = 1, 2
FILE_NAMES = [b"f%d.txt" % number for number in range(6)]
DIRECTORY_NAMES = [b"d%d" % number for number in range(3)]


@dataclass
class Tokens:
    """What was written, and what was taken out again."""

    acknowledged: set[bytes] = field(default_factory=set)
    given_up: set[bytes] = field(default_factory=set)
    names: dict[bytes, bytes] = field(default_factory=dict)

    def give_up(self, content: bytes) -> None:
        self.given_up.update(TOKEN.findall(content))

    def missing(self, contents: Iterable[bytes]) -> set[bytes]:
        """Acknowledged tokens that are in none of the contents."""
        found: set[bytes] = set()
        for content in contents:
            found.update(TOKEN.findall(content))
        return self.acknowledged - self.given_up - found


class TreeWorker:
    """One client of a working tree; `step` does one random thing."""

    def __init__(self, fs: Files, name: str, seed: str, tokens: Tokens) -> None:
        self._fs = fs
        self._name = name.encode()
        self._random = random.Random(seed)
        self._tokens = tokens
        self._numbers = itertools.count(1)
        self.done: Counter[str] = Counter()

    async def step(self) -> None:
        """One call or a few; what others made impossible in the meantime is no error."""
        weights = {
            "create": 10,
            "append": 10,
            "replace": 5,
            "delete": 6,
            "mkdir": 5,
            "rmdir": 2,
            "remove_all": 1,
            "move": 4,
            "move_directory": 2,
            "symlink": 2,
        }
        (kind,) = self._random.choices(list(weights), list(weights.values()))
        try:
            await getattr(self, f"_{kind}")()
            self.done[kind] += 1
        except OSError as problem:
            if problem.errno not in EXPECTED:
                raise
            self.done[f"{kind} was not possible"] += 1

    # --- choosing --------------------------------------------------------------------------------------

    async def _directory(self) -> bytes:
        """Some directory, the root more often than others."""
        path = b""
        while self._random.random() < 0.55:
            below = [name for name in sorted(await self._fs.names(path)) if name[:1] == b"d"]
            if not below:
                break
            found = path + b"/" + self._random.choice(below) if path else self._random.choice(below)
            if not (await self._fs.find(found)).is_dir:
                break
            path = found
        return path

    async def _some(self, kind: bytes) -> bytes:
        directory = await self._directory()
        names = [name for name in sorted(await self._fs.names(directory)) if name.startswith(kind)]
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

    async def _make(self, path: bytes) -> bytes:
        token = self._token()
        handle = await self._fs.create(path)
        try:
            await self._fs.pwrite(handle, token + self._filler() + b"\n", 0)
        finally:
            await self._fs.close(handle)
        self._tokens.acknowledged.add(token)
        return token

    async def _append(self) -> None:
        token = self._token()
        handle = await self._fs.open(await self._some(b"f"), os.O_WRONLY)
        try:
            size = self._fs.tree.files.inode_of(handle).attributes.size
            await self._fs.pwrite(handle, token + self._filler() + b"\n", size)
        finally:
            await self._fs.close(handle)
        self._tokens.acknowledged.add(token)

    async def _replace(self) -> None:
        """As an editor does it, but with an exchange: what was replaced is known for sure."""
        path = await self._some(b"f")
        temporary = self._temporary()
        await self._make(temporary)
        try:
            await self._fs.rename(temporary, path, EXCHANGE)
        finally:
            await self._discard(temporary)

    async def _delete(self) -> None:
        await self._take_out(await self._some(b"f"))

    async def _take_out(self, path: bytes) -> None:
        temporary = self._temporary()
        await self._fs.rename(path, temporary, NOREPLACE)
        await self._discard(temporary)

    async def _discard(self, path: bytes) -> None:
        inode = await self._fs.find(path)
        if inode.is_dir:
            raise IsADirectoryError(errno.EISDIR, "a directory")
        link = inode.attributes.mode & 0o170000 == 0o120000
        content = await self._fs.readlink(path) if link else await self._fs.read(path)
        self._tokens.give_up(content)
        await self._fs.unlink(path)

    async def _mkdir(self) -> None:
        await self._fs.mkdir(_join(await self._directory(), self._random.choice(DIRECTORY_NAMES)))

    async def _rmdir(self) -> None:
        await self._fs.rmdir(await self._some(b"d"))

    async def _remove_all(self) -> None:
        await self._remove_below(await self._some(b"d"))

    async def _remove_below(self, path: bytes) -> None:
        for name in sorted(await self._fs.names(path)):
            below = _join(path, name)
            if (await self._fs.find(below)).is_dir:
                await self._remove_below(below)
            else:
                await self._take_out(below)
        await self._fs.rmdir(path)

    async def _move(self) -> None:
        target = _join(await self._directory(), self._random.choice(FILE_NAMES))
        await self._fs.rename(await self._some(b"f"), target, NOREPLACE)

    async def _move_directory(self) -> None:
        target = _join(await self._directory(), self._random.choice(DIRECTORY_NAMES))
        await self._fs.rename(await self._some(b"d"), target, NOREPLACE)

    async def _symlink(self) -> None:
        token = self._token()
        await self._fs.symlink(token, _join(await self._directory(), self._random.choice(FILE_NAMES)))
        self._tokens.acknowledged.add(token)


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
