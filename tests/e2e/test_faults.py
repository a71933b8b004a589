"""With two replicas of each shard and two gateways, no call fails and no change is lost when one process dies or hangs.

`python -m benchmarks.faults` does the same with every kind of process, call and fault, and measures it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.faults.calls import CHEAP, Calls, Samples
from benchmarks.faults.deployment import Deployment, Shape, wait_until
from benchmarks.faults.experiment import until_kept
from benchmarks.faults.faults import Fault, chosen, faults
from benchmarks.faults.load import Load
from benchmarks.faults.oracle import Oracle
from index.building.build import SpaceVectors, build
from lookalike.client import Client
from lookalike.local.supervisor import Supervisor
from lookalike.v1.types_pb2 import SPACE_IMAGE
from tests.conftest import REPOSITORY
from tests.unit.index.samples import clustered

REPLICAS = 2
FAULTS = ("kill-shard", "stop-shard", "term-shard", "term-gateway")
_SHAPE = Shape(
    shards=1, replicas=REPLICAS, gateways=2, text_encoders=0, model_server=False, redis=False, small_disk=False
)
_PRODUCTS, _DIM = 400, 16
_PER_S, _CALLS, _DEADLINE_S = 20.0, 30, 60.0  # Few and patient: fewer than a gateway refuses while a replica hangs.
_IN_A_ROW = 20  # Complete answers after which all has healed: both gateways give them.


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("faults")
    ids, vectors = [f"p{row:04}" for row in range(_PRODUCTS)], clustered(_PRODUCTS, _DIM)
    space = SpaceVectors(encoder="image", vectors=vectors, rows=np.arange(_PRODUCTS))
    build(folder / "index", pa.table({"id": ids, "title": ids}), {int(SPACE_IMAGE): space}, shards=_SHAPE.shards)
    flags = ["--refresh-s", "0.5", "--recall-sample", "0"]
    with Supervisor(folder / "logs", os.environ, directory=REPOSITORY) as processes:  # noqa: TID251  # passed on
        deployment = Deployment(folder, folder / "run", _SHAPE, processes, flags)
        try:
            deployment.start()
            yield deployment
        finally:
            deployment.close()


@pytest.mark.slow
def test_a_replica_or_gateway_that_dies_or_hangs_fails_no_call_and_loses_no_change(deployment: Deployment) -> None:
    oracle = Oracle()
    samples = Samples(ids=[f"p{row:04}" for row in range(_PRODUCTS)], space="image", vectors=clustered(_PRODUCTS, _DIM))
    calls = Calls(samples, oracle, shards=_SHAPE.shards, seed=0, kinds=CHEAP)
    wait_until(lambda: _answers_in_full(deployment), "the gateways do not answer in full")
    for fault in chosen(faults(_SHAPE, lambda _: None, lambda _: None), FAULTS):
        load = Load(deployment.address, calls, seed=0, deadline_s=_DEADLINE_S)
        with load.running(per_s=_PER_S):
            _undergo(fault, deployment, load)
        failed = dict(load.errors)
        partial = [each for each in load.records if each.coverage < 1]
        stale = [each for each in load.records if each.is_stale]
        assert (fault.name, failed, partial, stale) == (fault.name, {}, [], [])
        assert until_kept(deployment, oracle) == [], fault.name
    assert oracle.acknowledged > _CALLS


def _undergo(fault: Fault, deployment: Deployment, load: Load) -> None:
    """Some calls before the fault, some meanwhile, some afterwards, and until all has healed."""
    _wait_for_calls(load)
    fault.inject(deployment)
    _wait_for_calls(load)
    fault.heal(deployment)
    deployment.wait_ready()
    _wait_for_calls(load)
    wait_until(lambda: _answers_in_full(deployment), f"{fault.name}: answers are not complete again")


def _wait_for_calls(load: Load) -> None:
    """Until so many more have ended."""
    target = load.count() + _CALLS
    wait_until(lambda: load.count() >= target, "calls do not end")


def _answers_in_full(deployment: Deployment) -> bool:
    """Whether searches at each gateway are complete, many in a row."""
    vectors = np.random.default_rng(1).normal(size=(_IN_A_ROW, _DIM)).astype(np.float32)
    for address in deployment.gateways():
        with Client(address) as client:
            for vector in vectors:
                if client.search(vector=vector, space="image", limit=1).provenance.coverage < 1:
                    return False
    return True
