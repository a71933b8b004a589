"""Words of which one letter is mistyped, and what they are taken for."""

from __future__ import annotations

import numpy as np
import pytest

from encoders.text import model as text_model
from encoders.text import spelling
from encoders.text.model import TextModel
from encoders.text.train import train

RARITY = {
    "watch": 1.0,
    "jeans": 1.0,
    "sneakers": 2.0,
    "スニーカー": 1.0,
    "ぬいぐるみ": 1.0,
    "cart": 3.0,
    "card": 1.0,
    "tea": 1.0,
}
TITLES = [
    f"{colour} {kind} {number}"
    for number in range(30)
    for colour in ("red", "blue", "green")
    for kind in ("wrist watch", "denim jeans", "running sneakers スニーカー", "coffee mug")
]


def _correct(text: str) -> list[str]:
    return spelling.correct(text, RARITY)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("wattch", "watch"),  # A letter doubled,
        ("wach", "watch"),  # left out,
        ("jeens", "jeans"),  # replaced,
        ("snaekers", "sneakers"),  # swapped with the next.
        ("スニカー", "スニーカー"),
        ("ぬいぐるめ", "ぬいぐるみ"),
    ],
)
def test_a_word_with_one_letter_mistyped_is_taken_for_the_known_one(typed: str, meant: str) -> None:
    assert _correct(typed) == [meant]


@pytest.mark.parametrize("typed", ["wattchh", "tae", "watch1", "watchスニ", "", "w4tch"])
def test_two_mistakes_short_words_and_model_numbers_are_not_corrected(typed: str) -> None:
    assert _correct(typed) == []


def test_of_several_near_words_the_least_rare_is_meant() -> None:
    assert _correct("carz") == ["card"]


def test_each_word_of_a_short_text_is_corrected_and_none_of_a_long_one() -> None:
    assert _correct("wattch unknown jeens") == ["watch", "jeans"]
    assert _correct("jeens " * spelling.MAX_WORDS) == ["jeans"] * spelling.MAX_WORDS
    assert _correct("jeens " * (spelling.MAX_WORDS + 1)) == []


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    directory = tmp_path_factory.mktemp("text") / "hybrid"
    train(TITLES, directory, kind="hybrid")
    return text_model.load(directory)


@pytest.mark.parametrize(
    ("typed", "kind"), [("wattch", "watch"), ("jeens", "jeans"), ("スニカー", "sneakers"), ("snekers", "sneakers")]
)
def test_a_lone_misspelt_word_finds_its_kind(model: TextModel, typed: str, kind: str) -> None:
    (vector,) = model.encode([typed])
    nearest = np.argsort(-(model.encode(TITLES) @ vector), kind="stable")[:10]
    assert all(kind in TITLES[row] for row in nearest)


def test_beside_a_known_word_a_misspelt_one_is_left_as_it_is(model: TextModel) -> None:
    topics, beside = (model.encode([text])[0, : model.topic_dim] for text in ("red", "red wattch"))
    np.testing.assert_allclose(topics / np.linalg.norm(topics), beside / np.linalg.norm(beside), atol=1e-5)


def test_the_spelling_stays_as_typed(model: TextModel) -> None:
    typed, meant = (model.encode([text])[0, model.topic_dim :] for text in ("wattch", "watch"))
    assert not np.allclose(typed, meant, atol=0.1)
    assert np.any(typed)
