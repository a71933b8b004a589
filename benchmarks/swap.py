"""What a change of versions costs those who ask meanwhile: gateway and two shards, asked without a pause.

100,000 x 1024-d vectors in two versions that differ in titles, each of which is verified, mapped and warmed up as it
takes its turn. Latencies of the calls between choosing a version and the end of the one before, against those of the
same number of calls before it, in turn, `--rounds` times; medians. The cache is off.

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
from index.storage import version
from index.storage.location import Directory
from lookalike.channels import aio_channel
from lookalike.local.probes import free_ports, is_serving
from lookalike.local.supervisor import Supervisor
from lookalike.v1.index_pb2 import DescribeRequest
from lookalike.v1.index_pb2_grpc import IndexShardStub
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.search_pb2_grpc import SimilarProductsStub
from lookalike.v1.types_pb2 import SPACE_IMAGE
from lookalike.vectors import F32, pack

SHARDS = 2
POLL_S, LEASE_S = 1.0, 2.0


class Answer(NamedTuple):
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
        names = [built(location, vectors, title) for title in ("first", "second")]
        result = {"verify": verified(location, names[0]), **served(Path(folder), names, queries, options)}
    print(write("swap", {"vectors": f"{options.count} x {DIM}, benchmarks/dataset.py, k=10", **result}))


def built(location: Path, vectors: F32, title: str) -> str:
    ids = [f"{row:06}" for row in range(len(vectors))]
    space = SpaceVectors(encoder="benchmark", vectors=vectors, rows=np.arange(len(vectors)))
    products = pa.table({"id": ids, "title": [title] * len(ids)})
    return build(location, products, {SPACE_IMAGE: space}, shards=SHARDS, threads=2)


def verified(location: Path, name: str) -> dict[str, float]:
    """What hashing its files takes: wall clock, which a busy machine stretches, and CPU of all threads."""
    manifest, wall_s, cpu_s = version.read_manifest(location, name), [], []
    for _ in range(5):
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        read_bytes = version.verify(location / name, manifest)
        wall_s.append(time.perf_counter() - began_s)
        cpu_s.append(time.process_time() - began_cpu_s)
    gb, wall, cpu = read_bytes / 1e9, float(np.median(wall_s)), float(np.median(cpu_s))
    return {"gb": round(gb, 3), "gb_per_s": round(gb / wall, 2), "gb_per_cpu_s": round(gb / cpu, 2)}


def served(folder: Path, names: list[str], queries: F32, options: argparse.Namespace) -> dict[str, Any]:
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
        asked = measured(Directory(folder / "index"), turns, parts, f"127.0.0.1:{gateway}", addresses)
        return {"inflight": options.inflight, **asyncio.run(asked)}


async def measured(
    location: Directory, turns: Sequence[str], parts: Sequence[F32], gateway: str, shards: Sequence[str]
) -> dict[str, Any]:
    """One version after the other, while callers ask without a pause. What fails is raised: nothing may."""
    answers: list[Answer] = []
    rounds = []
    async with aio_channel(gateway) as channel:
        search = SimilarProductsStub(channel).Search
        asking = [asyncio.create_task(ask(search, queries, answers)) for queries in parts]
        for new in turns:
            await asyncio.sleep(3 * LEASE_S)
            began_s = time.perf_counter()
            use(location, new)
            while not await only(shards, new):  # noqa: ASYNC110  # another process's state
                await asyncio.sleep(0.1)
            ended_s = time.perf_counter()
            during = [answer for answer in answers if began_s <= answer.at_s < ended_s]
            before = [answer for answer in answers if answer.at_s < began_s][-len(during) :]
            first_s = min(answer.at_s for answer in during if answer.version == new) - began_s
            rounds.append(
                {"to_first_answer_s": first_s, "to_old_dropped_s": ended_s - began_s} | ratios(before, during)
            )
        for task in asking:
            task.cancel()
        for ended in await asyncio.gather(*asking, return_exceptions=True):
            if not isinstance(ended, asyncio.CancelledError):
                raise RuntimeError(f"a call failed: {ended}")
    return {
        "calls": len(answers),
        "failed": 0,
        "least_coverage": min(answer.coverage for answer in answers),
        "median": {figure: round(float(np.median([each[figure] for each in rounds])), 3) for figure in rounds[0]},
        "rounds": [{figure: round(value, 3) for figure, value in each.items()} for each in rounds],
        "caveats": "files in the page cache; client and servers share the cores; closed loop",
    }


async def ask(search: Callable[..., Awaitable[Any]], queries: F32, answers: list[Answer]) -> None:
    while True:
        for query in queries:
            request = SearchRequest(examples=[Example(vector=pack(query))], space=SPACE_IMAGE, limit=10)
            began_s = time.perf_counter()
            told = (await search(request)).provenance
            ended_s = time.perf_counter()
            answers.append(Answer(ended_s, ended_s - began_s, told.version, told.coverage))


async def only(shards: Sequence[str], name: str) -> bool:
    """Whether every shard serves that version and no other."""
    for address in shards:
        async with aio_channel(address) as channel:
            told = await IndexShardStub(channel).Describe(DescribeRequest(), timeout=10)
        if [state.version for state in told.versions] != [name]:
            return False
    return True


def ratios(before: list[Answer], during: list[Answer]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for quantile in (50, 99):
        steady, changing = (
            float(np.percentile([answer.took_s for answer in part], quantile)) * 1e3 for part in (before, during)
        )
        figures |= {f"p{quantile}_before_ms": steady, f"p{quantile}_during_ms": changing}
        figures[f"p{quantile}_ratio"] = changing / steady
    return figures


if __name__ == "__main__":
    main()
