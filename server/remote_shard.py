"""A shard in another process. Network I/O (gRPC)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import grpc
import grpc.aio

from lookalike.channels import aio_channel
from lookalike.runtime.edge import peer_error
from lookalike.v1 import index_pb2, index_pb2_grpc

Reply = TypeVar("Reply")


class RemoteShard:
    """The ShardTransport to the shard process at `address`, host:port."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = aio_channel(address)
        self._stub = index_pb2_grpc.IndexShardStub(self._channel)

    async def describe(self, request: index_pb2.DescribeRequest, timeout_s: float) -> index_pb2.DescribeResponse:
        return await self._call(self._stub.Describe, request, timeout_s)

    async def search(
        self, version: str, queries: Sequence[index_pb2.ShardQuery], timeout_s: float, *, ordinary_only: bool
    ) -> Sequence[index_pb2.ShardHits]:
        request = index_pb2.ShardSearchRequest(version=version, queries=queries, ordinary_only=ordinary_only)
        return (await self._call(self._stub.Search, request, timeout_s)).results

    async def fetch(self, request: index_pb2.FetchRequest, timeout_s: float) -> Sequence[index_pb2.FetchedProduct]:
        return (await self._call(self._stub.Fetch, request, timeout_s)).products

    async def apply(self, request: index_pb2.ApplyRequest, timeout_s: float) -> index_pb2.ApplyResponse:
        return await self._call(self._stub.Apply, request, timeout_s)

    async def count(self, request: index_pb2.ShardCountRequest, timeout_s: float) -> int:
        return (await self._call(self._stub.Count, request, timeout_s)).count

    async def list(
        self, request: index_pb2.ShardListRequest, timeout_s: float | None
    ) -> AsyncIterator[index_pb2.ShardListPage]:
        try:
            async for page in self._stub.List(request, timeout=timeout_s):
                yield page
        except grpc.aio.AioRpcError as error:
            raise peer_error(error, f"shard {self.address}") from error

    async def close(self) -> None:
        await self._channel.close()

    async def _call(self, method: Callable[..., Awaitable[Reply]], request: object, timeout_s: float) -> Reply:
        try:
            return await method(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise peer_error(error, f"shard {self.address}") from error
