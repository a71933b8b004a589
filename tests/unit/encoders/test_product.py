"""The product encoder: trained, judged, written, read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from encoders.product import model as product
from encoders.product.model import ProductModel
from encoders.product.train import NotBetter, TrainingProducts, check_better, train
from lookalike.errors import BadArtifact, OperatorError
from lookalike.vectors import F32
from tests.unit.encoders.synthetic_products import examples


@pytest.fixture(scope="module")
def given() -> TrainingProducts:
    return examples()


@pytest.fixture(scope="module")
def folder(given: TrainingProducts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("encoders") / "product"
    train(given, out)
    return out


@pytest.fixture(scope="module")
def model(folder: Path) -> ProductModel:
    return product.load(folder)


def test_the_same_products_give_the_same_encoder(given: TrainingProducts, model: ProductModel, tmp_path: Path) -> None:
    assert train(given, tmp_path / "again") == model.fingerprint
    assert train(given, tmp_path / "other", seed=1).startswith("product-")


def test_it_is_better_than_either_side_alone_on_products_that_it_did_not_learn_from(model: ProductModel) -> None:
    precision = model.metrics["precision_at_10"]
    for label in ("category", "broad category"):
        assert precision[label]["product"] > max(precision[label]["image"], precision[label]["text"])
    assert precision["tag colour"]["product"] > precision["tag colour"]["text"]
    assert "tag loose" not in precision
    assert model.metrics["training_products"] + model.metrics["test_products"] < 900


def test_a_vector_does_not_depend_on_its_company(given: TrainingProducts, model: ProductModel) -> None:
    images, texts = given.images[:9].copy(), given.texts[:9].copy()
    images[3:6], texts[6:] = 0, 0
    together = model.encode(images, texts)
    for row in range(9):
        np.testing.assert_allclose(together[row], model.encode(images[row][None], texts[row][None])[0], atol=1e-6)


def test_neither_photo_nor_title_gives_zeros_and_has_no_category(given: TrainingProducts, model: ProductModel) -> None:
    images, texts = given.images[:2].copy(), given.texts[:2].copy()
    images[1], texts[1] = 0, 0
    vectors = model.encode(images, texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 0], atol=1e-5)
    with pytest.raises(ValueError, match="neither image nor text"):
        model.classify(images, texts, limit=3, precision=0.9)


def test_categories_come_by_falling_probability_and_are_right_more_often_with_both(
    given: TrainingProducts, model: ProductModel
) -> None:
    def accuracy(images: F32, texts: F32) -> float:
        guesses = model.classify(images, texts, limit=1, precision=0.9)
        hits = [guess.categories[0] == c for guess, c in zip(guesses, given.categories, strict=True)]
        return float(np.mean(hits))

    both = accuracy(given.images, given.texts)
    assert both > 0.7
    assert both > accuracy(given.images, given.texts * 0) > 1 / 9
    assert both > accuracy(given.images * 0, given.texts) > 1 / 9
    (guess,) = model.classify(given.images[:1], given.texts[:1], limit=100, precision=0.9)
    assert sorted(guess.categories) == list(model.categories) == sorted(set(given.categories))
    assert (np.diff(guess.probabilities) <= 0).all()
    assert guess.probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_what_is_not_better_than_the_photo_alone_is_refused_with_the_figures(tmp_path: Path) -> None:
    shown = examples(noise=0.01, told=False)
    with pytest.raises(NotBetter, match=r"by category 1\.000.*image alone 1\.000"):
        train(shown, tmp_path / "product")
    assert not list(tmp_path.iterdir())


def precisions(**by_label: tuple[float, float, float]) -> dict[str, dict[str, float]]:
    """By label, of image, text and product."""
    spaces = ("image", "text", "product")
    return {label.replace("_", " "): dict(zip(spaces, values, strict=True)) for label, values in by_label.items()}


@pytest.mark.parametrize(
    ("category", "broad", "alone"),
    [
        ((0.8, 0.7, 0.8), (0.9, 0.9, 0.95), "image"),
        ((0.7, 0.8, 0.8), (0.9, 0.9, 0.95), "text"),
        ((0.7, 0.7, 0.8), (0.951, 0.9, 0.95), "image"),
        ((0.7, 0.7, 0.8), (0.9, 0.951, 0.95), "text"),
    ],
)
def test_either_side_alone_that_is_as_good_by_full_category_or_better_by_the_broad_one_refuses_it(
    category: tuple[float, float, float], broad: tuple[float, float, float], alone: str
) -> None:
    with pytest.raises(NotBetter, match=rf"by {alone} alone"):
        check_better(precisions(category=category, broad_category=broad))


def test_by_the_broad_category_it_may_be_as_good_and_by_tags_anything() -> None:
    tags = (0.4, 0.2, 0.1)
    check_better(precisions(category=(0.7, 0.7, 0.8), broad_category=(1, 0.9, 1), tag_colour=tags))


def test_the_broad_category_is_the_first_level_that_tells_products_apart(
    given: TrainingProducts, model: ProductModel, tmp_path: Path
) -> None:
    below = dataclasses.replace(given, categories=[f"all/of them/{category}" for category in given.categories])
    train(below, tmp_path / "product")

    precision = product.load(tmp_path / "product").metrics["precision_at_10"]
    for space in ("image", "text"):
        assert precision["broad category"][space] == model.metrics["precision_at_10"]["broad category"][space]
    assert precision["broad category"]["product"] < 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"categories": ["only"] * 900}, "1 categories have 5 or more training products"),
        ({"categories": [f"of {i}" for i in range(900)]}, "0 categories have 5 or more training products"),
    ],
)
def test_categories_that_teach_nothing_are_refused(
    given: TrainingProducts, tmp_path: Path, change: dict[str, list[str]], complaint: str
) -> None:
    with pytest.raises(NotBetter, match=complaint):
        train(dataclasses.replace(given, **change), tmp_path / "product")  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize("count", [0, 1, 60])
def test_too_few_products_are_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(NotBetter, match=r"categories have|held-out products share"):
        train(_first(count), tmp_path / "product")


def _first(count: int) -> TrainingProducts:
    all_of_them = examples()
    return TrainingProducts(
        ids=all_of_them.ids[:count],
        categories=all_of_them.categories[:count],
        tags=all_of_them.tags[:count],
        images=all_of_them.images[:count],
        texts=all_of_them.texts[:count],
        image_encoder=all_of_them.image_encoder,
        text_encoder=all_of_them.text_encoder,
    )


def test_untrained_photo_vectors_are_told_by_the_name(given: TrainingProducts, tmp_path: Path) -> None:
    untrained = dataclasses.replace(given, image_encoder="mobilenet-untrained-0123456789ab")
    assert train(untrained, tmp_path / "product").startswith("product-untrained-")


def test_a_folder_that_exists_is_not_overwritten(given: TrainingProducts, folder: Path) -> None:
    with pytest.raises(OperatorError, match="already exists"):
        train(given, folder)


def test_a_changed_file_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    product.load(copy)
    weights = copy / "both_weights.npy"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BadArtifact, match=r"both_weights\.npy: its SHA-256 differs"):
        product.load(copy)
    weights.unlink()
    with pytest.raises(BadArtifact, match=r"both_weights\.npy"):
        product.load(copy)


def test_a_manifest_of_something_else_is_refused(folder: Path, tmp_path: Path) -> None:
    for change, complaint in (
        ({"format": 99}, "format"),
        ({"kind": "scdv"}, "format"),
        ({"blocks": []}, "does not match its fingerprint"),
    ):
        manifest = json.loads((folder / "manifest.json").read_text()) | change
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(BadArtifact, match=complaint):
            product.load(tmp_path)
