"""Evaluating category predictions by the classifier and by votes, and product queries by photo or title alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoders.product import model as product_model
from encoders.product import train as train_product
from encoders.product.classifier import PRECISIONS, UNREACHABLE, fit_thresholds
from encoders.product.model import ProductModel
from encoders.product.train import TrainingProducts
from encoders.quality import majority_vote
from encoders.splits import Split, split_of
from lookalike.cli import dispatch
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT
from pipeline import evaluate
from pipeline.evaluation import held_out
from pipeline.evaluation.classification import (
    TARGET_PRECISIONS,
    ClassificationEvaluation,
    abstention_point,
    evaluate_classification,
)
from pipeline.evaluation.held_out import EvaluationData
from tests.unit.pipeline.catalogues import write_jsonl
from tests.unit.pipeline.indexes import build_index, clustered_vectors

COUNT = 600
NAMES = [f"p{number}" for number in range(COUNT)]
CATEGORIES = [f"{'ab'[number % 2]}/{number // 2 % 3}" for number in range(COUNT)]
# The first held-out product is of a category that no other product has.
UNSEEN_ROW = next(row for row, name in enumerate(NAMES) if split_of(name) == Split.TEST)


@pytest.fixture(scope="module")
def built_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image vectors depend on the second part of a category, text vectors on the first, both together on all of it."""
    folder = tmp_path_factory.mktemp("classes")
    images = clustered_vectors([category.partition("/")[2] for category in CATEGORIES], 0.5)
    texts = clustered_vectors([category.partition("/")[0] for category in CATEGORIES], 0.5, dim=8, seed=1)
    product_categories = [*CATEGORIES[:UNSEEN_ROW], "c", *CATEGORIES[UNSEEN_ROW + 1 :]]
    examples = TrainingProducts(
        ids=NAMES, categories=product_categories, tags=[[]] * COUNT, images=images, texts=texts,
        image_encoder=f"fake-{SPACE_IMAGE}", text_encoder=f"fake-{SPACE_TEXT}",
    )  # fmt: skip
    fingerprint = train_product.train(examples, folder / "new")
    (folder / "new").rename(folder / fingerprint)
    products = product_model.load(folder / fingerprint).encode(images, texts)
    all_rows = range(COUNT)
    spaces = {SPACE_IMAGE: (images, all_rows), SPACE_TEXT: (texts, all_rows)}
    build_index(folder / "two", product_categories, spaces)
    build_index(
        folder / "three",
        product_categories,
        {**spaces, SPACE_PRODUCT: (products, all_rows)},
        encoders={SPACE_PRODUCT: fingerprint},
    )
    write_jsonl(folder / "catalogue", {"id": "p0"})
    return folder


@pytest.fixture(scope="module")
def data(built_shop: Path) -> EvaluationData:
    return held_out.read(built_shop / "three", sample=1000, seed=0)


@pytest.fixture(scope="module")
def model(built_shop: Path, data: EvaluationData) -> ProductModel:
    return product_model.load(built_shop / data.encoders["product"])


@pytest.fixture(scope="module")
def evaluation(data: EvaluationData, model: ProductModel) -> ClassificationEvaluation:
    result = evaluate_classification(data, model, seed=0)
    assert result is not None
    return result


def run(*argv: str | Path) -> int:
    return dispatch.run(lambda: evaluate.main([str(word) for word in argv], {}))


def report(built_shop: Path, out: Path, index: str, *options: str | Path) -> tuple[str, dict[str, Any]]:
    assert run(built_shop / "catalogue", built_shop / index, "--out", out, *options) == 0
    return (out / "report.md").read_text(encoding="utf-8"), json.loads((out / "report.json").read_text())


def test_classifier_and_votes_are_evaluated_on_the_same_products(
    evaluation: ClassificationEvaluation, data: EvaluationData
) -> None:
    assert list(evaluation.methods) == [
        "classifier, photo and title", "classifier, photo alone", "classifier, title alone",
        "10 neighbours, image", "10 neighbours, text", "10 neighbours, product",
    ]  # fmt: skip
    assert evaluation.test_products == len(data.test.products)
    assert evaluation.train_products == len(data.train.products)
    for quality in evaluation.methods.values():
        assert sum(b.answers for b in quality.bins) == evaluation.test_products
        assert quality.accuracy.low <= quality.accuracy.value <= quality.accuracy.high


def test_photo_and_title_together_predict_better_than_either_alone(evaluation: ClassificationEvaluation) -> None:
    accuracy = {name: quality.accuracy.value for name, quality in evaluation.methods.items()}

    assert accuracy["classifier, photo and title"] > 0.9
    # A photo leaves two possible categories, a title three.
    assert accuracy["classifier, photo alone"] == pytest.approx(1 / 2, abs=0.15)
    assert accuracy["classifier, title alone"] == pytest.approx(1 / 3, abs=0.15)
    assert accuracy["10 neighbours, product"] > max(accuracy["10 neighbours, image"], accuracy["10 neighbours, text"])


def test_a_category_without_training_products_is_an_error_and_is_counted(evaluation: ClassificationEvaluation) -> None:
    assert (evaluation.unseen_category, evaluation.unknown_to_classifier) == (1, 1)
    assert all(quality.accuracy.value < 1 for quality in evaluation.methods.values())


