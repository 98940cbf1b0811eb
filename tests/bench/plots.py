"""Bars as PNG, for people who rather look than read. Needs matplotlib, which `make plots` installs.

python -m tests.bench.plots DIR        draws what DIR/results.json says
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FIGURES = {
    "metadata": ("create 4 KiB", "stat", "rename", "unlink", "mkdir", "list with stat"),
    "programs": ("tar x", "find", "git add", "git commit", "git status", "rm -r", "sqlite, wal"),
    "data": ("write and close", "overwrite, fsync", "read warm", "read cold", "four write", "four read"),
    "grid": (
        "large file, on the grid",
        "large file, from the grid",
        "4 KiB files, on the grid",
        "4 KiB files, from the grid",
        "directories, on the grid",
    ),
}
"""By name of the file: the steps in it."""


def draw(results: Mapping[str, Any], directory: Path) -> list[Path]:
    """One picture for each figure of which something was measured. `results` are those of `as_json`. ImportError."""
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    steps, places = results["steps"], list(results["peak_memory"])
    drawn = []
    for name, wanted in FIGURES.items():
        present = [step for step in wanted if step in steps]
        shown = [place for place in places if any(place in steps[step] for step in present)]
        if not present:
            continue
        figure, axes = pyplot.subplots(1, len(present), figsize=(2.4 * len(present), 3.6), squeeze=False)
        for axis, step in zip(axes[0], present, strict=True):
            heights = [steps[step][place]["median"] if place in steps[step] else 0.0 for place in shown]
            axis.bar(range(len(shown)), heights, color=[f"C{places.index(place)}" for place in shown])
            axis.set_xticks(range(len(shown)), shown, rotation=60, ha="right", fontsize=7)
            axis.tick_params(axis="y", labelsize=7)
            axis.set_title(f"{step}\n{next(iter(steps[step].values()))['unit']}/s", fontsize=8)
        figure.tight_layout()
        path = directory / f"{name}.png"
        figure.savefig(path, dpi=110)
        pyplot.close(figure)
        drawn.append(path)
    return drawn


def main() -> None:
    """Draw the results in a directory again."""
    directory = Path(sys.argv[1])
    for path in draw(json.loads((directory / "results.json").read_text()), directory):
        print(path)


if __name__ == "__main__":
    main()
