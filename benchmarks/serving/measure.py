"""Measure one system: build, start on the server core, find its knob, then load. Starts processes, makes calls."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import meter
from benchmarks.meter import Load
from benchmarks.neighbours import recall
from benchmarks.serving.system import (
    QUERIES,
    TRUTH,
    Embedded,
    Searches,
    Server,
    Site,
    Skipped,
    System,
    load_array,
    port_of,
)
from benchmarks.serving.wire import Connection, WireError, connected
from lookalike.errors import LookalikeError
from lookalike.local.supervisor import Supervisor

INFLIGHT = (1, 16, 64)  # Queries.
TUNING_INFLIGHT = 16
OPEN_CONNECTIONS = 64  # Of a wire with one call at a time; more calls wait in the client, which counts.
WARM_UP = 0.1  # Of the time of a cell, before it.
STOP_S = 60.0  # Until a server that has been told to stop is killed: Milvus takes its time.
BUILT, LOGS, LOCK = "built.json", "logs", "lock"  # The first is written when an index is complete: how long it took.


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How all systems are measured."""

    data: Path  # Where the vectors are, and the indexes of them.
    environments: Path
    recall: float  # Least recall@10: the knob's first value that reaches it.
    seconds: float  # Of each cell.
    rate: float  # Queries per second of the open loop.
    server_core: int
    client_core: int
    environ: Mapping[str, str]


def prepare(system: System, settings: Settings) -> None:
    """Install and build what a system needs, unless an earlier run did. Raises Skipped."""
    folder = _folder(system, settings)
    with _alone(folder), _processes(folder, settings) as processes:
        site = _site(system, settings, processes, pin=())
        site.install()
        if (folder / BUILT).exists():
            return
        for leftover in folder.iterdir():
            if leftover.name not in (LOGS, LOCK):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        began_s = time.perf_counter()
        try:
            system.build(site)
        except LookalikeError as error:
            raise Skipped(f"its index cannot be built: {error}") from error
        took_s = time.perf_counter() - began_s
    (folder / BUILT).write_text(json.dumps({"build_s": round(took_s, 1)}))


def measure(system: Server | Embedded, settings: Settings) -> dict[str, Any]:
    """The row of a prepared system. Raises Skipped."""
    folder = _folder(system, settings)
    row = {"system": system.name, "label": system.label, "knob": system.knob}
    row |= json.loads((folder / BUILT).read_text())
    with _alone(folder), _processes(folder, settings) as processes, _on_core(settings.client_core):
        site = _site(system, settings, processes, pin=("taskset", "-c", str(settings.server_core)))
        try:
            if isinstance(system, Server):
                return row | _measure_server(system, site, settings)
            limits = ["--recall", str(settings.recall), "--seconds", str(settings.seconds)]
            printed = site.run(f"measure {system.index}", [*site.pin, *system.command(site), *limits])
            measured: dict[str, Any] = json.loads(printed)
            return row | measured
        except (LookalikeError, WireError, OSError) as error:
            raise Skipped(f"it failed: {error}") from error


def _measure_server(server: Server, site: Site, settings: Settings) -> dict[str, Any]:
    address = server.start(site)
    queries, truth = load_array(settings.data, QUERIES), np.load(settings.data / TRUTH)
    for knob in server.knob_values:
        searches = server.searches(site, address, queries[: len(truth)], knob)
        measured_recall = recall(asyncio.run(_find_all(searches, address)), truth)
        if measured_recall >= settings.recall:
            break
    searches = server.searches(site, address, queries, knob)
    running = list(site.processes.pids().values()) or [pid for pid in [meter.listening(int(port_of(address)))] if pid]
    cells = []
    for inflight in INFLIGHT:
        if (callers := inflight // searches.queries_per_call) > 0:
            load = asyncio.run(_closed_loop(searches, address, callers, settings.seconds, running))
            cells.append({"inflight": inflight, **_cell(load, searches.queries_per_call)})
    open_load = asyncio.run(_open_loop(searches, address, settings, running))
    return {
        "knob_value": knob,
        "recall": round(measured_recall, 4),
        "cells": cells,
        "open_loop": {"rate": settings.rate, **_cell(open_load, searches.queries_per_call)},
        "memory": asdict(meter.memory(meter.with_children(running))),
    }


def _cell(load: Load, queries_per_call: int) -> dict[str, float]:
    queries = load.calls * queries_per_call
    figures = {
        "per_s": queries / load.wall_s,
        "cpu_us": load.server_cpu_s / queries * 1e6,
        "p50_ms": load.p50_ms,
        "p99_ms": load.p99_ms,
        "client_core_used": load.client_cpu_s / load.wall_s,
    }
    return {name: round(value, 3) for name, value in figures.items()}


async def _find_all(searches: Searches, address: str) -> list[Sequence[int]]:
    """The rows found for every query."""
    answers: list[bytes] = [b""] * len(searches.requests)
    callers = max(1, TUNING_INFLIGHT // searches.queries_per_call)
    async with connected(searches.wire, address, callers) as connection:

        async def call(i: int) -> None:
            answers[i] = await connection.call(searches.requests[i])

        await meter.closed_loop(call, range(len(answers)), callers, [])
    return [rows for answer in answers for rows in searches.rows(answer)]


async def _closed_loop(
    searches: Searches, address: str, callers: int, seconds: float, processes: Sequence[int]
) -> Load:
    async with connected(searches.wire, address, callers) as connection:
        call = _call(searches, connection)
        await meter.closed_loop(call, meter.for_seconds(seconds * WARM_UP), callers, [])
        # Now, not before: PostgreSQL has a process per connection.
        return await meter.closed_loop(call, meter.for_seconds(seconds), callers, meter.with_children(processes))


async def _open_loop(searches: Searches, address: str, settings: Settings, processes: Sequence[int]) -> Load:
    per_s = settings.rate / searches.queries_per_call
    calls = max(1, round(settings.seconds * per_s))
    async with connected(searches.wire, address, OPEN_CONNECTIONS) as connection:
        pids = meter.with_children(processes)
        return await meter.open_loop(_call(searches, connection), calls, per_s, pids)


def _call(searches: Searches, connection: Connection) -> meter.Call:
    requests = searches.requests
    return lambda i: connection.call(requests[i % len(requests)])


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other run prepares or measures with this folder."""
    with (folder / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _on_core(core: int) -> Iterator[None]:
    """Keep this process, the client, on one core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _folder(system: System, settings: Settings) -> Path:
    folder = settings.data / system.index
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _processes(folder: Path, settings: Settings) -> Supervisor:
    return Supervisor(folder / LOGS, settings.environ, stop_s=STOP_S)


def _site(system: System, settings: Settings, processes: Supervisor, *, pin: tuple[str, ...]) -> Site:
    return Site(
        data=settings.data,
        folder=_folder(system, settings),
        environments=settings.environments,
        environment=system.environment,
        processes=processes,
        pin=pin,
    )
