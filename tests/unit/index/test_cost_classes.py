"""How much work a search may be to be an ordinary one, and how soon costly ones are refused or given up."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.backends.faiss_support import use_threads
from index.backends.filter_bitmap import FilterBitmap
from index.search.cost import WorkLimit
from index.search.scores import CHUNK, exact_search
from index.search.space import SpaceIndex
from index.serving.caller import Caller
from index.serving.pacer import Pacer
from index.serving.slots import DeepSearches
from index.serving.work_rate import WorkRate, require_time
from lookalike.errors import DeadlineExceeded, Overloaded
from lookalike.runtime.deadline import Deadline
from lookalike.vectors import F32
from tests.unit.index.samples import build_space, clustered, unit_vectors

COUNT, DIM = 6000, 16
VECTORS = clustered(COUNT + 1, DIM)
QUERY: F32 = VECTORS[COUNT:]
SECONDS = 60.0
NONE, NEVER = WorkLimit(0), Deadline.after(None)


@pytest.fixture(scope="module")
def space() -> SpaceIndex:
    use_threads(1)
    return build_space(VECTORS[:COUNT], "HNSW16")


def passing(count: int) -> FilterBitmap:
    """A filter that passes so many vectors, spread over all."""
    mask = np.zeros(COUNT, dtype=np.bool_)
    mask[np.linspace(0, COUNT - 1, count, dtype=np.int64)] = True
    return FilterBitmap.from_mask(mask)


def is_allowed(space: SpaceIndex, limit: WorkLimit, k: int = 10, *, exact: bool = False, pass_: int = COUNT) -> bool:
    (result,) = space.search_with_plans(QUERY, k, passing(pass_), exact=exact, limit=limit)
    return result is not None


def test_a_plain_search_is_ordinary_and_one_that_is_much_deeper_is_not(space: SpaceIndex) -> None:
    assert is_allowed(space, NONE)
    assert not is_allowed(space, NONE, k=3000)
    assert is_allowed(space, WorkLimit(COUNT * DIM), k=3000)


def test_comparing_all_that_pass_a_filter_is_ordinary_up_to_the_limit(space: SpaceIndex) -> None:
    limit = WorkLimit(2000 * DIM)
    assert is_allowed(space, limit, exact=True, pass_=2000)
    assert not is_allowed(space, limit, exact=True, pass_=2001)


def test_the_result_within_a_limit_is_that_of_the_same_search_without(space: SpaceIndex) -> None:
    for k in (10, 200, 3000):
        (limited,) = space.search_with_plans(QUERY, k, limit=WorkLimit(COUNT * DIM))
        (unlimited,) = space.search_with_plans(QUERY, k)
        assert limited is not None
        assert unlimited is not None
        assert (limited[0].rows == unlimited[0].rows).all()
        assert (limited[0].scores == unlimited[0].scores).all()


def test_where_there_is_no_ann_index_every_search_compares_all_and_is_ordinary() -> None:
    flat = build_space(VECTORS[:COUNT], "Flat")
    assert is_allowed(flat, NONE)
    assert not is_allowed(flat, NONE, exact=True)  # It shares a pass over the vectors.


def test_the_check_of_a_limit_ends_a_scan_between_its_chunks() -> None:
    vectors, checks = unit_vectors(3 * CHUNK, 2), []

    def check() -> None:
        checks.append(1)
        if len(checks) == 2:
            raise DeadlineExceeded("late")

    with pytest.raises(DeadlineExceeded):
        exact_search(vectors[0], vectors, 10, limit=WorkLimit(check=check))
    assert len(checks) == 2


@given(st.lists(st.booleans(), min_size=1, max_size=70), st.data())
def test_part_of_a_mask_is_the_same_as_that_part_of_the_whole(bits: list[bool], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(bits)))
    end = data.draw(st.integers(start, len(bits)))
    assert FilterBitmap.from_mask(np.array(bits)).mask_of(start, end).tolist() == bits[start:end]


def test_the_rate_of_work_follows_the_measurements_and_is_unknown_before_the_first() -> None:
    rate = WorkRate()
    assert rate.seconds(1000) == 0
    rate.observe(100, 1)
    assert rate.seconds(1000) == pytest.approx(10)
    for _ in range(50):
        rate.observe(100, 3)
    assert rate.seconds(1000) == pytest.approx(30, rel=0.01)


def test_work_that_would_end_after_its_deadline_is_refused_with_a_delay_until_there_is_time() -> None:
    require_time(Deadline.after(SECONDS), waiting_s=20, own_s=30, what="a search")
    with pytest.raises(Overloaded, match="a search takes about 30 s here, after 40 s of work that is ahead") as raised:
        require_time(Deadline.after(SECONDS), waiting_s=40, own_s=30, what="a search")
    assert raised.value.retry_after_s == 40
    require_time(NEVER, waiting_s=1e9, own_s=1e9, what="a search")


def test_a_paced_thread_pauses_in_proportion_to_its_work_while_others_are_busy() -> None:
    busy, slept_s = [True], list[float]()
    pacer = Pacer(0.25, lambda: busy[0], sleep=slept_s.append)
    pacer.pause(1.0)
    pacer.pause(0.5)
    pacer.pause(1.0, idle_s=2.0)  # It was idle for two of the three seconds.
    pacer.pause(1.0, idle_s=3.0)
    busy[0] = False
    pacer.pause(1.0)
    assert slept_s == [3.0, 1.5, 1.0]


def test_deep_searches_are_paced_by_their_parts_and_by_the_last_part_of_the_search_before() -> None:
    slept_s = list[float]()
    deep = DeepSearches(threads=1, max_searches=3, pacer=Pacer(0.001, lambda: True, sleep=slept_s.append))

    def work(limit: WorkLimit) -> None:
        for _ in range(2):
            time.sleep(0.002)
            limit.check()
        time.sleep(0.002)

    for parts in (2, 5):  # The second pauses for the last part of the first, too.
        deep.submit(work, Caller(NEVER)).result(SECONDS)
        assert len(slept_s) == parts
    assert min(slept_s) > 0
    deep.close()


@pytest.fixture
def deep() -> DeepSearches:
    return DeepSearches(threads=1, max_searches=3)


def hold(deep: DeepSearches) -> tuple[threading.Event, Future[bool]]:
    free = threading.Event()
    return free, deep.submit(lambda _: free.wait(SECONDS), Caller(NEVER))


def test_deep_searches_beyond_the_limit_are_refused_and_accepted_again(deep: DeepSearches) -> None:
    free, _ = hold(deep)
    waiting = [deep.submit(lambda _: 7, Caller(NEVER)) for _ in range(2)]
    with pytest.raises(Overloaded):
        deep.submit(lambda _: 7, Caller(NEVER))
    free.set()
    assert [call.result(SECONDS) for call in waiting] == [7, 7]
    assert deep.submit(lambda _: 8, Caller(NEVER)).result(SECONDS) == 8
    deep.close()


def test_a_deep_search_ends_when_its_caller_has_given_up(deep: DeepSearches) -> None:
    caller, begun, gone = Caller(NEVER), threading.Event(), threading.Event()

    def work(limit: WorkLimit) -> None:
        begun.set()
        assert gone.wait(SECONDS)
        limit.check()

    call = deep.submit(work, caller)
    assert begun.wait(SECONDS)
    caller.gave_up = True
    gone.set()
    with pytest.raises(DeadlineExceeded, match="the caller gave up"):
        call.result(SECONDS)
    deep.close()
