"""Telling the category, by the product encoder's classifier and by votes; and asking the product space with less."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoders.product import model as product
from encoders.product import train as train_product
from encoders.product.classifier import PRECISIONS, UNREACHABLE, fit_thresholds
from encoders.product.model import ProductModel
from encoders.product.train import TrainingProducts
from encoders.quality import majority_vote
from encoders.splits import Split, split_of
from lookalike.cli import dispatch
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT
from pipeline import evaluate
from pipeline.evaluation import heldout
from pipeline.evaluation.classes import ASKED, Classification, abstention, classified
from pipeline.evaluation.heldout import HeldOut
from tests.unit.pipeline.catalogues import jsonl
from tests.unit.pipeline.indexes import around, index

COUNT = 600
NAMES = [f"p{number}" for number in range(COUNT)]
KINDS = [f"{'ab'[number % 2]}/{number // 2 % 3}" for number in range(COUNT)]
# The first held-out product is of a category that no other product has.
ALONE = next(row for row, name in enumerate(NAMES) if split_of(name) == Split.TEST)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos tell the second part of a category, titles the first: together they tell all of it."""
    folder = tmp_path_factory.mktemp("classes")
    images = around([kind.partition("/")[2] for kind in KINDS], 0.5)
    texts = around([kind.partition("/")[0] for kind in KINDS], 0.5, dim=8, seed=1)
    of = [*KINDS[:ALONE], "c", *KINDS[ALONE + 1 :]]
    given = TrainingProducts(
        ids=NAMES, categories=of, tags=[[]] * COUNT, images=images, texts=texts,
        image_encoder=f"fake-{SPACE_IMAGE}", text_encoder=f"fake-{SPACE_TEXT}",
    )  # fmt: skip
    fingerprint = train_product.train(given, folder / "new")
    (folder / "new").rename(folder / fingerprint)
    products = product.load(folder / fingerprint).encode(images, texts)
    every = range(COUNT)
    spaces = {SPACE_IMAGE: (images, every), SPACE_TEXT: (texts, every)}
    index(folder / "two", of, spaces)
    index(folder / "three", of, {**spaces, SPACE_PRODUCT: (products, every)}, encoders={SPACE_PRODUCT: fingerprint})
    jsonl(folder / "catalogue", {"id": "p0"})
    return folder


@pytest.fixture(scope="module")
def held(built: Path) -> HeldOut:
    return heldout.read(built / "three", sample=1000, seed=0)


@pytest.fixture(scope="module")
def model(built: Path, held: HeldOut) -> ProductModel:
    return product.load(built / held.encoders["product"])


@pytest.fixture(scope="module")
def told(held: HeldOut, model: ProductModel) -> Classification:
    made = classified(held, model, seed=0)
    assert made is not None
    return made


def run(*argv: str | Path) -> int:
    return dispatch.run(lambda: evaluate.main([str(word) for word in argv], {}))


def report(built: Path, out: Path, index: str, *options: str | Path) -> tuple[str, dict[str, Any]]:
    assert run(built / "catalogue", built / index, "--out", out, *options) == 0
    return (out / "report.md").read_text(encoding="utf-8"), json.loads((out / "report.json").read_text())


def test_classifier_and_votes_are_judged_by_the_same_products(told: Classification, held: HeldOut) -> None:
    assert list(told.ways) == [
        "classifier, photo and title", "classifier, photo alone", "classifier, title alone",
        "10 neighbours, image", "10 neighbours, text", "10 neighbours, product",
    ]  # fmt: skip
    assert told.judged == len(held.judged.products)
    assert told.voters == len(held.voters.products)
    for way in told.ways.values():
        assert sum(each.answers for each in way.bins) == told.judged
        assert way.accuracy.low <= way.accuracy.value <= way.accuracy.high


def test_what_a_photo_and_a_title_tell_together_neither_tells_alone(told: Classification) -> None:
    accuracy = {name: way.accuracy.value for name, way in told.ways.items()}

    assert accuracy["classifier, photo and title"] > 0.9
    # A photo leaves two categories to choose from, a title three.
    assert accuracy["classifier, photo alone"] == pytest.approx(1 / 2, abs=0.15)
    assert accuracy["classifier, title alone"] == pytest.approx(1 / 3, abs=0.15)
    assert accuracy["10 neighbours, product"] > max(accuracy["10 neighbours, image"], accuracy["10 neighbours, text"])


def test_a_category_that_was_never_seen_is_a_wrong_answer_and_is_counted(told: Classification) -> None:
    assert (told.unknown, told.unpredicted) == (1, 1)
    assert all(way.accuracy.value < 1 for way in told.ways.values())


def test_more_precision_is_asked_for_by_fewer_answers(told: Classification) -> None:
    for way in told.ways.values():
        assert [each.precision for each in way.abstentions] == list(ASKED)
        answered = [each.answered for each in way.abstentions]
        assert answered == sorted(answered, reverse=True)
    both, photo = (told.ways[f"classifier, {name}"].abstentions[0] for name in ("photo and title", "photo alone"))
    assert both.answered > 0.9
    assert both.right > 0.8
    # Of two categories that look the same, no confidence promises four right answers of five.
    assert (photo.answered, photo.right) == (0, 0)


