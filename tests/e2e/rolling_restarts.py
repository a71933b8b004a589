"""Two gateways over one shard, restarted in turn under load: which calls fail? Starts processes, calls them.

One gateway has each implementation of the gRPC server. Callers are of several kinds at once: clients in Python and,
where there is a folder with @grpc/grpc-js, in Node; with a retry policy, and without any retry, transparent ones too.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pyarrow as pa

from index.building.build import SpaceVectors, build
from lookalike.channels import aio_client_channel, use_tls
from lookalike.local.certificates import write_all
from lookalike.local.probes import free_ports, is_serving
from lookalike.local.process_specs import ROOT
from lookalike.retries import DEFAULT_RETRIES
from lookalike.retries import service_config as client_service_config
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.types_pb2 import SPACE_IMAGE
from tests.certificates import flags_of, tls_of
from tests.edges import IMPLEMENTATIONS

PRODUCTS, DIM = 300, 16
ROLES = ("gateway", "shard", "client")  # Of certificates.
METHOD = "/lookalike.v1.SimilarProducts/Search"
REQUEST = SearchRequest(examples=[Example(product_id="7")], space=SPACE_IMAGE, limit=10).SerializeToString()
START_S = 120.0  # Until a process is ready.
SETTLE_S = 1.2  # From readiness to the next restart: clients are connected again, after a back-off of at most a second.
CALL_S = 10.0
RETRY_POLICY = {
    "maxAttempts": 3,
    "initialBackoff": "0.05s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
NODE = Path(__file__).with_name("rolling_restarts.js")


@dataclass(slots=True)
class Tally:
    """What calls met, by kind of caller; a failure with its code and message."""

    restarts: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    drain_s: list[float] = field(default_factory=list)  # From SIGTERM to the end of the process.


def service_config(*, retries: bool) -> str:
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if retries:
        config["methodConfig"] = [{"name": [{}], "retryPolicy": RETRY_POLICY}]
    return json.dumps(config)


def channel_options(*, retries: bool) -> dict[str, str | int]:
    """As a client of any language is to set them (docs/operations.md)."""
    return {
        "grpc.service_config": service_config(retries=retries),
        "grpc.enable_retries": int(retries),
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.max_reconnect_backoff_ms": 1000,
        "grpc.default_authority": "lookalike",
    }


def run(
    folder: Path,
    *,
    restarts: int,
    callers: int,
    pause_s: float,
    node_modules: Path | None = None,
    tls: bool = False,
    progress: Callable[[str], object] = lambda line: None,
) -> Tally:
    """Restart one gateway after the other under the load of `callers` of each kind.

    tls: whether gateways and the shard have certificates, and ask for them: all are replaced before each restart. Then
    there is no client in Node, and all have gRPC's transparent retries, which it has by default: connections end by
    their age all the time, and a call that gRPC has not sent yet on one that ends is otherwise failed.
    """
    certs = folder / "certs" if tls else None
    if certs:
        write_all(certs, ROLES, [], datetime.now(UTC), 1, renew=False)
    use_tls(tls_of(certs, "client") if certs else None)
    try:
        return _run(folder, restarts, Load(callers, pause_s, node_modules, certs), progress)
    finally:
        use_tls(None)


@dataclass(frozen=True, slots=True)
class Load:
    callers: int  # Of each kind.
    pause_s: float
    node_modules: Path | None
    certs: Path | None


def _run(folder: Path, restarts: int, load: Load, progress: Callable[[str], object]) -> Tally:
    tally, certs = Tally(), load.certs
    location = folder / "index"
    vectors = np.random.default_rng(0).normal(size=(PRODUCTS, DIM)).astype(np.float32)
    space = SpaceVectors(encoder="rolling", vectors=vectors, rows=np.arange(PRODUCTS))
    build(location, pa.table({"id": [str(i) for i in range(PRODUCTS)]}), {SPACE_IMAGE: space}, shards=1, threads=1)
    shard, *ports = free_ports(3)
    with ExitStack() as stack:
        start = partial(_started, folder, stack)
        start(
            ["shard", "--location", str(location), "--shard", "0", "--threads", "1", *flags_of(certs, "shard")], shard
        )
        gateway = ["gateway", "--shards", f"127.0.0.1:{shard}", "--cache-ttl-s", "0"]
        commands = [
            [*gateway, *(flags_of(certs, "gateway") if certs else ["--grpc-server", edge])] for edge in _edges()
        ]
        gateways = [start(command, port) for command, port in zip(commands, ports, strict=True)]
        target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        with _load(target, load, tally):
            sleep(SETTLE_S)
            for i in range(restarts):
                if certs:
                    write_all(certs, ROLES, [], datetime.now(UTC), 1, renew=True)
                    sleep(SETTLE_S)
                began_s = monotonic()
                gateways[i % 2].send_signal(signal.SIGTERM)
                gateways[i % 2].wait(START_S)
                tally.drain_s.append(monotonic() - began_s)
                gateways[i % 2] = start(commands[i % 2], ports[i % 2])
                tally.restarts += 1
                progress(f"restart {i + 1}: {dict(tally.answered)} answered, {dict(tally.failed)} failed")
                sleep(SETTLE_S)
    return tally


def _edges() -> Sequence[str]:
    names = [each if isinstance(each, str) else str(each.values[0]) for each in IMPLEMENTATIONS]
    skipped = any(mark.args[0] for each in IMPLEMENTATIONS if not isinstance(each, str) for mark in each.marks)
    return ("grpcio", "grpcio") if skipped else names


def _started(folder: Path, stack: ExitStack, serve: Sequence[str], port: int) -> subprocess.Popen[bytes]:
    log = stack.enter_context((folder / f"{serve[0]}-{port}.log").open("ab"))
    command = [sys.executable, "-m", "lookalike", "serve", *serve, "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    stack.callback(process.wait)
    stack.callback(process.kill)
    end_s = monotonic() + START_S
    while not is_serving(f"127.0.0.1:{port}"):
        assert process.poll() is None, Path(log.name).read_text()
        assert monotonic() < end_s, Path(log.name).read_text()
        sleep(0.05)
    return process


@contextmanager
def _load(target: str, load: Load, tally: Tally) -> Iterator[None]:
    stop = threading.Event()
    python = threading.Thread(target=lambda: asyncio.run(_call(target, load, tally, stop)))
    python.start()
    nodes = [_node(target, load, load.node_modules, r) for r in (True, False)] if load.node_modules else []
    try:
        yield
    finally:
        stop.set()
        python.join()
        for name, process in nodes:
            said, _ = process.communicate()  # Its standard input ends: it prints its counts.
            counts: Mapping[str, Any] = json.loads(said)
            tally.answered[name] += counts["answered"]
            tally.failed.update({f"{name}: {what}": times for what, times in counts["failed"].items()})


def _node(target: str, load: Load, node_modules: Path, retries: bool) -> tuple[str, subprocess.Popen[bytes]]:
    arguments = {
        "target": target,
        "options": channel_options(retries=retries),
        "method": METHOD,
        "request": base64.b64encode(REQUEST).decode(),
        "callers": load.callers,
        "pause_ms": load.pause_s * 1000,
        "deadline_ms": CALL_S * 1000,
    }
    environ = {**os.environ, "NODE_PATH": str(node_modules)}  # noqa: TID251  # For node to find the package.
    command = ["node", str(NODE), json.dumps(arguments)]
    process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    return _kind("node", retries=retries), process


async def _call(target: str, load: Load, tally: Tally, stop: threading.Event) -> None:
    async def caller(name: str, channel: Any) -> None:
        while not stop.is_set():
            try:
                await channel.unary_unary(METHOD)(REQUEST, timeout=CALL_S)
                tally.answered[name] += 1
            except grpc.aio.AioRpcError as error:
                tally.failed[f"{name}: {error.code().name}: {error.details()}"] += 1
            await asyncio.sleep(load.pause_s)

    async with asyncio.TaskGroup() as group:
        for retries in (True, False):
            options = tuple(channel_options(retries=retries).items())
            if load.certs:
                policy = client_service_config(DEFAULT_RETRIES if retries else None)
                channel = aio_client_channel(target, policy, tls_of(load.certs, "client", server_name="gateway"))
            else:
                channel = grpc.aio.insecure_channel(target, options=options)  # noqa: TID251  # options of its own
            for _ in range(load.callers):
                group.create_task(caller(_kind("python", retries=retries), channel))


def _kind(language: str, *, retries: bool) -> str:
    return f"{language}, {'retry policy' if retries else 'no retries'}"
