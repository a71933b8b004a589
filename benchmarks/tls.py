"""What TLS costs a query, and a connection: a node, and a gateway with its shard, with certificates on every hop.

Searches by product over an index of 2,000 vectors of 64 dimensions, without a cache, 16 in flight on one connection
that stays, but for its age (3 s under TLS here). CPU is of all server processes of a kind; those that are compared are
measured in turn, `--rounds` times; medians. A connection is one that is opened for one health check. `proxy` is the
native node behind a process that ends TLS (`tls_proxy`), which is no part of the system.

    python -m benchmarks.tls [--calls 2000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.meter import cpu_s, write
from index.building.build import SpaceVectors, build
from lookalike import channels
from lookalike.channels import aio_channel
from lookalike.local import certificates, process_specs
from lookalike.local.probes import free_ports, is_serving
from lookalike.local.process_specs import ROOT, ProcessSpec
from lookalike.local.supervisor import Supervisor
from lookalike.tls import Tls
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.types_pb2 import SPACE_IMAGE

PRODUCTS, DIM, INFLIGHT, CONNECTIONS = 2000, 64, 16, 100
SEARCH, HEALTH = "/lookalike.v1.SimilarProducts/Search", "/grpc.health.v1.Health/Check"


@dataclass(frozen=True)
class Kind:
    """A deployment: what callers call, all its processes, and how it is called."""

    name: str
    entrance: ProcessSpec
    processes: tuple[ProcessSpec, ...]
    tls: Tls | None


async def search(address: str, calls: int) -> None:
    numbers = iter(range(calls))
    async with aio_channel(address) as channel:
        call: Any = channel.unary_unary(SEARCH)

        async def worker() -> None:
            for number in numbers:
                example = Example(product_id=str(number % PRODUCTS))
                request = SearchRequest(examples=[example], space=SPACE_IMAGE, limit=10)
                await call(request.SerializeToString(), timeout=60)

        await asyncio.gather(*(worker() for _ in range(INFLIGHT)))


async def connect(address: str, times: int) -> None:
    for _ in range(times):
        async with aio_channel(address) as channel:
            # A pool of its own: the others of this process keep their connection.
            check: Any = channel.unary_unary(HEALTH)
            await check(b"", timeout=60)


def measure(kind: Kind, pids: list[int], calls: int) -> dict[str, float]:
    channels.use_tls(kind.tls)
    address = kind.entrance.address
    asyncio.run(search(address, 200))  # Warm.
    before_s, own_s, began_s = cpu_s(*pids), time.process_time(), time.perf_counter()
    asyncio.run(search(address, calls))
    taken = {
        "servers_us_per_query": (cpu_s(*pids) - before_s) / calls * 1e6,
        "client_us_per_query": (time.process_time() - own_s) / calls * 1e6,
        "queries_per_s": calls / (time.perf_counter() - began_s),
    }
    before_s, own_s = cpu_s(*pids), time.process_time()
    asyncio.run(connect(address, CONNECTIONS))
    taken["servers_us_per_connection"] = (cpu_s(*pids) - before_s) / CONNECTIONS * 1e6
    taken["client_us_per_connection"] = (time.process_time() - own_s) / CONNECTIONS * 1e6
    return taken


def with_flags(spec: ProcessSpec, *flags: str, name: str) -> ProcessSpec:
    return ProcessSpec(name=name, address=spec.address, command=[*spec.command, *flags], ready=spec.ready)


def kinds(location: Path, certs: Path) -> list[Kind]:
    own = certs / "client"
    tls = Tls(ca=f"{own}/ca.crt", cert=f"{own}/tls.crt", key=f"{own}/tls.key")
    ports = iter(free_ports(10))
    made = []
    for name, edge, secure in (("native", "auto", None), ("grpcio", "grpcio", None), ("tls", "auto", certs)):
        flags = ["--cache-ttl-s", "0", "--recall-sample", "0"]
        node = process_specs.node(location, next(ports), certs=secure)
        node = with_flags(node, "--grpc-server", edge, *flags, name=f"{name} node")
        shard = process_specs.shard(location, 0, next(ports), replica=0, certs=secure)
        shard = with_flags(shard, "--grpc-server", edge, name=f"{name} shard")
        gateway = process_specs.gateway([[shard]], next(ports), certs=secure)
        gateway = with_flags(gateway, "--grpc-server", edge, *flags, name=f"{name} gateway")
        called = tls if secure else None
        made += [
            Kind(f"node, {name}", node, (node,), called),
            Kind(f"gateway and shard, {name}", gateway, (gateway, shard), called),
        ]
    plain = made[0].entrance  # The native node.
    return [*made, Kind("node, proxy", proxy := _proxy(certs, plain, next(ports)), (plain, proxy), tls)]


def _proxy(certs: Path, behind: ProcessSpec, port: int) -> ProcessSpec:
    """What ends TLS in front of a node without it, which is another's, and started by it."""
    files = [str(certs / "node" / name) for name in ("tls.crt", "tls.key", "ca.crt")]
    address = f"127.0.0.1:{port}"
    command = [sys.executable, "-m", "benchmarks.tls_proxy", str(port), behind.address.partition(":")[2], *files]
    return ProcessSpec(name="proxy", address=address, command=command, ready=partial(is_serving, address))


