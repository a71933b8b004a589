"""The Python client of a gateway, blocking and asynchronous. The network, nothing else.

    with Client("127.0.0.1:50051") as client:
        answer = client.search(product_id="p-17", limit=5, max_price=5000, in_stock=True)
        for hit in answer.hits:
            print(f"{hit.score:.3f} {hit.product.title}")

What a call can raise is in `lookalike.errors`: InvalidRequest names the field, Overloaded says when to come back.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
import grpc.aio

from lookalike.channels import aio_channel, blocking_channel
from lookalike.requests import (
    ClassifyArguments,
    DuplicatesArguments,
    FilterArguments,
    SearchArguments,
    Vector,
    check_uint,
    classify_request,
    conditions,
    duplicates_request,
    example,
    remove_request,
    search_request,
    upsert_request,
)
from lookalike.status import to_error
from lookalike.v1.catalog_pb2 import ChangeResponse, CountRequest, ExistsRequest, GetRequest, ListRequest
from lookalike.v1.catalog_pb2_grpc import CatalogStub
from lookalike.v1.search_pb2 import ClassifyResponse, SearchResponse
from lookalike.v1.search_pb2_grpc import SimilarProductsStub
from lookalike.v1.types_pb2 import Product

__all__ = [
    "AsyncClient",
    "ClassifyArguments",
    "Client",
    "DuplicatesArguments",
    "FilterArguments",
    "SearchArguments",
    "conditions",
    "example",
]

Response = TypeVar("Response")


class Client:
    """A blocking client; threads may share one. Close it, or use it in `with`.

    timeout_s: what a call may take unless the call says otherwise; the gateway gives up on it then, too.
    """

    def __init__(self, address: str, *, timeout_s: float = 10.0) -> None:
        self._timeout_s = timeout_s
        self._channel = blocking_channel(address)
        self._similar = SimilarProductsStub(self._channel)
        self._catalog = CatalogStub(self._channel)

    def search(self, *, timeout_s: float | None = None, **arguments: Unpack[SearchArguments]) -> SearchResponse:
        """Products like the example(s), best first, and what the answer is (`provenance`).

            client.search(image=Path("shoe.jpg"), category_in=["fashion"])
            client.search(text="赤いスニーカー", space="text", limit=20)
            client.search(image=Path("shoe.jpg"), text="赤い", weights={"image": 0.7, "text": 0.3})
            client.search(product_id="p-17", any_of=[conditions(tags_any=["sale"]), conditions(max_price=1000)])
            client.search(examples=[example(product_id="p-17"), example(text="leather", weight=-0.5)], space="text")

        Raises InvalidRequest, NotFound, FailedPrecondition, Overloaded, DeadlineExceeded, Unavailable.
        """
        return self._call(self._similar.Search, search_request(**arguments), timeout_s)

    def find_duplicates(
        self, *, timeout_s: float | None = None, **arguments: Unpack[DuplicatesArguments]
    ) -> SearchResponse:
        """Products that are all but the same as one, the most similar first; `truncated` says that there are more.

            client.find_duplicates(product_id="p-17", exclude_same_shop=True)

        Raises as `search` does.
        """
        return self._call(self._similar.FindDuplicates, duplicates_request(**arguments), timeout_s)

    def classify(self, *, timeout_s: float | None = None, **arguments: Unpack[ClassifyArguments]) -> ClassifyResponse:
        """The category of a product, or of a photo, a text or both; or none, and why (`abstained`).

            client.classify(image=Path("shoe.jpg"), text="赤いスニーカー", precision=0.95)

        Raises as `search` does.
        """
        return self._call(self._similar.Classify, classify_request(**arguments), timeout_s)

    def get(self, product_id: str, *, timeout_s: float | None = None) -> Product:
        """The product with its description. Raises NotFound."""
        return self._call(self._catalog.Get, GetRequest(product_id=product_id), timeout_s)

    def exists(self, product_ids: Sequence[str], *, timeout_s: float | None = None) -> Sequence[bool]:
        """Whether there is a product of each id, in their order; at most 1,000."""
        return [*self._call(self._catalog.Exists, ExistsRequest(product_ids=product_ids), timeout_s).exists]

    def count(self, *, timeout_s: float | None = None, **filter_arguments: Unpack[FilterArguments]) -> int:
        """How many products there are, of those that pass the conditions."""
        return self._call(self._catalog.Count, CountRequest(filter=conditions(**filter_arguments)), timeout_s).count

    def list(
        self,
        *,
        after: str = "",
        limit: int | None = None,
        timeout_s: float | None = None,
        **filter_arguments: Unpack[FilterArguments],
    ) -> Generator[Product, None, None]:
        """Products by rising id, as they come; `timeout_s` (none unless given) is for all of them.

        After a break, go on with the last id seen as `after`.
        """
        call = self._catalog.List(_list_request(after, limit, filter_arguments), timeout=timeout_s)
        try:
            yield from call
        except grpc.RpcError as error:
            raise to_error(error) from error
        finally:
            call.cancel()  # A caller that stops early leaves nothing running.

    def upsert(
        self,
        product: Product,
        *,
        revision: int,
        vectors: Mapping[str, Vector] | None = None,
        encode: bool = False,
        image: bytes | Path | None = None,
        timeout_s: float | None = None,
    ) -> ChangeResponse:
        """Add the product, or replace it whole, unless this revision or a newer one is known. Durable when it returns.

            client.upsert(Product(id="p-17", title="red sneakers"), revision=1764066600000, vectors={"image": vector})
            client.upsert(product, revision=2, encode=True, image=Path("shoe.jpg"))

        encode: make the vectors that are not given of the title and of `image`. To try again after any failure is
        harmless. Raises as `search` does.
        """
        request = upsert_request(product, revision, vectors or {}, encode=encode, image=image)
        return self._call(self._catalog.Upsert, request, timeout_s)

    def remove(self, product_id: str, *, revision: int, timeout_s: float | None = None) -> ChangeResponse:
        """Remove the product, which need not exist, unless this revision or a newer one is known; as `upsert`."""
        return self._call(self._catalog.Remove, remove_request(product_id, revision), timeout_s)

    def _call(self, method: Callable[..., Response], request: Any, timeout_s: float | None) -> Response:
        try:
            return method(request, timeout=self._timeout_s if timeout_s is None else timeout_s)
        except grpc.RpcError as error:
            raise to_error(error) from error

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """The same on an event loop; use it on the loop it was made on.

    async with AsyncClient("127.0.0.1:50051") as client:
        answers = await asyncio.gather(*(client.search(product_id=one) for one in product_ids))
    """

    def __init__(self, address: str, *, timeout_s: float = 10.0) -> None:
        self._timeout_s = timeout_s
        self._channel = aio_channel(address)
        self._similar = SimilarProductsStub(self._channel)
        self._catalog = CatalogStub(self._channel)

    async def search(self, *, timeout_s: float | None = None, **arguments: Unpack[SearchArguments]) -> SearchResponse:
        """As `Client.search`."""
        return await self._call(self._similar.Search, search_request(**arguments), timeout_s)

    async def find_duplicates(
        self, *, timeout_s: float | None = None, **arguments: Unpack[DuplicatesArguments]
    ) -> SearchResponse:
        """As `Client.find_duplicates`."""
        return await self._call(self._similar.FindDuplicates, duplicates_request(**arguments), timeout_s)

    async def classify(
        self, *, timeout_s: float | None = None, **arguments: Unpack[ClassifyArguments]
    ) -> ClassifyResponse:
        """As `Client.classify`."""
        return await self._call(self._similar.Classify, classify_request(**arguments), timeout_s)

    async def get(self, product_id: str, *, timeout_s: float | None = None) -> Product:
        """As `Client.get`."""
        return await self._call(self._catalog.Get, GetRequest(product_id=product_id), timeout_s)

    async def exists(self, product_ids: Sequence[str], *, timeout_s: float | None = None) -> Sequence[bool]:
        """As `Client.exists`."""
        reply = await self._call(self._catalog.Exists, ExistsRequest(product_ids=product_ids), timeout_s)
        return [*reply.exists]

    async def count(self, *, timeout_s: float | None = None, **filter_arguments: Unpack[FilterArguments]) -> int:
        """As `Client.count`."""
        reply = await self._call(self._catalog.Count, CountRequest(filter=conditions(**filter_arguments)), timeout_s)
        return reply.count

    async def list(
        self,
        *,
        after: str = "",
        limit: int | None = None,
        timeout_s: float | None = None,
        **filter_arguments: Unpack[FilterArguments],
    ) -> AsyncGenerator[Product, None]:
        """As `Client.list`."""
        call = self._catalog.List(_list_request(after, limit, filter_arguments), timeout=timeout_s)
        try:
            async for product in call:
                yield product
        except grpc.RpcError as error:
            raise to_error(error) from error
        finally:
            call.cancel()

    async def upsert(
        self,
        product: Product,
        *,
        revision: int,
        vectors: Mapping[str, Vector] | None = None,
        encode: bool = False,
        image: bytes | Path | None = None,
        timeout_s: float | None = None,
    ) -> ChangeResponse:
        """As `Client.upsert`."""
        request = upsert_request(product, revision, vectors or {}, encode=encode, image=image)
        return await self._call(self._catalog.Upsert, request, timeout_s)

    async def remove(self, product_id: str, *, revision: int, timeout_s: float | None = None) -> ChangeResponse:
        """As `Client.remove`."""
        return await self._call(self._catalog.Remove, remove_request(product_id, revision), timeout_s)

    async def _call(
        self, method: Callable[..., Awaitable[Response]], request: Any, timeout_s: float | None
    ) -> Response:
        try:
            return await method(request, timeout=self._timeout_s if timeout_s is None else timeout_s)
        except grpc.RpcError as error:
            raise to_error(error) from error

    async def close(self) -> None:
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _list_request(after: str, limit: int | None, filter_arguments: FilterArguments) -> ListRequest:
    return ListRequest(filter=conditions(**filter_arguments), after=after, limit=check_uint("limit", limit, bits=64))
