"""A GPU against the CPUs of its machine: building, memory, batched and served queries at recall@10 and @100 of 0.95.

Vectors are those of `benchmarks/dataset.py`. Each recipe is built twice, on the CPU and with the GPU's help, and
searched by as many threads as there are cores, 16 queries at a time, as a shard does: candidates by its codes, compared
again by their full vectors. Then one is served: a shard process with that device, a gateway, 64 calls in flight.

    python -m benchmarks.gpu --device cuda:0                        1,000,000 vectors: about 20 GB of disk
    python -m benchmarks.gpu --device cpu --vectors 20000           everything but the GPU, anywhere

Writes benchmarks/results/gpu.json, or --result NAME. What a GPU's machine needs: docs/operations.md.
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

from benchmarks.contender import VECTORS, mapped
from benchmarks.dataset import DIM, CnnLike
from benchmarks.meter import COMMAND, closed_loop, write
from benchmarks.ngt_comparison import nearest
from index.backends import factory, gpu
from index.backends.faiss_support import use_threads
from index.backends.gpu import Gpu, GpuIndex
from index.backends.recipe import IvfRecipe, Recipe, resolve_recipe
from index.building.build import IndexOptions, SpaceVectors, build
from index.building.calibration import calibrate
from index.search.space import BATCH, SpaceIndex
from index.storage import vectors as stored
from index.storage.manifest import IndexEntry
from index.storage.vectors import StoredVectors
from lookalike.channels import aio_channel
from lookalike.errors import OperatorError
from lookalike.local.probes import free_ports, is_serving
from lookalike.local.supervisor import Supervisor
from lookalike.v1.search_pb2 import Example, SearchRequest, SearchResponse
from lookalike.v1.search_pb2_grpc import SimilarProductsStub
from lookalike.v1.types_pb2 import SPACE_IMAGE
from lookalike.vectors import F32, I64, pack

RECIPES = ("SQfp16", "IVF,SQ8", "IVF,PQ64x8")
SERVED = "IVF,SQ8"
DEPTHS = (10, 100)
INFLIGHT = 64
NO_GPU = "cpu: the same code, over this machine's memory; no figure here says anything of a GPU"


class Asked(NamedTuple):
    queries: F32
    truth: I64  # (n, 100): the nearest of each, the nearest first.


class Host:
    """`index.backends.device.Device`, over this machine's memory: everything but the GPU."""

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
    device = gpu.open_gpu(options.device, limit_bytes=0, max_waiting=threads * BATCH)
    held = device or Gpu(Host, "host", limit_bytes=0, max_waiting=threads * BATCH)
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as name:
        folder = Path(name)
        vectors, asked = prepared(folder, options.vectors, options.queries)
        rows = [row for recipe in options.recipes for row in searched(held, recipe, vectors, asked, threads)]
        through_gateway = served(folder, options.device, vectors, asked, threads)
    held.close()
    result = {
        "device": options.device if device else NO_GPU,
        "vectors": f"{options.vectors} x {DIM}, benchmarks/dataset.py; {options.queries} queries; {threads} threads",
        "rows": rows,
        "served": through_gateway,
        "caveats": "closed loops; recall against exact search; of the served, client and servers share the cores",
    }
    print(write(options.result, result))


def prepared(folder: Path, count: int, asked: int) -> tuple[StoredVectors, Asked]:
    """Vectors, float16 on disk."""
    made = CnnLike()
    stored.write_vectors(folder / VECTORS, made.vectors(count), documents=count, dim=DIM, rescore="float16")
    vectors, queries = mapped(folder), made.queries(asked)
    return vectors, Asked(queries, nearest(vectors, queries, max(DEPTHS)))


def searched(device: Gpu, name: str, vectors: StoredVectors, asked: Asked, threads: int) -> list[dict[str, Any]]:
    """A row for each depth, on the CPU and on the device."""
    recipe = resolve_recipe(name, len(vectors), DIM, 0)
    if recipe is None:
        raise OperatorError(f"{name}: exact search has no codes to put anywhere")
    began_s = time.perf_counter()
    codes = factory.train_index(recipe, vectors, 0, threads)
    by_cpu_s = time.perf_counter() - began_s
    by_device_s = built_there(device, recipe, vectors, threads)
    use_threads(1)
    points = calibrate(codes, vectors, 0)
    began_s = time.perf_counter()
    there = device.place(codes)
    copied_s = time.perf_counter() - began_s
    device_bytes = there.device_bytes if isinstance(there, GpuIndex) else 0
    rows = []
    for where, searched_codes in (("cpu", codes), (device.name, there)):
        entry = IndexEntry(recipe=str(recipe), operating_points=points)
        space = SpaceIndex(entry=entry, vectors=vectors, rows=np.arange(len(vectors)), ann_index=searched_codes)
        for k in DEPTHS:
            found, took_s = by_threads(partial(rows_of, space, k), asked.queries, threads)
            point = next(point for point in points if point.depth >= k)
            rows.append(
                {
                    "recipe": str(recipe),
                    "where": where,
                    "k": k,
                    "recall": recall(found, asked.truth[:, :k]),
                    "search_parameter": point.search_parameter,
                    "factor": point.refine_factor,
                    "qps": round(len(asked.queries) / took_s, 1),
                    "build_cpu_s": round(by_cpu_s, 1),
                    "build_with_device_s": round(by_device_s, 1),
                    "copy_s": round(copied_s, 2),
                    "device_bytes_computed": device_bytes,
                }
            )
    return rows


