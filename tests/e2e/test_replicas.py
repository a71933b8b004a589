"""Shards and replicas that hang or die under load, as processes: what callers notice of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.meter import COMMAND
from index.building.build import build
from lookalike.client import Client
from lookalike.errors import LookalikeError
from lookalike.local.probes import free_ports, is_serving
from lookalike.local.supervisor import Supervisor
from tests.conftest import REPOSITORY
from tests.unit.index.samples import IMAGE, catalogue, unit_vectors, vectors_of

SHARDS, REPLICAS, DIM, CALLERS = 2, 2, 8, 8
WAIT_S = 60.0


class System:
    """Two shards of two replicas each; a gateway that uses all, and one that knows only the first of each shard."""

    def __init__(self, folder: Path, processes: Supervisor) -> None:
        self._processes = processes
        names = [f"shard {shard} {replica}" for shard in range(SHARDS) for replica in range(REPLICAS)]
        self._ports = dict(zip([*names, "replicated", "plain"], free_ports(len(names) + 2), strict=True))
        for name in names:
            shard = name.split()[1]
            self._start(name, "shard", "--location", str(folder / "index"), "--shard", shard, "--threads", "1")
        shards = [[f"127.0.0.1:{self._ports[f'shard {s} {r}']}" for r in range(REPLICAS)] for s in range(SHARDS)]
        self._start("replicated", "gateway", "--shards", ",".join(map("+".join, shards)), "--cache-ttl-s", "0")
        self._start("plain", "gateway", "--shards", ",".join(each[0] for each in shards), "--cache-ttl-s", "0")
        processes.wait_ready(timeout_s=120)

    def client(self, gateway: str) -> Client:
        return Client(f"127.0.0.1:{self._ports[gateway]}", timeout_s=10)

    def signal(self, name: str, number: signal.Signals) -> None:
        os.kill(self._processes.pids()[name], number)

    def _start(self, name: str, role: str, *arguments: str) -> None:
        command = [*COMMAND, "serve", role, *arguments, "--port", str(self._ports[name])]
        self._processes.start(name, command, ready=partial(is_serving, f"127.0.0.1:{self._ports[name]}"))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("replicas")
    build(folder / "index", catalogue(400), {IMAGE: vectors_of(unit_vectors(400, DIM))}, shards=SHARDS)
    with Supervisor(folder / "logs", os.environ, directory=REPOSITORY, stop_s=30) as processes:  # noqa: TID251  # passed on
        yield System(folder, processes)


class Load:
    """Callers that search without a pause, and what they were answered."""

    def __init__(self) -> None:
        self.coverage: list[float] = []  # Of every answer.
        self.errors: list[LookalikeError] = []
        self._stops = threading.Event()

    def run(self, client: Client, seed: int) -> None:
        random = np.random.default_rng(seed)
        while not self._stops.is_set():
            try:
                response = client.search(vector=random.normal(size=DIM), space="image", limit=5)
            except LookalikeError as error:
                self.errors.append(error)
            else:
                self.coverage.append(response.provenance.coverage)

    def stop(self) -> None:
        self._stops.set()


@contextmanager
def load(client: Client) -> Iterator[Load]:
    running = Load()
    with ThreadPoolExecutor(CALLERS) as threads:
        callers = [threads.submit(running.run, client, seed) for seed in range(CALLERS)]
        try:
            wait_for(running, 200)
            yield running
        finally:
            running.stop()
        for caller in callers:
            caller.result()


def wait_for(running: Load, answers: int) -> Sequence[float]:
    """The coverage of the next answers."""
    before, until_s = len(running.coverage), time.monotonic() + WAIT_S
    while len(running.coverage) < before + answers:
        assert time.monotonic() < until_s
        time.sleep(0.01)
    return running.coverage[before:]


def wait_for_coverage(running: Load, *, whole: bool) -> None:
    until_s = time.monotonic() + WAIT_S
    while (min(wait_for(running, 20)) == 1) is not whole:
        assert time.monotonic() < until_s


def test_a_shard_that_hangs_is_left_out_and_comes_back(system: System) -> None:
    """A time-out of two seconds for every answer would allow a dozen in this time."""
    with system.client("plain") as client, load(client) as running:
        system.signal("shard 1 0", signal.SIGSTOP)
        try:
            wait_for_coverage(running, whole=False)
            began_s = time.monotonic()
            partial_answers = wait_for(running, 200)
            took_s = time.monotonic() - began_s
        finally:
            system.signal("shard 1 0", signal.SIGCONT)
        wait_for_coverage(running, whole=True)
        assert not running.errors
        assert 0.3 < max(partial_answers) < 0.7
        assert took_s < 2.0 * 200 / CALLERS / 2  # Half of what time-outs alone would take.


def test_replicas_that_hang_and_die_fail_no_call_and_leave_no_answer_partial(system: System) -> None:
    with system.client("replicated") as client, load(client) as running:
        system.signal("shard 0 0", signal.SIGSTOP)
        wait_for(running, 500)
        system.signal("shard 1 1", signal.SIGKILL)
        wait_for(running, 500)
        system.signal("shard 0 0", signal.SIGCONT)
        wait_for(running, 500)
    assert running.errors == []
    assert set(running.coverage) == {1.0}
