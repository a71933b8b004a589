"""The estimate of recall: its bounds hold the truth, and only a fall beyond chance counts."""

from __future__ import annotations

import numpy as np
import pytest

from server.recall_estimate import MIN_SAMPLES, PromisedRecall, RecallWindow


def window_of(*samples: tuple[int, int], size: int = 4096) -> RecallWindow:
    window = RecallWindow(size)
    for found, expected in samples:
        window.add(found, expected)
    return window


def test_the_estimate_is_the_share_of_all_true_neighbours_that_were_found() -> None:
    estimate = window_of((10, 10), (5, 10), (3, 5)).estimate()
    assert (estimate.recall, estimate.samples) == (18 / 25, 3)
    assert 0 < estimate.lower < 18 / 25 < estimate.upper < 1


def test_where_everything_was_found_the_lower_bound_still_says_how_little_is_known() -> None:
    few, many = window_of((10, 10)).estimate(), window_of(*[(10, 10)] * 1000).estimate()
    assert few.recall == few.upper == many.upper == 1.0
    assert few.lower < 0.6
    assert 0.99 < many.lower < 1


def test_queries_that_find_all_or_nothing_tell_less_than_those_that_find_half() -> None:
    """The neighbours of one query are not independent."""
    uneven, even = window_of(*[(10, 10), (0, 10)] * 200).estimate(), window_of(*[(5, 10)] * 400).estimate()
    assert uneven.recall == even.recall == 0.5
    assert uneven.upper - uneven.lower > 3 * (even.upper - even.lower)


def test_only_the_newest_searches_count() -> None:
    window = window_of(*[(0, 10)] * 50, *[(9, 10)] * 100, size=100)
    assert window.estimate() == window_of(*[(9, 10)] * 100).estimate()


def test_the_bounds_hold_the_truth_of_queries_that_vary() -> None:
    """400 windows of 300 queries whose own recalls vary: at 99.9 of 100 none, or a very few, lie outside."""
    random = np.random.default_rng(5)
    outside = 0
    for _ in range(400):
        recalls = random.beta(9, 1, 300)  # Mean .9.
        estimate = window_of(*((int(random.binomial(10, recall)), 10) for recall in recalls)).estimate()
        outside += not estimate.lower <= 0.9 <= estimate.upper
    assert outside <= 3


@pytest.mark.parametrize(
    ("found", "samples", "short"),
    [
        (8, 400, True),
        (8, MIN_SAMPLES - 1, False),  # Too few to say.
        (9, 400, True),
    ],
)
def test_a_fall_counts_from_a_number_of_samples_on(found: int, samples: int, short: bool) -> None:
    estimate = window_of(*[(found, 10)] * samples).estimate()
    assert estimate.falls_short_of(PromisedRecall(0.95, 0.005)) is short


def test_a_fall_that_live_changes_or_the_error_of_the_promise_explain_is_none() -> None:
    window = window_of(*[(47, 50)] * 4096)  # .94, within .003.
    assert window.estimate().falls_short_of(PromisedRecall(0.95, 0.0))
    assert not window.estimate().falls_short_of(PromisedRecall(0.944, 0.0))
    assert not window.estimate().falls_short_of(PromisedRecall(0.95, 0.005))
