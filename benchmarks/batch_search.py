"""Similar products of every product of a catalogue: one Search each, against BatchSearch and SearchStream.

What a shop computes at night. A gateway and two shards over 100,000 x 1024-d vectors, a search for each product by id,
the cache off; all ways measured in one run, in turn, `--rounds` times; medians. CPU per product is that of all threads
of the gateway and the shards (from /proc), without the client's.

    python -m benchmarks.batch_search [--count 100000] [--products 4096] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.dataset import DIM, cnn_like
from benchmarks.meter import COMMAND, Load, closed_loop, cpu_s, median, write
from benchmarks.neighbours import nearest, recall
from benchmarks.vector_search import SHARDS, K
from index.building.build import SpaceVectors, build
from lookalike.channels import aio_channel
from lookalike.client import AsyncClient, SearchArguments
from lookalike.errors import LookalikeError
from lookalike.local.probes import free_ports, is_serving
from lookalike.local.supervisor import Supervisor
from lookalike.v1.search_pb2 import BatchSearchRequest, Example, SearchRequest, SearchResponse
from lookalike.v1.search_pb2_grpc import SimilarProductsStub
from lookalike.v1.types_pb2 import SPACE_IMAGE
from lookalike.vectors import F32

# Searches per call, and calls in flight.
WAYS = ((1, 1), (1, 16), (1, 64), (16, 4), (64, 1), (64, 4), (256, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--products", type=int, default=4_096)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    vectors, _ = cnn_like(options.count, 1)
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        rows, measured_recall = measure(Path(folder), vectors, options.products, options.rounds)
    result = {
        "vectors": f"{options.count} x {DIM}, CNN-like, k={K}, {SHARDS} shards",
        "products": options.products,
        "recall": round(measured_recall, 4),
        "rows": rows,
        "caveats": "closed loop; the client shares the cores, so products_per_s is no capacity: CPU per product is the "
        "figure, and products_per_core_s its inverse",
    }
    print(write("batch_search", result))


def measure(folder: Path, vectors: F32, products: int, rounds: int) -> tuple[dict[str, dict[str, float]], float]:
    names = [f"{i:06}" for i in range(len(vectors))]
    space = SpaceVectors(encoder="benchmark", vectors=vectors, rows=np.arange(len(vectors)))
    build(folder / "index", pa.table({"id": names}), {SPACE_IMAGE: space}, shards=SHARDS, threads=2)
    *ports, gateway = free_ports(SHARDS + 1)
    addresses = [f"127.0.0.1:{port}" for port in ports]
    with Supervisor(folder / "logs", os.environ) as processes:  # noqa: TID251  # a script of its own
        for i, address in enumerate(addresses):
            shard = ["serve", "shard", "--location", str(folder / "index"), "--shard", str(i), "--threads", "1"]
            command = [*COMMAND, *shard, "--port", address.rpartition(":")[2]]
            processes.start(f"shard {i}", command, ready=partial(is_serving, address))
        command = [*COMMAND, "serve", "gateway", "--shards", ",".join(addresses), "--port", str(gateway)]
        ready = partial(is_serving, f"127.0.0.1:{gateway}")
        processes.start("gateway", [*command, "--cache-ttl-s", "0"], ready=ready)
        processes.wait_ready(timeout_s=120)
        pids = list(processes.pids().values())
        loads: dict[tuple[int, int], list[Load]] = {way: [] for way in WAYS}
        streams: list[float] = []
        for _ in range(rounds):
            for size, inflight in WAYS:
                load, neighbours = asyncio.run(similar_of_all(gateway, pids, names[:products], size, inflight))
                loads[size, inflight].append(load)
            streams.append(asyncio.run(stream_of_all(gateway, pids, names[:products])))
    truth = nearest(vectors, vectors[:200])
    found = neighbours[: len(truth), : K - 1]  # A product is not its own hit; the exact ranking begins with it.
    stream_us = float(np.median(streams))
    rows = {name_of(way): row_of(loads[way], way[0]) for way in WAYS}
    rows["SearchStream"] = {"cpu_us_per_product": round(stream_us, 1), "products_per_core_s": round(1e6 / stream_us, 1)}
    return rows, recall(found, truth[:, 1:])


def name_of(way: tuple[int, int]) -> str:
    size, inflight = way
    return f"{'Search' if size == 1 else f'BatchSearch of {size}'}, {inflight} calls in flight"


def row_of(loads: Sequence[Load], size: int) -> dict[str, float]:
    cpu_us = median(loads, "cpu_us") / size
    return {
        "cpu_us_per_product": round(cpu_us, 1),
        "products_per_core_s": round(1e6 / cpu_us, 1),
        "products_per_s": round(median(loads, "per_s") * size, 1),
        "p50_ms": round(median(loads, "p50_ms"), 2),
        "p99_ms": round(median(loads, "p99_ms"), 2),
    }


async def similar_of_all(
    port: int, pids: Sequence[int], names: Sequence[str], size: int, inflight: int
) -> tuple[Load, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    """Ask for the K nearest of every product, `size` of them in a call."""
    requests = [SearchRequest(examples=[Example(product_id=name)], space=SPACE_IMAGE, limit=K) for name in names]
    neighbours = np.full((len(names), K), -1)
    async with aio_channel(f"127.0.0.1:{port}") as channel:
        stub = SimilarProductsStub(channel)

        def keep(row: int, response: SearchResponse) -> None:
            if response.provenance.coverage < 1:
                raise RuntimeError(f"partial: {response.provenance}")
            neighbours[row, : len(response.hits)] = [int(hit.product.id) for hit in response.hits]

        async def ask(i: int) -> None:
            if size == 1:
                keep(i, await stub.Search(requests[i]))
                return
            batch = BatchSearchRequest(requests=requests[i * size : (i + 1) * size])
            for row, result in enumerate((await stub.BatchSearch(batch)).results, i * size):
                keep(row, result.response)

        return await closed_loop(ask, range(len(names) // size), inflight, pids), neighbours


async def stream_of_all(port: int, pids: Sequence[int], names: Sequence[str]) -> float:
    """Ask for the K nearest of every product on one stream; returns server CPU per product in microseconds."""
    searches = (SearchArguments(product_id=name, space="image", limit=K) for name in names)
    before_s, answered = cpu_s(*pids), 0
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        async for _, result in client.search_stream(searches):
            if isinstance(result, LookalikeError):
                raise result
            answered += 1
    if answered != len(names):
        raise RuntimeError(f"{answered} of {len(names)} answered")
    return (cpu_s(*pids) - before_s) / answered * 1e6


if __name__ == "__main__":
    main()
