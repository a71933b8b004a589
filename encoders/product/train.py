"""Train the product encoder on products with an image, a text and a category. Writes an artifact.

The encoder passes a quality gate only if its neighbours of held-out products match the category, full and broad, better
than those of the image alone and of the text alone, and find the same product as well, where tags state groups of it.
Tags are trained on and measured, but not part of the gate: an
encoder may gain by category and lose by colour, and the image space remains for searches by colour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoders.labels import broadest, group_of, levels, without_groups
from encoders.product import fusion
from encoders.product import model as product_model
from encoders.product.classifier import Classifier, LabelledProducts, fit_classifier, top_predictions
from encoders.product.fusion import Fusion, Modality
from encoders.quality import (
    best_precision_at_10,
    expected_calibration_error,
    identity_metrics,
    inner_products,
    label_codes,
    precision_at_10,
    rows_of_repeated,
)
from encoders.splits import Split, splits_of
from lookalike.errors import OperatorError
from lookalike.vectors import F32

RIDGE_CANDIDATES = (0.01, 0.1, 1.0)  # Chosen by precision@10 on the calibration products.
MAX_TRAINING_PRODUCTS = 50_000  # If there are more, a random sample of this size is used.
MAX_EVALUATED_PRODUCTS = 5_000  # Compared pairwise, hence the bound.
MAX_IDENTITY_PRODUCTS = 20_000  # Among which held-out ones look for their group.
MAX_LABELS = 2_048
MIN_PRODUCTS_PER_LABEL = 5  # In training; rarer labels are neither trained on nor predicted.
BEST = "best possible"  # Beside the spaces: precision@10 if all products of a label came first.
MIN_EVALUATED_PRODUCTS = 30  # Held-out products that share a category; fewer are no evidence.

Rows = npt.NDArray[np.int64]
Progress = Callable[[str], None]


class QualityGateFailed(OperatorError):
    """The product encoder is no better than one modality, or there are too few products to tell; with the figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProducts:
    """Products with both an image and a text vector."""

    ids: Sequence[str]
    categories: Sequence[str]  # Paths from broad to narrow.
    tags: Sequence[Sequence[str]]
    images: F32  # (n, di) of unit norm
    texts: F32  # (n, dt) of unit norm
    image_encoder: str
    text_encoder: str

    def __len__(self) -> int:
        return len(self.ids)


def train(products: TrainingProducts, out: Path, *, seed: int = 0, progress: Progress | None = None) -> str:
    """Write the artifact to the new directory `out` and return its fingerprint. Same arguments, same fingerprint.

    Raises QualityGateFailed if there are too few products to train on or the encoder fails the quality gate, and
    OperatorError if `out` exists.
    """
    import sklearn.linear_model  # noqa: F401  # Brings its own BLAS, which can only be limited once loaded.
    from threadpoolctl import threadpool_limits

    report = progress or (lambda step: None)
    with threadpool_limits(1):  # Several threads sum in varying order: not reproducible.
        return _train(products, out, np.random.default_rng(seed), report)


def _train(products: TrainingProducts, out: Path, rng: np.random.Generator, report: Progress) -> str:
    """Fit the fusion, check the quality gate, fit the classifier, measure it and write the artifact."""
    splits = splits_of(products.ids)
    rows_of_split = {split: rng.permutation(np.flatnonzero(splits == split)) for split in Split}
    training = np.sort(rows_of_split[Split.TRAIN][:MAX_TRAINING_PRODUCTS])
    test = np.sort(rows_of_split[Split.TEST][:MAX_EVALUATED_PRODUCTS])
    calibration = np.sort(rows_of_split[Split.CALIBRATE][:MAX_EVALUATED_PRODUCTS])
    categories = _trained_categories(products, training)
    _check_enough(products, categories, test)
    report("fitting the fusion of images and texts")
    fusion_model = _fit_best_fusion(products, training, calibration)
    report("comparing with the image alone and the text alone")
    precision = _precision_by_label(products, fusion_model, test)
    identity = _identity(products, fusion_model, test)
    check_quality_gate(precision, identity)
    report("fitting the classifier")
    training_labelled, calibration_labelled, test_labelled = (
        _labelled_products(products, fusion_model, rows, categories) for rows in (training, calibration, test)
    )
    classifier = fit_classifier(training_labelled, calibration_labelled, len(categories))
    metrics = {
        "training_products": len(training),
        "test_products": len(test),
        "precision_at_10": precision,
        "identity": identity,
        "classifier": {
            modality.value: _evaluate_classifier(classifier, modality, test_labelled) for modality in Modality
        },
    }
    return product_model.write(
        out,
        fusion=fusion_model,
        classifier=classifier,
        categories=categories,
        image_encoder=products.image_encoder,
        text_encoder=products.text_encoder,
        metrics=metrics,
    )


