"""The options max_per_shop, min_score and diversity of a search, through a real gateway."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import numpy as np

from lookalike.errors import Unavailable
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT, Space, SpaceWeight
from lookalike.vectors import pack
from tests.rpc.gateways import DIMS, PRODUCTS, VECTORS, scripted_system
from tests.rpc.test_gateway import P7, ids, nearest

SHOPS = {product.id: product.shop for product in PRODUCTS}


async def test_at_most_max_per_shop_hits_are_from_one_shop() -> None:
    async with scripted_system() as system:
        response = await system.search.Search(SearchRequest(examples=[P7], space=SPACE_TEXT, max_per_shop=2, limit=20))
    best: list[str] = []
    for product_id in nearest("p07", SPACE_TEXT):
        if Counter(SHOPS[each] for each in best)[SHOPS[product_id]] < 2:
            best.append(product_id)
    assert ids(response) == best
    assert len(best) == 8


async def test_the_example_product_does_not_count_towards_max_per_shop() -> None:
    async with scripted_system() as system:
        response = await system.search.Search(SearchRequest(examples=[P7], space=SPACE_TEXT, max_per_shop=1))
    assert [hit.product.shop for hit in response.hits].count("shop3") == 1
    assert "p07" not in ids(response)


async def test_hits_below_min_score_are_left_out_and_truncated_says_whether_the_limit_cut_others() -> None:
    request = SearchRequest(examples=[P7], space=SPACE_TEXT, limit=20)
    async with scripted_system() as system:
        whole = await system.search.Search(request)
        request.min_score = whole.hits[4].score
        five = await system.search.Search(request)
        request.limit = 5
        exactly = await system.search.Search(request)
        request.limit = 4
        four = await system.search.Search(request)
        again = await system.search.Search(request)
    assert ids(five) == ids(exactly) == ids(whole)[:5]
    assert ids(four) == ids(whole)[:4]
    assert [answer.truncated for answer in (whole, five, exactly, four, again)] == [False, False, False, True, True]
    assert again.provenance.cached


async def test_a_search_without_any_hit_is_no_error() -> None:
    async with scripted_system() as system:
        response = await system.search.Search(SearchRequest(examples=[P7], min_score=1, max_per_shop=1))
    assert (ids(response), response.provenance.coverage, response.truncated) == ([], 1, False)


def diversify_by_definition(
    candidates: list[str], scores: dict[str, float], similarity: Callable[[str, str], float], limit: int
) -> list[str]:
    """Maximal marginal relevance as the API defines it, for a diversity of 0.5."""
    chosen: list[str] = []
    while len(chosen) < limit:
        left = [each for each in candidates if each not in chosen]
        chosen.append(
            max(left, key=lambda each: scores[each] / 2 - max((similarity(each, hit) for hit in chosen), default=0) / 2)
        )
    return chosen


def cosine(space: Space.ValueType) -> Callable[[str, str], float]:
    zeros = np.zeros(DIMS[space], dtype=np.float32)
    return lambda one, other: float(VECTORS.get((one, space), zeros) @ VECTORS.get((other, space), zeros))


async def test_with_diversity_hits_trade_score_against_similarity_to_each_other() -> None:
    request = SearchRequest(examples=[P7], space=SPACE_TEXT, limit=20)
    async with scripted_system() as system:
        by_score = await system.search.Search(request)
        request.limit, request.diversity = 3, 0.5
        response = await system.search.Search(request)
    scores = {hit.product.id: hit.score for hit in by_score.hits}
    assert ids(response) == diversify_by_definition(ids(by_score)[:15], scores, cosine(SPACE_TEXT), 3)
    assert ids(response) != ids(by_score)[:3]
    assert {hit.product.id: hit.score for hit in response.hits}.items() <= scores.items()


async def test_with_diversity_in_several_spaces_similarity_is_weighted_as_the_score_is() -> None:
    request = SearchRequest(
        examples=[P7],
        weights=[SpaceWeight(space=SPACE_IMAGE, weight=1), SpaceWeight(space=SPACE_TEXT, weight=3)],
        max_per_shop=3,
        explain=True,
        limit=20,
    )
    async with scripted_system() as system:
        by_score = await system.search.Search(request)
        request.limit, request.diversity = 6, 0.5
        response = await system.search.Search(request)
    image, text = cosine(SPACE_IMAGE), cosine(SPACE_TEXT)

    def similarity(one: str, other: str) -> float:
        return image(one, other) / 4 + text(one, other) * 3 / 4

    scores = {hit.product.id: hit.score for hit in by_score.hits}
    assert ids(response) == diversify_by_definition(ids(by_score), scores, similarity, 6)
    hits = {hit.product.id: hit for hit in by_score.hits}
    assert all(hit == hits[hit.product.id] for hit in response.hits)


async def test_diversity_0_or_a_single_hit_changes_nothing() -> None:
    async with scripted_system() as system:
        plain = await system.search.Search(SearchRequest(examples=[P7]))
        zero = await system.search.Search(SearchRequest(examples=[P7], diversity=0))
        single = await system.search.Search(SearchRequest(examples=[P7], diversity=1, min_score=plain.hits[0].score))
        none = await system.search.Search(SearchRequest(examples=[P7], diversity=1, min_score=1))
    assert (ids(zero), zero.provenance.cached) == (ids(plain), True)
    assert (ids(single), ids(none)) == (ids(plain)[:1], [])


async def test_with_diversity_truncated_says_whether_other_hits_reach_min_score() -> None:
    async with scripted_system() as system:
        whole = await system.search.Search(SearchRequest(examples=[P7], limit=20))
        request = SearchRequest(examples=[P7], diversity=0.5, min_score=whole.hits[4].score)
        answers = []
        for request.limit in (4, 5):
            answers.append(await system.search.Search(request))
        request.ClearField("min_score")
        unbounded = await system.search.Search(request)
    assert [answer.truncated for answer in (*answers, unbounded)] == [True, False, False]
    assert {*ids(answers[1])} == {*ids(whole)[:5]}


async def test_hits_whose_vectors_cannot_be_fetched_are_ranked_by_score_and_the_answer_says_so() -> None:
    vector = Example(vector=pack(VECTORS["p03", SPACE_TEXT]))
    request = SearchRequest(examples=[vector], space=SPACE_TEXT, limit=5)
    async with scripted_system() as system:
        by_score = await system.search.Search(request)
        request.diversity = 0.5
        system.shards[1].fetch_error = Unavailable("broken")
        response = await system.search.Search(request)
        system.shards[1].fetch_error = None
        async with asyncio.timeout(30):  # A probe brings the shard back.
            while (recovered := await system.search.Search(request)).provenance.degraded:  # noqa: ASYNC110  # as it says
                await asyncio.sleep(0.02)
    assert ids(response) == ids(by_score)
    (reason,) = response.provenance.degraded
    assert reason == "not diversified: shard 1 is not available"
    assert response.provenance.coverage == 1
    assert not recovered.provenance.cached
    assert ids(recovered) != ids(by_score)
