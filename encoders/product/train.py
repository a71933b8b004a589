"""Train the product encoder on products that have a photo, a title and a category. Writes an artifact.

It is judged on held-out products, and kept only where its neighbours are better than those of the photo alone and of
the title alone: by category, the full one and the broad one. Tags teach it and are measured, but refuse nothing: what
it gains by category it can lose by colour, and there the image space remains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoders.product import fusion
from encoders.product import model as product
from encoders.product.classifier import Classifier, Labelled, answers, learnt
from encoders.product.fusion import Fusion, Kind
from encoders.quality import expected_calibration_error, precision_at_10
from encoders.splits import Split, splits_of
from lookalike.errors import OperatorError
from lookalike.vectors import F32

RIDGES = (0.01, 0.1, 1.0)  # The best by precision@10 on the products for calibration is taken.
MOST_PRODUCTS = 50_000  # To learn from: a sample of more.
MOST_JUDGED = 5_000  # To compare with each other.
MOST_LABELS = 2_048
LABEL_PRODUCTS = 5  # Of training products; a rarer category is never predicted, and teaches nothing.
LEAST_JUDGED = 30  # Held-out products with a category in common: fewer say nothing.

Rows = npt.NDArray[np.int64]
Progress = Callable[[str], None]


class NotBetter(OperatorError):
    """The product encoder is not worth serving; the message says why, with the figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Products that have both vectors."""

    ids: Sequence[str]
    categories: Sequence[str]  # Paths from broad to narrow.
    tags: Sequence[Sequence[str]]
    images: F32  # (n, di) of unit norm
    texts: F32  # (n, dt) of unit norm
    image_encoder: str
    text_encoder: str

    def __len__(self) -> int:
        return len(self.ids)


def train(given: Examples, out: Path, *, seed: int = 0, progress: Progress | None = None) -> str:
    """Write the artifact to the new folder `out` and return its fingerprint. Same arguments, same fingerprint.

    Raises NotBetter where there is too little to learn from, or it is not better on held-out products, and
    OperatorError where `out` exists.
    """
    import sklearn.linear_model  # noqa: F401  # Brings its own BLAS: only what is loaded can be limited.
    from threadpoolctl import threadpool_limits

    say = progress or (lambda step: None)
    with threadpool_limits(1):  # More threads add in another order each time.
        return _trained(given, out, np.random.default_rng(seed), say)


def _trained(given: Examples, out: Path, rng: np.random.Generator, say: Progress) -> str:
    splits = splits_of(given.ids)
    sides = {split: rng.permutation(np.flatnonzero(splits == split)) for split in Split}
    learning, judging = np.sort(sides[Split.TRAIN][:MOST_PRODUCTS]), np.sort(sides[Split.TEST][:MOST_JUDGED])
    choosing = np.sort(sides[Split.CALIBRATE][:MOST_JUDGED])
    names = _names(given, learning)
    _check_enough(given, names, judging)
    say("learning to fuse photo and title")
    fused = _fused(given, learning, choosing)
    say("comparing with the photo alone and the title alone")
    precision = _precisions(given, fused, judging)
    check_better(precision)
    say("learning to tell categories")
    known, calibrating, held_out = (_labelled(given, fused, rows, names) for rows in (learning, choosing, judging))
    classifier = learnt(known, calibrating, len(names))
    measured = {
        "learnt_from": len(learning),
        "judged_by": len(judging),
        "precision_at_10": precision,
        "classifier": {kind.value: _judged(classifier, kind, held_out) for kind in Kind},
    }
    return product.write(
        out,
        fusion=fused,
        classifier=classifier,
        categories=names,
        image_encoder=given.image_encoder,
        text_encoder=given.text_encoder,
        measured=measured,
    )


def levels(category: str) -> list[str]:
    """Every category that a path is in: "a/b" is in "a" and "a/b"."""
    parts = category.split("/")
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def _names(given: Examples, learning: Rows) -> list[str]:
    """The full categories that enough training products have."""
    paths = [[given.categories[row]] for row in learning]
    return fusion.labels_of(paths, at_least=LABEL_PRODUCTS, most=MOST_LABELS)[1]


def _check_enough(given: Examples, names: Sequence[str], judging: Rows) -> None:
    if len(names) < 2:
        raise NotBetter(
            f"{len(names)} categories with {LABEL_PRODUCTS} or more training products that have both photo and title; "
            "two are needed to learn what makes products alike"
        )
    labels = [given.categories[row] for row in judging]
    together = sum(labels.count(label) > 1 for label in labels)
    if together < LEAST_JUDGED:
        raise NotBetter(
            f"{together} held-out products share a category with another; {LEAST_JUDGED} are needed to judge"
        )


def _fused(given: Examples, learning: Rows, choosing: Rows) -> Fusion:
    """Learnt with the ridge that serves those products best which it is chosen by; the smallest where they are few."""
    images, texts = given.images[learning], given.texts[learning]
    paths = [levels(given.categories[row]) for row in learning]
    categories, _ = fusion.labels_of(paths, at_least=LABEL_PRODUCTS, most=MOST_LABELS)
    tags, _ = fusion.labels_of([given.tags[row] for row in learning], at_least=LABEL_PRODUCTS, most=MOST_LABELS)
    labels = [given.categories[row] for row in choosing]
    made = [fusion.learnt(images, texts, categories, tags, ridge=ridge) for ridge in RIDGES]
    scores = [
        precision_at_10(each.of(Kind.BOTH, given.images[choosing], given.texts[choosing]), labels) for each in made
    ]
    return made[int(np.argmax(scores))]


def _precisions(given: Examples, fused: Fusion, judging: Rows) -> dict[str, dict[str, float]]:
    """precision@10 by label, then by space, of held-out products among each other."""
    images, texts = given.images[judging], given.texts[judging]
    vectors = {"image": images, "text": texts, "product": fused.of(Kind.BOTH, images, texts)}
    return {
        name: {space: round(precision_at_10(each, labels), 4) for space, each in vectors.items()}
        for name, labels in _labels(given, judging)
    }


def _labels(given: Examples, rows: Rows) -> Iterator[tuple[str, list[str]]]:
    """What likeness is judged by: the broad category, the full one, and each kind of tag that half of them have."""
    paths = [given.categories[row] for row in rows]
    yield "broad category", _broadest(paths)
    yield "category", paths
    kinds: dict[str, dict[int, str]] = {}
    for i, row in enumerate(rows):
        for tag in given.tags[row]:
            kind, _, value = tag.partition(":")
            if value:
                kinds.setdefault(kind, {})[i] = value
    for kind, values in sorted(kinds.items()):
        if 2 * len(values) >= len(rows):
            yield f"tag {kind}", [values.get(i, f"none {i}") for i in range(len(rows))]


def _broadest(paths: list[str]) -> list[str]:
    """Their categories at the first level that tells them apart: where all are fashion, any neighbour is."""
    above = [levels(path) for path in paths]
    for depth in range(max(map(len, above))):
        broad = [each[min(depth, len(each) - 1)] for each in above]
        if len(set(broad)) > 1:
            return broad
    return paths


def check_better(precision: Mapping[str, Mapping[str, float]]) -> None:
    """The gate: better by the full category; by the broad one not worse, which is all there is to be had near 1.

    precision: of held-out products, by label, then by space. Raises NotBetter.
    """
    fine, broad = precision["category"], precision["broad category"]
    for alone in ("image", "text"):
        if fine["product"] <= fine[alone] or broad["product"] < broad[alone]:
            raise NotBetter(
                f"precision@10 on held-out products by category {fine['product']:.3f}, by broad category "
                f"{broad['product']:.3f}; by {alone} alone {fine[alone]:.3f} and {broad[alone]:.3f}"
            )


def _labelled(given: Examples, fused: Fusion, rows: Rows, names: Sequence[str]) -> Labelled:
    number = {name: i for i, name in enumerate(names)}
    images, texts = given.images[rows], given.texts[rows]
    numbers = np.array([number.get(given.categories[row], -1) for row in rows], dtype=np.int64)
    return Labelled(vectors={kind: fused.of(kind, images, texts) for kind in Kind}, categories=numbers)


def _judged(classifier: Classifier, kind: Kind, products: Labelled) -> dict[str, Any]:
    confidences, right = answers(classifier, kind, products)
    facts: dict[str, Any] = {"products": len(right), "of known categories": _share(products.categories >= 0)}
    facts["accuracy"] = _share(right)
    facts["calibration_error"] = round(expected_calibration_error(confidences, right), 4)
    for precision in (0.9, 0.95):
        answered = confidences >= classifier.threshold(kind, precision)
        facts[f"at {precision}"] = {"answered": _share(answered), "right": _share(right[answered])}
    return facts


def _share(flags: npt.NDArray[np.bool_]) -> float:
    return round(float(flags.mean()), 4) if len(flags) else 0.0
