"""A share of one core's time."""

from __future__ import annotations

import pytest

from server.cpu_budget import CpuBudget


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_what_was_spent_is_owed_until_its_share_of_the_time_has_passed() -> None:
    clock = Clock()
    budget = CpuBudget(0.01, clock)
    assert budget.wait_s() == 0
    budget.spend(0.3)
    assert budget.wait_s() == pytest.approx(30)
    clock.now_s += 29
    assert budget.wait_s() == pytest.approx(1)
    clock.now_s += 2
    assert budget.wait_s() == 0


def test_a_long_pause_is_worth_a_minute() -> None:
    clock = Clock()
    budget = CpuBudget(0.01, clock)
    clock.now_s += 86400
    budget.spend(0.6)
    assert budget.wait_s() == pytest.approx(0)
    budget.spend(0.1)
    assert budget.wait_s() == pytest.approx(10)


def test_over_an_hour_no_more_than_the_share_is_spent() -> None:
    clock = Clock()
    budget, spent_s = CpuBudget(0.02, clock), 0.0
    for _ in range(36000):
        clock.now_s += 0.1
        if not budget.wait_s():
            budget.spend(0.37)
            spent_s += 0.37
    assert 0.02 * 3600 * 0.98 <= spent_s <= 0.02 * 3600 + 0.37
