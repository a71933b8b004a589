"""The score from which products are near-duplicates, from queries whose duplicates are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from lookalike.vectors import F32, I64, normalised
from pipeline.duplicate_scores import (
    HITS,
    Identity,
    ScoredQueries,
    answers_from,
    choose_threshold,
    find_nearest,
    join,
    score_queries,
)


def queries(*answers: tuple[Sequence[float], Sequence[bool], int], times: int = 1) -> ScoredQueries:
    """Queries with these scores, right or wrong, and so many of the same product; each so many times."""
    scores = np.full((len(answers), HITS), -np.inf, dtype=np.float32)
    same = np.zeros((len(answers), HITS), dtype=bool)
    for row, (each, right, _) in enumerate(answers):
        scores[row, : len(each)], same[row, : len(right)] = each, right
    relevant = np.array([count for _, _, count in answers])
    return ScoredQueries(scores.repeat(times, 0), same.repeat(times, 0), relevant.repeat(times, 0))


RIGHT = ([0.9, 0.5], [True, False], 1)
WRONG = ([0.6], [False], 0)


def test_the_score_is_the_lowest_at_which_answers_are_precise() -> None:
    threshold = choose_threshold(queries(RIGHT, WRONG, times=50), "stated groups")
    assert threshold is not None
    # From 0.61 to 0.9 all 50 answers are right; at 0.6 half of 100 are.
    assert (threshold.min_score, threshold.precision, threshold.recall) == (0.9, 1, 1)
    assert (threshold.queries, threshold.measured_by) == (100, "stated groups")


def test_a_lower_score_that_is_still_precise_finds_more() -> None:
    late = ([0.7], [True], 1)
    noise = ([0.8], [False], 0)
    # 60 right answers at 0.9, 3 wrong ones at 0.8, 140 right ones at 0.7: .985 and a recall of 1 in place of .3.
    known = join(queries(RIGHT, times=60), queries(noise, times=3), queries(late, times=140))
    threshold = choose_threshold(known, "made copies")
    assert threshold is not None
    assert threshold.min_score == 0.7
    assert threshold.precision == pytest.approx(200 / 203, abs=1e-4)
    assert threshold.recall == 1


def test_where_no_score_is_precise_enough_it_is_the_most_precise_and_says_its_precision() -> None:
    half = ([0.9, 0.9], [True, False], 1)
    threshold = choose_threshold(queries(half, WRONG, times=50), "stated groups")
    assert threshold is not None
    assert (threshold.min_score, threshold.precision, threshold.recall) == (0.9, 0.5, 1)


def test_a_precision_that_may_be_chance_is_not_enough() -> None:
    noise, late = ([0.8], [False], 0), ([0.7], [True], 1)
    # .957 of 46 answers, give or take .030: too close to .95 to take the lower score for its recall.
    known = join(queries(RIGHT, times=34), queries(noise, times=2), queries(late, times=10))
    threshold = choose_threshold(known, "made copies")
    assert threshold is not None
    assert (threshold.min_score, threshold.precision) == (0.9, 1)
    surely = choose_threshold(join(*[known] * 40), "made copies")
    assert surely is not None
    assert surely.min_score == 0.7


def test_a_few_answers_that_happen_to_be_right_decide_nothing() -> None:
    lucky, half = ([0.99], [True], 1), ([0.9, 0.9], [True, False], 1)
    known = join(queries(lucky, times=29), queries(half, times=200))
    threshold = choose_threshold(known, "stated groups")
    assert threshold is not None
    assert threshold.min_score == 0.9


def test_where_no_score_is_precise_enough_a_fifth_of_those_with_another_have_an_answer() -> None:
    better, half = ([0.99, 0.99, 0.99], [True, True, False], 1), ([0.9, 0.9], [True, False], 1)
    known = join(queries(better, times=40), queries(half, times=200))
    threshold = choose_threshold(known, "stated groups")
    assert threshold is not None
    assert threshold.min_score == 0.9
    enough = choose_threshold(join(known, queries(better, times=10)), "stated groups")
    assert enough is not None
    assert enough.min_score == 0.99


def test_equal_scores_are_answers_together() -> None:
    # The right hit comes first, but no score separates it from the wrong one.
    threshold = choose_threshold(queries(([0.80004, 0.80001], [True, False], 1), times=40), "made copies")
    assert threshold is not None
    assert threshold.precision == 0.5


def test_too_few_queries_with_another_of_the_same_product_measure_nothing() -> None:
    assert choose_threshold(join(queries(RIGHT, times=29), queries(WRONG, times=100)), "stated groups") is None


def test_the_stated_figures_are_those_of_the_answers_from_that_score() -> None:
    rng = np.random.default_rng(0)
    scores = -np.sort(-rng.uniform(0, 1, (400, 20)).astype(np.float32), axis=1)
    same = rng.random((400, 20)) < scores**4
    known = ScoredQueries(scores, same, same.sum(axis=1))
    threshold = choose_threshold(known, "stated groups")
    assert threshold is not None
    answers = answers_from(known, threshold.min_score)
    assert threshold.precision == pytest.approx(answers.precision.mean(), abs=1e-4)
    assert threshold.recall == pytest.approx(answers.recall.mean(), abs=1e-4)


def test_answers_are_averaged_over_queries_and_not_over_hits() -> None:
    many = ([0.9] * 8, [True] * 8, 8)
    answers = answers_from(queries(many, ([0.9], [False], 1)), 0.9)
    assert answers.precision.mean() == 0.5
    assert answers.recall.mean() == 0.5
    assert answers.pair_precision == pytest.approx(8 / 9)


def two_clusters(count: int = 300) -> tuple[F32, I64]:
    """Pairs of vectors of the same product, and their codes."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((count // 2, 16)).repeat(2, axis=0)
    vectors = normalised((centres + 0.1 * random.standard_normal(centres.shape)).astype(np.float32))
    return vectors, np.arange(count) // 2


