"""Classify product vectors into categories, with calibrated probabilities and thresholds for abstention.

Pure: arrays in, arrays out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from encoders.product.fusion import Modality
from lookalike.vectors import F32

F64 = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

# The target precisions that a request may name: 0.50, 0.51, … 0.99.
PRECISIONS = tuple(percent / 100 for percent in range(50, 100))
UNREACHABLE = 2.0  # A threshold above every probability: the target precision cannot be reached.
_WILSON_Z = 1.2816  # Standard normal quantile of the one-sided 90 % Wilson lower bound.


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """Multinomial logistic regression with a temperature per modality (temperature scaling, Guo et al. 2017)."""

    weights: F32  # (d, C)
    bias: F32  # (C,)
    temperatures: Mapping[Modality, float]
    thresholds: Mapping[Modality, F32]  # (len(PRECISIONS),)

    def probabilities(self, modality: Modality, vectors: F32) -> F32:
        """(n, C) float32, rows that sum to 1, for product vectors (n, d) of one modality."""
        return softmax((vectors @ self.weights + self.bias) / np.float32(self.temperatures[modality]))

    def threshold(self, modality: Modality, precision: float) -> float:
        """The least probability at which predictions reached this precision on the calibration products."""
        index = int(np.searchsorted(PRECISIONS, precision - 1e-9))
        return float(self.thresholds[modality][index]) if index < len(PRECISIONS) else UNREACHABLE


def softmax(scores: F32) -> F32:
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities: F32 = (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledProducts:
    """Products with their true categories, and a vector of each product per modality."""

    vectors: Mapping[Modality, F32]  # (n, d) each
    categories: npt.NDArray[np.int64]  # (n,); -1: a category that was not trained on, so every prediction is wrong.

    def with_known_category(self) -> LabelledProducts:
        """The products whose category the classifier was trained on."""
        rows = self.categories >= 0
        return LabelledProducts(
            vectors={modality: vectors[rows] for modality, vectors in self.vectors.items()},
            categories=self.categories[rows],
        )


def fit_classifier(training: LabelledProducts, calibration: LabelledProducts, classes: int) -> Classifier:
    """Fit the classifier on `training` and calibrate it on `calibration`.

    classes: the number of categories, at least 2; each of 0..classes-1 must occur in `training`.
    Temperatures are fitted on products of a known category, thresholds on all: the next product may be of any category.
    """
    weights, bias = _fit_regression(training.with_known_category(), classes)
    temperature_products = calibration.with_known_category()
    temperatures = {
        modality: fit_temperature(vectors @ weights + bias, temperature_products.categories)
        for modality, vectors in temperature_products.vectors.items()
    }
    uncalibrated = Classifier(weights=weights, bias=bias, temperatures=temperatures, thresholds={})
    thresholds = {
        modality: fit_thresholds(*top_predictions(uncalibrated, modality, calibration)) for modality in temperatures
    }
    return Classifier(weights=weights, bias=bias, temperatures=temperatures, thresholds=thresholds)


def top_predictions(classifier: Classifier, modality: Modality, products: LabelledProducts) -> tuple[F32, Flags]:
    """(n,) probability of each product's most likely category, and (n,) whether that category is correct."""
    probabilities = classifier.probabilities(modality, products.vectors[modality])
    return probabilities.max(axis=1, initial=0), probabilities.argmax(axis=1) == products.categories


def _fit_regression(training: LabelledProducts, classes: int) -> tuple[F32, F32]:
    """Weights (d, classes) and bias (classes,), fitted on every product three times, once per modality.

    Fitted on vectors of both image and text alone, accuracy by image falls from .874 to .867 and its calibration error
    rises from .021 to .043 (8,609 fashion products, 135 categories).
    """
    from sklearn.linear_model import LogisticRegression

    vectors = list(training.vectors.values())
    model = LogisticRegression(C=10.0, max_iter=200, tol=1e-3)
    model.fit(np.concatenate(vectors), np.tile(training.categories, len(vectors)))
    weights, bias = model.coef_.T, model.intercept_
    if classes == 2:  # scikit-learn gives one column: the second category against the first.
        weights, bias = np.hstack([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    return weights.astype(np.float32), bias.astype(np.float32)


def fit_temperature(scores: F32, categories: npt.NDArray[np.int64]) -> float:
    """The divisor of scores (n, C) that maximises the likelihood of the true categories (n,).

    Targets are smoothed after Platt (1999): one of n + 2 predictions is assumed wrong. Otherwise a few hundred easily
    separated products would make every prediction certain.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    count, classes = scores.shape
    smoothing = 1 / (count + 2)

    def loss(log_temperature: float) -> float:
        logs = log_softmax(scores.astype(np.float64) / np.exp(log_temperature), axis=1)
        correct = logs[np.arange(count), categories]
        others = (logs.sum(axis=1) - correct) / max(classes - 1, 1)
        return float(-((1 - smoothing) * correct + smoothing * others).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-4.0, 4.0), method="bounded").x)) if count else 1.0


def fit_thresholds(confidences: F32, correct: Flags) -> F32:
    """(len(PRECISIONS),): the least confidence at which predictions reach each precision, or UNREACHABLE.

    A precision counts as reached if the Wilson lower bound reaches it: a few correct products prove little.
    """
    order = np.argsort(-confidences, kind="stable")
    counts = np.arange(1, len(order) + 1, dtype=np.float64)
    lower = wilson_lower_bound(np.cumsum(correct[order]) / counts, counts)
    # Predictions of equal confidence are accepted together or not at all.
    last_of_tie = np.append(np.diff(confidences[order]) < 0, True)[: len(order)]
    thresholds = np.full(len(PRECISIONS), UNREACHABLE, dtype=np.float32)
    for i, precision in enumerate(PRECISIONS):
        reached = np.flatnonzero((lower >= precision) & last_of_tie)
        if len(reached):
            thresholds[i] = confidences[order][reached[-1]]
    return thresholds


def wilson_lower_bound(share: F64, count: F64) -> F64:
    """One-sided 90 % lower confidence bound of a share measured on `count` samples (Wilson score interval)."""
    z_squared = _WILSON_Z**2
    centre = share + z_squared / (2 * count)
    spread = _WILSON_Z * np.sqrt(share * (1 - share) / count + z_squared / (4 * count**2))
    lower: F64 = (centre - spread) / (1 + z_squared / count)
    return lower
