"""What a request costs the client: our transport and stock httpx, CPU milliseconds of this process.

    python -m tests.bench.transport_cost

The server is another process, over TLS on loopback. Best of several rounds, taken in turns.
"""

from __future__ import annotations

import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import trio

from lafsfs.grid.transport import Payload, PinnedTransport
from tests.support.scripted_server import Exchange, make_certificate, scripted_server

MIB = 1 << 20
BIG = 8 * MIB
ROUNDS = 4
#: name: (path, size of the request's body, number of requests in a round, units in a request)
LOADS = {
    "small answer": ("/small", 0, 200, 1),
    "MiB read": ("/read", 0, 4, 8),
    "MiB read, chunked": ("/chunked", 0, 4, 8),
    "MiB written": ("/write", MIB, 16, 1),
}
_OCTETS = b"HTTP/1.1 206 OK\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 0-%d/*\r\n" % (
    BIG - 1
)
_CBOR = b"HTTP/1.1 200 OK\r\nContent-Type: application/cbor\r\nTransfer-Encoding: chunked\r\n\r\n"
Send = Callable[[str, bytes], Awaitable[bytes]]


def _script(exchange: Exchange) -> None:
    blob = bytes(BIG)
    while True:
        path = exchange.request()[0].split(b" ")[1]
        if path == b"/read":
            exchange.send(_OCTETS + b"Content-Length: %d\r\n\r\n" % BIG, blob)
        elif path == b"/chunked":
            exchange.send(_OCTETS + b"Transfer-Encoding: chunked\r\n\r\n")
            for start in range(0, BIG, 65536):
                exchange.send(b"10000\r\n" + blob[start : start + 65536] + b"\r\n")
            exchange.send(b"0\r\n\r\n")
        else:
            exchange.send(_CBOR + b"64\r\n" + bytes(100) + b"\r\n0\r\n\r\n")


def _serve() -> None:
    with tempfile.TemporaryDirectory() as directory:
        certificate = make_certificate(Path(directory) / "server.pem")
        with scripted_server(certificate, _script) as server:
            print(server.port, certificate.pin.hex(), flush=True)
            sys.stdin.read()


async def _measure(send: Send) -> dict[str, float]:
    costs = {}
    for name, (path, size, count, units) in LOADS.items():
        body = bytes(size)
        await send(path, body)
        began = time.process_time()
        for _ in range(count):
            await send(path, body)
        costs[name] = (time.process_time() - began) * 1000 / count / units
    return costs


async def _ours(port: int, pin: bytes) -> dict[str, float]:
    url = httpx.URL(f"https://127.0.0.1:{port}/")
    async with PinnedTransport("127.0.0.1", port, pin) as transport:

        async def send(path: str, body: bytes) -> bytes:
            request = httpx.Request(
                "PATCH" if body else "GET",
                url,
                headers=[(b"Host", b"localhost"), (b"Authorization", b"Tahoe-LAFS x")],
                stream=Payload(body),
                extensions={"timeout": {}, "target": path.encode()},
            )
            answer = await transport.handle_async_request(request)
            return bytes(answer.extensions["body"])

        return await _measure(send)


async def _stock(port: int, _: bytes) -> dict[str, float]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with httpx.AsyncClient(verify=context, base_url=f"https://127.0.0.1:{port}") as client:

        async def send(path: str, body: bytes) -> bytes:
            headers = {"Authorization": "Tahoe-LAFS x"}
            answer = await client.request("PATCH" if body else "GET", path, content=body, headers=headers)
            return answer.content

        return await _measure(send)


def main() -> None:
    """Print a table."""
    if sys.argv[1:] == ["serve"]:
        _serve()
        return
    command = [sys.executable, "-m", "tests.bench.transport_cost", "serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin
        assert server.stdout
        port, pin = server.stdout.readline().split()
        rounds: dict[str, list[dict[str, float]]] = {"ours": [], "stock": []}
        for _ in range(ROUNDS):
            rounds["ours"].append(trio.run(_ours, int(port), bytes.fromhex(pin)))
            rounds["stock"].append(trio.run(_stock, int(port), bytes.fromhex(pin)))
        server.stdin.close()
    print(f"{'CPU ms per':20}{'ours':>8}{'httpx':>8}{'ratio':>8}")
    for name in LOADS:
        ours, stock = (min(costs[name] for costs in rounds[kind]) for kind in ("ours", "stock"))
        print(f"{name:20}{ours:8.2f}{stock:8.2f}{stock / ours:8.1f}")


if __name__ == "__main__":
    main()
