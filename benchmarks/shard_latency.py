"""Latencies and CPU of a search by fan-out: 1, 2 and 4 equal shards behind a gateway, real processes.

Indexes of 1, 2 and 4 shards, 10,000 x 1024-d vectors each, so that every shard does the same work, are built in FOLDER
unless they exist (`--build-only`: and that is all). First the one shard is called directly, one query at a time with
random pauses: the distribution of its service time. Then gateway and shards, with one query in flight and with 16 (CPU
of gateway and shards per query), and in an open loop at `--rate` queries a second (latencies).
`benchmarks.tail_latency` draws from the distribution and is held against the open loop.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.shard_latency FOLDER [--calls 3000] [--rate 40]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.dataset import DIM, cnn_like
from benchmarks.meter import COMMAND, closed_loop, cpu_s, open_loop, write
from index.building.build import IndexOptions, SpaceVectors, build
from lookalike.channels import aio_channel, blocking_channel
from lookalike.local.probes import free_ports, is_serving
from lookalike.local.supervisor import Supervisor
from lookalike.releases import version
from lookalike.v1.index_pb2 import QueryVector, ShardQuery, ShardSearchRequest
from lookalike.v1.index_pb2_grpc import IndexShardStub
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.search_pb2_grpc import SimilarProductsStub
from lookalike.v1.types_pb2 import SPACE_IMAGE
from lookalike.vectors import F32, pack

K = 10
FAN_OUTS = (1, 2, 4)
RECIPE = "PCAR256,IVF,RaBitQfs"
WARM_UP = 300  # Queries before those that count.
QUANTILES = 400  # Of the service time, at even steps from 0 to 1.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--build-only", action="store_true")
    parser.add_argument("--documents", type=int, default=10_000, help="of a shard (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=3_000)
    parser.add_argument("--rate", type=float, default=40, help="of the open loop, per second (default: %(default)s)")
    options = parser.parse_args()
    vectors, queries = cnn_like(options.documents * max(FAN_OUTS), options.calls)
    rows: dict[str, Any] = {}
    service: dict[str, Any] = {}
    for shards in FAN_OUTS:
        location = options.folder / str(shards)
        if not (location / version.CURRENT).exists():
            build_index(location, vectors[: options.documents * shards], shards)
        if options.build_only:
            continue
        with system(location, shards) as (pids, ports):
            if shards == 1:
                service = service_time(location, ports["shard 0"], pids["shard 0"], queries)
            rows[str(shards)] = asyncio.run(through_gateway(ports["gateway"], pids, queries, options.rate))
    if options.build_only:
        return
    result = {
        "vectors": f"{options.documents} x {DIM} in each shard, CNN-like, {RECIPE}, recall@10 .95",
        "rate_per_s": options.rate,
        "service_time": service,
        "by_shards": rows,
        "caveats": "client, gateway and shards share two cores of a shared machine",
    }
    print(write("shard_latency", result))


def build_index(location: Path, vectors: F32, shards: int) -> None:
    names = [f"{i:07}" for i in range(len(vectors))]
    space = SpaceVectors(encoder="benchmark", vectors=vectors, rows=np.arange(len(vectors)))
    options = IndexOptions(recipe=RECIPE, recall=0.95)
    build(location, pa.table({"id": names}), {SPACE_IMAGE: space}, shards=shards, options=options, threads=2)


@contextmanager
def system(location: Path, shards: int) -> Iterator[tuple[dict[str, int], dict[str, int]]]:
    """Run the shards, with one search thread each, and a gateway without a cache; yields pids and ports by name."""
    names = [*(f"shard {i}" for i in range(shards)), "gateway"]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    with Supervisor(location.parent / f"logs-{shards}", os.environ) as processes:  # noqa: TID251  # a script of its own
        for i in range(shards):
            arguments = ["--location", str(location), "--shard", str(i), "--threads", "1"]
            _start(processes, f"shard {i}", ["shard", *arguments], ports[f"shard {i}"])
        addresses = ",".join(f"127.0.0.1:{ports[f'shard {i}']}" for i in range(shards))
        _start(processes, "gateway", ["gateway", "--shards", addresses, "--cache-ttl-s", "0"], ports["gateway"])
        processes.wait_ready(timeout_s=120)
        yield processes.pids(), ports


def _start(processes: Supervisor, name: str, role: list[str], port: int) -> None:
    ready = partial(is_serving, f"127.0.0.1:{port}")
    processes.start(name, [*COMMAND, "serve", *role, "--port", str(port)], ready=ready)


def service_time(location: Path, port: int, pid: int, queries: F32) -> dict[str, Any]:
    """The time of a call of the shard, queries one at a time, each after a random pause of 5 ms on average."""
    random, took_ms = np.random.default_rng(0), []
    name = version.read_current(location)
    with blocking_channel(f"127.0.0.1:{port}") as channel:
        stub = IndexShardStub(channel)
        for i, query in enumerate(queries):
            if i == WARM_UP:
                used_s = cpu_s(pid)
            shard_query = ShardQuery(vectors=[QueryVector(space=SPACE_IMAGE, vector=pack(query))], k=K)
            request = ShardSearchRequest(version=name, queries=[shard_query])
            time.sleep(random.exponential(0.005))
            began_s = time.perf_counter()
            stub.Search(request, timeout=60)
            took_ms.append((time.perf_counter() - began_s) * 1e3)
        used_s = cpu_s(pid) - used_s
    steady = np.array(took_ms[WARM_UP:])
    return {
        "calls": len(steady),
        "cpu_us": round(used_s / len(steady) * 1e6),
        "mean_ms": round(float(steady.mean()), 4),
        "quantiles_ms": [round(float(q), 4) for q in np.quantile(steady, np.linspace(0, 1, QUANTILES + 1))],
    }


async def through_gateway(port: int, pids: dict[str, int], queries: F32, rate: float) -> dict[str, Any]:
    requests = [SearchRequest(examples=[Example(vector=pack(query))], space=SPACE_IMAGE, limit=K) for query in queries]
    gateway, shards = [pids["gateway"]], [pid for name, pid in pids.items() if name.startswith("shard")]
    row: dict[str, Any] = {}
    async with aio_channel(f"127.0.0.1:{port}") as channel:
        stub = SimilarProductsStub(channel)

        async def ask(i: int) -> None:
            response = await stub.Search(requests[i % len(requests)])
            if response.provenance.coverage < 1:
                raise RuntimeError(f"partial: {response.provenance}")

        await closed_loop(ask, range(WARM_UP), 16, gateway)
        for inflight in (1, 16):
            before_s = cpu_s(*shards)
            load = await closed_loop(ask, range(len(requests)), inflight, gateway)
            row[f"{inflight} in flight"] = {
                "gateway_cpu_us": round(load.cpu_us),
                "shard_cpu_us": round((cpu_s(*shards) - before_s) / load.calls / len(shards) * 1e6),
                "p50_ms": round(load.p50_ms, 3),
                "p99_ms": round(load.p99_ms, 3),
            }
        load = await open_loop(ask, len(requests), rate, gateway)
        row["open loop"] = {"p50_ms": round(load.p50_ms, 3), "p99_ms": round(load.p99_ms, 3)}
    return row


if __name__ == "__main__":
    main()
