"""The shards as the gateway sees them: a batching client for each, asked all together for one version."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import grpc
import grpc.aio

from lookalike.channels import aio_channel
from lookalike.errors import DeadlineExceeded, LookalikeError, Overloaded, Unavailable
from lookalike.runtime.coalescer import Coalescer
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.edge import peer_error
from lookalike.runtime.partition import shard_of
from lookalike.v1 import index_pb2, index_pb2_grpc, types_pb2
from server import metrics
from server.settings import GatewaySettings
from server.topology import Snapshot, snapshot_of

log = logging.getLogger(__name__)
Reply = TypeVar("Reply")

# A tenth of the time left is kept back to make a partial answer of what has come.
_SHARE_OF_DEADLINE = 0.9
# In one batch; an update counts once for every 128 KiB, so that a message never is too large.
_UPDATE_BATCH = 64
# That the queries of one batch may ask for together: of products as large as they may be, 12 KiB, a shard's answer has
# room for as many. So a query that is answered alone is answered in whatever company.
ANSWER_PRODUCTS = 2048
_VERSIONS = 2  # That requests under way may pin: shards serve no more at once.


@dataclass(frozen=True, slots=True)
class _Batching:
    """Of one version at one shard."""

    searches: Coalescer[index_pb2.ShardQuery, index_pb2.ShardHits]
    lookups: Coalescer[str, index_pb2.FetchedProduct]
    updates: Coalescer[index_pb2.Update, tuple[index_pb2.UpdateResult, int]]  # With the shard's sequence after it.


class Shard:
    """One shard process. Searches, and look-ups, that come while `shard_inflight` batches are out go together."""

    def __init__(self, address: str, settings: GatewaySettings) -> None:
        self.name = address
        self._settings = settings
        self._channel = aio_channel(address)
        self._stub = index_pb2_grpc.IndexShardStub(self._channel)
        self._batching: dict[str, _Batching] = {}

    async def close(self) -> None:
        await self._channel.close()

    async def describe(self, pinned: str) -> index_pb2.DescribeResponse | None:
        """What the shard serves, `pinned` for a while longer; None when it does not say."""
        request = index_pb2.DescribeRequest(pinned=pinned)
        try:
            return await self._stub.Describe(request, timeout=self._settings.shard_timeout_s)
        except grpc.aio.AioRpcError:
            return None

    def search(self, snapshot: Snapshot, query: index_pb2.ShardQuery) -> asyncio.Future[index_pb2.ShardHits]:
        return self._batching_of(snapshot).searches.submit(query)

    async def lookup(self, snapshot: Snapshot, product_id: str, deadline: Deadline) -> index_pb2.FetchedProduct:
        """The product with its vectors of every space; without `product` where the shard has no such product."""
        return await self._batching_of(snapshot).lookups(product_id, deadline)

    async def apply(
        self, snapshot: Snapshot, update: index_pb2.Update, deadline: Deadline
    ) -> tuple[index_pb2.UpdateResult, int]:
        """What became of it, and how many updates the shard had applied then."""
        return await self._batching_of(snapshot).updates(update, deadline)

    async def fetch(
        self,
        version: str,
        ids: Sequence[str],
        deadline: Deadline,
        *,
        descriptions: bool = False,
        vectors: Sequence[types_pb2.Space.ValueType] = (),
    ) -> Sequence[index_pb2.FetchedProduct]:
        """Products with their vectors of these spaces."""
        request = index_pb2.FetchRequest(version=version, ids=ids, descriptions=descriptions, vectors=vectors)
        return (await self._call(self._stub.Fetch, request, self._capped(deadline))).products

    async def count(self, version: str, filter: types_pb2.Filter, deadline: Deadline) -> int:
        request = index_pb2.ShardCountRequest(version=version, filter=filter)
        return (await self._call(self._stub.Count, request, self._capped(deadline))).count

    async def stream(
        self, version: str, filter: types_pb2.Filter, after: str, deadline: Deadline
    ) -> AsyncIterator[tuple[str, bytes]]:
        """(id, serialized product) by rising id."""
        request = index_pb2.ShardListRequest(version=version, filter=filter, after=after)
        try:
            async for page in self._stub.List(request, timeout=deadline.timeout_s()):
                for entry in zip(page.ids, page.products, strict=True):
                    yield entry
        except grpc.aio.AioRpcError as error:
            raise peer_error(error, f"shard {self.name}") from error

    def _batching_of(self, snapshot: Snapshot) -> _Batching:
        """Batches are of one version. When it changes, requests that pin the one before still come for a moment."""
        version = snapshot.version
        if version not in self._batching:
            self._batching[version] = _Batching(
                Coalescer(
                    partial(self._search, version),
                    max_in_flight=self._settings.shard_inflight,
                    max_batch=ANSWER_PRODUCTS,
                    max_waiting=self._settings.max_inflight * ANSWER_PRODUCTS,
                    size=self._size_of_query,
                ),
                Coalescer(
                    partial(self._lookup, version, sorted(snapshot.spaces)),
                    max_in_flight=self._settings.shard_inflight,
                    max_batch=self._settings.shard_batch,
                    max_waiting=self._settings.max_inflight,
                ),
                Coalescer(
                    partial(self._apply, version),
                    max_in_flight=1,
                    max_batch=_UPDATE_BATCH,
                    max_waiting=self._settings.max_inflight,
                    size=_size_of_update,
                ),
            )
            for older in [*self._batching][:-_VERSIONS]:
                del self._batching[older]  # It ends with the batches that wait for it.
        return self._batching[version]

    def _size_of_query(self, query: index_pb2.ShardQuery) -> int:
        """In products; of small queries as many as `shard_batch` fill a batch."""
        return max(query.k, math.ceil(ANSWER_PRODUCTS / self._settings.shard_batch))

    async def _search(self, version: str, queries: list[index_pb2.ShardQuery]) -> Sequence[index_pb2.ShardHits]:
        request = index_pb2.ShardSearchRequest(version=version, queries=queries)
        return (await self._call(self._stub.Search, request, self._settings.shard_timeout_s)).results

    async def _lookup(
        self, version: str, spaces: Sequence[types_pb2.Space.ValueType], ids: list[str]
    ) -> Sequence[index_pb2.FetchedProduct]:
        request = index_pb2.FetchRequest(version=version, ids=ids, vectors=spaces)
        return (await self._call(self._stub.Fetch, request, self._settings.shard_timeout_s)).products

    async def _apply(
        self, version: str, updates: list[index_pb2.Update]
    ) -> Sequence[tuple[index_pb2.UpdateResult, int]]:
        request = index_pb2.ApplyRequest(version=version, updates=updates)
        answer = await self._call(self._stub.Apply, request, self._settings.shard_timeout_s)
        return [(result, answer.sequence) for result in answer.results]

    async def _call(self, method: Callable[..., Awaitable[Reply]], request: object, timeout_s: float) -> Reply:
        try:
            return await method(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise peer_error(error, f"shard {self.name}") from error

    def _capped(self, deadline: Deadline) -> float:
        return deadline.capped(self._settings.shard_timeout_s)


def _size_of_update(update: index_pb2.Update) -> int:
    return 1 + (update.ByteSize() >> 17)


@dataclass(frozen=True, slots=True)
class Gathered:
    hits: list[index_pb2.ShardHits | None]  # Per shard, in order; None: it did not answer.
    failures: list[str]  # Why, for each that did not.

    def lacking(self, why: str) -> Gathered:
        """The same, without something that a shard should have given besides."""
        return Gathered(self.hits, [*self.failures, why])


class Fleet:
    """All shards, and the version they serve."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._shards = [Shard(address, settings) for address in settings.shards]
        self._snapshot: Snapshot | None = None
        self._problem = "the shards have not been asked yet"
        self._refused: dict[str, str] = {}
        self._whole = asyncio.Event()

    async def close(self) -> None:
        await asyncio.gather(*(shard.close() for shard in self._shards))

    def snapshot(self) -> Snapshot:
        """What to pin for one request. Raises Unavailable before any shard has answered."""
        if self._snapshot is None:
            raise Unavailable(self._problem)
        return self._snapshot

    async def refresh(self) -> None:
        """Ask every shard what it serves."""
        pinned = self._snapshot.version if self._snapshot else ""
        told = await asyncio.gather(*(shard.describe(pinned) for shard in self._shards))
        self._tell_refusals(told)
        try:
            latest = snapshot_of(told, pinned)
        except Unavailable as error:
            self._problem = str(error)
            metrics.SHARDS_SERVING.set(0)
            return
        metrics.SHARDS_SERVING.set(sum(latest.serving))
        if self._snapshot is not None and latest.version == pinned:
            latest = latest.after(dict(enumerate(self._snapshot.sequences)))  # A write may have told more meanwhile.
        if self._snapshot is None or (latest.version, latest.serving) != (pinned, self._snapshot.serving):
            log.info("version %s; serving: %s", latest.version, latest.serving)
        self._snapshot = latest
        if all(latest.serving):
            self._whole.set()

    def _tell_refusals(self, told: Sequence[index_pb2.DescribeResponse | None]) -> None:
        """Once each: why a shard does not serve the version that its location names, so that all stay with another."""
        refused = {
            shard.name: each.refusal for shard, each in zip(self._shards, told, strict=True) if each and each.refusal
        }
        for name, why in refused.items() - self._refused.items():
            log.warning("shard %s refused %s", name, why)
        self._refused = refused

    async def keep_fresh(self) -> None:
        """Refresh for ever, `refresh_s` apart."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._settings.refresh_s)

    async def until_whole(self) -> None:
        """Return once every shard has served one version: what readiness means."""
        await self._whole.wait()

    async def search(self, snapshot: Snapshot, query: index_pb2.ShardQuery, deadline: Deadline) -> Gathered:
        """Ask every shard of the version. A shard that fails or is late is a gap in the answer, not its end.

        Raises DeadlineExceeded, Overloaded or Unavailable when no shard answered.
        """
        wait_s = min(self._settings.shard_timeout_s, deadline.remaining_s() * _SHARE_OF_DEADLINE)
        asked: list[asyncio.Future[index_pb2.ShardHits] | LookalikeError] = []
        for shard in self._shards:
            try:
                asked.append(shard.search(snapshot, query))
            except Overloaded as error:
                asked.append(error)
        waited_for = [reply for reply in asked if isinstance(reply, asyncio.Future)]
        try:
            if waited_for:
                await asyncio.wait(waited_for, timeout=wait_s)
        finally:
            for reply in waited_for:
                reply.cancel()  # Without effect on those that are done.
        outcomes = [_outcome(reply, shard.name, wait_s) for reply, shard in zip(asked, self._shards, strict=True)]
        errors = [outcome for outcome in outcomes if isinstance(outcome, LookalikeError)]
        if len(errors) == len(outcomes):
            if wait_s < self._settings.shard_timeout_s and any(reply.cancelled() for reply in waited_for):
                raise DeadlineExceeded(
                    f"no shard answered within {wait_s:.3g} s, nine tenths of the time that was left"
                )
            raise next((error for error in errors if isinstance(error, Overloaded)), errors[0])
        hits = [None if isinstance(outcome, LookalikeError) else outcome for outcome in outcomes]
        return Gathered(hits, [str(error) for error in errors])

    async def lookup(self, snapshot: Snapshot, product_id: str, deadline: Deadline) -> index_pb2.FetchedProduct:
        """Raises Unavailable when the one shard that owns the product does not answer."""
        return await self._owner(product_id).lookup(snapshot, product_id, deadline)

    async def get(self, snapshot: Snapshot, product_id: str, deadline: Deadline) -> index_pb2.FetchedProduct:
        """With its description; without `product` where there is no such product."""
        owner = self._owner(product_id)
        (found,) = await owner.fetch(snapshot.version, [product_id], deadline, descriptions=True)
        return found

    async def exist(self, snapshot: Snapshot, ids: Sequence[str], deadline: Deadline) -> list[bool]:
        """In the order of `ids`."""
        return [fetched.HasField("product") for fetched in await self.fetch(snapshot, ids, (), deadline)]

    async def fetch(
        self, snapshot: Snapshot, ids: Sequence[str], spaces: Sequence[types_pb2.Space.ValueType], deadline: Deadline
    ) -> list[index_pb2.FetchedProduct]:
        """In the order of `ids`, with their vectors of these spaces; without `product` where there is no such product.

        Raises Unavailable when a shard that owns one of them does not answer.
        """
        owners = [shard_of(product_id, snapshot.shards) for product_id in ids]
        groups = {shard: [i for i, owner in enumerate(owners) if owner == shard] for shard in sorted(set(owners))}
        answers = await asyncio.gather(
            *(
                self._shards[shard].fetch(snapshot.version, [ids[i] for i in group], deadline, vectors=spaces)
                for shard, group in groups.items()
            )
        )
        found: dict[int, index_pb2.FetchedProduct] = {}
        for group, answer in zip(groups.values(), answers, strict=True):
            found.update(zip(group, answer, strict=True))
        return [found[i] for i in range(len(ids))]

    async def apply(
        self, snapshot: Snapshot, product_id: str, update: index_pb2.Update, deadline: Deadline
    ) -> index_pb2.UpdateResult:
        """What became of it. From then on this gateway's answers are no older.

        Raises Unavailable when the one shard that owns the product does not answer.
        """
        owner = shard_of(product_id, snapshot.shards)
        applied, sequence = await self._shards[owner].apply(snapshot, update, deadline)
        if self._snapshot is not None and self._snapshot.version == snapshot.version:
            self._snapshot = self._snapshot.after({owner: sequence})
        return applied

    async def count(self, snapshot: Snapshot, filter: types_pb2.Filter, deadline: Deadline) -> int:
        return sum(await asyncio.gather(*(shard.count(snapshot.version, filter, deadline) for shard in self._shards)))

    def streams(
        self, snapshot: Snapshot, filter: types_pb2.Filter, after: str, deadline: Deadline
    ) -> list[AsyncIterator[tuple[str, bytes]]]:
        """One stream of (id, serialized product) per shard, each by rising id."""
        return [shard.stream(snapshot.version, filter, after, deadline) for shard in self._shards]

    def _owner(self, product_id: str) -> Shard:
        return self._shards[shard_of(product_id, len(self._shards))]


def _outcome(
    reply: asyncio.Future[index_pb2.ShardHits] | LookalikeError, shard: str, waited_s: float
) -> index_pb2.ShardHits | LookalikeError:
    if isinstance(reply, LookalikeError):
        return reply
    if reply.cancelled():
        return Unavailable(f"shard {shard}: no answer within {waited_s:.3g} s")
    if isinstance(error := reply.exception(), LookalikeError):
        return error
    hits = reply.result()  # Whatever else it raises is a bug, here or in the shard, and not a gap.
    if hits.error:
        raise RuntimeError(f"shard {shard} refused a query: {hits.error}")
    return hits
