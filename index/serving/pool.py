"""A thread pool with a bounded queue, which keeps searches off the event loop. No I/O."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import TypeVar

from index.backends.faiss_support import use_threads
from lookalike.errors import Overloaded
from lookalike.runtime import tracing
from lookalike.runtime.call import carried
from lookalike.runtime.deadline import Deadline

Result = TypeVar("Result")


class Pool:
    """Each thread runs one call at a time, and faiss starts no further threads for it: calls do not fight for cores."""

    def __init__(
        self, *, threads: int, max_waiting: int, name: str = "search", initializer: Callable[[], None] | None = None
    ) -> None:
        """initializer: called on each thread before its first call; default: faiss starts no further threads for it."""
        # A call holds its slot until its thread has finished, even if its caller gave up before.
        self._slots = threading.BoundedSemaphore(threads + max_waiting)
        self._lock = threading.Lock()
        self._in_progress = 0
        self._executor = ThreadPoolExecutor(threads, name, initializer=initializer or partial(use_threads, 1))

    def submit(self, work: Callable[[], Result], deadline: Deadline) -> Future[Result]:
        """The future is done when the thread has finished, or will not begin; a caller that gives up stops nothing.

        Raises Overloaded when the queue is full. The future raises DeadlineExceeded if no thread is free in time.
        """
        if not self._slots.acquire(blocking=False):
            raise Overloaded("the queue of the search threads is full")
        call = self._executor.submit(carried(_run_in_time), work, deadline, perf_counter())
        self._count(1)
        call.add_done_callback(lambda _: self._count(-1))
        return call

    def is_busy(self) -> bool:
        """Whether any call runs or waits."""
        return self._in_progress > 0

    def _count(self, change: int) -> None:
        with self._lock:
            self._in_progress += change
        if change < 0:
            self._slots.release()

    def close(self) -> None:
        """Cancel the calls that no thread has begun; return when the others have ended."""
        self._executor.shutdown(wait=True, cancel_futures=True)


def _run_in_time(work: Callable[[], Result], deadline: Deadline, submitted_s: float) -> Result:
    tracing.record("queue", perf_counter() - submitted_s)
    deadline.remaining_s()
    return work()