def test_a_higher_target_precision_gives_lower_coverage(evaluation: ClassificationEvaluation) -> None:
    for quality in evaluation.methods.values():
        assert [point.target_precision for point in quality.abstention_points] == list(TARGET_PRECISIONS)
        coverages = [point.coverage for point in quality.abstention_points]
        assert coverages == sorted(coverages, reverse=True)
    both, photo = (
        evaluation.methods[f"classifier, {name}"].abstention_points[0] for name in ("photo and title", "photo alone")
    )
    assert both.coverage > 0.9
    assert both.precision > 0.8
    # Two categories look the same: no threshold reaches a precision of 80 %.
    assert (photo.coverage, photo.precision) == (0, 0)


def test_answers_below_the_threshold_are_abstained_from() -> None:
    confidences, correct = np.array([0.9, 0.8, 0.7, 0.2], np.float32), np.array([True, False, True, True])

    point = abstention_point(confidences, correct, 0.6, 0.7)
    assert (point.target_precision, point.threshold, point.coverage) == (0.6, 0.7, 0.75)
    assert point.precision == pytest.approx(2 / 3)
    never = abstention_point(confidences, correct, 0.99, UNREACHABLE)
    assert (never.coverage, never.precision) == (0, 0)


def test_thresholds_for_votes_are_chosen_on_calibration_products(
    evaluation: ClassificationEvaluation, data: EvaluationData
) -> None:
    train, calibration = data.train, data.calibration
    labels = [product.category for product in train.products]
    names, shares = majority_vote(calibration.vectors["product"], train.vectors["product"], labels, 10)
    pairs = zip(names, calibration.products, strict=True)
    correct = np.array([name == product.category for name, product in pairs])
    thresholds = fit_thresholds(shares.astype(np.float32), correct)

    for point in evaluation.methods["10 neighbours, product"].abstention_points:
        assert point.threshold == thresholds[PRECISIONS.index(point.target_precision)]


def test_without_a_product_encoder_only_votes_are_evaluated(data: EvaluationData) -> None:
    evaluation = evaluate_classification(data, None, seed=0)

    assert evaluation is not None
    assert list(evaluation.methods) == ["10 neighbours, image", "10 neighbours, text", "10 neighbours, product"]
    assert evaluation.unknown_to_classifier == 0


def test_without_training_products_there_is_no_classification(tmp_path: Path) -> None:
    names = [name for name in NAMES if split_of(name) == Split.TEST][:20]
    product_categories = ["a", "b"] * 10
    build_index(
        tmp_path, product_categories, {SPACE_IMAGE: (clustered_vectors(product_categories, 1), range(20))}, names=names
    )

    assert evaluate_classification(held_out.read(tmp_path, sample=100, seed=0), None, seed=0) is None


def test_the_report_has_classification_and_partial_queries(built_shop: Path, tmp_path: Path) -> None:
    text, document = report(built_shop, tmp_path, "three", "--artifacts", built_shop)

    by, partial_queries = (document["labellings"]["category"][key] for key in ("by", "partial_queries"))
    micro = {name: column["averages"]["precision@10"]["micro"][0] for name, column in {**by, **partial_queries}.items()}
    assert list(partial_queries) == ["product, photo alone", "product, title alone"]
    assert micro["product"] > micro["product, photo alone"] > micro["chance"]
    assert micro["product"] > micro["product, title alone"] > micro["chance"]
    assert "| product, title alone | " in text.partition("## Product space: queries by photo or title alone")[2]
    section = text.partition("## Category classification")[2]
    assert "1 are of a category that none of" in section
    accuracy = document["classification"]["methods"]["classifier, photo alone"]["accuracy"]
    assert f"| classifier, photo alone | {accuracy[0]:.3f} (" in section
    assert "| never |" in section
    assert "](reliability.png)" in section
    assert (tmp_path / "reliability.png").exists()


def test_auto_uses_the_product_space_if_it_is_built(built_shop: Path, tmp_path: Path) -> None:
    text, document = report(built_shop, tmp_path, "three")

    (gain,) = document["policy_gains"]
    assert (gain["entry"], gain["space"]) == ("*", "product")
    assert gain["gain"]["product"] == [0, 0, 0]
    assert gain["gain"]["image"][1] > 0
    assert "The product encoder was not given (--artifacts)" in text


def test_without_a_product_space_no_product_encoder_is_loaded(built_shop: Path, tmp_path: Path) -> None:
    _, document = report(built_shop, tmp_path, "two", "--artifacts", tmp_path / "none")

    assert list(document["encoders"]) == ["image", "text"]
    assert list(document["classification"]["methods"]) == ["10 neighbours, image", "10 neighbours, text"]
    assert document["labellings"]["category"]["partial_queries"] == {}


def test_a_missing_product_encoder_is_an_error_that_names_it(
    built_shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(built_shop / "catalogue", built_shop / "three", "--artifacts", tmp_path, "--out", tmp_path / "out") == 2

    assert f"{tmp_path}/product-" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_product_encoder_in_the_directory_of_another_is_refused(
    built_shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_index(
        tmp_path / "other",
        CATEGORIES,
        {SPACE_PRODUCT: (clustered_vectors(CATEGORIES, 1), range(COUNT))},
        encoders={SPACE_PRODUCT: "x"},
    )
    (tmp_path / "x").symlink_to(next(built_shop.glob("product-*")))

    assert run(built_shop / "catalogue", tmp_path / "other", "--artifacts", tmp_path) == 2

    assert f"{tmp_path}/x: this is the encoder product-" in capsys.readouterr().err


def test_the_product_encoder_reproduces_the_product_vectors_of_the_index(
    data: EvaluationData, model: ProductModel
) -> None:
    vectors = data.test.vectors
    np.testing.assert_allclose(model.encode(vectors["image"], vectors["text"]), vectors["product"], atol=1e-5)
