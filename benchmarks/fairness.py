"""Does a caller that floods a gateway slow down another? Latencies of a polite key, alone and beside an abusive one.

A gateway without cache over a shard of 5,000 vectors, on one core; searches by product of 200 hits. Both callers are
on the other core, the abusive one a process of low priority. The polite key makes a fifth of the calls that the
gateway can answer, at random times (open loop). The abusive one has 64 callers, each of which calls again as soon as it
is answered or refused. It calls without keys (as if there were none), with a key without limits, the same where the
gateway may admit fewer calls than by default, and with a key that has limits. Rounds of all cases alternate; the first
quarter of each is not counted.

    python -m benchmarks.fairness [--seconds 5] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import grpc
import grpc.aio
import numpy as np

from benchmarks.meter import write
from benchmarks.overload import PRODUCTS, build_index, peak, started
from lookalike.access.file_key_store import FileKeyStore
from lookalike.access.key import new_key
from lookalike.channels import aio_channel
from lookalike.credentials import authorization
from lookalike.local.probes import free_ports
from lookalike.local.process_specs import ROOT
from lookalike.runtime.call import CallerLimits
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.types_pb2 import SPACE_IMAGE

METHOD = "/lookalike.v1.SimilarProducts/Search"
HITS, CALLERS, POLITE_SHARE, LIMITED_SHARE, CALL_S = 200, 64, 0.2, 0.2, 30.0


@dataclass(frozen=True)
class Case:
    """A gateway, and the keys of both callers; empty: none."""

    name: str
    address: str
    polite: str
    abusive: str


@dataclass
class Rounds:
    """What the polite caller met in all rounds of a case."""

    took_s: list[list[float]] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    abusive: Counter[str] = field(default_factory=Counter)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder, ExitStack() as stack:
        shard, plain, keyed, strict = free_ports(4)
        location, keys = build_index(Path(folder) / "index"), Path(folder) / "keys.json"
        store, scopes = FileKeyStore(keys), frozenset({"search"})
        polite, polite_token = new_key("polite", scopes, now_s=0)
        free, free_token = new_key("abusive, no limits", scopes, now_s=0)
        for key in (polite, free):
            store.put(key)
        os.sched_setaffinity(0, {0})  # Of the servers, which inherit it.
        gateway = ["gateway", "--shards", f"127.0.0.1:{shard}", "--cache-ttl-s", "0", "--recall-sample", "0"]
        stack.enter_context(
            started(ROOT, ["shard", "--location", str(location), "--shard", "0", "--threads", "1"], shard)
        )
        stack.enter_context(started(ROOT, gateway, plain))
        stack.enter_context(started(ROOT, [*gateway, "--keys", str(keys)], keyed))
        stack.enter_context(started(ROOT, [*gateway, "--keys", str(keys), "--min-inflight", "16"], strict))
        os.sched_setaffinity(0, {1})
        capacity = asyncio.run(capacity_of(f"127.0.0.1:{plain}", options.seconds))
        rate = capacity * LIMITED_SHARE
        limits = CallerLimits(calls_per_s=rate, burst=max(1.0, rate / 50), concurrency=2)
        limited, limited_token = new_key("abusive, limits", scopes, now_s=0, limits=limits)
        store.put(limited)
        sleep(3)  # Until the gateway knows it.
        cases = [
            Case("without keys", f"127.0.0.1:{plain}", "", ""),
            Case("keys without limits", f"127.0.0.1:{keyed}", polite_token, free_token),
            Case("keys without limits, MIN_INFLIGHT=16", f"127.0.0.1:{strict}", polite_token, free_token),
            Case("a limit of the abusive key", f"127.0.0.1:{keyed}", polite_token, limited_token),
        ]
        alone, beside = [{case.name: Rounds() for case in cases} for _ in range(2)]
        for seed in range(options.rounds):
            for case in cases:
                asyncio.run(measure(alone[case.name], case, capacity, options.seconds, seed))
                with abuse(case, beside[case.name]):
                    asyncio.run(measure(beside[case.name], case, capacity, options.seconds, seed))
    rows = [row(case.name, alone[case.name], beside[case.name]) for case in cases]
    for each in rows:
        print(each)
    caveats = "gateway and shard share a core, and so do both callers; other work ran on the machine"
    print(write("fairness", {"capacity_per_s": round(capacity), "rows": rows, "caveats": caveats}))


async def capacity_of(address: str, seconds: float) -> float:
    async with aio_channel(address) as channel:
        call: Any = channel.unary_unary(METHOD)
        return await peak(lambda _: call(request(random)), random.Random(0), seconds)


def request(rng: Any) -> bytes:
    example = Example(product_id=str(rng.randrange(PRODUCTS)))
    return SearchRequest(examples=[example], space=SPACE_IMAGE, limit=HITS).SerializeToString()


async def measure(rounds: Rounds, case: Case, capacity: float, seconds: float, seed: int) -> None:
    rng, took_s = random.Random(seed), list[float]()
    metadata = authorization(case.polite)()
    channel: Any
    async with aio_channel(case.address) as channel:
        search = channel.unary_unary(METHOD)
        began_s, due_s = perf_counter(), 0.0
        calls = set[asyncio.Task[None]]()

        async def call(due_s: float) -> None:
            try:
                await search(request(rng), timeout=CALL_S, metadata=metadata)
                outcome = "OK"
            except grpc.aio.AioRpcError as error:
                outcome = error.code().name
            if due_s > seconds / 4:
                rounds.outcomes[outcome] += 1
                if outcome == "OK":
                    took_s.append(perf_counter() - began_s - due_s)

        while due_s < seconds:
            due_s += rng.expovariate(POLITE_SHARE * capacity)
            await asyncio.sleep(max(0.0, began_s + due_s - perf_counter()))
            calls.add(task := asyncio.create_task(call(due_s)))
            task.add_done_callback(calls.discard)
        if calls:
            await asyncio.wait(calls)
    rounds.took_s.append(took_s)


@contextmanager
def abuse(case: Case, rounds: Rounds) -> Iterator[None]:
    """The abusive caller, in a process of its own, while the block runs."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=flood, args=(case, theirs))
    process.start()
    try:
        ours.recv()  # It has begun.
        sleep(1)
        yield
        ours.send(None)
        rounds.abusive += ours.recv()
    finally:
        process.join(10)
        process.kill()


