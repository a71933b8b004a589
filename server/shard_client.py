"""The client of one shard, which sends concurrent queries together in one call. I/O through its transport."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import TypeVar

from lookalike.errors import FailedPrecondition, LookalikeError, Unavailable
from lookalike.runtime.coalescer import Coalescer
from lookalike.runtime.deadline import Deadline
from lookalike.shard_query import ShardHits, ShardQuery
from lookalike.v1 import index_pb2, types_pb2
from server.settings import ServiceSettings
from server.shard_transport import ShardTransport
from server.topology import Snapshot

Spaces = Collection[types_pb2.Space.ValueType]
_Lookup = tuple[str, Spaces]  # A product's id, and the spaces whose vectors are wanted.
_Updates = Sequence[index_pb2.Update]
Reply = TypeVar("Reply")

# Maximum size of a batch of updates, in KiB; each counts at least 8, so that there are no more than 1,024 in it. Those
# of one caller that are larger together are sent in parts.
_UPDATE_BATCH_KIB = 8 << 10
_MIN_UPDATE_KIB = 8
# Maximum number of hits that the queries of one batch request together. A response has room for that many products of
# the largest size (12 KiB each), so no batch fails whose queries would succeed alone.
BATCH_PRODUCTS = 2048
_MOVE_S = 1.0  # In which a gateway moves to the version that a shard serves: the default of `refresh_s`.
_MAX_VERSIONS = 2  # Versions that requests in flight may pin: a shard serves no more at once.


@dataclass(frozen=True, slots=True)
class _Batchers:
    """The batchers of one version: all queries of a batch pin the version that the batch names."""

    searches: Coalescer[ShardQuery, ShardHits]
    lookups: Coalescer[_Lookup, index_pb2.FetchedProduct]
    # The results of a caller's updates, with the shard's sequence number after the batch.
    updates: Coalescer[_Updates, tuple[Sequence[index_pb2.UpdateResult], int]]


class ShardClient:
    """The client of one shard.

    Searches that arrive while `shard_inflight` batches for each replica are in flight are sent together in the next
    one; so are look-ups. A batch is answered as a whole, so searches that the shard finds costly are sent again, each
    alone. There is one batch of updates in flight at a time.
    """

    def __init__(self, number: int, transport: ShardTransport, settings: ServiceSettings) -> None:
        self.number = number
        self._transport = transport
        self._settings = settings
        self._least_size = math.ceil(BATCH_PRODUCTS / settings.shard_batch)  # Of a query in a batch.
        self._batchers: dict[str, _Batchers] = {}

    @property
    def address(self) -> str:
        return self._transport.address

    @property
    def numbering(self) -> str:
        return self._transport.numbering

    async def close(self) -> None:
        await self._transport.close()

    async def watch(self) -> None:
        await self._transport.watch()

    async def describe(self, pinned: str, known_sequence: int = 0) -> index_pb2.DescribeResponse | None:
        """The versions that the shard serves, and its updates of `pinned` after `known_sequence`.

        None if it is unreachable. The shard renews its lease of `pinned`.
        """
        request = index_pb2.DescribeRequest(pinned=pinned, known_sequence=known_sequence)
        try:
            return await self._transport.describe(request, self._settings.shard_timeout_s)
        except LookalikeError:
            return None

    def search(self, snapshot: Snapshot, query: ShardQuery) -> asyncio.Future[ShardHits]:
        """The hits of an ordinary query; those of one that is more work are `costly`: empty, to be asked for again."""
        return self._batchers_of(snapshot).searches.submit(query)

    async def search_costly(self, snapshot: Snapshot, query: ShardQuery, deadline: Deadline) -> ShardHits:
        """The hits of any query, alone, so that it waits for no other and the shard knows how long its caller waits.

        Raises DeadlineExceeded, Overloaded or what else the shard says.
        """
        (hits,) = await self.search_together(snapshot, [query], deadline)
        return hits

    async def search_together(
        self, snapshot: Snapshot, queries: Sequence[ShardQuery], deadline: Deadline
    ) -> Sequence[ShardHits]:
        """The hits of any queries, all of one state of the shard, in one call. Raises what `search_costly` does."""
        try:
            timeout_s = deadline.remaining_s()
            call = self._transport.search(snapshot.version, queries, timeout_s, ordinary_only=False)
            return await _of_version(call)
        except Unavailable:
            deadline.remaining_s()  # Raises DeadlineExceeded where that is why the shard did not answer.
            raise

    async def lookup(
        self, snapshot: Snapshot, product_id: str, spaces: Spaces, deadline: Deadline
    ) -> index_pb2.FetchedProduct:
        """The product with its vectors of at least these spaces; without `product` where the shard has no such product.

        A batch of look-ups asks for the spaces of all of them.
        """
        return await self._batchers_of(snapshot).lookups((product_id, spaces), deadline)

    async def apply(
        self, snapshot: Snapshot, updates: Sequence[index_pb2.Update], deadline: Deadline
    ) -> tuple[Sequence[index_pb2.UpdateResult], int]:
        """The outcome of each update, and the shard's sequence number after them: how many updates it has applied."""
        batcher, results, sequence = self._batchers_of(snapshot).updates, list[index_pb2.UpdateResult](), 0
        for part in _parts(updates):
            outcomes, sequence = await batcher(part, deadline)
            results += outcomes
        return results, sequence

    async def fetch(
        self,
        version: str,
        ids: Sequence[str],
        deadline: Deadline,
        *,
        descriptions: bool = False,
        vectors: Spaces = (),
    ) -> Sequence[index_pb2.FetchedProduct]:
        """The products with their vectors of these spaces; without `product` where the shard has no such product."""
        request = index_pb2.FetchRequest(version=version, ids=ids, descriptions=descriptions, vectors=vectors)
        return await _of_version(self._transport.fetch(request, deadline.capped(self._settings.shard_timeout_s)))

    async def count(self, version: str, filter: types_pb2.Filter, deadline: Deadline) -> int:
        request = index_pb2.ShardCountRequest(version=version, filter=filter)
        return await _of_version(self._transport.count(request, deadline.capped(self._settings.shard_timeout_s)))

    async def stream(
        self, version: str, filter: types_pb2.Filter, after: str, deadline: Deadline, *, descriptions: bool
    ) -> AsyncIterator[tuple[str, bytes]]:
        """(id, serialized product) by rising id."""
        request = index_pb2.ShardListRequest(version=version, filter=filter, after=after, descriptions=descriptions)
        async for page in self._transport.list(request, deadline.timeout_s()):
            for entry in zip(page.ids, page.products, strict=True):
                yield entry

    def _batchers_of(self, snapshot: Snapshot) -> _Batchers:
        """The batchers of the version. Just after a version change, requests that pin the previous one still arrive."""
        version = snapshot.version
        if version not in self._batchers:
            self._batchers[version] = _Batchers(
                Coalescer(
                    partial(self._search, version),
                    max_in_flight=self._max_in_flight,
                    max_batch=BATCH_PRODUCTS,
                    max_waiting=self._settings.max_inflight * BATCH_PRODUCTS,
                    size=self._query_size,
                    name="search shard",
                ),
                Coalescer(
                    partial(self._lookup, version),
                    max_in_flight=self._max_in_flight,
                    max_batch=self._settings.shard_batch,
                    max_waiting=self._settings.max_inflight,
                    name="look up products",
                ),
                Coalescer(
                    partial(self._apply, version),
                    max_in_flight=1,
                    max_batch=_UPDATE_BATCH_KIB,
                    max_waiting=self._settings.max_inflight * _MIN_UPDATE_KIB + 4 * _UPDATE_BATCH_KIB,
                    size=_size_kib,
                    name="apply changes",
                ),
            )
            for older in [*self._batchers][:-_MAX_VERSIONS]:
                del self._batchers[older]  # Its waiting queries are still sent.
        return self._batchers[version]

    def _max_in_flight(self) -> int:
        return self._settings.shard_inflight * self._transport.in_service

    def _query_size(self, query: ShardQuery) -> int:
        """The size of a query in a batch: the hits it requests, but at least 1/`shard_batch` of a full batch."""
        return max(query.k, self._least_size)

    async def _search(self, version: str, queries: list[ShardQuery]) -> Sequence[ShardHits]:
        call = self._transport.search(version, queries, self._settings.shard_timeout_s, ordinary_only=True)
        return await _of_version(call)

    async def _lookup(self, version: str, lookups: list[_Lookup]) -> Sequence[index_pb2.FetchedProduct]:
        ids, spaces = zip(*lookups, strict=True)
        request = index_pb2.FetchRequest(version=version, ids=ids, vectors=sorted(set().union(*spaces)))
        return await _of_version(self._transport.fetch(request, self._settings.shard_timeout_s))

    async def _apply(
        self, version: str, groups: list[_Updates]
    ) -> Sequence[tuple[Sequence[index_pb2.UpdateResult], int]]:
        request = index_pb2.ApplyRequest(version=version, updates=chain.from_iterable(groups))
        response = await self._transport.apply(request, self._settings.shard_timeout_s)
        results = iter(response.results)
        return [([*islice(results, len(group))], response.sequence) for group in groups]


def _size_kib(updates: _Updates) -> int:
    return sum(max(_MIN_UPDATE_KIB, update.ByteSize() >> 10) for update in updates)


def _parts(updates: _Updates) -> Iterator[_Updates]:
    """The updates in order, in parts that fit into a batch; one that does not is a part of its own."""
    part, size_kib = list[index_pb2.Update](), 0
    for update in updates:
        update_kib = _size_kib([update])
        if part and size_kib + update_kib > _UPDATE_BATCH_KIB:
            yield part
            part, size_kib = [], 0
        part.append(update)
        size_kib += update_kib
    yield part


async def _of_version(call: Awaitable[Reply]) -> Reply:
    """The reply to a call that reads a version. Raises Unavailable where the shard does not serve that.

    One that was started again serves what CURRENT names, and the gateway moves to it in a moment: try again.
    """
    try:
        return await call
    except FailedPrecondition as error:
        raise Unavailable(str(error), retry_after_s=_MOVE_S).hidden_as(error.public) from error
