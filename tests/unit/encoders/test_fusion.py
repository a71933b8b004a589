"""The closed-form fusion of photo and title."""

from __future__ import annotations

import numpy as np
import pytest

from encoders.product import fusion
from encoders.product.fusion import Fusion, Kind, labels_of
from lookalike.vectors import F32, normalised
from tests.unit.encoders.made_products import examples


def fused(count: int = 300, *, tags: bool = True) -> tuple[Fusion, F32, F32]:
    given = examples(count)
    categories, _ = labels_of([[category] for category in given.categories], at_least=1, most=100)
    labels, _ = labels_of(given.tags if tags else [[] for _ in given.tags], at_least=1, most=100)
    return fusion.learnt(given.images, given.texts, categories, labels, ridge=0.1), given.images, given.texts


@pytest.mark.parametrize("kind", Kind)
def test_vectors_of_every_kind_have_unit_norm_and_one_dimension(kind: Kind) -> None:
    made, images, texts = fused()
    vectors = made.of(kind, images, texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (300, made.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_the_blocks_have_their_shares_of_a_vector() -> None:
    made, images, texts = fused()
    ends = np.cumsum(list(made.sizes.values()))[:-1]
    lengths = [np.linalg.norm(block, axis=1) for block in np.split(made.of(Kind.BOTH, images, texts), ends, axis=1)]
    for length, name in zip(lengths, made.sizes, strict=True):
        np.testing.assert_allclose(length / lengths[0], fusion.SHARES[name] / fusion.SHARES["categories"], rtol=1e-4)


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
    labels, _ = labels_of([[f"c{i % categories}"] for i in range(count)], at_least=1, most=1_000)
    none, _ = labels_of([[] for _ in range(count)], at_least=1, most=1)
    made = fusion.learnt(images, texts, labels, none, ridge=0.1)
    assert made.sizes == {"categories": categories - 1, "rest": rest}  # Of all categories each product has one.
    assert made.of(Kind.BOTH, images, texts).shape == (count, made.dim) == (count, dim)


def test_a_photo_alone_is_not_changed_by_a_title_that_is_not_looked_at() -> None:
    made, images, texts = fused()
    np.testing.assert_array_equal(made.of(Kind.IMAGE, images, texts), made.of(Kind.IMAGE, images, texts * 0))


@pytest.mark.parametrize("kind", [Kind.IMAGE, Kind.TEXT])
def test_one_side_alone_comes_near_the_vector_of_both(kind: Kind) -> None:
    made, images, texts = fused()
    both, one = made.of(Kind.BOTH, images, texts), made.of(kind, images, texts)
    own = np.einsum("ij,ij->i", both, one)
    others = np.einsum("ij,ij->i", both, np.roll(one, 1, axis=0))
    assert own.mean() > others.mean() + 0.3


def test_the_same_products_give_the_same_bits() -> None:
    (one, images, texts), (other, _, _) = fused(), fused()
    np.testing.assert_array_equal(one.of(Kind.BOTH, images, texts), other.of(Kind.BOTH, images, texts))


def test_photos_that_are_all_alike_are_no_obstacle() -> None:
    given = examples(60)
    images = np.repeat(given.images[:1], 60, axis=0)
    categories, _ = labels_of([[category] for category in given.categories], at_least=1, most=100)
    none, _ = labels_of([[] for _ in range(60)], at_least=1, most=100)
    made = fusion.learnt(images, given.texts, categories, none, ridge=0.01)
    vectors = made.of(Kind.BOTH, images, given.texts)
    assert np.isfinite(vectors).all()
    assert vectors.any(axis=1).all()


def test_labels_are_the_most_frequent_ones_that_enough_have() -> None:
    matrix, names = labels_of([["a", "b"], ["a", "c"], ["a", "b", "b"], []], at_least=2, most=10)
    assert names == ["a", "b"]
    np.testing.assert_array_equal(matrix.toarray(), [[1, 1], [1, 0], [1, 1], [0, 0]])
    assert labels_of([["a", "b"], ["a"], ["b"], ["a"]], at_least=1, most=1)[1] == ["a"]
    assert labels_of([[], []], at_least=1, most=9)[0].shape == (2, 0)
