"""lafsfs seal"""

from __future__ import annotations

import os

import click

from lafsfs.cli.output import note, plural
from lafsfs.config import Paths
from lafsfs.daemon import client


@click.command()
@click.argument("path")
@click.option("--show-cap", is_flag=True, help="Print the capability of the immutable directory.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="S",
    help="Give up when what was changed below PATH is not on the grid after S seconds. Default: no limit.",
)
def seal(path: str, show_cap: bool, timeout: float | None) -> None:
    """Make the directory PATH in a mounted tree immutable, with everything below it. There is no way back.

    PATH leads to an immutable directory then: nobody can change it, whoever has its capability sees for ever what
    is there now. Directories below become immutable, too, and so do mutable files, with their present content.
    Changes are answered with "Read-only file system" from the moment the command begins; PATH itself can be
    renamed, or taken away with 'lafsfs detach'.

    \b
    Examples:
        lafsfs seal ~/tahoe/photos/2026
        lafsfs seal --show-cap ~/tahoe/release-1.0      a capability to give away
    """
    mount, below = client.find(Paths.discover(os.environ), path)
    with mount:
        done = mount.request("seal", path=os.fsdecode(below), timeout=timeout)
    if done["directories"]:
        directories = plural(done["directories"], "directory", "directories")
        files = f" and {plural(done['files'], 'mutable file')}" if done["files"] else ""
        note(f"sealed {path}: {directories}{files} became immutable")
    else:
        note(f"{path} was immutable already")
    if show_cap:
        click.echo(done["cap"])
