"""What contrib/ ships beside the commands: the fstab helper, completions, installation scripts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONTRIB = Path(__file__).resolve().parents[2] / "contrib"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program that prints its LAFSFS_HOME and its arguments, a line each."""
    path = tmp_path / "show"
    path.write_text('#!/bin/sh\necho "home=${LAFSFS_HOME:-}"\nprintf "%s\\n" "$@"\n')
    path.chmod(0o755)
    return path


def helper(*arguments: str) -> subprocess.CompletedProcess[str]:
    """mount.lafsfs as mount(8) calls it."""
    environment = {name: value for name, value in os.environ.items() if name != "LAFSFS_HOME"}
    return subprocess.run(
        [CONTRIB / "mount.lafsfs", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=30,
        check=False,
    )


def test_fstab_helper_turns_its_line_into_a_mount(program: Path) -> None:
    options = f"rw,nosuid,home=/h,lafsfs={program},node-directory=/n,fsync=grid"
    done = helper("home:a b", "/mnt/x y", "-o", options)
    assert done.stdout.splitlines() == [
        "home=/h",
        "mount",
        "--node-directory",
        "/n",
        "-o",
        "rw,nosuid,fsync=grid",
        "--",
        "home:a b",
        "/mnt/x y",
    ]


def test_fstab_helper_takes_what_mount_passes(program: Path) -> None:
    done = helper("home:", "/mnt", "-s", "-n", "-v", "-o", f"lafsfs={program}")
    assert done.stdout.splitlines() == ["home=", "mount", "--", "home:", "/mnt"]
    assert helper("home:", "/mnt", "-f", "-o", f"lafsfs={program}").stdout == ""


def test_fstab_helper_refuses_caps(program: Path) -> None:
    done = helper("URI:DIR2:secret", "/mnt", "-o", f"lafsfs={program}")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "fstab" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_are_those_of_the_commands(shell: str) -> None:
    made = subprocess.run(
        [Path(sys.executable).with_name("lafsfs")],
        env={**os.environ, "_LAFSFS_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert (CONTRIB / "completions" / f"lafsfs.{shell}").read_text() == made.stdout


def test_installation_is_silent_when_nothing_is_missing() -> None:
    done = subprocess.run(
        ["sh", CONTRIB / "install" / "system.sh"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_lock_file_pins_everything_and_names_no_index() -> None:
    lines = (CONTRIB / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if line[:1].isalnum()]
    assert len(pins) > 30
    assert all("==" in line for line in pins)
    assert sum("--hash=sha256:" in line for line in lines) >= len(pins)
    assert not any("://" in line or line.startswith("-") for line in lines)


def test_installation_takes_a_python_that_is_new_enough() -> None:
    chosen = subprocess.run(
        ["sh", CONTRIB / "install" / "python.sh"], capture_output=True, text=True, timeout=30, check=True
    ).stdout.strip()
    version = subprocess.run(
        [chosen, "-c", "import sys; print(sys.version_info >= (3, 11))"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert version.stdout.strip() == "True"
