"""lafsfs status"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import click

from lafsfs.cli.output import note, pending_text, plural, printable, size_text
from lafsfs.config import Paths
from lafsfs.daemon import client
from lafsfs.daemon.mountpoint import real_path
from lafsfs.errors import UsageError

_ITEMS_SHOWN = 10


@click.command()
@click.argument("mountpoint", required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@click.option("--metrics", is_flag=True, help="As Prometheus metrics, for monitoring.")
def status(mountpoint: str | None, as_json: bool, metrics: bool) -> None:
    """Show what is not on the grid yet, which servers answer, the cache, and recent errors.

    Without MOUNTPOINT, of all your mounts. Answers also while the network is dead.

    \b
    Examples:
        lafsfs status
        lafsfs status ~/tahoe --json
    """
    if as_json and metrics:
        raise UsageError("--json and --metrics exclude each other")
    answers = _ask(Paths.discover(os.environ), mountpoint)
    if metrics:
        # Imported late: nobody else needs it.
        from lafsfs.daemon.metrics import exposition

        click.echo(exposition(answers), nl=False)
    elif as_json:
        click.echo(json.dumps({"mounts": answers} if mountpoint is None else answers[0], indent=2))
    elif answers:
        click.echo(printable("\n\n".join("\n".join(_lines(answer)) for answer in answers)))
    else:
        note("nothing is mounted")


def _ask(paths: Paths, mountpoint: str | None) -> list[dict[str, Any]]:
    """The status of one mount, or of all. NotMountedError when none answers at `mountpoint`."""
    if mountpoint is None:
        return [mount.request("status") for mount in client.all_mounts(paths)]
    with client.connect(paths, real_path(mountpoint)) as mount:
        return [mount.request("status")]


def _lines(answer: dict[str, Any]) -> Iterator[str]:
    """The status of one mount for people."""
    mode = "read-only" if answer["read_only"] else "read-write"
    yield f"{answer['mountpoint']}  ({mode}, {answer['state']}, process {answer['pid']})"
    pending = answer["pending"]
    if any(pending.values()):
        yield f"  pending   {pending_text(pending)}"
        yield from _items(answer["items"])
    else:
        yield "  pending   nothing: all of it is on the grid"
    yield from _servers(answer["servers"])
    cache = answer["cache"]
    yield f"  cache     {size_text(cache['bytes'])} of {size_text(cache['limit'])}"
    yield f"  leases    {_leases(answer['leases'])}"
    for error in answer["errors"]:
        yield f"  error     {error}"
    for conflict in answer["conflicts"]:
        yield f"  conflict  {conflict}"


def _leases(leases: dict[str, Any]) -> str:
    """When everything's leases were renewed last, and what is going on."""
    if leases["finished"] is None:
        text = "never renewed by this mount yet"
    else:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(leases["finished"]))
        text = f"of {plural(leases['last']['renewed'], 'object')} renewed at {when}"
        for kind, words in (("lost", "have no shares any more"), ("missed", "could not be asked for")):
            if leases["last"][kind]:
                text += f", {leases['last'][kind]} {words}"
    if leases["state"] == "renewing":
        text += f"; renewing, {leases['current']['renewed']} so far"
    elif leases["state"] != "waiting":
        text += {"off": "; renewal is off", "unreachable": "; no server answers"}[leases["state"]]
    return text


def _items(items: list[dict[str, Any]]) -> Iterator[str]:
    for item in items[:_ITEMS_SHOWN]:
        line = f"            {item['state']:9} {item['path']} ({size_text(item['size'])})"
        if item["reason"]:
            line += f": {item['reason']}"
        if item["state"] == "retrying" and item["next_try"] is not None:
            line += f"; next try in {item['next_try']:.0f} s"
        yield line
    if len(items) > _ITEMS_SHOWN:
        yield f"            and {len(items) - _ITEMS_SHOWN} more"


def _servers(servers: list[dict[str, Any]]) -> Iterator[str]:
    up = sum(server["reachable"] is not False for server in servers)
    yield f"  servers   {plural(len(servers), 'server')}, {up} reachable"
    for server in servers:
        if server["reachable"] is False:
            yield f"            {server['name']} does not answer"
