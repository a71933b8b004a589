"""The retry budget: retries are allowed while most calls succeed."""

from __future__ import annotations

from lookalike.runtime.retry_budget import RetryBudget


def test_a_failure_among_successes_may_be_retried() -> None:
    budget = RetryBudget()
    for _ in range(100):
        budget.record_success()
        assert budget.record_failure() or budget.tokens <= 5
    assert not budget.record_failure()


def test_after_a_few_failures_in_a_row_none_may_be_retried() -> None:
    budget = RetryBudget()
    assert [budget.record_failure() for _ in range(7)] == [True, True, True, True, False, False, False]


def test_successes_refill_the_budget_up_to_its_maximum() -> None:
    budget = RetryBudget()
    for _ in range(30):
        budget.record_failure()
    assert not budget.record_failure()
    for _ in range(61):
        budget.record_success()
    assert budget.record_failure()
    for _ in range(1_000):
        budget.record_success()
    assert budget.tokens == budget.max_tokens
