"""What do callers of exact search do to ordinary queries beside them, and what do they get themselves?

A node with one shard, the cache off. `--callers` ordinary callers without a pause, alone and then beside `--exact`
callers of exact search, in turn, `--rounds` times; then the same with ordinary queries that arrive at half of that
rate, whatever becomes of those before (an open loop: a query's time counts from when it should have been sent).
Client and server share the cores. A ratio is the median of those of neighbouring measurements.

    python -m benchmarks.cost_classes [--count 100000] [--rescore float32] [--recipe auto] [--seconds 4] [--rounds 9]
    python -m benchmarks.cost_classes --index DIR …         an index to measure; it is built there if there is none
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pyarrow as pa

from benchmarks.dataset import DIM, CnnLike
from benchmarks.meter import COMMAND, cpu_s, write
from index.building.build import IndexOptions, SpaceVectors, build
from lookalike.channels import aio_channel
from lookalike.local.probes import free_ports, is_serving
from lookalike.local.supervisor import Supervisor
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.search_pb2_grpc import SimilarProductsStub
from lookalike.v1.types_pb2 import SPACE_IMAGE
from lookalike.vectors import F32, pack

K = 10
Ask = Callable[[int, float], Coroutine[None, None, None]]  # A query by number, and when it should have been sent.
DEADLINE_S = 5.0  # Of ordinary callers; a gateway's default.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--rescore", default="float32")
    parser.add_argument("--recipe", default="auto")
    parser.add_argument("--index", type=Path)
    parser.add_argument("--name", default="cost_classes")
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--exact", type=int, default=4)
    parser.add_argument("--exact-deadline-s", type=float, default=DEADLINE_S)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        location = options.index or Path(folder) / "index"
        if not (location / "CURRENT").exists():
            build_index(location, options.count, options.recipe, options.rescore)
        result = measure(Path(folder), location, options)
    result["caveats"] = (
        "client and server share two cores with other programs: per_s is no capacity; a ratio is the median of those "
        "of measurements that followed each other"
    )
    print(write(options.name, result))


def build_index(location: Path, count: int, recipe: str, rescore: str) -> None:
    vectors = np.empty((count, DIM), dtype=np.float32)
    at = 0
    for chunk in CnnLike().vectors(count):
        vectors[at : at + len(chunk)] = chunk
        at += len(chunk)
    space = SpaceVectors(encoder="benchmark", vectors=vectors, rows=np.arange(count))
    names = pa.table({"id": [f"{i:07}" for i in range(count)]})
    build(
        location, names, {SPACE_IMAGE: space}, shards=1, threads=2, options=IndexOptions(recipe=recipe, rescore=rescore)
    )


def measure(folder: Path, location: Path, options: argparse.Namespace) -> dict[str, Any]:
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    with Supervisor(folder / "logs", os.environ) as processes:  # noqa: TID251  # a script of its own
        command = [*COMMAND, "serve", "node", "--location", str(location), "--port", str(port), "--cache-ttl-s", "0"]
        processes.start("node", command, ready=partial(is_serving, address))
        processes.wait_ready(timeout_s=300)
        (pid,) = processes.pids().values()
        return asyncio.run(compare(address, pid, options))


async def compare(address: str, pid: int, options: argparse.Namespace) -> dict[str, Any]:
    queries = CnnLike().queries(4096)
    closed: dict[str, list[Run]] = {"alone": [], "beside exact": []}
    opened: dict[str, list[Run]] = {"alone": [], "beside exact": []}
    async with aio_channel(address) as channel:
        stub = SimilarProductsStub(channel)
        run = partial(Run.of, stub, queries, pid, options)
        await run(load=partial(closed_loop, callers=options.callers, seconds=2), exact=0)  # Warm-up.
        for _ in range(options.rounds):
            load = partial(closed_loop, callers=options.callers, seconds=options.seconds)
            closed["alone"].append(await run(load=load, exact=0))
            closed["beside exact"].append(await run(load=load, exact=options.exact))
        rate = float(np.median([each.per_s for each in closed["alone"]])) / 2
        for _ in range(options.rounds):
            load = partial(open_loop, rate=rate, seconds=options.seconds)
            opened["alone"].append(await run(load=load, exact=0))
            opened["beside exact"].append(await run(load=load, exact=options.exact))
        state = (await stub.Search(a_request(queries[0], explain=True))).provenance
    rows = {
        **{f"{options.callers} callers, {name}": row_of(runs) for name, runs in closed.items()},
        **{f"{rate:.0f} per second, {name}": row_of(runs) for name, runs in opened.items()},
    }
    return {
        "vectors": f"{state.documents_total} x {DIM}, CNN-like, k={K}, one shard, {state.plans[0].recipe}",
        "exact_callers": options.exact,
        "exact_deadline_s": options.exact_deadline_s,
        "rows": rows,
        "ratios": {"closed loop": ratios(closed), "open loop": ratios(opened)},
    }


class Run:
    """One measurement: the latencies and outcomes of ordinary and of exact queries."""

    def __init__(self) -> None:
        self.seconds = self.cpu_s = 0.0
        self.took_s: list[float] = []
        self.outcomes: Counter[str] = Counter()
        self.exact_took_s: list[float] = []
        self.exact_outcomes: Counter[str] = Counter()

    @property
    def per_s(self) -> float:
        return self.outcomes["OK"] / self.seconds

    @property
    def p50_ms(self) -> float:
        return percentile_ms(self.took_s, 50)

    @property
    def p99_ms(self) -> float:
        return percentile_ms(self.took_s, 99)

    @classmethod
    async def of(
        cls,
        stub: Any,
        queries: F32,
        pid: int,
        options: argparse.Namespace,
        *,
        load: Callable[[Ask], Awaitable[None]],
        exact: int,
    ) -> Run:
        run = cls()

        async def ask(i: int, intended_s: float) -> None:
            request = a_request(queries[i % len(queries)])
            run.outcomes[await outcome_of(stub, request, DEADLINE_S)] += 1
            run.took_s.append(time.perf_counter() - intended_s)

        async def ask_exactly(first: int) -> None:
            i = first
            while True:
                began_s, request = time.perf_counter(), a_request(queries[i % len(queries)], exact=True)
                outcome = await outcome_of(stub, request, options.exact_deadline_s)
                run.exact_outcomes[outcome] += 1
                if outcome == "OK":
                    run.exact_took_s.append(time.perf_counter() - began_s)
                else:
                    await asyncio.sleep(0.1)  # A caller that is refused waits before it tries again.
                i += exact

        beside = [asyncio.create_task(ask_exactly(i)) for i in range(exact)]
        await asyncio.sleep(1 if exact else 0)
        cpu_before_s, began_s = cpu_s(pid), time.perf_counter()
        await load(ask)
        run.seconds, run.cpu_s = time.perf_counter() - began_s, cpu_s(pid) - cpu_before_s
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        return run


async def closed_loop(ask: Ask, *, callers: int, seconds: float) -> None:
    ends_s, numbers = time.perf_counter() + seconds, iter(range(1 << 30))

    async def caller() -> None:
        while (now_s := time.perf_counter()) < ends_s:
            await ask(next(numbers), now_s)

    await asyncio.gather(*(caller() for _ in range(callers)))


async def open_loop(ask: Ask, *, rate: float, seconds: float) -> None:
    began_s, calls = time.perf_counter(), set[asyncio.Task[None]]()
    for i in range(int(rate * seconds)):
        intended_s = began_s + i / rate
        await asyncio.sleep(max(0.0, intended_s - time.perf_counter()))
        calls.add(asyncio.create_task(ask(i, intended_s)))
    await asyncio.gather(*calls)


async def outcome_of(stub: Any, request: SearchRequest, deadline_s: float) -> str:
    try:
        response = await stub.Search(request, timeout=deadline_s)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK" if response.provenance.coverage == 1 else "partial"


def a_request(query: F32, *, exact: bool = False, explain: bool = False) -> SearchRequest:
    example = Example(vector=pack(query))
    return SearchRequest(examples=[example], space=SPACE_IMAGE, limit=K, exact=exact, explain=explain)


def percentile_ms(took_s: Sequence[float], percent: float) -> float:
    return float(np.percentile(took_s, percent)) * 1e3 if took_s else float("nan")


def row_of(runs: Sequence[Run]) -> dict[str, Any]:
    exact_took_s = [each for run in runs for each in run.exact_took_s]
    row: dict[str, Any] = {
        "per_s": round(middle(runs, "per_s"), 1),
        "p50_ms": round(middle(runs, "p50_ms"), 1),
        "p99_ms": round(middle(runs, "p99_ms"), 1),
        "cpu_share": round(float(np.median([run.cpu_s / run.seconds for run in runs])), 2),
        "outcomes": dict(sum((run.outcomes for run in runs), Counter())),
    }
    if any(run.exact_outcomes for run in runs):
        row["exact_per_s"] = round(float(np.median([run.exact_outcomes["OK"] / run.seconds for run in runs])), 2)
        row["exact_p50_s"] = round(percentile_ms(exact_took_s, 50) / 1e3, 2) if exact_took_s else None
        row["exact_max_s"] = round(max(exact_took_s), 2) if exact_took_s else None
        row["exact_outcomes"] = dict(sum((run.exact_outcomes for run in runs), Counter()))
    return row


def ratios(runs: dict[str, list[Run]]) -> dict[str, float]:
    """Of ordinary queries beside exact ones to the same alone, measured just before."""
    pairs = [*zip(runs["beside exact"], runs["alone"], strict=True)]
    return {
        name: round(float(np.median([getattr(beside, figure) / getattr(alone, figure) for beside, alone in pairs])), 2)
        for name, figure in (("goodput", "per_s"), ("p50", "p50_ms"), ("p99", "p99_ms"))
    }


def middle(runs: Sequence[Run], figure: str) -> float:
    return float(np.median([getattr(run, figure) for run in runs]))


if __name__ == "__main__":
    main()
