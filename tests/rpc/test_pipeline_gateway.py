"""The pipeline's calls to a real gateway: what they answer, and what they raise."""

from __future__ import annotations

from pathlib import Path

import pytest

from lookalike.changes import patch_change
from lookalike.errors import FailedPrecondition, InvalidRequest, NotFound, Unavailable
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT
from pipeline.gateway import Gateway
from pipeline.served_catalogue import save_products
from tests.redis_servers import RedisServer
from tests.rpc.gateways import scripted_system
from tests.rpc.test_gateway import break_shard_1


async def test_products_are_complete_or_an_error(tmp_path: Path) -> None:
    async with scripted_system() as system, Gateway(system.address) as gateway:
        listed = [product.id async for product in gateway.products()]
        assert await save_products(gateway, tmp_path) == len(listed) > 0
        assert listed == sorted(listed)
        await break_shard_1(system)
        with pytest.raises(Unavailable):
            await save_products(gateway, tmp_path)


async def test_a_vector_states_its_encoder_and_a_space_that_is_not_there_has_none() -> None:
    async with scripted_system(spaces=(SPACE_IMAGE,)) as system, Gateway(system.address) as gateway:
        (product_id, *_) = [product.id async for product in gateway.products()]
        response = await gateway.get(product_id, [SPACE_IMAGE, SPACE_TEXT])
        assert [vector.space for vector in response.vectors] == [SPACE_IMAGE]
        assert all(vector.encoder for vector in response.vectors)
        assert await gateway.version()
        with pytest.raises(NotFound):
            await gateway.get("nobody")


async def test_a_change_is_enqueued_where_there_is_a_stream(tmp_path: Path) -> None:
    change = patch_change("p", revision=2, price=3.0)
    async with scripted_system() as system, Gateway(system.address) as gateway:
        with pytest.raises(FailedPrecondition):
            await gateway.enqueue(change)
    with RedisServer(tmp_path) as server:
        async with scripted_system(stream=server.url) as system, Gateway(system.address) as gateway:
            await gateway.enqueue(change)
            with pytest.raises(InvalidRequest):
                await gateway.enqueue(patch_change("", revision=2, price=3.0))


async def test_a_gateway_that_is_not_there_is_unavailable() -> None:
    async with Gateway("127.0.0.1:1") as gateway:
        with pytest.raises(Unavailable):
            await gateway.version()
