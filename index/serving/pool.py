"""Work on threads, so that the event loop stays free: as many calls at a time as threads, and a bound on what waits."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from index.backends.faiss_support import use_threads
from lookalike.errors import Overloaded
from lookalike.runtime.deadline import Deadline

Result = TypeVar("Result")

_YIELDING = 10  # How nice a thread is that searches go before.


class Pool:
    """Each thread runs one call at a time, and faiss gets no further threads for it: calls do not fight for cores."""

    def __init__(self, *, threads: int, max_waiting: int) -> None:
        # A call holds its place until its thread is done with it, not only until its caller gave up.
        self._places = threading.BoundedSemaphore(threads + max_waiting)
        self._executor = ThreadPoolExecutor(threads, "search", initializer=use_threads, initargs=(1,))

    async def run(self, work: Callable[[], Result], deadline: Deadline) -> Result:
        """What `work` returns. Raises as `submit` does."""
        return await asyncio.wrap_future(self.submit(work, deadline))

    def submit(self, work: Callable[[], Result], deadline: Deadline) -> Future[Result]:
        """Done when the thread is done with it, or will not begin: a caller that gave up does not stop what runs.

        Raises Overloaded when too much waits. The future raises DeadlineExceeded if no thread is free in time.
        """
        if not self._places.acquire(blocking=False):
            raise Overloaded("as many calls wait as may")
        call = self._executor.submit(_in_time, work, deadline)
        call.add_done_callback(lambda _: self._places.release())
        return call

    def close(self) -> None:
        """Calls that no thread has begun are cancelled; returns when the others ended."""
        self._executor.shutdown(wait=True, cancel_futures=True)


def _in_time(work: Callable[[], Result], deadline: Deadline) -> Result:
    deadline.remaining_s()
    return work()


def yield_to_others() -> None:
    """On Linux a thread has a priority of its own, which the threads it starts inherit. faiss gets no others for it."""
    use_threads(1)
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _YIELDING)
