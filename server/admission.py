"""Admission control: bounds on calls and bytes in flight, checked before any work is done for a call. Reads the clock.

A handler takes a `Permit`, so that no call reaches it without having been admitted. A call is refused at once where too
many are in flight for the latencies to stay (`server/concurrency_limit.py`), where too many bytes of requests are, and
where it cannot end before its deadline.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from math import inf
from time import monotonic
from types import MappingProxyType
from typing import Any

from google.protobuf.message import Message

from lookalike.errors import LookalikeError, Overloaded
from lookalike.runtime import edge
from lookalike.runtime.deadline import Deadline
from lookalike.status import code_of
from server import metrics
from server.concurrency_limit import ConcurrencyLimit, Kind
from server.key_limits import KeyLimits, Usage
from server.metrics import RequestTimer, time_request


class Permit:
    """Proof that a call was admitted, held while its context is open. Only `Admission.permit` makes one."""

    __slots__ = ("_admission", "_bytes", "_calls", "_items", "_method", "_taken_s", "_usage", "timer")

    def __init__(
        self, admission: Admission, calls: int, size: int, *, method: str, timer: RequestTimer, items: int
    ) -> None:
        self._admission = admission
        self._calls = calls
        self._items = items
        self._bytes = size
        self._method = method
        self.timer = timer  # Measures this call.

    def __enter__(self) -> Permit:
        self._usage = self._admission.take(self._calls, self._bytes, self._items)
        self._taken_s = monotonic()
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self._admission.give_back(self._calls, self._bytes, self._usage)
        if kind is None and self._method and "search" in self.timer.stages and not self.timer.costly:
            self._admission.measure(_kind(self._method, self.timer), self._taken_s)


def _kind(method: str, timer: RequestTimer) -> Kind:
    return (method, timer.space, "encodes" if "encode" in timer.stages else "")


UnaryHandler = Callable[[Any, Deadline, Permit], Awaitable[Message | bytes]]
# The reply to a call, or None where that takes more than a look; called on any thread. It takes no permit: there is one
# such call at a time, and none when no permit is left.
AtOnce = Callable[[Any, RequestTimer], bytes | None]
StreamHandler = Callable[[Any, Deadline, Permit], AsyncGenerator[Message | bytes, None]]


class Admission:
    """Permits, shared by all methods: `max_inflight`, or `min_inflight` while calls wait. For use on one event loop."""

    def __init__(
        self, max_inflight: int, min_inflight: int = 128, max_bytes: float = inf, keys: KeyLimits | None = None
    ) -> None:
        self._max_inflight = max_inflight
        self._max_bytes = max_bytes
        self._limit = ConcurrencyLimit(max_inflight, least=min_inflight)
        self._keys = keys or KeyLimits()
        self._inflight = self._bytes = 0
        metrics.INFLIGHT.set_function(lambda: self._inflight)
        metrics.INFLIGHT_BYTES.set_function(lambda: self._bytes)
        metrics.CONCURRENCY_LIMIT.set_function(lambda: self._limit.limit)

    def permit(
        self, timer: RequestTimer, calls: int = 1, size: int = 0, method: str = "", items: int | None = None
    ) -> Permit:
        """A permit for work that counts as so many calls, taken and given back by its context.

        Work that counts as more than all permits, or bytes, is admitted when nothing else is in flight.

        size:   bytes of the request.
        method: of calls whose latencies decide how many may be in flight; empty: they do not.
        items:  calls that it counts as against the rate of its caller; None: `calls`.
        """
        return Permit(self, calls, size, method=method, timer=timer, items=calls if items is None else items)

    def take(self, calls: int, size: int, items: int) -> Usage | None:
        """Raises Overloaded at once where too few permits are left, or too little of the caller's own limits."""
        limit = self._limit.limit
        usage = self._keys.begin(calls, items, size, self._inflight, limit)
        try:
            self._check_room(calls, size, limit)
        except Overloaded:
            if usage is not None:
                self._keys.end(usage, calls)
            raise
        self._inflight += calls
        self._bytes += size
        self._limit.admitted(self._inflight)
        return usage

    def _check_room(self, calls: int, size: int, limit: int) -> None:
        if self._inflight and self._inflight + calls > limit:
            raise self._refusal(f"{self._inflight} calls are in flight, the limit is {limit}")
        if self._bytes and self._bytes + size > self._max_bytes:
            raise self._refusal(f"{self._bytes} bytes of requests are in flight, the limit is {self._max_bytes}")

    def give_back(self, calls: int, size: int, usage: Usage | None) -> None:
        if usage is not None:
            self._keys.end(usage, calls)
        self._inflight -= calls
        self._bytes -= size

    def measure(self, kind: Kind, since_s: float) -> None:
        """Learn from a call that was answered."""
        now_s = monotonic()
        self._limit.ended(kind, now_s - since_s, now_s)

    def check_deadline(self, method: str, deadline: Deadline) -> None:
        """Raises Overloaded where a call of the method cannot end by then, as long as these take now."""
        now_s = monotonic()
        left_s, needed_s = deadline.at_s - now_s, self._limit.least_s(method, now_s)
        if left_s < needed_s:
            raise self._refusal(f"calls take {needed_s:.3f} s and more now, the deadline is in {max(0, left_s):.3f} s")

    def _refusal(self, reason: str) -> Overloaded:
        metrics.REFUSED.inc()
        return Overloaded(reason, retry_after_s=self._limit.refused())

    def admit(
        self,
        unary: Mapping[str, UnaryHandler],
        *,
        streams: Mapping[str, StreamHandler] = MappingProxyType({}),
        calls: Mapping[str, Callable[[Any], int]] = MappingProxyType({}),
        items: Mapping[str, Callable[[Any], int]] = MappingProxyType({}),
        at_once: Mapping[str, AtOnce] = MappingProxyType({}),
        measured: Collection[str] = (),
    ) -> edge.Methods:
        """Wrap handlers in admission control, by method name.

        calls:    of methods whose requests count as more than one call, how many one counts as.
        items:    the same, against the rate of its caller, where that is another number.
        at_once:  of methods that answer some calls without waiting for anything, what answers these.
        measured: the methods of searches, whose latencies decide how many calls may be in flight, and which are refused
                  where they cannot end before their deadline.

        Each call is timed under its method's name and holds a permit until it ends: a stream until it is exhausted,
        is cancelled or fails. A refused call is timed too: it counts as RESOURCE_EXHAUSTED.
        """
        return {
            **{
                method: self._admit_unary(
                    method,
                    handler,
                    calls.get(method),
                    items.get(method),
                    at_once=at_once.get(method),
                    measured=method in measured,
                )
                for method, handler in unary.items()
            },
            **{method: self._admit_stream(method, handler) for method, handler in streams.items()},
        }

    def _admit_unary(
        self,
        method: str,
        handler: UnaryHandler,
        calls_of: Callable[[Any], int] | None,
        items_of: Callable[[Any], int] | None,
        *,
        at_once: AtOnce | None,
        measured: bool,
    ) -> edge.Unary:
        async def call(request: Any, deadline: Deadline) -> Message | bytes:
            calls = calls_of(request) if calls_of else 1
            with time_request(method) as timer:
                if measured:
                    self.check_deadline(method, deadline)
                items = items_of(request) if items_of else None
                permit = self.permit(timer, calls, _size(request), method if measured else "", items)
                with permit:
                    return await handler(request, deadline, permit)

        def answer_at_once(request: Any, deadline: Deadline) -> bytes | None:
            if at_once is None or self._inflight >= self._max_inflight:
                return None
            timer = RequestTimer()
            try:
                if (reply := at_once(request, timer)) is not None:
                    self._keys.count(size=_size(request))
            except LookalikeError as error:
                metrics.observe_request(method, timer, code_of(error).name)
                raise
            if reply is not None:
                metrics.observe_request(method, timer, "OK")
            return reply

        return call if at_once is None else edge.ThreadedUnary(answer_at_once, otherwise=call)

    def _admit_stream(self, method: str, handler: StreamHandler) -> edge.Streaming:
        async def call(request: Any, deadline: Deadline) -> AsyncIterator[Message | bytes]:
            with time_request(method) as timer, self.permit(timer) as permit:
                async with aclosing(handler(request, deadline, permit)) as replies:
                    async for reply in replies:
                        yield reply

        return call


def _size(request: Message | bytes) -> int:
    return len(request) if isinstance(request, bytes) else request.ByteSize()
