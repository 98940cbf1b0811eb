"""A worker that changes its own part of a mounted tree, and keeps book of every call that returned."""

from __future__ import annotations

import contextlib
import os
import random
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.crash.model import Model, Node, Step

SIZES = (0, 1, 55, 56, 4000, 16384, 16385, 60_000, 200_000, 700_000)
MOST_FILES = 60
MOST_DIRECTORIES = 15


class Worker:
    """Random operations in `top`, one at a time. `step` is the call under way, None between calls."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self.model = Model()
        self.step: Step | None = None
        self.done = 0
        self.failure: OSError | None = None  # what ended the work
        self._serial = 0
        self._handles: dict[str, int] = {}
        self._top = Path()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    # --- running ---------------------------------------------------------------------------------------

    def start(self, top: Path) -> None:
        """Work in `top` until `stop`, or until the mount is gone."""
        self._top = top
        self._stop.clear()
        self.step, self.failure = None, None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 60.0) -> None:
        """End the work; AssertionError if a call does not return."""
        self._stop.set()
        if self._thread is None:
            return
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"a call hangs: {self.step.text if self.step else '?'}"

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                for step in self._operation():
                    self._do(step)
                if self.random.random() < 0.3:
                    time.sleep(self.random.random() * 0.02)
        except OSError as problem:
            self.failure = problem
        finally:
            for handle in self._handles.values():
                with contextlib.suppress(OSError):
                    os.close(handle)
            self._handles.clear()

    def _do(self, step: Step) -> None:
        self.step = step
        step.call()
        step.apply(self.model)
        self.step = None
        self.done += 1

    # --- choosing --------------------------------------------------------------------------------------

    def _operation(self) -> Iterator[Step]:
        """The steps of one randomly chosen operation; empty if it is not possible just now."""
        full = len(self.model.of_kind(stat.S_IFREG)) >= MOST_FILES
        weighted: list[tuple[int, Callable[[], Iterator[Step]]]] = [
            (2 if full else 12, self._create),
            (8, self._append),
            (6, self._overwrite),
            (4, self._truncate),
            (6, self._replace),
            (6, self._rename),
            (8 if full else 3, self._unlink),
            (3, self._mkdirs),
            (2, self._rmdir),
            (2, self._symlink),
            (2, self._link),
            (2, self._chmod),
            (2, self._setxattr),
            (1, self._removexattr),
            (2, self._utime),
            (3, self._fsync),
            (2, self._move_directory),
        ]
        weights = [weight for weight, _ in weighted]
        (chosen,) = self.random.choices([operation for _, operation in weighted], weights)
        return chosen()

    def _file(self) -> str | None:
        files = self.model.of_kind(stat.S_IFREG)
        return self.random.choice(files) if files else None

    def _directory(self) -> str:
        return self.random.choice(["", *self.model.of_kind(stat.S_IFDIR)])

    def _new(self, kind: str) -> str:
        self._serial += 1
        directory = self._directory()
        name = f"{kind}{self._serial}" if self.random.random() < 0.9 else f"{kind}{self._serial} ü\u0308"
        return f"{directory}/{name}" if directory else name

    def _bytes(self) -> bytes:
        return self.random.randbytes(self.random.choice(SIZES))

    # --- operations ------------------------------------------------------------------------------------

    def _create(self) -> Iterator[Step]:
        path, data = self._new("f"), self._bytes()
        opened: list[int] = []
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL

        def create() -> None:
            opened.append(os.open(self._top / path, flags, 0o644))

        mode = stat.S_IFREG | 0o644
        yield Step(f"create {path}", lambda m: m.put(path, Node(mode, bytearray())), create)
        try:
            yield from self._write(path, opened[0], 0, data)
        finally:
            os.close(opened[0])

    def _write(self, path: str, handle: int, offset: int, data: bytes) -> Iterator[Step]:
        if data:
            yield Step(
                f"write {path} at {offset}, {len(data)} bytes",
                lambda m: m.write(path, offset, data),
                lambda: _write_all(handle, data, offset),
                path,
                offset,
                data,
            )

    def _opened(self, path: str) -> int:
        """A descriptor for a file that may stay open over many operations."""
        handle = self._handles.get(path)
        if handle is None:
            handle = os.open(self._top / path, os.O_RDWR)
            self._handles[path] = handle
        return handle

    def _close(self, path: str) -> None:
        """Nobody may rename or remove what the book has open under this name, nor what is below."""
        for held in [held for held in self._handles if held == path or held.startswith(path + "/")]:
            os.close(self._handles.pop(held))

    def _close_some(self) -> None:
        for path in list(self._handles):
            if self.random.random() < 0.5:
                self._close(path)

    def _append(self) -> Iterator[Step]:
        if (path := self._file()) is not None:
            yield from self._write(path, self._opened(path), len(self.model.content(path)), self._bytes())
            self._close_some()

    def _overwrite(self) -> Iterator[Step]:
        if (path := self._file()) is not None:
            offset = self.random.randrange(len(self.model.content(path)) + 5000)
            yield from self._write(path, self._opened(path), offset, self._bytes())
            self._close_some()

    def _truncate(self) -> Iterator[Step]:
        if (path := self._file()) is not None:
            size = self.random.randrange(len(self.model.content(path)) * 2 + 2)
            size = min(size, 1_000_000)
            yield Step(
                f"truncate {path} to {size}",
                lambda m: m.truncate(path, size),
                lambda: os.truncate(self._top / path, size),
            )

    def _replace(self) -> Iterator[Step]:
        """A new version beside the old one, then renamed over it, as editors do."""
        old = self._file()
        before = set(self.model.nodes)
        yield from self._create()
        new = next(iter(set(self.model.nodes) - before), None)
        if old is None or new is None:
            return
        if self.random.random() < 0.5:
            yield self._sync_step(new)
        self._close(old)
        self._close(new)
        yield self._rename_step(new, old)

    def _rename_step(self, old: str, new: str) -> Step:
        return Step(
            f"rename {old} {new}",
            lambda m: m.move(old, new),
            lambda: os.rename(self._top / old, self._top / new),
        )

    def _rename(self) -> Iterator[Step]:
        if (old := self._file()) is not None:
            new = self._file() if self.random.random() < 0.3 else self._new("r")
            if new is None or new == old or self.model.nodes[old] is self.model.nodes.get(new):
                return
            self._close(old)
            self._close(new)
            yield self._rename_step(old, new)

    def _move_directory(self) -> Iterator[Step]:
        directories = self.model.of_kind(stat.S_IFDIR)
        if directories:
            old, new = self.random.choice(directories), self._new("m")
            if new.startswith(old + "/"):
                return
            self._close(old)
            yield self._rename_step(old, new)

    def _unlink(self) -> Iterator[Step]:
        if (path := self._file()) is not None:
            if self.random.random() < 0.7:
                self._close(path)
            else:
                handle = self._handles.pop(path, None)
                if handle is not None:
                    self._handles[f"\0{handle}"] = handle
            yield Step(f"unlink {path}", lambda m: m.remove(path), lambda: os.unlink(self._top / path))

    def _mkdirs(self) -> Iterator[Step]:
        path = self._directory()
        for _ in range(self.random.randint(1, 3)):
            if len(self.model.of_kind(stat.S_IFDIR)) >= MOST_DIRECTORIES:
                return
            self._serial += 1
            path = f"{path}/d{self._serial}" if path else f"d{self._serial}"
            yield self._mkdir_step(path)

    def _mkdir_step(self, path: str) -> Step:
        node = Node(stat.S_IFDIR | 0o755)
        return Step(f"mkdir {path}", lambda m: m.put(path, node), lambda: os.mkdir(self._top / path, 0o755))

    def _rmdir(self) -> Iterator[Step]:
        empty = [path for path in self.model.of_kind(stat.S_IFDIR) if self.model.is_empty(path)]
        if empty:
            path = self.random.choice(empty)
            yield Step(f"rmdir {path}", lambda m: m.remove(path), lambda: os.rmdir(self._top / path))

    def _symlink(self) -> Iterator[Step]:
        path, target = self._new("s"), f"to/{self.random.random()}"
        node = Node(stat.S_IFLNK | 0o777, bytearray(target.encode()))
        yield Step(
            f"symlink {path}", lambda m: m.put(path, node), lambda: os.symlink(target, self._top / path)
        )

    def _link(self) -> Iterator[Step]:
        if (old := self._file()) is not None:
            new = self._new("l")
            yield Step(
                f"link {old} {new}",
                lambda m: m.put(new, m.nodes[old]),
                lambda: os.link(self._top / old, self._top / new),
            )

    def _chmod(self) -> Iterator[Step]:
        if (path := self._file()) is not None:
            bits = self.random.choice((0o600, 0o640, 0o644, 0o755))

            def change(model: Model) -> None:
                model.nodes[path].mode = stat.S_IFREG | bits

            yield Step(f"chmod {path} {bits:o}", change, lambda: os.chmod(self._top / path, bits))

    def _setxattr(self) -> Iterator[Step]:
        if (path := self._file()) is not None:
            value = self.random.randbytes(self.random.choice((1, 100, 3000)))
            yield Step(
                f"setxattr {path}",
                lambda m: m.nodes[path].xattrs.update({"user.x": value}),
                lambda: os.setxattr(self._top / path, "user.x", value),
            )

    def _removexattr(self) -> Iterator[Step]:
        if (path := self._file()) is not None and self.model.nodes[path].xattrs:
            yield Step(
                f"removexattr {path}",
                lambda m: m.nodes[path].xattrs.clear(),
                lambda: os.removexattr(self._top / path, "user.x"),
            )

    def _utime(self) -> Iterator[Step]:
        if (path := self._file()) is not None:
            when = self.random.randrange(1 << 60)

            def change(model: Model) -> None:
                model.nodes[path].mtime = when

            yield Step(f"utime {path}", change, lambda: os.utime(self._top / path, ns=(when, when)))

    def _fsync(self) -> Iterator[Step]:
        if (path := self._file()) is not None:
            yield self._sync_step(path)

    def _sync_step(self, path: str) -> Step:
        return Step(f"fsync {path}", lambda m: None, lambda: os.fsync(self._opened(path)))


def _write_all(handle: int, data: bytes, offset: int) -> None:
    while data:
        count = os.pwrite(handle, data, offset)
        data, offset = data[count:], offset + count
