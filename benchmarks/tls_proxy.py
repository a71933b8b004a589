"""Ends TLS in front of a plain server, as a process of its own: what would that cost in place of grpcio's TLS?

python -m benchmarks.tls_proxy PORT BEHIND CERT KEY CLIENT_CA
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import Any

import uvloop


class _Behind(asyncio.Protocol):
    """The connection to the plain server."""

    def __init__(self, front: _Front) -> None:
        self._front = front

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._front.begin(transport)

    def data_received(self, data: bytes) -> None:
        self._front.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._front.transport.close()

    def pause_writing(self) -> None:
        self._front.transport.pause_reading()

    def resume_writing(self) -> None:
        self._front.transport.resume_reading()


class _Front(asyncio.Protocol):
    """The connection of a client."""

    def __init__(self, behind: int) -> None:
        self._port = behind
        self._early: list[bytes] = []
        self._behind: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        loop = asyncio.get_running_loop()
        self._connecting = loop.create_task(loop.create_connection(lambda: _Behind(self), "127.0.0.1", self._port))

    def begin(self, behind: Any) -> None:
        self._behind = behind
        for data in self._early:
            behind.write(data)
        self._early = []

    def data_received(self, data: bytes) -> None:
        if self._behind is None:
            self._early.append(data)
        else:
            self._behind.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._behind is not None:
            self._behind.close()

    def pause_writing(self) -> None:
        if self._behind is not None:
            self._behind.pause_reading()

    def resume_writing(self) -> None:
        if self._behind is not None:
            self._behind.resume_reading()


async def main(port: int, behind: int, cert: str, key: str, client_ca: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    context.load_verify_locations(client_ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    server = await asyncio.get_running_loop().create_server(lambda: _Front(behind), "127.0.0.1", port, ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:6]))
