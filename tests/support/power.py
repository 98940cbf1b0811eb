"""What a power failure leaves: of every file what was last forced to the disk, under the names that were forced
there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


class Disk:
    """Watches fsync, fdatasync and rename of this process below `top`. The calls themselves are the real ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, top: Path) -> None:
        self._top = top
        self._contents: dict[Path, bytes] = {}
        self._names: set[Path] = set()
        self._renamed: list[tuple[Path, Path]] = []  # since their directory was synced
        for name in ("fsync", "fdatasync"):
            self._watch(monkeypatch, name)
        self._watch_rename(monkeypatch)

    def _watch(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        call = getattr(os, name)

        def watched(number: int) -> object:
            path = Path(os.readlink(f"/proc/self/fd/{number}"))
            if not path.is_relative_to(self._top):
                return call(number)
            # Taken before the call: what is written while it runs may or may not be on the disk.
            content = path.read_bytes() if path.is_file() else None
            names = set(path.iterdir()) if path.is_dir() else set()
            done = call(number)
            if content is not None:
                self._contents[path] = content
            self._names |= names
            if names:
                self._move(path)
            return done

        monkeypatch.setattr(os, name, watched)

    def _watch_rename(self, monkeypatch: pytest.MonkeyPatch) -> None:
        call = os.rename

        def watched(old: os.PathLike[str], new: os.PathLike[str]) -> None:
            call(old, new)
            self._renamed.append((Path(old), Path(new)))

        monkeypatch.setattr(os, "rename", watched)

    def _move(self, directory: Path) -> None:
        """The directory was synced: what was renamed in it has its new name for good."""
        for old, new in self._renamed:
            if new.parent == directory and old in self._contents:
                self._contents[new] = self._contents.pop(old)
        self._renamed = [(old, new) for old, new in self._renamed if new.parent != directory]

    def after_power_failure(self, copy: Path) -> Path:
        """Make `copy` the directory as it comes back after a power failure at this instant."""
        copy.mkdir(parents=True)
        for path in sorted(self._top.rglob("*")):
            there = copy / path.relative_to(self._top)
            if path.is_dir():
                there.mkdir(exist_ok=True)
        for path, content in list(self._contents.items()):  # threads sync meanwhile
            if path in self._names:
                there = copy / path.relative_to(self._top)
                if there.parent.is_dir():
                    there.write_bytes(content)
        return copy
