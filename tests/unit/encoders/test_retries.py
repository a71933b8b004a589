from __future__ import annotations

from encoders.image.retries import RetryBudget


def test_one_failure_among_successes_may_be_tried_again() -> None:
    budget = RetryBudget()
    for _ in range(100):
        budget.succeeded()
        assert budget.failed() or budget.tokens <= 5
    assert not budget.failed()


def test_failures_alone_soon_may_not() -> None:
    budget = RetryBudget()
    assert [budget.failed() for _ in range(7)] == [True, True, True, True, False, False, False]


def test_successes_fill_it_again_up_to_the_brim() -> None:
    budget = RetryBudget()
    for _ in range(30):
        budget.failed()
    assert not budget.failed()
    for _ in range(61):
        budget.succeeded()
    assert budget.failed()
    for _ in range(1_000):
        budget.succeeded()
    assert budget.tokens == budget.most
