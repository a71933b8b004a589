"""The text encoder with degenerate catalogues and texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encoders.text import model as text_model
from encoders.text.model import KINDS
from encoders.text.train import train
from lookalike.errors import BadCatalogue

WITHOUT_WORDS = ["", " \n\t ", "🎉👟✨", "★☆♪ !!! ---", "\x00\x1b", "\ud800", "<br>", "【送料無料】税込3,980円", "،؟۔"]
ODD = [
    "ქართული ტექსტი",
    "ᚠᚢᚦᚨᚱᚲ",
    "𐎠𐎡𐎢 𓀀𓀁",
    "ก็็็็็็ ᠮᠣᠩᠭᠣᠯ",
    "dress 🎉",
    "red " * 250_000,  # 1 MB.
    "x" * 1_000_000,
    "花柄" * 170_000,
    "a\u0300" * 500_000,
    "".join(map(chr, range(0x4E00, 0x4E00 + 20_000))),  # Every word is different.
]
CATALOGUES = {
    "one document": ["red cotton dress"],
    "one word": ["dress"],
    "one word, many times": ["dress dress dress"] * 30,
    "documents all equal": ["red cotton dress with lace"] * 50,
    "one category": [f"{colour} dress" for colour in ("red", "blue", "green", "white", "black")],
    "one document among empty ones": ["", "red cotton dress", "★", ""],
    "every word different": [f"w{i:04}" for i in range(40)],
}


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> text_model.TextModel:
    out: Path = tmp_path_factory.mktemp("bad") / request.param
    train(
        [f"{colour} {thing} dress" for colour in ("red", "blue") for thing in ("cotton", "silk")],
        out,
        kind=request.param,
    )
    return text_model.load(out)


def _unit_or_zero(vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> bool:
    norms = np.linalg.norm(vectors, axis=1)
    return bool(np.isfinite(vectors).all() and ((norms == 0) | (np.abs(norms - 1) < 1e-5)).all())


@pytest.mark.parametrize("texts", [[], [""], WITHOUT_WORDS])
def test_a_catalogue_without_words_is_refused(tmp_path: Path, texts: list[str]) -> None:
    with pytest.raises(BadCatalogue, match="the texts contain no words"):
        train(texts, tmp_path / "out")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CATALOGUES)
def test_a_minimal_catalogue_gives_its_own_texts_unit_vectors(tmp_path: Path, name: str, kind: str) -> None:
    texts = CATALOGUES[name]
    train(texts, tmp_path / "out", kind=kind)
    model = text_model.load(tmp_path / "out")
    vectors = model.encode([*texts, *WITHOUT_WORDS])
    assert vectors.shape == (len(texts) + len(WITHOUT_WORDS), model.dim)
    assert _unit_or_zero(vectors)
    has_vector = vectors[: len(texts)].any(axis=1)
    assert has_vector.tolist() == [any(map(str.isalnum, text)) for text in texts]
    assert not vectors[len(texts) :].any()


def test_equal_texts_have_equal_vectors_and_different_ones_different(tmp_path: Path) -> None:
    train(["red cotton dress with lace"] * 50, tmp_path / "out")
    model = text_model.load(tmp_path / "out")
    same, again, part = model.encode(["red cotton dress with lace", "RED cotton <b>dress</b> with lace ★", "lace"])
    np.testing.assert_allclose(same, again, atol=1e-6)
    assert same @ part < 0.999


@pytest.mark.parametrize("text", WITHOUT_WORDS)
def test_a_text_without_words_gives_zeros(model: text_model.TextModel, text: str) -> None:
    assert not model.encode([text]).any()


@pytest.mark.parametrize("odd", range(len(ODD)))
def test_an_odd_or_very_long_text_gives_a_unit_vector_or_zeros(model: text_model.TextModel, odd: int) -> None:
    assert _unit_or_zero(model.encode([ODD[odd]]))


def test_a_text_has_the_same_vector_in_any_batch(model: text_model.TextModel) -> None:
    texts = ["red dress", "silk", "unseen wollen dresses", "", "blue cotton dress blue", *ODD[:5]]
    together = model.encode(texts)
    alone = np.concatenate([model.encode([text]) for text in texts])
    backwards = model.encode(texts[::-1])[::-1]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(together, backwards, atol=1e-6)


def test_overflowing_the_word_cache_changes_no_vector(model: text_model.TextModel) -> None:
    before = model.encode(["red dress", "silk"])
    all_different_words = [" ".join(f"n{i}x{j}" for j in range(8_000)) for i in range(20)]
    vectors = model.encode(["red dress", *all_different_words, "silk"])
    np.testing.assert_allclose(vectors[[0, -1]], before, atol=1e-6)
    assert _unit_or_zero(vectors)
