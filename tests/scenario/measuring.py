"""What things cost a mount process: wall-clock time, processor time, memory. Printed, so run with -s."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Cost:
    """Seconds."""

    wall: float = 0.0
    cpu: float = 0.0


@dataclass
class Meter:
    """Watches one mount process after the other."""

    pid: int = 0
    peak: int = 0  # bytes, of all processes so far
    costs: dict[str, Cost] = field(default_factory=dict)

    def watch(self, pid: int) -> None:
        """From now on it is this process."""
        self.pid = pid

    @contextmanager
    def step(self, name: str) -> Iterator[Cost]:
        """Measure the block."""
        began, before = time.monotonic(), self._cpu()
        cost = self.costs[name] = Cost()
        yield cost
        cost.wall = time.monotonic() - began
        cost.cpu = max(self._cpu() - before, 0.0)
        self.peak = max(self.peak, self._high_water())
        print(
            f"\n  {name:<42} {cost.wall:8.1f} s  {cost.cpu:8.1f} s CPU  {self.peak >> 20:5d} MiB",
            end="",
            flush=True,
        )

    def _cpu(self) -> float:
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return 0.0
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def _high_water(self) -> int:
        try:
            text = Path(f"/proc/{self.pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return next((int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("VmHWM")), 0)
