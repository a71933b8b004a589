"""Words to vectors: what is learnt from, what is encoded, and when training is skipped."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from encoders.text import model as text
from lookalike.errors import BadCatalogue
from pipeline.feature_store import Features
from pipeline.product import Row
from pipeline.text_encoding import digest_of, encode_texts, text_of, trained, training_text

TEXTS = [
    f"{colour} {thing}" for colour in ("red", "blue", "green") for thing in ("cotton shirt", "table lamp", "mug")
] * 4


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("text")
    trained(TEXTS, directory, kind="fasttext", seed=0)
    return directory


def test_titles_are_encoded_and_descriptions_only_learnt_from() -> None:
    both = Row(id="a", category="x", title="Lamp", description="It shines")

    assert training_text(both) == "Lamp\nIt shines"
    assert text_of(both) == "Lamp"
    assert text_of(Row(id="b", category="x", description="It shines")) == "It shines"
    assert text_of(Row(id="c", category="x")) == ""


def test_the_same_words_are_trained_on_once(learnt: Path) -> None:
    artifact, fresh = trained(TEXTS, learnt, kind="fasttext", seed=0)

    assert not fresh
    assert artifact.parent == learnt
    assert text.load(artifact).fingerprint == artifact.name


@pytest.mark.parametrize("damage", ["note", "artifact"])
def test_what_is_gone_is_trained_again_to_the_same(learnt: Path, tmp_path: Path, damage: str) -> None:
    directory = tmp_path / "text"
    shutil.copytree(learnt, directory)
    (note,) = directory.glob("trained-*.json")
    (artifact,) = (path for path in directory.iterdir() if path.is_dir())
    if damage == "note":
        note.write_text("{")
    else:
        shutil.rmtree(artifact)

    assert trained(TEXTS, directory, kind="fasttext", seed=0) == (artifact, True)
    assert text.load(artifact).dim > 0


def test_other_words_or_another_seed_are_another_encoder(learnt: Path, tmp_path: Path) -> None:
    directory = tmp_path / "text"
    shutil.copytree(learnt, directory)

    assert trained([*TEXTS, "yellow chair"], directory, kind="fasttext", seed=0)[1]
    assert trained(TEXTS, directory, kind="fasttext", seed=1)[1]


def test_a_catalogue_without_words_cannot_be_learnt_from(tmp_path: Path) -> None:
    with pytest.raises(BadCatalogue):
        trained(["", "…"], tmp_path, kind="fasttext", seed=0)


def test_each_text_is_encoded_once(learnt: Path, tmp_path: Path) -> None:
    (artifact,) = (path for path in learnt.iterdir() if path.is_dir())
    model = text.load(artifact)
    features = Features(tmp_path / "store", model.dim)

    assert encode_texts(["red mug", "red mug", "", "blue mug"], model, features) == 3
    assert encode_texts(["red mug", "green mug"], model, features) == 1
    vectors = features.gathered([digest_of(text) for text in ("red mug", "")], tmp_path / "v")
    np.testing.assert_allclose(vectors[0], model.encode(["red mug"])[0], atol=1e-6)
    assert not vectors[1].any()
