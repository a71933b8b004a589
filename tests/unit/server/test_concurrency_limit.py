"""The adaptive limit keeps goodput and latencies under overload, refuses nearly nothing below, and forgets.

A simulated process of some workers with one queue; calls arrive by chance, whatever became of those before them.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

import pytest

from server.concurrency_limit import STALE_S, ConcurrencyLimit

LEAST, MOST = 8, 512
SERVICE_S = 0.01  # Mean of an exponential distribution: a search by id, or one of a photo.


@dataclass
class Run:
    """What the calls of a run met, those of its first quarter left out."""

    took_s: list[float] = field(default_factory=list)
    refused: int = 0
    offered: int = 0

    def p99_s(self) -> float:
        return sorted(self.took_s)[int(0.99 * len(self.took_s))]


def simulate(limit: ConcurrencyLimit, load: float, *, workers: int = 4, calls: int) -> Run:
    """Calls at `load` times the rate that the workers can answer."""
    rng, run, now_s = random.Random(0), Run(), 0.0
    free, ends = [0.0] * workers, list[tuple[float, float]]()
    for i in range(calls):
        now_s += rng.expovariate(load * workers / SERVICE_S)
        while ends and ends[0][0] <= now_s:
            end_s, began_s = heapq.heappop(ends)
            limit.ended(("Search",), end_s - began_s, end_s)
        counts = i > calls / 4
        run.offered += counts
        if len(ends) >= limit.limit:
            limit.refused()
            run.refused += counts
            continue
        end_s = max(heapq.heappop(free), now_s) + rng.expovariate(1 / SERVICE_S)
        heapq.heappush(free, end_s)
        heapq.heappush(ends, (end_s, now_s))
        limit.admitted(len(ends))
        if counts:
            run.took_s.append(end_s - now_s)
    return run


@pytest.fixture(scope="module")
def busy() -> Run:
    return simulate(ConcurrencyLimit(MOST, least=LEAST), 0.8, calls=10_000)


def test_at_four_fifths_of_the_capacity_few_calls_are_refused(busy: Run) -> None:
    assert busy.refused < 0.05 * busy.offered


@pytest.mark.parametrize("load", [2.0, 10.0])
def test_under_overload_goodput_and_latencies_stay(busy: Run, load: float) -> None:
    run = simulate(ConcurrencyLimit(MOST, least=LEAST), load, calls=int(10_000 * load))
    answered_of_capacity = len(run.took_s) / run.offered * load
    assert answered_of_capacity > 0.9
    assert run.p99_s() < 2 * busy.p99_s()


def test_without_waiting_the_limit_stays_where_it_began() -> None:
    limit = ConcurrencyLimit(64, least=LEAST)
    for i in range(2000):
        limit.admitted(1)
        limit.ended(("Search",), 0.01, i * 0.01)
    assert limit.limit == 64


def test_the_limit_has_a_least_value_and_never_exceeds_the_most() -> None:
    limit = ConcurrencyLimit(64, least=LEAST)
    for i in range(100):  # Latency doubles from window to window.
        for j in range(50):
            limit.admitted(20)
            limit.ended(("Search",), 0.001 * 2.0 ** min(i, 40), i + j * 0.01)
    assert limit.limit == LEAST
    assert ConcurrencyLimit(2, least=LEAST).limit == 2


def test_a_slower_kind_of_call_is_no_sign_of_waiting() -> None:
    limit = ConcurrencyLimit(64, least=LEAST)
    for i in range(1000):
        limit.admitted(40)
        kind, took_s = (("Search", "id"), 0.002) if i < 500 else (("Search", "photo"), 0.2)
        limit.ended(kind, took_s, i * 0.01)
    assert limit.limit == 64


def test_a_retry_delay_grows_with_the_calls_that_are_refused_and_is_bounded() -> None:
    limit = ConcurrencyLimit(64, least=LEAST)
    limit.admitted(1)
    delays = [limit.refused() for _ in range(1000)]
    assert delays == sorted(delays)
    assert delays[0] == pytest.approx(0.2)
    assert delays[-1] == 5.0


def test_what_a_call_takes_at_least_is_known_of_its_method_and_for_a_while() -> None:
    limit = ConcurrencyLimit(64, least=LEAST)
    assert limit.least_s("Search", 0.0) == 0.0
    for i in range(50):
        limit.ended(("Search", "photo"), 0.2 + i / 1000, i * 0.01)
    assert limit.least_s("Search", 0.5) == pytest.approx(0.204)
    assert limit.least_s("Count", 0.5) == 0.0
    assert limit.least_s("Search", 0.5 + STALE_S) == 0.0
