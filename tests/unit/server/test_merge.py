"""Merging shards' hits, and the bytes of an answer."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.vectors import pack
from protos.lookalike.v1.index_pb2 import OpaqueSearchResponse, ShardHits
from protos.lookalike.v1.search_pb2 import Hit, Provenance, SearchResponse, Timings
from protos.lookalike.v1.types_pb2 import SPACE_TEXT, Product
from server.answer import SearchAnswer, stamp
from server.merge import merged
from server.metrics import Watch


def a_shard(hits: list[tuple[str, float]]) -> ShardHits:
    ordered = sorted(hits, key=lambda hit: (-hit[1], hit[0]))
    return ShardHits(
        ids=[product_id for product_id, _ in ordered],
        scores=pack(np.array([score for _, score in ordered], dtype=np.float32)),
        products=[Product(id=product_id).SerializeToString() for product_id, _ in ordered],
    )


@settings(max_examples=200, deadline=None)
@given(
    scores=st.dictionaries(st.text(min_size=1, max_size=3), st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0]), max_size=30),
    limit=st.integers(1, 10),
    data=st.data(),
)
def test_the_merge_is_the_sorted_whole(scores: dict[str, float], limit: int, data: st.DataObject) -> None:
    owner = {product_id: data.draw(st.integers(0, 2)) for product_id in scores}
    without = data.draw(st.sets(st.sampled_from(sorted(scores)), max_size=2)) if scores else set()
    shards = [a_shard([(p, s) for p, s in scores.items() if owner[p] == shard]) for shard in range(3)]
    expected = sorted(((-s, p) for p, s in scores.items() if p not in without))[:limit]
    hits = merged(shards, limit, without)
    assert [(-hit.score, Product.FromString(hit.product).id) for hit in hits] == expected


def test_an_opaque_answer_is_a_search_response_to_the_byte() -> None:
    product = Product(id="p", title="靴", category="fashion/shoes", shop="s", price=1980, in_stock=True)
    provenance = Provenance(version="v1", space=SPACE_TEXT, coverage=1)
    public = SearchResponse(hits=[Hit(product=product, score=0.5)], provenance=provenance)
    hits = merged(
        [ShardHits(ids=["p"], scores=pack(np.array([0.5], dtype=np.float32)), products=[product.SerializeToString()])],
        1,
        (),
    )
    assert OpaqueSearchResponse(hits=hits, provenance=provenance).SerializeToString() == public.SerializeToString()


def test_a_stamp_behind_the_answer_adds_to_its_provenance_and_changes_nothing_else() -> None:
    body = SearchResponse(
        hits=[Hit(score=0.5)], provenance=Provenance(version="v1", degraded=["x"])
    ).SerializeToString()
    watch = Watch(cached=True, stages={"cache": 0.25})
    kept = SearchAnswer.of_kept(SearchAnswer(body, SPACE_TEXT, whole=True).to_keep())
    response = SearchResponse.FromString(kept.body + stamp(watch))
    assert kept.space == SPACE_TEXT
    assert response.provenance.timings.total_s > 0
    response.provenance.timings.total_s = 0
    assert response == SearchResponse(
        hits=[Hit(score=0.5)],
        provenance=Provenance(version="v1", degraded=["x"], cached=True, timings=Timings(cache_s=0.25)),
    )
