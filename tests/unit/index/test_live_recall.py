"""Recall of a shard under churn: no worse before, during and after a compaction than of the version as built."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from index.backends.faiss_support import use_threads
from index.backends.recipe import IvfRecipe, parse_recipe
from index.building.build import IndexOptions, build
from index.live import compaction
from index.live.live_shard import LiveLimits, LiveShard
from index.search.queries import parse_query
from index.search.view import View
from index.serving.shard_version import open_shard
from lookalike.v1.index_pb2 import ShardQuery, Update, Upsert
from lookalike.v1.types_pb2 import Filter, Product, SpaceVector
from lookalike.vectors import F32, pack
from tests.unit.index.samples import IMAGE, clustered, query_vector, vectors_of

COUNT, DIM, QUERY_COUNT, K = 12_000, 64, 300, 10
CHURN = COUNT // 5  # A fifth of the products: equal numbers are superseded, removed and added.
VECTORS = clustered(COUNT + CHURN + QUERY_COUNT, DIM)
QUERIES = VECTORS[-QUERY_COUNT:]
MAX_RECALL_LOSS = 0.005


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Leave cores to other tests."""
    use_threads(1)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveShard]:
    products = pa.table({"id": [f"p{row:05}" for row in range(COUNT)], "shop": [f"{row % 2}" for row in range(COUNT)]})
    build(
        tmp_path / "index",
        products,
        {IMAGE: vectors_of(VECTORS[:COUNT])},
        shards=1,
        options=IndexOptions(recipe="IVF,PQ4fs"),  # Not what is fastest at the moment.
    )
    shard = open_shard(tmp_path / "index", 0)
    assert shard.base.spaces[IMAGE].ann_index is not None
    live_shard = LiveShard(
        shard.base, shard.manifest, 0, tmp_path / "live", LiveLimits(delta_rows=2 * CHURN, changes=COUNT)
    )
    yield live_shard
    live_shard.close()


def churn() -> list[Update]:
    """In turn one product gets another vector, one is removed, and one is added."""
    random = np.random.default_rng(1)
    rows = random.permutation(COUNT)[: 2 * CHURN // 3]
    updates = []
    for turn, row in enumerate(rows.tolist()):
        vector = VECTORS[COUNT + turn]
        if turn % 2:
            updates.append(Update(revision=1, remove=f"p{row:05}"))
            updates.append(_upsert(f"new{turn}", vector))
        else:
            updates.append(_upsert(f"p{row:05}", vector))
    return updates


def _upsert(product_id: str, vector: F32) -> Update:
    vectors = [SpaceVector(space=IMAGE, vector=pack(vector))]
    return Update(revision=1, upsert=Upsert(product=Product(id=product_id, shop="0"), vectors=vectors))


def recall(view: View, condition: Filter | None = None) -> float:
    """Recall@10 against exact search of the same view."""
    messages = [ShardQuery(vectors=[query_vector(IMAGE, each)], k=K, filter=condition) for each in QUERIES]
    approximate = view.nearest([parse_query(each, {IMAGE: DIM}) for each in messages])
    exact = view.nearest([parse_query(each, {IMAGE: DIM})._replace(exact=True) for each in messages])
    return sum(len({*one.ids} & {*other.ids}) for one, other in zip(approximate, exact, strict=True)) / (
        K * QUERY_COUNT
    )


@pytest.mark.slow
def test_under_churn_recall_falls_by_at_most_0_005_before_during_and_after_a_compaction(
    live: LiveShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_recall, updates = recall(live.view), churn()
    assert built_recall < 1  # Otherwise exact search would be measured.
    reached, go_on = threading.Event(), threading.Event()
    write = compaction.write

    def block(*arguments: Any, **named: Any) -> None:
        write(*arguments, **named)
        reached.set()
        go_on.wait()

    monkeypatch.setattr(compaction, "write", block)
    half = len(updates) // 2
    for start in range(0, half, 100):
        live.apply(updates[start : min(start + 100, half)])
    assert recall(live.view) >= built_recall - MAX_RECALL_LOSS
    thread = threading.Thread(target=_compact_on_one_thread(live))
    thread.start()
    recalls = [recall(live.view)]  # While it is being written,
    reached.wait()
    for start in range(half, len(updates), 100):
        live.apply(updates[start : start + 100])
        recalls.append(recall(live.view))  # while updates come, of what is being compacted, too,
    go_on.set()
    thread.join()
    recalls.append(recall(live.view))  # and when it is done.
    live.compact()
    recalls += [recall(live.view), recall(live.view, Filter(shop_in=["1"]))]
    assert live.view.joint_indexes  # One set of lists over base and changes,
    recalls.append(recall(View(live.view.segments)))  # which a search of several spaces does not use.
    assert min(recalls) >= built_recall - MAX_RECALL_LOSS
    assert live.state().delta_rows == 0
    base, compacted = (parse_recipe(segment.spaces[IMAGE].entry.recipe) for segment in live.view.segments)
    assert isinstance(base, IvfRecipe)
    assert isinstance(compacted, IvfRecipe)
    assert compacted == base  # The same training: its codes are copied into the joint lists.


def _compact_on_one_thread(live: LiveShard) -> Callable[[], None]:
    def compact() -> None:
        use_threads(1)
        live.compact()

    return compact
