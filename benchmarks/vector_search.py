"""Vector queries through the gateway and two shards, against bare faiss with the same factory string and a gRPC echo.

100,000 x 1024-d vectors; all measured in one run, in turn, `--rounds` times; medians. Bare faiss takes the k_factor and
nprobe that reach the target recall for the least CPU. The cache is off. CPU per query is that of the server processes
(from /proc), without the client's, which shares the machine.

    python -m benchmarks.vector_search [--count 100000] [--calls 3000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from dataclasses import dataclass
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
from index.building.build import IndexOptions, SpaceVectors, build
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
K_FACTORS = (1, 2, 4, 8, 16, 32, 64)
NPROBES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, kw_only=True)
class BareSetting:
    """How bare faiss searches, and what it reached and took for the queries that it was tuned with."""

    k_factor: int  # Candidates refined with full vectors, per result.
    nprobe: int
    recall: float
    cpu_us: float


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
    options = IndexOptions(recipe="IVF,PQ4fs", recall=TARGET)
    build(folder / "index", pa.table({"id": names}), {SPACE_IMAGE: space}, shards=SHARDS, options=options, threads=2)
    build_s = time.perf_counter() - began_s
    faiss.omp_set_num_threads(1)
    bare = BareFaiss(vectors)
    setting = bare.tune(queries[: len(truth)], truth)
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
            loads.setdefault("bare faiss", []).append(bare.cpu_us_per_query(queries))
            loads.setdefault("echo", []).append(asyncio.run(echo_load(echo_port, pids["echo"], len(queries))))
            for inflight in INFLIGHT:
                load, neighbours = asyncio.run(gateway_load(gateway, server_pids, queries, inflight))
                loads.setdefault(f"gateway, {inflight} in flight", []).append(load)
        return report(loads, setting, build_s=build_s, recall=recall(neighbours, truth))


def report(loads: dict[str, list[Any]], setting: BareSetting, **figures: float) -> dict[str, Any]:
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
        "bare_recall": round(setting.recall, 4),
        "bare_k_factor": setting.k_factor,
        "bare_nprobe": setting.nprobe,
        "bare_faiss_cpu_us": round(faiss_us, 1),
        "rows": rows,
        "caveats": "closed loop; the client shares the cores, so per_s is no capacity: CPU per query is the figure",
    }


class BareFaiss:
    """One faiss index of all vectors: IVF, PQ fast scan, refined with full vectors."""

    def __init__(self, vectors: F32) -> None:
        index: Any = faiss.index_factory(DIM, "IVF1024,PQ256x4fs,RFlat", faiss.METRIC_INNER_PRODUCT)
        index.train(vectors[:60_000])
        index.add(vectors)
        self._index = index
        self._ivf = faiss.extract_index_ivf(index.base_index)

    def tune(self, queries: F32, truth: np.ndarray[Any, Any]) -> BareSetting:
        """Take the k_factor and nprobe that reach the target recall for the least CPU, as measured.

        For each k_factor only the smallest such nprobe is measured: a larger one takes longer.
        """
        settings: list[BareSetting] = []
        for k_factor in K_FACTORS:
            for nprobe in NPROBES:
                self._index.k_factor, self._ivf.nprobe = k_factor, nprobe
                reached = recall(self._index.search(queries, K)[1], truth)
                if reached >= TARGET:
                    cpu_us = self.cpu_us_per_query(queries)
                    settings.append(BareSetting(k_factor=k_factor, nprobe=nprobe, recall=reached, cpu_us=cpu_us))
                    break
        if not settings:
            raise RuntimeError(f"bare faiss: no k_factor of {K_FACTORS} and nprobe of {NPROBES} reach recall {TARGET}")
        best = min(settings, key=lambda setting: setting.cpu_us)
        self._index.k_factor, self._ivf.nprobe = best.k_factor, best.nprobe
        return best

    def cpu_us_per_query(self, queries: F32) -> float:
        began_s = time.process_time()
        for query in queries:
            self._index.search(query[None, :], K)
        return (time.process_time() - began_s) / len(queries) * 1e6


async def echo_load(port: int, pid: int, calls: int) -> Load:
    async with aio_channel(f"127.0.0.1:{port}") as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(echo.METHOD)
        request = SearchRequest(examples=[Example(vector=bytes(4 * DIM))]).SerializeToString()
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
