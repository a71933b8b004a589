"""Text encoding: which texts are trained on, which are encoded, and when training is skipped."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoders.text import fit
from encoders.text import model as text_model
from encoders.text.synonyms import BadDictionary
from lookalike.errors import BadCatalogue
from lookalike.product_rules import CatalogueProduct
from lookalike.runtime.local_engine import LocalEngine
from pipeline import text_tasks
from pipeline.features.store import FeatureStore
from pipeline.features.vectors import VectorTable
from pipeline.text_encoding import (
    KeepTextEncoder,
    TextEncoderSettings,
    choose_text_encoder,
    encode_products,
    encode_texts,
    training_text,
)

TITLES = [
    f"{colour} {thing}" for colour in ("red", "blue", "green") for thing in ("cotton shirt", "table lamp", "mug")
] * 4
PRODUCTS = [CatalogueProduct(id=str(i), category="home", title=title) for i, title in enumerate(TITLES)]
CHAIR = CatalogueProduct(id="chair", category="home", title="yellow chair")


def train_text_encoder(products: Sequence[CatalogueProduct], directory: Path, **settings: Any) -> tuple[Path, bool]:
    """The encoder of products, and whether it was trained now."""
    chosen = choose_text_encoder(products, directory, TextEncoderSettings(**settings))
    return chosen.artifact, chosen.trained


def open_table(directory: Path, dim: int) -> VectorTable:
    return FeatureStore(directory / "store", notice=print).vectors("text", encoder="test", dim=dim)


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
    features = open_table(tmp_path, model.dim)

    vectors, encoded = encode_texts(["red mug", "red mug", "", "blue mug"], model, features, tmp_path / "a.npy")
    assert encoded == 3
    assert encode_texts(["red mug", "green mug"], model, features, tmp_path / "b.npy")[1] == 1
    np.testing.assert_allclose(vectors[:2], np.tile(model.encode(["red mug"]), (2, 1)), atol=1e-6)
    assert not vectors[2].any()


def test_texts_that_every_encoder_reads_alike_are_one_text(trained_directory: Path, tmp_path: Path) -> None:
    (artifact,) = (path for path in trained_directory.iterdir() if path.is_dir())
    model = text_model.load(artifact)
    texts = ["Red <b>mug</b>", "red  mug".replace("  ", "\u00a0"), "ＲＥＤ mug"]

    vectors, encoded = encode_texts(["red mug", *texts[1:]], model, open_table(tmp_path, model.dim), tmp_path / "v.npy")

    assert encoded == 1
    np.testing.assert_allclose(vectors, model.encode(["red mug", *texts[1:]]), atol=1e-6)


def test_damaged_vectors_are_made_again(trained_directory: Path, tmp_path: Path) -> None:
    (artifact,) = (path for path in trained_directory.iterdir() if path.is_dir())
    model = text_model.load(artifact)
    texts = [f"red mug {number}" for number in range(50)]
    first, _ = encode_texts(texts, model, open_table(tmp_path, model.dim), tmp_path / "a.npy")
    (part,) = (tmp_path / "store").rglob("*.parquet")
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1  # Of a vector: they are most of the file.
    part.write_bytes(data)

    second, encoded = encode_texts(texts, model, open_table(tmp_path, model.dim), tmp_path / "b.npy")

    assert encoded == 1
    np.testing.assert_array_equal(first, second)


def test_the_description_stands_in_for_a_title_without_a_known_word(trained_directory: Path, tmp_path: Path) -> None:
    (artifact,) = (path for path in trained_directory.iterdir() if path.is_dir())
    model = text_model.load(artifact)
    titles = ["red mug", "👟", "\u200b", "を", ""]
    products = [
        CatalogueProduct(id=str(i), category="x", title=title, description="blue lamp")
        for i, title in enumerate(titles)
    ]

    vectors, _ = encode_products(products, model, open_table(tmp_path, model.dim), tmp_path / "v.npy")

    lamp = model.encode(["blue lamp"])[0]
    np.testing.assert_allclose(vectors[1:], np.tile(lamp, (4, 1)), atol=1e-6)
    assert not np.allclose(vectors[0], lamp, atol=1e-2)


def test_another_dictionary_gives_another_encoder_and_a_bad_one_is_named(
    trained_directory: Path, tmp_path: Path
) -> None:
    directory, words = tmp_path / "text", tmp_path / "words.txt"
    shutil.copytree(trained_directory, directory)
    words.write_text("mug, becher", encoding="utf-8")

    extended, trained = train_text_encoder(PRODUCTS, directory, kind="fasttext", seed=0, synonyms=(words,))
    assert trained
    assert not train_text_encoder(PRODUCTS, directory, kind="fasttext", seed=0, synonyms=(words,))[1]
    mug, becher = text_model.load(extended).encode(["red mug", "red becher"])
    np.testing.assert_allclose(mug, becher)
    words.write_text("mug, becher\n\nmug, tasse", encoding="utf-8")
    with pytest.raises(BadDictionary, match=r"words\.txt:3: 'mug' is in .*words\.txt:1 already"):
        train_text_encoder(PRODUCTS, directory, kind="fasttext", seed=0, synonyms=(words,))


@pytest.fixture
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure encoders on catalogues of a few products."""
    monkeypatch.setattr(fit, "MIN_PRODUCTS", 20)
    monkeypatch.setattr(fit, "MAX_LOSS", 0.2)


