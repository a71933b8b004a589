"""The thread that owns a device: what waits goes together, in order, within bounds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from index.backends.device_thread import DeviceThread
from lookalike.errors import Overloaded, Unavailable
from lookalike.vectors import F32, I64


class Busy:
    """An owner whose device is held up by a first call until it is let go; what it searched, by batch."""

    def __init__(self) -> None:
        self.owner = DeviceThread("test", max_batch=8, max_waiting=16)
        self.batches: list[list[int]] = []
        self._callers = ThreadPoolExecutor(16)
        self._held, self._go = threading.Event(), threading.Event()
        self._first = self._callers.submit(self.owner.run, self._hold)
        assert self._held.wait(5)

    def _hold(self) -> None:
        self._held.set()
        assert self._go.wait(5)

    def search(self, key: str, *numbers: int) -> Future[I64]:
        """In the order of the calls, although each waits on a thread of its own."""
        waiting = self.owner.waiting
        found = self._callers.submit(self.owner.search, key, np.array([[n] for n in numbers], np.float32), self.run)
        while self.owner.waiting == waiting and not found.done():
            pass
        return found

    def run(self, queries: F32) -> I64:
        self.batches.append([int(query[0]) for query in queries])
        return queries.astype(np.int64) * 10

    def let_go(self) -> None:
        self._go.set()
        self._first.result(5)

    def close(self) -> None:
        self._go.set()
        self._callers.shutdown()
        self.owner.close()


@pytest.fixture
def busy() -> Iterator[Busy]:
    made = Busy()
    yield made
    made.close()


def test_what_is_alike_and_waits_is_searched_together_and_each_gets_its_own(busy: Busy) -> None:
    found = [busy.search("a", 1), busy.search("b", 2), busy.search("a", 3, 4)]
    busy.let_go()
    assert [answer.result(5).ravel().tolist() for answer in found] == [[10], [20], [30, 40]]
    assert busy.batches == [[1, 3, 4], [2]]


def test_a_batch_has_a_bound_and_what_does_not_fit_keeps_its_place(busy: Busy) -> None:
    found = [busy.search("a", *range(5)), busy.search("a", *range(5, 10)), busy.search("a", 10)]
    busy.let_go()
    assert [len(answer.result(5)) for answer in found] == [5, 5, 1]
    assert busy.batches == [[0, 1, 2, 3, 4, 10], [5, 6, 7, 8, 9]]


def test_a_call_larger_than_a_batch_goes_alone(busy: Busy) -> None:
    found = busy.search("a", *range(12))
    busy.let_go()
    assert len(found.result(5)) == 12


def test_beyond_its_bound_a_search_is_refused_at_once(busy: Busy) -> None:
    waiting = busy.search("a", *range(16))
    with pytest.raises(Overloaded, match="16 queries wait for the device, at most 16 may"):
        busy.search("a", 1).result(5)
    busy.let_go()
    assert len(waiting.result(5)) == 16
    assert busy.search("a", 1).result(5).tolist() == [[10]]


def test_an_error_belongs_to_those_who_asked_together_and_to_no_other(busy: Busy) -> None:
    def fail(queries: F32) -> I64:
        raise RuntimeError("out of memory")

    callers = ThreadPoolExecutor(1)
    failing = callers.submit(busy.owner.search, "fails", np.zeros((1, 1), np.float32), fail)
    fine = busy.search("a", 1)
    busy.let_go()
    with pytest.raises(RuntimeError, match="out of memory"):
        failing.result(5)
    assert fine.result(5).tolist() == [[10]]
    callers.shutdown()


def test_everything_is_done_on_one_thread(busy: Busy) -> None:
    threads: set[int] = set()

    def note(queries: F32) -> I64:
        threads.add(threading.get_ident())
        return queries.astype(np.int64)

    busy.let_go()
    threads.add(busy.owner.run(threading.get_ident))
    with ThreadPoolExecutor(4) as callers:
        list(callers.map(lambda key: busy.owner.search(key, np.zeros((1, 1), np.float32), note), range(8)))
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


def test_after_it_was_closed_nothing_is_begun(busy: Busy) -> None:
    busy.let_go()
    busy.owner.close()
    with pytest.raises(Unavailable):
        busy.owner.search("a", np.zeros((1, 1), np.float32), busy.run)
    with pytest.raises(Unavailable):
        busy.owner.run(busy.let_go)
    assert not busy.owner.run_later(busy.let_go)
