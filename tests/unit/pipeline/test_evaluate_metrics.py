"""Labels and retrieval metrics: the arithmetic of the quality report."""

from __future__ import annotations

import numpy as np
import pytest

from encoders.quality import nearest_neighbours, precision_at_10
from lookalike.v1.types_pb2 import Product
from lookalike.vectors import F32, normalised
from pipeline.evaluation.labels import Labelling, find_labellings
from pipeline.evaluation.metrics import (
    average_metrics,
    ceiling_metrics,
    chance_metrics,
    confusion_matrix,
    cosines,
    find_confusions,
    means_by_label,
    rank_neighbours,
)


def _vectors(count: int, dim: int = 6, seed: int = 0) -> F32:
    return normalised(np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32))


def _on_a_circle(*angles: float) -> F32:
    """Unit vectors (n, 2) at these angles in radians: the nearest vector has the nearest angle."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def _products(*categories: str, tags: list[list[str]] | None = None) -> list[Product]:
    tagged = tags or [[] for _ in categories]
    return [Product(category=category, tags=own_tags) for category, own_tags in zip(categories, tagged, strict=True)]


def _by_title(products: list[Product]) -> dict[str, Labelling]:
    return {labelling.title: labelling for labelling in find_labellings(products)}


def test_products_are_labelled_by_every_level_of_their_category() -> None:
    labellings = _by_title(_products("home/kitchen/mugs", "home/kitchen/bowls", "home/beds", "toys"))

    assert {title: list(labelling.names) for title, labelling in labellings.items()} == {
        "level 1": ["home", "toys"],
        "level 2": ["home/beds", "home/kitchen", "toys"],
        "category": ["home/beds", "home/kitchen/bowls", "home/kitchen/mugs", "toys"],
    }


def test_a_level_that_groups_products_as_another_does_is_left_out() -> None:
    assert list(_by_title(_products("all/home/mugs", "all/toys/cars"))) == ["level 1", "category"]


def test_products_are_labelled_by_each_kind_of_tag_of_which_they_have_exactly_one() -> None:
    tags = [["colour:red", "summer"], ["colour:blue", "size:s"], ["colour:red", "colour:blue"], [":x", "size:"]]
    labellings = _by_title(_products("a", "a", "a", "a", tags=tags))

    assert list(labellings) == ["category", "tag colour", "tag size"]
    assert list(labellings["tag colour"].names) == ["blue", "red"]
    assert labellings["tag colour"].codes.tolist() == [1, 0, -1, -1]


def test_a_product_is_a_query_if_another_one_has_its_label() -> None:
    labelling = Labelling.from_labels("", ["a", "b", "a", "", ""])

    assert labelling.relevant_counts.tolist() == [1, 0, 1, 0, 0]
    assert labelling.is_query.tolist() == [True, False, True, False, False]
    assert labelling.is_informative


@pytest.mark.parametrize("labels", [["a", "a", "a"], ["a", "b", "c"], ["", ""], []])
def test_a_labelling_with_one_label_for_all_or_a_label_for_each_is_not_informative(labels: list[str]) -> None:
    assert not Labelling.from_labels("", labels).is_informative


def test_precision_and_recall_equal_those_computed_by_hand_for_four_products() -> None:
    # The first product has 3 others, 2 of them relevant.
    labelling = Labelling.from_labels("", ["a", "b", "a", "a"])
    values = rank_neighbours(4, cosines(_on_a_circle(0.0, 0.1, 0.3, 0.9)), [labelling]).metrics[""]

    # The nearest to the first are b, a, a: precision among 3, recall among the R = 2 nearest and among all.
    np.testing.assert_allclose(values[:, 0], [2 / 3, 1 / 2, 1])
    # No other product is a b: not a query.
    np.testing.assert_allclose(values[:, 1], [0, 0, 0])
    # The nearest to the third are b, a, a; to the last a, b, a.
    np.testing.assert_allclose(values[:, 2:].T, [[2 / 3, 1 / 2, 1], [2 / 3, 1 / 2, 1]])


def test_precision_is_of_the_ten_nearest_and_recall_of_the_hundred_nearest() -> None:
    # 300 products in a row: the first 150 are of one label.
    labels = ["a"] * 150 + ["b"] * 150
    values = rank_neighbours(
        300, cosines(_on_a_circle(*np.linspace(0, 1.5, 300))), [Labelling.from_labels("", labels)]
    ).metrics[""]

    np.testing.assert_allclose(values[:, 0], [1, 1, 100 / 149])
    # In the middle, every second neighbour is of the other label.
    np.testing.assert_allclose(values[:, 149], [0.5, 75 / 149, 50 / 149], atol=0.02)


def test_neighbours_and_precision_agree_with_encoders_quality() -> None:
    vectors, labels = _vectors(600), [f"label {number % 7}" for number in range(600)]
    labelling = Labelling.from_labels("", labels)
    ranking = rank_neighbours(600, cosines(vectors), [labelling])

    np.testing.assert_array_equal(ranking.nearest, nearest_neighbours(vectors, 10))
    assert ranking.metrics[""][0].mean() == pytest.approx(precision_at_10(vectors, labels))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_fewer_than_ten_products_give_finite_metrics(count: int) -> None:
    labelling = Labelling.from_labels("", ["a"] * count)
    ranking = rank_neighbours(count, cosines(_vectors(count)), [labelling])

    assert ranking.nearest.shape == (count, count - 1)
    assert np.isfinite(ranking.metrics[""]).all()
    np.testing.assert_array_equal(ranking.metrics[""], float(count > 1))


def test_chance_is_the_average_of_random_rankings() -> None:
    labelling = Labelling.from_labels("", [("a", "b", "b", "c", "c", "c")[number % 6] for number in range(240)])
    random_means = [
        rank_neighbours(240, cosines(_vectors(240, 40, seed)), [labelling]).metrics[""].mean(axis=1)
        for seed in range(20)
    ]

    np.testing.assert_allclose(np.mean(random_means, axis=0), chance_metrics(labelling).mean(axis=1), rtol=0.03)


def test_no_ranking_is_better_than_the_best_possible_and_a_perfect_one_reaches_it() -> None:
    labelling = Labelling.from_labels("", ["a"] * 130 + ["b"] * 4 + ["c"])
    best = ceiling_metrics(labelling)
    label_vectors = np.eye(3, dtype=np.float32)[labelling.codes]

    np.testing.assert_allclose(rank_neighbours(135, cosines(label_vectors), [labelling]).metrics[""], best)
    assert (rank_neighbours(135, cosines(_vectors(135)), [labelling]).metrics[""] <= best).all()
    np.testing.assert_allclose(best[:, 0], [1, 1, 100 / 129])
    np.testing.assert_allclose(best[:, 130], [0.3, 1, 1])


def test_micro_averages_over_queries_and_macro_over_labels() -> None:
    values, codes = np.array([[1.0, 1, 1, 0]]), np.array([0, 0, 0, 1])

    (average,) = average_metrics(values, codes, seed=0)

    assert average.micro.value == pytest.approx(0.75)
    assert average.macro.value == pytest.approx(0.5)


def test_95_percent_intervals_contain_the_true_mean_in_95_percent_of_cases() -> None:
    random = np.random.default_rng(0)
    codes = np.repeat([0, 1], [300, 100])
    contained = 0
    for seed in range(200):
        values = np.where(codes == 0, random.random(400) < 0.7, random.random(400) < 0.2).astype(float)
        (average,) = average_metrics(values[None], codes, seed)
        contained += average.micro.low <= 0.575 <= average.micro.high
        assert average.macro.low <= average.macro.value <= average.macro.high

    # 190 expected; 3.5 standard deviations of that are 11.
    assert 179 <= contained <= 200


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others() -> None:
    values, codes = np.random.default_rng(0).random((2, 50)), np.arange(50) % 3

    assert average_metrics(values, codes, seed=4) == average_metrics(values, codes, seed=4)
    assert average_metrics(values, codes, seed=4) != average_metrics(values, codes, seed=5)


def test_without_queries_averages_are_zero() -> None:
    (average,) = average_metrics(np.zeros((1, 0)), np.zeros(0, np.int64), seed=0)

    assert average.micro == average.macro == (0, 0, 0)


def test_means_by_label_are_over_the_queries_of_each_label() -> None:
    labelling = Labelling.from_labels("", ["b", "a", "b", "alone", "a"])

    means = means_by_label(np.array([[0.2, 1.0, 0.4, 9.0, 0.5]]), labelling)

    assert {label: float(mean[0]) for label, mean in means.items()} == pytest.approx({"a": 0.75, "b": 0.3})


def test_confusions_are_pairs_of_labels_sorted_by_frequency() -> None:
    labelling = Labelling.from_labels("", ["a", "a", "b", "b", ""])
    nearest = np.array([[2, 1], [2, 3], [3, 4], [2, 0], [0, 1]])

    result = find_confusions(nearest, labelling)

    assert [(confusion.label, confusion.neighbour_label) for confusion in result] == [("a", "b"), ("b", ""), ("b", "a")]
    # Three of the four neighbours of "a" are of "b": three of the five wrong ones.
    assert (result[0].share_of_neighbours, result[0].share_of_errors) == pytest.approx((3 / 4, 3 / 5))


def test_rows_of_the_confusion_matrix_sum_to_one() -> None:
    labelling = Labelling.from_labels("", ["a", "a", "b", "b", "c", "c", ""])
    nearest = np.array([[1, 2], [0, 6], [3, 0], [2, 4], [5, 0], [4, 1], [0, 1]])

    matrix = confusion_matrix(nearest, labelling, ["b", "a"])

    np.testing.assert_allclose(matrix, [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]])
