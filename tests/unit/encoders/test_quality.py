"""The quality metrics: precision@k, votes of neighbours and calibration error."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from encoders.quality import (
    best_precision_at_10,
    expected_calibration_error,
    label_codes,
    majority_vote,
    nearest_neighbours,
    neighbour_precisions,
    precision_at_10,
    reliability_bins,
    rows_of_repeated,
)
from lookalike.vectors import F32, normalised


def _random(count: int, dim: int = 6) -> F32:
    return normalised(np.random.default_rng(0).standard_normal((count, dim)).astype(np.float32))


def test_neighbours_exclude_the_query_and_are_sorted_nearest_first() -> None:
    vectors = normalised(np.array([[1, 0], [1, 0.1], [1, 0.5], [0, 1]], np.float32))

    np.testing.assert_array_equal(nearest_neighbours(vectors, 2), [[1, 2], [0, 2], [1, 0], [2, 1]])


@pytest.mark.parametrize("count", [513, 700])
def test_neighbours_equal_those_of_a_full_sort(count: int) -> None:
    vectors = _random(count)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)

    np.testing.assert_array_equal(nearest_neighbours(vectors, 10), np.argsort(-scores, axis=1, kind="stable")[:, :10])


def test_equal_scores_are_ordered_by_row() -> None:
    vectors = np.tile(np.array([[0.6, 0.8]], np.float32), (5, 1))

    np.testing.assert_array_equal(nearest_neighbours(vectors, 4)[2], [0, 1, 3, 4])


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_there_are_at_most_n_minus_one_neighbours(count: int) -> None:
    assert nearest_neighbours(_random(count), 10).shape == (count, max(count - 1, 0))


def test_precision_is_the_share_of_neighbours_with_the_same_label() -> None:
    neighbours = np.array([[1, 2], [0, 2], [0, 1]])

    np.testing.assert_allclose(neighbour_precisions(neighbours, ["a", "a", "b"]), [0.5, 0.5, 0])


def test_a_label_that_occurs_once_is_left_out_of_the_mean() -> None:
    vectors = normalised(np.array([[1, 0.01 * i] for i in range(11)] + [[0, 1], [0.01, 1]], np.float32))

    assert precision_at_10(vectors[:11], ["a"] * 11) == 1
    assert precision_at_10(vectors[:12], ["a"] * 11 + ["alone"]) == 1
    # Of the ten nearest of the two "b", one is a "b".
    assert precision_at_10(vectors, ["a"] * 11 + ["b"] * 2) == pytest.approx((11 * 1 + 2 * 0.1) / 13)


def test_precision_is_0_without_repeated_labels() -> None:
    assert precision_at_10(_random(0), []) == 0
    assert precision_at_10(_random(1), ["a"]) == 0
    assert precision_at_10(_random(2), ["a", "b"]) == 0


def test_calibrated_confidences_have_no_calibration_error() -> None:
    confidences, correct = np.repeat([0.25, 0.75], 100), np.tile([True, False, False, False], 25)

    assert expected_calibration_error(confidences, np.concatenate([correct, ~correct])) == pytest.approx(0)


def test_calibration_error_is_the_weighted_distance_of_confidence_and_accuracy() -> None:
    confidences = np.array([0.95] * 30 + [0.55] * 10)
    correct = np.array([True] * 15 + [False] * 15 + [True] * 10)

    # 30 of 40 are too sure by .45, 10 of 40 not sure enough by .45: the two do not cancel out.
    assert expected_calibration_error(confidences, correct) == pytest.approx(0.45)
    assert expected_calibration_error(confidences, correct, bins=1) == pytest.approx(0.85 - 25 / 40)


def test_confidence_1_is_in_the_last_bin_and_without_predictions_the_error_is_0() -> None:
    assert expected_calibration_error(np.array([1.0, 1.0]), np.array([True, False])) == pytest.approx(0.5)
    assert expected_calibration_error(np.array([]), np.array([], bool)) == 0


def test_reliability_bins_have_their_mean_confidence_accuracy_and_size() -> None:
    reliability = reliability_bins(
        np.array([0.1, 0.2, 0.9, 0.7, 1.0]), np.array([False, True, True, False, True]), bins=2
    )

    np.testing.assert_allclose(reliability, [(0.15, 0.5, 2), (2.6 / 3, 2 / 3, 3)])


def test_the_most_frequent_label_of_the_nearest_wins_with_its_share() -> None:
    references = normalised(np.array([[1, 0], [1, 0.1], [1, 0.2], [0, 1], [0.1, 1]], np.float32))
    queries = normalised(np.array([[1, 0.05], [0, 1]], np.float32))

    names, shares = majority_vote(queries, references, ["a", "b", "a", "b", "b"], k=3)

    assert names == ["a", "b"]
    np.testing.assert_allclose(
        shares, [2 / 3, 2 / 3]
    )  # The third nearest to the second query is the third reference, an "a".


def test_ties_go_to_the_nearer_label_and_then_to_the_first_by_name() -> None:
    references = normalised(np.array([[1, 0.3], [1, 0], [0, 1], [0, -1]], np.float32))

    assert majority_vote(np.array([[1, 0]], np.float32), references[:2], ["a", "b"])[0] == ["b"]
    assert majority_vote(np.array([[1, 0]], np.float32), references[2:], ["b", "a"])[0] == ["a"]


def test_with_fewer_than_k_references_all_of_them_vote() -> None:
    references = normalised(np.array([[1, 0], [0, 1], [0.1, 1]], np.float32))
    names, shares = majority_vote(np.array([[1, 0]], np.float32), references, ["a", "b", "b"], k=10)

    assert names == ["b"]
    np.testing.assert_allclose(shares, [2 / 3])


def test_votes_do_not_depend_on_the_batch_of_queries() -> None:
    queries, references = _random(1100), _random(300)
    labels = [f"label {number % 9}" for number in range(300)]
    together = majority_vote(queries, references, labels)

    for row in (0, 511, 512, 1099):
        (name,), (share,) = majority_vote(queries[row : row + 1], references, labels)
        assert (name, share) == (together[0][row], together[1][row])


def test_equal_labels_have_equal_codes_and_unknown_ones_codes_of_their_own() -> None:
    assert label_codes(["b", "a", "", "b", ""]).tolist() == [0, 1, 2, 0, 3]
    assert rows_of_repeated(label_codes(["b", "a", "", "b", ""])).tolist() == [0, 3]
    assert label_codes([]).tolist() == rows_of_repeated(label_codes([])).tolist() == []


def test_a_long_label_does_not_cost_memory_for_every_label() -> None:
    labels = ["x" * 1_000_000, *map(str, range(10_000))]
    tracemalloc.start()
    assert len(set(label_codes(labels).tolist())) == len(labels)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 10 << 20


def test_precision_at_10_is_the_best_possible_where_all_products_of_a_label_come_first() -> None:
    labels = [*"a" * 14, *"b" * 4, "c"]
    vectors = np.eye(3, dtype=np.float32)[[ord(label) - ord("a") for label in labels]]
    assert (
        precision_at_10(vectors, labels)
        == pytest.approx(best_precision_at_10(labels))
        == pytest.approx((14 * 1 + 4 * 0.3) / 18)
    )
    assert best_precision_at_10([*"abc"]) == 0
