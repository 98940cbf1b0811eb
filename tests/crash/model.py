"""What a tree must look like after a crash: every step whose call returned, and of the step under way any part."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

_RECORD = 64 << 10  # bytes, of what is staged


@dataclass
class Node:
    """A file, symlink or directory. `data` is a file's content or a link's target, None for a directory. `mtime`, in
    nanoseconds, is None when nobody set it since the content changed.
    """

    mode: int
    data: bytearray | None = None
    xattrs: dict[str, bytes] = field(default_factory=dict)
    mtime: int | None = None


@dataclass
class Step:
    """One system call. `apply` does to a model what the call does to the tree.

    A write may have been done in part: `path`, `offset` and `data` say what it writes.
    """

    text: str
    apply: Callable[[Model], None]
    call: Callable[[], object]
    path: str = ""
    offset: int = 0
    data: bytes = b""


class Model:
    """Names to nodes; hard links share a node. Paths are relative to the top of the part that one worker owns."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}

    # --- changes ---------------------------------------------------------------------------------------

    def put(self, path: str, node: Node) -> None:
        self.nodes[path] = node

    def remove(self, path: str) -> None:
        del self.nodes[path]

    def move(self, old: str, new: str) -> None:
        """rename(2), with all that is below."""
        self.nodes[new] = self.nodes.pop(old)
        for path in [path for path in self.nodes if path.startswith(old + "/")]:
            self.nodes[new + path[len(old) :]] = self.nodes.pop(path)

    def write(self, path: str, offset: int, data: bytes) -> None:
        content = self.content(path)
        self.nodes[path].mtime = None
        if offset > len(content):
            content += bytes(offset - len(content))
        content[offset : offset + len(data)] = data

    def truncate(self, path: str, size: int) -> None:
        content = self.content(path)
        self.nodes[path].mtime = None
        del content[size:]
        content += bytes(size - len(content))

    # --- questions -------------------------------------------------------------------------------------

    def content(self, path: str) -> bytearray:
        data = self.nodes[path].data
        assert data is not None
        return data

    def of_kind(self, kind: int) -> list[str]:
        return [path for path, node in self.nodes.items() if stat.S_IFMT(node.mode) == kind]

    def is_empty(self, directory: str) -> bool:
        return not any(path.startswith(directory + "/") for path in self.nodes)

    def after(self, step: Step) -> Model:
        """The model once `step` is done; this one stays as it is."""
        done = deepcopy(self)
        step.apply(done)
        return done


def observed(top: Path) -> Model:
    """The model that the tree at `top` fits."""
    model = Model()
    known: dict[int, Node] = {}
    for path, status in _walk(top):
        kind, place = stat.S_IFMT(status.st_mode), top / path
        if kind == stat.S_IFREG and status.st_ino in known:
            model.put(path, known[status.st_ino])
            continue
        node = known[status.st_ino] = Node(status.st_mode)
        if kind == stat.S_IFLNK:
            node.data = bytearray(os.fsencode(os.readlink(place)))
        elif kind == stat.S_IFREG:
            node.data = bytearray(place.read_bytes())
            node.xattrs = {name: os.getxattr(place, name) for name in os.listxattr(place)}
        model.put(path, node)
    return model


def compare(model: Model, top: Path) -> list[str]:
    """How the tree at `top` differs from the model."""
    found = dict(_walk(top))
    lines = [f"{path} is missing" for path in model.nodes if path not in found]
    lines += [f"{path} should not be there" for path in found if path not in model.nodes]
    groups: dict[int, list[str]] = {}
    for path, node in model.nodes.items():
        groups.setdefault(id(node), []).append(path)
        if path in found:
            lines += [f"{path}: {what}" for what in _differences(node, top / path, found[path])]
    for paths in groups.values():
        inodes = {found[path].st_ino for path in paths if path in found}
        if len(inodes) > 1:
            lines.append(f"{paths}: hard links lead to different files")
    return lines


def _walk(top: Path, prefix: str = "") -> list[tuple[str, os.stat_result]]:
    found = []
    for name in os.listdir(top / prefix):
        path = f"{prefix}/{name}" if prefix else name
        status = os.lstat(top / path)
        found.append((path, status))
        if stat.S_ISDIR(status.st_mode):
            found += _walk(top, path)
    return found


def _differences(node: Node, path: Path, status: os.stat_result) -> list[str]:
    if status.st_mode != node.mode:
        return [f"mode {status.st_mode:o}, should be {node.mode:o}"]
    lines = []
    if node.data is not None:
        content = os.fsencode(os.readlink(path)) if stat.S_ISLNK(node.mode) else path.read_bytes()
        if content != node.data:
            lines.append(_content_difference(content, bytes(node.data)))
        if status.st_size != len(node.data):
            lines.append(f"size {status.st_size}, should be {len(node.data)}")
    if node.mtime is not None and status.st_mtime_ns != node.mtime:
        lines.append(f"mtime {status.st_mtime_ns}, should be {node.mtime}")
    if not stat.S_ISLNK(node.mode):
        xattrs = {name: os.getxattr(path, name) for name in os.listxattr(path)}
        if xattrs != node.xattrs:
            lines.append(f"attributes {sorted(xattrs)}, should be {sorted(node.xattrs)}")
    return lines


def _content_difference(content: bytes, wanted: bytes) -> str:
    pairs = zip(content, wanted, strict=False)
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(content), len(wanted)))
    return f"content differs from byte {first} on ({len(content)} bytes, should be {len(wanted)})"


def settle(model: Model, step: Step | None, top: Path) -> tuple[Model, list[str]]:
    """Find out how much of the step under way was done; that model, and what is wrong if none fits."""
    lines = compare(model, top)
    if not lines or step is None:
        return model, lines
    candidates = [model.after(step)]
    if step.data and (part := _part_done(model, step, top)) is not None:
        candidates.append(part)
    for candidate in candidates:
        if not compare(candidate, top):
            return candidate, []
    return model, [f"{line} (under way: {step.text})" for line in lines]


def _part_done(model: Model, step: Step, top: Path) -> Model | None:
    """The model with as much of a write as the file shows."""
    try:
        content = (top / step.path).read_bytes()
    except OSError:
        return None
    end = step.offset + len(step.data)
    # The kernel cuts at pages of the file, not of the write; within its first request the log does at whole records.
    pages = (page - step.offset for page in range((step.offset // 4096 + 1) * 4096, end, 4096))
    for cut in (0, *pages, *range(_RECORD, len(step.data), _RECORD)):
        part = deepcopy(model)
        if cut:
            part.write(step.path, step.offset, step.data[:cut])
        if bytes(part.content(step.path)) == content:
            return part
    return None
