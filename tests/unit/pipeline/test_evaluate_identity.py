"""The same product: found by stated groups, and by made titles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from encoders.quality import identity_metrics, inner_products
from lookalike.v1.types_pb2 import Product
from lookalike.vectors import F32, I64, normalised
from pipeline.evaluation.held_out import EvaluationData, ProductSample
from pipeline.evaluation.identity import MADE, STATED, PhotoQueries, evaluate_identity

GROUPS = 60


def _sample(prefix: str, *, grouped: bool) -> ProductSample:
    """One product of each group: `text` vectors tell groups apart, `image` vectors do not."""
    products = [
        Product(id=f"{prefix}{i}", title=f"lamp model k{i:03} {prefix}", tags=[f"group:{i}"] if grouped else [])
        for i in range(GROUPS)
    ]
    return ProductSample(
        products=products, vectors={"image": _images(GROUPS), "text": np.eye(GROUPS, dtype=np.float32)}
    )


def _images(count: int) -> F32:
    return normalised(np.random.default_rng(0).standard_normal((1, 8)).repeat(count, axis=0).astype(np.float32))


def _data(*, grouped: bool) -> EvaluationData:
    test, train, calibration = (_sample(prefix, grouped=grouped) for prefix in ("a", "b", "c"))
    return EvaluationData(
        version="v", encoders={"image": "i", "text": "t"}, product_count=3 * GROUPS, held_out_count=GROUPS,
        missing_vectors={}, complete_count=GROUPS, test=test, train=train, calibration=calibration, seen_vectors={},
    )  # fmt: skip


def test_held_out_products_find_their_group_among_all_products() -> None:
    (stated,) = evaluate_identity(_data(grouped=True), {}, seed=0)
    assert (stated.kind, stated.queries, stated.products) == (STATED, GROUPS, 3 * GROUPS)
    r_precision, nearest, precision = (average.value for average in stated.methods["text"])
    assert (r_precision, nearest) == (1, 1)
    assert precision == pytest.approx(0.2)  # Two others of the group among the ten nearest.
    assert stated.methods["image"][0].value < 0.1
    assert stated.methods["TF-IDF of words"][0].value == 1
    assert stated.methods["TF-IDF of characters"][0].value > 0.9


def test_made_titles_find_the_product_that_they_are_of() -> None:
    def encode(titles: list[str] | tuple[str, ...]) -> F32:
        numbers = [next((int(word[1:]) for word in title.split() if word[1:].isdigit()), -1) for title in titles]
        return np.eye(GROUPS, dtype=np.float32)[numbers] * (np.array(numbers) >= 0)[:, None]

    (made,) = evaluate_identity(_data(grouped=False), {"text": encode}, seed=0)  # type: ignore[dict-item]  # any sequence
    assert (made.kind, made.queries, made.products) == (MADE, GROUPS, 3 * GROUPS)
    # Three products have this vector, of which the held-out one comes first by its row. A word may have been left out.
    assert made.methods["text"][1].value > 0.7
    assert set(made.methods) == {"text", "random vectors", "TF-IDF of words", "TF-IDF of characters"}


def _photos_of(axes: I64) -> EvaluationData:
    """Every sample's image vectors on these axes."""
    data = _data(grouped=False)
    test, train, calibration = (
        replace(sample, vectors={"image": np.eye(GROUPS, dtype=np.float32)[axes], "text": sample.vectors["text"]})
        for sample in (data.test, data.train, data.calibration)
    )
    return replace(data, test=test, train=train, calibration=calibration)


def test_made_photos_find_the_product_that_they_are_of_beside_baselines() -> None:
    vectors, data = np.eye(GROUPS, dtype=np.float32), _photos_of(np.arange(GROUPS))
    rows = np.arange(40)
    methods = {"image": (vectors[rows], vectors), "random vectors": (vectors[rows + 1], vectors)}
    crop = PhotoQueries(change="crop", rows=rows, methods=methods)
    few = PhotoQueries(change="flip", rows=rows[:29], methods={})
    (quality,) = evaluate_identity(data, {}, [crop, few], seed=0)
    assert (quality.kind, quality.queries, quality.products) == ("made photos, crop", 40, GROUPS)
    assert [average.value for average in quality.methods["image"]] == [1, 1, pytest.approx(0.1)]
    assert quality.methods["random vectors"][1].value == 0


def test_products_with_the_same_photo_are_the_same_product_to_made_photos() -> None:
    axes = np.array([0, 0, *range(2, GROUPS)])
    vectors, data = np.eye(GROUPS, dtype=np.float32)[axes], _photos_of(axes)
    rows = np.arange(30)
    copies = PhotoQueries(change="crop", rows=rows, methods={"image": (vectors[rows], vectors)})
    (quality,) = evaluate_identity(data, {}, [copies], seed=0)
    assert quality.methods["image"][0].value == 1


def test_without_groups_and_without_an_encoder_nothing_is_measured() -> None:
    assert evaluate_identity(_data(grouped=False), {}, seed=0) == []


def test_identity_metrics_count_as_many_neighbours_as_there_are_relevant_ones() -> None:
    references = normalised(np.array([[1, 0], [0.9, 0.1], [0.5, 0.5], [0, 1]], dtype=np.float32))
    codes = np.array([0, 1, 0, 0])
    metrics = identity_metrics(inner_products(references[:1], references), codes[:1], codes, own_rows=np.array([0]))
    assert metrics.r_precision.tolist() == [0.5]  # Of the two nearest, rows 1 and 2, the second.
    assert metrics.nearest_is_same.tolist() == [0]
    assert metrics.precision_at_10.tolist() == [0.2]
