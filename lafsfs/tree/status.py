"""What is not on the grid yet, and why."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import trio

from lafsfs.tree.inodes import ROOT, Inode
from lafsfs.tree.leases import LeaseStatus
from lafsfs.tree.queue import Job

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree

ITEMS = 1000  # listed one by one; the counts are always of all


@dataclass(frozen=True)
class PendingItem:
    """One file or directory that differs from the grid. `next_try` is Unix seconds, None while it is on its way."""

    path: str
    kind: Literal["file", "directory"]
    size: int
    state: Literal["waiting", "uploading", "retrying"]
    reason: str
    next_try: float | None


@dataclass(frozen=True)
class TreeStatus:
    """Counts of everything pending, the first items of it, recent errors and conflict copies."""

    pending_files: int = 0
    pending_directories: int = 0
    pending_bytes: int = 0
    items: list[PendingItem] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    leases: LeaseStatus | None = None


def status_of(tree: Tree, most: int = ITEMS) -> TreeStatus:
    """The status now, with at most so many items; never waits."""
    items: list[PendingItem] = []
    size = 0
    for job in tree.publisher.files:
        inode = tree.inodes.get(job.key)
        count = inode.attributes.size if inode is not None else 0
        size += count
        if len(items) < most:
            items.append(_item(tree, job, "file", count))
    for job in tree.publisher.directories:
        if len(items) < most:
            items.append(_item(tree, job, "directory", 0))
    files, directories = len(tree.publisher.files), len(tree.publisher.directories)
    errors = [*tree.errors, *_offline(tree), *_behind(tree)]
    if tree.syncer.failure:
        errors.append(f"the local disk: {tree.syncer.failure}")
    conflicts = [path for path in tree.conflicts if _may_exist(tree, path)]
    return TreeStatus(files, directories, size, items, errors, conflicts, tree.leases.status())


def _is_shown(tree: Tree, directory: Inode) -> bool:
    return any(one.ino == ROOT for one in (directory, *tree.ancestors(directory)))


def _offline(tree: Tree) -> list[str]:
    """What is shown although the grid could not be asked."""
    kept = [one.folder for one in tree.inodes if one.folder is not None and one.folder.kept_since is not None]
    # What was removed meanwhile may still be in memory.
    times = [folder.kept_since for folder in kept if folder.kept_since and _is_shown(tree, folder.inode)]
    if not times:
        return []
    oldest = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(min(times)))
    return [f"offline: {len(times)} directories are shown as last seen, the oldest of them at {oldest}"]


def _behind(tree: Tree) -> list[str]:
    """Directories and mutable files of which the servers do not give the newest version."""
    found = ((tree.inodes.get(ino), why) for ino, why in tree.troubles.items())
    return [f"{tree.path_of(inode)}: {why}" for inode, why in found if inode is not None and inode.nlink > 0]


def _may_exist(tree: Tree, path: str) -> bool:
    """Whether a conflict copy is still there, as far as the directories in memory tell."""
    inode: Inode | None = tree.inodes.get(ROOT)
    for name in path.encode().split(b"/"):
        if inode is None or inode.folder is None or not inode.folder.loaded:
            return True
        kid = inode.folder.kids.get(name)
        if kid is None:
            return False
        inode = tree.inodes.get(kid[1])
    return True


def _item(tree: Tree, job: Job, kind: Literal["file", "directory"], size: int) -> PendingItem:
    inode = tree.inodes.get(job.key)
    path = tree.path_of(inode) if inode is not None else "?"
    if job.running:
        return PendingItem(path, kind, size, "uploading", job.reason, None)
    wait = max(job.due - trio.current_time(), 0.0)
    state: Literal["waiting", "retrying"] = "retrying" if job.tries else "waiting"
    return PendingItem(path, kind, size, state, job.reason, time.time() + wait)
