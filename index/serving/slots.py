"""The threads that search: those of each cost class apart, so that none waits for another. No I/O."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from index.search.cost import CostClass, WorkLimit
from index.serving import metrics
from index.serving.caller import Caller
from index.serving.exact_searches import ExactSearches
from index.serving.pacer import Pacer
from index.serving.pool import Pool
from index.serving.threads import lower_thread_priority
from index.serving.work_rate import WorkRate, require_time
from lookalike.errors import Overloaded

Result = TypeVar("Result")


# Of the time of all cores, for the deep searches, and as much for the exact ones, while ordinary ones are in progress:
# these keep seven eighths. Beside four exact callers, with a client on the same two cores, their goodput was .94 of
# that without (benchmarks/cost_classes.py).
_COSTLY_SHARE = 1 / 16


class DeepSearches:
    """Runs deep searches on threads of low priority; at most `max_searches` are in progress.

    Further ones, and those that would be late, are refused. For one event loop.

    pacer: of its threads; None: they never pause.
    """

    def __init__(self, *, threads: int, max_searches: int, pacer: Pacer | None = None) -> None:
        self._threads = threads
        self._pacer = pacer or Pacer(1, lambda: False)
        self._last = threading.local()  # Of each thread: when its last search ended, and how long its last part took.
        max_waiting = max(0, max_searches - threads)
        self._pool = Pool(threads=threads, max_waiting=max_waiting, name="deep", initializer=lower_thread_priority)
        self._lock = threading.Lock()
        self._rate = WorkRate()  # Of searches: they differ, but none takes longer than its caller waits.
        self._count = 0

    def submit(self, work: Callable[[WorkLimit], Result], caller: Caller) -> Future[Result]:
        """`work` gets the limit to work within. Raises Overloaded; the future raises what `work` does."""
        try:
            if self._count >= self._threads:
                waiting_s = self._rate.seconds((self._count - self._threads + 1) / self._threads)
                require_time(caller.deadline, waiting_s=waiting_s, own_s=self._rate.seconds(1), what="a deep search")
            call = self._pool.submit(partial(self._timed, work, caller), caller.deadline)
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

    def _timed(self, work: Callable[[WorkLimit], Result], caller: Caller) -> Result:
        part_began_s = began_s = time.monotonic()

        def check() -> None:
            nonlocal part_began_s
            self._pacer.pause(time.monotonic() - part_began_s)
            caller.check()
            part_began_s = time.monotonic()

        try:
            self._pacer.pause(getattr(self._last, "part_s", 0), began_s - getattr(self._last, "ended_s", 0))
            part_began_s = time.monotonic()
            return work(WorkLimit(check=check))
        finally:
            ended_s = time.monotonic()
            self._last.part_s, self._last.ended_s = ended_s - part_began_s, ended_s
            with self._lock:
                self._rate.observe(1, ended_s - began_s)


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
        deep_pacer = Pacer(min(1.0, threads * _COSTLY_SHARE / deep_threads), self.ordinary.is_busy)
        exact_pacer = Pacer(min(1.0, threads * _COSTLY_SHARE), self.ordinary.is_busy)
        self.deep = DeepSearches(threads=deep_threads, max_searches=max_costly, pacer=deep_pacer)
        self.exact = exact or ExactSearches(max_searches=max_costly, pause=exact_pacer.pause)

    def close(self) -> None:
        """Cancel what no thread has begun, end exact searches; return when the threads have ended."""
        self.exact.close()
        self.deep.close()
        self.ordinary.close()
