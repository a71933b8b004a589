"""What an RPC costs over each implementation of the gRPC server, and from each kind of client.

An echo of a search request (4 KB in, 2 KB out) with an async handler, at 1, 16 and 64 in flight; a stream of replies;
and the hop from one server to another, where the client's CPU counts as well: unary calls or one bidirectional stream.
The server is pinned to one core and the client to another; CPU is of all threads of the process. Things that are
compared are measured in turn, `--rounds` times; medians.

    python -m benchmarks.edges [--calls 3000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np

from benchmarks import echo
from benchmarks.meter import cpu_s, write
from lookalike.channels import aio_channel, blocking_channel
from lookalike.local.probes import accepts_connections, free_ports
from lookalike.local.supervisor import Supervisor
from lookalike.v1.search_pb2 import Example, SearchRequest

SERVERS = ("grpcio", "threads", "native")
INFLIGHT = (1, 16, 64)
REPLY_BYTES = 2048
REQUEST = SearchRequest(examples=[Example(vector=bytes(4096))]).SerializeToString()
CORES = sorted(os.sched_getaffinity(0))

Client = Callable[[int, int, int], Coroutine[Any, Any, None]]  # port, calls, in flight


async def unary(port: int, calls: int, inflight: int) -> None:
    numbers = iter(range(calls))
    async with aio_channel(f"127.0.0.1:{port}") as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(echo.METHOD)

        async def worker() -> None:
            for _ in numbers:
                await call(REQUEST, timeout=60)

        await asyncio.gather(*(worker() for _ in range(inflight)))


async def bidirectional(port: int, calls: int, inflight: int) -> None:
    async with aio_channel(f"127.0.0.1:{port}") as channel:
        both: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(echo.BOTH)
        call = both()
        room = asyncio.Semaphore(inflight)

        async def write_all() -> None:
            for _ in range(calls):
                await room.acquire()
                await call.write(REQUEST)
            await call.done_writing()

        writer = asyncio.ensure_future(write_all())
        while await call.read() is not grpc.aio.EOF:
            room.release()
        await writer


async def threads(port: int, calls: int, inflight: int) -> None:
    """A blocking stub on as many threads as calls are in flight, awaited on the loop as a gateway would."""
    numbers = iter(range(calls))
    loop = asyncio.get_running_loop()
    with blocking_channel(f"127.0.0.1:{port}") as channel, ThreadPoolExecutor(inflight) as pool:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(echo.METHOD)

        async def worker() -> None:
            for _ in numbers:
                await loop.run_in_executor(pool, partial(call, REQUEST, timeout=60))

        await asyncio.gather(*(worker() for _ in range(inflight)))


async def stream(port: int, calls: int, inflight: int) -> None:
    async with aio_channel(f"127.0.0.1:{port}") as channel:
        replies: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(echo.STREAM)
        async for _ in replies(REQUEST):
            pass


CLIENTS: dict[str, Client] = {"unary": unary, "bidirectional": bidirectional, "threads": threads}


def measure(port: int, pid: int, client: Client, calls: int, inflight: int) -> dict[str, float]:
    asyncio.run(client(port, min(calls, 200), inflight))  # Warm.
    server_before_s, before_s, began_s = cpu_s(pid), time.process_time(), time.perf_counter()
    asyncio.run(client(port, calls, inflight))
    return {
        "server_us": (cpu_s(pid) - server_before_s) / calls * 1e6,
        "client_us": (time.process_time() - before_s) / calls * 1e6,
        "per_s": calls / (time.perf_counter() - began_s),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cells: list[tuple[str, str, int]] = [(server, "unary", n) for n in INFLIGHT for server in SERVERS]
    cells += [(server, "stream", 1) for server in SERVERS]
    cells += [(server, client, n) for n in INFLIGHT for client in ("bidirectional", "threads") for server in SERVERS]
    taken: dict[tuple[str, str, int], list[dict[str, float]]] = {cell: [] for cell in cells}
    ports = dict(zip(SERVERS, free_ports(len(SERVERS)), strict=True))
    with (
        tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder,
        Supervisor(Path(folder), os.environ) as processes,  # noqa: TID251  # a script of its own
    ):
        for name, port in ports.items():
            command = [sys.executable, "-m", "benchmarks.echo", str(port), str(REPLY_BYTES), name]
            pinned = ["taskset", "-c", str(CORES[0]), *command]
            processes.start(name, pinned, ready=partial(accepts_connections, f"127.0.0.1:{port}"))
        processes.wait_ready(timeout_s=60)
        pids = processes.pids()
        os.sched_setaffinity(0, {CORES[-1]})
        for _ in range(options.rounds):
            for server, client, inflight in cells:
                calls = echo.STREAM_MESSAGES if client == "stream" else options.calls
                run = stream if client == "stream" else CLIENTS[client]
                taken[server, client, inflight].append(measure(ports[server], pids[server], run, calls, inflight))
    rows = [
        {
            "server": server,
            "client": client,
            "inflight": inflight,
            **{figure: round(float(np.median([each[figure] for each in loads])), 1) for figure in loads[0]},
        }
        for (server, client, inflight), loads in taken.items()
    ]
    for row in rows:
        print(*(f"{value:>14}" for value in row.values()))
    caveats = (
        "closed loop, one client process: a server that costs less than the client is not full, and its batches "
        "are smaller than they would be; of a stream, figures are per message; the server `threads` is grpcio's with 4"
    )
    print(write("edges", {"request_bytes": len(REQUEST), "reply_bytes": REPLY_BYTES, "rows": rows, "caveats": caveats}))


if __name__ == "__main__":
    main()
