"""The replicas of one service: found by name, asked what they serve, and called where they serve it. Network I/O.

A name may resolve to several addresses (a headless Service's are those of its pods), and several may be listed. Each
address has a channel of its own, so that a call reaches a replica that serves what it needs while others do not yet,
and a circuit breaker, so that one that hangs or is gone is left out.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import grpc
import grpc.aio

from lookalike.channels import aio_channel
from lookalike.errors import Unavailable
from lookalike.runtime import tracing
from lookalike.runtime.circuit_breaker import CircuitBreaker
from lookalike.runtime.concurrently import run_concurrently
from lookalike.runtime.hang_guard import HangGuard, Hung
from lookalike.runtime.retry_budget import RetryBudget

log = logging.getLogger(__name__)

Stub = TypeVar("Stub")
State = TypeVar("State")
Reply = TypeVar("Reply")

Resolve = Callable[[str], Awaitable[Sequence[str]]]

CLOSE_S = 30.0  # In which the calls to a replica that is gone from its name may end.
MAX_LATE = 5  # Polls in a row: a busy replica answers late, one whose machine is gone never does.
MAX_FAILURES = 2  # In a row, of polls and calls: then calls go to others.
_SILENT = "a server that the request needs has not answered lately"
PAUSE_S = 1.0  # Between two calls, or polls, that try whether a replica answers again.
HANGS_S = 0.5  # A call that was given up earlier says nothing about its replica: its caller may have been in a hurry.


@dataclass(slots=True, eq=False)
class _Replica(Generic[Stub, State]):
    address: str
    channel: grpc.aio.Channel
    stub: Stub
    guard: HangGuard
    state: State | None = None  # None: it was not reached when it was last asked, or never asked.
    in_flight: int = 0
    late: int = 0  # Polls in a row that it did not answer in time.
    hung: bool = False  # Whether calls were late, and none was answered since.
    breaker: CircuitBreaker = field(default_factory=lambda: CircuitBreaker(max_failures=MAX_FAILURES, pause_s=PAUSE_S))

    async def ask(self, describe: Callable[[Stub], Awaitable[State]], clock: Callable[[], float]) -> None:
        """Ask for its state. One that answers is called again; one whose calls hung, by one call at first."""
        try:
            self.state, self.late = await describe(self.stub), 0
            if self.hung:
                self.breaker.end_pause(clock())
            else:
                self.record_success()
        except grpc.aio.AioRpcError as error:
            if _is_late(error):
                self.late += 1
                self.record_failure(error, clock())
            else:
                self.late = MAX_LATE
                self.note(self.breaker.trip(clock()), error)
            if self.late >= MAX_LATE:
                self.state = None

    def record_failure(self, error: grpc.aio.AioRpcError, now_s: float) -> None:
        self.note(self.breaker.record_failure(now_s), error)

    def record_success(self) -> None:
        self.hung = False
        if self.breaker.record_success():
            log.info("%s answers again", self.address)

    def note(self, opened: bool, error: Exception) -> None:
        if opened:
            reason = f"{error.code().name}: {error.details()}" if isinstance(error, grpc.aio.AioRpcError) else error
            log.warning("%s is left out until it answers: %s", self.address, reason)

    def is_lost(self, error: grpc.aio.AioRpcError) -> bool:
        """Whether a call failed with its connection; one that the replica itself answers by UNAVAILABLE has not."""
        is_connected = self.channel.get_state() is grpc.ChannelConnectivity.READY
        return error.code() is grpc.StatusCode.UNAVAILABLE and not is_connected

    def rank(self, serves: Callable[[State], bool]) -> tuple[bool, int, bool, int]:
        """Sort key: whether it answers, serves what a call needs, and is busy. A broken one fails fast: never busy."""
        silent = self.late > 0 and not self.breaker.is_closed
        served = 1 if self.state is None else 0 if serves(self.state) else 2
        broken = self.channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
        return silent, served, broken, self.in_flight


class Replicas(Generic[Stub, State]):
    """The replicas behind some addresses; for use on one event loop.

    addresses: host:port of each; a host may be a name of several. Until `poll` has resolved them, they are called as
    they are.
    connect: makes the stub, or stubs, of a channel.
    resolve: the addresses behind one. Raises OSError.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        connect: Callable[[grpc.aio.Channel], Stub],
        resolve: Resolve,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._addresses = addresses
        self._connect = connect
        self._resolve = resolve
        self._clock = clock
        self._replicas: dict[str, _Replica[Stub, State]] = {}
        self._retry_budget = RetryBudget()
        self._closing: set[asyncio.Task[None]] = set()  # The event loop holds tasks only weakly.
        self._set_addresses(dict.fromkeys(addresses, ""))

    async def poll(self, describe: Callable[[Stub], Awaitable[State]]) -> Mapping[str, State]:
        """Resolve the addresses, and ask every replica for its state; that of each that was reached, by address.

        describe: raises grpc.aio.AioRpcError where a replica cannot be reached.
        """
        found = await run_concurrently(map(self._resolve_known, self._addresses))
        self._set_addresses(
            {
                each: name_behind(each, address)
                for address, each_of in zip(self._addresses, found, strict=True)
                for each in each_of
            }
        )
        replicas = dict(self._replicas)
        await run_concurrently(each.ask(describe, self._clock) for each in replicas.values())
        return {address: each.state for address, each in replicas.items() if each.state is not None}

    async def call(self, send: Callable[[Stub], Awaitable[Reply]], serves: Callable[[State], bool]) -> Reply:
        """Call a replica that serves what the call needs, of these the one with the fewest calls in flight.

        If none is known to serve it, another is asked, which says what it serves. Retries once on another replica where
        the connection fails or a replica hangs, unless most calls do, and where one no longer serves what the other is
        known to serve.
        Raises grpc.aio.AioRpcError; Unavailable, at once, while all of them have failed lately.
        """
        replica = self._choose(self._replicas.values(), serves)
        try:
            return await self._send(replica, send)
        except Hung:
            if not self._retry_budget.record_failure():
                raise
            others = [each for each in self._replicas.values() if each is not replica]
            if not any(each.breaker.allows(self._clock()) for each in others):
                raise
        except grpc.aio.AioRpcError as error:
            others = [each for each in self._replicas.values() if each is not replica]
            match error.code():
                case grpc.StatusCode.UNAVAILABLE if self._retry_budget.record_failure():
                    others = others or [*self._replicas.values()]
                case grpc.StatusCode.FAILED_PRECONDITION:
                    replica.state = None
                    others = [each for each in others if each.state is not None and serves(each.state)]
                case _:
                    others = []
            if not any(each.breaker.allows(self._clock()) for each in others):
                raise
        return await self._send(self._choose(others, serves), send)

    async def close(self) -> None:
        await asyncio.gather(*(each.channel.close() for each in self._replicas.values()), *self._closing)

    async def _resolve_known(self, address: str) -> Sequence[str]:
        """The addresses behind one; while its name cannot be resolved, all that are known stay."""
        try:
            return await self._resolve(address)
        except (OSError, UnicodeError):  # The latter for a host that cannot be a name.
            return [*self._replicas]

    def _set_addresses(self, addresses: Mapping[str, str]) -> None:
        """addresses: with the name that each was resolved from."""
        for address in [each for each in self._replicas if each not in addresses]:
            closing = asyncio.ensure_future(self._replicas.pop(address).channel.close(CLOSE_S))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        for address, name in addresses.items():
            if address not in self._replicas:
                channel = aio_channel(address, name)
                self._replicas[address] = _Replica(
                    address, channel, self._connect(channel), HangGuard(channel, address)
                )

    async def _send(self, replica: _Replica[Stub, State], send: Callable[[Stub], Awaitable[Reply]]) -> Reply:
        began_s = self._clock()
        replica.breaker.begin(began_s)
        replica.in_flight += 1
        try:
            with tracing.span("call replica", tracing.Kind.CLIENT) as span:
                span.set(**{"server.address": replica.address})
                reply = await replica.guard.call(send(replica.stub))
        except Hung as error:
            replica.hung = True
            replica.note(replica.breaker.trip(self._clock()), error)
            raise
        except grpc.aio.AioRpcError as error:
            now_s = self._clock()
            if replica.is_lost(error) or (_is_late(error) and now_s - began_s >= HANGS_S):
                replica.hung |= _is_late(error)
                replica.record_failure(error, now_s)
            elif not _is_late(error):
                replica.record_success()
            raise
        finally:
            replica.in_flight -= 1
        replica.record_success()
        self._retry_budget.record_success()
        return reply

    def _choose(
        self, replicas: Collection[_Replica[Stub, State]], serves: Callable[[State], bool]
    ) -> _Replica[Stub, State]:
        """The best of those that calls may go to. Raises Unavailable where there is none."""
        now_s = self._clock()
        if allowed := [each for each in replicas if each.breaker.allows(now_s)]:
            return min(allowed, key=lambda each: each.rank(serves))
        retry_after_s = min((each.breaker.retry_after_s(now_s) for each in replicas), default=PAUSE_S)
        message = f"none of {', '.join(self._replicas)} has answered lately"
        raise Unavailable(message, retry_after_s=retry_after_s).hidden_as(_SILENT)


def _is_late(error: grpc.aio.AioRpcError) -> bool:
    return error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def resolve_address(address: str) -> Sequence[str]:
    """host:port of every address that the host has. Raises OSError where there is none."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or _is_literal(host):
        return [address]
    found = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    return [
        f"[{sockaddr[0]}]:{port}" if family == socket.AF_INET6 else f"{sockaddr[0]}:{port}"
        for family, *_, sockaddr in found
    ]


def name_behind(resolved: str, address: str) -> str:
    """The host of the address from which another one was resolved: the name that its certificate has; "": itself."""
    return "" if resolved == address else address.rpartition(":")[0]


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
