"""Changes of the catalogue through a real gateway, with scripted shards and with real ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pyarrow as pa
import pytest
import pytest_asyncio
from google.protobuf.field_mask_pb2 import FieldMask
from prometheus_client import REGISTRY

from index.backends.faiss_support import use_threads
from index.building.build import build
from lookalike.changes import patch_change
from lookalike.channels import aio_channel
from lookalike.client import AsyncClient
from lookalike.runtime.partition import shard_of
from lookalike.v1 import catalog_pb2_grpc, search_pb2_grpc
from lookalike.v1.catalog_pb2 import (
    BatchWriteRequest,
    Change,
    ChangeResponse,
    CountRequest,
    GetRequest,
    PatchRequest,
    RemoveRequest,
    RemoveWhereRequest,
    UpsertRequest,
)
from lookalike.v1.index_pb2 import Patch, UpdateResult
from lookalike.v1.search_pb2 import Example, SearchRequest, SearchResponse
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, Filter, Product, Space, SpaceVector
from lookalike.vectors import F32, unpack
from tests.rpc.gateways import (
    DIMS,
    SHARDS,
    VECTORS,
    ScriptedSystem,
    a_photo,
    calls_in_flight,
    fuse,
    running_gateway,
    scripted_system,
)
from tests.rpc.live_shards import live_shards
from tests.rpc.model_servers import until
from tests.unit.index.samples import catalogue, unit_vectors, vectors_of


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
    product = Product(id=product_id, title=title, description=description, category="home")
    return UpsertRequest(
        product=product,
        revision=revision,
        vectors=space_vectors,
        encode=encode,
        image=image,
        allow_unfindable=not (encode or vectors),
    )


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


async def test_a_vector_that_states_another_encoder_than_that_of_the_index_is_refused(system: ScriptedSystem) -> None:
    request = upsert_request(text=np.ones(DIMS[SPACE_TEXT], np.float32))
    request.vectors[0].encoder = f"encoder-{SPACE_TEXT}"
    assert (await system.catalog.Upsert(request)).applied
    request.vectors[0].encoder = "encoder-of-yesterday"
    request.revision += 1
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await system.catalog.Upsert(request)
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "encoder-of-yesterday" in str(error.value.details())


async def test_with_encode_missing_vectors_are_made_of_title_and_photo(system: ScriptedSystem) -> None:
    response = await system.catalog.Upsert(upsert_request(encode=True, title="p07", image=a_photo(3)))
    assert list(response.spaces) == [SPACE_IMAGE, SPACE_TEXT, SPACE_PRODUCT]
    image, text = VECTORS["p03", SPACE_IMAGE], VECTORS["p07", SPACE_TEXT]
    vectors = sent_vectors(system)
    assert np.allclose(vectors[SPACE_IMAGE], image, atol=1e-6)
    assert np.allclose(vectors[SPACE_TEXT], text, atol=1e-6)
    assert np.allclose(vectors[SPACE_PRODUCT], fuse(image, text), atol=1e-5)


@pytest.mark.parametrize("title", ["👟✨", "zzzqqq", ""])
async def test_with_encode_the_description_stands_in_for_a_title_without_a_known_word(
    system: ScriptedSystem, title: str
) -> None:
    response = await system.catalog.Upsert(upsert_request(encode=True, title=title, description="p07"))
    assert SPACE_TEXT in response.spaces
    assert np.allclose(sent_vectors(system)[SPACE_TEXT], VECTORS["p07", SPACE_TEXT], atol=1e-6)


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
        (upsert_request(""), (INVALID, "product.id: the product has no id")),
        (
            upsert_request(revision=2**64 - 1),
            (INVALID, "revision: 18446744073709551615 is more than a day ahead of now"),
        ),
        (UpsertRequest(product=Product(id="a", category="b"), revision=1), (INVALID, "vectors: no vector is given")),
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
    twice = UpsertRequest(product=Product(id="a", category="home"), revision=1, vectors=[vector, vector])
    assert await status_of(system.catalog.Upsert(twice)) == (
        INVALID,
        "vectors[1].space: this space has a vector already",
    )
    vector.space = 9  # type: ignore[assignment]  # as a newer client may
    unknown = UpsertRequest(product=Product(id="a", category="home"), revision=1, vectors=[vector])
    assert await status_of(system.catalog.Upsert(unknown)) == (
        INVALID,
        "vectors[0].space: name one of image, text, product",
    )


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"category": "a//b"}, "category"),
        ({"category": ""}, "category"),
        ({"price": -1}, "price"),
        ({"price": float("nan")}, "price"),
        ({"currency": "yen"}, "currency"),
        ({"image": "/etc/passwd"}, "image"),
        ({"id": "a\nb"}, "id"),
        ({"id": "a\x00b"}, "id"),
        ({"id": " a"}, "id"),
        ({"shop": "s" * 257}, "shop"),
        ({"tags": [f"t{i}" for i in range(33)]}, "tags"),
        ({"created_at": -1}, "created_at"),
        ({"expires_at": 10**12}, "expires_at"),
    ],
)
async def test_the_rules_of_a_catalogue_hold_for_upserts_and_patches(
    system: ScriptedSystem, fields: dict[str, Any], field: str
) -> None:
    product = Product(**{"id": "a", "category": "home", **fields})
    upsert = system.catalog.Upsert(UpsertRequest(product=product, revision=1, allow_unfindable=True))
    code, details = await status_of(upsert)
    assert (code, details.partition(":")[0]) == (INVALID, f"product.{field}")
    if field != "id":
        patch = PatchRequest(product=product, revision=1, update_mask=FieldMask(paths=[field]))
        code, details = await status_of(system.catalog.Patch(patch))
        assert (code, details.partition(":")[0]) == (INVALID, f"product.{field}")
    assert not [update for shard in system.shards for update in shard.updates]


async def test_a_product_is_stored_in_its_normal_form_and_the_response_says_what_was_cut(
    system: ScriptedSystem,
) -> None:
    product = Product(id="a", category="/home/ lamps/", title="t" * 1200, tags=["b", " a"], price=0, revision=9)
    response = await system.catalog.Upsert(UpsertRequest(product=product, revision=1, allow_unfindable=True))
    assert list(response.notices) == ["title: cut from 1200 to 1000 characters"]
    (update,) = [update for shard in system.shards for update in shard.updates]
    stored = update.upsert.product
    assert (stored.category, stored.title, list(stored.tags)) == ("home/lamps", "t" * 1000, ["a", "b"])
    assert (stored.HasField("price"), stored.in_stock, stored.revision) == (True, True, 0)


async def test_a_patch_sends_its_fields_alone(system: ScriptedSystem) -> None:
    product = Product(id="a", price=99, category="not in the mask")
    request = PatchRequest(product=product, update_mask=FieldMask(paths=["price", "in_stock"]), revision=3)
    assert (await system.catalog.Patch(request)).applied
    (update,) = [update for shard in system.shards for update in shard.updates]
    assert update.patch == Patch(product=Product(id="a", price=99, in_stock=True), fields=["price", "in_stock"])


async def test_a_patch_with_the_vector_of_a_photo_has_the_product_vector_made_of_it_and_of_the_stored_text(
    system: ScriptedSystem,
) -> None:
    image = VECTORS["p05", SPACE_IMAGE]
    vectors = [SpaceVector(space=SPACE_IMAGE, vector=image.tobytes(), encoder=f"encoder-{SPACE_IMAGE}")]
    request = PatchRequest(product=Product(id="p01"), vectors=vectors, encode=True, revision=3)
    assert (await system.catalog.Patch(request)).applied
    (update,) = [update for shard in system.shards for update in shard.updates]
    sent = {each.space: unpack(each.vector, DIMS[each.space])[0] for each in update.patch.vectors}
    assert sorted(sent) == [SPACE_IMAGE, SPACE_PRODUCT]
    assert np.allclose(sent[SPACE_PRODUCT], fuse(image, VECTORS["p01", SPACE_TEXT]), atol=1e-5)
    assert not system.text_encoder.texts


@pytest.mark.parametrize(
    ("request_", "details"),
    [
        (PatchRequest(product=Product(id="p01"), revision=1), "update_mask: is empty"),
        (PatchRequest(product=Product(id="p01"), update_mask=FieldMask(paths=["id"]), revision=1), "update_mask: 'id'"),
        (PatchRequest(product=Product(id="p01"), revision=1, encode=True), "encode: there is nothing to encode"),
        (PatchRequest(product=Product(id="p01"), revision=1, image=b"x"), "image: is set without `encode`"),
    ],
)
async def test_a_patch_that_would_change_nothing_is_refused(
    system: ScriptedSystem, request_: PatchRequest, details: str
) -> None:
    code, text = await status_of(system.catalog.Patch(request_))
    assert (code, text[: len(details)]) == (INVALID, details)


async def test_a_batch_has_a_result_for_each_change_and_one_bad_change_fails_no_other(system: ScriptedSystem) -> None:
    changes = [
        Change(upsert=upsert_request("a", text=np.ones(8, np.float32))),
        Change(upsert=upsert_request("", text=np.ones(8, np.float32))),
        Change(remove=RemoveRequest(product_id="b", revision=1)),
        Change(),
        Change(upsert=upsert_request("c", encode=True, title="p07")),
    ]
    response = await system.catalog.BatchWrite(BatchWriteRequest(changes=changes))
    assert [each.WhichOneof("result") for each in response.results] == [
        "response", "error", "response", "error", "response"
    ]  # fmt: skip
    assert response.results[1].error.field == "product.id"
    assert response.results[3].error.field == "change"
    assert list(response.results[4].response.spaces) == [SPACE_TEXT, SPACE_PRODUCT]


async def test_a_batch_of_none_or_of_too_many_changes_is_refused(system: ScriptedSystem) -> None:
    for count in (0, 1001):
        changes = [Change(remove=RemoveRequest(product_id="a", revision=1))] * count
        code, details = await status_of(system.catalog.BatchWrite(BatchWriteRequest(changes=changes)))
        assert (code, details) == (INVALID, f"changes: has {count} changes, must have 1 to 1000")


async def test_a_stream_of_batches_is_answered_in_order(system: ScriptedSystem) -> None:
    names = [[f"p{batch}-{i}" for i in range(batch + 1)] for batch in range(6)]

    async def requests() -> AsyncIterator[BatchWriteRequest]:
        for batch in names:
            removals = [Change(remove=RemoveRequest(product_id=each, revision=len(batch))) for each in batch]
            yield BatchWriteRequest(changes=removals)

    responses = [[*response.results] async for response in system.catalog.Write(requests())]
    assert [[each.response.revision for each in results] for results in responses] == [
        [len(batch)] * len(batch) for batch in names
    ]


async def test_a_cancelled_stream_ends_though_batches_wait_behind_the_one_that_is_written() -> None:
    sent = 0

    async def requests() -> AsyncIterator[BatchWriteRequest]:
        nonlocal sent
        while sent < 99:
            sent += 1
            yield BatchWriteRequest(changes=[Change(remove=RemoveRequest(product_id="a", revision=1))])

    async with scripted_system(shard_timeout_s=3600) as system:
        for shard in system.shards:
            shard.hang = True
        call = system.catalog.Write(requests())
        reading = asyncio.create_task(call.read())
        await until(lambda: sent == 99 and calls_in_flight() == 1)
        reading.cancel()
        call.cancel()
        await until(lambda: not REGISTRY.get_sample_value("lookalike_search_streams"))


async def test_removing_where_a_filter_passes_needs_a_filter(system: ScriptedSystem) -> None:
    code, details = await status_of(system.catalog.RemoveWhere(RemoveWhereRequest(revision=1)))
    assert (code, details) == (INVALID, "filter: is empty: every product would be removed")


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
    assert code is INVALID
    assert details.startswith("encode: there is nothing to encode for any of the spaces image: no search would find")
    assert not [update for shard in system.shards for update in shard.updates]


@pytest_asyncio.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[str]:
    """The address of a gateway with real shards, which polls them only once a minute."""
    use_threads(1)
    build(tmp_path / "index", catalogue(40), {SPACE_TEXT: vectors_of(unit_vectors(40, 8))}, shards=SHARDS)
    async with gateway_of(tmp_path) as address:
        yield address


@asynccontextmanager
async def gateway_of(directory: Path) -> AsyncIterator[str]:
    """The address of a gateway of the shards of `directory`/index, with changes in `directory`/live."""
    async with (
        live_shards(directory) as shards,
        running_gateway({"shards": shards, "refresh_s": 60.0, "cache_staleness_s": 0.0}) as address,
    ):
        yield address


async def test_a_price_changes_and_the_vectors_stay(gateway: str) -> None:
    async with aio_channel(gateway) as channel:
        search, catalog = search_pb2_grpc.SimilarProductsStub(channel), catalog_pb2_grpc.CatalogStub(channel)
        vector = unit_vectors(1, 8, seed=5)[0]
        await catalog.Upsert(upsert_request("new", 1, title="new", description="long", text=vector))
        before = await catalog.Get(GetRequest(product_id="new", vectors=[SPACE_TEXT]))
        for revision, price in ((2, 99.0), (3, 98.0)):
            patch = PatchRequest(product=Product(id="new", price=price), update_mask=FieldMask(paths=["price"]))
            patch.revision = revision
            response = await catalog.Patch(patch)
            assert (response.applied, list(response.spaces), response.revision) == (True, [SPACE_TEXT], revision)
        after = await catalog.Get(GetRequest(product_id="new", vectors=[SPACE_TEXT]))
        assert (after.product.price, after.product.title, after.product.description) == (98, "new", "long")
        assert (after.product.revision, after.vectors) == (3, before.vectors)
        found = await search.Search(SearchRequest(examples=[Example(vector=vector.tobytes())], space=SPACE_TEXT))
        assert [hit.product.price for hit in found.hits][:1] == [98]
        stale = await catalog.Patch(patch)
        assert (stale.applied, stale.revision) == (False, 3)


async def test_a_patch_of_a_product_of_the_version_as_built_keeps_its_vectors(gateway: str) -> None:
    async with aio_channel(gateway) as channel:
        catalog = catalog_pb2_grpc.CatalogStub(channel)
        before = await catalog.Get(GetRequest(product_id="p3", vectors=[SPACE_TEXT]))
        mask = FieldMask(paths=["in_stock", "price"])
        response = await catalog.Patch(
            PatchRequest(product=Product(id="p3", in_stock=False), update_mask=mask, revision=9)
        )
        assert list(response.spaces) == [SPACE_TEXT]
        after = await catalog.Get(GetRequest(product_id="p3", vectors=[SPACE_TEXT]))
        assert (after.vectors, after.product.title) == (before.vectors, before.product.title)
        assert not after.product.in_stock
        assert not after.product.HasField("price")
        gone = PatchRequest(product=Product(id="nobody"), update_mask=mask, revision=9)
        assert await status_of(catalog.Patch(gone)) == (grpc.StatusCode.NOT_FOUND, "no product nobody")


async def test_an_upsert_keeps_the_vectors_that_it_does_not_give_only_if_told_so(gateway: str) -> None:
    async with aio_channel(gateway) as channel:
        catalog = catalog_pb2_grpc.CatalogStub(channel)
        before = await catalog.Get(GetRequest(product_id="p3", vectors=[SPACE_TEXT]))
        product = Product(id="p3", category="home", title="again")
        refused = await status_of(catalog.Upsert(UpsertRequest(product=product, revision=9)))
        assert refused[1].startswith("vectors: no vector is given")
        kept = await catalog.Upsert(UpsertRequest(product=product, revision=9, keep_vectors=True))
        assert list(kept.spaces) == [SPACE_TEXT]
        after = await catalog.Get(GetRequest(product_id="p3", vectors=[SPACE_TEXT]))
        assert (after.vectors, after.product.title) == (before.vectors, "again")
        product.id = "unknown"
        refused = await status_of(catalog.Upsert(UpsertRequest(product=product, revision=9, keep_vectors=True)))
        assert refused == (INVALID, "product: the product would have no vector: no search would find it")


async def test_a_batch_of_hundreds_is_applied_in_order_and_answered_for_each_change(gateway: str) -> None:
    """It is written in parts; of a product that several parts change, the last has its say."""
    count = 300
    async with AsyncClient(gateway) as client:
        changes = [patch_change("p1" if i % 3 else f"none {i}", revision=i + 1, price=float(i)) for i in range(count)]
        outcomes = [outcome async for _, outcome in client.write(changes, batch=count)]
        product = await client.get("p1")
    assert [isinstance(outcome, ChangeResponse) for outcome in outcomes] == [i % 3 > 0 for i in range(count)]
    assert [outcome.revision for outcome in outcomes if isinstance(outcome, ChangeResponse)] == [
        i + 1 for i in range(count) if i % 3
    ]
    assert (product.price, product.revision) == (count - 1, count)


async def test_products_that_pass_a_filter_are_counted_and_then_removed(gateway: str) -> None:
    async with aio_channel(gateway) as channel:
        catalog = catalog_pb2_grpc.CatalogStub(channel)
        filter = Filter(in_stock=False)
        count = (await catalog.Count(CountRequest(filter=filter))).count
        assert 0 < count < 40
        dry = await catalog.RemoveWhere(RemoveWhereRequest(filter=filter, dry_run=True))
        assert (dry.matched, dry.removed) == (count, 0)
        assert (await catalog.Count(CountRequest())).count == 40
        done = await catalog.RemoveWhere(RemoveWhereRequest(filter=filter, revision=5))
        assert (done.matched, done.removed) == (count, count)
        assert (await catalog.Count(CountRequest())).count == 40 - count


async def test_a_stored_revision_far_ahead_of_the_clock_does_not_win(tmp_path: Path) -> None:
    use_threads(1)
    table = catalogue(40).append_column("revision", pa.array([2**63] * 40, pa.uint64()))
    build(tmp_path / "index", table, {SPACE_TEXT: vectors_of(unit_vectors(40, 8))}, shards=SHARDS)
    async with gateway_of(tmp_path) as address, aio_channel(address) as channel:
        catalog = catalog_pb2_grpc.CatalogStub(channel)
        now_ms = int(datetime.now(UTC).timestamp() * 1000)
        patch = PatchRequest(product=Product(id="p3", price=5), update_mask=FieldMask(paths=["price"]), revision=now_ms)
        assert (await catalog.Patch(patch)).applied
        assert not (await catalog.Patch(patch)).applied
        assert (await catalog.Get(GetRequest(product_id="p3"))).product.revision == now_ms


async def test_without_stale_answers_an_upserted_product_is_in_the_next_answer_of_its_gateway(gateway: str) -> None:
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
