"""Which products a quality report judges, read from an index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encoders.splits import Split, split_of
from lookalike.errors import BadArtifact, OperatorError
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT
from pipeline.evaluation import held_out
from tests.unit.pipeline.indexes import COUNT, around, categories, ids, index


@pytest.fixture
def location(tmp_path: Path) -> Path:
    """Every tenth product lacks a text vector."""
    of = categories()
    some = [row for row in range(COUNT) if row % 10]
    spaces = {SPACE_IMAGE: (around(of, 0.5), range(COUNT)), SPACE_TEXT: (around(of, 0.5, seed=1)[some], some)}
    return index(tmp_path, of, spaces, shards=3)


def is_held_out(name: str) -> bool:
    return split_of(name) == Split.TEST


def test_judged_are_the_held_out_products_with_a_vector_in_every_space(location: Path) -> None:
    held = held_out.read(location, sample=1000, seed=0)

    expected = [name for row, name in enumerate(ids()) if is_held_out(name) and row % 10]
    assert [product.id for product in held.judged.products] == sorted(expected)
    assert (held.products, held.held_out, held.complete) == (COUNT, sum(map(is_held_out, ids())), len(expected))
    assert held.lacking == {"image": 0, "text": held.held_out - held.complete}
    assert held.encoders == {"image": "fake-1", "text": "fake-2"}


def test_vectors_are_those_of_their_products(location: Path) -> None:
    held = held_out.read(location, sample=1000, seed=0)

    rows = [int(product.id[1:]) for product in held.judged.products]
    np.testing.assert_allclose(held.judged.vectors["image"], around(categories(), 0.5)[rows], atol=1e-6)
    np.testing.assert_allclose(held.judged.vectors["text"], around(categories(), 0.5, seed=1)[rows], atol=1e-6)
    assert [product.category for product in held.judged.products] == [categories()[row] for row in rows]


def test_voters_are_those_to_learn_from_and_others_choose_thresholds(location: Path) -> None:
    held = held_out.read(location, sample=1000, seed=0)

    for part, split in ((held.voters, Split.TRAIN), (held.calibrating, Split.CALIBRATE)):
        expected = [name for row, name in enumerate(ids()) if split_of(name) == split and row % 10]
        assert [product.id for product in part.products] == sorted(expected)
        assert part.vectors["text"].shape == (len(expected), 16)


def test_a_vector_that_a_product_to_learn_from_has_too_is_counted(tmp_path: Path) -> None:
    vectors = around(categories(), 0.5)
    learnt_from = next(row for row, name in enumerate(ids()) if split_of(name) == Split.TRAIN)
    judged = [row for row, name in enumerate(ids()) if is_held_out(name)]
    vectors[judged[:3]] = vectors[learnt_from]
    index(tmp_path, categories(), {SPACE_IMAGE: (vectors, range(COUNT))})

    assert held_out.read(tmp_path, sample=1000, seed=0).known == {"image": 3}


def test_an_index_of_held_out_products_alone_has_no_voters(tmp_path: Path) -> None:
    names = [name for name in ids() if is_held_out(name)][:20]
    index(tmp_path, ["a"] * 20, {SPACE_IMAGE: (around(["a"] * 20, 1), range(20))}, names=names)
    held = held_out.read(tmp_path, sample=10, seed=0)

    assert (len(held.judged.products), len(held.voters.products)) == (10, 0)
    assert held.calibrating.vectors["image"].shape == (0, 16)


def test_a_sample_is_drawn_by_its_seed(location: Path) -> None:
    def drawn(seed: int) -> list[str]:
        return [product.id for product in held_out.read(location, sample=12, seed=seed).judged.products]

    assert len(drawn(0)) == 12
    assert drawn(0) == drawn(0) != drawn(1)
    assert all(map(is_held_out, drawn(1)))


def test_without_an_index_there_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match=r"CURRENT: no index here"):
        held_out.read(tmp_path, sample=10, seed=0)


def test_without_a_held_out_product_there_is_nothing_to_judge_by(tmp_path: Path) -> None:
    learnt_from = [name for name in ids() if not is_held_out(name)][:20]
    spaces = {SPACE_IMAGE: (around(["a"] * 20, 1), range(20))}
    index(tmp_path, ["a"] * 20, spaces, names=learnt_from)

    with pytest.raises(OperatorError, match="none of its 20 products is held out"):
        held_out.read(tmp_path, sample=10, seed=0)


def test_held_out_products_that_lack_a_vector_are_not_judged_by_another_space(tmp_path: Path) -> None:
    rows = [row for row, name in enumerate(ids()) if not is_held_out(name)]
    spaces = {
        SPACE_IMAGE: (around(categories(), 1), range(COUNT)),
        SPACE_TEXT: (around(categories(), 1)[rows], rows),
    }
    index(tmp_path, categories(), spaces)

    with pytest.raises(OperatorError, match=r"has a vector in every space \(image, text\)"):
        held_out.read(tmp_path, sample=10, seed=0)