def built_there(device: Gpu, recipe: Recipe, vectors: StoredVectors, threads: int) -> float:
    """Seconds; what learns nothing is built by copying."""
    began_s = time.perf_counter()
    if isinstance(recipe, IvfRecipe):
        device.train_ivf(recipe, vectors, 0, threads)
    return time.perf_counter() - began_s


def rows_of(space: SpaceIndex, k: int, queries: F32) -> list[I64]:
    return [found.rows for found in space.search(queries, k)]


def by_threads(search: Callable[[F32], list[I64]], queries: F32, threads: int) -> tuple[list[I64], float]:
    """Everything asked once, BATCH at a time; and the seconds that took. A first turn warms up."""
    parts = [queries[start : start + BATCH] for start in range(0, len(queries), BATCH)]
    with ThreadPoolExecutor(threads, initializer=use_threads, initargs=(1,)) as pool:
        list(pool.map(search, parts[: 2 * threads]))
        began_s = time.perf_counter()
        found = [rows for part in pool.map(search, parts) for rows in part]
        return found, time.perf_counter() - began_s


def recall(found: Sequence[I64], truth: I64) -> float:
    shared = (len(np.intersect1d(ours, theirs)) for ours, theirs in zip(found, truth, strict=True))
    return round(sum(shared) / truth.size, 4)


def served(folder: Path, device: str, vectors: StoredVectors, asked: Asked, threads: int) -> Mapping[str, Any]:
    """Through a gateway and one shard with that device."""
    ids = [f"{row:07}" for row in range(len(vectors))]
    space = SpaceVectors(encoder="benchmark", vectors=vectors.astype(np.float32), rows=np.arange(len(vectors)))
    form = IndexOptions(recipe=SERVED, rescore="float16")
    build(folder / "index", pa.table({"id": ids}), {SPACE_IMAGE: space}, shards=1, options=form, threads=threads)
    shard, gateway = free_ports(2)
    with Supervisor(folder / "logs", os.environ) as processes:  # noqa: TID251  # a script of its own
        command = [*COMMAND, "serve", "shard", "--location", str(folder / "index"), "--shard", "0", "--device", device]
        ready = partial(is_serving, f"127.0.0.1:{shard}")
        processes.start("shard", [*command, "--port", str(shard)], ready=ready)
        command = [*COMMAND, "serve", "gateway", "--shards", f"127.0.0.1:{shard}", "--cache-ttl-s", "0"]
        ready = partial(is_serving, f"127.0.0.1:{gateway}")
        processes.start("gateway", [*command, "--port", str(gateway)], ready=ready)
        processes.wait_ready(timeout_s=600)
        return asyncio.run(by_gateway(gateway, list(processes.pids().values()), asked))


async def by_gateway(port: int, pids: Sequence[int], asked: Asked) -> Mapping[str, Any]:
    rows = {}
    async with aio_channel(f"127.0.0.1:{port}") as channel:
        stub = SimilarProductsStub(channel)
        for k in DEPTHS:
            found: dict[int, I64] = {}

            async def ask(i: int, k: int = k, found: dict[int, I64] = found) -> None:
                example = Example(vector=pack(asked.queries[i]))
                request = SearchRequest(examples=[example], space=SPACE_IMAGE, limit=k)
                response: SearchResponse = await stub.Search(request)
                found[i] = np.array([int(hit.product.id) for hit in response.hits])

            load = await closed_loop(ask, len(asked.queries), INFLIGHT, pids)
            rows[f"k={k}"] = {
                **load.row(),
                "recall": recall([found[i] for i in range(len(asked.queries))], asked.truth[:, :k]),
            }
    return {"recipe": SERVED, "in_flight": INFLIGHT, **rows}


if __name__ == "__main__":
    main()
