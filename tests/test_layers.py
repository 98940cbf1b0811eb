"""The layers of the house (contrib/doc/architecture.md): a package imports only from those built before it.

Reads the imports with `ast`, so imports inside functions and under TYPE_CHECKING count like any other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = (
    "errors",
    "formats",
    "gbs",
    "config",
    "grid",
    "cache",
    "transfer",
    "nodes",
    "tree",
    "fuse",
    "daemon",
    "cli",
)
STORAGE_SERVER_MAY_IMPORT = {"errors", "formats", "gbs"}
ONE_USER = {"httpx": "grid", "pyfuse3": "fuse"}


def imported_modules(source: str, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything that `source`, the text of `module`, imports."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def layer_of(dotted: str) -> str | None:
    """`lafsfs.grid.server` -> `grid`; `storage_server.app` -> `storage_server`; None for others' modules."""
    parts = dotted.split(".")
    if parts[0] == "storage_server":
        return "storage_server"
    if parts[0] == "lafsfs":
        return parts[1] if len(parts) > 1 else "lafsfs"
    return None


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """One line for each import in `source` that breaks the rules of the layers."""
    here = layer_of(module)
    found = []
    for line, name in imported_modules(source, module, is_package=is_package):
        top = name.split(".")[0]
        there = layer_of(name)
        if top in ONE_USER and here != ONE_USER[top]:
            found.append(f"{module}:{line} imports {top}, which only {ONE_USER[top]} may")
        if there is None or there == here or name == "lafsfs.__version__":
            continue
        if not allowed(here, there):
            found.append(f"{module}:{line} imports {name}: {there} is no layer below {here}")
    return found


def allowed(here: str | None, there: str) -> bool:
    """Whether layer `here` may import layer `there` (two different ones)."""
    if here == "storage_server":
        return there in STORAGE_SERVER_MAY_IMPORT
    if here not in LAYERS or there not in LAYERS:
        return False
    return LAYERS.index(there) < LAYERS.index(here)


def modules() -> list[Path]:
    return sorted([*(ROOT / "lafsfs").rglob("*.py"), *(ROOT / "storage_server").rglob("*.py")])


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_module_imports_only_from_layers_below(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if is_package else parts)
    assert violations(path.read_text(), module, is_package=is_package) == []


def test_every_package_has_its_layer() -> None:
    names = {path.stem for path in (ROOT / "lafsfs").iterdir() if path.is_dir() or path.suffix == ".py"}
    assert names - {"__init__", "__main__", "__pycache__", "py"} <= set(LAYERS)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lafsfs.formats.caps", "from lafsfs.grid import server"),
        ("lafsfs.formats.caps", "def f():\n    import lafsfs.config"),
        ("lafsfs.formats.caps", "from ..tree.tree import Tree"),
        ("lafsfs.formats.caps", "from .. import nodes"),
        ("lafsfs.errors", "import lafsfs.formats.caps"),
        ("lafsfs.gbs.nurl", "from lafsfs import config"),
        ("lafsfs.tree.tree", "import pyfuse3"),
        ("lafsfs.daemon.mount", "from httpx import Client"),
        ("lafsfs.grid.server", "import storage_server.app"),
        (
            "lafsfs.grid.server",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lafsfs.nodes import maker",
        ),
        ("storage_server.app", "from lafsfs.config import Paths"),
        ("storage_server.app", "import httpx"),
    ],
)
def test_breaches_are_found(module: str, source: str) -> None:
    assert violations(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lafsfs.grid.transport", "import httpx\nfrom .. import errors\nfrom .server import StorageServer"),
        ("lafsfs.config", "from lafsfs.gbs.nurl import Nurl"),
        ("lafsfs.fuse.session", "import pyfuse3\nfrom lafsfs.tree.tree import Tree"),
        ("storage_server.app", "from lafsfs.gbs import routes\nfrom . import store"),
    ],
)
def test_what_the_layers_allow_passes(module: str, source: str) -> None:
    assert violations(source, module) == []
