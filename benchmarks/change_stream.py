"""Patches and upserts by stream to a node of one shard, each batch synced to disk, with searches at the same time.

A process of its own streams changes with `Client.write`; this one searches at a fixed rate, before and meanwhile.

    python -m benchmarks.change_stream [--count 100000] [--patches 60000] [--upserts 30000]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.dataset import DIM, cnn_like
from benchmarks.meter import COMMAND, cpu_s, open_loop, write
from index.building.build import IndexOptions, SpaceVectors, build
from lookalike.changes import patch_change, upsert_change
from lookalike.client import AsyncClient, Client
from lookalike.local.probes import free_ports, is_serving
from lookalike.local.supervisor import Supervisor
from lookalike.v1.catalog_pb2 import Change, ChangeResponse
from lookalike.v1.types_pb2 import SPACE_IMAGE, Product
from lookalike.vectors import F32

RECIPE, BATCH, RATE_PER_S, QUERIES = "IVF,PQ4fs", 1000, 50, 1000
KINDS = ("patches", "upserts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--patches", type=int, default=60_000)
    parser.add_argument("--upserts", type=int, default=30_000)
    parser.add_argument("--folder", type=Path, help="keep the index here, and use the one that is here")
    parser.add_argument("--stream", nargs=3, metavar=("ADDRESS", "KIND", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stream:
        address, kind, count = options.stream
        print(json.dumps(stream(address, kind, int(count), options.count, options.folder)))
        return
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as scratch:
        folder = options.folder or Path(scratch)
        if not (folder / "index" / "CURRENT").exists():
            build_index(folder, options.count)
        result = measure(folder, Path(scratch), options)
    caveats = (
        "client, searches and node share two cores of a shared machine; the latencies include what the others take"
    )
    vectors = f"{options.count} x {DIM}, CNN-like, {RECIPE}"
    print(write("change_stream", {"vectors": vectors, **result, "caveats": caveats}))


def build_index(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    vectors, queries = cnn_like(count, QUERIES)
    rows = range(count)
    products = pa.table(
        {
            "id": [f"{row:06}" for row in rows],
            "title": [f"product number {row} in red and blue" for row in rows],
            "category": [f"c{row % 50}/d{row % 7}" for row in rows],
            "shop": [f"s{row % 300}" for row in rows],
            "price": [float(row) for row in rows],
            "tags": [["colour:red", "women"]] * count,
        }
    )
    space = SpaceVectors(encoder="benchmark", vectors=vectors, rows=np.arange(count))
    options = IndexOptions(recipe=RECIPE)
    build(folder / "index", products, {SPACE_IMAGE: space}, shards=1, threads=2, options=options)
    np.save(folder / "vectors.npy", vectors[: min(count, 20_000)])
    np.save(folder / "queries.npy", queries)


def measure(folder: Path, scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    port, metrics_port = free_ports(2)
    address = f"127.0.0.1:{port}"
    words = ["serve", "node", "--location", str(folder / "index"), "--live-dir", str(scratch / "live")]
    words += ["--port", str(port), "--metrics-port", str(metrics_port), "--cache-ttl-s", "0"]
    with Supervisor(scratch / "logs", os.environ) as processes:  # noqa: TID251  # a script of its own
        processes.start("node", [*COMMAND, *words], ready=partial(is_serving, address))
        processes.wait_ready(timeout_s=300)
        return asyncio.run(_measure(address, processes.pids()["node"], folder, options))


async def _measure(address: str, pid: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    result = dict[str, Any]()
    async with AsyncClient(address) as client:
        searches = Searches(client, np.load(folder / "queries.npy"), pid)
        await searches.at_rate(200)  # Warm up.
        searches.took_s.clear()
        await searches.at_rate(500)
        alone = result["searches, nothing changes"] = searches.latencies()
        for kind, count in zip(KINDS, (options.patches, options.upserts), strict=True):
            command = [sys.executable, "-m", "benchmarks.change_stream", "--count", str(options.count)]
            command += ["--folder", str(folder), "--stream", address, kind, str(count)]
            before_s = cpu_s(pid)
            streaming = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            output = asyncio.ensure_future(streaming.communicate())
            searches.took_s.clear()
            while not output.done():
                await searches.at_rate(25)
            meanwhile = searches.latencies()
            result[kind] = {
                **json.loads((await output)[0]),
                "node, cpu_us per change": round((cpu_s(pid) - before_s) / count * 1e6, 1),
                "searches": meanwhile,
                "p99 of searches, times": round(meanwhile["p99_ms"] / alone["p99_ms"], 2),
            }
            await asyncio.sleep(20)  # A compaction may be under way.
    return result


class Searches:
    """Searches at a fixed rate, and how long they took."""

    def __init__(self, client: AsyncClient, queries: F32, pid: int) -> None:
        self.took_s: list[float] = []
        self._client = client
        self._queries = queries
        self._pid = pid

    async def at_rate(self, calls: int) -> None:
        await open_loop(self._search, calls, RATE_PER_S, [self._pid])

    def latencies(self) -> dict[str, float]:
        return {f"p{each}_ms": round(float(np.percentile(self.took_s, each)) * 1e3, 2) for each in (50, 99)}

    async def _search(self, i: int) -> None:
        began_s = time.perf_counter()
        await self._client.search(vector=self._queries[i % len(self._queries)], space="image", limit=10)
        self.took_s.append(time.perf_counter() - began_s)


def stream(address: str, kind: str, changes: int, count: int, folder: Path) -> dict[str, Any]:
    """Stream changes of different products, from start to the last response."""
    made = [*generate(kind, changes, count, folder)]
    outcomes: Counter[str] = Counter()
    began_s = time.perf_counter()
    with Client(address) as client:
        for _, outcome in client.write(made, batch=BATCH):
            if isinstance(outcome, ChangeResponse):
                outcomes["applied" if outcome.applied else "stale"] += 1
            else:
                outcomes[type(outcome).__name__] += 1
    seconds = time.perf_counter() - began_s
    return {"changes": changes, "per_s": round(changes / seconds), "outcomes": dict(outcomes)}


def generate(kind: str, changes: int, count: int, folder: Path) -> Iterator[Change]:
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    revision = {"patches": 1, "upserts": 2}[kind]
    for number, row in enumerate(np.random.default_rng(1).permutation(count)[:changes].tolist()):
        if kind == "patches":
            yield patch_change(f"{row:06}", revision=revision, price=float(number), in_stock=number % 2 == 0)
        else:
            product = Product(id=f"{row:06}", title=f"product number {row}, anew", category="c1/d1", price=1)
            vector = vectors[row % len(vectors)]
            yield upsert_change(product, revision=revision, vectors={"image": vector})


if __name__ == "__main__":
    main()
