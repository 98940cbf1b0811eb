"""One mount for all tests of this folder (of each process of the run), one directory per test.

In the end, everything the tests left is compared with what a new mount shows that has nothing but the grid: the cache
and the state directory are deleted in between.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.many import three_of_ten
from tests.support.mounts import LafsfsHome, MountedTree, lafsfs_home
from tests.support.snapshots import differences, snapshot

ROOT_OPTIONS = ("-o", "allow_other,suid,dev")


def mount_options() -> tuple[str, ...]:
    """Whoever may have other users and device nodes in the mount gets them."""
    return ROOT_OPTIONS if os.geteuid() == 0 else ()


def remount(tree: MountedTree, *, forget: bool = True) -> None:
    """Unmount and mount again; with `forget`, the new mount has nothing but the grid to know from."""
    tree.flush()
    tree.unmount()
    if forget:
        shutil.rmtree(tree.home.path / "cache")
        shutil.rmtree(tree.home.path / "state")
    tree.home.mount("home:", *mount_options())


@pytest.fixture(scope="session")
def _grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Any] | None]:
    if os.environ.get("LAFSFS_TEST_GRID") == "3-of-10":
        with three_of_ten(tmp_path_factory.mktemp("ten"), stopped=3) as grid:
            yield grid
    else:
        yield None  # the bundled server


@contextmanager
def open_home(grid: Mapping[str, Any] | None) -> Iterator[LafsfsHome]:
    """A home with an empty directory `home:`."""
    with lafsfs_home(grid=grid) as made:
        os.chmod(made.directory, 0o755)  # other users pass through it to the mountpoint
        made.create()
        yield made


@pytest.fixture(scope="module")
def own_home(_grid: Mapping[str, Any] | None) -> Iterator[LafsfsHome]:
    """For a module that mounts with options of its own."""
    with open_home(_grid) as made:
        yield made


@pytest.fixture(scope="session")
def tree(_grid: Mapping[str, Any] | None) -> Iterator[MountedTree]:
    """The mount that all tests share."""
    with open_home(_grid) as home:
        made = home.mount("home:", *mount_options())
        os.chmod(made.path, 0o755)
        yield made
        before = snapshot(made.path)
        remount(made)
        assert differences(before, snapshot(made.path)) == []
        made.unmount()


@pytest.fixture
def place(tree: MountedTree, request: pytest.FixtureRequest) -> Path:
    """An empty directory of the test's own in the mount; of the runs of one test, only the last one leaves it."""
    path = tree.path / request.node.originalname
    if path.exists():
        shutil.rmtree(path)
    path.mkdir()
    return path


# LAFSFS_SPOT: a directory of another file system, to see how the tests do there.
_GIVEN = [Path(os.environ["LAFSFS_SPOT"])] if "LAFSFS_SPOT" in os.environ else []
_CANDIDATES = (*_GIVEN, Path("/var/tmp"), Path("/tmp"), Path.cwd())


def _is_ext4(path: Path) -> bool:
    command = ["stat", "-f", "-c", "%T", path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("ext")


@pytest.fixture(params=["mount", "ext4"])
def spot(request: pytest.FixtureRequest, tree: MountedTree) -> Iterator[Path]:
    """An empty directory that everybody may use: in the mount, and once on a local ext4, which judges the test."""
    if request.param == "mount":
        path = tree.path / request.node.originalname
        if path.exists():
            shutil.rmtree(path)
        path.mkdir()
        os.chmod(path, 0o777)
        yield path
        return
    local = next((where for where in _CANDIDATES if where in _GIVEN or _is_ext4(where)), None)
    if local is None:
        pytest.skip("there is no ext4 here to compare with")
    with tempfile.TemporaryDirectory(prefix="lafsfs-spot-", dir=local, ignore_cleanup_errors=True) as made:
        os.chmod(made, 0o777)
        yield Path(made)
