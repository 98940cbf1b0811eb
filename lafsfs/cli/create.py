"""lafsfs create"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import click

from lafsfs.cli.output import note
from lafsfs.cli.source import grid_options, grid_source
from lafsfs.cli.what import check_alias
from lafsfs.config import Aliases, Paths
from lafsfs.daemon.failures import lafs_error_in
from lafsfs.daemon.spec import GridSource
from lafsfs.errors import UsageError


@click.command()
@click.argument("alias", default="home", metavar="[ALIAS]")
@click.option(
    "--show-cap", is_flag=True, help="Print the directory's write capability: whoever has it can change all."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["sdmf", "mdmf"]),
    default="sdmf",
    show_default=True,
    help="The kind of mutable file the directory, and new ones in it, are kept in.",
)
@grid_options
def create(
    alias: str, show_cap: bool, form: str, grid_file: Path | None, node_directory: Path | None
) -> None:
    """Make a new, empty directory and remember it as ALIAS (default "home").

    \b
    Examples:
        lafsfs create                    then: lafsfs mount home: ~/tahoe
        lafsfs create photos             then: lafsfs mount photos: ~/photos

    Without any grid configured, a storage server on this machine is started and used. The alias is kept in
    config/aliases, the only place the directory's capability is in: keep a copy of that file.
    """
    paths = Paths.discover(os.environ)
    source = grid_source(grid_file, node_directory)
    name = check_alias(alias)
    aliases = Aliases(paths.aliases_file)
    if aliases.get(name) is not None:
        raise UsageError(f"the alias {name}: exists already; choose another name")
    cap = _create(paths, source, form == "mdmf")
    aliases.set(name, cap)
    note(f"created {name}: (lafsfs mount {name}: MOUNTPOINT)")
    if show_cap:
        click.echo(cap)


def _create(paths: Paths, source: GridSource, mdmf: bool) -> str:
    """The write cap of a new directory on the grid."""
    # Imported late, with all that talks to servers: help and refusals come without it.
    import trio

    from lafsfs.daemon.creation import create_directory

    try:
        return trio.run(partial(create_directory, paths, source, mdmf=mdmf)).to_string()
    except BaseExceptionGroup as group:
        raise lafs_error_in(group) or group from None