def flood(case: Case, pipe: Connection) -> None:
    os.nice(10)
    os.sched_setaffinity(0, {1})
    pipe.send(asyncio.run(_flood(case, pipe)))


async def _flood(case: Case, pipe: Connection) -> Counter[str]:
    outcomes, rng, metadata = Counter[str](), random.Random(1), authorization(case.abusive)()
    channel: Any
    async with aio_channel(case.address) as channel:
        search = channel.unary_unary(METHOD)

        async def caller() -> None:
            while True:
                try:
                    await search(request(rng), timeout=CALL_S, metadata=metadata)
                    outcomes["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    outcomes[error.code().name] += 1

        callers = [asyncio.create_task(caller()) for _ in range(CALLERS)]
        pipe.send(None)
        await asyncio.to_thread(pipe.recv)
        for each in callers:
            each.cancel()
        await asyncio.wait(callers)
    return outcomes


def row(name: str, alone: Rounds, beside: Rounds) -> dict[str, Any]:
    return {
        "case": name,
        "alone_p50_ms": quantile(alone.took_s, 0.5),
        "alone_p99_ms": quantile(alone.took_s, 0.99),
        "beside_p50_ms": quantile(beside.took_s, 0.5),
        "beside_p99_ms": quantile(beside.took_s, 0.99),
        "p99_ratio": round(quantile(beside.took_s, 0.99) / quantile(alone.took_s, 0.99), 2),
        "polite_outcomes": dict(beside.outcomes),
        "abusive_outcomes": dict(beside.abusive),
    }


def quantile(rounds: Sequence[Sequence[float]], share: float) -> float:
    """The median over the rounds."""
    return round(1000 * float(np.median([np.quantile(each or [np.nan], share) for each in rounds])), 2)


if __name__ == "__main__":
    main()
