"""Evaluates how well categories are predicted: by the product encoder's classifier, and by votes of neighbours. Pure.

Both use the same training products, and choose the thresholds below which they abstain on the same calibration
products. Test products of a category that no training product has count as errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from encoders.product.classifier import PRECISIONS, UNREACHABLE, fit_thresholds
from encoders.product.fusion import Modality
from encoders.product.model import ProductModel
from encoders.quality import ReliabilityBin, expected_calibration_error, majority_vote, reliability_bins
from lookalike.vectors import F32
from pipeline.evaluation.held_out import EvaluationData, ProductSample
from pipeline.evaluation.metrics import Average, average_metrics

Flags = npt.NDArray[np.bool_]

TARGET_PRECISIONS = (0.8, 0.9, 0.95, 0.99)
NEIGHBOURS = 10
QUERY_KINDS = {"photo and title": Modality.BOTH, "photo alone": Modality.IMAGE, "title alone": Modality.TEXT}


@dataclass(frozen=True, kw_only=True)
class AbstentionPoint:
    """The coverage and precision of answers whose confidence reaches the threshold for a target precision."""

    target_precision: float
    threshold: float  # Chosen on calibration products; UNREACHABLE: none reaches the target.
    coverage: float  # Share of the test products that are answered.
    precision: float  # Share of the answers that are right; 0 if there are none.


@dataclass(frozen=True, kw_only=True)
class ClassifierQuality:
    """The quality of one method to predict categories."""

    accuracy: Average
    calibration_error: float
    bins: Sequence[ReliabilityBin]
    abstention_points: Sequence[AbstentionPoint]


@dataclass(frozen=True, kw_only=True)
class ClassificationEvaluation:
    """The quality of each method to predict categories, on the same test products."""

    test_products: int  # Those with a category.
    train_products: int  # Those with a category.
    unseen_category: int  # Test products of a category that no training product has.
    unknown_to_classifier: int  # Test products of a category that the classifier does not know.
    methods: dict[str, ClassifierQuality]


def evaluate_classification(
    data: EvaluationData, model: ProductModel | None, *, seed: int
) -> ClassificationEvaluation | None:
    """Evaluate the classifier of `model`, if given, and votes of neighbours in each space.

    None if no training product or no test product has a category.
    """
    test, train = _categories(data.test), _categories(data.train)
    # Which products have a category.
    labelled_test, labelled_train = np.array([bool(name) for name in test]), np.array([bool(name) for name in train])
    if not labelled_test.any() or not labelled_train.any():
        return None
    codes = np.unique(test, return_inverse=True)[1][labelled_test]
    methods: dict[str, ClassifierQuality] = {}
    if model is not None:
        for name, kind in QUERY_KINDS.items():
            confidences, correct = _classifier_predictions(model, kind, data.test)
            threshold = _classifier_thresholds(model, kind)
            methods[f"classifier, {name}"] = _quality(
                confidences[labelled_test], correct[labelled_test], codes, threshold, seed
            )
    for space in data.encoders:
        confidences, correct = _neighbour_predictions(data, space, data.test, labelled_train)
        threshold = _neighbour_thresholds(*_neighbour_predictions(data, space, data.calibration, labelled_train))
        method = f"{NEIGHBOURS} neighbours, {space}"
        methods[method] = _quality(confidences[labelled_test], correct[labelled_test], codes, threshold, seed)
    train_categories = set(train)
    return ClassificationEvaluation(
        test_products=int(labelled_test.sum()),
        train_products=int(labelled_train.sum()),
        unseen_category=sum(bool(name) and name not in train_categories for name in test),
        unknown_to_classifier=sum(bool(name) and name not in set(model.categories) for name in test) if model else 0,
        methods=methods,
    )


def query_vectors(sample: ProductSample, kind: Modality) -> tuple[F32, F32]:
    """The photo and title vectors of products, with zeros for the modality that the kind of query leaves out."""
    images, texts = sample.vectors["image"], sample.vectors["text"]
    return (
        np.zeros_like(images) if kind is Modality.TEXT else images,
        np.zeros_like(texts) if kind is Modality.IMAGE else texts,
    )


def _categories(sample: ProductSample) -> list[str]:
    return [product.category for product in sample.products]


def _classifier_predictions(model: ProductModel, kind: Modality, sample: ProductSample) -> tuple[F32, Flags]:
    """The classifier's confidence in its first category, and whether that is correct; (n,) each."""
    predictions = model.classify(*query_vectors(sample, kind), limit=1, precision=TARGET_PRECISIONS[0])
    confidences = np.array([prediction.probabilities[0] for prediction in predictions], np.float32)
    predicted = [prediction.categories[0] for prediction in predictions]
    return confidences, _is_correct(predicted, sample)


def _neighbour_predictions(
    data: EvaluationData, space: str, sample: ProductSample, labelled_train: Flags
) -> tuple[F32, Flags]:
    """The share of votes for the category that most neighbours have, and whether that is correct; (n,) each."""
    labels = [name for name in _categories(data.train) if name]
    references = data.train.vectors[space][labelled_train]
    predicted, shares = majority_vote(sample.vectors[space], references, labels, NEIGHBOURS)
    return shares.astype(np.float32), _is_correct(predicted, sample)


def _is_correct(predicted: Sequence[str], sample: ProductSample) -> Flags:
    pairs = zip(predicted, _categories(sample), strict=True)
    return np.array([prediction == category for prediction, category in pairs], dtype=np.bool_)


def _classifier_thresholds(model: ProductModel, kind: Modality) -> Callable[[float], float]:
    return lambda precision: model.classifier.threshold(kind, precision)


def _neighbour_thresholds(confidences: F32, correct: Flags) -> Callable[[float], float]:
    """Thresholds by target precision, chosen in the same way as the classifier's."""
    thresholds = fit_thresholds(confidences, correct)
    return lambda precision: float(thresholds[np.searchsorted(PRECISIONS, precision - 1e-9)])


def _quality(
    confidences: F32, correct: Flags, codes: npt.NDArray[np.int64], threshold: Callable[[float], float], seed: int
) -> ClassifierQuality:
    (accuracy,) = average_metrics(correct[None].astype(np.float64), codes, seed)
    return ClassifierQuality(
        accuracy=accuracy.micro,
        calibration_error=expected_calibration_error(confidences, correct),
        bins=reliability_bins(confidences, correct),
        abstention_points=[
            abstention_point(confidences, correct, target, threshold(target)) for target in TARGET_PRECISIONS
        ],
    )


def abstention_point(confidences: F32, correct: Flags, target_precision: float, threshold: float) -> AbstentionPoint:
    """Measure the predictions (n,) whose confidence is at least the threshold."""
    answered = confidences >= np.float32(threshold) if threshold < UNREACHABLE else np.zeros_like(correct)
    return AbstentionPoint(
        target_precision=target_precision,
        threshold=threshold,
        coverage=float(answered.mean()),
        precision=float(correct[answered].mean()) if answered.any() else 0.0,
    )
