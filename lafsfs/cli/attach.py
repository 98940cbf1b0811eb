"""lafsfs attach"""

from __future__ import annotations

import os
from pathlib import Path

import click

from lafsfs.cli.output import note
from lafsfs.cli.source import alias_files
from lafsfs.cli.what import resolve
from lafsfs.config import Paths
from lafsfs.daemon import client
from lafsfs.daemon.spec import GridSource


@click.command()
@click.argument("what")
@click.argument("path")
@click.option("--read-only", is_flag=True, help="Without the right to write, whatever the capability allows.")
@click.option(
    "--node-directory",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Look aliases up in a Tahoe-LAFS client node (~/.tahoe) as well.",
)
def attach(what: str, path: str, read_only: bool, node_directory: Path | None) -> None:
    """Give a file or directory that somebody shared with you the name PATH in a mounted tree.

    \b
    WHAT is one of
        -                  a capability on standard input
        @FILE              a capability in a file
        photos:            an alias
        photos:2026/may    what is below an alias
        URI:...            a capability; others may see it in your shell's history

    Nothing is copied: PATH leads to the same object from now on. With a write capability, what you change
    below PATH changes it for everybody who has it; a read capability answers changes with "Read-only file
    system". PATH must not exist yet. 'lafsfs detach' takes the name away again; rm -r would delete what is
    in it, for everybody.

    \b
    Examples:
        lafsfs attach - ~/tahoe/from-ann < ann.cap
        lafsfs attach --read-only photos: ~/tahoe/photos
    """
    paths = Paths.discover(os.environ)
    wanted = resolve(what, *alias_files(paths, GridSource(node_directory=node_directory)))
    mount, below = client.find(paths, path)
    with mount:
        mount.request(
            "attach",
            path=os.fsdecode(below),
            cap=wanted.cap,
            below=list(wanted.subpath),
            read_only=read_only,
        )
    note(f"attached at {path}")
