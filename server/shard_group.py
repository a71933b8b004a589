"""Scatter and gather: one request to every shard, or to those that own its products. I/O through the shard clients."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

from lookalike.errors import DeadlineExceeded, LookalikeError, Overloaded, Unavailable
from lookalike.runtime.concurrently import run_concurrently
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.failure_log import told
from lookalike.runtime.partition import shard_of
from lookalike.shard_query import ShardHits, ShardQuery
from lookalike.v1 import index_pb2, types_pb2
from server import metrics
from server.settings import ServiceSettings
from server.shard_client import ShardClient, Spaces
from server.shard_transport import ShardTransport
from server.topology import Snapshot

# A search waits for its shards for this share of the time left; the rest is for making a partial answer.
_DEADLINE_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class ShardResults:
    """The results of one search from all shards."""

    hits: list[ShardHits | None]  # Per shard, in order; None: it did not answer.
    failures: list[str]  # The reason of each shard that did not answer, and of other failures (`with_failure`).
    # Per shard, how long its answer took, also of one that says a query is costly; None: there was none. Empty: nobody
    # asks.
    seconds: Sequence[float | None] = ()

    def with_failure(self, reason: str) -> ShardResults:
        """The same results, with another failure that the answer is to state."""
        return replace(self, failures=[*self.failures, reason])


@dataclass(frozen=True, slots=True)
class ExactComparison:
    """The hits of one query in one state of a shard, as an ordinary search and as an exact one find them."""

    approximate: ShardHits
    exact: ShardHits
    cost_s: float  # CPU of the exact search; where the shard does not say, the time that it took to answer.


class ShardGroup:
    """All shards of the index, in the order of their ordinals."""

    def __init__(self, transports: Sequence[ShardTransport], settings: ServiceSettings) -> None:
        self._timeout_s = settings.shard_timeout_s
        self._is_timed = settings.slow_query_s > 0
        self._expiry = _Expiry(settings.shard_timeout_s)
        # They are in flight for longer: without a bound of their own they would come to hold every permit.
        self._max_costly = max(1, settings.max_inflight // 2)
        self._costly = 0
        self._shards = [ShardClient(i, transport, settings) for i, transport in enumerate(transports)]

    @property
    def addresses(self) -> list[str]:
        return [shard.address for shard in self._shards]

    @property
    def numbering(self) -> str:
        """By whose numbers of changes the shards are described; empty: their own, the same for all gateways."""
        return "".join([shard.numbering for shard in self._shards])

    async def close(self) -> None:
        await asyncio.gather(*(shard.close() for shard in self._shards))

    async def watch(self) -> None:
        """Watch the health of the shards, for ever."""
        async with asyncio.TaskGroup() as tasks:
            for shard in self._shards:
                tasks.create_task(shard.watch())

    async def describe(
        self, pinned: str, known_sequences: Sequence[int] = ()
    ) -> list[index_pb2.DescribeResponse | None]:
        """The versions that each shard serves; None if it is unreachable. The shards renew their leases of `pinned`.

        known_sequences: of each shard, the number of its last known update of `pinned`: the responses have later ones.
        Empty: none is known.
        """
        known = [*known_sequences, *[0] * (len(self._shards) - len(known_sequences))]  # A version may have fewer.
        calls = [shard.describe(pinned, each) for shard, each in zip(self._shards, known, strict=True)]
        return await asyncio.gather(*calls)

    async def search(self, snapshot: Snapshot, query: ShardQuery, deadline: Deadline) -> ShardResults:
        """Send the query to every shard. A shard that fails or is late is missing from the results, which say so.

        An ordinary query is waited for at most `shard_timeout_s`, one that the shards find costly until the deadline.
        Raises DeadlineExceeded, Overloaded or Unavailable when no shard answered.
        """
        wait_s = min(self._timeout_s, deadline.remaining_s() * _DEADLINE_SHARE)
        shards = self._shards_of(snapshot)
        seconds: list[float | None] = [None] * len(shards) if self._is_timed else []
        began_s = perf_counter()
        calls: list[asyncio.Future[ShardHits] | LookalikeError] = []
        sent: list[asyncio.Future[ShardHits]] = []
        for i, shard in enumerate(shards):
            try:
                call = shard.search(snapshot, query)
                if self._is_timed:
                    call.add_done_callback(partial(_time, seconds, i, began_s))
            except Overloaded as error:
                calls.append(error)
                continue
            calls.append(call)
            sent.append(call)
        if wait_s == self._timeout_s:
            for call in sent:
                self._expiry.add(call)
            await _wait(sent)
        else:
            await _wait_for(sent, wait_s)
        for i, each in enumerate(calls if self._is_timed else ()):  # What has ended in this pass of the event loop.
            if isinstance(each, asyncio.Future):
                _time(seconds, i, began_s, each)
        late = Unavailable if wait_s == self._timeout_s else DeadlineExceeded
        outcomes = [_outcome(call, shard, wait_s, late) for call, shard in zip(calls, shards, strict=True)]
        if costly := [i for i, each in enumerate(outcomes) if isinstance(each, ShardHits) and each.costly]:
            answers = await self._search_costly([shards[i] for i in costly], snapshot, query, deadline)
            for i, answer in zip(costly, answers, strict=True):
                outcomes[i] = answer
        errors = [outcome for outcome in outcomes if isinstance(outcome, LookalikeError)]
        if not errors:
            return ShardResults(outcomes, [], seconds)  # type: ignore[arg-type]  # all are hits
        if len(errors) == len(outcomes):
            kinds = DeadlineExceeded, Overloaded, Unavailable  # By a bug only if nothing else hides an answer.
            raise next((error for kind in kinds for error in errors if isinstance(error, kind)), errors[0])
        hits = [None if isinstance(outcome, LookalikeError) else outcome for outcome in outcomes]
        return ShardResults(hits, [told(error) for error in errors], seconds)

    async def _search_costly(
        self, shards: Sequence[ShardClient], snapshot: Snapshot, query: ShardQuery, deadline: Deadline
    ) -> list[ShardHits | LookalikeError]:
        """The outcome at each of these shards, within the deadline. Raises Overloaded."""
        if self._costly >= self._max_costly:
            metrics.COSTLY_REFUSED.inc()
            raise Overloaded(f"{self._costly} costly searches are in flight, the limit is {self._max_costly}")
        wait_s = deadline.remaining_s() * _DEADLINE_SHARE
        self._costly += 1
        metrics.COSTLY.set(self._costly)
        try:
            until = Deadline.after(wait_s)
            calls = [asyncio.ensure_future(shard.search_costly(snapshot, query, until)) for shard in shards]
            await _wait_for(calls, wait_s)
            pairs = zip(calls, shards, strict=True)
            return [_outcome(call, shard, wait_s, DeadlineExceeded) for call, shard in pairs]
        finally:
            self._costly -= 1
            metrics.COSTLY.set(self._costly)

    async def search_beside_exact(
        self, snapshot: Snapshot, query: ShardQuery, deadline: Deadline
    ) -> list[ExactComparison]:
        """What each shard finds by the query, and by the same one searched exactly, both in one state of the shard.

        Raises what the first failure is: without a shard there is nothing to compare.
        """
        queries = [query._replace(exact=False), query._replace(exact=True)]
        return await run_concurrently(_compare(shard, snapshot, queries, deadline) for shard in self._shards)

    async def lookup(
        self, snapshot: Snapshot, product_id: str, spaces: Spaces, deadline: Deadline
    ) -> index_pb2.FetchedProduct:
        """The product with its vectors of at least these spaces; without `product` where there is no such product.

        Raises Unavailable when the one shard that owns the product does not answer.
        """
        return await self._owner(snapshot, product_id).lookup(snapshot, product_id, spaces, deadline)

    async def get(
        self, snapshot: Snapshot, product_id: str, spaces: Spaces, deadline: Deadline
    ) -> index_pb2.FetchedProduct:
        """The product with its description and vectors; without `product` where there is no such product."""
        owner = self._owner(snapshot, product_id)
        (fetched,) = await owner.fetch(snapshot.version, [product_id], deadline, descriptions=True, vectors=spaces)
        return fetched

    async def exist(self, snapshot: Snapshot, ids: Sequence[str], deadline: Deadline) -> list[bool]:
        """Whether there is a product of each id, in the order of `ids`."""
        return [fetched.HasField("product") for fetched in await self.fetch(snapshot, ids, (), deadline)]

    async def fetch(
        self, snapshot: Snapshot, ids: Sequence[str], spaces: Spaces, deadline: Deadline
    ) -> list[index_pb2.FetchedProduct]:
        """The products, in the order of `ids`, with their vectors of these spaces; without `product` for an unknown id.

        Raises Unavailable when a shard that owns one of them does not answer.
        """
        owners = [shard_of(product_id, snapshot.shards) for product_id in ids]
        groups = {shard: [i for i, owner in enumerate(owners) if owner == shard] for shard in sorted(set(owners))}
        responses = await run_concurrently(
            self._shards[shard].fetch(snapshot.version, [ids[i] for i in group], deadline, vectors=spaces)
            for shard, group in groups.items()
        )
        products: dict[int, index_pb2.FetchedProduct] = {}
        for group, response in zip(groups.values(), responses, strict=True):
            products.update(zip(group, response, strict=True))
        return [products[i] for i in range(len(ids))]

    async def apply(
        self, snapshot: Snapshot, updates: Sequence[tuple[str, index_pb2.Update]], deadline: Deadline
    ) -> tuple[list[index_pb2.UpdateResult | LookalikeError], dict[int, int]]:
        """Send each update, given with its product's id, to the shard that owns the product; those of one in order.

        Returns the outcome of each, an error where its shard does not answer, and, by shard, its sequence number after
        them: how many updates it has applied.
        """
        groups: dict[int, list[int]] = {}
        for i, (product_id, _) in enumerate(updates):
            groups.setdefault(shard_of(product_id, snapshot.shards), []).append(i)
        calls = [
            self._shards[shard].apply(snapshot, [updates[i][1] for i in group], deadline)
            for shard, group in groups.items()
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        outcomes: dict[int, index_pb2.UpdateResult | LookalikeError] = {}
        sequences: dict[int, int] = {}
        for (shard, group), answer in zip(groups.items(), answers, strict=True):
            if isinstance(answer, LookalikeError):
                outcomes.update((i, answer) for i in group)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                results, sequences[shard] = answer
                outcomes.update(zip(group, results, strict=True))
        return [outcomes[i] for i in range(len(updates))], sequences

    async def count(self, snapshot: Snapshot, filter: types_pb2.Filter, deadline: Deadline) -> int:
        return sum(
            await run_concurrently(
                shard.count(snapshot.version, filter, deadline) for shard in self._shards_of(snapshot)
            )
        )

    def streams(
        self,
        snapshot: Snapshot,
        filter: types_pb2.Filter,
        after: str,
        deadline: Deadline,
        *,
        descriptions: bool = False,
    ) -> list[AsyncIterator[tuple[str, bytes]]]:
        """One stream of (id, serialized product) per shard, each by rising id."""
        return [
            shard.stream(snapshot.version, filter, after, deadline, descriptions=descriptions)
            for shard in self._shards_of(snapshot)
        ]

    def _owner(self, snapshot: Snapshot, product_id: str) -> ShardClient:
        return self._shards[shard_of(product_id, snapshot.shards)]

    def _shards_of(self, snapshot: Snapshot) -> Sequence[ShardClient]:
        """The shards that the version has: the first of all."""
        return self._shards if snapshot.shards == len(self._shards) else self._shards[: snapshot.shards]


class _Expiry:
    """Cancels futures that are not done `after_s` after they were added. For one event loop.

    One timer serves all: of the loop's own, one for each search would be made and cancelled.
    """

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._added: deque[tuple[float, asyncio.Future[ShardHits]]] = deque()  # With the time that each has until.
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: asyncio.Future[ShardHits]) -> None:
        loop = asyncio.get_running_loop()
        while self._added and self._added[0][1].done():
            self._added.popleft()
        self._added.append((loop.time() + self._after_s, call))
        if self._timer is None:
            self._timer = loop.call_later(self._after_s, self._cancel_late)

    def _cancel_late(self) -> None:
        loop = asyncio.get_running_loop()
        while self._added and (self._added[0][1].done() or self._added[0][0] <= loop.time()):
            self._added.popleft()[1].cancel()  # No effect on those that are done.
        self._timer = loop.call_at(self._added[0][0], self._cancel_late) if self._added else None


def _time(seconds: list[float | None], shard: int, began_s: float, call: asyncio.Future[ShardHits]) -> None:
    if seconds[shard] is None and call.done() and not call.cancelled() and call.exception() is None:
        seconds[shard] = perf_counter() - began_s


async def _wait_for(calls: Sequence[asyncio.Future[ShardHits]], timeout_s: float) -> None:
    """As `_wait`; calls that are not done after `timeout_s` are cancelled."""
    timer = asyncio.get_running_loop().call_later(timeout_s, lambda: [call.cancel() for call in calls])
    try:
        await _wait(calls)
    finally:
        timer.cancel()


async def _wait(calls: Sequence[asyncio.Future[ShardHits]]) -> None:
    """Return when all calls are done or cancelled. When this is cancelled, they are."""
    try:
        for call in calls:
            try:
                await call
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not call.cancelled() or (task is not None and task.cancelling()):
                    raise
            except Exception:  # noqa: S110  # The caller looks at the call.
                pass
    finally:
        for call in calls:
            call.cancel()  # No effect on those that are done.


async def _compare(
    shard: ShardClient, snapshot: Snapshot, queries: Sequence[ShardQuery], deadline: Deadline
) -> ExactComparison:
    began_s = perf_counter()
    approximate, exact = await shard.search_together(snapshot, queries, deadline)
    if error := approximate.error or exact.error:
        raise RuntimeError(f"shard {shard.number} refused a query: {error}")
    return ExactComparison(approximate, exact, exact.cpu_s or perf_counter() - began_s)


def _outcome(
    call: asyncio.Future[ShardHits] | LookalikeError, shard: ShardClient, waited_s: float, late: type[LookalikeError]
) -> ShardHits | LookalikeError:
    if isinstance(call, LookalikeError):
        return call
    if call.cancelled():
        return late(f"shard {shard.number}: no answer within {waited_s:.3g} s")
    if isinstance(error := call.exception(), LookalikeError):
        return error
    hits = call.result()  # Raises any other exception: it is a bug, here or in the shard, and not a missing shard.
    if hits.error:
        raise RuntimeError(f"shard {shard.number} refused a query: {hits.error}")
    return hits
