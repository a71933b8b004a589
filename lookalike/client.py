"""The Python client of a gateway, blocking and asynchronous. Does network I/O.

    with Client("127.0.0.1:50051") as client:
        response = client.search(product_id="p-17", limit=5, max_price=5000, in_stock=True)
        for hit in response.hits:
            print(f"{hit.score:.3f} {hit.product.title}")

A call raises an error of `lookalike.errors`: InvalidRequest names the field, Overloaded says when to retry.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
import grpc.aio

from lookalike.channels import aio_channel, blocking_channel
from lookalike.errors import LookalikeError
from lookalike.requests import (
    ClassifyArguments,
    DuplicatesArguments,
    FilterArguments,
    SearchArguments,
    Vector,
    batch_request,
    check_uint,
    classify_request,
    conditions,
    duplicates_request,
    example,
    remove_request,
    search_request,
    stream_requests,
    upsert_request,
)
from lookalike.status import from_request_error, to_error
from lookalike.v1.catalog_pb2 import ChangeResponse, CountRequest, ExistsRequest, GetRequest, ListRequest
from lookalike.v1.catalog_pb2_grpc import CatalogStub
from lookalike.v1.search_pb2 import (
    BatchSearchResponse,
    ClassifyResponse,
    SearchRequest,
    SearchResponse,
    SearchStreamRequest,
    SearchStreamResponse,
)
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
    """A blocking client, safe to share between threads. Close it, or use it in `with`.

    timeout_s: the default timeout of a call. It is sent as the gRPC deadline: the gateway stops working on it then.
    """

    def __init__(self, address: str, *, timeout_s: float = 10.0) -> None:
        self._timeout_s = timeout_s
        self._channel = blocking_channel(address)
        self._similar = SimilarProductsStub(self._channel)
        self._catalog = CatalogStub(self._channel)

    def search(self, *, timeout_s: float | None = None, **arguments: Unpack[SearchArguments]) -> SearchResponse:
        """Search products similar to one or several examples: hits, best first, and how they were found (`provenance`).

            client.search(image=Path("shoe.jpg"), category_in=["fashion"])
            client.search(text="赤いスニーカー", space="text", limit=20)
            client.search(image=Path("shoe.jpg"), text="赤い", weights={"image": 0.7, "text": 0.3})
            client.search(product_id="p-17", any_of=[conditions(tags_any=["sale"]), conditions(max_price=1000)])
            client.search(examples=[example(product_id="p-17"), example(text="leather", weight=-0.5)], space="text")

        Raises InvalidRequest, NotFound, FailedPrecondition, Overloaded, DeadlineExceeded, Unavailable.
        """
        return self._call(self._similar.Search, search_request(**arguments), timeout_s)

    def batch_search(
        self, searches: Sequence[SearchArguments | SearchRequest], *, timeout_s: float | None = None
    ) -> Sequence[SearchResponse | LookalikeError]:
        """Run up to 256 searches in one call: for each, in order, the response, or the error that `search` would raise.

            client.batch_search([{"product_id": product_id, "limit": 20} for product_id in product_ids])

        Raises as `search` does where the batch as a whole fails. A batch counts as as many calls as it has searches.
        """
        request = batch_request(searches)
        return _batch_results(self._call(self._similar.BatchSearch, request, timeout_s))

    def search_stream(
        self, searches: Iterable[SearchArguments | SearchRequest], *, timeout_s: float | None = None
    ) -> Generator[tuple[int, SearchResponse | LookalikeError], None, None]:
        """Run any number of searches on one stream: (position, response or error), as they are ready, in any order.

            for position, result in client.search_stream({"product_id": each} for each in product_ids): ...

        `searches` is read ahead of the results by a bounded number. `timeout_s` (none by default) is for all of them.
        What `searches` raises is raised here, once the searches before it are answered. Raises as `search` does where
        the stream as a whole fails.
        """
        failures: list[Exception] = []

        def requests() -> Generator[SearchStreamRequest, None, None]:
            try:
                yield from stream_requests(searches)
            except Exception as error:  # In gRPC's thread, where it would only cancel the call.
                failures.append(error)

        call = self._similar.SearchStream(requests(), timeout=timeout_s)
        try:
            for response in call:
                yield response.id, _stream_result(response)
        except grpc.RpcError as error:
            raise to_error(error) from error
        finally:
            call.cancel()
        if failures:
            raise failures[0]

    def find_duplicates(
        self, *, timeout_s: float | None = None, **arguments: Unpack[DuplicatesArguments]
    ) -> SearchResponse:
        """Find near-duplicates of one product, the most similar first; `truncated` is true if the limit cut off some.

            client.find_duplicates(product_id="p-17", exclude_same_shop=True)

        Raises as `search` does.
        """
        return self._call(self._similar.FindDuplicates, duplicates_request(**arguments), timeout_s)

    def classify(self, *, timeout_s: float | None = None, **arguments: Unpack[ClassifyArguments]) -> ClassifyResponse:
        """Classify a product, or a photo, a text or both; without a category, `abstention_reason` says why.

            client.classify(image=Path("shoe.jpg"), text="赤いスニーカー", precision=0.95)

        Raises as `search` does.
        """
        return self._call(self._similar.Classify, classify_request(**arguments), timeout_s)

    def get(self, product_id: str, *, timeout_s: float | None = None) -> Product:
        """Get one product, with its description. Raises NotFound."""
        return self._call(self._catalog.Get, GetRequest(product_id=product_id), timeout_s).product

    def exists(self, product_ids: Sequence[str], *, timeout_s: float | None = None) -> Sequence[bool]:
        """Whether each of at most 1,000 product ids exists, in their order."""
        return [*self._call(self._catalog.Exists, ExistsRequest(product_ids=product_ids), timeout_s).exists]

    def count(self, *, timeout_s: float | None = None, **filter_arguments: Unpack[FilterArguments]) -> int:
        """How many products pass the conditions; without conditions, how many there are."""
        return self._call(self._catalog.Count, CountRequest(filter=conditions(**filter_arguments)), timeout_s).count

    def list(
        self,
        *,
        after: str = "",
        limit: int | None = None,
        timeout_s: float | None = None,
        **filter_arguments: Unpack[FilterArguments],
    ) -> Generator[Product, None, None]:
        """Stream products by rising id. `timeout_s` is for the whole stream; there is none by default.

        To resume a broken stream, pass the last id received as `after`.
        """
        call = self._catalog.List(_list_request(after, limit, filter_arguments), timeout=timeout_s)
        try:
            yield from call
        except grpc.RpcError as error:
            raise to_error(error) from error
        finally:
            call.cancel()  # If the caller stops early, the stream ends on the server, too.

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
        """Add or replace a whole product, unless this revision or a newer one is stored. Durable when it returns.

            client.upsert(Product(id="p-17", title="red sneakers"), revision=1764066600000, vectors={"image": vector})
            client.upsert(product, revision=2, encode=True, image=Path("shoe.jpg"))

        encode: compute the vectors that are left out from the title and from `image`. Retrying after any failure is
        safe. Raises as `search` does.
        """
        request = upsert_request(product, revision, vectors or {}, encode=encode, image=image)
        return self._call(self._catalog.Upsert, request, timeout_s)

    def remove(self, product_id: str, *, revision: int, timeout_s: float | None = None) -> ChangeResponse:
        """Remove a product, which need not exist, unless this revision or a newer one is stored; as `upsert`."""
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
    """An asyncio client with the methods of `Client`; use it on the event loop that it was created on.

    async with AsyncClient("127.0.0.1:50051") as client:
        responses = await asyncio.gather(*(client.search(product_id=product_id) for product_id in product_ids))
    """

    def __init__(self, address: str, *, timeout_s: float = 10.0) -> None:
        self._timeout_s = timeout_s
        self._channel = aio_channel(address)
        self._similar = SimilarProductsStub(self._channel)
        self._catalog = CatalogStub(self._channel)

    async def search(self, *, timeout_s: float | None = None, **arguments: Unpack[SearchArguments]) -> SearchResponse:
        """As `Client.search`."""
        return await self._call(self._similar.Search, search_request(**arguments), timeout_s)

    async def batch_search(
        self, searches: Sequence[SearchArguments | SearchRequest], *, timeout_s: float | None = None
    ) -> Sequence[SearchResponse | LookalikeError]:
        """As `Client.batch_search`."""
        request = batch_request(searches)
        return _batch_results(await self._call(self._similar.BatchSearch, request, timeout_s))

    async def search_stream(
        self, searches: Iterable[SearchArguments | SearchRequest], *, timeout_s: float | None = None
    ) -> AsyncGenerator[tuple[int, SearchResponse | LookalikeError], None]:
        """As `Client.search_stream`."""
        failures: list[Exception] = []

        async def requests() -> AsyncGenerator[SearchStreamRequest, None]:
            try:
                for request in stream_requests(searches):
                    yield request
            except Exception as error:  # In gRPC's task, where it would only cancel the call.
                failures.append(error)

        call = self._similar.SearchStream(requests(), timeout=timeout_s)
        try:
            async for response in call:
                yield response.id, _stream_result(response)
        except grpc.RpcError as error:
            raise to_error(error) from error
        finally:
            call.cancel()
        if failures:
            raise failures[0]

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
        return (await self._call(self._catalog.Get, GetRequest(product_id=product_id), timeout_s)).product

    async def exists(self, product_ids: Sequence[str], *, timeout_s: float | None = None) -> Sequence[bool]:
        """As `Client.exists`."""
        response = await self._call(self._catalog.Exists, ExistsRequest(product_ids=product_ids), timeout_s)
        return [*response.exists]

    async def count(self, *, timeout_s: float | None = None, **filter_arguments: Unpack[FilterArguments]) -> int:
        """As `Client.count`."""
        response = await self._call(self._catalog.Count, CountRequest(filter=conditions(**filter_arguments)), timeout_s)
        return response.count

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


def _batch_results(response: BatchSearchResponse) -> Sequence[SearchResponse | LookalikeError]:
    return [
        result.response if result.HasField("response") else from_request_error(result.error)
        for result in response.results
    ]


def _stream_result(response: SearchStreamResponse) -> SearchResponse | LookalikeError:
    return response.response if response.HasField("response") else from_request_error(response.error)