def test_a_product_does_not_find_itself_but_a_copy_of_it_does() -> None:
    vectors, codes = two_clusters()
    rows, all_rows = np.arange(40), np.arange(300)
    nearest = find_nearest(vectors[:40], vectors, all_rows)
    own = score_queries(nearest, rows, all_rows, Identity([codes]), find_own=False)
    copies = score_queries(nearest, rows, all_rows, Identity([codes]), find_own=True)
    assert own.relevant.tolist() == [1] * 40
    assert copies.relevant.tolist() == [2] * 40
    assert own.scores.shape == (40, HITS)
    assert own.same[:, 0].all()
    assert own.same.sum() == 40
    assert copies.scores[:, 0] == pytest.approx(1)
    assert copies.same[:, :2].all()


def test_products_without_a_vector_are_not_to_be_found() -> None:
    vectors, codes = two_clusters()
    even = np.arange(0, 300, 2)  # One of each pair has a vector.
    nearest = find_nearest(vectors[even[:40]], vectors[even], even)
    scored = score_queries(nearest, even[:40], even, Identity([codes]), find_own=False)
    assert not scored.relevant.any()
    assert not scored.same.any()


def test_nearest_products_are_found_over_all_blocks() -> None:
    vectors, codes = two_clusters()
    far = np.zeros((20_000, 16), dtype=np.float32)
    far[:, 0] = 1
    everything = np.concatenate([vectors[:150], far, vectors[150:]])
    all_codes = np.concatenate([codes[:150], 1000 + np.arange(20_000), codes[150:]])
    rows, all_rows = np.arange(20_150, 20_190), np.arange(len(everything))
    nearest = find_nearest(everything[rows], everything, all_rows)
    assert score_queries(nearest, rows, all_rows, Identity([all_codes]), find_own=False).same[:, 0].all()


def test_products_are_the_same_by_any_of_their_codes() -> None:
    titles, photos = np.array([0, 0, 1, 2]), np.array([5, 6, 5, 7])
    identity = Identity([titles, photos])
    assert identity.same(np.array([0]), np.array([[0, 1, 2, 3]])).tolist() == [[True, True, True, False]]
    assert identity.count(np.array([0, 1, 2, 3]), np.arange(4)).tolist() == [3, 2, 2, 1]
    both = Identity([np.array([0, 0]), np.array([0, 0])])
    assert both.count(np.array([0]), np.arange(2)).tolist() == [2]  # Not counted twice.
