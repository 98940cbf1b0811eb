"""The benchmark itself: it runs, measures, compares and reports; it notices wrong data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.places import LocalDisk
from tests.bench.report import Results, table
from tests.bench.running import Run, Sizes, run_group
from tests.bench.workloads import same, small_files, write_file

TINY = Sizes(mib=1, files=5, entries=20, operations=20)


def test_a_short_run_compares_two_places(tmp_path: Path) -> None:
    sizes = ["--size", "1", "--files", "50", "--rounds", "2", "--quick"]
    command = [
        sys.executable,
        "-m",
        "tests.bench",
        *sizes,
        "--places",
        "memory",
        "disk",
        "--only",
        "small",
        "append",
    ]
    done = subprocess.run(
        [*command, "--out", tmp_path], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert not results["failures"]
    for step in ("create 4 KiB", "unlink", "mkdir", "append"):
        assert all(results["steps"][step][place]["median"] > 0 for place in ("memory", "disk"))
    assert results["steps"]["create 4 KiB"]["memory"]["client_cpu_ms"] > 0
    assert results["peak_memory"]["memory"] > 0
    assert "| create 4 KiB (ops) |" in (tmp_path / "results.md").read_text()


class _Forgetful(LocalDisk):
    """Loses the last byte of every file when asked to forget."""

    def cold(self) -> bool:
        for path in self.path.rglob("file *"):
            path.write_bytes(path.read_bytes()[:-1])
        return True


def test_wrong_data_is_noticed(tmp_path: Path) -> None:
    outcome = run_group(small_files, "small", _Forgetful("disk", tmp_path), TINY, 1, 60)
    assert outcome.failure.startswith("WRONG DATA")
    assert not list(tmp_path.iterdir())


def test_a_workload_that_hangs_is_given_up(tmp_path: Path) -> None:
    def hang(run: Run) -> None:
        (tmp_path / "fifo").read_bytes()

    subprocess.run(["mkfifo", tmp_path / "fifo"], check=True)
    outcome = run_group(hang, "hang", LocalDisk("disk", tmp_path), TINY, 1, 0.5)
    assert "no result" in outcome.failure


def test_ratios_are_taken_within_a_round(tmp_path: Path) -> None:
    results = Results({})
    for number in range(2):
        for name in ("lafsfs", "other"):
            results.add(
                "small",
                name,
                number,
                run_group(small_files, name, LocalDisk(name, tmp_path), TINY, number, 60),
            )
    ratio = results.ratio("stat", "lafsfs", "other")
    cells = results.cells["stat"]
    expected = sum(cells["lafsfs"].rates[i] / cells["other"].rates[i] for i in range(2)) / 2
    assert ratio == pytest.approx(expected)
    assert "| stat (ops) |" in table(results, ["lafsfs", "other"])


def test_data_is_compared(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_file(path, b"abc")
    same(path, b"abc")
    with pytest.raises(Exception, match="3 bytes long"):
        same(path, b"abcd")
