"""New, empty directories."""

from __future__ import annotations

from lafsfs.config import Paths
from lafsfs.daemon.engine import open_engine
from lafsfs.daemon.spec import GridSource
from lafsfs.formats.caps import DirCap
from lafsfs.formats.packed import Packed


async def create_directory(paths: Paths, source: GridSource, *, mdmf: bool = False) -> DirCap:
    """Makes an empty directory on the grid, in an SDMF or an MDMF file; it is there, on enough servers, on return.

    GridError.
    """
    async with open_engine(paths, source) as engine:
        directory, _ = await engine.nodes().create_directory(lambda _writekey: Packed(), mdmf)
        return directory.cap
