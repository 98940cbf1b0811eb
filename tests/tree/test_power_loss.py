"""Power fails at any instant: what was synced is there, whole; what was not is there in an older version or not yet."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from lafsfs.config import Encoding
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree.options import TreeOptions
from tests.support.grids import QUICK, client
from tests.support.power import Disk
from tests.support.storage import StorageServer
from tests.support.trees import EAGER, IDLE, Files, new_root, opened

SIZES = (0, 10, 100, 16_384, 20_000, 150_000, 400_000)


class Written:
    """All versions that each file ever had, and which of them was the newest at the last sync."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.versions: dict[str, list[bytes]] = {}
        self.synced: dict[str, int] = {}

    async def change(self, fs: Files) -> None:
        """One file gets a new version, in one of several ways."""
        name = f"dir/f{self.random.randrange(6)}"
        data = self.random.randbytes(self.random.choice(SIZES))
        history = self.versions.setdefault(name, [])
        if not history or self.random.random() < 0.3:
            await fs.write(f"{name}.new" if history else name, data)
            if history:
                await fs.rename(f"{name}.new", name)
            # A new file is there empty first; an old one keeps its content until the new one takes its name.
            history += [data] if history else [b"", data]
        else:
            content = history[-1] + data
            await fs.write(name, data, len(history[-1]))
            history.append(content)

    def all_is_synced(self) -> None:
        self.synced = {name: len(history) - 1 for name, history in self.versions.items()}

    async def check(self, fs: Files) -> None:
        """Every file is a version that is not older than the one that was synced."""
        assert not fs.tree.status().errors
        names = {f"dir/{name.decode()}" for name in await fs.names("dir")} if self.synced else set()
        assert set(self.synced) <= names
        for name in names & set(self.versions):
            content = await fs.read(name)
            newest = self.synced.get(name, 0)
            allowed = self.versions[name][newest:]
            lengths = [len(version) for version in self.versions[name]]
            found = f"{name}: {len(content)} bytes of versions {lengths}, synced was number {newest}"
            assert any(_is_part(content, version, allowed[0]) for version in allowed), found


def _is_part(content: bytes, version: bytes, oldest: bytes) -> bool:
    """Whether `content` is a version, or an append to it under way."""
    return version[: len(content)] == content and len(content) >= min(len(oldest), len(version))


@pytest.mark.parametrize("options", [IDLE, EAGER], ids=["idle", "publishing"])
@pytest.mark.parametrize("seed", range(3))
async def test_power_fails_at_random_moments(
    nodes: NodeMaker,
    other_nodes: NodeMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: TreeOptions,
    seed: int,
) -> None:
    state = tmp_path / "state"
    disk = Disk(monkeypatch, state)
    root = await new_root(nodes)
    written = Written(seed)
    copies = 0
    async with opened(nodes, root, state, options) as fs:
        await fs.mkdir("dir")
        for number in range(40):
            await written.change(fs)
            if written.random.random() < 0.2:
                await fs.tree.syncer.sync_all()
                written.all_is_synced()
            if number % 10 == 9:
                copies += 1
                back = disk.after_power_failure(tmp_path / f"copy{copies}")
                async with opened(other_nodes, root, back, IDLE) as other:
                    await written.check(other)


async def test_what_the_journal_forgot_is_seen_offline_after_a_power_failure(
    three: list[StorageServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A published removal is neither in the journal nor, without servers, on the grid: the kept directory has it."""
    disk = Disk(monkeypatch, tmp_path / "state")
    one = Encoding(1, 1, 1)
    async with client(three[:1], one) as nodes:
        root = await new_root(nodes)
        async with opened(nodes, root, tmp_path / "state", IDLE) as fs:
            for name in ("removed", "stays"):
                await fs.write(name, b"x")
            await fs.drain()
            await fs.unlink("removed")
            await fs.drain()
            await fs.tree.syncer.sync_all()
            back = disk.after_power_failure(tmp_path / "copy")
    three[0].kill()
    async with client(three[:1], one, timeouts=QUICK) as nodes, opened(nodes, root, back, IDLE) as fs:
        assert await fs.names() == {b"stays"}


async def test_fsync_alone_makes_a_file_durable(
    nodes: NodeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, data = tmp_path / "state", os.urandom(300_000)
    disk = Disk(monkeypatch, state)
    root = await new_root(nodes)
    async with opened(nodes, root, state) as fs:
        handle = await fs.create("file")
        await fs.pwrite(handle, data, 0)
        await fs.tree.files.sync(handle)
        await fs.pwrite(handle, b"not synced", len(data))
        back = disk.after_power_failure(tmp_path / "copy")
        await fs.close(handle)
    async with opened(nodes, root, back) as fs:
        assert not fs.tree.status().errors
        assert (await fs.read("file"))[: len(data)] == data


async def test_a_published_log_stays_until_the_disk_has_the_row_that_forgets_it(
    nodes: NodeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between upload and sync the power fails: the old row comes back, and so must its log."""
    state, data = tmp_path / "state", os.urandom(300_000)
    disk = Disk(monkeypatch, state)
    root = await new_root(nodes)
    async with opened(nodes, root, state) as fs:
        await fs.write("file", data)
        await fs.tree.syncer.sync_all()
        log = next((state / "staged").iterdir())
        with monkeypatch.context() as failing:
            failing.setattr(type(fs.tree.journal), "sync", _never)
            await fs.tree.drain(30.0)
            assert log.exists()
            back = disk.after_power_failure(tmp_path / "copy")
    async with opened(nodes, root, back) as fs:
        assert not fs.tree.status().errors
        assert await fs.read("file") == data
        await fs.drain()
        assert await fs.read("file") == data


def _never(*_: object) -> None:
    raise OSError(5, "the disk does not answer")
