"""The recall that the build of a version promises, of all shards together."""

from __future__ import annotations

import math

import pytest

from lookalike.releases.manifest import IndexEntry, OperatingPoint, SpaceEntry


def an_index(recall: float, standard_error: float) -> IndexEntry:
    deeper = OperatingPoint(depth=30, search_parameter=9, refine_factor=1, cost=1.0, recall=0.5, standard_error=0.1)
    point = OperatingPoint(
        depth=10, search_parameter=9, refine_factor=1, cost=1.0, recall=recall, standard_error=standard_error
    )
    return IndexEntry(recipe="HNSW16", operating_points=(point, deeper))


def a_space(documents: tuple[int, ...], *indexes: IndexEntry) -> SpaceEntry:
    return SpaceEntry(name="image", dim=8, encoder="e", rescore="float32", documents=documents, indexes=indexes)


def test_it_is_the_mean_of_the_shards_by_their_vectors_with_its_error() -> None:
    promised = a_space((300, 100), an_index(0.96, 0.004), an_index(0.92, 0.008)).recall_at_10
    assert promised is not None
    assert promised.recall == pytest.approx(0.95)
    assert promised.standard_error == pytest.approx(math.hypot(0.75 * 0.004, 0.25 * 0.008))


def test_a_shard_that_is_searched_exactly_finds_all() -> None:
    promised = a_space((300, 100), an_index(0.96, 0.004), IndexEntry()).recall_at_10
    assert promised is not None
    assert (promised.recall, promised.standard_error) == pytest.approx((0.97, 0.003))


@pytest.mark.parametrize("space", [a_space((300, 100), IndexEntry(), IndexEntry()), a_space((0,), an_index(0.9, 0.01))])
def test_where_every_shard_is_searched_exactly_or_holds_nothing_there_is_no_promise(space: SpaceEntry) -> None:
    assert space.recall_at_10 is None
