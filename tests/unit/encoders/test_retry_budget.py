from __future__ import annotations

from encoders.image.retry_budget import RetryBudget


def test_one_failure_among_successes_may_be_tried_again() -> None:
    budget = RetryBudget()
    for _ in range(100):
        budget.record_success()
        assert budget.record_failure() or budget.tokens <= 5
    assert not budget.record_failure()


def test_failures_alone_soon_may_not() -> None:
    budget = RetryBudget()
    assert [budget.record_failure() for _ in range(7)] == [True, True, True, True, False, False, False]


def test_successes_fill_it_again_up_to_the_brim() -> None:
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