def ready(kind: Kind, spec: ProcessSpec) -> bool:
    channels.use_tls(kind.tls)
    return is_serving(spec.address)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as directory:
        folder = Path(directory)
        certificates.write_all(
            folder / "certs", ["node", "gateway", "shard", "client"], [], datetime.now(UTC), 1, renew=False
        )
        vectors = np.random.default_rng(0).normal(size=(PRODUCTS, DIM)).astype(np.float32)
        space = SpaceVectors(encoder="tls", vectors=vectors, rows=np.arange(PRODUCTS))
        table = pa.table({"id": [str(number) for number in range(PRODUCTS)]})
        build(folder / "index", table, {SPACE_IMAGE: space}, shards=1, threads=1)
        compared = kinds(folder / "index", folder / "certs")
        taken: dict[str, list[dict[str, float]]] = {kind.name: [] for kind in compared}
        with Supervisor(folder / "logs", os.environ, directory=ROOT) as processes:  # noqa: TID251  # a script of its own
            started = set[str]()
            for kind in compared:
                for spec in reversed(kind.processes):
                    if spec.name in started:
                        continue
                    started.add(spec.name)
                    processes.start(spec.name, spec.command, ready=partial(ready, kind, spec))
            processes.wait_ready(timeout_s=180)
            pids = processes.pids()
            for _ in range(options.rounds):
                for kind in compared:
                    own = [pids[spec.name] for spec in kind.processes]
                    taken[kind.name].append(measure(kind, own, options.calls))
            channels.use_tls(None)
    rows = {
        name: {figure: round(float(np.median([each[figure] for each in rounds])), 1) for figure in rounds[0]}
        for name, rounds in taken.items()
    }
    ratios = {
        f"{deployment}: tls / {other}": round(
            float(
                np.median(
                    [
                        tls["servers_us_per_query"] / plain["servers_us_per_query"]
                        for tls, plain in zip(taken[f"{deployment}, tls"], taken[f"{deployment}, {other}"], strict=True)
                    ]
                )
            ),
            3,
        )
        for deployment in ("node", "gateway and shard")
        for other in (("grpcio", "native", "proxy") if deployment == "node" else ("grpcio", "native"))
    }
    for name, row in rows.items():
        print(f"{name:>28}", *(f"{value:>10}" for value in row.values()))
    print(ratios)
    caveats = (
        "closed loop, one client process, servers and client share the cores of a busy machine; a node answers a "
        "search of a small index, so the share of TLS is near its greatest; ratios are medians of the rounds' own"
    )
    print(write("tls", {"inflight": INFLIGHT, "rows": rows, "cpu_ratios": ratios, "caveats": caveats}))


if __name__ == "__main__":
    main()
