"""What a power failure leaves: of every file what was last forced to the disk, under the names that were forced
there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


class Disk:
    """Watches fsync and fdatasync of this process below `top`. The calls themselves are the real ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, top: Path) -> None:
        self._top = top
        self._contents: dict[Path, bytes] = {}
        self._names: set[Path] = set()
        for name in ("fsync", "fdatasync"):
            self._watch(monkeypatch, name)

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
            return done

        monkeypatch.setattr(os, name, watched)

    def after_power_failure(self, copy: Path) -> Path:
        """Make `copy` the directory as it comes back after a power failure at this instant."""
        copy.mkdir(parents=True)
        for path in sorted(self._top.rglob("*")):
            there = copy / path.relative_to(self._top)
            if path.is_dir():
                there.mkdir(exist_ok=True)
        for path, content in self._contents.items():
            if path in self._names:
                there = copy / path.relative_to(self._top)
                if there.parent.is_dir():
                    there.write_bytes(content)
        return copy
