"""Reading the test, training and calibration products of an evaluation from an index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encoders.splits import Split, split_of
from lookalike.errors import BadArtifact, OperatorError
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT
from pipeline.evaluation import held_out
from tests.unit.pipeline.indexes import COUNT, build_index, categories, clustered_vectors, ids


@pytest.fixture
def location(tmp_path: Path) -> Path:
    """Every tenth product lacks a text vector."""
    product_categories = categories()
    rows_with_text = [row for row in range(COUNT) if row % 10]
    spaces = {
        SPACE_IMAGE: (clustered_vectors(product_categories, 0.5), range(COUNT)),
        SPACE_TEXT: (clustered_vectors(product_categories, 0.5, seed=1)[rows_with_text], rows_with_text),
    }
    return build_index(tmp_path, product_categories, spaces, shards=3)


def is_held_out(name: str) -> bool:
    return split_of(name) == Split.TEST


def test_test_products_are_the_held_out_ones_with_a_vector_in_every_space(location: Path) -> None:
    data = held_out.read(location, sample=1000, seed=0)

    expected = [name for row, name in enumerate(ids()) if is_held_out(name) and row % 10]
    assert [product.id for product in data.test.products] == sorted(expected)
    assert (data.product_count, data.held_out_count, data.complete_count) == (
        COUNT,
        sum(map(is_held_out, ids())),
        len(expected),
    )
    assert data.missing_vectors == {"image": 0, "text": data.held_out_count - data.complete_count}
    assert data.encoders == {"image": "fake-1", "text": "fake-2"}


def test_each_product_has_its_own_vectors(location: Path) -> None:
    data = held_out.read(location, sample=1000, seed=0)

    rows = [int(product.id[1:]) for product in data.test.products]
    np.testing.assert_allclose(data.test.vectors["image"], clustered_vectors(categories(), 0.5)[rows], atol=1e-6)
    np.testing.assert_allclose(data.test.vectors["text"], clustered_vectors(categories(), 0.5, seed=1)[rows], atol=1e-6)
    assert [product.category for product in data.test.products] == [categories()[row] for row in rows]


def test_training_and_calibration_products_are_those_of_their_splits(location: Path) -> None:
    data = held_out.read(location, sample=1000, seed=0)

    for products, split in ((data.train, Split.TRAIN), (data.calibration, Split.CALIBRATE)):
        expected = [name for row, name in enumerate(ids()) if split_of(name) == split and row % 10]
        assert [product.id for product in products.products] == sorted(expected)
        assert products.vectors["text"].shape == (len(expected), 16)


def test_test_vectors_equal_to_one_of_a_training_product_are_counted(tmp_path: Path) -> None:
    vectors = clustered_vectors(categories(), 0.5)
    train_row = next(row for row, name in enumerate(ids()) if split_of(name) == Split.TRAIN)
    test_rows = [row for row, name in enumerate(ids()) if is_held_out(name)]
    vectors[test_rows[:3]] = vectors[train_row]
    build_index(tmp_path, categories(), {SPACE_IMAGE: (vectors, range(COUNT))})

    assert held_out.read(tmp_path, sample=1000, seed=0).seen_vectors == {"image": 3}


def test_an_index_of_held_out_products_only_has_no_training_products(tmp_path: Path) -> None:
    names = [name for name in ids() if is_held_out(name)][:20]
    build_index(tmp_path, ["a"] * 20, {SPACE_IMAGE: (clustered_vectors(["a"] * 20, 1), range(20))}, names=names)
    data = held_out.read(tmp_path, sample=10, seed=0)

    assert (len(data.test.products), len(data.train.products)) == (10, 0)
    assert data.calibration.vectors["image"].shape == (0, 16)


def test_the_same_seed_draws_the_same_sample(location: Path) -> None:
    def sample_ids(seed: int) -> list[str]:
        return [product.id for product in held_out.read(location, sample=12, seed=seed).test.products]

    assert len(sample_ids(0)) == 12
    assert sample_ids(0) == sample_ids(0) != sample_ids(1)
    assert all(map(is_held_out, sample_ids(1)))


def test_a_missing_index_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match=r"CURRENT: no index here"):
        held_out.read(tmp_path, sample=10, seed=0)


def test_without_a_held_out_product_evaluation_is_an_error(tmp_path: Path) -> None:
    names = [name for name in ids() if not is_held_out(name)][:20]
    spaces = {SPACE_IMAGE: (clustered_vectors(["a"] * 20, 1), range(20))}
    build_index(tmp_path, ["a"] * 20, spaces, names=names)

    with pytest.raises(OperatorError, match="none of its 20 products is held out"):
        held_out.read(tmp_path, sample=10, seed=0)


def test_without_a_complete_held_out_product_evaluation_is_an_error(tmp_path: Path) -> None:
    rows = [row for row, name in enumerate(ids()) if not is_held_out(name)]
    spaces = {
        SPACE_IMAGE: (clustered_vectors(categories(), 1), range(COUNT)),
        SPACE_TEXT: (clustered_vectors(categories(), 1)[rows], rows),
    }
    build_index(tmp_path, categories(), spaces)

    with pytest.raises(OperatorError, match=r"has a vector in every space \(image, text\)"):
        held_out.read(tmp_path, sample=10, seed=0)
