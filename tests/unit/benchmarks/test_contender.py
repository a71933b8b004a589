"""What a contender is measured with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from benchmarks.contender import Knobs, finer, first, least
from benchmarks.ngt_comparison import nearest
from lookalike.vectors import F32, I64

TRUTH = np.arange(10)[None, :]
QUERY = np.zeros((1, 4), np.float32)


class Found:
    """Finds as many of the ten as its search_parameter, times its factor, says."""

    refine_factors: Sequence[int] = (1, 2)
    search_parameters: Sequence[float] = tuple(range(1, 11))

    def search(self, query: F32, knobs: Knobs) -> I64:
        return np.arange(min(10, int(knobs.search_parameter) * knobs.factor))

    def rescored(self, query: F32, knobs: Knobs) -> I64:
        return np.empty(0, np.int64)


@pytest.mark.parametrize(("threshold", "count"), [(0, 1), (0, 9), (3, 4), (5, 9), (8, 9)])
def test_the_first_position_from_which_on_it_is_true_is_found(threshold: int, count: int) -> None:
    assert first(lambda at: at >= threshold, count) == threshold


def test_nowhere_is_told_from_somewhere() -> None:
    assert first(lambda at: False, 7) is None


def test_search_parameters_are_tried_in_eight_steps_for_each_doubling_and_no_further_than_given() -> None:
    steps = finer([1, 2, 4, 256])
    assert (steps[0], steps[-1]) == (1, 256)
    assert max(later / earlier for earlier, later in pairwise(steps[7:])) < 1.2


@pytest.mark.parametrize("target", [0.5, 0.9, 0.99])
def test_the_effort_found_reaches_the_recall_and_no_less_does(target: float) -> None:
    found = least(Found(), QUERY, TRUTH, target)
    assert found is not None
    knobs, reached = found
    assert reached >= target
    assert (knobs.search_parameter - 1) * knobs.factor < 10 * target


def test_a_recall_that_is_out_of_reach_is_none() -> None:
    class Worse(Found):
        search_parameters: Sequence[float] = (1, 2)

    assert least(Worse(), QUERY, TRUTH, 0.9) is None


def test_true_neighbours_are_those_of_all_pieces_by_falling_score() -> None:
    vectors = np.random.default_rng(0).normal(size=(40_000, 4)).astype(np.float32)
    queries = vectors[[5, 39_999]]
    assert np.array_equal(nearest(vectors, queries, 7), np.argsort(-(queries @ vectors.T), axis=1)[:, :7])
