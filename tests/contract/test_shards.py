"""The fake shards of the gateway's tests give the same responses as real shards, in one space and in several."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from index.building.build import SpaceVectors, build
from index.serving.service import IndexShard
from index.serving.shard_version import open_shard
from index.serving.slots import Slots
from index.serving.writer import Writer
from lookalike.v1.search_pb2 import Example, SearchRequest, SearchResponse
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, SpaceWeight
from lookalike.vectors import pack
from tests.rpc.gateways import PRODUCTS, SHARDS, VECTORS, a_photo, scripted_system, serving
from tests.unit.index.samples import serving_only

ALL = (SPACE_IMAGE, SPACE_TEXT, SPACE_PRODUCT)
P7, P19 = Example(product_id="p07"), Example(product_id="p19")
PHOTO, WORDS = Example(image=a_photo(7)), Example(text="p08", weight=2)
HALVES = [SpaceWeight(space=SPACE_IMAGE, weight=1), SpaceWeight(space=SPACE_TEXT, weight=1)]
THIRDS = [*HALVES, SpaceWeight(space=SPACE_PRODUCT, weight=1)]

REQUESTS = {
    "routed by policy": SearchRequest(examples=[P7]),
    "routed by policy, without a photo": SearchRequest(examples=[P19]),
    "a photo": SearchRequest(examples=[PHOTO], explain=True),
    "a vector": SearchRequest(examples=[Example(vector=pack(VECTORS["p03", SPACE_TEXT]))], space=SPACE_TEXT),
    "a photo with a text": SearchRequest(examples=[PHOTO, WORDS], limit=5),
    "a late fusion of two": SearchRequest(examples=[PHOTO, WORDS], weights=HALVES, limit=20),
    "a late fusion of three": SearchRequest(examples=[P7, WORDS], weights=THIRDS, limit=20, explain=True),
    "a late fusion, exact": SearchRequest(examples=[P7], weights=THIRDS, limit=3, explain=True, exact=True),
    "a late fusion with a missing vector": SearchRequest(examples=[P19], weights=HALVES, limit=20, explain=True),
    "without the same shop": SearchRequest(examples=[P7], weights=HALVES, exclude_same_shop=True, limit=20),
    "with negative examples": SearchRequest(
        examples=[P7, Example(text="p08", weight=-0.5), Example(product_id="p09", weight=-0.5)], space=SPACE_TEXT
    ),
    "only a negative example": SearchRequest(examples=[Example(image=a_photo(7), weight=-1)], limit=20),
    "at most one per shop": SearchRequest(examples=[P7], max_per_shop=1, limit=20),
    "at most one per shop, in several spaces": SearchRequest(examples=[P7], weights=THIRDS, max_per_shop=1, limit=3),
    "with a minimum score": SearchRequest(examples=[P7], space=SPACE_TEXT, min_score=0.1, limit=20),
    "with a minimum score and a limit": SearchRequest(examples=[P7], space=SPACE_TEXT, min_score=0.1, limit=2),
    "diversified": SearchRequest(examples=[P7], space=SPACE_TEXT, diversity=0.5, limit=4),
    "diversified, in several spaces": SearchRequest(
        examples=[P7, WORDS], weights=THIRDS, diversity=0.7, max_per_shop=2, limit=4, explain=True
    ),
    "with a minimum score that no product reaches": SearchRequest(
        examples=[P7], weights=HALVES, min_score=0.99, limit=20
    ),
}


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("index")
    columns = ("id", "title", "category", "shop", "price", "in_stock")
    table = pa.table({name: [getattr(product, name) for product in PRODUCTS] for name in columns})
    spaces: dict[int, SpaceVectors] = {}
    for space in ALL:
        rows = [row for row, product in enumerate(PRODUCTS) if (product.id, space) in VECTORS]
        vectors = np.stack([VECTORS[PRODUCTS[row].id, space] for row in rows])
        spaces[space] = SpaceVectors(encoder=f"encoder-{space}", vectors=vectors, rows=np.array(rows))
    build(where, table, spaces, shards=SHARDS)
    return where


@asynccontextmanager
async def real_shards(location: Path) -> AsyncIterator[tuple[str, str]]:
    slots = Slots(threads=1, max_waiting=8)
    served = [serving_only(open_shard(location, number)) for number in range(SHARDS)]
    shards = [IndexShard(slots, each, Writer(each, max_waiting=8)) for each in served]
    async with serving(shards[0].handler()) as first, serving(shards[1].handler()) as second:
        yield first, second
    slots.close()


def without_version_and_timings(response: SearchResponse) -> SearchResponse:
    response.provenance.version = ""
    response.provenance.ClearField("timings")
    return response


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
async def test_real_shards_give_the_same_responses_as_scripted_ones(location: Path, request_: SearchRequest) -> None:
    async with (
        real_shards(location) as addresses,
        scripted_system(shards=addresses) as real,
        scripted_system(spaces=ALL) as scripted,
    ):
        real_response, scripted_response = [
            without_version_and_timings(await system.search.Search(request_)) for system in (real, scripted)
        ]
    assert (real_response.provenance, real_response.truncated) == (
        scripted_response.provenance,
        scripted_response.truncated,
    )
    assert [hit.product for hit in real_response.hits] == [hit.product for hit in scripted_response.hits]
    assert [hit.score for hit in real_response.hits] == pytest.approx(
        [hit.score for hit in scripted_response.hits], abs=1e-5
    )
    for hit, other in zip(real_response.hits, scripted_response.hits, strict=True):
        assert [each.space for each in hit.scores] == [each.space for each in other.scores]
        assert [each.score for each in hit.scores] == pytest.approx([each.score for each in other.scores], abs=1e-5)
