"""Vector queries through the gateway and two shards, against bare faiss with the same factory string and a gRPC echo.

100,000 x 1024-d vectors; all measured in one run, in turn, `--rounds` times; medians. The cache is off. CPU per query
is that of the server processes (from /proc), without the client's, which shares the machine.

    python -m benchmarks.vector_search [--count 100000] [--calls 3000] [--rounds 3]
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

import faiss
import grpc.aio
import numpy as np
import pyarrow as pa

from benchmarks import echo
from benchmarks.dataset import DIM, cnn_like
from benchmarks.meter import COMMAND, Load, closed_loop, median, write
from benchmarks.neighbours import nearest, recall
from index.building.build import SpaceVectors, build
from lookalike.channels import aio_channel
from lookalike.local.probes import accepts_connections, free_ports, is_serving
from lookalike.local.supervisor import Supervisor
from lookalike.v1.search_pb2 import Example, SearchRequest, SearchResponse
from lookalike.v1.search_pb2_grpc import SimilarProductsStub
from lookalike.v1.types_pb2 import SPACE_IMAGE
from lookalike.vectors import F32, pack

K = 10
SHARDS = 2
INFLIGHT = (1, 16, 64)
TARGET = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    vectors, queries = cnn_like(options.count, options.calls)
    truth = nearest(vectors, queries[:500])
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        result = measure(Path(folder), vectors, queries, truth, options.rounds)
    print(write("vector_search", {"vectors": f"{options.count} x {DIM}, CNN-like, k={K}", **result}))


def measure(folder: Path, vectors: F32, queries: F32, truth: np.ndarray[Any, Any], rounds: int) -> dict[str, Any]:
    names = [f"{i:06}" for i in range(len(vectors))]
    began_s = time.perf_counter()
    space = SpaceVectors(encoder="benchmark", vectors=vectors, rows=np.arange(len(vectors)))
    build(folder / "index", pa.table({"id": names}), {SPACE_IMAGE: space}, shards=SHARDS, threads=2)
    build_s = time.perf_counter() - began_s
    faiss.omp_set_num_threads(1)
    bare_cpu_us, bare_recall = bare_faiss(vectors, queries, truth)
    first, second, gateway, echo_port = free_ports(4)
    shards = f"127.0.0.1:{first},127.0.0.1:{second}"
    with Supervisor(folder / "logs", os.environ) as processes:  # noqa: TID251  # a script of its own
        for i, port in enumerate((first, second)):
            shard = ["serve", "shard", "--location", str(folder / "index"), "--shard", str(i), "--threads", "1"]
            processes.start(
                f"shard {i}", [*COMMAND, *shard, "--port", str(port)], ready=partial(is_serving, f"127.0.0.1:{port}")
            )
        command = [*COMMAND, "serve", "gateway", "--shards", shards, "--port", str(gateway), "--cache-ttl-s", "0"]
        processes.start("gateway", command, ready=lambda: is_serving(f"127.0.0.1:{gateway}"))
        echo_command = [COMMAND[0], "-m", "benchmarks.echo", str(echo_port), "1200"]
        processes.start("echo", echo_command, ready=lambda: accepts_connections(f"127.0.0.1:{echo_port}"))
        processes.wait_ready(timeout_s=120)
        pids = processes.pids()
        server_pids = [pids[name] for name in ("shard 0", "shard 1", "gateway")]
        loads: dict[str, list[Any]] = {}
        for _ in range(rounds):
            loads.setdefault("bare faiss", []).append(bare_cpu_us(queries))
            loads.setdefault("echo", []).append(asyncio.run(echo_load(echo_port, pids["echo"], len(queries))))
            for inflight in INFLIGHT:
                load, neighbours = asyncio.run(gateway_load(gateway, server_pids, queries, inflight))
                loads.setdefault(f"gateway, {inflight} in flight", []).append(load)
        return report(loads, build_s=build_s, bare_recall=bare_recall, recall=recall(neighbours, truth))


def report(loads: dict[str, list[Any]], **figures: float) -> dict[str, Any]:
    faiss_us = float(np.median(loads.pop("bare faiss")))
    floor_us = faiss_us + median(loads["echo"], "cpu_us")
    rows = {
        name: {f: round(median(each, f), 2) for f in ("per_s", "cpu_us", "p50_ms", "p99_ms")}
        for name, each in loads.items()
    }
    for row in rows.values():
        row["of_faiss_plus_echo"] = round(row["cpu_us"] / floor_us, 3)
    return {
        **{name: round(value, 4) for name, value in figures.items()},
        "bare_faiss_cpu_us": round(faiss_us, 1),
        "rows": rows,
        "caveats": "closed loop; the client shares the cores, so per_s is no capacity: CPU per query is the figure",
    }


def bare_faiss(vectors: F32, queries: F32, truth: np.ndarray[Any, Any]) -> tuple[Any, float]:
    """A function that measures CPU microseconds per query of one faiss index of all vectors, and the index's recall.

    IVF, PQ fast scan, refined with full vectors, at the smallest nprobe that reaches the target recall.
    """
    index: Any = faiss.index_factory(DIM, "IVF1024,PQ256x4fs,RFlat", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[:60_000])
    index.add(vectors)
    index.k_factor = 4
    ivf = faiss.extract_index_ivf(index.base_index)
    for ivf.nprobe in (1, 2, 4, 8, 16, 32, 64, 128):
        measured_recall = recall(index.search(queries[:500], K)[1], truth)
        if measured_recall >= TARGET:
            break

    def cpu_us_per_query(queries: F32) -> float:
        began_s = time.process_time()
        for query in queries:
            index.search(query[None, :], K)
        return (time.process_time() - began_s) / len(queries) * 1e6

    return cpu_us_per_query, measured_recall


async def echo_load(port: int, pid: int, calls: int) -> Load:
    async with aio_channel(f"127.0.0.1:{port}") as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(echo.METHOD)
        request = bytes(4 * DIM)
        return await closed_loop(lambda i: call(request), range(calls), 16, [pid])


async def gateway_load(port: int, pids: list[int], queries: F32, inflight: int) -> tuple[Load, np.ndarray[Any, Any]]:
    neighbours = np.full((len(queries), K), -1)
    requests = [SearchRequest(examples=[Example(vector=pack(query))], space=SPACE_IMAGE, limit=K) for query in queries]
    async with aio_channel(f"127.0.0.1:{port}") as channel:
        stub = SimilarProductsStub(channel)

        async def ask(i: int) -> None:
            response: SearchResponse = await stub.Search(requests[i])
            if response.provenance.coverage < 1:
                raise RuntimeError(f"partial: {response.provenance}")
            neighbours[i, : len(response.hits)] = [int(hit.product.id) for hit in response.hits]

        return await closed_loop(ask, range(len(queries)), inflight, pids), neighbours


if __name__ == "__main__":
    main()
