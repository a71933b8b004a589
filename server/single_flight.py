"""Single flight: of the calls that ask the same at the same time, one does the work and all have the answer."""

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
    """For use on one event loop. Bounded by the calls that are admitted: each has at most one flight."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight[Answer]] = {}

    async def __call__(self, key: str, work: Callable[[], Coroutine[None, None, Answer]], deadline: Deadline) -> Answer:
        """What `work` returns or raises, whoever's work it was. Raises DeadlineExceeded at this caller's own deadline.

        Work ends when the last caller that waits for it is gone. Where it ran out of another caller's time while this
        caller has time left, this caller starts it again; its own it starts once.
        """
        while flight := self._flights.get(key):
            try:
                return await self._join(key, flight, deadline)
            except DeadlineExceeded:
                deadline.remaining_s()
        return await self._join(key, self._start(key, work), deadline)

    def _start(self, key: str, work: Callable[[], Coroutine[None, None, Answer]]) -> _Flight[Answer]:
        flight = self._flights[key] = _Flight(asyncio.create_task(work()))
        flight.task.add_done_callback(lambda task: self._landed(key, flight))
        return flight

    async def _join(self, key: str, flight: _Flight[Answer], deadline: Deadline) -> Answer:
        flight.waiting += 1
        try:
            await asyncio.wait((flight.task,), timeout=deadline.timeout_s())
            if not flight.task.done():
                raise DeadlineExceeded("the deadline passed before the answer came")
            return flight.task.result()
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                flight.task.cancel()
                self._landed(key, flight)

    def _landed(self, key: str, flight: _Flight[Answer]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not flight.task.cancelled() and flight.task.done():
            flight.task.exception()  # Seen, even where nobody waits for it any more.
