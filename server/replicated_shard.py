"""A shard of one or several replicas, each of which has all of its products. I/O through their transports.

Reads go to the replica that is the fastest now, to another one beside it where that is late, and to another one where
it fails. Changes go to all that are in service; the others get them from their peers before they are read again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from functools import partial
from secrets import token_hex
from time import monotonic
from typing import Any, TypeVar

from lookalike.errors import FailedPrecondition, LookalikeError, Unavailable
from lookalike.runtime.call import note
from lookalike.runtime.replicas import Resolve, resolve_address
from lookalike.shard_query import ShardHits, ShardQuery
from lookalike.v1 import index_pb2
from server import metrics
from server.remote_shard import RemoteShard
from server.replica_changes import NO_CHANGES, ChangeNumbers
from server.replica_health import HedgeBudget, ReplicaState
from server.replica_merge import leader_of, merge_descriptions, merge_results
from server.replica_set import Connect, Replica, ReplicaSet, failure_of, public_error
from server.settings import GatewaySettings
from server.shard_transport import ConnectionFailed, ShardTransport

log = logging.getLogger(__name__)
Reply = TypeVar("Reply")
Call = Callable[[ShardTransport], Awaitable[Reply]]

_PROBE_GRACE_S = 0.05  # In which an ejected replica may answer a poll that need not wait for it.
_HOLD_S, _HOLD_AGAIN_S = 1.0, 5.0  # Writes wait at most so long for a replica that lacks the last few, and how often.
_HOLD_CHANGES = 1000  # A replica gets as many from its peers meanwhile.
_POLL_S = 0.05
_MAX_VERSIONS = 8  # Whose numbers are kept: two are served at a time.


class ReplicatedShard:
    """The ShardTransport to the replicas of the shard of this ordinal.

    addresses: host:port of each; a host may be a name of several.
    """

    def __init__(
        self,
        ordinal: int,
        addresses: Sequence[str],
        settings: GatewaySettings,
        *,
        connect: Connect | None = None,
        resolve: Resolve = resolve_address,
    ) -> None:
        self.address = "+".join(addresses)
        self._settings = settings
        self._replicas = ReplicaSet(
            ordinal,
            addresses,
            hang_s=settings.shard_hang_s,
            connect=connect or partial(RemoteShard, shard=ordinal),
            resolve=resolve,
            required_of=lambda version: self._numbers_of(version).required_of(),
        )
        self._hedges = HedgeBudget(settings.hedge_share)
        self._numbers: dict[str, ChangeNumbers] = {}
        self.numbering = ""  # Read by other threads, too.
        self._own_numbering = token_hex(8)
        self._writing = 0
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._holding: asyncio.Task[None] | None = None
        self._hold_again_s = 0.0

    @property
    def in_service(self) -> int:
        return max(1, sum(each.health.in_service for each in self._replicas))

    def replica_states(self) -> Sequence[ReplicaState]:
        """Of each replica, in the order of their addresses."""
        return [each.health.state for each in self._replicas]

    def sources(self) -> Sequence[ShardTransport]:
        return [each.transport for each in self._replicas.readable()]

    async def watch(self) -> None:
        await self._replicas.watch(self._settings.refresh_s)

    async def close(self) -> None:
        if self._holding is not None:
            self._holding.cancel()
        await self._replicas.close()

    async def describe(self, request: index_pb2.DescribeRequest, timeout_s: float) -> index_pb2.DescribeResponse:
        """What all replicas serve, as one: `sequence` and `changes` are of all that are read, by `ChangeNumbers`."""
        await self._resolve_first()
        self._replicas.pinned = request.pinned
        responses = await self._poll(request, timeout_s)
        if not responses:
            raise self._replicas.why_none()
        merged = merge_descriptions(responses, request.pinned)
        merged.catching_up |= not any(each.health.in_service for each in self._replicas)
        positions = self._replicas.positions(responses)
        for state in merged.versions:
            read = {each: has[state.version] for each, has in positions.items() if state.version in has}
            state.sequence, changes = self._numbers_of(state.version).add_poll(
                leader_of(responses, state.version), read, state.changes, request.known_sequence
            )
            state.changes.CopyFrom(changes)
            self._note_numbering(state.version)
        self._hold_writes_if_due()
        return merged

    async def search(
        self, version: str, queries: Sequence[ShardQuery], timeout_s: float, *, ordinary_only: bool
    ) -> Sequence[ShardHits]:
        def call(transport: ShardTransport, timeout_s: float) -> Awaitable[Sequence[ShardHits]]:
            return transport.search(version, queries, timeout_s, ordinary_only=ordinary_only)

        # Costly searches take as long as they take: that one is late says nothing, and a second one would cost as much.
        return await self._read(version, call, timeout_s, "search" if ordinary_only else "")

    async def fetch(self, request: index_pb2.FetchRequest, timeout_s: float) -> Sequence[index_pb2.FetchedProduct]:
        return await self._read(request.version, lambda each, left_s: each.fetch(request, left_s), timeout_s, "fetch")

    async def count(self, request: index_pb2.ShardCountRequest, timeout_s: float) -> int:
        return await self._read(request.version, lambda each, left_s: each.count(request, left_s), timeout_s, "count")

    async def list(
        self, request: index_pb2.ShardListRequest, timeout_s: float | None
    ) -> AsyncIterator[index_pb2.ShardListPage]:
        """Goes on at another replica where one fails, after the last product."""
        rest, until_s, failed = index_pb2.ShardListRequest(), _until(timeout_s), list[Replica]()
        rest.CopyFrom(request)
        while True:
            replica = await self._replica_for(request.version, failed)
            try:
                async with aclosing(self._pages(replica, lambda each, s: each.list(rest, s), _left(until_s))) as pages:
                    async for page in pages:
                        yield page
                        if page.ids:
                            rest.after = page.ids[-1]
                return
            except ConnectionFailed as error:
                failed.append(replica)
                if not replica.may_retry or self._replicas.fastest(request.version, failed) is None:
                    raise public_error(error) from error
                metrics.SHARD_RETRIES.labels(self._replicas.label).inc()

    async def list_changes(
        self, request: index_pb2.ListChangesRequest, timeout_s: float | None
    ) -> AsyncIterator[index_pb2.ListChangesPage]:
        """Of one replica, by whose numbers they are."""
        replica = await self._replica_for("", ())
        try:
            async with aclosing(
                self._pages(replica, lambda each, s: each.list_changes(request, s), timeout_s)
            ) as pages:
                async for page in pages:
                    yield page
        except ConnectionFailed as error:
            raise public_error(error) from error

    async def apply(self, request: index_pb2.ApplyRequest, timeout_s: float) -> index_pb2.ApplyResponse:
        """Applied when all replicas that are read have applied it; one that fails is not read until it has it.

        Raises Unavailable where fewer than `write_quorum` have: some may have, and it may be sent again.
        """
        until_s = monotonic() + timeout_s
        if not self._may_write.is_set():
            await self._may_write.wait()  # At most `_HOLD_S`.
        self._writing += 1
        try:
            return await self._apply(request, until_s)
        finally:
            self._writing -= 1

    async def seal(self, request: index_pb2.SealRequest, timeout_s: float) -> index_pb2.SealResponse:
        """All replicas are sealed. `sequence` is that of the first."""
        first, *_ = await self._call_all(lambda each: each.seal(request, timeout_s))
        return first

    async def finish_handover(self, request: index_pb2.FinishHandoverRequest, timeout_s: float) -> None:
        await self._call_all(lambda each: each.finish_handover(request, timeout_s))

    # Reads.

    async def _read(
        self, version: str, call: Callable[[ShardTransport, float], Awaitable[Reply]], timeout_s: float, kind: str
    ) -> Reply:
        """kind: of calls that may be hedged, by the time that others of their kind take; empty: they may not."""
        until_s, calls, tried = monotonic() + timeout_s, dict[asyncio.Task[Reply], Replica](), list[Replica]()

        def send(replica: Replica) -> None:
            tried.append(replica)
            left_s = max(0.001, until_s - monotonic())
            calls[self._replicas.send(replica, lambda each: call(each, left_s), kind)] = replica

        self._hedges.add_call()
        replica, retried = await self._replica_for(version, ()), False
        error: LookalikeError | None = None
        hedge_s = self._replicas.delays[kind].seconds if kind and len(self._replicas) > 1 else None
        try:
            send(replica)
            while True:
                done = await _first_done(calls, hedge_s)
                if not done:
                    hedge_s = None  # Once.
                    if (other := self._replicas.fastest(version, tried)) is not None and self._hedges.take():
                        metrics.SHARD_HEDGES.labels(self._replicas.label).inc()
                        note("hedged")
                        send(other)
                    continue
                for task in done:
                    replica = calls.pop(task)
                    if (error := failure_of(task, replica)) is None:
                        return task.result()
                if calls or error is None:
                    continue  # The other one may answer.
                other = None if retried else self._other(error, version, replica, tried)
                if other is None:
                    raise public_error(error) from error
                metrics.SHARD_RETRIES.labels(self._replicas.label).inc()
                note("retried")
                retried, hedge_s = True, None
                send(other)
        finally:
            for task in calls:
                task.cancel()

    def _other(self, error: LookalikeError, version: str, replica: Replica, tried: Sequence[Replica]) -> Replica | None:
        """Where to try again what failed; None: nowhere."""
        if isinstance(error, FailedPrecondition) or (isinstance(error, ConnectionFailed) and replica.may_retry):
            return self._replicas.fastest(version, tried)
        return None

    async def _replica_for(self, version: str, without: Sequence[Replica]) -> Replica:
        await self._resolve_first()
        replica = self._replicas.fastest(version, without)
        if replica is None:
            raise self._replicas.why_none()
        return replica

    async def _resolve_first(self) -> None:
        if not len(self._replicas):
            await self._replicas.resolve()

    async def _pages(
        self,
        replica: Replica,
        call: Callable[[ShardTransport, float | None], AsyncIterator[Reply]],
        timeout_s: float | None,
    ) -> AsyncGenerator[Reply, None]:
        """Raises ConnectionFailed where the replica is ejected."""
        pages: Any = call(replica.transport, timeout_s)
        try:
            while True:
                task = self._replicas.send(replica, lambda _: anext(pages, None))
                try:
                    await asyncio.wait([task])
                finally:
                    if not task.done():
                        task.cancel()
                        await asyncio.wait([task])  # Until then `pages` cannot be closed.
                if (error := failure_of(task, replica)) is not None:
                    raise error if isinstance(error, ConnectionFailed) else public_error(error)
                if (page := task.result()) is None:
                    return
                yield page
        finally:
            await pages.aclose()

    # What all replicas are asked.

    async def _poll(
        self, request: index_pb2.DescribeRequest, timeout_s: float
    ) -> dict[str, index_pb2.DescribeResponse]:
        """The answers of those that are read, by address, in order. One that is ejected is not waited for."""
        numbers, waited, others = self._numbers_of(request.pinned), {}, {}
        for replica in self._replicas:
            if replica.health.state.is_reachable:
                known = numbers.known_of(replica.address, request.known_sequence)
                waited[replica] = self._replicas.describe(replica, known, timeout_s)
            else:
                others[replica] = self._replicas.probe(replica)
        if waited:
            await asyncio.wait(waited.values())
        if others:
            await asyncio.wait(others.values(), timeout=_PROBE_GRACE_S)
        answered = {
            each.address: task.result()
            for each, task in {**waited, **others}.items()
            if task.done() and not task.cancelled() and task.exception() is None and task.result().versions
        }
        return {each.address: answered[each.address] for each in self._replicas.readable() if each.address in answered}

    async def _apply(self, request: index_pb2.ApplyRequest, until_s: float) -> index_pb2.ApplyResponse:
        await self._resolve_first()
        readable = self._replicas.readable()
        targets = [each for each in readable if each.serves(request.version)] or readable
        if not targets:
            raise self._replicas.why_none()
        quorum = self._settings.write_quorum
        if len(targets) < quorum:
            raise Unavailable(
                f"shard {self._replicas.label}: {len(targets)} replicas are in service, a change needs {quorum}"
            )
        left_s = max(0.001, until_s - monotonic())
        acknowledged, errors = await self._call_each(targets, lambda each: each.apply(request, left_s))
        # One that does not serve the version (any more) lacks nothing of it.
        excused = [each for each, error in errors.items() if isinstance(error, FailedPrecondition)]
        excused += [each for each in self._replicas if not each.serves(request.version)]
        merged = (
            merge_results({each.address: response for each, response in acknowledged.items()}) if acknowledged else None
        )
        if merged is not None:
            sequences = {
                each.address: response.sequence
                for each, response in acknowledged.items()
                if each.address not in merged.diverged
            }
            for replica in self._replicas:
                if replica.address not in sequences and replica not in excused:
                    why = str(errors.get(replica, "it lacks a product"))
                    self._replicas.note_missed(replica, request.version, sequences, f"missed a change: {why}")
        if merged is None or len(acknowledged) < quorum:
            raise _no_quorum(self._replicas.label, len(acknowledged), quorum, [*errors.values()])
        if merged.disordered:
            metrics.WRITES_DISORDERED.labels(self._replicas.label).inc(merged.disordered)
            log.warning(
                "shard %s: %d changes reached its replicas in another order than later ones of the same products",
                *(self.address, merged.disordered),
            )
        number = self._numbers_of(request.version).add_own(len(merged.results), sequences)
        self._note_numbering(request.version)
        if len(acknowledged) == 1:
            (response,) = acknowledged.values()
            response.sequence = number
            return response
        return index_pb2.ApplyResponse(results=merged.results, sequence=number)

    async def _call_all(self, call: Call[Reply]) -> Sequence[Reply]:
        """The answers of all that are read. Raises the error of one that fails."""
        await self._resolve_first()
        if not (readable := self._replicas.readable()):
            raise self._replicas.why_none()
        answers, errors = await self._call_each(readable, call)
        for error in errors.values():
            raise public_error(error) from error
        return [*answers.values()]

    async def _call_each(
        self, replicas: Sequence[Replica], call: Call[Reply]
    ) -> tuple[dict[Replica, Reply], dict[Replica, LookalikeError]]:
        tasks = {each: self._replicas.send(each, call) for each in replicas}
        try:
            await asyncio.wait(tasks.values())
        finally:
            for task in tasks.values():
                task.cancel()  # No effect on those that are done.
        errors = {each: error for each, task in tasks.items() if (error := failure_of(task, each)) is not None}
        return {each: task.result() for each, task in tasks.items() if each not in errors}, errors

    # The return of a replica that has missed changes.

    def _hold_writes_if_due(self) -> None:
        """While changes are made all the time, a replica that gets them from its peers lacks the last ones for ever."""
        behind = [each for each in self._replicas if each.health.state is ReplicaState.BEHIND]
        lagging = [each for each in behind if self._replicas.lag(each) <= _HOLD_CHANGES]
        is_due = monotonic() >= self._hold_again_s and any(each.health.in_service for each in self._replicas)
        if lagging and is_due and (self._holding is None or self._holding.done()):
            self._holding = asyncio.create_task(self._hold_writes(lagging))

    async def _hold_writes(self, lagging: Sequence[Replica]) -> None:
        """Let no change begin until these replicas have what was made before, or `_HOLD_S` have passed."""
        self._may_write.clear()
        try:
            async with asyncio.timeout(_HOLD_S):
                while self._writing or any(each.health.state is ReplicaState.BEHIND for each in lagging):
                    calls = [self._replicas.describe(each, NO_CHANGES, _HOLD_S) for each in lagging]
                    await asyncio.wait(calls)
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            self._hold_again_s = monotonic() + _HOLD_AGAIN_S
        finally:
            self._may_write.set()

    def _note_numbering(self, version: str) -> None:
        if self._numbers_of(version).is_own:
            self.numbering = self._own_numbering

    def _numbers_of(self, version: str) -> ChangeNumbers:
        numbers = self._numbers.pop(version, None) or ChangeNumbers()
        self._numbers[version] = numbers  # Last, as the newest used.
        for older in [*self._numbers][:-_MAX_VERSIONS]:
            del self._numbers[older]
        return numbers


async def _first_done(
    calls: Collection[asyncio.Task[Reply]], timeout_s: float | None
) -> Collection[asyncio.Task[Reply]]:
    """Those of the calls that have ended when the first has, or none after the time-out."""
    if len(calls) > 1 or timeout_s is not None:
        return (await asyncio.wait(calls, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED))[0]
    (call,) = calls  # The usual case where there is one replica, in less CPU.
    try:
        await call
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if not call.cancelled() or (task is not None and task.cancelling()):
            raise
    except LookalikeError:  # The caller looks at the call.
        pass
    return [call]


def _no_quorum(shard: str, made: int, quorum: int, errors: Sequence[LookalikeError]) -> LookalikeError:
    """The error of a change that too few replicas made: that of all of them, if it is one."""
    if not made and len({type(error) for error in errors}) == 1:
        return public_error(errors[0])
    what = f"shard {shard}: {made} replicas have made the change, it needs {quorum}"
    return Unavailable(f"{what}: {'; '.join(map(str, errors))}").hidden_as(what)


def _until(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else monotonic() + timeout_s


def _left(until_s: float | None) -> float | None:
    return None if until_s is None else max(0.001, until_s - monotonic())
