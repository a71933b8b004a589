"""The closed-form fusion of photo and title."""

from __future__ import annotations

import numpy as np
import pytest

from encoders.product import fusion
from encoders.product.fusion import Fusion, Modality, label_matrix
from lookalike.vectors import F32, normalised
from tests.unit.encoders.synthetic_products import examples


def fused(count: int = 300, *, tags: bool = True) -> tuple[Fusion, F32, F32]:
    given = examples(count)
    categories, _ = label_matrix([[category] for category in given.categories], min_products=1, max_count=100)
    labels, _ = label_matrix(given.tags if tags else [[] for _ in given.tags], min_products=1, max_count=100)
    return fusion.fit_fusion(given.images, given.texts, categories, labels, ridge=0.1), given.images, given.texts


@pytest.mark.parametrize("kind", Modality)
def test_vectors_of_every_kind_have_unit_norm_and_one_dimension(kind: Modality) -> None:
    made, images, texts = fused()
    vectors = made.fuse(kind, images, texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (300, made.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_the_blocks_have_their_shares_of_a_vector() -> None:
    made, images, texts = fused()
    ends = np.cumsum(list(made.sizes.values()))[:-1]
    lengths = [
        np.linalg.norm(block, axis=1) for block in np.split(made.fuse(Modality.BOTH, images, texts), ends, axis=1)
    ]
    for length, name in zip(lengths, made.sizes, strict=True):
        np.testing.assert_allclose(
            length / lengths[0], fusion.BLOCK_WEIGHTS[name] / fusion.BLOCK_WEIGHTS["categories"], rtol=1e-4
        )


def test_without_tags_there_is_no_block_of_them() -> None:
    assert list(fused(tags=False)[0].sizes) == ["categories", "rest"]


@pytest.mark.parametrize(
    ("categories", "image_dim", "rest", "dim"),
    [
        pytest.param(2, 120, 127, 128, id="few categories"),
        pytest.param(100, 120, 64, 163, id="many categories"),
        pytest.param(2, 30, 80, 81, id="few dimensions"),
    ],
)
def test_a_vector_has_128_dimensions_or_more_where_the_inputs_have_them(
    categories: int, image_dim: int, rest: int, dim: int
) -> None:
    rng, count, text_dim = np.random.default_rng(0), 500, 50
    images, texts = (normalised(rng.normal(size=(count, size)).astype(np.float32)) for size in (image_dim, text_dim))
    labels, _ = label_matrix([[f"c{i % categories}"] for i in range(count)], min_products=1, max_count=1_000)
    none, _ = label_matrix([[] for _ in range(count)], min_products=1, max_count=1)
    made = fusion.fit_fusion(images, texts, labels, none, ridge=0.1)
    assert made.sizes == {"categories": categories - 1, "rest": rest}  # Of all categories each product has one.
    assert made.fuse(Modality.BOTH, images, texts).shape == (count, made.dim) == (count, dim)


def test_a_photo_alone_is_not_changed_by_a_title_that_is_not_looked_at() -> None:
    made, images, texts = fused()
    np.testing.assert_array_equal(
        made.fuse(Modality.IMAGE, images, texts), made.fuse(Modality.IMAGE, images, texts * 0)
    )


@pytest.mark.parametrize("kind", [Modality.IMAGE, Modality.TEXT])
def test_one_side_alone_comes_near_the_vector_of_both(kind: Modality) -> None:
    made, images, texts = fused()
    both, one = made.fuse(Modality.BOTH, images, texts), made.fuse(kind, images, texts)
    own = np.einsum("ij,ij->i", both, one)
    others = np.einsum("ij,ij->i", both, np.roll(one, 1, axis=0))
    assert own.mean() > others.mean() + 0.3


def test_the_same_products_give_the_same_bits() -> None:
    (one, images, texts), (other, _, _) = fused(), fused()
    np.testing.assert_array_equal(one.fuse(Modality.BOTH, images, texts), other.fuse(Modality.BOTH, images, texts))


def test_photos_that_are_all_alike_are_no_obstacle() -> None:
    given = examples(60)
    images = np.repeat(given.images[:1], 60, axis=0)
    categories, _ = label_matrix([[category] for category in given.categories], min_products=1, max_count=100)
    none, _ = label_matrix([[] for _ in range(60)], min_products=1, max_count=100)
    made = fusion.fit_fusion(images, given.texts, categories, none, ridge=0.01)
    vectors = made.fuse(Modality.BOTH, images, given.texts)
    assert np.isfinite(vectors).all()
    assert vectors.any(axis=1).all()


def test_labels_are_the_most_frequent_ones_that_enough_have() -> None:
    matrix, names = label_matrix([["a", "b"], ["a", "c"], ["a", "b", "b"], []], min_products=2, max_count=10)
    assert names == ["a", "b"]
    np.testing.assert_array_equal(matrix.toarray(), [[1, 1], [1, 0], [1, 1], [0, 0]])
    assert label_matrix([["a", "b"], ["a"], ["b"], ["a"]], min_products=1, max_count=1)[1] == ["a"]
    assert label_matrix([[], []], min_products=1, max_count=9)[0].shape == (2, 0)
