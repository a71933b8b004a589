"""A GPU against the CPUs of its machine: build, memory, batched and served queries at recall@10 and @100 of 0.95.

Vectors are those of `benchmarks/dataset.py`. Each recipe is built twice, on the CPU and with the GPU's help, and
searched by as many threads as there are cores, 16 queries at a time, as a shard does: candidates from the ANN index,
rescored with full vectors. Then one is served: a shard process with that device, a gateway, 64 calls in flight.

    python -m benchmarks.gpu --device cuda:0                        1,000,000 vectors: about 20 GB of disk
    python -m benchmarks.gpu --device cpu --vectors 20000           a fake device in memory, on any machine

Writes benchmarks/results/gpu.json, or --result NAME. Requirements of a machine with a GPU: docs/operations.md.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks.contender import VECTORS, map_vectors
from benchmarks.dataset import DIM, CnnLike
from benchmarks.meter import COMMAND, closed_loop, write
from benchmarks.neighbours import nearest, recall
from index.backends import factory, gpu
from index.backends.faiss_support import use_threads
from index.backends.gpu import Gpu, GpuIndex
from index.backends.recipe import IvfRecipe, Recipe, resolve_recipe
from index.building.build import IndexOptions, SpaceVectors, build
from index.building.calibration import calibrate, draw_queries
from index.search.space import BATCH, SpaceIndex
from index.storage import vectors as stored
from index.storage.vectors import StoredVectors
from lookalike.channels import aio_channel
from lookalike.errors import OperatorError
from lookalike.local.probes import free_ports, is_serving
from lookalike.local.supervisor import Supervisor
from lookalike.releases.manifest import IndexEntry
from lookalike.v1.search_pb2 import Example, SearchRequest, SearchResponse
from lookalike.v1.search_pb2_grpc import SimilarProductsStub
from lookalike.v1.types_pb2 import SPACE_IMAGE
from lookalike.vectors import F32, I64, pack

RECIPES = ("SQfp16", "IVF,SQ8", "IVF,PQ64x8")
SERVED = "IVF,SQ8"
DEPTHS = (10, 100)
INFLIGHT = 64
NO_GPU = "cpu: the same code on a fake device in this machine's memory; no figure here is of a GPU"


class QuerySet(NamedTuple):
    queries: F32
    truth: I64  # (n, 100): the nearest of each, the nearest first.


class Host:
    """A fake `index.backends.device.Device` in this machine's memory."""

    name = "host"
    max_selected: int = 2048

    def __init__(self, free_bytes: int = 1 << 40) -> None:
        self._free_bytes = free_bytes

    def free_bytes(self) -> int:
        return self._free_bytes

    def copy_to_device(self, index: Any) -> Any:
        return index


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", metavar="cpu|cuda:N")
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--recipes", nargs="+", default=RECIPES, metavar="RECIPE")
    parser.add_argument("--result", default="gpu", metavar="NAME")
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    gpu_device = gpu.open_gpu(options.device, limit_bytes=0, max_waiting=threads * BATCH)
    device = gpu_device or Gpu(Host, "host", limit_bytes=0, max_waiting=threads * BATCH)
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as name:
        folder = Path(name)
        vectors, query_set = prepare(folder, options.vectors, options.queries)
        rows = [
            row for recipe in options.recipes for row in measure_recipe(device, recipe, vectors, query_set, threads)
        ]
        through_gateway = measure_served(folder, options.device, vectors, query_set, threads)
    device.close()
    result = {
        "device": options.device if gpu_device else NO_GPU,
        "vectors": f"{options.vectors} x {DIM}, benchmarks/dataset.py; {options.queries} queries; {threads} threads",
        "rows": rows,
        "served": through_gateway,
        "caveats": "closed loops; recall against exact search; of the served, client and servers share the cores",
    }
    print(write(options.result, result))


def prepare(folder: Path, count: int, query_count: int) -> tuple[StoredVectors, QuerySet]:
    """Write vectors to disk in float16; returns them with queries and true neighbours."""
    dataset = CnnLike()
    stored.write_vectors(folder / VECTORS, dataset.vectors(count), documents=count, dim=DIM, rescore="float16")
    vectors, queries = map_vectors(folder), dataset.queries(query_count)
    return vectors, QuerySet(queries, nearest(vectors, queries, max(DEPTHS)))


