"""The service IndexShard: its requests checked, its work handed to threads, its answers serialized there."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from functools import partial

import grpc
from prometheus_client import Counter, Gauge, Histogram

from index.serving.loaded import LoadedShard
from index.serving.pool import Pool
from index.storage.names import space_name
from lookalike import rpc
from lookalike.deadline import Deadline
from lookalike.errors import InvalidRequest, Unavailable, WrongState
from lookalike.telemetry import SECONDS_BUCKETS
from protos.lookalike.v1 import index_pb2

SERVICE = index_pb2.DESCRIPTOR.services_by_name["IndexShard"]
MAX_QUERIES = 256

BATCH_QUERIES = Histogram(
    "lookalike_shard_batch_queries", "Queries in one Search call.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
BATCH_SECONDS = Histogram(
    "lookalike_shard_batch_seconds", "Time to search one batch, without waiting for a thread.", buckets=SECONDS_BUCKETS
)
QUERIES = Counter("lookalike_shard_queries", "Queries answered.", ["outcome"])  # ok | error
DOCUMENTS = Gauge("lookalike_shard_documents", "Vectors in this shard.", ["space"])


class IndexShard:
    """Until `serve` was called every request is UNAVAILABLE: the process listens while it still loads."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._shard: LoadedShard | None = None

    def serve(self, shard: LoadedShard) -> None:
        self._shard = shard
        for number, space in shard.base.spaces.items():
            DOCUMENTS.labels(space_name(number)).set(len(space))

    def handler(self) -> grpc.GenericRpcHandler:
        methods: dict[str, rpc.Unary | rpc.Streaming] = {
            "Describe": self.describe,
            "Search": self.search,
            "Fetch": self.fetch,
            "Count": self.count,
            "List": self.list,
        }
        return rpc.handler(SERVICE, methods)

    async def describe(self, request: index_pb2.DescribeRequest, deadline: Deadline) -> index_pb2.ShardState:
        return self._loaded().state()

    async def search(self, request: index_pb2.ShardSearchRequest, deadline: Deadline) -> bytes:
        shard = self._serving(request.version)
        if len(request.queries) > MAX_QUERIES:
            raise InvalidRequest("queries", f"{len(request.queries)} queries, at most {MAX_QUERIES} may be")
        return await self._pool.run(partial(_searched, shard, request), deadline)

    async def fetch(self, request: index_pb2.FetchRequest, deadline: Deadline) -> bytes:
        shard = self._serving(request.version)
        return await self._pool.run(lambda: shard.fetch(request).SerializeToString(), deadline)

    async def count(self, request: index_pb2.ShardCountRequest, deadline: Deadline) -> index_pb2.ShardCountResponse:
        shard = self._serving(request.version)
        return index_pb2.ShardCountResponse(count=await self._pool.run(lambda: shard.count(request.filter), deadline))

    async def list(
        self, request: index_pb2.ShardListRequest, deadline: Deadline
    ) -> AsyncIterator[index_pb2.ShardListPage]:
        """Pages until the table ends; the next is read when the one before has gone out."""
        shard, after = self._serving(request.version), request.after
        while True:
            read: Callable[[], index_pb2.ShardListPage] = partial(shard.page, request.filter, after)
            page = await self._pool.run(read, deadline)
            if not page.ids:
                return
            yield page
            after = page.ids[-1]

    def _loaded(self) -> LoadedShard:
        if self._shard is None:
            raise Unavailable("the shard is still loading")
        return self._shard

    def _serving(self, version: str) -> LoadedShard:
        shard = self._loaded()
        if version != shard.manifest.version:
            raise WrongState(f"this shard serves version {shard.manifest.version}, not {version!r}")
        return shard


def _searched(shard: LoadedShard, request: index_pb2.ShardSearchRequest) -> bytes:
    began_s = time.perf_counter()
    answer = shard.search(request.queries)
    data = answer.SerializeToString()
    BATCH_SECONDS.observe(time.perf_counter() - began_s)
    BATCH_QUERIES.observe(len(request.queries))
    failed = sum(bool(hits.error) for hits in answer.results)
    QUERIES.labels("ok").inc(len(request.queries) - failed)
    QUERIES.labels("error").inc(failed)
    return data
