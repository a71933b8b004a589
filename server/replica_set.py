"""The replicas of one shard: found by name, watched, ejected and taken back. I/O through their transports, and DNS."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from lookalike.errors import LookalikeError, Unavailable
from lookalike.runtime.replicas import Resolve, name_behind
from lookalike.runtime.retry_budget import RetryBudget
from lookalike.v1.index_pb2 import DescribeRequest, DescribeResponse
from server import metrics
from server.replica_changes import NO_CHANGES, MissedChanges, ReplicaPosition, positions_of
from server.replica_health import MAX_PROBE_S, TICK_S, HedgeDelay, ReplicaHealth, ReplicaState
from server.shard_transport import ConnectionFailed, Late, ShardTransport

log = logging.getLogger(__name__)
Reply = TypeVar("Reply")

Connect = Callable[[str, str], ShardTransport]  # To an address, and the name that it was resolved from.

_CLOSE_S = 30.0  # In which the calls to a replica that is gone from its name may end.
_PROBE_TIMEOUT_S = 1.0
_RESOLVE_S = 1.0


@dataclass(slots=True, eq=False)
class Replica:
    """One address of a shard."""

    shard: str
    transport: ShardTransport
    health: ReplicaHealth
    missed: MissedChanges = field(default_factory=MissedChanges)
    description: DescribeResponse | None = None  # The last one.
    calls: set[asyncio.Task[Any]] = field(default_factory=set)
    probe: asyncio.Task[DescribeResponse] | None = None
    ejected_s: float = 0.0
    may_retry: bool = True  # What failed with it may be tried at another.

    @property
    def address(self) -> str:
        return self.transport.address

    def serves(self, version: str) -> bool:
        """Whether it serves the version, as far as is known."""
        return self.description is None or any(each.version == version for each in self.description.versions)


class ReplicaSet:
    """The replicas of the shard of this ordinal; for use on one event loop.

    addresses: host:port of each; a host may be a name of several. resolve: the addresses behind one; raises OSError.
    required_of: the changes that a replica must have to be read: by version, what another one must have passed on.
    """

    def __init__(
        self,
        ordinal: int,
        addresses: Sequence[str],
        *,
        hang_s: float,
        connect: Connect,
        resolve: Resolve,
        required_of: Callable[[str], Mapping[str, int]],
    ) -> None:
        self.label = str(ordinal)
        self.pinned = ""  # The version that requests name: its lease is renewed.
        self.delays = {kind: HedgeDelay() for kind in ("search", "fetch", "count")}
        self._addresses = addresses
        self._hang_s = hang_s
        self._connect = connect
        self._resolve = resolve
        self._required_of = required_of
        self._budget = RetryBudget()
        self._replicas: dict[str, Replica] = {}
        self._closing: set[asyncio.Task[None]] = set()  # The event loop holds tasks only weakly.

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._replicas.values())

    def __len__(self) -> int:
        return len(self._replicas)

    def readable(self) -> list[Replica]:
        """Those in service; where none is, those that would answer, though they may lack changes."""
        in_service = [each for each in self._replicas.values() if each.health.in_service]
        return in_service or [each for each in self._replicas.values() if each.health.state.is_reachable]

    def fastest(self, version: str, without: Collection[Replica] = ()) -> Replica | None:
        """The one of `readable` to call: that serves the version, if one is known to. Of those not in `without`."""
        readable = [each for each in self.readable() if each not in without]
        if len(readable) == 1 and not without:
            return readable[0]
        serving = [each for each in readable if each.serves(version)]
        if not serving and without:
            return None
        now_s = monotonic()
        return min(serving or readable, key=lambda each: each.health.cost(now_s), default=None)

    def why_none(self) -> Unavailable:
        """The error of a shard that has no replica to call."""
        reasons = [each.health.reason for each in self._replicas.values()]
        reason = "; ".join(reasons) or f"shard {'+'.join(self._addresses)}: its name has no address"
        states = [each.health.state.value.replace("_", " ") for each in self._replicas.values()]
        public = f"shard {self.label} is not available (its replicas: {', '.join(states) or 'none'})"
        return Unavailable(reason, retry_after_s=MAX_PROBE_S).hidden_as(public)

    def send(
        self, replica: Replica, call: Callable[[ShardTransport], Awaitable[Reply]], kind: str = ""
    ) -> asyncio.Task[Reply]:
        """Call a replica. If it is ejected meanwhile, the task is cancelled.

        kind: of calls that take about as long as others of their kind: they tell how fast the replica is.
        """
        replica.health.on_sent()
        task: asyncio.Task[Reply] = asyncio.ensure_future(call(replica.transport))
        replica.calls.add(task)
        task.add_done_callback(partial(self._on_done, replica, kind, monotonic()))
        return task

    def probe(self, replica: Replica) -> asyncio.Task[DescribeResponse]:
        """Ask a replica what it serves, unless it is being asked."""
        if replica.probe is None or replica.probe.done():
            replica.health.on_probe(monotonic())
            replica.probe = self.describe(replica, NO_CHANGES, _PROBE_TIMEOUT_S)
        return replica.probe

    def describe(self, replica: Replica, known_sequence: int, timeout_s: float) -> asyncio.Task[DescribeResponse]:
        """Ask a replica what it serves; by the answer it may be in service again, or not any more."""
        request = DescribeRequest(pinned=self.pinned, known_sequence=known_sequence)
        task = self.send(replica, lambda transport: transport.describe(request, timeout_s))
        task.add_done_callback(partial(self._on_described, replica))
        return task

    def note_missed(self, replica: Replica, version: str, acknowledged: Mapping[str, int], reason: str) -> None:
        """A replica lacks a change that others acknowledged (`MissedChanges.add`): it is not read until it has it."""
        if replica.health.state is ReplicaState.DUPLICATE:
            return
        replica.missed.add(version, acknowledged)
        if replica.health.in_service:
            self._move(replica, ReplicaState.BEHIND, f"shard {replica.address}: {reason}")

    def positions(self, descriptions: Mapping[str, DescribeResponse]) -> dict[str, dict[str, ReplicaPosition]]:
        """What replicas have, by address and version, by their descriptions."""
        described = [each for each in self._replicas.values() if each.description]
        names = {each.description.replica: each.address for each in reversed(described) if each.description}
        return {address: positions_of(each, names) for address, each in descriptions.items()}

    async def watch(self, refresh_s: float) -> None:
        """Resolve the addresses every `refresh_s`, and look for replicas that hang or are back, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tick())
            tasks.create_task(self._keep_resolved(refresh_s))

    async def resolve(self) -> None:
        """Find the addresses behind the names. While a name cannot be resolved, all that are known stay."""
        found: dict[str, str] = {}
        for address in self._addresses:
            try:
                async with asyncio.timeout(_RESOLVE_S):
                    resolved = sorted(await self._resolve(address))
                    found |= {each: name_behind(each, address) for each in resolved}
            except (OSError, UnicodeError):  # A TimeoutError, too; the latter for a host that cannot be a name.
                found |= dict.fromkeys(self._replicas, "")
        for address in [each for each in self._replicas if each not in found]:
            log.info("shard %s: replica %s is gone", self.label, address)
            closing = asyncio.create_task(_close(self._replicas.pop(address)))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        now_s = monotonic()
        # In the order of the names, which is that of the gateways' leaders.
        self._replicas = {
            each: self._replicas.get(each)
            or Replica(self.label, self._connect(each, name), ReplicaHealth(self._hang_s, now_s))
            for each, name in found.items()
        }
        self._show()

    async def close(self) -> None:
        for closing in self._closing:
            closing.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await asyncio.gather(*(each.transport.close() for each in self._replicas.values()))

    async def _keep_resolved(self, refresh_s: float) -> None:
        while True:
            await asyncio.sleep(refresh_s)
            await self.resolve()

    async def _tick(self) -> None:
        before_s = monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now_s = monotonic()
            for replica in [*self._replicas.values()]:
                if replica.health.tick(now_s - before_s):
                    reason = f"shard {replica.address}: no answer for {self._hang_s:g} s"
                    self._move(replica, ReplicaState.HUNG, reason)
                elif replica.health.wants_probe(now_s):
                    self.probe(replica)
            before_s = now_s

    def _on_done(self, replica: Replica, kind: str, began_s: float, task: asyncio.Task[Any]) -> None:
        replica.calls.discard(task)
        now_s = monotonic()
        took_s = now_s - began_s
        latency_s = took_s if kind in ("search", "fetch") else None
        if task.cancelled():
            replica.health.on_no_answer(latency_s, now_s)
            if replica.health.state.is_reachable and kind:
                self.delays[kind].add(took_s)  # Another was faster.
            return
        match task.exception():
            case None:
                replica.health.on_answer(latency_s, now_s)
                self._budget.record_success()
                if kind:
                    self.delays[kind].add(took_s)
            case ConnectionFailed() as error:
                replica.health.on_no_answer(None, now_s)
                self._move(replica, ReplicaState.CONNECTION_FAILED, str(error))
            case Late():
                replica.health.on_no_answer(latency_s, now_s)
            case _:
                replica.health.on_answer(None, now_s)

    def _on_described(self, replica: Replica, task: asyncio.Task[DescribeResponse]) -> None:
        if task.cancelled() or task.exception() is not None or self._replicas.get(replica.address) is not replica:
            return
        replica.description = task.result()
        self._move(replica, *self._state_of(replica, replica.description))

    def _state_of(self, replica: Replica, description: DescribeResponse) -> tuple[ReplicaState, str]:
        for other in self._replicas.values():
            if other is replica:
                break
            if not description.replica or other.description is None or not other.health.state.is_reachable:
                continue
            if other.description.replica == description.replica:
                return ReplicaState.DUPLICATE, f"shard {replica.address}: the process of {other.address}"
        if not description.versions:
            return ReplicaState.CATCHING_UP, f"shard {replica.address}: serves no version yet"
        if description.catching_up:
            return ReplicaState.CATCHING_UP, f"shard {replica.address}: is catching up with its peers"
        positions = self._last_positions()
        own = positions.pop(replica.address)
        replica.missed.remove_caught_up(own, positions)
        if replica.missed or (not replica.health.in_service and self._lacks_required(own)):
            return ReplicaState.BEHIND, f"shard {replica.address}: lacks changes that other replicas have"
        return ReplicaState.IN_SERVICE, ""

    def lag(self, replica: Replica) -> float:
        """How many changes a replica lacks of those that it missed, as far as it says."""
        return replica.missed.lag(self._last_positions()[replica.address]) if replica.description else math.inf

    def _last_positions(self) -> dict[str, dict[str, ReplicaPosition]]:
        return self.positions({a: each.description for a, each in self._replicas.items() if each.description})

    def _lacks_required(self, own: Mapping[str, ReplicaPosition]) -> bool:
        return any(
            position.of(address) < sequence
            for version, position in own.items()
            for address, sequence in self._required_of(version).items()
            if address in self._replicas and self._replicas[address].health.in_service
        )

    def _move(self, replica: Replica, state: ReplicaState, reason: str) -> None:
        """Enter a state: what is in flight to a replica that is ejected ends now."""
        before = replica.health.state
        if not replica.health.move_to(state, reason, monotonic()):
            return
        if before is ReplicaState.IN_SERVICE:
            replica.ejected_s = monotonic()
            metrics.SHARD_EJECTIONS.labels(self.label, state.value).inc()
            log.warning("shard %s: replica %s is out of service (%s): %s", self.label, replica.address, *_why(replica))
        elif state is ReplicaState.IN_SERVICE:
            after = f" after {monotonic() - replica.ejected_s:.1f} s" if replica.ejected_s else ""
            log.info("shard %s: replica %s is in service%s", self.label, replica.address, after)
        elif before is ReplicaState.NEW:
            level = logging.INFO if state is ReplicaState.CATCHING_UP else logging.WARNING  # As after every start.
            log.log(
                level, "shard %s: replica %s is not in service (%s): %s", self.label, replica.address, *_why(replica)
            )
        if not state.is_reachable:
            replica.may_retry = self._budget.record_failure()
            for task in replica.calls - {replica.probe}:
                task.cancel()
        self._show()

    def _show(self) -> None:
        states = [each.health.state for each in self._replicas.values()]
        for state in ReplicaState:
            metrics.SHARD_REPLICAS.labels(self.label, state.value).set(states.count(state))


def _why(replica: Replica) -> tuple[str, str]:
    return replica.health.state.value, replica.health.reason


async def _close(replica: Replica) -> None:
    """Close a replica that is not called any more, when its calls have ended."""
    try:
        if replica.calls:
            await asyncio.wait(replica.calls, timeout=_CLOSE_S)
    finally:
        await replica.transport.close()


def failure_of(task: asyncio.Task[Any], replica: Replica) -> LookalikeError | None:
    """The error of a call that has ended; None: it was answered. Raises what is a bug."""
    if task.cancelled():
        return ConnectionFailed(replica.health.reason).hidden_as(f"shard {replica.shard} does not answer")
    error = task.exception()
    if error is not None and not isinstance(error, LookalikeError):
        raise error
    return error


def public_error(error: LookalikeError) -> LookalikeError:
    """The error as callers of a shard know it."""
    return Unavailable(str(error)).hidden_as(error.public) if isinstance(error, Unavailable) else error