def measure_recipe(
    device: Gpu, name: str, vectors: StoredVectors, query_set: QuerySet, threads: int
) -> list[dict[str, Any]]:
    """Build and search with one recipe: a row for each depth, on the CPU and on the device."""
    recipe = resolve_recipe(name, len(vectors), DIM, 0)
    if recipe is None:
        raise OperatorError(f"{name}: exact search has no index to place on a device")
    began_s = time.perf_counter()
    held_out = draw_queries(len(vectors), 0)
    cpu_index = factory.train_index(recipe, vectors, 0, threads, held_out=held_out)
    by_cpu_s = time.perf_counter() - began_s
    by_device_s = time_device_build(device, recipe, vectors, threads)
    use_threads(1)
    points = calibrate(cpu_index, vectors, held_out)
    began_s = time.perf_counter()
    device_index = device.place(cpu_index)
    copied_s = time.perf_counter() - began_s
    device_bytes = device_index.device_bytes if isinstance(device_index, GpuIndex) else 0
    rows = []
    for where, index in (("cpu", cpu_index), (device.name, device_index)):
        entry = IndexEntry(recipe=str(recipe), operating_points=points)
        space = SpaceIndex(entry=entry, vectors=vectors, rows=np.arange(len(vectors)), ann_index=index)
        for k in DEPTHS:
            found, took_s = search_on_threads(partial(search_rows, space, k), query_set.queries, threads)
            point = next(point for point in points if point.depth >= k)
            rows.append(
                {
                    "recipe": str(recipe),
                    "where": where,
                    "k": k,
                    "recall": round(recall(found, query_set.truth[:, :k]), 4),
                    "search_parameter": point.search_parameter,
                    "refine_factor": point.refine_factor,
                    "qps": round(len(query_set.queries) / took_s, 1),
                    "build_cpu_s": round(by_cpu_s, 1),
                    "build_with_device_s": round(by_device_s, 1),
                    "copy_s": round(copied_s, 2),
                    "device_bytes_computed": device_bytes,
                }
            )
    return rows


def time_device_build(device: Gpu, recipe: Recipe, vectors: StoredVectors, threads: int) -> float:
    """Seconds to train with the GPU's help; a recipe without training takes none."""
    began_s = time.perf_counter()
    if isinstance(recipe, IvfRecipe):
        device.train_ivf(recipe, vectors, 0, threads)
    return time.perf_counter() - began_s


def search_rows(space: SpaceIndex, k: int, queries: F32) -> list[I64]:
    return [found.rows for found in space.search(queries, k)]


def search_on_threads(search: Callable[[F32], list[I64]], queries: F32, threads: int) -> tuple[list[I64], float]:
    """Search for all queries once, BATCH at a time, after a warm-up; returns the rows and the seconds."""
    parts = [queries[start : start + BATCH] for start in range(0, len(queries), BATCH)]
    with ThreadPoolExecutor(threads, initializer=use_threads, initargs=(1,)) as pool:
        list(pool.map(search, parts[: 2 * threads]))
        began_s = time.perf_counter()
        found = [rows for part in pool.map(search, parts) for rows in part]
        return found, time.perf_counter() - began_s


def measure_served(
    folder: Path, device: str, vectors: StoredVectors, query_set: QuerySet, threads: int
) -> Mapping[str, Any]:
    """Measure a served index: a gateway, and one shard with the device."""
    ids = [f"{row:07}" for row in range(len(vectors))]
    space = SpaceVectors(encoder="benchmark", vectors=vectors.astype(np.float32), rows=np.arange(len(vectors)))
    index_options = IndexOptions(recipe=SERVED, rescore="float16")
    build(
        folder / "index", pa.table({"id": ids}), {SPACE_IMAGE: space}, shards=1, options=index_options, threads=threads
    )
    shard, gateway = free_ports(2)
    with Supervisor(folder / "logs", os.environ) as processes:  # noqa: TID251  # a script of its own
        command = [*COMMAND, "serve", "shard", "--location", str(folder / "index"), "--shard", "0", "--device", device]
        ready = partial(is_serving, f"127.0.0.1:{shard}")
        processes.start("shard", [*command, "--port", str(shard)], ready=ready)
        command = [*COMMAND, "serve", "gateway", "--shards", f"127.0.0.1:{shard}", "--cache-ttl-s", "0"]
        ready = partial(is_serving, f"127.0.0.1:{gateway}")
        processes.start("gateway", [*command, "--port", str(gateway)], ready=ready)
        processes.wait_ready(timeout_s=600)
        return asyncio.run(measure_gateway(gateway, list(processes.pids().values()), query_set))


async def measure_gateway(port: int, pids: Sequence[int], query_set: QuerySet) -> Mapping[str, Any]:
    rows = {}
    async with aio_channel(f"127.0.0.1:{port}") as channel:
        stub = SimilarProductsStub(channel)
        for k in DEPTHS:
            found: dict[int, I64] = {}

            async def ask(i: int, k: int = k, found: dict[int, I64] = found) -> None:
                example = Example(vector=pack(query_set.queries[i]))
                request = SearchRequest(examples=[example], space=SPACE_IMAGE, limit=k)
                response: SearchResponse = await stub.Search(request)
                found[i] = np.array([int(hit.product.id) for hit in response.hits])

            load = await closed_loop(ask, range(len(query_set.queries)), INFLIGHT, pids)
            rows[f"k={k}"] = {
                **load.row(),
                "recall": round(recall([found[i] for i in range(len(query_set.queries))], query_set.truth[:, :k]), 4),
            }
    return {"recipe": SERVED, "in_flight": INFLIGHT, **rows}


if __name__ == "__main__":
    main()
