"""The one thread that may touch a device, and natural batching on it: searches that are alike and wait go together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lookalike.errors import Overloaded, Unavailable
from lookalike.vectors import F32, I64

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class _Search:
    key: Hashable
    queries: F32
    run: Callable[[F32], I64]
    found: Future[I64]


class Owner:
    """For many threads at a time, which wait for what they asked.

    max_batch:   most queries in one search (one call with more goes alone).
    max_waiting: most queries that wait; beyond it Overloaded is raised at once.
    """

    def __init__(self, name: str, *, max_batch: int, max_waiting: int) -> None:
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._searches: deque[_Search] = deque()
        self._others: deque[Callable[[], object]] = deque()
        self._waiting = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"owner of {name}", daemon=True)
        self._thread.start()

    def do(self, work: Callable[[], Result]) -> Result:
        """Done alone, before the searches that wait. Raises Unavailable after `close`, or what it raises."""
        done: Future[Result] = Future()
        if not self.later(lambda: _settle(done, work)):
            raise Unavailable("the device was given back")
        return done.result()

    def later(self, work: Callable[[], object]) -> bool:
        """As `do`, but nobody waits for it, and it must not raise. False, after `close`: it will not be done."""
        with self._changed:
            if not self._closed:
                self._others.append(work)
                self._changed.notify()
            return not self._closed

    def search(self, key: Hashable, queries: F32, run: Callable[[F32], I64]) -> I64:
        """What `run` finds for the queries (n, dim): (n, c). Called with those of others, too, who gave the same key.

        Raises Overloaded, Unavailable after `close`, or what `run` raised.
        """
        search = _Search(key=key, queries=queries, run=run, found=Future())
        with self._changed:
            if self._closed:
                raise Unavailable("the device was given back")
            if self._waiting + len(queries) > self._max_waiting:
                raise Overloaded(f"{self._waiting} queries wait for the device, {self._max_waiting} may")
            self._searches.append(search)
            self._waiting += len(queries)
            self._changed.notify()
        return search.found.result()

    def runs_here(self) -> bool:
        """Whether the calling thread is the one that owns the device."""
        return threading.current_thread() is self._thread

    @property
    def waiting(self) -> int:
        """Queries that the device has not begun."""
        return self._waiting

    def close(self) -> None:
        """Returns when all that was asked is done."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while (work := self._next()) is not None:
            work()

    def _next(self) -> Callable[[], object] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._others or self._searches or self._closed)
            if self._others:
                return self._others.popleft()
            if not self._searches:
                return None
            batch = self._batch()
            self._waiting -= sum(len(search.queries) for search in batch)
        return lambda: _search(batch)

    def _batch(self) -> list[_Search]:
        """The oldest, and those like it that fit; the others keep their places."""
        batch = [self._searches.popleft()]
        room, left = self._max_batch - len(batch[0].queries), len(self._searches)
        for _ in range(left):
            search = self._searches.popleft()
            if search.key == batch[0].key and len(search.queries) <= room:
                batch.append(search)
                room -= len(search.queries)
            else:
                self._searches.append(search)
        return batch


def _search(batch: list[_Search]) -> None:
    try:
        found = batch[0].run(np.concatenate([search.queries for search in batch]))
    except Exception as error:  # Whatever it is, it belongs to those who wait.
        for search in batch:
            search.found.set_exception(error)
        return
    start = 0
    for search in batch:
        search.found.set_result(found[start : start + len(search.queries)])
        start += len(search.queries)


def _settle(done: Future[Result], work: Callable[[], Result]) -> None:
    try:
        done.set_result(work())
    except Exception as error:  # Whoever waits raises it.
        done.set_exception(error)
