"""--grid and --node-directory, which several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from lafsfs.config import Aliases, Paths, from_node_directory
from lafsfs.daemon.spec import GridSource
from lafsfs.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])


def grid_options(command: F) -> F:
    """Adds the two options to a command."""
    command = click.option(
        "--node-directory",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Take servers, encoding, secrets and aliases from a Tahoe-LAFS client node (~/.tahoe).",
    )(command)
    return click.option(
        "--grid",
        "grid_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Use the servers in FILE: a grid.yaml, or a servers.yaml of Tahoe-LAFS.",
    )(command)


def grid_source(grid_file: Path | None, node_directory: Path | None) -> GridSource:
    """The two options as a value; absolute paths, for they travel to another process. UsageError if both."""
    if grid_file is not None and node_directory is not None:
        raise UsageError("--grid and --node-directory exclude each other")
    return GridSource(_absolute(grid_file), _absolute(node_directory))


def alias_files(paths: Paths, source: GridSource) -> tuple[Aliases, ...]:
    """Where aliases are looked up: the node directory's first, then our own. ConfigError."""
    own = Aliases(paths.aliases_file)
    if source.node_directory is None:
        return (own,)
    return (from_node_directory(source.node_directory)[2], own)


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().absolute()
