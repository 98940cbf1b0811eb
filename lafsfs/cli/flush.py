"""lafsfs flush"""

from __future__ import annotations

import os

import click

from lafsfs.cli.drain import drain
from lafsfs.config import Paths
from lafsfs.daemon import client
from lafsfs.daemon.mountpoint import real_path


@click.command()
@click.argument("mountpoint")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="S",
    help="Give up after S seconds: exit code 13 and a list of what is left. Default: no limit.",
)
def flush(mountpoint: str, timeout: float | None) -> None:
    """Wait until everything changed so far in the tree at MOUNTPOINT is on the grid.

    \b
    Example:
        lafsfs flush ~/tahoe && echo "all of it is on the servers"
    """
    with client.connect(Paths.discover(os.environ), real_path(mountpoint)) as mount:
        drain(mount, "flush", timeout)
