"""Which replicas are called, hedged and probed, by what happened to them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from server.replica_health import TICK_S, HedgeBudget, HedgeDelay, LatencyEstimate, ReplicaHealth, ReplicaState

HANG_S = 0.5
LATE = 10 * TICK_S


def in_service(now_s: float = 0.0) -> ReplicaHealth:
    health = ReplicaHealth(HANG_S, now_s)
    health.move_to(ReplicaState.IN_SERVICE, "", now_s)
    return health


@pytest.mark.parametrize(
    ("events", "hangs", "is_probed"),
    [
        ([], False, False),
        (["tick"] * 20, False, False),  # Nobody waits for it.
        (["sent", "tick"], False, False),
        (["sent", "tick", "tick"], False, True),
        (["sent", *["tick"] * 5], False, True),  # The first tick may come at once: 0.4 s.
        (["sent", *["tick"] * 6], True, True),
        (["sent", "given up", *["tick"] * 6], True, True),  # As a call does that was hedged.
        (
            ["sent", *["tick"] * 5, "sent", "answered", "tick"],
            False,
            False,
        ),  # A probe was answered, beside a long call.
        (["sent", *["tick"] * 5, "sent", "answered", *["tick"] * 6], True, True),
        (["sent", *["tick"] * 5, "answered", *["tick"] * 6], False, False),
        (["sent", *["late tick"] * 20], False, False),  # This process was stopped, or too busy to read answers.
        (["sent", *["tick", "late tick"] * 5], False, True),
    ],
)
def test_a_replica_hangs_that_answers_nothing_for_so_many_ticks(
    events: Sequence[str], hangs: bool, is_probed: bool
) -> None:
    health, hung = in_service(), False
    for event in events:
        match event:
            case "sent":
                health.on_sent()
            case "answered":
                health.on_answer(0.001, 0.0)
            case "given up":
                health.on_no_answer(0.01, 0.0)
            case _:
                hung = health.tick(TICK_S if event == "tick" else LATE)
    assert (hung, health.wants_probe(0.0)) == (hangs, is_probed)


def test_a_replica_that_is_out_of_service_is_probed_at_once_and_then_once_a_second_at_least() -> None:
    health = in_service()
    health.move_to(ReplicaState.CONNECTION_FAILED, "broken", 100.0)
    now_s, probes = 100.0, list[float]()
    while now_s < 105:
        if health.wants_probe(now_s):
            health.on_probe(now_s)
            probes.append(now_s)
        now_s += 0.01
    pauses = np.diff(probes)
    assert probes[0] == 100
    assert 0.05 < pauses[1] < 0.15
    assert max(pauses) == pytest.approx(1.0, abs=0.02)


def test_one_that_fails_again_soon_is_probed_later() -> None:
    health = in_service()
    for now_s in (10.0, 10.1, 10.2):
        health.move_to(ReplicaState.CONNECTION_FAILED, "broken", now_s)
        health.on_probe(now_s)
        health.move_to(ReplicaState.IN_SERVICE, "", now_s)
    health.move_to(ReplicaState.CONNECTION_FAILED, "broken", 10.3)
    assert not health.wants_probe(10.4)
    assert health.wants_probe(11.3)


def test_the_cost_of_a_call_grows_with_the_calls_in_flight_and_the_latency() -> None:
    fast, slow = in_service(), in_service()
    for health, latency_s in ((fast, 0.002), (slow, 0.02)):
        health.on_sent()
        health.on_answer(latency_s, 1.0)
    assert fast.cost(1.0) < slow.cost(1.0)
    for _ in range(20):
        fast.on_sent()
    assert fast.cost(1.0) > slow.cost(1.0)


def test_a_replica_that_loses_to_a_hedge_costs_more() -> None:
    health = in_service()
    health.on_sent()
    health.on_answer(0.002, 1.0)
    health.on_sent()
    before = health.cost(1.0) / 2
    health.on_no_answer(0.01, 1.0)
    assert health.cost(1.0) == pytest.approx(5 * before)


def test_a_slow_call_counts_at_once_and_fades() -> None:
    estimate = LatencyEstimate()
    estimate.add(0.002, 1.0)
    estimate.add(0.1, 1.0)
    estimate.add(0.002, 1.0)
    assert estimate.at(1.0) == pytest.approx(0.1)
    assert estimate.at(2.0) == pytest.approx(0.1 / math.e)
    assert estimate.at(60.0) < 0.002


@pytest.mark.parametrize("median_s", [0.001, 0.01, 0.3])
def test_a_hedge_waits_for_about_nineteen_of_twenty_calls(median_s: float) -> None:
    delay, random = HedgeDelay(), np.random.default_rng(0)
    latencies = median_s * np.exp(random.normal(0, 0.5, 8000))
    above = 0
    for i, latency_s in enumerate(latencies):
        delay.add(float(latency_s))
        above += i >= 4000 and latency_s > delay.seconds
    assert above / 4000 < 0.07
    if median_s > 0.005:
        assert above / 4000 > 0.03


def test_hedges_are_a_share_of_the_calls() -> None:
    budget, hedges = HedgeBudget(0.05), 0
    for _ in range(10_000):
        budget.add_call()
        hedges += budget.take()
    assert hedges == pytest.approx(500, abs=5)
    never = HedgeBudget(0.0)
    never.add_call()
    assert not never.take()