def test_abstaining_leaves_the_answers_of_a_confidence_from_the_threshold_on() -> None:
    confidences, right = np.array([0.9, 0.8, 0.7, 0.2], np.float32), np.array([True, False, True, True])

    told = abstention(confidences, right, 0.6, 0.7)
    assert (told.precision, told.threshold, told.answered) == (0.6, 0.7, 0.75)
    assert told.right == pytest.approx(2 / 3)
    never = abstention(confidences, right, 0.99, UNREACHABLE)
    assert (never.answered, never.right) == (0, 0)


def test_votes_abstain_from_a_threshold_that_other_products_chose(told: Classification, held: HeldOut) -> None:
    voters, choosing = held.voters, held.calibrating
    labels = [each.category for each in voters.products]
    names, shares = majority_vote(choosing.vectors["product"], voters.vectors["product"], labels, 10)
    right = np.array([name == each.category for name, each in zip(names, choosing.products, strict=True)])
    found = fit_thresholds(shares.astype(np.float32), right)

    for each in told.ways["10 neighbours, product"].abstentions:
        assert each.threshold == found[PRECISIONS.index(each.precision)]


def test_without_a_product_encoder_neighbours_vote_all_the_same(held: HeldOut) -> None:
    told = classified(held, None, seed=0)

    assert told is not None
    assert list(told.ways) == ["10 neighbours, image", "10 neighbours, text", "10 neighbours, product"]
    assert told.unpredicted == 0


def test_without_a_product_to_learn_from_nobody_votes(tmp_path: Path) -> None:
    names = [name for name in NAMES if split_of(name) == Split.TEST][:20]
    of = ["a", "b"] * 10
    index(tmp_path, of, {SPACE_IMAGE: (around(of, 1), range(20))}, names=names)

    assert classified(heldout.read(tmp_path, sample=100, seed=0), None, seed=0) is None


def test_the_report_tells_categories_and_asks_with_less(built: Path, tmp_path: Path) -> None:
    text, told = report(built, tmp_path, "three", "--artifacts", built)

    by, further = (told["labellings"]["category"][of] for of in ("by", "further"))
    micro = {name: column["averages"]["precision@10"]["micro"][0] for name, column in {**by, **further}.items()}
    assert list(further) == ["product, photo alone", "product, title alone"]
    assert micro["product"] > micro["product, photo alone"] > micro["chance"]
    assert micro["product"] > micro["product, title alone"] > micro["chance"]
    assert "| product, title alone | " in text.partition("## The product space, asked with less")[2]
    telling = text.partition("## Telling the category")[2]
    assert "1 are of a category that none of" in telling
    accuracy = told["classification"]["ways"]["classifier, photo alone"]["accuracy"]
    assert f"| classifier, photo alone | {accuracy[0]:.3f} (" in telling
    assert "| never |" in telling
    assert "](reliability.png)" in telling
    assert (tmp_path / "reliability.png").exists()


def test_auto_finds_by_the_product_space_where_it_is_built(built: Path, tmp_path: Path) -> None:
    text, told = report(built, tmp_path, "three")

    (worth,) = told["policy_worth"]
    assert (worth["entry"], worth["space"]) == ("*", "product")
    assert worth["gain"]["product"] == [0, 0, 0]
    assert worth["gain"]["image"][1] > 0
    assert "The product encoder was not given (--artifacts)" in text


def test_without_a_product_space_no_product_encoder_is_looked_for(built: Path, tmp_path: Path) -> None:
    _, told = report(built, tmp_path, "two", "--artifacts", tmp_path / "none")

    assert list(told["encoders"]) == ["image", "text"]
    assert list(told["classification"]["ways"]) == ["10 neighbours, image", "10 neighbours, text"]
    assert told["labellings"]["category"]["further"] == {}


def test_a_product_encoder_that_is_not_there_is_named(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(built / "catalogue", built / "three", "--artifacts", tmp_path, "--out", tmp_path / "out") == 2

    assert f"{tmp_path}/product-" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_product_encoder_under_the_name_of_another_is_refused(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index(tmp_path / "other", KINDS, {SPACE_PRODUCT: (around(KINDS, 1), range(COUNT))}, encoders={SPACE_PRODUCT: "x"})
    (tmp_path / "x").symlink_to(next(built.glob("product-*")))

    assert run(built / "catalogue", tmp_path / "other", "--artifacts", tmp_path) == 2

    assert f"{tmp_path}/x: is product-" in capsys.readouterr().err


def test_vectors_of_the_index_are_those_that_its_product_encoder_makes(held: HeldOut, model: ProductModel) -> None:
    vectors = held.judged.vectors
    np.testing.assert_allclose(model.encode(vectors["image"], vectors["text"]), vectors["product"], atol=1e-5)
