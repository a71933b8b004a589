"""Latency during a rollout: a gateway and two shards under continuous load while the version changes.

100,000 x 1024-d vectors in two versions that differ in titles; each is verified, mapped and warmed up when its turn
comes. Latencies of the calls from naming the new version until the old one is dropped, against the same number of calls
before, `--rounds` times; medians. The cache is off.

    python -m benchmarks.swap [--count 100000] [--rounds 6] [--inflight 4]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks.dataset import DIM, cnn_like
from benchmarks.meter import COMMAND, write
from index.building.build import SpaceVectors, build
from index.building.versions import use
from lookalike.channels import aio_channel
from lookalike.local.probes import free_ports, is_serving
from lookalike.local.supervisor import Supervisor
from lookalike.releases import version
from lookalike.releases.location import Directory
from lookalike.v1.index_pb2 import DescribeRequest
from lookalike.v1.index_pb2_grpc import IndexShardStub
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.search_pb2_grpc import SimilarProductsStub
from lookalike.v1.types_pb2 import SPACE_IMAGE
from lookalike.vectors import F32, pack

SHARDS = 2
POLL_S, LEASE_S = 1.0, 2.0


class TimedResponse(NamedTuple):
    at_s: float
    took_s: float
    version: str
    coverage: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--inflight", type=int, default=4)
    options = parser.parse_args()
    vectors, queries = cnn_like(options.count, 1_000)
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        location = Path(folder) / "index"
        names = [build_version(location, vectors, title) for title in ("first", "second")]
        result = {
            "verify": measure_verification(location, names[0]),
            **measure_served(Path(folder), names, queries, options),
        }
    print(write("swap", {"vectors": f"{options.count} x {DIM}, benchmarks/dataset.py, k=10", **result}))


def build_version(location: Path, vectors: F32, title: str) -> str:
    ids = [f"{row:06}" for row in range(len(vectors))]
    space = SpaceVectors(encoder="benchmark", vectors=vectors, rows=np.arange(len(vectors)))
    products = pa.table({"id": ids, "title": [title] * len(ids)})
    return build(location, products, {SPACE_IMAGE: space}, shards=SHARDS, threads=2)


def measure_verification(location: Path, name: str) -> dict[str, float]:
    """Measure the verification of a version's files: wall-clock time, and CPU time of all threads."""
    manifest, wall_s, cpu_s = version.read_manifest(location, name), [], []
    for _ in range(5):
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        read_bytes = version.verify(location / name, manifest)
        wall_s.append(time.perf_counter() - began_s)
        cpu_s.append(time.process_time() - began_cpu_s)
    gb, wall, cpu = read_bytes / 1e9, float(np.median(wall_s)), float(np.median(cpu_s))
    return {"gb": round(gb, 3), "gb_per_s": round(gb / wall, 2), "gb_per_cpu_s": round(gb / cpu, 2)}


def measure_served(folder: Path, names: list[str], queries: F32, options: argparse.Namespace) -> dict[str, Any]:
    *ports, gateway = free_ports(SHARDS + 1)
    addresses = [f"127.0.0.1:{port}" for port in ports]
    with Supervisor(folder / "logs", os.environ) as processes:  # noqa: TID251  # a script of its own
        for number, port in enumerate(ports):
            words = ["--location", str(folder / "index"), "--shard", str(number), "--threads", "1", "--port", str(port)]
            words += ["--poll-s", str(POLL_S), "--lease-s", str(LEASE_S)]
            command = [*COMMAND, "serve", "shard", *words]
            processes.start(f"shard {number}", command, ready=partial(is_serving, addresses[number]))
        command = [*COMMAND, "serve", "gateway", "--shards", ",".join(addresses), "--port", str(gateway)]
        command += ["--cache-ttl-s", "0"]
        processes.start("gateway", command, ready=partial(is_serving, f"127.0.0.1:{gateway}"))
        processes.wait_ready(timeout_s=120)
        parts = [queries[i :: options.inflight] for i in range(options.inflight)]
        turns = [names[change % 2] for change in range(options.rounds)]
        rollouts = measure_rollouts(Directory(folder / "index"), turns, parts, f"127.0.0.1:{gateway}", addresses)
        return {"inflight": options.inflight, **asyncio.run(rollouts)}


async def measure_rollouts(
    location: Directory, turns: Sequence[str], parts: Sequence[F32], gateway: str, shards: Sequence[str]
) -> dict[str, Any]:
    """Roll out one version after the other under continuous load. Raises if any call fails."""
    responses: list[TimedResponse] = []
    rounds = []
    async with aio_channel(gateway) as channel:
        search = SimilarProductsStub(channel).Search
        callers = [asyncio.create_task(search_in_a_loop(search, queries, responses)) for queries in parts]
        for new in turns:
            await asyncio.sleep(3 * LEASE_S)
            began_s = time.perf_counter()
            use(location, new)
            while not await all_serve_only(shards, new):  # noqa: ASYNC110  # another process's state
                await asyncio.sleep(0.1)
            ended_s = time.perf_counter()
            during = [response for response in responses if began_s <= response.at_s < ended_s]
            before = [response for response in responses if response.at_s < began_s][-len(during) :]
            first_s = min(response.at_s for response in during if response.version == new) - began_s
            rounds.append(
                {"to_first_answer_s": first_s, "to_old_dropped_s": ended_s - began_s} | ratios(before, during)
            )
        for task in callers:
            task.cancel()
        for ended in await asyncio.gather(*callers, return_exceptions=True):
            if not isinstance(ended, asyncio.CancelledError):
                raise RuntimeError(f"a call failed: {ended}")
    return {
        "calls": len(responses),
        "failed": 0,
        "least_coverage": min(response.coverage for response in responses),
        "median": {figure: round(float(np.median([each[figure] for each in rounds])), 3) for figure in rounds[0]},
        "rounds": [{figure: round(value, 3) for figure, value in each.items()} for each in rounds],
        "caveats": "files in the page cache; client and servers share the cores; closed loop",
    }


async def search_in_a_loop(search: Callable[..., Awaitable[Any]], queries: F32, responses: list[TimedResponse]) -> None:
    while True:
        for query in queries:
            request = SearchRequest(examples=[Example(vector=pack(query))], space=SPACE_IMAGE, limit=10)
            began_s = time.perf_counter()
            provenance = (await search(request)).provenance
            ended_s = time.perf_counter()
            responses.append(TimedResponse(ended_s, ended_s - began_s, provenance.version, provenance.coverage))


async def all_serve_only(shards: Sequence[str], name: str) -> bool:
    """Whether every shard serves that version and no other."""
    for address in shards:
        async with aio_channel(address) as channel:
            response = await IndexShardStub(channel).Describe(DescribeRequest(), timeout=10)
        if [state.version for state in response.versions] != [name]:
            return False
    return True


def ratios(before: list[TimedResponse], during: list[TimedResponse]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for quantile in (50, 99):
        steady, changing = (
            float(np.percentile([response.took_s for response in part], quantile)) * 1e3 for part in (before, during)
        )
        figures |= {f"p{quantile}_before_ms": steady, f"p{quantile}_during_ms": changing}
        figures[f"p{quantile}_ratio"] = changing / steady
    return figures


if __name__ == "__main__":
    main()
