"""Which searches are compared with exact ones, what counts as found, and what happens when there are too many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any, cast

import numpy as np
import pytest
from prometheus_client import REGISTRY

from lookalike.errors import Overloaded
from lookalike.runtime.deadline import Deadline
from lookalike.shard_query import ShardHits, ShardQuery
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT
from server import metrics
from server.change_history import ChangeHistory
from server.online_recall import MAX_WAITING, OnlineRecall, is_comparable, neighbours_found
from server.recall_estimate import MIN_SAMPLES, PromisedRecall
from server.shard_group import ExactComparison, ShardGroup
from server.topology import Snapshot, SpaceInfo
from server.version_watch import VersionWatch

VECTOR = np.ones(1, dtype=np.float32)
PLAIN = ShardQuery(vectors={SPACE_IMAGE: VECTOR}, weights=(1.0,), filter=b"", k=24, exact=False, explain=True)


def a_snapshot(version: str) -> Snapshot:
    promised = PromisedRecall(0.95, 0.0)
    spaces = {SPACE_IMAGE: SpaceInfo(1, "e", (3,), recall=promised), SPACE_TEXT: SpaceInfo(1, "e", (3,))}
    return Snapshot(version, spaces, (True,), ChangeHistory(1))


def hits(*scores: float) -> ShardHits:
    ids = [f"p{score}" for score in scores]
    return ShardHits(ids, np.array(scores, dtype=np.float32), [b""] * len(ids))


class Shards:
    """Finds one of two neighbours; `proceed` lets it answer."""

    def __init__(self, error: Exception | None = None) -> None:
        self.queries: list[ShardQuery] = []
        self.proceed = asyncio.Event()
        self._error = error

    async def search_beside_exact(
        self, snapshot: Snapshot, query: ShardQuery, deadline: Deadline
    ) -> list[ExactComparison]:
        self.queries.append(query)
        await self.proceed.wait()
        if self._error is not None:
            raise self._error
        return [ExactComparison(hits(0.9, 0.2), hits(0.9, 0.8), cost_s=0.0)]


class Versions:
    def __init__(self, version: str) -> None:
        self.current = a_snapshot(version)

    def snapshot(self) -> Snapshot:
        return self.current


def recall_of(versions: Versions, shards: Shards, share: float = 1.0) -> OnlineRecall:
    return OnlineRecall(
        cast(VersionWatch, versions), cast(ShardGroup, shards), share=share, cpu_share=1.0, random=Random(3)
    )


def samples(outcome: str) -> float:
    return REGISTRY.get_sample_value("lookalike_recall_samples_total", {"outcome": outcome}) or 0.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # No event follows a counter.
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    "changed",
    [
        {"exact": True},
        {"filter": b"filter"},
        {"max_per_shop": 1},
        {"vectors": {SPACE_IMAGE: VECTOR, SPACE_TEXT: VECTOR}},
        {"vectors": {SPACE_TEXT: VECTOR}},  # Searched exactly: it promises nothing.
    ],
)
def test_what_says_nothing_of_the_promise_is_not_compared(changed: dict[str, Any]) -> None:
    snapshot = a_snapshot("v1")
    assert is_comparable(snapshot, PLAIN)
    assert not is_comparable(snapshot, PLAIN._replace(**changed))


def test_what_is_found_is_counted_over_all_shards_and_ties_are_found() -> None:
    first = ExactComparison(hits(0.9, 0.7, 0.3), hits(0.9, 0.8, 0.7), 0.0)
    second = ExactComparison(hits(*[0.75] * 9), hits(*[0.75] * 9), 0.0)
    # The ten nearest: .9, .8 and eight of the nine of .75; the search found .9 and nine of .75.
    assert neighbours_found([first, second]) == (10, 10)
    assert neighbours_found([first]) == (2, 3)
    assert neighbours_found([ExactComparison(hits(), hits(0.5), 0.0)]) == (0, 1)
    assert neighbours_found([ExactComparison(hits(), hits(), 0.0)]) == (0, 0)


async def test_a_sample_is_repeated_for_the_ten_nearest_with_its_vector_as_it_is() -> None:
    versions, shards = Versions("v1"), Shards()
    recall = recall_of(versions, shards)
    query = PLAIN._replace(min_score=0.5, omit_ids=True, exclude_ids=frozenset({"p1"}))
    recall.offer(versions.current, query)
    shards.proceed.set()
    before = samples("compared")
    await until(lambda: samples("compared") == before + 1)
    (asked,) = shards.queries
    assert (asked.k, asked.min_score, asked.omit_ids, asked.explain) == (10, -np.inf, False, False)
    assert asked.exclude_ids == {"p1"}
    assert asked.vectors[SPACE_IMAGE] is VECTOR
    await recall.close()


async def test_beyond_the_queue_samples_are_dropped_and_counted() -> None:
    versions, shards = Versions("v1"), Shards()
    recall, before = recall_of(versions, shards), samples("dropped")
    for _ in range(MAX_WAITING + 5):
        recall.offer(versions.current, PLAIN)
    assert samples("dropped") == before + 5
    await recall.close()


async def test_a_share_of_the_searches_is_sampled() -> None:
    versions, shards = Versions("v1"), Shards()
    recall, before = recall_of(versions, shards, share=0.1), samples("dropped")
    for _ in range(10_000):
        recall.offer(versions.current, PLAIN)
    assert 900 < samples("dropped") - before + MAX_WAITING < 1100
    await recall.close()
    never = recall_of(versions, shards, share=0.0)
    never.offer(versions.current, PLAIN)
    assert not shards.queries
    await never.close()


async def test_one_comparison_at_a_time_and_one_that_fails_ends_nothing() -> None:
    versions = Versions("v1")
    shards = Shards(Overloaded("too much"))
    recall, before = recall_of(versions, shards), samples("failed")
    recall.offer(versions.current, PLAIN)
    recall.offer(versions.current, PLAIN)
    await until(lambda: bool(shards.queries))
    assert len(shards.queries) == 1
    shards.proceed.set()
    await until(lambda: samples("failed") == before + 2)
    recall.offer(versions.current, PLAIN)
    await until(lambda: samples("failed") == before + 3)
    await recall.close()


async def test_a_shortfall_is_told_of_the_version_it_was_measured_of_and_ends_with_it() -> None:
    versions, shards = Versions("v1"), Shards()
    shards.proceed.set()
    recall, before = recall_of(versions, shards), samples("compared")
    assert not recall.shortfalls("v1")
    for count in range(1, MIN_SAMPLES + 1):
        recall.offer(versions.current, PLAIN)
        await until(lambda count=count: samples("compared") == before + count)  # type: ignore[misc]
    (sentence,) = recall.shortfalls("v1").values()
    assert sentence.startswith("searches of the image space find 50.0% of the 10 nearest products (")
    assert sentence.endswith(f"by {MIN_SAMPLES} of them), the build promised 95.0%")
    assert not recall.shortfalls("v2")
    assert REGISTRY.get_sample_value("lookalike_recall_at_10", {"version": "v1", "space": "image"}) == 0.5
    await recall.close()


async def test_a_sample_of_a_version_that_requests_no_longer_pin_is_not_counted() -> None:
    versions, shards = Versions("v1"), Shards()
    recall, before = recall_of(versions, shards), samples("outdated")
    recall.offer(versions.current, PLAIN)
    recall.offer(versions.current, PLAIN)
    await until(lambda: bool(shards.queries))
    versions.current = a_snapshot("v2")
    shards.proceed.set()
    await until(lambda: samples("outdated") == before + 2)
    assert len(shards.queries) == 1
    await recall.close()


def test_series_of_a_version_end_when_requests_pin_another() -> None:
    metrics.show_release("v1", {"image": 0.95})
    labels = {"version": "v1", "space": "image"}
    assert REGISTRY.get_sample_value("lookalike_recall_promised", labels) == 0.95
    assert REGISTRY.get_sample_value("lookalike_release", {"version": "v1"}) == 1
    metrics.RECALL_FOUND.labels(**labels).inc(9)
    metrics.show_release("v2", {})
    assert REGISTRY.get_sample_value("lookalike_recall_promised", labels) is None
    assert REGISTRY.get_sample_value("lookalike_recall_found_total", labels) is None
    assert REGISTRY.get_sample_value("lookalike_release", {"version": "v1"}) is None
