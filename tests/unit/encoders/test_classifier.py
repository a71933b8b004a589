"""Probabilities of categories, and when to abstain."""

from __future__ import annotations

import numpy as np
import pytest

from encoders.product.classifier import (
    PRECISIONS,
    UNREACHABLE,
    Classifier,
    LabelledProducts,
    fit_classifier,
    fit_temperature,
    fit_thresholds,
    softmax,
    wilson_lower_bound,
)
from encoders.product.fusion import Modality
from encoders.quality import expected_calibration_error
from lookalike.vectors import normalised


def labelled(count: int, categories: int, *, noise: float, seed: int) -> LabelledProducts:
    rng = np.random.default_rng(seed)
    numbers = np.concatenate([np.arange(categories), rng.integers(categories, size=count - categories)])
    vectors = {
        kind: normalised((np.eye(8)[numbers] + rate * noise * rng.normal(size=(count, 8))).astype(np.float32))
        for kind, rate in ((Modality.BOTH, 1), (Modality.IMAGE, 2), (Modality.TEXT, 1.5))
    }
    return LabelledProducts(vectors=vectors, categories=numbers)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return fit_classifier(labelled(3_000, 5, noise=0.35, seed=1), labelled(1_000, 5, noise=0.35, seed=2), 5)


@pytest.mark.parametrize("kind", Modality)
def test_probabilities_sum_to_one_and_are_calibrated_for_every_kind(classifier: Classifier, kind: Modality) -> None:
    fresh = labelled(3_000, 5, noise=0.35, seed=3)
    shares = classifier.probabilities(kind, fresh.vectors[kind])
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    right = shares.argmax(axis=1) == fresh.categories
    assert expected_calibration_error(shares.max(axis=1), right) < 0.04


@pytest.mark.parametrize("kind", Modality)
def test_above_the_threshold_answers_are_as_precise_as_was_asked_for(classifier: Classifier, kind: Modality) -> None:
    fresh = labelled(3_000, 5, noise=0.35, seed=4)
    shares = classifier.probabilities(kind, fresh.vectors[kind])
    right = shares.argmax(axis=1) == fresh.categories
    for precision in (0.7, 0.8):
        answered = shares.max(axis=1) >= classifier.threshold(kind, precision)
        assert answered.any()
        assert right[answered].mean() > precision - 0.02


def test_less_to_go_by_means_more_abstention(classifier: Classifier) -> None:
    assert classifier.threshold(Modality.IMAGE, 0.9) > classifier.threshold(Modality.BOTH, 0.9)


def test_two_categories_are_told_apart_like_many() -> None:
    made = fit_classifier(labelled(500, 2, noise=0.3, seed=1), labelled(300, 2, noise=0.3, seed=2), 2)
    fresh = labelled(500, 2, noise=0.3, seed=3)
    shares = made.probabilities(Modality.BOTH, fresh.vectors[Modality.BOTH])
    assert (shares.argmax(axis=1) == fresh.categories).mean() > 0.95


def test_a_precision_between_two_of_the_table_is_the_higher_one() -> None:
    thresholds = np.linspace(0, 1, len(PRECISIONS), dtype=np.float32)
    made = Classifier(
        weights=np.zeros((1, 2), np.float32), bias=np.zeros(2, np.float32), temperatures={},
        thresholds={Modality.BOTH: thresholds},
    )  # fmt: skip
    assert made.threshold(Modality.BOTH, 0.9) == thresholds[PRECISIONS.index(0.9)]
    assert made.threshold(Modality.BOTH, 0.901) == thresholds[PRECISIONS.index(0.91)]
    assert made.threshold(Modality.BOTH, 0.995) == UNREACHABLE


def test_few_products_promise_little() -> None:
    certain = fit_thresholds(np.full(5, 0.99, np.float32), np.ones(5, bool))
    assert certain[PRECISIONS.index(0.5)] == np.float32(0.99)
    assert certain[PRECISIONS.index(0.9)] == UNREACHABLE


def test_without_any_product_nothing_is_promised() -> None:
    assert (fit_thresholds(np.empty(0, np.float32), np.empty(0, bool)) == UNREACHABLE).all()
    assert fit_temperature(np.empty((0, 3), np.float32), np.empty(0, np.int64)) == 1.0


def test_answers_of_one_probability_are_given_together_or_not_at_all() -> None:
    confidences = np.repeat(np.array([0.9, 0.6], np.float32), 50)
    right = np.arange(100) < 75  # All of the first, half of the second.
    thresholds = fit_thresholds(confidences, right)
    assert thresholds[PRECISIONS.index(0.95)] == np.float32(0.9)
    assert thresholds[PRECISIONS.index(0.65)] == np.float32(0.6)


def test_the_lower_bound_is_wilsons() -> None:
    # By definition the least share from which what was measured lies no more than z standard deviations away.
    lower = float(wilson_lower_bound(np.array([0.9]), np.array([10.0]))[0])
    assert 0.9 - lower == pytest.approx(1.2816 * np.sqrt(lower * (1 - lower) / 10), abs=1e-6)


def test_scores_of_any_size_have_a_softmax() -> None:
    shares = softmax(np.array([[1e30, 0], [-1e30, -1e30]], np.float32))
    assert shares.tolist() == [[1, 0], [0.5, 0.5]]


def test_answers_that_were_all_right_do_not_make_every_answer_certain() -> None:
    numbers = np.arange(200) % 4
    scores = np.eye(4, dtype=np.float32)[numbers] * 3
    confidences = softmax(scores / np.float32(fit_temperature(scores, numbers))).max(axis=1)
    np.testing.assert_allclose(confidences, 201 / 202, atol=1e-3)


def test_overconfident_scores_are_cooled() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.integers(3, size=3_000)
    scores = (np.eye(3)[numbers] * 2 + rng.normal(size=(3_000, 3))).astype(np.float32)
    honest = fit_temperature(scores, numbers)
    assert fit_temperature(scores * 7, numbers) == pytest.approx(7 * honest, rel=0.01)


def test_products_of_unknown_categories_raise_the_thresholds() -> None:
    learning, known = labelled(2_000, 5, noise=0.35, seed=1), labelled(1_000, 5, noise=0.35, seed=2)
    strange = labelled(1_000, 8, noise=0.35, seed=3)  # Categories 5..7 were never learnt from.
    some = LabelledProducts(
        vectors=strange.vectors, categories=np.where(strange.categories < 5, strange.categories, -1)
    )  # fmt: skip
    sheltered, honest = fit_classifier(learning, known, 5), fit_classifier(learning, some, 5)
    assert honest.threshold(Modality.BOTH, 0.8) > sheltered.threshold(Modality.BOTH, 0.8)
    fresh = labelled(2_000, 8, noise=0.35, seed=4)
    shares = honest.probabilities(Modality.BOTH, fresh.vectors[Modality.BOTH])
    answered = shares.max(axis=1) >= honest.threshold(Modality.BOTH, 0.8)
    assert answered.any()
    assert (shares.argmax(axis=1) == fresh.categories)[answered].mean() > 0.78
