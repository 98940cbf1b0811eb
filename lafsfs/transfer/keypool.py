"""RSA keys made while idle, so that a new directory does not wait for one (issue: mkdir is slow).

A key on disk is sealed with libsodium's XChaCha20-Poly1305. It is unlinked, and the directory synced,
before it is handed out: no crash and no second process can make two files with one key.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import trio
from nacl import bindings
from nacl.exceptions import CryptoError

from lafsfs.config.files import sync_directory
from lafsfs.errors import FormatError
from lafsfs.formats import rsa
from lafsfs.transfer.concurrent import quiet_threads, together

log = logging.getLogger(__name__)

_SUFFIX = ".key"
_ABOUT = b"lafsfs key pool v1"
_NONCE = bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
_MAX_FILE = 1 << 16
_WHILE_WAITED_FOR, _FOR_STOCK = 5, 19
"""Niceness of the threads that make keys (0.06 s of a core each): programs at work on the tree come first."""
_CORES = os.cpu_count() or 1
_AT_ONCE = 16
"""Keys that one visit to the disk fetches at most; those that nobody took are lost with the process."""


class KeyPool:
    """Signing keys in stock. Without a directory, or without a key to seal with, they are kept in
    memory only.

    `seal_key` are 32 secret bytes. `target` is how many keys `fill` keeps in stock.
    """

    def __init__(self, directory: Path | None, seal_key: bytes | None, target: int) -> None:
        if seal_key is not None and len(seal_key) != 32:
            raise ValueError("the sealing key must be 32 bytes")
        self._directory = directory if seal_key is not None else None
        self._seal_key = seal_key or b""
        self._target = target
        self._memory: list[rsa.SigningKey] = []
        self._fetching = trio.Lock()
        self._at_once = 1
        self._taken = trio.Event()
        self._stockers = quiet_threads(_CORES, "lafsfs-keys", _FOR_STOCK)
        self._makers = quiet_threads(_CORES, "lafsfs-keys", _WHILE_WAITED_FOR)

    async def take(self) -> rsa.SigningKey:
        """A key that nobody else has or will get: from stock, else generated now."""
        if not self._memory and self._directory is not None:
            async with self._fetching:
                if not self._memory:
                    await self._fetch()
        key = self._memory.pop() if self._memory else None
        # Only now, so that `fill` finds the gap.
        self._taken.set()
        self._taken = trio.Event()
        return key if key is not None else await _generate(self._makers)

    async def _fetch(self) -> None:
        """Keys from the disk into memory: one, and each time more while many are wanted in a row."""
        self._memory += await trio.to_thread.run_sync(self._take_from_disk, self._at_once)
        self._at_once = min(2 * self._at_once, _AT_ONCE)

    async def fill(self, idle: Callable[[], Awaitable[None]] | None = None) -> None:
        """Keep the stock at its target, for ever. To be run in the owner's nursery and cancelled there.

        `idle` is awaited before keys are made, one for each core: it returns when nobody else wants the processor.
        """
        while True:
            taken = self._taken
            while (missing := self._target - await self._stock()) > 0:
                if idle is not None:
                    await idle()
                await together(*[self._make] * min(missing, _CORES))
            self._at_once = 1
            await taken.wait()

    async def _make(self) -> None:
        await self._put(await _generate(self._stockers))

    async def stock(self) -> int:
        """How many keys are there."""
        return await self._stock()

    async def _stock(self) -> int:
        if self._directory is None:
            return len(self._memory)
        return len(self._memory) + await trio.to_thread.run_sync(self._count_files)

    async def _put(self, key: rsa.SigningKey) -> None:
        if self._directory is None:
            self._memory.append(key)
            return
        try:
            await trio.to_thread.run_sync(self._store, key.der)
        except OSError as error:
            log.warning("the key pool cannot be written: %s", error)
            self._memory.append(key)

    # --- on disk, in threads -------------------------------------------------------------------------

    def _files(self) -> Iterator[str]:
        """Names of the files with keys. There may be many, so that no more is looked at than is asked for."""
        assert self._directory is not None
        try:
            with os.scandir(self._directory) as entries:
                yield from (entry.name for entry in entries if entry.name.endswith(_SUFFIX))
        except FileNotFoundError:
            return

    def _count_files(self) -> int:
        return sum(1 for _ in self._files())

    def _store(self, der: bytes) -> None:
        directory = self._directory
        assert directory is not None
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        nonce = secrets.token_bytes(_NONCE)
        sealed = nonce + bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
            der, _ABOUT, nonce, self._seal_key
        )
        name = secrets.token_hex(16)
        temporary = directory / f"{name}.tmp"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(sealed)
            temporary.rename(directory / f"{name}{_SUFFIX}")
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def _take_from_disk(self, count: int) -> list[rsa.SigningKey]:
        """Up to `count` keys that nobody else can get any more, also when the power fails now."""
        assert self._directory is not None
        keys: list[rsa.SigningKey] = []
        for name in self._files():
            key = self._take_file(self._directory / name)
            if key is not None:
                keys.append(key)
            if len(keys) == count:
                break
        if keys:
            sync_directory(self._directory)
        return keys

    def _take_file(self, path: Path) -> rsa.SigningKey | None:
        try:
            sealed = path.read_bytes()[:_MAX_FILE]
            path.unlink()  # whoever succeeds here owns the key
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("a key of the pool cannot be used: %s", error)
            return None
        return self._open(sealed)

    def _open(self, sealed: bytes) -> rsa.SigningKey | None:
        nonce, box = sealed[:_NONCE], sealed[_NONCE:]
        try:
            der = bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(box, _ABOUT, nonce, self._seal_key)
            return rsa.SigningKey.from_der(der)
        except (CryptoError, FormatError, ValueError, TypeError):
            log.warning("a damaged key was dropped from the pool")
            return None


async def _generate(threads: ThreadPoolExecutor) -> rsa.SigningKey:
    return await trio.to_thread.run_sync(threads.submit(rsa.SigningKey.generate).result)
