"""The Python client of a gateway, blocking and asynchronous. Does network I/O.

    with Client("127.0.0.1:50051") as client:
        response = client.search(product_id="p-17", limit=5, max_price=5000, in_stock=True)
        for hit in response.hits:
            print(f"{hit.score:.3f} {hit.product.title}")

A call raises an error of `lookalike.errors`: InvalidRequest names the field, Overloaded says when to retry. What no
gateway could answer is retried before that: `lookalike.retries`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import aclosing, closing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import grpc
import grpc.aio
from google.protobuf.message import Message

from lookalike.changes import (
    ChangeArguments,
    PatchArguments,
    PatchFields,
    UpsertArguments,
    batch_write_request,
    patch_change,
    remove_change,
    remove_where_request,
    upsert_change,
    write_requests,
)
from lookalike.channels import aio_client_channel, blocking_client_channel
from lookalike.credentials import ApiKey, authorization
from lookalike.errors import LookalikeError
from lookalike.requests import (
    ClassifyArguments,
    DuplicatesArguments,
    FilterArguments,
    SearchArguments,
    batch_request,
    classify_request,
    conditions,
    duplicates_request,
    example,
    get_request,
    list_request,
    search_request,
    stream_requests,
)
from lookalike.retries import DEFAULT_RETRIES, RetryPolicy, service_config
from lookalike.spaces import VECTOR_SPACES, space_name
from lookalike.status import from_request_error, to_error
from lookalike.tls import Tls
from lookalike.v1.admin_pb2_grpc import AdminStub
from lookalike.v1.catalog_pb2 import (
    AcceptedChange,
    BatchWriteResponse,
    Change,
    ChangeResponse,
    CountRequest,
    EnqueuedChange,
    EnqueueRequest,
    EnqueueResponse,
    ExistsRequest,
    GetResponse,
    RemoveWhereResponse,
    WaitRequest,
)
from lookalike.v1.catalog_pb2_grpc import CatalogStub
from lookalike.v1.search_pb2 import (
    BatchSearchResponse,
    ClassifyResponse,
    SearchRequest,
    SearchResponse,
    SearchStreamResponse,
)
from lookalike.v1.search_pb2_grpc import SimilarProductsStub
from lookalike.v1.types_pb2 import Product

if TYPE_CHECKING:
    from lookalike.vectors import F32

__all__ = [
    "AsyncClient",
    "ChangeArguments",
    "ClassifyArguments",
    "Client",
    "DuplicatesArguments",
    "FilterArguments",
    "PatchArguments",
    "PatchFields",
    "RetryPolicy",
    "SearchArguments",
    "Tls",
    "UpsertArguments",
    "conditions",
    "example",
    "patch_change",
    "remove_change",
    "upsert_change",
]

Response = TypeVar("Response")


class Client:
    """A blocking client, safe to share between threads. Close it, or use it in `with`.

    address:   of a gateway, host:port; of several, "10.0.0.1:50051,10.0.0.2:50051" or a sequence of them, or a name
               that has several addresses: they are called by turns.
    timeout_s: the default timeout of a call, retries included. It is sent as the gRPC deadline: the gateway stops
               working on it then.
    retry:     how often, and after what pauses, a call is made again that no gateway could answer (UNAVAILABLE); None:
               never. Which calls, and why that is safe: `lookalike.retries`.
    tls:       the certificates of a gateway that wants TLS: Tls(ca="ca.crt", cert="tls.crt", key="tls.key"). The files
               are read again when they change. Raises BadSettings where they cannot be used. None: no TLS.
    api_key:   sent with every call; or a function that gives it, such as `lookalike.credentials.KeyFile(path)`.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        timeout_s: float = 10.0,
        retry: RetryPolicy | None = DEFAULT_RETRIES,
        tls: Tls | None = None,
        api_key: ApiKey | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._authorization = authorization(api_key)
        self._channel = blocking_client_channel(address, service_config(retry), tls)
        self._similar = SimilarProductsStub(self._channel)
        self._catalog = CatalogStub(self._channel)
        self._admin = AdminStub(self._channel)

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
        with closing(self._stream(self._similar.SearchStream, stream_requests(searches), timeout_s)) as responses:
            for response in responses:
                yield response.id, _stream_result(response)

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
        """Get one product, with its description and its revision. Raises NotFound."""
        return self._call(self._catalog.Get, get_request(product_id), timeout_s).product

    def vectors(
        self, product_id: str, spaces: Sequence[str] | None = None, *, timeout_s: float | None = None
    ) -> dict[str, F32]:
        """Get a product's vectors by space, each (dim,) float32 of unit norm, of those of `spaces` in which it has one.

        spaces: all by default. Raises NotFound.
        """
        request = get_request(product_id, VECTOR_SPACES if spaces is None else spaces)
        return _vectors(self._call(self._catalog.Get, request, timeout_s))

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
        descriptions: bool = False,
        timeout_s: float | None = None,
        **filter_arguments: Unpack[FilterArguments],
    ) -> Generator[Product, None, None]:
        """Stream products by rising id. `timeout_s` is for the whole stream; there is none by default.

        To resume a broken stream, pass the last id received as `after`.
        """
        request = list_request(after, limit, descriptions, filter_arguments)
        call = self._catalog.List(request, timeout=timeout_s, metadata=self._authorization())
        try:
            yield from call
        except grpc.RpcError as error:
            raise to_error(error) from error
        finally:
            call.cancel()  # If the caller stops early, the stream ends on the server, too.

    def upsert(
        self, product: Product, *, timeout_s: float | None = None, **arguments: Unpack[UpsertArguments]
    ) -> ChangeResponse:
        """Add or replace a whole product, unless this revision or a newer one is stored. Durable when it returns.

            client.upsert(Product(id="p-17", title="red sneakers", category="fashion/shoes"), revision=2, encode=True)
            client.upsert(product, revision=1764066600000, vectors={"image": vector}, keep_vectors=True)

        A product that would have no vector is refused without `allow_unfindable`. The response tells the revision that
        is stored. Retrying after any failure is safe. Raises as `search` does.
        """
        return self._call(self._catalog.Upsert, upsert_change(product, **arguments).upsert, timeout_s)

    def patch(
        self, product_id: str, *, timeout_s: float | None = None, **arguments: Unpack[PatchArguments]
    ) -> ChangeResponse:
        """Change some fields of a product, and leave the others and its vectors as they are; None clears a field.

            client.patch("p-17", revision=1764066600000, price=4500, in_stock=False, expires_at=None)
            client.patch("p-17", revision=1764066600000, title="赤いスニーカー", encode=True)

        encode: compute the vectors of what changes: the title or description, and `image`. Retrying after any failure
        is safe. Raises NotFound, and as `search` does.
        """
        return self._call(self._catalog.Patch, patch_change(product_id, **arguments).patch, timeout_s)

    def remove(self, product_id: str, *, revision: int, timeout_s: float | None = None) -> ChangeResponse:
        """Remove a product, which need not exist, unless this revision or a newer one is stored; as `upsert`."""
        return self._call(self._catalog.Remove, remove_change(product_id, revision=revision).remove, timeout_s)

    def batch_write(
        self, changes: Sequence[Change], *, timeout_s: float | None = None
    ) -> Sequence[ChangeResponse | LookalikeError]:
        """Make up to 1,000 changes in one call: for each, in order, the response, or the error of a call of its own.

            client.batch_write([patch_change("p-17", revision=2, price=4500), remove_change("p-18", revision=2)])

        Changes of one product are made in their order. Raises as `search` does where the batch as a whole fails.
        """
        response = self._call(self._catalog.BatchWrite, batch_write_request(changes), timeout_s)
        return [*_change_results(response)]

    def write(
        self, changes: Iterable[Change], *, batch: int = 500, timeout_s: float | None = None
    ) -> Generator[tuple[int, ChangeResponse | LookalikeError], None, None]:
        """Make any number of changes on one stream: (position, response or error) of each, in order.

            changes = (patch_change(row.id, revision=row.revision, price=row.price) for row in rows)
            for position, outcome in client.write(changes): ...

        batch: changes of one message, 1..1000; a message is sent when it is full, and answered when it is durable.
        `changes` is read ahead of the outcomes by a bounded number. `timeout_s` (none by default) is for all of them.
        What `changes` raises is raised here, after the outcomes of the changes before it. Raises as `search` does where
        the stream as a whole fails: to resume, write again from the change after the last position.
        """
        with closing(self._stream(self._catalog.Write, write_requests(changes, batch), timeout_s)) as responses:
            yield from enumerate(outcome for response in responses for outcome in _change_results(response))

    def remove_where(
        self,
        *,
        revision: int | None = None,
        dry_run: bool = False,
        timeout_s: float | None = None,
        **filter_arguments: Unpack[FilterArguments],
    ) -> RemoveWhereResponse:
        """Remove every product that passes the conditions, and is not of this revision or a newer one.

            client.remove_where(shop_in=["closed"], dry_run=True).matched
            client.remove_where(shop_in=["closed"], revision=1764066600000).removed

        dry_run: only count them; it needs no revision. `timeout_s`: none by default. Safe to repeat after any failure.
        """
        request = remove_where_request(revision, dry_run, filter_arguments)
        return self._call_within(timeout_s, self._catalog.RemoveWhere, request)

    def enqueue(
        self, changes: Sequence[Change], *, timeout_s: float | None = None
    ) -> Sequence[AcceptedChange | LookalikeError]:
        """Put up to 1,000 changes on the durable stream, from which workers make them: for each, in order, the handle.

            accepted = client.enqueue([upsert_change(product, revision=2, encode=True)])
            client.wait([each.handle for each in accepted], wait_s=10)

        A worker fetches the photo that `product.image` names. A revision of 0 is set to the time at the gateway. A
        change that breaks a rule has its error in place of a handle. Raises FailedPrecondition where the gateway has no
        stream, and as `search` does; to enqueue again after a failure is harmless.
        """
        request = EnqueueRequest(changes=batch_write_request(changes).changes)
        return [*_accepted(self._call(self._catalog.Enqueue, request, timeout_s))]

    def wait(
        self, handles: Sequence[str], *, wait_s: float = 10.0, timeout_s: float | None = None
    ) -> Sequence[EnqueuedChange]:
        """Wait until none of up to 1,000 enqueued changes is pending, or for `wait_s`: what became of each, in order.

        wait_s: at most 60; 0: do not wait. timeout_s: of the call, the client's beside `wait_s` by default.
        """
        request = WaitRequest(handles=handles, timeout_s=wait_s)
        timeout_s = self._timeout_s + wait_s if timeout_s is None else timeout_s
        return self._call(self._catalog.Wait, request, timeout_s).changes

    def admin(self, request: Message, *, timeout_s: float | None = None) -> Any:
        """The response of the method of the service Admin that takes this request: `CutOverRequest` is for CutOver."""
        method = type(request).__name__.removesuffix("Request")
        return self._call(getattr(self._admin, method), request, timeout_s)

    def _call(self, method: Callable[..., Response], request: Message, timeout_s: float | None) -> Response:
        """Call, with the client's time-out unless the call has its own."""
        return self._call_within(self._timeout_s if timeout_s is None else timeout_s, method, request)

    def _call_within(self, timeout_s: float | None, method: Callable[..., Response], request: Message) -> Response:
        try:
            return method(request, timeout=timeout_s, metadata=self._authorization())
        except grpc.RpcError as error:
            raise to_error(error) from error

    def _stream(
        self, method: Callable[..., Any], requests: Iterable[Message], timeout_s: float | None
    ) -> Generator[Any, None, None]:
        """Yield the responses to a stream of requests. Raises what `requests` raises, after those before it."""
        failures: list[Exception] = []

        def until_failure() -> Iterator[Message]:
            try:
                yield from requests
            except Exception as error:  # In gRPC's thread, where it would only cancel the call.
                failures.append(error)

        call = method(until_failure(), timeout=timeout_s, metadata=self._authorization())
        try:
            yield from call
        except grpc.RpcError as error:
            raise to_error(error) from error
        finally:
            call.cancel()
        if failures:
            raise failures[0]

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

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        timeout_s: float = 10.0,
        retry: RetryPolicy | None = DEFAULT_RETRIES,
        tls: Tls | None = None,
        api_key: ApiKey | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._authorization = authorization(api_key)
        self._channel = aio_client_channel(address, service_config(retry), tls)
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
        async with aclosing(
            self._stream(self._similar.SearchStream, stream_requests(searches), timeout_s)
        ) as responses:
            async for response in responses:
                yield response.id, _stream_result(response)

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
        return (await self._call(self._catalog.Get, get_request(product_id), timeout_s)).product

    async def vectors(
        self, product_id: str, spaces: Sequence[str] | None = None, *, timeout_s: float | None = None
    ) -> dict[str, F32]:
        """As `Client.vectors`."""
        request = get_request(product_id, VECTOR_SPACES if spaces is None else spaces)
        return _vectors(await self._call(self._catalog.Get, request, timeout_s))

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
        descriptions: bool = False,
        timeout_s: float | None = None,
        **filter_arguments: Unpack[FilterArguments],
    ) -> AsyncGenerator[Product, None]:
        """As `Client.list`."""
        request = list_request(after, limit, descriptions, filter_arguments)
        call = self._catalog.List(request, timeout=timeout_s, metadata=self._authorization())
        try:
            async for product in call:
                yield product
        except grpc.RpcError as error:
            raise to_error(error) from error
        finally:
            call.cancel()

    async def upsert(
        self, product: Product, *, timeout_s: float | None = None, **arguments: Unpack[UpsertArguments]
    ) -> ChangeResponse:
        """As `Client.upsert`."""
        return await self._call(self._catalog.Upsert, upsert_change(product, **arguments).upsert, timeout_s)

    async def patch(
        self, product_id: str, *, timeout_s: float | None = None, **arguments: Unpack[PatchArguments]
    ) -> ChangeResponse:
        """As `Client.patch`."""
        return await self._call(self._catalog.Patch, patch_change(product_id, **arguments).patch, timeout_s)

    async def remove(self, product_id: str, *, revision: int, timeout_s: float | None = None) -> ChangeResponse:
        """As `Client.remove`."""
        request = remove_change(product_id, revision=revision).remove
        return await self._call(self._catalog.Remove, request, timeout_s)

    async def batch_write(
        self, changes: Sequence[Change], *, timeout_s: float | None = None
    ) -> Sequence[ChangeResponse | LookalikeError]:
        """As `Client.batch_write`."""
        response = await self._call(self._catalog.BatchWrite, batch_write_request(changes), timeout_s)
        return [*_change_results(response)]

    async def write(
        self, changes: Iterable[Change], *, batch: int = 500, timeout_s: float | None = None
    ) -> AsyncGenerator[tuple[int, ChangeResponse | LookalikeError], None]:
        """As `Client.write`."""
        position = 0
        async with aclosing(self._stream(self._catalog.Write, write_requests(changes, batch), timeout_s)) as responses:
            async for response in responses:
                for outcome in _change_results(response):
                    yield position, outcome
                    position += 1

    async def remove_where(
        self,
        *,
        revision: int | None = None,
        dry_run: bool = False,
        timeout_s: float | None = None,
        **filter_arguments: Unpack[FilterArguments],
    ) -> RemoveWhereResponse:
        """As `Client.remove_where`."""
        request = remove_where_request(revision, dry_run, filter_arguments)
        return await self._call_within(timeout_s, self._catalog.RemoveWhere, request)

    async def enqueue(
        self, changes: Sequence[Change], *, timeout_s: float | None = None
    ) -> Sequence[AcceptedChange | LookalikeError]:
        """As `Client.enqueue`."""
        request = EnqueueRequest(changes=batch_write_request(changes).changes)
        return [*_accepted(await self._call(self._catalog.Enqueue, request, timeout_s))]

    async def wait(
        self, handles: Sequence[str], *, wait_s: float = 10.0, timeout_s: float | None = None
    ) -> Sequence[EnqueuedChange]:
        """As `Client.wait`."""
        request = WaitRequest(handles=handles, timeout_s=wait_s)
        timeout_s = self._timeout_s + wait_s if timeout_s is None else timeout_s
        return (await self._call(self._catalog.Wait, request, timeout_s)).changes

    async def _call(
        self, method: Callable[..., Awaitable[Response]], request: Message, timeout_s: float | None
    ) -> Response:
        """As `Client._call`."""
        return await self._call_within(self._timeout_s if timeout_s is None else timeout_s, method, request)

    async def _call_within(
        self, timeout_s: float | None, method: Callable[..., Awaitable[Response]], request: Message
    ) -> Response:
        try:
            return await method(request, timeout=timeout_s, metadata=self._authorization())
        except grpc.RpcError as error:
            raise to_error(error) from error

    async def _stream(
        self, method: Callable[..., Any], requests: Iterable[Message], timeout_s: float | None
    ) -> AsyncGenerator[Any, None]:
        """As `Client._stream`."""
        failures: list[Exception] = []

        async def until_failure() -> AsyncGenerator[Message, None]:
            try:
                for request in requests:
                    yield request
            except Exception as error:  # In gRPC's task, where it would only cancel the call.
                failures.append(error)

        call = method(until_failure(), timeout=timeout_s, metadata=self._authorization())
        try:
            async for response in call:
                yield response
        except grpc.RpcError as error:
            raise to_error(error) from error
        finally:
            call.cancel()
        if failures:
            raise failures[0]

    async def close(self) -> None:
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _batch_results(response: BatchSearchResponse) -> Sequence[SearchResponse | LookalikeError]:
    return [
        result.response if result.HasField("response") else from_request_error(result.error)
        for result in response.results
    ]


def _stream_result(response: SearchStreamResponse) -> SearchResponse | LookalikeError:
    return response.response if response.HasField("response") else from_request_error(response.error)


def _change_results(response: BatchWriteResponse) -> Iterator[ChangeResponse | LookalikeError]:
    for result in response.results:
        yield result.response if result.HasField("response") else from_request_error(result.error)


def _accepted(response: EnqueueResponse) -> Iterator[AcceptedChange | LookalikeError]:
    for result in response.results:
        yield result.accepted if result.HasField("accepted") else from_request_error(result.error)


def _vectors(response: GetResponse) -> dict[str, F32]:
    from lookalike.vectors import unpack  # numpy is imported where there are vectors.

    return {space_name(each.space): unpack(each.vector, len(each.vector) // 4)[0] for each in response.vectors}
