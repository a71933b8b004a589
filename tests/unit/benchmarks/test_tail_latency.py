"""The simulation of tails: what is known about queues and maxima holds in it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from benchmarks.tail_latency import Fleet, log_normal, on_shared_cores, percentiles, simulate, validate

NEVER = float("inf")
CONSTANT = Fleet(service_ms=np.array([1.0]), load=0.5, replicas=1, stall_every_ms=NEVER)
STALLING = Fleet(service_ms=np.linspace(0.5, 1.5, 101), load=0.3, stall_every_ms=5_000)


def test_the_same_seed_gives_the_same_latencies() -> None:
    first, second = (simulate(STALLING, shards=4, searches=500, seed=3).latency_ms for _ in range(2))
    assert np.array_equal(first, second)


def test_a_queue_of_constant_service_waits_as_pollaczek_and_khinchine_say() -> None:
    latency_ms = simulate(CONSTANT, shards=64, searches=20_000, seed=0).latency_ms
    # M/D/1: the mean wait is load ÷ (2 · (1 − load)) services.
    assert latency_ms.mean() == pytest.approx(1.5, rel=0.03)


def test_a_search_takes_as_long_as_its_slowest_shard() -> None:
    outcome = simulate(
        replace(CONSTANT, service_ms=np.linspace(0, 2, 1001), load=0.001), shards=8, searches=8_000, seed=0
    )
    # The maximum of 8 uniform times has the distribution function (t ÷ 2) ^ 8.
    assert np.median(outcome.of_searches(8)) == pytest.approx(2 * 0.5 ** (1 / 8), rel=0.01)
    assert np.median(outcome.of_searches(1)) == pytest.approx(1, rel=0.02)


def test_a_stall_delays_by_no_more_than_itself_and_the_queue_behind_it() -> None:
    idle = replace(CONSTANT, load=0.001, stall_every_ms=2_000)
    latency_ms = simulate(idle, shards=16, searches=4_000, seed=0).latency_ms
    assert 100 < latency_ms.max() <= 1_003  # Two may come one after another.
    # A stall of 275 ms on average in 2,275 ms: that share of the calls arrive in one.
    assert (latency_ms > 1.0001).mean() == pytest.approx(275 / 2_275, rel=0.1)


def test_more_shards_make_every_percentile_worse() -> None:
    outcome = simulate(STALLING, shards=64, searches=2_000, seed=0)
    for name in ("p50_ms", "p99_ms"):
        values = [percentiles(outcome.of_searches(shards))[name] for shards in (1, 4, 16, 64)]
        assert values == sorted(values)


def test_hedging_makes_the_tail_shorter_within_its_budget() -> None:
    fleet = replace(STALLING, pick="fewest")
    alone = simulate(fleet, shards=32, searches=4_000, seed=0)
    hedged = simulate(replace(fleet, hedge_after_ms=3.0), shards=32, searches=4_000, seed=0)
    assert percentiles(hedged.of_searches(32))["p99_ms"] < percentiles(alone.of_searches(32))["p99_ms"] / 2
    assert 0 < hedged.extra_load <= 0.05 + fleet.hedges_saved / 4_000


def test_without_a_budget_nothing_is_hedged() -> None:
    broke = replace(STALLING, hedge_after_ms=1.0, hedge_budget=0.0, hedges_saved=0.0)
    outcome = simulate(broke, shards=8, searches=500, seed=0)
    assert outcome.hedged == 0
    assert outcome.extra_load == 0


def test_the_budget_bounds_the_hedges_that_are_sent() -> None:
    eager = replace(STALLING, hedge_after_ms=0.5, hedges_saved=1.0)
    assert simulate(eager, shards=8, searches=2_000, seed=0).hedged <= 0.05 + 1 / 2_000


def test_shards_on_fewer_cores_take_turns() -> None:
    run = partial(on_shared_cores, np.array([1.0]), 0.5, cores=2, per_s=0.001, searches=100, seed=0)
    assert run(shards=2).max() == pytest.approx(1.5)
    assert run(shards=4).min() == pytest.approx(2.5)


def test_a_gateway_holds_up_shards_of_the_same_cores() -> None:
    run = partial(on_shared_cores, np.array([1.0]), shards=1, cores=1, per_s=250, searches=20_000, seed=0)
    # It takes its own time, and that for which others wait behind it.
    assert run(1.0).mean() > run(0.0).mean() + 1.0


def test_log_normal_times_have_the_median_and_p99_that_they_are_made_of() -> None:
    assert np.percentile(log_normal(0.3, 0.5), (50, 99)) == pytest.approx((0.3, 0.5), rel=0.01)


def test_measured_latencies_are_compared_with_simulated_ones_by_number_of_shards() -> None:
    rows = {
        "1": {"1 in flight": {"gateway_cpu_us": 100}, "open loop": {"p50_ms": 1.5, "p99_ms": 1.5}},
        "4": {"1 in flight": {"gateway_cpu_us": 200}, "open loop": {"p50_ms": 6.0, "p99_ms": 6.0}},
    }
    measured = {"service_time": {"quantiles_ms": [1.0, 1.0]}, "rate_per_s": 0.001, "by_shards": rows}
    compared = validate(measured, seed=0)
    # Four calls of 1 ms take two turns on two cores; the gateway's 0.5 ms double with its CPU.
    assert compared["4"]["p50_ms"] == {"measured": 6.0, "simulated": 3.0, "measured_over_simulated": 2.0}
    assert compared["1"]["p99_ms"]["measured_over_simulated"] == 1.0
