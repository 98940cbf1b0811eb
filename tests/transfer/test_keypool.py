"""The key pool: sealed on disk, each key used once, whatever happens."""

from __future__ import annotations

from pathlib import Path

import trio

from lafsfs.formats import rsa
from lafsfs.transfer.keypool import KeyPool

SEAL = bytes(range(32))


async def filled(pool: KeyPool, count: int) -> None:
    """Run `fill` until the pool holds so many keys."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.fill)
            while await pool.stock() < count:  # noqa: ASYNC110
                await trio.sleep(0.02)
            nursery.cancel_scope.cancel()


async def test_keys_come_from_stock_and_only_once(tmp_path: Path) -> None:
    await filled(KeyPool(tmp_path / "keys", SEAL, 3), 3)
    # Two pools on one directory are two processes.
    pools = [KeyPool(tmp_path / "keys", SEAL, 3), KeyPool(tmp_path / "keys", SEAL, 3)]
    taken: list[rsa.SigningKey] = []

    async def take(pool: KeyPool) -> None:
        taken.append(await pool.take())

    async with trio.open_nursery() as nursery:
        for pool in pools:
            nursery.start_soon(take, pool)
    await take(pools[0])  # the last one: with more in stock, it might fetch two at once now
    assert len({key.der for key in taken}) == 3
    assert await pools[0].stock() == 0
    assert (await pools[0].take()).der not in {key.der for key in taken}


async def test_nothing_on_disk_is_readable(tmp_path: Path) -> None:
    pool = KeyPool(tmp_path / "keys", SEAL, 1)
    await filled(pool, 1)
    (file,) = (tmp_path / "keys").iterdir()
    sealed = file.read_bytes()
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert file.stat().st_mode & 0o777 == 0o600
    der = (await pool.take()).der
    assert all(der[at : at + 16] not in sealed for at in range(0, len(der) - 16, 16))
    assert not file.exists()


async def test_damaged_and_foreign_keys_are_dropped(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    await filled(KeyPool(directory, SEAL, 2), 2)
    first, second = sorted(directory.iterdir())
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    second.write_bytes(b"short")
    (directory / "other").write_bytes(b"not ours")
    pool = KeyPool(directory, SEAL, 2)
    assert isinstance(await pool.take(), rsa.SigningKey)
    assert [path.name for path in directory.iterdir()] == ["other"]
    await filled(KeyPool(directory, bytes(32), 1), 1)
    assert isinstance(await pool.take(), rsa.SigningKey)


async def test_the_pool_is_filled_again_after_a_key_was_taken(tmp_path: Path) -> None:
    pool = KeyPool(tmp_path / "keys", SEAL, 2)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.fill)
            for _ in range(4):
                while await pool.stock() < 2:  # noqa: ASYNC110
                    await trio.sleep(0.02)
                await pool.take()
            nursery.cancel_scope.cancel()


async def test_many_keys_in_a_row_are_fetched_together(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    await filled(KeyPool(directory, SEAL, 6), 6)
    pool = KeyPool(directory, SEAL, 6)
    left: list[int] = []
    taken: set[bytes] = set()
    for _ in range(6):
        taken.add((await pool.take()).der)
        left.append(len(list(directory.iterdir())))
    assert left == [5, 3, 3, 0, 0, 0]  # a single directory wastes no keys, should the mount end after it
    assert len(taken) == 6
    assert await pool.stock() == 0


async def test_a_pool_in_memory(tmp_path: Path) -> None:
    pool = KeyPool(tmp_path / "keys", None, 2)
    await filled(pool, 2)
    assert not (tmp_path / "keys").exists()
    keys = {(await pool.take()).der for _ in range(3)}
    assert len(keys) == 3
