"""Upsert and Remove through a real gateway, with scripted shards and with real ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio

from index.backends.faiss_support import use_threads
from index.building.build import build
from index.live.live_shard import LiveLimits, LiveShard
from index.serving.service import IndexShard
from index.serving.shard_version import open_shard
from index.serving.slots import Slots
from index.serving.writer import Writer
from lookalike.channels import aio_channel
from lookalike.runtime.partition import shard_of
from lookalike.v1 import catalog_pb2_grpc, search_pb2_grpc
from lookalike.v1.catalog_pb2 import CountRequest, GetRequest, RemoveRequest, UpsertRequest
from lookalike.v1.index_pb2 import UpdateResult
from lookalike.v1.search_pb2 import Example, SearchRequest, SearchResponse
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, Product, Space, SpaceVector
from lookalike.vectors import F32, unpack
from tests.rpc.gateways import (
    DIMS,
    SHARDS,
    VECTORS,
    ScriptedSystem,
    a_photo,
    fuse,
    running_gateway,
    scripted_system,
    serving,
)
from tests.unit.index.samples import catalogue, serving_only, unit_vectors, vectors_of


@pytest_asyncio.fixture
async def system() -> AsyncIterator[ScriptedSystem]:
    async with scripted_system(spaces=(SPACE_IMAGE, SPACE_TEXT, SPACE_PRODUCT)) as system:
        yield system


def upsert_request(
    product_id: str = "new",
    revision: int = 1,
    *,
    encode: bool = False,
    image: bytes = b"",
    title: str = "",
    description: str = "",
    **vectors: F32,
) -> UpsertRequest:
    """An UpsertRequest; `vectors` are by the name of the space (`image_`, since `image` is the photo)."""
    space_vectors = [
        SpaceVector(space=Space.Value(f"SPACE_{name.strip('_').upper()}"), vector=vector.tobytes())
        for name, vector in vectors.items()
    ]
    product = Product(id=product_id, title=title, description=description)
    return UpsertRequest(product=product, revision=revision, vectors=space_vectors, encode=encode, image=image)


def sent_vectors(system: ScriptedSystem) -> dict[Space.ValueType, F32]:
    """The vectors of the one upsert that the shards got."""
    (update,) = [update for shard in system.shards for update in shard.updates]
    return {each.space: unpack(each.vector, DIMS[each.space])[0] for each in update.upsert.vectors}


async def test_a_change_goes_to_the_one_shard_that_owns_the_product(system: ScriptedSystem) -> None:
    for product_id in ("a", "b", "c", "d"):
        assert (await system.catalog.Upsert(upsert_request(product_id, 7))).applied
        assert (await system.catalog.Remove(RemoveRequest(product_id=product_id, revision=8))).applied
    for ordinal, shard in enumerate(system.shards):
        changes = [(update.upsert.product.id or update.remove, update.revision) for update in shard.updates]
        owned = [product_id for product_id in "abcd" if shard_of(product_id, SHARDS) == ordinal]
        assert changes == [(product_id, revision) for product_id in owned for revision in (7, 8)]


async def test_vectors_in_the_request_are_scaled_to_unit_length_and_without_encode_no_other_is_made(
    system: ScriptedSystem,
) -> None:
    text = np.full(DIMS[SPACE_TEXT], 3, dtype=np.float32)
    response = await system.catalog.Upsert(upsert_request(title="p07", text=text))
    assert list(response.spaces) == [SPACE_TEXT]
    assert np.allclose(sent_vectors(system)[SPACE_TEXT], text / np.linalg.norm(text))
    assert not system.text_encoder.texts


async def test_with_encode_missing_vectors_are_made_of_title_and_photo(system: ScriptedSystem) -> None:
    response = await system.catalog.Upsert(upsert_request(encode=True, title="p07", image=a_photo(3)))
    assert list(response.spaces) == [SPACE_IMAGE, SPACE_TEXT, SPACE_PRODUCT]
    image, text = VECTORS["p03", SPACE_IMAGE], VECTORS["p07", SPACE_TEXT]
    vectors = sent_vectors(system)
    assert np.allclose(vectors[SPACE_IMAGE], image, atol=1e-6)
    assert np.allclose(vectors[SPACE_TEXT], text, atol=1e-6)
    assert np.allclose(vectors[SPACE_PRODUCT], fuse(image, text), atol=1e-5)


async def test_with_encode_the_product_vector_is_made_of_the_vectors_in_the_request(system: ScriptedSystem) -> None:
    image = VECTORS["p05", SPACE_IMAGE]
    response = await system.catalog.Upsert(
        upsert_request(encode=True, title="no words", image=a_photo(3), image_=image)
    )
    assert list(response.spaces) == [SPACE_IMAGE, SPACE_PRODUCT]  # A text without words has no vector.
    assert np.allclose(sent_vectors(system)[SPACE_PRODUCT], fuse(image, None), atol=1e-5)
    assert not system.model_server.photos


async def test_the_response_to_a_stale_change_says_that_it_was_not_applied(system: ScriptedSystem) -> None:
    for shard in system.shards:
        shard.outcome = UpdateResult.STALE
    assert not (await system.catalog.Upsert(upsert_request())).applied
    assert not (await system.catalog.Remove(RemoveRequest(product_id="new", revision=1))).applied


async def status_of(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code(), error.value.details() or ""


INVALID, FULL = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (upsert_request(""), (INVALID, "product.id: has 0 bytes, a product id has 1..256")),
        (upsert_request(revision=0), (INVALID, "revision: is 0; it must be above 0")),
        (
            upsert_request(text=np.ones(3, np.float32)),
            (INVALID, "vectors[0].vector: has 3 dimensions, the space has 8"),
        ),
        (upsert_request(text=np.zeros(8, np.float32)), (INVALID, "vectors[0].vector: is the zero vector")),
        (upsert_request(auto=np.ones(8, np.float32)), (INVALID, "vectors[0].space: name one of image, text, product")),
        (upsert_request(image=a_photo(1)), (INVALID, "image: is set without `encode`")),
        (upsert_request(image=b"x", encode=True), (INVALID, "image: ")),
        (
            upsert_request(encode=True),
            (INVALID, "encode: there is nothing to encode for any of the spaces image, text"),
        ),
        (upsert_request(encode=True, title="no words"), (INVALID, "encode: there is nothing to encode")),
        (
            upsert_request(title="a" * 65_537, encode=True),
            (INVALID, "product.title: has 65537 bytes, at most 65536 are allowed"),
        ),
        (upsert_request(description="é" * 32_769, encode=True), (INVALID, "product.description: has 65538 bytes")),
    ],
)
async def test_a_malformed_change_is_refused_with_its_field(
    system: ScriptedSystem, request_: UpsertRequest, expected: tuple[grpc.StatusCode, str]
) -> None:
    code, details = await status_of(system.catalog.Upsert(request_))
    assert code is expected[0]
    assert expected[1] in details
    assert not [update for shard in system.shards for update in shard.updates]


async def test_a_duplicate_or_unknown_space_is_refused(system: ScriptedSystem) -> None:
    vector = SpaceVector(space=SPACE_TEXT, vector=np.ones(8, "<f4").tobytes())
    twice = UpsertRequest(product=Product(id="a"), revision=1, vectors=[vector, vector])
    assert await status_of(system.catalog.Upsert(twice)) == (
        INVALID,
        "vectors[1].space: this space has a vector already",
    )
    vector.space = 9  # type: ignore[assignment]  # as a newer client may
    unknown = UpsertRequest(product=Product(id="a"), revision=1, vectors=[vector])
    assert await status_of(system.catalog.Upsert(unknown)) == (
        INVALID,
        "vectors[0].space: name one of image, text, product",
    )


async def test_a_shards_refusal_is_passed_on(system: ScriptedSystem) -> None:
    for shard in system.shards:
        shard.outcome, shard.refusal = UpdateResult.FULL, "4096 changes wait for a compaction; try again later"
    assert await status_of(system.catalog.Upsert(upsert_request())) == (FULL, system.shards[0].refusal)
    for shard in system.shards:
        shard.outcome, shard.refusal = UpdateResult.INVALID, "the price is not finite"
    assert await status_of(system.catalog.Upsert(upsert_request())) == (INVALID, "product: the price is not finite")


async def test_an_upsert_with_vectors_of_another_encoder_than_that_of_the_index_is_refused(
    system: ScriptedSystem,
) -> None:
    system.text_encoder.fingerprint = "newer"
    code, details = await status_of(system.catalog.Upsert(upsert_request(encode=True, title="p07")))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "newer" in details
    assert not [update for shard in system.shards for update in shard.updates]


async def test_a_title_cannot_be_encoded_where_the_index_has_only_the_image_space() -> None:
    async with scripted_system(spaces=(SPACE_IMAGE,)) as system:
        code, details = await status_of(system.catalog.Upsert(upsert_request(encode=True, title="p07")))
    assert (code, details) == (INVALID, "encode: there is nothing to encode for any of the spaces image")
    assert not [update for shard in system.shards for update in shard.updates]


@pytest_asyncio.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[str]:
    """The address of a gateway with real shards, which polls them only once a minute."""
    use_threads(1)
    build(tmp_path / "index", catalogue(40), {SPACE_TEXT: vectors_of(unit_vectors(40, 8))}, shards=SHARDS)
    slots, handlers, writers, lives = Slots(threads=1, max_waiting=64), [], [], []
    for number in range(SHARDS):
        shard = open_shard(tmp_path / "index", number)
        directory = tmp_path / "live" / str(number)
        lives.append(LiveShard(shard.base, shard.manifest, number, directory, LiveLimits(delta_rows=64, changes=1000)))
        served = serving_only(shard.with_live(lives[-1]))
        writers.append(Writer(served, max_waiting=64))
        handlers.append(IndexShard(slots, served, writers[-1]).handler())
    async with (
        serving(handlers[0]) as first,
        serving(handlers[1]) as second,
        running_gateway({"shards": (first, second), "refresh_s": 60.0}) as address,
    ):
        yield address
    for writer in writers:
        writer.close()
    for live in lives:
        live.close()
    slots.close()


async def test_after_a_change_the_gateway_does_not_answer_from_an_older_cache_entry(gateway: str) -> None:
    async with aio_channel(gateway) as channel:
        search, catalog = search_pb2_grpc.SimilarProductsStub(channel), catalog_pb2_grpc.CatalogStub(channel)
        vector = unit_vectors(1, 8, seed=5)[0]

        async def search_new_product() -> SearchResponse:
            example = Example(vector=vector.tobytes())
            return await search.Search(SearchRequest(examples=[example], space=SPACE_TEXT, limit=1))

        before, again = await search_new_product(), await search_new_product()
        assert (before.provenance.cached, again.provenance.cached) == (False, True)
        response = await catalog.Upsert(upsert_request("new", 1, title="new product", text=vector))
        assert (response.applied, list(response.spaces)) == (True, [SPACE_TEXT])
        after = await search_new_product()
        assert not after.provenance.cached
        assert [hit.product.title for hit in after.hits] == ["new product"]
        assert (await search_new_product()).provenance.cached
        assert (await catalog.Get(GetRequest(product_id="new"))).product.title == "new product"
        assert (await catalog.Count(CountRequest())).count == 41
        by_id = SearchRequest(examples=[Example(product_id="new")], space=SPACE_TEXT, limit=5)
        assert len((await search.Search(by_id)).hits) == 5
        assert not (await catalog.Upsert(upsert_request("new", 1, title="late"))).applied
        assert (await catalog.Remove(RemoveRequest(product_id="new", revision=2))).applied
        gone = await search_new_product()
        assert [hit.product.id for hit in gone.hits] == [hit.product.id for hit in before.hits]
        assert await status_of(catalog.Get(GetRequest(product_id="new"))) == (
            grpc.StatusCode.NOT_FOUND,
            "no product new",
        )
