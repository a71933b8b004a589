"""Labels, and what is measured of neighbours by them: the arithmetic of the quality report."""

from __future__ import annotations

import numpy as np
import pytest

from encoders.quality import nearest_neighbours, precision_at_10
from lookalike.v1.types_pb2 import Product
from lookalike.vectors import F32, normalised
from pipeline.evaluation.labels import Labelling, labellings
from pipeline.evaluation.measures import averages, by_label, ceiling, chance, confusions, cosines, found, shares


def _vectors(count: int, dim: int = 6, seed: int = 0) -> F32:
    return normalised(np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32))


def _line(*places: float) -> F32:
    """Unit vectors at angles along a quarter of a circle: the nearest is the one of the nearest place."""
    return np.stack([np.cos(places), np.sin(places)], axis=1).astype(np.float32)


def _products(*categories: str, tags: list[list[str]] | None = None) -> list[Product]:
    tagged = tags or [[] for _ in categories]
    return [Product(category=category, tags=own) for category, own in zip(categories, tagged, strict=True)]


def _by_title(products: list[Product]) -> dict[str, Labelling]:
    return {labelling.title: labelling for labelling in labellings(products)}


def test_products_are_labelled_by_every_level_of_their_category() -> None:
    named = _by_title(_products("home/kitchen/mugs", "home/kitchen/bowls", "home/beds", "toys"))

    assert {title: list(labelling.names) for title, labelling in named.items()} == {
        "level 1": ["home", "toys"],
        "level 2": ["home/beds", "home/kitchen", "toys"],
        "category": ["home/beds", "home/kitchen/bowls", "home/kitchen/mugs", "toys"],
    }


def test_a_level_that_divides_products_as_another_one_does_is_left_out() -> None:
    assert list(_by_title(_products("all/home/mugs", "all/toys/cars"))) == ["level 1", "category"]


def test_products_are_labelled_by_each_kind_of_tag_that_they_have_one_of() -> None:
    tags = [["colour:red", "summer"], ["colour:blue", "size:s"], ["colour:red", "colour:blue"], [":x", "size:"]]
    named = _by_title(_products("a", "a", "a", "a", tags=tags))

    assert list(named) == ["category", "tag colour", "tag size"]
    assert list(named["tag colour"].names) == ["blue", "red"]
    assert named["tag colour"].codes.tolist() == [1, 0, -1, -1]


def test_a_product_is_asked_about_when_another_one_has_its_label() -> None:
    labelling = Labelling.of("", ["a", "b", "a", "", ""])

    assert labelling.others.tolist() == [1, 0, 1, 0, 0]
    assert labelling.asked.tolist() == [True, False, True, False, False]
    assert labelling.tells


@pytest.mark.parametrize("labels", [["a", "a", "a"], ["a", "b", "c"], ["", ""], []])
def test_one_label_for_all_or_one_for_each_tells_nothing(labels: list[str]) -> None:
    assert not Labelling.of("", labels).tells


def test_precision_and_recall_of_a_small_case_by_hand() -> None:
    # From 0: a, b, a, a. Of the first, 3 others in all, 2 of its label.
    labelling = Labelling.of("", ["a", "b", "a", "a"])
    values = found(4, cosines(_line(0.0, 0.1, 0.3, 0.9)), [labelling]).values[""]

    # The nearest to the first are b, a, a: precision among 3, recall among the R = 2 nearest, and among all.
    np.testing.assert_allclose(values[:, 0], [2 / 3, 1 / 2, 1])
    # Nobody else is a b: not asked about.
    np.testing.assert_allclose(values[:, 1], [0, 0, 0])
    # The nearest to the third are b, a, a; to the last a, b, a.
    np.testing.assert_allclose(values[:, 2:].T, [[2 / 3, 1 / 2, 1], [2 / 3, 1 / 2, 1]])


def test_far_means_a_hundred_and_near_means_ten() -> None:
    # 300 products in a row: the first 150 are of one label.
    labels = ["a"] * 150 + ["b"] * 150
    values = found(300, cosines(_line(*np.linspace(0, 1.5, 300))), [Labelling.of("", labels)]).values[""]

    np.testing.assert_allclose(values[:, 0], [1, 1, 100 / 149])
    # In the middle, every second neighbour is of the other label.
    np.testing.assert_allclose(values[:, 149], [0.5, 75 / 149, 50 / 149], atol=0.02)


