"""Answers with the largest allowed products, through a real gateway and a real shard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from index.building.build import build
from index.serving.service import IndexShard
from index.serving.shard_search import MAX_RESPONSE_BYTES
from index.serving.shard_version import open_shard
from index.serving.slots import Slots
from index.serving.writer import Writer
from index.storage.attributes import MAX_PRODUCT_BYTES
from lookalike.channels import aio_channel
from lookalike.limits import MAX_LIMIT
from lookalike.v1 import search_pb2_grpc
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.types_pb2 import SPACE_IMAGE
from server.shard_client import BATCH_PRODUCTS
from tests.rpc.gateways import running_gateway, serving
from tests.unit.index.samples import catalogue, serving_only, unit_vectors, vectors_of

COUNT = MAX_LIMIT + 10


@pytest_asyncio.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[str]:
    """The address of a gateway with one shard, whose products are nearly as large as allowed."""
    products = catalogue(COUNT)
    titles = ["x" * (MAX_PRODUCT_BYTES - 200)] * COUNT
    products = products.set_column(products.column_names.index("title"), "title", [titles])
    build(tmp_path, products, {SPACE_IMAGE: vectors_of(unit_vectors(COUNT, 8))}, shards=1)
    served, slots = serving_only(open_shard(tmp_path, 0)), Slots(threads=1, max_waiting=64)
    writer = Writer(served, max_waiting=8)
    async with (
        serving(IndexShard(slots, served, writer).handler()) as shard,
        running_gateway({"shards": (shard,), "shard_timeout_s": 60.0, "default_deadline_s": 60.0}) as address,
    ):
        yield address
    writer.close()
    slots.close()


async def test_concurrent_searches_of_the_largest_answers_are_all_answered(gateway: str) -> None:
    async with aio_channel(gateway) as channel:
        stub = search_pb2_grpc.SimilarProductsStub(channel)

        async def hits(product_id: str) -> int:
            example = Example(product_id=product_id)
            answer = await stub.Search(SearchRequest(examples=[example], space=SPACE_IMAGE, limit=MAX_LIMIT))
            return len(answer.hits)

        assert await asyncio.gather(*(hits(f"p{i}") for i in range(5))) == [MAX_LIMIT] * 5


def test_a_shards_response_has_room_for_a_full_batch_of_the_largest_products() -> None:
    assert BATCH_PRODUCTS * MAX_PRODUCT_BYTES <= MAX_RESPONSE_BYTES
