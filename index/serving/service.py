"""The service IndexShard: its requests checked, its work handed to threads, its answers serialized there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

import grpc
from prometheus_client import Counter, Histogram

from index.serving.loaded import LoadedShard
from index.serving.pool import Pool
from index.serving.served import Served
from index.serving.writer import Writer
from lookalike.errors import InvalidRequest
from lookalike.runtime import edge
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.telemetry import SECONDS_BUCKETS
from lookalike.v1 import index_pb2

SERVICE = index_pb2.DESCRIPTOR.services_by_name["IndexShard"]
MAX_QUERIES = 256

BATCH_QUERIES = Histogram(
    "lookalike_shard_batch_queries", "Queries in one Search call.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
BATCH_SECONDS = Histogram(
    "lookalike_shard_batch_seconds", "Time to search one batch, without waiting for a thread.", buckets=SECONDS_BUCKETS
)
QUERIES = Counter("lookalike_shard_queries", "Queries answered.", ["outcome"])  # ok | error

Result = TypeVar("Result")


class IndexShard:
    """While nothing is served yet every request is UNAVAILABLE: the process listens while it still loads."""

    def __init__(self, pool: Pool, served: Served, writer: Writer) -> None:
        self._pool = pool
        self._writer = writer
        self._served = served

    def handler(self) -> grpc.GenericRpcHandler:
        methods: dict[str, edge.Unary | edge.Streaming] = {
            "Describe": self.describe,
            "Search": self.search,
            "Fetch": self.fetch,
            "Count": self.count,
            "List": self.list,
            "Apply": self._writer.apply,
        }
        return edge.handler(SERVICE, methods)

    async def describe(self, request: index_pb2.DescribeRequest, deadline: Deadline) -> index_pb2.DescribeResponse:
        return self._served.describe(request.pinned)

    async def search(self, request: index_pb2.ShardSearchRequest, deadline: Deadline) -> bytes:
        if len(request.queries) > MAX_QUERIES:
            raise InvalidRequest("queries", f"{len(request.queries)} queries, at most {MAX_QUERIES} may be")
        return await self._run(request.version, lambda shard: _searched(shard, request), deadline)

    async def fetch(self, request: index_pb2.FetchRequest, deadline: Deadline) -> bytes:
        return await self._run(request.version, lambda shard: shard.fetch(request).SerializeToString(), deadline)

    async def count(self, request: index_pb2.ShardCountRequest, deadline: Deadline) -> index_pb2.ShardCountResponse:
        count = await self._run(request.version, lambda shard: shard.count(request.filter), deadline)
        return index_pb2.ShardCountResponse(count=count)

    async def list(
        self, request: index_pb2.ShardListRequest, deadline: Deadline
    ) -> AsyncIterator[index_pb2.ShardListPage]:
        """Pages until the table ends; the next is read when the one before has gone out."""
        after = request.after
        with self._served.lease(request.version):
            while True:
                read = partial(LoadedShard.page, condition=request.filter, after=after)
                page = await self._run(request.version, read, deadline)
                if not page.ids:
                    return
                yield page
                after = page.ids[-1]

    async def _run(self, version: str, work: Callable[[LoadedShard], Result], deadline: Deadline) -> Result:
        """On a thread. The version is leased until the thread is done with it, even where the caller gave up before."""
        with ExitStack() as lease:
            shard = lease.enter_context(self._served.lease(version))
            call = self._pool.submit(partial(work, shard), deadline)
            release = lease.pop_all().close
        call.add_done_callback(lambda _: release())
        return await asyncio.wrap_future(call)


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
