"""Admission control: a bound on the calls in flight, checked before any work is done for a call. No I/O.

A handler takes a `Permit`, so that no call reaches it without having been admitted.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import Any

from google.protobuf.message import Message

from lookalike.errors import Overloaded
from lookalike.runtime import edge
from lookalike.runtime.deadline import Deadline
from server import metrics
from server.metrics import RequestTimer, time_request


class Permit:
    """Proof that a call was admitted, held while its context is open. Only `Admission.permit` makes one."""

    __slots__ = ("_admission", "_calls", "timer")

    def __init__(self, admission: Admission, calls: int, timer: RequestTimer) -> None:
        self._admission = admission
        self._calls = calls
        self.timer = timer  # Measures this call.

    def __enter__(self) -> Permit:
        self._admission.take(self._calls)
        return self

    def __exit__(self, *error: object) -> None:
        self._admission.give_back(self._calls)


UnaryHandler = Callable[[Any, Deadline, Permit], Awaitable[Message | bytes]]
# The reply to a call, or None where that takes more than a look; called on any thread. It takes no permit: there is one
# such call at a time, and none when no permit is left.
AtOnce = Callable[[Any, RequestTimer], bytes | None]
StreamHandler = Callable[[Any, Deadline, Permit], AsyncGenerator[Message | bytes, None]]


class Admission:
    """`max_inflight` permits, shared by all methods. For use on one event loop."""

    def __init__(self, max_inflight: int) -> None:
        self._max_inflight = max_inflight
        self._inflight = 0
        metrics.INFLIGHT.set_function(lambda: self._inflight)

    def permit(self, timer: RequestTimer, calls: int = 1) -> Permit:
        """A permit for work that counts as so many calls, taken and given back by its context.

        Work that counts as more than all permits is admitted when nothing else is in flight.
        """
        return Permit(self, calls, timer)

    def take(self, calls: int) -> None:
        """Raises Overloaded at once where too few permits are left."""
        if self._inflight and self._inflight + calls > self._max_inflight:
            metrics.REFUSED.inc()
            raise Overloaded(f"{self._inflight} calls are in flight, the limit is {self._max_inflight}")
        self._inflight += calls

    def give_back(self, calls: int) -> None:
        self._inflight -= calls

    def admit(
        self,
        unary: Mapping[str, UnaryHandler],
        *,
        streams: Mapping[str, StreamHandler] = MappingProxyType({}),
        calls: Mapping[str, Callable[[Any], int]] = MappingProxyType({}),
        at_once: Mapping[str, AtOnce] = MappingProxyType({}),
    ) -> edge.Methods:
        """Wrap handlers in admission control, by method name.

        calls:   of methods whose requests count as more than one call, how many one counts as.
        at_once: of methods that answer some calls without waiting for anything, what answers these.

        Each call is timed under its method's name and holds a permit until it ends: a stream until it is exhausted,
        is cancelled or fails. A refused call is timed too: it counts as RESOURCE_EXHAUSTED.
        """
        return {
            **{
                method: self._admit_unary(method, handler, calls.get(method), at_once.get(method))
                for method, handler in unary.items()
            },
            **{method: self._admit_stream(method, handler) for method, handler in streams.items()},
        }

    def _admit_unary(
        self,
        method: str,
        handler: UnaryHandler,
        calls_of: Callable[[Any], int] | None,
        at_once: AtOnce | None,
    ) -> edge.Unary:
        async def call(request: Any, deadline: Deadline) -> Message | bytes:
            calls = calls_of(request) if calls_of else 1
            with time_request(method) as timer, self.permit(timer, calls) as permit:
                return await handler(request, deadline, permit)

        def answer_at_once(request: Any, deadline: Deadline) -> bytes | None:
            if at_once is None or self._inflight >= self._max_inflight:
                return None
            timer = RequestTimer()
            if (reply := at_once(request, timer)) is not None:
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
