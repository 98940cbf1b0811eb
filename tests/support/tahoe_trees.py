"""Directories as a Tahoe client's web API shows, makes and checks them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from lafsfs.formats.packed import Packed
from tests.support.tahoe import TURN_SECONDS, TahoeClient

OPERATION_SECONDS = 120.0


@dataclass(frozen=True)
class Child:
    """One entry: `kind` is filenode, dirnode or unknown; `details` are those of t=json."""

    kind: str
    details: Mapping[str, Any] = field(repr=False)

    @property
    def cap(self) -> str:
        """The strongest cap Tahoe has of it."""
        return str(self.details.get("rw_uri") or self.details["ro_uri"])

    @property
    def metadata(self) -> dict[str, Any]:
        """The entry's metadata."""
        return dict(self.details["metadata"])


def listing(client: TahoeClient, cap: str) -> dict[str, Child]:
    """The children of a directory by name."""
    kind, details = json.loads(client.request("GET", f"/uri/{quote(cap)}?t=json"))
    assert kind == "dirnode"
    return {name: Child(*child) for name, child in details["children"].items()}


def walk(
    client: TahoeClient, cap: str, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Child]]:
    """(path, child) of everything below a directory."""
    for name, child in listing(client, cap).items():
        yield (*path, name), child
        if child.kind == "dirnode":
            yield from walk(client, child.cap, (*path, name))


def set_children(
    client: TahoeClient, cap: str, children: Mapping[str, tuple[str, Mapping[str, Any]]]
) -> None:
    """t=set_children: {name: (kind, {rw_uri, ro_uri, metadata})}."""
    client.request("POST", f"/uri/{quote(cap)}?t=set_children", json.dumps(children).encode())


def make_directory(
    client: TahoeClient,
    children: Mapping[str, tuple[str, Mapping[str, Any]]] | None = None,
    form: str = "sdmf",
) -> str:
    """A new directory (`form`: sdmf, mdmf or immutable); its strongest cap."""
    kind = "t=mkdir-immutable" if form == "immutable" else f"t=mkdir-with-children&format={form}"
    return client.request("POST", f"/uri?{kind}", json.dumps(children or {}).encode()).decode()


def put(client: TahoeClient, directory: str, name: str, data: bytes) -> str:
    """PUT of a file into a directory; its cap."""
    return client.request("PUT", f"/uri/{quote(directory)}/{quote(name, safe='')}", data).decode()


def delete(client: TahoeClient, directory: str, name: str) -> None:
    """Take a name out of a directory."""
    client.request("DELETE", f"/uri/{quote(directory)}/{quote(name, safe='')}")


def raw_entries(client: TahoeClient, cap: str) -> dict[str, bytes]:
    """The packed entries of a mutable directory, as Tahoe reads them from the grid."""
    packed = Packed.parse(client.get(cap.replace("URI:DIR2-MDMF", "URI:MDMF").replace("URI:DIR2", "URI:SSK")))
    return {name: packed.raw(name) or b"" for name in packed.names()}


def deep_check(client: TahoeClient, cap: str) -> dict[str, Any]:
    """The results of a deep check with verification."""
    handle = f"check-{time.monotonic_ns()}"
    start = f"/uri/{quote(cap)}?t=start-deep-check&verify=true&output=json&ophandle={handle}"
    client.request("POST", start, b"")
    deadline = time.monotonic() + OPERATION_SECONDS
    while True:
        results: dict[str, Any] = json.loads(client.request("GET", f"/operations/{handle}?output=json"))
        if results["finished"]:
            return results
        assert time.monotonic() < deadline, "the deep check does not end"
        time.sleep(TURN_SECONDS)
