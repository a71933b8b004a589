"""The one thread that encodes, and the bound on what is in flight for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from lookalike.errors import Overloaded
from lookalike.runtime.call import carried

Result = TypeVar("Result")


class EncoderThread:
    """Models are not thread-safe: all of them run here. For use on one event loop.

    max_waiting: in units, of which a product counts one, and a text one per KiB.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._in_flight = 0
        self._thread = ThreadPoolExecutor(1, "encode")

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def run(self, work: Callable[[], Result]) -> Result:
        """The result of work that was admitted."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, carried(work))

    async def run_admitted(self, work: Callable[[], Result], units: int) -> Result:
        """Admit work of so many units, and run it. Raises Overloaded."""
        with self.admit(units):
            return await self.run(work)

    @contextmanager
    def admit(self, units: int) -> Iterator[None]:
        """Count a request as in flight. Raises Overloaded; a request above the bound is admitted if it is alone."""
        if self._in_flight and self._in_flight + units > self._max_waiting:
            raise Overloaded(
                f"{self._in_flight} products and KiB of texts are in flight, at most {self._max_waiting} are allowed"
            )
        self._in_flight += units
        try:
            yield
        finally:
            self._in_flight -= units