def _trained_categories(products: TrainingProducts, training: Rows) -> list[str]:
    """The full category paths with enough training products."""
    paths = [[products.categories[row]] for row in training]
    return fusion.label_matrix(paths, min_products=MIN_PRODUCTS_PER_LABEL, max_count=MAX_LABELS)[1]


def _check_enough(products: TrainingProducts, categories: Sequence[str], test: Rows) -> None:
    if len(categories) < 2:
        raise QualityGateFailed(
            f"{len(categories)} categories have {MIN_PRODUCTS_PER_LABEL} or more training products with both image and "
            "text; at least 2 are needed"
        )
    labels = [products.categories[row] for row in test]
    sharing = sum(labels.count(label) > 1 for label in labels)
    if sharing < MIN_EVALUATED_PRODUCTS:
        raise QualityGateFailed(
            f"{sharing} held-out products share a category with another; at least {MIN_EVALUATED_PRODUCTS} are needed"
        )


def _fit_best_fusion(products: TrainingProducts, training: Rows, calibration: Rows) -> Fusion:
    """Fit with every ridge and return the best on the calibration products; on a tie, the smallest ridge."""
    images, texts = products.images[training], products.texts[training]
    paths = [levels(products.categories[row]) for row in training]
    categories, _ = fusion.label_matrix(paths, min_products=MIN_PRODUCTS_PER_LABEL, max_count=MAX_LABELS)
    tags, _ = fusion.label_matrix(
        [without_groups(products.tags[row]) for row in training],
        min_products=MIN_PRODUCTS_PER_LABEL,
        max_count=MAX_LABELS,
    )
    labels = [products.categories[row] for row in calibration]
    candidates = [fusion.fit_fusion(images, texts, categories, tags, ridge=ridge) for ridge in RIDGE_CANDIDATES]
    scores = [
        precision_at_10(
            candidate.fuse(Modality.BOTH, products.images[calibration], products.texts[calibration]), labels
        )
        for candidate in candidates
    ]
    return candidates[int(np.argmax(scores))]


def _precision_by_label(products: TrainingProducts, fusion_model: Fusion, test: Rows) -> dict[str, dict[str, float]]:
    """precision@10 of held-out products among each other: label -> space -> value, and BEST -> what is possible."""
    images, texts = products.images[test], products.texts[test]
    vectors = {"image": images, "text": texts, "product": fusion_model.fuse(Modality.BOTH, images, texts)}
    return {
        name: {
            **{space: round(precision_at_10(rows, labels), 4) for space, rows in vectors.items()},
            BEST: round(best_precision_at_10(labels), 4),
        }
        for name, labels in _evaluation_labels(products, test)
    }


