"""The service IndexShard: checks requests, searches and serializes on threads, writes updates. Reads mapped files."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

import grpc

from index.serving import metrics
from index.serving.pool import Pool
from index.serving.served_versions import ServedVersions
from index.serving.shard_version import ShardVersion
from index.serving.writer import Writer
from lookalike.errors import InvalidRequest
from lookalike.runtime import edge
from lookalike.runtime.deadline import Deadline
from lookalike.v1 import index_pb2

SERVICE = index_pb2.DESCRIPTOR.services_by_name["IndexShard"]
MAX_QUERIES = 256

Result = TypeVar("Result")


class IndexShard:
    """The service of one shard, for gRPC (`handler`) and for callers in this process.

    Until the first version is loaded, every request gets UNAVAILABLE.
    """

    def __init__(self, pool: Pool, served: ServedVersions, writer: Writer) -> None:
        self._pool = pool
        self._writer = writer
        self._served = served

    def handler(self) -> grpc.GenericRpcHandler:
        methods: dict[str, edge.Unary | edge.Streaming] = {
            "Describe": self.describe,
            "Search": self._serialized_search,
            "Fetch": self._serialized_fetch,
            "Count": self.count,
            "List": self.list,
            "Apply": self.apply,
        }
        return edge.handler(SERVICE, methods)

    async def describe(self, request: index_pb2.DescribeRequest, deadline: Deadline) -> index_pb2.DescribeResponse:
        return self._served.describe(request.pinned)

    async def search(
        self, version: str, queries: Sequence[index_pb2.ShardQuery], deadline: Deadline
    ) -> index_pb2.ShardSearchResponse:
        """One result per query, in order."""
        _check_queries(queries)
        return await self._run(version, lambda shard: _search(shard, queries), deadline)

    async def fetch(self, request: index_pb2.FetchRequest, deadline: Deadline) -> index_pb2.FetchResponse:
        return await self._run(request.version, lambda shard: shard.fetch(request), deadline)

    async def count(self, request: index_pb2.ShardCountRequest, deadline: Deadline) -> index_pb2.ShardCountResponse:
        count = await self._run(request.version, lambda shard: shard.count(request.filter), deadline)
        return index_pb2.ShardCountResponse(count=count)

    async def apply(self, request: index_pb2.ApplyRequest, deadline: Deadline) -> index_pb2.ApplyResponse:
        return await self._writer.apply(request, deadline)

    async def list(
        self, request: index_pb2.ShardListRequest, deadline: Deadline
    ) -> AsyncIterator[index_pb2.ShardListPage]:
        """Stream pages until the table ends; each is read when the one before has been sent."""
        after = request.after
        with self._served.lease(request.version):
            while True:
                read = partial(ShardVersion.page, condition=request.filter, after=after)
                page = await self._run(request.version, read, deadline)
                if not page.ids:
                    return
                yield page
                after = page.ids[-1]

    async def _serialized_search(self, request: index_pb2.ShardSearchRequest, deadline: Deadline) -> bytes:
        _check_queries(request.queries)
        return await self._run(
            request.version, lambda shard: _search(shard, request.queries).SerializeToString(), deadline
        )

    async def _serialized_fetch(self, request: index_pb2.FetchRequest, deadline: Deadline) -> bytes:
        return await self._run(request.version, lambda shard: shard.fetch(request).SerializeToString(), deadline)

    async def _run(self, version: str, work: Callable[[ShardVersion], Result], deadline: Deadline) -> Result:
        """Run on a thread. The version is leased until the thread has finished, even if the caller gave up before."""
        with ExitStack() as lease:
            shard = lease.enter_context(self._served.lease(version))
            call = self._pool.submit(partial(work, shard), deadline)
            release = lease.pop_all().close
        call.add_done_callback(lambda _: release())
        return await asyncio.wrap_future(call)


def _check_queries(queries: Sequence[index_pb2.ShardQuery]) -> None:
    if len(queries) > MAX_QUERIES:
        raise InvalidRequest("queries", f"the request has {len(queries)} queries, at most {MAX_QUERIES} are allowed")


def _search(shard: ShardVersion, queries: Sequence[index_pb2.ShardQuery]) -> index_pb2.ShardSearchResponse:
    began_s = time.perf_counter()
    response = shard.search(queries)
    metrics.BATCH_SECONDS.observe(time.perf_counter() - began_s)
    metrics.BATCH_QUERIES.observe(len(queries))
    failed = sum(bool(hits.error) for hits in response.results)
    metrics.QUERIES.labels("ok").inc(len(queries) - failed)
    metrics.QUERIES.labels("error").inc(failed)
    return response
