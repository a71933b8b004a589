"""The classifier: calibrated probabilities and thresholds for abstention."""

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


def labelled_products(count: int, categories: int, *, noise: float, seed: int) -> LabelledProducts:
    rng = np.random.default_rng(seed)
    numbers = np.concatenate([np.arange(categories), rng.integers(categories, size=count - categories)])
    vectors = {
        modality: normalised((np.eye(8)[numbers] + rate * noise * rng.normal(size=(count, 8))).astype(np.float32))
        for modality, rate in ((Modality.BOTH, 1), (Modality.IMAGE, 2), (Modality.TEXT, 1.5))
    }
    return LabelledProducts(vectors=vectors, categories=numbers)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return fit_classifier(
        labelled_products(3_000, 5, noise=0.35, seed=1), labelled_products(1_000, 5, noise=0.35, seed=2), 5
    )


@pytest.mark.parametrize("modality", Modality)
def test_probabilities_sum_to_one_and_are_calibrated_for_every_modality(
    classifier: Classifier, modality: Modality
) -> None:
    fresh = labelled_products(3_000, 5, noise=0.35, seed=3)
    probabilities = classifier.probabilities(modality, fresh.vectors[modality])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    correct = probabilities.argmax(axis=1) == fresh.categories
    assert expected_calibration_error(probabilities.max(axis=1), correct) < 0.04


@pytest.mark.parametrize("modality", Modality)
def test_above_the_threshold_predictions_have_the_requested_precision(
    classifier: Classifier, modality: Modality
) -> None:
    fresh = labelled_products(3_000, 5, noise=0.35, seed=4)
    probabilities = classifier.probabilities(modality, fresh.vectors[modality])
    correct = probabilities.argmax(axis=1) == fresh.categories
    for precision in (0.7, 0.8):
        accepted = probabilities.max(axis=1) >= classifier.threshold(modality, precision)
        assert accepted.any()
        assert correct[accepted].mean() > precision - 0.02


def test_thresholds_are_higher_with_one_modality_than_with_both(classifier: Classifier) -> None:
    assert classifier.threshold(Modality.IMAGE, 0.9) > classifier.threshold(Modality.BOTH, 0.9)


def test_a_classifier_of_only_two_categories_works_too() -> None:
    classifier = fit_classifier(
        labelled_products(500, 2, noise=0.3, seed=1), labelled_products(300, 2, noise=0.3, seed=2), 2
    )
    fresh = labelled_products(500, 2, noise=0.3, seed=3)
    probabilities = classifier.probabilities(Modality.BOTH, fresh.vectors[Modality.BOTH])
    assert (probabilities.argmax(axis=1) == fresh.categories).mean() > 0.95


def test_a_precision_between_two_table_entries_uses_the_higher_one() -> None:
    thresholds = np.linspace(0, 1, len(PRECISIONS), dtype=np.float32)
    classifier = Classifier(
        weights=np.zeros((1, 2), np.float32), bias=np.zeros(2, np.float32), temperatures={},
        thresholds={Modality.BOTH: thresholds},
    )  # fmt: skip
    assert classifier.threshold(Modality.BOTH, 0.9) == thresholds[PRECISIONS.index(0.9)]
    assert classifier.threshold(Modality.BOTH, 0.901) == thresholds[PRECISIONS.index(0.91)]
    assert classifier.threshold(Modality.BOTH, 0.995) == UNREACHABLE


def test_few_products_cannot_reach_a_high_precision() -> None:
    certain = fit_thresholds(np.full(5, 0.99, np.float32), np.ones(5, bool))
    assert certain[PRECISIONS.index(0.5)] == np.float32(0.99)
    assert certain[PRECISIONS.index(0.9)] == UNREACHABLE


def test_without_products_every_threshold_is_unreachable() -> None:
    assert (fit_thresholds(np.empty(0, np.float32), np.empty(0, bool)) == UNREACHABLE).all()
    assert fit_temperature(np.empty((0, 3), np.float32), np.empty(0, np.int64)) == 1.0


def test_predictions_of_equal_confidence_are_accepted_together_or_not_at_all() -> None:
    confidences = np.repeat(np.array([0.9, 0.6], np.float32), 50)
    correct = np.arange(100) < 75  # All of the first, half of the second.
    thresholds = fit_thresholds(confidences, correct)
    assert thresholds[PRECISIONS.index(0.95)] == np.float32(0.9)
    assert thresholds[PRECISIONS.index(0.65)] == np.float32(0.6)


def test_the_lower_bound_is_that_of_the_wilson_interval() -> None:
    # By definition: the true share that is z of its standard deviations below the measured share.
    lower = float(wilson_lower_bound(np.array([0.9]), np.array([10.0]))[0])
    assert 0.9 - lower == pytest.approx(1.2816 * np.sqrt(lower * (1 - lower) / 10), abs=1e-6)


def test_softmax_does_not_overflow() -> None:
    probabilities = softmax(np.array([[1e30, 0], [-1e30, -1e30]], np.float32))
    assert probabilities.tolist() == [[1, 0], [0.5, 0.5]]


def test_calibration_products_that_are_all_correct_do_not_make_predictions_certain() -> None:
    numbers = np.arange(200) % 4
    scores = np.eye(4, dtype=np.float32)[numbers] * 3
    confidences = softmax(scores / np.float32(fit_temperature(scores, numbers))).max(axis=1)
    np.testing.assert_allclose(confidences, 201 / 202, atol=1e-3)


def test_the_temperature_corrects_overconfident_scores() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.integers(3, size=3_000)
    scores = (np.eye(3)[numbers] * 2 + rng.normal(size=(3_000, 3))).astype(np.float32)
    temperature = fit_temperature(scores, numbers)
    assert fit_temperature(scores * 7, numbers) == pytest.approx(7 * temperature, rel=0.01)


def test_calibration_products_of_unknown_categories_raise_the_thresholds() -> None:
    training, known_only = (
        labelled_products(2_000, 5, noise=0.35, seed=1),
        labelled_products(1_000, 5, noise=0.35, seed=2),
    )
    with_unknown = labelled_products(1_000, 8, noise=0.35, seed=3)  # Categories 5..7 are not in the training products.
    mixed = LabelledProducts(
        vectors=with_unknown.vectors, categories=np.where(with_unknown.categories < 5, with_unknown.categories, -1)
    )  # fmt: skip
    optimistic, honest = fit_classifier(training, known_only, 5), fit_classifier(training, mixed, 5)
    assert honest.threshold(Modality.BOTH, 0.8) > optimistic.threshold(Modality.BOTH, 0.8)
    fresh = labelled_products(2_000, 8, noise=0.35, seed=4)
    probabilities = honest.probabilities(Modality.BOTH, fresh.vectors[Modality.BOTH])
    accepted = probabilities.max(axis=1) >= honest.threshold(Modality.BOTH, 0.8)
    assert accepted.any()
    assert (probabilities.argmax(axis=1) == fresh.categories)[accepted].mean() > 0.78