def _evaluation_labels(products: TrainingProducts, rows: Rows) -> Iterator[tuple[str, list[str]]]:
    """The labels to evaluate by: broad category, full category, and each kind of tag that half of the rows have."""
    paths = [products.categories[row] for row in rows]
    yield "broad category", broadest(paths)
    yield "category", paths
    values_of_kind: dict[str, dict[int, str]] = {}
    for i, row in enumerate(rows):
        for tag in without_groups(products.tags[row]):
            tag_kind, _, value = tag.partition(":")
            if value:
                values_of_kind.setdefault(tag_kind, {})[i] = value
    for tag_kind, values in sorted(values_of_kind.items()):
        if 2 * len(values) >= len(rows):
            yield f"tag {tag_kind}", [values.get(i, f"none {i}") for i in range(len(rows))]


def _identity(products: TrainingProducts, fusion_model: Fusion, test: Rows) -> dict[str, float]:
    """R-precision of the same product by stated groups, of held-out products among all: space -> value.

    Empty with fewer than MIN_EVALUATED_PRODUCTS held-out products whose group another product has.
    """
    others = np.setdiff1d(np.arange(len(products)), test)[: MAX_IDENTITY_PRODUCTS - len(test)]
    pool = np.concatenate([test, others])
    codes = label_codes([group_of(products.tags[row]) for row in pool])
    queries = np.intersect1d(np.arange(len(test)), rows_of_repeated(codes))
    if len(queries) < MIN_EVALUATED_PRODUCTS:
        return {}
    images, texts = products.images[pool], products.texts[pool]
    vectors = {"image": images, "text": texts, "product": fusion_model.fuse(Modality.BOTH, images, texts)}
    return {
        space: round(
            float(
                identity_metrics(
                    inner_products(rows[queries], rows), codes[queries], codes, own_rows=queries
                ).r_precision.mean()
            ),
            4,
        )
        for space, rows in vectors.items()
    }


def check_quality_gate(precision: Mapping[str, Mapping[str, float]], identity: Mapping[str, float]) -> None:
    """The quality gate: better by the full category, or the best possible, and no worse by the broad one.

    Nor worse at finding the same product. precision: as `_precision_by_label` returns it; identity: space -> value, or
    empty. Raises QualityGateFailed.
    """
    if identity and identity["product"] < max(identity["image"], identity["text"]):
        raise QualityGateFailed(
            f"R-precision of the same product {identity['product']:.3f}; by image alone {identity['image']:.3f}, by "
            f"text alone {identity['text']:.3f}"
        )
    fine, broad = precision["category"], precision["broad category"]
    for space in ("image", "text"):
        is_better = fine["product"] > fine[space] or fine["product"] == fine[BEST]
        if not is_better or broad["product"] < broad[space]:
            raise QualityGateFailed(
                f"precision@10 on held-out products by category {fine['product']:.3f}, by broad category "
                f"{broad['product']:.3f}; by {space} alone {fine[space]:.3f} and {broad[space]:.3f}"
            )


def _labelled_products(
    products: TrainingProducts, fusion_model: Fusion, rows: Rows, categories: Sequence[str]
) -> LabelledProducts:
    code_of = {name: code for code, name in enumerate(categories)}
    images, texts = products.images[rows], products.texts[rows]
    codes = np.array([code_of.get(products.categories[row], -1) for row in rows], dtype=np.int64)
    return LabelledProducts(
        vectors={modality: fusion_model.fuse(modality, images, texts) for modality in Modality}, categories=codes
    )


def _evaluate_classifier(classifier: Classifier, modality: Modality, products: LabelledProducts) -> dict[str, Any]:
    confidences, correct = top_predictions(classifier, modality, products)
    metrics: dict[str, Any] = {"products": len(correct), "known_category": _share(products.categories >= 0)}
    metrics["accuracy"] = _share(correct)
    metrics["calibration_error"] = round(expected_calibration_error(confidences, correct), 4)
    for precision in (0.9, 0.95):
        accepted = confidences >= classifier.threshold(modality, precision)
        metrics[f"at_precision_{precision}"] = {"coverage": _share(accepted), "accuracy": _share(correct[accepted])}
    return metrics


def _share(flags: npt.NDArray[np.bool_]) -> float:
    return round(float(flags.mean()), 4) if len(flags) else 0.0
