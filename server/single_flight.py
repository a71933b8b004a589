"""Single flight: of concurrent calls with the same key, one does the work and all get its result. No I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Generic, TypeVar

from lookalike.errors import DeadlineExceeded
from lookalike.runtime.deadline import Deadline

Answer = TypeVar("Answer")


@dataclass(slots=True)
class _Flight(Generic[Answer]):
    task: asyncio.Task[Answer]
    waiting: int = 0


class SingleFlight(Generic[Answer]):
    """The work in flight, by key. For use on one event loop. Admission bounds it: a call has at most one flight."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight[Answer]] = {}

    async def __call__(self, key: str, work: Callable[[], Coroutine[None, None, Answer]], deadline: Deadline) -> Answer:
        """Return or raise what `work` does: this caller's, or that of an earlier caller with the same key.

        Raises DeadlineExceeded at this caller's own deadline. The work is cancelled when no caller waits for it any
        more. If an earlier caller's work exceeded that caller's deadline, this caller starts its own.
        """
        while flight := self._flights.get(key):
            try:
                return await self._join(key, flight, deadline)
            except DeadlineExceeded:
                deadline.remaining_s()
        return await self._join(key, self._start(key, work), deadline)

    def _start(self, key: str, work: Callable[[], Coroutine[None, None, Answer]]) -> _Flight[Answer]:
        flight = self._flights[key] = _Flight(asyncio.create_task(work()))
        flight.task.add_done_callback(lambda task: self._end(key, flight))
        return flight

    async def _join(self, key: str, flight: _Flight[Answer], deadline: Deadline) -> Answer:
        flight.waiting += 1
        try:
            await asyncio.wait((flight.task,), timeout=deadline.timeout_s())
            if not flight.task.done():
                raise DeadlineExceeded("the deadline passed before the answer was ready")
            return flight.task.result()
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                flight.task.cancel()
                self._end(key, flight)

    def _end(self, key: str, flight: _Flight[Answer]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not flight.task.cancelled() and flight.task.done():
            flight.task.exception()  # Otherwise asyncio reports it when no caller waits any more.
