"""Finding the cheapest settings of a contender, and its true neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from benchmarks.contender import SearchSettings, find_cheapest_settings, first_true, refine_parameter_steps
from benchmarks.neighbours import nearest
from lookalike.vectors import F32, I64

TRUTH = np.arange(10)[None, :]
QUERY = np.zeros((1, 4), np.float32)


class FakeContender:
    """Finds search_parameter × refine_factor of the ten neighbours."""

    refine_factors: Sequence[int] = (1, 2)
    search_parameters: Sequence[float] = tuple(range(1, 11))

    def search(self, query: F32, settings: SearchSettings) -> I64:
        return np.arange(min(10, int(settings.search_parameter) * settings.refine_factor))

    def rescored(self, query: F32, settings: SearchSettings) -> I64:
        return np.empty(0, np.int64)


@pytest.mark.parametrize(("threshold", "count"), [(0, 1), (0, 9), (3, 4), (5, 9), (8, 9)])
def test_bisection_finds_the_first_position_at_which_the_condition_is_true(threshold: int, count: int) -> None:
    assert first_true(lambda at: at >= threshold, count) == threshold


def test_bisection_returns_none_if_the_condition_is_true_nowhere() -> None:
    assert first_true(lambda at: False, 7) is None


def test_search_parameters_are_tried_in_eight_steps_per_doubling_within_their_range() -> None:
    steps = refine_parameter_steps([1, 2, 4, 256])
    assert (steps[0], steps[-1]) == (1, 256)
    assert max(later / earlier for earlier, later in pairwise(steps[7:])) < 1.2


@pytest.mark.parametrize("target", [0.5, 0.9, 0.99])
def test_the_cheapest_settings_reach_the_target_recall_and_cheaper_ones_do_not(target: float) -> None:
    found = find_cheapest_settings(FakeContender(), QUERY, TRUTH, target)
    assert found is not None
    settings, reached = found
    assert reached >= target
    assert (settings.search_parameter - 1) * settings.refine_factor < 10 * target


@pytest.mark.parametrize(("slow_factor", "chosen"), [(1, 2), (2, 1)])
def test_of_settings_that_reach_the_recall_those_that_take_less_time_are_chosen(slow_factor: int, chosen: int) -> None:
    class Slow(FakeContender):
        def search(self, query: F32, settings: SearchSettings) -> I64:
            sum(range(100_000 if settings.refine_factor == slow_factor else 1))
            return super().search(query, settings)

    found = find_cheapest_settings(Slow(), np.tile(QUERY, (20, 1)), np.tile(TRUTH, (20, 1)), 0.9)
    assert found is not None
    assert found[0].refine_factor == chosen


def test_a_recall_that_is_out_of_reach_has_no_settings() -> None:
    class Worse(FakeContender):
        search_parameters: Sequence[float] = (1, 2)

    assert find_cheapest_settings(Worse(), QUERY, TRUTH, 0.9) is None


def test_true_neighbours_are_found_over_all_chunks_by_falling_score() -> None:
    vectors = np.random.default_rng(0).normal(size=(40_000, 4)).astype(np.float32)
    queries = vectors[[5, 39_999]]
    assert np.array_equal(nearest(vectors, queries, 7), np.argsort(-(queries @ vectors.T), axis=1)[:, :7])
