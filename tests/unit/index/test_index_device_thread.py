"""The thread that owns a device: it batches searches that wait, in order, within bounds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from index.backends.device_thread import DeviceThread
from lookalike.errors import Overloaded, Unavailable
from lookalike.vectors import F32, I64


class BusyThread:
    """A device thread blocked by a first call until `unblock`; `batches` are the searches that it ran."""

    def __init__(self) -> None:
        self.thread = DeviceThread("test", max_batch=8, max_waiting=16)
        self.batches: list[list[int]] = []
        self._callers = ThreadPoolExecutor(16)
        self._blocked, self._unblocked = threading.Event(), threading.Event()
        self._first = self._callers.submit(self.thread.run, self._block)
        assert self._blocked.wait(5)

    def _block(self) -> None:
        self._blocked.set()
        assert self._unblocked.wait(5)

    def search(self, key: str, *numbers: int) -> Future[I64]:
        """Queue a search; searches are queued in the order of the calls, although each waits on its own thread."""
        waiting = self.thread.waiting
        result = self._callers.submit(self.thread.search, key, np.array([[n] for n in numbers], np.float32), self.run)
        while self.thread.waiting == waiting and not result.done():
            pass
        return result

    def run(self, queries: F32) -> I64:
        self.batches.append([int(query[0]) for query in queries])
        return queries.astype(np.int64) * 10

    def unblock(self) -> None:
        self._unblocked.set()
        self._first.result(5)

    def close(self) -> None:
        self._unblocked.set()
        self._callers.shutdown()
        self.thread.close()


@pytest.fixture
def busy() -> Iterator[BusyThread]:
    thread = BusyThread()
    yield thread
    thread.close()


def test_waiting_searches_of_one_key_share_a_batch_and_each_gets_its_own_result(busy: BusyThread) -> None:
    result = [busy.search("a", 1), busy.search("b", 2), busy.search("a", 3, 4)]
    busy.unblock()
    assert [each.result(5).ravel().tolist() for each in result] == [[10], [20], [30, 40]]
    assert busy.batches == [[1, 3, 4], [2]]


def test_a_batch_is_bounded_and_a_search_that_does_not_fit_keeps_its_place(busy: BusyThread) -> None:
    result = [busy.search("a", *range(5)), busy.search("a", *range(5, 10)), busy.search("a", 10)]
    busy.unblock()
    assert [len(each.result(5)) for each in result] == [5, 5, 1]
    assert busy.batches == [[0, 1, 2, 3, 4, 10], [5, 6, 7, 8, 9]]


def test_a_search_larger_than_a_batch_runs_alone(busy: BusyThread) -> None:
    result = busy.search("a", *range(12))
    busy.unblock()
    assert len(result.result(5)) == 12


def test_a_search_beyond_the_queue_bound_is_refused_at_once(busy: BusyThread) -> None:
    waiting = busy.search("a", *range(16))
    with pytest.raises(Overloaded, match="16 queries wait for the device, at most 16 may"):
        busy.search("a", 1).result(5)
    busy.unblock()
    assert len(waiting.result(5)) == 16
    assert busy.search("a", 1).result(5).tolist() == [[10]]


def test_an_error_reaches_the_callers_of_its_batch_and_no_others(busy: BusyThread) -> None:
    def fail(queries: F32) -> I64:
        raise RuntimeError("out of memory")

    callers = ThreadPoolExecutor(1)
    failing = callers.submit(busy.thread.search, "fails", np.zeros((1, 1), np.float32), fail)
    fine = busy.search("a", 1)
    busy.unblock()
    with pytest.raises(RuntimeError, match="out of memory"):
        failing.result(5)
    assert fine.result(5).tolist() == [[10]]
    callers.shutdown()


def test_all_work_runs_on_one_thread(busy: BusyThread) -> None:
    threads: set[int] = set()

    def note(queries: F32) -> I64:
        threads.add(threading.get_ident())
        return queries.astype(np.int64)

    busy.unblock()
    threads.add(busy.thread.run(threading.get_ident))
    with ThreadPoolExecutor(4) as callers:
        list(callers.map(lambda key: busy.thread.search(key, np.zeros((1, 1), np.float32), note), range(8)))
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


def test_after_close_new_work_is_refused(busy: BusyThread) -> None:
    busy.unblock()
    busy.thread.close()
    with pytest.raises(Unavailable):
        busy.thread.search("a", np.zeros((1, 1), np.float32), busy.run)
    with pytest.raises(Unavailable):
        busy.thread.run(busy.unblock)
    assert not busy.thread.run_later(busy.unblock)
