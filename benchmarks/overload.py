"""What becomes of calls when more arrive than a gateway can answer? Goodput and latencies at 0.8, 2 and 10 times that.

A gateway without cache over a shard of 5,000 vectors; searches by product of 1,000 hits, which cost the gateway most.
Servers are on one core and the client on another. The capacity is that of a closed loop of 32 callers. Then calls
arrive by chance (open loop), whatever became of those before them; each has a deadline of 2 s. Goodput is answers per
second; refused calls and late ones are none. `--checkout DIR` runs the servers of another checkout, to compare with.

    python -m benchmarks.overload [--seconds 10] [--checkout DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pyarrow as pa

from benchmarks.meter import write
from index.building.build import SpaceVectors, build
from lookalike.channels import aio_channel
from lookalike.local.probes import free_ports, is_serving
from lookalike.local.process_specs import ROOT
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.types_pb2 import SPACE_IMAGE

PRODUCTS, DIM, HITS = 5_000, 16, 1000
METHOD = "/lookalike.v1.SimilarProducts/Search"
LOADS = (0.8, 2.0, 10.0)
CALLERS = 32
DEADLINE_S, START_S = 2.0, 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--checkout", type=Path, default=ROOT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder, ExitStack() as stack:
        shard, port = free_ports(2)
        location = build_index(Path(folder) / "index")
        os.sched_setaffinity(0, {0})  # Of the servers, which inherit it.
        servers = [
            (["shard", "--location", str(location), "--shard", "0", "--threads", "1"], shard),
            (["gateway", "--shards", f"127.0.0.1:{shard}", "--cache-ttl-s", "0", "--recall-sample", "0"], port),
        ]
        for serve, at in servers:
            stack.enter_context(started(options.checkout, serve, at))
        os.sched_setaffinity(0, {1})
        rows = asyncio.run(measure(f"127.0.0.1:{port}", options.seconds))
    name = "overload" if options.checkout == ROOT else "overload_before"
    caveats = "gateway and shard share a core; other work ran on the machine"
    print(write(name, {"deadline_s": DEADLINE_S, "rows": rows, "caveats": caveats}))


def build_index(location: Path) -> Path:
    vectors = np.random.default_rng(0).normal(size=(PRODUCTS, DIM)).astype(np.float32)
    space = SpaceVectors(encoder="overload", vectors=vectors, rows=np.arange(PRODUCTS))
    build(location, pa.table({"id": [str(i) for i in range(PRODUCTS)]}), {SPACE_IMAGE: space}, shards=1, threads=2)
    return location


@contextmanager
def started(checkout: Path, serve: list[str], port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "lookalike", "serve", *serve, "--port", str(port), "--log-level", "error"]
    with subprocess.Popen(command, cwd=checkout) as process:  # noqa: S603  # no shell
        try:
            end_s = monotonic() + START_S
            while not is_serving(f"127.0.0.1:{port}"):
                if process.poll() is not None or monotonic() > end_s:
                    raise RuntimeError(f"{serve[0]} is not ready")
                sleep(0.05)
            yield
        finally:
            process.kill()


async def measure(address: str, seconds: float) -> list[dict[str, Any]]:
    rng = random.Random(0)  # repeatable
    channel: Any
    async with aio_channel(address) as channel:
        search = channel.unary_unary(METHOD)
        capacity = await peak(search, rng, seconds)
        rows: list[dict[str, Any]] = [{"load": "closed loop", "goodput_per_s": round(capacity, 1)}]
        for load in LOADS:
            rows.append({"load": load, **await offer(search, rng, capacity, load, seconds)})
            print(rows[-1], flush=True)
            await asyncio.sleep(DEADLINE_S)
    return rows


def request(rng: random.Random) -> bytes:
    example = Example(product_id=str(rng.randrange(PRODUCTS)))
    return SearchRequest(examples=[example], space=SPACE_IMAGE, limit=HITS).SerializeToString()


async def peak(search: Any, rng: random.Random, seconds: float) -> float:
    """Calls per second of a closed loop."""
    end_s, answered = perf_counter() + seconds, 0

    async def caller() -> None:
        nonlocal answered
        while perf_counter() < end_s:
            await search(request(rng))
            answered += 1

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return answered / seconds


async def offer(search: Any, rng: random.Random, capacity: float, load: float, seconds: float) -> dict[str, Any]:
    """Calls at `load` times the capacity. The first quarter is not counted."""
    took_s: list[float] = []
    outcomes: Counter[str] = Counter()
    began_s, due_s = perf_counter(), 0.0
    calls = set[asyncio.Task[None]]()

    async def call(due_s: float) -> None:
        try:
            await search(request(rng), timeout=DEADLINE_S)
            outcome = "OK"
        except grpc.aio.AioRpcError as error:
            outcome = error.code().name
        if due_s > seconds / 4:
            outcomes[outcome] += 1
            if outcome == "OK":
                took_s.append(perf_counter() - began_s - due_s)

    while due_s < seconds:
        due_s += rng.expovariate(load * capacity)
        await asyncio.sleep(max(0.0, began_s + due_s - perf_counter()))
        calls.add(task := asyncio.create_task(call(due_s)))
        task.add_done_callback(calls.discard)
    if calls:
        await asyncio.wait(calls)
    p50_s, p99_s = np.quantile(took_s or [np.nan], (0.5, 0.99))
    return {
        "goodput_of_capacity": round(len(took_s) / (0.75 * seconds) / capacity, 3),
        "p50_ms": round(1000 * float(p50_s), 1),
        "p99_ms": round(1000 * float(p99_s), 1),
        "outcomes": dict(outcomes),
    }


if __name__ == "__main__":
    main()
