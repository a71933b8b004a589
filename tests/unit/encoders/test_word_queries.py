"""What shoppers type, in front of the default encoder: misspellings, invisible characters, words of other languages."""

from __future__ import annotations

import pytest

from encoders.text import model as text_model
from encoders.text.model import TextModel
from encoders.text.tokens import clean_text
from encoders.text.train import train

BRANDS = ("Salomon", "Patagonia", "Columbia", "Mammut", "アシックス", "ミズノ")
COLOURS = {"red": "レッド", "black": "ブラック", "navy": "ネイビー", "white": "ホワイト"}
KINDS = {"jacket": "ジャケット", "backpack": "リュックサック", "sneakers": "スニーカー", "socks": "靴下"}
TITLES = [
    f"{brand} {COLOURS[colour]} {KINDS[kind]}" if japanese else f"{brand} {kind}, {colour}"
    for brand in BRANDS
    for colour in COLOURS
    for kind in KINDS
    for japanese in (False, True)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    out = tmp_path_factory.mktemp("text") / "encoder"
    train(TITLES, out)
    return text_model.load(out)


def nearest(model: TextModel, query: str, count: int) -> list[str]:
    scores = model.encode(TITLES) @ model.encode([query])[0]
    return [TITLES[row] for row in (-scores).argsort(kind="stable")[:count]]


@pytest.mark.parametrize(
    ("misspelt", "brand"),
    [("Salomn", "Salomon"), ("Patagonai", "Patagonia"), ("colombia", "Columbia"), ("アシッックス", "アシックス")],
)
def test_a_misspelt_brand_finds_the_brand(model: TextModel, misspelt: str, brand: str) -> None:
    assert all(title.startswith(brand) for title in nearest(model, misspelt, 10))


@pytest.mark.parametrize("query", ["red sneakers", "赤い運動靴", "レッド スニーカー", "赤のズック靴"])
def test_a_colour_and_a_kind_find_titles_of_both_languages_with_both(model: TextModel, query: str) -> None:
    found = nearest(model, query, 2 * len(BRANDS))

    assert {*found} == {title for title in TITLES if {"red", "レッド"} & {*title.replace(",", "").split()}
                        and {"sneakers", "スニーカー"} & {*title.replace(",", "").split()}}  # fmt: skip


@pytest.mark.parametrize("invisible", ["\u200b", "\u200c", "\u200d", "\ufeff", "\u00ad", "\u2060", "\u200e", "\ufe0f"])
def test_invisible_characters_say_nothing(model: TextModel, invisible: str) -> None:
    plain, hidden = model.encode(["赤い sneakers", f"{invisible}赤{invisible}い sne{invisible}akers{invisible}"])

    assert (plain == hidden).all()
    assert clean_text(f"送料{invisible}無料 赤") == clean_text("送料無料 赤")
    assert not model.encode([invisible * 3]).any()


def test_a_soft_hyphen_in_markup_says_nothing(model: TextModel) -> None:
    plain, hyphenated = model.encode(["backpack", "back&shy;pack"])

    assert (plain == hyphenated).all()