def test_nearest_and_precision_are_those_of_encoders_quality() -> None:
    vectors, labels = _vectors(600), [f"label {number % 7}" for number in range(600)]
    labelling = Labelling.of("", labels)
    judged = found(600, cosines(vectors), [labelling])

    np.testing.assert_array_equal(judged.nearest, nearest_neighbours(vectors, 10))
    assert judged.values[""][0].mean() == pytest.approx(precision_at_10(vectors, labels))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_products_have_few_neighbours_and_no_nonsense(count: int) -> None:
    labelling = Labelling.of("", ["a"] * count)
    judged = found(count, cosines(_vectors(count)), [labelling])

    assert judged.nearest.shape == (count, count - 1)
    assert np.isfinite(judged.values[""]).all()
    np.testing.assert_array_equal(judged.values[""], float(count > 1))


def test_chance_is_what_random_orders_give_on_average() -> None:
    labelling = Labelling.of("", [("a", "b", "b", "c", "c", "c")[number % 6] for number in range(240)])
    several = [found(240, cosines(_vectors(240, 40, seed)), [labelling]).values[""].mean(axis=1) for seed in range(20)]

    np.testing.assert_allclose(np.mean(several, axis=0), chance(labelling).mean(axis=1), rtol=0.03)


def test_no_order_is_better_than_the_best_possible_and_one_reaches_it() -> None:
    labelling = Labelling.of("", ["a"] * 130 + ["b"] * 4 + ["c"])
    best = ceiling(labelling)
    apart = np.eye(3, dtype=np.float32)[labelling.codes]

    np.testing.assert_allclose(found(135, cosines(apart), [labelling]).values[""], best)
    assert (found(135, cosines(_vectors(135)), [labelling]).values[""] <= best).all()
    np.testing.assert_allclose(best[:, 0], [1, 1, 100 / 129])
    np.testing.assert_allclose(best[:, 130], [0.3, 1, 1])


def test_micro_counts_queries_and_macro_labels() -> None:
    values, codes = np.array([[1.0, 1, 1, 0]]), np.array([0, 0, 0, 1])

    (average,) = averages(values, codes, seed=0)

    assert average.micro.value == pytest.approx(0.75)
    assert average.macro.value == pytest.approx(0.5)


def test_intervals_hold_the_mean_of_other_queries_nineteen_times_of_twenty() -> None:
    random = np.random.default_rng(0)
    codes = np.repeat([0, 1], [300, 100])
    held = 0
    for seed in range(200):
        values = np.where(codes == 0, random.random(400) < 0.7, random.random(400) < 0.2).astype(float)
        (average,) = averages(values[None], codes, seed)
        held += average.micro.low <= 0.575 <= average.micro.high
        assert average.macro.low <= average.macro.value <= average.macro.high

    # 190 expected; 3.5 standard deviations of that are 11.
    assert 179 <= held <= 200


def test_intervals_are_the_same_from_the_same_seed_and_in_any_order_of_labels() -> None:
    values, codes = np.random.default_rng(0).random((2, 50)), np.arange(50) % 3

    assert averages(values, codes, seed=4) == averages(values, codes, seed=4)
    assert averages(values, codes, seed=4) != averages(values, codes, seed=5)


def test_no_query_is_no_average() -> None:
    (average,) = averages(np.zeros((1, 0)), np.zeros(0, np.int64), seed=0)

    assert average.micro == average.macro == (0, 0, 0)


def test_each_label_has_the_mean_of_its_own_queries() -> None:
    labelling = Labelling.of("", ["b", "a", "b", "alone", "a"])

    means = by_label(np.array([[0.2, 1.0, 0.4, 9.0, 0.5]]), labelling)

    assert {label: float(mean[0]) for label, mean in means.items()} == pytest.approx({"a": 0.75, "b": 0.3})


def test_confusions_are_the_wrong_neighbours_the_most_frequent_first() -> None:
    labelling = Labelling.of("", ["a", "a", "b", "b", ""])
    nearest = np.array([[2, 1], [2, 3], [3, 4], [2, 0], [0, 1]])

    told = confusions(nearest, labelling)

    assert [(each.label, each.neighbour) for each in told] == [("a", "b"), ("b", ""), ("b", "a")]
    # Three of the four neighbours of "a" are of "b": three of the five wrong ones.
    assert (told[0].share, told[0].wrong) == pytest.approx((3 / 4, 3 / 5))


def test_shares_of_a_label_come_to_one_with_the_others() -> None:
    labelling = Labelling.of("", ["a", "a", "b", "b", "c", "c", ""])
    nearest = np.array([[1, 2], [0, 6], [3, 0], [2, 4], [5, 0], [4, 1], [0, 1]])

    table = shares(nearest, labelling, ["b", "a"])

    np.testing.assert_allclose(table, [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]])
