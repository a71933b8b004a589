"""The gRPC service IndexShard: checks requests, searches and serializes on threads, writes updates. Network I/O."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

import grpc

from index.search.cost import ORDINARY_COMPONENTS, CostClass, WorkLimit, costly_class
from index.serving import metrics
from index.serving.caller import Caller
from index.serving.served_versions import ServedVersions
from index.serving.shard_search import Found, ShardSearch
from index.serving.shard_version import ShardVersion
from index.serving.slots import Slots
from index.serving.writer import Writer
from lookalike.errors import InvalidRequest
from lookalike.runtime import edge
from lookalike.runtime.deadline import Deadline
from lookalike.v1 import index_pb2

SERVICE = index_pb2.DESCRIPTOR.services_by_name["IndexShard"]
MAX_QUERIES = 256

Result = TypeVar("Result")


class IndexShard:
    """The handlers of the service. Until the first version is loaded, every request gets UNAVAILABLE."""

    def __init__(
        self,
        slots: Slots,
        served: ServedVersions,
        writer: Writer,
        *,
        ordinary_components: float = ORDINARY_COMPONENTS,
    ) -> None:
        self._slots = slots
        self._writer = writer
        self._served = served
        self._ordinary = WorkLimit(ordinary_components)  # A search that needs more is costly.

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
            raise InvalidRequest(
                "queries", f"the request has {len(request.queries)} queries, at most {MAX_QUERIES} are allowed"
            )
        with self._served.lease(request.version):
            search = await self._run(request.version, lambda shard: _begin(shard, request, self._ordinary), deadline)
            if isinstance(search, bytes):
                return search
            results = await self._find_costly(search, request.version, Caller(deadline))
            return await self._run(request.version, lambda _: _finish(search, results), deadline)

    async def fetch(self, request: index_pb2.FetchRequest, deadline: Deadline) -> bytes:
        return await self._run(request.version, lambda shard: shard.fetch(request).SerializeToString(), deadline)

    async def count(self, request: index_pb2.ShardCountRequest, deadline: Deadline) -> index_pb2.ShardCountResponse:
        count = await self._run(request.version, lambda shard: shard.count(request.filter), deadline)
        return index_pb2.ShardCountResponse(count=count)

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

    async def _find_costly(self, search: ShardSearch, version: str, caller: Caller) -> dict[int, Found]:
        """The results of the pending queries, each from the threads of its class; raises what the first failure is."""
        began_s = time.perf_counter()
        try:
            calls = [self._leased(version, partial(self._submit_costly, search, i, caller)) for i in search.pending]
            found = await asyncio.gather(*map(asyncio.wrap_future, calls))
        finally:
            caller.gave_up = True  # No effect on those that are done.
        for query in search.pending.values():
            metrics.observe_costly(costly_class(query), time.perf_counter() - began_s)
        return dict(zip(search.pending, found, strict=True))

    def _submit_costly(self, search: ShardSearch, i: int, caller: Caller, _: ShardVersion) -> Future[Found]:
        query = search.pending[i]
        if costly_class(query) is CostClass.EXACT:
            return self._slots.exact.submit(search.view, query, caller)
        return self._slots.deep.submit(lambda: search.find([i], WorkLimit(check=caller.check))[i], caller)

    async def _run(self, version: str, work: Callable[[ShardVersion], Result], deadline: Deadline) -> Result:
        """Run on an ordinary thread."""
        call = self._leased(version, lambda shard: self._slots.ordinary.submit(partial(work, shard), deadline))
        return await asyncio.wrap_future(call)

    def _leased(self, version: str, submit: Callable[[ShardVersion], Future[Result]]) -> Future[Result]:
        """The version is leased until the call's thread has finished, even if the caller gave up before."""
        with ExitStack() as lease:
            shard = lease.enter_context(self._served.lease(version))
            call = submit(shard)
            release = lease.pop_all().close
        call.add_done_callback(lambda _: release())
        return call


def _begin(shard: ShardVersion, request: index_pb2.ShardSearchRequest, ordinary: WorkLimit) -> bytes | ShardSearch:
    """Search for what is ordinary. Returns the response if that is all; else the search, with the rest pending."""
    began_s = time.perf_counter()
    search = shard.start_search(request.queries)
    search.write(search.find([*search.pending], ordinary))
    metrics.BATCH_SECONDS.observe(time.perf_counter() - began_s)
    metrics.BATCH_QUERIES.observe(len(request.queries))
    if search.pending and not request.ordinary_only:
        return search
    for i in search.pending:
        search.response.results[i].costly = True
    return _serialize(search.response)


def _finish(search: ShardSearch, results: Mapping[int, Found]) -> bytes:
    search.write(results)
    return _serialize(search.response)


def _serialize(response: index_pb2.ShardSearchResponse) -> bytes:
    costly = sum(hits.costly for hits in response.results)
    failed = sum(bool(hits.error) for hits in response.results)
    metrics.QUERIES.labels("ok").inc(len(response.results) - failed - costly)
    metrics.QUERIES.labels("error").inc(failed)
    metrics.QUERIES.labels("costly").inc(costly)
    return response.SerializeToString()
