"""`lafsfs grid`: which servers there are, how files are spread over them, and the bundled server."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import click

from lafsfs.cli.output import note, plural, size_text
from lafsfs.config import Encoding, GridProfile, Paths, ServerEntry
from lafsfs.config.files import locked, read_text
from lafsfs.daemon import local_grid, server_check
from lafsfs.daemon.server_check import ServerStatus
from lafsfs.errors import ConfigError, UsageError

_LOCAL = "local"


@click.group()
def grid() -> None:
    """Storage servers and how files are spread over them.

    Without any server configured, a bundled one on this machine is used. Servers are named by their NURL,
    which is a secret: whoever knows it may use the server. `-` reads NURLs from standard input, @FILE from a
    file.
    """


@grid.command()
@click.option("--show-nurls", is_flag=True, help="Print the secret NURLs too.")
@click.option("--check", is_flag=True, help="Ask every server whether it answers.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def show(show_nurls: bool, check: bool, as_json: bool) -> None:
    """Show the servers and the encoding."""
    paths = Paths.discover()
    configured = _configured(paths)
    if configured.servers:
        profile = configured
    else:
        local = local_grid.status(paths)
        servers = (local_grid.describe(paths),) if local.created else ()
        profile = GridProfile(servers, local_grid.ENCODING)
    states = server_check.ask_all(profile) if check else []
    if as_json:
        click.echo(json.dumps(_as_json(profile, states, bundled=not configured.servers, secret=show_nurls)))
        return
    if not configured.servers:
        click.echo("No servers are configured: the bundled server on this machine is used.")
        click.echo(_local_line(paths))
    click.echo(_encoding_line(profile.encoding))
    for position, entry in enumerate(profile.servers):
        click.echo(_server_line(entry, states[position] if states else None))
        if show_nurls:
            for nurl in entry.nurls:
                click.echo(f"    {nurl.to_string()}")
            if entry.furl:
                click.echo(f"    {entry.furl.to_string()}")
    if configured.servers:
        _warn_about(profile)


@grid.command()
@click.argument("what", nargs=-1, required=True, metavar="NURL|FURL|local|-|@FILE ...")
@click.option("--nickname", help="A name for people.")
@click.option("--server-id", help="The server's id (v0-...), if it is known.")
@click.option("--permutation-seed", help="In base32, if the server announces one.")
@click.option("--no-check", is_flag=True, help="Do not connect to the server first.")
def add(
    what: tuple[str, ...],
    nickname: str | None,
    server_id: str | None,
    permutation_seed: str | None,
    no_check: bool,
) -> None:
    """Add servers, by NURL and preferably also FURL; `local` is the bundled one.

    A FURL belongs to the NURL with the same secret; it tells the identity that leases and the right to write
    mutable files depend on. Without it, the identity is taken from the server's certificate.
    """
    paths = Paths.discover()
    texts = [text for argument in what for text in _expand(argument)]
    entries = server_check.entries_from(
        [text for text in texts if text != _LOCAL], nickname or "", server_id, permutation_seed
    )
    if not no_check:
        entries = [server_check.verified(entry) for entry in entries]
    if _LOCAL in texts:
        entries.append(local_grid.ensure_running(paths))
    with locked(paths.config / ".grid.lock"):
        profile = _configured(paths)
        if not profile.servers and _LOCAL not in texts and local_grid.status(paths).created:
            note(
                "the bundled server is not used any more (what is on it stays); "
                "`lafsfs grid add local` adds it to the others"
            )
        for entry in entries:
            profile = profile.with_server(entry)
        profile.save(paths.grid_file)
    click.echo(f"the grid has {plural(len(profile.servers), 'server')} now")
    _warn_about(profile)


@grid.command()
@click.argument("which", metavar="NAME|ID|HOST:PORT")
def remove(which: str) -> None:
    """Remove a server. What it stores stays there."""
    paths = Paths.discover()
    with locked(paths.config / ".grid.lock"):
        profile = _configured(paths)
        entry = _the_one(profile, which)
        profile = profile.without_server(entry.server_id)
        profile.save(paths.grid_file)
    click.echo(f"removed {entry.name}; the grid has {plural(len(profile.servers), 'server')} now")
    if profile.servers:
        _warn_about(profile)
    else:
        note("no servers are configured any more: the bundled server on this machine is used")


@grid.command()
@click.argument("numbers", nargs=-1, type=int, metavar="[NEEDED HAPPY TOTAL]")
def encoding(numbers: tuple[int, ...]) -> None:
    """Show or set how new files are spread.

    Each file becomes TOTAL shares, any NEEDED of which restore it. A write succeeds when at least HAPPY
    servers could each be relied on for a share of their own. Files that exist keep their encoding.
    """
    paths = Paths.discover()
    if not numbers:
        profile = _configured(paths)
        click.echo(_encoding_line(profile.encoding if profile.servers else local_grid.ENCODING))
        return
    if len(numbers) != 3:
        raise UsageError("an encoding is three numbers: NEEDED HAPPY TOTAL, for example 3 7 10")
    chosen = Encoding(*numbers)
    with locked(paths.config / ".grid.lock"):
        profile = dataclasses.replace(_configured(paths), encoding=chosen)
        profile.save(paths.grid_file)
    click.echo(_encoding_line(chosen))
    if profile.servers:
        _warn_about(profile)
    else:
        note("this holds once servers are added; the bundled server alone is always 1-of-1")


@grid.group()
def server() -> None:
    """The bundled storage server on this machine."""


@server.command()
def start() -> None:
    """Start the bundled server (mounting does it by itself when it is needed)."""
    paths = Paths.discover()
    local_grid.ensure_running(paths)
    click.echo(_local_line(paths))


@server.command()
def stop() -> None:
    """Stop the bundled server. Trees on it cannot be read until it is started again."""
    paths = Paths.discover()
    click.echo(
        "the bundled server is stopped" if local_grid.stop(paths) else "the bundled server did not run"
    )


def _configured(paths: Paths) -> GridProfile:
    return GridProfile.load(paths.grid_file) if paths.grid_file.exists() else GridProfile()


def _expand(argument: str) -> list[str]:
    """An argument as it stands, or the non-empty lines of what - or @FILE names, comments left out."""
    if argument == "-":
        text = sys.stdin.read()
    elif argument.startswith("@"):
        try:
            text = read_text(Path(argument[1:]))
        except FileNotFoundError:
            raise ConfigError(f"there is no {argument[1:]}") from None
    else:
        return [argument]
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _the_one(profile: GridProfile, which: str) -> ServerEntry:
    """The server that `which` names. UsageError if none or several do."""

    def is_meant(entry: ServerEntry) -> bool:
        addresses = {f"{nurl.host}:{nurl.port}" for nurl in entry.nurls}
        short = entry.server_id.removeprefix("v0-")
        return which in {entry.nickname, entry.server_id, *addresses} or (
            len(which) > 3 and short.startswith(which)
        )

    found = [entry for entry in profile.servers if is_meant(entry)]
    if len(found) != 1:
        raise UsageError(
            "no such server" if not found else "several servers are meant by that; use the server id"
        )
    return found[0]


def _encoding_line(value: Encoding) -> str:
    return f"encoding: {value.k}-of-{value.n}, happy {value.happy}"


def _local_line(paths: Paths) -> str:
    status = local_grid.status(paths)
    if not status.created:
        return "the bundled server does not exist yet; it is made when it is needed"
    state = f"running, process {status.pid}" if status.pid else "not running"
    return f"the bundled server is {state}; its files are in {status.directory}"


def _server_line(entry: ServerEntry, state: ServerStatus | None) -> str:
    nurl = entry.nurls[0]
    line = f"{entry.name}  {entry.server_id[:11]}…  {nurl.host}:{nurl.port}"
    if state is None:
        return line
    if not state.reachable:
        return f"{line}  DOWN: {state.last_error}"
    space = "" if state.space is None else f", {size_text(state.space)} free"
    return f"{line}  up, {1000 * (state.latency or 0):.0f} ms{space}"


def _warn_about(profile: GridProfile) -> None:
    """Say when the encoding cannot be satisfied."""
    needed, have = profile.encoding.happy, len(profile.servers)
    if have < needed:
        note(
            f"writing needs at least {plural(needed, 'server')} (happy), but only {have} known: add servers, "
            "or choose another encoding with `lafsfs grid encoding`"
        )


def _as_json(
    profile: GridProfile, states: list[ServerStatus], *, bundled: bool, secret: bool
) -> dict[str, object]:
    servers: list[dict[str, object]] = []
    for position, entry in enumerate(profile.servers):
        item: dict[str, object] = {
            "name": entry.name,
            "server_id": entry.server_id,
            "address": f"{entry.nurls[0].host}:{entry.nurls[0].port}",
        }
        if secret:
            item["nurls"] = [nurl.to_string() for nurl in entry.nurls]
            item["furl"] = entry.furl.to_string() if entry.furl else None
        if states:
            item |= dataclasses.asdict(states[position])
        servers.append(item)
    code = profile.encoding
    return {
        "bundled": bundled,
        "encoding": {"needed": code.k, "happy": code.happy, "total": code.n},
        "servers": servers,
    }
