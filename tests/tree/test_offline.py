"""Without any server: what was seen is still shown, writes are taken up to the limit, and all goes on afterwards."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

import pytest
import trio

from lafsfs.config import Encoding
from lafsfs.errors import GridError, PendingError
from lafsfs.tree import following
from lafsfs.tree.kept import KeptDirectories
from lafsfs.tree.sealing import state_key
from tests.support.grids import QUICK, client
from tests.support.storage import StorageServer
from tests.support.trees import EAGER, IDLE, Files, copy_state, new_root, opened

ONE = Encoding(1, 1, 1)


async def test_a_tree_opens_without_servers_as_it_was_last_seen(
    three: list[StorageServer], tmp_path: Path
) -> None:
    server, state, cache = three[0], tmp_path / "state", tmp_path / "cache"
    cache.mkdir()
    async with client([server], ONE, cache=cache) as nodes:
        root = await new_root(nodes)
        async with opened(nodes, root, state) as fs:
            await fs.mkdir("dir")
            await fs.write("dir/published", b"seen" * 20_000)
            await fs.drain()
            assert await fs.read("dir/published") == b"seen" * 20_000
            await fs.write("dir/pending", b"in the journal" * 10)
    server.kill()
    async with client([server], ONE, cache=cache, timeouts=QUICK) as nodes, opened(nodes, root, state) as fs:
        assert await fs.names("dir") == {b"published", b"pending"}
        assert await fs.read("dir/pending") == b"in the journal" * 10
        assert await fs.read("dir/published") == b"seen" * 20_000
        assert any(line.startswith("offline: 2 directories") for line in fs.tree.status().errors)
        await fs.write("dir/offline", b"made without servers")
        with pytest.raises(PendingError):
            await fs.tree.drain(1.0)
        server.start()
        await fs.drain()
        assert not fs.tree.status().errors
    async with client([server], ONE) as nodes, opened(nodes, root, tmp_path / "fresh") as fs:
        assert await fs.names("dir") == {b"published", b"pending", b"offline"}
        assert await fs.read("dir/offline") == b"made without servers"


async def test_what_was_removed_is_not_said_to_be_shown_as_last_seen(
    three: list[StorageServer], tmp_path: Path
) -> None:
    server, state = three[0], tmp_path / "state"
    async with client([server], ONE) as nodes:
        root = await new_root(nodes)
        async with opened(nodes, root, state) as fs:
            await fs.mkdir("dir")
            await fs.mkdir("dir/inner")
            await fs.drain()
            await fs.names("dir/inner")
    server.kill()
    async with (
        client([server], ONE, timeouts=QUICK) as nodes,
        client([server], ONE) as others,
        opened(nodes, root, state, EAGER) as fs,
    ):
        assert await fs.names("dir/inner") == set()
        server.start()
        async with opened(others, root, tmp_path / "other") as other:
            await other.rmdir("dir/inner")
            await other.rmdir("dir")
            await other.drain()
        with trio.fail_after(30):
            while await fs.names():  # noqa: ASYNC110
                await trio.sleep(0.1)
        assert [one for one in fs.tree.inodes if one.folder is not None and one.folder.kept_since is not None]
        assert not fs.tree.status().errors


async def test_what_was_published_last_is_seen_offline_whenever_the_mount_died(
    three: list[StorageServer], tmp_path: Path
) -> None:
    """The journal forgets a name only when the directory that holds it was kept."""
    server = three[0]
    async with client([server], ONE) as nodes:
        root = await new_root(nodes)
        async with opened(nodes, root, tmp_path / "state") as fs:
            for number in range(3):
                await fs.write(f"file{number}", b"x")
                await fs.drain()
                kept = KeptDirectories(tmp_path / "state" / "seen", state_key(root))
                found = kept.find(root.read_cap().to_bytes())
                assert found is not None
                assert f"file{number}" in set(found.snapshot.packed.names())


async def test_a_directory_that_others_made_as_well_is_seen_offline_whenever_the_mount_died(
    three: list[StorageServer], tmp_path: Path
) -> None:
    """The journal forgets that we made it only when the directory above was kept as others published it."""
    server = three[0]
    async with client([server], ONE) as nodes, client([server], ONE) as other_nodes:
        root = await new_root(nodes)
        async with (
            opened(nodes, root, tmp_path / "state", IDLE) as fs,
            opened(other_nodes, root, tmp_path / "other", IDLE) as other,
        ):
            for tree, name in ((other, "theirs"), (fs, "ours")):
                await tree.mkdir("dir")
                await tree.write(f"dir/{name}", b"x")
                await tree.drain()
            copy_state(tmp_path / "state", tmp_path / "copy")
    server.kill()
    async with client([server], ONE, timeouts=QUICK) as nodes, opened(nodes, root, tmp_path / "copy") as fs:
        assert await fs.names() == {b"dir"}
        assert await fs.names("dir") == {b"theirs", b"ours"}


async def test_nothing_seen_and_no_server_is_an_error(three: list[StorageServer], tmp_path: Path) -> None:
    async with client(three[:1], ONE) as nodes:
        root = await new_root(nodes)
    three[0].kill()
    async with client(three[:1], ONE, timeouts=QUICK) as nodes:
        with pytest.raises(GridError):
            async with opened(nodes, root, tmp_path):
                pass


async def test_a_stalled_server_does_not_hold_up_what_is_in_memory(
    three: list[StorageServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "PATIENCE", 0.5)
    options = dataclasses.replace(EAGER, publish_delay=3600.0)
    async with client(three[:1], ONE) as nodes:
        root = await new_root(nodes)
        async with opened(nodes, root, tmp_path, options) as fs:
            for name in "abcdef":
                await fs.mkdir(name)
            await fs.drain()
            three[0].pause()
            with trio.fail_after(10):  # one wait for all of them, not one each
                for name in "abcdef":
                    assert await fs.names(name) == set()
            three[0].resume()


async def _fill(fs: Files, written: dict[str, bytes]) -> None:
    for number in range(200):
        data = os.urandom(10_000 if number % 2 else 50_000)
        await fs.write(f"f{number}", data)
        written[f"f{number}"] = data


async def test_writers_wait_at_the_staging_limit_then_get_enospc(
    three: list[StorageServer], tmp_path: Path
) -> None:
    server = three[0]
    options = dataclasses.replace(IDLE, staging_limit=1 << 20, staging_wait=1.0)
    async with client([server], ONE, timeouts=QUICK) as nodes:
        root = await new_root(nodes)
        async with opened(nodes, root, tmp_path, options) as fs:
            server.kill()
            written: dict[str, bytes] = {}
            with pytest.raises(OSError, match="limit") as refusal:
                await _fill(fs, written)
            assert refusal.value.errno == errno.ENOSPC
            assert 20 < len(written) < 40
            server.start()
            await fs.drain()
            for name, data in written.items():
                assert await fs.read(name) == data
            await fs.write("goes on", os.urandom(100_000))
            await fs.drain()


async def test_a_file_larger_than_the_staging_area_is_published_piece_by_piece(
    three: list[StorageServer], tmp_path: Path
) -> None:
    options = dataclasses.replace(IDLE, staging_limit=2 << 20)
    data = os.urandom(5 << 20)
    async with client(three[:1], ONE) as nodes:
        root = await new_root(nodes)
        async with opened(nodes, root, tmp_path, options) as fs:
            handle = await fs.create("big")
            for offset in range(0, len(data), 1 << 17):
                await fs.pwrite(handle, data[offset : offset + (1 << 17)], offset)
            await fs.close(handle)
            await fs.drain()
            assert await fs.read("big") == data


async def test_fsync_to_a_dead_grid_ends(three: list[StorageServer], tmp_path: Path) -> None:
    options = dataclasses.replace(IDLE, fsync="grid", sync_wait=1.0)
    async with client(three[:1], ONE, timeouts=QUICK) as nodes:
        root = await new_root(nodes)
        async with opened(nodes, root, tmp_path, options) as fs:
            three[0].kill()
            handle = await fs.create("file")
            await fs.pwrite(handle, b"x" * 100, 0)
            with pytest.raises(OSError, match=r".") as refusal:
                await fs.tree.files.sync(handle)
            assert refusal.value.errno == errno.ETIMEDOUT
            await fs.close(handle)
            assert fs.tree.status().pending_files + fs.tree.status().pending_directories > 0
