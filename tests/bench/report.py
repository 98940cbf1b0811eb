"""Medians and ratios: as a table for people, as JSON for programs."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from tests.bench.running import Outcome


@dataclass
class Cell:
    """All rounds of one step in one place: rates by round, CPU milliseconds per unit."""

    unit: str
    rates: dict[int, float] = field(default_factory=dict)
    client: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)
    partial: bool = False

    @property
    def median(self) -> float:
        return statistics.median(self.rates.values())


@dataclass
class Results:
    """Everything that was measured. `cells[step][place]`; peak memory in bytes and failures by place."""

    machine: dict[str, Any]
    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, group: str, place: str, number: int, outcome: Outcome) -> None:
        """Book what a group of workloads gave in round `number`."""
        for measure in outcome.measures:
            cell = self.cells.setdefault(measure.step, {}).setdefault(place, Cell(measure.unit))
            cell.rates[number] = measure.rate
            cell.client.append(measure.client * 1e3)
            cell.server.append(measure.server * 1e3)
            cell.partial |= measure.partial
        self.peaks[place] = max(self.peaks.get(place, 0), outcome.peak)
        if outcome.failure:
            self.failures.append(f"{group} on {place}, round {number}: {outcome.failure}")

    def ratio(self, step: str, place: str, other: str) -> float | None:
        """How many times as fast `place` is as `other`: the median of the ratios of rounds."""
        cells = self.cells[step]
        if place not in cells or other not in cells:
            return None
        mine, theirs = cells[place].rates, cells[other].rates
        paired = [mine[number] / theirs[number] for number in mine if theirs.get(number)]
        return statistics.median(paired) if paired else None

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        steps = {
            step: {
                place: {
                    "unit": cell.unit,
                    "rates": list(cell.rates.values()),
                    "median": cell.median,
                    "client_cpu_ms": statistics.median(cell.client),
                    "server_cpu_ms": statistics.median(cell.server),
                    "partial": cell.partial,
                }
                for place, cell in cells.items()
            }
            for step, cells in self.cells.items()
        }
        return {
            "machine": self.machine,
            "steps": steps,
            "peak_memory": self.peaks,
            "failures": self.failures,
        }


def table(results: Results, places: list[str], mine: str = "lafsfs") -> str:
    """Markdown: rates a second of every place, and how many times as fast `mine` is as each of the others."""
    lines = [
        "Units a second (medians); in brackets: how many times as fast lafsfs is. CPU: milliseconds of the mount and",
        "of its server for each unit of lafsfs. A tilde: the time was over before all was done.",
        "",
        f"| | {' | '.join(places)} | CPU | server |",
        f"|---|{'---:|' * (len(places) + 2)}",
    ]
    for step, cells in results.cells.items():
        columns = [_column(results, step, place, mine) for place in places]
        unit = next(iter(cells.values())).unit
        cpu = cells.get(mine)
        costs = [_short(statistics.median(v)) for v in (cpu.client, cpu.server)] if cpu else ["", ""]
        lines.append(f"| {step} ({unit}) | {' | '.join(columns + costs)} |")
    peaks = [f"{results.peaks.get(place, 0) >> 20}" for place in places]
    lines.append(f"| peak memory (MiB) | {' | '.join(peaks)} | | |")
    return "\n".join(lines)


def _column(results: Results, step: str, place: str, mine: str) -> str:
    cell = results.cells[step].get(place)
    if cell is None:
        return ""
    text = ("~" if cell.partial else "") + _short(cell.median)
    ratio = results.ratio(step, mine, place) if place != mine else None
    return text if ratio is None else f"{text} ({_short(ratio)})"


def _short(value: float) -> str:
    """Three figures."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
