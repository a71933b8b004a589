"""The service IndexShard: checks requests, searches and serializes on threads, writes updates. Reads mapped files."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import islice
from typing import TypeVar

import grpc

from index.live.live_shard import LiveShard
from index.live.migration import list_changes, list_changes_of
from index.search.cost import ORDINARY_COMPONENTS, CostClass, WorkLimit, costly_class
from index.serving import messages, metrics
from index.serving.caller import Caller
from index.serving.change_migration import ChangeMigration
from index.serving.peers import Peers, new_replica_name
from index.serving.shard_search import Found, ShardSearch
from index.serving.shard_version import ShardVersion
from index.serving.slots import Slots
from index.serving.slow_batches import log_slow
from index.serving.threads import run_in_thread
from index.serving.versions import ShardVersions, describe
from index.serving.writer import Writer
from lookalike.errors import FailedPrecondition, InvalidRequest
from lookalike.runtime import edge, tracing
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.slow_log import SlowLog
from lookalike.shard_query import ShardHits, ShardQuery
from lookalike.v1 import index_pb2

SERVICE = index_pb2.DESCRIPTOR.services_by_name["IndexShard"]
MAX_QUERIES = 256
MAX_SEAL_S = 60.0  # A gateway that dies while it hands changes over must not keep a version from taking updates.
_CHANGES = 128  # In one page: of the largest products and vectors, 12 KiB each, 1.5 MiB.
_REVISIONS = 1024  # In one page, which takes some 2 ms.
_NO_UPDATES = "this shard takes no updates: it was started without --live-dir"

Result = TypeVar("Result")


class IndexShard:
    """The service of one shard, for gRPC (`handler`) and for callers in this process.

    Until the first version is loaded, every request gets UNAVAILABLE.
    """

    def __init__(
        self,
        slots: Slots,
        served: ShardVersions,
        writer: Writer,
        migration: ChangeMigration | None = None,
        *,
        peers: Peers | None = None,
        ordinary_components: float = ORDINARY_COMPONENTS,
        slow: SlowLog | None = None,
    ) -> None:
        """peers: the other replicas of the shard; None: it has none. slow: None: no slow batches are logged."""
        self._slow = slow
        self._slots = slots
        self._writer = writer
        self._migration = migration  # None: there are no updates.
        self._served = served
        self._peers = peers
        self._replica = peers.replica if peers else new_replica_name()
        self._ordinary = WorkLimit(ordinary_components)  # A search that needs more is costly.

    def handler(self) -> grpc.GenericRpcHandler:
        methods: dict[str, edge.Unary | edge.Streaming] = {
            "Describe": self.describe,
            "Search": edge.ThreadedUnary(self._submit_ordinary, otherwise=self._search_any),
            "Fetch": edge.ThreadedUnary(self._submit_fetch),
            "Count": self.count,
            "List": self.list,
            "Apply": self.apply,
            "ListChanges": self.list_changes,
            "Seal": self.seal,
            "FinishHandover": self.finish_handover,
            "ListRecentRevisions": self.list_recent_revisions,
            "ListRevisions": self.list_revisions,
        }
        return edge.handler(SERVICE, methods)

    async def describe(self, request: index_pb2.DescribeRequest, deadline: Deadline) -> index_pb2.DescribeResponse:
        awaited = self._migration.awaited if self._migration else None
        response = describe(self._served, request.pinned, request.known_sequence, awaited)
        response.replica = self._replica
        if self._peers is not None:
            response.catching_up = self._peers.is_catching_up()
            response.peers.extend(self._peers.positions())
        return response

    async def search(
        self, version: str, queries: Sequence[ShardQuery], deadline: Deadline, *, ordinary_only: bool = False
    ) -> Sequence[ShardHits]:
        """The hits of each query, in order. With `ordinary_only`, those of costly queries say only that they are."""
        _check_count(queries)
        return await self._search(version, lambda _: queries, deadline, ordinary_only, lambda results: results)

    async def fetch(self, request: index_pb2.FetchRequest, deadline: Deadline) -> index_pb2.FetchResponse:
        return await self._run(request.version, lambda shard: shard.fetch(request), deadline)

    async def count(self, request: index_pb2.ShardCountRequest, deadline: Deadline) -> index_pb2.ShardCountResponse:
        count = await self._run(request.version, lambda shard: shard.count(request.filter), deadline)
        return index_pb2.ShardCountResponse(count=count)

    async def apply(self, request: index_pb2.ApplyRequest, deadline: Deadline) -> index_pb2.ApplyResponse:
        return await self._writer.apply(request, deadline)

    async def list(
        self, request: index_pb2.ShardListRequest, deadline: Deadline
    ) -> AsyncGenerator[index_pb2.ShardListPage, None]:
        """Stream pages until the table ends; each is read when the one before has been sent."""
        after = request.after
        with self._served.lease(request.version):
            while True:
                read = partial(
                    ShardVersion.page, condition=request.filter, after=after, descriptions=request.descriptions
                )
                page = await self._run(request.version, read, deadline)
                if not page.ids:
                    return
                yield page
                after = page.ids[-1]

    async def list_changes(
        self, request: index_pb2.ListChangesRequest, deadline: Deadline
    ) -> AsyncGenerator[index_pb2.ListChangesPage, None]:
        """Stream pages until all changes are listed, which takes one thread of its own."""
        migration = self._migration
        if migration is None:
            raise FailedPrecondition(_NO_UPDATES)
        encoders = {each.space: each.encoder for each in request.encoders}
        with ThreadPoolExecutor(1, "handover") as thread, ExitStack() as opened:
            live = await run_in_thread(thread, lambda: opened.enter_context(migration.changes_of(request.version)))
            sequence = live.sequence
            if request.ids:
                changes = list_changes_of(live, encoders, request.ids)
            else:
                changes = list_changes(live, encoders, request.known_sequence)
            while True:
                page = index_pb2.ListChangesPage(sequence=sequence)
                for update, reduced in await run_in_thread(thread, lambda: [*islice(changes, _CHANGES)]):
                    page.changes.add(update=update, reduced=reduced)
                yield page
                if not page.changes:
                    return

    async def list_recent_revisions(
        self, request: index_pb2.ListRecentRevisionsRequest, deadline: Deadline
    ) -> index_pb2.RevisionList:
        """At most those of all changes that are remembered: some 30 ms. Most often of few, so no thread is worth it."""
        with self._served.lease(request.version) as shard:
            live = _require_live(shard)
            sequence = live.sequence
            recent = live.recent_revisions(request.known_sequence)
            return self._revision_list(sequence, recent or (), forgotten=recent is None)

    async def list_revisions(
        self, request: index_pb2.ListRevisionsRequest, deadline: Deadline
    ) -> AsyncGenerator[index_pb2.RevisionList, None]:
        """Stream pages until all revisions are listed, which takes one thread of its own."""
        with (
            self._served.lease(request.version) as shard,
            ThreadPoolExecutor(1, "revisions") as thread,
        ):
            live = _require_live(shard)
            sequence = live.sequence
            revisions = live.changes()
            while True:
                page = await run_in_thread(thread, lambda: self._revision_list(sequence, islice(revisions, _REVISIONS)))
                yield page
                if len(page.ids) < _REVISIONS:
                    return

    def _revision_list(
        self, sequence: int, revisions: Iterable[tuple[bytes, int]], *, forgotten: bool = False
    ) -> index_pb2.RevisionList:
        response = index_pb2.RevisionList(replica=self._replica, sequence=sequence, forgotten=forgotten)
        for product_id, revision in revisions:
            response.ids.append(product_id)
            response.revisions.append(revision)
        return response

    async def seal(self, request: index_pb2.SealRequest, deadline: Deadline) -> index_pb2.SealResponse:
        if not 0 <= request.seconds <= MAX_SEAL_S:
            raise InvalidRequest("seconds", f"{request.seconds} is not in 0..{MAX_SEAL_S:g}")
        return index_pb2.SealResponse(sequence=await self._writer.seal(request.version, request.seconds))

    async def finish_handover(
        self, request: index_pb2.FinishHandoverRequest, deadline: Deadline
    ) -> index_pb2.FinishHandoverResponse:
        await self._writer.finish_handover(request.version, request.lost_reasons)
        return index_pb2.FinishHandoverResponse()

    def _submit_ordinary(self, request: index_pb2.ShardSearchRequest, deadline: Deadline) -> Future[bytes] | None:
        """A serialized ShardSearchResponse, of one thread's work; None where costly queries are to be answered, too."""
        _check_count(request.queries)
        if not request.ordinary_only:
            return None

        submitted_s = time.perf_counter()

        def answer(shard: ShardVersion) -> bytes:
            queries = messages.parse_queries(request.queries, shard.dims)
            return _serialize(_complete(self._search_ordinary(shard, queries, submitted_s), {}))

        return self._submit(request.version, answer, deadline)

    async def _search_any(self, request: index_pb2.ShardSearchRequest, deadline: Deadline) -> bytes:
        def parse(shard: ShardVersion) -> Sequence[ShardQuery | ValueError]:
            return messages.parse_queries(request.queries, shard.dims)

        return await self._search(request.version, parse, deadline, request.ordinary_only, _serialize)

    def _submit_fetch(self, request: index_pb2.FetchRequest, deadline: Deadline) -> Future[bytes]:
        return self._submit(request.version, lambda shard: shard.fetch(request).SerializeToString(), deadline)

    async def _search(
        self,
        version: str,
        read: Callable[[ShardVersion], Sequence[ShardQuery | ValueError]],
        deadline: Deadline,
        ordinary_only: bool,
        finish: Callable[[Sequence[ShardHits]], Result],
    ) -> Result:
        """What `finish` makes of the hits of the queries that `read` returns; both are called on a thread."""

        submitted_s = time.perf_counter()

        def begin(shard: ShardVersion) -> tuple[ShardSearch | None, Result | None]:
            search = self._search_ordinary(shard, read(shard), submitted_s)
            if search.pending and not ordinary_only:
                return search, None
            return None, finish(_complete(search, {}))

        with self._served.lease(version):
            search, answer = await self._run(version, begin, deadline)
            if search is not None:
                caller = Caller(deadline)
                results = await self._find_costly(search, version, caller)
                exact = sum(query.exact for query in search.pending.values())
                cpu_s = caller.cpu_s / max(1, exact)

                def end(shard: ShardVersion) -> Result:
                    hits = _complete(search, results, cpu_s)
                    self._log_if_slow(search, shard, 0.0, time.perf_counter() - submitted_s)
                    return finish(hits)

                answer = await self._run(version, end, deadline)
        return answer  # type: ignore[return-value]

    async def _find_costly(self, search: ShardSearch, version: str, caller: Caller) -> dict[int, Found]:
        """The results of the pending queries, each from the threads of its class; raises what the first failure is."""
        began_s = time.perf_counter()
        try:
            with tracing.span("costly searches") as span:
                span.set(queries=len(search.pending))
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
        return self._slots.deep.submit(lambda limit: search.find([i], limit)[i], caller)

    def _search_ordinary(
        self, shard: ShardVersion, queries: Sequence[ShardQuery | ValueError], submitted_s: float
    ) -> ShardSearch:
        """A search with the hits of ordinary queries; costly ones are pending."""
        began_s = time.perf_counter()
        with tracing.span("search") as span:
            search = shard.start_search(queries)
            search.read(search.find([*search.pending], self._ordinary))
            span.set(queries=len(queries), costly=len(search.pending), documents=len(search.view))
        took_s = time.perf_counter() - began_s
        metrics.BATCH_SECONDS.observe(took_s)
        metrics.BATCH_QUERIES.observe(len(queries))
        self._log_if_slow(search, shard, began_s - submitted_s, took_s)
        return search

    def _log_if_slow(self, search: ShardSearch, shard: ShardVersion, waited_s: float, took_s: float) -> None:
        if self._slow is not None:
            log_slow(self._slow, search, shard, waited_s=waited_s, took_s=took_s)

    async def _run(self, version: str, work: Callable[[ShardVersion], Result], deadline: Deadline) -> Result:
        return await asyncio.wrap_future(self._submit(version, work, deadline))

    def _submit(self, version: str, work: Callable[[ShardVersion], Result], deadline: Deadline) -> Future[Result]:
        """Run on an ordinary thread."""
        return self._leased(version, lambda shard: self._slots.ordinary.submit(partial(work, shard), deadline))

    def _leased(self, version: str, submit: Callable[[ShardVersion], Future[Result]]) -> Future[Result]:
        """The version is leased until the call's thread has finished, even if the caller gave up before."""
        with ExitStack() as lease:
            shard = lease.enter_context(self._served.lease(version))
            call = submit(shard)
            release = lease.pop_all().close
        call.add_done_callback(lambda _: release())
        return call


def _require_live(shard: ShardVersion) -> LiveShard:
    if shard.live is None:
        raise FailedPrecondition(_NO_UPDATES)
    return shard.live


def _check_count(queries: Sequence[object]) -> None:
    if len(queries) > MAX_QUERIES:
        raise InvalidRequest("queries", f"the request has {len(queries)} queries, at most {MAX_QUERIES} are allowed")


def _serialize(results: Sequence[ShardHits]) -> bytes:
    return messages.search_response(results).SerializeToString()


def _complete(search: ShardSearch, found: Mapping[int, Found], cpu_s: float = 0.0) -> list[ShardHits]:
    """The hits of all queries, with these, too; each exact one of them took so much CPU of shared passes."""
    search.read(found, cpu_s)
    results = search.results
    failed = sum(bool(hits.error) for hits in results)
    metrics.QUERIES.labels("ok").inc(len(results) - failed - len(search.pending))
    metrics.QUERIES.labels("error").inc(failed)
    return results
