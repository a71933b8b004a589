"""A shard in another process. Network I/O (gRPC)."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import grpc
import grpc.aio
import numpy as np

from lookalike.channels import aio_channel
from lookalike.errors import LookalikeError, public_message
from lookalike.runtime import tracing
from lookalike.runtime.call import outgoing
from lookalike.runtime.edge import peer_error
from lookalike.shard_query import ShardHits, ShardQuery
from lookalike.v1 import index_pb2, index_pb2_grpc
from lookalike.vectors import F32, pack
from server.shard_transport import ConnectionFailed, Late, ShardTransport

Reply = TypeVar("Reply")


class RemoteShard:
    """The ShardTransport to the shard process at `address`, host:port, which was resolved from `name`, or is one.

    shard: its number, for callers, who are told no addresses.
    Its calls raise ConnectionFailed and Late, for `ReplicatedShard` to choose by.
    """

    in_service = 1
    numbering = ""

    def __init__(self, address: str, name: str = "", *, shard: int) -> None:
        self.address = address
        self._shard = shard
        self._channel = aio_channel(address, name)
        self._stub = index_pb2_grpc.IndexShardStub(self._channel)

    def sources(self) -> Sequence[ShardTransport]:
        return (self,)

    async def watch(self) -> None:
        """Whoever has its replicas watches them."""

    async def describe(self, request: index_pb2.DescribeRequest, timeout_s: float) -> index_pb2.DescribeResponse:
        return await self._call(self._stub.Describe, request, timeout_s)

    async def search(
        self, version: str, queries: Sequence[ShardQuery], timeout_s: float, *, ordinary_only: bool
    ) -> Sequence[ShardHits]:
        request = index_pb2.ShardSearchRequest(version=version, ordinary_only=ordinary_only)
        for query in queries:
            _write_query(request.queries.add(), query)
        return [*map(_hits, (await self._call(self._stub.Search, request, timeout_s)).results)]

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
            async for page in self._stub.List(request, timeout=timeout_s, metadata=outgoing()):
                yield page
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from error

    async def list_changes(
        self, request: index_pb2.ListChangesRequest, timeout_s: float | None
    ) -> AsyncIterator[index_pb2.ListChangesPage]:
        try:
            async for page in self._stub.ListChanges(request, timeout=timeout_s):
                yield page
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from error

    async def seal(self, request: index_pb2.SealRequest, timeout_s: float) -> index_pb2.SealResponse:
        return await self._call(self._stub.Seal, request, timeout_s)

    async def finish_handover(self, request: index_pb2.FinishHandoverRequest, timeout_s: float) -> None:
        await self._call(self._stub.FinishHandover, request, timeout_s)

    async def close(self) -> None:
        await self._channel.close()

    async def _call(self, method: Callable[..., Awaitable[Reply]], request: object, timeout_s: float) -> Reply:
        try:
            with tracing.span("call shard", tracing.Kind.CLIENT) as span:
                span.set(**{"server.address": self.address})
                return await method(request, timeout=timeout_s, metadata=outgoing())
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from error

    def _error(self, error: grpc.aio.AioRpcError) -> LookalikeError:
        refusal = peer_error(error, f"shard {self.address}")
        match error.code():
            case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:  # The latter of a server that stops.
                refusal = ConnectionFailed(str(refusal))
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                refusal = Late(str(refusal))
        return refusal.hidden_as(public_message(peer_error(error, f"shard {self._shard}")))


def _write_query(message: index_pb2.ShardQuery, query: ShardQuery) -> None:
    message.k, message.exact, message.explain = query.k, query.exact, query.explain
    message.max_per_shop, message.omit_ids = query.max_per_shop, query.omit_ids
    for (space, vector), weight in zip(query.vectors.items(), query.weights, strict=True):
        message.vectors.add(space=space, vector=pack(vector), weight=weight)
    if query.filter:
        message.filter.MergeFromString(query.filter)
    if query.exclude_ids:
        message.exclude_ids.extend(sorted(query.exclude_ids))
    if query.min_score != -math.inf:
        message.min_score = query.min_score


def _hits(message: index_pb2.ShardHits) -> ShardHits:
    scores: F32 = np.frombuffer(message.scores, dtype="<f4")
    cosines = np.frombuffer(message.cosines, dtype="<f4").reshape(len(scores), -1) if message.cosines else None
    return ShardHits(
        ids=message.ids,
        scores=scores,
        products=message.products,
        shops=message.shops,
        cosines=cosines,
        plans=message.plans,
        costly=message.costly,
        error=message.error,
        cpu_s=message.cpu_s,
    )
