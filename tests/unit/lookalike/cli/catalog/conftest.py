"""A small real gateway of the catalogue, and the commands run against it as a shell would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from google.protobuf.message import Message

from lookalike.__main__ import COMMANDS
from lookalike.cli.dispatch import run
from lookalike.errors import FailedPrecondition, InvalidRequest, LookalikeError, NotFound
from lookalike.runtime import edge
from lookalike.runtime.deadline import Deadline
from lookalike.status import to_request_error
from lookalike.v1 import catalog_pb2
from lookalike.v1.catalog_pb2 import (
    BatchWriteRequest,
    BatchWriteResponse,
    Change,
    ChangeResponse,
    ChangeResult,
    CountResponse,
    GetResponse,
    RemoveWhereResponse,
)
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT, Product, SpaceVector
from lookalike.vectors import pack

STORED_REVISION = 5  # Of every product: older changes are not applied.
PRODUCTS = [
    Product(
        id="p-1",
        title="靴",
        description="of leather",
        category="fashion/shoes",
        shop="kutsuya",
        price=0,
        currency="JPY",
        in_stock=False,
        image="images/1.jpg",
        tags=["a", "b"],
        created_at=1_764_062_700,
        expires_at=1_798_675_200,
        revision=1_764_066_600_000,
    ),
    Product(id="p-2", title="mug", category="home", in_stock=True),
]


@dataclass
class FakeCatalog:
    """A gateway that records what it is asked. It refuses a price below 0, and breaks at product `breaks_at`."""

    address: str = ""
    requests: list[Message] = field(default_factory=list)
    breaks_at: str = ""

    async def get(self, request: catalog_pb2.GetRequest, deadline: Deadline) -> GetResponse:
        self.requests.append(request)
        for product in PRODUCTS:
            if product.id == request.product_id:
                vector = pack(np.array([0.5, -0.5], np.float32))
                return GetResponse(product=product, vectors=[SpaceVector(space=SPACE_TEXT, vector=vector)])
        raise NotFound(f"no product {request.product_id}")

    async def exists(self, request: catalog_pb2.ExistsRequest, deadline: Deadline) -> Message:
        raise AssertionError(request)

    async def count(self, request: catalog_pb2.CountRequest, deadline: Deadline) -> CountResponse:
        return CountResponse(count=len(PRODUCTS))

    async def list(self, request: catalog_pb2.ListRequest, deadline: Deadline) -> AsyncIterator[Product]:
        self.requests.append(request)
        for product in PRODUCTS[: request.limit if request.HasField("limit") else None]:
            if product.id == self.breaks_at:
                raise FailedPrecondition("the stream broke")
            yield product

    async def upsert(self, request: catalog_pb2.UpsertRequest, deadline: Deadline) -> ChangeResponse:
        self.requests.append(request)
        return self._change(Change(upsert=request))

    async def patch(self, request: catalog_pb2.PatchRequest, deadline: Deadline) -> ChangeResponse:
        self.requests.append(request)
        return self._change(Change(patch=request))

    async def remove(self, request: catalog_pb2.RemoveRequest, deadline: Deadline) -> ChangeResponse:
        self.requests.append(request)
        return self._change(Change(remove=request))

    async def batch_write(self, request: BatchWriteRequest, deadline: Deadline) -> BatchWriteResponse:
        self.requests.append(request)
        return BatchWriteResponse(results=map(self._result, request.changes))

    async def write(
        self, requests: AsyncIterator[BatchWriteRequest], deadline: Deadline
    ) -> AsyncIterator[BatchWriteResponse]:
        async for request in requests:
            if any(change.remove.product_id == self.breaks_at for change in request.changes if self.breaks_at):
                raise FailedPrecondition("the stream broke")
            yield await self.batch_write(request, deadline)

    async def remove_where(self, request: catalog_pb2.RemoveWhereRequest, deadline: Deadline) -> RemoveWhereResponse:
        self.requests.append(request)
        matched = 0 if "nobody" in request.filter.shop_in else 1200
        return RemoveWhereResponse(matched=matched, removed=0 if request.dry_run else matched - 1)

    def _change(self, change: Change) -> ChangeResponse:
        kind = getattr(change, change.WhichOneof("change") or "")
        product = Product(id=kind.product_id) if change.HasField("remove") else kind.product
        if product.id == "none":
            raise FailedPrecondition("this shard takes no updates")
        if product.price < 0:
            raise InvalidRequest("product.price", "is below 0")
        if kind.revision <= STORED_REVISION:
            return ChangeResponse(applied=False, revision=STORED_REVISION)
        has_vectors = not change.HasField("remove") and kind.vectors
        return ChangeResponse(
            applied=True,
            spaces=[SPACE_IMAGE, SPACE_TEXT] if has_vectors else [],
            revision=kind.revision,
            notices=["title: cut from 1001 to 1000 characters"] if len(product.title) > 1000 else [],
        )

    def _result(self, change: Change) -> ChangeResult:
        try:
            return ChangeResult(response=self._change(change))
        except LookalikeError as error:
            return ChangeResult(error=to_request_error(error))

    async def shell(self, command: str, *arguments: str) -> int:
        """The exit status of a command, such as "patch", run against this gateway."""
        return await asyncio.to_thread(_status, command, [*arguments, "--address", self.address])


def _status(command: str, arguments: Sequence[str]) -> int:
    main: Callable[[], int | None] = lambda: COMMANDS[f"catalog {command}"].load()(arguments, {})  # noqa: E731  # typed
    try:
        return run(main)
    except SystemExit as error:
        return int(str(error.code))


async def no_stream(request: object, deadline: Deadline) -> ChangeResponse:
    raise FailedPrecondition("the gateway has no stream of product events")


@pytest.fixture
async def gateway() -> AsyncIterator[FakeCatalog]:
    fake = FakeCatalog()
    methods: edge.Methods = {
        "Get": fake.get,
        "Exists": fake.exists,
        "Count": fake.count,
        "List": fake.list,
        "Upsert": fake.upsert,
        "Patch": fake.patch,
        "Remove": fake.remove,
        "BatchWrite": fake.batch_write,
        "Write": fake.write,
        "RemoveWhere": fake.remove_where,
        "Enqueue": no_stream,
        "Wait": no_stream,
    }
    server = edge.server([edge.handler(catalog_pb2.DESCRIPTOR.services_by_name["Catalog"], methods)])
    fake.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield fake
    await server.stop(None)
