"""A source tree of some 5,000 files to unpack, and what a tree looks like in every detail that must survive."""

from __future__ import annotations

import hashlib
import os
import stat
import sysconfig
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

FILES = 5000

Details = tuple[int, int, int, bytes]
"""(mode, mtime in ns, size, SHA-256 of the content or the target of a link); times and sizes of directories are 0."""


def source_archive(directory: Path) -> Path:
    """The archive that LAFSFS_SCENARIO_TAR names (an sdist, say), else one of Python's own library."""
    named = os.environ.get("LAFSFS_SCENARIO_TAR")
    if named:
        return Path(named).absolute()
    archive = directory / "library.tar"
    with tarfile.open(archive, "w") as tar:
        for path, name in islice(library_files(), FILES):
            tar.add(path, name, recursive=False)
        link = tarfile.TarInfo("library/linked.py")
        link.type, link.linkname = tarfile.SYMTYPE, "os.py"
        tar.addfile(link)
    return archive


def library_files() -> Iterator[tuple[Path, Path]]:
    """Files of Python's own library, and their names in an archive."""
    library = Path(sysconfig.get_path("stdlib"))
    for directory, directories, names in os.walk(library):
        directories[:] = sorted(set(directories) - {"site-packages"})
        for name in sorted(names):
            path = Path(directory) / name
            yield path, Path("library") / path.relative_to(library)


def details(top: Path, *, without: tuple[str, ...] = ()) -> dict[str, Details]:
    """Everything below a directory by relative path, but for names in `without`."""
    found: dict[str, Details] = {}
    for directory, directories, names in os.walk(top):
        directories[:] = [name for name in directories if name not in without]
        for name in directories + names:
            path = Path(directory) / name
            found[str(path.relative_to(top))] = _details(path)
    return found


def _details(path: Path) -> Details:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return status.st_mode, status.st_mtime_ns, status.st_size, os.fsencode(path.readlink())
    if stat.S_ISDIR(status.st_mode):
        return status.st_mode, 0, 0, b""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    return status.st_mode, status.st_mtime_ns, status.st_size, digest
