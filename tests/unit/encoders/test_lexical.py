"""Lexical text vectors: n-grams, their document frequencies and hashing."""

from __future__ import annotations

import numpy as np
import pytest

from encoders.text import lexical
from encoders.text.lexical import NgramIdf, fit_idf, lexical_text, ngrams

TITLES = [
    "Sony WH-1000XM5 wireless headphones black",
    "Bose QC45 wireless headphones black",
    "ソニー ワイヤレスヘッドホン WH-1000XM5 ブラック",
    "パナソニック 冷蔵庫 NR-F609HPX 600L",
    "パナソニック 冷蔵庫 NR-F559HPX 550L",
    "本革ビジネスバッグ メンズ",
    "ナイキ エアマックス90 スニーカー",
]


@pytest.fixture(scope="module")
def idf() -> NgramIdf:
    return fit_idf(TITLES)


def _similarity(idf: NgramIdf, first: str, second: str, dim: int = 512) -> float:
    a, b = lexical.encode([first, second], idf, dim)
    return float(a @ b)


def _ngrams_of(text: str) -> list[int]:
    return sorted(ngrams([lexical_text(text)]).hashes.tolist())


def test_ngrams_stay_within_words_and_their_boundaries() -> None:
    # " ab ": _ab, ab_, _ab_; " abc ": _ab, abc, bc_, _abc, abc_, _abc_.
    assert len(_ngrams_of("ab")) == 3
    assert len(_ngrams_of("abc")) == 6
    assert _ngrams_of("ab abc") == sorted(_ngrams_of("ab") + _ngrams_of("abc"))


def test_pairs_of_japanese_characters_are_ngrams_and_pairs_of_latin_letters_are_not() -> None:
    # " 財布 ": 財布 itself beside the three of "ab".
    assert len(_ngrams_of("財布")) == 4
    assert set(_ngrams_of("財布")) & set(_ngrams_of("長財布入"))


def test_ngrams_with_a_digit_are_marked() -> None:
    found = ngrams([lexical_text("xm5 abc")])
    # Of " xm5 " those with the 5: xm5, m5_, _xm5, xm5_, _xm5_.
    assert found.with_digit.sum() == 5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ＷＨ－１０００ＸＭ５", "WH-1000XM5"),
        ("ﾜﾝﾋﾟｰｽ", "ワンピース"),
        ("NR-F609HPX", "nrf609hpx"),
        ("iPhone15ケース", "ｉＰｈｏｎｅ１５ケース"),
        ("red   <b>dress</b> ★", "Red dress"),
        ("本革【財布】", "本革 財布"),
    ],
)
def test_half_and_full_width_case_markup_and_punctuation_make_no_difference(
    idf: NgramIdf, one: str, other: str
) -> None:
    np.testing.assert_array_equal(lexical.encode([one], idf, 256), lexical.encode([other], idf, 256))


@pytest.mark.parametrize(
    ("query", "same", "other"),
    [
        ("Sony WH1000XM5", "ソニー ワイヤレスヘッドホン WH-1000XM5 ブラック", "Bose QC45 wireless headphones black"),
        ("冷蔵庫 NRF609HPX", "パナソニック 冷蔵庫 NR-F609HPX 600L", "パナソニック 冷蔵庫 NR-F559HPX 550L"),
        ("エアマックス 90", "ナイキ エアマックス90 スニーカー", "本革ビジネスバッグ メンズ"),
        ("ビジネスバック", "本革ビジネスバッグ メンズ", "ナイキ エアマックス90 スニーカー"),
        ("panasonik NR-F559HPX", "パナソニック 冷蔵庫 NR-F559HPX 550L", "パナソニック 冷蔵庫 NR-F609HPX 600L"),
    ],
)
def test_a_title_is_nearest_to_another_of_the_same_product(idf: NgramIdf, query: str, same: str, other: str) -> None:
    assert _similarity(idf, query, same) > _similarity(idf, query, other) + 0.1


@pytest.mark.parametrize("text", ["a", "7", "あ", "靴", "zqx", "ქ", "ᚠ", "𐎠", "ก็", "ⅷ"])
def test_any_text_with_a_letter_or_digit_has_a_unit_vector(idf: NgramIdf, text: str) -> None:
    np.testing.assert_allclose(np.linalg.norm(lexical.encode([text], idf, 256), axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("text", ["", " ", "★", "👟", "___", "\ud800", "\x00", "送料無料"])
def test_a_text_without_words_has_a_vector_of_zeros(idf: NgramIdf, text: str) -> None:
    assert not lexical.encode([text], idf, 256).any()


def test_a_text_has_the_same_bits_in_any_batch(idf: NgramIdf) -> None:
    texts = [*TITLES, "", "x" * 70_000, "unseen wollen dresses 42", "花柄" * 30_000, *TITLES] * 3
    together = lexical.encode(texts, idf, 256)
    np.testing.assert_array_equal(together, np.concatenate([lexical.encode([text], idf, 256) for text in texts]))
    np.testing.assert_array_equal(together, lexical.encode(texts[::-1], idf, 256)[::-1])


def test_ngrams_of_fewer_documents_weigh_more_and_unknown_ones_as_the_rarest() -> None:
    idf = fit_idf(["red dress", "red mug", "red lamp"])
    red, dress, unknown = (idf.lookup(ngrams([lexical_text(word)]).hashes).max() for word in ("red", "dress", "zebra"))
    assert red == pytest.approx(1)
    assert dress == unknown == pytest.approx(np.log(4 / 2) + 1)


def test_only_the_most_frequent_ngrams_are_kept() -> None:
    idf = fit_idf(["red dress", "red mug", "red lamp"], max_ngrams=6)
    assert sorted(idf.keys.tolist()) == sorted(key >> 32 for key in _ngrams_of("red"))


def test_document_frequencies_do_not_depend_on_how_texts_are_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit_idf(TITLES)
    monkeypatch.setattr(lexical, "_BATCH_CHARS", 30)
    parts = fit_idf(TITLES)
    np.testing.assert_array_equal(whole.keys, parts.keys)
    np.testing.assert_array_equal(whole.values, parts.values)
