"""What processes cost: CPU time as the scheduler counts it, and peak memory."""

from __future__ import annotations

import resource
from collections.abc import Iterable
from pathlib import Path


def cpu_of(pids: Iterable[int]) -> float:
    """CPU seconds of all threads that these processes have now; 0 for processes that are gone."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                total += int(task.read_text().split()[0])
            except OSError:  # the thread ended meanwhile
                continue
    return total / 1e9


def own_cpu() -> float:
    """CPU seconds of this process and the children it has waited for."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def memory(pid: int) -> int:
    """The resident size now, in bytes; 0 for a process that is gone."""
    return _size(pid, "VmRSS")


def peak_memory(pid: int) -> int:
    """The largest resident size so far, in bytes; 0 for a process that is gone."""
    return _size(pid, "VmHWM")


def _size(pid: int, what: str) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith(what)), 0)
