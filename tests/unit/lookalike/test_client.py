"""The Python client against a small real server that records its requests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from lookalike import limits
from lookalike.client import (
    AsyncClient,
    Client,
    conditions,
    example,
    patch_change,
    remove_change,
    upsert_change,
)
from lookalike.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    InvalidRequest,
    LookalikeError,
    NotFound,
    Overloaded,
    Unavailable,
)
from lookalike.runtime import edge
from lookalike.runtime.deadline import Deadline
from lookalike.status import to_error, to_request_error
from lookalike.v1 import catalog_pb2, search_pb2
from lookalike.v1.catalog_pb2 import (
    EVENT_STATE_DEAD,
    AcceptedChange,
    BatchWriteRequest,
    BatchWriteResponse,
    Change,
    ChangeResponse,
    ChangeResult,
    CountResponse,
    EnqueuedChange,
    EnqueueRequest,
    EnqueueResponse,
    EnqueueResult,
    ExistsResponse,
    GetResponse,
    RemoveWhereRequest,
    RemoveWhereResponse,
    WaitRequest,
    WaitResponse,
)
from lookalike.v1.search_pb2 import (
    ClassifyRequest,
    ClassifyResponse,
    Example,
    FindDuplicatesRequest,
    Hit,
    SearchRequest,
    SearchResponse,
)
from lookalike.v1.types_pb2 import (
    SPACE_IMAGE,
    SPACE_PRODUCT,
    SPACE_TEXT,
    Filter,
    Product,
    SpaceVector,
    SpaceWeight,
)
from lookalike.vectors import pack
from tests.rpc.gateways import no_stream

VECTOR = np.array([0.6, 0.8], np.float32)
PRODUCTS = [Product(id=f"p-{number}", title=f"shoe {number}") for number in range(5)]


@dataclass
class FakeGateway:
    """A gateway that gives every call the same response, or raises `error`; it records the requests."""

    requests: list[Message] = field(default_factory=list)
    error: Exception | None = None
    delay_s: float = 0
    list_ended: asyncio.Event = field(default_factory=asyncio.Event)
    write_ended: asyncio.Event = field(default_factory=asyncio.Event)
    remaining_s: float | None = 0.0  # Of the last RemoveWhere; None: it had no deadline.
    address: str = ""

    async def record(self, request: Message) -> None:
        self.requests.append(request)
        await asyncio.sleep(self.delay_s)
        if self.error is not None:
            raise self.error

    async def search(self, request: SearchRequest, deadline: Deadline) -> SearchResponse:
        await self.record(request)
        return SearchResponse(hits=[Hit(product=product, score=0.5) for product in PRODUCTS])

    async def classify(self, request: ClassifyRequest, deadline: Deadline) -> ClassifyResponse:
        await self.record(request)
        return ClassifyResponse(category="fashion/shoes")

    async def get(self, request: catalog_pb2.GetRequest, deadline: Deadline) -> GetResponse:
        await self.record(request)
        product = Product(id=request.product_id, revision=7)
        vectors = [SpaceVector(space=space, vector=pack(VECTOR)) for space in request.vectors if space != SPACE_TEXT]
        return GetResponse(product=product, vectors=vectors)

    async def exists(self, request: catalog_pb2.ExistsRequest, deadline: Deadline) -> ExistsResponse:
        await self.record(request)
        return ExistsResponse(exists=[product_id == "p-1" for product_id in request.product_ids])

    async def count(self, request: catalog_pb2.CountRequest, deadline: Deadline) -> CountResponse:
        await self.record(request)
        return CountResponse(count=5)

    async def list(self, request: catalog_pb2.ListRequest, deadline: Deadline) -> AsyncIterator[Product]:
        try:
            for product in PRODUCTS:
                yield product
            await self.record(request)
        finally:
            self.list_ended.set()

    async def upsert(self, request: catalog_pb2.UpsertRequest, deadline: Deadline) -> ChangeResponse:
        await self.record(request)
        return ChangeResponse(applied=True, spaces=[each.space for each in request.vectors])

    async def patch(self, request: catalog_pb2.PatchRequest, deadline: Deadline) -> ChangeResponse:
        await self.record(request)
        return ChangeResponse(applied=True)

    async def remove(self, request: catalog_pb2.RemoveRequest, deadline: Deadline) -> ChangeResponse:
        await self.record(request)
        return ChangeResponse(applied=request.revision > 5, revision=max(request.revision, 5))

    async def batch_write(self, request: BatchWriteRequest, deadline: Deadline) -> BatchWriteResponse:
        await self.record(request)
        return BatchWriteResponse(results=map(self.change, request.changes))

    async def write(
        self, requests: AsyncIterator[BatchWriteRequest], deadline: Deadline
    ) -> AsyncIterator[BatchWriteResponse]:
        try:
            async for request in requests:
                yield await self.batch_write(request, deadline)
        finally:
            self.write_ended.set()

    def change(self, change: Change) -> ChangeResult:
        """The result of a removal: an error for p-bad."""
        if change.remove.product_id == "p-bad":
            return ChangeResult(error=to_request_error(NotFound("no product p-bad")))
        return ChangeResult(response=ChangeResponse(applied=True, revision=change.remove.revision))

    async def remove_where(self, request: RemoveWhereRequest, deadline: Deadline) -> RemoveWhereResponse:
        await self.record(request)
        self.remaining_s = deadline.timeout_s()
        return RemoveWhereResponse(matched=5, removed=0 if request.dry_run else 4)

    async def enqueue(self, request: EnqueueRequest, deadline: Deadline) -> EnqueueResponse:
        await self.record(request)
        results = [
            EnqueueResult(error=self.change(change).error)
            if self.change(change).HasField("error")
            else EnqueueResult(accepted=AcceptedChange(handle=f"s.0.{i}-0", revision=1))
            for i, change in enumerate(request.changes)
        ]
        return EnqueueResponse(results=results)

    async def wait(self, request: WaitRequest, deadline: Deadline) -> WaitResponse:
        await self.record(request)
        self.remaining_s = deadline.timeout_s()
        return WaitResponse(changes=[EnqueuedChange(state=EVENT_STATE_DEAD, reason="404")] * len(request.handles))

    @property
    def request(self) -> SearchRequest:
        (request,) = self.requests
        assert isinstance(request, SearchRequest)
        return request


@pytest.fixture
async def gateway() -> AsyncIterator[FakeGateway]:
    fake = FakeGateway()
    methods: edge.Methods = {
        "Search": fake.search,
        "BatchSearch": fake.search,
        "SearchStream": no_stream,
        "FindDuplicates": fake.search,
        "Classify": fake.classify,
    }
    search = edge.handler(search_pb2.DESCRIPTOR.services_by_name["SimilarProducts"], methods)
    catalog = edge.handler(
        catalog_pb2.DESCRIPTOR.services_by_name["Catalog"],
        {
            "Get": fake.get,
            "Exists": fake.exists,
            "Count": fake.count,
            "List": fake.list,
            "Upsert": fake.upsert,
            "Patch": fake.patch,
            "Remove": fake.remove,
            "BatchWrite": fake.batch_write,
            "Write": fake.write,
            "Enqueue": fake.enqueue,
            "Wait": fake.wait,
            "RemoveWhere": fake.remove_where,
        },
    )
    server = edge.server([search, catalog])
    fake.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield fake
    await server.stop(None)


@pytest.fixture
async def client(gateway: FakeGateway) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(gateway.address) as client:
        yield client


async def test_find_duplicates_sends_one_example(gateway: FakeGateway, client: AsyncClient) -> None:
    response = await client.find_duplicates(product_id="p-9", min_score=0.5, limit=7, shop_not_in=["a"])
    assert len(response.hits) == 5
    assert gateway.requests == [
        FindDuplicatesRequest(
            example=Example(product_id="p-9"), min_score=0.5, limit=7, filter=Filter(shop_not_in=["a"])
        )
    ]
    with Client(gateway.address) as blocking:
        again = await asyncio.to_thread(
            blocking.find_duplicates, product_id="p-9", min_score=0.5, limit=7, shop_not_in=["a"]
        )
    assert again == response
    assert gateway.requests[1] == gateway.requests[0]


async def test_conditions_can_be_nested(gateway: FakeGateway, client: AsyncClient) -> None:
    await client.search(
        product_id="p-9",
        tags_all=["red"],
        tags_none=["sale"],
        created_after=datetime(2025, 11, 25, 9, 25, tzinfo=UTC),
        any_of=[conditions(tags_any=["a", "b"]), conditions(none_of=[conditions(max_price=10)])],
    )
    assert gateway.request.filter == Filter(
        tags_all=["red"],
        tags_none=["sale"],
        created_after=1_764_062_700,
        any_of=[Filter(tags_any=["a", "b"]), Filter(none_of=[Filter(max_price=10)])],
    )


@pytest.mark.parametrize(
    ("filters", "field"),
    [
        ({"colour": ["red"]}, "filter.colour"),
        ({"tags_any": "red"}, "filter.tags_any"),
        ({"created_after": -1}, "filter.created_after"),
        ({"created_after": datetime(1969, 1, 1)}, "filter.created_after"),
        *[({name: []}, f"filter.{name}") for name in ("category_in", "category_not_in", "shop_in", "shop_not_in")],
        *[({name: []}, f"filter.{name}") for name in ("currency_in", "tags_any", "tags_all", "tags_none")],
        *[({name: []}, f"filter.{name}") for name in ("any_of", "all_of", "none_of")],
    ],
)
async def test_an_invalid_condition_is_refused_by_its_name(
    gateway: FakeGateway, client: AsyncClient, filters: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as error_info:
        await client.search(product_id="p-9", **filters)
    assert error_info.value.field == field
    assert not gateway.requests


async def test_an_empty_list_says_to_leave_the_condition_out_and_none_is_no_condition(
    gateway: FakeGateway, client: AsyncClient
) -> None:
    with pytest.raises(InvalidRequest, match=r"filter\.shop_in: is an empty list; leave the condition out"):
        await client.count(shop_in=[])
    await client.count(shop_in=None, any_of=None, currency_in=["JPY"], has_price=True)
    assert gateway.requests == [catalog_pb2.CountRequest(filter=Filter(currency_in=["JPY"], has_price=True))]


async def test_a_search_sends_its_arguments_and_returns_the_hits(gateway: FakeGateway, client: AsyncClient) -> None:
    response = await client.search(
        product_id="p-9",
        space="image",
        limit=3,
        category_in=["fashion"],
        category_not_in=["fashion/hats"],
        shop_in=["a", "b"],
        shop_not_in=["c"],
        min_price=10,
        max_price=99.5,
        in_stock=False,
        exclude_same_shop=True,
        max_per_shop=2,
        min_score=0.5,
        diversity=0.25,
        exact=True,
        min_coverage=1,
    )
    assert [hit.product.id for hit in response.hits] == ["p-0", "p-1", "p-2", "p-3", "p-4"]
    assert gateway.request == SearchRequest(
        examples=[Example(product_id="p-9")],
        space=SPACE_IMAGE,
        limit=3,
        filter=Filter(
            category_in=["fashion"],
            category_not_in=["fashion/hats"],
            shop_in=["a", "b"],
            shop_not_in=["c"],
            min_price=10,
            max_price=99.5,
            in_stock=False,
        ),
        exclude_same_shop=True,
        max_per_shop=2,
        min_score=0.5,
        diversity=0.25,
        exact=True,
        min_coverage=1,
    )


async def test_arguments_that_are_left_out_are_not_sent(gateway: FakeGateway, client: AsyncClient) -> None:
    await client.search(text="靴")
    assert gateway.request == SearchRequest(examples=[Example(text="靴")], filter=Filter())
    assert not gateway.request.HasField("limit")


async def test_a_photo_may_be_bytes_or_a_path(gateway: FakeGateway, client: AsyncClient, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"from a file")
    await client.search(examples=[example(image=b"as it is"), example(image=tmp_path / "a.jpg", weight=-2)])
    assert list(gateway.request.examples) == [Example(image=b"as it is"), Example(image=b"from a file", weight=-2)]


async def test_a_vector_of_any_dtype_is_sent_as_little_endian_float32(
    gateway: FakeGateway, client: AsyncClient
) -> None:
    await client.search(vector=np.array([1, 2], dtype=">f8"), space="text")
    assert gateway.request.examples[0].vector == np.array([1, 2], dtype="<f4").tobytes()
    assert gateway.request.space == SPACE_TEXT


async def test_values_that_cannot_be_sent_are_refused_by_field(tmp_path: Path, client: AsyncClient) -> None:
    big = tmp_path / "big.jpg"
    with big.open("wb") as file:
        file.truncate((8 << 20) + 1)
    many = [example(image=b"\0" * (8 << 20))] * 4
    for field_at_fault, search in {
        "space": client.search(product_id="a", space="smell"),
        "weights": client.search(product_id="a", weights={"smell": 1}),
        "examples": client.search(product_id="a", examples=[example(text="b")]),
        "image": client.search(image=tmp_path / "none.jpg"),
        "vector": client.search(vector=np.zeros((2, 3), np.float32), space="image"),
        "limit": client.search(product_id="a", limit=-1),
        "filter.category_in": client.search(product_id="a", category_in="fashion"),
    }.items():
        with pytest.raises(InvalidRequest) as error_info:
            await search
        assert error_info.value.field == field_at_fault
    with pytest.raises(InvalidRequest, match="larger than 8388608 bytes"):
        await client.search(image=big)
    with pytest.raises(InvalidRequest, match="the request has"):
        await client.search(examples=many)


async def test_a_late_fusion_sends_its_spaces_and_their_weights(gateway: FakeGateway, client: AsyncClient) -> None:
    await client.search(product_id="a", weights={"image": 0.75, "product": 2}, explain=True)
    weights = [SpaceWeight(space=SPACE_IMAGE, weight=0.75), SpaceWeight(space=SPACE_PRODUCT, weight=2)]
    examples = [Example(product_id="a")]
    assert gateway.request == SearchRequest(examples=examples, weights=weights, explain=True, filter=Filter())


async def test_a_photo_with_a_text_is_sent_as_two_examples(gateway: FakeGateway, client: AsyncClient) -> None:
    await client.search(image=b"a photo", text="靴", space="product")
    assert list(gateway.request.examples) == [Example(image=b"a photo"), Example(text="靴")]
    assert gateway.request.space == SPACE_PRODUCT


async def test_a_classification_sends_its_arguments(gateway: FakeGateway, client: AsyncClient, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"from a file")
    response = await client.classify(image=tmp_path / "a.jpg", text="靴", limit=3, precision=0.95)
    await client.classify(product_id="p-9")
    assert response.category == "fashion/shoes"
    assert gateway.requests == [
        ClassifyRequest(image=b"from a file", text="靴", limit=3, precision=0.95),
        ClassifyRequest(product_id="p-9"),
    ]
    with pytest.raises(InvalidRequest, match="limit"):
        await client.classify(product_id="p-9", limit=-1)


async def test_catalogue_calls_send_their_arguments_and_return_the_results(
    gateway: FakeGateway, client: AsyncClient
) -> None:
    assert (await client.get("p-1")).id == "p-1"
    assert await client.exists(["p-0", "p-1"]) == [False, True]
    assert await client.count(shop_in=["a"]) == 5
    listed = client.list(after="o", limit=7, descriptions=True, in_stock=True)
    assert [product.id async for product in listed] == [p.id for p in PRODUCTS]
    assert gateway.requests == [
        catalog_pb2.GetRequest(product_id="p-1"),
        catalog_pb2.ExistsRequest(product_ids=["p-0", "p-1"]),
        catalog_pb2.CountRequest(filter=Filter(shop_in=["a"])),
        catalog_pb2.ListRequest(filter=Filter(in_stock=True), after="o", limit=7, descriptions=True),
    ]


async def test_a_change_sends_the_product_its_revision_and_its_vectors_by_space(
    gateway: FakeGateway, client: AsyncClient, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"photo")
    response = await client.upsert(
        PRODUCTS[1], revision=7, vectors={"text": [1, 0.5]}, encode=True, image=photo, keep_vectors=True
    )
    assert list(response.spaces) == [SPACE_TEXT]
    assert not (await client.remove("p-1", revision=3)).applied
    blocking = Client(gateway.address)
    assert (await asyncio.to_thread(blocking.remove, "p-1", revision=8)).applied
    assert (await asyncio.to_thread(blocking.upsert, PRODUCTS[1], revision=9, allow_unfindable=True)).applied
    blocking.close()
    upserted, *_, last = gateway.requests
    assert upserted == catalog_pb2.UpsertRequest(
        product=PRODUCTS[1],
        revision=7,
        vectors=[SpaceVector(space=SPACE_TEXT, vector=np.array([1, 0.5], "<f4").tobytes())],
        encode=True,
        image=b"photo",
        keep_vectors=True,
    )
    assert last == catalog_pb2.UpsertRequest(product=PRODUCTS[1], revision=9, allow_unfindable=True)
    with pytest.raises(InvalidRequest, match="revision: -1 is not in"):
        await client.remove("p-1", revision=-1)
    with pytest.raises(InvalidRequest, match="vectors: 'smell' is not one of"):
        await client.upsert(PRODUCTS[1], revision=1, vectors={"smell": [1]})


async def test_vectors_are_returned_by_space_of_all_or_of_some(gateway: FakeGateway, client: AsyncClient) -> None:
    vectors = await client.vectors("p-1")
    assert {space: vector.tolist() for space, vector in vectors.items()} == {
        "image": VECTOR.tolist(),
        "product": VECTOR.tolist(),
    }
    with Client(gateway.address) as blocking:
        assert [*await asyncio.to_thread(blocking.vectors, "p-1", ["image", "text"])] == ["image"]
        assert (await asyncio.to_thread(blocking.get, "p-1")).revision == 7
    assert gateway.requests == [
        catalog_pb2.GetRequest(product_id="p-1", vectors=[SPACE_IMAGE, SPACE_TEXT, SPACE_PRODUCT]),
        catalog_pb2.GetRequest(product_id="p-1", vectors=[SPACE_IMAGE, SPACE_TEXT]),
        catalog_pb2.GetRequest(product_id="p-1"),
    ]
    with pytest.raises(InvalidRequest, match="spaces: 'auto' is not one of"):
        await client.vectors("p-1", ["auto"])


async def test_a_patch_sends_only_the_fields_that_change_and_none_clears_one(
    gateway: FakeGateway, client: AsyncClient
) -> None:
    await client.patch("p-1", revision=7, price=99, in_stock=False, tags=["a", "b"], title=None, image_path="1.jpg")
    await client.patch("p-1", revision=8, price=None, expires_at=date(2026, 12, 31), vectors={"image": VECTOR})
    with Client(gateway.address) as blocking:
        await asyncio.to_thread(blocking.patch, "p-1", revision=9, title="boots", encode=True, image=b"photo")
    paths = ["price", "in_stock", "tags", "title", "image"]
    assert gateway.requests == [
        catalog_pb2.PatchRequest(
            product=Product(id="p-1", price=99, in_stock=False, tags=["a", "b"], image="1.jpg"),
            update_mask=FieldMask(paths=paths),
            revision=7,
        ),
        catalog_pb2.PatchRequest(
            product=Product(id="p-1", expires_at=1_798_675_200),
            update_mask=FieldMask(paths=["price", "expires_at"]),
            revision=8,
            vectors=[SpaceVector(space=SPACE_IMAGE, vector=pack(VECTOR))],
        ),
        catalog_pb2.PatchRequest(
            product=Product(id="p-1", title="boots"),
            update_mask=FieldMask(paths=["title"]),
            revision=9,
            encode=True,
            image=b"photo",
        ),
    ]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"colour": "red"}, "product.colour: no such field; the fields are category, title, description, shop, price"),
        ({"id": "p-2"}, "product.id: no such field"),
        ({"tags": "red"}, r"product.tags: expected a list of strings: \['red'\]"),
        ({"price": "cheap"}, "product.price: "),
        ({"expires_at": "soon"}, "product.expires_at: expected seconds since 1970"),
    ],
)
async def test_a_patch_of_a_field_that_no_product_has_is_refused_by_name(
    gateway: FakeGateway, client: AsyncClient, fields: dict[str, Any], error: str
) -> None:
    with pytest.raises(InvalidRequest, match=error):
        await client.patch("p-1", revision=7, **fields)
    assert not gateway.requests


async def test_a_batch_gives_each_change_its_response_or_error(gateway: FakeGateway, client: AsyncClient) -> None:
    changes = [
        upsert_change(PRODUCTS[1], revision=1, vectors={"image": VECTOR}),
        patch_change("p-2", revision=2, price=5),
        remove_change("p-bad", revision=3),
    ]
    results = await client.batch_write(changes)
    assert gateway.requests == [BatchWriteRequest(changes=changes)]
    with Client(gateway.address) as blocking:
        again = await asyncio.to_thread(blocking.batch_write, changes)
    for upserted, patched, removed in (results, again):
        assert isinstance(upserted, ChangeResponse)
        assert isinstance(patched, ChangeResponse)
        assert isinstance(removed, NotFound)
    with pytest.raises(InvalidRequest, match="1001 changes, at most 1000"):
        await client.batch_write([changes[2]] * 1001)
    photo = upsert_change(PRODUCTS[1], revision=1, encode=True, image=b"\0" * limits.MAX_IMAGE_BYTES)
    with pytest.raises(InvalidRequest, match="bytes together"):
        await client.batch_write([photo] * 4)


async def test_enqueued_changes_have_their_handles_or_errors_and_are_waited_for(
    gateway: FakeGateway, client: AsyncClient
) -> None:
    changes = [patch_change("p-1", revision=0, price=5), remove_change("p-bad", revision=3)]
    accepted, refused = await client.enqueue(changes)
    assert gateway.requests == [EnqueueRequest(changes=changes)]
    assert isinstance(accepted, AcceptedChange)
    assert isinstance(refused, NotFound)
    (found,) = await client.wait([accepted.handle], wait_s=30)
    assert gateway.requests[1:] == [WaitRequest(handles=["s.0.0-0"], timeout_s=30)]
    assert gateway.remaining_s is not None
    assert gateway.remaining_s > 30  # A call that waits has time beside it.
    assert (found.state, found.reason) == (EVENT_STATE_DEAD, "404")
    with Client(gateway.address) as blocking:
        again = await asyncio.to_thread(blocking.enqueue, changes)
        assert [type(each) for each in again] == [AcceptedChange, NotFound]
        assert await asyncio.to_thread(blocking.wait, ["s.0.0-0"], wait_s=0) == [found]
    with pytest.raises(InvalidRequest, match="1001 changes, at most 1000"):
        await client.enqueue([changes[1]] * 1001)


def removals(count: int) -> Iterator[Change]:
    return (remove_change(f"p-{number}" if number != 3 else "p-bad", revision=number + 1) for number in range(count))


async def written(client: AsyncClient | Client, changes: Iterator[Change], **options: Any) -> list[tuple[int, Any]]:
    if isinstance(client, Client):
        return await asyncio.to_thread(lambda: [*client.write(changes, **options)])
    return [outcome async for outcome in client.write(changes, **options)]


@pytest.fixture(params=["asynchronous", "blocking"])
async def either(request: pytest.FixtureRequest, gateway: FakeGateway) -> AsyncIterator[AsyncClient | Client]:
    if request.param == "blocking":
        with Client(gateway.address) as blocking:
            yield blocking
    else:
        async with AsyncClient(gateway.address) as client:
            yield client


async def test_a_stream_of_changes_yields_each_position_with_its_outcome_in_order(
    gateway: FakeGateway, either: AsyncClient | Client
) -> None:
    outcomes = await written(either, removals(8), batch=3)
    assert [position for position, _ in outcomes] == [*range(8)]
    assert isinstance(outcomes[3][1], NotFound)
    assert [outcome.revision for position, outcome in outcomes if position != 3] == [1, 2, 3, 5, 6, 7, 8]
    sizes = [len(request.changes) for request in gateway.requests if isinstance(request, BatchWriteRequest)]
    assert sizes == [3, 3, 2]


async def test_no_message_of_a_stream_is_larger_than_four_mebibytes_but_for_one_change(
    gateway: FakeGateway, client: AsyncClient
) -> None:
    photos = [1, 2 << 20, 2 << 20, 5 << 20, 1]
    changes = (upsert_change(PRODUCTS[1], revision=1, encode=True, image=b"\0" * size) for size in photos)
    assert len(await written(client, changes)) == 5
    sizes = [len(request.changes) for request in gateway.requests if isinstance(request, BatchWriteRequest)]
    assert sizes == [2, 1, 1, 1]


async def test_what_the_changes_raise_is_raised_after_the_outcomes_before_it(
    gateway: FakeGateway, either: AsyncClient | Client
) -> None:
    def broken() -> Iterator[Change]:
        yield from removals(3)
        raise ZeroDivisionError("my own")

    taken: list[int] = []

    def take_all(client: Client) -> None:
        taken.extend(position for position, _ in client.write(broken(), batch=2))

    async def take() -> None:
        if isinstance(either, Client):
            await asyncio.to_thread(take_all, either)
            return
        async for position, _ in either.write(broken(), batch=2):
            taken.append(position)

    with pytest.raises(ZeroDivisionError, match="my own"):
        await take()
    assert taken == [0, 1, 2]


async def test_a_stream_that_fails_raises_its_error_and_a_bad_batch_size_is_refused(
    gateway: FakeGateway, either: AsyncClient | Client
) -> None:
    with pytest.raises(InvalidRequest, match=r"batch: 1001 is not in 1\.\.1000"):
        await written(either, removals(1), batch=1001)
    gateway.error = Unavailable("shard 0 is unreachable")
    with pytest.raises(Unavailable, match="shard 0"):
        await written(either, removals(1))


async def test_a_change_is_sent_as_soon_as_its_batch_is_full(gateway: FakeGateway) -> None:
    """Not only when the next one comes, which may be an hour later."""
    acknowledged = threading.Event()

    def changes() -> Iterator[Change]:
        yield remove_change("p-1", revision=1)
        assert acknowledged.wait(10)

    def take_all() -> None:
        with Client(gateway.address) as blocking:
            for _ in blocking.write(changes(), batch=1):
                acknowledged.set()

    await asyncio.to_thread(take_all)


async def test_a_stream_of_changes_that_the_caller_leaves_ends_on_the_server(
    gateway: FakeGateway, client: AsyncClient
) -> None:
    stream = client.write(removals(10_000), batch=1)
    assert (await anext(stream))[0] == 0
    await stream.aclose()
    async with asyncio.timeout(5):
        await gateway.write_ended.wait()


async def test_products_that_pass_conditions_are_counted_or_removed_without_a_deadline(
    gateway: FakeGateway, client: AsyncClient
) -> None:
    assert (await client.remove_where(dry_run=True, shop_in=["a"])).matched == 5
    assert gateway.remaining_s is None
    with Client(gateway.address) as blocking:
        response = await asyncio.to_thread(blocking.remove_where, revision=7, timeout_s=60, shop_in=["a"])
    assert (response.removed, gateway.remaining_s is not None) == (4, True)
    assert gateway.requests == [
        RemoveWhereRequest(filter=Filter(shop_in=["a"]), dry_run=True),
        RemoveWhereRequest(filter=Filter(shop_in=["a"]), revision=7),
    ]


async def test_the_blocking_client_behaves_like_the_asynchronous_one(gateway: FakeGateway) -> None:
    def blocking() -> None:
        with Client(gateway.address) as client:
            assert len(client.search(product_id="a", limit=2).hits) == 5
            assert client.classify(text="a").category == "fashion/shoes"
            assert client.get("p-1").id == "p-1"
            assert client.exists(["p-0", "p-1"]) == [False, True]
            assert client.count(shop_in=["a"]) == 5
            assert [product.id for product in client.list(limit=5)] == [p.id for p in PRODUCTS]
            gateway.error = InvalidRequest("limit", "too many")
            with pytest.raises(InvalidRequest):
                client.search(product_id="a")
            with pytest.raises(InvalidRequest):
                list(client.list())

    await asyncio.to_thread(blocking)
    assert gateway.requests[:1] == [SearchRequest(examples=[Example(product_id="a")], limit=2, filter=Filter())]


@pytest.mark.parametrize(
    "raised",
    [
        InvalidRequest("filter.min_price", "not a number"),
        NotFound("no product a"),
        FailedPrecondition("no such space"),
        Overloaded("512 calls are in flight", retry_after_s=2.5),
        DeadlineExceeded("too late"),
        Unavailable("shard 1 is unreachable"),
        Unavailable("shard 1 is between two versions", retry_after_s=1.0),
        InternalError("shard 1: INTERNAL: see its log"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_of_the_gateway_reaches_the_caller_with_all_its_details(
    gateway: FakeGateway, client: AsyncClient, raised: LookalikeError
) -> None:
    gateway.error = raised
    with pytest.raises(type(raised)) as error_info:
        await client.search(product_id="a")
    told = vars(error_info.value)
    assert told.pop("request_id")  # By which the gateway's log names the call.
    assert (str(error_info.value), told) == (str(raised), vars(raised))
    with pytest.raises(type(raised)):
        _ = [product async for product in client.list()]


async def test_a_bug_in_the_gateway_is_a_service_error_without_its_details(
    gateway: FakeGateway, client: AsyncClient
) -> None:
    gateway.error = ZeroDivisionError("secret")
    with pytest.raises(InternalError, match="internal error") as error_info:
        await client.search(product_id="a")
    assert "secret" not in str(error_info.value)


async def test_the_timeout_of_a_call_wins_over_the_default(gateway: FakeGateway) -> None:
    gateway.delay_s = 5
    async with AsyncClient(gateway.address, timeout_s=0.05) as hasty:
        with pytest.raises(DeadlineExceeded):
            await hasty.search(product_id="a")
        gateway.delay_s = 0.1
        assert await hasty.search(product_id="a", timeout_s=5)


async def test_an_address_without_a_server_is_unavailable() -> None:
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(Unavailable, match="Connection refused"):
            await client.search(product_id="a")


async def test_with_damaged_error_details_the_code_and_the_message_remain() -> None:
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(("grpc-status-details-bin", b"\xff\xff")),
        details="no such field",
    )
    result = to_error(error)
    assert isinstance(result, InvalidRequest)
    assert (result.field, result.reason) == ("", "no such field")


async def test_a_listing_that_the_caller_stops_early_is_cancelled_on_the_server(
    gateway: FakeGateway, client: AsyncClient
) -> None:
    gateway.delay_s = 60
    listing = client.list()
    assert (await anext(listing)).id == "p-0"
    await listing.aclose()
    async with asyncio.timeout(5):
        await gateway.list_ended.wait()
