"""The default score of FindDuplicates, measured on products that did not choose it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lookalike.releases.manifest import DuplicatesThreshold
from lookalike.v1.types_pb2 import Product
from lookalike.vectors import F32, normalised
from pipeline.duplicates import COPIES, STATED, Copies
from pipeline.evaluation.duplicates import evaluate_thresholds
from pipeline.evaluation.held_out import EvaluationData, ProductSample

GROUPS = 60


def _threshold(min_score: float, measured_by: str) -> DuplicatesThreshold:
    return DuplicatesThreshold(min_score=min_score, precision=0.96, recall=0.7, queries=100, measured_by=measured_by)


def _vectors(spread: float, seed: int) -> F32:
    """One vector near the axis of each group."""
    noise = np.random.default_rng(seed).standard_normal((GROUPS, GROUPS)) * spread
    return normalised((np.eye(GROUPS) + noise).astype(np.float32))


def _sample(prefix: str, seed: int) -> ProductSample:
    products = [Product(id=f"{prefix}{i}", title=f"lamp {i} {prefix}", tags=[f"group:{i}"]) for i in range(GROUPS)]
    return ProductSample(products=products, vectors={"image": _vectors(0.02, seed)})


def _data(threshold: DuplicatesThreshold) -> EvaluationData:
    test, train, calibration = _sample("a", 0), _sample("b", 1), _sample("c", 2)
    return EvaluationData(
        version="v", encoders={"image": "i"}, product_count=3 * GROUPS, held_out_count=GROUPS, missing_vectors={},
        complete_count=GROUPS, test=test, train=train, calibration=calibration, seen_vectors={},
        duplicates={"image": threshold},
    )  # fmt: skip


def test_a_threshold_by_groups_is_measured_on_the_groups_of_test_products() -> None:
    (quality,) = evaluate_thresholds(_data(_threshold(0.8, STATED)), {}, seed=0)
    assert (quality.space, quality.queries, quality.products, quality.answered) == ("image", 60, 180, 60)
    assert quality.threshold == _threshold(0.8, STATED)
    assert [quality.precision.value, quality.recall.value, quality.pair_precision] == [1, 1, 1]


def test_a_threshold_that_lets_others_in_has_a_low_precision_whatever_it_states() -> None:
    (quality,) = evaluate_thresholds(_data(_threshold(-1, STATED)), {}, seed=0)
    assert quality.recall.value == 1
    assert quality.precision.value == pytest.approx(2 / 100)  # Of the hundred hits of an answer.


def test_a_threshold_by_copies_is_measured_by_copies_with_and_without_their_product() -> None:
    data = _data(_threshold(0.8, COPIES))
    copies = {"image": Copies(vectors=_vectors(0.02, 3), rows=np.arange(GROUPS))}
    (quality,) = evaluate_thresholds(data, copies, seed=0)
    assert quality.queries == 2 * GROUPS
    # The two others of the group are no copies: without the same photo or title they count as false.
    assert quality.precision.value == pytest.approx((1 / 3 + 0) / 2)
    assert quality.recall.value == 1


def test_what_cannot_be_measured_is_left_out() -> None:
    by_copies = _data(_threshold(0.8, COPIES))
    assert evaluate_thresholds(by_copies, {}, seed=0) == []
    few = Copies(vectors=_vectors(0.02, 3)[:29], rows=np.arange(29))
    assert evaluate_thresholds(by_copies, {"image": few}, seed=0) == []
    assert evaluate_thresholds(replace(by_copies, duplicates={}), {}, seed=0) == []
