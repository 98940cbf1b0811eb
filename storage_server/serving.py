"""A running server: lock, socket, TLS, uvicorn, readiness, signals."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import uvicorn

from lafsfs.errors import BusyError, ConfigError
from storage_server import identity as identities
from storage_server.app import asgi_application
from storage_server.expiry import expire_for_ever
from storage_server.identity import Identity
from storage_server.protocol import StorageProtocol
from storage_server.settings import Settings
from storage_server.sockets import listen
from storage_server.store import Store

_KEEP_ALIVE_SECONDS: Final = 3600
_GRACE_SECONDS: Final = 5
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_APPLICATION: Final = b"lafs-storage/0.1"


@contextmanager
def exclusive(storage_dir: Path) -> Iterator[None]:
    """Own a storage directory. BusyError if another server has it.

    The lock is on the directory itself: no file is added, and it ends with the process.
    """
    fd = os.open(storage_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"another server runs on {storage_dir}") from None
        yield
    finally:
        os.close(fd)


def tls_context(identity: Identity) -> ssl.SSLContext:
    """TLS 1.2 or newer, with exactly one certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.load_cert_chain(identity.tls_file)
    return context


def keep_freed_memory() -> None:
    """Have malloc keep what is freed, up to a limit, where it is glibc's.

    Bodies come and go in pieces of a few hundred KiB; giving each back to the kernel costs a page fault for
    every 4 KiB of the next one, as much as all the rest of receiving it.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 64 << 20)


def allow_many_connections() -> None:
    """Raise the limit of open files to what the system permits."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Server(uvicorn.Server):
    """uvicorn with our signals and a call when it is ready."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT end the server in order, and the process with success."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        yield

    def _stop(self) -> None:
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the store, accept connections, say so."""
        await super().startup(sockets=sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish the requests under way; idle connections end at once, without the goodbye of TLS."""
        for connection in list(self.server_state.connections):
            cycle = getattr(connection, "cycle", None)
            transport = getattr(connection, "transport", None)
            idle = cycle is None or cycle.response_complete
            if transport is not None and idle and transport.get_write_buffer_size() == 0:
                transport.abort()
        await super().shutdown(sockets=sockets)


async def _serve(server: _Server, sock: socket.socket, store: Store, expire: bool) -> None:
    task = asyncio.create_task(expire_for_ever(store)) if expire else None
    try:
        await server.serve(sockets=[sock])
    finally:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def run(directory: Path, settings: Settings, ready: Callable[[str, int], None]) -> None:
    """Serve until SIGTERM or SIGINT. `ready(host, port)` is called when requests are answered.

    BusyError, ConfigError; JournalError if the store could not be opened.
    """
    identity = identities.load(directory)
    keep_freed_memory()
    allow_many_connections()
    settings.storage_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with exclusive(settings.storage_dir):
        sock = listen(settings.host, settings.port)
        with sock:
            store = Store(settings, identity.tubid, _APPLICATION)
            config = uvicorn.Config(
                asgi_application(store, identity.swissnum),
                http=StorageProtocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_GRACE_SECONDS,
            )
            config.load()
            config.ssl = tls_context(identity)
            server = _Server(config, lambda: ready(*sock.getsockname()[:2]))
            with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
                runner.run(_serve(server, sock, store, settings.expire))
            if not server.started:
                raise ConfigError("the storage directory could not be opened; see the messages above")
