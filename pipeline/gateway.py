"""The calls to a gateway that the pipeline makes: products, their vectors, and changes of them. Network I/O (gRPC)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Self, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from lookalike.channels import aio_channel
from lookalike.credentials import ApiKey, authorization
from lookalike.runtime.call import Metadata, outgoing
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.edge import peer_error
from lookalike.status import from_request_error
from lookalike.v1.catalog_pb2 import (
    BatchWriteRequest,
    BatchWriteResponse,
    Change,
    CountRequest,
    EnqueueRequest,
    GetRequest,
    GetResponse,
    ListRequest,
)
from lookalike.v1.catalog_pb2_grpc import CatalogStub
from lookalike.v1.types_pb2 import Product, Space

_TIMEOUT_S = 30.0

Response = TypeVar("Response")


class Gateway:
    """The gateway at host:port; for use on one event loop. Close it after use.

    Its methods raise the LookalikeError that the gateway ended with, Unavailable if it could not be reached.
    """

    def __init__(self, address: str, api_key: ApiKey | None = None) -> None:
        self.address = address
        self._authorization = authorization(api_key)
        self._channel = aio_channel(address)
        self._stub = CatalogStub(self._channel)

    async def batch_write(self, request: BatchWriteRequest, timeout_s: float) -> BatchWriteResponse:
        return await self._answer(self._stub.BatchWrite, request, timeout_s)

    async def version(self) -> str:
        """The version that it serves."""
        return (await self._answer(self._stub.Count, CountRequest(), _TIMEOUT_S)).version

    async def encoder(self, space: Space.ValueType) -> str:
        """The fingerprint of the encoder of a space of the version that it serves; empty: there is no such space."""
        response = await self._answer(self._stub.Count, CountRequest(), _TIMEOUT_S)
        return next((each.encoder for each in response.encoders if each.space == space), "")

    async def get(self, product_id: str, vectors: Sequence[Space.ValueType] = ()) -> GetResponse:
        """A product with its description, and its vectors of these spaces. Raises NotFound."""
        request = GetRequest(product_id=product_id, vectors=vectors)
        return await self._answer(self._stub.Get, request, _TIMEOUT_S)

    async def products(self) -> AsyncIterator[Product]:
        """Every product with its description, by rising id: all of them, or an error."""
        call = self._stub.List(ListRequest(descriptions=True), metadata=self._metadata())
        try:
            async for product in call:
                yield product
        except grpc.aio.AioRpcError as error:
            raise peer_error(error, "gateway") from error
        finally:
            call.cancel()

    async def enqueue(self, change: Change) -> None:
        """Put a change on the stream, for a worker to make. Raises FailedPrecondition where there is no stream."""
        request = EnqueueRequest(changes=[change])
        response = await self._answer(self._stub.Enqueue, request, _TIMEOUT_S)
        for result in response.results:
            if result.HasField("error"):
                raise from_request_error(result.error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close()

    async def _answer(self, method: Callable[..., Awaitable[Response]], request: Message, timeout_s: float) -> Response:
        deadline = Deadline.after(timeout_s)
        try:
            return await method(request, timeout=timeout_s, metadata=self._metadata())
        except grpc.aio.AioRpcError as error:
            raise peer_error(error, "gateway", deadline) from error

    def _metadata(self) -> Metadata:
        """The API key, and the call that this one is made for."""
        return (*(self._authorization() or ()), *outgoing())
