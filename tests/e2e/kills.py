"""Kill -9 of shards, gateways and nodes while products change, and what the catalogue has afterwards.

Writers change products without a pause, and go on while processes are killed and started again. Then everything that
was acknowledged must be there, and nothing older. Changes are compacted all the time, and now and then another version
is published. Starts processes, kills them, and calls them over gRPC.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from benchmarks.meter import COMMAND
from index.building.build import IndexOptions, SpaceVectors, build
from index.building.versions import use
from index.live import live_directory
from index.serving.shard_version import open_shard
from lookalike.changes import remove_change
from lookalike.client import Client
from lookalike.local.probes import free_ports, is_serving
from lookalike.local.supervisor import Supervisor
from lookalike.releases.location import Directory
from lookalike.releases.names import shard_name
from lookalike.v1.catalog_pb2 import Change
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT
from tests.conftest import REPOSITORY
from tests.e2e.change_ledger import WAIT_S, ChangeLedger, until_complete
from tests.e2e.change_writers import ChangeWriter, Products
from tests.product_states import ProductState
from tests.unit.index.samples import clustered

KINDS: Final = ("shard", "gateway", "everything", "node")
_SHARDS, _WRITERS = ("shard 0", "shard 1"), 3
_APART: Final = (*_SHARDS, "gateway")
_BUILT, _WITH_TEXT = 2000, 1000  # Products of the index; the first have a text vector, too.
_OWN, _SHARED = 240, 40  # Products that each writer changes, and that all change; half of them are not in the index.
_IMAGE_DIM, _TEXT_DIM = 32, 16
# A compaction begins at an eighth: all the time, or seldom, so that a start has a long log to replay.
_DELTA_ROWS: Final = (512, 32_768)
_STARTING_S = 1.5  # About how long a process takes to be ready.


@dataclass
class Tally:
    """What happened around the kills of one kind, each from the check before it to the check after it."""

    kills: int = 0
    while_compacting: int = 0
    while_publishing: int = 0
    again_while_starting: int = 0
    answered: int = 0  # Changes.
    unanswered: int = 0
    violations: list[str] = field(default_factory=list)


def run(
    folder: Path, *, kills: int, seed: int, progress: Callable[[str], object] = lambda line: None
) -> dict[str, Tally]:
    """Kill so many times; returns what happened, by what was killed. Raises if the service does not come back.

    The seed decides what is killed, and the changes of each writer as far as the answers do not.
    """
    random = np.random.default_rng(seed)
    versions, products, ledger = _build(folder)
    tallies = {kind: Tally() for kind in KINDS}
    with (
        Supervisor(folder / "logs", os.environ, directory=REPOSITORY, stop_s=30) as processes,  # noqa: TID251  # passed on
        ThreadPoolExecutor(_WRITERS) as threads,
    ):
        deployment = _Deployment(folder, processes)
        writers = [ChangeWriter(each, deployment.address, products, ledger, seed) for each in range(_WRITERS)]
        deployment.start(*_APART)
        for number, (kind, killed, started) in enumerate(_plan(random, kills), 1):
            tally = tallies[kind]
            answered, unanswered, violations = ledger.answered, ledger.unanswered, len(ledger.violations)
            deployment.wait_ready()
            with _running(writers, threads):
                _wait_for_answers(ledger, int(random.integers(300, 1500)))
                if publishes := random.random() < 0.25:
                    use(Directory(deployment.location), versions[number % len(versions)])
                time.sleep(random.uniform(0, 0.2))
                deployment.kill(*killed)
                tally.kills += 1
                tally.while_publishing += publishes
                tally.while_compacting += deployment.compacts(killed)
                deployment.start(*started)
                if random.random() < 0.3:
                    time.sleep(random.uniform(0, _STARTING_S))
                    deployment.kill(*started)
                    tally.again_while_starting += 1
                    deployment.start(*started)
                deployment.wait_ready()
                _wait_for_answers(ledger, 200)
            with Client(deployment.address, timeout_s=WAIT_S) as client:
                _settle(client)
                ledger.audit(client, random)
            tally.answered += ledger.answered - answered
            tally.unanswered += ledger.unanswered - unanswered
            found = [
                f"kill {number} of seed {seed}, {', '.join(killed)}: {each}" for each in ledger.violations[violations:]
            ]
            tally.violations += found
            progress(
                f"{number}: {', '.join(killed)}: {ledger.answered - answered} changes answered, "
                f"{ledger.unanswered - unanswered} not, {len(found)} violations"
            )
    return tallies


class _Deployment:
    """Processes that serve one index and its changes at one address: a gateway and shards, or a node."""

    def __init__(self, folder: Path, processes: Supervisor) -> None:
        self.location, self._live = folder / "index", folder / "live"
        self._processes = processes
        self._starts = 0
        self._running: dict[str, str] = {}  # The name of its process, by role.
        ports = free_ports(len(_SHARDS) + 1)
        self._ports = dict(zip(_SHARDS, ports, strict=False)) | dict.fromkeys(("gateway", "node"), ports[-1])
        self.address = _address(ports[-1])

    def start(self, *roles: str) -> None:
        for role in roles:
            self._starts += 1
            self._running[role] = name = f"{role} start {self._starts}"  # With a log of its own.
            ready = partial(is_serving, _address(self._ports[role]))
            self._processes.start(name, [*COMMAND, "serve", *self._words(role)], ready=ready)

    def kill(self, *roles: str) -> None:
        for role in roles:
            self._processes.kill(self._running.pop(role))

    def wait_ready(self) -> None:
        self._processes.wait_ready(timeout_s=WAIT_S)

    def compacts(self, roles: Sequence[str]) -> bool:
        """Whether a shard of these processes, which have been killed, has a compaction that did not end."""
        shards = range(len(_SHARDS)) if "node" in roles else [i for i, role in enumerate(_SHARDS) if role in roles]
        return any(_has_begun(path) for shard in shards for path in self._live.glob(f"{shard_name(shard)}/*/"))

    def _words(self, role: str) -> list[str]:
        kind, _, number = role.partition(" ")
        words = [kind, "--port", str(self._ports[role])]
        if kind != "gateway":
            words += ["--location", str(self.location), "--live-dir", str(self._live), "--threads", "1"]
            words += ["--delta-rows", str(_DELTA_ROWS[self._starts % 2]), "--poll-s", "0.2", "--lease-s", "1"]
        if kind != "shard":
            words += ["--refresh-s", "0.2"]
        if kind == "gateway":
            words += ["--shards", ",".join(_address(self._ports[shard]) for shard in _SHARDS)]
        return [*words, "--shard", number] if number else words


def _address(port: int) -> str:
    return f"127.0.0.1:{port}"


def _has_begun(live: Path) -> bool:
    checkpoint = live_directory.read_checkpoint(live)
    segments = {path.name for path in live.glob("segment-*")}
    return len(live_directory.logs_to_replay(live, checkpoint)) > 1 or bool(segments - {checkpoint.segment})


def _plan(random: np.random.Generator, kills: int) -> Iterator[tuple[str, Sequence[str], Sequence[str]]]:
    """What is killed, as a kind and as roles, and the roles that are started in its place."""
    while kills > 0:
        shard = str(random.choice(_SHARDS))
        turns: list[tuple[str, Sequence[str], Sequence[str]]] = [
            ("gateway", ["gateway"], ["gateway"]),
            ("shard", [shard], [shard]),  # While its gateway has answers in its cache.
            ("everything", _APART, ["node"]),
            ("node", ["node"], _APART),
        ]
        yield from turns[:kills]
        kills -= len(turns)


def _build(folder: Path) -> tuple[Sequence[str], Products, ChangeLedger]:
    """Two versions of the same products; the second serves. The products of the writers, and what all are."""
    ids = [f"p{row:04}" for row in range(_BUILT)]
    table = pa.table(
        {
            "id": ids,
            "title": [f"{each} as built" for each in ids],
            "description": [f"the description of {each}" for each in ids],
            "category": [f"built/{row % 3}" for row in range(_BUILT)],
            "shop": [f"shop {row % 3}" for row in range(_BUILT)],
            "price": [float(row) for row in range(_BUILT)],
            "revision": [row % 8 for row in range(_BUILT)],
        }
    )
    image, text = clustered(_BUILT, _IMAGE_DIM), clustered(_WITH_TEXT, _TEXT_DIM, seed=1)
    spaces = {
        int(SPACE_IMAGE): SpaceVectors(encoder="image", vectors=image, rows=np.arange(_BUILT)),
        int(SPACE_TEXT): SpaceVectors(encoder="text", vectors=text, rows=np.arange(_WITH_TEXT)),
    }
    location = folder / "index"
    versions = [
        build(location, table, spaces, shards=len(_SHARDS), seed=seed, options=IndexOptions(recipe=recipe))
        for seed, recipe in enumerate(("HNSW16,SQ8", "IVF,PQ4fs"))
    ]
    states = dict[str, ProductState]()
    for number in range(len(_SHARDS)):
        for product_id, ref in open_shard(location, number).view.page(b"", "", _BUILT):
            found = {space: ref.vector(space) for space in (SPACE_IMAGE, SPACE_TEXT)}
            vectors = {space: np.array(vector) for space, vector in found.items() if vector is not None}
            product = ref.whole_product()
            states[product_id] = ProductState(product.revision, product, vectors)
    taken = iter(np.random.default_rng(0).permutation([*ids, *(f"new{row:04}" for row in range(_BUILT))]).tolist())
    groups = [[next(taken) for _ in range(count)] for count in (*[_OWN] * _WRITERS, _SHARED)]
    products = Products(own=groups[:-1], shared=groups[-1], vectors={"image": image, "text": text})
    return versions, products, ChangeLedger(states)


@contextmanager
def _running(writers: Sequence[ChangeWriter], threads: ThreadPoolExecutor) -> Iterator[None]:
    stop = threading.Event()
    running = [threads.submit(writer.run, stop) for writer in writers]
    try:
        yield
    finally:
        stop.set()
        for each in running:
            each.result()


def _wait_for_answers(ledger: ChangeLedger, count: int) -> None:
    target, deadline_s = ledger.answered + count, time.monotonic() + WAIT_S
    while ledger.answered < target:
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{count} changes were not answered in {WAIT_S:g} s")
        time.sleep(0.01)


def _settle(client: Client) -> None:
    """Wait until every shard has written what it received before: it writes changes in their order."""
    until_complete(client.count)
    last = [remove_change(f"nobody {number}", revision=1) for number in range(16)]  # Of all shards.
    until_complete(lambda: _write(client, last))


def _write(client: Client, changes: Sequence[Change]) -> None:
    for outcome in client.batch_write(changes):
        if isinstance(outcome, Exception):
            raise outcome
