"""Listening sockets and the choice of a port."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from typing import Final

from lafsfs.errors import ConfigError

_BACKLOG: Final = 1024
_OWN_PORTS: Final = range(16384, 32768)
_PORT_TRIALS: Final = 50


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. ConfigError if the address cannot be used."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return sock


def usable_port(host: str, port: int) -> int:
    """`port`, or for 0 a free one to remember. ConfigError if the address cannot be used.

    The choice is below the ports that systems hand out to outgoing connections, so that it is still free
    when the server starts.
    """
    candidates = random.SystemRandom().sample(_OWN_PORTS, _PORT_TRIALS) if port == 0 else []
    for candidate in candidates:
        with suppress(ConfigError), listen(host, candidate):
            return candidate
    with listen(host, port) as sock:
        chosen: int = sock.getsockname()[1]
        return chosen
