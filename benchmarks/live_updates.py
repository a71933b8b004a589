"""The cost of updates for a shard: a fifth of 100,000 x 1024-d products changes. For searches see `benchmarks.churn`.

One update per call, with 1, 16 and 64 calls in flight. A call returns when its update is synced to disk and searchable.

    python -m benchmarks.live_updates [--count 100000]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from benchmarks.dataset import DIM, cnn_like
from benchmarks.meter import COMMAND, closed_loop, write
from index.building.build import SpaceVectors, build
from lookalike.channels import aio_channel
from lookalike.local.probes import free_ports, is_serving
from lookalike.local.supervisor import Supervisor
from lookalike.v1.index_pb2 import (
    ApplyRequest,
    DescribeRequest,
    ShardState,
    Update,
    UpdateResult,
    Upsert,
)
from lookalike.v1.index_pb2_grpc import IndexShardStub
from lookalike.v1.types_pb2 import SPACE_IMAGE, Product, SpaceVector
from lookalike.vectors import F32, pack

if TYPE_CHECKING:
    from lookalike.v1.index_pb2_grpc import IndexShardAsyncStub as Stub  # In the stubs' types only.

INFLIGHT = (1, 16, 64)
PAUSE_S = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    options = parser.parse_args()
    fresh = options.count // 5
    vectors, _ = cnn_like(options.count + fresh, 0)
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        space = SpaceVectors(encoder="benchmark", vectors=vectors[: options.count], rows=np.arange(options.count))
        products = pa.table({"id": [f"{i:06}" for i in range(options.count)]})
        version = build(Path(folder) / "index", products, {SPACE_IMAGE: space}, shards=1, threads=2)
        updates = generate_updates(options.count, vectors[options.count :])
        result = measure(Path(folder), version, updates)
    description = f"{options.count} x {DIM}, CNN-like"
    update_mix = f"{fresh}: half supersede a product, a quarter removes one, a quarter adds one"
    print(write("live_updates", {"vectors": description, "changes": update_mix, **result}))


def generate_updates(count: int, fresh: F32) -> Iterator[Update]:
    """Updates in random order: of four, two replace a vector, one removes a product, and one adds a product."""
    rows = np.random.default_rng(1).permutation(count).tolist()
    for number, (row, vector) in enumerate(zip(rows, fresh, strict=False)):
        product_id = f"new{number}" if number % 4 == 3 else f"{row:06}"
        if number % 4 == 2:
            yield Update(revision=1, remove=product_id)
            continue
        upsert = Upsert(product=Product(id=product_id), vectors=[SpaceVector(space=SPACE_IMAGE, vector=pack(vector))])
        yield Update(revision=1, upsert=upsert)


def measure(folder: Path, version: str, updates: Iterator[Update]) -> dict[str, Any]:
    (port,) = free_ports(1)
    with Supervisor(folder / "logs", os.environ) as processes:  # noqa: TID251  # a script of its own
        words = ["serve", "shard", "--location", str(folder / "index"), "--shard", "0", "--threads", "1"]
        words += ["--live-dir", str(folder / "live"), "--port", str(port)]
        processes.start("shard", [*COMMAND, *words], ready=partial(is_serving, f"127.0.0.1:{port}"))
        processes.wait_ready(timeout_s=300)
        return asyncio.run(_measure_process(port, processes.pids()["shard"], version, [*updates]))


async def _measure_process(port: int, pid: int, version: str, updates: list[Update]) -> dict[str, Any]:
    async with aio_channel(f"127.0.0.1:{port}") as channel:
        shard: Stub = IndexShardStub(channel)
        writes, remaining = {}, iter(updates)
        for inflight, share in zip(INFLIGHT, (0.1, 0.45, 0.45), strict=True):
            part = [*itertools.islice(remaining, round(share * len(updates)))]
            writes[f"{inflight} in flight"] = await measure_writes(shard, version, part, inflight, pid)
        waited_s = await wait_for_compactions(shard)
        state = await describe(shard)
    return {
        "writes": writes,
        "waited_s": round(waited_s, 1),
        "state": {"documents": state.documents, "sequence": state.sequence, "compactions": state.live.compactions},
        "caveats": "closed loop; client and server share the cores and the disk of a shared machine: CPU per call and "
        "ratios are the figures. CPU per update includes compactions.",
    }


async def measure_writes(shard: Stub, version: str, updates: list[Update], inflight: int, pid: int) -> dict[str, float]:
    refused = 0

    async def apply(i: int) -> None:
        nonlocal refused
        refused += await apply_until_accepted(shard, version, updates[i])

    load = await closed_loop(apply, range(len(updates)), inflight, [pid])
    figures = {name: load.row()[name] for name in ("calls", "per_s", "cpu_us", "p50_ms", "p99_ms")}
    return {**figures, "refused_until_compacted": refused}


async def apply_until_accepted(shard: Stub, version: str, update: Update) -> int:
    """Apply an update; returns how often it was refused because the delta was full."""
    for refused in itertools.count():
        (result,) = (await shard.Apply(ApplyRequest(version=version, updates=[update]))).results
        if result.outcome == UpdateResult.APPLIED:
            return refused
        if result.outcome != UpdateResult.FULL:
            raise RuntimeError(result.error)
        await asyncio.sleep(PAUSE_S)
    raise AssertionError("itertools.count never ends")


async def describe(shard: Stub) -> ShardState:
    return (await shard.Describe(DescribeRequest())).versions[0]


async def wait_for_compactions(shard: Stub) -> float:
    """Wait until no compaction has ended for 20 s; returns the seconds."""
    began_s = time.perf_counter()
    before = -1
    while (now := (await describe(shard)).live.compactions) != before:
        before = now
        await asyncio.sleep(20)
    return time.perf_counter() - began_s


if __name__ == "__main__":
    main()
