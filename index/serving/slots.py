"""The threads that search: those of each cost class apart, so that none waits for another. No I/O."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from index.search.cost import CostClass
from index.serving import metrics
from index.serving.caller import Caller
from index.serving.exact_searches import ExactSearches
from index.serving.pool import Pool
from index.serving.work_rate import WorkRate, require_time
from lookalike.errors import Overloaded

Result = TypeVar("Result")


class DeepSearches:
    """Runs deep searches on `threads` threads of low priority; at most `max_searches` are in progress.

    Further ones, and those that would be late, are refused. For one event loop.
    """

    def __init__(self, *, threads: int, max_searches: int) -> None:
        self._threads = threads
        self._pool = Pool(
            threads=threads,
            max_waiting=max(0, max_searches - threads),
            name="deep",
        )
        self._lock = threading.Lock()
        self._rate = WorkRate()  # Of searches: they differ, but none takes longer than its caller waits.
        self._count = 0

    def submit(self, work: Callable[[], Result], caller: Caller) -> Future[Result]:
        """`work` is to call `caller.check` between its parts. Raises Overloaded; the future raises what `work` does."""
        try:
            if self._count >= self._threads:
                waiting_s = self._rate.seconds((self._count - self._threads + 1) / self._threads)
                require_time(caller.deadline, waiting_s=waiting_s, own_s=self._rate.seconds(1), what="a deep search")
            call = self._pool.submit(partial(self._timed, work), caller.deadline)
        except Overloaded:
            metrics.count_refused(CostClass.DEEP)
            raise
        self._add(1)
        call.add_done_callback(lambda _: self._add(-1))
        return call

    def close(self) -> None:
        self._pool.close()

    def _add(self, change: int) -> None:
        with self._lock:
            self._count += change
            metrics.set_in_progress(CostClass.DEEP, self._count)

    def _timed(self, work: Callable[[], Result]) -> Result:
        began_s = time.monotonic()
        try:
            return work()
        finally:
            with self._lock:
                self._rate.observe(1, time.monotonic() - began_s)


class Slots:
    """The threads of a shard process that search.

    max_waiting: calls that may wait for an ordinary thread, one of `threads`.
    max_costly:  deep searches in progress, and exact searches in progress.
    """

    def __init__(
        self,
        *,
        threads: int,
        max_waiting: int,
        deep_threads: int = 1,
        max_costly: int = 256,
        exact: ExactSearches | None = None,
    ) -> None:
        self.ordinary = Pool(threads=threads, max_waiting=max_waiting)  # Looks up, counts and lists products, too.
        self.deep = DeepSearches(threads=deep_threads, max_searches=max_costly)
        self.exact = exact or ExactSearches(max_searches=max_costly)

    def close(self) -> None:
        """Cancel what no thread has begun, end exact searches; return when the threads have ended."""
        self.exact.close()
        self.deep.close()
        self.ordinary.close()
