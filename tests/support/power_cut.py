"""A power failure for a mount process: its state directory as the disk may hold it then.

    recorder = Recorder.build(tmp_path, state)         # None without a C compiler
    mount with recorder.environment ... kill -9 ...
    recorder.cut(random)

What was forced to the disk is there. Of what was not, any part may be: every page of a file, every new or removed name.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_PAGE = 4096
_SHIM = Path(__file__).with_name("power_shim.c")
_NAMES = ".names"
_UNTOUCHED = (".log", ".lock")  # of no interest: what people read, and what only running processes use


@dataclass(frozen=True)
class Recorder:
    """What processes with `environment` force to the disk below `top` is remembered in `shadow`."""

    library: Path
    top: Path
    shadow: Path

    @classmethod
    def build(cls, directory: Path, top: Path) -> Recorder | None:
        """Make one in `directory`. None without a C compiler."""
        program = compiler()
        if program is None:
            return None
        library, shadow = directory / "power_shim.so", directory / "shadow"
        shadow.mkdir(parents=True)
        command = [program, "-O1", "-shared", "-fPIC", "-o", str(library), str(_SHIM), "-ldl"]
        subprocess.run(command, check=True, timeout=60)
        return cls(library, top, shadow)

    @property
    def environment(self) -> dict[str, str]:
        """For the process that is to be watched."""
        return {
            "LD_PRELOAD": str(self.library),
            "POWER_TOP": str(self.top),
            "POWER_SHADOW": str(self.shadow),
        }

    def begin(self) -> None:
        """All that is below `top` is on the disk. Nobody runs."""
        shutil.rmtree(self.shadow)
        self.shadow.mkdir()
        for path in [self.top, *self.top.rglob("*")]:
            there = self.shadow / path.relative_to(self.top)
            if path.is_dir():
                there.mkdir(parents=True, exist_ok=True)
                (there / _NAMES).write_text("".join(f"{name}\n" for name in os.listdir(path)))
            elif path.is_file():
                shutil.copyfile(path, there)

    def cut(self, chance: random.Random) -> None:
        """Nobody runs any more: make of `top` what may be left after a power failure."""
        self._cut_directory(self.top, self.shadow, chance)

    def _cut_directory(self, now: Path, before: Path, chance: random.Random) -> None:
        listing = before / _NAMES
        synced = set(listing.read_text().splitlines()) if listing.exists() else set()
        for name in sorted({*os.listdir(now), *synced} - {".", ".."}):
            path, old = now / name, before / name
            if path.suffix in _UNTOUCHED:
                continue
            if path.suffix == ".sqlite-shm":
                path.unlink(missing_ok=True)
            elif path.is_dir():
                self._cut_directory(path, old, chance)
            elif name not in synced and chance.random() < 0.5:
                path.unlink(missing_ok=True)  # its name never got to the disk
            elif path.exists() or (old.exists() and chance.random() < 0.5):
                current = path.read_bytes() if path.exists() else b""
                path.write_bytes(_mixed(old.read_bytes() if old.exists() else b"", current, chance))


def compiler() -> str | None:
    """The C compiler, if there is one."""
    return shutil.which("cc")


def _mixed(old: bytes, new: bytes, chance: random.Random) -> bytes:
    """The old content, the new one, or some pages of each."""
    kind = chance.random()
    if old == new or kind < 0.3:
        return old
    if kind < 0.5:
        return new
    size = chance.choice((len(old), len(new)))
    pages = []
    for start in range(0, size, _PAGE):
        source = old if chance.random() < 0.5 else new
        pages.append(source[start : start + _PAGE].ljust(min(_PAGE, size - start), b"\0"))
    return b"".join(pages)
