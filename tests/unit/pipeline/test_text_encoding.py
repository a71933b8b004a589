"""Text encoding: which texts are trained on, which are encoded, and when training is skipped."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from encoders.text import model as text_model
from encoders.text.synonyms import BadDictionary
from lookalike.errors import BadCatalogue
from lookalike.product_rules import CatalogueProduct
from lookalike.runtime.local_engine import LocalEngine
from pipeline import text_tasks
from pipeline.feature_store import FeatureStore
from pipeline.text_encoding import encode_products, encode_texts, text_digest, train_text_encoder, training_text

TITLES = [
    f"{colour} {thing}" for colour in ("red", "blue", "green") for thing in ("cotton shirt", "table lamp", "mug")
] * 4
PRODUCTS = [CatalogueProduct(id=str(i), category="home", title=title) for i, title in enumerate(TITLES)]
CHAIR = CatalogueProduct(id="chair", category="home", title="yellow chair")


@pytest.fixture(scope="module")
def trained_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("text")
    train_text_encoder(PRODUCTS, directory, kind="fasttext", seed=0)
    return directory


def test_titles_and_descriptions_are_trained_on() -> None:
    product = CatalogueProduct(id="a", category="x", title="Lamp", description="It shines")

    assert training_text(product) == "Lamp\nIt shines"


def test_the_same_texts_are_trained_on_once(trained_directory: Path) -> None:
    artifact, was_trained = train_text_encoder(PRODUCTS, trained_directory, kind="fasttext", seed=0)

    assert not was_trained
    assert artifact.parent == trained_directory
    assert text_model.load(artifact).fingerprint == artifact.name


@pytest.mark.parametrize("damage", ["cache entry", "artifact"])
def test_with_a_damaged_cache_entry_or_no_artifact_training_is_repeated_with_the_same_result(
    trained_directory: Path, tmp_path: Path, damage: str
) -> None:
    directory = tmp_path / "text"
    shutil.copytree(trained_directory, directory)
    (entry,) = directory.glob("trained-*.json")
    (artifact,) = (path for path in directory.iterdir() if path.is_dir())
    if damage == "cache entry":
        entry.write_text("{")
    else:
        shutil.rmtree(artifact)

    assert train_text_encoder(PRODUCTS, directory, kind="fasttext", seed=0) == (artifact, True)
    assert text_model.load(artifact).dim > 0


def test_other_texts_or_another_seed_give_another_encoder(trained_directory: Path, tmp_path: Path) -> None:
    directory = tmp_path / "text"
    shutil.copytree(trained_directory, directory)

    assert train_text_encoder([*PRODUCTS, CHAIR], directory, kind="fasttext", seed=0)[1]
    assert train_text_encoder(PRODUCTS, directory, kind="fasttext", seed=1)[1]


def test_a_hybrid_encoder_is_trained_again_if_a_category_or_a_group_has_changed(tmp_path: Path) -> None:
    train_text_encoder(PRODUCTS, tmp_path, kind="hybrid", seed=0)
    assert not train_text_encoder(PRODUCTS, tmp_path, kind="hybrid", seed=0)[1]
    for change in ({"category": "garden"}, {"tags": ("group:a",)}):
        changed = [replace(PRODUCTS[0], **change), *PRODUCTS[1:]]
        assert train_text_encoder(changed, tmp_path, kind="hybrid", seed=0)[1]


def test_texts_without_words_cannot_be_trained_on(tmp_path: Path) -> None:
    with pytest.raises(BadCatalogue):
        train_text_encoder([CatalogueProduct(id="a", category="x", title="…")], tmp_path, kind="fasttext", seed=0)


def test_each_text_is_encoded_once(trained_directory: Path, tmp_path: Path) -> None:
    (artifact,) = (path for path in trained_directory.iterdir() if path.is_dir())
    model = text_model.load(artifact)
    features = FeatureStore(tmp_path / "store", model.dim)

    assert encode_texts(["red mug", "red mug", "", "blue mug"], model, features) == 3
    assert encode_texts(["red mug", "green mug"], model, features) == 1
    vectors = features.gather([text_digest(text) for text in ("red mug", "")], tmp_path / "v")
    np.testing.assert_allclose(vectors[0], model.encode(["red mug"])[0], atol=1e-6)
    assert not vectors[1].any()


def test_the_description_stands_in_for_a_title_without_a_known_word(trained_directory: Path, tmp_path: Path) -> None:
    (artifact,) = (path for path in trained_directory.iterdir() if path.is_dir())
    model = text_model.load(artifact)
    titles = ["red mug", "👟", "\u200b", "を", ""]
    products = [
        CatalogueProduct(id=str(i), category="x", title=title, description="blue lamp")
        for i, title in enumerate(titles)
    ]

    vectors, _ = encode_products(products, model, FeatureStore(tmp_path / "store", model.dim), tmp_path / "v.npy")

    lamp = model.encode(["blue lamp"])[0]
    np.testing.assert_allclose(vectors[1:], np.tile(lamp, (4, 1)), atol=1e-6)
    assert not np.allclose(vectors[0], lamp, atol=1e-2)


def test_another_dictionary_gives_another_encoder_and_a_bad_one_is_named(
    trained_directory: Path, tmp_path: Path
) -> None:
    directory, words = tmp_path / "text", tmp_path / "words.txt"
    shutil.copytree(trained_directory, directory)
    words.write_text("mug, becher", encoding="utf-8")

    extended, trained = train_text_encoder(PRODUCTS, directory, kind="fasttext", seed=0, synonyms=[words])
    assert trained
    assert not train_text_encoder(PRODUCTS, directory, kind="fasttext", seed=0, synonyms=[words])[1]
    mug, becher = text_model.load(extended).encode(["red mug", "red becher"])
    np.testing.assert_allclose(mug, becher)
    words.write_text("mug, becher\n\nmug, tasse", encoding="utf-8")
    with pytest.raises(BadDictionary, match=r"words\.txt:3: 'mug' is in .*words\.txt:1 already"):
        train_text_encoder(PRODUCTS, directory, kind="fasttext", seed=0, synonyms=[words])


def test_tasks_of_an_engine_give_the_vectors_of_this_process(trained_directory: Path, tmp_path: Path) -> None:
    artifact, _ = train_text_encoder(PRODUCTS, trained_directory, kind="fasttext", seed=0)
    model = text_model.load(artifact)
    here, by_tasks = FeatureStore(tmp_path / "here", model.dim), FeatureStore(tmp_path / "tasks", model.dim)
    products = [*PRODUCTS, CHAIR]

    expected, _ = encode_products(products, model, here, tmp_path / "here.npy")
    encode = partial(text_tasks.encode_batches, LocalEngine(threads=1), artifact)
    vectors, encoded = encode_products(products, model, by_tasks, tmp_path / "tasks.npy", encode=encode)

    assert encoded == 10
    np.testing.assert_array_equal(vectors, expected)
