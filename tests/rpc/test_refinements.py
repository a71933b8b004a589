"""What a search may ask of its hits together, through a real gateway: how many of a shop, how good."""

from __future__ import annotations

from collections import Counter

from protos.lookalike.v1.search_pb2 import SearchRequest
from protos.lookalike.v1.types_pb2 import SPACE_TEXT
from tests.rpc.gateways import PRODUCTS, a_scene
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
