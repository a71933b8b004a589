"""A TCP proxy on 127.0.0.1 that delays, swallows or resets what passes, as it is told. Network I/O; its own process.

    python -m benchmarks.faults.proxy --port 7001 --to 7000 --control SOCKET

A line on the Unix socket SOCKET sets the mode: pass, delay, drop or reset. It is answered when the mode is set.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
from collections.abc import Coroutine
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

DELAY_S: Final = 0.2
_CHUNK_BYTES = 1 << 16


class Mode(StrEnum):
    """What becomes of the bytes that arrive."""

    PASS = "pass"  # noqa: S105  # no password
    DELAY = "delay"  # Each way they arrive half of DELAY_S late: a round trip takes DELAY_S longer.
    DROP = "drop"  # A black hole: they, and new connections, wait until the mode changes.
    RESET = "reset"  # Connections are reset, old and new ones.


class Proxy:
    """Passes the bytes of every connection on, both ways."""

    def __init__(self, port: int) -> None:
        self._port = port  # That it passes on to.
        self._mode, self._changed = Mode.PASS, asyncio.Event()
        self._open = set[asyncio.StreamWriter]()

    def set_mode(self, mode: Mode) -> None:
        self._mode = mode
        self._changed.set()
        self._changed = asyncio.Event()
        if mode is Mode.RESET:
            for writer in self._open:
                _reset(writer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Of a new connection."""
        self._open.add(writer)
        try:
            await self._until_passing()
            if self._mode is Mode.RESET:
                _reset(writer)
                return
            there = await asyncio.open_connection("127.0.0.1", self._port)
            self._open.add(there[1])
            try:
                await _until_first(self._pump(reader, there[1]), self._pump(there[0], writer))
            finally:
                self._open.discard(there[1])
                there[1].close()
        except OSError:  # Either end is gone, so both are.
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Write what is read, in its order, each chunk at its own time."""
        chunks = asyncio.Queue[tuple[float, bytes]]()
        clock = asyncio.get_running_loop().time

        async def read() -> None:
            try:
                while data := await reader.read(_CHUNK_BYTES):
                    chunks.put_nowait((clock() + (DELAY_S / 2 if self._mode is Mode.DELAY else 0.0), data))
            finally:
                chunks.put_nowait((0.0, b""))  # The end.

        reading = asyncio.create_task(read())
        try:
            while (chunk := await chunks.get())[1]:
                await asyncio.sleep(max(0.0, chunk[0] - clock()))
                await self._until_passing()
                writer.write(chunk[1])
                await writer.drain()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _until_passing(self) -> None:
        while self._mode is Mode.DROP:
            await self._changed.wait()

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.set_mode(Mode((await reader.readline()).decode().strip()))
        writer.write(b"ok\n")
        writer.close()


def set_mode(control: Path, mode: Mode) -> None:
    """Tell the proxy behind this socket what to do; returns when it does."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(control))
        connection.sendall(f"{mode}\n".encode())
        connection.recv(16)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST in place of FIN: what has not been sent is discarded."""
    peer: socket.socket = writer.get_extra_info("socket")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, (1).to_bytes(4, "little") + (0).to_bytes(4, "little"))
    writer.transport.abort()


async def _until_first(*work: Coroutine[Any, Any, None]) -> None:
    """Run all until the first ends or fails; the others are cancelled. Raises what that one raised."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


async def run(port: int, to: int, control: Path) -> None:
    proxy = Proxy(to)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", port)
    await asyncio.start_unix_server(proxy.control, control)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to", type=int, required=True, metavar="PORT")
    parser.add_argument("--control", type=Path, required=True, metavar="SOCKET")
    options = parser.parse_args()
    asyncio.run(run(options.port, options.to, options.control))


if __name__ == "__main__":
    main()
