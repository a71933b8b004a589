"""The product encoder: training, quality gate, writing and loading."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from encoders.product import model as product_model
from encoders.product.model import ProductModel
from encoders.product.train import BEST, QualityGateFailed, TrainingProducts, check_quality_gate, train
from lookalike.errors import BadArtifact, OperatorError
from lookalike.vectors import F32
from tests.unit.encoders.synthetic_products import make_products


@pytest.fixture(scope="module")
def products() -> TrainingProducts:
    return make_products()


@pytest.fixture(scope="module")
def folder(products: TrainingProducts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("encoders") / "product"
    train(products, out)
    return out


@pytest.fixture(scope="module")
def model(folder: Path) -> ProductModel:
    return product_model.load(folder)


def test_the_same_products_give_the_same_encoder(
    products: TrainingProducts, model: ProductModel, tmp_path: Path
) -> None:
    assert train(products, tmp_path / "again") == model.fingerprint
    assert train(products, tmp_path / "other", seed=1).startswith("product-")


def test_precision_on_held_out_products_is_better_than_with_one_modality(model: ProductModel) -> None:
    precision = model.metrics["precision_at_10"]
    for label in ("category", "broad category"):
        assert precision[label]["product"] > max(precision[label]["image"], precision[label]["text"])
    assert precision["tag colour"]["product"] > precision["tag colour"]["text"]
    assert "tag loose" not in precision
    assert model.metrics["training_products"] + model.metrics["test_products"] < 900


def test_a_vector_does_not_depend_on_its_batch(products: TrainingProducts, model: ProductModel) -> None:
    images, texts = products.images[:9].copy(), products.texts[:9].copy()
    images[3:6], texts[6:] = 0, 0
    together = model.encode(images, texts)
    for row in range(9):
        np.testing.assert_allclose(together[row], model.encode(images[row][None], texts[row][None])[0], atol=1e-6)


def test_a_product_with_neither_image_nor_text_gives_zeros_and_cannot_be_classified(
    products: TrainingProducts, model: ProductModel
) -> None:
    images, texts = products.images[:2].copy(), products.texts[:2].copy()
    images[1], texts[1] = 0, 0
    vectors = model.encode(images, texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 0], atol=1e-5)
    with pytest.raises(ValueError, match="neither image nor text"):
        model.classify(images, texts, limit=3, precision=0.9)


def test_categories_are_sorted_by_probability_and_more_accurate_with_both_modalities(
    products: TrainingProducts, model: ProductModel
) -> None:
    def accuracy(images: F32, texts: F32) -> float:
        predictions = model.classify(images, texts, limit=1, precision=0.9)
        pairs = zip(predictions, products.categories, strict=True)
        return float(np.mean([prediction.categories[0] == category for prediction, category in pairs]))

    both = accuracy(products.images, products.texts)
    assert both > 0.65
    assert both > accuracy(products.images, products.texts * 0) > 1 / 9
    assert both > accuracy(products.images * 0, products.texts) > 1 / 9
    (prediction,) = model.classify(products.images[:1], products.texts[:1], limit=100, precision=0.9)
    assert sorted(prediction.categories) == list(model.categories) == sorted(set(products.categories))
    assert (np.diff(prediction.probabilities) <= 0).all()
    assert prediction.probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_an_encoder_no_better_than_the_image_alone_is_refused_with_the_figures(
    products: TrainingProducts, tmp_path: Path
) -> None:
    order = np.random.default_rng(1).permutation(len(products))
    unrelated = dataclasses.replace(products, categories=[products.categories[row] for row in order])
    with pytest.raises(QualityGateFailed, match=r"by category 0\.\d+.*image alone 0\.\d+"):
        train(unrelated, tmp_path / "product")
    assert not list(tmp_path.iterdir())


def precisions(**by_label: tuple[float, float, float]) -> dict[str, dict[str, float]]:
    """Label -> space -> precision, given (image, text, product) per label; the best possible is 1."""
    spaces = ("image", "text", "product")
    return {
        label.replace("_", " "): {**dict(zip(spaces, values, strict=True)), BEST: 1.0}
        for label, values in by_label.items()
    }


@pytest.mark.parametrize(
    ("category", "broad", "modality"),
    [
        ((0.8, 0.7, 0.8), (0.9, 0.9, 0.95), "image"),
        ((0.7, 0.8, 0.8), (0.9, 0.9, 0.95), "text"),
        ((0.7, 0.7, 0.8), (0.951, 0.9, 0.95), "image"),
        ((0.7, 0.7, 0.8), (0.9, 0.951, 0.95), "text"),
    ],
)
def test_the_quality_gate_fails_if_one_modality_is_as_good_by_full_or_better_by_broad_category(
    category: tuple[float, float, float], broad: tuple[float, float, float], modality: str
) -> None:
    with pytest.raises(QualityGateFailed, match=rf"by {modality} alone"):
        check_quality_gate(precisions(category=category, broad_category=broad), {})


def test_the_quality_gate_passes_if_equal_by_broad_category_and_worse_by_tags() -> None:
    tags = (0.4, 0.2, 0.1)
    check_quality_gate(precisions(category=(0.7, 0.7, 0.8), broad_category=(1, 0.9, 1), tag_colour=tags), {})


def test_the_quality_gate_passes_if_a_modality_leaves_nothing_to_better() -> None:
    check_quality_gate(precisions(category=(0.7, 1, 1), broad_category=(0.9, 1, 1)), {})
    with pytest.raises(QualityGateFailed, match=r"by text alone"):
        check_quality_gate(precisions(category=(0.7, 0.99, 0.99), broad_category=(0.9, 1, 1)), {})


@pytest.mark.parametrize(("product", "passes"), [(0.7, True), (0.6, True), (0.59, False)])
def test_the_quality_gate_fails_if_one_modality_finds_the_same_product_better(product: float, passes: bool) -> None:
    precision = precisions(category=(0.7, 0.7, 0.8), broad_category=(0.9, 0.9, 0.95))
    identity = {"image": 0.2, "text": 0.6, "product": product}
    if passes:
        check_quality_gate(precision, identity)
    else:
        with pytest.raises(QualityGateFailed, match=r"same product 0\.590; .* by text alone 0\.600"):
            check_quality_gate(precision, identity)


def test_groups_are_measured_and_not_trained_on(
    products: TrainingProducts, model: ProductModel, tmp_path: Path
) -> None:
    assert model.metrics["identity"] == {}
    pairs = dataclasses.replace(
        products,
        images=np.repeat(products.images[::2], 2, axis=0),
        texts=np.repeat(products.texts[::2], 2, axis=0),
        categories=list(np.repeat(products.categories[::2], 2)),
        tags=[(*products.tags[i - i % 2], f"group:{i // 2}") for i in range(len(products))],
    )
    train(pairs, tmp_path / "product")
    paired = product_model.load(tmp_path / "product")
    assert paired.metrics["identity"] == {"image": 1.0, "text": 1.0, "product": 1.0}
    assert "tag group" not in paired.metrics["precision_at_10"]


def test_the_broad_category_is_the_first_level_with_several_categories(
    products: TrainingProducts, model: ProductModel, tmp_path: Path
) -> None:
    nested = dataclasses.replace(products, categories=[f"all/of them/{category}" for category in products.categories])
    train(nested, tmp_path / "product")

    precision = product_model.load(tmp_path / "product").metrics["precision_at_10"]
    for space in ("image", "text"):
        assert precision["broad category"][space] == model.metrics["precision_at_10"]["broad category"][space]
    assert precision["broad category"]["product"] < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": ["only"] * 900}, "1 categories have 5 or more training products"),
        ({"categories": [f"of {i}" for i in range(900)]}, "0 categories have 5 or more training products"),
    ],
)
def test_fewer_than_two_trainable_categories_are_refused(
    products: TrainingProducts, tmp_path: Path, change: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(QualityGateFailed, match=message):
        train(dataclasses.replace(products, **change), tmp_path / "product")  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize("count", [0, 1, 60])
def test_too_few_products_are_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(QualityGateFailed, match=r"categories have|held-out products share"):
        train(_first_products(count), tmp_path / "product")


def _first_products(count: int) -> TrainingProducts:
    all_products = make_products()
    return TrainingProducts(
        ids=all_products.ids[:count],
        categories=all_products.categories[:count],
        tags=all_products.tags[:count],
        images=all_products.images[:count],
        texts=all_products.texts[:count],
        image_encoder=all_products.image_encoder,
        text_encoder=all_products.text_encoder,
    )


def test_the_fingerprint_says_if_the_image_encoder_was_untrained(products: TrainingProducts, tmp_path: Path) -> None:
    untrained = dataclasses.replace(products, image_encoder="mobilenet-untrained-0123456789ab")
    assert train(untrained, tmp_path / "product").startswith("product-untrained-")


def test_an_existing_folder_is_not_overwritten(products: TrainingProducts, folder: Path) -> None:
    with pytest.raises(OperatorError, match="already exists"):
        train(products, folder)


def test_a_changed_file_is_refused_and_named(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    product_model.load(copy)
    weights = copy / "both_weights.npy"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BadArtifact, match=r"both_weights\.npy: its SHA-256 differs"):
        product_model.load(copy)
    weights.unlink()
    with pytest.raises(BadArtifact, match=r"both_weights\.npy"):
        product_model.load(copy)


def test_a_changed_manifest_or_one_of_another_kind_is_refused(folder: Path, tmp_path: Path) -> None:
    for change, message in (
        ({"format": 99}, "format"),
        ({"kind": "scdv"}, "format"),
        ({"blocks": []}, "does not match its fingerprint"),
    ):
        manifest = json.loads((folder / "manifest.json").read_text()) | change
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(BadArtifact, match=message):
            product_model.load(tmp_path)
