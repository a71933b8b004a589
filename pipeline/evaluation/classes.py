"""How well the category is told: by the product encoder's classifier, and by the votes of neighbours. Pure.

Both learn from the same products and choose the thresholds below which they abstain by the same others; both are
judged on held-out products, those of a category that neither could know among them.
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
from pipeline.evaluation.heldout import HeldOut, Part
from pipeline.evaluation.measures import Average, averages

Flags = npt.NDArray[np.bool_]

ASKED = (0.8, 0.9, 0.95, 0.99)
NEIGHBOURS = 10
KINDS = {"photo and title": Modality.BOTH, "photo alone": Modality.IMAGE, "title alone": Modality.TEXT}


@dataclass(frozen=True, kw_only=True)
class Abstention:
    """Answering only from a confidence on."""

    precision: float  # That was asked for.
    threshold: float  # That promised it; NEVER: none did.
    answered: float  # Share of the judged products.
    right: float  # Share of the answers; 0 where there are none.


@dataclass(frozen=True, kw_only=True)
class Told:
    """What one way of telling the category makes of the judged products."""

    accuracy: Average
    calibration_error: float
    bins: Sequence[ReliabilityBin]
    abstentions: Sequence[Abstention]


@dataclass(frozen=True, kw_only=True)
class Classification:
    judged: int  # Held-out products with a category.
    voters: int
    unknown: int  # Judged products of a category that no voter has.
    unpredicted: int  # Judged products of a category that the classifier does not know.
    ways: dict[str, Told]


def classified(held: HeldOut, model: ProductModel | None, *, seed: int) -> Classification | None:
    """None where there is no category to learn, or none to judge by."""
    judged, voters = _categories(held.judged), _categories(held.voters)
    has, votes = np.array([bool(name) for name in judged]), np.array([bool(name) for name in voters])
    if not has.any() or not votes.any():
        return None
    codes = np.unique(judged, return_inverse=True)[1][has]
    ways: dict[str, Told] = {}
    if model is not None:
        for name, kind in KINDS.items():
            confidences, right = _guessed(model, kind, held.judged)
            threshold = _thresholds_of_model(model, kind)
            ways[f"classifier, {name}"] = _told(confidences[has], right[has], codes, threshold, seed)
    for space in held.encoders:
        confidences, right = _voted(held, space, held.judged, votes)
        threshold = _thresholds(*_voted(held, space, held.calibrating, votes))
        ways[f"{NEIGHBOURS} neighbours, {space}"] = _told(confidences[has], right[has], codes, threshold, seed)
    known = set(voters)
    return Classification(
        judged=int(has.sum()),
        voters=int(votes.sum()),
        unknown=sum(bool(name) and name not in known for name in judged),
        unpredicted=sum(bool(name) and name not in set(model.categories) for name in judged) if model else 0,
        ways=ways,
    )


def inputs(part: Part, kind: Modality) -> tuple[F32, F32]:
    """Photo and title vectors of products, zeros for what the kind lacks."""
    images, texts = part.vectors["image"], part.vectors["text"]
    return (
        np.zeros_like(images) if kind is Modality.TEXT else images,
        np.zeros_like(texts) if kind is Modality.IMAGE else texts,
    )


def _categories(part: Part) -> list[str]:
    return [product.category for product in part.products]


def _guessed(model: ProductModel, kind: Modality, part: Part) -> tuple[F32, Flags]:
    """The classifier's confidence in its first category (n,), and whether it is the right one."""
    guesses = model.classify(*inputs(part, kind), limit=1, precision=ASKED[0])
    confidences = np.array([0.0 if guess is None else guess.probabilities[0] for guess in guesses], np.float32)
    told = ["" if guess is None else guess.categories[0] for guess in guesses]
    return confidences, _right(told, part)


def _voted(held: HeldOut, space: str, part: Part, votes: Flags) -> tuple[F32, Flags]:
    """The share of the nearest voters that have the category of most of them, and whether it is right; (n,) each."""
    labels = [name for name, counts in zip(_categories(held.voters), votes, strict=True) if counts]
    told, shares = majority_vote(part.vectors[space], held.voters.vectors[space][votes], labels, NEIGHBOURS)
    return shares.astype(np.float32), _right(told, part)


def _right(told: Sequence[str], part: Part) -> Flags:
    return np.array([name == own for name, own in zip(told, _categories(part), strict=True)], dtype=np.bool_)


def _thresholds_of_model(model: ProductModel, kind: Modality) -> Callable[[float], float]:
    return lambda precision: model.classifier.threshold(kind, precision)


def _thresholds(confidences: F32, right: Flags) -> Callable[[float], float]:
    """Chosen as the classifier's are."""
    found = fit_thresholds(confidences, right)
    return lambda precision: float(found[np.searchsorted(PRECISIONS, precision - 1e-9)])


def _told(
    confidences: F32, right: Flags, codes: npt.NDArray[np.int64], threshold: Callable[[float], float], seed: int
) -> Told:
    (accuracy,) = averages(right[None].astype(np.float64), codes, seed)
    return Told(
        accuracy=accuracy.micro,
        calibration_error=expected_calibration_error(confidences, right),
        bins=reliability_bins(confidences, right),
        abstentions=[abstention(confidences, right, precision, threshold(precision)) for precision in ASKED],
    )


def abstention(confidences: F32, right: Flags, precision: float, threshold: float) -> Abstention:
    """What answers (n,) of a confidence from the threshold on come to."""
    answered = confidences >= np.float32(threshold) if threshold < UNREACHABLE else np.zeros_like(right)
    return Abstention(
        precision=precision,
        threshold=threshold,
        answered=float(answered.mean()),
        right=float(right[answered].mean()) if answered.any() else 0.0,
    )
