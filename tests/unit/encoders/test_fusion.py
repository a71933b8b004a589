"""The closed-form fusion of image and text vectors."""

from __future__ import annotations

import numpy as np
import pytest

from encoders.product import fusion
from encoders.product.fusion import Fusion, Modality, label_matrix
from lookalike.vectors import F32, normalised
from tests.unit.encoders.synthetic_products import make_products


def fit_on_synthetic_products(count: int = 300, *, tags: bool = True) -> tuple[Fusion, F32, F32]:
    products = make_products(count)
    categories, _ = label_matrix([[category] for category in products.categories], min_products=1, max_count=100)
    labels, _ = label_matrix(products.tags if tags else [[] for _ in products.tags], min_products=1, max_count=100)
    return (
        fusion.fit_fusion(products.images, products.texts, categories, labels, ridge=0.1),
        products.images,
        products.texts,
    )


@pytest.mark.parametrize("modality", Modality)
def test_vectors_of_every_modality_have_unit_norm_and_the_same_dimension(modality: Modality) -> None:
    model, images, texts = fit_on_synthetic_products()
    vectors = model.fuse(modality, images, texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (300, model.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_the_norms_of_the_blocks_are_in_proportion_to_their_weights() -> None:
    model, images, texts = fit_on_synthetic_products()
    ends = np.cumsum(list(model.sizes.values()))[:-1]
    norms = [
        np.linalg.norm(block, axis=1) for block in np.split(model.fuse(Modality.BOTH, images, texts), ends, axis=1)
    ]
    for norm, name in zip(norms, model.sizes, strict=True):
        np.testing.assert_allclose(
            norm / norms[0], fusion.BLOCK_WEIGHTS[name] / fusion.BLOCK_WEIGHTS["categories"], rtol=1e-4
        )


def test_without_tags_there_is_no_tag_block() -> None:
    assert list(fit_on_synthetic_products(tags=False)[0].sizes) == ["categories", "rest"]


@pytest.mark.parametrize(("categories", "dim"), [(2, 1), (100, 99), (200, 128)])
def test_the_block_of_categories_has_as_many_dimensions_as_they_need_up_to_its_size(categories: int, dim: int) -> None:
    model, images, texts = _fit_on_noise(categories)
    # One less than there are: each product has exactly one category.
    assert model.sizes == {"categories": dim, "rest": fusion.BLOCK_SIZES["rest"]}
    assert model.fuse(Modality.BOTH, images, texts).shape == (500, model.dim) == (500, dim + 256)


def test_the_rest_keeps_the_cosines_of_image_and_text() -> None:
    model, images, texts = _fit_on_noise(2)
    rest = normalised(model.fuse(Modality.BOTH, images, texts)[:, 1:])
    centred = [normalised(rows - rows.mean(axis=0)) for rows in (images, texts)]
    expected = (centred[0] @ centred[0].T + centred[1] @ centred[1].T) / 2
    difference = (rest @ rest.T - expected)[~np.eye(len(rest), dtype=bool)]
    assert np.abs(difference).mean() < 0.06  # 1 / sqrt(256) is the standard deviation.
    one = model.fuse(Modality.TEXT, images, texts)[:, 1:]
    own, others = (np.einsum("ij,ij->i", rest, rows).mean() for rows in (one, np.roll(one, 1, axis=0)))
    assert own > others + 0.2


def _fit_on_noise(categories: int) -> tuple[Fusion, F32, F32]:
    rng, count = np.random.default_rng(0), 500
    images, texts = (normalised(rng.normal(size=(count, size)).astype(np.float32)) for size in (120, 50))
    labels, _ = label_matrix([[f"c{i % categories}"] for i in range(count)], min_products=1, max_count=1_000)
    no_tags, _ = label_matrix([[] for _ in range(count)], min_products=1, max_count=1)
    return fusion.fit_fusion(images, texts, labels, no_tags, ridge=0.1), images, texts


def test_the_image_modality_ignores_the_text_vector() -> None:
    model, images, texts = fit_on_synthetic_products()
    np.testing.assert_array_equal(
        model.fuse(Modality.IMAGE, images, texts), model.fuse(Modality.IMAGE, images, texts * 0)
    )


@pytest.mark.parametrize("modality", [Modality.IMAGE, Modality.TEXT])
def test_the_vector_of_one_modality_is_near_the_vector_of_both(modality: Modality) -> None:
    model, images, texts = fit_on_synthetic_products()
    both, one = model.fuse(Modality.BOTH, images, texts), model.fuse(modality, images, texts)
    own = np.einsum("ij,ij->i", both, one)
    others = np.einsum("ij,ij->i", both, np.roll(one, 1, axis=0))
    assert own.mean() > others.mean() + 0.3


def test_the_same_products_give_bit_identical_vectors() -> None:
    (one, images, texts), (other, _, _) = fit_on_synthetic_products(), fit_on_synthetic_products()
    np.testing.assert_array_equal(one.fuse(Modality.BOTH, images, texts), other.fuse(Modality.BOTH, images, texts))


def test_identical_images_can_be_fitted() -> None:
    products = make_products(60)
    images = np.repeat(products.images[:1], 60, axis=0)
    categories, _ = label_matrix([[category] for category in products.categories], min_products=1, max_count=100)
    no_tags, _ = label_matrix([[] for _ in range(60)], min_products=1, max_count=100)
    model = fusion.fit_fusion(images, products.texts, categories, no_tags, ridge=0.01)
    vectors = model.fuse(Modality.BOTH, images, products.texts)
    assert np.isfinite(vectors).all()
    assert vectors.any(axis=1).all()


def test_the_label_matrix_keeps_the_most_frequent_labels_of_enough_products() -> None:
    matrix, names = label_matrix([["a", "b"], ["a", "c"], ["a", "b", "b"], []], min_products=2, max_count=10)
    assert names == ["a", "b"]
    np.testing.assert_array_equal(matrix.toarray(), [[1, 1], [1, 0], [1, 1], [0, 0]])
    assert label_matrix([["a", "b"], ["a"], ["b"], ["a"]], min_products=1, max_count=1)[1] == ["a"]
    assert label_matrix([[], []], min_products=1, max_count=9)[0].shape == (2, 0)
