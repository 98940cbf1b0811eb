"""What is fit to mount on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lafsfs.daemon import mountpoint
from lafsfs.errors import MountpointError


def test_an_empty_directory_will_do(tmp_path: Path) -> None:
    assert mountpoint.prepare(tmp_path) is False


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text("x"), "not a directory"),
        (lambda path: (path / "inner").mkdir(parents=True), "not empty"),
        (lambda path: path.symlink_to("nowhere"), "does not exist"),
    ],
)
def test_what_cannot_be_mounted_on(tmp_path: Path, make: object, complaint: str) -> None:
    path = tmp_path / "mnt"
    make(path)  # type: ignore[operator]
    with pytest.raises(MountpointError, match=complaint):
        mountpoint.prepare(path)


def test_real_path_follows_symlinks(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert mountpoint.real_path(tmp_path / "link") == (tmp_path / "real").resolve()
    assert mountpoint.real_path(f"{tmp_path}/real/../link/") == (tmp_path / "real").resolve()
    assert mountpoint.real_path("/") == Path("/")


def test_mounts_are_read_with_their_escapes() -> None:
    found = mountpoint.mounted_at(Path("/proc"))
    assert found is not None
    assert found.fstype == "proc"
    assert not found.is_lafsfs
    assert mountpoint.mounted_at(Path("/proc/self")) is None
    assert mountpoint._unescape(r"/mnt/a\040b\134c") == "/mnt/a b\\c"


def test_unmounting_nothing_says_why(tmp_path: Path) -> None:
    assert mountpoint.unmount_if_idle(tmp_path)
    with pytest.raises(MountpointError, match=str(tmp_path)):
        mountpoint.unmount_lazily(tmp_path)
    assert os.path.isdir(tmp_path)
