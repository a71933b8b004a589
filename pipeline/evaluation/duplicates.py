"""Evaluates the scores from which a version takes products for near-duplicates, on products that chose none. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from encoders.labels import group_of
from lookalike.releases.manifest import DuplicatesThreshold
from pipeline.duplicate_scores import MIN_QUERIES, answers_from
from pipeline.duplicates import STATED, Copies, identity_of_copies, score_copies, score_groups
from pipeline.evaluation.held_out import EvaluationData
from pipeline.evaluation.metrics import Average, average_metrics


@dataclass(frozen=True, kw_only=True)
class ThresholdQuality:
    """How good the answers of FindDuplicates are with the default of one space."""

    space: str
    threshold: DuplicatesThreshold  # As the version states it.
    queries: int
    products: int  # Among which they search.
    answered: int  # Queries with an answer.
    precision: Average  # Of these.
    recall: Average
    pair_precision: float  # Of all hits together.


def evaluate_thresholds(data: EvaluationData, copies: Mapping[str, Copies], *, seed: int) -> list[ThresholdQuality]:
    """The quality of each threshold that was measured as it can be here, if there are enough queries.

    copies: of test products, by space; the rows are those of the test sample.
    """
    samples = (data.test, data.train, data.calibration)
    products = [product for sample in samples for product in sample.products]
    everything = np.arange(len(products))
    found = []
    for space, threshold in data.duplicates.items():
        vectors = np.concatenate([sample.vectors[space] for sample in samples])
        if threshold.measured_by == STATED:
            groups = [group_of(product.tags) for product in products]
            scored = score_groups(vectors, everything, groups, everything[: len(data.test.products)])
        elif space in copies:
            photos = [b""] * len(products)
            if "image" in data.encoders:
                photos = [vector.tobytes() for sample in samples for vector in sample.vectors["image"]]
            identity = identity_of_copies([product.title for product in products], photos)
            scored = score_copies(vectors, everything, copies[space], identity)
        else:
            continue
        answers = answers_from(scored, threshold.min_score)
        if np.count_nonzero(scored.relevant) < MIN_QUERIES or not len(answers.precision):
            continue
        precision, recall = (
            average_metrics(values[None], np.zeros(len(values), dtype=np.int64), seed)[0].micro
            for values in (answers.precision, answers.recall)
        )
        found.append(
            ThresholdQuality(
                space=space,
                threshold=threshold,
                queries=len(scored.scores),
                products=len(products),
                answered=len(answers.precision),
                precision=precision,
                recall=recall,
                pair_precision=answers.pair_precision,
            )
        )
    return found