def choose(products: Sequence[CatalogueProduct], directory: Path, serving: str, keep: str, **settings: Any) -> Any:
    return choose_text_encoder(
        products,
        directory,
        TextEncoderSettings(kind="fasttext", **settings),
        serving=serving,
        keep=KeepTextEncoder(keep),
    )


@pytest.mark.usefixtures("few_are_enough")
def test_the_encoder_that_serves_is_kept_while_it_fits(tmp_path: Path) -> None:
    first = choose(PRODUCTS, tmp_path, "", "auto")
    assert first.trained
    assert first.reason == "no version with a text encoder serves"
    changed = [replace(PRODUCTS[0], title="green mug"), *PRODUCTS[1:]]

    kept = choose(changed, tmp_path, first.artifact.name, "auto")

    assert (kept.artifact, kept.trained, kept.reason) == (first.artifact, False, "it still fits")
    assert 0 < kept.fit["changed"] <= 0.1
    assert kept.fit["unseen_words"] == 0
    assert kept.fit["now"].keys() == kept.fit["trained"].keys()
    assert choose(PRODUCTS, tmp_path, first.artifact.name, "auto").reason == "trained on the same texts before"


@pytest.mark.usefixtures("few_are_enough")
def test_an_encoder_that_is_always_kept_is_kept_whatever_the_texts(tmp_path: Path) -> None:
    first = choose(PRODUCTS, tmp_path, "", "always")
    others = [replace(product, title=f"quixotic zeppelin {product.id}") for product in PRODUCTS]

    assert choose(others, tmp_path, first.artifact.name, "always").artifact == first.artifact
    assert choose(others, tmp_path, first.artifact.name, "auto").trained  # It was not measured.


@pytest.mark.usefixtures("few_are_enough")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"words": "quixotic zeppelin", "share": 0.1}, "it does not know 100.0% of the words of changed texts"),
        ({"words": "red mug", "share": 0.5}, "of the texts changed since it was trained, more than 20%"),
    ],
)
def test_an_encoder_that_no_longer_fits_is_trained_again(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    first = choose(PRODUCTS, tmp_path, "", "auto")
    changed = [
        replace(product, title=change["words"] + " !" * number) if number < change["share"] * len(PRODUCTS) else product
        for number, product in enumerate(PRODUCTS)
    ]

    chosen = choose(changed, tmp_path, first.artifact.name, "auto")

    assert chosen.trained
    assert reason in chosen.reason


@pytest.mark.parametrize("keep", ["auto", "always"])
@pytest.mark.usefixtures("few_are_enough")
def test_another_dictionary_kind_or_seed_always_trains(tmp_path: Path, keep: str) -> None:
    first = choose(PRODUCTS, tmp_path, "", keep)
    changed = [*PRODUCTS, CHAIR]
    (tmp_path / "words.txt").write_text("mug, becher", encoding="utf-8")
    for settings in ({"seed": 1}, {"synonyms": (tmp_path / "words.txt",)}):
        chosen = choose(changed, tmp_path, first.artifact.name, keep, **settings)
        assert chosen.trained
        assert "was trained with another kind, seed, dictionary or word vectors" in chosen.reason


@pytest.mark.parametrize("damage", ["artifact", "figures", "no figures", "unknown"])
@pytest.mark.usefixtures("few_are_enough")
def test_an_encoder_that_is_damaged_or_unknown_is_not_kept(tmp_path: Path, damage: str) -> None:
    first = choose(PRODUCTS, tmp_path, "", "auto")
    serving, figures = first.artifact.name, tmp_path / f"fit-{first.artifact.name}.json"
    match damage:
        case "artifact":
            (first.artifact / "idf.npy").unlink()
        case "figures":
            figures.write_text("{")
        case "no figures":
            figures.unlink()
        case "unknown":
            serving = "fasttext-000000000000"

    assert choose([*PRODUCTS, CHAIR], tmp_path, serving, "auto").trained


def test_a_small_catalogue_is_trained_on_again(tmp_path: Path) -> None:
    first = choose(PRODUCTS, tmp_path, "", "auto")

    chosen = choose([*PRODUCTS, CHAIR], tmp_path, first.artifact.name, "auto")

    assert chosen.trained
    assert "too few to tell" in chosen.reason


def test_tasks_of_an_engine_give_the_vectors_of_this_process(trained_directory: Path, tmp_path: Path) -> None:
    artifact, _ = train_text_encoder(PRODUCTS, trained_directory, kind="fasttext", seed=0)
    model, products = text_model.load(artifact), [*PRODUCTS, CHAIR]
    here, by_tasks = (open_table(tmp_path / name, model.dim) for name in ("here", "tasks"))

    expected, _ = encode_products(products, model, here, tmp_path / "here.npy")
    encode = partial(text_tasks.encode_batches, LocalEngine(threads=1), artifact)
    vectors, encoded = encode_products(products, model, by_tasks, tmp_path / "tasks.npy", encode=encode)

    assert encoded == 10
    np.testing.assert_array_equal(vectors, expected)
