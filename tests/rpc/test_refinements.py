"""What a search may ask of its hits together, through a real gateway: how many of a shop, how good, how alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from lookalike.errors import Unavailable
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT, Space, SpaceWeight
from lookalike.vectors import pack
from tests.rpc.gateways import DIMS, PRODUCTS, VECTORS, a_scene
from tests.rpc.test_gateway import P7, ids, nearest

SHOPS = {product.id: product.shop for product in PRODUCTS}


async def test_no_more_hits_are_of_one_shop_than_were_asked_for() -> None:
    async with a_scene() as scene:
        response = await scene.search.Search(SearchRequest(examples=[P7], space=SPACE_TEXT, max_per_shop=2, limit=20))
    best: list[str] = []
    for product_id in nearest("p07", SPACE_TEXT):
        if Counter(SHOPS[each] for each in best)[SHOPS[product_id]] < 2:
            best.append(product_id)
    assert ids(response) == best
    assert len(best) == 8


async def test_the_example_itself_takes_no_place_of_its_shop() -> None:
    async with a_scene() as scene:
        response = await scene.search.Search(SearchRequest(examples=[P7], space=SPACE_TEXT, max_per_shop=1))
    assert [hit.product.shop for hit in response.hits].count("shop3") == 1
    assert "p07" not in ids(response)


async def test_hits_below_the_least_score_are_left_out_and_the_answer_says_whether_the_limit_cut_others() -> None:
    request = SearchRequest(examples=[P7], space=SPACE_TEXT, limit=20)
    async with a_scene() as scene:
        whole = await scene.search.Search(request)
        request.min_score = whole.hits[4].score
        five = await scene.search.Search(request)
        request.limit = 5
        exactly = await scene.search.Search(request)
        request.limit = 4
        four = await scene.search.Search(request)
        again = await scene.search.Search(request)
    assert ids(five) == ids(exactly) == ids(whole)[:5]
    assert ids(four) == ids(whole)[:4]
    assert [answer.truncated for answer in (whole, five, exactly, four, again)] == [False, False, False, True, True]
    assert again.provenance.cached


async def test_an_answer_of_no_hits_is_an_answer() -> None:
    async with a_scene() as scene:
        response = await scene.search.Search(SearchRequest(examples=[P7], min_score=1, max_per_shop=1))
    assert (ids(response), response.provenance.coverage, response.truncated) == ([], 1, False)


def diverse(pool: list[str], scores: dict[str, float], alike: Callable[[str, str], float], limit: int) -> list[str]:
    """By the contract's words, half by score and half by unlikeness."""
    chosen: list[str] = []
    while len(chosen) < limit:
        left = [each for each in pool if each not in chosen]
        chosen.append(
            max(left, key=lambda each: scores[each] / 2 - max((alike(each, one) for one in chosen), default=0) / 2)
        )
    return chosen


def cosine(space: Space.ValueType) -> Callable[[str, str], float]:
    zeros = np.zeros(DIMS[space], dtype=np.float32)
    return lambda one, other: float(VECTORS.get((one, space), zeros) @ VECTORS.get((other, space), zeros))


async def test_hits_are_chosen_for_their_score_and_for_being_unlike_each_other() -> None:
    request = SearchRequest(examples=[P7], space=SPACE_TEXT, limit=20)
    async with a_scene() as scene:
        by_score = await scene.search.Search(request)
        request.limit, request.diversity = 3, 0.5
        response = await scene.search.Search(request)
    scores = {hit.product.id: hit.score for hit in by_score.hits}
    assert ids(response) == diverse(ids(by_score)[:15], scores, cosine(SPACE_TEXT), 3)
    assert ids(response) != ids(by_score)[:3]
    assert {hit.product.id: hit.score for hit in response.hits}.items() <= scores.items()


async def test_of_several_spaces_likeness_is_weighted_as_the_score_is() -> None:
    request = SearchRequest(
        examples=[P7],
        weights=[SpaceWeight(space=SPACE_IMAGE, weight=1), SpaceWeight(space=SPACE_TEXT, weight=3)],
        max_per_shop=3,
        explain=True,
        limit=20,
    )
    async with a_scene() as scene:
        by_score = await scene.search.Search(request)
        request.limit, request.diversity = 6, 0.5
        response = await scene.search.Search(request)
    image, text = cosine(SPACE_IMAGE), cosine(SPACE_TEXT)

    def alike(one: str, other: str) -> float:
        return image(one, other) / 4 + text(one, other) * 3 / 4

    scores = {hit.product.id: hit.score for hit in by_score.hits}
    assert ids(response) == diverse(ids(by_score), scores, alike, 6)
    told = {hit.product.id: hit for hit in by_score.hits}
    assert all(hit == told[hit.product.id] for hit in response.hits)


async def test_diversity_0_and_a_lone_hit_change_nothing() -> None:
    async with a_scene() as scene:
        plain = await scene.search.Search(SearchRequest(examples=[P7]))
        zero = await scene.search.Search(SearchRequest(examples=[P7], diversity=0))
        lone = await scene.search.Search(SearchRequest(examples=[P7], diversity=1, min_score=plain.hits[0].score))
        none = await scene.search.Search(SearchRequest(examples=[P7], diversity=1, min_score=1))
    assert (ids(zero), zero.provenance.cached) == (ids(plain), True)
    assert (ids(lone), ids(none)) == (ids(plain)[:1], [])


async def test_with_diversity_too_an_answer_says_whether_others_score_as_much() -> None:
    async with a_scene() as scene:
        whole = await scene.search.Search(SearchRequest(examples=[P7], limit=20))
        request = SearchRequest(examples=[P7], diversity=0.5, min_score=whole.hits[4].score)
        answers = []
        for request.limit in (4, 5):
            answers.append(await scene.search.Search(request))
        request.ClearField("min_score")
        unbounded = await scene.search.Search(request)
    assert [answer.truncated for answer in (*answers, unbounded)] == [True, False, False]
    assert {*ids(answers[1])} == {*ids(whole)[:5]}


async def test_where_vectors_cannot_be_had_the_answer_is_by_score_and_says_so() -> None:
    vector = Example(vector=pack(VECTORS["p03", SPACE_TEXT]))
    request = SearchRequest(examples=[vector], space=SPACE_TEXT, limit=5)
    async with a_scene() as scene:
        by_score = await scene.search.Search(request)
        request.diversity = 0.5
        scene.shards[1].fetch_error = Unavailable("broken")
        response = await scene.search.Search(request)
        scene.shards[1].fetch_error = None
        mended = await scene.search.Search(request)
    assert ids(response) == ids(by_score)
    (reason,) = response.provenance.degraded
    assert reason.startswith("not diversified: ")
    assert "broken" in reason
    assert response.provenance.coverage == 1
    assert not mended.provenance.cached
    assert not mended.provenance.degraded
    assert ids(mended) != ids(by_score)
