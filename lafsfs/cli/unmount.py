"""lafsfs unmount"""

from __future__ import annotations

import os
from pathlib import Path

import click

from lafsfs.cli.drain import drain
from lafsfs.cli.output import note
from lafsfs.config import Paths
from lafsfs.daemon import client
from lafsfs.daemon import mountpoint as mountpoints
from lafsfs.errors import LafsError, NotMountedError


@click.command()
@click.argument("mountpoint")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="S",
    help="Give up after S seconds: the tree stays mounted and goes on. Default: no limit.",
)
def unmount(mountpoint: str, timeout: float | None) -> None:
    """Finish what is pending, then unmount.

    New changes are refused meanwhile. When the time is over, or you press Ctrl-C, the tree stays mounted;
    exit code 13 and a list say what is not on the grid yet. It is never lost: 'fusermount3 -u MOUNTPOINT'
    unmounts at once, and the next mount of the same directory goes on with it.

    \b
    Examples:
        lafsfs unmount ~/tahoe
        lafsfs unmount --timeout 60 ~/tahoe
    """
    paths = Paths.discover(os.environ)
    where = mountpoints.real_path(mountpoint)
    try:
        mount = client.connect(paths, where)
    except NotMountedError:
        _clean_dead_mount(where)
        raise
    with mount:
        drain(mount, "unmount", timeout)
        if not mount.wait_for_exit():
            raise LafsError(f"{where} is unmounted, but its process {mount.pid} does not end")


def _clean_dead_mount(where: Path) -> None:
    """Takes away what a dead mount process left at `where`, if that is what is there."""
    mounted = mountpoints.mounted_at(where)
    if mounted is not None and mounted.is_lafsfs and mountpoints.is_dead(where):
        mountpoints.unmount_lazily(where)
        note(f"removed the dead mount at {where}")
