"""Replicas on one machine: one that is killed is started again, and gets the changes that it missed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from index.building.build import build
from lookalike.channels import blocking_channel
from lookalike.local import process_specs
from lookalike.local.process_specs import ProcessSpec
from lookalike.local.serve import start_replicas
from lookalike.local.supervisor import Supervisor
from lookalike.v1 import index_pb2_grpc
from lookalike.v1.index_pb2 import ApplyRequest, DescribeRequest, DescribeResponse, FetchRequest, Update, Upsert
from lookalike.v1.types_pb2 import Product, SpaceVector
from tests.unit.index.samples import IMAGE, catalogue, unit_vectors, vectors_of

DIM, CHANGED = 8, 200

pytestmark = pytest.mark.slow


class Replica:
    def __init__(self, spec: ProcessSpec, channel: grpc.Channel, version: str) -> None:
        self.name = spec.name
        self._version = version
        self._stub = index_pb2_grpc.IndexShardStub(channel)

    def describe(self) -> DescribeResponse:
        return self._stub.Describe(DescribeRequest(), timeout=5)

    def upsert(self, *numbers: int) -> None:
        updates = []
        for number in numbers:
            vector = np.random.default_rng(number).normal(size=DIM).astype("<f4").tobytes()
            product = Product(id=f"new{number}", category="home")
            updates.append(
                Update(
                    revision=number + 1,
                    upsert=Upsert(product=product, vectors=[SpaceVector(space=IMAGE, vector=vector)]),
                )
            )
        self._stub.Apply(ApplyRequest(version=self._version, updates=updates), timeout=30)

    def products(self) -> list[bytes]:
        ids = [f"new{number}" for number in range(CHANGED)]
        request = FetchRequest(version=self._version, ids=ids, vectors=[IMAGE])
        return [each.SerializeToString() for each in self._stub.Fetch(request, timeout=30).products]

    def is_in_service(self) -> bool:
        try:
            return not self.describe().catching_up
        except grpc.RpcError:
            return False


def eventually(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def kill_and_change(processes: Supervisor, one: Replica, other: Replica) -> None:
    """Kill one of two replicas, and again while it starts or catches up; the other takes changes all the time."""
    eventually(lambda: one.is_in_service() and other.is_in_service())
    name = other.describe().replica
    one.upsert(0)
    eventually(lambda: one.products() == other.products())

    def is_another_process() -> bool:
        try:
            return other.describe().replica != name
        except grpc.RpcError:
            return False

    os.kill(processes.pids()[other.name], signal.SIGKILL)
    one.upsert(*range(1, CHANGED - 1))
    eventually(is_another_process)
    os.kill(processes.pids()[other.name], signal.SIGKILL)
    one.upsert(CHANGED - 1)
    eventually(lambda: not other.is_in_service())
    eventually(other.is_in_service)
    assert other.products() == one.products()
    assert all(other.products())


def test_a_replica_that_is_killed_is_started_again_and_misses_no_change(tmp_path: Path) -> None:
    version = build(tmp_path / "index", catalogue(50), {IMAGE: vectors_of(unit_vectors(50, DIM))}, shards=1)
    console: list[str] = []

    with Supervisor(tmp_path / "logs", {}, directory=process_specs.ROOT) as processes, ThreadPoolExecutor(1) as thread:
        ((first, second),) = start_replicas(processes, tmp_path / "index", 1, 2, tmp_path / "changes")
        processes.wait_ready(timeout_s=120)
        with blocking_channel(first.address) as to_first, blocking_channel(second.address) as to_second:
            one, other = Replica(first, to_first, version), Replica(second, to_second, version)
            calls = thread.submit(kill_and_change, processes, one, other)
            calls.add_done_callback(lambda _: os.kill(os.getpid(), signal.SIGTERM))
            with pytest.raises(KeyboardInterrupt):
                processes.watch(warn=console.append)
            calls.result()
    ended = [line for line in console if line.startswith("shard 0 replica 1 ended, killed by SIGKILL")]
    assert ["it is started again in 1 s" in ended[0], "it is started again in 2 s" in ended[1]] == [True, True]
    assert not [line for line in console if "replica 0 ended" in line]
