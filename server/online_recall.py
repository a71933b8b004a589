"""Online recall: searches exactly, in the background, what callers searched, and compares. I/O to the shards.

A sampled search is repeated beside its exact twin in one call to each shard, which answers both of one state: of the
same version, and after the same changes. So a product that changes meanwhile is no lost recall.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextvars import Context
from random import Random
from typing import NamedTuple

from lookalike.errors import LookalikeError
from lookalike.runtime.deadline import Deadline
from lookalike.shard_query import ShardHits, ShardQuery
from lookalike.spaces import space_name
from lookalike.v1.types_pb2 import Space
from lookalike.vectors import F32
from server import metrics
from server.cpu_budget import CpuBudget
from server.merge import merge_hits
from server.recall_estimate import PromisedRecall, RecallEstimate, RecallWindow
from server.shard_group import ExactComparison, ShardGroup
from server.topology import Snapshot
from server.version_watch import VersionWatch

log = logging.getLogger(__name__)

DEPTH = 10  # The build promises recall@10, measured at the operating point of this depth.
MAX_WAITING = 16  # Samples that wait for their turn; further ones are dropped.
# Beside ordinary searches an exact one works for a sixteenth of the time of all cores, and a million vectors of 1024
# dimensions take 0.3 to 0.9 s of one (index/search/cost.py).
TIMEOUT_S = 60.0
_TIE = 1e-6  # Scores that differ by less are equal, as where the build measures: exact search rounds differently.


class _Sample(NamedTuple):
    snapshot: Snapshot
    query: ShardQuery


class OnlineRecall:
    """Samples searches, and knows the recall of the version that requests pin. For one event loop.

    share:     of the searches that are sampled; 0: none.
    cpu_share: of one core, for the exact searches of all shards together.
    """

    def __init__(
        self,
        versions: VersionWatch,
        shards: ShardGroup,
        *,
        share: float,
        cpu_share: float,
        random: Random | None = None,
    ) -> None:
        self._versions = versions
        self._shards = shards
        self._share = share if cpu_share else 0.0
        self._draw = (random or Random()).random
        self._budget = CpuBudget(cpu_share, time.monotonic) if cpu_share else None
        self._waiting: deque[_Sample] = deque()
        self._comparing: asyncio.Task[None] | None = None
        self._version = ""
        self._windows: dict[Space.ValueType, RecallWindow] = {}  # Of `_version`.
        self._shortfalls: dict[Space.ValueType, str] = {}

    def offer(self, snapshot: Snapshot, query: ShardQuery) -> None:
        """Take a search that was answered, once in a while, for a comparison; it returns at once."""
        if self._draw() >= self._share or not is_comparable(snapshot, query):
            return
        if len(self._waiting) >= MAX_WAITING:
            metrics.RECALL_SAMPLES.labels("dropped").inc()
            return
        self._waiting.append(_Sample(snapshot, query))
        if self._comparing is None or self._comparing.done():
            # It is no part of the call which offers the first of them.
            self._comparing = asyncio.create_task(self._compare_waiting(), context=Context())

    def shortfalls(self, version: str) -> Mapping[Space.ValueType, str]:
        """The spaces of a version in which searches find less than its build promised, each with a sentence."""
        return self._shortfalls if version == self._version else {}

    async def close(self) -> None:
        self._waiting.clear()
        if self._comparing is not None:
            self._comparing.cancel()
            await asyncio.wait([self._comparing])

    async def _compare_waiting(self) -> None:
        assert self._budget is not None  # noqa: S101  # Without a budget nothing is sampled.
        while self._waiting:
            await asyncio.sleep(self._budget.wait_s())
            sample = self._waiting.popleft()
            try:
                if self._is_outdated(sample):
                    metrics.RECALL_SAMPLES.labels("outdated").inc()
                else:
                    await self._compare(sample, self._budget)
            except LookalikeError as error:  # A shard that is down, overloaded or has dropped the version.
                metrics.RECALL_SAMPLES.labels("failed").inc()
                log.debug("a search could not be compared with an exact one: %s", error)
            except Exception:  # A bug; it must not end the comparisons of later samples.
                metrics.RECALL_SAMPLES.labels("failed").inc()
                log.exception("a search could not be compared with an exact one")

    async def _compare(self, sample: _Sample, budget: CpuBudget) -> None:
        began_s = time.monotonic()
        query = sample.query._replace(k=DEPTH, explain=False, min_score=-math.inf, omit_ids=False)
        try:
            shards = await self._shards.search_beside_exact(sample.snapshot, query, Deadline.after(TIMEOUT_S))
        except BaseException:
            budget.spend(time.monotonic() - began_s)  # At most that, on each shard; what it was, nobody says.
            raise
        cost_s = sum(shard.cost_s for shard in shards)
        budget.spend(cost_s)
        metrics.RECALL_CPU.inc(cost_s)
        found, expected = neighbours_found(shards)
        if self._is_outdated(sample):
            metrics.RECALL_SAMPLES.labels("outdated").inc()
        elif expected:
            self._record(sample.snapshot, next(iter(query.vectors)), found, expected)

    def _is_outdated(self, sample: _Sample) -> bool:
        return sample.snapshot.version != self._versions.snapshot().version

    def _record(self, snapshot: Snapshot, space: Space.ValueType, found: int, expected: int) -> None:
        if snapshot.version != self._version:
            self._version, self._windows, self._shortfalls = snapshot.version, {}, {}
        metrics.RECALL_SAMPLES.labels("compared").inc()
        promised = snapshot.spaces[space].recall
        assert promised is not None  # noqa: S101  # Only such spaces are sampled.
        window = self._windows.setdefault(space, RecallWindow())
        window.add(found, expected)
        estimate = window.estimate()
        short = estimate.falls_short_of(promised)
        metrics.show_recall(snapshot.version, space_name(space), found, expected, estimate, short=short)
        if short:
            if space not in self._shortfalls:
                log.warning("version %s: %s", snapshot.version, shortfall(space, estimate, promised))
            self._shortfalls = {**self._shortfalls, space: shortfall(space, estimate, promised)}
        elif space in self._shortfalls:
            self._shortfalls = {other: text for other, text in self._shortfalls.items() if other != space}


def is_comparable(snapshot: Snapshot, query: ShardQuery) -> bool:
    """Whether a search says something of the recall that the build promised: of one ANN index, by a vector alone.

    Not one that is searched exactly anyway, as under a filter that leaves few; not one of several spaces.
    """
    if query.exact or query.filter or query.max_per_shop or len(query.vectors) > 1:
        return False
    (space,) = query.vectors
    return snapshot.spaces[space].recall is not None


def neighbours_found(shards: Sequence[ExactComparison]) -> tuple[int, int]:
    """How many of the first hits are as near as the true ones, and how many true ones there are; ties are hits."""
    exact = _best_scores([shard.exact for shard in shards])
    if not len(exact):
        return 0, 0
    approximate = _best_scores([shard.approximate for shard in shards])
    return int((approximate >= exact[-1] - _TIE).sum()), len(exact)


def _best_scores(shards: Sequence[ShardHits]) -> F32:
    return merge_hits(shards, DEPTH).scores[:DEPTH]


def shortfall(space: Space.ValueType, estimate: RecallEstimate, promised: PromisedRecall) -> str:
    return (
        f"searches of the {space_name(space)} space find {estimate.recall:.1%} of the {DEPTH} nearest products "
        f"({estimate.lower:.1%} to {estimate.upper:.1%}, by {estimate.samples} of them), the build promised "
        f"{promised.recall:.1%}"
    )
