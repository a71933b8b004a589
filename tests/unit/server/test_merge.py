"""Merging the hits of shards, and the bytes of an answer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.runtime.grouping import limit_per_shop
from lookalike.shard_query import ShardHits
from lookalike.v1.search_pb2 import Hit, Provenance, SearchedSpace, SearchResponse, Timings
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT, Product
from server.answer import SearchAnswer
from server.merge import merge_hits
from server.metrics import RequestTimer
from server.wire import encode_hits, tag, varint


def shard_hits(hits: list[tuple[str, float]], shops: Mapping[str, str] | None = None) -> ShardHits:
    ordered = sorted(hits, key=lambda hit: (-hit[1], hit[0]))
    return ShardHits(
        ids=[product_id for product_id, _ in ordered],
        scores=np.array([score for _, score in ordered], dtype=np.float32),
        products=[Product(id=product_id).SerializeToString() for product_id, _ in ordered],
        shops=[shops[product_id] for product_id, _ in ordered] if shops else [],
    )


@settings(max_examples=200, deadline=None)
@given(
    scores=st.dictionaries(st.text(min_size=1, max_size=3), st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0]), max_size=30),
    limit=st.integers(1, 10),
    data=st.data(),
)
def test_merging_shards_equals_sorting_all_hits(scores: dict[str, float], limit: int, data: st.DataObject) -> None:
    owner = {product_id: data.draw(st.integers(0, 2)) for product_id in scores}
    shards = [shard_hits([(p, s) for p, s in scores.items() if owner[p] == shard]) for shard in range(3)]
    hits = merge_hits(shards, limit)
    assert [Product.FromString(product).id for product in hits.products] == [*hits.ids]
    assert [*zip((-score for score in hits.scores), hits.ids, strict=True)] == sorted(
        (-s, p) for p, s in scores.items()
    )[:limit]


@settings(max_examples=300, deadline=None)
@given(
    scores=st.dictionaries(st.text(min_size=1, max_size=3), st.sampled_from([-1.0, 0.25, 0.5, 1.0]), max_size=30),
    limit=st.integers(1, 10),
    max_per_shop=st.integers(1, 3),
    data=st.data(),
)
def test_limiting_shops_in_each_shard_and_again_in_the_merge_equals_limiting_them_in_all_hits(
    scores: dict[str, float], limit: int, max_per_shop: int, data: st.DataObject
) -> None:
    owner = {product_id: data.draw(st.integers(0, 2)) for product_id in scores}
    shops = {product_id: data.draw(st.sampled_from(["", "a", "b", "c"])) for product_id in scores}
    expected: list[str] = []
    for _, product_id in sorted((-s, p) for p, s in scores.items()):
        shop = shops[product_id]
        if not shop or sum(shops[other] == shop for other in expected) < max_per_shop:
            expected.append(product_id)
    shards = []
    for shard in range(3):
        all_hits = shard_hits([(p, s) for p, s in scores.items() if owner[p] == shard], shops)
        kept = limit_per_shop(all_hits.shops, max_per_shop, limit)
        shards.append(shard_hits([(all_hits.ids[i], scores[all_hits.ids[i]]) for i in kept], shops))
    assert [*merge_hits(shards, limit, max_per_shop=max_per_shop).ids] == expected[:limit]


def test_a_response_made_of_serialized_parts_has_the_bytes_of_a_search_response() -> None:
    product = Product(id="p", title="靴", category="fashion/shoes", shop="s", price=1980, in_stock=True)
    provenance = Provenance(version="v1", spaces=[SearchedSpace(space=SPACE_TEXT, weight=1)], coverage=1)
    public = SearchResponse(hits=[Hit(product=product, score=0.5)], provenance=provenance)
    scores = np.array([0.5], dtype=np.float32)
    hits = merge_hits([ShardHits(ids=["p"], scores=scores, products=[product.SerializeToString()])], 1)
    serialized = provenance.SerializeToString()
    assert hits.encoded(()) + tag(2) + varint(len(serialized)) + serialized == public.SerializeToString()


def test_explained_hits_keep_their_own_cosines_through_the_merge() -> None:
    first, second = shard_hits([("a", 0.9), ("c", 0.5)]), shard_hits([("b", 0.7)])
    first = first._replace(cosines=np.array([[1, 0.8], [0.5, 0.5]], dtype=np.float32))
    second = second._replace(cosines=np.array([[0.4, 1]], dtype=np.float32))
    response = SearchResponse.FromString(merge_hits([first, second], 2).encoded((SPACE_IMAGE, SPACE_TEXT)))
    explained = [(hit.product.id, *((each.space, each.score) for each in hit.scores)) for hit in response.hits]
    assert explained == [
        ("a", (SPACE_IMAGE, 1), (SPACE_TEXT, pytest.approx(0.8))),
        ("b", (SPACE_IMAGE, pytest.approx(0.4)), (SPACE_TEXT, 1)),
    ]


def test_the_response_of_a_cached_answer_has_no_field_twice() -> None:
    hits = SearchResponse(hits=[Hit(score=0.5), Hit(score=0.25)])
    provenance = Provenance(version="v1", coverage=1, degraded=["x"])
    answer = SearchAnswer(hits.SerializeToString(), provenance.SerializeToString(), "image+text", complete=True)
    stages = {"cache": 0.25, "lookup": 0.5, "encode": 1.0, "search": 2.0}
    serialized = answer.response(RequestTimer(cached=True, stale_s=1.5, stages=stages))
    response = SearchResponse.FromString(serialized)
    assert response.SerializeToString() == serialized  # A field that occurs twice would be written once.
    assert response.provenance.timings.total_s > 0
    response.provenance.timings.total_s = 0
    timings = Timings(cache_s=0.25, lookup_s=0.5, encode_s=1, search_s=2)
    timed = Provenance(version="v1", coverage=1, degraded=["x"], cached=True, stale_s=1.5, timings=timings)
    assert response == SearchResponse(hits=hits.hits, provenance=timed)


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 16_000, 16_384, 3_000_000])
def test_hits_written_by_hand_are_those_that_protobuf_writes(size: int) -> None:
    hits = [Hit(product=Product(title="x" * size), score=0.25), Hit(product=Product(id="p"), score=-1)]
    scores = np.array([hit.score for hit in hits], dtype=np.float32)
    products = [hit.product.SerializeToString() for hit in hits]
    assert encode_hits(products, scores) == SearchResponse(hits=hits).SerializeToString()
