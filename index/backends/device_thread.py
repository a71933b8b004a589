"""A thread that alone uses a device, and that batches waiting searches of equal keys (natural batching). No I/O."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lookalike.errors import Overloaded, Unavailable
from lookalike.runtime.threads import start_thread
from lookalike.vectors import F32, I64

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class _Search:
    key: Hashable
    queries: F32
    run: Callable[[F32], I64]
    result: Future[I64]


class DeviceThread:
    """Runs the work of many callers on one thread; each caller waits for its result.

    max_batch:   most queries in one batch (a call with more runs alone).
    max_waiting: most waiting queries; beyond this Overloaded is raised at once.
    """

    def __init__(self, name: str, *, max_batch: int, max_waiting: int) -> None:
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._searches: deque[_Search] = deque()
        self._tasks: deque[Callable[[], object]] = deque()
        self._waiting = 0
        self._closed = False
        self._thread = start_thread(self._loop, f"device thread of {name}")

    def run(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, run before waiting searches. Raises what it raised, or Unavailable after `close`."""
        done: Future[Result] = Future()
        if not self.run_later(lambda: _complete(done, work)):
            raise Unavailable("the device is closed")
        return done.result()

    def run_later(self, work: Callable[[], object]) -> bool:
        """Queue `work`, which must not raise, and return at once. False after `close`: it will not run."""
        with self._changed:
            if not self._closed:
                self._tasks.append(work)
                self._changed.notify()
            return not self._closed

    def search(self, key: Hashable, queries: F32, run: Callable[[F32], I64]) -> I64:
        """The result (n, c) of `run` for the queries (n, dim). Waiting searches of equal keys share one call of `run`.

        Raises Overloaded, Unavailable after `close`, or what `run` raised.
        """
        search = _Search(key=key, queries=queries, run=run, result=Future())
        with self._changed:
            if self._closed:
                raise Unavailable("the device is closed")
            if self._waiting + len(queries) > self._max_waiting:
                raise Overloaded(f"{self._waiting} queries wait for the device, at most {self._max_waiting} may")
            self._searches.append(search)
            self._waiting += len(queries)
            self._changed.notify()
        return search.result.result()

    def is_current_thread(self) -> bool:
        """Whether the calling thread is the one that owns the device."""
        return threading.current_thread() is self._thread

    @property
    def waiting(self) -> int:
        """Number of queries in the queue."""
        return self._waiting

    def close(self) -> None:
        """Refuse new work; return when all queued work is done."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _loop(self) -> None:
        while (work := self._next_work()) is not None:
            work()

    def _next_work(self) -> Callable[[], object] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._tasks or self._searches or self._closed)
            if self._tasks:
                return self._tasks.popleft()
            if not self._searches:
                return None
            batch = self._take_batch()
            self._waiting -= sum(len(search.queries) for search in batch)
        return lambda: _run_batch(batch)

    def _take_batch(self) -> list[_Search]:
        """The oldest search and those of its key that fit in the batch; the others keep their order."""
        batch = [self._searches.popleft()]
        room = self._max_batch - len(batch[0].queries)
        for _ in range(len(self._searches)):
            search = self._searches.popleft()
            if search.key == batch[0].key and len(search.queries) <= room:
                batch.append(search)
                room -= len(search.queries)
            else:
                self._searches.append(search)
        return batch


def _run_batch(batch: list[_Search]) -> None:
    try:
        results = batch[0].run(np.concatenate([search.queries for search in batch]))
    except Exception as error:  # Each waiting caller raises it.
        for search in batch:
            search.result.set_exception(error)
        return
    start = 0
    for search in batch:
        search.result.set_result(results[start : start + len(search.queries)])
        start += len(search.queries)


def _complete(done: Future[Result], work: Callable[[], Result]) -> None:
    try:
        done.set_result(work())
    except Exception as error:  # The waiting caller raises it.
        done.set_exception(error)
