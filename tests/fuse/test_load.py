"""Load generators that check what they read. `make posix` runs these, `make test` does not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.fuse.conftest import remount
from tests.support.mounts import MountedTree
from tests.support.programs import needs, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STRESSORS = [
    "access", "chdir", "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep", "dup", "fallocate", "fcntl", "fiemap",
    "file-ioctl", "filename", "flock", "fpunch", "fstat", "getdent", "hdd", "io", "iomix", "lease", "link",
    "locka", "lockf", "lockofd", "mknod", "mmap", "open", "rename", "seek", "splice", "symlink", "sync-file",
    "touch", "utime", "verity", "xattr",
]  # fmt: skip
NOT_OF_FILE_SYSTEMS = ("skipped", "not supported")


@needs("stress-ng")
@pytest.mark.parametrize("stressor", STRESSORS)
def test_stress_ng(place: Path, stressor: str) -> None:
    options = ["--timeout", "3s", "--verify", "--temp-path", str(place), "--metrics-brief"]
    extra = {
        "hdd": ["--hdd-bytes", "8m"],
        "mmap": ["--mmap-file", "--mmap-bytes", "4m"],
        "dentry": ["--dentries", "200"],
    }
    extra |= {
        "iomix": ["--iomix-bytes", "8m"],
        "seek": ["--seek-size", "8m"],
        "copy-file": ["--copy-file-bytes", "128m"],
    }
    extra |= {"fallocate": ["--fallocate-bytes", "8m"], "sync-file": ["--sync-file-bytes", "8m"]}
    command = ["stress-ng", f"--{stressor}", "1", *extra.get(stressor, []), *options]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=200, check=False)
    text = done.stdout + done.stderr
    assert done.returncode == 0 or any(word in text for word in NOT_OF_FILE_SYSTEMS), text
    assert "fail:" not in text, text


@needs("fio")
@pytest.mark.parametrize("job", ["write", "randwrite", "randrw", "mmap", "direct", "append"])
def test_fio_verifies(tree: MountedTree, place: Path, job: str) -> None:
    engine = {"mmap": "mmap"}.get(job, "psync")
    rw = {"mmap": "randwrite", "direct": "randwrite", "append": "write"}.get(job, job)
    common = [
        "fio", "--name=job", f"--filename={place}/data", f"--rw={rw}", f"--ioengine={engine}", "--size=24m", "--bs=16k",
        "--verify=crc32c", "--verify_fatal=1", "--randseed=42", f"--direct={int(job == 'direct')}", "--group_reporting",
    ]  # fmt: skip
    run(*common, "--do_verify=1", *(["--file_append=1"] if job == "append" else []), cwd=place)
    if job in ("write", "randwrite"):
        remount(tree)
        run(*common, "--verify_only", cwd=place)


@needs("dbench")
def test_dbench(place: Path) -> None:
    loadfile = Path("/usr/share/dbench/client.txt")
    out = run("dbench", "-t", "5", "-D", place, "-c", loadfile, "2", cwd=place)
    assert "Throughput" in out
